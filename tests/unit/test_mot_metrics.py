"""Multi-object metrics and their preprocessing, worked out by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from sightline.datasets.mot_text import KittiRows, MotRows
from sightline.errors import DatasetError
from sightline.evaluation.mot import ALPHAS, MotScores, combine, mot_scores
from sightline.evaluation.mot_events import combine_events, mot_events
from sightline.evaluation.mot_overlap import Boxes, Overlaps, assign, overlaps
from sightline.evaluation.mot_preprocess import MOT_RULES, kitti, motchallenge, motmetrics

Row = tuple[int, int, float]  # frame, id, x: a box of 80 x 80 px
SIDE = 80.0


def boxes(rows: list[Row]) -> Boxes:
    """Boxes of one size in a row: two whose x differ by d have an IoU of (80 - d) / (80 + d)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    frame, track_id = table[:, :2].astype(np.int64).T
    x = table[:, 2]
    return Boxes(frame, track_id, np.stack([x, 0 * x, x + SIDE, 0 * x + SIDE], axis=1))


def sequence(true: list[Row], result: list[Row], num_frames: int = 10) -> Overlaps:
    return overlaps(boxes(true), boxes(result), num_frames)


def scores(true: list[Row], result: list[Row], num_frames: int = 10) -> MotScores:
    return mot_scores(sequence(true, result, num_frames))


def track(track_id: int, frames: range | list[int], x: float = 0.0) -> list[Row]:
    return [(frame, track_id, x) for frame in frames]


# Overlaps


def test_pairs_that_share_a_frame_and_some_area() -> None:
    found = sequence([(0, 7, 0), (0, 9, 500), (2, 7, 0)], [(2, 1, 20), (0, 1, 20), (1, 1, 0), (0, 2, 60)])
    assert found.true.given.tolist() == [0, 1, 2]
    assert found.result.given.tolist() == [1, 3, 2, 0]  # by frame, then as given
    assert found.result.frame.tolist() == [0, 0, 1, 2]
    assert found.result.track.tolist() == [0, 1, 0, 0]
    edges = zip(found.edge_true.tolist(), found.edge_result.tolist(), found.iou.tolist(), strict=True)
    assert list(edges) == [(0, 0, 0.6), (0, 1, pytest.approx(1 / 7)), (2, 3, 0.6)]


def test_boxes_that_touch_or_have_no_area_do_not_overlap() -> None:
    assert not len(sequence([(0, 1, 0)], [(0, 1, 80), (0, 2, -80)]).iou)
    flat = Boxes(np.zeros(2, int), np.arange(2), np.array([[0, 0, 80, 0], [80, 0, 0, 80.0]]))
    assert not len(overlaps(flat, boxes([(0, 1, 0)]), 1).iou)
    assert not len(overlaps(boxes([(0, 1, 0)]), flat, 1).iou)


def test_boxes_far_outside_any_frame_overlap_all_the_same() -> None:
    for x in (-3e8, -(2.0**20) - 40, 2.0**20 - 40, 2.0**21, 3e8):
        assert sequence([(3, 1, x)], [(3, 1, x + 20)]).iou.tolist() == [pytest.approx(0.6)]
    assert not len(sequence([(0, 1, 3e8)], [(0, 1, 3e8 + 80)]).iou)
    assert not len(sequence([(0, 1, 3e8)], [(1, 1, 3e8)]).iou)


def test_frames_may_be_millions() -> None:
    last = 2**31 - 1
    found = sequence([(last, 1, 0), (last - 1, 1, 0)], [(last, 1, 20), (0, 1, 0)], last + 1)
    assert found.iou.tolist() == [0.6]
    assert mot_scores(found).clear.tp == 1


