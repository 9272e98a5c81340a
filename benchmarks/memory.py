"""Resident memory while a target is followed through a clip that is played over and over.

Two sources: frames from a generator, and the same frames as one long video file. The first part of the run, in which
the back ends fill their pools, is the warm-up; growth is the highest reading above the one at its end.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tyro
from measure import bar, machine, moving_squares, table

import sightline
from sightline.types import TrackResult
from sightline.video.sink import VideoSink

SIZE, NUM_FRAMES, FPS = (640, 360), 100, 25


def resident_mb() -> float:
    """Resident set size of this process, from the kernel (Linux)."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def rows_of(results: Iterator[TrackResult], every: int) -> list[tuple[int, float]]:
    """(frames so far, MB) each `every` frames."""
    rows = []
    for count, _ in enumerate(results, start=1):
        if count % every == 0:
            gc.collect()
            rows.append((count, resident_mb()))
    return rows


def main(
    model: str = "sightline-nano",
    weights: Path | None = None,
    threads: int = 2,
    num_frames: int = 5000,
    every: int = 500,
) -> None:
    """Resident memory over 5,000 frames of a looped clip, from arrays and from a video file.

    Args:
        model: A name from `sightline models`.
        weights: A weights file or an exported folder; by default the bundled one.
        threads: Threads of the network.
        num_frames: Frames after the warm-up.
        every: Frames from one reading to the next; the warm-up is as long.
    """
    print(machine("numpy", "av", "opencv-python-headless", "onnxruntime"))
    print(f"{NUM_FRAMES} frames of {SIZE[0]} x {SIZE[1]} looped, {every} frames to warm up, {threads} threads\n")
    tracker = sightline.load(model, weights=weights, threads=threads)
    frames, boxes = moving_squares(SIZE, 1, NUM_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "looped.mp4"
        with VideoSink(path, FPS) as video:
            for frame in islice(cycle(frames), every + num_frames):
                video.write(frame)
        sources: dict[str, Any] = {"arrays": islice(cycle(frames), every + num_frames), "video file": path}
        columns = {
            name: rows_of(sightline.track(source, boxes, model=tracker), every) for name, source in sources.items()
        }
    counts = [count - every for count, _ in columns["arrays"]]
    readings = {name: [mb for _, mb in rows] for name, rows in columns.items()}
    rows = [[count, *(f"{mb:.1f}" for mb in row)] for count, *row in zip(counts, *readings.values(), strict=True)]
    print(table(["frames after the warm-up", *(f"{name}, MB" for name in readings)], rows))
    for name, mb in readings.items():
        print(bar(f"growth over {counts[-1]} frames, {name}, MB", max(mb) - mb[0], at_most=30))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
