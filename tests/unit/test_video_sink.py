"""The written file: every frame, its time, size and colours; and that it is whole or not there."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sightline.errors import DatasetError, VideoError
from sightline.files import atomic_path
from sightline.video.sink import VideoSink
from sightline.video.source import open_source

COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)],
    np.uint8,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_frames_and_times_come_back(tmp_path: Path):
    path = tmp_path / "out.mp4"
    with VideoSink(path, 29.97) as sink:
        for index in range(12):
            sink.write(np.full((48, 64, 3), 20 * index, np.uint8))
        assert not path.exists()
    assert left_in(tmp_path) == ["out.mp4"]
    assert sink.num_frames == 12
    source = open_source(path)
    assert source.num_frames == 12
    assert source.fps == pytest.approx(29.97, abs=0.01)
    frames = list(source)
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(12) / 29.97, atol=2e-5)
    np.testing.assert_allclose([frame.rgb.mean() for frame in frames], 20 * np.arange(12), atol=3)


def test_given_times_are_kept_from_the_first_and_made_to_rise(tmp_path: Path):
    with VideoSink(tmp_path / "out.mp4", 25) as sink:
        for time_s in (7.0, 7.01, 7.5, 7.5, 7.4, 9.0):
            sink.write(noise(48, 64), time_s)
    times = [frame.time_s for frame in open_source(tmp_path / "out.mp4")]
    np.testing.assert_allclose(times, [0, 0.01, 0.5, 0.5, 0.5, 2.0], atol=1e-4)
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".MP4"])
def test_it_is_h264_that_any_player_opens(tmp_path: Path, suffix: str):
    path = tmp_path / f"out{suffix}"
    with VideoSink(path) as sink:
        sink.write(noise(48, 64))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)
    if suffix == ".mp4":  # faststart: the index comes before the pictures
        data = path.read_bytes()
        assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_colours_survive(tmp_path: Path):
    picture = COLOURS.repeat(16, axis=0)[None].repeat(32, axis=0)
    with VideoSink(tmp_path / "out.mp4") as sink:
        sink.write(picture)
    (frame,) = open_source(tmp_path / "out.mp4")
    np.testing.assert_allclose(frame.rgb[16, 8::16].astype(int), COLOURS.astype(int), atol=4)


@pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 63), (47, 64), (1, 1), (3, 200)])
def test_odd_sides_get_their_last_row_or_column_once_more(tmp_path: Path, height: int, width: int):
    picture = np.full((height, width, 3), 60, np.uint8)
    picture[-1, :] = picture[:, -1] = 200
    with VideoSink(tmp_path / "out.mp4", crf=1) as sink:
        sink.write(picture)
    (frame,) = open_source(tmp_path / "out.mp4")
    assert frame.rgb.shape == (height + height % 2, width + width % 2, 3)
    np.testing.assert_allclose(frame.rgb[:height, :width].astype(int), picture.astype(int), atol=8)
    np.testing.assert_allclose(frame.rgb[-1].astype(int), 200, atol=8)
    np.testing.assert_allclose(frame.rgb[:, -1].astype(int), 200, atol=8)


def test_frames_of_another_size_are_fitted_into_the_first(tmp_path: Path):
    with VideoSink(tmp_path / "out.mp4", crf=1) as sink:
        for shape in ((48, 64), (96, 128), (48, 128), (96, 64), (3, 2)):
            sink.write(np.full((*shape, 3), 180, np.uint8))
    pictures = [frame.rgb for frame in open_source(tmp_path / "out.mp4")]
    assert {picture.shape for picture in pictures} == {(48, 64, 3)}
    bright = [np.argwhere(picture[:, :, 0] > 90) for picture in pictures]
    extents = [(*at.min(axis=0), *(at.max(axis=0) + 1)) for at in bright]  # top, left, bottom, right
    assert extents == [(0, 0, 48, 64), (0, 0, 48, 64), (12, 0, 36, 64), (0, 16, 48, 48), (0, 16, 48, 48)]


def test_grey_and_sixteen_bit_frames_are_written(tmp_path: Path):
    with VideoSink(tmp_path / "out.mp4") as sink:
        sink.write(np.full((48, 64), 100, np.uint8))
        sink.write(np.full((48, 64), 100 * 257, np.uint16))
    for frame in open_source(tmp_path / "out.mp4"):
        np.testing.assert_allclose(frame.rgb.astype(int), 100, atol=3)


# GIF


def blocks(step: int = 0, height: int = 240, width: int = 320) -> np.ndarray:
    """The colours side by side, and below them a white square that moves two pixels per step."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2] = COLOURS.repeat(width // len(COLOURS), axis=0)
    picture[height // 2 + 20 : height // 2 + 60, 2 * step : 2 * step + 40] = 255
    return picture


def shown_ticks(path: Path) -> list[int]:
    """When each picture of a GIF appears, and when the last one ends, in hundredths of a second."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    return [*(packet.pts for packet in packets), packets[-1].pts + packets[-1].duration]


def test_a_gif_keeps_colours_sizes_and_plays_for_ever(tmp_path: Path):
    path = tmp_path / "out.gif"
    with VideoSink(path, 10) as sink:
        for step in range(20):
            sink.write(blocks(step))
        assert not path.exists()
    assert left_in(tmp_path) == ["out.gif"]
    frames = list(open_source(path))
    assert len(frames) == sink.num_frames == 20
    for frame in frames:
        assert frame.rgb.shape == (240, 320, 3)
        np.testing.assert_allclose(frame.rgb.astype(int), blocks(frame.index).astype(int), atol=8)
    data = path.read_bytes()
    assert b"NETSCAPE2.0\x03\x01\x00\x00\x00" in data  # a loop count of 0
    assert b"NETSCAPE2.0\x03\x01\x01\x00\x00" not in data
    assert len(data) < 20_000  # a background that stands still is stored once


@pytest.mark.parametrize(
    ("shape", "aspect", "expected"),
    [
        ((1080, 1920), 1, (270, 480)),
        ((960, 540), 1, (480, 270)),
        ((480, 480), 1, (480, 480)),
        ((100, 90), 1, (100, 90)),
        ((99, 33), Fraction(4, 3), (74, 33)),
        ((576, 720), Fraction(16, 15), (360, 480)),
        ((100, 90), Fraction(1, 2), (100, 45)),
        ((1, 3000), 1, (1, 480)),
    ],
)
def test_a_gif_is_at_most_480_pixels_wide_and_high(
    tmp_path: Path, shape: tuple[int, int], aspect: Fraction, expected: tuple[int, int]
):
    with VideoSink(tmp_path / "out.gif", pixel_aspect=aspect) as sink:
        sink.write(np.full((*shape, 3), 100, np.uint8))
        sink.write(np.full((7, 5, 3), 100, np.uint8), 0.2)
    assert {frame.rgb.shape for frame in open_source(tmp_path / "out.gif")} == {(*expected, 3)}


@pytest.mark.parametrize("fps", [5, 10, 12, 25, 29.97, 60])
def test_a_gif_has_at_most_ten_pictures_a_second_and_lasts_as_long(tmp_path: Path, fps: float):
    with VideoSink(tmp_path / "out.gif", fps) as sink:
        for step in range(round(3 * fps)):
            sink.write(blocks(step % 100, 24, 320), step / fps)
    ticks = shown_ticks(tmp_path / "out.gif")
    assert ticks[0] == 0
    assert ticks[-1] == pytest.approx(300, abs=1)
    periods = np.diff(ticks)
    assert periods.min() >= 5
    assert periods.max() <= 10 + round(100 / fps)
    assert len(periods) in ((15,) if fps == 5 else (29, 30))


def test_a_gif_keeps_uneven_times(tmp_path: Path):
    """After a gap a picture may follow at half the usual distance, not the one after it."""
    times = [3.0, 3.04, 3.21, 5.0, 5.05, 5.12, 8.0]
    with VideoSink(tmp_path / "out.gif", 4) as sink:
        for step, time_s in enumerate(times):
            sink.write(blocks(step), time_s)
    assert shown_ticks(tmp_path / "out.gif") == [0, 21, 200, 205, 500, 525]


def test_a_gif_is_whole_or_not_there(tmp_path: Path):
    path = tmp_path / "out.gif"
    refused = pytest.raises(ZeroDivisionError)
    with refused, VideoSink(path) as sink:
        for step in range(3):
            sink.write(blocks(step), 1 / (2 - step))
    with pytest.raises(VideoError, match="got no frame"), VideoSink(path):
        pass

    def write() -> None:
        with VideoSink(path, 10) as sink:
            for seed in range(8):
                sink.write(noise(121, 161, seed))

    for limit in (100_000, 300_000):  # the waiting pictures do not fit; they do, the file does not
        with (
            pytest.raises(VideoError, match=r"out\.gif: cannot be written: got 'File too large'"),
            limited_files(limit),
        ):
            write()
        assert left_in(tmp_path) == []
    write()
    assert left_in(tmp_path) == ["out.gif"]


# Whole or not there


def test_an_exception_leaves_what_was_there_before(tmp_path: Path):
    path = tmp_path / "out.mp4"
    path.write_text("older")

    def write_then(error: type[BaseException]) -> None:
        with VideoSink(path) as sink:
            sink.write(noise(48, 64))
            raise error

    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            write_then(error)
        assert left_in(tmp_path) == ["out.mp4"]
        assert path.read_text() == "older"
    with pytest.raises(VideoError, match="by 255"), VideoSink(path) as sink:
        sink.write(noise(48, 64) / 255)
    assert path.read_text() == "older"


def test_no_frame_no_file(tmp_path: Path):
    with pytest.raises(VideoError, match="got no frame"), VideoSink(tmp_path / "out.mp4"):
        pass
    with pytest.raises(ZeroDivisionError), VideoSink(tmp_path / "out.mp4"):
        1 / 0  # noqa: B018
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.996])
def test_a_full_disk_leaves_nothing(tmp_path: Path, share: float):
    """A limit on the size of files stands for the disk: the system refuses the bytes beyond it.

    The last share has room for the pictures and not for the index, 1 % of the file.
    """

    def write(path: Path) -> None:
        with VideoSink(path) as sink:
            for seed in range(8):
                sink.write(noise(121, 161, seed))

    path = tmp_path / "out.mp4"
    write(path)
    size = path.stat().st_size
    path.unlink()
    refused = pytest.raises(VideoError, match=r"out\.mp4: cannot be written: got 'File too large'")
    with refused, limited_files(int(share * size)):
        write(path)
    assert left_in(tmp_path) == []
    with limited_files(int(1.004 * size)):  # the control; x264 may vary by some bytes from run to run
        write(path)
    assert len(list(open_source(path))) == 8


@contextmanager
def limited_files(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_a_video_is_refused_before_any_work(tmp_path: Path):
    for name in ("out", "out.txt", "out.webm"):
        with pytest.raises(VideoError, match="Rename the output"):
            VideoSink(tmp_path / name)
    for fps in (0, -1, float("nan"), 1e6):
        with pytest.raises(VideoError, match="frames per second"):
            VideoSink(tmp_path / "out.mp4", fps)
    with pytest.raises(VideoError, match="got 'No such file or directory'"), VideoSink(tmp_path / "no" / "out.mp4"):
        pass
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match="not a file"), VideoSink(tmp_path / "folder.mp4"):
        pass
    assert left_in(tmp_path) == ["folder.mp4"]


def test_a_size_beyond_h264_is_refused(tmp_path: Path):
    with pytest.raises(VideoError, match="a size that H.264 allows"), VideoSink(tmp_path / "out.mp4") as sink:
        sink.write(np.zeros((2, 40_000, 3), np.uint8))
    assert left_in(tmp_path) == []


# atomic_path


def test_atomic_path_replaces_on_success_only(tmp_path: Path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert (partial.parent, partial.suffix) == (tmp_path, ".txt")
        assert not path.exists()
    assert path.read_text() == "new"
    with pytest.raises(UnicodeEncodeError), atomic_path(path) as partial:
        partial.write_text("half of it \udcff", encoding="utf-8")
    assert (left_in(tmp_path), path.read_text()) == (["a.txt"], "new")


def test_atomic_path_follows_a_link_and_keeps_usual_rights(tmp_path: Path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "a.txt")
    with atomic_path(tmp_path / "link.txt") as partial:
        partial.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    (tmp_path / "plain.txt").touch()
    rights = [path.stat().st_mode for path in (tmp_path / "there" / "a.txt", tmp_path / "plain.txt")]
    assert rights[0] == rights[1]


def test_atomic_path_explains_a_full_disk_and_nothing_else(tmp_path: Path):
    with pytest.raises(DatasetError, match="got 'No space left on device'"), atomic_path(tmp_path / "a", DatasetError):
        raise OSError(errno.ENOSPC, "No space left on device")
    refused = pytest.raises(DatasetError, match="got 'File too large'")
    with refused, limited_files(10), atomic_path(tmp_path / "a", DatasetError) as partial:
        partial.write_text("more than ten bytes")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a", DatasetError):
        (tmp_path / "another file").read_text()
    with pytest.raises(DatasetError, match="not a file"), atomic_path("/dev/null", DatasetError):
        pass
    assert left_in(tmp_path) == []


def test_files_is_light():
    code = "import sys, sightline.files; print(sorted({'av', 'cv2', 'torch', 'scipy', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
