"""Animated GIF, for the pages and chats that show no film."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext
from numpy.typing import NDArray

__all__ = ["GifFile"]

WIDE_PX = 480
PERIOD = Fraction(1, 10)  # s
TICK = Fraction(1, 100)  # s, GIF's own
SHORTEST = 2  # ticks; browsers show what is shorter for ten


class GifFile:
    """Pictures of one size as a GIF that plays for ever: at most 480 pixels wide or high and ten of them a second.

    Larger pictures are scaled down, those between are passed over. All share one palette; where the background stands
    still the file is a fifth of what a palette for each would make it. So they wait in a nameless file beside `path`,
    0.4 MB each, until `finish` knows their colours. Raises `av.FFmpegError` and `OSError`.
    """

    def __init__(self, path: Path, height: int, width: int, pixel_aspect: Fraction) -> None:
        self._path = path
        high, wide = height / max(pixel_aspect, Fraction(1)), width * min(pixel_aspect, Fraction(1))  # square pixels
        scale = min(WIDE_PX / max(high, wide), Fraction(1))
        self._height, self._width = max(1, round(high * scale)), max(1, round(wide * scale))
        self._times: list[Fraction] = []
        self._due = Fraction(0)
        self._waiting = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed by `close`)
        self._colours = Graph()
        moving = self._colours.add("palettegen", stats_mode="diff")
        self._source_in(self._colours).link_to(moving)
        moving.link_to(self._colours.add("buffersink"))
        self._colours.configure()

    def write(self, rgb: NDArray[np.uint8], time: Fraction) -> None:
        """Add the picture shown at `time`, in seconds, or pass over it; times rise from 0."""
        if time < self._due - TICK / 2:
            return
        self._due = max(self._due + PERIOD, time + PERIOD / 2)  # ten a second in the mean, whatever the source's rate
        self._times.append(time)
        small = cv2.resize(rgb, (self._width, self._height), interpolation=cv2.INTER_AREA)
        self._waiting.write(small.tobytes())
        self._colours.vpush(_picture(np.asarray(small, np.uint8), time))

    def finish(self, end: Fraction) -> None:
        """Write the file; the last picture is shown until `end`, in seconds."""
        self._colours.vpush(None)
        palette = self._colours.vpull()
        dither = Graph()
        painted = dither.add("paletteuse", diff_mode="rectangle")
        shown = self._source_in(dither)
        colours = dither.add_buffer(None, palette.width, palette.height, palette.format, time_base=TICK)
        shown.link_to(painted, 0, 0)
        colours.link_to(painted, 0, 1)
        painted.link_to(dither.add("buffersink"))
        dither.configure()
        palette.pts, palette.time_base = 0, TICK
        colours.push(palette)
        colours.push(None)
        last = max(SHORTEST, round((end - self._times[-1]) / TICK))
        options = {"loop": "0", "final_delay": str(last)}
        with av.open(f"file:{self._path}", "w", format="gif", options=options) as container:
            stream = container.add_stream("gif", rate=10)
            stream.height, stream.width, stream.pix_fmt = self._height, self._width, "pal8"
            stream.codec_context.time_base = TICK
            for picture in self._pictures():
                shown.push(picture)
                container.mux(stream.encode(dither.vpull()))
            container.mux(stream.encode())

    def close(self) -> None:
        self._waiting.close()

    def _pictures(self) -> Iterator[av.VideoFrame]:
        self._waiting.seek(0)
        shape = self._height, self._width, 3
        for time in self._times:
            data = self._waiting.read(self._height * self._width * 3)
            yield _picture(np.frombuffer(data, np.uint8).reshape(shape), time)

    def _source_in(self, graph: Graph) -> FilterContext:
        return graph.add_buffer(None, self._width, self._height, av.VideoFormat("rgb24"), time_base=TICK)


def _picture(rgb: NDArray[np.uint8], time: Fraction) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    picture.pts, picture.time_base = round(time / TICK), TICK
    return picture
