"""What must hold for every box, crop and map."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sightline.errors import GeometryError
from sightline.geometry.boxes import (
    MAX_FRAMES,
    check_target_box,
    clip_xywh,
    cxcywh_to_xywh,
    iou,
    xywh_to_cxcywh,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from sightline.geometry.codecs import decode_centre
from sightline.geometry.crops import CropRegion, exact_region, official_training_box, snapped_region
from sightline.geometry.windows import hann
from sightline.imaging.sample import crop_exact, crop_snapped, mean_colour, normalise
from sightline.types import TrackResult

RELATIVE = 1e-12  # of the largest number in play

position = st.floats(-5000, 5000)
length = st.floats(0.01, 5000)
box = st.tuples(position, position, length, length)
boxes = st.lists(box, min_size=1, max_size=5)
frame_side = st.integers(10, 4000)
regions = st.builds(CropRegion, position, position, length, st.integers(1, 512))


def close(ours, expected) -> bool:
    scale = max(1.0, np.abs(expected).max(), np.abs(ours).max())
    return bool(np.abs(np.asarray(ours) - expected).max() <= RELATIVE * scale)


# Formats


@given(boxes)
def test_conversions_round_trip(xywh) -> None:
    assert close(xyxy_to_xywh(xywh_to_xyxy(xywh)), xywh)
    assert close(cxcywh_to_xywh(xywh_to_cxcywh(xywh)), xywh)


@given(box)
def test_a_result_states_the_formats_of_the_functions(xywh) -> None:
    result = TrackResult(0, None, 0, xywh, 1.0, "tracked")
    assert result.xyxy == tuple(xywh_to_xyxy(xywh))
    assert result.cxcywh == tuple(xywh_to_cxcywh(xywh))


# Overlap


@given(box, box)
def test_iou_is_symmetric_and_a_share(a, b) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1  # never a bit above: the last success threshold asks for more than 1


@given(box)
def test_iou_of_a_box_with_itself_is_one(a) -> None:
    assert iou(a, a) == 1


@given(box, box, st.floats(0, 1000))
def test_iou_of_disjoint_boxes_is_zero(a, b, gap) -> None:
    beside = (a[0] + a[2] + gap, *b[1:])
    below = (b[0], a[1] + a[3] + gap, *b[2:])
    assert iou(a, beside) == iou(a, below) == 0


@given(box, box, st.integers(-8, 8))
def test_iou_has_no_scale(a, b, power) -> None:
    factor = 2.0**power  # exact in floating point
    assert iou(np.multiply(a, factor), np.multiply(b, factor)) == iou(a, b)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
def test_iou_counts_pixels(width, height, right, down) -> None:
    a, b = (np.zeros((100, 100), bool) for _ in range(2))
    a[:height, :width] = True
    b[down : down + height, right : right + width] = True
    expected = (a & b).sum() / (a | b).sum()
    assert math.isclose(iou((0, 0, width, height), (right, down, width, height)), expected, rel_tol=1e-12)


@pytest.mark.parametrize("other", [(0, 0, 0, 5), (0, 0, 5, -5), (math.nan, 0, 5, 5), (math.nan,) * 4])
def test_iou_with_nothing_is_zero(other) -> None:
    assert iou((0, 0, 10, 10), other) == iou(other, (0, 0, 10, 10)) == iou(other, other) == 0


# Boxes in frames


@given(box, frame_side, frame_side)
def test_clipping_keeps_a_box_in_its_frame(xywh, height, width) -> None:
    x, y, w, h = clipped = clip_xywh(xywh, height, width)
    slack = RELATIVE * max(height, width, *np.abs(xywh))
    assert x >= 0
    assert y >= 0
    assert x + w <= width + slack
    assert y + h <= height + slack
    assert min(w, h) >= 10
    assert close(clip_xywh(clipped, height, width), clipped)


@given(st.data(), frame_side, frame_side)
def test_clipping_leaves_a_box_alone_that_fits(data, height, width) -> None:
    x, y = data.draw(st.floats(0, width - 10)), data.draw(st.floats(0, height - 10))
    xywh = (x, y, data.draw(st.floats(10, width - x)), data.draw(st.floats(10, height - y)))
    assert close(clip_xywh(xywh, height, width), xywh)


@given(box, frame_side, frame_side)
def test_a_target_box_is_taken_as_it_is_or_refused(xywh, height, width) -> None:
    x, y, w, h = xywh
    if w * h > MAX_FRAMES * width * height:
        with pytest.raises(GeometryError, match="too large"):
            check_target_box(xywh, height, width)
    elif x < width and y < height and x + w > 0 and y + h > 0:
        assert check_target_box(xywh, height, width) == xywh
    else:
        with pytest.raises(GeometryError, match="outside the frame"):
            check_target_box(xywh, height, width)


# Crops


@given(regions, boxes)
def test_crop_mapping_has_an_inverse(region, xywh) -> None:
    reach = max(1.0, abs(region.x1), abs(region.y1), region.side_px, np.abs(xywh).max())
    assert np.abs(region.to_frame(region.to_crop(xywh)) - xywh).max() <= RELATIVE * reach * max(1, 1 / region.scale)
    xywh_crop = region.to_crop(xywh)
    back = region.to_crop(region.to_frame(xywh_crop))
    assert np.abs(back - xywh_crop).max() <= RELATIVE * reach * max(1, region.scale)


@given(regions)
def test_a_region_fills_its_crop(region) -> None:
    own = (region.x1, region.y1, region.side_px, region.side_px)
    assert close(region.to_crop(own), (0, 0, region.out_px, region.out_px))


@given(box, st.sampled_from([2.0, 4.0, 5.0]), st.sampled_from([128, 256, 384]))
def test_the_snapped_region_is_the_exact_one_to_a_pixel(xywh, factor, out_px) -> None:
    snapped, exact = (rule(xywh, factor, out_px) for rule in (snapped_region, exact_region))
    assert snapped.side_px == int(snapped.side_px) >= 1
    assert 0 <= snapped.side_px - exact.side_px < 1
    assert (snapped.x1, snapped.y1) == (int(snapped.x1), int(snapped.y1))
    # half a pixel of rounding, and half of what the side grew by
    assert max(abs(snapped.x1 - exact.x1), abs(snapped.y1 - exact.y1)) <= 1 + 1e-9


@given(box, st.sampled_from([2.0, 4.0, 5.0]), st.sampled_from([128, 256, 384]))
def test_the_target_lies_in_the_middle_of_the_exact_region(xywh, factor, out_px) -> None:
    cx, cy, _, _ = xywh_to_cxcywh(exact_region(xywh, factor, out_px).to_crop(xywh))
    assert math.isclose(cx, out_px / 2, abs_tol=1e-6 * out_px)
    assert math.isclose(cy, out_px / 2, abs_tol=1e-6 * out_px)


@given(box, box, st.sampled_from([128, 256]))
def test_the_training_box_is_half_a_pixel_off(xywh, around, out_px) -> None:
    region = exact_region(around, 4.0, out_px)  # nothing was rounded, so the half pixel is all that is left
    unit = official_training_box(xywh, around, region)
    expected = (region.to_crop(xywh) - (0.5, 0.5, 0, 0)) / out_px
    assert np.abs(unit - expected).max() <= 1e-9 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("rule", [snapped_region, exact_region])
def test_a_box_too_small_for_numbers_is_refused(rule) -> None:
    with pytest.raises(GeometryError, match="crop of side 0"):
        rule((5.0, 5.0, 1e-200, 1e-200), 2.0, 128)


# Pixels


def gradient(height: int, width: int, slope_x: float, slope_y: float) -> np.ndarray:
    """A frame whose value at the point (x, y), pixel centres at one half, is 20 + slope_x x + slope_y y."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    values = 20 + slope_x * x + slope_y * y
    return np.round(values[..., None]).repeat(3, axis=2).astype(np.uint8)


