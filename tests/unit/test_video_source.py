"""Every kind of source: order, indices, times, damage, refusals; and the thread that decodes ahead.

Frame `i` of every clip here is noise around a brightness that tells `i`, so that a shifted index is seen.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sightline.errors import VideoError
from sightline.types import Frame
from sightline.video.source import decode_ahead, open_source

NUM_FRAMES = 30
GROUP = 10  # frames from one key frame to the next


def picture_of(index: int) -> np.ndarray:
    noise = np.random.default_rng(index).integers(-10, 11, (48, 64, 1))
    return np.repeat(15 + 7 * index + noise, 3, axis=2).astype(np.uint8)


def shown_index(rgb: np.ndarray) -> int:
    return round((float(rgb.mean()) - 15) / 7)


def write_clip(path: Path, codec: str = "libx264", times: list[int] | None = None, pix_fmt: str = "yuv420p") -> Path:
    """A clip at 25 frames per second, or with the given times in twenty-fifths of a second; two B-frames in a row."""
    options = {
        "libx264": {"bf": "2"},
        "libx265": {"x265-params": f"log-level=none:keyint={GROUP}:bframes=2:open-gop=0"},
    }
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": str(GROUP)} | options.get(codec, {}))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, pix_fmt, 2_000_000
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(picture_of(index), format="rgb24")
            frame.pts, frame.time_base = times[index] if times else index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, packet_index: int, begin: float, end: float) -> int:
    """Overwrite a share of one packet's bytes in place; the index of the frame it holds."""
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
        packet = packets[packet_index]
        assert packet.pos is not None
        first = packet.pos + int(begin * packet.size)
        last = packet.pos + int(end * packet.size)
        frame_index = sorted(other.pts for other in packets if other.pts is not None).index(packet.pts)
    data = bytearray(path.read_bytes())
    data[first:last] = np.random.default_rng(1).integers(0, 256, last - first, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    return frame_index


def unreadable(frames: list[Frame]) -> list[int]:
    return [frame.index for frame in frames if frame.rgb is None]


def assert_content(frames: list[Frame], of: range) -> None:
    for frame in frames:
        if frame.rgb is not None and frame.index in of:
            assert shown_index(frame.rgb) == frame.index


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4")


# Video files


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("clip.mp4", "libx264", "yuv420p"),
        ("ten_bit.mp4", "libx264", "yuv420p10le"),
        ("clip.mkv", "libx264", "yuv420p"),
        ("clip.ts", "libx264", "yuv420p"),
        ("raw.h264", "libx264", "yuv420p"),
        ("clip.avi", "mpeg4", "yuv420p"),
        ("reordered.avi", "libx264", "yuv420p"),
        ("clip.webm", "libvpx-vp9", "yuv420p"),
        ("a:colon.mp4", "libx264", "yuv420p"),
    ],
)
def test_a_video_gives_every_frame_with_index_and_time(tmp_path: Path, name: str, codec: str, pix_fmt: str):
    source = open_source(write_clip(tmp_path / name, codec, pix_fmt=pix_fmt))
    assert source.fps == 25
    assert source.num_frames == (None if name == "raw.h264" else NUM_FRAMES)
    assert not source.is_count_exact
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(NUM_FRAMES) / 25, atol=1e-9)
    assert not unreadable(frames)
    assert_content(frames, range(NUM_FRAMES))
    assert {(frame.rgb.shape, frame.rgb.dtype, frame.rgb.flags.c_contiguous) for frame in frames} == {
        ((48, 64, 3), np.dtype(np.uint8), True)
    }


def test_uneven_times_are_kept(tmp_path: Path):
    times = [index + 7 * (index > 11) + 20 * (index > 20) for index in range(NUM_FRAMES)]
    frames = list(open_source(write_clip(tmp_path / "uneven.mp4", times=times)))
    assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.array(times) / 25, atol=1e-9)


