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
from collections.abc import Generator, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.imaging.frames import read_image, to_rgb
from sightline.types import Frame
from sightline.video.film import Source, open_video, require_start
from sightline.video.live import open_live

__all__ = ["Source", "decode_ahead", "open_source"]

IMAGE_SUFFIXES = (".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
STREAMS = ("http", "https", "rtmp", "rtsp", "rtsps", "srt", "tcp", "udp")

T = TypeVar("T")


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

    require_start(start, len(paths), name)
    return Source(name, len(paths), True, None, read)


def _open_arrays(arrays: Iterable[Any], start: int) -> Source:
    def read() -> Generator[Frame, None, None]:
        index = -1
        for index, array in enumerate(arrays):
            if index >= start:
                yield Frame(index, None, to_rgb(array))
        require_start(start, index + 1, "arrays")

    num_frames = len(arrays) if isinstance(arrays, Sized) else None
    if num_frames is not None:
        require_start(start, num_frames, "arrays")
    return Source("arrays", num_frames, num_frames is not None, None, read)


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
