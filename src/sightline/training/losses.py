"""Losses of the template trackers, as in the official code; each is a plain function of tensors.

B batch  G grid
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sightline.models.blocks import Maps
from sightline.training.targets import official_heat_map


def focal_loss(score_map: Tensor, heat_map: Tensor, is_counted: Tensor | None = None) -> Tensor:
    """Penalty-reduced focal loss (CornerNet Eq. 1, alpha 2, beta 4), over the number of positives of the whole batch.

    score_map, heat_map (B, 1, G, G) or (B, G, G) in [0, 1]; positives are heat_map == 1. is_counted: alike, False where
    a cell that is not positive costs nothing. Without any positive the negative sum is returned undivided.
    """
    positive = heat_map.eq(1)
    return _focal(score_map, heat_map, positive, ~positive if is_counted is None else ~positive & is_counted)


def focal_loss_mvt(score_map: Tensor, heat_map: Tensor) -> Tensor:
    """MVT's variant as released: every cell above 0.1 is a full positive, below 0.1 a negative, exactly 0.1 neither."""
    return _focal(score_map, heat_map, heat_map > 0.1, heat_map < 0.1)


def _focal(score_map: Tensor, heat_map: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    score = score_map.clamp(min=1e-12)
    attracted = torch.log(score) * (1 - score) ** 2 * positive
    repelled = torch.log((1 - score).clamp(min=1e-12)) * score**2 * (1 - heat_map) ** 4 * negative
    return -(attracted.sum() + repelled.sum()) / positive.sum().clamp(min=1)


def generalised_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al. 2019, Algorithm 1), row by row: (B, 4), (B, 4) -> (B,) in [-1, 1]."""

    def area(corners: Tensor) -> Tensor:
        size = (corners[:, 2:] - corners[:, :2]).clamp(min=0)
        return size[:, 0] * size[:, 1]

    inner = torch.cat([torch.maximum(a_xyxy[:, :2], b_xyxy[:, :2]), torch.minimum(a_xyxy[:, 2:], b_xyxy[:, 2:])], 1)
    outer = torch.cat([torch.minimum(a_xyxy[:, :2], b_xyxy[:, :2]), torch.maximum(a_xyxy[:, 2:], b_xyxy[:, 2:])], 1)
    intersection = area(inner)
    union = area(a_xyxy) + area(b_xyxy) - intersection
    hull = area(outer)
    return intersection / union - (hull - union) / hull


def boxes_at(maps: Maps, cell: Tensor) -> Tensor:
    """The boxes that the maps hold at one cell each: (B, 4) `cxcywh_unit`; `cell` (B,) int64, row-major."""
    grid = maps.score_map.shape[-1]
    index = cell[:, None, None].expand(-1, 2, 1)
    size = maps.size_map.flatten(2).gather(2, index).squeeze(2)
    offset = maps.offset_map.flatten(2).gather(2, index).squeeze(2)
    column_row = torch.stack([cell % grid, cell // grid], dim=1)
    return torch.cat([(column_row + offset) / grid, size], dim=1)


def corners(cxcywh: Tensor) -> Tensor:
    """(B, 4) centre and size to corners."""
    return torch.cat([cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2], dim=1)


def box_losses(predicted_cxcywh_unit: Tensor, true_xywh_unit: Tensor) -> tuple[Tensor, Tensor]:
    """(GIoU loss, L1 loss) as in OSTrack's actor: both on corners, the true ones clamped to [0, 1]; means over B rows.

    Zero for no rows, where a mean would be nan: a batch may hold no pair that shows its target.
    """
    predicted = corners(predicted_cxcywh_unit)
    true = torch.cat([true_xywh_unit[:, :2], true_xywh_unit[:, :2] + true_xywh_unit[:, 2:]], dim=1).clamp(0, 1)
    rows = max(len(predicted), 1)
    return (1 - generalised_iou(predicted, true)).sum() / rows, (predicted - true).abs().sum() / (4 * rows)


class Losses(NamedTuple):
    """What a step minimises, `total`, and its terms."""

    total: Tensor
    focal: Tensor
    l1: Tensor
    giou: Tensor

    def detached(self) -> dict[str, Tensor]:
        """By name, for the log."""
        return {name: value.detach() for name, value in self._asdict().items()}


def template_losses(
    maps: Maps, true_xywh_unit: Tensor, focal: Callable[[Tensor, Tensor], Tensor] = focal_loss
) -> Losses:
    """focal + 5 L1 + 2 GIoU as OSTrack and MVT are trained: the box is the one at the highest score, window apart.

    true_xywh_unit (B, 4) as fractions of the search crop. Only size and offset at that cell learn from the box.
    """
    maps = Maps(*(value.float() for value in maps))
    heat_map = official_heat_map(true_xywh_unit, maps.score_map.shape[-1])
    score = focal(maps.score_map[:, 0], heat_map)
    giou, l1 = box_losses(boxes_at(maps, maps.score_map.flatten(1).argmax(dim=1)), true_xywh_unit)
    return Losses(score + 5 * l1 + 2 * giou, score, l1, giou)


def as_input(crops: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, S, S, 3) uint8 RGB crops to (B, 3, S, S) as a network takes them; mean and std as fractions of 255.

    Channels last in memory, as the crops are.
    """
    shift, scale = (torch.tensor(values, device=crops.device) * 255 for values in (mean, std))
    return ((crops - shift) / scale).permute(0, 3, 1, 2)


