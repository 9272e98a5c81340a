"""Sightline: transformer trackers for video, on arrays.

    import sightline

    tracker = sightline.load("sightline-nano")               # bundled; no torch
    state = tracker.init(frame, xywh=(100, 50, 40, 90))      # frame is H x W x 3 uint8 RGB
    state = tracker.update(frame, state)                     # crop, network, decode, map back
    print(state.xyxy, state.score)                           # pixels, [0, 1]

    for result in sightline.track("clip.mp4", boxes=[(100, 50, 40, 90)]):
        print(result.frame_index, result.xywh)

The names below are loaded when they are first used: importing the package costs a few milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.errors import SightlineError
    from sightline.loading import load
    from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
    from sightline.tracking import track
    from sightline.types import Frame, TargetState, TrackResult

__version__ = "0.1.0"

__all__ = [
    "load",
    "track",
    "TemplateSearchTracker",
    "TemplateSearchConfig",
    "Frame",
    "TargetState",
    "TrackResult",
    "SightlineError",
    "__version__",
]

_HOME = {
    "load": "sightline.loading",
    "track": "sightline.tracking",
    "TemplateSearchTracker": "sightline.trackers.template_search",
    "TemplateSearchConfig": "sightline.trackers.template_search",
    "Frame": "sightline.types",
    "TargetState": "sightline.types",
    "TrackResult": "sightline.types",
    "SightlineError": "sightline.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
