"""Live streams from a paced local server: newest frames, drops, breaks, silence, films, refusals; and a slow tracker.

The number drawn into each picture says where the board is and when the picture was sent.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import sightline
from sightline.errors import VideoError
from sightline.geometry.boxes import iou
from sightline.tracking import follow
from sightline.types import Frame, TargetState
from sightline.video.live import open_live
from sightline.video.source import decode_ahead, open_source
from tests.e2e.live_server import NUM_PICTURES, PASSWORD, USER, LiveServer, Picture, number_of, truth
from tests.e2e.scene import pictures, write_clip

SLOW_S = 0.1  # of a tracker that gets five pictures in the time of one
FRESH_S = 0.4  # age of a picture when it is taken: two pictures' time in the codec, and a busy machine
DEADLINE_S = 20


class SlowTracker:
    """Starts where the picture's number says, takes its time, and notes how old each picture was."""

    name = "slow"

    def __init__(self, server: LiveServer) -> None:
        self.tracker = sightline.load("sightline-nano", threads=1)
        self.server = server
        self.numbers: list[int] = []
        self.ages_s: list[float] = []

    def init(self, frame: Picture, **_: Any) -> TargetState:
        self._note(frame)
        return self.tracker.init(frame, xywh=truth(self.numbers[-1]))

    def update(self, frame: Picture, state: TargetState, clock: Any = None) -> TargetState:
        return self.update_many(frame, [state], clock)[0]

    def update_many(self, frame: Picture, states: Sequence[TargetState], clock: Any = None) -> list[TargetState]:
        self._note(frame)
        time.sleep(SLOW_S)
        return self.tracker.update_many(frame, states, clock)

    def _note(self, frame: Picture) -> None:
        self.numbers.append(number_of(frame))
        self.ages_s.append(time.monotonic() - self.server.sent_s[self.numbers[-1]])


def reading_threads() -> int:
    return sum(thread.name in ("sightline-live", "sightline-decode") for thread in threading.enumerate())


def jumps(frames: Sequence[Frame], numbers: Sequence[int]) -> list[int]:
    """Where the drawn numbers do not rise by as much as the indices: once for each new connection."""
    rises = np.diff(numbers) % NUM_PICTURES
    return np.flatnonzero(rises != np.diff([frame.index for frame in frames])).tolist()


# Newest frames


