"""The loop of OneTrack-M (arXiv 2502.04478), a reconstruction: a window of frames in, boxes and displacements out, and
identities by comparing boxes.

Known are non-maximum suppression and the Hungarian method on IoU; the numbers in brackets are assumptions of
docs/models/onetrack_m.md, each a field of the config.

Legend: W frames of a window  L tokens of a frame  D width of a token  C classes  G grid of the maps  N detections
M living tracks
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sightline.errors import ProtocolError
from sightline.geometry.boxes import Array, iou, xywh_to_xyxy
from sightline.geometry.detections import nms
from sightline.geometry.heatmaps import HeatmapRules, InputFit, Peaks, decode_maps, input_fit
from sightline.imaging.sample import normalise
from sightline.runtime.session import Arrays, Session
from sightline.runtime.stages import StageClock
from sightline.trackers.template_search import IMAGENET_MEAN, IMAGENET_STD, check_frame
from sightline.types import Track

Image = NDArray[np.uint8]
Tokens = NDArray[np.float32]
Colour = tuple[float, float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class OneTrackMConfig:
    """Everything the loop needs besides the network.

    image_px: side of the network's square input. grid: G, cells per side of its maps. clip_length: W, frames of a
        window.
    resize: [A-5] "direct" stretches a frame to the input, "letterbox" keeps its proportions in the middle of it.
    mean, std: of the values / 255, RGB.
    mode: [A-17] "sliding" looks at the newest frame of a window that moves by one; "clip" at all frames of windows side
        by side: W times fewer passes, tracks up to W - 1 frames late, and a session that gives the maps of every frame.
    first_window: [A-8] what stands for the frames before a video's first in sliding mode, its first frame ("repeat") or
        "black" ones. A video's last clip that is not full is filled with its last frame.
    detected_from: [A-18] a peak with a higher score is a detection. top_k: at most so many in a frame.
    nms_iou: of two detections of a class that overlap by more, the better stays; 1 keeps both.
    displacement_scale: [A-12] as the network was trained, see `geometry.heatmaps.HeatmapRules`.
    centre_in_cell: [A-11] likewise as it was trained.
    motion: what is compared with the tracks' last boxes. "displacement", as in the paper: detections where they were a
        frame before; "none": detections where they are. "velocity", ours: the boxes are moved on instead, by the mean
        velocity of each track so far, also through frames in which it was not seen. velocity_gain: the least share of
        the newest step in that mean.
    match_iou: [A-19] the least IoU with a track's last box to go on with it. started_from: the least score with which a
        detection that goes on with none starts a track. keep_frames: a track may be found again so many frames after
        its last box.

    Raises `ProtocolError` for values that make no sense.
    """

    image_px: int = 224
    grid: int = 196
    clip_length: int = 5
    resize: Literal["direct", "letterbox"] = "direct"
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    mode: Literal["sliding", "clip"] = "sliding"
    first_window: Literal["repeat", "black"] = "repeat"
    detected_from: float = 0.4
    top_k: int = 500
    nms_iou: float = 0.5
    displacement_scale: tuple[float, float] = (0.02, 0.01)
    centre_in_cell: float = 0.5
    motion: Literal["displacement", "velocity", "none"] = "displacement"
    velocity_gain: float = 0.1
    match_iou: float = 0.3
    started_from: float = 0.5
    keep_frames: int = 30

    def __post_init__(self) -> None:
        choices = {
            "resize": ("direct", "letterbox"),
            "mode": ("sliding", "clip"),
            "first_window": ("repeat", "black"),
            "motion": ("displacement", "velocity", "none"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ProtocolError(
                    f"tracker config: got {name}={getattr(self, name)!r}; expected one of {known}. Choose one."
                )
        for name in ("image_px", "grid", "clip_length", "top_k", "keep_frames"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ProtocolError(f"tracker config: got {name}={value!r}; expected a whole number from 1 on.")
        for name in ("detected_from", "nms_iou", "centre_in_cell", "velocity_gain", "match_iou", "started_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ProtocolError(f"tracker config: got {name}={getattr(self, name)}; expected 0 to 1.")
        if np.shape(self.mean) != (3,) or np.shape(self.std) != (3,) or not all(self.std):
            raise ProtocolError(f"tracker config: got mean={self.mean}, std={self.std}; expected three numbers each.")
        if np.shape(self.displacement_scale) != (2,) or not min(self.displacement_scale) > 0:
            raise ProtocolError(
                f"tracker config: got displacement_scale={self.displacement_scale}; expected two positive numbers."
            )

    @property
    def rules(self) -> HeatmapRules:
        """How maps become boxes."""
        return HeatmapRules(centre_in_cell=self.centre_in_cell, displacement_scale=self.displacement_scale)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> OneTrackMConfig:
        """The inverse of `to_json`; unknown fields raise `ProtocolError` (a file made by a newer version)."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ProtocolError(f"tracker config: got unknown fields {unknown}; expected {sorted(known)}. Update.")
        tupled: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            return cls(**tupled)
        except TypeError as error:
            raise ProtocolError(f"tracker config: got {values}; expected numbers where numbers go.") from error


