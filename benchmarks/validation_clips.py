"""Success AUC on the validation clips: the command `sightline track`, the Python API, and OpenCV's trackers beside.

AUC is the mean over the thresholds 0, 0.05 .. 1 of the share of frames with an IoU above it; the first frame, where the
box is given, and frames without a target do not count. A tracker's figure is the mean over the clips.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from measure import SHARED, bar, machine, table
from numpy.typing import NDArray
from opencv_worker import OpenCV

import sightline
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.evaluation.sot import success_auc

Boxes = NDArray[np.float64]


def by_command(clip: Clip, model: str, weights: Path | None, threads: int) -> Boxes:
    """Rows of the results file that `sightline track FOLDER --box ... --results FILE` writes."""
    box = ",".join(f"{value:.12g}" for value in clip.xywh[0])
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "boxes.txt"
        arguments = [str(clip.frames[0].parent), f"--box={box}", f"--model={model}", f"--threads={threads}"]
        arguments += [f"--results={results}", *([f"--weights={weights}"] if weights else [])]
        subprocess.run([sys.executable, "-m", "sightline", "track", *arguments], check=True, stdout=subprocess.DEVNULL)
        return np.loadtxt(results, delimiter=",", ndmin=2)


def unrest(boxes: Boxes) -> float:
    """How much the centre of the box changes its course from frame to frame, pixels: its mean second difference."""
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    return float(np.linalg.norm(np.diff(centre, n=2, axis=0), axis=1).mean())


def main(
    model: str = "sightline-nano",
    weights: Path | None = None,
    data: Path = SHARED / "data" / "sot",
    threads: int = 2,
    num_clips: int = 14,
    tracker: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    opencv_python: Path | None = None,
) -> None:
    """AUC clip by clip and in the mean.

    Args:
        model: A name from `sightline models`.
        weights: A weights file or an exported folder; by default the bundled one.
        data: The folder of clips with a split.json.
        threads: Threads of the network, and of OpenCV.
        num_clips: So many of the validation clips.
        tracker: One of OpenCV's for a column of its own: kcf, csrt, mil, vit:NET.onnx or
            nano:BACKBONE.onnx:NECKHEAD.onnx. Repeat for more; needs --opencv-python.
        opencv_python: A Python that has opencv-contrib-python-headless.
    """
    print(machine("numpy", "opencv-python-headless", "onnxruntime"))
    cv2.setNumThreads(threads)
    clips = read_clips(data, read_split(data, "val")[:num_clips])
    ours = sightline.load(model, weights=weights, threads=threads)
    columns: dict[str, list[Boxes]] = {"command": [], "API": []}
    for clip in clips:
        columns["command"].append(by_command(clip, model, weights, threads))
        results = sightline.track(list(clip.frames), [clip.xywh[0]], model=ours)
        columns["API"].append(np.array([result.xywh for result in results]))
    if tracker:
        if not opencv_python:
            sys.exit("--tracker needs --opencv-python, a Python that has opencv-contrib-python-headless")
        with OpenCV(opencv_python) as opencv:
            print(f"OpenCV's trackers: version {opencv.version}, default parameters, last box kept after a loss")
            for name in tracker:
                column = columns[name.split(":")[0]] = []
                for clip in clips:
                    answer = opencv.run(name, [str(path) for path in clip.frames], clip.xywh[0].tolist(), threads)
                    column.append(np.array(answer["boxes"]))
    aucs = np.array(
        [
            [success_auc(boxes, clip.xywh, clip.is_present) for boxes, clip in zip(column, clips, strict=True)]
            for column in columns.values()
        ]
    )
    rows = [[clip.name, len(clip), *(f"{auc:.3f}" for auc in aucs[:, k])] for k, clip in enumerate(clips)]
    rows.append(["mean", sum(map(len, clips)), *(f"{auc:.4f}" for auc in aucs.mean(axis=1))])
    print("\n" + table([f"success AUC of {model}", "frames", *columns], rows))
    print("\nunrest: mean second difference of the box's centre, pixels, mean over the clips")
    rested = {name: np.mean([unrest(boxes) for boxes in column]) for name, column in columns.items()}
    rested["truth"] = np.mean([unrest(clip.xywh) for clip in clips])
    print("  ".join(f"{name} {value:.1f}" for name, value in rested.items()))
    difference = max(np.abs(a - b).max() for a, b in zip(columns["command"], columns["API"], strict=True))
    print(f"command against API, largest difference of a box: {difference:.1e} px")
    print(bar(f"mean AUC of {model} by the command", aucs[0].mean(), at_least=0.66))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
