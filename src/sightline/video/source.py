"""Frame sources: a video, a folder or glob of images, paths, arrays, a camera or a stream, all read the same way.

    with open_source("clip.mp4", start=100) as source:
        for frame in decode_ahead(source):
            ...

Every frame of the source has its index, also one that cannot be read: that one has `rgb` None and says why in `error`.
"""

from __future__ import annotations

import glob
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.imaging.frames import read_image, to_rgb
from sightline.types import Frame
from sightline.video.decode import is_turned, open_container, picture_to_rgb, pictures, video_stream

__all__ = ["Source", "decode_ahead", "open_source", "open_video"]

IMAGE_SUFFIXES = (".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
STREAMS = ("http", "https", "rtmp", "rtsp", "rtsps", "srt", "tcp", "udp")

T = TypeVar("T")


@dataclass
class Source:
    """Frames in order. Iterate over it for `Frame` values; each iteration reads from the start and ends the one before.

    `num_frames` counts the whole source, whatever the start; for images and arrays it is exact, for a video it is what
    the container says (`is_count_exact` False), and None is unknown. `fps` is None where the source has no clock.
    `is_live`: a camera or stream, which does not wait: frames that come while nobody asks are dropped and counted in
    `num_dropped`; `num_reconnects` counts how often a stream that broke off was found again. Where `is_stopping` is
    set, from any thread or a signal's handler, a live reading ends as if there were no more frames. `sound` is the file
    whose audio belongs to the pictures, None where there is none. `pixel_aspect` is the width of a pixel over its
    height: frames keep the pixels that are stored, and a player that heeds it stretches them.
    """

    name: str
    num_frames: int | None
    is_count_exact: bool
    fps: float | None
    _read: Callable[[], Generator[Frame, None, None]] = field(repr=False)
    is_live: bool = False
    sound: Path | None = None
    pixel_aspect: Fraction = Fraction(1)
    num_dropped: int = field(default=0, init=False)
    num_reconnects: int = field(default=0, init=False)
    is_stopping: bool = field(default=False, init=False)
    _reading: Generator[Frame, None, None] | None = field(default=None, init=False, repr=False)

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        self._reading = self._read()
        return self._reading

    def close(self) -> None:
        """End the reading under way and free its file."""
        if self._reading is not None:
            self._reading.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_source(source: int | str | Path | Sequence[Path] | Iterable[NDArray[Any]], start: int = 0) -> Source:
    """A source of frames from what a person names: a file, a folder, a glob, paths, arrays, a camera or a stream.

    Images are read in natural order (2 before 10), a list of paths in its own; arrays go through `to_rgb`. An `int`,
    or digits that are no path, is the camera of that number; an address such as "rtsp://host/path" is a stream. Frames
    are upright: what a phone noted of how it was held (display matrix, EXIF) is heeded before anybody sees a box.

    Iteration begins at frame `start`, found by decoding and dropping, so that it is exact; indices and times stay those
    of the whole source. Raises `VideoError` for what is missing, empty or no video, for a start in what is live, and
    for one beyond the end: at once where the count is exact, when the first frame is asked for where it is not.
    """
    if start < 0:
        raise VideoError(f"start: got {start}; expected a frame index from 0. Count from the source's first frame.")
    if isinstance(source, str) and not source:
        raise VideoError("source: got an empty name; expected a file, a folder or an address. Check the variable.")
    if isinstance(source, int) or (isinstance(source, str) and _is_address(source)):
        from sightline.video.live import open_live

        return open_live(source, start)
    if isinstance(source, str | Path):
        path, name = Path(source), str(source)
        if path.is_dir():
            return _open_images(_find_images(path.iterdir(), name), name, start)
        if not path.exists() and glob.has_magic(name):
            return _open_images(_find_images(map(Path, glob.glob(name, recursive=True)), name), name, start)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            return _open_images([path], name, start)
        return open_video(path, start)
    if isinstance(source, Sequence) and source and all(isinstance(item, str | Path) for item in source):
        paths = [Path(item) for item in source]
        return _open_images(paths, f"{len(paths)} images", start)
    return _open_arrays(source, start)


def _is_address(source: str) -> bool:
    """Whether it is the number of a camera or the address of a stream; `VideoError` for a scheme that is neither."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", source)
    if scheme is None:
        return source.isdecimal() and not Path(source).exists()
    if scheme[1].lower() not in STREAMS:
        known = ", ".join(f"{name}://" for name in STREAMS)
        raise VideoError(
            f"source: got an address that begins with {scheme[0]}; expected one of {known}. "
            "Pass the path of a file without a scheme."
        )
    return True


def _find_images(found: Iterable[Path], name: str) -> list[Path]:
    try:
        paths = list(found)
    except OSError as error:
        raise VideoError(f"{name}: got '{error.strerror}'; expected a folder of images. Check its rights.") from error
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    if not images:
        raise VideoError(
            f"{name}: got {len(paths)} files and no image among them; expected {', '.join(IMAGE_SUFFIXES)}. "
            "Name the folder that holds the frames, or quote the pattern."
        )
    return sorted(images, key=natural_key)


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Digits compare as numbers; the spelling breaks ties such as 1.png and 01.png."""
    parts = re.split(r"(\d+)", str(path).lower())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], str(path)


