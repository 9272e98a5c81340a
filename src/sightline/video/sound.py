"""The sound of a video, written beside its pictures: copied where the new file can hold it, else encoded as AAC."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TypeVar

import av
from av.audio import AudioFrame, AudioStream
from av.container import OutputContainer
from av.filter import Graph

from sightline.errors import VideoError
from sightline.video.decode import open_container, pictures

__all__ = ["Sound", "open_sound"]

log = logging.getLogger("sightline")

PLAYED = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")  # by today's players in MP4, which may hold more
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # Hz
AAC_BITS = 80_000  # per second and channel; hard to tell from the source

T = TypeVar("T")


def open_sound(path: str | Path, begin_s: float, output: OutputContainer) -> Sound | None:
    """`Sound(path, begin_s, output)`; None and a warning in the log where there is none to be had."""
    try:
        return Sound(Path(path), begin_s, output)
    except (av.FFmpegError, ValueError, VideoError) as error:
        log.warning("%s: written without sound: %s", Path(path).name, error)
        return None


class Sound:
    """The best audio track of the video at `path`, as packets for a stream of its own in `output`.

    Times count from `begin_s`, in seconds since the video's first picture; what was heard before is left out. Packets
    are read as they are asked for. Raises `VideoError`, or what PyAV does, where nothing can be heard from there on;
    the output then has no stream for it.
    """

    def __init__(self, path: Path, begin_s: float, output: OutputContainer) -> None:
        self.path = path
        with closing(pictures(path)) as shown:
            first_s, _ = next(shown, (None, None))
        self._begin_s = (first_s or 0.0) + begin_s
        self._container = open_container(path)
        try:
            track = self._container.streams.best("audio")
            if not isinstance(track, AudioStream) or track.codec_context is None:
                raise VideoError(f"{path}: got no audio track of a known codec; expected one. Choose another file.")
            if _can_hold(output, track):
                self._packets = _begun(self._packets_of(track), path)
                self._stream = output.add_stream_from_template(track)
            else:
                frames = _begun(self._frames_of(track), path)
                self._stream = output.add_stream("aac", rate=track.rate if track.rate in AAC_RATES else 48_000)
                self._stream.layout = "mono" if track.channels == 1 else "stereo"
                self._stream.bit_rate = AAC_BITS * self._stream.channels
                self._packets = _encoded(frames, track, self._stream)
            self._next = next(self._packets, None)
        except BaseException:
            self._container.close()
            raise

    def until(self, time_s: float) -> Iterator[av.Packet[AudioStream]]:
        """The packets not given before that are half over by `time_s`; where the file breaks off, a warning."""
        while self._next is not None:
            middle = (self._next.pts or 0) + (self._next.duration or 0) / 2
            if middle * self._next.time_base > time_s:
                break
            self._next.stream = self._stream
            yield self._next
            try:
                self._next = next(self._packets, None)
            except (av.FFmpegError, ValueError) as error:
                self._next = None
                log.warning("%s: the sound ends early, at %.2f s: %s", self.path.name, time_s, error)

    def close(self) -> None:
        self._container.close()

    def _packets_of(self, track: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        last = -1
        for packet in self._container.demux(track):
            at = packet.dts if packet.pts is None else packet.pts
            if at is None or not packet.size:
                continue
            at -= round(self._begin_s / packet.time_base)
            if at > last:  # neither before the beginning nor falling, which no container takes
                packet.pts = packet.dts = last = at
                yield packet

    def _frames_of(self, track: AudioStream) -> Iterator[AudioFrame]:
        for packet in self._container.demux(track):
            try:
                frames = packet.decode()
            except av.FFmpegError:  # damaged: a gap
                continue
            for frame in frames:
                if frame.pts is None or frame.time_base is None:
                    continue
                frame.pts -= round(self._begin_s / frame.time_base)
                if frame.pts * frame.time_base + Fraction(frame.samples, frame.sample_rate) > 0:
                    yield frame


def _begun(items: Iterator[T], path: Path) -> Iterator[T]:
    """The same items, of which there is at least one, or a `VideoError`."""
    for first in items:
        return chain([first], items)
    raise VideoError(f"{path}: got no sound from the first picture on; expected some. Choose another file.")


def _encoded(frames: Iterator[AudioFrame], track: AudioStream, stream: AudioStream) -> Iterator[av.Packet[AudioStream]]:
    """Packets in the codec of `stream`, without a break from 0 s on: gaps and a late beginning become silence."""
    graph = Graph()
    graph.link_nodes(
        graph.add_abuffer(template=track),
        graph.add("aresample", f"{stream.rate}:async=1:first_pts=0"),
        graph.add("aformat", f"sample_fmts={stream.format.name}:channel_layouts={stream.layout.name}"),
        graph.add("abuffersink"),
    ).configure()
    for frame in chain(frames, [None]):
        graph.push(frame)
        with suppress(BlockingIOError, EOFError):  # nothing more to pull for now, or at all
            while True:
                resampled = graph.pull()
                assert isinstance(resampled, AudioFrame)
                yield from stream.encode(resampled)
    yield from stream.encode(None)


def _can_hold(output: OutputContainer, track: AudioStream) -> bool:
    """Whether a header with the track as it is can be written, and players will read it."""
    if output.format.name != "matroska" and track.codec.canonical_name not in PLAYED:
        return False
    try:
        with av.open(BytesIO(), "w", format=output.format.name) as rehearsal:
            rehearsal.add_stream_from_template(track)
            rehearsal.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True
