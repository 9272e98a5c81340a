"""The sound beside the written pictures: one track, in time with them, no longer than they are.

Every clip here beeps once, at a time that tells how well the sound fits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio import AudioFrame

from sightline.video.sink import VideoSink
from sightline.video.source import open_source

FPS = 25
NUM_FRAMES = 75
BEEP_S, BEEP_END_S = 1.6, 2.0
SLACK_S = 0.05  # what ears forgive


def beep(seconds: float, rate: int, begin_s: float = BEEP_S, tone_hz: int = 1000) -> np.ndarray:
    time_s = np.arange(int(seconds * rate)) / rate
    is_on = (time_s >= begin_s) & (time_s < begin_s + BEEP_END_S - BEEP_S)
    return (0.5 * np.sin(2 * np.pi * tone_hz * time_s) * is_on).astype(np.float32)


def write_clip(
    path: Path,
    codec: str = "aac",
    *,
    num_frames: int = NUM_FRAMES,
    first_frame: int = 0,
    sound_s: float = 0.0,
    sounds: tuple[np.ndarray, ...] = (),
    rate: int = 48_000,
) -> Path:
    """A clip of growing brightness that begins at `first_frame` / 25 s, with a beep or `sounds` from `sound_s` on."""
    sounds = sounds or (beep(NUM_FRAMES / FPS, rate),)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FPS, options={"g": "10", "bf": "2"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        tracks = [container.add_stream(codec, rate=rate, layout="mono") for _ in sounds]
        for index in range(max(num_frames, 1 + int(FPS * max(map(len, sounds)) / rate))):
            if index < num_frames:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * index % 256, np.uint8), format="rgb24")
                frame.pts, frame.time_base = first_frame + index, Fraction(1, FPS)
                container.mux(pictures.encode(frame))
            for track, samples in zip(tracks, sounds, strict=True):
                begin, end = (round(count * rate / FPS) for count in (index, index + 1))
                if len(part := samples[None, begin:end]) and part.size:
                    sound = AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                    sound.sample_rate, sound.time_base = rate, Fraction(1, rate)
                    sound.pts = begin + round(sound_s * rate)
                    container.mux(track.encode(sound))
        for stream in (pictures, *tracks):
            container.mux(stream.encode(None))
    return path


def write_through(source: Path, output: Path, start: int = 0) -> None:
    with open_source(source, start=start) as frames, VideoSink(output, frames.fps, sound=frames.sound) as sink:
        for frame in frames:
            sink.write(frame.rgb, frame.time_s)


@dataclass
class Heard:
    """What a player hears, in seconds since the first picture."""

    codec: str
    begin_s: float
    end_s: float
    beep_s: float
    beep_end_s: float
    tone_hz: float
    gap_s: float
    payload: set[bytes]


def hear(path: Path) -> Heard | None:
    with av.open(str(path)) as container:
        (pictures,) = container.streams.video
        if not container.streams.audio:
            return None
        (track,) = container.streams.audio
        first_s, samples, times, payload = None, [], [], set()
        for packet in container.demux(pictures, track):
            if packet.stream is track:
                payload.add(bytes(packet))
            for frame in packet.decode():
                shown_s = float(frame.pts * frame.time_base)
                if isinstance(frame, AudioFrame):
                    wave = frame.to_ndarray().astype(float)
                    wave = wave[0] if frame.format.is_planar else wave[0, :: len(frame.layout.channels)]
                    samples.append(wave / (1 if "flt" in frame.format.name else 2**15))
                    times.append(shown_s + np.arange(len(wave)) / frame.sample_rate)
                else:
                    first_s = shown_s if first_s is None else min(first_s, shown_s)
        wave, time_s = np.concatenate(samples), np.concatenate(times) - first_s
        loud = np.flatnonzero(abs(wave) > 0.1)
        crossings = np.count_nonzero(np.diff(np.signbit(wave[loud[0] : loud[-1]])))
        beep_s, beep_end_s = time_s[loud[0]], time_s[loud[-1]]
        tone_hz = crossings / 2 / (beep_end_s - beep_s)
        gap_s = np.diff(time_s).max()
        return Heard(track.codec.canonical_name, time_s[0], time_s[-1], beep_s, beep_end_s, tone_hz, gap_s, payload)


@pytest.mark.parametrize("start", [0, 10])
@pytest.mark.parametrize(
    ("name", "codec", "output", "written"),
    [
        ("clip.mp4", "aac", "out.mp4", "aac"),
        ("clip.mp4", "aac", "out.mkv", "aac"),
        ("clip.ts", "aac", "out.mp4", "aac"),  # packets with headers, which MP4 does not hold
        ("clip.mkv", "libopus", "out.mp4", "opus"),
        ("clip.mkv", "libopus", "out.mov", "aac"),
        ("clip.mkv", "pcm_s16le", "out.mp4", "aac"),  # MP4 could, its players could not
        ("clip.mkv", "pcm_s16le", "out.mkv", "pcm_s16le"),
        ("clip.avi", "pcm_s16le", "out.mp4", "aac"),
    ],
)
def test_the_beep_stays_at_its_place(tmp_path: Path, name: str, codec: str, output: str, written: str, start: int):
    write_clip(tmp_path / name, codec)
    write_through(tmp_path / name, tmp_path / output, start)
    heard = hear(tmp_path / output)
    duration_s = (NUM_FRAMES - start) / FPS
    assert heard.codec == written
    assert heard.begin_s == pytest.approx(0, abs=SLACK_S)
    assert heard.end_s == pytest.approx(duration_s, abs=SLACK_S)
    assert heard.beep_s == pytest.approx(BEEP_S - start / FPS, abs=SLACK_S / 5)
    assert heard.beep_end_s == pytest.approx(BEEP_END_S - start / FPS, abs=SLACK_S / 5)
    assert heard.tone_hz == pytest.approx(1000, abs=10)
    with av.open(str(tmp_path / output)) as container:
        assert container.duration / av.time_base == pytest.approx(duration_s, abs=SLACK_S)
    is_copy = heard.codec in codec and name != "clip.ts"
    assert (heard.payload <= hear(tmp_path / name).payload) == is_copy


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_pictures_that_begin_after_the_sound_keep_their_place(tmp_path: Path, codec: str):
    write_clip(tmp_path / "clip.mkv", codec, first_frame=FPS)
    write_through(tmp_path / "clip.mkv", tmp_path / "out.mp4", 10)
    heard = hear(tmp_path / "out.mp4")
    assert heard.beep_s == pytest.approx(BEEP_S - 1 - 10 / FPS, abs=SLACK_S / 5)
    assert heard.begin_s == pytest.approx(0, abs=SLACK_S)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le", "flac"])  # FLAC's packets last a tenth of a second
def test_sound_that_outlasts_the_pictures_is_cut(tmp_path: Path, codec: str):
    write_clip(tmp_path / "clip.mkv", codec, num_frames=44)
    assert hear(tmp_path / "clip.mkv").end_s == pytest.approx(3.0, abs=SLACK_S)
    write_through(tmp_path / "clip.mkv", tmp_path / "out.mp4")
    heard = hear(tmp_path / "out.mp4")
    assert heard.end_s == pytest.approx(44 / FPS, abs=SLACK_S)
    assert heard.beep_s == pytest.approx(BEEP_S, abs=SLACK_S / 5)


def test_a_frame_left_out_does_not_shift_the_sound(tmp_path: Path):
    write_clip(tmp_path / "clip.mp4")
    with open_source(tmp_path / "clip.mp4") as frames, VideoSink(tmp_path / "out.mp4", FPS, sound=frames.sound) as sink:
        for frame in frames:
            if not 5 <= frame.index < 30:
                sink.write(frame.rgb, frame.time_s)
    heard = hear(tmp_path / "out.mp4")
    assert heard.beep_s == pytest.approx(BEEP_S, abs=SLACK_S / 5)
    assert heard.end_s == pytest.approx(3.0, abs=SLACK_S)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_that_begins_late_keeps_its_place(tmp_path: Path, codec: str):
    write_clip(tmp_path / "clip.mkv", codec, sound_s=0.5)
    write_through(tmp_path / "clip.mkv", tmp_path / "out.mp4")
    heard = hear(tmp_path / "out.mp4")
    assert heard.beep_s == pytest.approx(BEEP_S + 0.5, abs=SLACK_S / 5)
    # encoded anew it begins with silence
    assert heard.begin_s == pytest.approx(0.5 if codec == "aac" else 0, abs=SLACK_S)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_the_last_picture_is_heard_for_one_period(tmp_path: Path, codec: str):
    write_clip(tmp_path / "clip.mkv", codec)
    with VideoSink(tmp_path / "out.mp4", 2, sound=tmp_path / "clip.mkv") as sink:
        for index in range(4):
            sink.write(np.zeros((48, 64, 3), np.uint8), index / 2)
    assert hear(tmp_path / "out.mp4").end_s == pytest.approx(2.0, abs=SLACK_S)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_and_pictures_lie_beside_each_other_in_the_file(tmp_path: Path, codec: str):
    """A player that reads from the start never looks far ahead for either; x264 alone holds back half a second.

    FFmpeg itself puts right what comes within ten seconds, so the clip is longer than that.
    """
    num_frames = 24 * FPS
    write_clip(tmp_path / "clip.mkv", codec, num_frames=num_frames, sounds=(beep(24, 48_000),))
    write_through(tmp_path / "clip.mkv", tmp_path / "out.mkv")
    times = {"audio": 0.0, "video": 0.0}
    apart_s = []
    with av.open(str(tmp_path / "out.mkv")) as container:
        for packet in sorted((packet for packet in container.demux() if packet.size), key=lambda packet: packet.pos):
            times[packet.stream.type] = float(packet.pts * packet.time_base)
            apart_s.append(abs(times["audio"] - times["video"]))
    assert min(times.values()) > 23.8
    assert max(apart_s) < 1.2


def test_of_two_tracks_the_first_is_written(tmp_path: Path):
    tones = tuple(beep(3.0, 48_000, tone_hz=tone_hz) for tone_hz in (600, 1800))
    write_clip(tmp_path / "clip.mp4", sounds=tones)
    write_through(tmp_path / "clip.mp4", tmp_path / "out.mp4")
    assert hear(tmp_path / "out.mp4").tone_hz == pytest.approx(600, abs=10)


def test_a_rate_that_aac_lacks_is_resampled(tmp_path: Path):
    write_clip(tmp_path / "clip.mkv", "pcm_s16le", rate=37_800)
    write_through(tmp_path / "clip.mkv", tmp_path / "out.mp4")
    heard = hear(tmp_path / "out.mp4")
    assert heard.beep_s == pytest.approx(BEEP_S, abs=SLACK_S / 5)
    assert heard.tone_hz == pytest.approx(1000, abs=10)


def test_damaged_sound_becomes_silence_and_leaves_all_pictures(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mkv", "flac")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(path.read_bytes())
    for pos, size in packets[5:9]:
        data[pos + 10 : pos + size] = np.random.default_rng(1).bytes(size - 10)
    path.write_bytes(data)
    write_through(path, tmp_path / "out.mov")  # which cannot hold FLAC
    assert len(list(open_source(tmp_path / "out.mov"))) == NUM_FRAMES
    heard = hear(tmp_path / "out.mov")
    assert heard.beep_s == pytest.approx(BEEP_S, abs=SLACK_S / 5)
    assert heard.gap_s < 0.001


def test_a_source_says_whether_it_can_be_heard(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4")
    write_through(path, tmp_path / "out.mp4")
    with VideoSink(tmp_path / "silent.mp4") as sink:
        sink.write(np.zeros((48, 64, 3), np.uint8))
    assert open_source(path).sound == path
    assert open_source(str(tmp_path / "out.mp4")).sound == tmp_path / "out.mp4"
    assert open_source(tmp_path / "silent.mp4").sound is None
    assert open_source([np.zeros((48, 64, 3), np.uint8)]).sound is None


@pytest.mark.parametrize("what", ["missing", "no video", "silent", "over", "over, raw"])
def test_without_sound_the_pictures_are_written_and_a_warning_says_so(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
):
    sound = tmp_path / ("sound.mkv" if what == "over, raw" else "sound.mp4")
    if what == "no video":
        sound.write_text("neither seen nor heard")
    if what == "silent":
        with VideoSink(sound) as sink:
            sink.write(np.zeros((48, 64, 3), np.uint8))
    if what.startswith("over"):
        write_clip(sound, "pcm_s16le" if what == "over, raw" else "aac")
    with caplog.at_level(logging.WARNING, "sightline"), VideoSink(tmp_path / "out.mp4", FPS, sound=sound) as sink:
        for index in range(5):
            sink.write(np.zeros((48, 64, 3), np.uint8), 60 + index / FPS)
    assert [record.message.startswith(f"{sound.name}: written without sound: ") for record in caplog.records] == [True]
    assert hear(tmp_path / "out.mp4") is None
    assert len(list(open_source(tmp_path / "out.mp4"))) == 5


def test_an_exception_leaves_nothing(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", num_frames=10)
    refused = pytest.raises(ZeroDivisionError)
    with refused, open_source(path) as frames, VideoSink(tmp_path / "out.mp4", FPS, sound=path) as sink:
        for frame in frames:
            sink.write(frame.rgb, 1 / (9 - frame.index))
    assert [left.name for left in tmp_path.iterdir()] == ["clip.mp4"]
