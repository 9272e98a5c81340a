"""What the benchmarks share: interleaved timing, summaries, the machine's line, tables, a scene. Needs only NumPy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

SHARED = Path(os.environ.get("SIGHTLINE_SHARED", Path(__file__).resolve().parent.parent.parent / "shared"))
SUMMARY = ("median", "p95", "min")


def machine(*packages: str) -> str:
    """Processor, cores, load and versions: without them no number means anything."""
    cpu_info = Path("/proc/cpuinfo")
    names = [line for line in cpu_info.read_text().splitlines() if "model name" in line] if cpu_info.exists() else []
    processor = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        f"{platform.system()}, Python {platform.python_version()}, {versions}"
    )


def interleave(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Samples]:
    """Milliseconds of each call. Every round runs each variant once, every other round in reverse: what disturbs the
    machine for a while disturbs all of them. `warm_up` rounds come first and are dropped."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + repeats):
        for name in list(variants)[:: -1 if turn % 2 else 1]:
            start = clock()
            variants[name]()
            samples[name].append((clock() - start) * 1e3)
    return {name: np.array(values[warm_up:]) for name, values in samples.items()}


def summary(samples_ms: Samples | Sequence[float]) -> list[str]:
    """Median, 95th percentile and minimum, in milliseconds: the columns of `SUMMARY`."""
    return [f"{value:.3f}" for value in (np.median(samples_ms), np.percentile(samples_ms, 95), np.min(samples_ms))]


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain text in columns, the first to the left and the others to the right."""
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = (str.ljust, *[str.rjust] * (len(widths) - 1))
    lines = [[align(c, w) for align, c, w in zip(aligned, row, widths, strict=True)] for row in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def bar(claim: str, value: float, at_least: float | None = None, at_most: float | None = None) -> str:
    """One line that holds a number against its bar."""
    limit, sign = (at_least, ">=") if at_least is not None else (at_most, "<=")
    assert limit is not None
    is_met = value >= limit if sign == ">=" else value <= limit
    return f"bar: {claim} {sign} {limit:g}: got {value:.3g}, {'met' if is_met else 'MISSED'}"


def moving_squares(
    size: tuple[int, int], num_targets: int, num_frames: int
) -> tuple[list[NDArray[np.uint8]], list[tuple[float, float, float, float]]]:
    """Frames (H, W, 3) of `size` (width, height) in which chequered squares of 48 px drift, and their first boxes."""
    (width, height), side_px = size, 48
    rng = np.random.default_rng(0)

    def chequers(rows: int, columns: int, cell_px: int) -> NDArray[np.uint8]:
        return rng.integers(40, 216, (rows, columns, 3), dtype=np.uint8).repeat(cell_px, 0).repeat(cell_px, 1)

    ground = chequers(height // 24 + 1, width // 24 + 1, 24)[:height, :width]
    squares = [chequers(4, 4, side_px // 4) for _ in range(num_targets)]
    room_px = (width - side_px) / num_targets
    starts = [(round(room_px * (k + 0.3)), height // 4 + height // 4 * (k % 2)) for k in range(num_targets)]
    frames = []
    for t in range(num_frames):
        frame = ground.copy()
        for (x, y), square in zip(starts, squares, strict=True):
            frame[y + t : y + t + side_px, x + t // 2 : x + t // 2 + side_px] = square
        frames.append(frame)
    return frames, [(float(x), float(y), float(side_px), float(side_px)) for x, y in starts]
