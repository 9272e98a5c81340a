"""From the maps of a network to a box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sightline.geometry.boxes import Array


def decode_centre(
    score_map: NDArray[np.floating],
    size_map: NDArray[np.floating],
    offset_map: NDArray[np.floating],
    window: NDArray[np.floating] | None = None,
) -> tuple[Array, Array]:
    """The box at the peak of the windowed score map (OSTrack Sec. 3.3, official `cal_bbox`).

    score_map (K, 1, G, G), size_map and offset_map (K, 2, G, G), window (G, G) or None. Returns (K, 4) `cxcywh_unit`
    float64 (fractions of the search region) and (K,) peak scores before the window, in [0, 1]. The first of equal
    peaks wins.
    """
    targets, grid = score_map.shape[0], score_map.shape[-1]
    response = score_map[:, 0] if window is None else score_map[:, 0] * window
    rows = np.arange(targets)
    peak = response.reshape(targets, -1).argmax(axis=1)
    cell = np.stack([peak % grid, peak // grid], axis=1)  # (K, 2) x, y
    offset = offset_map.reshape(targets, 2, -1)[rows, :, peak].astype(np.float64)
    size = size_map.reshape(targets, 2, -1)[rows, :, peak].astype(np.float64)
    score = score_map.reshape(targets, -1)[rows, peak].astype(np.float64)
    return np.concatenate([(cell + offset) / grid, size], axis=1), score
