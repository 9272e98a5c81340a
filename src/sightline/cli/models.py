"""`sightline models`: the zoo as a table, one model in full, and weights for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sightline.adding import add_weights
from sightline.building import add_command, added, classes_of
from sightline.errors import CheckpointError, MissingExtra, SightlineError
from sightline.options import OFFICIAL, VARIANT, meanings, written
from sightline.runtime.store import BUNDLED, bundled_folder, find, model_shelf, sha256_of
from sightline.trackers.opencv import OPENCV, OpenCVRow, home_of
from sightline.trackers.zoo import ZOO, Entry, MultiObjectConfig, entry_of

WIDTH = 100  # of what is not printed to a terminal
# heading -> figure in the zoo
PUBLISHED = {"LaSOT\nAUC": "LaSOT AUC", "Tracking-\nNet AUC": "TrackingNet AUC", "GOT-10k\nAO": "GOT-10k AO"}
MEASURED = {"our\nclips": "validation AUC"}
NOTE = (
    "params: millions. MB: of the parameters in float32. GMAC: billions of multiply-accumulates on every frame. LaSOT, "
    "TrackingNet, GOT-10k: percent, as their authors publish them. our clips: mean success AUC on 14 clips, "
    "measured here with the weights at hand. Nothing is downloaded: 'sightline models NAME' says where its weights are "
    "published and under which file name, 'sightline models add NAME FILE' checks the file and keeps it."
)


def models(
    words: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME | add NAME FILE]", help_behavior_hint="")
    ] = (),
    /,
    backbone: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
) -> None:
    """List the models, tell all about one, or keep weights for one.

    sightline models:
        The table: size, cost, figures, terms, and whether the weights are here.

    sightline models NAME:
        One model: settings and what they mean, parameters, training data, terms, weights.

    sightline models add NAME FILE:
        Check FILE against the model and keep it, so that --model NAME finds it. FILE is an official or converted
        weights file, a folder made by sightline export, or for vittrack an ONNX file.

    Args:
        words: As above.
        backbone: With add: DINOv2's file, beside SPMTrack's that has only what was trained. Both are kept as one.
    """
    if backbone and words[:1] != ("add",):
        raise SightlineError("models: got --backbone alone; expected it with 'add NAME FILE'. Leave it out.")
    match words:
        case ():
            show_all()
        case ("add", name, path):
            add(name, path, backbone)
        case ("add", *rest):
            raise SightlineError(f"models add: got {rest}; expected a model and a file. Write: models add NAME FILE")
        case (name,) if name in OPENCV:
            show_opencv(name, OPENCV[name])
        case (name,):
            show(name)
        case _:
            raise SightlineError(f"models: got {list(words)}; expected nothing, NAME or add NAME FILE. Quote a path.")


def add(name: str, path: str, backbone: Path | None) -> None:
    if name not in ZOO and path in ZOO:
        raise SightlineError(f"models add: got the file first; expected it last. Write: models add {path} {name}")
    stored = add_weights(name, path, backbone)
    print(
        f"{name}: {', '.join(stored.files)} from {stored.source_name}, {megabytes(stored.num_bytes)}: {stored.folder}"
    )


def console() -> Console:
    follows = Console().is_terminal or "COLUMNS" in os.environ
    return Console(width=None if follows else WIDTH, highlight=False)


def grid(*headings: str, gap: int = 2) -> Table:
    """A table without lines; the first and the last column begin at the left."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_header=bool(headings))
    for number, heading in enumerate(headings):
        ends = number in (0, len(headings) - 1)
        table.add_column(heading, justify="left" if ends else "right", no_wrap=True, vertical="bottom")
    return table


# All models


def show_all() -> None:
    """Every model with its size, cost and figures, whether the weights are here, and on which terms."""
    out = console()
    table = grid("name", "params", "MB", "GMAC", *PUBLISHED, *MEASURED, " weights", gap=1)
    for name, entry in ZOO.items():
        figures = [number(entry.published.get(figure), ".1f") for figure in PUBLISHED.values()]
        figures += [number(entry.measured.get(figure), ".3f") for figure in MEASURED.values()]
        millions, mega, giga = entry.num_parameters / 1e6, entry.size_mb, entry.gmac
        cost = [
            f"{millions:.3g}",
            f"{mega:.2g}" if mega < 10 else f"{mega:.0f}",
            f"{giga:.2g}" if giga < 1 else f"{giga:.1f}",
        ]
        table.add_row(name, *cost, *figures, f" {weights_state(name, entry)}")
    out.print(table)
    out.print(f"\n{NOTE}\n")
    terms = grid()
    for licence, names in groupby(ZOO, key=lambda name: ZOO[name].licence):
        terms.add_row(together(list(names)), Text(licence))
    out.print("Terms of the weights")
    out.print(terms)
    out.print(f"Read {BUNDLED / 'WEIGHTS.md'} before commercial use of the bundled weights.\n", soft_wrap=True)
    others = grid()
    for name, row in OPENCV.items():
        others.add_row(name, row.title, place(row))
    out.print("OpenCV's own trackers, with the wheel of OpenCV that has them")
    out.print(others)


def place(row: OpenCVRow) -> str:
    if not is_here(row):
        return f"in {row.wheel}"
    return "here, needs --weights" if row.files else "here"


