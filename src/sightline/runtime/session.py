"""The seam between networks and trackers: named graphs, arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]


class Session(Protocol):
    """A network that ran elsewhere: ONNX Runtime, torch, or a recording.

    A template-search model has two graphs. `encode` takes `template` (K, 3, T, T), and `template_mask` where it
    declares it, and gives named features with the same leading axis. `track` takes `search` (K, 3, S, S) and those
    features and gives `score_map` (K, 1, G, G), `size_map` and `offset_map` (K, 2, G, G). SPMTrack's two graphs have
    the same names and other arrays, see `trackers.spmtrack`. All float32; K is free.
    """

    def inputs(self, graph: str) -> tuple[str, ...]:
        """Names of the arrays that `graph` takes: `template`, maybe `template_mask`; `search` and the features."""
        ...

    def run(self, graph: str, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
        """Run one graph; raises `ProtocolError` for missing, unknown or misshapen arrays."""
        ...
