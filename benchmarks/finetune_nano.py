"""Fine-tune sightline-nano on the first part of a few clips; what that gains on their rest, and costs elsewhere.

    python benchmarks/finetune_nano.py [--shared ../shared] [--out FOLDER] [--seeds 0 1 2] [-- --lr 1e-4 ...]

For each group of clips of the validation split, and each seed: the first 60 % of frames become a folder as a person
would have it, `sightline train nano --data FOLDER --out RUN` runs on it, and success AUC is measured before and after,
on the last 40 % of the same clips (begun anew from their first box) and on all other validation clips.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sightline.building import build_model
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.trackers.zoo import ZOO
from sightline.training.validation import track_clips

GROUPS = (("uav_boat1",), ("vot_bag", "vot_car1"))
SHARE = 0.6
NAME = "sightline-nano"


def part(clip: Clip, begin: float, end: float) -> Clip:
    """Frames from one share of the clip to another."""
    rows = slice(int(begin * len(clip)), int(end * len(clip)))
    return dataclasses.replace(
        clip, frames=clip.frames[rows], xywh=clip.xywh[rows], is_present=clip.is_present[rows], absent=None
    )


def as_folder(clip: Clip, root: Path) -> None:
    """A clip as a person's own: links to its frames, and their boxes."""
    folder = root / clip.name
    (folder / "img").mkdir(parents=True)
    for number, frame in enumerate(clip.frames):
        (folder / "img" / f"{number:05d}{frame.suffix}").symlink_to(frame.resolve())
    np.savetxt(folder / "groundtruth.txt", clip.xywh, fmt="%.3f", delimiter=",")


def auc(weights: Path | None, clips: Sequence[Clip]) -> dict[str, float]:
    """Success AUC by clip."""
    model, _ = build_model(NAME, weights)
    return {score.name: score.auc for score in track_clips(model, clips, ZOO[NAME].tracker, NAME).clips}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=None, help="keep the runs there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("extra", nargs="*", help="more arguments of `sightline train nano`, after --")
    args = parser.parse_args()
    torch.set_num_threads(1)  # for the tracking; the training has its own setting
    sot = args.shared / "data" / "sot"
    validation = read_clips(sot, read_split(sot, "val"))
    out = args.out or Path(tempfile.mkdtemp(prefix="finetune"))
    before = auc(None, validation)
    print(f"{'clips':24} seed  rest before  after   gain | others before  after   gain | minutes")
    gains, costs = [], []
    for group in GROUPS:
        own = [clip for clip in validation if clip.name in group]
        rests = [part(clip, SHARE, 1) for clip in own]
        rest_before = auc(None, rests)
        others = [name for name in before if name not in group]
        folder = out / "-".join(group)
        if not folder.exists():
            for clip in own:
                as_folder(part(clip, 0, SHARE), folder)
        for seed in args.seeds:
            run = out / f"{folder.name}-seed{seed}"
            command = [sys.executable, "-m", "sightline", "train", "nano", "--data", str(folder), "--out", str(run)]
            began = time.monotonic()
            subprocess.run([*command, "--seed", str(seed), *args.extra], check=True, stderr=subprocess.DEVNULL)
            minutes = (time.monotonic() - began) / 60
            rest_after = auc(run / "last.safetensors", rests)
            after = auc(run / "last.safetensors", [clip for clip in validation if clip.name not in group])
            r0, r1 = (statistics.mean(scores.values()) for scores in (rest_before, rest_after))
            o0, o1 = (statistics.mean(scores[name] for name in others) for scores in (before, after))
            gains.append(r1 - r0)
            costs.append(o1 - o0)
            print(
                f"{' '.join(group):24} {seed:4}  {r0:11.3f}  {r1:.3f}  {r1 - r0:+.3f} | {o0:13.3f}  {o1:.3f}  "
                f"{o1 - o0:+.3f} | {minutes:.1f}",
                flush=True,
            )
    print(f"mean gain on the rest {statistics.mean(gains):+.3f}, on all other clips {statistics.mean(costs):+.3f}")


if __name__ == "__main__":
    main()