def test_keeping_rows() -> None:
    kept = sequence([(0, 7, 0), (0, 9, 0), (1, 9, 0)], [(0, 1, 20), (1, 1, 20)]).keep(
        np.array([False, True, True]), np.array([False, True])
    )
    assert kept.true.given.tolist() == [1, 2]
    assert (kept.true.num_tracks, kept.true.track.tolist()) == (1, [0, 0])
    assert (kept.edge_true.tolist(), kept.edge_result.tolist(), kept.iou.tolist()) == ([1], [0], [0.6])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([(0, 1, 0), (0, 2, 0), (0, 1, 5)], "result boxes: got id 1 twice in frame 0; expected one box per id"),
        ([(10, 1, 0)], r"result boxes: got frames 10..10; expected 0..9"),
        ([(-1, 1, 0), (3, 1, 0)], r"result boxes: got frames -1..3; expected 0..9"),
        ([(0, 1, 0), (1, 1, np.nan)], r"result boxes: got xyxy \[nan, .* in row 1; expected finite numbers"),
        ([(0, 1, 2e9)], "expected finite numbers up to 1e"),
    ],
)
def test_boxes_that_are_refused(rows, sentence) -> None:
    with pytest.raises(DatasetError, match=sentence):
        sequence([(0, 1, 0)], rows)
    with pytest.raises(DatasetError, match=sentence.replace("result", "true")):
        sequence(rows, [(0, 1, 0)])


def test_columns_of_different_lengths_are_refused() -> None:
    wrong = Boxes(np.zeros(2, int), np.zeros(1, int), np.zeros((1, 4)))
    with pytest.raises(DatasetError, match=r"true boxes: got frame \(2,\), track_id \(1,\), xyxy \(1, 4\)"):
        overlaps(wrong, boxes([]), 1)


def test_of_equal_assignments_the_solver_chooses() -> None:
    """Both results lie on the one true box; the whole matrix decides, with a row that overlaps nothing before it."""
    found = sequence([(0, 5, 500), (0, 1, 0)], [(0, 1, 0), (0, 2, 0)])
    assert found.iou.tolist() == [1, 1]
    assert assign(found, np.arange(2), found.iou).tolist() == [False, True]
    assert assign(sequence([(0, 1, 0)], [(0, 1, 0), (0, 2, 0)]), np.arange(2), found.iou).tolist() == [True, False]


# HOTA


def test_a_switch_halves_the_association() -> None:
    one = scores(track(1, range(4)), track(1, range(2)) + track(2, range(2, 4)))
    assert one.hota.tp.tolist() == [4] * 19
    assert one.hota.det_a.tolist() == [1] * 19
    assert one.hota.ass_a.tolist() == [0.5] * 19  # each of 4 is shared by 2 with its pair, of 4 in the union
    assert one.hota.ass_re.tolist() == [0.5] * 19
    assert one.hota.ass_pr.tolist() == [1] * 19
    assert one.hota.hota.tolist() == [sqrt(0.5)] * 19
    assert one.hota.owta.tolist() == [sqrt(0.5)] * 19


def test_a_detection_counts_up_to_its_iou() -> None:
    one = scores(track(1, range(4)), track(1, range(4), x=80 * 0.375 / 1.625))  # IoU 0.625
    assert one.hota.tp.tolist() == [4] * 12 + [0] * 7  # 0.05 .. 0.60
    assert one.hota.fn.tolist() == one.hota.fp.tolist() == [0] * 12 + [4] * 7
    assert one.hota.loc_a == pytest.approx([0.625] * 12 + [1] * 7)
    assert one.summary()["HOTA"] == pytest.approx(12 / 19)
    assert one.fields()["HOTALocA(0)"] == pytest.approx(0.625)


def test_an_iou_equal_to_a_threshold_counts() -> None:
    one = scores([(0, 1, 0)], [(0, 1, 20)])  # IoU 0.6
    assert one.hota.tp.tolist() == [1] * 12 + [0] * 7
    assert pytest.approx(0.6) == ALPHAS[11]
    assert scores([(0, 1, 0)], [(0, 1, 20.0001)]).hota.tp.sum() == 11


