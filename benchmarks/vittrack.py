"""VitTrack of the OpenCV zoo beside sightline-nano: one runtime, one loop, the same threads, the same clips.

Frames are decoded beforehand; the clock runs over `update`: crop, network, decoding. The two take turns on each clip,
and who begins alternates from turn to turn. With --opencv the same file also runs in OpenCV's own loop, as it is and
mended step by step, and our loop is changed towards OpenCV's: the difference shows where it comes from.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tyro
from measure import SHARED, SUMMARY, Samples, bar, machine, summary, table
from numpy.typing import NDArray

import sightline
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.evaluation.sot import success_auc
from sightline.imaging.frames import read_image
from sightline.runtime.sidecar import SidecarSession, read_sidecar
from sightline.runtime.store import BUNDLED
from sightline.trackers.opencv import OpenCVTracker
from sightline.trackers.protocol import Tracker
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker

Frames = list[NDArray[np.uint8]]


class Run(NamedTuple):
    """Boxes of every frame, and milliseconds of every frame after the first."""

    boxes: NDArray[np.float64]
    ms: Samples


def run(tracker: Tracker, clip: Clip, frames: Frames) -> Run:
    state = tracker.init(frames[0], xywh=clip.xywh[0])
    boxes, ms = [state.xywh], []
    for frame in frames[1:]:
        start = time.perf_counter()
        state = tracker.update(frame, state)
        ms.append((time.perf_counter() - start) * 1e3)
        boxes.append(state.xywh)
    return Run(np.array(boxes), np.array(ms))


def inverse(triple: Sequence[float]) -> tuple[float, ...]:
    """1 / triple in OpenCV's arithmetic, which takes a Scalar for a quaternion: the conjugate over the squared norm."""
    square = sum(value * value for value in triple)
    return tuple(sign * value / square for sign, value in zip((1, -1, -1), triple, strict=True))


class MendedVit(OpenCVTracker):
    """OpenCV's loop with such deviations that its 1 / deviation becomes what the network needs."""

    def _create(self) -> object:
        parameters = cv2.TrackerVit_Params()
        parameters.net = str(self._files[0])
        parameters.stdvalue = (*inverse([1 / value for value in parameters.stdvalue[:3]]), 0.0)
        return cv2.TrackerVit_create(parameters)


def changed(file: Path, threads: int, channels: str, is_scaled: bool) -> TemplateSearchTracker:
    """Our loop with another order of colours, or with the scale per channel that OpenCV takes for 1 / deviation."""
    sidecar = replace(read_sidecar(BUNDLED / "vittrack.toml"), channels=channels)
    config = TemplateSearchConfig.from_json(sidecar.tracker)
    order = 1 if channels == "rgb" else -1  # OpenCV counts mean and deviation by channel, whatever its colour
    std = tuple(1 / value for value in inverse(config.std)) if is_scaled else config.std
    config = replace(config, mean=config.mean[::order], std=std[::order])
    return TemplateSearchTracker(SidecarSession(sidecar, file, threads), config, sidecar.name)


def causes(file: Path, clips: list[Clip], threads: int) -> str:
    """Success AUC of the same file in OpenCV's loop and in ours, one thing changed at a time."""
    loops: dict[str, tuple[Tracker, bool]] = {
        "OpenCV": (OpenCVTracker("vit", file), False),
        "+ scale": (MendedVit("vit", file), False),
        "+ RGB": (MendedVit("vit", file), True),
        "ours": (changed(file, threads, "rgb", False), False),
        "BGR": (changed(file, threads, "bgr", False), False),
        "scale": (changed(file, threads, "rgb", True), False),
        "both": (changed(file, threads, "bgr", True), False),
    }
    aucs: dict[str, list[float]] = {name: [] for name in loops}
    for clip in clips:
        frames = [read_image(path) for path in clip.frames]
        turned = [np.ascontiguousarray(frame[:, :, ::-1]) for frame in frames]
        for name, (tracker, is_turned) in loops.items():
            boxes = run(tracker, clip, turned if is_turned else frames).boxes
            aucs[name].append(success_auc(boxes, clip.xywh, clip.is_present))
    rows = [[clip.name, *(f"{column[k]:.3f}" for column in aucs.values())] for k, clip in enumerate(clips)]
    rows.append(["mean", *(f"{np.mean(column):.4f}" for column in aucs.values())])
    return table(["success AUC", *aucs], rows)


