"""Average precision of boxes, COCO's and LVIS's, on sets small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.datasets.tao_json import Boxes, GroundTruth, parse_ground_truth, parse_results
from sightline.errors import DatasetError
from sightline.evaluation.average_precision import (
    COCO,
    LVIS,
    best_per_image,
    box_ap,
    interpolated_precision,
    overlap,
    pairs_of_equal,
    ratio,
    running_count,
)

NAME = Path("file.json")
BOX = (10, 10, 50, 50)  # of medium area
FAR = (300, 300, 50, 50)
Row = tuple[int, int, tuple[float, ...]]  # image, category, box


def ground_truth(
    rows: list[Row], num_images: int = 2, lists: dict[int, dict[str, list[int]]] | None = None, **more: Any
) -> GroundTruth:
    """Categories 1 (rare), 2 (common), 3 (frequent); `lists` of an image make it federated, `more` goes to all
    boxes."""
    unlisted: dict[str, list[int]] = (
        {"neg_category_ids": [], "not_exhaustive_category_ids": []} if lists is not None else {}
    )
    content = {
        "images": [{"id": k, **unlisted, **(lists or {}).get(k, {})} for k in range(1, num_images + 1)],
        "annotations": [
            {"image_id": image, "category_id": key, "bbox": box, **more} for image, key, box in map(listed, rows)
        ],
        "categories": [{"id": k + 1, "name": "abc"[k], "frequency": "rcf"[k]} for k in range(3)],
    }
    return parse_ground_truth(content, NAME)


def found(truth: GroundTruth, rows: list[tuple[int, int, tuple[float, ...], float]]) -> Boxes:
    content = [{"image_id": i, "category_id": c, "bbox": list(box), "score": score} for i, c, box, score in rows]
    return parse_results(content, truth, NAME)


def listed(row: Row) -> tuple[int, int, list[float]]:
    return row[0], row[1], list(row[2])


def summary(truth: GroundTruth, rows: list[tuple[int, int, tuple[float, ...], float]], rule=COCO) -> dict[str, float]:
    return box_ap(truth, found(truth, rows), rule).summary()


# The curve


def test_the_curve_by_hand() -> None:
    """Hit, slip, hit, of two: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    curve = interpolated_precision(np.array([True, False, True]), np.array([False, True, False]), 2)
    assert curve[:51] == pytest.approx(1)
    assert curve[51:] == pytest.approx(2 / 3)


def test_recalls_that_are_not_reached_have_no_precision() -> None:
    curve = interpolated_precision(np.array([True]), np.array([False]), 4)
    assert curve[:26] == pytest.approx(1)
    assert (curve[26:] == 0).all()
    assert (interpolated_precision(np.array([], bool), np.array([], bool), 1) == 0).all()


def test_what_neither_hits_nor_slips_changes_nothing() -> None:
    plain = interpolated_precision(np.array([True, False, True]), np.array([False, True, False]), 3)
    hit, slip = np.array([0, 1, 0, 0, 0, 1], dtype=bool), np.array([0, 0, 0, 1, 0, 0], dtype=bool)
    assert (interpolated_precision(hit, slip, 3) == plain).all()


# COCO


def test_a_perfect_detector_has_1() -> None:
    truth = ground_truth([(1, 1, BOX), (1, 2, BOX), (2, 1, FAR), (2, 1, (0, 0, 20, 20)), (1, 2, (0, 0, 200, 200))])
    boxes = truth.boxes
    line = box_ap(truth, boxes, COCO).summary()
    assert line.pop("AR1") == pytest.approx((2 / 3 + 1 / 2) / 2)  # images with two of a category
    assert list(line.values()) == pytest.approx([1] * len(line), abs=1e-12)


def test_a_miss_a_double_and_an_error() -> None:
    truth = ground_truth([(1, 1, BOX), (2, 1, BOX)])
    line = summary(truth, [(1, 1, BOX, 0.9), (1, 1, BOX, 0.8), (2, 1, FAR, 0.7)])
    assert [line[name] for name in ("AP", "AP50", "AP75", "APm")] == pytest.approx([51 / 101] * 4)
    assert line["AR1"] == line["AR100"] == 0.5
    assert np.isnan([line["APs"], line["APl"], line["ARs"]]).all()


def test_thresholds_count_from_themselves_on() -> None:
    truth = ground_truth([(1, 1, (0, 0, 10, 10))])
    for height, num_passed in ((5, 1), (6, 3), (7.5, 6), (9.5, 10), (10, 10), (4.9, 0)):
        ap = box_ap(truth, found(truth, [(1, 1, (0, 0, 10, height), 1.0)]), COCO).ap[0, :, 0]
        assert ap.tolist() == pytest.approx([1] * num_passed + [0] * (10 - num_passed)), height


def test_equal_boxes_pass_a_threshold_of_1() -> None:
    """Their IoU may be less by rounding."""
    for k in range(200):
        box = (0.1 * k, 0.7 * k, 10.3 + 0.31 * k, 7.7)
        truth = ground_truth([(1, 1, box)])
        assert box_ap(truth, found(truth, [(1, 1, box, 1.0)]), COCO, [1.0]).recall[-1, 0, 0, 0] == 1
    assert box_ap(truth, found(truth, [(1, 1, (*box[:3], 7.70001), 1.0)]), COCO, [1.0]).recall[-1, 0, 0, 0] == 0


