"""Where training examples come from, one text for each source: NAME[:SPLIT][=FOLDER][*WEIGHT], or a folder alone.

    open_sources(["got10k:vot-train", "lasot=LaSOTBenchmark*0.5", "clips/*2"], "/data")

NAME is a row of `DATASETS`, or one of `OTHERS`. Of a folder alone the layout is found out.
"""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from sightline.datasets.clips import Clip, Listing, list_names, natural, own_boxes, split_names
from sightline.datasets.footage import (
    VIDEO_SUFFIXES,
    Footage,
    Source,
    annotated_videos,
    clips_footage,
    stills_footage,
    targets_footage,
    videos_footage,
)
from sightline.datasets.root import bare, dataset_folder
from sightline.datasets.shards import open_shards
from sightline.datasets.stills import read_zipped, read_zipped_stills
from sightline.datasets.table import DATASETS, Dataset, folder_of, open_dataset
from sightline.errors import DatasetError

log = logging.getLogger("sightline")

OTHERS = ("shards", "videos", "tiny_imagenet")
NAMED = re.compile(r"([\w .-]+)(?::([\w-]+))?(?:=(.+))?")
MAX_DEPTH = 2  # of folders in a folder whose layout is found out
FLAGS = {"absence.label": "got10k", "full_occlusion.txt": "lasot", "out_of_view.txt": "lasot"}
LAYOUTS = (
    "shards.json, boxes.csv beside images.zip, annotations.json beside img/, sequences with gt/gt.txt, folders of "
    "frames with groundtruth.txt, or videos with a .txt each"
)


def open_source(text: str, root: str | Path | None = None) -> Source:
    """The one source that a text names, as `open_sources` does; `DatasetError` where they are several."""
    sources = open_sources([text], root)
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise DatasetError(f"source {text!r}: got {len(sources)}: {names}; expected one. Name one of their folders.")
    return sources[0]


def open_sources(texts: Sequence[str], root: str | Path | None = None) -> list[Source]:
    """All sources of these texts, in their order.

    NAME[:SPLIT] is a data set under `root`, without which `SIGHTLINE_DATA` or the config file says, as for
    `open_dataset`. FOLDER is relative to `root`, without one to the working folder. WEIGHT, by default 1, multiplies
    what a pack of shards gives its sources. Without SPLIT it is "train", of a set that has no such one "all".

    In a folder alone, if it has none of the known layouts, each folder of one is a source. Of clips beside a
    `split.json` that names "train" it is these; the log says so, and how many footage each source has.

    Opening lists folders and reads lists, the clips of a person's own, the text of all sequences of many targets, and
    JSON of images (10 s for the boxes of COCO). Of a copy that lacks sequences those there are taken, with a
    warning. Raises `DatasetError` for a text that is none of these, an unknown NAME or SPLIT, a folder that is missing
    or in no known layout, and a source without any footage that can be opened.
    """
    if not texts:
        raise DatasetError("training data: got no source; expected NAME[:SPLIT][=FOLDER][*WEIGHT]. Name one.")
    return [source for text in texts for source in _open(text, root)]


def _open(text: str, root: str | Path | None) -> list[Source]:
    place, weight = split_weight(text)
    named = NAMED.fullmatch(place)
    name, split, folder = named.groups(default="") if named else ("", "", "")
    if known := {bare(name): name for name in (*DATASETS, *OTHERS)}.get(bare(name)):
        sources = _open_named(known, split, _under(folder, root) if folder else root)
    elif not place or split or folder or not (path := _under(place, root)).exists():
        raise _unknown(text, name, root)
    else:
        sources = _open_folder(path)
    for source in sources:
        log.info("%s: %s %s", source.name, f"{len(source.footage):,}", "boxes" if source.kind == "stills" else "clips")
    return [replace(source, weight=source.weight * weight) for source in sources]


def split_weight(text: str) -> tuple[str, float]:
    """A source's text without its weight, and that."""
    place, star, tail = text.rpartition("*")
    try:
        weight = float(tail) if star else 1.0
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise DatasetError(f"source {text!r}: got the weight {tail!r}; expected a positive number. Write {place}*2.")
    return (place if star else text).strip(), weight


def _under(folder: str, root: str | Path | None) -> Path:
    return Path(root or "").expanduser() / Path(folder).expanduser()


def _unknown(text: str, name: str, root: str | Path | None) -> DatasetError:
    if not name:
        return DatasetError(
            f"source {text!r}: got no such folder in {root or Path.cwd()}; expected one. Check the path."
        )
    close = difflib.get_close_matches(bare(name), [*DATASETS, *OTHERS], n=1)
    advice = f"Did you mean {close[0]!r}?" if close else "Run: sightline data"
    expected = f"a folder, or one of {', '.join((*DATASETS, *OTHERS))}"
    return DatasetError(f"source {text!r}: got {name!r}; expected {expected}. {advice}")


# By name


def _open_named(name: str, split: str, root: str | Path | None) -> list[Source]:
    if name in DATASETS:
        split = split or _training_split(name, root)
        return [_source_of(open_dataset(name, split, root), f"{name}:{split}")]
    if split:
        raise DatasetError(f"{name}: got the split {split!r}; expected none. Leave it out.")
    return _open_layout(name, dataset_folder(name, (name,), root, DATASETS), name)


