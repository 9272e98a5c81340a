"""AP, HOTA, CLEAR and Identity of tracks in federated video, on sets small enough to count by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.datasets.tao_json import Boxes, GroundTruth, parse_ground_truth, parse_results
from sightline.errors import DatasetError
from sightline.evaluation.tao import (
    RULES,
    SANE,
    TOOLKIT,
    TRACK_IOUS,
    TRACKEVAL,
    federated_mot,
    track_ap,
)

NAME = Path("file.json")
BOX = (10, 10, 50, 50)
FAR = (300, 300, 50, 50)
LENGTH = 5  # images of a video: 10 .. 14, 20 .. 24
Row = tuple[int, int, int, tuple[float, ...]]  # image, track, category, box


def ground_truth(rows: list[Row], lists: dict[int, dict[str, list[int]]] | None = None, **more: Any) -> GroundTruth:
    """Videos 1 and 2 of 5 images, categories 1, 2 and 3; category 4 is merged into 3. `more` goes to all boxes."""
    unlisted: dict[str, list[int]] = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content = {
        "videos": [{"id": k, "name": f"v/{k}", **unlisted, **(lists or {}).get(k, {})} for k in (1, 2)],
        "images": [{"id": 10 * v + k, "video_id": v, "frame_index": 30 * k} for v in (1, 2) for k in range(LENGTH)],
        "annotations": [
            {"image_id": image, "track_id": track, "category_id": category, "bbox": list(box), **more}
            for image, track, category, box in rows
        ],
        "categories": [
            {"id": 1, "name": "a"},
            {"id": 2, "name": "b"},
            {"id": 3, "name": "c", "merged": [{"id": 4}]},
            {"id": 4, "name": "d"},
        ],
    }
    return parse_ground_truth(content, NAME)


def found(truth: GroundTruth, rows: list[Row], scores: list[float] | float = 1.0) -> Boxes:
    """Boxes with tracks; `scores` one for all, or one each."""
    content = [
        {"image_id": image, "track_id": track, "category_id": category, "bbox": list(box)}
        for image, track, category, box in rows
    ]
    each = scores if isinstance(scores, list) else [scores] * len(rows)
    scored = [row | {"score": score} for row, score in zip(content, each, strict=True)]
    return parse_results(scored, truth, NAME, has_tracks=True)


def track(name: int, category: int, box: tuple[float, ...] = BOX, start: int = 10, length: int = LENGTH) -> list[Row]:
    return [(start + k, name, category, box) for k in range(length)]


def ap50(truth: GroundTruth, results: Boxes, rule=SANE) -> float:
    return track_ap(truth, results, rule).summary()["AP50"]


# Track AP


def test_three_ways_to_overlap() -> None:
    """True in images 0 .. 3, found in 1 .. 4, half as high in 2 and quarter in 3: intersections 1, 1/2, 1/4 of a
    box."""
    truth = ground_truth(track(1, 1, (0, 0, 40, 40), length=4))
    rows = [
        (11, 7, 1, (0, 0, 40, 40)),
        (12, 7, 1, (0, 0, 40, 20)),
        (13, 7, 1, (0, 0, 40, 10)),
        (14, 7, 1, (0, 0, 40, 40)),
    ]
    results = found(truth, rows)
    expected = {"3d_iou": 1.75 / 5, "avg_iou": 1.75 / 5, "imagenetvid": 1 / 5}
    for name, iou in expected.items():
        for thresholds, is_hit in (([iou - 1e-9], True), ([iou + 1e-9], False)):
            rule = replace(SANE, thresholds=np.array(thresholds))
            assert track_ap(truth, results, rule, TRACK_IOUS[name]).recall[0, 0, 0] == is_hit, name


def test_large_boxes_weigh_more_in_3d_only() -> None:
    truth = ground_truth([(10, 1, 1, (0, 0, 30, 30)), (11, 1, 1, (0, 0, 10, 10))])
    results = found(truth, [(10, 1, 1, (0, 0, 30, 30)), (11, 1, 1, (500, 0, 10, 10))])
    hits = {name: track_ap(truth, results, SANE, iou).recall[0, :, 0].sum() for name, iou in TRACK_IOUS.items()}
    assert hits == {"3d_iou": 7, "avg_iou": 1, "imagenetvid": 1}  # 900 / 1100, 1 / 2, 1 / 2


def test_the_second_box_of_an_image_replaces_the_first() -> None:
    truth = ground_truth(track(1, 1))
    rows = track(1, 1)
    assert ap50(truth, found(truth, [*track(1, 1, FAR, length=3), *rows])) == pytest.approx(1)
    assert ap50(truth, found(truth, [*rows, *track(1, 1, FAR, length=3)])) == 0


def test_the_score_of_a_track_is_the_mean() -> None:
    """The wrong track has the better first box, the right one the better mean."""
    truth = ground_truth(track(1, 1))
    wrong, right = track(5, 1, FAR), track(6, 1)
    assert ap50(truth, found(truth, wrong + right, [0.9] + [0.1] * 4 + [0.3] * 5)) == pytest.approx(1)
    assert ap50(truth, found(truth, wrong + right, [0.9] + [0.3] * 4 + [0.3] * 5)) == pytest.approx(0.5)


def test_equal_scores_keep_the_order_in_which_tracks_begin() -> None:
    truth = ground_truth(track(1, 1))
    wrong, right = track(5, 1, FAR), track(6, 1)
    assert ap50(truth, found(truth, right + wrong)) == pytest.approx(1)
    assert ap50(truth, found(truth, wrong + right)) == pytest.approx(0.5)
    assert ap50(truth, found(truth, wrong[:1] + right + wrong[1:])) == pytest.approx(0.5)
    # an image comes with all its boxes where its first one is, here one of a category that does not count
    assert ap50(truth, found(truth, [(10, 9, 2, BOX), wrong[1], *right])) == pytest.approx(1)


def test_unknown_absent_and_half_known_categories() -> None:
    """Video 1 shows category 1; video 2 shows 2 and lists 1 as negative, or 2 as not exhaustive, or nothing."""
    true = track(1, 1) + track(2, 2, start=20)
    extra = track(8, 1, BOX, start=20) + track(9, 2, FAR, start=20)
    for lists, expected in (
        ({}, (1, 0.5)),
        ({2: {"neg_category_ids": [1]}}, (0.5, 0.5)),
        ({2: {"not_exhaustive_category_ids": [2]}}, (1, 1)),
    ):
        truth = ground_truth(true, lists)
        ap = track_ap(truth, found(truth, extra + true, [0.9] * 10 + [0.8] * 10), SANE).ap[0, :, :2]
        assert ap.tolist() == [pytest.approx(expected)] * 10


def test_merged_categories_are_one_but_lists_are_taken_as_they_are() -> None:
    truth = ground_truth(track(1, 4) + track(2, 3, start=20), {1: {"not_exhaustive_category_ids": [4]}})
    ap = track_ap(truth, found(truth, track(1, 3) + track(2, 4, start=20)), SANE)
    assert ap.ap[0, 0, 2] == pytest.approx(1)
    assert np.isnan(ap.ap[0, 0, 3])
    slip = found(truth, track(7, 4, FAR) + track(1, 3) + track(2, 4, start=20))
    assert ap50(truth, slip) == pytest.approx((2 / 3 * 101) / 101)


def test_tracks_are_sorted_by_size_and_length() -> None:
    truth = ground_truth([*track(1, 1, (0, 0, 20, 20), length=3), *track(2, 1, (100, 0, 120, 120))])
    line = track_ap(truth, truth.boxes, SANE).summary()
    present = {name for name, value in line.items() if not math.isnan(value)}
    assert {"AP_area_s", "AP_area_l", "AP_time_s", "AP_time_m"} <= present  # 3 boxes are short and medium
    assert not {"AP_area_m", "AP_time_l", "AR_time_l"} & present
    assert [line[name] for name in present] == pytest.approx([1] * len(present))


def test_a_long_wrong_track_is_no_slip_among_short_ones() -> None:
    truth = ground_truth(track(1, 1, length=2))
    results = found(truth, track(5, 1, FAR) + track(6, 1, length=2))
    line = track_ap(truth, results, SANE).summary()
    assert (line["AP50"], line["AP_time_s"]) == pytest.approx((0.5, 1))


def test_ids_are_a_videos_own() -> None:
    truth = ground_truth(track(1, 1) + track(1, 2, start=20))
    assert ap50(truth, found(truth, track(4, 1) + track(4, 2, start=20))) == pytest.approx(1)


def test_equal_tracks_overlap_by_no_more_than_1() -> None:
    box = (0.1, 0.2, 10.3, 7.7)  # whose corners are rounded
    truth = ground_truth(track(1, 1, box))
    results, rule = found(truth, track(1, 1, box)), replace(SANE, thresholds=np.array([1.0]))
    assert track_ap(truth, results, rule).ap[0, 0, 0] == pytest.approx(1)


def test_nothing_found_and_nothing_true() -> None:
    truth = ground_truth(track(1, 1))
    for rule in RULES.values():
        line = track_ap(truth, found(truth, []), rule).summary()
        assert (line["AP"], line["AR"]) == (0, 0)
        line = track_ap(ground_truth([]), found(truth, track(1, 1)), rule).summary()
        assert all(math.isnan(value) for value in line.values())


# The published evaluators, and the sane one


def test_the_toolkit_names_no_threshold() -> None:
    truth = ground_truth(track(1, 1))
    results = found(truth, track(1, 1, (10, 10, 50, 40)))  # IoU 0.8
    lines = {name: track_ap(truth, results, rule).summary() for name, rule in RULES.items()}
    three = {name: tuple(line[key] for key in ("AP", "AP50", "AP75")) for name, line in lines.items()}
    assert three["sane"] == three["trackeval"] == pytest.approx((0.7, 1, 1))
    assert three["toolkit"] == pytest.approx((1, math.nan, math.nan), nan_ok=True)
    assert three["toolkit-array"] == pytest.approx((1, 1, math.nan), nan_ok=True)


def test_id_zero_leaves_its_track_to_others() -> None:
    """Two found tracks on one true one: a hit and a slip, or two hits."""
    truth = ground_truth(track(1, 1) + track(2, 1, FAR))
    for first, second in ((0, 5), (5, 6)):
        results = found(truth, track(first, 1) + track(second, 1))
        expected = {"sane": 51 / 101, "toolkit-array": 1 if first == 0 else 51 / 101}
        expected["trackeval"] = expected["toolkit-array"]
        for name, value in expected.items():
            assert ap50(truth, results, RULES[name]) == pytest.approx(value), name
    twice = found(truth, track(0, 1) + track(5, 1) + track(0, 1, start=20))  # of two videos: it is given another id
    assert ap50(truth, twice, TRACKEVAL) == pytest.approx(51 / 101)


def test_trackeval_counts_from_a_little_below() -> None:
    """An IoU of exactly 0.6 where the threshold is 0.6 and a bit."""
    truth = ground_truth(track(1, 1, (0, 0, 10, 10)))
    results = found(truth, track(1, 1, (0, 0, 10, 6)))
    assert TRACKEVAL.thresholds[2] > 0.6
    assert track_ap(truth, results, TRACKEVAL).ap[0, :, 0].sum() == pytest.approx(3)
    assert track_ap(truth, results, replace(TRACKEVAL, slack=0.0)).ap[0, :, 0].sum() == pytest.approx(2)


def test_the_toolkit_knows_masks_and_drops_flat_boxes() -> None:
    truth = ground_truth(track(1, 1, (0, 0, 40, 40)), area=1000)
    results = found(truth, track(1, 1, (0, 0, 40, 40)))
    small = {name: track_ap(truth, results, rule).summary()["AP_area_s"] for name, rule in RULES.items()}
    assert small == pytest.approx({"sane": 1, "toolkit": 1, "toolkit-array": 1, "trackeval": math.nan}, nan_ok=True)

    truth = ground_truth(track(1, 1, length=3))
    longer = found(truth, track(1, 1, length=3) + track(1, 1, (10, 10, 0, 50), start=13, length=1), [0.1] * 3 + [1.0])
    wrong = found(truth, track(9, 1, FAR, length=3), 0.2)
    both = Boxes(*(np.concatenate([getattr(side, name) for side in (wrong, longer)]) for name in vars(wrong)))
    assert ap50(truth, both, TRACKEVAL) == pytest.approx(1)  # the flat box lifts the mean score
    assert ap50(truth, both, SANE) == pytest.approx(0.5)


def test_means_of_equal_scores_round() -> None:
    """Six times 0.7 has a mean above 0.7, so that a later track overtakes an earlier one."""
    truth = ground_truth(track(1, 1))
    score = next(s for s in np.arange(0.01, 1, 0.01) if np.mean([s] * LENGTH) > s)
    results = found(truth, track(5, 1, FAR, length=1) + track(6, 1), float(score))
    assert ap50(truth, results, SANE) == pytest.approx(0.5)
    assert ap50(truth, results, replace(SANE, rounds_equal_scores=True)) == pytest.approx(1)


@pytest.mark.parametrize(("names", "second_first"), [(("z", "y"), True), (("y", "z"), False), (("a/z", "a.z"), False)])
def test_trackeval_pools_videos_by_name(names, second_first) -> None:
    truth = replace(ground_truth(track(1, 1) + track(2, 1, start=20)), video_name=names)
    results = found(truth, track(1, 1, FAR) + track(2, 1, start=20))
    assert ap50(truth, results, SANE) == pytest.approx(51 / 101 / 2)
    assert ap50(truth, results, TRACKEVAL) == pytest.approx(51 / 101 / (1 if second_first else 2))


def test_trackeval_lists_categories_with_tracks_only() -> None:
    truth = ground_truth(track(1, 2))
    for rule, names in ((SANE, "abcd"), (TOOLKIT, "abcd"), (TRACKEVAL, "b")):
        assert "".join(track_ap(truth, truth.boxes, rule).name) == names


# HOTA, CLEAR and Identity


def test_a_perfect_tracker_has_1_everywhere() -> None:
    truth = ground_truth(track(1, 1) + track(2, 2, start=20) + track(3, 3, FAR))
    mot = federated_mot(truth, truth.boxes)
    assert mot.name == ("a", "b", "c")
    for line in (*(row.summary() for row in mot.scores), mot.over_boxes().summary()):
        for field in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "MOTP", "IDF1", "MTR"):
            assert line[field] == pytest.approx(1), field
        assert line["HOTA_FP"] == line["CLR_FN"] == line["IDSW"] == line["IDFP"] == 0
    fields = mot.over_classes()
    assert (fields["CLR_TP"], fields["MT"], fields["CLR_Frames"], fields["MOTP_sum"]) == pytest.approx((15, 3, 15, 5))


def counts(truth: GroundTruth, results: Boxes, category: int = 1) -> tuple[float, ...]:
    """True, false and missed boxes of CLEAR, and its frames."""
    mot = federated_mot(truth, results)
    scores = mot.scores[mot.category.tolist().index(category)].clear
    return scores.tp, scores.fp, scores.fn, scores.frames


def test_slips_count_where_the_category_is_known() -> None:
    """Category 1 lives in images 10 .. 12, category 2 in 13; nobody in 14. A wrong track goes through all five."""
    true = track(1, 1, length=3) + track(2, 2, start=13, length=1)
    rows = track(1, 1, length=3) + track(9, 1, FAR)
    for lists, expected in (
        ({}, (3, 3, 0, 5)),
        ({1: {"neg_category_ids": [1]}}, (3, 4, 0, 5)),  # image 14 shows nothing and is not looked at
        ({1: {"not_exhaustive_category_ids": [1]}}, (3, 0, 0, 5)),
        ({1: {"neg_category_ids": [1], "not_exhaustive_category_ids": [1]}}, (3, 0, 0, 5)),
        ({2: {"neg_category_ids": [1]}}, (3, 3, 0, 5)),
    ):
        truth = ground_truth(true, lists)
        assert counts(truth, found(truth, rows)) == expected, lists


def test_matched_boxes_stay_where_not_everything_is_boxed() -> None:
    truth = ground_truth(track(1, 1), {1: {"not_exhaustive_category_ids": [1]}})
    assert counts(truth, found(truth, track(5, 1, (10, 10, 50, 25)))) == (5, 0, 0, 5)  # IoU 0.5
    assert counts(truth, found(truth, track(5, 1, (10, 10, 50, 24)))) == (0, 0, 5, 0)


def test_frames_of_videos_with_one_side_empty_do_not_count() -> None:
    truth = ground_truth(track(1, 1) + track(2, 1, start=20))
    assert counts(truth, found(truth, track(1, 1))) == (5, 0, 5, 5)
    truth = ground_truth(track(1, 1) + track(2, 2, start=20), {2: {"neg_category_ids": [1]}})
    assert counts(truth, found(truth, track(1, 1) + track(2, 1, start=20))) == (5, 5, 0, 5)
    truth = ground_truth(track(1, 1) + track(2, 1, start=20), {2: {"not_exhaustive_category_ids": [1]}})
    assert counts(truth, found(truth, track(1, 1) + track(2, 1, FAR, start=20))) == (5, 0, 5, 5)  # none is left there


def test_switches_are_of_a_video() -> None:
    truth = ground_truth(track(1, 1) + track(1, 1, start=20))
    same = federated_mot(truth, found(truth, track(7, 1) + track(7, 1, start=20))).scores[0]
    other = federated_mot(truth, found(truth, track(7, 1) + track(8, 1, start=20))).scores[0]
    switched = federated_mot(truth, found(truth, track(7, 1, length=2) + track(8, 1, start=12, length=3))).scores[0]
    assert (same.clear.idsw, other.clear.idsw, switched.clear.idsw) == (0, 0, 1)
    assert (same.counts.ids, same.counts.gt_ids) == (2, 2)
    assert same.identity.idf1 == other.identity.idf1 == 1


def test_frames_are_in_the_order_of_time_not_of_the_file() -> None:
    """Images 10 and 12 come first in time: the id changes once, where the order of images has three changes."""
    truth = ground_truth(track(1, 1))
    in_time = replace(truth, frame_index=np.array([0, 60, 30, 90, 120] * 2))
    results = found(truth, [(10 + k, name, 1, BOX) for k, name in enumerate((7, 8, 7, 8, 8))])
    assert federated_mot(truth, results).scores[0].clear.idsw == 3
    assert federated_mot(in_time, results).scores[0].clear.idsw == 1


# What is refused


def test_what_has_no_tracks_is_refused() -> None:
    truth, no_track = ground_truth(track(1, 1)), replace(found(ground_truth([]), track(1, 1)), track=np.full(5, -1))
    images = replace(truth, video=truth.video[:0])
    for score in (track_ap, federated_mot):
        with pytest.raises(DatasetError, match="tracks: got results without track ids; expected TAO's layout"):
            score(truth, no_track)
        with pytest.raises(DatasetError, match="tracks: got ground truth without videos"):
            score(images, found(truth, []))
        with pytest.raises(DatasetError, match="results: got image 99; expected annotated images only"):
            score(truth, replace(found(truth, track(1, 1)), image=np.full(5, 99)))
    with pytest.raises(DatasetError, match="tracks: got ground truth without boxes"):
        federated_mot(ground_truth([]), found(truth, []))


def test_a_track_of_two_categories_is_refused() -> None:
    truth = ground_truth(track(1, 1))
    results = found(truth, track(3, 1, length=2) + track(3, 2, start=12, length=1))
    with pytest.raises(DatasetError, match="track 3 of video 1: got categories 1 and 2; expected one per track"):
        track_ap(truth, results)


def test_a_track_with_two_boxes_in_an_image_is_refused_by_clear() -> None:
    truth = ground_truth(track(1, 1))
    results = found(truth, track(3, 1) + track(3, 1, FAR, start=12, length=1))
    with pytest.raises(DatasetError, match="image 12: got track 3 twice; expected one box per track"):
        federated_mot(truth, results)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text().partition("\n## TAO, COCO, LVIS\n")[2]
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", page.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    row = {"image_id": 1, "track_id": 1, "category_id": 1, "bbox": list(BOX), "score": 0.5}
    truth = {
        "videos": [{"id": 1, "name": "v"}],
        "images": [{"id": 1, "video_id": 1, "frame_index": 0}],
        "annotations": [row],
        "categories": [{"id": 1, "name": "cat"}],
    }
    monkeypatch.chdir(tmp_path)
    Path("gt.json").write_text(json.dumps(truth))
    Path("results.json").write_text(json.dumps([row]))
    exec(compile(snippet, "evaluation.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-2:] == ["{'cat': 1.0}", "1.0 1.0"]
