"""OpenCV's trackers behind our protocol, with a stand-in for those that the plain wheel lacks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import sightline
from sightline.errors import CheckpointError, GeometryError, MissingExtra, ProtocolError, UnknownModel
from sightline.runtime.stages import StageClock
from sightline.trackers.opencv import OPENCV, OpenCVState, OpenCVTracker
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.types import TargetState
from tests.e2e.scene import pictures, truth

BOX = (40.4, 60.0, 48.0, 48.0)


class RedSeeker:
    """Stands in for OpenCV's trackers: finds the box of all that is red in BGR, and nothing where nothing is."""

    made: list[RedSeeker] = []  # noqa: RUF012 - the fixture puts a new one here for each test

    def __init__(self, answers: bool = False) -> None:
        self.answers = answers
        self.given: Sequence[int] = ()
        self.made.append(self)

    def init(self, image: NDArray[np.uint8], box: Sequence[int]) -> bool | None:
        assert all(isinstance(value, int) for value in box)
        self.given = box
        if min(box[2:]) < 2:
            raise cv2.error("too small") if not self.answers else AssertionError
        return True if self.answers else None

    def update(self, image: NDArray[np.uint8]) -> tuple[bool, Sequence[int]]:
        blue, green, red = (image[..., channel].astype(int) for channel in range(3))
        rows, columns = np.nonzero((red > 200) & (blue < 100) & (green < 100))
        if image.max() == 0:
            raise cv2.error("black")
        if not rows.size:
            return False, (0, 0, 0, 0)
        return True, (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> type[RedSeeker]:
    """An OpenCV that has CSRT, as `cv2`, and KCF, as `cv2.legacy`."""
    monkeypatch.setattr(RedSeeker, "made", [])
    monkeypatch.setattr(cv2, "TrackerCSRT_create", RedSeeker, raising=False)
    monkeypatch.delattr(cv2, "TrackerKCF_create", raising=False)
    legacy = type("legacy", (), {"TrackerKCF_create": staticmethod(lambda: RedSeeker(answers=True))})
    monkeypatch.setattr(cv2, "legacy", legacy, raising=False)
    return RedSeeker


def scene(*corners: tuple[int, int], side_px: int = 48) -> NDArray[np.uint8]:
    """Red squares on grey, which nobody may write to."""
    frame = np.full((240, 320, 3), 90, np.uint8)
    for x, y in corners:
        frame[y : y + side_px, x : x + side_px] = (230, 40, 30)
    frame.flags.writeable = False
    return frame


@pytest.mark.parametrize("name", ["csrt", "kcf"])
def test_follows_a_red_square_and_says_when_it_is_gone(name: str, wheel: type[RedSeeker]) -> None:
    tracker = OpenCVTracker(name)
    state: TargetState = tracker.init(scene((40, 60)), xywh=BOX)
    assert (state.xywh, state.score, state.presence, state.model) == (BOX, 1.0, "tracked", name)
    assert wheel.made[-1].given == (40, 60, 48, 48)
    state = tracker.update(scene((45, 62)), state)
    assert (state.xywh, state.score, state.presence) == ((45.0, 62.0, 48.0, 48.0), 1.0, "tracked")
    gone = tracker.update(scene(), state)
    assert (gone.xywh, gone.score, gone.presence) == (state.xywh, 0.0, "uncertain")
    back = tracker.update(scene((50, 64)), gone)
    assert (back.xywh, back.presence) == ((50.0, 64.0, 48.0, 48.0), "tracked")
    assert state.xywh == (45.0, 62.0, 48.0, 48.0)  # what was handed out does not change


def test_formats_of_the_box_mean_the_same(wheel: type[RedSeeker]) -> None:
    tracker = OpenCVTracker("csrt")
    formats = {"xywh": (40, 60, 48, 48), "xyxy": (40, 60, 88, 108), "cxcywh": (64, 84, 48, 48)}
    for name, box in formats.items():
        assert tracker.init(scene(), **{name: box}).xywh == (40, 60, 48, 48)
        assert wheel.made[-1].given == (40, 60, 48, 48)
    with pytest.raises(GeometryError, match="got 2 boxes; expected one of"):
        tracker.init(scene(), xywh=(40, 60, 48, 48), xyxy=(40, 60, 88, 108))
    with pytest.raises(GeometryError, match="has no area"):
        tracker.init(scene(), xywh=(40, 60, 0, 48))
    with pytest.raises(GeometryError, match="outside the frame"):
        tracker.init(scene(), xywh=(400, 60, 48, 48))
    with pytest.raises(GeometryError, match="expected \\(H, W, 3\\) uint8 RGB"):
        tracker.init(scene()[..., 0], xywh=BOX)
    with pytest.raises(GeometryError, match=r"xywh=\(40, 60, 0.4, 48\); expected one that OpenCV's csrt takes"):
        tracker.init(scene(), xywh=(40, 60, 0.4, 48))


def test_targets_keep_their_order_and_their_own_objects(wheel: type[RedSeeker]) -> None:
    tracker, clock = OpenCVTracker("csrt"), StageClock()
    states: list[TargetState] = [tracker.init(scene((40, 60)), xywh=(x, 60, 48, 48)) for x in (40, 200)]
    assert len(wheel.made) == 2
    after = tracker.update_many(scene((45, 62)), states[::-1], clock)
    assert [state.follower for state in after if isinstance(state, OpenCVState)] == [
        state.follower for state in reversed(states) if isinstance(state, OpenCVState)
    ]
    assert set(clock.samples_ms) == {"colour", "tracker"}
    assert tracker.update_many(scene(), []) == []


def test_only_the_newest_state_of_a_target_goes_on(wheel: type[RedSeeker]) -> None:
    tracker = OpenCVTracker("csrt")
    first = tracker.init(scene((40, 60)), xywh=BOX)
    other = tracker.init(scene((40, 60)), xywh=BOX)
    second = tracker.update(scene((45, 62)), first)
    with pytest.raises(ProtocolError, match="got update 0 of a target that has seen 1; .* cannot go back"):
        tracker.update_many(scene((50, 64)), [other, first])
    assert tracker.update(scene((50, 64)), other).presence == "tracked"  # nobody was updated by the refused call
    with pytest.raises(ProtocolError, match="got one target twice"):
        tracker.update_many(scene((50, 64)), [second, second])
    assert tracker.update(scene((50, 64)), second).xywh == (50.0, 64.0, 48.0, 48.0)
    with pytest.raises(ProtocolError, match="made by 'sightline-nano'; expected one made by OpenCV's 'csrt'"):
        tracker.update(scene(), sightline.load(threads=1).init(scene(), xywh=BOX))
    with pytest.raises(ProtocolError, match="made by 'kcf'; expected one made by OpenCV's 'csrt'"):
        tracker.update(scene(), OpenCVTracker("kcf").init(scene(), xywh=BOX))


def test_a_state_is_no_value_and_says_so(wheel: type[RedSeeker]) -> None:
    tracker = OpenCVTracker("csrt")
    state, twin = (tracker.init(scene((40, 60)), xywh=BOX) for _ in range(2))
    with pytest.raises(ProtocolError, match="state of OpenCV's csrt: got asked to be saved"):
        state.to_arrays()
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(ProtocolError, match="got asked to be copied"):
            duplicate(state)
    assert state == state
    assert state != twin  # the same numbers, another object behind them
    assert len({state, twin}) == 2


def test_a_frame_on_which_opencv_fails_leaves_the_last_box(
    wheel: type[RedSeeker], caplog: pytest.LogCaptureFixture
) -> None:
    tracker = OpenCVTracker("csrt")
    state: TargetState = tracker.init(scene((40, 60)), xywh=BOX)
    for _ in range(3):
        state = tracker.update(np.zeros((240, 320, 3), np.uint8), state)
        assert (state.xywh, state.score, state.presence) == (BOX, 0.0, "uncertain")
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # said once
    assert tracker.update(scene((45, 62)), state).presence == "tracked"


def test_a_wheel_without_the_tracker_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "legacy", raising=False)
    for name in ("csrt", "kcf"):
        maker = OPENCV[name].maker
        monkeypatch.delattr(cv2, f"{maker}_create", raising=False)
        with pytest.raises(MissingExtra) as caught:
            OpenCVTracker(name)
        told = str(caught.value)
        assert f"OpenCV {cv2.__version__} has no {maker}" in told
        assert "four OpenCV wheels overwrite each other" in told
        assert "pip uninstall opencv-python-headless; pip install opencv-contrib-python-headless" in told
        assert "\n" not in told


