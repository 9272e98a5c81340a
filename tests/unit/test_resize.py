"""Frames for a detector: sizes by both rules, the resize byte for byte as Pillow's, padding with zeros."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.imaging.frames import read_image
from sightline.imaging.resize import prepared, resized, shortest_edge_size, square_size

FRAMES = (
    "mot/PETS09-S2L1-a/img1/000001.jpg",
    "images/mot17_person/img/MOT17-02-FRCNN_000001.jpg",
    "sot/davis_cows/img/00001.jpg",
)
SIDES = st.integers(1, 90)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pillow(frame: np.ndarray, size: tuple[int, int], method: int = Image.Resampling.BILINEAR) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize(size[::-1], method))


def pillow_width_first(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return pillow(pillow(frame, (frame.shape[0], size[1])), size)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


# Sizes


@pytest.mark.parametrize(
    ("frame", "square", "edge"),
    [
        ((1080, 1920), (877, 1560), (750, 1333)),
        ((1920, 1080), (1560, 877), (1333, 750)),
        ((720, 1280), (877, 1560), (750, 1333)),
        ((480, 640), (1170, 1560), (800, 1067)),
        ((640, 480), (1560, 1170), (1067, 800)),
        ((500, 500), (1560, 1560), (800, 800)),
        ((601, 800), (1171, 1560), (800, 1065)),
        ((3, 9000), (1, 1560), (1, 1333)),
    ],
)
def test_sizes(frame: tuple[int, int], square: tuple[int, int], edge: tuple[int, int]) -> None:
    assert square_size(*frame, 1560) == square
    assert shortest_edge_size(*frame, 800, 1333) == edge


def test_one_rule_rounds_down_and_the_other_half_up() -> None:
    assert square_size(1079, 1920, 1560) == (876, 1560)  # 876.7
    assert shortest_edge_size(800, 1001, 400, 9999) == (400, 501)  # 500.5
    assert shortest_edge_size(800, 999, 400, 9999) == (400, 500)  # 499.5
    assert shortest_edge_size(800, 998, 400, 9999) == (400, 499)


# The resize


@pytest.mark.shared
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("side_px", [1560, 320, 97], ids=["up", "down", "far-down"])
def test_real_frames_are_pillows_to_the_byte(shared: Path, name: str, side_px: int) -> None:
    frame = read_image(shared / "data" / name)
    size = square_size(*frame.shape[:2], side_px)
    np.testing.assert_array_equal(resized(frame, size), pillow(frame, size))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(1080, 1920, (877, 1560)), (1920, 1080, (1333, 750)), (480, 640, (800, 1067)), (540, 960, (17, 30))],
)
def test_noise_is_pillows_to_the_byte(height: int, width: int, size: tuple[int, int]) -> None:
    frame = noise(height, width)
    np.testing.assert_array_equal(resized(frame, size), pillow(frame, size))


@settings(max_examples=200, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_any_size_is_pillows_to_the_byte_width_first(height: int, width: int, out_height: int, out_width: int) -> None:
    frame, size = noise(height, width), (out_height, out_width)
    ours = resized(frame, size)
    assert ours.shape == (*size, 3) and ours.dtype == np.uint8
    np.testing.assert_array_equal(ours, pillow_width_first(frame, size))
    assert levels_apart(ours, pillow(frame, size)) <= 2  # whichever Pillow does first: each pass rounds once


def test_extremes_stay_extremes_and_the_right_size_is_left_alone() -> None:
    for value in (0, 255):
        flat = np.full((70, 110, 3), value, dtype=np.uint8)
        assert (resized(flat, (31, 143)) == value).all()
    frame = noise(20, 30)
    assert resized(frame, (20, 30)) is frame
    np.testing.assert_array_equal(
        resized(noise(60, 40)[::2, ::-1], (17, 21)), resized(noise(60, 40)[::2, ::-1].copy(), (17, 21))
    )


@pytest.mark.parametrize("size", [(300, 500), (877, 1560)])
def test_another_resize_is_far_off(size: tuple[int, int]) -> None:
    """OpenCV's bilinear skips pixels where it shrinks; Pillow's bicubic is another filter."""
    frame = noise(1080, 1920)
    ours = resized(frame, size)
    assert levels_apart(ours, cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)) > 30
    assert levels_apart(ours, pillow(frame, size, Image.Resampling.BICUBIC)) > 10


# What the network gets


@pytest.mark.parametrize(("multiple", "padded"), [(128, (256, 384)), (32, (224, 320))])
def test_a_frame_is_normalised_then_padded_right_and_below(multiple: int, padded: tuple[int, int]) -> None:
    frame = noise(100, 156)
    image, size = prepared(frame, (200, 312), MEAN, STD, multiple)
    assert image.shape == (1, 3, *padded) and image.dtype == np.float32 and size == (200, 312)
    values = (resized(frame, (200, 312)) - 255 * np.array(MEAN)) / (255 * np.array(STD))
    np.testing.assert_allclose(image[0, :, :200, :312], values.transpose(2, 0, 1), atol=1e-6)
    assert not image[..., 200:, :].any() and not image[..., 312:].any()
    assert image[..., :200, :312].any(axis=(0, 1)).all()


def test_a_size_that_fits_is_not_padded() -> None:
    assert prepared(noise(10, 10), (64, 96), MEAN, STD, 32)[0].shape == (1, 3, 64, 96)
