"""Where a crop lies in its frame: an affine map with an exact inverse, and the two rules that place it.

`CropRegion` holds only numbers; `sightline.imaging.sample` cuts the pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sightline.errors import GeometryError
from sightline.geometry.boxes import Array, Box


@dataclass(frozen=True)
class CropRegion:
    """A square of the frame, `side_px` frame pixels long from (x1, y1), resampled to `out_px` x `out_px`."""

    x1: float
    y1: float
    side_px: float
    out_px: int

    @property
    def scale(self) -> float:
        """Crop pixels per frame pixel (the official `resize_factor`)."""
        return self.out_px / self.side_px

    def to_crop(self, xywh: ArrayLike) -> Array:
        """(..., 4) boxes from frame pixels to crop pixels."""
        box = np.asarray(xywh, dtype=np.float64)
        return np.concatenate([(box[..., :2] - (self.x1, self.y1)) * self.scale, box[..., 2:] * self.scale], axis=-1)

    def to_frame(self, xywh_crop: ArrayLike) -> Array:
        """(..., 4) boxes from crop pixels to frame pixels; the exact inverse of `to_crop`."""
        box = np.asarray(xywh_crop, dtype=np.float64)
        return np.concatenate([box[..., :2] / self.scale + (self.x1, self.y1), box[..., 2:] / self.scale], axis=-1)


def snapped_region(xywh: Box, factor: float, out_px: int) -> CropRegion:
    """OSTrack's and MVT's rule: side ceil(factor sqrt(wh)), corner rounded half to even, all in whole pixels."""
    x, y, w, h = xywh
    side = math.ceil(math.sqrt(w * h) * factor)
    if side < 1:
        raise GeometryError(f"crop of side {side} px around xywh={xywh}: expected at least 1 px. Pass a larger box.")
    return CropRegion(round(x + 0.5 * w - side * 0.5), round(y + 0.5 * h - side * 0.5), side, out_px)


def official_training_box(xywh: ArrayLike, around_xywh: Box, region: CropRegion) -> Array:
    """Quirk of OSTrack's and MVT's training data: (..., 4) boxes to `xywh_unit`, half a crop pixel off `to_crop`.

    The official transform puts the centre of the box that was cropped around at (out_px - 1) / 2, an index, where
    tracking counts from the edge; nor does it know that `snapped_region` rounded the corner. For faithful training.
    """
    box = np.asarray(xywh, dtype=np.float64)
    x, y, w, h = around_xywh
    away = box[..., :2] + box[..., 2:] / 2 - (x + w / 2, y + h / 2)
    centre = (region.out_px - 1) / 2 + away * region.scale
    size = box[..., 2:] * region.scale
    return np.concatenate([centre - size / 2, size], axis=-1) / region.out_px


def exact_region(xywh: Box, factor: float, out_px: int) -> CropRegion:
    """The honest rule: side factor sqrt(wh) and corner kept to the sub-pixel, so the target sits in the centre."""
    x, y, w, h = xywh
    side = math.sqrt(w * h) * factor
    if not side > 0:
        raise GeometryError(f"crop of side {side} px around xywh={xywh}: expected a positive area. Pass a larger box.")
    return CropRegion(x + 0.5 * w - side * 0.5, y + 0.5 * h - side * 0.5, side, out_px)
