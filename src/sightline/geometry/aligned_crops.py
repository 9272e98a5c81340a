"""SPMTrack's crops: a rectangle of whole frame pixels resampled to one of whole crop pixels.

Compared with WenRuiCai/SPMTrack at commit c581fe27231f3e16c38578e47daddadfaf6ffd7d. The rounding changes scale and
shift a little, and differently in x and y; boxes go through the crop that was really cut, so nothing is lost by it.
`sightline.imaging.sample` cuts the pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import GeometryError
from sightline.geometry.boxes import Array, Box, cxcywh_to_xywh, xywh_to_cxcywh

Span = tuple[int, int]

ALMOST_ONE = 0.9999  # an end that reaches less than 1e-4 into a pixel does not take it


@dataclass(frozen=True)
class AlignedCrop:
    """A square crop of `out_px`, in which `crop_x` by `crop_y` shows `frame_x` by `frame_y`, (start, end) in pixels.

    The rest of the crop lies outside the frame; all four are empty where the whole crop does. `scale` (crop pixels per
    frame pixel) and `shift` (crop pixels) are those that the rounding left, in x and y: crop = frame * scale + shift.
    """

    frame_x: Span
    frame_y: Span
    crop_x: Span
    crop_y: Span
    scale: tuple[float, float]
    shift: tuple[float, float]
    out_px: int

    def to_crop(self, xyxy: ArrayLike) -> Array:
        """(..., 4) corners from frame pixels to crop pixels."""
        return np.asarray(np.asarray(xyxy, dtype=np.float64) * (self.scale * 2) + self.shift * 2)

    def to_frame(self, xyxy_crop: ArrayLike) -> Array:
        """(..., 4) corners from crop pixels to frame pixels; the inverse of `to_crop`."""
        return np.asarray((np.asarray(xyxy_crop, dtype=np.float64) - self.shift * 2) / (self.scale * 2))


def siamfc_map(xywh: Box, factor: float, out_px: int) -> tuple[float, tuple[float, float]]:
    """SiamFC's context, before any rounding: scale and shift (x, y) of a crop with the box in its middle.

    It shows an area of (w + m)(h + m) frame pixels, m = (factor - 1)(w + h) / 2: for one factor it is the larger, the
    longer the box. Raises `GeometryError` for a box too small for float64.
    """
    cx, cy, w, h = xywh_to_cxcywh(xywh).tolist()
    margin = (factor - 1) * (w + h) / 2
    area = (w + margin) * (h + margin)
    if not area > 0:
        raise GeometryError(f"crop of area {area} px around xywh={xywh}: expected more than 0. Pass a larger box.")
    scale = math.sqrt(out_px**2 / area)
    return scale, (out_px / 2 - cx * scale, out_px / 2 - cy * scale)


def aligned_crop(xywh: Box, factor: float, out_px: int, height: int, width: int, min_px: float = 0.0) -> AlignedCrop:
    """The crop around a box in a frame of height x width pixels; sides below `min_px` count as that long."""
    return jittered_crop(xywh, factor, out_px, height, width, (1, 1), (0, 0), min_px)


def jittered_crop(
    xywh: Box,
    factor: float,
    out_px: int,
    height: int,
    width: int,
    stretch: Sequence[float],
    away: Sequence[float],
    min_px: float = 0.0,
) -> AlignedCrop:
    """The crop as training cuts it: x and y scaled by `stretch` about the box's centre, which then lies off the
    crop's by `away` times the mean of the box's sides in the crop."""
    cx, cy, w, h = xywh_to_cxcywh(xywh).tolist()
    x, y, wide, high = cxcywh_to_xywh((cx, cy, max(w, min_px), max(h, min_px))).tolist()
    whole, _ = siamfc_map((x, y, wide, high), factor, out_px)
    scale = (whole * stretch[0], whole * stretch[1])
    mean_side = (w * scale[0] + h * scale[1]) / 2
    shift = (out_px / 2 - cx * scale[0] + away[0] * mean_side, out_px / 2 - cy * scale[1] + away[1] * mean_side)
    crop_x, crop_y = (
        rasterised(max(0.0, start), min(float(out_px), size * each + start))
        for each, start, size in zip(scale, shift, (width, height), strict=True)
    )
    if crop_x[0] >= crop_x[1] or crop_y[0] >= crop_y[1]:
        return AlignedCrop((0, 0), (0, 0), (0, 0), (0, 0), scale, shift, out_px)
    frame_x, frame_y = (
        seen((span[0] - start) / each, (span[1] - start) / each, size)
        for span, each, start, size in zip((crop_x, crop_y), scale, shift, (width, height), strict=True)
    )
    (scale_x, shift_x), (scale_y, shift_y) = line(frame_x, crop_x), line(frame_y, crop_y)
    return AlignedCrop(frame_x, frame_y, crop_x, crop_y, (scale_x, scale_y), (shift_x, shift_y), out_px)


def rasterised(start: float, end: float) -> Span:
    """The whole pixels that a stretch takes."""
    return math.floor(start), math.floor(end + ALMOST_ONE)


def seen(start: float, end: float, size: int) -> Span:
    """The whole pixels, out of `size`, that a stretch takes; one where it is too short to take any."""
    first, last = rasterised(start, end)
    first = min(max(first, 0), size - 1)
    return first, max(min(last, size), first + 1)


def line(frame: Span, crop: Span) -> tuple[float, float]:
    """Scale and shift that take one span to the other, float32 as in the official code."""
    scale = np.float32(crop[1] - crop[0]) / np.float32(frame[1] - frame[0])
    return float(scale), float(np.float32(crop[0]) - np.float32(frame[0]) * scale)


def foreground_tokens(xyxy_crop: ArrayLike, grid: int, stride: int) -> NDArray[np.float32]:
    """(grid * grid,) float32, row-major: 1 for the template tokens that a box in crop pixels touches, else 0.

    A box that takes no token keeps the one under its centre, or the nearest; the official code stops there.
    """
    x1, y1, x2, y2 = np.clip(np.asarray(xyxy_crop, dtype=np.float64) / stride, 0, grid).tolist()
    mask = np.zeros((grid, grid), np.float32)
    mask[slice(*rasterised(y1, y2)), slice(*rasterised(x1, x2))] = 1
    if not mask.any():
        mask[min(int((y1 + y2) / 2), grid - 1), min(int((x1 + x2) / 2), grid - 1)] = 1
    return mask.ravel()
