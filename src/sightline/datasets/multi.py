"""Multi-object sequences in the layouts of MOTChallenge (MOT15 to MOT20, DanceTrack) and KITTI tracking."""

from __future__ import annotations

import configparser
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sightline.datasets.clips import IMAGE_SUFFIXES, Frames, Listing, list_names, natural, number_of
from sightline.datasets.mot_text import MAX_FRAMES, FileRows, KittiRows, MotRows, read_kitti, read_mot_truth
from sightline.datasets.sot_text import read_text
from sightline.errors import DatasetError

MOT_NAMES = {
    (
        "MOT15",
        "train",
    ): "ADL-Rundle-6 ADL-Rundle-8 ETH-Bahnhof ETH-Pedcross2 ETH-Sunnyday KITTI-13 KITTI-17 PETS09-S2L1 "
    "TUD-Campus TUD-Stadtmitte Venice-2",
    ("MOT15", "test"): "ADL-Rundle-1 ADL-Rundle-3 AVG-TownCentre ETH-Crossing ETH-Jelmoli ETH-Linthescher KITTI-16 "
    "KITTI-19 PETS09-S2L2 TUD-Crossing Venice-1",
    ("MOT16", "train"): "02 04 05 09 10 11 13",
    ("MOT16", "test"): "01 03 06 07 08 12 14",
    ("MOT20", "train"): "01 02 03 05",
    ("MOT20", "test"): "04 06 07 08",
}
KITTI_MAX_FRAMES = 10**6  # images are numbered in six digits
MOT17_DETECTORS = ("DPM", "FRCNN", "SDP")  # every video is there three times


@dataclass(frozen=True, eq=False)
class MotSequence:
    """One sequence with boxes of many targets.

    `frames` are image files; `truth` are the rows of the ground truth, None where it is not public. `image_size` is
    (width, height) in pixels, `fps` frames per second, both as stated, None where nothing states them. `annotation` is
    the file of the rows, or where they would be.
    """

    name: str
    frames: Sequence[Path]
    truth: MotRows | KittiRows | None
    image_size: tuple[int, int] | None
    fps: float | None
    annotation: Path

    def __len__(self) -> int:
        return len(self.frames)


# MOTChallenge


def mot_names(benchmark: str, split: str) -> list[str]:
    """The official names of a MOT15, MOT16, MOT17 or MOT20 split."""
    numbers = MOT_NAMES["MOT16" if benchmark == "MOT17" else benchmark, split].split()
    if benchmark == "MOT15":
        return numbers
    copies = [f"-{detector}" for detector in MOT17_DETECTORS] if benchmark == "MOT17" else [""]
    return [f"{benchmark}-{number}{copy}" for number in numbers for copy in copies]


def motchallenge(folder: Path, split: str, benchmark: str) -> Listing[MotSequence]:
    """`train|test/SEQ/{img1/%06d.jpg, gt/gt.txt, seqinfo.ini}`.

    The halves of the training set are those of its n frames 0..n // 2, both included, and the others, counted anew;
    of MOT17's three copies only FRCNN.
    """
    home = folder / ("train" if split.startswith("half") else split)
    names = mot_names(benchmark, home.name)
    if benchmark == "MOT17" and split.startswith("half"):
        names = [name for name in names if name.endswith("FRCNN")]

    def read(name: str) -> MotSequence:
        sequence = read_mot_sequence(home / name, has_class=benchmark != "MOT15")
        return half(sequence, is_first=split == "half-train") if split.startswith("half") else sequence

    return Listing(names, lambda name: home / name, read)


def dancetrack(folder: Path, split: str) -> Listing[MotSequence]:
    """`train|val|test/dancetrackNNNN/{img1/%08d.jpg, gt/gt.txt, seqinfo.ini}`."""
    return own_sequences(folder / split, "all")


def own_sequences(folder: Path, _split: str) -> Listing[MotSequence]:
    """All folders with a `seqinfo.ini`, or one such folder.

    One that has `img1` or `gt/gt.txt` alone is among the names, and an error when it is asked for.
    """
    if (folder / "seqinfo.ini").exists():
        return Listing([folder.name], lambda name: folder, lambda name: read_mot_sequence(folder))
    marks = ("seqinfo.ini", "img1", "gt/gt.txt")
    there = list_names(folder, of_folders=True)
    names = (name for name in there if any((folder / name / mark).exists() for mark in marks))
    return Listing(sorted(names, key=natural), lambda name: folder / name, partial(_read_named, folder))