def test_missed_and_false_detections() -> None:
    one = scores(track(1, range(4)) + track(2, range(4), x=300), track(1, range(4)) + track(2, range(2), x=600))
    assert (one.hota.tp[0], one.hota.fn[0], one.hota.fp[0]) == (4, 4, 2)
    assert one.hota.det_re[0] == 4 / 8
    assert one.hota.det_pr[0] == 4 / 6
    assert one.hota.det_a[0] == 4 / 10
    assert one.hota.ass_a[0] == 1


def test_assignment_prefers_the_track_that_fits_over_the_box_that_fits() -> None:
    """In the last frame the passer-by fits better, but the companion has fitted in all the others."""
    result = [*track(1, range(9), x=4), (9, 1, 30), (9, 2, 10)]
    one = scores(track(1, range(10)), result)
    assert one.hota.tp[0] == 10
    assert one.hota.ass_a[0] == 1
    assert one.hota.loc_a[0] == pytest.approx((9 * 76 / 84 + 50 / 110) / 10)


# CLEAR


def test_one_switch() -> None:
    one = scores(track(1, range(4)), track(1, range(2)) + track(2, range(2, 4))).clear
    assert (one.tp, one.fn, one.fp, one.idsw, one.frag, one.mt) == (4, 0, 0, 1, 0, 1)
    assert one.mota == 1 - 1 / 4
    assert one.moda == one.motal == 1  # log10(1) = 0
    assert one.smota == 3 / 4


def test_a_match_is_held_against_a_better_one() -> None:
    """Result 1 slips to IoU 0.6 while result 2 comes with 1.0; from below 0.5 on it is given up."""
    result = [(0, 1, 0), (1, 1, 20), (1, 2, 0), (2, 1, 20), (2, 2, 0)]
    held = scores(track(1, range(3)), result).clear
    assert (held.tp, held.fp, held.idsw) == (3, 2, 0)
    assert held.motp_sum == pytest.approx(1 + 0.6 + 0.6)
    given_up = scores(track(1, range(4)), [*result, (3, 1, 30), (3, 2, 0)]).clear
    assert (given_up.tp, given_up.idsw, given_up.frag) == (4, 1, 0)


def test_a_match_is_held_only_from_the_frame_before() -> None:
    """In frame 1 result 1 is away, so in frame 2 the better box wins, and that is a switch."""
    true, result = track(1, range(3)), [(0, 1, 0), (1, 9, 600), (2, 1, 20), (2, 2, 0)]
    one = scores(true, result).clear
    assert (one.tp, one.idsw, one.frag) == (2, 1, 1)
    assert one.motp_sum == 2


@pytest.mark.parametrize("away", ["result", "truth"])
def test_a_frame_with_one_side_empty_does_not_break_a_match(away) -> None:
    true = track(1, [0, 2] if away == "truth" else [0, 1, 2])
    result = [(0, 1, 0), (2, 1, 20), (2, 2, 0)] + ([(1, 9, 600)] if away == "truth" else [])
    one = scores(true, result).clear
    assert (one.tp, one.idsw, one.frag) == (2, 0, 0)
    assert one.motp_sum == pytest.approx(1.6)
    assert (one.fn, one.fp) == ((1, 1) if away == "result" else (0, 2))


def test_a_switch_is_from_the_last_match_however_long_ago() -> None:
    one = scores(track(1, range(5)), [(0, 1, 0), (1, 9, 600), (2, 9, 600), (3, 9, 600), (4, 2, 0)]).clear
    assert (one.idsw, one.frag) == (1, 1)
    back = scores(track(1, range(5)), [(0, 1, 0), (1, 9, 600), (2, 9, 600), (3, 9, 600), (4, 1, 0)]).clear
    assert (back.idsw, back.frag) == (0, 1)


