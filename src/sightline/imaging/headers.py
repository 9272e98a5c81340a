"""The size of an image, from the first bytes of its file where they tell."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from sightline.errors import VideoError
from sightline.imaging.frames import read_image

__all__ = ["image_size"]

PNG = b"\x89PNG\r\n\x1a\n"
# Markers that begin a frame of a JPEG: all of C0..CF but for tables (C4, CC) and a reserved one (C8).
FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # without a length


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels of the image as `read_image` gives it.

    JPEG and PNG without EXIF, which may tell to turn them, cost a few hundred bytes; all else is decoded. Raises
    `VideoError` for a file that is missing or no image; pixels that are cut off are not noticed here.
    """
    try:
        with Path(path).open("rb") as file:
            begin = file.read(len(PNG))
            size = _png_size(file) if begin == PNG else _jpeg_size(file) if begin[:2] == b"\xff\xd8" else None
    except OSError as error:
        raise VideoError(f"{path}: got '{error.strerror}'; expected a readable image. Check the path.") from error
    if size is None or 0 in size:
        height, width = read_image(path).shape[:2]
        return width, height
    return size


def _png_size(file: BinaryIO) -> tuple[int, int] | None:
    header = file.read(16)
    if len(header) < 16 or header[4:8] != b"IHDR":
        return None
    file.seek(len(PNG))
    while len(chunk := file.read(8)) == 8 and chunk[4:] != b"IDAT":
        if chunk[4:] == b"eXIf":
            return None
        file.seek(int.from_bytes(chunk[:4], "big") + 4, 1)
    width, height = struct.unpack(">II", header[8:])
    return width, height


def _jpeg_size(file: BinaryIO) -> tuple[int, int] | None:
    file.seek(2)
    while (byte := file.read(1)) == b"\xff":
        while byte == b"\xff":  # any number may stand before a marker
            byte = file.read(1)
        if not byte or byte[0] in BARE_MARKERS:
            continue
        segment = file.read(2)
        if len(segment) < 2:
            return None
        length = int.from_bytes(segment, "big") - 2
        if byte[0] in FRAME_MARKERS:
            header = file.read(5)
            if len(header) < 5:
                return None
            height, width = struct.unpack(">HH", header[1:])
            return width, height
        if byte[0] == 0xE1 and file.read(min(4, max(0, length))) == b"Exif":
            return None
        file.seek(length - (min(4, max(0, length)) if byte[0] == 0xE1 else 0), 1)
    return None