def is_here(row: OpenCVRow) -> bool:
    """Whether the installed OpenCV has that tracker."""
    try:
        home_of(row)
    except MissingExtra:
        return False
    return True


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def together(names: list[str]) -> str:
    """Several names as what they begin with."""
    return names[0] if len(names) == 1 else f"{names[0].partition('-')[0]}-*"


def weights_state(name: str, entry: Entry) -> str:
    """bundled, added, damaged, unreadable, missing (from the package) or not here; by the sizes, not the contents."""
    if entry.bundled:
        return "bundled" if (bundled_folder(entry.bundled) / "track.onnx").is_file() else "missing"
    try:
        stored = find(model_shelf(name))
        if stored is None:
            return "not here"
        sizes = {file: (stored.folder / file).stat().st_size for file in stored.files}
    except (CheckpointError, OSError) as error:
        return "unreadable" if isinstance(error.__cause__ or error, PermissionError) else "damaged"
    return "added" if all(facts.num_bytes == sizes[file] for file, facts in stored.files.items()) else "damaged"


# One model


def show(name: str) -> None:
    """All that is known of one model. Its weights are read, so that damage is told."""
    out = console()
    entry = entry_of(name)
    out.print(Text(f"{name}: {entry.title}\n", style="bold"))
    facts = {"page": entry.page, **weights_facts(name, entry)}
    if entry.official_page:
        facts |= {"published at": entry.official_page, "file": entry.official_file}
    if entry.backbone_file:
        facts["backbone"] = f"{entry.backbone_file} of {entry.backbone_page}"
    facts |= {"terms": entry.licence, "trained on": entry.trained_on}
    if entry.published:
        facts["published"] = ", ".join(f"{figure} {value:.1f}" for figure, value in entry.published.items())
    if entry.measured:
        facts["measured here"] = ", ".join(f"{figure} {value:.3f}" for figure, value in entry.measured.items())
    parts = ", ".join(f"{part} {count:,}" for part, count in entry.parameters.items())
    facts["parameters"] = f"{entry.num_parameters:,}, {entry.size_mb:.3g} MB in float32: {parts}"
    template = f", {entry.gmac_template:g} for a template" if entry.gmac_template else ""
    facts["GMAC"] = f"{entry.gmac:g} on every frame{template}"
    if isinstance(entry.tracker, MultiObjectConfig):
        names = classes_of(entry)
        facts["finds"] = ", ".join(names) if len(names) < 10 else f"{len(names)} classes, as {', '.join(names[:5])}"
    else:
        facts["presence"] = f"tracked from a score of {entry.tracker.tracked_from:g} on, else uncertain"
    columns(out, facts.items())
    meaning = meanings(type(entry.tracker))
    settings = dict(vars(entry.tracker))
    if entry.variants:
        others = ", ".join(entry.variants)
        settings[VARIANT], meaning[VARIANT] = OFFICIAL, f"or {others}: other values of the settings above"
    show_settings(out, "Settings of the tracker", settings, meaning)
    if entry.options:
        defaults = {option: about.default for option, about in entry.options.items()}
        notes = {option: about.meaning for option, about in entry.options.items()}
        show_settings(out, "Settings of the network", defaults, notes)
    out.print("\nEach is changed with --set NAME=VALUE, or load(..., NAME=VALUE). Sizes belong to the network.")


def show_opencv(name: str, row: OpenCVRow) -> None:
    """What is known of one of OpenCV's own trackers."""
    out = console()
    out.print(Text(f"{name}: {row.title}\n", style="bold"))
    files = ", ".join(f"{key} ({pattern})" for key, pattern in row.files.items())
    facts = {
        "page": "docs/models/onnx.md",
        "here": "yes" if is_here(row) else f"no: install {row.wheel} in place of the OpenCV that is here",
        "files": f"{files}, given with --weights: the file or the folder" if files else "none",
        "score": "OpenCV's own" if row.has_score else "1 for found, 0 for not found",
        "settings": "none: OpenCV's defaults",
    }
    columns(out, facts.items())


def show_settings(out: Console, title: str, values: Mapping[str, Any], meaning: Mapping[str, str]) -> None:
    out.print(f"\n{title}")
    table = grid()
    for name, value in values.items():
        table.add_row(f"  {name}", Text(written(value) or "none"), Text(meaning[name]))
    out.print(table)


def columns(out: Console, rows: Iterable[tuple[str, str]]) -> None:
    table = grid()
    for heading, text in rows:
        table.add_row(heading, Text(text))
    out.print(table)


def weights_facts(name: str, entry: Entry) -> dict[str, str]:
    """Where the weights of a model are, and what they are."""
    if entry.bundled:
        folder = bundled_folder(entry.bundled)
        sums = "\n".join(f"{sha256_of(path)} {path.name}" for path in sorted(folder.iterdir()))
        return {"weights": f"inside the package, {folder}", "sha256": sums}
    try:
        stored = added(name)
    except CheckpointError as error:
        return {"weights": f"damaged: {error}"}
    if stored is None:
        files = "files" if entry.join else "file"
        return {"weights": f"not here; with the {files} below run: {add_command(name)}"}
    facts = {"weights": f"in the cache, {stored.folder}", "made of": f"{stored.source_name}, added {stored.added}"}
    return facts | {"sha256": "\n".join(f"{about.sha256} {file}" for file, about in stored.files.items())}


def megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
