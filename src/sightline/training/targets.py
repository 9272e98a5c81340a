"""Heat maps that the score maps learn.

B batch  G grid
"""

from __future__ import annotations

import torch
from torch import Tensor


def corner_radius(size_cells: Tensor, min_overlap: float = 0.7) -> Tensor:
    """CornerNet's Gaussian radius as released: three roots with the 2a of the quadratic formula replaced by 2.

    size_cells (B, 2) width and height in cells -> (B,) cells, not yet rounded.
    """
    w, h = size_cells.unbind(1)
    terms = (
        (h + w, w * h * (1 - min_overlap) / (1 + min_overlap), 1.0),
        (2 * (h + w), (1 - min_overlap) * w * h, 4.0),
        (-2 * min_overlap * (h + w), (min_overlap - 1) * w * h, 4 * min_overlap),
    )
    roots = [(b + (b**2 - 4 * a * c).sqrt()) / 2 for b, c, a in terms]
    return torch.stack(roots).amin(dim=0)


def official_heat_map(xywh_unit: Tensor, grid: int) -> Tensor:
    """OSTrack's and MVT's target: (B, 4) boxes as fractions of the crop -> (B, G, G) float32, peak 1.

    Peak at the centre rounded half to even, sigma (2 r + 1) / 6 with r of `corner_radius` cut to whole cells; zero
    outside of r cells. Of a centre outside the grid (an index of `grid` is reached by rounding) the flank is left.
    """
    box = xywh_unit * grid
    centre = (box[:, :2] + box[:, 2:] / 2).round()
    radius = corner_radius(box[:, 2:]).clamp(min=0).floor()
    away = _from_centre(centre, grid)
    near = (away.abs() <= radius[:, None, None]).float()
    sigma = ((2 * radius + 1) / 6)[:, None].expand(-1, 2)
    return _gaussian(away, sigma) * near[:, 1, :, None] * near[:, 0, None, :]


def centred_heat_map(xywh_unit: Tensor, grid: int) -> Tensor:
    """sightline-nano's target: peak at the cell of the centre, sigma a sixth of each side, at least half a cell.

    The cell of the peak is the one whose offset is learnt (`peak_cells`), which the official rounding does not ensure.
    A centre outside the grid leaves the map empty.
    """
    centre = _centre_cell(xywh_unit, grid)
    heat = _gaussian(_from_centre(centre, grid), (xywh_unit[:, 2:] * grid / 6).clamp(min=0.5))
    outside = ((centre < 0) | (centre >= grid)).any(dim=1)
    return torch.where(outside[:, None, None], 0.0, heat)


def peak_cells(xywh_unit: Tensor, grid: int) -> Tensor:
    """(B,) int64 row-major index of the cell that holds each box's centre, kept inside the grid."""
    cell = _centre_cell(xywh_unit, grid).clamp(0, grid - 1).long()
    return cell[:, 1] * grid + cell[:, 0]


def _centre_cell(xywh_unit: Tensor, grid: int) -> Tensor:
    """(B, 2) column and row of the cell that holds each centre; one formula, so that rounding cannot part its users."""
    return ((xywh_unit[:, :2] + xywh_unit[:, 2:] / 2) * grid).floor()


def _from_centre(centre: Tensor, grid: int) -> Tensor:
    """(B, 2, G) distance in cells of each column and row from a cell (B, 2)."""
    return torch.arange(grid, device=centre.device)[None, None] - centre[:, :, None]


def _gaussian(away: Tensor, sigma: Tensor) -> Tensor:
    """(B, G, G) product of two Gaussians, values below float32's eps cut to 0; away (B, 2, G), sigma (B, 2), cells."""
    one_axis = torch.exp(-(away**2) / (2 * sigma[:, :, None] ** 2))
    heat = one_axis[:, 1, :, None] * one_axis[:, 0, None, :]
    return torch.where(heat < torch.finfo(torch.float32).eps, 0.0, heat)