def _read_named(folder: Path, name: str) -> MotSequence:
    return read_mot_sequence(folder / name)


def read_mot_sequence(folder: Path, has_class: bool = True) -> MotSequence:
    """`SEQ/{seqinfo.ini, img1/, gt/gt.txt}`; without `gt/gt.txt` there is no truth. `has_class` is False for MOT15."""
    sequence = read_seqinfo(folder)
    if not sequence.annotation.exists():
        return sequence
    return replace(sequence, truth=read_mot_truth(sequence.annotation, len(sequence), has_class))


def read_seqinfo(folder: Path) -> MotSequence:
    """What `SEQ/seqinfo.ini` says of a sequence, without its truth."""
    path = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path))
        info = parser["Sequence"]
        length, width, height = (int(info[key]) for key in ("seqLength", "imWidth", "imHeight"))
        fps = float(info["frameRate"])
        images = info.get("imDir", "img1")
        if min(length, width, height) < 1 or max(length, width, height) > MAX_FRAMES:
            raise ValueError(f"seqLength {length}, imWidth {width}, imHeight {height}")
    except (configparser.Error, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(
            f"{path}: got {reason}; expected [Sequence] with seqLength, imWidth, imHeight, frameRate. Correct the file."
        ) from error
    frames = Frames(folder / images, number_of, num_expected=length)
    return MotSequence(folder.name, frames, None, (width, height), fps, folder / "gt" / "gt.txt")


def half(sequence: MotSequence, is_first: bool) -> MotSequence:
    """The first half of a sequence of n frames, 0..n // 2, both included, or the rest, its frames counted from 0."""
    cut = len(sequence) // 2 + 1
    kept = slice(0, cut) if is_first else slice(cut, len(sequence))
    truth = sequence.truth
    if isinstance(truth, FileRows):
        inside = (truth.frame >= kept.start) & (truth.frame < kept.stop)
        truth = truth.take(inside, kept.start)
    assert isinstance(sequence.frames, Frames)
    return replace(sequence, frames=replace(sequence.frames, part=kept), truth=truth)


# KITTI


def kitti(folder: Path, split: str) -> Listing[MotSequence]:
    """`training|testing/image_02/%04d/%06d.png`, `training/label_02/%04d.txt`.

    How long a sequence is says `evaluate_tracking.seqmap.training` where it is there, in `folder` or `training`; else
    the last image or row. A frame has the number in its name: where an image is missing, the others keep theirs.
    """
    home = folder / ("training" if split == "train" else "testing")
    names = [f"{number:04d}" for number in range(21 if split == "train" else 29)]

    def place(name: str) -> Path:
        return home / "label_02" / f"{name}.txt" if split == "train" else home / "image_02" / name

    def read(name: str) -> MotSequence:
        annotation = home / "label_02" / f"{name}.txt"
        length = _kitti_lengths(folder, home).get(name)
        truth = read_kitti(annotation, length or KITTI_MAX_FRAMES) if split == "train" else None
        images = home / "image_02" / name
        if length is None:
            there = list_names(images) if images.is_dir() else []
            last = [number_of(file) for file in there if file.lower().endswith(IMAGE_SUFFIXES)]
            length = 1 + max([*last, *(truth.frame.tolist() if truth else []), -1])
        frames = tuple(images / f"{number:06d}.png" for number in range(length))
        return MotSequence(name, frames, truth, None, 10.0, annotation)

    return Listing(names, place, read)


def _kitti_lengths(folder: Path, home: Path) -> dict[str, int]:
    """Sequence -> number of frames, from the fourth column of a seqmap; {} without one."""
    name = f"evaluate_tracking.seqmap.{home.name}"
    path = next((place / name for place in (folder, home) if (place / name).exists()), None)
    if path is None:
        return {}
    lengths = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        cells = line.split()
        if len(cells) != 4 or not re.fullmatch("[0-9]{1,6}", cells[3]):
            raise DatasetError(
                f"{path}:{number}: got {line[:40]!r}; expected sequence, empty, first, last + 1. Correct the line."
            )
        lengths[cells[0]] = int(cells[3])
    return lengths