def error_on_gradient(cut: CropRegion, stated: CropRegion) -> float:
    """Largest difference, in levels, of a crop of a gradient from the values of the region that is stated."""
    ours = crop_exact(gradient(150, 150, 1.0, 0.5), cut, (0, 0, 0)).astype(float)
    centre = (np.arange(stated.out_px) + 0.5) / stated.scale
    expected = 20 + 1.0 * (stated.x1 + centre)[None] + 0.5 * (stated.y1 + centre)[:, None]
    return float(np.abs(ours - expected[..., None]).max())


@given(st.floats(30, 60), st.floats(30, 60), st.floats(20, 60), st.sampled_from([16, 48, 96]))
def test_an_exact_crop_shows_the_points_it_says(x1, y1, side, out_px) -> None:
    region = CropRegion(x1, y1, side, out_px)
    assert error_on_gradient(region, region) <= 1.05  # half a level of rounding in the frame, half in the crop


@pytest.mark.parametrize("shift", [-0.5, 0.5])  # corners taken for centres, or centres for corners
def test_half_a_pixel_shows_on_the_gradient(shift) -> None:
    region = CropRegion(40.3, 35.8, 37.0, 96)
    assert error_on_gradient(region, CropRegion(region.x1 + shift, region.y1 + shift, region.side_px, 96)) > 1.05