def test_two_tracks_that_swap() -> None:
    """Both stay above 0.5 for a while after the swap, so the pairs are held, then given up together."""
    true = track(1, range(4)) + track(2, range(4), x=20)
    result = [(0, 1, 0), (0, 2, 20), (1, 1, 20), (1, 2, 0), (2, 1, 20), (2, 2, 0), (3, 1, 50), (3, 2, -30)]
    one = scores(true, result).clear
    # 0.6 twice in frames 1 and 2; in frame 3 result 1 is 30 px from true 2 (50/110), 50 px from true 1
    assert (one.tp, one.fn, one.idsw, one.frag) == (6, 2, 0, 0)
    assert one.motp_sum == pytest.approx(2 + 4 * 0.6)


@pytest.mark.parametrize(("hits", "kind"), [(5, "mt"), (4, "pt"), (1, "pt"), (0, "ml")])
def test_mostly_tracked_is_above_four_fifths_and_mostly_lost_below_one(hits, kind) -> None:
    one = scores(track(1, range(5)), [*track(1, range(hits)), (9, 9, 600)]).clear
    assert [one.mt, one.pt, one.ml] == [int(kind == name) for name in ("mt", "pt", "ml")]
    assert (one.mtr, one.ptr, one.mlr) == (one.mt, one.pt, one.ml)


def test_ratios_of_clear() -> None:
    one = scores(track(1, range(8)), track(1, range(6), x=20) + track(5, range(3), x=600)).clear
    assert (one.tp, one.fn, one.fp, one.frames) == (6, 2, 3, 10)
    assert (one.recall, one.precision) == (6 / 8, 6 / 9)
    assert one.f1 == 6 / 8.5
    assert one.moda == one.mota == one.motal == 3 / 8
    assert one.motp == pytest.approx(0.6)
    assert one.smota == pytest.approx((6 * 0.6 - 3) / 8)
    assert one.fp_per_frame == 0.3


def test_motal_takes_the_logarithm_of_the_switches() -> None:
    result = [(frame, frame, 0.0) for frame in range(11)]  # a new id in each frame: ten switches
    assert scores(track(1, range(11)), result, 11).clear.motal == pytest.approx(1 - 1 / 11)


# Identity


def test_identity_takes_the_best_pairs_of_whole_tracks() -> None:
    one = scores(track(1, range(4)), track(1, range(1)) + track(2, range(1, 4))).identity
    assert (one.idtp, one.idfn, one.idfp) == (3, 1, 1)
    assert one.idf1 == one.idp == one.idr == 3 / 4


def test_identity_is_one_to_one() -> None:
    """Result 1 covers true 1 (3 frames), then true 2 (4); result 2 covers true 1 (1 frame)."""
    true = track(1, range(4)) + track(2, range(4, 8))
    result = track(1, range(3)) + track(2, [3]) + track(1, range(4, 8))
    assert scores(true, result).identity.idtp == 4 + 1
    # without that frame it is still better to leave true 1 alone than true 2
    assert scores(true, track(1, range(3)) + track(1, range(4, 8))).identity.idtp == 4


def test_identity_needs_half_without_tolerance() -> None:
    d = 80 / 3  # (80 - d) / (80 + d) = 0.5, up to rounding
    assert scores([(0, 1, 0)], [(0, 1, d - 1e-9)]).identity.idtp == 1
    assert scores([(0, 1, 0)], [(0, 1, d + 1e-9)]).identity.idtp == 0


# Nothing on a side


def test_an_empty_result() -> None:
    one = scores(track(1, range(4)) + track(2, range(4)), [])
    values = one.summary()
    expected = {"GT_Dets": 8, "GT_IDs": 2, "Frames": 10, "HOTA_FN": 8, "LocA": 1, "LocA(0)": 1}
    expected |= {"CLR_FN": 8, "ML": 2, "MLR": 1, "IDFN": 8}
    assert {name: value for name, value in values.items() if value} == expected


def test_an_empty_ground_truth() -> None:
    values = scores([], track(1, range(4))).summary()
    expected = {"Dets": 4, "IDs": 1, "Frames": 10, "HOTA_FP": 4, "LocA": 1, "LocA(0)": 1}
    expected |= {"CLR_FP": 4, "MLR": 1, "IDFP": 4}
    assert {name: value for name, value in values.items() if value} == expected