def _training_split(name: str, root: str | Path | None) -> str:
    splits = DATASETS[name].counts
    if name == "folder" and "train" in split_names(home := folder_of(name, root)):
        log.info("%s: the clips that split.json names as 'train'", home)
        return "train"
    if split := next((split for split in ("train", "all") if split in splits), None):
        return split
    raise DatasetError(
        f"{name}: got no split; expected one of {', '.join(splits)}, none of which is meant for training. "
        f"Write {name}:{next(iter(splits))} to train on it all the same."
    )


def _source_of(dataset: Dataset[Any], label: str) -> Source:
    if dataset.row.kind == "images":
        return _source(label, "stills", stills_footage(dataset))
    names = dataset.names
    if dataset.annotated is None and (missing := set(dataset.missing())):
        names = [name for name in names if name not in missing]
        what = f"{len(names):,} of {len(dataset):,} sequences"
        log.warning("%s: only %s are in %s; %s is not", label, what, dataset.folder, min(missing))
    if dataset.row.kind == "mot":
        return _source(label, "clips", targets_footage(map(dataset.listing.read, names)))
    open_listing = cast(Callable[[], Listing[Clip]], partial(dataset.row.layout, dataset.folder, dataset.split))
    return _source(label, "clips", clips_footage(open_listing, names), every=dataset.name == "folder")


def _source(label: str, kind: Literal["clips", "stills"], footage: Sequence[Footage], every: bool = False) -> Source:
    """Footage that shows a target somewhere. `every` reads all of it: what a person made, before a run begins."""
    is_shown = False
    for index in range(len(footage)):
        try:
            is_shown |= bool(footage[index].is_visible.any())
        except DatasetError:
            if every or index == len(footage) - 1:
                raise
        if is_shown and not every:
            break
    if not is_shown:
        raise DatasetError(f"{label}: got no box that can be trained on; expected some. Check the annotation.")
    return Source(label, kind, footage)


# By layout


def _open_folder(folder: Path) -> list[Source]:
    """The source that a folder is, or those in it; `DatasetError` for a benchmark, which can look like one's own."""
    home, sources = folder.resolve(), []
    for layout, place in _find_layouts(home, MAX_DEPTH):
        if layout in ("mot", "folder", "videos"):
            _refuse_benchmark(home, place)
        sources += _open_layout(layout, place, place.relative_to(home.parent).as_posix())
    if not sources:
        raise DatasetError(f"{folder}: got a folder in no known layout; expected {LAYOUTS}. Name the right folder.")
    return sources


def _find_layouts(folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
    """A layout and its folder, for the folder itself or else for those in it."""
    if layout := _layout_of(folder):
        yield layout, folder
        if layout == "folder" and annotated_videos(folder):  # clips of both kinds, side by side
            yield "videos", folder
    elif depth:
        for name in sorted(list_names(folder, of_folders=True), key=natural):
            yield from _find_layouts(folder / name, depth - 1)


def _layout_of(folder: Path) -> str:
    """A name of `OTHERS`, or "images", "mot" or "folder"; "" where it is none of these."""
    if (folder / "shards.json").is_file():
        return "shards"
    if (folder / "boxes.csv").is_file() and (folder / "images.zip").is_file():
        return "tiny_imagenet"
    if (folder / "annotations.json").is_file():
        return "images"
    inside = [folder, *(folder / name for name in list_names(folder, of_folders=True))]
    if any((place / "gt" / "gt.txt").is_file() for place in inside):
        return "mot"
    if any(own_boxes(place) for place in inside):
        return "folder"
    return "videos" if annotated_videos(folder) else ""


def _refuse_benchmark(home: Path, place: Path) -> None:
    """Of a benchmark the splits must be heeded, and its own reader knows more of it."""
    official = {bare(called): name for name, row in DATASETS.items() if row.page for called in (name, *row.folders)}
    while bare(place.name) not in official:
        if place == home:
            return
        place = place.parent
    name = official[bare(place.name)]
    split = "train" if "train" in DATASETS[name].splits else next(iter(DATASETS[name].splits))
    raise DatasetError(
        f"{place}: got a folder called like a benchmark; expected its name and a split. Write "
        f"{name}:{split}={place}, or folder={place} for clips of your own."
    )


def _refuse_flags(folder: Path) -> None:
    """Files that say where a target is hidden, which the reader of one's own clips would pass over."""
    for place in (folder, *(folder / name for name in list_names(folder, of_folders=True))):
        for flags, name in FLAGS.items():
            if (place / flags).is_file():
                raise DatasetError(
                    f"{place}: got {flags}, which the layout of one's own clips does not know; expected absent.txt. "
                    f"Write {name}:SPLIT={folder}, or rename the file: 1 for a frame without the target, 0 for others."
                )


def _open_layout(layout: str, folder: Path, label: str) -> list[Source]:
    if layout == "shards":
        return open_shards(folder)
    if layout == "tiny_imagenet":
        read = partial(read_zipped, folder / "images.zip")
        return [_source(label, "stills", stills_footage(read_zipped_stills(folder), read))]
    if layout == "videos":
        films = [name for name in list_names(folder) if Path(name).suffix.lower() in VIDEO_SUFFIXES]
        annotated = annotated_videos(folder)
        if left := len(films) - len(annotated):
            log.warning("%s: %d of %d videos have no .txt of boxes beside them", label, left, len(films))
        return [_source(label, "clips", videos_footage(annotated), every=True)]
    split = _training_split(layout, folder)
    if layout == "folder":
        _refuse_flags(folder)
    return [_source_of(open_dataset(layout, split, folder), label if split == "all" else f"{label}:{split}")]
