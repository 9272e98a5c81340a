"""OneTrack-M's frames a second by size and by frames in the window, in torch and in ONNX Runtime.

    python benchmarks/onetrack_m_speed.py [--windows 1 2 3 4 5 6 7 8 9 10] [--rows speed.csv]

Timed is what a sliding window costs with every frame that arrives, one of 1920 x 1080: its resize, its tokens, the
network over the tokens of all W frames (those of the others are kept), and decoding. The weights are random and find
nobody, so no association is in it, and no reading of the video. Torch, the two exported graphs in ONNX Runtime, and
`torch.mm` take turns, and the shares are of its rate in the same rounds. GMAC are those of a frame and its window, the
products inside attention too.

A row is printed as soon as it is measured, and progress is told on stderr. With `--rows` it is also written to a file,
and rows that are there are not measured again: a run that was stopped goes on. On two quiet cores all rows of the
default windows should take some 20 minutes, all ten windows 35, two thirds of it L/16's. L/16 needs some 6 GB of memory
and, for its graphs, 1.3 GB in the temporary folder. The machine must be quiet: where others use its cores, torch's
threads wait for each other at every operator, and a step takes up to fifty times as long.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from measure import interleave, machine, table

from sightline.export.onnx import export_onnx
from sightline.files import atomic_path
from sightline.loading import empty_model
from sightline.models.counting import GIGA, count_gmac
from sightline.models.session import TorchSession
from sightline.runtime.onnx import OnnxSession
from sightline.runtime.session import Session
from sightline.trackers.onetrack_m import OneTrackMConfig, OneTrackMTracker
from sightline.trackers.zoo import ZOO

Name = Literal["onetrack-m-tiny", "onetrack-m-b32", "onetrack-m-b16", "onetrack-m-l16"]
Step = Callable[[], object]

NAMES: tuple[Name, ...] = ("onetrack-m-tiny", "onetrack-m-b32", "onetrack-m-b16", "onetrack-m-l16")  # cheap ones first
SIDE = 4096  # of the matrices of torch.mm
FRAME = (1080, 1920, 3)
WARM_UP = 1  # rounds
KEY = ("model", "W", "threads")
HEADINGS = (
    "model          ", " W", "threads", "parameters", "  GMAC",
    "torch: ms", "    min", "frames/s", "of mm's",
    " ONNX: ms", "    min", "frames/s", "of mm's",
)  # fmt: skip  # as wide as any cell, so that rows that come one by one stand under each other


def tracker_of(name: str, window: int) -> OneTrackMConfig:
    tracker = ZOO[name].tracker
    assert isinstance(tracker, OneTrackMConfig)
    return replace(tracker, clip_length=window)


def network_of(name: str, window: int) -> Any:
    torch.manual_seed(0)
    return empty_model(name, {"clip_length": window}).eval()


def gmac_of(name: str, window: int) -> float:
    """Of one arriving frame, on the meta device: nothing is computed."""
    side_px = tracker_of(name, window).image_px
    with torch.device("meta"):
        model, frame = network_of(name, window), torch.zeros(1, 3, side_px, side_px)

        def step() -> object:
            return model.track(torch.stack([model.tokens(frame)["tokens"], *kept], dim=1))

        kept = [model.tokens(frame)["tokens"]] * (window - 1)
        return count_gmac(step)


def step_of(session: Session, config: OneTrackMConfig) -> Step:
    """One more frame for a window that is full, always the same one."""
    tracker = OneTrackMTracker(session, config)
    frame = np.random.default_rng(0).integers(0, 256, FRAME, dtype=np.uint8)
    state = tracker.update(frame, tracker.init())
    assert not state.living, "random weights find nobody"
    return lambda: tracker.update(frame, state)


def measured(name: str, window: int, threads: int, rounds: int) -> list[str]:
    """A row of the table."""
    config, model = tracker_of(name, window), network_of(name, window)
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        began = time.perf_counter()
        with torch.inference_mode(False):
            export_onnx(model, Path(folder) / name, name=name, tracker=config, options={}, weights_sha256="")
        tell(f"{name}, W = {window}: exported in {time.perf_counter() - began:.0f} s, {rounds} rounds follow")
        steps = {
            "mm": lambda: torch.mm(left, right),
            "torch": step_of(TorchSession(model), config),
            "onnx": step_of(OnnxSession(Path(folder) / name, threads), config),
        }
        samples = interleave(steps, rounds, WARM_UP)
    gmac, count = gmac_of(name, window), sum(parameter.numel() for parameter in model.parameters())
    rate = SIDE**3 / GIGA / samples["mm"].min()
    row = [name, str(window), str(threads), f"{count / 1e6:.1f} M", f"{gmac:.2f}"]
    for way in ("torch", "onnx"):
        median, least = float(np.median(samples[way])), float(samples[way].min())
        row += [f"{median:.1f}", f"{least:.1f}", f"{1e3 / median:.2f}", f"{gmac / least / rate:.0%}"]
    return row


def tell(progress: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {progress}", file=sys.stderr, flush=True)


def kept_rows(path: Path | None) -> dict[tuple[str, ...], list[str]]:
    """The rows of an earlier run, by what makes them differ."""
    if path is None or not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[: len(KEY)]): row for row in list(csv.reader(file))[1:]}


def keep(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with atomic_path(path) as part, part.open("w", newline="") as file:
        csv.writer(file).writerows([[word.strip() for word in HEADINGS], *rows])


def main(
    models: tuple[Name, ...] = NAMES,
    windows: tuple[int, ...] = (1, 2, 3, 5, 7, 10),
    threads: int = 2,
    rounds: int = 5,
    rows: Path | None = None,
) -> None:
    """Print the table, row by row.

    Args:
        models: Rows of the zoo; onetrack-m-tiny has its own window alone.
        windows: Frames of a window.
        threads: Threads of torch and of ONNX Runtime.
        rounds: Timed rounds of each row, interleaved, after one to warm up.
        rows: A file of rows, to go on with a run that was stopped.
    """
    torch.set_num_threads(threads)
    print(machine("torch", "onnxruntime", "numpy"))
    print("ms of an arriving frame, median and minimum; frames/s of the median; GMAC / min as a share of torch.mm's at")
    print(f"{SIDE}^3; {rounds} interleaved rounds after {WARM_UP} to warm up\n")
    print(table(HEADINGS, []), flush=True)
    kept = kept_rows(rows)
    cases = [(name, window) for name in models for window in (windows if name != "onetrack-m-tiny" else [2])]
    for name, window in cases:
        key = (name, str(window), str(threads))
        if key not in kept:
            kept[key] = measured(name, window, threads, rounds)
            if rows:
                keep(rows, kept.values())
        print(table(HEADINGS, [kept[key]]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    tyro.cli(main)