def test_nothing_at_all() -> None:
    values = scores([], []).summary()
    assert {name: value for name, value in values.items() if value} == {"Frames": 10, "LocA": 1, "LocA(0)": 1, "MLR": 1}


def test_empty_ground_truth_counts_once_it_is_combined() -> None:
    both = combine([scores([], track(1, range(4))), scores(track(1, range(8)), track(1, range(8)))])
    assert both.clear.mota == (8 - 4) / 8
    assert both.clear.mlr == 0
    assert both.clear.fp_per_frame == 4 / 10  # the frames of the other sequence
    assert combine([scores([], track(1, range(4)))]).clear.mota == -4


def test_combining() -> None:
    halved = scores(track(1, range(4)), track(1, range(2)) + track(2, range(2, 4)))
    missed = scores(track(1, range(8)), track(1, range(2)))
    both = combine([halved, missed])
    assert both.hota.tp[0] == 6
    assert both.hota.ass_a[0] == pytest.approx((4 * 0.5 + 2 * 2 / 8) / 6)
    assert both.hota.det_a[0] == 6 / 12
    assert both.clear.mota == (6 - 1) / 12
    assert both.identity.idf1 == 2 * (2 + 2) / (12 + 6)
    assert both.counts.frames == 20


# MOTChallenge preprocessing

TruthRow = tuple[int, int, float, float, int]  # and mark, class


def challenge(true: list[TruthRow], result: list[Row], rule: str = "MOT17") -> Overlaps:
    def rows(values: list[TruthRow]) -> MotRows:
        table = np.array(values, dtype=np.float64).reshape(-1, 5)
        n = len(table)
        xywh = np.stack([table[:, 2], np.zeros(n), np.full(n, SIDE), np.full(n, SIDE)], axis=1)
        ints = table[:, [0, 1, 4]].astype(np.int64)
        return MotRows(ints[:, 0], ints[:, 1], xywh, table[:, 3], ints[:, 2])

    return motchallenge(rows(true), rows([(*row, 1, 1) for row in result]), 10, MOT_RULES[rule])


def left(found: Overlaps) -> tuple[int, int]:
    return len(found.true.frame), len(found.result.frame)


@pytest.mark.parametrize(
    ("rule", "taken_out"),
    [("MOT15", ()), ("MOT16", (2, 7, 8, 12)), ("MOT17", (2, 7, 8, 12)), ("MOT20", (2, 6, 7, 8, 12)), ("none", ())],
)
def test_a_result_on_a_distractor_is_taken_out(rule, taken_out) -> None:
    for class_id in range(2, 14):
        num_results = left(challenge([(0, 1, 0, 0, class_id)], [(0, 1, 10)], rule))[1]
        assert num_results == (0 if class_id in taken_out else 1)


def test_a_result_must_match_the_distractor() -> None:
    assert left(challenge([(0, 1, 0, 0, 8)], [(0, 1, 26)]))[1] == 0
    assert left(challenge([(0, 1, 0, 0, 8)], [(0, 1, 27)]))[1] == 1  # IoU below 0.5
    assert left(challenge([(0, 1, 0, 0, 8)], [(1, 1, 0)]))[1] == 1  # another frame
    # the pedestrian takes its box, marked or not, and leaves the distractor the other
    for mark in (0, 1):
        found = challenge([(0, 1, 0, 0, 8), (0, 2, 10, mark, 1)], [(0, 1, 10), (0, 2, 500)])
        assert found.result.given.tolist() == [0, 1]
    crowded = challenge([(0, 1, 0, 0, 8), (0, 2, 10, 1, 1)], [(0, 1, 10), (0, 2, 2)])
    assert crowded.result.given.tolist() == [0]


