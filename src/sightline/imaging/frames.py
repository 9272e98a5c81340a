"""Any legal frame as (H, W, 3) uint8 RGB, by one stated rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.errors import VideoError

__all__ = ["decode_image", "read_image", "to_rgb"]

_CURE = {
    "f": "Multiply values in [0, 1] by 255 and round: np.round(255 * frame).astype(np.uint8)",
    "b": "Multiply a mask by 255 to look at it: 255 * frame.astype(np.uint8)",
}


def to_rgb(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The frame as C-contiguous (H, W, 3) uint8 RGB; no copy where it is so already.

    Goes in: uint8 or uint16, (H, W) or (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB, (H, W, 4) RGBA.
    Grey is repeated three times, alpha is dropped, 16 bits become value / 257 rounded, so that full range stays
    full range (0 -> 0, 65535 -> 255). Everything else is a `VideoError`: guessing the scale of floats hides mistakes.
    """
    frame = np.asarray(array)
    got = f"{frame.dtype} of shape {frame.shape}"
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if frame.ndim != 3 or frame.shape[2] not in (1, 2, 3, 4) or frame.size == 0:
        raise VideoError(
            f"frame: got {got}; expected (height, width) or (height, width, channels) with 1 to 4 channels. "
            "Move the channels last and pass one frame at a time."
        )
    if frame.dtype.kind != "u" or frame.dtype.itemsize > 2:
        cure = _CURE.get(frame.dtype.kind, "Convert values 0 to 255 with frame.astype(np.uint8)")
        raise VideoError(f"frame: got {got}; expected uint8 or uint16. {cure}.")
    if frame.dtype.itemsize == 2:
        frame = ((frame.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if frame.shape[2] < 3:
        frame = np.repeat(frame[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(frame[:, :, :3])


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """The image file as (H, W, 3) uint8 RGB, by the rule of `to_rgb` and turned upright as its EXIF tag says.

    Raises `VideoError` for a file that is missing, is no image, or ends before its picture does.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise VideoError(f"{path}: got '{error.strerror}'; expected a readable image. Check the path.") from error
    return decode_image(data, path)


def decode_image(encoded: bytes, name: str | Path) -> NDArray[np.uint8]:
    """`read_image` of the bytes of a file; `name` is what sentences call it."""
    data = np.frombuffer(encoded, np.uint8)
    try:  # imdecode, since imread paints the missing part of a cut JPEG grey and calls it read
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        image = None
    if image is None:
        raise VideoError(f"{name}: got {data.size} bytes that are no whole image; expected one. Replace the file.")
    try:
        return np.asarray(cv2.cvtColor(to_rgb(image), cv2.COLOR_BGR2RGB), dtype=np.uint8)
    except VideoError as error:  # an image of floats
        raise VideoError(f"{name}: {error}") from error
