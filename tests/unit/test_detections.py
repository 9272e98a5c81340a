"""CenterNet's maps to boxes, and non-maximum suppression against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.geometry.boxes import iou, xyxy_to_xywh
from sightline.geometry.detections import STRIDES, decode_level, decode_levels, nms, proposals


def by_definition(xyxy: np.ndarray, scores: np.ndarray, limit: float, classes: np.ndarray | None = None) -> list[int]:
    xywh, kept = xyxy_to_xywh(xyxy), list[int]()
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        rivals = [j for j in kept if classes is None or classes[i] == classes[j]]
        if all(iou(xywh[i], xywh[j]) <= limit for j in rivals):
            kept.append(i)
    return kept


def some_boxes(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Crowded, with scores of one decimal: many are equal."""
    rng = np.random.default_rng(seed)
    top_left, size = rng.uniform(0, 60, (count, 2)), rng.uniform(5, 40, (count, 2))
    return np.concatenate([top_left, top_left + size], axis=1), rng.integers(0, 10, count) / 10


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.7, 1.0])
def test_nms_is_its_definition(limit: float) -> None:
    boxes, scores = some_boxes(0, 80)
    classes = np.random.default_rng(1).integers(0, 3, 80)
    assert nms(boxes, scores, limit).tolist() == by_definition(boxes, scores, limit)
    assert nms(boxes, scores, limit, classes=classes).tolist() == by_definition(boxes, scores, limit, classes)


def test_nms_keeps_the_first_of_equal_boxes_and_any_of_other_classes() -> None:
    boxes, scores = np.tile([3.0, 4, 9, 8], (4, 1)), np.array([0.5, 0.9, 0.9, 0.5])
    assert nms(boxes, scores, 0.6).tolist() == [1]
    assert nms(boxes, scores, 0.6, classes=["a", "b", "b", "a"]).tolist() == [1, 0]
    assert nms(boxes, scores, 1.0).tolist() == [1, 2, 0, 3]  # more than the limit, not as much


@pytest.mark.parametrize("keep", [1, 7, 20, 1000])
def test_nms_stops_at_so_many_and_their_equals(keep: int) -> None:
    boxes, scores = some_boxes(2, 300)
    everything = by_definition(boxes, scores, 0.5)
    assert len(everything) > 21
    worst = scores[everything[min(keep, len(everything)) - 1]]
    expected = [i for i in everything if scores[i] >= worst]
    assert nms(boxes, scores, 0.5, keep=keep).tolist() == expected
    assert keep == 1000 or len(expected) > keep


def test_nothing_gives_nothing() -> None:
    assert nms(np.empty((0, 4)), np.empty(0), 0.5, keep=3).shape == (0,)
    maps = small_maps()
    for level in range(5):
        maps[f"agn_{level}"][:] = -100
    boxes, scores = proposals(maps, iou=0.6, keep=128)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def small_maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    maps = dict[str, np.ndarray]()
    for level in range(5):
        shape = (1, 1, 2 << (4 - level), 3 << (4 - level))
        maps[f"reg_{level}"] = rng.uniform(0, 3, (1, 4, *shape[2:])).astype(np.float32)
        maps[f"agn_{level}"] = rng.normal(-3, 3, shape).astype(np.float32)
    return maps


def test_a_cell_says_where_the_four_sides_are() -> None:
    distances, logits = np.zeros((1, 4, 3, 5), np.float32), np.full((1, 1, 3, 5), -20, np.float32)
    distances[0, :, 2, 1] = 0.5, 1, 2, 3
    logits[0, 0, 2, 1] = 0
    boxes, scores = decode_level(distances, logits, 16)
    np.testing.assert_allclose(boxes, [[24 - 8, 40 - 16, 24 + 32, 40 + 48]])
    np.testing.assert_allclose(scores, np.sqrt(0.5))
    assert boxes.dtype == scores.dtype == np.float64
    boxes, _ = decode_level(np.zeros_like(distances), logits, 16)
    np.testing.assert_allclose(boxes, [[24, 40, 24.01, 40.01]])


def test_only_the_likeliest_cells_of_a_level_count() -> None:
    distances = np.ones((1, 4, 10, 10), np.float32)
    logits = np.random.default_rng(4).normal(-8, 4, (1, 1, 10, 10)).astype(np.float32)
    logits[0, 0, 0, :3] = np.nan, 1e30, -1e30
    probability = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -500, 500)))
    expected = np.sort(np.sqrt(probability[probability > 1e-4]))[::-1]
    assert 20 < len(expected) < 99
    np.testing.assert_allclose(decode_level(distances, logits, 8)[1], expected)
    np.testing.assert_allclose(decode_level(distances, logits, 8, most=9)[1], expected[:9])
    np.testing.assert_allclose(decode_level(distances, logits, 8, score_from=0.5)[1], expected[expected > 0.5**0.5])


def test_levels_follow_each_other_with_their_strides() -> None:
    maps = small_maps()
    boxes, scores = decode_levels(maps, most=5)
    parts = [
        decode_level(maps[f"reg_{i}"], maps[f"agn_{i}"], stride, most=5)
        for i, stride in enumerate((8, 16, 32, 64, 128))
    ]
    assert STRIDES == (8, 16, 32, 64, 128)
    np.testing.assert_array_equal(boxes, np.concatenate([part[0] for part in parts]))
    np.testing.assert_array_equal(scores, np.concatenate([part[1] for part in parts]))
    kept = nms(boxes, scores, 0.4, keep=4)
    for ours, whole in zip(proposals(maps, most=5, iou=0.4, keep=4), (boxes, scores), strict=True):
        np.testing.assert_array_equal(ours, whole[kept])
