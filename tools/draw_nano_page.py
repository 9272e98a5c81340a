"""The pictures of docs/models/nano.md and of the README, drawn anew from the weights in the package.

    python tools/draw_nano_page.py CLIPS BUNNY [--opencv-python CV]

CLIPS is the folder of validation clips (with a split.json), BUNNY the film bigbuckbunny.mp4 (`make demo` unpacks it
under .cache). With the Python of an environment that has opencv-contrib-python-headless, KCF and CSRT stand beside.
Curves only: frames of the validation clips are not ours to show. The film is (c) 2008 Blender Foundation, CC BY 3.0.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import sightline
from sightline.cli import main as command
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.evaluation.sot import THRESHOLDS, success_curve
from sightline.geometry.boxes import iou

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
TRAINING = ROOT / "docs" / "models" / "nano_training.csv"
FACE, PAW = "300,335,115,135", "242,287,75,105"
WORST = "otb_Diving"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("bunny", type=Path)
    parser.add_argument("--opencv-python", type=Path)
    arguments = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    film = str(arguments.bunny)
    command(["track", film, "--box", FACE, "-o", str(PICTURES / "bunny.gif")])
    paw = ["--box", PAW, "--contact-sheet", str(PICTURES / "nano-paw.jpg"), "--plot", str(PICTURES / "nano-paw.svg")]
    command(["track", film, *paw, "--results", str(PICTURES / "paw.csv")])
    (PICTURES / "paw.csv").unlink()
    draw_training()
    clips = read_clips(arguments.clips, read_split(arguments.clips, "val"))
    draw_success(clips, arguments.opencv_python)
    draw_worst(next(clip for clip in clips if clip.name == WORST))


def draw_training() -> None:
    """Success AUC of each checkpoint over the pairs seen, a line for each run."""
    with TRAINING.open() as file:
        rows = [(row["run"], int(row["pairs"]) / 1e3, float(row["auc"])) for row in csv.DictReader(file)]
    figure, axes = panel(7, 3.2)
    start = 0.0
    for run, colour in zip(dict.fromkeys(run for run, _, _ in rows), (BLUE, ORANGE, GREEN), strict=False):
        points = np.array([(pairs, auc) for name, pairs, auc in rows if name == run])
        axes.plot(start + points[:, 0], points[:, 1], "o-", color=colour, label=run)
        start += points[-1, 0]
    axes.set(xlabel="thousand pairs, one run after another", ylabel="mean success AUC, 14 clips", ylim=(0.6, 0.75))
    axes.legend(frameon=False)
    figure.savefig(PICTURES / "nano-training.svg")


def draw_success(clips: list[Clip], opencv_python: Path | None) -> None:
    """The success curve of each tracker, the mean over the clips."""
    figure, axes = panel(7, 4)
    for name, colour in {"sightline-nano": BLUE, "csrt": ORANGE, "kcf": GREY}.items():
        if name == "sightline-nano":
            boxes = [followed(clip)[0] for clip in clips]
        elif opencv_python:
            boxes = by_opencv(name, clips, opencv_python)
        else:
            continue
        curves = [curve(found, clip) for found, clip in zip(boxes, clips, strict=True)]
        mean = np.mean(curves, axis=0)
        axes.plot(THRESHOLDS, mean, color=colour, label=f"{name}  {mean.mean():.3f}")
    axes.set(xlabel="IoU above", ylabel="share of frames, mean over 14 clips", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, title="success AUC")
    figure.savefig(PICTURES / "nano-success.svg")


def draw_worst(clip: Clip) -> None:
    """IoU and score over the frames of the clip that nano follows least."""
    boxes, scores = followed(clip)
    figure, axes = panel(7, 3.2)
    axes.plot(iou(boxes, clip.xywh), color=ORANGE, label="IoU with the truth")
    axes.plot(scores, color=BLUE, label="score")
    threshold = sightline.load().config.tracked_from
    axes.axhline(threshold, color=GREY, linestyle="--", linewidth=1, label=f"tracked from {threshold:g}")
    axes.set(xlabel=f"frame of {clip.name}", xlim=(0, len(clip) - 1), ylim=(0, 1))
    axes.legend(frameon=False, ncols=3)
    figure.savefig(PICTURES / "nano-diving.svg")


def panel(width_in: float, height_in: float):
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def followed(clip: Clip) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (N, 4) and scores (N,) of sightline-nano."""
    results = list(sightline.track(list(clip.frames), [clip.xywh[0]], threads=2))
    return np.array([result.xywh for result in results]), np.array([result.score for result in results])


def curve(boxes: NDArray[np.float64], clip: Clip) -> NDArray[np.float64]:
    counted = clip.is_present.copy()
    counted[0] = False
    return success_curve(iou(boxes[counted], clip.xywh[counted]))


def by_opencv(name: str, clips: list[Clip], python: Path) -> list[NDArray[np.float64]]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from opencv_worker import OpenCV

    with OpenCV(python) as opencv:
        answers = [opencv.run(name, [str(path) for path in c.frames], c.xywh[0].tolist(), 2) for c in clips]
    return [np.array(answer["boxes"]) for answer in answers]


if __name__ == "__main__":
    main()
