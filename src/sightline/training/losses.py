"""Losses of the template trackers, as in the official code; each is a plain function of tensors.

B batch  G grid
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.models.blocks import Maps


def focal_loss(score_map: Tensor, heat_map: Tensor) -> Tensor:
    """Penalty-reduced focal loss (CornerNet Eq. 1, alpha 2, beta 4), over the number of positives of the whole batch.

    score_map, heat_map (B, 1, G, G) or (B, G, G) in [0, 1]; positives are heat_map == 1. Without any positive the
    negative sum is returned undivided.
    """
    positive = heat_map.eq(1)
    return _focal(score_map, heat_map, positive, ~positive)


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
