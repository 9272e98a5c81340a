"""From numbered examples to batches on the device. The same seed gives the same batches, whatever makes them.

Example k of step s is number s * batch + k: nothing is shuffled, because drawing is part of an example. Of n processes,
process r takes the r-th n-th of every batch.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sightline.errors import SightlineError


class Examples(Protocol):
    """Endless examples by number; each a NamedTuple of arrays and numbers that depends on its number alone, with the
    field `num_skipped`."""

    def __getitem__(self, number: int, /) -> Any: ...


class Batch(NamedTuple):
    """`tensors`: the fields of the examples, stacked, by name. `num_skipped`: pictures passed over for them.
    `waited_s`: how long the loop waited."""

    tensors: dict[str, Tensor]
    num_skipped: int
    waited_s: float


def batches(
    examples: Examples,
    *,
    batch: int,
    first_step: int = 0,
    workers: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Endless batches from step `first_step` on, as one of `num_ranks` processes sees them.

    workers: processes that make examples beside the loop; 0 makes them in between the steps. Raises `SightlineError`
    for a batch that the processes cannot share evenly, and what the examples raise, without a worker's traceback.
    """
    if batch <= 0 or batch % num_ranks:
        raise SightlineError(
            f"batch: got {batch} for {num_ranks} processes; expected a positive multiple. Change one of them."
        )
    is_cuda = torch.device(device).type == "cuda"
    loader = DataLoader(
        _Numbered(examples),
        batch_sampler=_Numbers(first_step, batch, rank, num_ranks),
        collate_fn=_collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=is_cuda,
        worker_init_fn=_start_worker,
    )
    with _starting():
        stream = iter(loader)
    while True:
        asked = time.monotonic()
        made = next(stream)
        if isinstance(made, SightlineError):
            raise made
        num_skipped = int(made.pop("num_skipped").sum())  # before it is on a GPU
        tensors = {name: value.to(device, non_blocking=is_cuda) for name, value in made.items()}
        yield Batch(tensors, num_skipped, time.monotonic() - asked)


class _Numbered(Dataset[Any]):
    """An error is returned, not raised: torch would wrap a worker's in its traceback."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, number: int) -> Any:
        try:
            return self.examples[number]
        except SightlineError as error:
            return error


class _Numbers:
    """The numbers of the examples of each step, without end."""

    def __init__(self, first_step: int, batch: int, rank: int, num_ranks: int) -> None:
        self.first_step, self.batch, self.rank, self.share = first_step, batch, rank, batch // num_ranks

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            first = step * self.batch + self.rank * self.share
            yield list(range(first, first + self.share))
            step += 1


def _collate(examples: Sequence[Any]) -> dict[str, Tensor] | SightlineError:
    for example in examples:
        if isinstance(example, SightlineError):
            return example
    return {
        name: torch.from_numpy(np.stack([getattr(example, name) for example in examples]))
        for name in examples[0]._fields
    }


@contextmanager
def _starting() -> Iterator[None]:
    """Processes that start in here never hear the keyboard's interrupt, not even before `_start_worker`.

    OpenCV has no threads in the meantime: a fork copies their locks, and not the threads that would unlock them.
    """
    is_main = threading.current_thread() is threading.main_thread()  # others cannot set it
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        if is_main:
            signal.signal(signal.SIGINT, heard)


def _start_worker(_number: int) -> None:
    """One core each. The keyboard's interrupt is the loop's, and being terminated is no interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = lambda *_: None  # sees only a thread that hands tensors to a loop which has ended
    cv2.setNumThreads(1)
