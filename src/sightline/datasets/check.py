"""What is wrong with a copy of a data set: what is missing, boxes that are none, frames that cannot be read.

Nothing is changed. A *note* is legal in the layout and worth knowing: boxes that reach beyond the image, as official
ones do, and frames of several sizes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.datasets.clips import Clip, Frames, number_of
from sightline.datasets.images import Annotated
from sightline.datasets.mot_text import MotRows
from sightline.datasets.multi import MotSequence, read_seqinfo
from sightline.datasets.sot_text import Floats, read_text, stretches
from sightline.datasets.table import Dataset, Row
from sightline.errors import DatasetError, VideoError
from sightline.geometry.boxes import xyxy_to_xywh
from sightline.imaging.frames import read_image
from sightline.imaging.headers import image_size

Mask = NDArray[np.bool_]

SLACK_PX = 1.0  # boxes that count from 1 end at width + 1
BATCH = 64  # images that are decoded before the next are asked for


class Finding(NamedTuple):
    """A fault and where it is: file and line, or file; "" where the sentence says so itself."""

    place: str
    fault: str
    is_note: bool = False

    def __str__(self) -> str:
        return f"{'note: ' if self.is_note else ''}{self.place}{': ' if self.place else ''}{self.fault}"


class Report(NamedTuple):
    """What was found in one sequence, or in a batch of images; "" is the name of what is said of all."""

    name: str
    num_frames: int
    findings: list[Finding]


def check(dataset: Dataset[Any], every_image: bool = False) -> Iterator[Report]:
    """Reports of a split, first of the whole, then sequence by sequence, as they are read.

    Of each sequence the first and the last frame are decoded, with `every_image` all of them, on every core: minutes to
    hours for a large set. Faults of annotation and images are findings; no error is raised for them.
    """
    missing = dataset.missing() if dataset.annotated is None else []
    yield Report("", 0, _count(dataset, missing))
    if dataset.annotated is not None:
        yield from _check_annotated(dataset.annotated, every_image)
        return
    absent = set(missing)
    for name in dataset.names:
        if name in absent:
            continue
        try:
            item = dataset.listing.read(name)
        except DatasetError as error:
            yield _refused(dataset, name, error, every_image)
            continue
        found = check_clip(item, dataset.row) if isinstance(item, Clip) else check_sequence(item)
        if isinstance(item, MotSequence) and item.truth is None and dataset.split != "test":
            found.append(Finding(str(item.annotation), "no such file: nothing is annotated"))
        try:
            frames = tuple(item.frames)
        except DatasetError as error:
            yield Report(name, 0, [*found, Finding("", str(error))])
            continue
        found += check_frames(frames, item.image_size, every_image, is_strict=isinstance(item, MotSequence))
        yield Report(name, len(frames), found)


def _count(dataset: Dataset[Any], missing: Sequence[str]) -> list[Finding]:
    what = "images" if dataset.row.kind == "images" else "sequences"
    place, expected = str(dataset.folder), dataset.row.counts.get(dataset.split)
    if missing:
        got = f"got {len(dataset) - len(missing):,} of {len(dataset):,} {what}; missing: {', '.join(missing)}"
        return [Finding(place, got)]
    # DAVIS has several clips of a sequence
    num_there = len(dataset) if dataset.annotated else len({dataset.listing.place(name) for name in dataset.names})
    if expected not in (None, num_there):
        return [Finding(place, f"got {num_there:,} {what}; expected {expected:,}")]
    return []


# Boxes


def check_clip(clip: Clip, row: Row) -> list[Finding]:
    """Rows that are no boxes though the target is there, and boxes outside the image."""

    def place(index: int) -> str:
        return f"{clip.annotation}:{index * clip.lines_per_row + 1}"

    xywh = clip.xywh
    gone = np.zeros(len(xywh), dtype=np.bool_) if clip.absent is None else clip.absent
    has_nan, is_nan = np.isnan(xywh).any(axis=1), np.isnan(xywh).all(axis=1)
    is_flat, is_zero = _is_flat(xywh), (xywh == 0).all(axis=1)
    is_excused = (is_nan & (gone | ("nan" in row.absent))) | (is_zero & (gone | ("zero" in row.absent)))
    is_excused |= is_flat & gone & ~(xywh[:, 2:] < 0).any(axis=1)

    def say(what: str) -> Callable[[int], str]:
        return lambda index: f"box {_box(xywh[index])} {what}, and nothing says that the target is gone"

    found = _rows(place, has_nan & ~is_excused, say("is no box"))
    found += _rows(place, is_flat & ~is_excused, say("has no area"))
    try:
        size = clip.image_size or image_size(clip.frames[0])
    except (DatasetError, VideoError):  # which is a finding of its own
        return found
    return found + _outside(place, xywh, size, ~has_nan & ~is_flat & ~gone)


def check_sequence(sequence: MotSequence) -> list[Finding]:
    """Boxes without area and boxes outside the image; all else the reader refuses."""
    truth = sequence.truth
    if truth is None:
        return []
    xywh = truth.xywh if isinstance(truth, MotRows) else xyxy_to_xywh(truth.xyxy)

    def place(index: int) -> str:
        return f"{sequence.annotation}:{index + 1}"

    is_flat = _is_flat(xywh)
    found = _rows(place, is_flat, lambda index: f"box {_box(xywh[index])} has no area")
    try:
        size = sequence.image_size or image_size(sequence.frames[0])
    except (DatasetError, VideoError, IndexError):
        return found
    return found + _outside(place, xywh, size, ~is_flat)


def _check_annotated(annotated: Annotated, every_image: bool) -> Iterator[Report]:
    truth, boxes = annotated.truth, annotated.truth.boxes
    size = annotated.size.copy()
    for index in np.flatnonzero(np.isnan(size).any(axis=1)).tolist():
        try:
            size[index] = image_size(annotated.files[index])
        except VideoError:  # which is a finding below
            size[index] = np.nan
    order = np.argsort(truth.image)
    of_box = size[order[np.searchsorted(truth.image, boxes.image, sorter=order)]] if len(boxes) else np.empty((0, 2))
    is_flat = _is_flat(boxes.xywh)
    found = _rows(annotated.entry, is_flat, lambda index: f"box {_box(boxes.xywh[index])} has no area")
    found += _outside(annotated.entry, boxes.xywh, of_box, ~is_flat)
    there = [index for index, path in enumerate(annotated.files) if path.exists()]
    if missing := sorted(set(range(len(annotated.files))) - set(there)):
        more = f" (and {len(missing) - 1:,} more of {len(annotated.files):,})" if len(missing) > 1 else ""
        found.append(Finding(str(annotated.files[missing[0]]), f"no such image{more}"))
    yield Report("", 0, found)
    ends = set(there[:1] + there[-1:])
    for begin in range(0, len(there), BATCH):
        batch = there[begin : begin + BATCH]
        chosen = batch if every_image else [index for index in batch if index in ends]
        faults = []
        for index, image in zip(chosen, _decoded([annotated.files[index] for index in chosen]), strict=True):
            if isinstance(image, str):
                faults.append(Finding("", image))
            elif not np.isnan(annotated.size[index]).any() and image != tuple(annotated.size[index]):
                told = f"got {_size(image)}; the annotation says {_size(annotated.size[index])}"
                faults.append(Finding(str(annotated.files[index]), told))
        yield Report("", len(batch), faults)


def _is_flat(xywh: Floats) -> Mask:
    return np.asarray((xywh[:, 2:] <= 0).any(axis=1))


def _outside(place: Callable[[int], str], xywh: Floats, size: ArrayLike, asked: Mask) -> list[Finding]:
    """Boxes that have no part in the image, and as a note those that reach beyond it; `size` is (width, height) of all
    or (N, 2), nan where it is not known."""
    sizes = np.broadcast_to(np.asarray(size, dtype=np.float64), (len(xywh), 2))
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    asked = asked & ~np.isnan(sizes).any(axis=1)
    is_out = asked & ((low >= sizes) | (high <= 0)).any(axis=1)
    is_beyond = asked & ~is_out & ((low < -SLACK_PX) | (high > sizes + SLACK_PX)).any(axis=1)

    def say(what: str) -> Callable[[int], str]:
        return lambda index: f"box {_box(xywh[index])} {what} the image, {_size(sizes[index])}"

    return _rows(place, is_out, say("lies outside")) + _rows(place, is_beyond, say("reaches beyond"), is_note=True)


def _rows(place: Callable[[int], str], mask: Mask, fault: Callable[[int], str], is_note: bool = False) -> list[Finding]:
    """One finding for all the rows: the first in words, the others by number, stretches as first-last."""
    rows = np.flatnonzero(mask).tolist()
    if not rows:
        return []
    first, *others = rows
    numbers = stretches(int(re.findall(r"\d+", place(row))[-1]) for row in others)
    more = f" (and {len(others):,} more: {numbers})" if others else ""
    return [Finding(place(first), f"{fault(first)}{more}", is_note)]


def _size(size: ArrayLike) -> str:
    return "{:g} x {:g} pixels".format(*np.asarray(size).tolist())


def _box(xywh: Floats) -> str:
    return ",".join(f"{side:g}" for side in xywh.tolist())


def _refused(dataset: Dataset[Any], name: str, error: DatasetError, every_image: bool) -> Report:
    """Why a sequence cannot be read, and what else is wrong with it: readers stop at the first fault."""
    place = dataset.listing.place(name)
    if dataset.row.kind != "mot" or dataset.annotated is not None:
        return Report(name, 0, [Finding("", str(error))])
    path, sequence = place, None
    if place.is_dir():
        path = place / "gt" / "gt.txt"
        try:
            sequence = read_seqinfo(place)
        except DatasetError:  # which is the error
            sequence = None
    found = _check_rows(path, sequence, is_kitti=dataset.row.protocol == "kitti")
    if not any(_is_told(str(error), finding) for finding in found):
        found.insert(0, Finding("", str(error)))
    frames, of_frames = _there(sequence, place / "img1") if place.is_dir() else ((), [])
    size = sequence.image_size if sequence else None
    return Report(
        name,
        len(frames),
        [*found, *of_frames, *check_frames(frames, size, every_image, is_strict=sequence is not None)],
    )


def _is_told(error: str, finding: Finding) -> bool:
    """Whether a finding says what the reader's error says."""
    words = {"a number that": "(nan|inf); expected", "the id of": "again in the same frame", "a frame": "got frame "}
    said = next((said for begin, said in words.items() if finding.fault.startswith(begin)), None)
    return said is not None and error.startswith(f"{finding.place}:") and re.search(said, error) is not None