def main(
    file: Path = SHARED / "weights" / "vitTracker.onnx",
    data: Path = SHARED / "data" / "sot",
    threads: int = 2,
    repeats: int = 3,
    num_clips: int = 14,
    opencv: bool = False,
) -> None:
    """Rates and success AUC of VitTrack and sightline-nano, clip by clip.

    Args:
        file: VitTrack's ONNX file, from the OpenCV zoo.
        data: The folder of clips with a split.json.
        threads: Threads of each network, and of OpenCV.
        repeats: Timed turns of each tracker on each clip.
        num_clips: So many of the validation clips.
        opencv: Also OpenCV's own loop with the same file, and what makes the difference.
    """
    print(machine("numpy", "opencv-python-headless", "onnxruntime"))
    cv2.setNumThreads(threads)
    clips = read_clips(data, read_split(data, "val")[:num_clips])
    trackers: dict[str, Tracker] = {
        "nano": sightline.load("sightline-nano", threads=threads),
        "VitTrack": sightline.load("vittrack", weights=file, threads=threads),
    }
    print(f"{threads} threads each, {repeats} turns a clip, one turn on the first clip to warm up\n")
    samples: dict[str, list[Samples]] = {name: [] for name in trackers}
    aucs: dict[str, list[float]] = {name: [] for name in trackers}
    for k, clip in enumerate(clips):
        frames = [read_image(path) for path in clip.frames]
        if k == 0:
            for tracker in trackers.values():
                run(tracker, clip, frames)
        turns: dict[str, list[Samples]] = {name: [] for name in trackers}
        for turn in range(repeats):
            for name in list(trackers)[:: -1 if turn % 2 else 1]:
                boxes, ms = run(trackers[name], clip, frames)
                turns[name].append(ms)
                if turn == 0:
                    aucs[name].append(success_auc(boxes, clip.xywh, clip.is_present))
        for name, every in turns.items():
            samples[name].append(np.concatenate(every))
    nano, vittrack = samples.values()
    ratios = [theirs.sum() / ours.sum() for ours, theirs in zip(nano, vittrack, strict=True)]
    rows = [
        [clip.name, *summary(nano[k]), *summary(vittrack[k]), f"{ratios[k]:.3f}"]
        + [f"{column[k]:.3f}" for column in aucs.values()]
        for k, clip in enumerate(clips)
    ]
    headings = [f"{name} {column}" for name in trackers for column in SUMMARY]
    print(table(["ms of a step", *headings, "nano's rate / VitTrack's", *(f"{name} AUC" for name in aucs)], rows))
    ours, theirs = (np.concatenate(steps) for steps in (nano, vittrack))
    means = {name: float(np.mean(column)) for name, column in aucs.items()}
    print(
        f"\n{len(ours)} steps of each; median step: nano {np.median(ours):.2f} ms, VitTrack {np.median(theirs):.2f} ms"
    )
    print(f"mean AUC: {', '.join(f'{name} {auc:.4f}' for name, auc in means.items())}")
    print(bar("nano's rate / VitTrack's, all steps over all time", theirs.sum() / ours.sum(), at_least=0.2))
    print(bar("nano's rate / VitTrack's, median over the clips", float(np.median(ratios)), at_least=0.2))
    print(bar("mean AUC of VitTrack", means["VitTrack"], at_least=0.67))
    if opencv:
        print(f"\nthe same file in the loop of OpenCV {cv2.__version__}, mended step by step, and in ours, broken so:")
        print(causes(file, clips, threads))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
