"""Frame sources: a video file, a folder or glob of images, a list of paths, or arrays, all read the same way.

    with open_source("clip.mp4", start=100) as source:
        for frame in decode_ahead(source):
            ...

Every frame of the source has its index, also one that cannot be read: that one has `rgb` None and says why in `error`.
"""

from __future__ import annotations

import glob
import heapq
import logging
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.imaging.frames import read_image, to_rgb
from sightline.types import Frame

__all__ = ["Source", "decode_ahead", "open_source"]

IMAGE_SUFFIXES = (".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

T = TypeVar("T")
log = logging.getLogger("sightline")


@dataclass
class Source:
    """Frames in order. Iterate over it for `Frame` values; each iteration reads from the start and ends the one before.

    `num_frames` counts the whole source, whatever the start; for images and arrays it is exact, for a video it is what
    the container says (`is_count_exact` False), and None is unknown. `fps` is None where the source has no clock.
    `is_live`: a camera or stream, which does not wait: frames that come while nobody asks are dropped and counted in
    `num_dropped`; `num_reconnects` counts how often a stream that broke off was found again.
    """

    name: str
    num_frames: int | None
    is_count_exact: bool
    fps: float | None
    _read: Callable[[], Generator[Frame, None, None]] = field(repr=False)
    is_live: bool = False
    num_dropped: int = field(default=0, init=False)
    num_reconnects: int = field(default=0, init=False)
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


def open_source(source: str | Path | Sequence[Path] | Iterable[NDArray[Any]], start: int = 0) -> Source:
    """A source of frames from what a person names: a file, a folder, a glob pattern, paths, or arrays.

    Images are read in natural order (2 before 10), a list of paths in its own; arrays go through `to_rgb`. Iteration
    begins at frame `start`, found by decoding and dropping, so that it is exact; indices and times stay those of the
    whole source. Raises `VideoError` for what is missing, empty or no video, and for a start beyond the end: at once
    where the count is exact, when the first frame is asked for where it is not.
    """
    if start < 0:
        raise VideoError(f"start: got {start}; expected a frame index from 0. Count from the source's first frame.")
    if isinstance(source, str | Path):
        path, name = Path(source), str(source)
        if path.is_dir():
            return _open_images(_find_images(path.iterdir(), name), name, start)
        if not path.exists() and glob.has_magic(name):
            return _open_images(_find_images(map(Path, glob.glob(name, recursive=True)), name), name, start)
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            return _open_images([path], name, start)
        return _open_video(path, start)
    if isinstance(source, Sequence) and source and all(isinstance(item, str | Path) for item in source):
        paths = [Path(item) for item in source]
        return _open_images(paths, f"{len(paths)} images", start)
    return _open_arrays(source, start)


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
    return sorted(images, key=_natural_key)


def _natural_key(path: Path) -> tuple[list[str | int], str]:
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


def _open_video(path: Path, start: int) -> Source:
    if not path.exists():
        raise VideoError(f"{path}: got no such file; expected a video, a folder or a glob of images. Check the path.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: got an empty file; expected a video. Check that it was written to its end.")
    with _container(path) as container:
        stream = _video_stream(container, path)
        rate = stream.guessed_rate or stream.average_rate  # the average is wild where times are missing
        num_frames: int | None = stream.frames or None
        if num_frames is None and container.duration and rate:  # Matroska and MPEG-TS do not store a count
            num_frames = round(container.duration / av.time_base * rate)
    fps = float(rate) if rate and rate <= 1000 else None  # a tick of the clock is no rate
    with Source(str(path), num_frames, False, fps, lambda: _read_video(path, fps, 0)) as probe:
        next(iter(probe))  # a video without frames is refused here
    return Source(str(path), num_frames, False, fps, lambda: _read_video(path, fps, start))


def _container(path: Path) -> InputContainer:
    try:  # "file:" keeps a colon in a name from being read as a protocol; tags in odd encodings are no reason to fail
        return av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoError(f"{path}: got '{error.strerror}'; expected a video. Check that it plays elsewhere.") from error


def _video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    is_text = container.format.name == "tty"  # FFmpeg films a .txt file as a terminal
    for stream in container.streams.video:
        is_cover = stream.disposition & Disposition.attached_pic  # of a music file
        if not is_cover and not is_text:
            return stream
    raise VideoError(f"{path}: got a file without a video stream; expected a video. Choose another file.")


def _read_video(path: Path, fps: float | None, start: int) -> Generator[Frame, None, None]:
    """Frames with rising times: where the file's do not rise, each is one period after the one before."""
    index, time_s, first_s = -1, 0.0, 0.0
    for index, (shown_s, picture) in enumerate(_pictures(path)):
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
            yield Frame(index, time_s, to_rgb(picture.to_ndarray(format="rgb24")))
    _require_start(start, index + 1, str(path))


def _pictures(path: Path) -> Iterator[tuple[float | None, av.VideoFrame | None]]:
    """Every picture of the stream in the order of presentation, with its time in seconds; None for one that is lost.

    A packet announces a picture and its time before it is decoded, and pictures come out in the order of their times:
    one whose time is passed over was lost, whether the decoder raised an error, as H.264 does, or fell silent, as HEVC
    may. Where packets have no time of their own, one that fails is lost at its place among the packets. Pictures before
    the first that comes out are none: a file cut between key frames begins with packets that no player can show.
    PyAV's default of threads within a picture keeps an error with its packet; threads across pictures would not.
    """
    with _container(path) as container:
        stream = _video_stream(container, path)
        tick_s = float(stream.time_base or 0)
        can_hide = stream.codec_context.name == "vp8"  # its packets may hold a reference that is never shown
        awaited: list[int] = []  # a heap of times announced and not yet come out
        untimed: list[int] = []  # numbers of failed packets without a time of their own, rising
        last: int | None = None  # time of the last picture that came out
        has_failed, num_out = False, 0
        for number, packet in enumerate(_packets(container, stream, path)):
            try:
                pictures, failed = packet.decode(), False
            except av.FFmpegError:
                pictures, failed, has_failed = [], True, True
            if packet.size and not packet.is_discard and (failed or not can_hide):
                if packet.pts is not None and packet.pts != last and packet.pts not in awaited:
                    heapq.heappush(awaited, packet.pts)
                elif failed:
                    untimed.append(number)
            for picture in pictures:
                now = picture.pts
                while now is not None and awaited and awaited[0] <= now:
                    lost = heapq.heappop(awaited)
                    if lost < now and (lost > last if last is not None else has_failed):
                        yield lost * tick_s, None
                        num_out += 1
                while untimed and untimed[0] <= num_out:
                    untimed.pop(0)
                    yield None, None
                    num_out += 1
                yield None if now is None else now * tick_s, picture
                num_out += 1
                last = now
        yield from ((lost * tick_s, None) for lost in sorted(awaited))
        yield from ((None, None) for _ in untimed)


def _packets(container: InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.Packet[av.VideoStream]]:
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        log.warning("%s ends early: %s", path, error.strerror)


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
