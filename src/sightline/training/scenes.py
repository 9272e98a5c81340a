"""How a run of a tracker that finds its targets is judged: it follows whole scenes with the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sightline.datasets.mot_text import MotRows
from sightline.datasets.synthetic import SyntheticSequence
from sightline.errors import DatasetError
from sightline.evaluation.mot import MotScores, combine, mot_scores
from sightline.evaluation.mot_preprocess import MOT_RULES, motchallenge
from sightline.models.session import TorchSession
from sightline.trackers.protocol import MultiObjectTracker
from sightline.trackers.zoo import MULTI_OBJECT, MultiObjectConfig
from sightline.training.validation import own_modes
from sightline.types import Track

Image = NDArray[np.uint8]

SHOWN = ("HOTA", "DetA", "AssA", "IDF1", "MOTA")
MIN_VISIBILITY = 0.1  # synthetic targets that are seen less need not be found


@dataclass(frozen=True, eq=False)
class Scene:
    """`num_frames` frames, of which `image(index)` gives one, (H, W, 3) uint8 RGB, and the `truth` of them all, which a
    row of `MOT_RULES`, `rule`, says how to score."""

    name: str
    num_frames: int
    image: Callable[[int], Image]
    truth: MotRows
    rule: str = "none"


@dataclass(frozen=True)
class SceneScores:
    """Of each scene by name its scores, and all tracks as the tracker has them in the end."""

    scores: Mapping[str, MotScores]
    tracks: Mapping[str, Sequence[Track]]
    column: ClassVar[str] = "HOTA"

    @property
    def overall(self) -> dict[str, float]:
        """Of all scenes as one."""
        summary = combine(list(self.scores.values())).summary()
        return {name: summary[name] for name in SHOWN}

    @property
    def by_name(self) -> dict[str, float]:
        return {name: one.summary()[self.column] for name, one in self.scores.items()}


def synthetic_scene(sequence: SyntheticSequence, name: str) -> Scene:
    """A whole sequence; its truth is of targets that can be seen."""
    frame, track_id, xywh, visibility = sequence.truth
    kept = visibility >= MIN_VISIBILITY
    truth = MotRows(frame[kept], track_id[kept], xywh[kept], np.ones(kept.sum()), np.ones(kept.sum(), np.int64))
    return Scene(name, len(sequence), sequence.image, truth)


def track_scenes(
    model: nn.Module,
    scenes: Sequence[Scene],
    tracker: MultiObjectConfig,
    name: str,
    class_names: Sequence[str],
    device: str | None = None,
) -> SceneScores:
    """Follow everything in every scene, from its first frame to its last. All classes are scored as one.

    `model` is what `TorchSession` takes, as in `validation.track_clips`, and `device` where it is moved to. Raises
    `DatasetError` without a scene, and `VideoError` for a frame that cannot be read. Costs as much as tracking does.
    """
    if not scenes:
        raise DatasetError("validation: got no scene; expected at least one. Name scenes, or validate never.")
    if device is None:
        device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    with own_modes(model):
        follower = MULTI_OBJECT[type(tracker)](TorchSession(model, device), tracker, name, class_names)
        tracks = {scene.name: _followed(follower, scene) for scene in scenes}
    scores = {}
    for scene in scenes:
        found = mot_rows(tracks[scene.name])
        scores[scene.name] = mot_scores(motchallenge(scene.truth, found, scene.num_frames, MOT_RULES[scene.rule]))
    return SceneScores(scores, tracks)


def mot_rows(tracks: Sequence[Track]) -> MotRows:
    """Tracks as the rows of a result."""
    frame, track_id = (
        np.array([getattr(track, name) for track in tracks], np.int64) for name in ("frame_index", "track_id")
    )
    xywh = np.array([track.xywh for track in tracks], np.float64).reshape(-1, 4)
    return MotRows(frame, track_id, xywh, np.array([track.score for track in tracks]), np.ones_like(frame))


def _followed(tracker: MultiObjectTracker, scene: Scene) -> list[Track]:
    state, history = tracker.init(), list[Track]()
    for index in range(scene.num_frames):
        state = tracker.update(scene.image(index), state)
        history += state.tracks
    return tracker.finish(state, history)