@given(st.floats(-300, 300), st.floats(-300, 300), st.floats(5, 200))
def test_outside_an_exact_crop_lies_the_fill(x1, y1, side) -> None:
    region = CropRegion(x1, y1, side, 32)
    crop = crop_exact(np.full((80, 120, 3), 255, np.uint8), region, (10, 20, 30))
    x, y, w, h = region.to_crop((0, 0, 120, 80))
    reach = max(1.0, region.scale)  # bilinear: a frame pixel beyond the border still mixes
    centre = np.arange(32) + 0.5
    outside_x, outside_y = ((centre < a - reach) | (centre > a + size + reach) for a, size in ((x, w), (y, h)))
    assert (crop[outside_y[:, None] | outside_x[None]] == (10, 20, 30)).all()
    inside_x, inside_y = ((centre > a + reach) & (centre < a + size - reach) for a, size in ((x, w), (y, h)))
    assert (crop[inside_y[:, None] & inside_x[None]] == 255).all()


@given(st.integers(-30, 60), st.integers(-30, 60), st.integers(4, 120), st.sampled_from([16, 32, 64]))
def test_whole_pixel_crops_agree_but_for_resampling(x1, y1, side, out_px) -> None:
    frame = gradient(100, 110, 1.0, 0.8)
    region = CropRegion(x1, y1, side, out_px)
    snapped, exact = crop_snapped(frame, region).astype(int), crop_exact(frame, region, (0, 0, 0)).astype(int)
    x, y, w, h = region.to_crop((0, 0, 109, 99))  # the last row and column are lost officially
    centre, reach = np.arange(out_px) + 0.5, max(1.0, region.scale)
    x_in, y_in = ((centre > a + reach) & (centre < a + size - reach) for a, size in ((x, w), (y, h)))
    off_edge = (centre > reach) & (centre < out_px - reach)  # there the official resize repeats the last pixel
    inside = (y_in & off_edge)[:, None] & (x_in & off_edge)[None]
    assert np.abs(snapped - exact)[inside].max(initial=0) <= 2


@given(st.integers(-400, 400), st.integers(-400, 400), st.integers(1, 300))
def test_a_snapped_crop_lies_anywhere(x1, y1, side) -> None:
    """Also fully outside, where a long thin target takes its template crop."""
    frame = np.full((90, 110, 3), 200, np.uint8)
    crop = crop_snapped(frame, CropRegion(x1, y1, side, 24))
    assert crop.shape == (24, 24, 3)
    assert crop.max() <= 200
    if x1 >= 110 or y1 >= 90 or x1 + side <= 0 or y1 + side <= 0:
        assert not crop.any()
    if x1 >= 0 and y1 >= 0 and x1 + side < 110 and y1 + side < 90:
        assert (crop == 200).all()