class Waiting(NamedTuple):
    """A frame of a clip that is not yet full: its number and its height and width."""

    frame_index: int
    size: Size


class Motion(NamedTuple):
    """How the centre of an identity moves, in pixels of the frame and frame: the mean over its `num_boxes` boxes."""

    x: float = 0.0
    y: float = 0.0
    num_boxes: int = 1


@dataclass(frozen=True, eq=False)
class OneTrackMState:
    """All that the tracker knows after a frame; a value: keep an old one to rewind, copy it, save it.

    `num_frames` counts the frames so far, readable or not; `last_id` is the newest identity. `tracks` are what the last
    update has to say, `living` (M) the last box of every identity that may go on, in the order in which they began,
    `motions` (M) how they move.
    `tokens` (n, L, D) are those of the last frames that could be read, oldest first: the window in sliding mode (n = W;
    3 MB for ViT-B/16), the frames `waiting` in clip mode (n < W). It is read-only.
    """

    model: str
    num_frames: int = 0
    last_id: int = 0
    tracks: tuple[Track, ...] = ()
    living: tuple[Track, ...] = field(default=(), repr=False)
    motions: tuple[Motion, ...] = field(default=(), repr=False)
    tokens: Tokens = field(default_factory=lambda: np.empty((0, 0, 0), np.float32), repr=False)
    waiting: tuple[Waiting, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self.tokens.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OneTrackMState):
            return NotImplemented
        ours, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(value, theirs[name]) for name, value in ours.items())

    def __hash__(self) -> int:
        return hash((self.model, self.num_frames, self.last_id, self.tracks))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """A flat mapping for `np.savez(path, **state.to_arrays())`; `from_arrays` is its exact inverse."""
        head = {name: getattr(self, name) for name in ("model", "num_frames", "last_id", "waiting", "motions")}
        boxes = {"tracks": [asdict(track) for track in self.tracks], "living": [asdict(one) for one in self.living]}
        return {"state": np.array(json.dumps(head | boxes)), "tokens": self.tokens}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> OneTrackMState:
        """Rebuild a state from `np.load(path, allow_pickle=False)` or `to_arrays()`; else `ProtocolError`."""
        try:
            head, tokens = json.loads(str(arrays["state"])), arrays["tokens"]
            waiting = tuple(Waiting(index, (height, width)) for index, (height, width) in head["waiting"])
            tracks, living = (
                tuple(Track(**{**one, "xywh": tuple(one["xywh"])}) for one in head[name])
                for name in ("tracks", "living")
            )
            motions = tuple(Motion(*motion) for motion in head["motions"])
            return cls(head["model"], head["num_frames"], head["last_id"], tracks, living, motions, tokens, waiting)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(
                f"saved state: got arrays {sorted(arrays)}; expected those of OneTrack-M's to_arrays(). Save it again."
            ) from error


class Found(NamedTuple):
    """The detections of one frame, in pixels of it: xywh (N, 4), scores (N,), class_ids (N,), and displacements (N, 2)
    to where each was a frame before."""

    xywh: Array
    scores: Array
    class_ids: NDArray[np.int64]
    displacements: Array


