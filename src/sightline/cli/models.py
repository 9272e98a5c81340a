"""`sightline models`: the zoo as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from sightline.runtime.store import BUNDLED, bundled_folder
from sightline.trackers.zoo import ZOO, Entry

FIGURES = {"LaSOT": "LaSOT AUC", "TrackingNet": "TrackingNet AUC", "GOT-10k": "GOT-10k AO"}  # heading -> in the zoo
NOTE = (
    "Figures as published: LaSOT and TrackingNet AUC, GOT-10k AO. The bundled weights saw data of which some is for "
    "research only: read {weights} before commercial use. The other models are given their weights with --weights: "
    "the official file, the same one converted, or a folder that `sightline export` made of it. The pages "
    "github.com/botaoye/OSTrack and github.com/goutamyg/MVT link the official files."
)


def models() -> None:
    """List the models: their published figures, the terms of their weights, and where these come from."""
    console = Console(width=None if Console().is_terminal else 120)
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for heading in FIGURES:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    table.add_column("terms", overflow="fold")
    for name, entry in ZOO.items():
        figures = (
            f"{entry.published[figure]:.1f}" if figure in entry.published else "-" for figure in FIGURES.values()
        )
        table.add_row(name, *figures, weights_of(entry), entry.licence)
    console.print(table)
    console.print("\n" + NOTE.format(weights=BUNDLED / "WEIGHTS.md") + "\n", highlight=False)
    print("Official files:")
    for name, entry in ZOO.items():
        if entry.official_file:
            print(f"  {name:<22} {entry.official_file}")


def weights_of(entry: Entry) -> str:
    """Where the weights of a row come from."""
    if not entry.bundled:
        return "a file"
    return "bundled" if (bundled_folder(entry.bundled) / "track.onnx").is_file() else "missing"
