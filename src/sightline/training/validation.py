"""How a run is judged: the real tracker follows whole clips with the model as it is, and the best weights stay."""

from __future__ import annotations

import csv
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from torch import nn

from sightline.datasets.clips import Clip
from sightline.errors import DatasetError
from sightline.evaluation.protocols import PLAIN
from sightline.evaluation.sot import overlap, success_auc
from sightline.files import atomic_path
from sightline.imaging.frames import read_image
from sightline.models.session import TorchSession
from sightline.trackers.protocol import Tracker
from sightline.trackers.zoo import TRACKERS, BoxTrackerConfig

log = logging.getLogger("sightline")

BEST = "best.safetensors"


class Scores(Protocol):
    """What a validation found: numbers of all clips together, of which the best weights have the highest `column`, and
    that one of each clip by name."""

    column: ClassVar[str]

    @property
    def overall(self) -> Mapping[str, float]: ...

    @property
    def by_name(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class ClipScore:
    """One clip, over the frames after the first that show the target.

    `ao`: mean overlap with the true box (GOT-10k). `auc`: area under the success curve, the mean of its 21 points.
    """

    name: str
    ao: float
    auc: float


@dataclass(frozen=True)
class Validation:
    """The scores of clips, in their order, and the means, in which every clip weighs the same; nan of no clips."""

    clips: tuple[ClipScore, ...]
    column: ClassVar[str] = "AUC"

    @property
    def overall(self) -> dict[str, float]:
        return {"AO": self.ao, "AUC": self.auc}

    @property
    def by_name(self) -> dict[str, float]:
        return {clip.name: clip.auc for clip in self.clips}

    @property
    def ao(self) -> float:
        return sum(clip.ao for clip in self.clips) / len(self.clips) if self.clips else math.nan

    @property
    def auc(self) -> float:
        return sum(clip.auc for clip in self.clips) / len(self.clips) if self.clips else math.nan


def track_clips(
    model: nn.Module,
    clips: Sequence[Clip],
    tracker: BoxTrackerConfig,
    name: str,
    device: str | None = None,
) -> Validation:
    """Follow the target of every clip, from its first box to its last frame.

    `model` is what `TorchSession` takes; it tracks in eval mode, and every module of it is in its own mode again
    afterwards. `device` is where it is moved to and stays, by default where it lies. `name` is the
    model's. Frames are read one at a time.

    Raises `DatasetError` when there is no clip or one cannot be scored, before any is tracked, and `VideoError` for a
    frame that cannot be read. Costs as much as tracking does.
    """
    if not clips:
        raise DatasetError("validation: got no clip; expected at least one. Name clips, or validate never.")
    for clip in clips:
        check_clip(clip)
    if device is None:
        device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    with own_modes(model):
        follower = TRACKERS[type(tracker)](TorchSession(model, device), tracker, name)
        return Validation(tuple(_score(follower, clip) for clip in clips))


def check_clip(clip: Clip) -> None:
    """Raise `DatasetError` unless the clip has a box per frame, on its first frame, and on another."""
    if not len(clip) == len(clip.xywh) == len(clip.is_present):
        raise DatasetError(
            f"validation clip {clip.name!r}: got {len(clip.xywh)} boxes for {len(clip)} frames; expected one each. "
            "Leave out clips whose boxes are kept back."
        )
    if not clip.is_present[:1].any() or not clip.is_present[1:].any():
        raise DatasetError(
            f"validation clip {clip.name!r}: got a target on {int(clip.is_present.sum())} of {len(clip)} frames, the "
            f"first {'included' if clip.is_present[:1].any() else 'not'}; expected it on the first and on a later one. "
            "Leave the clip out."
        )


def _score(tracker: Tracker, clip: Clip) -> ClipScore:
    state = tracker.init(read_image(clip.frames[0]), xywh=clip.xywh[0])
    boxes = [state.xywh]
    for path in clip.frames[1:]:
        state = tracker.update(read_image(path), state)
        boxes.append(state.xywh)
    counted = clip.is_present.copy()
    counted[0] = False
    share = overlap(np.array(boxes)[counted], clip.xywh[counted], PLAIN)
    return ClipScore(clip.name, float(share.mean()), success_auc(boxes, clip.xywh, clip.is_present))


@contextmanager
def own_modes(model: nn.Module) -> Iterator[None]:
    """Every module is in the mode afterwards in which it was: a recipe may train with some of them in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def keep_best(weights: Path, step: int, score: float, column: str = "AUC") -> bool:
    """Copy a weights file just written to `best.safetensors` beside it if `score` is the best so far; whether it was.

    Best is higher than every row of another step in the `validation.csv` beside it, in which `Journal` keeps the
    scores, so that a resumed run goes on where it was; the first of equals stays, nan is never best. The file is whole
    or the one before.
    """
    rivals = _scores(weights.parent / "validation.csv", column)
    rivals.pop(step, None)
    if math.isnan(score) or any(score <= rival for rival in rivals.values()):
        return False
    with weights.open("rb") as source, atomic_path(weights.parent / BEST) as partial, partial.open("wb") as best:
        shutil.copyfileobj(source, best)
        best.flush()
        os.fsync(best.fileno())
    log.info("step %d: %s %.4f is the best so far -> %s", step, column, score, weights.parent / BEST)
    return True


def _scores(path: Path, column: str) -> dict[int, float]:
    """Step -> score of a validation.csv; {} where there is none yet."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file)}
