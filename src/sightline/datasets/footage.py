"""What training examples are drawn from: pictures of one target with its box in each, whatever they are stored as.

Footage of many targets is a sequence that makes one when it is asked for, and that other processes may have a copy of
(pickle). Targets of the same video or image are called alike up to the last "/" of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import Clip, Listing, has_area
from sightline.datasets.mot_text import FileRows, KittiRows, MotRows
from sightline.datasets.multi import MotSequence
from sightline.datasets.sot_text import read_flags, read_rows
from sightline.datasets.stills import Still
from sightline.errors import DatasetError, VideoError
from sightline.geometry.boxes import xyxy_to_xywh
from sightline.imaging.frames import read_image

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
KEPT_CLIPS = 128  # of each source, in each process


@dataclass(frozen=True, eq=False)
class Footage:
    """Pictures of one target, in order; a still image is footage of one picture.

    `xywh` (N, 4) float64 in pixels of the pictures as `read` returns them. `is_visible` (N,) bool: the target is there,
    not wholly hidden, and its box has an area. `read(index)` decodes one picture, (H, W, 3) uint8 RGB, and raises
    `DatasetError` or `VideoError` for one that cannot be read. `read_all()` decodes all of them in order, which is much
    cheaper than one by one where they are a video.
    """

    name: str
    xywh: NDArray[np.float64]
    is_visible: NDArray[np.bool_]
    read: Callable[[int], Image]
    read_all: Callable[[], Iterator[Image]]

    def __len__(self) -> int:
        return len(self.xywh)


@dataclass(frozen=True, eq=False)
class Source:
    """A sequence of footage and its weight in the draw; `footage[i]` is read when it is asked for.

    `kind` is "clips", or "stills" where every footage is one picture (of one of the targets in it).
    """

    name: str
    kind: Literal["clips", "stills"]
    footage: Sequence[Footage]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class LazyFootage(Sequence[Footage]):
    """`num_footage` of them, of which `make(index)` makes one; nothing is kept but what `make` keeps."""

    num_footage: int
    make: Callable[[int], Footage]

    def __len__(self) -> int:
        return self.num_footage

    @overload
    def __getitem__(self, index: int) -> Footage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Footage]: ...
    def __getitem__(self, index: int | slice) -> Footage | list[Footage]:
        chosen = range(self.num_footage)[index]
        return self.make(chosen) if isinstance(chosen, int) else [self.make(position) for position in chosen]


def _one_by_one(name: str, xywh: Floats, is_visible: NDArray[np.bool_], read: Callable[[int], Image]) -> Footage:
    return Footage(name, xywh, is_visible, read, lambda: map(read, range(len(xywh))))


# Clips


def clip_footage(clip: Clip) -> Footage:
    """The frames of a clip. Raises `DatasetError` where they have no box each, as in a test set whose truth is kept."""
    if len(clip.xywh) != len(clip.frames):
        raise DatasetError(
            f"{clip.annotation or clip.name}: got {len(clip.xywh)} boxes for {len(clip.frames)} frames; expected one "
            "each. Take a split whose truth is public."
        )
    is_visible = clip.is_present if clip.cover is None else clip.is_present & (clip.cover > 0)
    frames = clip.frames
    return _one_by_one(clip.name, clip.xywh, is_visible, lambda index: read_image(frames[index]))


def clips_footage(open_listing: Callable[[], Listing[Clip]], names: Sequence[str]) -> LazyFootage:
    """The clips of these names, each read when it is asked for: 20 ms for 2,500 frames, mostly to list their folder.

    The newest `KEPT_CLIPS` are kept, by every process its own. Where a process gets a copy it calls `open_listing`
    again, which therefore is a function that pickle knows.
    """
    return LazyFootage(len(names), _Clips(open_listing, names).footage)


class _Clips:
    def __init__(self, open_listing: Callable[[], Listing[Clip]], names: Sequence[str]) -> None:
        self.open_listing, self.names = open_listing, names
        read = open_listing().read
        self.kept = lru_cache(maxsize=KEPT_CLIPS)(lambda index: clip_footage(read(names[index])))

    def __reduce__(self) -> tuple[object, ...]:
        return _Clips, (self.open_listing, self.names)

    def footage(self, index: int) -> Footage:
        return self.kept(index)


# Sequences of many targets


def targets_footage(sequences: Iterable[MotSequence]) -> LazyFootage:
    """Footage of every identity: the frames that it has a row in, in order, and no others.

    Rows with the mark 0 count as none, KITTI's regions neither; a visibility of 0 is a target that cannot be seen.
    Identities without a visible box are left out, and sequences without truth. All sequences are read here, and their
    boxes kept: 41 bytes a row.
    """
    frames: list[Sequence[Path]] = []
    names: list[str] = []
    tables = [np.empty((0, 8))]  # sequence, identity, frame, is visible, x, y, w, h
    for sequence in sequences:
        if sequence.truth is not None:
            tables.append(_table(len(frames), sequence.truth))
            frames.append(sequence.frames)
            names.append(sequence.name)
    rows = np.concatenate(tables)
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    begin = np.flatnonzero(np.diff(rows[:, :2], axis=0, prepend=np.full((1, 2), -1)).any(axis=1))
    is_visible = rows[:, 3] > 0
    runs = np.stack([begin, np.append(begin, len(rows))[1:]], axis=1)
    runs = runs[np.logical_or.reduceat(is_visible, begin)] if len(begin) else runs
    owner, frame = rows[runs[:, 0], :2].astype(np.int64), rows[:, 2].astype(np.int64)
    return LazyFootage(len(runs), _Targets(names, frames, owner, runs, frame, is_visible, rows[:, 4:].copy()).footage)


class _Targets(NamedTuple):
    """Rows of all sequences. Of each identity `owner` (I, 2) is sequence and id, `runs` (I, 2) its first row and the
    one past its last."""

    names: list[str]
    frames: list[Sequence[Path]]
    owner: Ints
    runs: NDArray[np.intp]
    frame: Ints
    is_visible: NDArray[np.bool_]
    xywh: Floats

    def footage(self, index: int) -> Footage:
        run = slice(*self.runs[index].tolist())
        sequence, identity = self.owner[index].tolist()
        frames, numbers = self.frames[sequence], self.frame[run].tolist()
        return _one_by_one(
            f"{self.names[sequence]}/{identity}",
            self.xywh[run],
            self.is_visible[run],
            lambda position: read_image(frames[numbers[position]]),
        )


def _table(number: int, truth: MotRows | KittiRows) -> Floats:
    xywh = truth.xywh if isinstance(truth, MotRows) else xyxy_to_xywh(truth.xyxy)
    is_visible = has_area(xywh)
    if isinstance(truth, FileRows) and truth.visibility is not None:
        is_visible &= truth.visibility != 0
    is_target = truth.track_id >= 0
    if isinstance(truth, MotRows):
        is_target &= truth.mark != 0
    columns = (np.full(len(xywh), number), truth.track_id, truth.frame, is_visible, *xywh.T)
    return np.stack(columns, axis=1).astype(np.float64)[is_target]


# Images


def stills_footage(stills: Iterable[Still], read: Callable[[Path], Image] = read_image) -> LazyFootage:
    """Footage of one picture for every box that has an area. `read` decodes an image; pickle must know it.

    What is kept are a few large arrays, which processes share: 40 bytes a box, four for each letter of a path.
    """
    paths: list[str] = []
    boxes = [np.empty((0, 4))]
    for still in stills:
        paths.append(str(still.path))
        boxes.append(still.xywh)
    image = np.repeat(np.arange(len(paths)), [len(rows) for rows in boxes[1:]])
    xywh = np.concatenate(boxes)
    kept = has_area(xywh)
    return LazyFootage(int(kept.sum()), _Boxes(np.array(paths, np.str_), image[kept], xywh[kept], read).footage)


class _Boxes(NamedTuple):
    """Boxes (B, 4) and the images (B,) that they are in, which rise."""

    paths: NDArray[np.str_]
    image: NDArray[np.intp]
    xywh: Floats
    read_image: Callable[[Path], Image]

    def footage(self, index: int) -> Footage:
        path, read = Path(str(self.paths[self.image[index]])), self.read_image
        number = index - int(np.searchsorted(self.image, self.image[index]))
        xywh = self.xywh[index : index + 1]
        return _one_by_one(f"{path.stem}/{number}", xywh, np.ones(1, dtype=np.bool_), lambda _: read(path))


# Videos


def annotated_videos(folder: Path) -> list[Path]:
    """The videos of a folder that have a text of boxes beside them, in the order of their names."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in VIDEO_SUFFIXES and path.with_suffix(".txt").is_file()
    )