class OneTrackMTracker:
    """Finds and follows all objects of its classes over one session; keeps nothing between calls.

    The session has two graphs. `tokens` takes a `frame` (1, 3, S, S) and gives its `tokens` (1, L, D), once for each
    frame. `track` takes the `tokens` (1, W, L, D) of a window, oldest frame first, and gives `heat_map` (1, w, C, G, G)
    in [0, 1], `size_map` (1, w, 2 or 4, G, G), sizes or sides in cells, and `displacement_map` (1, w, 2, G, G) in
    (-1, 1), for all frames (w = W) or, in sliding mode, maybe for the newest alone (w = 1). All float32.
    """

    def __init__(
        self,
        session: Session,
        config: OneTrackMConfig,
        name: str = "onetrack-m",
        class_names: Sequence[str] = ("person",),
    ) -> None:
        self.session = session
        self.config = config
        self.name = name
        self.class_names = tuple(class_names)

    def init(self) -> OneTrackMState:
        """The state before the first frame; costs nothing."""
        return OneTrackMState(self.name)

    def update(self, frame: Image | None, state: OneTrackMState, clock: StageClock | None = None) -> OneTrackMState:
        """Go on to the next frame (H, W, 3) uint8 RGB; returns the new state and leaves the old one as it was.

        None, a frame that could not be read, has no tracks, and the next one is compared with the one before it. In
        clip mode the update that fills a clip has the tracks of all its frames, every other none. `clock` collects the
        stages resize, tokens, track, decode and associate in milliseconds. Raises `ProtocolError` where the session
        gives anything but finite maps of the right shape.
        """
        if state.model != self.name:
            raise ProtocolError(
                f"state: got one made by {state.model!r}; expected one made by {self.name!r}. "
                "Call init of this tracker."
            )
        number, config = state.num_frames, self.config
        after = replace(state, num_frames=number + 1, tracks=())
        if frame is None:
            return after
        check_frame(frame)
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("resize"):
            pixels = input_pixels(frame, config)
        with stage("tokens"):
            newest = self._tokens(pixels)
            window = np.concatenate([state.tokens, newest]) if len(state.tokens) else newest
            if config.mode == "sliding" and len(window) == 1:
                window = np.concatenate([*self._before_the_first(newest), newest])
            window = window[-config.clip_length :]
        waiting = (*state.waiting, Waiting(number, (frame.shape[0], frame.shape[1])))
        if len(window) < config.clip_length:
            return replace(after, tokens=window, waiting=waiting)
        if config.mode == "sliding":
            return replace(self._continued(after, window, waiting, clock), tokens=window)
        none = np.empty((0, 0, 0), np.float32)
        return replace(self._continued(after, window, waiting, clock), tokens=none, waiting=())

    def finish(self, state: OneTrackMState, history: Sequence[Track]) -> list[Track]:
        """All tracks; in clip mode those of the last frames too, which had not filled a clip. None is removed."""
        if not state.waiting:
            return list(history)
        missing = self.config.clip_length - len(state.tokens)
        window = np.concatenate([state.tokens, *[state.tokens[-1:]] * missing])
        return [*history, *self._continued(state, window, state.waiting).tracks]

    def _continued(
        self, state: OneTrackMState, window: Tokens, frames: Sequence[Waiting], clock: StageClock | None = None
    ) -> OneTrackMState:
        """The state after `frames`, the newest alone or all of a clip from its first on, whose window is full."""
        config = self.config
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("track"):
            maps = self.session.run("track", {"tokens": window[None]})
            check_maps(maps, config, len(self.class_names))
        for place, (number, size) in enumerate(frames):
            with stage("decode"):
                here = {name: values[0, place if config.mode == "clip" else -1] for name, values in maps.items()}
                found = detections(here, size, config)
                if config.motion != "displacement" or (config.mode == "clip" and place == 0):
                    found = found._replace(displacements=np.zeros_like(found.displacements))
            with stage("associate"):
                state = associated(found, number, state, config)
        return state

    def _tokens(self, pixels: NDArray[np.float32]) -> Tokens:
        tokens = self.session.run("tokens", {"frame": pixels[None]})["tokens"]
        return np.ascontiguousarray(tokens)

    def _before_the_first(self, first: Tokens) -> list[Tokens]:
        if self.config.first_window == "black":
            black = np.zeros((self.config.image_px, self.config.image_px, 3), np.uint8)
            first = self._tokens(normalise(black, self.config.mean, self.config.std))
        return [first] * (self.config.clip_length - 1)


def fit_frame(frame: Image, fit: InputFit) -> Image:
    """A frame (H, W, 3) as the network's square input, still in colours: (S, S, 3), grey where nothing of it lies.

    A side that shrinks is averaged, so that small people do not fall between the pixels.
    """
    height, width = frame.shape[:2]
    inside = np.rint(fit.scale * (width, height)).astype(int)
    shrinks = bool((inside < (width, height)).any())
    resized = cv2.resize(frame, inside.tolist(), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    left, top = fit.offset.astype(int).tolist()
    right, bottom = fit.image_px - left - inside[0], fit.image_px - top - inside[1]
    if left or top or right or bottom:
        resized = cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.asarray(resized, dtype=np.uint8)


def input_pixels(frame: Image, config: OneTrackMConfig) -> NDArray[np.float32]:
    """(3, S, S) what the network sees of a frame."""
    return normalise(fit_frame(frame, fit_of((frame.shape[0], frame.shape[1]), config)), config.mean, config.std)


def fit_of(size: Size, config: OneTrackMConfig) -> InputFit:
    """How a frame of this height and width lies in the input."""
    return input_fit(*size, config.image_px, letterbox=config.resize == "letterbox")


def detections(maps: Arrays, size: Size, config: OneTrackMConfig) -> Found:
    """The objects that the maps (channels, G, G) of one frame hold, those of one class far enough apart."""
    peaks = decode_maps(
        maps["heat_map"],
        maps["size_map"],
        maps["displacement_map"],
        config.rules,
        min_score=config.detected_from,
        top_k=config.top_k,
    )
    kept = nms(xywh_to_xyxy(peaks.xywh_unit), peaks.scores, config.nms_iou, classes=peaks.class_ids)
    return in_pixels(peaks.take(kept), fit_of(size, config))


def in_pixels(peaks: Peaks, fit: InputFit) -> Found:
    """Peaks in pixels of the frame."""
    moved_px = peaks.displacements * fit.image_px / fit.scale
    return Found(fit.to_frame(peaks.xywh_unit), peaks.scores, peaks.class_ids, moved_px)


def continued(found: Found, living: Sequence[Track], match_iou: float) -> list[int]:
    """[A-19] For each detection the place in `living` of the track that it goes on with, -1 for none.

    Each is moved by its displacement to the frame before; the Hungarian method then maximises the total IoU with the
    tracks' last boxes, and a pair of another class or of less than `match_iou` is no match.
    """
    places = [-1] * len(found.scores)
    if not places or not living:
        return places
    before = found.xywh + np.pad(found.displacements, ((0, 0), (0, 2)))
    overlap = iou(before[:, None], np.array([track.xywh for track in living]))
    overlap[found.class_ids[:, None] != [track.class_id for track in living]] = 0
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] > 0 and overlap[row, column] >= match_iou:
            places[row] = int(column)
    return places


