"""What OneTrack-M minimises: a focal loss of the heat map, L1 of size and displacement where objects are.

Legend: B batch  W frames of a window  K rows of objects of a frame  C classes  G grid
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightline.errors import GeometryError
from sightline.geometry.heatmaps import FrameTargets
from sightline.models.onetrack_m import WindowMaps
from sightline.training.losses import focal_loss

HEAT_FLOOR = 1e-4  # CenterNet clamps the heat map to [1e-4, 1 - 1e-4] after the sigmoid
ENTRIES_FLOOR = 1e-4  # added to the number of entries, as in CenterNet's RegL1Loss


class WindowTargets(NamedTuple):
    """`geometry.heatmaps.FrameTargets` as tensors, each with leading axes (B, W)."""

    heat_map: Tensor
    is_counted: Tensor
    cells: Tensor
    sizes: Tensor
    displacements: Tensor
    is_object: Tensor
    has_displacement: Tensor


def stack_targets(windows: Sequence[Sequence[FrameTargets]]) -> WindowTargets:
    """B windows of W frames as tensors; all made with the same `max_objects`."""
    return WindowTargets(
        *(
            torch.from_numpy(np.stack([np.stack([getattr(frame, name) for frame in window]) for window in windows]))
            for name in WindowTargets._fields
        )
    )


@dataclass(frozen=True)
class LossWeights:
    """[A-13] Shares of the terms in the weighted average, before they are divided by their sum. Those of CenterTrack
    and FairMOT; a phase of one task has 1 for it and 0 for the others.

    Raises `GeometryError` unless they are 0 or more, and one is more.
    """

    heat: float = 1.0
    size: float = 0.1
    displacement: float = 1.0

    def __post_init__(self) -> None:
        if min(self.heat, self.size, self.displacement) < 0 or not 0 < self.sum < float("inf"):
            raise GeometryError(f"loss weights: got {self}; expected 0 or more, one of them more. Change them.")

    @property
    def sum(self) -> float:
        return self.heat + self.size + self.displacement


class HeatmapLosses(NamedTuple):
    """What a step minimises, `total`, and its terms, not yet weighed."""

    total: Tensor
    heat: Tensor
    size: Tensor
    displacement: Tensor

    def detached(self) -> dict[str, Tensor]:
        """By name, for the log."""
        return {name: value.detach() for name, value in self._asdict().items()}


def heatmap_losses(
    maps: WindowMaps, targets: WindowTargets, weights: LossWeights | None = None, *, reach: int = 0
) -> HeatmapLosses:
    """Losses of all frames of all windows of a batch together, computed in float32.

    A term of weight 0 is computed, for the log, and gives no gradient. reach: so many cells around an object's learn
    its sides too; with sizes, none.
    """
    weights = weights or LossWeights()
    heat = focal_loss(maps.heat_map.float().clamp(HEAT_FLOOR, 1 - HEAT_FLOOR), targets.heat_map, targets.is_counted)
    size = masked_l1(
        maps.size_map, *around(targets, reach if targets.sizes.shape[-1] == 4 else 0, maps.size_map.shape[-1])
    )
    displacement = masked_l1(
        maps.displacement_map, targets.cells, targets.displacements, targets.is_object & targets.has_displacement
    )
    shares = ((weights.heat, heat), (weights.size, size), (weights.displacement, displacement))
    total = sum((share * term for share, term in shares if share), heat.new_zeros(())) / weights.sum
    return HeatmapLosses(total, heat, size, displacement)


def around(targets: WindowTargets, reach: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (B, W, K n), sizes or sides (B, W, K n, D) as told from there, and which count, of the n = (2 reach + 1)^2
    cells around each object's cell; beyond the map none counts."""
    if reach == 0:
        return targets.cells, targets.sizes, targets.is_object
    steps = torch.arange(-reach, reach + 1, device=targets.cells.device)
    down, right = (step.flatten() for step in torch.meshgrid(steps, steps, indexing="ij"))  # (n,)
    row, column = targets.cells[..., None] // grid + down, targets.cells[..., None] % grid + right  # (B, W, K, n)
    is_inside = (row >= 0) & (row < grid) & (column >= 0) & (column < grid)
    sides = targets.sizes[..., None, :] + torch.stack([right, down, -right, -down], dim=1)  # (B, W, K, n, 4)
    cells = torch.where(is_inside, row * grid + column, 0)
    return cells.flatten(2), sides.flatten(2, 3), (is_inside & targets.is_object[..., None]).flatten(2)


def masked_l1(value_map: Tensor, cells: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error at the objects' cells, over the number of numbers compared; 0 without any.

    value_map: (B, W, D, G, G). cells: (B, W, K) row-major. true: (B, W, K, D). mask: (B, W, K) rows that count.
    """
    index = cells.unsqueeze(2).expand(-1, -1, value_map.shape[2], -1)
    predicted = value_map.float().flatten(3).gather(3, index).transpose(2, 3)  # (B, W, K, D)
    counts = mask.unsqueeze(3).expand_as(true)
    return ((predicted - true).abs() * counts).sum() / (counts.sum() + ENTRIES_FLOOR)
