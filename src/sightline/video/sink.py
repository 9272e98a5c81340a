"""Frames to an H.264 file that any player opens, or to a GIF; whole or not there at all."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.files import atomic_path
from sightline.imaging.frames import to_rgb
from sightline.video.gif import GifFile
from sightline.video.sound import Sound, open_sound

__all__ = ["VideoSink"]

SUFFIXES = (".gif", ".m4v", ".mkv", ".mov", ".mp4")
TICK = Fraction(1, 90_000)  # s; divides the periods of all usual frame rates, 30000/1001 among them
BT709 = 1  # the number of BT.709 in H.264's tables of matrix, primaries and transfer curve
LIMITED_RANGE = 1  # luma 16 to 235, in FFmpeg's numbering


class VideoSink:
    """Writes frames to `path` as H.264, 4:2:0, BT.709: `with VideoSink("out.mp4", fps=25) as sink: sink.write(rgb)`.

    The first frame sets the canvas, padded by a repeated row or column where a side is odd; a later frame of another
    size is scaled into it, centred on black. The file appears under its name when the block ends well; an exception,
    a full disk or a block without a frame leaves nothing, and what stood there before stays. Raises `VideoError` for
    an unknown suffix at once, for a folder that cannot be written on entry, for a failed write as soon as it is known.

    `fps` is used for frames written without a time (25 where the source has none). `sound` is a video whose audio is
    written too, beginning with the first frame written and ending with the last, in time as long as frames are written
    with their source's times; packets are copied, or encoded as AAC where the container or its players do not know
    their codec. Where it cannot be read, a warning in the log says so and the pictures are written without.
    `pixel_aspect` is the width of a pixel over its height. Pass `Source.sound` and `Source.pixel_aspect` to keep what a
    source has. `crf` and `preset` are x264's: quality from 0 to 51, lower is better and larger; "veryfast" takes a few
    milliseconds at 640 x 360 pixels.

    A path that ends in ".gif" becomes an animated GIF without sound that plays for ever, scaled down to at most 480
    pixels wide or high and thinned to at most ten frames a second: 0.1 to 1 MB per second of film. Ending the block
    takes some ten milliseconds per frame then.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | None = None,
        *,
        sound: str | Path | None = None,
        pixel_aspect: Fraction | float = 1,
        crf: int = 20,
        preset: str = "veryfast",
    ) -> None:
        self.path = Path(path)
        self.num_frames = 0
        if self.path.suffix.lower() not in SUFFIXES:
            expected = ", ".join(SUFFIXES)
            raise VideoError(f"{path}: got suffix '{self.path.suffix}'; expected {expected}. Rename the output.")
        if fps is not None and not 0 < fps <= 1000:
            raise VideoError(f"{path}: got {fps} frames per second; expected 0 < fps <= 1000. Pass the source's rate.")
        self._fps = Fraction(fps or 25).limit_denominator(1001)
        self._sound = sound
        self._pixel_aspect = Fraction(pixel_aspect).limit_denominator(1000)
        self._options = {"crf": str(crf), "preset": preset}
        self._last_tick = -1
        self._file: _FilmFile | GifFile | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._partial = stack.enter_context(atomic_path(self.path, VideoError))
            stack.push(self._finish)
            self._on_exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._on_exit.__exit__(kind, error, trace)

    def write(self, rgb: NDArray[np.uint8], time_s: float | None = None) -> None:
        """Add one frame, of any kind that `to_rgb` takes, shown at `time_s` seconds on the source's clock.

        Times are counted from the first frame written and made to rise by at least one tick; without one the frame
        follows at the constant rate.
        """
        rgb = to_rgb(rgb)
        try:
            if self._file is None:
                self._canvas = rgb.shape[0], rgb.shape[1]
                self._first_s = time_s or 0.0
                self._file = self._open(*self._canvas)
            since_s = self.num_frames / self._fps if time_s is None else Fraction(time_s - self._first_s)
            self._last_tick = max(round(since_s / TICK), self._last_tick + 1)
            self._file.write(_fit(rgb, *self._canvas), self._last_tick * TICK)
        except av.FFmpegError as error:
            raise self._failure(error) from error
        self.num_frames += 1

    def _open(self, height: int, width: int) -> _FilmFile | GifFile:
        if self.path.suffix.lower() == ".gif":
            return GifFile(self._partial, height, width, self._pixel_aspect)
        try:
            film = _FilmFile(self._partial, height, width, self._fps, self._pixel_aspect, self._options)
        except UnknownCodecError as error:
            raise VideoError(
                f"{self.path}: got a PyAV without the encoder libx264; expected one with it. "
                "Run: pip install --force-reinstall av"
            ) from error
        if self._sound is not None:
            film.add_sound(self._sound, self._first_s)
        return film

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is still held back and the index; after an exception only let go of the file."""
        if self._file is None:
            if kind is None:
                raise VideoError(f"{self.path}: got no frame; expected at least one. Nothing was written.")
            return
        try:
            if kind is None:
                self._file.finish(self._last_tick * TICK + 1 / self._fps)
        except av.FFmpegError as error:
            raise self._failure(error) from error
        finally:
            self._file.close()

    def _failure(self, error: av.FFmpegError) -> VideoError:
        return VideoError(
            f"{self.path}: cannot be written: got '{error.strerror}' at frame {self.num_frames}; expected room for the "
            "whole file and a size that H.264 allows. Free some space or write elsewhere."
        )


class _FilmFile:
    """H.264 pictures of one size, and the sound of another file beside them. Times in seconds, rising from 0."""

    def __init__(
        self, path: Path, height: int, width: int, fps: Fraction, pixel_aspect: Fraction, options: dict[str, str]
    ) -> None:
        is_matroska = path.suffix.lower() == ".mkv"
        container_options = {} if is_matroska else {"movflags": "+faststart"}
        self._container = av.open(f"file:{path}", "w", options=container_options)
        self._sound: Sound | None = None
        self._stream = self._container.add_stream("libx264", rate=fps, options=options)
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = TICK
        context.sample_aspect_ratio = pixel_aspect
        context.color_range = LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = BT709

    def add_sound(self, path: str | Path, begin_s: float) -> None:
        """What is heard in `path` from `begin_s` on; before the first picture."""
        self._sound = open_sound(path, begin_s, self._container)

    def write(self, rgb: NDArray[np.uint8], time: Fraction) -> None:
        picture = av.VideoFrame.from_ndarray(_pad_even(rgb), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        picture.pts, picture.time_base = round(time / TICK), TICK
        self._container.mux(self._stream.encode(picture))
        self._write_sound(time)

    def _write_sound(self, until: Fraction) -> None:
        if self._sound is not None:
            for packet in self._sound.until(float(until)):
                self._container.mux(packet)

    def finish(self, end: Fraction) -> None:
        """Write what the encoder still holds, the sound until `end`, and the index."""
        self._container.mux(self._stream.encode())
        self._write_sound(end)
        self._container.close()

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        with suppress(av.FFmpegError):
            self._container.close()


def _fit(rgb: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The frame scaled into height x width pixels, aspect kept, centred on black; itself where it has that size."""
    if rgb.shape[:2] == (height, width):
        return rgb
    scale = min(height / rgb.shape[0], width / rgb.shape[1])
    h, w = (max(1, round(side_px * scale)) for side_px in rgb.shape[:2])
    top, left = (height - h) // 2, (width - w) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + h, left : left + w] = cv2.resize(rgb, (w, h), interpolation=smooth)
    return canvas


def _pad_even(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """4:2:0 stores colour for 2 x 2 pixels: an odd side gets its last row or column once more."""
    height, width = rgb.shape[:2]
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else rgb
