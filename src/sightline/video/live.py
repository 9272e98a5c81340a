"""Live sources: cameras and network streams, of which only the newest picture is worth having.

    with open_live("rtsp://user:password@192.168.1.20/stream1") as source:
        for frame in source:
            ...

A thread reads and decodes everything and keeps one picture, the newest; the consumer takes it or waits for the next.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.error import ExitError
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.imaging.frames import to_rgb
from sightline.types import Frame
from sightline.video.decode import picture_to_rgb, video_stream
from sightline.video.film import Source, open_video

__all__ = ["mask_secrets", "open_live"]

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 4.0  # between two tries to open again; each is twice the one before
STOP_S = 0.1  # how soon a request to stop is seen
BACKLOG_WAIT_S = 0.002  # what came sooner after it was asked for had been lying in a buffer
BACKLOG_AT_MOST_S = 3.0  # a machine that never waits is too slow for the stream: it takes what comes
DISCONTINUITY_S = 1.0  # a larger step of a stream's own times is a new beginning
OPTIONS = {
    "rtsp_transport": "tcp",  # a lost datagram would smear the picture until the next key frame
    "allowed_media_types": "video",  # RTSP: no sound is sent
    "analyzeduration": "1000000",  # at most 1 s, in microseconds, to guess what the stream holds; else 5 s
}
SEGMENTED = ("hls", "dash")  # formats that come some seconds at a time
LISTS = (*SEGMENTED, "sdp")  # formats whose size is that of a list of addresses
SECRET_FIELD = r"((?:pass|pwd|secret|token|key|auth|sig)[^=&;#?/]*=)[^&;#]*"

log = logging.getLogger("sightline")


def open_live(address: str | int, start: int = 0, *, patience_s: float = 20.0, timeout_s: float = 5.0) -> Source:
    """The newest frames of a camera (its number) or of a stream: `rtsp://`, `http://` and what else FFmpeg opens.

    A frame that is replaced before it is asked for is dropped: `Frame.index` counts it too, and `Source.num_dropped` is
    the number of indices passed over. `Frame.time_s` is the time of arrival since the first frame, in seconds of this
    machine's steady clock: a stream's own times jump where it is opened again. What lay in buffers when the stream was
    opened is passed over and not counted; a damaged picture is dropped. HLS and DASH, which come some seconds at a
    time, are played at their own pace, those seconds late.

    A stream that ends, breaks off or is silent for `timeout_s` is opened again, after pauses that grow from 0.25 s to
    4 s. Each break is a warning in the log, each success counts in `Source.num_reconnects`. The source ends when
    `patience_s` have passed without a frame, or with the try under way, twice `timeout_s` later at most. Closing it
    ends its thread; on a silent stream that takes up to `timeout_s` too. Passwords in the address get into no name,
    error or log; "/", "?" and "#" in them are written %2F, %3F and %23.

    What has an end (a duration, or a length that the server states) is a film that lies elsewhere: read as a file,
    every frame from `start` on, not live. Raises `VideoError` for what cannot be opened the first time, and for a
    `start` in what is live.
    """
    is_camera = isinstance(address, int) or address.isdecimal()
    connect: Callable[[], _Camera | _Stream] = (
        partial(_Camera, int(address)) if is_camera else partial(_Stream, _Address(address), timeout_s)
    )
    try:
        first = connect()
    except _Break as broken:
        name = f"camera {address}" if is_camera else mask_secrets(str(address))
        expected = "a camera that no other program uses" if is_camera else f"pictures within {timeout_s:g} s"
        cure = _name_cameras() if is_camera else "Check the address, the name and password in it, and the network"
        raise VideoError(f"{name}: cannot be opened: got {broken}; expected {expected}. {cure}.") from broken
    if first.is_finite:
        first.close()
        return open_video(_Address(str(address)), start)
    if start:
        first.close()
        raise VideoError(f"start: got {start} for {first.name}, which is live; expected 0. Leave the start out.")
    waiting: list[_Camera | _Stream] = [first]  # the first reading goes on with the connection that was tried

    def read() -> Generator[Frame, None, None]:
        reader = _Reader(lambda: waiting.pop() if waiting else connect(), source, patience_s)
        next_index = 0
        try:
            while not source.is_stopping and (shot := reader.take()) is not None:
                source.num_dropped += shot.index - next_index
                next_index = shot.index + 1
                yield Frame(shot.index, shot.time_s, first.to_rgb(shot.picture))
        finally:
            reader.close()

    source = Source(first.name, None, False, first.fps, read, is_live=True)
    return source


def mask_secrets(address: str) -> str:
    """The address as it may be shown: without its password and the values of fields such as `?token=`."""
    address = re.sub(r"(://[^:@/?#]*):.*@", r"\1:***@", address)  # up to the last @: a password may hold anything
    return re.sub(SECRET_FIELD, r"\1***", address, flags=re.IGNORECASE)


class _Address(str):
    """Opens with its secrets, is shown without them: in our sentences as in FFmpeg's."""

    def __str__(self) -> str:
        return mask_secrets(super().__str__())

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class _Break(Exception):
    """No more pictures from this connection; says why."""