RASTER_END = 0.9999  # SPMTrack's: the last cell counts from a ten thousandth of it on


def touched_cells(xyxy_unit: Tensor, grid: int) -> Tensor:
    """SPMTrack's positives: (B, 4) boxes as fractions of the search crop -> (B, G, G) bool, the cells they overlap."""
    cells = torch.arange(grid, device=xyxy_unit.device)
    first = (xyxy_unit[:, :2] * grid).floor()[:, :, None]  # (B, 2, 1)
    end = (xyxy_unit[:, 2:] * grid + RASTER_END).floor()[:, :, None]
    inside = (cells >= first) & (cells < end)  # (B, 2, G)
    return inside[:, 1, :, None] & inside[:, 0, None, :]


class SideLosses(NamedTuple):
    """What SPMTrack minimises for one search frame, `total`, and its terms."""

    total: Tensor
    score: Tensor
    giou: Tensor

    def detached(self) -> dict[str, Tensor]:
        """By name, for the log."""
        return {name: value.detach() for name, value in self._asdict().items()}


def side_losses(
    logit_map: Tensor,
    box_map: Tensor,
    true_xyxy_unit: Tensor,
    *,
    num_positive: Tensor | None = None,
    giou_weight: float = 1.0,
) -> SideLosses:
    """SPMTrack's cross entropy towards the IoU of each positive cell's box, plus GIoU of those boxes.

    logit_map (B, 1, G, G), box_map (B, 4, G, G) `xyxy` and true_xyxy_unit (B, 4) as fractions of the search crop.
    Positives are the `touched_cells`; every other cell's target is 0, and the IoU of a target gives no gradient.
    num_positive: what both sums are divided by, at least 1; by default the positives of this batch. A step of several
    processes passes their mean. giou_weight: 10 in L's first two epochs.
    """
    logits, boxes = logit_map[:, 0].float(), box_map.permute(0, 2, 3, 1).float()  # (B, G, G), (B, G, G, 4)
    positive = touched_cells(true_xyxy_unit, logits.shape[-1])
    predicted = boxes[positive]  # (positives, 4)
    true = true_xyxy_unit[:, None, None].expand_as(boxes)[positive]
    target = torch.zeros_like(logits)
    target[positive] = plain_iou(predicted.detach(), true)
    count = (positive.sum() if num_positive is None else num_positive).clamp(min=1)
    score = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / count
    giou = (1 - generalised_iou(predicted, true)).sum() / count
    return SideLosses(score + giou_weight * giou, score, giou)


def plain_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU row by row of boxes with an area: (B, 4), (B, 4) -> (B,) in [0, 1]."""
    inner = torch.minimum(a_xyxy[:, 2:], b_xyxy[:, 2:]) - torch.maximum(a_xyxy[:, :2], b_xyxy[:, :2])
    intersection = inner.clamp(min=0).prod(dim=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(dim=1) for box in (a_xyxy, b_xyxy)]
    return intersection / (areas[0] + areas[1] - intersection)
