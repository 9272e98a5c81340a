"""Single-object benchmarks, one function per layout: from a folder and a split to names and a reader of clips.

Nothing is read until a clip is asked for, but lists of names; boxes stay as published (OTB's, for one, count pixels
from 1). Names are the benchmark's own, whether a copy has all of them or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import Clip, Frames, Listing, first_there, has_area, list_names, natural, number_of
from sightline.datasets.sot_text import MAX_PX, Floats, read_flags, read_rows, read_text
from sightline.errors import DatasetError

LASOT_EXT_CLASSES = (
    "atv",
    "badminton",
    "cosplay",
    "dancingshoe",
    "footbag",
    "frisbee",
    "jianzi",
    "lantern",
    "misc",
    "opossum",
    "paddle",
    "raccoon",
    "rhino",
    "skatingshoe",
    "wingsuit",
)
LASOT_ATTRIBUTES = ("IV", "POC", "DEF", "MB", "CM", "ROT", "BC", "VC", "SV", "FOC", "FM", "OV", "LR", "ARC")
TNL2K_ATTRIBUTES = (
    "CM",
    "ROT",
    "DEF",
    "FOC",
    "IV",
    "OV",
    "POC",
    "VC",
    "SV",
    "BC",
    "MB",
    "ARC",
    "LR",
    "FM",
    "AS",
    "TC",
    "MS",
)
OTB_ATTRIBUTES = ("IV", "SV", "OCC", "DEF", "MB", "FM", "IPR", "OPR", "OV", "BC", "LR")
UAV123_ATTRIBUTES = ("SV", "ARC", "LR", "FM", "FOC", "POC", "OV", "BC", "IV", "VC", "CM", "SOB")

# First and last image that carries annotation, where that is not all of them
OTB_RANGES = {
    "BlurCar1": (247, 988),
    "BlurCar3": (3, 359),
    "BlurCar4": (18, 397),
    "David": (300, 770),
    "Diving": (1, 215),
    "Football1": (1, 74),
    "Freeman3": (1, 460),
    "Freeman4": (1, 283),
}
NFS_STEP = 8  # 240 frames per second to 30
NFS_COLUMNS = 10  # id xmin ymin xmax ymax frame lost occluded generated "label"


@cache
def packaged(name: str) -> tuple[str, ...]:
    """The lines of a list in `splits/`."""
    return tuple((files("sightline.datasets") / "splits" / f"{name}.txt").read_text("utf-8").split("\n")[:-1])


# LaSOT


def lasot_names(split: str) -> list[str]:
    """1,400 sequences: 70 classes, 1..20 of each. 1,120 are for training, the others the test set."""
    train = packaged("lasot_train")
    if split == "train":
        return list(train)
    classes = sorted({name.rpartition("-")[0] for name in train})
    everything = [f"{kind}-{number}" for kind in classes for number in range(1, 21)]
    return [name for name in everything if name not in set(train)]


def lasot(folder: Path, split: str) -> Listing[Clip]:
    """`CLASS/CLASS-N/{groundtruth.txt, full_occlusion.txt, out_of_view.txt, img/}`, or `CLASS-N` alone."""
    return _lasot(folder, lasot_names(split))


def lasot_ext(folder: Path, _split: str) -> Listing[Clip]:
    """As LaSOT: 15 other classes, 1..10 of each."""
    return _lasot(folder, [f"{kind}-{number}" for kind in LASOT_EXT_CLASSES for number in range(1, 11)])


def _lasot(folder: Path, names: Sequence[str]) -> Listing[Clip]:
    attributes = attribute_reader(folder, LASOT_ATTRIBUTES)

    def place(name: str) -> Path:
        return first_there(folder, f"{name.rpartition('-')[0]}/{name}", name)

    def read(name: str) -> Clip:
        home, kind = place(name), name.rpartition("-")[0]
        xywh = read_rows(home / "groundtruth.txt")
        flags = [read_flags(home / f"{flag}.txt", len(xywh)) for flag in ("full_occlusion", "out_of_view")]
        absent = np.maximum(*flags) == 1
        frames = Frames(home / "img", num_expected=len(xywh))
        present = has_area(xywh) & ~absent
        return Clip(name, frames, xywh, present, absent, None, None, kind, attributes(name), home / "groundtruth.txt")

    return Listing(names, place, read)


# GOT-10k


def got10k(folder: Path, split: str) -> Listing[Clip]:
    """`SPLIT/list.txt`, `SPLIT/SEQ/{%08d.jpg, groundtruth.txt, absence.label, cover.label, meta_info.ini}`.

    The parts of the training set are positions in its list; `paper-train` is `vot-train` and `vot-val` together, all
    but the thousand that neither has, as OSTrack's paper words it. The test set has one row, for the first frame.
    """
    official = "train" if split not in ("test", "val") else split
    home = folder / official
    listed = home / "list.txt"
    names = read_text(listed).split() if listed.exists() else got10k_names(official)
    if split != official:
        lists = ("vot-train", "vot-val") if split == "paper-train" else (split,)
        lines = [int(line) for part in lists for line in packaged(f"got10k_{part.replace('-', '_')}")]
        positions = sorted(lines) if split == "paper-train" else lines
        if max(positions) >= len(names):
            raise DatasetError(
                f"{listed}: got {len(names)} names; expected 9335, of which {split!r} is a part. Restore the "
                "official list."
            )
        names = [names[position] for position in positions]

    def read(name: str) -> Clip:
        sequence = home / name
        xywh = read_rows(sequence / "groundtruth.txt")
        meta = read_meta(sequence / "meta_info.ini")
        size = re.fullmatch(r"\((\d+), *(\d+)\)", meta.get("resolution", ""))
        is_public = official != "test"
        frames = Frames(sequence, num_expected=len(xywh) if is_public else None)
        absent = read_flags(sequence / "absence.label", len(xywh)) == 1 if is_public else None
        cover = read_flags(sequence / "cover.label", len(xywh), highest=8) if is_public else None
        present = has_area(xywh)
        if absent is not None and cover is not None:
            present &= ~absent & (cover > 0)
        image_size = (int(size[1]), int(size[2])) if size else None
        kind = meta.get("object_class", "")
        annotation = sequence / "groundtruth.txt"
        return Clip(name, frames, xywh, present, absent, cover, image_size, kind, annotation=annotation)

    return Listing(names, lambda name: home / name, read)


def got10k_names(official: str) -> list[str]:
    """The official names of the train, val or test set."""
    count = 9335 if official == "train" else 180
    return [f"GOT-10k_{official.capitalize()}_{number:06d}" for number in range(1, count + 1)]


def read_meta(path: Path) -> dict[str, str]:
    """`key: value` lines; {} where there is no such file, as in the test set."""
    if not path.exists():
        return {}
    pairs = (line.partition(":") for line in read_text(path).split("\n"))
    return {key.strip(): value.strip() for key, _, value in pairs}


# TrackingNet


def trackingnet(folder: Path, split: str) -> Listing[Clip]:
    """`TEST` or `TRAIN_0` .. `TRAIN_11`: `frames/ID/0.jpg ..`, `anno/ID.txt`; of the test set one row is public."""
    parts = ["TEST"] if split == "test" else [f"TRAIN_{number}" for number in range(12)]
    homes: dict[str, Path] = {}
    for part in parts:
        if (folder / part / "anno").is_dir() or split == "test":
            annotations = [name for name in list_names(folder / part / "anno") if name.endswith(".txt")]
            homes |= {name.removesuffix(".txt"): folder / part for name in annotations}

    def place(name: str) -> Path:
        return homes[name] / "anno" / f"{name}.txt"

    def read(name: str) -> Clip:
        xywh = read_rows(place(name))
        expected = None if split == "test" else len(xywh)
        frames = Frames(homes[name] / "frames" / name, number_of, num_expected=expected)
        return Clip(name, frames, xywh, has_area(xywh), annotation=place(name))

    return Listing(sorted(homes), place, read)


# NfS


def nfs(folder: Path, _split: str) -> Listing[Clip]:
    """`SEQ/30/{SEQ/%05d.jpg, SEQ.txt}`, the same at `SEQ/240`, or pytracking's `sequences/SEQ`, `anno/nfs_SEQ.txt`.

    Frames at 240 per second are read every eighth. The original annotation has a row for each of those, whatever the
    frames; one frame or row more than of the other is left out.
    """

    def place(name: str) -> Path:
        return first_there(folder, f"{name}/30/{name}.txt", f"{name}/240/{name}.txt", f"anno/nfs_{name}.txt")

    def read(name: str) -> Clip:
        annotation = place(name)
        is_original = annotation.parent.name != "anno"
        home = annotation.parent / name if is_original else folder / "sequences" / name
        xywh, lost = read_nfs_rows(annotation) if is_original else (read_rows(annotation), None)
        part = slice(None, None, NFS_STEP if annotation.parent.name == "240" else 1)
        frames = Frames(home, part=part).paths
        step = NFS_STEP if is_original and 2 * len(xywh) > NFS_STEP * len(frames) else 1
        xywh = xywh[::step]
        length = min(len(xywh), len(frames))
        if max(len(xywh), len(frames)) - length > 1:
            raise DatasetError(
                f"{annotation}: got {len(xywh)} rows for {len(frames)} frames at 30 per second in {home}; expected one "
                "each, give or take one. Complete the folder."
            )
        present = has_area(xywh[:length])
        if lost is not None:
            present &= ~lost[::step][:length]
        return Clip(name, frames[:length], xywh[:length], present, annotation=annotation, lines_per_row=step)

    return Listing(packaged("nfs"), place, read)


def read_nfs_rows(path: Path) -> tuple[Floats, NDArray[np.bool_]]:
    """Boxes, and whether the target is lost, of an annotation in ten columns, the last of which is a word."""
    boxes, lost = [], []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        cells = line.split(maxsplit=NFS_COLUMNS - 1)
        try:
            _, x_min, y_min, x_max, y_max, _, is_lost = map(float, cells[:7])
            if not max(map(abs, (x_min, y_min, x_max, y_max, is_lost))) <= MAX_PX:
                raise ValueError
        except ValueError:
            raise DatasetError(
                f"{path}:{number}: got {line[:40]!r}; expected id xmin ymin xmax ymax frame lost occluded generated "
                '"label". Correct the line.'
            ) from None
        boxes.append((x_min, y_min, x_max - x_min, y_max - y_min))
        lost.append(is_lost == 1)
    return np.array(boxes, dtype=np.float64), np.array(lost, dtype=np.bool_)


# UAV123


def uav123(folder: Path, _split: str) -> Listing[Clip]:
    """`data_seq/UAV123/VIDEO/%06d.jpg`, `anno/UAV123/SEGMENT.txt`: 123 segments of 91 videos; nan is no target."""
    segments = {name: (int(first), int(last)) for name, first, last in map(str.split, packaged("uav123"))}
    attributes = attribute_reader(folder, UAV123_ATTRIBUTES)

    def place(name: str) -> Path:
        return folder / "anno" / "UAV123" / f"{name}.txt"

    def read(name: str) -> Clip:
        xywh, (first, last) = read_rows(place(name)), segments[name]
        video = re.sub(r"_\d+$", "", name)
        frames = Frames(folder / "data_seq" / "UAV123" / video, number_of, first, last, num_expected=len(xywh))
        present = has_area(xywh)
        return Clip(name, frames, xywh, present, attributes=attributes(name), annotation=place(name))

    return Listing(list(segments), place, read)


# OTB


def otb(folder: Path, _split: str) -> Listing[Clip]:
    """`SEQ/{groundtruth_rect.txt, img/%04d.jpg}`, 1-based boxes. SEQ-1 and SEQ-2 are two targets of one video, whose
    boxes are in `groundtruth_rect.1.txt` and `.2.txt`."""
    attributes = attribute_reader(folder, OTB_ATTRIBUTES)

    def place(name: str) -> Path:
        video, _, target = name.partition("-")
        return folder / video / f"groundtruth_rect{target and '.'}{target}.txt"

    def read(name: str) -> Clip:
        xywh, home = read_rows(place(name)), place(name).parent
        first, last = OTB_RANGES.get(home.name, (None, None))
        frames = Frames(home / "img", number_of, first, last, num_expected=len(xywh))
        present = has_area(xywh)
        return Clip(name, frames, xywh, present, attributes=attributes(name), annotation=place(name))

    return Listing(packaged("otb100"), place, read)


# TNL2K


def tnl2k(folder: Path, split: str) -> Listing[Clip]:
    """`SEQ/{groundtruth.txt, imgs/*}` in `TNL2K_test_subset` or `TNL2K_train_subset`, there perhaps a folder deeper.

    Images have names and kinds of many sorts, and are in the order of their names. A box of zeros: no target.
    """
    home = next((path for path in (folder / f"TNL2K_{split}_subset", folder / split) if path.is_dir()), folder)
    homes: dict[str, Path] = {}
    for name in list_names(home, of_folders=True):
        if (home / name / "groundtruth.txt").exists():
            homes[name] = home / name
        elif not (home / name / "imgs").exists():
            homes |= {inner: home / name / inner for inner in list_names(home / name, of_folders=True)}
        else:
            homes[name] = home / name
    attributes = attribute_reader(folder, TNL2K_ATTRIBUTES)

    def read(name: str) -> Clip:
        annotation = homes[name] / "groundtruth.txt"
        xywh = read_rows(annotation)
        frames = Frames(homes[name] / "imgs", num_expected=len(xywh))
        return Clip(name, frames, xywh, has_area(xywh), attributes=attributes(name), annotation=annotation)

    return Listing(sorted(homes, key=natural), lambda name: homes[name], read)


# Attributes


def attribute_reader(folder: Path, columns: tuple[str, ...]) -> Callable[[str], tuple[str, ...] | None]:
    """From a sequence to the attributes that it has, or None where nothing says.

    Flags 0 or 1 in the order of `columns` are read from `att/SEQ.txt` as the toolkits have it (also in `anno`, `annos`,
    `anno/UAV123`), or from one `attributes.csv` with a heading: sequence, then the attributes.
    """
    path = folder / "attributes.csv"
    if path.exists():
        return read_attribute_table(path).get
    places = (folder / part / "att" for part in ("", "anno", "annos", "anno/UAV123"))
    home = next((place for place in places if place.is_dir()), None)

    def read(name: str) -> tuple[str, ...] | None:
        if home is None or not (home / f"{name}.txt").exists():
            return None
        flags = read_flags(home / f"{name}.txt", len(columns))
        return tuple(column for column, flag in zip(columns, flags, strict=True) if flag)

    return read


def read_attribute_table(path: Path) -> dict[str, tuple[str, ...]]:
    heading, *rows = [line.split(",") for line in read_text(path).split("\n")]
    found = {}
    for number, (name, *flags) in enumerate(rows, 2):
        if len(flags) != len(heading) - 1 or not set(flags) <= {"0", "1"}:
            raise DatasetError(
                f"{path}:{number}: got {','.join([name, *flags])[:40]!r}; expected a sequence and {len(heading) - 1} "
                "flags 0 or 1. Correct the line."
            )
        found[name] = tuple(column for column, flag in zip(heading[1:], flags, strict=True) if flag == "1")
    return found
