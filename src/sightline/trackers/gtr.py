"""GTR's online tracking (arXiv 2203.13250, Sec. 4.4): what a window of frames says of who is who on the newest one.

Compared with xingyizhou/GTR at commit 7138b95b5c7951e763af2a3ced15cb29ac8fc9de. `as_in_paper` names what that code does
otherwise than the paper. Differences from the code, each by its name here:

- The code needs the whole video before it drops short tracks and averages classes. Here every frame has its `tracks`
  at once, some not `confirmed` and all with the class that is likeliest so far; `finish` gives what the code gives.
- A trajectory that was too short when its last box left the window is forgotten: no later frame can lengthen it.
- Scores of trajectories are added and assigned in float64.

Legend: n objects of the frame  N of the window, those of the frame last  M trajectories with a box in the window before
the frame  D width of an embedding  C classes
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sightline.errors import ProtocolError
from sightline.geometry.boxes import Array, iou, xyxy_to_xywh
from sightline.geometry.detections import STRIDES, nms, proposals
from sightline.imaging.resize import prepared, shortest_edge_size, square_size
from sightline.runtime.session import Arrays, Session
from sightline.runtime.stages import StageClock
from sightline.trackers.association import StreamingAssociation, StreamState, frame_softmax
from sightline.trackers.template_search import IMAGENET_MEAN, IMAGENET_STD, check_frame
from sightline.types import Detections, Track

Image = NDArray[np.uint8]
Colour = tuple[float, float, float]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class GTRConfig:
    """Everything the loop needs besides the networks.

    resize: "square" scales a frame until its longer side has side_px, "edge" until its shorter side has, unless the
    longer would have more than longest_px. side_px, longest_px: in pixels, see resize. pad_to: zeros are put right
    and below until both sides are multiples of it. mean, std: of the values / 255, RGB.
    candidate_from: the detector's candidates are places with a higher probability. candidates: at most so many on each
    level, the likeliest. nms_iou: of two candidates that overlap by more, the better one stays. max_objects: at most so
    many of a frame, the best, and those as good as the last of them. object_from: an object is a candidate with a
    higher score.
    window: frames that are associated with each other, the current one included. match_from: an object continues a
    trajectory only by a higher score. match_times_boxes: match_from counts once for each box of the trajectory in the
    window. score: "sum" or "average" of the object's association with those boxes; the average is the paper's.
    with_iou: the score is at least the overlap with the trajectory's last box. decay: association counts so much for
    every frame that lies between; 1 turns it off. centre_gate: an object continues a trajectory only if one of its
    boxes is near, their centres' squared distance over the object's squared diagonal being less; 0 turns it off.
    class_gate: association counts as none where the product of two objects' class scores is less; 0 turns it off.
    min_boxes: a track is confirmed by so many boxes; in the end those with fewer are dropped.
    classify: whether a second stage names the class of every object, and a track has the mean of its boxes' scores.
    clip_boxes: whether boxes end where the frame does. class_from: in the end a track is of all classes with a higher
    score. class_nms_iou: in the end, of two boxes of one class on a frame that overlap by more, the better one stays.
    max_boxes: in the end at most so many on a frame, the best, a box counted once for each of its classes.
    streaming: whether to share between windows what they have in common; else each is associated from the start.

    Raises `ProtocolError` for values that make no sense.
    """

    resize: Literal["square", "edge"] = "square"
    side_px: int = 1560
    longest_px: int = 1333
    pad_to: int = 128
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    candidate_from: float = 1e-4
    candidates: int = 1000
    nms_iou: float = 0.6
    max_objects: int = 128
    object_from: float = 0.55
    window: int = 32
    match_from: float = 0.2
    match_times_boxes: bool = False
    score: Literal["sum", "average"] = "sum"
    with_iou: bool = True
    decay: float = 0.9
    centre_gate: float = 1.0
    class_gate: float = 0.0
    min_boxes: int = 5
    classify: bool = False
    clip_boxes: bool = False
    class_from: float = 0.05
    class_nms_iou: float = 0.7
    max_boxes: int = 300
    streaming: bool = False

    def __post_init__(self) -> None:
        for name, known in {"resize": ("square", "edge"), "score": ("sum", "average")}.items():
            if getattr(self, name) not in known:
                raise ProtocolError(
                    f"tracker config: got {name}={getattr(self, name)!r}; expected {known[0]!r} or {known[1]!r}. "
                    "Choose one."
                )
        for name in ("with_iou", "match_times_boxes", "classify", "clip_boxes", "streaming"):
            if not isinstance(getattr(self, name), bool):
                raise ProtocolError(f"tracker config: got {name}={getattr(self, name)!r}; expected true or false.")
        for name in ("side_px", "longest_px", "pad_to", "candidates", "max_objects", "min_boxes", "max_boxes"):
            self._check_whole(name, 1)
        self._check_whole("window", 2)
        for name in ("candidate_from", "nms_iou", "object_from", "decay", "class_from", "class_nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ProtocolError(f"tracker config: got {name}={getattr(self, name)}; expected 0 to 1.")
        for name in ("match_from", "centre_gate", "class_gate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ProtocolError(f"tracker config: got {name}={getattr(self, name)}; expected 0 or more.")
        if np.shape(self.mean) != (3,) or np.shape(self.std) != (3,) or not all(self.std):
            raise ProtocolError(f"tracker config: got mean={self.mean}, std={self.std}; expected three numbers each.")

    def _check_whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ProtocolError(f"tracker config: got {name}={value!r}; expected a whole number from {least} on.")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GTRConfig:
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


GTR_MOT = GTRConfig()
GTR_MOT_FULL = GTR_MOT  # trained on more, run alike
GTR_TAO = GTRConfig(
    resize="edge",
    side_px=800,
    pad_to=32,
    nms_iou=0.7,
    max_objects=300,
    object_from=0.4,
    window=16,
    match_from=0.1,
    match_times_boxes=True,
    with_iou=False,
    decay=1.0,
    centre_gate=0.0,
    class_gate=0.01,
    classify=True,
    clip_boxes=True,
)


def as_in_paper(config: GTRConfig) -> GTRConfig:
    """A preset, which is as the released code runs it, as the paper describes it instead.

    That is the mean association with a trajectory's boxes and not the sum (Sec. 4.4), a threshold of 0.2, no decay,
    neither gate, 32 frames, and every class of a trajectory whatever its score.
    """
    return replace(
        config,
        score="average",
        match_from=0.2,
        match_times_boxes=False,
        decay=1.0,
        centre_gate=0.0,
        class_gate=0.0,
        window=32,
        class_from=0.0,
    )


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """What the window keeps of one frame's objects, in the order of their detection.

    `xyxy_unit` (n, 4) float64, fractions of the frame, not clipped; `embeddings` (n, D) float32; `class_scores` (n, C)
    float64; `ids` (n,) int64, each at most once.
    """

    xyxy_unit: Array
    embeddings: NDArray[np.float32]
    class_scores: Array
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class GTRState:
    """All that the tracker knows after a frame; a value: keep an old one to rewind, copy it, save it.

    `num_frames` counts the frames so far, readable or not; `last_id` is what new identities count on from. `window`
    holds the newest frames, one fewer than the config's. `num_boxes` and `class_sums` (C,) float64 say of every
    trajectory, by its id, how many boxes it has and what their class scores add up to; 9.6 KB for each with the 1203
    classes of LVIS, nothing without classes. `tracks` are those of the last frame. `stream` is what streaming shares
    between windows: it is not saved, and made anew from the window where it is missing.
    """

    model: str
    num_frames: int = 0
    last_id: int = 0
    window: tuple[SeenFrame, ...] = field(default=(), repr=False)
    num_boxes: Mapping[int, int] = field(default_factory=dict, repr=False)
    class_sums: Mapping[int, Array] = field(default_factory=dict, repr=False)
    tracks: tuple[Track, ...] = ()
    stream: Any = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GTRState):
            return NotImplemented
        ours, theirs = self.to_arrays(), other.to_arrays()
        return all(np.array_equal(value, theirs[name]) for name, value in ours.items())

    def __hash__(self) -> int:
        return hash((self.model, self.num_frames, self.last_id, self.tracks))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """A flat mapping for `np.savez(path, **state.to_arrays())`; `from_arrays` is its exact inverse."""
        head = {"model": self.model, "num_frames": self.num_frames, "last_id": self.last_id}
        lengths = [len(frame) for frame in self.window]
        return {
            "state": np.array(json.dumps(head | {"lengths": lengths, "tracks": [asdict(one) for one in self.tracks]})),
            "window.xyxy_unit": _joined([frame.xyxy_unit for frame in self.window], np.float64),
            "window.embeddings": _joined([frame.embeddings for frame in self.window], np.float32),
            "window.class_scores": _joined([frame.class_scores for frame in self.window], np.float64),
            "window.ids": np.concatenate([np.empty(0, np.int64), *(frame.ids for frame in self.window)]),
            "trajectories.ids": np.array(list(self.num_boxes), np.int64),
            "trajectories.num_boxes": np.array(list(self.num_boxes.values()), np.int64),
            "trajectories.class_sums": _joined([self.class_sums[one][None] for one in self.num_boxes], np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> GTRState:
        """Rebuild a state from `np.load(path, allow_pickle=False)` or `to_arrays()`; else `ProtocolError`."""
        try:
            head = json.loads(str(arrays["state"]))
            ends = np.cumsum(head["lengths"], dtype=np.int64)[:-1]
            names = ("xyxy_unit", "embeddings", "class_scores", "ids")
            parts = [np.split(arrays[f"window.{name}"], ends) for name in names] if head["lengths"] else []
            window = tuple(SeenFrame(*frame) for frame in zip(*parts, strict=True))
            ids = arrays["trajectories.ids"].tolist()
            return cls(
                head["model"],
                head["num_frames"],
                head["last_id"],
                window,
                dict(zip(ids, arrays["trajectories.num_boxes"].tolist(), strict=True)),
                dict(zip(ids, arrays["trajectories.class_sums"], strict=True)),
                tuple(Track(**{**one, "xywh": tuple(one["xywh"])}) for one in head["tracks"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(
                f"saved state: got arrays {sorted(arrays)}; expected those of GTR's to_arrays(). Save it again."
            ) from error


def _joined(parts: Sequence[NDArray[Any]], kind: type) -> NDArray[Any]:
    """The rows of all; of empty ones the width does not matter."""
    filled = [part for part in parts if len(part)]
    return np.concatenate(filled) if filled else np.empty((0, 0), kind)


class Trajectories(NamedTuple):
    """The M trajectories with a box in the window, and what n objects have to do with each.

    `ids` (M,) rise; `num_boxes` (M,) in the window; `scores` (n, M) float64.
    """

    ids: Ids
    num_boxes: Array
    scores: Array


def trajectory_scores(
    logits: NDArray[np.float32], xyxy_unit: Array, class_scores: Array, window: Sequence[SeenFrame], config: GTRConfig
) -> Trajectories:
    """How well each of a frame's n objects continues each trajectory of the window before it (Sec. 4.4).

    logits (n, N): of the objects with all in the window, frame by frame, those of the frame itself last. xyxy_unit
    (n, 4): fractions of the frame. class_scores (n, C).
    """
    lengths = [len(frame) for frame in window]
    ids = np.unique(np.concatenate([np.empty(0, np.int64), *(frame.ids for frame in window)]))
    num_boxes, scores = np.zeros(len(ids)), np.zeros((len(xyxy_unit), len(ids)))
    near, last_xyxy = np.zeros(scores.shape, bool), np.zeros((len(ids), 4))
    probabilities = np.split(frame_softmax(logits, [*lengths, len(xyxy_unit)]), np.cumsum(lengths), axis=1)
    for i, (frame, probability) in enumerate(zip(window, probabilities[:-1], strict=True)):
        if not len(frame):
            continue
        columns = np.searchsorted(ids, frame.ids)
        if config.class_gate:
            probability = np.where(class_scores @ frame.class_scores.T < config.class_gate, 0, probability)
        scores[:, columns] += probability * config.decay ** (len(window) - 1 - i)
        near[:, columns] |= are_near(xyxy_unit, frame.xyxy_unit, config.centre_gate)
        num_boxes[columns] += 1
        last_xyxy[columns] = frame.xyxy_unit
    if config.score == "average":
        scores /= num_boxes
    if config.with_iou:
        scores = np.maximum(scores, iou(xyxy_to_xywh(xyxy_unit)[:, None], xyxy_to_xywh(last_xyxy)))
    if config.centre_gate:
        scores[~near] = 0
    return Trajectories(ids, num_boxes, scores)


def are_near(xyxy: Array, others: Array, gate: float) -> NDArray[np.bool_]:
    """(n, m): whether the squared distance of two centres is below `gate` times the squared diagonal of the first."""
    x1, y1, x2, y2 = xyxy.T[:, :, None]
    left, top, right, bottom = others.T
    across, down = (x1 + x2 - left - right) / 2, (y1 + y2 - top - bottom) / 2
    return np.asarray(across**2 + down**2 < gate * ((x2 - x1) ** 2 + (y2 - y1) ** 2))


def matched(trajectories: Trajectories, config: GTRConfig) -> Ids:
    """(n,) the id of the trajectory that each object continues, 0 for none; no two objects continue the same."""
    ids, num_boxes, scores = trajectories
    found = np.zeros(len(scores), np.int64)
    rows, columns = linear_sum_assignment(scores, maximize=True)
    needed = config.match_from * (num_boxes[columns] if config.match_times_boxes else 1)
    good = scores[rows, columns] > needed
    found[rows[good]] = ids[columns[good]]
    return found


def numbered(ids: Ids, state: GTRState) -> tuple[Ids, int]:
    """The ids with new ones in place of 0, in the order of detection, and what the next new ones count on from.

    Officially one number is skipped: n objects of the first frame are 1..n, and the next new one is n + 2.
    """
    if state.num_frames == 0:
        return np.arange(1, len(ids) + 1), len(ids) + 1
    is_new = ids == 0
    last_id = state.last_id + int(is_new.sum())
    return np.where(is_new, state.last_id + np.cumsum(is_new), ids), last_id


NOTHING = Detections(np.empty((0, 4)), np.empty(0), np.empty((0, 0), np.float32), np.empty((0, 0)))
DETECTED = ("p3", *(f"{kind}_{level}" for level in range(len(STRIDES)) for kind in ("reg", "agn")))


def size_in_network(height: int, width: int, config: GTRConfig) -> tuple[int, int]:
    """Height and width that a frame is resized to, before it is padded."""
    if config.resize == "square":
        size = square_size(height, width, config.side_px)
    else:
        size = shortest_edge_size(height, width, config.side_px, config.longest_px)
    return max(size[0], 1), max(size[1], 1)  # of a frame of 1 x 5000 nothing would be left


class GTRTracker:
    """Finds and follows all objects of its classes over one session; keeps nothing between calls.

    The session has the graphs

    - `detect`: `image` (1, 3, H, W), normalised and padded, gives `p3` (1, D', H/8, W/8), and `reg_l` (1, 4, h, w) and
      `agn_l` (1, 1, h, w) of levels 0..4: distances in strides, and logits;
    - `embed`: `p3` and `boxes` (n, 4), xyxy in pixels of the image, give `embeddings` (n, D);
    - `classify`, where the config says so: these and `size` (2,), height and width of the image before it was padded,
      give `class_scores` (n, C + 1), the last of nothing, and refined `boxes` (n, 4);
    - `associate`: `features` (N, D) of all objects in the window and `queries` (n, D) give `logits` (n, N).

    For `streaming` there is `association` instead of the last, which takes nothing and gives the weights by name.

    class_names: C names, or one for all objects where they are not classified.
    """

    def __init__(
        self, session: Session, config: GTRConfig, name: str = "gtr", class_names: Sequence[str] = ("person",)
    ) -> None:
        self.session = session
        self.config = config
        self.name = name
        self.class_names = tuple(class_names)
        self._streaming = StreamingAssociation(session.run("association", {})) if config.streaming else None

    def init(self) -> GTRState:
        """The state before the first frame; costs nothing."""
        return GTRState(self.name)

    def update(self, frame: Image | None, state: GTRState, clock: StageClock | None = None) -> GTRState:
        """Go on to the next frame (H, W, 3) uint8 RGB; returns the new state and leaves the old one as it was.

        None, a frame that could not be read, is one without objects. `clock` collects the stages prepare, detect,
        decode, embed, classify, associate and assign in milliseconds. Raises `ProtocolError`, which names the frame,
        where a graph fails or answers with anything but finite numbers; the old state is then still good.
        """
        self._check_own(state)
        if frame is None:
            return self.associate(NOTHING, (1, 1), state, clock)
        check_frame(frame)
        return self.associate(self._detected(frame, state.num_frames, clock), frame.shape[:2], state, clock)

    def _detected(self, frame: Image, index: int, clock: StageClock | None) -> Detections:
        """The objects of a frame, in its pixels: found, told apart and, where the config says so, classified."""
        config, (height, width) = self.config, frame.shape[:2]
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("prepare"):
            image, size = prepared(
                frame, size_in_network(height, width, config), config.mean, config.std, config.pad_to
            )
        with stage("detect"):
            maps = self._run("detect", {"image": image}, DETECTED, index)
        with stage("decode"):
            xyxy, scores = proposals(
                maps,
                score_from=config.candidate_from,
                most=config.candidates,
                iou=config.nms_iou,
                keep=config.max_objects,
            )
            is_object = scores > config.object_from
            xyxy, scores = xyxy[is_object], scores[is_object]
        if not len(scores):
            return NOTHING
        regions = {"p3": maps["p3"], "boxes": xyxy.astype(np.float32)}
        with stage("embed"):
            embeddings = self._run("embed", regions, ("embeddings",), index)["embeddings"]
        class_scores = np.empty((len(scores), 0))
        if config.classify:
            with stage("classify"):
                regions["size"] = np.array(size, np.float32)
                answer = self._run("classify", regions, ("class_scores", "boxes"), index)
                check_answer("class_scores", answer["class_scores"], (len(scores), len(self.class_names) + 1), index)
            class_scores = np.sqrt(answer["class_scores"][:, :-1].astype(np.float64) * scores[:, None])
            xyxy = answer["boxes"].astype(np.float64)
        return Detections(xyxy * np.tile([width / size[1], height / size[0]], 2), scores, embeddings, class_scores)

    def associate(
        self, detections: Detections, size_hw: tuple[int, int], state: GTRState, clock: StageClock | None = None
    ) -> GTRState:
        """Go on with the n objects of the next frame, found by any detector; `size_hw` is its height and width.

        Embeddings must be those of the session's network. `clock` and errors as in `update`.
        """
        self._check_own(state)
        self._check_detections(detections, state)
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("associate"):
            stream, logits = self._logits(detections.embeddings, state)
        with stage("assign"):
            xyxy_unit = detections.xyxy / np.tile(size_hw[::-1], 2)
            ids = np.empty(0, np.int64)
            if len(detections):
                known = trajectory_scores(logits, xyxy_unit, detections.class_scores, state.window, self.config)
                ids = matched(known, self.config)
            ids, last_id = numbered(ids, state)
            seen = SeenFrame(xyxy_unit, detections.embeddings, detections.class_scores, ids)
            window = (*state.window, seen)
            num_boxes, class_sums = self._counted(state, window)
            tracks = self._tracks(detections, size_hw, ids, num_boxes, class_sums, state.num_frames)
        kept = window[-(self.config.window - 1) :]
        return GTRState(self.name, state.num_frames + 1, last_id, kept, num_boxes, class_sums, tracks, stream)

    def finish(self, state: GTRState, history: Sequence[Track]) -> list[Track]:
        """What the whole video says: no track of fewer than `min_boxes`, and the classes of whole trajectories.

        history: the `tracks` of every update so far, in any order. Returned are all in the order of the frames, of one
        frame as they were found; where objects are classified, the better score first, and a box may be there once for
        each of several classes. Needs neither frames nor the network.
        """
        config = self.config
        long = {one for one, num_boxes in state.num_boxes.items() if num_boxes >= config.min_boxes}
        kept = sorted((track for track in history if track.track_id in long), key=lambda track: track.frame_index)
        if not config.classify:
            return [replace(track, confirmed=True) for track in kept]
        means = {one: state.class_sums[one] / state.num_boxes[one] for one in long}
        return [
            track
            for _, tracks in itertools.groupby(kept, key=lambda track: track.frame_index)
            for track in self._classified(list(tracks), means)
        ]

    def _classified(self, tracks: Sequence[Track], means: Mapping[int, Array]) -> list[Track]:
        """The tracks of one frame, each under the classes of its trajectory, after suppression within every class."""
        config, of_track = self.config, np.stack([means[track.track_id] for track in tracks])
        rows, classes = np.nonzero(of_track > config.class_from)
        scores, xyxy = of_track[rows, classes], np.array([track.xyxy for track in tracks])
        kept = nms(xyxy[rows], scores, config.class_nms_iou, classes=classes, keep=config.max_boxes)
        return [
            replace(tracks[rows[i]], score=float(scores[i]), confirmed=True, class_id=int(classes[i]))
            for i in kept[: config.max_boxes]
        ]

    def _logits(
        self, embeddings: NDArray[np.float32], state: GTRState
    ) -> tuple[StreamState | None, NDArray[np.float32]]:
        """What streaming shares from now on, and the logits (n, N) of a frame's objects with all in the window."""
        past = [frame.embeddings for frame in state.window]
        shape = (len(embeddings), sum(map(len, past)) + len(embeddings))
        stream = None
        if self._streaming:
            with failures_at(state.num_frames, "association"):
                stream, logits = self._streamed(self._streaming, past, embeddings, state.stream)
        elif shape[0] in (0, shape[1]):  # no objects, or none before them
            return None, np.zeros(shape, np.float32)
        else:
            arrays = {"features": _joined([*past, embeddings], np.float32), "queries": embeddings}
            logits = self._run("associate", arrays, ("logits",), state.num_frames)["logits"]
        check_answer("logits", logits, shape, state.num_frames)
        return stream, logits

    def _streamed(
        self,
        streaming: StreamingAssociation,
        past: Sequence[NDArray[np.float32]],
        embeddings: NDArray[np.float32],
        stream: StreamState | None,
    ) -> tuple[StreamState, NDArray[np.float32]]:
        if stream is None:  # of a saved state, or before the first frame
            features = _joined(past, np.float32).reshape(-1, streaming.width)
            stream = streaming.window(features, [len(frame) for frame in past])
        leaving = max(0, len(stream.counts) + 1 - self.config.window)
        return streaming.step(stream, embeddings.reshape(len(embeddings), streaming.width), leaving)

    def _counted(self, state: GTRState, window: Sequence[SeenFrame]) -> tuple[dict[int, int], dict[int, Array]]:
        """Boxes and class scores of every trajectory, those of the window's last frame included.

        A trajectory that ended too short is left out: its last box is in the frame that now leaves the window.
        """
        num_boxes, class_sums = dict(state.num_boxes), dict(state.class_sums)
        seen = window[-1]
        for one, scores in zip(seen.ids.tolist(), seen.class_scores, strict=True):
            num_boxes[one] = num_boxes.get(one, 0) + 1
            class_sums[one] = class_sums.get(one, 0.0) + scores
        if len(window) == self.config.window:
            alive = {one for frame in window[1:] for one in frame.ids.tolist()}
            for one in set(window[0].ids.tolist()) - alive:
                if num_boxes[one] < self.config.min_boxes:
                    del num_boxes[one], class_sums[one]
        return num_boxes, class_sums

    def _tracks(
        self,
        detections: Detections,
        size_hw: tuple[int, int],
        ids: Ids,
        num_boxes: Mapping[int, int],
        class_sums: Mapping[int, Array],
        index: int,
    ) -> tuple[Track, ...]:
        """What is known of a frame as soon as it is seen; a box without area, maybe once clipped, is not told."""
        config, xyxy = self.config, detections.xyxy
        if config.clip_boxes:
            xyxy = np.clip(xyxy, 0, np.tile(size_hw[::-1], 2))
        found = []
        for one, xywh, score in zip(ids.tolist(), xyxy_to_xywh(xyxy), detections.scores, strict=True):
            x, y, w, h = xywh.tolist()
            if not (w > 0 and h > 0):
                continue
            class_id = 0
            if config.classify:
                class_id = int(class_sums[one].argmax())
                score = class_sums[one][class_id] / num_boxes[one]
            confirmed = num_boxes[one] >= config.min_boxes
            found.append(Track(index, one, (x, y, w, h), float(score), confirmed, class_id))
        return tuple(found)

    def _run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]], names: Sequence[str], index: int) -> Arrays:
        """What a graph answers, all of `names` and finite; else `ProtocolError`, which names the frame."""
        with failures_at(index, graph):
            answer = self.session.run(graph, arrays)
        if absent := [name for name in names if name not in answer]:
            raise ProtocolError(
                f"frame {index}: got {sorted(answer)} from {graph!r}; expected {absent[0]!r} too. Give a tracker the "
                "session of its own model."
            )
        for name in names:
            check_answer(name, answer[name], np.shape(answer[name]), index)
        return answer

    def _check_own(self, state: GTRState) -> None:
        if not isinstance(state, GTRState) or state.model != self.name:
            raise ProtocolError(
                f"state: got one made by {getattr(state, 'model', type(state).__name__)!r}; expected one made by "
                f"{self.name!r}. Call init of this tracker."
            )

    def _check_detections(self, detections: Detections, state: GTRState) -> None:
        """Raise `ProtocolError` unless all is finite and as wide as in the frames before."""
        index, num_objects = state.num_frames, len(detections)
        num_classes = len(self.class_names) if self.config.classify else 0
        before = next((frame.embeddings for frame in state.window if len(frame)), detections.embeddings)
        shapes = {"xyxy": (4,), "scores": (), "embeddings": before.shape[1:], "class_scores": (num_classes,)}
        for name, shape in shapes.items():
            if num_objects:
                check_answer(name, getattr(detections, name), (num_objects, *shape), index)


@contextmanager
def failures_at(index: int, graph: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a `ProtocolError` that names the frame."""
    try:
        yield
    except Exception as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ProtocolError(
            f"frame {index}: graph {graph!r}: got {reason}; expected its arrays. Go on from the state of the frame "
            "before, which is still good."
        ) from error


def check_answer(name: str, got: NDArray[Any], shape: tuple[int, ...], index: int) -> None:
    """Raise `ProtocolError`, which names the frame, unless an array has that shape and only finite numbers."""
    if np.shape(got) != shape:
        raise ProtocolError(
            f"frame {index}: got {name} of shape {np.shape(got)}; expected {shape}. Give a tracker the session of its "
            "own model."
        )
    if not np.isfinite(got).all():
        raise ProtocolError(
            f"frame {index}: got {name} that are nan or infinite; expected finite numbers. Check the weights, or run "
            "in float32."
        )
