"""Penalty windows over a score map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hann(grid: int) -> NDArray[np.float64]:
    """(grid, grid) Hann window without zero ends: 0.5 (1 - cos(2 pi k / (grid + 1))), k = 1..grid, in x times y."""
    k = np.arange(1, grid + 1)
    line = 0.5 * (1 - np.cos(2 * np.pi * k / (grid + 1)))
    return np.outer(line, line)
