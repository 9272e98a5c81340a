"""VOT challenges: rectangles, polygons (2014 to 2019) and masks (from 2020 on) as boxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from sightline.datasets.clips import Clip, Frames, Listing, has_area, list_names, natural
from sightline.datasets.sot_text import Floats, read_rows, read_text
from sightline.errors import DatasetError

Rectangle = Literal["hull", "area"]


def vot(folder: Path, _split: str) -> Listing[Clip]:
    """`list.txt` names the sequences, else all folders with a `groundtruth.txt`; polygons become their hull."""
    listed = folder / "list.txt"
    if listed.exists():
        names = read_text(listed).split("\n")
    else:
        folders = list_names(folder, of_folders=True)
        names = sorted((name for name in folders if (folder / name / "groundtruth.txt").exists()), key=natural)
    return Listing(names, lambda name: folder / name, partial(_read_named, folder))


def _read_named(folder: Path, name: str) -> Clip:
    return read_vot(folder / name)


def read_vot(folder: Path, rectangle: Rectangle = "hull") -> Clip:
    """`SEQ/groundtruth.txt`, frames in `SEQ/color` or beside it.

    A row is x,y,w,h, four corners, or a mask "m..."; nan, or a mask without a pixel, is no target. `rectangle` says
    what a polygon becomes, as in `polygon_to_xywh`.
    """
    annotation = folder / "groundtruth.txt"
    if read_text(annotation).startswith("m"):
        xywh = mask_rows(annotation)
    else:
        rows = read_rows(annotation, (4, 8))
        xywh = polygon_to_xywh(rows, rectangle) if rows.shape[1] == 8 else rows
    images = folder / "color" if (folder / "color").is_dir() else folder
    frames = Frames(images, num_expected=len(xywh))
    return Clip(folder.name, frames, xywh, has_area(xywh), annotation=annotation)


def polygon_to_xywh(corners: Floats, rectangle: Rectangle = "hull") -> Floats:
    """(N, 4) boxes of (N, 8) corners x1,y1 .. x4,y4.

    "hull" is the smallest box around them. "area" has about the polygon's area, as VOT's own axis-aligned trackers were
    started: centred on the mean corner, the hull's sides times s = sqrt(|p1 p2| |p2 p3| / hull area), plus 1.
    """
    points = corners.reshape(-1, 4, 2)
    low, high = points.min(axis=1), points.max(axis=1)
    if rectangle == "hull":
        return np.concatenate([low, high - low], axis=1)
    sides = np.linalg.norm(points[:, 1:3] - points[:, 0:2], axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):  # corners on a line
        scale = np.sqrt(sides.prod(axis=1) / (high - low).prod(axis=1))
    size = scale[:, None] * (high - low) + 1
    return np.concatenate([points.mean(axis=1) - size / 2, size], axis=1)


def mask_rows(path: Path) -> Floats:
    """(N, 4) tight boxes of masks, a line each: "m", the left, top, width and height of a region, then lengths of runs
    through it, row by row, of background and target in turn. A mask without a pixel is 0,0,0,0."""
    boxes = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            if not line.startswith("m"):
                raise ValueError
            left, top, width, height, *runs = map(int, line[1:].rstrip(", ").split(","))
            boxes.append(_mask_box(left, top, width, height, runs))
        except ValueError:
            raise DatasetError(
                f"{path}:{number}: got {line[:40]!r}; expected a mask: m, the four numbers of a region, and "
                "runs that end inside it. Correct the line."
            ) from None
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _mask_box(left: int, top: int, width: int, height: int, runs: list[int]) -> tuple[int, int, int, int]:
    if min([width, height, *runs]) < 0 or sum(runs) > width * height or max(map(abs, (left, top, width, height))) > 1e6:
        raise ValueError
    ends = np.cumsum(np.array(runs, dtype=np.int64))
    first, last = ends[:-1:2], ends[1::2] - 1  # of the runs of target
    first, last = first[: len(last)][last >= first[: len(last)]], last[last >= first[: len(last)]]
    if not len(first):
        return 0, 0, 0, 0
    is_split = (first // width != last // width).any()  # a run over a line's end has pixels in its last column
    x_low = 0 if is_split else int((first % width).min())
    x_high = width - 1 if is_split else int((last % width).max())
    y_low, y_high = int(first.min() // width), int(last.max() // width)
    return left + x_low, top + y_low, x_high - x_low + 1, y_high - y_low + 1
