"""One frame of a video file by its index, without decoding all those before it where the file allows it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.video.decode import open_container, picture_to_rgb, video_stream
from sightline.video.film import open_video

__all__ = ["read_frame"]

KEPT = 64  # films whose times are kept by a process


class _Key(NamedTuple):
    """A key frame: when it is shown and when it is decoded, in ticks of the stream."""

    shown: int
    decoded: int


def read_frame(path: Path, index: int, num_frames: int) -> NDArray[np.uint8]:
    """Frame `index` of a video known to have `num_frames`, (H, W, 3) uint8 RGB: the one that `open_video` gives.

    It costs opening the file and decoding from the key frame before, mostly 10 to 250 frames; decoding the whole film,
    where the file's times do not tell for sure which frame is which. Raises `VideoError` for what cannot be read, and
    where there are not `num_frames`.
    """
    times, keys = _times(path)
    if len(times) == num_frames and 0 <= index < num_frames:  # else some picture is not shown, or lost
        time = times[index]
        rgb = _seek(path, time, max(key for key in keys if key.shown <= time))
        if rgb is not None:
            return rgb
    found, count = None, 0
    with open_video(path) as source:
        for frame in source:
            count = frame.index + 1
            if frame.index == index:
                found = frame
    if found is None or count != num_frames:
        raise VideoError(
            f"{path}: got {count} frames; expected {num_frames}, and among them frame {index}. Check both."
        )
    if found.rgb is None:
        raise VideoError(found.error)
    return found.rgb


@lru_cache(maxsize=KEPT)
def _times(path: Path) -> tuple[tuple[int, ...], tuple[_Key, ...]]:
    """When the frames are shown, in order, and the key frames; nothing where the packets do not say for sure."""
    times, keys, unsure = [], [], ((), ())
    with open_container(path) as container:
        stream = video_stream(container, path)
        if container.format.name == "avi":  # whose times are numbers in the order of decoding
            return unsure
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.pts is None or packet.is_discard:
                    return unsure
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(_Key(packet.pts, packet.pts if packet.dts is None else packet.dts))
        except av.FFmpegError:
            return unsure
    is_sure = keys and len(set(times)) == len(times) and min(keys).shown == min(times)
    return (tuple(sorted(times)), tuple(keys)) if is_sure else unsure


def _seek(path: Path, time: int, key: _Key) -> NDArray[np.uint8] | None:
    """The frame shown at `time`, decoded from a key frame on; None where it does not come out whole."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        try:
            container.seek(key.decoded, stream=stream)
            for picture in container.decode(stream):
                if picture.pts is None or picture.is_corrupt or picture.pts > time:
                    return None
                if picture.pts == time:
                    return picture_to_rgb(picture)
        except av.FFmpegError:
            return None
    return None