@pytest.mark.parametrize("start", [1, 13, NUM_FRAMES - 1])
def test_start_keeps_indices_times_and_pixels(clip: Path, start: int):
    whole = list(open_source(clip))[start:]
    cut = list(open_source(clip, start=start))
    assert [(frame.index, frame.time_s) for frame in cut] == [(frame.index, frame.time_s) for frame in whole]
    for ours, expected in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(ours.rgb, expected.rgb)


def test_a_source_can_be_read_again_and_closed_early(clip: Path):
    with open_source(str(clip)) as source:
        assert next(iter(source)).index == 0
        assert len(list(source)) == NUM_FRAMES
        reading = iter(source)
        next(reading)
    assert list(reading) == []


# Damage


@pytest.mark.parametrize("packet_index", [0, GROUP, GROUP + 1, GROUP + 3, NUM_FRAMES - 1])
def test_a_destroyed_packet_costs_its_own_frame(clip: Path, packet_index: int):
    lost = damage(clip, packet_index, 0, 1)
    frames = list(open_source(clip))
    assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
    assert lost in unreadable(frames)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(NUM_FRAMES) / 25, atol=1e-9)
    assert f"frame {lost}" in frames[lost].error
    if packet_index:  # without its first key frame a group can only be lost
        assert unreadable(frames) == [lost]
    assert_content(frames, range(lost))
    assert_content(frames, range(2 * GROUP, NUM_FRAMES))


def test_a_concealed_picture_counts_as_unreadable(clip: Path):
    lost = damage(clip, GROUP, 0.3, 0.6)
    with av.open(str(clip)) as container:  # FFmpeg hands all frames out, this one patched up
        assert [frame.is_corrupt for frame in container.decode(video=0)].index(True) == lost
    frames = list(open_source(clip))
    assert unreadable(frames) == [lost]
    assert len(frames) == NUM_FRAMES
    assert_content(frames, range(2 * GROUP, NUM_FRAMES))


@pytest.mark.parametrize("share", [(0, 1), (0.005, 0.02), (0.4, 0.9)])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("c.mp4", "libx264"), ("c.mp4", "libx265"), ("c.avi", "mpeg4"), ("c.avi", "libx264"), ("c.mkv", "libx264")],
)
def test_no_damage_to_a_picture_shifts_an_index(tmp_path: Path, name: str, codec: str, share: tuple[float, float]):
    """HEVC is the hard one: its decoder drops the rest of a group without a word."""
    if name == "c.mkv" and share[0] < 0.05:
        share = (0.05, 1)  # not the container's own header of the packet
    whole = write_clip(tmp_path / f"whole_{name}", codec).read_bytes()
    for packet_index in (1, 11, 14, 16, 19):
        path = tmp_path / name
        path.write_bytes(whole)
        damage(path, packet_index, *share)
        frames = list(open_source(path))
        assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
        assert_content(frames, range(2 * GROUP + 1, NUM_FRAMES))
        np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(NUM_FRAMES) / 25, atol=1e-9)


def test_a_stream_of_hevc_loses_pictures_in_silence(tmp_path: Path):
    """The control of the test above: what FFmpeg hands out alone would shift every later index."""
    path = write_clip(tmp_path / "c.mp4", "libx265")
    damage(path, 14, 0.005, 0.02)
    with av.open(str(path)) as container:
        num_out = len(list(container.decode(video=0)))
    assert num_out < NUM_FRAMES
    assert len(unreadable(list(open_source(path)))) == NUM_FRAMES - num_out


def test_without_times_the_rate_gives_them_and_packets_place_a_loss(tmp_path: Path):
    path = tmp_path / "timeless.mp4"
    with av.open(str(write_clip(tmp_path / "timed.mp4"))) as timed, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(timed.streams.video[0])
        for packet in timed.demux(video=0):
            if packet.size:
                packet.pts = packet.dts = 0
                packet.stream = stream
                container.mux(packet)
    whole = path.read_bytes()
    frames = list(open_source(path))
    assert [shown_index(frame.rgb) for frame in frames] == list(range(NUM_FRAMES))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(NUM_FRAMES) / 25, atol=1e-9)
    for packet_index in (5, GROUP, GROUP + 4, NUM_FRAMES - 1):
        path.write_bytes(whole)
        damage(path, packet_index, 0, 1)
        frames = list(open_source(path))
        assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
        assert unreadable(frames) == [packet_index]
        assert_content(frames, range(2 * GROUP, NUM_FRAMES - 3))


