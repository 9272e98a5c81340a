"""Batches depend on seed and step alone: not on who makes them, where the run began, or how many share them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.datasets.footage import Source, stills_footage
from sightline.datasets.stills import Still
from sightline.errors import DatasetError, SightlineError
from sightline.training.feed import Batch, batches
from sightline.training.pairs import NanoPairs, NanoPairsConfig

ROOT = Path(__file__).parents[2]
STEPS = 5


class Example(NamedTuple):
    crop: np.ndarray
    xywh: np.ndarray
    is_present: bool
    num_skipped: int


class Numbered:
    """Example n is full of n; from number `bad` on they cannot be read."""

    def __init__(self, bad: float = np.inf) -> None:
        self.bad = bad

    def __getitem__(self, number: int) -> Example:
        if number >= self.bad:
            raise DatasetError(f"picture {number}: got junk; expected an image. Replace it.")
        return Example(np.full((2, 2, 3), number, np.uint8), np.full(4, number, np.float32), number % 2 == 0, number)


def first(stream: Iterator[Batch], steps: int = STEPS) -> list[Batch]:
    return [next(stream) for _ in range(steps)]


def numbers(stream: Iterator[Batch], steps: int = STEPS) -> list[list[int]]:
    return [batch.tensors["xywh"][:, 0].int().tolist() for batch in first(stream, steps)]


def test_a_batch_has_the_fields_of_its_examples_stacked() -> None:
    batch = first(batches(Numbered(), batch=4), 2)[1]
    assert set(batch.tensors) == {"crop", "xywh", "is_present"}
    crop, xywh, is_present = (batch.tensors[name] for name in ("crop", "xywh", "is_present"))
    assert (crop.dtype, tuple(crop.shape), crop[:, 0, 0, 0].tolist()) == (torch.uint8, (4, 2, 2, 3), [4, 5, 6, 7])
    assert (xywh.dtype, tuple(xywh.shape)) == (torch.float32, (4, 4))
    assert (is_present.dtype, is_present.tolist()) == (torch.bool, [True, False, True, False])
    assert batch.num_skipped == 4 + 5 + 6 + 7
    assert 0 <= batch.waited_s < 60


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_numbered_whoever_makes_them_and_wherever_the_run_begins(workers: int) -> None:
    all_steps = [list(range(4 * step, 4 * step + 4)) for step in range(10)]
    assert numbers(batches(Numbered(), batch=4, workers=workers)) == all_steps[:5]
    assert numbers(batches(Numbered(), batch=4, workers=workers, first_step=3)) == all_steps[3:8]


@pytest.mark.parametrize("num_ranks", [2, 3, 6])
def test_the_parts_of_all_processes_are_the_batch_of_one(num_ranks: int) -> None:
    parts = [batches(Numbered(), batch=6, first_step=2, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    whole = [list(chain(*step)) for step in zip(*map(numbers, parts), strict=True)]
    assert whole == numbers(batches(Numbered(), batch=6, first_step=2))


@pytest.mark.parametrize(("batch", "num_ranks"), [(4, 3), (0, 1), (-2, 2), (1, 2)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused(batch: int, num_ranks: int) -> None:
    with pytest.raises(SightlineError, match=f"batch: got {batch} for {num_ranks} processes; expected a positive mult"):
        next(batches(Numbered(), batch=batch, num_ranks=num_ranks))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_example_is_told_at_its_step_and_in_its_words(workers: int) -> None:
    stream = batches(Numbered(bad=10), batch=4, workers=workers)
    assert numbers(stream, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DatasetError) as raised:
        next(stream)
    assert str(raised.value) == "picture 10: got junk; expected an image. Replace it."
    assert raised.value.__cause__ is None


def test_threads_of_opencv_are_no_obstacle() -> None:
    """A fork beside them hangs at the first step in OpenCV, nearly always."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        for _ in range(4):
            cv2.GaussianBlur(np.zeros((400, 400, 3), np.uint8), (9, 9), 5)
            assert numbers(batches(Numbered(), batch=2, workers=2), 1) == [[0, 1]]
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_it_works_beside_the_main_thread() -> None:
    """Where no signal can be set."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(numbers(batches(Numbered(), batch=2, workers=1), 2)))
    thread.start()
    thread.join(60)
    assert seen == [[0, 1], [2, 3]]


# Real pairs, and processes that share nothing with this one


def draw(path: Path, number: int) -> Still:
    rng = np.random.default_rng(number)
    picture = rng.integers(60, 120, (120, 160, 3), dtype=np.uint8)
    x, y = rng.integers(10, 70, 2)
    picture[y : y + 40, x : x + 60] = rng.integers(0, 255, 3)
    assert cv2.imwrite(str(path), picture)
    return Still(path, np.array([[x, y, 60, 40]], np.float64), np.zeros(1, np.int64))


def drawn_pairs(folder: Path, seed: int = 3) -> NanoPairs:
    folder.mkdir(exist_ok=True)
    source = Source("stills", "stills", stills_footage([draw(folder / f"{number}.png", number) for number in range(4)]))
    return NanoPairs([source], NanoPairsConfig(template_px=32, search_px=64), seed)


def print_sums() -> None:
    """What a process of its own runs: batches by a worker that is started anew, then waiting for the keyboard."""
    import multiprocessing

    torch.set_num_threads(1)
    multiprocessing.set_start_method("spawn")
    stream = batches(drawn_pairs(Path(sys.argv[2])), batch=4, first_step=7, workers=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins without it
    try:
        print(sums(first(stream, 2)), flush=True)
        while True:
            next(stream)
    except KeyboardInterrupt:
        print("interrupted", flush=True)


def sums(some: list[Batch]) -> list[int]:
    """One number for each tensor, in which the order of its bytes counts."""
    return [checksum(value) for batch in some for value in batch.tensors.values()]


def checksum(value: Tensor) -> int:
    data = np.frombuffer(value.numpy().tobytes(), np.uint8).astype(np.int64)
    return int((data * (1 + np.arange(len(data)) % 8191)).sum())


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_are_the_same_whoever_makes_them(tmp_path: Path, workers: int) -> None:
    pairs = drawn_pairs(tmp_path / "stills")
    made = first(batches(pairs, batch=4, first_step=7, workers=workers), 2)
    expected = [pairs[number] for number in range(28, 36)]
    for name in ("template", "search", "xywh_unit"):
        got = torch.cat([batch.tensors[name] for batch in made]).numpy()
        assert np.array_equal(got, np.stack([getattr(pair, name) for pair in expected]))
    assert sums(made) != sums(first(batches(drawn_pairs(tmp_path / "stills", seed=4), batch=4, first_step=7), 2))


def test_a_worker_that_is_started_anew_makes_them_too_and_leaves_the_keyboard_to_the_loop(tmp_path: Path) -> None:
    expected = sums(first(batches(drawn_pairs(tmp_path / "stills"), batch=4, first_step=7), 2))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, __file__, "print_sums", str(tmp_path / "stills")]
    process = subprocess.Popen(
        script, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    hanged = threading.Timer(120, process.kill)
    hanged.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{expected}\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the loop's process and its worker
        said, complaints = process.communicate()
    finally:
        hanged.cancel()
        process.kill()
    assert (said, complaints, process.returncode) == ("interrupted\n", "", 0)


if __name__ == "__main__":
    print_sums()
