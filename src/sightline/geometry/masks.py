"""Which template tokens lie on the target."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.geometry.boxes import cxcywh_to_xywh

STRIDE_PX = 16  # OSTrack's template pixels per token


def template_token_mask(cxcywh_unit: ArrayLike, grid: int) -> NDArray[np.float32]:
    """1 for the template tokens inside each target's box, else 0 (OSTrack's `GT_BOX` for candidate elimination).

    cxcywh_unit: (K, 4), centre and size as fractions of the template crop's side. Returns (K, grid * grid) float32,
    row-major. The official code draws the box on the crop from int(x) up to int(x + w - 1), end excluded, shrinks
    the picture bilinearly by 16 and takes what is above zero. Such shrinking reads the two middle pixels of each
    token, 16 i + 7 and 16 i + 8, so a token counts when one of them is drawn in x and one in y.

    A box so thin that it misses every token keeps the centre token ((G - 1) // 2 twice), and a box that leaves the
    crop is cut at its edge; the official code divides by zero in the first case and wraps around in the second.
    """
    x, y, w, h = cxcywh_to_xywh(cxcywh_unit).T * (grid * STRIDE_PX)
    middle_px = np.arange(grid) * STRIDE_PX + STRIDE_PX // 2 - 1

    def covered(start: NDArray[np.float64], length: NDArray[np.float64]) -> NDArray[np.bool_]:
        first, end = np.trunc(start)[:, None], np.trunc(start + length - 1)[:, None]
        return np.asarray((first <= middle_px + 1) & (middle_px < end) & (first < end))  # (K, grid)

    mask = covered(y, h)[:, :, None] & covered(x, w)[:, None, :]  # (K, grid, grid)
    centre = (grid - 1) // 2
    mask[~mask.any(axis=(1, 2)), centre, centre] = True
    return mask.reshape(len(mask), -1).astype(np.float32)
