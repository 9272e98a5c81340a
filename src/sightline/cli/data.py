"""`sightline data`: the data sets that can be read, a check of one's copies, and packing them for training."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro

from sightline.datasets.check import check
from sightline.datasets.root import dataset_folder, is_root_named
from sightline.datasets.table import DATASETS, Dataset, NothingThere, chosen_split, dataset_row, folder_of, open_dataset
from sightline.errors import DatasetError, SightlineError

NOTE = (
    "Name the folder that holds them once, in SIGHTLINE_DATA or with --data; nothing is downloaded or changed. "
    "sightline data check NAME says what is missing or broken in a copy."
)


def data(
    words: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[check NAME | pack SOURCE ...]", help_behavior_hint=""),
    ] = (),
    data: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")] = None,
    split: Annotated[str, tyro.conf.arg(metavar="SPLIT", help_behavior_hint="")] = "",
    images: tyro.conf.FlagCreatePairsOff[bool] = False,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER", help_behavior_hint="")] = None,
    side: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 400,
    crop: Annotated[float | None, tyro.conf.arg(metavar="FACTOR", help_behavior_hint="")] = None,
    quality: Annotated[int, tyro.conf.arg(metavar="1..100")] = 92,
    skip_unreadable: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """List the data sets that can be read, check a copy of one, or pack some for training.

    sightline data:
        The table: names, splits with their number of sequences, and where a copy was found.

    sightline data check NAME:
        Read all annotation of the copy and report, with file and line. Exit status 0: nothing found, 1: something was.
        A note is worth knowing and no fault.

    sightline data pack SOURCE ... -o FOLDER:
        Write pictures and boxes to few files, small, which a training reads much faster: sightline train NAME
        --data FOLDER. SOURCE is NAME[:SPLIT][=FOLDER][*WEIGHT], or a folder, as for a training.

    Args:
        words: As above.
        data: The folder that holds the data sets, or this one; by default SIGHTLINE_DATA or the config file says.
        split: check: one split, by default every official one of which something is there.
        images: check: decode every frame, not only the first and the last of each sequence.
        output: pack: the folder to write, a new or empty one.
        side: pack: the longer side of a picture, at most; of a square, with --crop.
        crop: pack: a square around the target instead of the frame, FACTOR sqrt(w h) of its box long. 8 leaves room for
            the jitter of sightline-nano's training; 10, with --side 640, for that of ostrack-256 and mvt.
        quality: pack: of the JPEGs.
        skip_unreadable: pack: leave out pictures that cannot be read, and count them, instead of stopping at the first.
    """
    match words:
        case ():
            show_all(data)
            return 0
        case ("check", name):
            return check_splits(name, data, split, images)
        case ("pack", *texts):
            from sightline.cli.pack import pack_sources

            return pack_sources(texts, data, output, side, crop, quality, skip_unreadable)
        case ("check",):
            raise SightlineError("data check: got no name; expected one of the table. Run: sightline data")
        case _:
            raise SightlineError(
                f"data: got {list(words)}; expected nothing, check NAME or pack SOURCE. Run: sightline data --help"
            )


def show_all(root: Path | None) -> None:
    """Every data set with its splits, and the folder of a copy under the root."""
    from rich.text import Text

    from sightline.cli.models import console, grid

    if root is not None or is_root_named():
        dataset_folder("", (), root, DATASETS)  # which refuses what is no folder
    out = console()
    table = grid("name", "what", "splits", "folder")
    for column in table.columns:
        column.justify, column.vertical, column.no_wrap = "left", "top", False
    for name, row in DATASETS.items():
        splits = ", ".join(f"{split} {count or ''}".strip() for split, count in row.splits.items())
        table.add_row(Text(name, no_wrap=True), row.title, splits, Text(where(name, root), overflow="fold"))
    out.print(table)
    out.print(f"\n{NOTE}")


def where(name: str, root: Path | None) -> str:
    """The folder of a data set, "" where there is none."""
    try:
        folder = folder_of(name, root)
        return str(folder) if folder != dataset_folder("-", (), root) else ""
    except DatasetError:
        return ""


def check_splits(name: str, root: Path | None, split: str, every_image: bool) -> int:
    """Print what was found, split by split; 1 if there were faults."""
    known, row = dataset_row(name)
    folder_of(known, root)  # what is no folder is bad input, unlike what a copy holds
    status, absent = [], {}
    for one in [chosen_split(known, split, root)] if split else row.splits:
        try:
            dataset = open_dataset(known, one, root)
        except NothingThere as error:
            absent[one] = error
        except DatasetError as error:
            print(f"{error}\n{known} {one}: 1 finding, nothing can be read")
            status.append(1)
        else:
            status.append(check_split(dataset, every_image))
    if not status:
        raise next(iter(absent.values()))
    for one in absent:
        print(f"{known} {one}: not here")
    return max(status)


def check_split(dataset: Dataset[Any], every_image: bool) -> int:
    """Print the findings of a split as they come, and a last line of counts."""
    counts: Counter[str] = Counter()
    with progress(dataset) as advance:
        for report in check(dataset, every_image):
            for finding in report.findings:
                print(finding, flush=True)
                counts["notes" if finding.is_note else "findings"] += 1
            counts["sequences"] += bool(report.name)
            counts["images" if dataset.annotated else "frames"] += report.num_frames
            advance(1 if report.name else report.num_frames)
    read = ["images"] if dataset.annotated else ["sequences", "frames"]
    told = [plural(counts[what], what) for what in [*read, "findings", *(["notes"] if counts["notes"] else [])]]
    print(f"{dataset.name} {dataset.split}: {', '.join(told)}")
    return int(counts["findings"] > 0)


def plural(count: int, what: str) -> str:
    return f"{count:,} {what if count != 1 else what.removesuffix('s')}"


class Advance(Protocol):
    """Counts sequences, or images."""

    def __call__(self, number: int) -> None: ...


@contextmanager
def progress(dataset: Dataset[Any]) -> Iterator[Advance]:
    """A bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bars = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total = len(dataset.annotated.files) if dataset.annotated else len(dataset)
    with Progress(*bars, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(f"{dataset.name} {dataset.split}", total=total)
        yield lambda number: bar.update(task, advance=number)
