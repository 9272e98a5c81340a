"""The one rule by which any legal frame becomes (H, W, 3) uint8 RGB, from arrays and from image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.errors import VideoError
from sightline.imaging.frames import read_image, to_rgb

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]


def test_rgb_passes_without_a_copy():
    assert np.shares_memory(to_rgb(RGB), RGB)
    np.testing.assert_array_equal(to_rgb(RGB), RGB)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, np.dstack([GREY] * 3)),
        (GREY[:, :, None], np.dstack([GREY] * 3)),
        (np.dstack([GREY, 255 - GREY]), np.dstack([GREY] * 3)),
        (np.dstack([RGB, GREY]), RGB),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (RGB.astype(np.uint16) * 257, RGB),
        (GREY.astype(">u2") * 257, np.dstack([GREY] * 3)),
    ],
    ids=["grey", "grey-1", "grey-alpha", "rgba", "strided", "uint16", "big-endian-grey"],
)
def test_legal_kinds(array: np.ndarray, expected: np.ndarray):
    rgb = to_rgb(array)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, expected)


def test_sixteen_bits_are_rounded_over_the_full_range():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(to_rgb(values)[:, :, 0], np.rint(values / 257).astype(np.uint8))
    assert (to_rgb(values)[:, :, 0] != values >> 8).any()  # the shift of the high byte is another rule


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (RGB / 255, "float64 of shape .* by 255"),
        (GREY > 9, "bool of shape .* by 255"),
        (RGB.astype(np.int32), "int32 .* expected uint8 or uint16"),
        (RGB.transpose(2, 0, 1), "channels last"),
        (RGB[None], "one frame at a time"),
        (RGB[:0], "shape \\(0, 7, 3\\)"),
        (np.zeros(3, np.uint8), "shape \\(3,\\)"),
    ],
    ids=["float", "bool", "int32", "channels-first", "batch", "empty", "vector"],
)
def test_other_arrays_are_refused(array: np.ndarray, sentence: str):
    with pytest.raises(VideoError, match=sentence):
        to_rgb(array)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (RGB[:, :, ::-1], RGB),
        (GREY, np.dstack([GREY] * 3)),
        (np.dstack([RGB[:, :, ::-1], GREY]), RGB),
        (RGB[:, :, ::-1].astype(np.uint16) * 257, RGB),
    ],
    ids=["bgr", "grey", "bgra", "16-bit"],
)
def test_image_files_become_rgb(tmp_path: Path, stored: np.ndarray, expected: np.ndarray):
    path = tmp_path / "frame é.png"
    path.write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    np.testing.assert_array_equal(read_image(path), expected)


def test_exif_orientation_is_honoured(tmp_path: Path):
    plain = cv2.imencode(".jpg", np.full((8, 16, 3), 99, np.uint8))[1].tobytes()
    # TIFF header, one directory with one entry: tag 0x0112 (orientation), type short, count 1, value 6 (turn right)
    tiff = b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    (tmp_path / "plain.jpg").write_bytes(plain)
    (tmp_path / "turned.jpg").write_bytes(turned)
    assert read_image(tmp_path / "plain.jpg").shape == (8, 16, 3)
    assert read_image(tmp_path / "turned.jpg").shape == (16, 8, 3)


def test_unreadable_image_files_are_refused(tmp_path: Path):
    whole = cv2.imencode(".jpg", RGB.repeat(20, 0).repeat(20, 1))[1].tobytes()
    broken = {"cut.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.png": b"no picture"}
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(VideoError, match=f"{name}: got {len(data)} bytes that are no whole image"):
            read_image(tmp_path / name)
    with pytest.raises(VideoError, match="No such file"):
        read_image(tmp_path / "missing.jpg")
    (tmp_path / "float.tiff").write_bytes(cv2.imencode(".tiff", RGB.astype(np.float32))[1].tobytes())
    with pytest.raises(VideoError, match=r"float\.tiff: frame: got float32"):
        read_image(tmp_path / "float.tiff")