def test_ground_truth_is_kept_by_mark_and_class() -> None:
    true = [(0, 1, 0, 1, 1), (0, 2, 100, 0, 1), (0, 3, 200, 1, 3), (0, 4, 300, 1, 7), (0, 5, 400, -1, 1)]
    assert challenge(true, []).true.given.tolist() == [0, 4]
    assert challenge(true, [], "none").true.given.tolist() == [0, 2, 3, 4]
    assert challenge(true, [], "MOT15").true.given.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("class_id", [0, 14, -1])
def test_a_class_that_does_not_exist_is_refused(class_id) -> None:
    true = [(0, 1, 0, 1, 1), (0, 2, 100, 0, class_id)]
    with pytest.raises(DatasetError, match=rf"row 1: got class {class_id}; expected 1..13"):
        challenge(true, [])
    assert left(challenge(true, [], "none")) == (1, 0)


# KITTI preprocessing


def labels(rows: list[tuple[int, int, str, int, int, float, float]]) -> KittiRows:
    """Frame, id, type, truncated, occluded, x, height: boxes of 80 px width from y = 0 down."""
    frame, track_id, kind, truncated, occluded, x, height = zip(*rows, strict=True) if rows else [()] * 7
    x, height = np.array(x, dtype=np.float64), np.array(height, dtype=np.float64)
    ints = (np.array(values, dtype=np.int64) for values in (frame, track_id, truncated, occluded))
    frame, track_id, truncated, occluded = ints
    xyxy = np.stack([x, 0 * x, x + SIDE, height], axis=1)
    return KittiRows(frame, track_id, np.array(kind, dtype=np.str_), truncated, occluded, xyxy)


def on_kitti(true, result, kind: str = "car") -> tuple[list[int], list[int]]:
    """Positions of the true boxes and of the results of the class that are left."""
    found = kitti(labels(true), labels(result), 5, kind)
    return found.true.given.tolist(), found.result.given.tolist()


def test_kitti_scores_one_class_apart_from_its_distractor() -> None:
    true = [(0, 1, "car", 0, 0, 0, 80), (0, 2, "van", 0, 0, 100, 80), (0, 3, "pedestrian", 0, 0, 300, 80)]
    result = [(0, 1, "car", 0, 0, 0, 80), (0, 2, "car", 0, 0, 100, 80), (0, 3, "pedestrian", 0, 0, 300, 80)]
    assert on_kitti(true, result) == ([0], [0])  # the van's car is out
    assert on_kitti(true, result, "pedestrian") == ([0], [0])
    sitting = [(0, 1, "person", 0, 0, 0, 80)]
    assert on_kitti(sitting, [(0, 1, "pedestrian", 0, 0, 0, 80)], "pedestrian") == ([], [])
    assert on_kitti([(0, 2, "truck", 0, 0, 100, 80)], [(0, 2, "car", 0, 0, 100, 80)]) == ([], [0])  # a false positive
    with pytest.raises(DatasetError, match="KITTI class: got 'van'; expected one of"):
        on_kitti(true, result, "van")


@pytest.mark.parametrize(("truncated", "occluded", "is_left"), [(0, 2, True), (0, 3, False), (1, 0, False)])
def test_kitti_leaves_out_what_is_hidden_with_its_result(truncated, occluded, is_left) -> None:
    found = on_kitti([(0, 1, "car", truncated, occluded, 0, 80)], [(0, 1, "car", 0, 0, 0, 80)])
    assert found == (([0], [0]) if is_left else ([], []))


@pytest.mark.parametrize(("height", "is_left"), [(25, False), (25.01, True), (10, False)])
def test_kitti_takes_out_low_boxes_that_match_nothing(height, is_left) -> None:
    assert on_kitti([], [(0, 1, "car", 0, 0, 0, height)])[1] == ([0] if is_left else [])
    assert on_kitti([(0, 1, "car", 0, 0, 0, height)], [(0, 1, "car", 0, 0, 0, height)]) == ([0], [0])


