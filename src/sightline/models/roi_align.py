"""RoIAlign: "Mask R-CNN", arXiv 1703.06870, Sec. 3, in its aligned form (detectron2's RoIAlignV2).

A box is cut into P x P bins. A bin takes ceil(height / P) x ceil(width / P) samples, evenly spread, heights and widths
in cells; each is read bilinearly, and the bin's value is their mean. A sample further than one cell from the centre of
the border cells is 0; a nearer one outside the map takes the border's value.

Samples are the product of rows and columns, so their weights are too: a bin is the sum over cells of
weight_y(row) weight_x(column) feature(row, column). Both weights have a closed form, and the sum over the cells that a
bin touches is one `embedding_bag`: no loop over boxes, and the cost is that of the cells under the boxes.

Legend: B images  C channels  H, W map  N boxes  P bins per side
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align(
    features: Tensor, boxes: Tensor, output_size: int, scale: float, image_index: Tensor | None = None
) -> Tensor:
    """The features under each box, (N, C, P, P), differentiable in the features alone.

    features (B, C, H, W). boxes (N, 4) `xyxy` in pixels; `scale` is cells per pixel (1 / stride), P is `output_size`.
    image_index (N,) int64: which of the B maps a box is read from; None: the first. A box without area, or with a
    number that is not finite, gives zeros.
    """
    if torch.onnx.is_in_onnx_export():
        return onnx_roi_align(features, boxes, output_size, scale, image_index)
    num_images, channels, height, width = features.shape
    boxes = torch.where(boxes.isfinite().all(dim=1, keepdim=True), boxes, 0) * scale - 0.5
    x1, y1, x2, y2 = boxes.detach().unbind(1)
    weight_y = bin_weights(y1, y2, height, output_size)  # (N, P, H)
    weight_x = bin_weights(x1, x2, width, output_size)  # (N, P, W)

    # The cells that a bin touches are a rectangle: rows from `row`, `num_rows` of them, and so the columns.
    (row, num_rows), (column, num_columns) = touched(weight_y), touched(weight_x)  # (N, P) each
    num_cells = (num_rows[:, :, None] * num_columns[:, None, :]).flatten()  # (N P P)
    offsets = num_cells.cumsum(0) - num_cells
    bins = torch.repeat_interleave(num_cells)  # the bin of every cell, all bins in a row: K cells
    cell = torch.arange(len(bins), device=bins.device) - offsets[bins]
    box, i, j = bins // output_size**2, bins // output_size % output_size, bins % output_size
    rows = row[box, i] + cell // num_columns[box, j]
    columns = column[box, j] + cell % num_columns[box, j]
    weights = (weight_y[box, i, rows] * weight_x[box, j, columns]).to(features.dtype)
    cells = rows * width + columns
    if image_index is not None:
        cells = cells + image_index[box] * (height * width)
    table = features.permute(0, 2, 3, 1).reshape(num_images * height * width, channels)
    pooled = F.embedding_bag(cells, table, offsets, mode="sum", per_sample_weights=weights)  # (N P P, C)
    return pooled.unflatten(0, (len(boxes), output_size, output_size)).permute(0, 3, 1, 2)


def bin_weights(low: Tensor, high: Tensor, size: int, num_bins: int) -> Tensor:
    """How much each of `size` cells counts in each bin of an interval, (N, P, size) float64; a bin inside adds up to 1.

    low, high: (N,) ends of the interval, in cells from the centre of the first. For every bin, samples lie at
    start + (k + 1/2) step, k < num_samples. Between two cells h and h + 1 a sample y gives h the share h + 1 - y, so
    the weight of all cells up to h is the number of samples up to h, plus the sum of h + 1 - y over those between h and
    h + 1, an arithmetic series; a cell's weight is the difference of two of these.
    """
    extent = high - low
    num_samples = (extent / num_bins).ceil().clamp(min=0).double()[:, None, None]  # rounded up in the boxes' own type
    extent, low = extent.double()[:, None, None], low.double()[:, None, None]
    step = torch.where(num_samples > 0, extent / (num_bins * num_samples.clamp(min=1)), 1)
    start = low + extent / num_bins * torch.arange(num_bins, device=low.device)[:, None]  # (N, P, 1)
    cells = torch.arange(size, device=low.device)

    # The samples from `first` to before `end` lie at -1 or later and at `size` or before; the others are 0.
    first = ((-1 - start) / step - 0.5).ceil().clamp(min=0).minimum(num_samples)
    end = ((size - start) / step + 0.5).floor().maximum(first).minimum(num_samples)
    up_to = ((cells - start) / step + 0.5).floor().maximum(first).minimum(end)  # (N, P, size), past the last up to h
    here, after = up_to[..., :-1], up_to[..., 1:]
    between = (after - here) * (cells[1:] - start) - step * (after**2 - here**2) / 2
    total = torch.cat([torch.zeros_like(start), here - first + between, end - first], dim=-1)  # (N, P, size + 1)
    return total.diff(dim=-1) / num_samples.clamp(min=1)


def touched(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The first cell with a weight in each bin and how many there are, which lie side by side; (N, P) int64 each."""
    nonzero = weights != 0
    return nonzero.int().argmax(dim=-1), nonzero.sum(dim=-1)


def onnx_roi_align(
    features: Tensor, boxes: Tensor, output_size: int, scale: float, image_index: Tensor | None
) -> Tensor:
    """The same as one ONNX operator, for tracing alone."""
    if image_index is None:
        image_index = torch.zeros(boxes.shape[0], dtype=torch.int64)
    return torch.onnx.ops.symbolic(
        "RoiAlign",
        (features, boxes, image_index),
        {
            "coordinate_transformation_mode": "half_pixel",
            "output_height": output_size,
            "output_width": output_size,
            "sampling_ratio": 0,  # ceil(bin size)
            "spatial_scale": scale,
        },
        dtype=features.dtype,
        shape=(boxes.shape[0], features.shape[1], output_size, output_size),
        version=16,
    )