def test_a_slow_tracker_follows_the_newest_frames_over_a_break(caplog: pytest.LogCaptureFixture):
    with LiveServer() as server, caplog.at_level(logging.WARNING, "sightline"):
        source = open_source(f"{server.http}/live.ts")
        tracker = SlowTracker(server)
        frames, boxes = [], []
        deadline = time.monotonic() + DEADLINE_S
        num_after = 0
        for frame, (result,) in follow(tracker, source, [(0, 0, 1, 1)]):
            frames.append(frame)
            boxes.append(result.xywh)
            num_after += source.num_reconnects
            if len(frames) == 15:
                server.drop()
            assert reading_threads() == 1
            assert time.monotonic() < deadline
            if num_after == 15:
                break
        source.close()
        assert reading_threads() == 0
    assert (source.is_live, source.num_reconnects, server.num_connections) == (True, 1, 2)
    assert [record.getMessage().partition("got")[0] for record in caplog.records] == [f"{source.name} broke off: "]

    assert len(jumps(frames, tracker.numbers)) == 1
    gaps = np.diff([frame.index for frame in frames]) - 1
    assert source.num_dropped == frames[0].index + gaps.sum()
    assert source.num_dropped > len(frames)  # about four of five

    found = iou(boxes, [truth(number) for number in tracker.numbers])
    assert (found > 0.5).all()
    assert (iou(boxes, [truth(number + NUM_PICTURES // 2) for number in tracker.numbers]) < 0.2).all()
    assert np.median(tracker.ages_s) < FRESH_S
    times = [frame.time_s for frame in frames]
    assert (np.diff(times) > 0).all()
    assert times[-1] > SLOW_S * (len(frames) - 2)


def test_a_queue_would_let_the_frames_grow_old():
    """The control of the age above: the same through the queue that files are read by."""
    with LiveServer() as server, open_live(f"{server.http}/live.ts") as source:
        ages_s = []
        for frame in itertools.islice(decode_ahead(source, depth=12), 16):
            ages_s.append(time.monotonic() - server.sent_s[number_of(frame.rgb)])
            time.sleep(SLOW_S)
    assert np.median(ages_s[-4:]) > FRESH_S
    assert reading_threads() == 0


@pytest.mark.parametrize("stream", ["http/live.ts", "http/live.mjpeg", "rtsp/live"])
def test_every_kind_of_stream_is_found_again(stream: str):
    scheme, _, path = stream.partition("/")
    with LiveServer() as server, open_live(f"{getattr(server, scheme)}/{path}") as source:
        frames = []
        deadline = time.monotonic() + DEADLINE_S
        for frame in source:
            frames.append(frame)
            if len(frames) == 10:
                server.drop()
            if source.num_reconnects and frame.index > frames[9].index + 60:
                break
            assert time.monotonic() < deadline
    assert (source.is_live, source.num_reconnects) == (True, 1)
    assert len(jumps(frames, [number_of(frame.rgb) for frame in frames])) == 1
    assert source.num_dropped == frames[-1].index + 1 - len(frames)
    assert reading_threads() == 0


def test_what_comes_in_segments_is_played_at_its_own_pace():
    with LiveServer() as server, open_live(f"{server.http}/live.m3u8") as source:
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.02)
            if frame.index >= 120:  # more than two segments
                break
    assert (source.is_live, source.num_reconnects) == (True, 0)
    assert jumps(frames, [number_of(frame.rgb) for frame in frames]) == []
    assert frames[-1].time_s > 2  # not as fast as it can be had
    assert len(frames) > 20  # one for each segment would be 3


def test_silence_is_noticed(caplog: pytest.LogCaptureFixture):
    """As when the network cable is pulled: the connection stands and nothing comes."""
    with (
        LiveServer() as server,
        caplog.at_level(logging.WARNING, "sightline"),
        open_live(f"{server.http}/live.ts", timeout_s=1.0) as source,
    ):
        frames = iter(source)
        next(frames)
        server.is_silent.set()
        later = threading.Timer(1.5, server.is_silent.clear)
        later.start()
        deadline = time.monotonic() + DEADLINE_S
        while not source.num_reconnects:
            next(frames)
            assert time.monotonic() < deadline
        later.join()
    assert caplog.records[0].getMessage() == f"{source.name} broke off: got nothing for 1 s. It is opened again."


def test_a_stream_that_stays_away_ends_and_results_are_kept():
    with LiveServer() as server:
        source = open_live(f"{server.http}/live.ts", patience_s=1.0, timeout_s=1.0)
        tracker = SlowTracker(server)
        results = []
        for _, found in follow(tracker, source, [(0, 0, 1, 1)]):
            results += found
            if len(results) == 5:
                server.end()
    assert 5 <= len(results) < 15
    assert (iou([result.xywh for result in results], [truth(number) for number in tracker.numbers]) > 0.5).all()
    assert reading_threads() == 0


# Films


@pytest.mark.parametrize("suffix", [".mkv", ".h264"])  # the second has no duration, but the server tells its length
def test_a_film_over_the_network_is_read_as_a_file(tmp_path: Path, suffix: str):
    path = write_clip(tmp_path / f"clip{suffix}", pictures())
    expected = list(open_source(path))
    with LiveServer(film=path.read_bytes()) as server:
        with open_source(f"{server.http}/film{suffix}?token=wrong-word") as source:
            frames = []
            for frame in decode_ahead(source):
                frames.append(frame)
                time.sleep(0.05)
        assert (source.is_live, source.num_dropped, source.num_reconnects) == (False, 0, 0)
        started = list(open_source(f"{server.http}/film{suffix}", start=4))
    assert source.name == f"{server.http}/film{suffix}?token=***"
    assert [frame.index for frame in frames] == [frame.index for frame in expected]
    assert [frame.time_s for frame in frames] == [frame.time_s for frame in expected]
    assert all(np.array_equal(ours.rgb, theirs.rgb) for ours, theirs in zip(frames, expected, strict=True))
    assert [frame.index for frame in started] == [frame.index for frame in expected[4:]]


# Refusals and secrets


def refused(address: str, caplog: pytest.LogCaptureFixture) -> str:
    with pytest.raises(VideoError) as error:
        open_live(address, timeout_s=1.0)
    said = "".join(traceback.format_exception(error.value)) + caplog.text
    assert PASSWORD not in said
    assert "wrong-word" not in said
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_opened_is_refused_at_once_without_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with av.open(str(tmp_path / "sound.mp3"), "w") as container:
        stream = container.add_stream("mp3", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with LiveServer(film=(tmp_path / "sound.mp3").read_bytes()) as server:
        host = server.http.removeprefix("http://")
        secret = refused(f"http://guest:wrong-word@{host}/locked.ts", caplog)
        assert secret.startswith(f"http://guest:***@{host}/locked.ts: cannot be opened: got 'Server returned 401")
        assert "expected pictures within 1 s. Check the address" in secret
        assert "404" in refused(f"{server.http}/nothing.ts?password=wrong-word", caplog)
        assert "got no video in it" in refused(f"{server.http}/film.mp3", caplog)
        with pytest.raises(VideoError, match="start: got 2 for .* expected 0"):
            open_source(f"{server.rtsp}/live", start=2)
        server.is_silent.set()
        assert "got nothing for 1 s" in refused(f"{server.http}/live.ts", caplog)
    for scheme in ("http", "rtsp"):
        assert "Connection refused" in refused(f"{scheme}://guest:wrong-word@{host}/live", caplog)


def test_the_password_opens_and_is_shown_nowhere(caplog: pytest.LogCaptureFixture):
    with LiveServer() as server, caplog.at_level(logging.WARNING, "sightline"):
        host = server.http.removeprefix("http://")
        with open_live(f"http://{USER}:{PASSWORD}@{host}/locked.ts") as source:
            frames = iter(source)
            next(frames)
            server.drop()
            while not source.num_reconnects:
                next(frames)
    assert source.name == f"http://guest:***@{host}/locked.ts"
    assert "***" in caplog.text
    assert PASSWORD not in caplog.text + repr(source)