class _Arrival(NamedTuple):
    """What one packet, or one exposure of a camera, brought."""

    waited_s: float
    picture: Any | None  # `av.VideoFrame` or (H, W, 3) uint8 BGR; None where the packet completed none that is whole


class _Stream:
    """An address that FFmpeg has opened, and every whole picture that comes from it."""

    def __init__(self, address: _Address, timeout_s: float) -> None:
        self.name = str(address)
        self._silence = f"nothing for {timeout_s:g} s"
        try:
            self._container = av.open(
                address, options=OPTIONS, timeout=(timeout_s, timeout_s), metadata_errors="replace"
            )
        except av.FFmpegError as error:
            raise _Break(self._reason(error)) from error
        try:
            self._video = video_stream(self._container, address)
        except VideoError as error:
            self.close()
            raise _Break("no video in it") from error
        rate = self._video.guessed_rate or self._video.average_rate
        self.fps = float(rate) if rate and rate <= 1000 else None
        kind = self._container.format.name.partition(",")[0]
        self.is_finite = self._container.duration is not None or (kind not in LISTS and self._container.size > 0)
        self._is_segmented = kind in SEGMENTED

    def arrivals(self) -> Iterator[_Arrival]:
        packets = self._container.demux()  # of every kind: where only sound goes on, the thread must still look up
        began_s = math.inf  # when the stream's own clock stood at 0
        while True:
            asked_s = time.monotonic()
            try:
                packet = next(packets)
            except StopIteration:
                raise _Break("its end") from None
            except av.FFmpegError as error:
                raise _Break(self._reason(error)) from error
            waited_s = math.inf if self._is_segmented else time.monotonic() - asked_s
            for picture in self._decode(packet):
                if self._is_segmented and picture.time is not None:
                    early_s = began_s + picture.time - time.monotonic()
                    if abs(early_s) > DISCONTINUITY_S:
                        began_s = time.monotonic() - picture.time
                    time.sleep(early_s if 0 < early_s <= DISCONTINUITY_S else 0)
                if not picture.is_corrupt:
                    yield _Arrival(waited_s, picture)
            yield _Arrival(waited_s, None)

    def _decode(self, packet: av.Packet[Any]) -> list[av.VideoFrame]:
        if packet.stream.index != self._video.index:
            return []
        try:
            return packet.decode()
        except av.FFmpegError:
            return []

    def _reason(self, error: av.FFmpegError) -> str:
        return self._silence if isinstance(error, ExitError) else f"'{error.strerror}'"

    @staticmethod
    def to_rgb(picture: av.VideoFrame) -> NDArray[np.uint8]:
        return picture_to_rgb(picture)

    def close(self) -> None:
        self._container.close()


