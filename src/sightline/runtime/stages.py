"""How long each stage takes: a clock that a tracker or a command may be given."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class StageClock:
    """Collects the milliseconds of named stages; give one to `update`, read `summary` at the end.

    At most `limit` samples per stage are kept (the newest), so that a stream of any length costs bounded memory.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self.samples_ms: dict[str, deque[float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - start) * 1e3)

    def add(self, name: str, milliseconds: float) -> None:
        self.samples_ms.setdefault(name, deque(maxlen=self.limit)).append(milliseconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """Median and 95th percentile of each stage, milliseconds to four decimals."""
        return {
            name: {
                "median_ms": round(float(np.median(samples)), 4),
                "p95_ms": round(float(np.percentile(samples, 95)), 4),
            }
            for name, samples in self.samples_ms.items()
        }
