"""Changes of a crop's pixels, and the jitter of where a crop is cut. (S, S, 3) uint8 RGB in and out."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.geometry.boxes import Box
from sightline.geometry.crops import CropRegion

Image = NDArray[np.uint8]


# Where to cut


def official_jitter(xywh: Box, rng: np.random.Generator, centre: float, scale: float) -> Box:
    """The box that OSTrack's and MVT's training data is cut around: both sides times exp(scale N(0, 1)), each its own,
    the centre off by up to centre / 2 sqrt(wh) of the changed box each way."""
    x, y, w, h = xywh
    (grown_w, grown_h), (right, down) = np.exp(scale * rng.standard_normal(2)).tolist(), rng.random(2).tolist()
    w_new, h_new = w * grown_w, h * grown_h
    reach = centre * math.sqrt(w_new * h_new)
    x_new, y_new = x + w / 2 + (right - 0.5) * reach - w_new / 2, y + h / 2 + (down - 0.5) * reach - h_new / 2
    return x_new, y_new, w_new, h_new


def jittered_region(
    xywh: Box, factor: float, out_px: int, rng: np.random.Generator, *, shift: float, scale: float
) -> CropRegion:
    """A crop around a box that is off by up to `shift` sqrt(wh) each way and wrong in size by exp(scale N(0, 1))."""
    x, y, w, h = xywh
    reach = math.sqrt(w * h)
    side = reach * factor * math.exp(scale * rng.standard_normal())
    right, down = rng.uniform(-shift, shift, 2).tolist()
    return CropRegion(x + w / 2 + right * reach - side / 2, y + h / 2 + down * reach - side / 2, side, out_px)


# Pixels. Where the new value follows from the old one alone, OpenCV's tables: 256 answers for 110,000 questions


def brighten(crop: Image, factor: float) -> Image:
    """Every value times a factor, cut at 255. Unlike the official floats, rounded to a byte."""
    return np.asarray(cv2.convertScaleAbs(crop, alpha=factor), dtype=np.uint8)


def to_grey(rgb: Image) -> Image:
    """Luma in all three channels, of an image of any size."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)


def jitter_colour(crop: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast about the mean, and the gain of each channel, together up to some 30 %."""
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3)
    contrast, offset = rng.uniform(0.8, 1.2), rng.uniform(-10, 10)
    mean = sum(cv2.mean(crop)[:3]) / 3
    answers = ((np.arange(256)[:, None] - mean) * contrast + mean) * gain + offset
    table = np.clip(np.rint(answers), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(crop, table[:, None]), dtype=np.uint8)


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


def jitter_in_any_order(crop: Image, amount: float, rng: np.random.Generator) -> Image:
    """Brightness, contrast about the mean grey, and saturation, each times 1 - amount to 1 + amount, in random order:
    torchvision's ColorJitter, rounded to bytes after each."""
    for which in rng.permutation(3):
        factor = float(rng.uniform(1 - amount, 1 + amount))
        if which == 0:
            crop = brighten(crop, factor)
        elif which == 1:
            mean = round(cv2.mean(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))[0])
            crop = _blend(crop, np.full_like(crop, mean), factor)
        else:
            crop = _blend(crop, to_grey(crop), factor)
    return crop


def _blend(crop: Image, other: Image, share: float) -> Image:
    return np.asarray(cv2.addWeighted(crop, share, other, 1 - share, 0), dtype=np.uint8)


def three_augment(crop: Image, which: int, sigma: float) -> Image:
    """One of DeiT III's three changes (arXiv 2204.07118, Sec. 4): 0 grey, 1 values from 128 on inverted, 2 blurred by a
    Gaussian of `sigma` pixels."""
    if which == 0:
        return to_grey(crop)
    if which == 1:
        return np.where(crop < 128, crop, 255 - crop)
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), dtype=np.uint8)


def vary_pixels(crop: Image, rng: np.random.Generator) -> Image:
    """The pixel changes of one crop of a sightline-nano training pair, each with its own probability."""
    if rng.random() < 0.8:
        crop = jitter_colour(crop, rng)
    if rng.random() < 0.15:
        crop = blur(crop, rng)
    return crop


# Another picture in the crop


def paste_backdrop(crop: Image, region: CropRegion, height: int, width: int, other: Image) -> Image:
    """The crop with another picture where its region reaches out of the frame of `height` x `width` pixels."""
    x, y, w, h = region.to_crop((0, 0, width, height)).tolist()
    x1, y1 = max(math.ceil(x), 0), max(math.ceil(y), 0)
    x2, y2 = max(int(x + w), 0), max(int(y + h), 0)  # below 0 they would count from the other side
    filled = np.asarray(cv2.resize(other, (region.out_px, region.out_px)), dtype=np.uint8)
    filled[y1:y2, x1:x2] = crop[y1:y2, x1:x2]
    return filled


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
