"""A source of frames, and the one that is a film: a video file, here or behind an address."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import av

from sightline.errors import VideoError
from sightline.types import Frame
from sightline.video.decode import is_turned, open_container, picture_to_rgb, pictures, video_stream

__all__ = ["Source", "open_video", "require_start"]


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
        require_start(0, 0, str(path))
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
    require_start(start, index + 1, str(path))


def require_start(start: int, num_frames: int, name: str) -> None:
    if num_frames == 0:
        raise VideoError(f"{name}: got zero frames; expected at least one. Check that it was written to its end.")
    if start >= num_frames:
        raise VideoError(f"start: got {start}; expected 0 to {num_frames - 1}, the frames of {name}. Start earlier.")