def video_footage(path: Path) -> Footage:
    """`NAME.mp4` beside `NAME.txt`, an x,y,w,h row per frame, in pixels of the upright picture.

    Where some frame has no target, `NAME.absent.txt` has 1 for it, 0 for the others. `read` costs as much as decoding
    from the key frame before, mostly 10 to 250 frames (`video.seek`): pack videos that are trained on for long. Raises
    `DatasetError` for the texts; `read_all` does at its end, where there is not a row for each frame.
    """
    annotation, flags = path.with_suffix(".txt"), path.with_suffix(".absent.txt")
    xywh = read_rows(annotation)
    is_visible = has_area(xywh)
    if flags.exists():
        is_visible &= read_flags(flags, len(xywh)) == 0
    return Footage(
        path.stem,
        xywh,
        is_visible,
        partial(_read_frame, path, len(xywh)),
        partial(_read_frames, path, len(xywh), annotation),
    )


def videos_footage(paths: Sequence[Path]) -> LazyFootage:
    """Footage of annotated videos, whose texts are read when they are asked for."""
    return LazyFootage(len(paths), partial(_video_at, tuple(paths)))


def _video_at(paths: Sequence[Path], index: int) -> Footage:
    return video_footage(paths[index])


def _read_frame(path: Path, num_frames: int, index: int) -> Image:
    from sightline.video.seek import read_frame

    return read_frame(path, index, num_frames)


def _read_frames(path: Path, num_frames: int, annotation: Path) -> Iterator[Image]:
    from sightline.video.film import open_video

    count = 0
    with open_video(path) as source:
        for count, frame in enumerate(source, 1):
            if count > num_frames:
                continue
            if frame.rgb is None:
                raise VideoError(frame.error)
            yield frame.rgb
    if count != num_frames:
        raise DatasetError(
            f"{annotation}: got {num_frames} rows for {count} frames of {path.name}; expected one x,y,w,h row per "
            "frame. Complete the file."
        )
