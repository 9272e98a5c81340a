"""What every tracker offers, of one target or of all; the loop and the command line know no more of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.runtime.stages import StageClock

if TYPE_CHECKING:
    from sightline.types import TargetState, Track

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


class MultiObjectState(Protocol):
    """All that a multi-object tracker knows after a frame: a frozen value."""

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What the last update has to say: mostly of its own frame; a tracker that works in clips speaks of earlier
        ones too, or is silent."""
        ...


@runtime_checkable
class MultiObjectTracker(Protocol):
    """Finds and follows everything that it knows; frames are (H, W, 3) uint8 RGB."""

    name: str
    class_names: tuple[str, ...]

    def init(self) -> MultiObjectState:
        """The state before the first frame."""
        ...

    def update(self, frame: Image | None, state: Any, clock: StageClock | None = None) -> MultiObjectState:
        """Go on to the next frame, None where it could not be read; the old state stays as it was."""
        ...

    def finish(self, state: Any, history: Sequence[Track]) -> list[Track]:
        """What is true of all frames once the last one is known, in the order of the frames.

        history: all `tracks` of every update, in order.
        """
        ...