def _there(sequence: MotSequence | None, folder: Path) -> tuple[tuple[Path, ...], list[Finding]]:
    """The frames of a sequence that are there, and a finding where it states others."""
    frames = sequence.frames if sequence else Frames(folder, number_of)
    assert isinstance(frames, Frames)
    try:
        return frames.paths, []
    except DatasetError as error:
        found = [Finding("", str(error))]
    try:
        return replace(frames, num_expected=None).paths, found
    except DatasetError:
        return (), found


def _check_rows(path: Path, sequence: MotSequence | None, is_kitti: bool) -> list[Finding]:
    """Every kind of fault in rows that the reader refuses, as far as they are numbers at all."""
    try:
        lines = read_text(path).split("\n")
    except DatasetError:
        return []
    no_number, is_frame_beyond, again = np.zeros((3, len(lines)), dtype=np.bool_)
    xywh = np.full((len(lines), 4), np.nan)
    first_with: dict[tuple[float | None, ...], int] = {}
    earlier = {}
    last = len(sequence) if sequence else None
    for index, line in enumerate(lines):
        numbers = [_number(cell) for cell in line.replace(",", " ").split()]
        no_number[index] = any(number is not None and not math.isfinite(number) for number in numbers)
        frame, track_id = (*numbers, None, None)[:2]
        if frame is not None and track_id is not None and (track_id >= 0 or not is_kitti):
            earlier[index] = first_with.setdefault((frame, track_id), index)
            again[index] = earlier[index] != index
        if not is_kitti and frame is not None and math.isfinite(frame):
            is_frame_beyond[index] = frame < 1 or (last is not None and frame > last)
        sides = [number for number in numbers[2:6] if number is not None and math.isfinite(number)]
        if not is_kitti and len(sides) == 4:
            xywh[index] = sides

    def place(index: int) -> str:
        return f"{path}:{index + 1}"

    found = _rows(place, no_number, lambda index: "a number that is not finite")
    found += _rows(place, again, lambda index: f"the id of line {earlier[index] + 1} again in the same frame")
    upto = "" if last is None else f" to {last}"
    found += _rows(place, is_frame_beyond, lambda index: f"a frame outside the sequence; they count from 1{upto}")
    is_flat = _is_flat(xywh)
    found += _rows(place, is_flat, lambda index: f"box {_box(xywh[index])} has no area")
    if sequence and sequence.image_size:
        found += _outside(place, xywh, sequence.image_size, ~np.isnan(xywh).any(axis=1) & ~is_flat)
    return found


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