def test_start_beyond_damage_counts_the_lost_frame(clip: Path):
    damage(clip, GROUP, 0, 1)
    frames = list(open_source(clip, start=2 * GROUP))
    assert [frame.index for frame in frames] == list(range(2 * GROUP, NUM_FRAMES))
    assert_content(frames, range(2 * GROUP, NUM_FRAMES))


def test_a_video_cut_short_gives_what_is_there(tmp_path: Path):
    path = tmp_path / "cut.mkv"
    write_clip(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = list(open_source(path))
    assert 5 < len(frames) < 25
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert_content(frames, range(len(frames)))


# Images and arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(12):
        cv2.imwrite(str(folder / f"img{index}.png"), picture_of(index))
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._img1.png").write_bytes(b"left by a desktop")
    return folder


def test_a_folder_is_read_in_natural_order(folder: Path):
    source = open_source(folder)
    assert (source.num_frames, source.is_count_exact, source.fps) == (12, True, None)
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(12))
    assert {frame.time_s for frame in frames} == {None}
    assert_content(frames, range(12))
    assert not unreadable(frames)


def test_globs_lists_and_single_images(folder: Path):
    assert [shown_index(frame.rgb) for frame in open_source(f"{folder}/img1*.png")] == [1, 10, 11]
    listed = open_source([folder / "img7.png", folder / "img3.png"])
    assert [shown_index(frame.rgb) for frame in listed] == [7, 3]
    assert [shown_index(frame.rgb) for frame in open_source(folder / "img5.png")] == [5]
    assert [frame.index for frame in open_source(folder, start=9)] == [9, 10, 11]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path):
    assert len(list(open_source(write_clip(tmp_path / "take[1].mp4")))) == NUM_FRAMES


def test_an_unreadable_image_keeps_its_index(folder: Path):
    (folder / "img4.png").write_bytes((folder / "img4.png").read_bytes()[:100])
    (folder / "img8.png").write_bytes(b"")
    frames = list(open_source(folder))
    assert [frame.index for frame in frames] == list(range(12))
    assert unreadable(frames) == [4, 8]
    assert "img4.png" in frames[4].error
    assert_content(frames, range(12))


def test_images_may_change_size_and_kind(folder: Path):
    cv2.imwrite(str(folder / "img2.png"), np.zeros((5, 9), np.uint16))
    cv2.imwrite(str(folder / "img3.png"), np.zeros((7, 3, 4), np.uint8))
    shapes = [frame.rgb.shape for frame in open_source(folder)]
    assert shapes[1:5] == [(48, 64, 3), (5, 9, 3), (7, 3, 3), (48, 64, 3)]


def test_arrays_are_converted_by_the_rule(folder: Path):
    grey = [np.full((4, 6), value, np.uint8) for value in (1, 2, 3)]
    source = open_source(grey, start=1)
    assert (source.num_frames, source.is_count_exact) == (3, True)
    assert [(frame.index, frame.rgb.shape, frame.rgb[0, 0, 2]) for frame in source] == [
        (1, (4, 6, 3), 2),
        (2, (4, 6, 3), 3),
    ]
    stream = open_source(picture_of(index) for index in range(3))
    assert stream.num_frames is None
    assert len(list(stream)) == 3
    assert len(list(open_source(np.zeros((5, 4, 6, 3), np.uint8)))) == 5
    with pytest.raises(VideoError, match="by 255"):
        list(open_source([np.zeros((4, 6))]))


# Refusals


