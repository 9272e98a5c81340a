"""Annotated sequences of one target, and the plainest layout of them: a folder of frames and a text file of boxes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.sot_text import read_flags, read_rows
from sightline.errors import DatasetError

T = TypeVar("T")

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FRAME_FOLDERS = ("img", "imgs", "color", "img1", "frames", "images")
BOX_FILES = ("groundtruth.txt", "groundtruth_rect.txt")


@dataclass(frozen=True, eq=False)
class Frames(Sequence[Path]):
    """The image files of a sequence, in order; the folder is listed when the first of them is asked for.

    `order` sorts them by file name. `first` and `last` are numbers that file names end in, for sequences that are part
    of a folder. `num_expected` is how many there must be: a `DatasetError` names the folder where it holds more or
    fewer, or none. `part` is what is taken of them, say every eighth.
    """

    folder: Path
    order: Callable[[str], Any] = str
    first: int | None = None
    last: int | None = None
    num_expected: int | None = None
    part: slice = field(default_factory=lambda: slice(None))

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        names = [name for name in list_names(self.folder) if name.lower().endswith(IMAGE_SUFFIXES)]
        if self.first is not None and self.last is not None:
            names = [name for name in names if self.first <= number_of(name) <= self.last]
        if not names or (self.num_expected is not None and len(names) != self.num_expected):
            numbered = "" if self.first is None else f" numbered {self.first} to {self.last}"
            expected = "some" if self.num_expected is None else f"{self.num_expected}, as annotated"
            raise DatasetError(
                f"{self.folder}: got {len(names)} frames{numbered}; expected {expected}. Complete the folder."
            )
        return tuple(self.folder / name for name in sorted(names, key=self.order)[self.part])

    def __len__(self) -> int:
        return len(self.paths if self.num_expected is None else range(self.num_expected)[self.part])

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...
    def __getitem__(self, index: int | slice) -> Path | tuple[Path, ...]:
        return self.paths[index]


@dataclass(frozen=True, eq=False)
class Clip:
    """One annotated sequence of one target.

    `frames` are image files; `xywh` (N, 4) float64 are the boxes as published, in pixels of the frames, a row per frame
    or, where a benchmark keeps the others to itself, for the first alone. `is_present` (N,) bool marks the frames that
    show the target: the box has an area, and nothing says otherwise.

    What protocols ask for, None where a data set has none of it: `absent` (N,) bool, the benchmark's own flags; `cover`
    (N,) GOT-10k's 0..8, how much of the target can be seen; `image_size` (width, height) in pixels as stated;
    `attributes`, the names of those that the sequence has. `class_name` is the kind of target, "" if unknown;
    `annotation` the file of the boxes, row k of which is line k * `lines_per_row` + 1.
    """

    name: str
    frames: Sequence[Path]
    xywh: NDArray[np.float64]
    is_present: NDArray[np.bool_]
    absent: NDArray[np.bool_] | None = None
    cover: NDArray[np.int64] | None = None
    image_size: tuple[int, int] | None = None
    class_name: str = ""
    attributes: tuple[str, ...] | None = None
    annotation: Path | None = None
    lines_per_row: int = 1

    def __len__(self) -> int:
        return len(self.frames)


class Listing(NamedTuple, Generic[T]):
    """What a layout finds in a folder: names of sequences, the file or folder that a name stands for, and its reader.

    `names` are those that belong to the benchmark, whether they are there or not, where that is known.
    """

    names: Sequence[str]
    place: Callable[[str], Path]
    read: Callable[[str], T]


def has_area(xywh: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) whether a box has an area; one of nan has none."""
    return np.asarray((xywh[:, 2] > 0) & (xywh[:, 3] > 0) & np.isfinite(xywh).all(axis=1))


# Names


def list_names(folder: Path, of_folders: bool = False) -> list[str]:
    """Names in a folder that do not begin with a dot, unsorted; `DatasetError` where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if not e.name.startswith(".") and (not of_folders or e.is_dir())]
    except OSError as error:
        raise DatasetError(f"{folder}: got '{error.strerror}'; expected a folder. Check the path.") from error


def number_of(name: str) -> int:
    """The number that a file name ends in, -1 without one: 17 of `00000017.jpg`."""
    found = re.search(r"(\d+)\D*$", name.rpartition(".")[0])
    return int(found[1]) if found else -1


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorts 2 before 10; the spelling breaks ties such as 1 and 01."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], name


def first_there(folder: Path, *names: str) -> Path:
    """The first of these that exists in a folder, else the first."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])


