"""sightline-nano's track step beside OpenCV's KCF on the same frames, in one interleaved run.

Frames are decoded beforehand and each tracker has its own process, so that the clock runs over `update` alone: crop,
network and decoding here, the whole of `TrackerKCF.update` with default parameters there. On each clip the two take
turns, and who begins alternates from repeat to repeat.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tyro
from measure import SHARED, SUMMARY, Samples, bar, machine, summary, table
from opencv_worker import OpenCV

import sightline
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.imaging.frames import read_image
from sightline.trackers.template_search import TemplateSearchTracker

Step = Callable[[Clip], Samples]


def step_times(tracker: TemplateSearchTracker, clip: Clip) -> Samples:
    """Milliseconds of `update` on each frame after the first."""
    first, *frames = [read_image(path) for path in clip.frames]
    state = tracker.init(first, xywh=clip.xywh[0])
    ms = []
    for frame in frames:
        start = time.perf_counter()
        state = tracker.update(frame, state)
        ms.append((time.perf_counter() - start) * 1e3)
    return np.array(ms)


def main(
    opencv_python: Path,
    data: Path = SHARED / "data" / "sot",
    weights: Path | None = None,
    threads: int = 2,
    repeats: int = 5,
    num_clips: int = 14,
) -> None:
    """The rate of sightline-nano's track step over KCF's.

    Args:
        opencv_python: A Python that has opencv-contrib-python-headless.
        data: The folder of clips with a split.json.
        weights: A weights file or an exported folder; by default the bundled one.
        threads: Threads of each of the two.
        repeats: Passes over each clip by each tracker.
        num_clips: So many of the validation clips.
    """
    cv2.setNumThreads(threads)
    tracker = sightline.load("sightline-nano", weights=weights, backend="onnx", threads=threads)
    clips = read_clips(data, read_split(data, "val")[:num_clips])
    found: dict[str, float] = {}
    every: list[tuple[Samples, Samples]] = []
    with OpenCV(opencv_python) as opencv:

        def nano(clip: Clip) -> Samples:
            return step_times(tracker, clip)

        def kcf(clip: Clip) -> Samples:
            answer = opencv.run("kcf", [str(path) for path in clip.frames], clip.xywh[0].tolist(), threads)
            found[clip.name] = np.mean(answer["found"])
            return np.array(answer["ms"])

        print(machine("numpy", "opencv-python-headless", "onnxruntime"))
        print(f"KCF of OpenCV {opencv.version}; {threads} threads each, {repeats} turns a clip, one clip to warm up\n")
        nano(clips[0])
        kcf(clips[0])
        for clip in clips:
            samples: dict[Step, list[Samples]] = {nano: [], kcf: []}
            for turn in range(repeats):
                for step in (nano, kcf)[:: -1 if turn % 2 else 1]:
                    samples[step].append(step(clip))
            every.append((np.concatenate(samples[nano]), np.concatenate(samples[kcf])))
    ratios = [theirs.sum() / ours.sum() for ours, theirs in every]
    rows = [
        [clip.name, *summary(ours), *summary(theirs), f"{ratio:.3f}", f"{found[clip.name]:.0%}"]
        for clip, (ours, theirs), ratio in zip(clips, every, ratios, strict=True)
    ]
    headings = ["ms of a step", *(f"{name} {column}" for name in ("nano", "KCF") for column in SUMMARY)]
    print(table([*headings, "nano's rate / KCF's", "KCF found"], rows))
    ours, theirs = (np.concatenate(steps) for steps in zip(*every, strict=True))
    rates = [np.mean([1 / ms.mean() for ms in steps]) for steps in zip(*every, strict=True)]
    print(f"\n{len(ours)} steps of each; mean step: nano {ours.mean():.2f} ms, KCF {theirs.mean():.2f} ms")
    print("nano's rate / KCF's, three ways, since one slow clip rules the first and lost targets rule the last:")
    print(bar("all steps over all time", theirs.sum() / ours.sum(), at_least=0.22))
    print(bar("median over the clips", float(np.median(ratios)), at_least=0.22))
    print(bar("mean over the clips of steps a second", rates[0] / rates[1], at_least=0.22))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
