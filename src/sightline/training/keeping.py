"""What a run keeps beside its checkpoint: pictures of what it sees, weights to track with, the best of these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.building import classes_of, empty_model
from sightline.checkpoints.files import FORMAT_VERSION, MODEL, OUR_FORMAT_VERSION, write_safetensors
from sightline.datasets.clips import Clip
from sightline.geometry.boxes import xyxy_to_xywh
from sightline.geometry.heatmaps import peaks_at
from sightline.imaging.draw import WHITE, colour_of
from sightline.imaging.sheet import ContactSheet
from sightline.models.blocks import Maps
from sightline.models.onetrack_m import WindowMaps
from sightline.models.spmtrack import Prediction
from sightline.trackers.onetrack_m import OneTrackMConfig, detections
from sightline.trackers.zoo import ZOO, BoxTrackerConfig, TrackerConfig
from sightline.training.heatmap_losses import WindowTargets
from sightline.training.journal import Journal, example_sheet, objects_sheet
from sightline.training.losses import boxes_at
from sightline.training.run import Run
from sightline.training.scenes import Scene, SceneScores, track_scenes
from sightline.training.validation import Validation, keep_best, track_clips
from sightline.types import TrackResult

log = logging.getLogger("sightline")

Image = NDArray[np.uint8]

LAST_WEIGHTS = "last.safetensors"
TRAIL_FRAMES = 30  # of a track's path on a picture


def keep_weights(
    run: Run,
    journal: Journal,
    weights: Mapping[str, Tensor],
    name: str,
    clips: Sequence[Clip] | Sequence[Scene],
    step: int,
    settings: Any,
    stored: Callable[[Any], tuple[dict[str, NDArray[Any]], dict[str, str]]] | None = None,
    *,
    about: Mapping[str, str] | None = None,
    tracker: TrackerConfig | None = None,
) -> None:
    """`last.safetensors`, which `sightline track --model NAME --weights FILE` takes; with clips also their scores.

    The first process tracks the clips, scenes for a tracker that finds its targets, with the weights just written and
    keeps the best ones as `best.safetensors`; the others wait. settings: a recipe's. stored: from the network to what
    its file is to hold and say in its header, else all weights. about: what the header says besides. tracker: what it
    is tracked with, else the model's.
    """
    if run.is_first:
        path, num_pairs = run.folder / LAST_WEIGHTS, step * settings.batch
        header = {MODEL: name, FORMAT_VERSION: OUR_FORMAT_VERSION, "sightline.examples": str(num_pairs)}
        model = empty_model(name, getattr(settings, "options", None))
        model.load_state_dict(dict(weights))
        header |= about or {}
        tensors = {key: value.cpu().numpy() for key, value in weights.items()}
        if stored:
            tensors, told = stored(model)
            header |= told
        write_safetensors(path, tensors, header)
        if clips:
            scores = judged(model, clips, tracker or ZOO[name].tracker, name, str(run.device))
            epoch = step / settings.steps_per_epoch if hasattr(settings, "steps_per_epoch") else None
            journal.validation(step, scores, num_examples=num_pairs, epoch=epoch)
            keep_best(path, step, scores.overall[scores.column], scores.column)
            if isinstance(scores, SceneScores):
                journal.picture(step, scene_sheet(clips, scores), "scenes")  # type: ignore[arg-type]
    run.fabric.barrier()


def judged(
    model: nn.Module, clips: Sequence[Clip] | Sequence[Scene], tracker: TrackerConfig, name: str, device: str
) -> Validation | SceneScores:
    """The scores of a tracker's own kind of clips."""
    if isinstance(tracker, BoxTrackerConfig):
        return track_clips(model, clips, tracker, name, device)  # type: ignore[arg-type]
    return track_scenes(model, clips, tracker, name, classes_of(ZOO[name]), device)  # type: ignore[arg-type]


