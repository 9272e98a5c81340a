"""Boxes in three formats and what is measured on them. Every array is (..., 4) float64; half-open, x right, y down."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import GeometryError

Array = NDArray[np.float64]
Box = tuple[float, float, float, float]

MAX_FRAMES = 4  # a target larger than so many frames is a slip of units, and its crop would take gigabytes


def xywh_to_xyxy(xywh: ArrayLike) -> Array:
    """Top-left and size to corners."""
    box = np.asarray(xywh, dtype=np.float64)
    return np.concatenate([box[..., :2], box[..., :2] + box[..., 2:]], axis=-1)


def xyxy_to_xywh(xyxy: ArrayLike) -> Array:
    """Corners to top-left and size."""
    box = np.asarray(xyxy, dtype=np.float64)
    return np.concatenate([box[..., :2], box[..., 2:] - box[..., :2]], axis=-1)


def xywh_to_cxcywh(xywh: ArrayLike) -> Array:
    """Top-left and size to centre and size."""
    box = np.asarray(xywh, dtype=np.float64)
    return np.concatenate([box[..., :2] + box[..., 2:] / 2, box[..., 2:]], axis=-1)


def cxcywh_to_xywh(cxcywh: ArrayLike) -> Array:
    """Centre and size to top-left and size."""
    box = np.asarray(cxcywh, dtype=np.float64)
    return np.concatenate([box[..., :2] - box[..., 2:] / 2, box[..., 2:]], axis=-1)


def iou(a_xywh: ArrayLike, b_xywh: ArrayLike) -> Array:
    """Intersection over union, element by element with broadcasting; 0 where either box has no area or is nan."""
    a, b = xywh_to_xyxy(a_xywh), xywh_to_xyxy(b_xywh)
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    intersection = overlap[..., 0] * overlap[..., 1]

    def area(box: Array) -> Array:
        size = np.clip(box[..., 2:] - box[..., :2], 0, None)
        return np.asarray(size[..., 0] * size[..., 1])

    union = area(a) + area(b) - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(union > 0, intersection / union, 0.0))


def clip_xywh(xywh: Box, height: int, width: int, margin_px: float = 10.0) -> Box:
    """Keep a box touching its frame, at least `margin_px` wide and high (OSTrack's `clip_box`, margin 10)."""
    x, y, w, h = xywh
    x1 = min(max(0.0, x), width - margin_px)
    x2 = min(max(margin_px, x + w), float(width))
    y1 = min(max(0.0, y), height - margin_px)
    y2 = min(max(margin_px, y + h), float(height))
    return x1, y1, max(margin_px, x2 - x1), max(margin_px, y2 - y1)


def check_four_numbers(box: ArrayLike, name: str = "xywh") -> Box:
    """The four finite numbers of one box, or `GeometryError`; `name` is the format that they were given in."""
    try:
        four = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GeometryError(f"target box: got {name}={box!r}; expected four numbers, pixels. Pass numbers.") from error
    if four.shape != (4,):
        raise GeometryError(f"target box: got {name} of shape {four.shape}; expected four numbers. Pass one box.")
    a, b, c, d = (float(value) for value in four)
    if not np.isfinite(four).all():
        raise GeometryError(
            f"target box is not finite: got {name}=({a:g}, {b:g}, {c:g}, {d:g}), image pixels; expected four finite "
            "numbers. Pass numbers."
        )
    return a, b, c, d


def one_box(xywh: ArrayLike | None, xyxy: ArrayLike | None, cxcywh: ArrayLike | None) -> Box:
    """The `xywh` of a box that was given in exactly one of three formats, float pixels.

    Raises `GeometryError` for none or several, and for anything but four finite numbers.
    """
    given = {"xywh": xywh, "xyxy": xyxy, "cxcywh": cxcywh}
    named = [(name, box) for name, box in given.items() if box is not None]
    if len(named) != 1:
        raise GeometryError(f"target box: got {len(named)} boxes; expected one of xywh=, xyxy=, cxcywh=. Pass one.")
    name, numbers = named[0]
    four = check_four_numbers(numbers, name)
    if name == "xywh":
        return four
    x, y, w, h = (xyxy_to_xywh if name == "xyxy" else cxcywh_to_xywh)(four).tolist()
    return x, y, w, h


def check_target_box(xywh: ArrayLike, height: int, width: int) -> Box:
    """The box a person gave for a target, or a sentence: finite, with an area, at least partly in the frame.

    Raises `GeometryError`. A box partly outside is legal and returned unchanged.
    """
    x, y, w, h = check_four_numbers(xywh)
    stated = f"xywh=({x:g}, {y:g}, {w:g}, {h:g}), image pixels"
    if w <= 0 or h <= 0:
        raise GeometryError(
            f"target box has no area: got w={w:g}, h={h:g} ({stated}); expected w > 0 and h > 0. "
            "Pass the last visible box."
        )
    if w * h > MAX_FRAMES * width * height:
        raise GeometryError(
            f"target box is too large: got {stated} in a frame of {width} x {height}; expected at most {MAX_FRAMES} "
            "times its area. Pass a box in pixels of this frame."
        )
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise GeometryError(
            f"target box is outside the frame: got {stated} in a frame of {width} x {height}; expected an overlap. "
            "Pass a box in pixels of this frame."
        )
    return x, y, w, h
