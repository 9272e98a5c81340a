"""What ostrack-tiny learnt: AUC on clips it has seen and on validation clips, elimination at two ratios and off.

    python benchmarks/ostrack_tiny.py RUN/last.safetensors

The weights come from `sightline train ostrack-tiny:full --data ../shared/data --init none --out RUN`. The eight seen
clips are the first of the training split. Frames per second are of the whole tracker, crops and decoding included,
reading left out, each frame with all variants in turn; median over the frames.
"""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from measure import SHARED, interleave, machine, table

from sightline.building import build_model
from sightline.datasets.clips import read_clips, read_split
from sightline.imaging.frames import read_image
from sightline.models.session import TorchSession
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from sightline.training.validation import track_clips

NAME = "ostrack-tiny"
VARIANTS: dict[str, dict[str, Any]] = {
    "keep .7 three times": {},
    "keep .85": {"ce_keep_ratios": 0.85},
    "no elimination": {"ce_layers": ()},
}
NUM_SEEN = 8


def accuracy(weights: Path) -> str:
    """AUC by clip and its means."""
    sot = SHARED / "data" / "sot"
    seen, unseen = read_clips(sot, read_split(sot, "train")), read_clips(sot, read_split(sot, "val"))
    auc: dict[str, dict[str, float]] = {}
    for title, options in VARIANTS.items():
        model, _ = build_model(NAME, weights, options)
        auc[title] = {
            score.name: score.auc for score in track_clips(model, [*seen, *unseen], ZOO[NAME].tracker, NAME).clips
        }

    def row(title: str, names: list[str]) -> list[str]:
        return [title, *(f"{statistics.mean(scores[name] for name in names):.3f}" for scores in auc.values())]

    first, val = [clip.name for clip in seen[:NUM_SEEN]], [clip.name for clip in unseen]
    rows = [row(name, [name]) for name in first]
    rows.append(row(f"mean of these {NUM_SEEN}", first))
    rows.append(row(f"mean of all {len(seen)} seen", [clip.name for clip in seen]))
    rows += [row(name, [name]) for name in val]
    rows.append(row(f"mean of {len(val)} validation clips", val))
    return table(["success AUC", *VARIANTS], rows)


def speed(weights: Path, threads: int, num_frames: int = 60) -> list[str]:
    """Milliseconds of an update and frames per second, of each variant."""
    torch.set_num_threads(threads)
    clip = read_clips(SHARED / "data" / "sot", ["otb_Car4"])[0]
    images = [read_image(path) for path in clip.frames[: num_frames + 1]]
    steps = {}
    for title, options in VARIANTS.items():
        tracker = TemplateSearchTracker(TorchSession(build_model(NAME, weights, options)[0]), ZOO[NAME].tracker, NAME)
        state, frames = tracker.init(images[0], xywh=clip.xywh[0]), itertools.cycle(images[1:])
        steps[title] = lambda tracker=tracker, state=state, frames=frames: tracker.update(next(frames), state)
    medians = [statistics.median(samples) for samples in interleave(steps, num_frames, 5).values()]
    return [str(threads), *(f"{ms:.1f} ms, {1000 / ms:.0f}" for ms in medians), f"{medians[-1] / medians[0]:.2f}"]


def main(weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]) -> None:
    """Both tables. Args: weights: what the training wrote."""
    print(machine("torch"))
    print(
        table(
            ["threads", *(f"{title}, frames/s" for title in VARIANTS), "last over first"],
            [speed(weights, n) for n in (1, 2)],
        )
    )
    torch.set_num_threads(1)
    print(accuracy(weights))


if __name__ == "__main__":
    tyro.cli(main)
