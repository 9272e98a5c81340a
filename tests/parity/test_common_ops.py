"""Windows, crops, boxes and losses against the official code, and for each stored number a change that makes it fail.

Crops are those of OpenCV's uint8 bilinear resize and must be equal level by level.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.geometry.boxes import Box, clip_xywh, cxcywh_to_xywh, iou, xywh_to_xyxy, xyxy_to_xywh
from sightline.geometry.crops import CropRegion, exact_region, official_training_box, snapped_region
from sightline.geometry.windows import hann
from sightline.imaging.sample import crop_exact, crop_snapped
from sightline.training import targets
from sightline.training.losses import box_losses, corners, focal_loss, focal_loss_mvt, generalised_iou
from sightline.training.targets import corner_radius, official_heat_map
from tests.parity.fill import synthetic_video, unit

pytestmark = pytest.mark.torch

DATA = Path(__file__).parent / "data"
STORED = dict(np.load(DATA / "ostrack" / "common_ops.npz"))
MVT = {name: array for name, array in np.load(DATA / "mvt" / "mvt.npz").items() if name.startswith("loss_")}
ELSEWHERE = ("keep_rate_", "template_mask_", "pos_embed_resized_")  # the tests of the schedule and of the network

FACTORS = {128: 2.0, 256: 4.0, 192: 2.0, 384: 5.0}  # crop side: multiple of sqrt(wh)
CROPS = [(box, side) for box in range(len(STORED["crop_boxes_xywh"])) for side in FACTORS]
PADDED_BOX = (110.0, 95.0, 50.0, 40.0)

EXACT = {"atol": 0.0}
FLOAT32 = {"atol": 1e-6, "rtol": 1e-6}  # stored in float32
LOSSES = {"atol": 0.0, "rtol": 1e-5}


def same(ours, stored, *, atol: float, rtol: float = 0.0) -> bool:
    ours, stored = np.asarray(ours), np.asarray(stored)
    return ours.shape == stored.shape and np.allclose(ours, stored, atol=atol, rtol=rtol)


def test_nothing_stored_is_left_out() -> None:
    crop = r"crop\d_\d+_(resize_factor|sum|att_sum|image_stride\d|att_stride\d|box_of_110_95_50_40)"
    loss = r"loss(16|24)_(heatmap|gt_xywh|pred_cxcywh|values_giou_l1_focal_total|iou)"
    here = rf"{crop}|{loss}|hann(16|24)|crop_boxes_xywh|clip_box_in|clip_box_out_\w+|video_frame\w+"
    assert [name for name in STORED if not (re.fullmatch(here, name) or name.startswith(ELSEWHERE))] == []
    assert MVT.keys() == {"loss_gt_xywh", "loss_heatmap", "loss_focal_mvt"}


# Windows


@pytest.mark.parametrize("grid", [16, 24])
def test_hann(grid: int, compare) -> None:
    stored = STORED[f"hann{grid}"][0, 0]
    compare(hann(grid), stored, **FLOAT32, what=f"hann{grid}")
    assert not same(np.outer(np.hanning(grid), np.hanning(grid)), stored, **FLOAT32)  # zero ends


# The frame and its crops


@cache
def frame() -> np.ndarray:
    return synthetic_video()[0]


def crop_box(index: int) -> Box:
    x, y, w, h = (float(value) for value in STORED["crop_boxes_xywh"][index])
    return x, y, w, h


def region(index: int, side: int) -> CropRegion:
    return snapped_region(crop_box(index), FACTORS[side], side)


def stored_crop(index: int, side: int, what: str) -> tuple[np.ndarray, int]:
    """A thinned array and its stride."""
    name = next(name for name in STORED if name.startswith(f"crop{index}_{side}_{what}_stride"))
    return STORED[name], int(name.rsplit("stride", 1)[1])


def agreeing_crops(crop) -> list[tuple[int, int]]:
    """The crops whose strided pixels and channel sums a function of (box index, side) reproduces."""

    def agrees(index: int, side: int) -> bool:
        ours, (stored, stride) = crop(index, side), stored_crop(index, side, "image")
        sums, stored_sums = ours.sum(axis=(0, 1), dtype=np.int64), STORED[f"crop{index}_{side}_sum"]
        return same(ours[::stride, ::stride], stored, **EXACT) and same(sums, stored_sums, **EXACT)

    return [(index, side) for index, side in CROPS if agrees(index, side)]


def padding_mask(place: CropRegion, height: int, width: int) -> np.ndarray:
    """(out_px, out_px) bool: crop pixels that a bilinear resize makes with any padding, by the geometry alone."""

    def touched(start: float, length: int) -> np.ndarray:
        side = int(place.side_px)
        index = np.arange(side) + int(start)
        is_padding = (index < 0) | (index > length - 1)
        if start + side >= length:
            is_padding |= index == length - 1  # quirk: padding counts from the last index
        centre = np.clip((np.arange(place.out_px) + 0.5) / place.scale - 0.5, 0, side - 1)
        below = np.floor(centre).astype(int)
        above = np.minimum(below + (centre > below), side - 1)
        return is_padding[below] | is_padding[above]

    return touched(place.y1, height)[:, None] | touched(place.x1, width)[None]


def test_synthetic_frame_is_the_stored_one(compare) -> None:
    compare(frame()[::4, ::4], STORED["video_frame0_stride4"], **EXACT, what="video_frame0_stride4")
    assert not same(frame()[::4, ::4, ::-1], STORED["video_frame0_stride4"], **EXACT)


@pytest.mark.parametrize(("index", "side"), CROPS)
def test_crop(index: int, side: int, compare) -> None:
    place, prefix = region(index, side), f"crop{index}_{side}"
    crop = crop_snapped(frame(), place)
    stored, stride = stored_crop(index, side, "image")
    compare(place.scale, STORED[f"{prefix}_resize_factor"], atol=1e-12, what=f"{prefix}_resize_factor")
    compare(crop[::stride, ::stride], stored, **EXACT, what=f"{prefix}_image")
    compare(crop.sum(axis=(0, 1), dtype=np.int64), STORED[f"{prefix}_sum"], **EXACT, what=f"{prefix}_sum")

    mask = padding_mask(place, *frame().shape[:2])
    stored, stride = stored_crop(index, side, "att")
    compare(mask[::stride, ::stride], stored, **EXACT, what=f"{prefix}_att")
    compare(mask.sum(), STORED[f"{prefix}_att_sum"], **EXACT, what=f"{prefix}_att_sum")
    white = crop_snapped(np.full_like(frame(), 255), place)
    assert (white[~mask] == 255).all()
    assert (white[mask] < 255).all()  # what the geometry calls padding is what the crop made black, or mixed with it


@pytest.mark.parametrize(("index", "side"), CROPS)
def test_training_box(index: int, side: int, compare) -> None:
    stored = STORED[f"crop{index}_{side}_box_of_110_95_50_40"]
    place = region(index, side)
    compare(official_training_box(PADDED_BOX, crop_box(index), place), stored, **FLOAT32, what=f"box in crop{index}")
    assert not same(place.to_crop(PADDED_BOX) / side, stored, **FLOAT32)  # the mapping of tracking


def test_crops_fail_without_their_rules() -> None:
    def rounded_half_up(index: int, side: int) -> np.ndarray:
        (x, y, w, h), place = crop_box(index), region(index, side)
        x1, y1 = (np.floor(start + 0.5 * size - 0.5 * place.side_px + 0.5) for start, size in ((x, w), (y, h)))
        return crop_snapped(frame(), CropRegion(x1, y1, place.side_px, side))

    def side_cut(index: int, side: int) -> np.ndarray:
        x, y, w, h = crop_box(index)
        length = np.floor(np.sqrt(w * h) * FACTORS[side])
        x1, y1 = round(x + 0.5 * w - 0.5 * length), round(y + 0.5 * h - 0.5 * length)
        return crop_snapped(frame(), CropRegion(x1, y1, length, side))

    def without_the_lost_line(index: int, side: int) -> np.ndarray:
        wider = np.pad(frame(), ((0, 1), (0, 1), (0, 0)))  # the last true row and column are now seen
        return crop_snapped(wider, region(index, side))

    def sub_pixel(index: int, side: int) -> np.ndarray:
        return crop_exact(frame(), exact_region(crop_box(index), FACTORS[side], side), (0, 0, 0))

    assert agreeing_crops(lambda index, side: crop_snapped(frame(), region(index, side))) == CROPS
    assert agreeing_crops(rounded_half_up) != CROPS
    assert agreeing_crops(side_cut) != CROPS
    assert agreeing_crops(without_the_lost_line) != CROPS
    assert agreeing_crops(sub_pixel) == []
    assert agreeing_crops(lambda index, side: crop_snapped(frame(), region(index, side))[..., ::-1]) == []


def test_padding_mask_fails_without_the_lost_line() -> None:
    sums = {f"crop{index}_{side}_att_sum": padding_mask(region(index, side), 241, 321).sum() for index, side in CROPS}
    assert any(value != STORED[name] for name, value in sums.items())


def test_clip_box(compare) -> None:
    given, stored = STORED["clip_box_in"], STORED["clip_box_out_H240_W320_margin10"]
    boxes = [(float(x), float(y), float(w), float(h)) for x, y, w, h in given]
    compare([clip_xywh(box, 240, 320) for box in boxes], stored, atol=1e-12, what="clip_box")
    for height, width, margin_px in ((320, 240, 10), (240, 320, 0), (240, 320, 11)):
        assert not same([clip_xywh(box, height, width, margin_px) for box in boxes], stored, atol=1e-12)


# Heat maps and losses


def scores(grid: int) -> Tensor:
    noise = torch.from_numpy(unit(f"loss_pred_score_{grid}", (4, 1, grid, grid))).float()
    return torch.sigmoid(2 * noise).clamp(1e-4, 1 - 1e-4)


def loss_values(grid: int) -> np.ndarray:
    """(4,) GIoU, L1, focal and total by our functions."""
    true = torch.from_numpy(STORED[f"loss{grid}_gt_xywh"])
    predicted = torch.from_numpy(STORED[f"loss{grid}_pred_cxcywh"])
    giou, l1 = box_losses(predicted, true)
    focal = focal_loss(scores(grid)[:, 0], official_heat_map(true, grid))
    return torch.stack([giou, l1, focal, 2 * giou + 5 * l1 + focal]).double().numpy()


@pytest.mark.parametrize("grid", [16, 24])
def test_heat_map(grid: int, compare) -> None:
    true = torch.from_numpy(STORED[f"loss{grid}_gt_xywh"])
    stored = STORED[f"loss{grid}_heatmap"][:, 0]
    compare(official_heat_map(true, grid), stored, **FLOAT32, what=f"loss{grid}_heatmap")

    def with_2a(size_cells: Tensor) -> Tensor:  # the quadratic formula as it should be
        w, h = size_cells.unbind(1)
        terms = ((h + w, w * h * 0.3 / 1.7, 1), (2 * (h + w), 0.3 * w * h, 4), (-1.4 * (h + w), -0.3 * w * h, 2.8))
        return torch.stack([(b + (b**2 - 4 * a * c).sqrt()) / (2 * a) for b, c, a in terms]).amin(dim=0)

    for radius in (with_2a, lambda size_cells: corner_radius(size_cells, 0.6)):
        with mock.patch.object(targets, "corner_radius", radius):
            assert not same(official_heat_map(true, grid), stored, **FLOAT32)
    with mock.patch.object(torch.Tensor, "round", torch.Tensor.floor):
        assert not same(official_heat_map(true, grid), stored, **FLOAT32)
    assert not same(targets.centred_heat_map(true, grid), stored, **FLOAT32)


@pytest.mark.parametrize("grid", [16, 24])
def test_losses(grid: int, compare) -> None:
    compare(loss_values(grid), STORED[f"loss{grid}_values_giou_l1_focal_total"], **LOSSES, what=f"losses of {grid}")


@pytest.mark.parametrize("grid", [16, 24])
def test_overlap_of_the_loss_boxes(grid: int, compare) -> None:
    predicted = cxcywh_to_xywh(STORED[f"loss{grid}_pred_cxcywh"])
    true = xywh_to_xyxy(STORED[f"loss{grid}_gt_xywh"])
    stored = STORED[f"loss{grid}_iou"]
    compare(iou(predicted, xyxy_to_xywh(true.clip(0, 1))), stored, **FLOAT32, what=f"loss{grid}_iou")
    assert not same(iou(predicted, xyxy_to_xywh(true)), stored, **FLOAT32)  # true boxes not cut to the crop


def weighed(score: Tensor, heat: Tensor, *, alpha: int = 2, beta: int = 4, level: float = 1.0) -> Tensor:
    """The focal loss with its constants to choose."""
    positive = heat >= level
    attracted = ((1 - score) ** alpha * score.log())[positive].sum()
    repelled = ((1 - heat) ** beta * score**alpha * (1 - score).log())[~positive].sum()
    return -(attracted + repelled) / positive.sum()


@pytest.mark.parametrize("grid", [16, 24])
def test_losses_fail_with_other_constants(grid: int) -> None:
    giou, l1, focal, total = STORED[f"loss{grid}_values_giou_l1_focal_total"]
    predicted = torch.from_numpy(STORED[f"loss{grid}_pred_cxcywh"])
    true = torch.from_numpy(STORED[f"loss{grid}_gt_xywh"])
    score, heat = scores(grid)[:, 0], official_heat_map(true, grid)

    assert same(weighed(score, heat), focal, **LOSSES)
    assert not same(weighed(score, heat, alpha=3), focal, **LOSSES)
    assert not same(weighed(score, heat, beta=3), focal, **LOSSES)
    assert not same(weighed(score, heat, level=0.1), focal, **LOSSES)
    assert not same(focal_loss(score, heat) * 4 / heat.numel(), focal, **LOSSES)  # the mean over cells
    assert not same(focal_loss_mvt(score, heat), focal, **LOSSES)

    true_xyxy = torch.cat([true[:, :2], true[:, :2] + true[:, 2:]], dim=1)
    true_cxcywh = torch.cat([true[:, :2] + true[:, 2:] / 2, true[:, 2:]], dim=1)
    assert not same((predicted - true_cxcywh).abs().mean(), l1, **LOSSES)
    assert not same((corners(predicted) - true_xyxy).abs().mean(), l1, **LOSSES)  # not cut to the crop
    assert not same((1 - generalised_iou(corners(predicted), true_xyxy)).mean(), giou, **LOSSES)
    assert not same((1 - torch.from_numpy(STORED[f"loss{grid}_iou"])).mean(), giou, **LOSSES)  # plain IoU
    assert not same(5 * giou + 2 * l1 + focal, total, **LOSSES)


def test_losses_of_mvt(compare) -> None:
    true = torch.from_numpy(MVT["loss_gt_xywh"])
    heat = official_heat_map(true, 16)
    compare(heat, MVT["loss_heatmap"][:, 0], **FLOAT32, what="loss_heatmap")
    compare(focal_loss_mvt(scores(16)[:, 0], heat), MVT["loss_focal_mvt"], **LOSSES, what="loss_focal_mvt")

    for level in (0.05, 0.5, 1.0):
        assert not same(weighed(scores(16)[:, 0], heat, level=level), MVT["loss_focal_mvt"], **LOSSES)
    assert not same(focal_loss(scores(16)[:, 0], heat), MVT["loss_focal_mvt"], **LOSSES)
    assert not same(targets.centred_heat_map(true, 16), MVT["loss_heatmap"][:, 0], **FLOAT32)


def test_a_value_of_exactly_a_tenth_is_no_example_for_mvt() -> None:
    heat = torch.tensor([[[1.0, 0.1], [0.0, 0.0]]])
    quiet, loud = (torch.tensor([[[0.5, score], [0.1, 0.1]]]) for score in (0.1, 0.9))
    assert focal_loss_mvt(quiet, heat) == focal_loss_mvt(loud, heat)
    assert focal_loss(quiet, heat) != focal_loss(loud, heat)
