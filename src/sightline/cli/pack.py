"""`sightline data pack`: pictures and boxes of any sources as shards, which trainings read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sightline.cli.data import plural
from sightline.datasets.mixture import open_sources
from sightline.datasets.shards import check_is_free, pack
from sightline.errors import SightlineError


def pack_sources(
    texts: Sequence[str],
    root: Path | None,
    output: Path | None,
    side: int,
    crop: float | None,
    quality: int,
    skip_unreadable: bool,
) -> int:
    """Pack the sources of these texts, and say what was written."""
    if not texts or output is None:
        missing = "no source" if not texts else "no folder to write"
        raise SightlineError(f"data pack: got {missing}; expected both. Write: sightline data pack SOURCE -o FOLDER")
    check_is_free(output)  # before the annotation of millions is read
    sources = open_sources(texts, root)
    with progress() as on_share:
        packed = pack(
            sources,
            output,
            side_px=side,
            crop=crop,
            quality=quality,
            skip_unreadable=skip_unreadable,
            on_share=on_share,
        )
    counts = f"{plural(packed.num_pictures, 'pictures')} of {plural(packed.num_footage, 'targets')}"
    print(f"{output}: {counts}, {packed.num_bytes / 1e6:,.1f} MB")
    if packed.num_unreadable:
        print(f"left out: {plural(packed.num_unreadable, 'unreadable pictures')}, the first: {packed.unreadable}")
    return 0


@contextmanager
def progress() -> Iterator[Callable[[float], object]]:
    """A bar on standard error if that is a terminal; takes the share that is done."""
    if not sys.stderr.isatty():
        yield lambda share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bars = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*bars, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task("packing", total=1.0)
        yield lambda share: bar.update(task, completed=share)
