"""Annotated sequences: a folder of frames and a text file of boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError


@dataclass(frozen=True, eq=False)
class Clip:
    """One annotated sequence. `xywh` is (N, 4) float64 in pixels of the frames; `is_present` (N,) bool marks the
    frames that have a target."""

    name: str
    frames: tuple[Path, ...]
    xywh: NDArray[np.float64]
    is_present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frames)


def read_clip(folder: Path) -> Clip:
    """`NAME/img/*.jpg`, `NAME/groundtruth.txt` (x,y,w,h a line) and, where some frame has no target, `NAME/absent.txt`.

    Raises `DatasetError` when counts or rows do not fit.
    """
    annotation = folder / "groundtruth.txt"
    frames = tuple(sorted((folder / "img").glob("*.jpg")))
    xywh = read_numbers(annotation, "one x,y,w,h row per frame")
    if xywh.shape != (len(frames), 4):
        raise DatasetError(
            f"{annotation}: got {xywh.shape[0]} rows of {xywh.shape[1]} numbers for {len(frames)} frames in "
            f"{folder / 'img'}; expected one x,y,w,h row per frame. Complete the folder."
        )
    is_present = (xywh[:, 2] > 0) & (xywh[:, 3] > 0)
    absent = folder / "absent.txt"
    if absent.exists():
        is_absent = read_numbers(absent, "0 or 1, a line per frame")
        if is_absent.shape != (len(frames), 1) or not np.isin(is_absent, (0, 1)).all():
            raise DatasetError(
                f"{absent}: got {is_absent.shape[0]} rows for {len(frames)} frames, values {np.unique(is_absent)[:5]}; "
                "expected 0 or 1, a line per frame. Complete the file."
            )
        is_present &= is_absent[:, 0] == 0
    return Clip(folder.name, frames, xywh, is_present)


def read_numbers(path: Path, expected: str) -> NDArray[np.float64]:
    """(rows, columns) of a comma-separated text file; `DatasetError` with `expected` in the sentence."""
    try:
        lines = path.read_text().strip().splitlines()
        return np.loadtxt(lines, dtype=np.float64, delimiter=",", ndmin=2) if lines else np.empty((0, 0))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: {error}; expected {expected}. Check the file.") from error


def read_split(root: Path, split: str) -> list[str]:
    """Names of one split ("train" or "val") of a folder with a `split.json`."""
    path = root / "split.json"
    try:
        return list(json.loads(path.read_text())[split])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: {error!r}; expected an object with the list {split!r}. Check the file.") from error


def read_clips(root: Path, names: Sequence[str]) -> list[Clip]:
    """The named clips of a folder, in the given order."""
    return [read_clip(root / name) for name in names]
