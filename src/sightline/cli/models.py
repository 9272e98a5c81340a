"""`sightline models`: the zoo as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sightline.runtime.store import bundled_folder
from sightline.trackers.zoo import ZOO, Entry

FIGURES = ("LaSOT AUC", "TrackingNet AUC", "GOT-10k AO")


def models() -> None:
    """List the models: their published figures, the terms of their weights, and whether these are here."""
    console = Console(width=None if Console().is_terminal else 200)
    table = Table(box=None, pad_edge=False)
    for heading in ("name", *FIGURES, "weights", "terms"):
        table.add_column(heading, overflow="fold")
    for name, entry in ZOO.items():
        figures = (f"{entry.published[figure]:.1f}" if figure in entry.published else "-" for figure in FIGURES)
        table.add_row(name, *figures, weights_of(entry), entry.licence)
    console.print(table)
    console.print(
        "\nFigures as published. A model that is not bundled takes its official file with --weights FILE. The bundled "
        "weights were\ntrained on data sets of which some are for research only: see WEIGHTS.md before commercial use.",
        highlight=False,
    )


def weights_of(entry: Entry) -> str:
    """Where the weights of a row come from."""
    if not entry.bundled:
        return entry.official_file
    return "bundled" if (bundled_folder(entry.bundled) / "track.onnx").is_file() else "missing from this installation"
