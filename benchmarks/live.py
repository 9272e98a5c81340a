"""How old the frames of a live stream are when the tracker gets them, what is dropped for it, and a break.

A local server sends 50 pictures a second, whose numbers say when each was sent. The tracker works on the newest, and
as the other way on the same stream through the queue that files are read by; on both the server breaks off once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import tyro
from measure import SUMMARY, bar, machine, summary, table

import sightline
from sightline.trackers.protocol import Tracker
from sightline.types import Frame
from sightline.video.source import Source, decode_ahead, open_source

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the server is the one of the tests
from tests.e2e.live_server import NUM_PICTURES, RATE, LiveServer, number_of, truth

STREAMS = ("live.ts", "live.mjpeg", "rtsp")


def newest(source: Source) -> Iterator[Frame]:
    yield from source


def queued(source: Source) -> Iterator[Frame]:
    with closing(decode_ahead(source)) as frames:
        yield from frames


def follow_for(
    seconds: float, frames: Iterator[Frame], tracker: Tracker, server: LiveServer, slow_ms: float
) -> list[float]:
    """Ages in ms of the frames that the tracker was given; the server breaks off half way."""
    ages_ms: list[float] = []
    began_s, state, is_whole = time.monotonic(), None, True
    for frame in frames:
        assert frame.rgb is not None
        number = number_of(frame.rgb)
        now_s = time.monotonic()
        ages_ms.append(1e3 * (now_s - server.sent_s[number]))
        if now_s - began_s > seconds:
            break
        if is_whole and now_s - began_s > seconds / 2:
            server.drop()
            is_whole = False
        state = tracker.update(frame.rgb, state) if state else tracker.init(frame.rgb, xywh=truth(number))
        time.sleep(slow_ms / 1e3)
    return ages_ms


def main(model: str = "sightline-nano", threads: int = 2, seconds: float = 10.0, slow_ms: float = 40.0) -> None:
    """Age of frames, drops and a reconnect on streams of a local server.

    Args:
        model: A name from `sightline models`.
        threads: Threads of the network.
        seconds: Of each reading; less than a round of the scene, 12 s, within which each number is sent once.
        slow_ms: Added to each update, so that the tracker cannot keep up with 50 pictures a second.
    """
    assert seconds < NUM_PICTURES / RATE
    print(machine("numpy", "av", "opencv-python-headless", "onnxruntime"))
    print(f"{RATE} pictures a second for {seconds:g} s, {slow_ms:g} ms added to each update, {threads} threads\n")
    tracker = sightline.load(model, threads=threads)
    rows, medians = [], {}
    for stream in STREAMS:
        for way in (newest, queued):
            with LiveServer() as server:
                address = f"{server.rtsp}/live" if stream == "rtsp" else f"{server.http}/{stream}"
                with open_source(address) as source, closing(way(source)) as frames:
                    ages_ms = follow_for(seconds, frames, tracker, server, slow_ms)
                medians[stream, way.__name__] = float(np.median(ages_ms))
                counts = [len(ages_ms), source.num_dropped, source.num_reconnects]
                rows.append([f"{stream}, {way.__name__}", *counts, *summary(ages_ms)])
    print(table(["", "frames", "dropped", "reconnects", *(f"age, ms {name}" for name in SUMMARY)], rows))
    for stream in STREAMS:
        print(bar(f"median age of the newest frame, {stream}, ms", medians[stream, "newest"], at_most=100))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
