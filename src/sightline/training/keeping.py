"""What a run keeps beside its checkpoint: pictures of what it sees, weights to track with, the best of these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.building import empty_model
from sightline.checkpoints.files import FORMAT_VERSION, MODEL, OUR_FORMAT_VERSION, write_safetensors
from sightline.datasets.clips import Clip
from sightline.geometry.boxes import xyxy_to_xywh
from sightline.models.blocks import Maps
from sightline.models.spmtrack import Prediction
from sightline.trackers.zoo import ZOO, BoxTrackerConfig
from sightline.training.journal import Journal, example_sheet
from sightline.training.losses import boxes_at
from sightline.training.run import Run
from sightline.training.validation import keep_best, track_clips

log = logging.getLogger("sightline")

LAST_WEIGHTS = "last.safetensors"


def keep_weights(
    run: Run,
    journal: Journal,
    weights: Mapping[str, Tensor],
    name: str,
    clips: Sequence[Clip],
    step: int,
    settings: Any,
    stored: Callable[[Any], tuple[dict[str, NDArray[Any]], dict[str, str]]] | None = None,
) -> None:
    """`last.safetensors`, which `sightline track --model NAME --weights FILE` takes; with clips also their scores.

    The first process tracks the clips with the weights just written and keeps the best ones as `best.safetensors`;
    the others wait. settings: a recipe's. stored: from the network to what its file is to hold and say in its
    header, else all weights.
    """
    if run.is_first:
        path, num_pairs = run.folder / LAST_WEIGHTS, step * settings.batch
        header = {MODEL: name, FORMAT_VERSION: OUR_FORMAT_VERSION, "sightline.examples": str(num_pairs)}
        model = empty_model(name, getattr(settings, "options", None))
        model.load_state_dict(dict(weights))
        tensors = {key: value.cpu().numpy() for key, value in weights.items()}
        if stored:
            tensors, about = stored(model)
            header |= about
        write_safetensors(path, tensors, header)
        if clips:
            tracker = ZOO[name].tracker
            assert isinstance(tracker, BoxTrackerConfig)
            scores = track_clips(model, clips, tracker, name, str(run.device))
            journal.validation(step, scores, num_examples=num_pairs, epoch=step / settings.steps_per_epoch)
            keep_best(path, step, scores.auc)
    run.fabric.barrier()


@torch.no_grad()
def pair_sheet(batch: Mapping[str, Tensor], maps: Maps) -> NDArray[np.uint8]:
    """The first pairs of a batch and the boxes at the peaks of their maps, as `example_sheet` draws them."""
    boxes = boxes_at(maps, maps.score_map.flatten(1).argmax(dim=1)).float()
    predicted = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
    tensors = (batch["template"], batch["search"], batch["xywh_unit"], predicted, maps.score_map.float())
    template, search, true, drawn, score_map = (value.cpu().numpy() for value in tensors)
    return example_sheet(template, search, true, drawn, score_map)


@torch.no_grad()
def sequence_sheet(batch: Mapping[str, Tensor], predictions: Sequence[Prediction]) -> NDArray[np.uint8]:
    """The first examples of a batch, each the newest template, the last search frame and the box at its peak."""
    prediction = predictions[-1]
    peak = prediction.logit_map.flatten(1).argmax(dim=1)
    boxes = prediction.box_map.flatten(2)[torch.arange(len(peak)), :, peak].float()
    template, search, true = (batch[name][:, -1].cpu().numpy() for name in ("templates", "searches", "xyxy_unit"))
    score_map = prediction.logit_map.float().sigmoid().cpu().numpy()
    return example_sheet(template, search, xyxy_to_xywh(true), xyxy_to_xywh(boxes.cpu().numpy()), score_map)


def conclude(run: Run, name: str, num_steps: int, backbone: str = "") -> None:
    """Tell where the weights are, also of a run that was through before it was given again. backbone: the file that
    belongs to them."""
    if run.is_first:
        path = run.folder / LAST_WEIGHTS
        beside = f" --backbone {backbone}" if backbone else ""
        next_ = (
            f"sightline track VIDEO --model {name} --weights {path}{beside}" if path.exists() else "Give more --epochs."
        )
        log.info("all %d steps are done. %s", num_steps, next_)