def _open_images(paths: list[Path], name: str, start: int) -> Source:
    def read() -> Generator[Frame, None, None]:
        for index in range(start, len(paths)):
            try:
                yield Frame(index, None, read_image(paths[index]))
            except VideoError as error:
                yield Frame(index, None, None, str(error))

    _require_start(start, len(paths), name)
    return Source(name, len(paths), True, None, read)


def _open_arrays(arrays: Iterable[Any], start: int) -> Source:
    def read() -> Generator[Frame, None, None]:
        index = -1
        for index, array in enumerate(arrays):
            if index >= start:
                yield Frame(index, None, to_rgb(array))
        _require_start(start, index + 1, "arrays")

    num_frames = len(arrays) if isinstance(arrays, Sized) else None
    if num_frames is not None:
        _require_start(start, num_frames, "arrays")
    return Source("arrays", num_frames, num_frames is not None, None, read)


def _require_start(start: int, num_frames: int, name: str) -> None:
    if num_frames == 0:
        raise VideoError(f"{name}: got zero frames; expected at least one. Check that it was written to its end.")
    if start >= num_frames:
        raise VideoError(f"start: got {start}; expected 0 to {num_frames - 1}, the frames of {name}. Start earlier.")


def open_video(path: Path | str, start: int = 0) -> Source:
    """A video as a source, as `open_source` does: a file (`Path`), or a film at an address that ends (`str`)."""
    if isinstance(path, Path) and not path.exists():
        raise VideoError(f"{path}: got no such file; expected a video, a folder or a glob of images. Check the path.")
    if isinstance(path, Path) and path.stat().st_size == 0:
        raise VideoError(f"{path}: got an empty file; expected a video. Check that it was written to its end.")
    with open_container(path) as container:
        stream = video_stream(container, path)
        rate = stream.guessed_rate or stream.average_rate  # the average is wild where times are missing
        num_frames: int | None = stream.frames or None
        if num_frames is None and container.duration and rate:  # Matroska and MPEG-TS do not store a count
            num_frames = round(container.duration / av.time_base * rate)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        sound = path if isinstance(path, Path) and container.streams.audio else None
    with closing(pictures(path)) as shown:
        first = next(shown, None)
    if first is None:
        _require_start(0, 0, str(path))
    elif first[1] is not None and is_turned(first[1]):
        aspect = 1 / aspect
    fps = float(rate) if rate and rate <= 1000 else None  # a tick of the clock is no rate
    read = partial(_read_video, path, fps, start)
    return Source(str(path), num_frames, False, fps, read, sound=sound, pixel_aspect=aspect)


def _read_video(path: Path | str, fps: float | None, start: int) -> Generator[Frame, None, None]:
    """Frames with rising times: where the file's do not rise, each is one period after the one before."""
    index, time_s, first_s = -1, 0.0, 0.0
    for index, (shown_s, picture) in enumerate(pictures(path)):
        if index == 0:
            first_s = shown_s or 0.0
        else:
            since_s = 0.0 if shown_s is None else shown_s - first_s
            time_s = since_s if since_s > time_s else time_s + 1 / (fps or 25)
        if index < start:
            continue
        if picture is None or picture.is_corrupt:
            yield Frame(index, time_s, None, f"{path}, frame {index}: the picture's data are damaged.")
        else:
            yield Frame(index, time_s, picture_to_rgb(picture))
    _require_start(start, index + 1, str(path))


class _End(NamedTuple):
    error: BaseException | None


def decode_ahead(source: Iterable[T], depth: int = 8) -> Generator[T, None, None]:
    """The items of `source`, made in a thread of their own that runs at most `depth` items ahead.

    An exception of the source is raised here, in its place among the items. The thread has ended when the generator
    has, also where the consumer stops early.
    """
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    is_over = threading.Event()

    def decode() -> None:
        error: BaseException | None = None
        try:
            for item in source:
                room.acquire()
                if is_over.is_set():
                    return
                ready.put(item)
        except BaseException as raised:  # handed over, not handled
            error = raised
        ready.put(_End(error))

    thread = threading.Thread(target=decode, name="sightline-decode", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                break
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        is_over.set()
        room.release()
        thread.join()