class _Camera:
    """A camera that OpenCV has opened."""

    is_finite = False

    def __init__(self, index: int) -> None:
        self.name = f"camera {index}"
        if not 0 <= index < 1 << 31:  # at the others OpenCV fails in its own way, or falls
            raise _Break("none of that number")
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it would print, at each try
        try:
            self._capture = cv2.VideoCapture(index)
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            raise _Break("none of that number")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate <= 1000 else None

    def arrivals(self) -> Iterator[_Arrival]:
        while True:
            asked_s = time.monotonic()
            is_there = self._capture.grab()
            waited_s = time.monotonic() - asked_s
            is_whole, bgr = self._capture.retrieve() if is_there else (False, None)
            if not is_whole:
                raise _Break("no frame")
            yield _Arrival(waited_s, bgr)

    @staticmethod
    def to_rgb(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(cv2.cvtColor(to_rgb(picture), cv2.COLOR_BGR2RGB), np.uint8)

    def close(self) -> None:
        self._capture.release()


def _name_cameras() -> str:
    """What to do for want of a camera, with the ones that Linux knows."""
    nodes = ", ".join(sorted(str(node) for node in Path("/dev").glob("video*")))
    if sys.platform != "linux":
        return "Pass another number, and allow this program to use the camera"
    return f"Pass the number of one of {nodes}" if nodes else "Connect one: there is no /dev/video*"


@dataclass(frozen=True, eq=False)
class _Shot:
    index: int
    time_s: float  # of arrival, since the first
    picture: Any


class _Reader:
    """A thread that keeps the newest picture of a connection, which it opens again where it breaks off."""

    def __init__(self, connect: Callable[[], _Camera | _Stream], source: Source, patience_s: float) -> None:
        self._connect, self._source, self._patience_s = connect, source, patience_s
        self._change = threading.Condition()
        self._newest: _Shot | None = None
        self._is_closing = self._has_ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sightline-live", daemon=True)
        self._thread.start()

    def take(self) -> _Shot | None:
        """The newest picture that was not taken yet, waited for; None when there will be no more."""
        with self._change:
            while not self._change.wait_for(lambda: self._newest is not None or self._has_ended, STOP_S):
                if self._source.is_stopping:
                    break
            shot, self._newest = self._newest, None
        if shot is None and self._error is not None:
            raise self._error
        return shot

    def close(self) -> None:
        with self._change:
            self._is_closing = True
            self._change.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # handed over, not handled
            self._error = error
        with self._change:
            self._has_ended = True
            self._change.notify_all()

    def _read(self) -> None:
        name, index, pause_s, is_broken = self._source.name, 0, FIRST_PAUSE_S, False
        first_s = seen_s = time.monotonic()
        while not self._is_closing:
            try:
                with closing(self._connect()) as connection:
                    for picture in _fresh(connection.arrivals()):
                        now_s = time.monotonic()
                        if self._is_closing:
                            return
                        if picture is None and now_s - seen_s > self._patience_s:
                            raise _Break("no picture")
                        if picture is None:
                            continue
                        if is_broken:
                            self._source.num_reconnects += 1
                            is_broken, pause_s = False, FIRST_PAUSE_S
                        first_s, seen_s = first_s if index else now_s, now_s
                        with self._change:
                            self._newest = _Shot(index, now_s - first_s, picture)
                            self._change.notify_all()
                        index += 1
            except _Break as broken:
                if not is_broken:
                    log.warning("%s broke off: got %s. It is opened again.", name, broken)
                is_broken = True
            if time.monotonic() - seen_s > self._patience_s:
                log.warning("%s ends: no picture for %g s.", name, self._patience_s)
                return
            with self._change:
                self._change.wait_for(lambda: self._is_closing, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _fresh(arrivals: Iterator[_Arrival]) -> Iterator[Any | None]:
    """The pictures of a connection, but None for those that had been lying in a buffer when it was opened."""
    began_s, is_fresh = time.monotonic(), False
    for waited_s, picture in arrivals:
        is_fresh = is_fresh or waited_s > BACKLOG_WAIT_S or time.monotonic() - began_s > BACKLOG_AT_MOST_S
        yield picture if is_fresh else None
