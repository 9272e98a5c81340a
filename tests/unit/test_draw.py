"""What drawn boxes and labels must keep to: inside the picture, off each other, told apart, the frame untouched."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest

from sightline.imaging.draw import COLOURS, colour_of, draw_targets
from sightline.types import TrackResult

SIZES = [(48, 64), (360, 640), (193, 241), (1080, 1920), (1, 1), (9, 2000)]


def target(target_id: int, xywh: tuple[float, float, float, float], score: float = 0.93) -> TrackResult:
    return TrackResult(0, 0.0, target_id, xywh, score, "tracked")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_box_is_drawn_on_a_copy_in_the_colour_of_its_id(height: int, width: int):
    rgb = np.full((height, width, 3), 50, np.uint8)
    drawn = draw_targets(rgb, [target(3, (width * 0.25, height * 0.4, width * 0.5, height * 0.5))])
    assert drawn.shape == rgb.shape
    assert (rgb == 50).all()
    assert (drawn == colour_of(3)).all(axis=2).any()


@pytest.mark.parametrize(("height", "width"), [(360, 640), (1080, 1920)])
def test_the_line_lies_on_the_edges_of_the_half_open_box(height: int, width: int):
    drawn = draw_targets(np.zeros((height, width, 3), np.uint8), [target(1, (100.2, 120.4, 200.0, 150.0))])
    for y, x in itertools.product((120, 269), (100, 299)):
        assert (drawn[y, 200] == colour_of(1)).all()
        assert (drawn[195, x] == colour_of(1)).all()
    assert (drawn[195, 200] == 0).all()


def test_what_is_not_in_the_picture_is_left_out():
    rgb = np.full((90, 160, 3), 7, np.uint8)
    nan = math.nan
    outside = [
        (nan, nan, nan, nan),
        (-50, 10, 40, 20),
        (160, 10, 5, 5),
        (10, 95, 5, 5),
        (9, 9, 0, 5),
        (1, 1, math.inf, 2),
    ]
    assert (draw_targets(rgb, [target(1, xywh) for xywh in outside]) == 7).all()
    assert (draw_targets(rgb, [target(1, (-50, 10, 60, 20))]) != 7).any()


def test_a_box_far_larger_than_the_picture_is_clipped_to_its_border():
    drawn = draw_targets(np.zeros((360, 640, 3), np.uint8), [target(1, (-1e12, -1e12, 3e12, 3e12))])
    for border in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (border == colour_of(1)).all()


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int, int]]:
    """The filled rectangles that are drawn, as half-open xyxy, in order."""
    drawn: list[tuple[int, int, int, int]] = []
    rectangle = cv2.rectangle

    def spy(picture, corner, opposite, colour, thickness):
        if thickness == cv2.FILLED:
            drawn.append((*corner, opposite[0] + 1, opposite[1] + 1))
        return rectangle(picture, corner, opposite, colour, thickness)

    monkeypatch.setattr(cv2, "rectangle", spy)
    return drawn


@pytest.mark.parametrize(("height", "width"), [(360, 640), (48, 64), (1080, 1920)])
def test_every_label_is_whole_wherever_its_box_is(labels: list, height: int, width: int):
    rgb = np.zeros((height, width, 3), np.uint8)
    for x, y in itertools.product((-0.1, 0.0, 0.4, 0.97), repeat=2):
        draw_targets(rgb, [target(1, (x * width, y * height, 0.15 * width, 0.2 * height))])
    assert len(labels) == 16
    assert len({(right - left, bottom - top) for left, top, right, bottom in labels}) == 1
    for left, top, right, bottom in labels:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_a_nan_score_is_not_written(labels: list):
    rgb = np.zeros((360, 640, 3), np.uint8)
    draw_targets(rgb, [target(1, (20, 100, 90, 90), 0.5), target(2, (220, 100, 90, 90), math.nan)])
    with_score, without = (right - left for left, _, right, _ in labels)
    assert without < 0.6 * with_score


def test_labels_keep_off_each_other_while_there_is_room(labels: list):
    draw_targets(np.zeros((360, 640, 3), np.uint8), [target(i, (200 + 3 * i, 150 + 3 * i, 90, 80)) for i in range(4)])
    assert len(labels) == 4
    for a, b in itertools.combinations(labels, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_seven_identities_in_a_row_have_seven_colours():
    assert len({colour_of(target_id) for target_id in range(100, 107)}) == len(COLOURS) == 7


def uncertain(target_id: int, xywh: tuple[float, float, float, float], score: float = 0.21) -> TrackResult:
    return TrackResult(0, 0.0, target_id, xywh, score, "uncertain")


@pytest.mark.parametrize(("height", "width"), [(120, 160), (360, 640), (1080, 1920), (640, 360)])
def test_an_uncertain_target_is_dashed_and_whole_at_its_corners(height: int, width: int):
    rgb = np.full((height, width, 3), 128, np.uint8)
    box = left, top, w, h = width // 4, height // 2, width // 2, height // 4
    right, bottom = left + w - 1, top + h - 1
    for make, is_dashed in ((target, False), (uncertain, True)):
        is_drawn = (draw_targets(rgb, [make(1, box)]) != 128).any(axis=2)
        sides = [
            is_drawn[bottom, left : right + 1],
            is_drawn[top : bottom + 1, left],
            is_drawn[top : bottom + 1, right],
        ]
        for side in sides:  # the label may lie on the fourth
            assert side[0] and side[-1]
            assert side.all() != is_dashed
            assert 0.3 < side.mean() < 0.8 or not is_dashed
            num_dashes = 1 + np.count_nonzero(side[1:] > side[:-1])
            assert num_dashes >= 2 or not is_dashed


def test_the_dashes_lie_on_the_edges_of_the_half_open_box():
    drawn = draw_targets(np.zeros((360, 640, 3), np.uint8), [uncertain(1, (100.2, 120.4, 200.0, 150.0))])
    for y, x in itertools.product((120, 269), (100, 299)):
        assert (drawn[y, x] == colour_of(1)).all()
    for outside in (drawn[:, :98], drawn[:, 302:], drawn[272:]):
        assert not outside[130:].any()


def test_an_uncertain_target_far_outside_and_one_of_a_pixel_are_drawn_too():
    rgb = np.zeros((360, 640, 3), np.uint8)
    assert draw_targets(rgb, [uncertain(1, (-1e12, -1e12, 3e12, 3e12))])[-1, -1].any()
    assert draw_targets(rgb, [uncertain(1, (20, 200, 1, 1))])[200, 20].any()
    assert not draw_targets(rgb, [uncertain(1, (math.nan,) * 4)]).any()


def test_the_label_of_an_uncertain_target_says_so(labels: list, monkeypatch: pytest.MonkeyPatch):
    written = []
    put_text = cv2.putText

    def spy(picture, text, *rest):
        written.append(text)
        return put_text(picture, text, *rest)

    monkeypatch.setattr(cv2, "putText", spy)
    draw_targets(np.zeros((360, 640, 3), np.uint8), [target(1, (20, 100, 90, 90)), uncertain(2, (220, 100, 90, 90))])
    assert written == ["#1  0.93", "#2 ?  0.21"]
    assert labels[0][2] - labels[0][0] < labels[1][2] - labels[1][0]
