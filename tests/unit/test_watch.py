"""A run of a tracker that finds its targets by itself: what comes at once, what in the end, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.errors import GeometryError, VideoError
from sightline.runtime.replay import ReplaySession
from sightline.trackers.protocol import MultiObjectTracker
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.tracking import Watch, track
from sightline.types import Track
from sightline.video.source import open_source

SIDE = 24


@dataclass(frozen=True)
class Seen:
    num_frames: int = 0
    tracks: tuple[Track, ...] = ()


class Counter:
    """One track on every readable frame that counts from its third box on, and one on frame 1 alone."""

    name = "counter"
    class_names = ("thing", "flash")

    def init(self) -> Seen:
        return Seen()

    def update(self, frame: NDArray[np.uint8] | None, state: Seen, clock: Any = None) -> Seen:
        k = state.num_frames
        tracks = () if frame is None else (Track(k, 7, (k, 1.0, 5.0, 6.0), 0.5, confirmed=k > 1),)
        if k == 1:
            tracks = (*tracks, Track(k, 9, (0.0, 0.0, 2.0, 2.0), 0.9, confirmed=False, class_id=1))
        return Seen(k + 1, tracks)

    def finish(self, state: Seen, history: Sequence[Track]) -> list[Track]:
        return [replace(one, confirmed=True) for one in history if one.track_id == 7]


def images(folder: Path, count: int = 4, bad: int | None = None) -> Path:
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((SIDE, SIDE, 3), 50 * index, np.uint8))
    if bad is not None:
        (folder / f"{bad}.png").write_bytes(b"no picture")
    return folder


def arrays(count: int = 4) -> Iterator[NDArray[np.uint8]]:
    yield from (np.zeros((SIDE, SIDE, 3), np.uint8) for _ in range(count))


def test_it_is_known_from_a_tracker_of_boxes() -> None:
    boxes = TemplateSearchTracker(ReplaySession({}), TemplateSearchConfig(template_px=128, search_px=256))
    assert isinstance(Counter(), MultiObjectTracker) and not isinstance(boxes, MultiObjectTracker)


def test_of_a_source_with_an_end_the_results_come_in_the_end(tmp_path: Path) -> None:
    results = list(track(images(tmp_path), model=Counter(), start=1))
    assert [(one.frame_index, one.target_id, one.label, one.confirmed) for one in results] == [
        (1, 7, "thing", True),
        (2, 7, "thing", True),
        (3, 7, "thing", True),
    ]
    assert results[2].xywh == (2.0, 1.0, 5.0, 6.0) and results[2].presence == "tracked"


def test_of_a_source_without_a_known_end_they_come_at_once() -> None:
    results = track(arrays(), model=Counter())
    assert [(one.frame_index, one.target_id, one.label, one.confirmed) for one in results] == [
        (0, 7, "thing", False),
        (1, 7, "thing", False),
        (1, 9, "flash", False),
        (2, 7, "thing", True),
        (3, 7, "thing", True),
    ]


def test_a_frame_that_cannot_be_read_has_no_track_and_is_counted(tmp_path: Path) -> None:
    with open_source(images(tmp_path, bad=2)) as source:
        watch = Watch(Counter(), source, is_live=False)
        frames = [frame for frame, found in watch if not found]
    assert [frame.index for frame in frames] == [0, 1, 2, 3] and frames[2].error
    assert [[one.frame_index for one in found] for found in watch.final()] == [[0], [1], [], [3]]


def test_classes_that_nobody_wants_are_left_out() -> None:
    with open_source(arrays()) as source:
        found = [one for _, results in Watch(Counter(), source, is_live=True, classes={1}) for one in results]
    assert [(one.frame_index, one.label) for one in found] == [(1, "flash")]


def test_a_long_live_run_remembers_few_frames() -> None:
    with open_source(arrays(200)) as source:
        watch = Watch(Counter(), source, is_live=True)
        assert [results[0].frame_index for _, results in watch] == [*range(200)]
        assert len(watch.heads) < 100 and not watch.history and not watch.final()


def test_boxes_are_for_trackers_of_boxes() -> None:
    with pytest.raises(GeometryError, match="counter: got target boxes; expected none"):
        next(track(arrays(), [(0, 0, 4, 4)], model=Counter()))
    with pytest.raises(GeometryError, match="sightline-nano: got no boxes"):
        next(track(arrays()))
    with pytest.raises(VideoError, match="zero frames"):
        list(track(arrays(0), model=Counter()))
