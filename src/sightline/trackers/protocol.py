"""What every tracker that is started on a box offers; the loop and the command line know no more of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.runtime.stages import StageClock

if TYPE_CHECKING:
    from sightline.types import TargetState

Image = NDArray[np.uint8]


class Tracker(Protocol):
    """Starts on a box and follows it from frame to frame; frames are (H, W, 3) uint8 RGB, boxes float pixels."""

    name: str

    def init(
        self,
        frame: Image,
        *,
        xywh: ArrayLike | None = None,
        xyxy: ArrayLike | None = None,
        cxcywh: ArrayLike | None = None,
    ) -> TargetState:
        """Start on a target whose box is given in exactly one format; raises `GeometryError`."""
        ...

    def update(self, frame: Image, state: TargetState, clock: StageClock | None = None) -> TargetState:
        """Follow one target to the next frame."""
        ...

    def update_many(
        self, frame: Image, states: Sequence[TargetState], clock: StageClock | None = None
    ) -> list[TargetState]:
        """Follow several targets to the next frame; order is kept."""
        ...
