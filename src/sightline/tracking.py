"""Follow targets through a source: the loop that the command line and `sightline.track` share."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import GeometryError, SightlineError, VideoError
from sightline.loading import load
from sightline.runtime.stages import StageClock
from sightline.trackers.protocol import MultiObjectTracker, Tracker
from sightline.trackers.spmtrack import BOUNDED
from sightline.trackers.zoo import ZOO
from sightline.types import Frame, TargetState, Track, TrackResult
from sightline.video.source import Source, decode_ahead, open_source

log = logging.getLogger("sightline")
NO_BOX = (float("nan"),) * 4


def track(
    source: int | str | Path | Sequence[Path] | Iterable[NDArray[Any]],
    boxes: Sequence[ArrayLike] | NDArray[Any] | None = None,
    *,
    model: str | Tracker | MultiObjectTracker = "sightline-nano",
    start: int = 0,
    clock: StageClock | None = None,
    **options: Any,
) -> Iterator[TrackResult]:
    """Follow each of `boxes` (`xywh`, float pixels of the first frame) through a source, or all that a model finds.

    source: what `open_source` takes: a video file, a folder or glob of images, a list of image paths, an iterable of
    arrays, a camera's number or a stream's address. Yields one `TrackResult` per frame and target, targets in the order
    given and numbered from 1, beginning with the given boxes on frame `start`, or on the first that comes of what is
    live. A frame that cannot be read yields nan boxes with the reason and is passed over. Memory stays bounded on any
    length: `options` go to `sightline.load`, and where nobody knows how long the source is (a camera, a stream, an
    iterator) a tracker with a `memory` gets a bounded one unless they name it. A tracker that is given whole stays as
    it is.

    A multi-object model takes no boxes. Of a source with a known end its results come when the last frame was seen, in
    the order of the frames: only then is it known which tracks stay and what they are. Of any other they come at once,
    and `confirmed` says which of them count. Frames without a track yield nothing.

    Raises `VideoError`, `GeometryError` and what `load` does.
    """
    if options and not isinstance(model, str):
        raise SightlineError(f"track: got {sorted(options)} beside a tracker; expected them at load. Drop them.")
    with open_source(source, start=start) as opened:
        tracker = load(model, **suited(model, options, opened)) if isinstance(model, str) else model
        if isinstance(tracker, MultiObjectTracker):
            if boxes is not None:
                raise refused_boxes(tracker.name)
            watch = Watch(tracker, opened, clock, is_live=opened.is_live or opened.num_frames is None)
            for _, results in watch:
                yield from results
            for results in watch.final():
                yield from results
            return
        if boxes is None:
            raise GeometryError(
                f"{tracker.name}: got no boxes; expected those of the targets on the first frame. Pass "
                "boxes=[(x, y, w, h)], or take a model that finds its targets by itself."
            )
        for _, results in follow(tracker, opened, boxes, clock):
            yield from results


def refused_boxes(name: str) -> GeometryError:
    return GeometryError(
        f"{name}: got target boxes; expected none, since it finds and follows all that it knows. Leave them out, or "
        "take a model that starts on a box."
    )


def suited(model: str, options: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """The options for `load`, with a bounded memory where the tracker has one and the source no known end.

    A memory that the options name stays.
    """
    has_memory = model in ZOO and hasattr(ZOO[model].tracker, "memory")
    if not has_memory or source.num_frames is not None or "memory" in options:
        return dict(options)
    log.info(
        "%s: the length of %s is not known, so memory=%s. Set memory to have another.", model, source.name, BOUNDED
    )
    return {**options, "memory": BOUNDED}


def follow(
    tracker: Tracker,
    source: Source,
    boxes: Sequence[ArrayLike] | NDArray[Any],
    clock: StageClock | None = None,
    frames: Iterator[Frame] | None = None,
) -> Generator[tuple[Frame, list[TrackResult]], None, None]:
    """(frame, one result per target) for every frame of an open source, which decodes ahead in a thread.

    Of a live source these are the newest frames, each when it is asked for. frames: those of the source, where somebody
    reads it already, to go on with. `clock` collects the stage "wait for frame", near zero where decoding keeps up,
    besides the tracker's stages.
    """
    if not len(boxes) or any(np.ndim(box) == 0 for box in boxes):
        raise GeometryError(
            f"boxes: got {'bare numbers' if len(boxes) else 'none'}; expected a list of boxes. "
            "Pass boxes=[(x, y, w, h)], in pixels of the first frame."
        )
    clock = clock or StageClock()
    states: list[TargetState] = []
    # Frames of a live source would grow old in a queue; it has a thread of its own.
    ahead = source if source.is_live or frames is not None else decode_ahead(source)
    with closing(ahead):
        if frames is None:
            frames = iter(ahead)
        while True:
            with clock.stage("wait for frame"):
                frame = next(frames, None)
            if frame is None:
                break
            if not states:
                states = [started(tracker, pixels_of_first(frame, source), box) for box in boxes]
            elif frame.rgb is not None:
                states = tracker.update_many(frame.rgb, states, clock)
            yield frame, [result_of(frame, number, state) for number, state in enumerate(states, start=1)]
    if not states:
        pixels_of_first(None, source)


def started(tracker: Tracker, rgb: NDArray[np.uint8], box: ArrayLike) -> TargetState:
    """The state of a target on its first frame.

    A box that looks like two corners is warned of in the log; one of fractions of the frame is a `GeometryError`.
    """
    state = tracker.init(rgb, xywh=box)
    x, y, w, h = state.xywh
    if min(rgb.shape[:2]) > 16 and min(x, y) >= 0 and max(x + w, y + h) <= 1:
        raise GeometryError(
            f"target box: got {x:g},{y:g},{w:g},{h:g}, all within one pixel; expected pixels, not fractions of the "
            "frame. Multiply by its width and height."
        )
    beyond_px = max(x + w - rgb.shape[1], y + h - rgb.shape[0])
    if beyond_px > max(w, h) / 8 and w > x and h > y:
        log.warning(
            "the box %g,%g,%g,%g reaches %g px beyond the frame: it is X,Y,W,H, left, top, width and height, not two "
            "corners.",
            *state.xywh,
            beyond_px,
        )
    return state


def pixels_of_first(frame: Frame | None, source: Source) -> NDArray[np.uint8]:
    """The pixels of the frame to start on, (H, W, 3) uint8 RGB, or a `VideoError` that says why there are none."""
    if frame is None:
        raise VideoError(f"{source.name}: got zero frames; expected at least one. Check the source and the start.")
    if frame.rgb is None:
        raise VideoError(
            f"{source.name}: the first frame, {frame.index}, cannot be read: {frame.error} "
            "Start on a frame that shows the target."
        )
    return frame.rgb


def result_of(frame: Frame, target_id: int, state: TargetState) -> TrackResult:
    """What is known of one target on one frame: nothing, where the frame could not be read."""
    if frame.rgb is None:
        return TrackResult(frame.index, frame.time_s, target_id, NO_BOX, float(np.nan), "uncertain", frame.error)
    return TrackResult(frame.index, frame.time_s, target_id, state.xywh, state.score, state.presence)


RECENT = 64  # frames of a live run whose time is remembered, for a tracker that speaks of earlier ones


class Watch:
    """One run of a multi-object tracker: iterate over it, then ask for what is final.

    Iterating yields (frame, results) for every frame of an open source. Live, the results are those known by then, of
    this frame and now and then of earlier ones; else they are none until `final`. classes: places in the tracker's
    `class_names` to keep, None for all.
    """

    def __init__(
        self,
        tracker: MultiObjectTracker,
        source: Source,
        clock: StageClock | None = None,
        *,
        is_live: bool,
        classes: Collection[int] | None = None,
    ) -> None:
        self.tracker, self.source, self.is_live, self.classes = tracker, source, is_live, classes
        self.clock = clock or StageClock()
        self.heads: deque[Frame] = deque(maxlen=RECENT if is_live else None)  # the frames, without their pixels
        self.num_frames = 0
        self.history: list[Track] = []
        self.state = tracker.init()
        self.seconds = 0.0  # of the tracker alone, on the last frame

    def __iter__(self) -> Generator[tuple[Frame, list[TrackResult]], None, None]:
        ahead = self.source if self.source.is_live else decode_ahead(self.source)
        with closing(ahead):
            frames = iter(ahead)
            while True:
                with self.clock.stage("wait for frame"):
                    frame = next(frames, None)
                if frame is None:
                    break
                began = time.perf_counter()
                self.state = self.tracker.update(frame.rgb, self.state, self.clock)
                self.seconds = time.perf_counter() - began
                self.heads.append(replace(frame, rgb=None))
                self.num_frames += 1
                if not self.is_live:
                    self.history.extend(self.state.tracks)
                yield frame, list(map(self._result, self._kept(self.state.tracks))) if self.is_live else []
        if not self.num_frames:
            pixels_of_first(None, self.source)

    def final(self) -> list[list[TrackResult]]:
        """The results of each frame, all of them, now that the last one is known; of a live run none."""
        found: list[list[TrackResult]] = [[] for _ in range(0 if self.is_live else self.num_frames)]
        if not self.is_live:
            for track in self._kept(self.tracker.finish(self.state, self.history)):
                found[track.frame_index].append(self._result(track))
        return found

    def _kept(self, tracks: Iterable[Track]) -> list[Track]:
        return [track for track in tracks if self.classes is None or track.class_id in self.classes]

    def _result(self, track: Track) -> TrackResult:
        """The tracker counts the frames that it was given from 0; the source may have begun later."""
        head = self.heads[track.frame_index - (self.num_frames - len(self.heads))]
        return TrackResult(
            head.index,
            head.time_s,
            track.track_id,
            track.xywh,
            track.score,
            "tracked",
            label=self.tracker.class_names[track.class_id],
            confirmed=track.confirmed,
        )
