"""Cutting a crop out of a frame and turning it into a network's input."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.geometry.aligned_crops import AlignedCrop
from sightline.geometry.crops import CropRegion

Image = NDArray[np.uint8]


def crop_snapped(rgb: Image, region: CropRegion) -> Image:
    """Whole-pixel crop of a `snapped_region`, black outside, bilinear resize: OSTrack's and MVT's, level by level.

    rgb (H, W, 3) uint8 in, (out_px, out_px, 3) uint8 out. Kept quirk: where the region ends exactly on the right or
    bottom border, the last column or row is replaced by padding (official padding counts from W - 1 and H - 1).
    """
    height, width = rgb.shape[:2]
    x1, y1, side = int(region.x1), int(region.y1), int(region.side_px)
    x2, y2 = x1 + side, y1 + side
    left, top = max(0, -x1), max(0, -y1)
    right, bottom = max(x2 - width + 1, 0), max(y2 - height + 1, 0)
    # An end left of or above the frame would count from the other side: the box of a long target may reach far out.
    inside = rgb[y1 + top : max(y2 - bottom, 0), x1 + left : max(x2 - right, 0)]
    if left or top or right or bottom:
        square = np.zeros((side, side, 3), dtype=np.uint8)
        square[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        inside = square
    return np.asarray(cv2.resize(inside, (region.out_px, region.out_px)), dtype=np.uint8)


def crop_exact(rgb: Image, region: CropRegion, fill: Sequence[float]) -> Image:
    """Sub-pixel crop of any region by one bilinear warp; outside the frame lies `fill` (RGB, 0..255).

    Pixel centres map to pixel centres, so a box mapped by `CropRegion.to_crop` lies exactly on its pixels.
    """
    step = 1 / region.scale
    # Crop pixel i has its centre at i + 1/2, which is frame coordinate x1 + (i + 1/2) step, that is index - 1/2.
    to_frame = np.array([[step, 0, region.x1 + 0.5 * step - 0.5], [0, step, region.y1 + 0.5 * step - 0.5]])
    crop = cv2.warpAffine(
        rgb,
        to_frame,
        (region.out_px, region.out_px),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=tuple(float(value) for value in fill),
    )
    return np.asarray(crop, dtype=np.uint8)


def mean_colour(rgb: Image) -> tuple[float, float, float]:
    """The frame's mean colour, RGB in 0..255, from some 64 of its rows."""
    red, green, blue, _ = cv2.mean(rgb[:: max(1, rgb.shape[0] // 64)])
    return red, green, blue


def normalise(crop: Image, mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(S, S, 3) uint8 to (3, S, S) float32: (value / 255 - mean) / std per channel.

    A byte has 256 values, so one table per channel holds all the answers, each rounded once: many times faster than
    the arithmetic, pixel by pixel.
    """
    values = np.arange(256) / 255
    planes = np.empty((3, *crop.shape[:2]), dtype=np.float32)
    for source, plane, centre, spread in zip(cv2.split(crop), planes, mean, std, strict=True):
        cv2.LUT(source, ((values - centre) / spread).astype(np.float32), dst=plane)
    return planes


def crop_aligned(rgb: Image, crop: AlignedCrop, fill: Sequence[float]) -> NDArray[np.float32]:
    """SPMTrack's crop: (S, S, 3) float32 in 0..255, never rounded to bytes; outside the frame lies `fill` (RGB).

    Bilinear between pixel centres without smoothing, as torch's `interpolate` does it: within 0.004 of its values.
    """
    (left, right), (top, bottom), side = crop.crop_x, crop.crop_y, crop.out_px
    if left == right:
        return np.full((side, side, 3), fill, dtype=np.float32)
    inside = rgb[slice(*crop.frame_y), slice(*crop.frame_x)].astype(np.float32)
    resized = cv2.resize(inside, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    border = top, side - bottom, left, side - right
    crop_rgb = cv2.copyMakeBorder(resized, *border, cv2.BORDER_CONSTANT, value=tuple(fill))
    return np.asarray(crop_rgb, dtype=np.float32)


def whole_mean_colour(rgb: Image) -> tuple[float, float, float]:
    """The frame's mean colour, RGB in 0..255, from all of its pixels."""
    red, green, blue, _ = cv2.mean(rgb)
    return red, green, blue


def normalise_float(crop: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(S, S, 3) float32 in 0..255 to (3, S, S) float32: (value / 255 - mean) / std per channel."""
    planes = np.empty((3, *crop.shape[:2]), dtype=np.float32)
    for channel, (plane, centre, spread) in enumerate(zip(planes, mean, std, strict=True)):
        np.multiply(crop[..., channel], np.float32(1 / (255 * spread)), out=plane)
        plane -= np.float32(centre / spread)
    return planes
