"""Clips as phones and recorders leave them: held sideways, HEVC, ten bits, uneven times, cut off; and addresses."""

from __future__ import annotations

import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sightline.errors import VideoError
from sightline.video.sink import VideoSink
from sightline.video.source import Source, open_source

HEIGHT, WIDTH = 48, 64
NUM_FRAMES = 30
TICK = Fraction(1, 90_000)  # s
RED, GREEN, BLUE, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 200), (230, 230, 230)

# [[a, b], [c, d]]: what is stored at (x, y) is shown at (a x + c y, b x + d y), x right and y down
UPRIGHT = ((1, 0), (0, 1))
MATRICES = {
    "upright": UPRIGHT,
    "quarter right": ((0, 1), (-1, 0)),  # a phone held upright
    "half": ((-1, 0), (0, -1)),
    "quarter left": ((0, -1), (1, 0)),
    "mirrored": ((-1, 0), (0, 1)),  # a selfie
    "upside down": ((1, 0), (0, -1)),
    "transposed": ((0, 1), (1, 0)),
    "transposed the other way": ((0, -1), (-1, 0)),
}
EXIF = dict(zip(MATRICES, (1, 6, 3, 8, 2, 4, 5, 7), strict=True))  # the orientation tag that says the same


def quarters() -> np.ndarray:
    """Red and green above blue and white."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for corner, colour in {(0, 0): RED, (0, 1): GREEN, (1, 0): BLUE, (1, 1): WHITE}.items():
        top, left = corner[0] * HEIGHT // 2, corner[1] * WIDTH // 2
        picture[top : top + HEIGHT // 2, left : left + WIDTH // 2] = colour
    return picture


def grey(index: int) -> np.ndarray:
    noise = np.random.default_rng(index).integers(-10, 11, (HEIGHT, WIDTH, 1))
    return np.repeat(20 + 7 * index + noise, 3, axis=2).astype(np.uint8)


def write_clip(
    path: Path,
    pictures: list[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    ticks: list[int] | None = None,
    matrix: tuple[tuple[int, int], tuple[int, int]] = UPRIGHT,
    pixel_aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        x265 = {"x265-params": "log-level=none:bframes=2"} if codec == "libx265" else {"bf": "2"}
        stream = container.add_stream(codec, rate=25, options={"g": "10", "crf": "10"} | x265)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pix_fmt
        stream.codec_context.time_base = TICK
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if matrix != UPRIGHT:
            (a, b), (c, d) = matrix
            stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = ticks[index] if ticks else 3600 * index, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def assert_shown_by(matrix: tuple[tuple[int, int], tuple[int, int]], rgb: np.ndarray) -> None:
    """Every quarter of the stored picture is where the matrix puts its centre."""
    (a, b), (c, d) = matrix
    assert rgb.shape == ((HEIGHT, WIDTH, 3) if a else (WIDTH, HEIGHT, 3))
    for (x, y), colour in {(-1, -1): RED, (1, -1): GREEN, (-1, 1): BLUE, (1, 1): WHITE}.items():
        shown_x, shown_y = a * x + c * y, b * x + d * y
        row, column = rgb.shape[0] * (2 + shown_y) // 4, rgb.shape[1] * (2 + shown_x) // 4
        np.testing.assert_allclose(rgb[row, column].astype(int), colour, atol=12)


# Held sideways


@pytest.mark.parametrize("name", MATRICES)
def test_the_matrix_in_a_track_header_turns_the_picture_upright(tmp_path: Path, name: str):
    """The header is patched by the standard (ISO/IEC 14496-12, 8.3.2), so that no library's sign is trusted."""
    path = write_clip(tmp_path / "phone.mp4", [quarters()] * 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, group and volume come before
    assert struct.unpack(">9i", data[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    (a, b), (c, d) = MATRICES[name]
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames = list(open_source(path))
    assert len(frames) == 3
    for frame in frames:
        assert_shown_by(MATRICES[name], frame.rgb)
        assert frame.rgb.flags.c_contiguous
    if name != "upright":
        with pytest.raises(AssertionError):
            assert_shown_by(UPRIGHT, frames[0].rgb)


@pytest.mark.parametrize("name", MATRICES)
def test_other_containers_turn_alike(tmp_path: Path, name: str):
    (frame, *_) = open_source(write_clip(tmp_path / "phone.mkv", [quarters()], matrix=MATRICES[name]))
    assert_shown_by(MATRICES[name], frame.rgb)


@pytest.mark.parametrize("name", MATRICES)
def test_photos_are_upright(tmp_path: Path, name: str):
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([EXIF[name], 0, 0, 0]) + bytes(4)
    exif = b"Exif\0\0" + tiff
    jpeg = cv2.imencode(".jpg", quarters()[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    with_tag = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    (tmp_path / "photo.jpg").write_bytes(with_tag)
    (frame,) = open_source(tmp_path / "photo.jpg")
    assert_shown_by(MATRICES[name], frame.rgb)
    if name not in ("mirrored", "upside down", "transposed", "transposed the other way"):  # PyAV tells the angle only
        (tmp_path / "camera.mjpeg").write_bytes(3 * with_tag)
        for frame in open_source(tmp_path / "camera.mjpeg"):
            assert_shown_by(MATRICES[name], frame.rgb)


# Codecs, depths, times


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "profile"),
    [
        ("clip.mp4", "libx264", "yuv420p10le", "High 10"),
        ("clip.mp4", "libx265", "yuv420p", "Main"),
        ("clip.mp4", "libx265", "yuv420p10le", "Main 10"),
        ("clip.mkv", "libx265", "yuv420p10le", "Main 10"),
        ("clip.ts", "libx265", "yuv420p", "Main"),
    ],
)
def test_kinds_of_video_give_every_frame_at_its_time(tmp_path: Path, name: str, codec: str, pix_fmt: str, profile: str):
    ticks = [3000 * index + 700 * (index % 3) + 9000 * (index > 20) for index in range(NUM_FRAMES)]
    ticks = [tick - tick % 90 for tick in ticks]  # whole milliseconds, which is what Matroska stores
    path = write_clip(tmp_path / name, [grey(i) for i in range(NUM_FRAMES)], codec=codec, pix_fmt=pix_fmt, ticks=ticks)
    with av.open(str(path)) as container:
        assert container.streams.video[0].profile == profile
    frames = list(open_source(path))
    assert [frame.index for frame in frames] == list(range(NUM_FRAMES))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.array(ticks) / 90_000, rtol=0, atol=1e-9)
    for frame in frames:
        error = frame.rgb.astype(int) - grey(frame.index)
        assert abs(error.mean()) < 3  # FFmpeg makes ten bits up to two levels darker
        assert abs(error).mean() < 4


def test_ten_bits_give_the_levels_of_eight(tmp_path: Path):
    def levels(pictures: np.ndarray) -> np.ndarray:
        """The mean of each quarter, away from its edges, where the two are interpolated unlike."""
        return pictures.reshape(-1, 2, HEIGHT // 2, 2, WIDTH // 2, 3)[:, :, 4:-4, :, 4:-4].mean(axis=(0, 2, 4))

    found = {}
    for codec, pix_fmt in (("libx264", "yuv420p"), ("libx264", "yuv420p10le"), ("libx265", "yuv420p10le")):
        path = write_clip(tmp_path / f"{codec}_{pix_fmt}.mp4", [quarters()] * 5, codec=codec, pix_fmt=pix_fmt)
        found[codec, pix_fmt] = levels(np.stack([frame.rgb for frame in open_source(path)]))
    for level in found.values():
        np.testing.assert_allclose(level, levels(quarters()), rtol=0, atol=4)
        np.testing.assert_allclose(level, found["libx264", "yuv420p"], rtol=0, atol=3)


def test_the_sink_keeps_uneven_times_to_the_tick(tmp_path: Path):
    ticks = [3003 * index + 700 * (index % 4) for index in range(12)]
    source = open_source(write_clip(tmp_path / "uneven.mp4", [grey(i) for i in range(12)], ticks=ticks))
    with VideoSink(tmp_path / "out.mp4", source.fps) as sink:
        for frame in source:
            sink.write(frame.rgb, frame.time_s)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [picture.pts * picture.time_base / TICK for picture in container.decode(video=0)] == ticks


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pixels_stay_as_stored_and_their_aspect_is_told(tmp_path: Path, suffix: str):
    aspect = Fraction(16, 15)
    path = write_clip(tmp_path / f"tape{suffix}", [grey(0)], pixel_aspect=aspect)
    source = open_source(path)
    assert source.pixel_aspect == aspect
    (frame,) = source
    assert frame.rgb.shape == (HEIGHT, WIDTH, 3)
    for given in (source.pixel_aspect, 1):
        with VideoSink(tmp_path / f"out{suffix}", pixel_aspect=given) as sink:
            sink.write(frame.rgb)
        assert open_source(tmp_path / f"out{suffix}").pixel_aspect == given
    turned = write_clip(tmp_path / f"turned{suffix}", [grey(0)], pixel_aspect=aspect, matrix=((0, 1), (-1, 0)))
    assert open_source(turned).pixel_aspect == 1 / aspect


# Cut off


def test_an_avi_file_is_short_wherever_it_was_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Also between two of its packets, where none is torn; by more than the half second that headers may be off."""
    path = write_clip(tmp_path / "clip.avi", [grey(i) for i in range(NUM_FRAMES)])
    whole = path.read_bytes()
    for size in range(len(whole) // 4, len(whole) * 2 // 5, 500):
        path.write_bytes(whole[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sightline"):
            list(open_source(path))
        assert len(caplog.records) == 1 and "ends early" in caplog.text, size


@pytest.mark.parametrize(
    ("name", "options", "warns"),
    [
        ("begin_first.mp4", {"movflags": "+faststart"}, True),
        ("fragments.mp4", {"movflags": "+frag_keyframe+empty_moov"}, True),
        ("clip.mkv", {}, True),
        ("clip.avi", {}, True),
        ("clip.ts", {}, False),  # announces no length: half a broadcast is a whole one
    ],
)
def test_a_file_that_was_cut_gives_its_frames_and_a_warning(
    tmp_path: Path, name: str, options: dict[str, str], warns: bool, caplog: pytest.LogCaptureFixture
):
    path = write_clip(tmp_path / name, [grey(i) for i in range(NUM_FRAMES)], options=options)
    whole = path.read_bytes()
    with caplog.at_level(logging.WARNING, "sightline"):
        assert len(list(open_source(path))) == NUM_FRAMES
        assert not caplog.records
        path.write_bytes(whole[: len(whole) * 2 // 5])
        frames = list(open_source(path))
    assert 8 <= len(frames) <= 22
    assert [frame.index for frame in frames] == list(range(len(frames)))
    readable = [frame for frame in frames if frame.rgb is not None]
    assert len(readable) >= len(frames) - 3
    for frame in readable[:8]:
        assert round((frame.rgb.mean() - 20) / 7) == frame.index
    assert [name in record.message and "ends early" in record.message for record in caplog.records] == [True] * warns


def test_a_file_without_its_index_is_refused_in_a_sentence(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", [grey(i) for i in range(NUM_FRAMES)])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(VideoError, match=r"clip\.mp4: got .*; expected a video. Check that it is whole"):
        open_source(path)


# Addresses


@pytest.mark.parametrize(
    ("source", "address"),
    [
        (0, 0),
        ("1", "1"),
        *((f"{scheme}://host:1/a?b=*", None) for scheme in ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp")),
        ("srt://host:1", None),
        ("HTTP://host/clip.jpg", None),
    ],
)
def test_numbers_and_addresses_are_live(monkeypatch: pytest.MonkeyPatch, source: int | str, address: int | str | None):
    asked: list[tuple[int | str, int]] = []
    opened = Source("live", None, False, None, lambda: iter(()), is_live=True)
    monkeypatch.setattr(
        "sightline.video.source.open_live", lambda address, start: asked.append((address, start)) or opened
    )
    assert open_source(source) is opened
    assert open_source(source, start=3) is opened  # whether it has a frame 3 is known there
    assert asked == [(source if address is None else address, start) for start in (0, 3)]


def test_a_file_called_like_a_number_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "7").write_bytes(write_clip(tmp_path / "clip.mp4", [grey(0)]).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(open_source("7"))) == 1
    with pytest.raises(VideoError, match="8: got no such file"):
        open_source(Path("8"))


@pytest.mark.parametrize("address", ["ftp://user:secret@host/clip.mp4", "file:///clip.mp4"])
def test_other_schemes_are_refused_by_naming_the_known_ones(address: str):
    with pytest.raises(
        VideoError, match=r"expected one of http://, https://, rtmp://, rtsp://, .*without a scheme"
    ) as e:
        open_source(address)
    assert "secret" not in str(e.value)