def test_an_unknown_name_is_one_sentence() -> None:
    with pytest.raises(UnknownModel, match="got 'mosse'; expected one of csrt, kcf, nano, vit"):
        OpenCVTracker("mosse")


def test_files_are_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"OpenCV's vit: got no file; expected net \(\*\.onnx\)"):
        OpenCVTracker("vit")
    with pytest.raises(CheckpointError, match=r"got no file .*none\.onnx; expected backbone .* and neckhead"):
        OpenCVTracker("nano", [tmp_path / "none.onnx", tmp_path / "other.onnx"])
    with pytest.raises(CheckpointError, match=r"got no \.onnx file in .*; expected net .*, one of each"):
        OpenCVTracker("vit", tmp_path)
    (tmp_path / "nanotrack_backbone.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"got nanotrack_backbone\.onnx in .*; expected backbone"):
        OpenCVTracker("nano", tmp_path)
    (tmp_path / "nanotrack_head.onnx").write_bytes(b"no network")
    for files in (tmp_path, [tmp_path / "nanotrack_backbone.onnx", tmp_path / "nanotrack_head.onnx"]):
        with pytest.raises(
            CheckpointError, match=r"nanotrack_backbone\.onnx, .*head\.onnx, which OpenCV .* cannot read"
        ):
            OpenCVTracker("nano", files)
    with pytest.raises(CheckpointError, match=r"which OpenCV .* cannot read"):
        OpenCVTracker("vit", str(tmp_path / "nanotrack_head.onnx"))


def test_files_for_a_tracker_without_a_network_are_refused(wheel: type[RedSeeker], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"OpenCV's csrt: got .*; expected none"):
        OpenCVTracker("csrt", tmp_path)


@pytest.mark.shared
def test_opencvs_vit_follows_a_board(shared: Path) -> None:
    """The real one, on whole pixels, with OpenCV's own score; lost on black, found again."""
    tracker = OpenCVTracker("vit", shared / "weights" / "vitTracker.onnx")
    frames, boxes = pictures(), truth()
    state: TargetState = tracker.init(frames[0], xywh=boxes[0])
    for frame, box in zip(frames[1:], boxes[1:], strict=True):
        state = tracker.update(frame, state)
        assert np.abs(np.subtract(state.cxcywh[:2], box[:2] + box[2:] / 2)).max() < 8
        assert 0.2 <= state.score < 1
        assert all(value == int(value) for value in state.xywh)
    gone = tracker.update(np.zeros_like(frames[0]), state)
    assert (gone.xywh, gone.presence) == (state.xywh, "uncertain")
    assert gone.score < 0.2
    assert tracker.update(frames[-1], gone).presence == "tracked"


def test_load_and_track_know_them(wheel: type[RedSeeker]) -> None:
    tracker: Any = sightline.load("csrt")
    assert isinstance(tracker, OpenCVTracker)
    assert not isinstance(tracker, TemplateSearchTracker)
    results = list(sightline.track([scene((40, 60)), scene((45, 62)), scene()], [BOX], model="csrt"))
    assert [result.presence for result in results] == ["tracked", "tracked", "uncertain"]
    assert results[1].xywh == (45.0, 62.0, 48.0, 48.0)
