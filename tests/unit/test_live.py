"""Live sources without a network: which frame is taken, what is dropped, counted, opened again, masked and closed.

The camera is a fake of OpenCV's that hands out what a test gives it, and waits while there is nothing.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.errors import VideoError
from sightline.video import live
from sightline.video.live import mask_secrets, open_live

DEADLINE_S = 20  # of what happens at once, on a machine that has other things to do


class FakeCamera:
    """`cv2.VideoCapture` and the camera in one: `give` it frames, or None for a read that fails."""

    def __init__(self) -> None:
        self.num_opened = self.num_released = 0
        self.is_there = True
        self._given: queue.Queue[np.ndarray | Exception | None] = queue.Queue()
        self._num_given = self._num_got = self._num_done = 0
        self._frame: np.ndarray | None = None

    def __call__(self, index: int) -> FakeCamera:
        self.num_opened += 1
        return self

    def give(self, *frames: np.ndarray | Exception | None) -> None:
        self._num_given += len(frames)
        for frame in frames:
            self._given.put(frame)

    def wait_until_read(self) -> None:
        """Until the reader has come back for more than was given."""
        wait_until(lambda: self._num_done == self._num_given)

    def isOpened(self) -> bool:
        return self.is_there

    def set(self, name: int, value: float) -> None:
        assert (name, value) == (cv2.CAP_PROP_BUFFERSIZE, 1)

    def get(self, name: int) -> float:
        assert name == cv2.CAP_PROP_FPS
        return 30.0

    def grab(self) -> bool:
        self._frame = None
        self._num_done = self._num_got
        given = self._given.get(timeout=DEADLINE_S)
        self._num_got += 1
        if isinstance(given, Exception):
            raise given
        self._frame = given
        return given is not None

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return self._frame is not None, self._frame

    def release(self) -> None:
        self.num_released += 1


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def shot(value: int) -> np.ndarray:
    """A frame as OpenCV gives it: (4, 6, 3) BGR, the value in blue and 100 in red."""
    return np.broadcast_to(np.array([value, 0, 100], np.uint8), (4, 6, 3)).copy()


def reading_threads() -> int:
    return sum(thread.name == "sightline-live" for thread in threading.enumerate())


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCamera]:
    """Each frame counts as waited for, and pauses are short."""
    fake = FakeCamera()
    monkeypatch.setattr(cv2, "VideoCapture", fake)
    monkeypatch.setattr(live, "BACKLOG_WAIT_S", -1.0)
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 0.01)
    yield fake
    assert reading_threads() == 0


# The newest frame


def test_the_newest_frame_is_taken_and_the_others_are_counted(camera: FakeCamera):
    with open_live(0) as source:
        assert (source.name, source.is_live, source.num_frames, source.fps) == ("camera 0", True, None, 30.0)
        frames = iter(source)
        camera.give(shot(0))
        taken = [next(frames)]
        assert source.num_dropped == 0
        for batch in (range(1, 6), range(6, 7), range(7, 9)):
            camera.give(*map(shot, batch))
            camera.wait_until_read()
            taken.append(next(frames))
        camera.give(None)  # ends nothing; lets the reader go
        source.close()
    assert [frame.index for frame in taken] == [0, 5, 6, 8]
    assert [frame.rgb[0, 0].tolist() for frame in taken] == [[100, 0, value] for value in (0, 5, 6, 8)]
    assert source.num_dropped == 5
    assert source.num_reconnects == 0
    times = [frame.time_s for frame in taken]
    assert times[0] == 0
    assert all(earlier < later for earlier, later in itertools.pairwise(times))


def test_frames_that_nobody_takes_are_not_kept(camera: FakeCamera):
    with open_live(0) as source:
        frames = iter(source)
        camera.give(shot(0))
        next(frames)
        given = [shot(value) for value in range(1, 101)]
        alive = [weakref.ref(frame) for frame in given]
        camera.give(*given)
        del given
        camera.wait_until_read()
        assert sum(frame() is not None for frame in alive) == 1  # the newest
        assert next(frames).index == 100
        camera.give(None)


def test_what_lay_in_a_buffer_is_passed_over_and_not_counted(camera: FakeCamera, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "BACKLOG_WAIT_S", 0.5)
    with open_live(0) as source:
        camera.give(shot(1), shot(2), shot(3))
        late = threading.Timer(0.8, camera.give, [shot(4)])
        late.start()
        first = next(iter(source))
        late.join()
        assert (first.index, first.time_s, first.rgb[0, 0, 2]) == (0, 0.0, 4)
        assert source.num_dropped == 0
        camera.give(None)

    monkeypatch.setattr(live, "BACKLOG_AT_MOST_S", -1.0)  # as on a machine that never waits
    with open_live(0) as source:
        camera.give(shot(5))
        assert next(iter(source)).rgb[0, 0, 2] == 5
        camera.give(None)


# Breaks


def test_a_camera_that_fails_is_opened_again(camera: FakeCamera, caplog: pytest.LogCaptureFixture):
    with open_live(0) as source, caplog.at_level(logging.WARNING, "sightline"):
        frames = iter(source)
        indices = []
        for value in range(3):
            camera.give(shot(value))
            frame = next(frames)
            assert frame.rgb[0, 0, 2] == value
            indices.append(frame.index)
            camera.give(None, None, None)  # also twice after it was opened, before any frame
        camera.give(shot(3))
        indices.append(next(frames).index)
        camera.give(None)
    assert indices == [0, 1, 2, 3]
    assert source.num_reconnects == 3
    assert source.num_dropped == 0
    breaks = [record.getMessage() for record in caplog.records[:3]]
    assert breaks == ["camera 0 broke off: got no frame. It is opened again."] * 3
    assert camera.num_opened >= 10
    assert camera.num_released == camera.num_opened


def test_without_a_frame_for_too_long_the_source_ends(
    camera: FakeCamera, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(live, "LONGEST_PAUSE_S", 0.16)
    with open_live(0, patience_s=0.6) as source, caplog.at_level(logging.WARNING, "sightline"):
        frames = iter(source)
        camera.give(shot(0), None)
        assert next(frames).index == 0
        camera.is_there = False
        before = time.monotonic()
        assert list(frames) == []
        assert time.monotonic() - before > 0.4
    assert source.num_reconnects == 0
    assert 2 <= camera.num_opened <= 12  # at 0.01, 0.03, 0.07, 0.15, 0.31, 0.47 s; even pauses would be 60
    assert [record.getMessage() for record in caplog.records] == [
        "camera 0 broke off: got no frame. It is opened again.",
        "camera 0 ends: no picture for 0.6 s.",
    ]


def test_what_is_no_break_is_raised_where_frames_are_taken(camera: FakeCamera):
    with open_live(0) as source:
        frames = iter(source)
        camera.give(shot(0))
        next(frames)
        camera.give(cv2.error("the driver has a bug"))
        with pytest.raises(cv2.error, match="the driver has a bug"):
            next(frames)
        assert reading_threads() == 0
    assert camera.num_released == 1


# The thread


def test_the_thread_ends_with_its_consumer(camera: FakeCamera, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "FIRST_PAUSE_S", 1000.0)
    source = open_live(0)
    assert reading_threads() == 0  # nothing has begun
    camera.give(shot(0))
    for _ in source:
        assert reading_threads() == 1
        camera.give(None)
        break
    wait_until(lambda: camera.num_released == 1)
    source.close()  # in the middle of a pause of 1000 s
    assert reading_threads() == 0

    camera.give(shot(0), None)
    with open_live(0) as source, pytest.raises(ZeroDivisionError):
        sum(1 / frame.index for frame in source)
    assert reading_threads() == 0


def test_each_iteration_opens_the_source_anew(camera: FakeCamera):
    with open_live(0) as source:
        for value in (3, 4):
            camera.give(shot(value))
            frame = next(iter(source))
            assert (frame.index, frame.time_s, frame.rgb[0, 0, 2]) == (0, 0.0, value)
            camera.give(None)
    assert source.num_dropped == 0


# Refusals and secrets


def test_a_camera_that_is_not_there_is_refused_with_those_that_are(
    camera: FakeCamera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    camera.is_there = False
    monkeypatch.setattr(live.sys, "platform", "linux")
    monkeypatch.setattr(live, "Path", lambda _: tmp_path)
    with pytest.raises(
        VideoError, match=r"^camera 7: cannot be opened: got none of that number; .* no /dev/video\*\.$"
    ):
        open_live(7)
    for name in ("video1", "video0", "vcs"):
        (tmp_path / name).touch()
    with pytest.raises(VideoError, match=r"^camera 7: .* the number of one of \S*/video0, \S*/video1\.$"):
        open_live("7")
    camera.is_there = True
    for beyond in (-1, 1 << 31):
        with pytest.raises(VideoError, match=rf"^camera {beyond}: cannot be opened: got none of that number; "):
            open_live(beyond)
    with pytest.raises(VideoError, match="start: got 3 for camera 0, which is live; expected 0"):
        open_live(0, start=3)
    assert camera.num_released == 1


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://host:554/live", "rtsp://host:554/live"),
        ("rtsp://me@host/live?channel=1", "rtsp://me@host/live?channel=1"),
        ("rtsp://me:word@host:554/live", "rtsp://me:***@host:554/live"),
        ("rtsp://me:w@r/d?:#@host/live", "rtsp://me:***@host/live"),
        ("http://host/a?user=me&Password=word&n=1", "http://host/a?user=me&Password=***&n=1"),
        ("http://host/a?api_key=word", "http://host/a?api_key=***"),
        ("rtsp://host/user=me_password=word_channel=1", "rtsp://host/user=me_password=***"),
    ],
)
def test_secrets_are_masked(address: str, shown: str):
    assert mask_secrets(address) == shown