@torch.no_grad()
def pair_sheet(batch: Mapping[str, Tensor], maps: Maps) -> Image:
    """The first pairs of a batch and the boxes at the peaks of their maps, as `example_sheet` draws them."""
    boxes = boxes_at(maps, maps.score_map.flatten(1).argmax(dim=1)).float()
    predicted = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], dim=1)
    tensors = (batch["template"], batch["search"], batch["xywh_unit"], predicted, maps.score_map.float())
    template, search, true, drawn, score_map = (value.cpu().numpy() for value in tensors)
    return example_sheet(template, search, true, drawn, score_map)


@torch.no_grad()
def sequence_sheet(batch: Mapping[str, Tensor], predictions: Sequence[Prediction]) -> Image:
    """The first examples of a batch, each the newest template, the last search frame and the box at its peak."""
    prediction = predictions[-1]
    peak = prediction.logit_map.flatten(1).argmax(dim=1)
    boxes = prediction.box_map.flatten(2)[torch.arange(len(peak)), :, peak].float()
    template, search, true = (batch[name][:, -1].cpu().numpy() for name in ("templates", "searches", "xyxy_unit"))
    score_map = prediction.logit_map.float().sigmoid().cpu().numpy()
    return example_sheet(template, search, xyxy_to_xywh(true), xyxy_to_xywh(boxes.cpu().numpy()), score_map)


@torch.no_grad()
def window_sheet(batch: Mapping[str, Tensor], maps: WindowMaps, tracker: OneTrackMConfig, num: int = 8) -> Image:
    """The newest frames of the first windows of a batch as `objects_sheet` draws them: what the maps should say and,
    as `tracker` reads them, do."""
    newest = {name: batch[name][:num, -1].cpu().numpy() for name in ("frames", *WindowTargets._fields)}
    came_out = {name: value[:num, -1].float().cpu().numpy() for name, value in maps._asdict().items()}
    true, found = [], []
    for place in range(len(newest["frames"])):
        rows = newest["is_object"][place]
        cells, sizes, moved = (newest[name][place][rows] for name in ("cells", "sizes", "displacements"))
        scores, kinds = np.ones(len(cells)), np.zeros(len(cells), np.int64)
        true.append(peaks_at(cells, sizes, moved, tracker.grid, tracker.rules, scores, kinds).xywh_unit)
        peaks = detections({name: value[place] for name, value in came_out.items()}, (1, 1), tracker)
        found.append(peaks.xywh)  # in pixels of a frame of one pixel
    heat = [values["heat_map"].max(axis=1) for values in (newest, came_out)]
    return objects_sheet(newest["frames"], true, found, *heat)


def scene_sheet(scenes: Sequence[Scene], scores: SceneScores, num: int = 4) -> Image:
    """The middle and the last frame of the first `num` scenes: the true boxes thin and white, the tracks in their
    colours, and where their feet have been."""
    sheet = ContactSheet(2 * num)
    for scene in scenes[:num]:
        tracks = scores.tracks[scene.name]
        for index in (scene.num_frames // 2, scene.num_frames - 1):
            picture = scene.image(index).copy()
            for x, y, w, h in scene.truth.xywh[scene.truth.frame == index].round().astype(int).tolist():
                cv2.rectangle(picture, (x, y), (x + w - 1, y + h - 1), WHITE, 1)
            here = [track for track in tracks if track.frame_index == index]
            for track in here:
                path = [
                    (one.cxcywh[0], one.xyxy[3])
                    for one in tracks
                    if one.track_id == track.track_id and index - TRAIL_FRAMES <= one.frame_index <= index
                ]
                points = np.array(path).round().astype(np.int32)
                cv2.polylines(picture, [points], False, colour_of(track.track_id), 2, cv2.LINE_AA)
            sheet.add(
                picture,
                [TrackResult(index, None, track.track_id, track.xywh, track.score, "tracked") for track in here],
            )
    return sheet.draw()


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
