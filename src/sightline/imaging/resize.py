"""Whole frames for a detector: its size rules, Pillow's bilinear resize, normalisation and padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.imaging.sample import normalise

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

__all__ = ["prepared", "resized", "shortest_edge_size", "square_size"]

UNITS = 1 << 22  # Pillow's weights are whole numbers of 1 / 2^22
BLOCK = 16  # rows that share one matrix product: few enough that most of its weights are not zero


def square_size(height: int, width: int, side_px: int) -> tuple[int, int]:
    """Height and width of the largest picture of the same shape in a square, rounded down: GTR's on MOT (1560).

    Neither is less than 1.
    """
    scale = min(side_px / height, side_px / width)
    return max(1, int(height * scale)), max(1, int(width * scale))


def shortest_edge_size(height: int, width: int, short_px: int, longest_px: int) -> tuple[int, int]:
    """Height and width with the shorter side `short_px`, or less where the longer would exceed `longest_px`.

    detectron2's rule, half up; GTR's on TAO and in its demo (800, 1333). Neither is less than 1.
    """
    scale = short_px / min(height, width)
    h, w = (float(short_px), scale * width) if height < width else (scale * height, float(short_px))
    if max(h, w) > longest_px:
        scale = longest_px / max(h, w)
        h, w = h * scale, w * scale
    return max(1, int(h + 0.5)), max(1, int(w + 0.5))


def prepared(
    frame: Image, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], multiple: int
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """A frame as a detector takes it, (1, 3, H, W) float32, and `size` again, the part of it that is picture.

    frame (h, w, 3) uint8 RGB, resized to `size` (height, width), value / 255 - mean over std, then zeros to the right
    and below until H and W are multiples of `multiple`.
    """
    height, width = size
    padded = (-(-side // multiple) * multiple for side in size)
    image = np.zeros((1, 3, *padded), dtype=np.float32)
    image[0, :, :height, :width] = normalise(resized(frame, size), mean, std)
    return image, size


def resized(frame: Image, size: tuple[int, int]) -> Image:
    """(h, w, 3) uint8 to `size` (height, width): byte for byte what Pillow makes of it with `BILINEAR`.

    Where it shrinks, each pixel is a mean weighted by a triangle (OpenCV's bilinear skips pixels instead); width first,
    rounded to bytes, then height. Pillow sums whole numbers, and so do these float64 products, exactly. Pillow 13
    does the height first where that shrinks much more than the width, which a frame that keeps its shape never needs.
    No copy where the size is right.
    """
    height, width = size
    if width != frame.shape[1]:
        frame = np.asarray(cv2.transpose(_resize_rows(np.asarray(cv2.transpose(frame)), width)), dtype=np.uint8)
    return _resize_rows(frame, height) if height != frame.shape[0] else frame


def _resize_rows(rows: Image, num_out: int) -> Image:
    """Resize the first axis."""
    flat = rows.reshape(len(rows), -1)
    out = np.empty((num_out, flat.shape[1]), dtype=np.uint8)
    for start, first, weights in _bands(len(rows), num_out):
        num_in = weights.shape[1]
        out[start : start + BLOCK] = weights @ flat[first : first + num_in].astype(np.float64) + 0.5
    return out.reshape(num_out, *rows.shape[1:])


@lru_cache(maxsize=8)
def _bands(num_in: int, num_out: int) -> list[tuple[int, int, Floats]]:
    """The resize as a matrix, BLOCK rows at a time: the first row out, the first row in, and their weights."""
    step = num_in / num_out
    reach = max(step, 1.0)  # from the triangle's top to its foot
    centre = (np.arange(num_out) + 0.5) * step
    low = np.maximum((centre - reach + 0.5).astype(int), 0)
    high = np.minimum((centre + reach + 0.5).astype(int), num_in)
    bands = list[tuple[int, int, Floats]]()
    for start in range(0, num_out, BLOCK):
        out = slice(start, start + BLOCK)
        at = np.arange(low[start], high[out][-1])
        weights = np.clip(1 - np.abs((at - centre[out, None] + 0.5) / reach), 0, None)
        weights[(at < low[out, None]) | (at >= high[out, None])] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        bands.append((start, int(at[0]), np.floor(weights * UNITS + 0.5) / UNITS))
    return bands
