"""What the tracker costs besides its network, and what eight targets in one batch cost beside eight updates.

Part one runs the tracker over a session that answers instantly, so that crop, normalisation, decoding and bookkeeping
are all that is left. Part two runs the real network; both of its ways start from the same states on each frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import tyro
from measure import SUMMARY, bar, interleave, machine, moving_squares, summary, table
from numpy.typing import NDArray

import sightline
from sightline.runtime.session import Arrays
from sightline.runtime.stages import StageClock
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.types import TargetState

NUM_TARGETS = 8
SIZES = ((640, 360), (1920, 1080))
WARM_UP = 20  # rounds


class InstantSession:
    """Answers at once that every target is where it was, as large as it was: a quarter of the search region's side."""

    def __init__(self, grid: int) -> None:
        self.maps = {
            "score_map": np.zeros((NUM_TARGETS, 1, grid, grid), np.float32),
            "size_map": np.full((NUM_TARGETS, 2, grid, grid), 0.25, np.float32),
            "offset_map": np.full((NUM_TARGETS, 2, grid, grid), 0.5 * (grid % 2), np.float32),
        }
        self.maps["score_map"][:, :, grid // 2, grid // 2] = 0.9

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template",) if graph == "encode" else ("search",)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        if graph == "encode":
            return {"template_tokens": np.zeros((1, 36, 128), np.float32)}
        return {name: value[: len(arrays["search"])] for name, value in self.maps.items()}


def without_network(tracker: TemplateSearchTracker, size: tuple[int, int], repeats: int) -> None:
    """Part one, on frames of `size` (width, height)."""
    instant = TemplateSearchTracker(InstantSession(tracker.config.grid), tracker.config, tracker.name)
    frames, boxes = moving_squares(size, NUM_TARGETS, 10)
    clock, turn = StageClock(limit=repeats), cycle(frames)  # the newest samples: warm-up falls out
    states = [instant.init(frames[0], xywh=box) for box in boxes]
    samples = interleave(
        {
            "one": lambda: instant.update(next(turn), states[3], clock),
            "eight": lambda: instant.update_many(next(turn), states),
        },
        repeats,
        warm_up=WARM_UP,
    )
    rows = [["one target", *summary(samples["one"])]]
    rows += [[f"  {stage}", *summary(list(clock.samples_ms[stage]))] for stage in ("crop", "decode")]
    rows.append(["eight targets, each", *summary(samples["eight"] / NUM_TARGETS)])
    print(table([f"ms without the network, {size[0]} x {size[1]}", *SUMMARY], rows))
    print(bar("overhead per target, ms median", float(np.median(samples["one"])), at_most=0.5), end="\n\n")


def batch_of_eight(tracker: TemplateSearchTracker, repeats: int) -> None:
    """Part two: time and boxes of one batch, of eight single updates and of one."""
    frames, boxes = moving_squares(SIZES[0], NUM_TARGETS, 60)
    states = [tracker.init(frames[0], xywh=box) for box in boxes]
    turn = cycle(frames[1:4])

    def singly(frame: NDArray[np.uint8], states: list[TargetState]) -> list[TargetState]:
        return [tracker.update(frame, state) for state in states]

    samples = interleave(
        {
            "one target": lambda: tracker.update(next(turn), states[0]),
            "eight, one batch": lambda: tracker.update_many(next(turn), states),
            "eight, one by one": lambda: singly(next(turn), states),
        },
        repeats,
        warm_up=WARM_UP,
    )
    difference = 0.0
    for frame in frames[1:]:
        found, states = singly(frame, states), tracker.update_many(frame, states)
        pairs = zip(found, states, strict=True)
        difference = max(difference, *(float(np.abs(np.subtract(a.xywh, b.xywh)).max()) for a, b in pairs))
    one, batch, single = (samples[name] for name in ("one target", "eight, one batch", "eight, one by one"))
    print(table(["ms of a step, 640 x 360", *SUMMARY], [[name, *summary(ms)] for name, ms in samples.items()]))
    print(bar("batch of eight / eight single updates, median of ratios", float(np.median(batch / single)), at_most=0.9))
    print(bar("batch of eight / one single update (goal)", float(np.median(batch / one)), at_most=5))
    print(f"eight targets a step: one batch is {np.median(single / batch):.2f} times as fast as eight single updates")
    print(bar("largest difference of a box over 59 frames, px", difference, at_most=1e-4))


def main(model: str = "sightline-nano", weights: Path | None = None, threads: int = 0, repeats: int = 300) -> None:
    """The tracker's own cost per target, and a batch of eight targets against single updates.

    Args:
        model: A name from `sightline models`.
        weights: A weights file or an exported folder; by default the bundled one.
        threads: Threads of the network and of OpenCV; 0 leaves both as they come.
        repeats: Timed rounds of part one; part two, which is slower, has a fifth of them.
    """
    print(machine("numpy", "opencv-python-headless", "onnxruntime"))
    print(f"{threads} threads, {repeats} interleaved rounds, a fifth of them in part two, after {WARM_UP} to warm up\n")
    if threads:
        cv2.setNumThreads(threads)
    tracker = sightline.load(model, weights=weights, threads=threads)
    for size in SIZES:
        without_network(tracker, size, repeats)
    batch_of_eight(tracker, max(1, repeats // 5))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