def test_what_is_no_source_is_refused_in_one_sentence(tmp_path: Path, folder: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").write_text("a")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    (tmp_path / "text.txt").write_text("FFmpeg would film this as a terminal\n" * 100)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    refused = {
        "missing.mp4": "no such file",
        "empty.mp4": "an empty file",
        "text.mp4": "Invalid data",
        "text.txt": "without a video stream",
        "sound.mp4": "without a video stream",
        "empty": "0 files and no image",
        "texts": "1 files and no image",
        "nothing*.jpg": "0 files and no image",
        "texts/*": "1 files and no image",
    }
    for name, sentence in refused.items():
        with pytest.raises(VideoError, match=sentence) as error:
            open_source(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(VideoError, match="zero frames"):
        open_source([])


def test_a_video_without_frames_is_refused(tmp_path: Path):
    whole = write_clip(tmp_path / "clip.mkv").read_bytes()
    with av.open(str(tmp_path / "clip.mkv")) as container:
        first = min(packet.pos for packet in container.demux(video=0) if packet.pos is not None)
    (tmp_path / "header.mkv").write_bytes(whole[: first - 40])
    with pytest.raises(VideoError, match=r"header\.mkv"):
        open_source(tmp_path / "header.mkv")


def test_a_start_outside_the_source_is_refused(clip: Path, folder: Path):
    with pytest.raises(VideoError, match="got -1"):
        open_source(clip, start=-1)
    with pytest.raises(VideoError, match="got 12; expected 0 to 11"):
        open_source(folder, start=12)
    with pytest.raises(VideoError, match="got 30; expected 0 to 29"):
        list(open_source(clip, start=30))
    with pytest.raises(VideoError, match="got 2; expected 0 to 1"):
        list(open_source((picture_of(index) for index in range(2)), start=2))


# Decoding ahead


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sightline-decode"]


def counted(produced: list[int], end: int = 1000) -> Iterator[int]:
    for item in range(end):
        produced.append(item)
        yield item


def test_decode_ahead_gives_the_same_frames(clip: Path):
    with open_source(clip) as source:
        frames = list(decode_ahead(source, depth=3))
    assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
    assert not decoding_threads()


def test_decode_ahead_is_bounded_and_stops_with_its_consumer():
    produced: list[int] = []
    ahead = decode_ahead(counted(produced), depth=4)
    assert next(ahead) == 0
    deadline = time.monotonic() + 5
    while len(produced) < 6 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(produced) == 6  # one taken, four waiting, one in hand
    ahead.close()
    assert not decoding_threads()
    assert len(produced) == 6


def test_decode_ahead_stops_where_the_loop_breaks_or_raises(clip: Path):
    with open_source(clip) as source, pytest.raises(ZeroDivisionError):
        sum(1 / (3 - frame.index) for frame in decode_ahead(source))
    assert not decoding_threads()
    for _ in decode_ahead(counted([])):
        break
    assert not decoding_threads()
    decode_ahead(counted([]))  # never begun: no thread
    assert not decoding_threads()


def test_decode_ahead_raises_in_place_what_the_source_raises():
    def failing() -> Iterator[int]:
        yield 0
        yield 1
        raise VideoError("the disk is gone")

    ahead = decode_ahead(failing())
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(VideoError, match="the disk is gone"):
        next(ahead)
    assert not decoding_threads()


# Real clips


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [("dog_and_person", 289), ("juggling_ball", 247), ("two_children", 200), ("cars_from_above", 377), ("apple", 50)],
)
def test_real_clips_are_read_to_their_last_frame(shared: Path, name: str, num_frames: int):
    with open_source(shared / "data" / "videos" / f"{name}.mp4") as source:
        assert source.num_frames == num_frames
        frames = [(frame.index, frame.time_s, frame.error, frame.rgb.shape[1:]) for frame in source]
    assert [frame[0] for frame in frames] == list(range(num_frames))
    assert all(later[1] > earlier[1] for earlier, later in itertools.pairwise(frames))
    assert {frame[2:] for frame in frames} == {(None, (640, 3))}
