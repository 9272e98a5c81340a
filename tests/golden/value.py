"""One number that must come out: ours, the reference, and how far they may differ."""

from __future__ import annotations

from typing import NamedTuple


class Value(NamedTuple):
    name: str
    ours: float
    reference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        return abs(self.ours - self.reference) <= self.tolerance
