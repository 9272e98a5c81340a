"""The values that cross the seams: frames, target states, results. Frozen, saved without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sightline.errors import ProtocolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Detections", "Frame", "Presence", "TargetState", "Track", "TrackResult"]

# "tracked" while the score is at least the model's threshold, "uncertain" below it. "lost" is for trackers that search
# for a target again and say when they gave it up; none does yet.
Presence = Literal["tracked", "uncertain", "lost"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a source, readable or not.

    `index` counts from 0 in the source; `time_s` is the presentation time in seconds from the source's first frame,
    None where the source has none (image folders). `rgb` is (H, W, 3) uint8 RGB, None when the frame could not be
    read; `error` then says why in one sentence.
    """

    index: int
    time_s: float | None
    rgb: NDArray[np.uint8] | None
    error: str | None = None


class _Box:
    """The three formats of the box `(x, y, w, h)`, in pixels of its own frame: half-open, float, x right, y down."""

    xywh: tuple[float, float, float, float]

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        x, y, w, h = self.xywh
        return x, y, x + w, y + h

    @property
    def cxcywh(self) -> tuple[float, float, float, float]:
        x, y, w, h = self.xywh
        return x + w / 2, y + h / 2, w, h


@dataclass(frozen=True, eq=False)
class TargetState(_Box):
    """All that a template tracker knows of one target; a value: keep an old one to rewind, copy it, save it.

    `xywh` is the box in pixels of the frame it was last updated on, `score` the peak of the score map in [0, 1]
    (1 for the box given by hand), `presence` what the score says of the target. `features` are the encoded template,
    read-only float32 arrays with a leading axis of one, as the session's `encode` graph named them. `model` names the
    tracker they were made by.
    """

    xywh: tuple[float, float, float, float]
    score: float
    presence: Presence
    model: str
    features: Mapping[str, NDArray[np.float32]] = field(repr=False)

    def __post_init__(self) -> None:
        for value in self.features.values():
            value.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TargetState):
            return NotImplemented
        return (
            (self.xywh, self.score, self.presence, self.model) == (other.xywh, other.score, other.presence, other.model)
            and self.features.keys() == other.features.keys()
            and all(np.array_equal(value, other.features[name]) for name, value in self.features.items())
        )

    def __hash__(self) -> int:
        return hash((self.xywh, self.score, self.model))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """A flat mapping for `np.savez(path, **state.to_arrays())`; `from_arrays` is its exact inverse."""
        known = {"xywh": self.xywh, "score": self.score, "presence": self.presence, "model": self.model}
        head = json.dumps(known)
        return {"state": np.array(head), **{f"features.{name}": value for name, value in self.features.items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TargetState:
        """Rebuild a state from `np.load(path, allow_pickle=False)` or `to_arrays()`; else `ProtocolError`."""
        try:
            head = json.loads(str(arrays["state"]))
            (x, y, w, h), score, model = head["xywh"], head["score"], head["model"]
            presence = {name: name for name in get_args(Presence)}[head["presence"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(
                f"saved state: got arrays {sorted(arrays)}; expected those of to_arrays(). Save it again."
            ) from error
        prefix = "features."
        features = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
        return cls((x, y, w, h), score, presence, model, features)


@dataclass(frozen=True, eq=False)
class Detections:
    """The N objects that a detector found on one frame.

    `xyxy` (N, 4) float64 in pixels of the frame, `scores` (N,) float64 in [0, 1]; `embeddings` (N, D) float32, what the
    association tells objects apart by, and `class_scores` (N, C) float64; D and C may be 0.
    """

    xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    embeddings: NDArray[np.float32]
    class_scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Track(_Box):
    """One identity on one frame, as a multi-object tracker knows it.

    `xywh` in pixels of the frame; `confirmed` is False as long as too little has been seen of the identity to count;
    `class_id` is a place in the tracker's `class_names`. An identity may be there under several classes.
    """

    frame_index: int
    track_id: int
    xywh: tuple[float, float, float, float]
    score: float
    confirmed: bool = True
    class_id: int = 0


@dataclass(frozen=True)
class TrackResult(_Box):
    """One target on one frame, as `sightline.track` yields it.

    `xywh` is nan four times where the frame could not be read (`error` says why); `score` is then nan as well, and
    `presence` "uncertain". `label` is the name of its class, and `confirmed` says whether it counts yet, where a
    multi-object tracker found it; a target that was given by its box has no label and is confirmed.
    """

    frame_index: int
    time_s: float | None
    target_id: int
    xywh: tuple[float, float, float, float]
    score: float
    presence: Presence
    error: str | None = None
    label: str = ""
    confirmed: bool = True
