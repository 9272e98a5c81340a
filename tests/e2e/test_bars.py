"""The cheap ones of the speed and memory bars, measured so that a busy machine does not fail them.

The full measurements, with two threads, medians and interleaved comparisons, are the scripts in `benchmarks/`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import sightline
from sightline.runtime.session import Arrays
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.trackers.zoo import ZOO

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIDE_PX = 48
GRID_OF_TARGETS = [(40.0 + 140 * column, 60.0 + 140 * row) for row in range(2) for column in range(4)]


@pytest.fixture
def one_opencv_thread() -> Iterator[None]:
    """A second thread would have to wait for its turn wherever the other core is busy."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture(scope="module")
def nano() -> TemplateSearchTracker:
    """The bundled tracker on one thread."""
    return sightline.load(threads=1)


def scene(width: int, height: int, num_frames: int) -> list[NDArray[np.uint8]]:
    """Chequered squares that drift over a chequered ground, one at each place of `GRID_OF_TARGETS` in frame 0."""
    rng = np.random.default_rng(0)

    def chequers(rows: int, columns: int, cell_px: int) -> NDArray[np.uint8]:
        return rng.integers(40, 216, (rows, columns, 3), dtype=np.uint8).repeat(cell_px, 0).repeat(cell_px, 1)

    ground = chequers(height // 24, width // 24 + 1, 24)[:height, :width]
    squares = [chequers(4, 4, SIDE_PX // 4) for _ in GRID_OF_TARGETS]
    frames = []
    for t in range(num_frames):
        frame = ground.copy()
        for (x, y), square in zip(GRID_OF_TARGETS, squares, strict=True):
            frame[int(y) + t : int(y) + t + SIDE_PX, int(x) + t : int(x) + t + SIDE_PX] = square
        frames.append(frame)
    return frames


class InstantSession:
    """Answers at once that the target is where it was, as large as it was."""

    def __init__(self, grid: int) -> None:
        self.maps = {
            "score_map": np.zeros((1, 1, grid, grid), np.float32),
            "size_map": np.full((1, 2, grid, grid), 0.25, np.float32),
            "offset_map": np.zeros((1, 2, grid, grid), np.float32),
        }
        self.maps["score_map"][0, 0, grid // 2, grid // 2] = 0.9

    def inputs(self, graph: str) -> tuple[str, ...]:
        return ("template",) if graph == "encode" else ("search",)

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        return {"template_tokens": np.zeros((1, 36, 128), np.float32)} if graph == "encode" else self.maps


@pytest.mark.usefixtures("one_opencv_thread")
@pytest.mark.parametrize("size", [(640, 360), (1920, 1080)], ids=["640x360", "1920x1080"])
def test_overhead_is_half_a_millisecond(size: tuple[int, int]) -> None:
    """Crop, normalise, decode and bookkeeping: the best of five medians, since what else runs here is not ours."""
    config = ZOO["sightline-nano"].tracker
    tracker = TemplateSearchTracker(InstantSession(config.grid), config)
    frames = scene(*size, 4)
    state = start = tracker.init(frames[0], xywh=(*GRID_OF_TARGETS[1], SIDE_PX, SIDE_PX))
    medians = []
    for _ in range(5):
        ms = []
        for frame in islice(cycle(frames), 40):
            began = time.perf_counter()
            state = tracker.update(frame, state)
            ms.append((time.perf_counter() - began) * 1e3)
        medians.append(float(np.median(ms)))
    assert state.xywh == pytest.approx(start.xywh, abs=1e-3), "the session says that nothing moves"
    assert min(medians) <= 0.5, f"medians of five rounds, ms: {medians}"


def test_a_batch_gives_the_boxes_of_single_updates(nano: TemplateSearchTracker) -> None:
    """Each way goes its own way for twelve frames, so that a difference would add up."""
    first, *frames = scene(640, 360, 13)
    batch = single = [nano.init(first, xywh=(x, y, SIDE_PX, SIDE_PX)) for x, y in GRID_OF_TARGETS]
    for frame in frames:
        batch = nano.update_many(frame, batch)
        single = [nano.update(frame, state) for state in single]
        np.testing.assert_allclose([s.xywh for s in batch], [s.xywh for s in single], rtol=0, atol=1e-4)
        np.testing.assert_allclose([s.score for s in batch], [s.score for s in single], rtol=0, atol=1e-4)
    moved = np.subtract([state.xywh[:2] for state in batch], GRID_OF_TARGETS)
    assert np.median(np.abs(moved - 12)) < 6, "most targets were followed: the batch is not eight times the same"
    swapped = nano.update_many(frames[-1], batch[::-1])[::-1]
    again = nano.update_many(frames[-1], batch)
    np.testing.assert_allclose([s.xywh for s in swapped], [s.xywh for s in again], rtol=0, atol=1e-4)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_a_looped_clip(nano: TemplateSearchTracker) -> None:
    """600 frames after 200 to warm up; one kept frame of 640 x 360 in ten would already show as 40 MB."""
    boxes = [(*GRID_OF_TARGETS[0], SIDE_PX, SIDE_PX)]
    results = sightline.track(islice(cycle(scene(640, 360, 20)), 801), boxes, model=nano)
    readings = [resident_mb() for result in results if result.frame_index in (200, 400, 600, 800)]
    assert len(readings) == 4
    assert max(readings) - readings[0] < 10, f"MB after each 200 frames: {readings}"


def resident_mb() -> float:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


SCRIPTS = [
    "validation_clips",
    "speed_against_kcf",
    "overhead",
    "memory",
    "vittrack",
    "presence",
    "live",
    "evaluate_lasot",
]


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS, *(pytest.param(name, marks=pytest.mark.torch) for name in ("ostrack_elimination", "evaluate_mot17"))],
)
def test_benchmarks_explain_themselves(script: str) -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / f"{script}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert f"{script}.py" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