# Frames


def check_frames(
    paths: Sequence[Path], stated: tuple[int, int] | None, every_image: bool, is_strict: bool
) -> list[Finding]:
    """Frames that are not there or cannot be read, and frames of another size than stated, or else than the first.

    The first and the last are decoded, with `every_image` all. Another size is a finding where `is_strict`, else a
    note.
    """
    found = [Finding(str(path), "no such image") for path in paths if not path.exists()]
    there = [path for path in paths if path.exists()] if found else paths
    chosen = there if every_image else [*there[:1], *there[1:][-1:]]
    size, others = stated, []
    for path, image in zip(chosen, _decoded(chosen), strict=True):
        if isinstance(image, str):
            found.append(Finding("", image))
        else:
            size = size or image
            others += [(path, image)] if image != size else []
    if others and size:
        more = f" (and {len(others) - 1:,} more frames)" if len(others) > 1 else ""
        told = f"got {_size(others[0][1])}; {'stated are' if stated else 'the first frame has'} {_size(size)}{more}"
        found.append(Finding(str(others[0][0]), told, is_note=not is_strict))
    return found


def _decoded(paths: Sequence[Path]) -> Iterator[tuple[int, int] | str]:
    """Width and height of each image, or why it cannot be read."""
    if len(paths) <= 2:
        yield from map(_decode, paths)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for begin in range(0, len(paths), BATCH):
            yield from pool.map(_decode, paths[begin : begin + BATCH])


def _decode(path: Path) -> tuple[int, int] | str:
    try:
        height, width = read_image(path).shape[:2]
    except VideoError as error:
        return str(error)
    return width, height