def associated(found: Found, frame_index: int, state: OneTrackMState, config: OneTrackMConfig) -> OneTrackMState:
    """The state with the tracks of one more frame: those that go on, and new ones in the order of `found`."""
    kept = [
        (track, motion)
        for track, motion in zip(state.living, state.motions, strict=True)
        if frame_index - track.frame_index <= config.keep_frames
    ]
    living = [track for track, _ in kept]
    expected = [moved_on(*one, frame_index) for one in kept] if config.motion == "velocity" else living
    places, last_id, tracks = continued(found, expected, config.match_iou), state.last_id, []
    boxes = zip(places, found.xywh.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True)
    for place, (x, y, w, h), score, class_id in boxes:
        if place < 0:
            if score < config.started_from:
                continue
            last_id += 1
        track_id = living[place].track_id if place >= 0 else last_id
        tracks.append(Track(frame_index, track_id, (x, y, w, h), score, class_id=class_id))
    now = {track.track_id: track for track in tracks}
    going_on = [(now.pop(track.track_id, track), track, motion) for track, motion in kept]
    motions = [learnt(motion, before, after, config.velocity_gain) for after, before, motion in going_on]
    return replace(
        state,
        last_id=last_id,
        tracks=(*state.tracks, *tracks),
        living=(*(after for after, _, _ in going_on), *now.values()),
        motions=(*motions, *[Motion()] * len(now)),
    )


def moved_on(track: Track, motion: Motion, frame_index: int) -> Track:
    """The track's box where it would be in this frame."""
    num_frames, (x, y, w, h) = frame_index - track.frame_index, track.xywh
    return replace(track, xywh=(x + num_frames * motion.x, y + num_frames * motion.y, w, h))


def learnt(motion: Motion, before: Track, after: Track, gain: float) -> Motion:
    """The mean with one more step; of the first steps each has the same share, of later ones the newest has `gain`."""
    num_frames = after.frame_index - before.frame_index
    if num_frames == 0:
        return motion
    share = max(gain, 1 / (motion.num_boxes + 1))
    x, y = ((new - old) / num_frames for new, old in zip(after.cxcywh[:2], before.cxcywh[:2], strict=True))
    return Motion(motion.x + share * (x - motion.x), motion.y + share * (y - motion.y), motion.num_boxes + 1)


def check_maps(maps: Arrays, config: OneTrackMConfig, num_classes: int) -> None:
    """Raise `ProtocolError` unless the session gave finite maps of the right shapes."""
    got = {name: np.shape(value) for name, value in maps.items()}
    counts = [config.clip_length] if config.mode == "clip" else [1, config.clip_length]
    has_sides = len(got.get("size_map", ())) == 5 and got["size_map"][2] == 4
    channels = {"heat_map": num_classes, "size_map": 4 if has_sides else 2, "displacement_map": 2}
    for count in counts:
        expected = {name: (1, count, channel, config.grid, config.grid) for name, channel in channels.items()}
        if got == expected:
            break
    else:
        cure = " Export it with every_frame=true." if config.mode == "clip" else ""
        raise ProtocolError(
            f"session: got {got}; expected {expected}. Give a tracker the session of its own model.{cure}"
        )
    for name, values in maps.items():
        if not np.isfinite(values).all():
            raise ProtocolError(
                f"session: {name} holds nan or infinity; expected finite numbers. Check the weights, or run in float32."
            )
