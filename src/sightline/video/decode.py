"""Every picture of a video in the order of presentation, upright, with its time; lost ones are counted, not skipped."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.imaging.frames import to_rgb

__all__ = ["is_turned", "open_container", "picture_to_rgb", "pictures", "video_stream"]

log = logging.getLogger("sightline")

ANSWER_S = 20.0  # for each read of a film over the network
SLACK_S = 0.5  # by which a container may well outlast its pictures, with sound


def open_container(path: Path | str) -> InputContainer:
    """A `Path` as the file of that name, a `str` as an address for FFmpeg, which must answer within `ANSWER_S`.

    Raises `VideoError` for what FFmpeg does not take for a film.
    """
    # "file:" keeps a colon in a name from being read as a protocol; tags in odd encodings are no reason to fail
    address, limit_s = (f"file:{path}", None) if isinstance(path, Path) else (path, ANSWER_S)
    try:
        container: InputContainer = av.open(address, metadata_errors="replace", timeout=limit_s)
    except av.FFmpegError as error:
        raise VideoError(
            f"{path}: got '{error.strerror}'; expected a video. Check that it is whole and plays elsewhere."
        ) from error
    return container


def video_stream(container: InputContainer, name: Path | str) -> av.VideoStream:
    """The first stream of moving pictures; `VideoError` where there is none."""
    is_text = container.format.name == "tty"  # FFmpeg films a .txt file as a terminal
    for stream in container.streams.video:
        is_cover = stream.disposition & Disposition.attached_pic  # of a music file
        if not is_cover and not is_text:
            return stream
    raise VideoError(f"{name}: got a file without a video stream; expected a video. Choose another file.")


def picture_to_rgb(picture: av.VideoFrame) -> NDArray[np.uint8]:
    """The picture as C-contiguous (H, W, 3) uint8 RGB, turned and mirrored as its display matrix says.

    A phone stores what its sensor saw, and beside it how it was held. Turns other than by quarters go to the nearest.
    Without a matrix this costs nothing; non-square pixels stay as they are stored.
    """
    rgb = to_rgb(picture.to_ndarray(format="rgb24"))
    matrix = _display_matrix(picture)
    if matrix is None:
        return rgb
    (from_x, _), (_, from_y) = matrix
    if is_turned(picture):
        rgb = np.asarray(cv2.transpose(rgb), np.uint8)
        (_, from_y), (from_x, _) = matrix
    if from_x < 0 or from_y < 0:
        axes = -1 if from_x < 0 and from_y < 0 else int(from_x < 0)  # OpenCV: 0 upside down, 1 left to right, -1 both
        rgb = np.asarray(cv2.flip(rgb, axes), np.uint8)
    return rgb


def is_turned(picture: av.VideoFrame) -> bool:
    """Whether the upright picture has the stored one's height for its width."""
    matrix = _display_matrix(picture)
    return matrix is not None and bool(abs(matrix[0, 1]) + abs(matrix[1, 0]) > abs(matrix[0, 0]) + abs(matrix[1, 1]))


def _display_matrix(picture: av.VideoFrame) -> NDArray[np.float64] | None:
    """[[a, b], [c, d]] of ISO/IEC 14496-12, 6.2.2: stored (x, y) is shown at (a x + c y, b x + d y), y down."""
    try:
        data: Any = picture.side_data.get("DISPLAYMATRIX")
    except (
        ValueError
    ):  # side data that PyAV has no name for, such as EXIF in Motion JPEG, hide the matrix, not the angle
        angle = -np.deg2rad(picture.rotation)
        return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).round(6)
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2].astype(np.float64)


def pictures(path: Path | str) -> Generator[tuple[float | None, av.VideoFrame | None], None, None]:
    """Every picture of the stream in the order of presentation, with its time in seconds; None for one that is lost.

    A packet announces a picture and its time before it is decoded, and pictures come out in the order of their times:
    one whose time is passed over was lost, whether the decoder raised an error, as H.264 does, or fell silent, as HEVC
    may. Where packets have no time of their own, one that fails is lost at its place among the packets. Pictures before
    the first that comes out are none: a file cut between key frames begins with packets that no player can show.
    PyAV's default of threads within a picture keeps an error with its packet; threads across pictures would not.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        tick_s = float(stream.time_base or 0)
        codec = stream.codec_context.name
        can_hide = codec == "vp8"  # its packets may hold a reference that is never shown
        has_times = not (codec == "h264" and container.format.name == "avi")  # numbers in the order of decoding
        awaited: list[int] = []  # a heap of times announced and not yet come out
        untimed: list[int] = []  # numbers of failed packets without a time of their own, rising
        last: int | None = None  # time of the last picture that came out
        has_failed, num_out = False, 0
        for number, packet in enumerate(_packets(container, stream, path)):
            try:
                decoded, failed = packet.decode(), False
            except av.FFmpegError:
                decoded, failed, has_failed = [], True, True
            if packet.size and not packet.is_discard and (failed or not can_hide):
                if packet.pts is not None and has_times and packet.pts != last and packet.pts not in awaited:
                    heapq.heappush(awaited, packet.pts)
                elif failed:
                    untimed.append(number)
            for picture in decoded:
                now = picture.pts if has_times else None
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


def _packets(
    container: InputContainer, stream: av.VideoStream, name: Path | str
) -> Iterator[av.Packet[av.VideoStream]]:
    """The packets that are there, and a warning where they are fewer than the file announced."""
    tick_s, end_s, is_torn = float(stream.time_base or 0), 0.0, False
    try:
        for packet in container.demux(stream):
            if packet.size:
                end_s = max(end_s, ((packet.pts or 0) + (packet.duration or 0)) * tick_s)
                is_torn = packet.is_corrupt
            yield packet
    except av.FFmpegError as error:
        log.warning("%s ends early: %s", name, error.strerror)
        return
    announced_s = _announced_end_s(container, stream)
    if is_torn or announced_s > end_s + SLACK_S:
        log.warning("%s ends early: its pictures end at %.2f s of %.2f s", name, end_s, max(announced_s, end_s))


def _announced_end_s(container: InputContainer, stream: av.VideoStream) -> float:
    """When the pictures end by the file's header, on their own clock; 0 where it does not say."""
    if stream.duration and stream.time_base:
        length = stream.duration
        if container.format.name == "avi":  # whose duration FFmpeg shortens to what is there, and not this number
            length = max(length, stream.frames)
        return float(((stream.start_time or 0) + length) * stream.time_base)
    try:  # Matroska's tag of the track
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return (container.duration or 0) / av.time_base
