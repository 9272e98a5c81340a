"""A paced local server: one endless scene as MPEG-TS, Motion JPEG, HLS and RTSP, that can break off, fall silent, end.

Every connection starts at the picture of the moment, as a camera's does, and gets every picture from there on, 50 a
second. The scene is a board on a circle; its number is drawn into each picture, so that what arrives tells where the
board is and when it was sent.
"""

from __future__ import annotations

import base64
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

WIDTH, HEIGHT = 320, 240
RATE = 50  # pictures a second
GROUP = 10  # pictures from one key frame to the next
NUM_PICTURES = 600  # of one round of the board, twelve seconds
SIDE = 48  # of the board, pixels
BITS, CELL = 10, 16  # the number's binary digits, squares of so many pixels from the top left
USER, PASSWORD = "guest", "s3cret@word"  # of /locked.ts
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=board
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
"""


def truth(number: int) -> tuple[float, float, float, float]:
    """`xywh` of the board in one picture: a circle of 40 pixels, left out the top rows where the number is."""
    angle = 2 * np.pi * number / NUM_PICTURES
    return round(136 + 40 * np.cos(angle)), round(110 + 40 * np.sin(angle)), SIDE, SIDE


def picture(number: int) -> Picture:
    """(240, 320, 3) uint8 RGB: a red and yellow board over a smooth, grainy ground, its number in black and white."""
    frame = _ground().copy()
    x, y, w, h = (int(side) for side in truth(number))
    cells = (np.mgrid[0:h, 0:w] // 12).sum(axis=0) % 2
    frame[y : y + h, x : x + w] = np.where(cells[..., None], (225, 60, 40), (250, 215, 70))
    for bit in range(BITS):
        frame[:CELL, bit * CELL : (bit + 1) * CELL] = 235 * (number >> bit & 1)
    return frame


def number_of(rgb: Picture) -> int:
    """The number that is drawn into a picture, whatever the codec did to it."""
    cells = rgb[:CELL, : BITS * CELL].reshape(CELL, BITS, CELL, 3).mean(axis=(0, 2, 3))
    return sum(1 << bit for bit in range(BITS) if cells[bit] > 117)


@cache
def _ground() -> Picture:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([70 + rows // 4, 100 + columns // 6, 130 - rows // 6], axis=-1)
    return (smooth + np.random.default_rng(7).integers(-12, 13, (HEIGHT, WIDTH, 1))).astype(np.uint8)


class _Pieces(list[bytes]):
    """A file that keeps each piece written to it."""

    def write(self, data: bytes) -> int:
        self.append(bytes(data))
        return len(data)


@cache
def encoded(muxer: str) -> list[list[bytes]]:
    """The pieces of each picture, H.264 in MPEG-TS or in RTP packets; a picture can be joined at each key frame."""
    pieces, pictures = _Pieces(), []
    options = {"packetsize": "1400"} if muxer == "rtp" else {"mpegts_flags": "+pat_pmt_at_frames", "flush_packets": "1"}
    x264 = {"preset": "ultrafast", "tune": "zerolatency", "g": str(GROUP), "crf": "22"}
    with av.open(pieces, "w", format=muxer, options=options) as container:
        stream = container.add_stream("libx264", rate=RATE, options=x264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(NUM_PICTURES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
            pictures.append(list(pieces))
            pieces.clear()
    return pictures


@cache
def jpegs() -> list[bytes]:
    return [cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes() for number in range(NUM_PICTURES)]


class LiveServer:
    """`with LiveServer() as server: open_live(server.http + "/live.ts")`; threads and sockets end with the block."""

    def __init__(self, film: bytes = b"") -> None:
        self.film = film
        self.sent_s: dict[int, float] = {}  # time.monotonic() when a picture was last sent, by its number
        self.num_connections = 0
        self.is_silent = threading.Event()  # connections stay open and nothing comes
        self._began_s = time.monotonic()
        self._is_over = threading.Event()
        self._drops = threading.Semaphore(0)

    def __enter__(self) -> LiveServer:
        for muxer in ("mpegts", "rtp"):
            encoded(muxer)
        handlers = {"http": _Http, "rtsp": _Rtsp}
        self._servers = [
            _Server(("127.0.0.1", 0), type(name, (kind,), {"live": self})) for name, kind in handlers.items()
        ]
        self.http, self.rtsp = (
            f"{scheme}://127.0.0.1:{server.server_address[1]}"
            for scheme, server in zip(handlers, self._servers, strict=True)
        )
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), name="live-server", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def drop(self) -> None:
        """Break off the connection that is served; the next one is served again."""
        self._drops.release()

    def end(self) -> None:
        """Break off and refuse what comes."""
        self._is_over.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def number_now(self) -> int:
        """The picture of the moment, a key frame, of an endless count."""
        return int((time.monotonic() - self._began_s) * RATE) // GROUP * GROUP

    def paced(self) -> Iterator[int]:
        """The number of each picture when it is due, from now on, until the connection is to be dropped."""
        self.num_connections += 1
        first, began_s = self.number_now(), time.monotonic()
        for count in range(first, first + 10**9):
            due_s = began_s + (count - first) / RATE
            if self._is_over.wait(max(0.0, due_s - time.monotonic())) or self._drops.acquire(blocking=False):
                return
            while self.is_silent.is_set():
                if self._is_over.wait(0.05):
                    return
            self.sent_s[count % NUM_PICTURES] = time.monotonic()
            yield count % NUM_PICTURES


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


class _Http(BaseHTTPRequestHandler):
    live: LiveServer
    timeout = 10

    def do_GET(self) -> None:
        name = self.path.partition("?")[0]
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if name == "/locked.ts" and self.headers["Authorization"] != f"Basic {known}":
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="board"')
            self.end_headers()
        elif name in ("/live.ts", "/locked.ts"):
            self._head("video/mp2t")
            for number in self.live.paced():
                self.wfile.write(b"".join(encoded("mpegts")[number]))
        elif name == "/live.mjpeg":
            self._head("multipart/x-mixed-replace; boundary=board")
            for number in self.live.paced():
                self.wfile.write(b"--board\r\nContent-Type: image/jpeg\r\n")
                self.wfile.write(f"Content-Length: {len(jpegs()[number])}\r\n\r\n".encode() + jpegs()[number] + b"\r\n")
        elif name == "/live.m3u8":
            self._whole("application/vnd.apple.mpegurl", self._playlist().encode())
        elif name.startswith("/segment"):
            first = int(name[8:-3]) * RATE
            pieces = [b"".join(encoded("mpegts")[number % NUM_PICTURES]) for number in range(first, first + RATE)]
            self._whole("video/mp2t", b"".join(pieces))
        elif name.startswith("/film"):
            self._whole("application/octet-stream", self.live.film)
        else:
            self.send_error(404)

    def _playlist(self) -> str:
        """The last four whole seconds, a segment each."""
        newest = self.live.number_now() // RATE + 20
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{newest - 4}"]
        for segment in range(newest - 4, newest):
            is_wrapped = segment * RATE % NUM_PICTURES == 0
            lines += ["#EXT-X-DISCONTINUITY"] * is_wrapped + ["#EXTINF:1.0,", f"segment{segment}.ts"]
        return "\n".join([*lines, ""])

    def _head(self, kind: str, *lengths: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        for length in lengths:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _whole(self, kind: str, data: bytes) -> None:
        self._head(kind, len(data))
        self.wfile.write(data)

    def handle(self) -> None:
        with suppress(OSError):  # the reader has gone
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class _Rtsp(socketserver.StreamRequestHandler):
    """As much of RTSP as a reader over TCP needs: the packets go between the answers, behind a dollar sign."""

    live: LiveServer
    timeout = 10

    def handle(self) -> None:
        with suppress(OSError):  # the reader has gone
            while request := self._request():
                method, answer = request[0].split()[0], "Session: 1\r\n"
                body = SDP.replace("\n", "\r\n") if method == "DESCRIBE" else ""
                if method == "OPTIONS":
                    answer = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    answer = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
                sequence = next(line for line in request if line.lower().startswith("cseq"))
                self.wfile.write(f"RTSP/1.0 200 OK\r\n{sequence}\r\n{answer}\r\n{body}".encode())
                if method == "PLAY":
                    self._play()
                    return

    def _request(self) -> list[str]:
        """The lines up to an empty one; none where the reader has gone."""
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        return lines

    def _play(self) -> None:
        for number in self.live.paced():
            for packet in encoded("rtp")[number]:
                is_report = packet[1] == 200  # RTCP goes on a channel of its own
                self.wfile.write(b"$" + bytes([is_report]) + len(packet).to_bytes(2, "big") + packet)