def test_the_best_score_chooses_first_and_takes_the_best_box() -> None:
    """0.9 lies between both and takes the nearer; 0.8 would fit that one only, and slips."""
    near, far = (0, 0, 100, 100), (0, 40, 100, 100)
    truth = ground_truth([(1, 1, near), (1, 1, far)])
    line = summary(truth, [(1, 1, (0, 0, 100, 100), 0.8), (1, 1, (0, 5, 100, 100), 0.9)])
    assert line["AP50"] == pytest.approx(51 / 101)
    line = summary(truth, [(1, 1, (0, 0, 100, 100), 0.9), (1, 1, (0, 25, 100, 100), 0.8)])
    assert line["AP50"] == pytest.approx(1)


def test_equal_scores_keep_the_order_of_images_then_of_the_file() -> None:
    truth = ground_truth([(1, 1, BOX), (2, 1, BOX)])
    assert summary(truth, [(2, 1, FAR, 0.5), (1, 1, BOX, 0.5)])["AP"] == pytest.approx(51 / 101)
    assert summary(truth, [(1, 1, FAR, 0.5), (2, 1, BOX, 0.5)])["AP"] == pytest.approx(51 / 101 / 2)
    assert summary(truth, [(2, 1, BOX, 0.5), (2, 1, FAR, 0.5)])["AP"] == pytest.approx(51 / 101)


def test_crowds_take_any_number_and_count_for_none() -> None:
    crowd = parse_ground_truth(
        {
            "images": [{"id": 1}],
            "annotations": [
                {"image_id": 1, "category_id": 1, "bbox": [0, 0, 400, 400], "iscrowd": 1},
                {"image_id": 1, "category_id": 1, "bbox": [500, 0, 50, 50], "iscrowd": 0},
            ],
            "categories": [{"id": 1, "name": "a"}],
        },
        NAME,
    )
    inside = [(1, 1, (40 * k, 40, 40, 40), 0.9) for k in range(5)]  # IoU with the crowd 0.01, over their own area 1
    assert summary(crowd, [*inside, (1, 1, (500, 0, 50, 50), 0.1)])["AP"] == pytest.approx(1)
    half_outside = (1, 1, (380, 40, 41, 40), 0.9)  # 20 of 41 columns
    assert summary(crowd, [half_outside, (1, 1, (500, 0, 50, 50), 0.1)])["AP50"] == pytest.approx(0.5)


def test_sizes_are_those_of_the_file_and_of_the_found_box() -> None:
    """A true box of a small mask is ignored among medium ones; a found box that is too large slips only unmatched."""
    truth = ground_truth([(1, 1, BOX)], area=1000)
    line = summary(truth, [(1, 1, BOX, 0.9)])
    assert (line["APs"], np.isnan(line["APm"])) == (pytest.approx(1), True)
    line = summary(truth, [(1, 1, FAR, 0.9), (1, 1, BOX, 0.8)])
    assert (line["AP"], line["APs"]) == (pytest.approx(0.5), pytest.approx(1))
    line = summary(truth, [(1, 1, (300, 300, 5, 5), 0.9), (1, 1, BOX, 0.8)])
    assert (line["AP"], line["APs"]) == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize(("side", "sizes"), [(32, "sm"), (96, "ml"), (31.9, "s"), (96.1, "l")])
def test_borders_belong_to_both_ranges(side, sizes) -> None:
    box = (0, 0, side, side)
    line = summary(ground_truth([(1, 1, box)]), [(1, 1, box, 1.0)])
    assert {size for size in "sml" if line[f"AP{size}"] == pytest.approx(1)} == set(sizes)


def test_of_equal_overlaps_the_last_is_taken() -> None:
    """The first box found lies between the two true ones; the second fits the left one only."""
    left, right = (1, 1, (0, 0, 32, 32)), (1, 1, (16, 0, 32, 32))
    rows = [(1, 1, (8, 0, 32, 32), 0.9), (1, 1, (0, 0, 32, 32), 0.8)]
    assert summary(ground_truth([left, right]), rows)["AR100"] == pytest.approx((3 + 7 / 2) / 10)  # IoU 0.6
    assert summary(ground_truth([right, left]), rows)["AP50"] == pytest.approx(51 / 101)


def test_what_counts_is_taken_before_what_overlaps_more() -> None:
    truth = ground_truth([(1, 1, (0, 0, 31.9, 32)), (1, 1, (16, 0, 32, 34))])  # small, medium
    line = summary(truth, [(1, 1, (8.5, 0, 32, 33), 0.9)])
    assert (line["ARs"], line["ARm"]) == pytest.approx((0.2, 0.3))  # IoU 0.55 and 0.6: at .5 .55, at .5 .55 .6


