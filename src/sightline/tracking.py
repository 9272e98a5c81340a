"""Follow targets through a source: the loop that the command line and `sightline.track` share."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import GeometryError, SightlineError, VideoError
from sightline.loading import load
from sightline.runtime.stages import StageClock
from sightline.trackers.protocol import Tracker
from sightline.trackers.spmtrack import BOUNDED
from sightline.trackers.zoo import ZOO
from sightline.types import Frame, TargetState, TrackResult
from sightline.video.source import Source, decode_ahead, open_source

log = logging.getLogger("sightline")
NO_BOX = (float("nan"),) * 4


def track(
    source: int | str | Path | Sequence[Path] | Iterable[NDArray[Any]],
    boxes: Sequence[ArrayLike] | NDArray[Any],
    *,
    model: str | Tracker = "sightline-nano",
    start: int = 0,
    clock: StageClock | None = None,
    **options: Any,
) -> Iterator[TrackResult]:
    """Follow each of `boxes` (`xywh`, float pixels of the first frame) through a source, frame by frame.

    source: what `open_source` takes: a video file, a folder or glob of images, a list of image paths, an iterable of
    arrays, a camera's number or a stream's address. Yields one `TrackResult` per frame and target, targets in the order
    given and numbered from 1, beginning with the given boxes on frame `start`, or on the first that comes of what is
    live. A frame that cannot be read yields nan boxes with the reason and is passed over. Memory stays bounded on any
    length: `options` go to `sightline.load`, and where nobody knows how long the source is (a camera, a stream, an
    iterator) a tracker with a `memory` gets a bounded one unless they name it. A tracker that is given whole stays as
    it is. Raises `VideoError`, `GeometryError` and what `load` does.
    """
    if options and not isinstance(model, str):
        raise SightlineError(f"track: got {sorted(options)} beside a tracker; expected them at load. Drop them.")
    with open_source(source, start=start) as opened:
        tracker = load(model, **suited(model, options, opened)) if isinstance(model, str) else model
        for _, results in follow(tracker, opened, boxes, clock):
            yield from results


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
