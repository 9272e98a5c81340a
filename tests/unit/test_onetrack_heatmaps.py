"""OneTrack-M's maps in NumPy: boxes to targets, maps to boxes, and the scale of displacements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.errors import GeometryError
from sightline.geometry.boxes import iou
from sightline.geometry.heatmaps import (
    HeatmapRules,
    as_maps,
    cells_of,
    decode_maps,
    displacement_percentiles,
    displacement_scale,
    displacements,
    draw_gaussians,
    frame_targets,
    gaussian_radius,
    input_fit,
)

RULES = HeatmapRules()
GRID = 40


def scattered(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes as fractions of a frame, whose centres lie in it."""
    size = rng.uniform(0.05, 0.3, (count, 2))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) - size / 2, size], axis=1)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 12), num_classes=st.integers(1, 3))
def test_onetrack_targets_are_read_back(seed: int, count: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, moved = scattered(rng, count), rng.uniform(-0.02, 0.02, (count, 2))
    kinds = rng.integers(0, num_classes, count)
    _, first = np.unique(cells_of(boxes, GRID), return_index=True)  # one object to a cell
    boxes, moved, kinds = boxes[first], moved[first], kinds[first]
    targets = frame_targets(boxes, GRID, RULES, class_ids=kinds, num_classes=num_classes, displacements=moved)
    peaks = decode_maps(*as_maps(targets), RULES)
    assert len(peaks.scores) == len(boxes) and (peaks.scores == 1).all()
    order = np.lexsort((cells_of(boxes, GRID), kinds))  # equal scores: by class, then by cell
    np.testing.assert_array_equal(peaks.class_ids, kinds[order])
    np.testing.assert_allclose(peaks.xywh_unit[:, 2:], boxes[order, 2:], rtol=1e-6)
    np.testing.assert_allclose(peaks.displacements, moved[order], atol=1e-6)
    centre_error = (peaks.xywh_unit - boxes[order]) @ [[1, 0], [0, 1], [0.5, 0], [0, 0.5]]
    assert np.abs(centre_error).max() <= 0.5 / GRID + 1e-9


@given(seed=st.integers(0, 2**32 - 1))
def test_onetrack_sides_are_not_bound_to_the_grid_as_sizes_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = scattered(rng, 6)
    boxes = boxes[np.unique(cells_of(boxes, GRID), return_index=True)[1]]
    sides, sizes = (
        decode_maps(*as_maps(frame_targets(boxes, GRID, HeatmapRules(box=box))), RULES).xywh_unit
        for box in ("sides", "size")
    )
    np.testing.assert_allclose(sides, boxes, atol=1e-6)
    assert np.abs(sizes - boxes).max() > 1e-4


def test_onetrack_heat_map_is_a_gaussian_of_the_released_radius() -> None:
    size = np.array([[5.4, 30.1]])  # the median pedestrian of MOT17 on 196 x 196 cells
    (radius,) = gaussian_radius(size)
    assert radius == 2
    heat = np.zeros((1, 11, 11), np.float32)
    draw_gaussians(heat, np.array([0]), np.array([5 * 11 + 5]), size)
    sigma = (2 * 2 + 1) / 6
    assert heat[0, 5, 5] == 1
    assert heat[0, 5, 7] == pytest.approx(np.exp(-4 / (2 * sigma**2)))
    assert heat[0, 4, 6] == pytest.approx(np.exp(-2 / (2 * sigma**2)))
    assert heat[0, 5, 8] == 0 and np.count_nonzero(heat) == 25


def test_onetrack_neighbours_keep_the_higher_flank_and_borders_cut_it() -> None:
    both, one, other = (np.zeros((1, 12, 12), np.float32) for _ in range(3))
    sizes = np.array([[20.0, 20.0], [9.0, 9.0]])
    cells = np.array([0, 3 * 12 + 4])
    draw_gaussians(both, np.zeros(2, int), cells, sizes)
    draw_gaussians(one, np.zeros(1, int), cells[:1], sizes[:1])
    draw_gaussians(other, np.zeros(1, int), cells[1:], sizes[1:])
    np.testing.assert_array_equal(both, np.maximum(one, other))
    assert both[0, 0, 0] == both[0, 3, 4] == 1 and (one > 0).sum() < (2 * gaussian_radius(sizes)[0] + 1) ** 2


def test_onetrack_radius_shrinks_with_the_overlap_asked_for() -> None:
    size = np.array([[12.0, 40.0]])
    assert gaussian_radius(size, 0.9)[0] < gaussian_radius(size, 0.7)[0] < gaussian_radius(size, 0.3)[0]
    assert gaussian_radius(np.array([[0.2, 0.2]]))[0] == 0


def test_onetrack_people_hardly_seen_are_neither_peaks_nor_background() -> None:
    boxes = np.array([[0.1, 0.1, 0.2, 0.4], [0.6, 0.3, 0.2, 0.4]])
    targets = frame_targets(boxes, GRID, RULES, visibility=[0.24, 0.25])
    hidden, seen = cells_of(boxes, GRID)
    assert targets.cells.tolist() == [seen] and targets.heat_map.reshape(-1)[hidden] == 0
    assert not targets.is_counted.reshape(-1)[hidden] and targets.is_counted.reshape(-1)[seen]
    assert 0 < (~targets.is_counted).sum() < 60
    everyone = frame_targets(boxes, GRID, HeatmapRules(min_visibility=0), visibility=[0.24, 0.25])
    assert everyone.cells.tolist() == [hidden, seen] and everyone.is_counted.all()


def test_onetrack_a_peak_counts_inside_an_ignored_region() -> None:
    boxes = np.array([[0.1, 0.1, 0.2, 0.4], [0.1, 0.1, 0.2, 0.4]])
    targets = frame_targets(boxes, GRID, RULES, visibility=[0.0, 1.0])
    (cell,) = targets.cells
    assert targets.is_counted.reshape(-1)[cell] and targets.heat_map.reshape(-1)[cell] == 1


def test_onetrack_displacement_goes_from_now_to_before() -> None:
    moved = displacements([0, 1, 1, 2, 5, 6], [7, 7, 8, 7, 7, 7], [[0, 0], [1, 3], [9, 9], [1, 2], [0, 0], [2, 0]])
    np.testing.assert_array_equal(
        moved, [[np.nan] * 2, [-1, -3], [np.nan] * 2, [0, 1], [np.nan] * 2, [-2, 0]]
    )  # 8 is new; frame 5 has no frame 4 before it


def test_onetrack_objects_without_a_past_have_no_displacement() -> None:
    boxes = np.array([[0.1, 0.1, 0.2, 0.4], [0.6, 0.3, 0.2, 0.4]])
    targets = frame_targets(boxes, GRID, RULES, displacements=[[np.nan, np.nan], [0.02, -0.01]], max_objects=4)
    assert targets.has_displacement.tolist() == [False, True, False, False]
    assert targets.is_object.tolist() == [True, True, False, False]
    np.testing.assert_allclose(targets.displacements[:2], [[0, 0], [np.tanh(1), -np.tanh(1)]], rtol=1e-6)
    assert all(len(values) == 4 for values in targets[2:])


def test_onetrack_a_displacement_beyond_the_scale_comes_back_bounded() -> None:
    targets = frame_targets([[0.4, 0.4, 0.2, 0.2]], GRID, RULES, displacements=[[5.0, -5.0]])
    (moved,) = decode_maps(*as_maps(targets), RULES).displacements
    np.testing.assert_allclose(moved, np.arctanh(0.999) * np.array([0.02, -0.01]))


def test_onetrack_centres_outside_the_frame_go_to_its_border() -> None:
    assert cells_of(np.array([[-0.3, 0.99, 0.2, 0.2], [1.0, -1.0, 0.1, 0.1]]), 10).tolist() == [90, 9]


def peak_maps(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grid = heat.shape[-1]
    return heat, np.full((2, grid, grid), 2.0, np.float32), np.zeros((2, grid, grid), np.float32)


def test_onetrack_peaks_are_what_no_neighbour_exceeds() -> None:
    rng = np.random.default_rng(3)
    heat = rng.random((2, 12, 12)).astype(np.float32)
    walled = np.pad(heat, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(walled, (3, 3), (1, 2)).max(axis=(3, 4))
    expected = np.sort(heat[(heat == windows) & (heat > 0.4)])[::-1]
    peaks = decode_maps(*peak_maps(heat), RULES)
    np.testing.assert_array_equal(peaks.scores, expected)
    assert len(expected) > 10 and (np.diff(peaks.scores) <= 0).all()
    np.testing.assert_array_equal(decode_maps(*peak_maps(heat), RULES, top_k=3).scores, expected[:3])
    assert len(decode_maps(*peak_maps(heat), RULES, min_score=0.9).scores) < len(expected)


def test_onetrack_equal_neighbours_are_both_peaks_and_equal_scores_in_order() -> None:
    heat = np.zeros((1, 6, 6), np.float32)
    heat[0, 2, 2] = heat[0, 2, 3] = heat[0, 5, 0] = 0.8
    peaks = decode_maps(*peak_maps(heat), RULES)
    np.testing.assert_allclose(peaks.xywh_unit[:, :2] * 6 + 1, [[2.5, 2.5], [3.5, 2.5], [0.5, 5.5]])
    corner = decode_maps(*peak_maps(heat), HeatmapRules(centre_in_cell=0.0))
    np.testing.assert_allclose(corner.xywh_unit[:, :2] * 6 + 1, [[2, 2], [3, 2], [0, 5]])


def test_onetrack_a_score_at_the_threshold_is_no_peak_nor_is_one_without_area() -> None:
    heat = np.zeros((1, 6, 6), np.float32)
    heat[0, 2, 2], heat[0, 4, 4] = 0.5, 0.75
    _, size, moved = peak_maps(heat)
    assert decode_maps(heat, size, moved, RULES, min_score=0.5).scores.tolist() == [0.75]
    size[1, 4, 4] = -1
    assert decode_maps(heat, size, moved, RULES, min_score=0.4).scores.tolist() == [0.5]


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (432, 576), (300, 300), (7, 900)])
@pytest.mark.parametrize("letterbox", [False, True])
def test_onetrack_boxes_return_from_the_input(height: int, width: int, letterbox: bool) -> None:
    fit = input_fit(height, width, 224, letterbox)
    boxes = np.array([[0.0, 0.0, width, height], [3.5, 2.0, 40.0, 90.0], [-20.0, 5.0, 10.0, 10.0]])
    np.testing.assert_allclose(fit.to_frame(fit.to_unit(boxes)), boxes, atol=1e-9)
    whole = fit.to_unit(boxes[0])
    if letterbox:
        assert whole[2:].max() == 1 and whole[:2].min() == 0
        sides = whole[2:] * 224 / (width, height)
        assert abs(sides[0] - sides[1]) <= 0.5 / min(height, width) + 1e-9  # proportions, but for whole pixels
    else:
        np.testing.assert_allclose(whole, [0, 0, 1, 1])
    assert iou(fit.to_unit(boxes[1]), fit.to_unit(boxes[1] + [5, 5, 0, 0])) > 0


def test_onetrack_scale_is_what_99_percent_of_displacements_stay_below() -> None:
    rng = np.random.default_rng(0)
    moved = rng.normal(0, (0.004, 0.001), (5000, 2))
    moved[::7] = np.nan
    scale = displacement_scale(moved)
    known = np.abs(moved[np.isfinite(moved[:, 0])])
    below = (np.tanh(known / scale) <= np.tanh(1)).mean(axis=0)
    assert ((below > 0.985) & (below < 0.995)).all()
    np.testing.assert_allclose(displacement_percentiles(moved, (99,))[0], scale)
    assert (np.diff(displacement_percentiles(moved), axis=0) > 0).all()
    assert displacement_scale(np.zeros((3, 2))) == (1e-4, 1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frame_targets([[0.1, 0.1, 0.0, 0.2]], GRID, RULES), "without area"),
        (lambda: frame_targets([[0.1, np.nan, 0.1, 0.2]], GRID, RULES), "not finite"),
        (lambda: frame_targets([[0.1, 0.1, 0.1, 0.2]] * 3, GRID, RULES, max_objects=2), "got 3 objects"),
        (lambda: HeatmapRules(min_overlap=1.0), "min_overlap=1.0"),
        (lambda: HeatmapRules(displacement_scale=(0.0, 0.1)), "displacement_scale"),
        (lambda: displacement_percentiles(np.full((4, 2), np.nan)), "displacements: got none"),
    ],
)
def test_onetrack_targets_refuse_nonsense_in_a_sentence(call, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        call()


def test_onetrack_an_empty_frame_has_targets_too() -> None:
    targets = frame_targets(np.zeros((0, 4)), GRID, RULES, max_objects=3)
    assert not targets.heat_map.any() and targets.is_counted.all() and not targets.is_object.any()
    assert len(decode_maps(*as_maps(targets), RULES).scores) == 0