def test_a_snapped_crop_loses_the_last_line_of_the_frame() -> None:
    """The official padding rule: a crop that ends with the frame has black instead of the last column and row."""
    white = np.full((90, 110, 3), 255, np.uint8)
    crop = crop_snapped(white, CropRegion(90, 70, 20, 20))
    assert (crop[:19, :19] == 255).all()
    assert not crop[19].any()
    assert not crop[:, 19].any()
    assert (crop_snapped(white, CropRegion(89, 69, 20, 20)) == 255).all()


@given(st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_crops_leave_the_frame_alone_and_take_any_view(height, width, mirrored) -> None:
    rgb = np.random.default_rng(height * 61 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    kept = rgb.copy()
    view = rgb[:, ::-1, ::-1] if mirrored else rgb  # a BGR frame turned to RGB is a view with negative strides
    region = snapped_region((width / 4, height / 4, width / 2, height / 2), 3.0, 16)
    assert np.array_equal(crop_snapped(view, region), crop_snapped(view.copy(), region))
    fill = mean_colour(view)
    assert np.array_equal(crop_exact(view, region, fill), crop_exact(view.copy(), region, fill))
    assert np.array_equal(rgb, kept)


def test_the_mean_colour_is_near_the_mean() -> None:
    assert mean_colour(np.full((7, 5, 3), (10, 20, 30), np.uint8)) == (10, 20, 30)
    rgb = gradient(120, 160, 1.0, 0.5) // np.array([1, 2, 4], np.uint8)  # red, green, blue apart
    assert np.abs(rgb.mean(axis=(0, 1)) - mean_colour(rgb)).max() < 2  # a sample of the rows is enough


@given(arrays(np.uint8, (5, 5, 3)))
def test_normalising_is_the_formula(crop) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = ((crop / 255 - mean) / std).transpose(2, 0, 1)
    ours = normalise(crop, mean, std)
    assert ours.dtype == np.float32
    assert ours.shape == (3, 5, 5)
    assert np.abs(ours - expected).max() < 1e-6


# Maps


def decode_slowly(score_map, size_map, offset_map, window) -> tuple[list[list[float]], list[float]]:
    """Cell by cell; the first of equal peaks."""
    found, scores = [], []
    grid = score_map.shape[-1]
    for k in range(len(score_map)):
        best, cell = -math.inf, (0, 0)
        for row in range(grid):
            for column in range(grid):
                if score_map[k, 0, row, column] * window[row, column] > best:
                    best, cell = score_map[k, 0, row, column] * window[row, column], (row, column)
        row, column = cell
        dx, dy = offset_map[k, :, row, column]
        w, h = size_map[k, :, row, column]
        found.append([(column + dx) / grid, (row + dy) / grid, w, h])
        scores.append(score_map[k, 0, row, column])
    return found, scores


@given(st.integers(1, 3), st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_decoding_equals_a_loop(targets, grid, seed, windowed, ties) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random((targets, 1, grid, grid))
    if ties:
        score = np.round(score, 1)
    size, offset = rng.random((targets, 2, grid, grid)), rng.normal(size=(targets, 2, grid, grid))
    window = hann(grid) if windowed else None
    ours, scores = decode_centre(score, size, offset, window)
    expected, expected_scores = decode_slowly(score, size, offset, np.ones((grid, grid)) if window is None else window)
    assert close(ours, expected)
    assert np.array_equal(scores, expected_scores)


@given(st.integers(1, 64))
def test_the_window_is_even_positive_and_highest_in_the_middle(grid) -> None:
    window = hann(grid)
    assert (window > 0).all()
    assert window.max() <= 1
    assert close(window, window[::-1, ::-1])
    assert close(window, window.T)
    assert window[grid // 2, grid // 2] >= window.max() - RELATIVE
