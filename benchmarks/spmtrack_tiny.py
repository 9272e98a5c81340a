"""What spmtrack-tiny learnt: AUC on clips it has seen and on validation clips, by what it remembers of the past.

    python benchmarks/spmtrack_tiny.py RUN/last.safetensors VIT/last.safetensors

The two files come from `sightline train spmtrack-tiny:full` and `spmtrack-tiny:backbone`. The eight seen clips are the
first of the training split. `exact` is the official rule; a bounded memory holds so many templates of the whole past,
three are the fewest; `num_templates=1` has the first frame's alone, which no weight depends on.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import SHARED, machine, table

from sightline.building import model_for_inference
from sightline.datasets.clips import read_clips, read_split
from sightline.trackers.zoo import ZOO
from sightline.training.validation import track_clips

NAME = "spmtrack-tiny"
NUM_SEEN = 8
VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "exact, rule=lasot": {"rule": "lasot"},
    "bounded:64": {"memory": "bounded:64"},
    "bounded:8": {"memory": "bounded:8"},
    "bounded:3": {"memory": "bounded:3"},
    "num_templates=1": {"num_templates": 1},
}


def main(
    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DELTA")],
    backbone: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BACKBONE")],
    all_seen: bool = False,
) -> None:
    """The table.

    Args:
        weights: what the training wrote.
        backbone: what it was trained beside.
        all_seen: track all training clips, too.
    """
    print(machine("torch"))
    torch.set_num_threads(1)
    sot = SHARED / "data" / "sot"
    seen, unseen = read_clips(sot, read_split(sot, "train")), read_clips(sot, read_split(sot, "val"))
    if not all_seen:
        seen = seen[:NUM_SEEN]
    model, _ = model_for_inference(NAME, weights, {}, backbone)
    tracker: Any = ZOO[NAME].tracker
    auc: dict[str, dict[str, float]] = {}
    for title, options in VARIANTS.items():
        scores = track_clips(model, [*seen, *unseen], replace(tracker, **options), NAME)
        auc[title] = {score.name: score.auc for score in scores.clips}

    def row(title: str, names: list[str]) -> list[str]:
        return [title, *(f"{statistics.mean(scores[name] for name in names):.3f}" for scores in auc.values())]

    first, val = [clip.name for clip in seen[:NUM_SEEN]], [clip.name for clip in unseen]
    rows = [row(f"{clip.name} ({len(clip)})", [clip.name]) for clip in seen[:NUM_SEEN]]
    rows.append(row(f"mean of these {NUM_SEEN}", first))
    if all_seen:
        rows.append(row(f"mean of all {len(seen)} seen", [clip.name for clip in seen]))
    rows += [row(f"{clip.name} ({len(clip)})", [clip.name]) for clip in unseen]
    rows.append(row(f"mean of {len(val)} validation clips", val))
    print(table(["success AUC (frames)", *VARIANTS], rows))


if __name__ == "__main__":
    tyro.cli(main)
