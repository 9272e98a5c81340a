"""DAVIS 2017 and what is laid out like it: pictures of masks, an object to each colour of the palette."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import Clip, Frames, Listing
from sightline.datasets.sot_text import Floats, read_text
from sightline.errors import DatasetError, VideoError
from sightline.imaging.frames import read_image

RESOLUTION = "480p"


def davis(folder: Path, split: str) -> Listing[Clip]:
    """`JPEGImages/480p/SEQ`, `Annotations/480p/SEQ/%05d.png`, `ImageSets/2017/SPLIT.txt`: a clip for each object.

    Of several, SEQ-2 is the object of palette index 2. Objects are those of a sequence's first mask, which is read when
    the set is opened, the others with a clip: a box is the tight one of a mask, and where there is none the target is
    absent.
    """
    sequences = read_text(folder / "ImageSets" / "2017" / f"{split}.txt").split()
    masks = {name: Frames(folder / "Annotations" / RESOLUTION / name) for name in sequences}
    clips: dict[str, tuple[str, int]] = {}
    for name in sequences:
        there = masks[name].folder.is_dir()
        objects = sorted(mask_boxes(masks[name][0])) if there else [1]
        clips |= {f"{name}-{index}" if len(objects) > 1 else name: (name, index) for index in objects}

    @lru_cache(maxsize=2)  # objects of a sequence are mostly read one after the other
    def boxes_of(name: str) -> list[dict[int, tuple[int, int, int, int]]]:
        return [mask_boxes(path) for path in masks[name]]

    def place(name: str) -> Path:
        return masks[clips[name][0]].folder

    def read(name: str) -> Clip:
        sequence, index = clips[name]
        boxes = boxes_of(sequence)
        xywh: Floats = np.array([found.get(index, (0, 0, 0, 0)) for found in boxes], dtype=np.float64)
        absent = np.array([index not in found for found in boxes])
        frames = Frames(folder / "JPEGImages" / RESOLUTION / sequence, num_expected=len(xywh))
        return Clip(name, frames, xywh, ~absent, absent, annotation=place(name))

    return Listing(list(clips), place, read)


def mask_boxes(path: Path) -> dict[int, tuple[int, int, int, int]]:
    """Object -> tight x,y,w,h in pixels, w = last - first + 1; 0 is background.

    An object is an index of the palette of a PNG, or without a palette a value of grey. Raises `DatasetError`.
    """
    try:
        rgb = read_image(path).astype(np.int32)
        palette = _palette(path.read_bytes())
    except (VideoError, OSError) as error:
        raise DatasetError(f"{path}: got no mask ({error}); expected a PNG. Replace the file.") from error
    colour = rgb[:, :, 0] << 16 | rgb[:, :, 1] << 8 | rgb[:, :, 2]
    boxes = {}
    for value in np.unique(colour).tolist():
        index = value & 255 if palette is None else palette.get(value, 0)
        if index:
            rows, columns = ((colour == value).any(axis=axis).nonzero()[0] for axis in (1, 0))
            x, y = int(columns[0]), int(rows[0])
            boxes[index] = x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
    return boxes


def _palette(png: bytes) -> dict[int, int] | None:
    """Colour of a PNG's palette -> its first index; None without one."""
    place = 8
    while place + 8 <= len(png) and (kind := png[place + 4 : place + 8]) != b"IDAT":
        length = int.from_bytes(png[place : place + 4], "big")
        if kind == b"PLTE":
            entries: NDArray[np.uint8] = np.frombuffer(png[place + 8 : place + 8 + length // 3 * 3], np.uint8)
            colours = (entries.reshape(-1, 3).astype(int) @ [1 << 16, 1 << 8, 1]).tolist()
            return {colour: index for index, colour in reversed(list(enumerate(colours)))}
        place += 12 + length
    return None
