"""Changes of a crop's pixels, and the jitter of where a crop is cut. (S, S, 3) uint8 RGB in and out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.geometry.boxes import Box
from sightline.geometry.crops import CropRegion

Image = NDArray[np.uint8]


def jittered_region(
    xywh: Box, factor: float, out_px: int, rng: np.random.Generator, *, shift: float, scale: float
) -> CropRegion:
    """A crop around a box that is off by up to `shift` sqrt(wh) each way and wrong in size by exp(scale N(0, 1))."""
    x, y, w, h = xywh
    reach = np.sqrt(w * h)
    side = reach * factor * float(np.exp(scale * rng.standard_normal()))
    centre = np.array([x + w / 2, y + h / 2]) + rng.uniform(-shift, shift, 2) * reach
    return CropRegion(float(centre[0] - side / 2), float(centre[1] - side / 2), side, out_px)


def jitter_colour(crop: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast and the gain of each channel, together up to some 30 %."""
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3)
    pivot = crop.mean()
    changed = (crop - pivot) * (gain * rng.uniform(0.8, 1.2)) + pivot * gain + rng.uniform(-10, 10)
    return np.asarray(np.clip(changed, 0, 255), dtype=np.uint8)


def to_grey(crop: Image) -> Image:
    """Luma in all three channels."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def blur(crop: Image, rng: np.random.Generator) -> Image:
    """Motion blur along a random direction, 3 to 9 pixels, or loss of resolution by up to 3."""
    side = crop.shape[0]
    if rng.random() < 0.5:
        small = cv2.resize(crop, (int(side / rng.uniform(1.3, 3)),) * 2, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (side, side)), dtype=np.uint8)
    length = int(rng.integers(1, 5)) * 2 + 1
    kernel = np.zeros((length, length), dtype=np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), float(rng.uniform(0, 180)), 1)
    turned = np.asarray(cv2.warpAffine(kernel, turn, (length, length)))
    return np.asarray(cv2.filter2D(crop, -1, turned / turned.sum()), dtype=np.uint8)


def paste_occluder(crop: Image, xywh_crop: Box, patch: Image, rng: np.random.Generator) -> Image:
    """Cover a part of the target, a third to two thirds of each side, with a patch of another picture."""
    x, y, w, h = xywh_crop
    side = crop.shape[0]
    width, height = (max(2, int(size * rng.uniform(0.3, 0.7))) for size in (w, h))
    left, top = int(x + rng.uniform(-0.3, 1) * w), int(y + rng.uniform(-0.3, 1) * h)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, side), min(top + height, side)
    if x2 <= x1 or y2 <= y1:
        return crop
    covered = crop.copy()
    covered[y1:y2, x1:x2] = cv2.resize(patch, (x2 - x1, y2 - y1))
    return covered


def vary_pixels(crop: Image, rng: np.random.Generator) -> Image:
    """The pixel changes of one crop of a sightline-nano training pair, each with its own probability."""
    if rng.random() < 0.8:
        crop = jitter_colour(crop, rng)
    if rng.random() < 0.15:
        crop = blur(crop, rng)
    return crop