# A person's own sequences


def own_clips(folder: Path, split: str) -> Listing[Clip]:
    """Folders of frames, each with a text file of boxes, or one such folder; a `split.json` may name splits.

    A folder that has frames alone is among the names, and an error when it is asked for.
    """
    if split != "all":
        return Listing(read_split(folder, split), lambda name: folder / name, lambda name: read_clip(folder / name))
    if own_boxes(folder):
        return Listing([folder.name], lambda name: folder, lambda name: read_clip(folder))
    names = [
        name
        for name in list_names(folder, of_folders=True)
        if own_boxes(folder / name) or (name not in FRAME_FOLDERS and has_frames(folder / name))
    ]
    return Listing(sorted(names, key=natural), lambda name: folder / name, lambda name: read_clip(folder / name))


def own_boxes(folder: Path) -> Path | None:
    """The text file of boxes in a folder: a usual name, or the only .txt beside frames that has no other use."""
    if (usual := first_there(folder, *BOX_FILES)).is_file():
        return usual
    names = list_names(folder)
    texts = [name for name in names if name.endswith(".txt") and name != "absent.txt"]
    may_have_frames = any(name.lower().endswith(IMAGE_SUFFIXES) or name in FRAME_FOLDERS for name in names)
    return folder / texts[0] if len(texts) == 1 and may_have_frames else None


def has_frames(folder: Path) -> bool:
    """Whether there are images in a folder, or in one of `FRAME_FOLDERS` in it."""
    places = [folder, *(folder / name for name in FRAME_FOLDERS if (folder / name).is_dir())]
    return any(name.lower().endswith(IMAGE_SUFFIXES) for place in places for name in list_names(place))


def read_clip(folder: Path) -> Clip:
    """Frames in `NAME/img` or a folder like it, or beside the text; `NAME/groundtruth.txt`, x,y,w,h a line.

    Where some frame has no target, `NAME/absent.txt` has 1 for it, 0 for the others. Frames are read in natural order
    (2 before 10). Raises `DatasetError` when counts or rows do not fit.
    """
    annotation = (own_boxes(folder) if folder.is_dir() else None) or folder / BOX_FILES[0]
    if folder.is_dir() and not annotation.exists():
        raise DatasetError(
            f"{annotation}: got no such file; expected one x,y,w,h row per frame. Add it, or move the folder away."
        )
    xywh = read_rows(annotation)
    images = next((folder / name for name in FRAME_FOLDERS if (folder / name).is_dir()), folder)
    frames = Frames(images, natural).paths
    if len(xywh) != len(frames):
        raise DatasetError(
            f"{annotation}: got {len(xywh)} rows for {len(frames)} frames in {images}; expected one x,y,w,h row per "
            "frame. Complete the folder."
        )
    absent = None
    if (flags := folder / "absent.txt").exists():
        absent = read_flags(flags, len(frames)) == 1
    is_present = has_area(xywh) if absent is None else has_area(xywh) & ~absent
    return Clip(folder.name, frames, xywh, is_present, absent, annotation=annotation)


def read_split(root: Path, split: str) -> list[str]:
    """Names of one split of a folder with a `split.json`."""
    path, content = root / "split.json", _read_splits(root)
    names = content.get(split)
    if not isinstance(names, list):
        got = f"got {', '.join(content) or 'no lists'}" if split not in content else f"got {split} that is no list"
        raise DatasetError(f"{path}: {got}; expected an object with the list {split!r}. Check the file.")
    return list(map(str, names))


def split_names(root: Path) -> list[str]:
    """The splits that a folder's `split.json` names; [] without one."""
    return list(_read_splits(root)) if (root / "split.json").exists() else []


def _read_splits(root: Path) -> dict[str, Any]:
    path, expected = root / "split.json", "expected an object with the list 'train', 'val' or others"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetError(f"{path}: got '{reason}'; {expected}. Check the file.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: got JSON that is no object; {expected}. Check the file.")
    return content


def read_clips(root: Path, names: Sequence[str]) -> list[Clip]:
    """The named clips of a folder, in the given order."""
    return [read_clip(root / name) for name in names]