def test_only_the_best_hundred_of_a_category_are_looked_at() -> None:
    truth = ground_truth([(1, 1, BOX), (1, 2, BOX)])
    slips = [(1, 1, FAR, 0.9)] * 99
    assert summary(truth, [*slips, (1, 1, BOX, 0.5), (1, 2, BOX, 0.1)])["AR100"] == 1
    line = summary(truth, [*slips, (1, 1, FAR, 0.8), (1, 1, BOX, 0.5), (1, 2, BOX, 0.1)])
    assert (line["AR100"], line["AR1"], line["AP"]) == (0.5, 0.5, pytest.approx(0.5))
    line = summary(truth, [(1, 1, FAR, 0.9), (1, 1, BOX, 0.5), (1, 2, BOX, 0.1)])
    assert (line["AR1"], line["AR10"]) == (0.5, 1)


def test_nothing_found_and_nothing_true() -> None:
    truth = ground_truth([(1, 1, BOX)])
    line = summary(truth, [])
    assert (line["AP"], line["AR100"]) == (0, 0)
    assert all(np.isnan(value) for value in summary(ground_truth([]), [(1, 1, BOX, 1.0)]).values())
    assert summary(truth, [(1, 1, BOX, 0.1), (1, 77, BOX, 0.9)])["AP"] == pytest.approx(1)  # an unknown category


def test_results_of_other_images_are_refused() -> None:
    results = found(ground_truth([], num_images=3), [(3, 1, BOX, 1.0)])
    for rule in (COCO, LVIS):
        with pytest.raises(DatasetError, match="results: got image 3; expected annotated images only"):
            box_ap(ground_truth([(1, 1, BOX)], lists={}), results, rule)


# LVIS


def test_what_is_not_known_does_not_count() -> None:
    """Category 2 of image 2: unknown, then negative. Category 1 of image 1: known, then not exhaustive."""
    true, rows = [(1, 1, BOX), (1, 2, BOX)], [(1, 1, FAR, 0.9), (1, 1, BOX, 0.8), (2, 2, BOX, 0.9), (1, 2, BOX, 0.8)]
    line = summary(ground_truth(true, lists={}), rows, LVIS)
    assert (line["APr"], line["APc"], line["AP"]) == pytest.approx((0.5, 1, 0.75))
    line = summary(ground_truth(true, lists={2: {"neg_category_ids": [2]}}), rows, LVIS)
    assert (line["APr"], line["APc"]) == pytest.approx((0.5, 0.5))
    line = summary(ground_truth(true, lists={1: {"not_exhaustive_category_ids": [1]}}), rows, LVIS)
    assert (line["APr"], line["APc"]) == pytest.approx((1, 1))
    assert np.isnan(line["APf"])
    plain = summary(ground_truth(true), rows)
    assert (plain["AP"], "APr" in plain) == (pytest.approx(0.5), False)


def test_only_the_best_300_of_an_image_are_looked_at() -> None:
    truth = ground_truth([(1, 1, BOX)], lists={})
    others = [(1, 77, FAR, 0.9)] * 299  # of whatever category
    assert summary(truth, [(1, 1, BOX, 0.5), *others], LVIS)["AR300"] == 1
    assert summary(truth, [(1, 1, BOX, 0.5), *others, (2, 1, FAR, 0.9)], LVIS)["AR300"] == 1
    assert summary(truth, [(1, 1, BOX, 0.5), *others, (1, 3, FAR, 0.9)], LVIS)["AR300"] == 0


def test_lists_are_needed() -> None:
    with pytest.raises(DatasetError, match="got images without neg_category_ids; expected the lists of LVIS"):
        summary(ground_truth([(1, 1, BOX)]), [], LVIS)


# Helpers


def test_pairs_of_equal() -> None:
    i, j = pairs_of_equal(np.array([3, 1, 3, 7]), np.array([3, 3, 2, 1, 3]))
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 4), (1, 3), (2, 0), (2, 1), (2, 4)]
    assert len(pairs_of_equal(np.array([], int), np.array([1]))[0]) == 0
    assert len(pairs_of_equal(np.array([1]), np.array([], int))[0]) == 0


def test_running_count() -> None:
    assert running_count(np.array([5, 2, 5, 5, 2, 9])).tolist() == [0, 0, 1, 2, 1, 0]
    assert running_count(np.array([], int)).tolist() == []


def test_the_best_of_an_image_in_the_order_of_images() -> None:
    truth = ground_truth([], num_images=3)
    rows = [(2, 1, BOX, 0.1), (1, 1, BOX, 0.3), (2, 1, BOX, 0.5), (1, 1, BOX, 0.4), (2, 1, BOX, 0.5)]
    assert best_per_image(found(truth, rows), 2).tolist() == [2, 4, 1, 3]


def test_overlap() -> None:
    a, b = (
        np.array([[0.0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 0, 0]]),
        np.array([[2.0, 3, 4, 4], [4, 0, 4, 4], [0, 0, 0, 0]]),
    )
    intersection, union = overlap(a, b)
    assert (intersection.tolist(), union.tolist()) == ([2, 0, 0], [30, 32, 0])
    assert ratio(intersection, union).tolist() == [2 / 30, 0, 0]
    assert ratio(np.array([1.0000000000000002]), np.array([1.0])).tolist() == [1]