@pytest.mark.parametrize(("x", "is_left"), [(0, False), (39, False), (40, True), (41, True)])
def test_kitti_takes_out_what_lies_in_a_region_by_more_than_half(x, is_left) -> None:
    region = [(0, -1, "dontcare", -1, -1, 0, 200), (1, -1, "dontcare", -1, -1, 0, 200)]
    found = on_kitti(region, [(0, 1, "car", 0, 0, x, 80)])
    assert found == ([], [0] if is_left else [])
    assert on_kitti(region, [(2, 1, "car", 0, 0, x, 80)])[1] == [0]  # another frame
    both = [*region, (0, -1, "dontcare", -1, -1, 80, 200)]  # two regions do not add up
    assert on_kitti(both, [(0, 1, "car", 0, 0, 40, 80)])[1] == [0]


def test_kitti_drops_ids_below_zero() -> None:
    assert on_kitti([(0, -1, "car", 0, 0, 0, 80)], [(0, -2, "car", 0, 0, 0, 80)]) == ([], [])


# The conventions of py-motmetrics


def test_events_hold_on_to_a_pair_however_long_ago() -> None:
    true, result = track(1, range(3)), [(0, 1, 0), (1, 9, 600), (2, 1, 20), (2, 2, 0)]
    one = mot_events(sequence(true, result))
    assert (one.num_matches, one.num_switches, one.num_fragmentations) == (2, 0, 1)
    assert one.motp == pytest.approx((0 + 0.4) / 2)


def test_events_prefer_many_pairs_to_near_ones() -> None:
    """Results 2 and 3 lie on true 1 and 2; moved up by one, all three of them fit, each with an IoU of 0.51."""
    true, result = [(0, 1, 0), (0, 2, 26), (0, 3, 52)], [(0, 1, -26), (0, 2, 0), (0, 3, 26)]
    one, near = mot_events(sequence(true, result)), scores(true, result).clear
    assert (one.num_matches, one.distance_sum) == (3, pytest.approx(3 * (1 - 54 / 106)))
    assert (near.tp, near.motp_sum) == (2, 2)


def test_kinds_of_switches() -> None:
    """Result 1 goes from true 1 to true 2, a new object; true 1 gets result 2, a new hypothesis."""
    true = [(0, 1, 0), (1, 1, 0), (1, 2, 300)]
    one = mot_events(sequence(true, [(0, 1, 0), (1, 1, 300), (1, 2, 0)]))
    assert (one.num_matches, one.num_switches) == (2, 1)
    assert (one.num_transfer, one.num_migrate, one.num_ascend) == (1, 1, 1)
    assert one.mota == 1 - 1 / 3
    assert one.recall == one.precision == 1


def test_events_of_two_sequences_together() -> None:
    full, half = (mot_events(sequence(track(1, range(4)), track(1, frames))) for frames in (range(4), range(2)))
    both = combine_events([full, half])
    assert (both.num_objects, both.num_misses, both.mostly_tracked, both.partially_tracked) == (8, 2, 1, 1)
    assert both.mota == 6 / 8
    assert both.idf1 == 2 * 6 / (8 + 6)
    assert full.idp == full.idr == full.idf1 == full.mota == 1


def test_events_of_nothing() -> None:
    for true, result in (([], []), ([], track(1, range(3))), (track(1, range(3)), [])):
        one = mot_events(sequence(true, result))
        assert (one.num_misses, one.num_false_positives, one.num_matches) == (len(true), len(result), 0)
        assert one.recall == one.precision == one.motp == one.idf1 == 0
        assert one.mota == 1 - (len(true) + len(result)) / max(1, len(true))


def test_motmetrics_takes_marks_of_one_and_more() -> None:
    rows = MotRows(np.zeros(3, int), np.arange(3), np.tile([0.0, 0, 9, 9], (3, 1)), np.array([0, 1, 2.0]), np.ones(3))
    assert motmetrics(rows, rows, 1).true.given.tolist() == [1, 2]
    assert len(motmetrics(rows, rows, 1).result.frame) == 3
