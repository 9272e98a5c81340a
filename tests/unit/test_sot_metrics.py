"""Single-object scores worked out by hand: the definitions, then each switch of the protocols."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import DatasetError
from sightline.evaluation.bootstrap import bootstrap, paired_difference
from sightline.evaluation.protocols import EXCEPTIONS, PROTOCOLS, Protocol, find_protocol
from sightline.evaluation.sot import (
    METRICS,
    THRESHOLDS,
    Scores,
    by_attribute,
    measure,
    normalised_distance,
    overlap,
    precision_curve,
    success_auc,
    success_curve,
    summarise,
    weights,
)
from tests.golden import sot as golden

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
TRUE = np.tile([10.0, 20.0, 40.0, 30.0], (5, 1))
ALL = np.ones(5, bool)
FAR = (1000.0, 1000.0, 40.0, 30.0)
NAN = (np.nan,) * 4
EVERY_ROW = [(row.name, row.dataset) for row in (*PROTOCOLS.values(), *EXCEPTIONS)]


def shifted(share: float) -> np.ndarray:
    """TRUE moved right so that its IoU is `share`: (w - d) / (w + d) = share."""
    return TRUE + np.array([TRUE[0, 2] * (1 - share) / (1 + share), 0, 0, 0])


def with_row(boxes: np.ndarray, row: int, box) -> np.ndarray:
    changed = boxes.copy()
    changed[row] = box
    return changed


def shares(scores: Scores) -> tuple[float, float, float]:
    """Share of hits by IoU above .5, by distance up to the 20 px and by normalised distance up to the 0.20."""
    limit = 8 if scores.protocol.precision_points == 21 else 20
    curves = (scores.precision[limit], scores.normalised_precision[limit])
    return (scores.sr50, *(round(float(share), 6) for share in curves))


# The definitions


def test_thresholds() -> None:
    assert len(THRESHOLDS) == 21
    assert (THRESHOLDS[0], THRESHOLDS[10], THRESHOLDS[-1]) == (0, 0.5, 1)
    assert np.array_equal(THRESHOLDS, np.arange(21) * 0.05)


def test_curve_is_strict() -> None:
    """A frame counts at the thresholds below its IoU, not at the one it equals: none at 1, none for IoU 0."""
    assert success_curve([0.0]).tolist() == [0] * 21
    assert success_curve([0.5]).tolist() == [1] * 10 + [0] * 11
    assert success_curve([0.51]).tolist() == [1] * 11 + [0] * 10
    assert success_curve([1.0]).tolist() == [1] * 20 + [0]
    assert success_curve([1.0, 0.0]).tolist() == [0.5] * 20 + [0]


def test_a_perfect_track_has_20_of_21() -> None:
    assert success_auc(TRUE, TRUE, ALL) == 20 / 21


def test_nothing_right_is_zero() -> None:
    assert success_auc(TRUE + np.array([500, 0, 0, 0]), TRUE, ALL) == 0
    assert success_auc(np.full_like(TRUE, np.nan), TRUE, ALL) == 0


def test_by_hand() -> None:
    predicted = np.concatenate([TRUE[:1], shifted(0.625)[1:3], TRUE[3:4], shifted(0.31)[4:]])
    # above 0, .05 .. .6: 13 thresholds; above 0 .. .95: 20; above 0 .. .3: 7
    assert success_auc(predicted, TRUE, ALL) == pytest.approx((13 + 13 + 20 + 7) / 4 / 21, abs=1e-12)


def test_the_first_frame_does_not_count() -> None:
    predicted = TRUE.copy()
    predicted[0] += 500
    assert success_auc(predicted, TRUE, ALL) == 20 / 21
    predicted[1] += 500
    assert success_auc(predicted, TRUE, ALL) == pytest.approx(3 / 4 * 20 / 21)


def test_frames_without_a_target_do_not_count() -> None:
    predicted, true = TRUE.copy(), TRUE.copy()
    true[2], predicted[2] = 0, 7
    present = np.array([True, True, False, True, True])
    assert success_auc(predicted, true, present) == 20 / 21
    assert success_auc(predicted, true, ALL) == pytest.approx(3 / 4 * 20 / 21)
    assert present.tolist() == [True, True, False, True, True]  # what was passed stays as it was


def test_takes_lists() -> None:
    assert success_auc(TRUE.astype(int).tolist(), TRUE.tolist(), [1] * 5) == 20 / 21


@pytest.mark.parametrize(
    ("predicted", "true", "present"),
    [(TRUE[:4], TRUE, ALL), (TRUE, TRUE, ALL[:4]), (TRUE[:, :3], TRUE[:, :3], ALL), ([], [], [])],
    ids=["a row short", "a flag short", "three numbers", "nothing"],
)
def test_rows_that_do_not_match_are_refused(predicted, true, present) -> None:
    with pytest.raises(DatasetError, match=r"success: got predicted .*; expected \(N, 4\), \(N, 4\), \(N,\)"):
        success_auc(predicted, true, present)


@pytest.mark.parametrize("present", [[1, 0, 0, 0, 0], [0] * 5])
def test_a_clip_with_nothing_to_count_is_refused(present) -> None:
    with pytest.raises(DatasetError, match="no frame with a target after the first"):
        success_auc(TRUE, TRUE, present)


def test_an_overlap_that_cannot_be_is_below_every_threshold() -> None:
    assert success_curve([np.nan]).tolist() == [0] * 21
    assert success_curve([np.nan], is_strict=False).tolist() == [0] * 21
    assert success_curve([-1.0, 1.0], is_strict=False).tolist() == [0.5] * 21


def test_a_curve_that_is_not_strict() -> None:
    assert success_curve([0.5], is_strict=False).tolist() == [1] * 11 + [0] * 10
    assert success_curve([0.0], is_strict=False).tolist() == [1] + [0] * 20


def test_precision_counts_the_threshold_itself() -> None:
    assert precision_curve([0, 1, 1.5, 2, np.nan, np.inf, -1], [0, 1, 2]).tolist() == [2 / 7, 3 / 7, 5 / 7]


def test_overlap_of_boxes_without_area_is_nan_or_nothing() -> None:
    assert np.isnan(overlap([[1, 1, 0, 0]], [[5, 5, 0, 0]])[0])
    assert overlap([[1, 1, 0, 0]], [[0, 0, 5, 5]]).tolist() == [0]
    assert overlap([[3, 3, -2, -2]], [[0, 0, 5, 5]]).tolist() == [0]


def test_the_order_of_operations_shows_at_a_threshold() -> None:
    true, predicted = np.tile([10.0, 7, 5, 5], (2, 1)), np.array([[10.0, 7, 5, 5], [11, 7, 5, 5]])
    assert normalised_distance(predicted, true, PROTOCOLS["plain"])[1] == 0.2
    assert normalised_distance(predicted, true, PROTOCOLS["lasot"])[1] > 0.2
    expected = {"plain": 1, "lasot": 0.5, "pytracking": 0.5, "ostrack": 0.5, "pysot": 0.5, "got10k": 1}
    assert {name: shares(measure(predicted, true, protocol=name))[2] for name in expected} == expected
    assert measure(predicted, true, protocol="trackingnet").normalised_precision[8] == 1


# One sequence


def test_every_number_by_hand() -> None:
    predicted = np.concatenate([TRUE[:1], shifted(0.625)[1:2], shifted(0.31)[2:3], TRUE[3:4], [FAR]])
    scores = measure(predicted, with_row(TRUE, 3, (10, 20, 0, 30)))
    assert scores.num_frames == 5
    assert scores.auc == pytest.approx((20 + 13 + 7 + 0 + 0) / 5 / 21, abs=1e-15)
    assert scores.ao == pytest.approx((1 + 0.625 + 0.31) / 5, abs=1e-15)
    assert (scores.sr50, scores.sr75, scores.fr0, scores.one_minus_sr50) == (2 / 5, 1 / 5, 2 / 5, 3 / 5)
    assert scores.p == 2 / 5  # distances 0, 9.2 and 21.1 px
    assert scores.pn == 1 / 5  # 0, 0.23 and 0.53
    assert scores.precision[[0, 9, 10, 21, 22]].tolist() == [0.2, 0.2, 0.4, 0.4, 0.6]
    assert scores.normalised_precision[[0, 23, 24, 50]].tolist() == [0.2, 0.2, 0.4, 0.4]
    assert all(isinstance(getattr(scores, name), float) for name in METRICS)


@pytest.mark.parametrize(("protocol", "dataset"), EVERY_ROW)
def test_what_is_passed_stays_as_it_was(protocol: str, dataset: str) -> None:
    predicted, true, absent = with_row(TRUE, 1, (1, 1, 0, 0)), TRUE.copy(), np.array([0, 0, 1, 0, 0])
    given = predicted.copy(), true.copy(), absent.copy()
    measure(predicted, true, protocol=protocol, dataset=dataset, absent=absent, cover=[8] * 5, image_size=(30, 30))
    for one, other in zip((predicted, true, absent), given, strict=True):
        assert np.array_equal(one, other)


def test_integers_do_not_overflow() -> None:
    wide = np.array([[0, 0, 300, 300]] * 2, np.int16)
    assert measure(wide, wide).ao == 1


FIRST = [("plain", ""), ("pysot", "")]


@pytest.mark.parametrize(("protocol", "dataset"), EVERY_ROW)
def test_the_first_frame(protocol: str, dataset: str) -> None:
    scores = measure(with_row(TRUE, 0, FAR), TRUE, protocol=protocol, dataset=dataset)
    assert scores.sr50 == (0.8 if (protocol, dataset) in FIRST else 1)
    assert scores.num_frames == (4 if dataset == "got10k" else 5)


# A true box that cannot be compared, a far prediction: share of hits by overlap, distance and normalised distance.
NO_AREA, TOUCHES_THE_BORDER = (0, 0, 0, 0), (0, 20, 40, 30)
INVALID = [
    ("plain", "", (0.8, 0.8, 0.8), (0.8, 0.8, 0.8)),
    ("lasot", "", (0.8, 1, 1), (0.8, 1, 1)),
    ("pytracking", "", (0.8, 0.8, 1), (0.8, 0.8, 1)),
    ("pytracking", "lasot", (0.8, 0.8, 1), (0.8, 0.8, 1)),
    ("pytracking", "uav123", (0.8, 1, 1), (0.8, 1, 1)),
    ("ostrack", "nfs30", (0.8, 0.8, 1), (0.8, 0.8, 1)),
    ("ostrack", "UAV", (0.8, 1, 1), (0.8, 1, 1)),
    ("pysot", "", (0.8, 1, 1), (0.8, 1, 1)),
    ("got10k", "lasot", (0.8, 0.8, 0.8), (1, 1, 1)),
    ("got10k", "uav123", (0.8, 0.8, 0.8), (1, 1, 1)),
    ("got10k", "otb100", (0.8, 0.8, 0.8), (0.8, 0.8, 0.8)),
    ("got10k", "NfS", (0.8, 0.8, 0.8), (0.8, 0.8, 0.8)),
    ("trackingnet", "", (0.8, 0.8, 0.8), (0.8, 0.8, 0.8)),
]


@pytest.mark.parametrize(("protocol", "dataset", "without_area", "nan"), INVALID)
def test_a_true_box_that_cannot_be_compared(protocol, dataset, without_area, nan) -> None:
    predicted = with_row(TRUE, 2, FAR)
    for box, expected in ((NO_AREA, without_area), (NAN, nan)):
        scores = measure(predicted, with_row(TRUE, 2, box), protocol=protocol, dataset=dataset)
        assert shares(scores) == expected
        assert scores.num_frames == (4 if expected == (1, 1, 1) else 5)


@pytest.mark.parametrize(
    ("protocol", "right", "wrong"),
    [
        ("plain", (1, 1, 1), (0.8, 0.8, 0.8)),
        ("lasot", (0.8, 1, 1), (0.8, 1, 1)),
        ("pytracking", (0.8, 0.8, 1), (0.8, 0.8, 1)),
        ("ostrack", (1, 1, 1), (0.8, 0.8, 0.8)),
        ("pysot", (0.8, 1, 1), (0.8, 0.8, 0.8)),
        ("got10k", (1, 1, 1), (0.8, 0.8, 0.8)),
        ("trackingnet", (1, 1, 1), (0.8, 0.8, 0.8)),
    ],
)
def test_a_true_box_at_the_left_border(protocol: str, right, wrong) -> None:
    """Some demand x > 0, and lose a perfect box; or call its distance a hit, however wrong it is."""
    true = with_row(TRUE, 2, TOUCHES_THE_BORDER)
    assert shares(measure(true, true, protocol=protocol)) == right
    assert shares(measure(with_row(TRUE, 2, FAR), true, protocol=protocol)) == wrong


@pytest.mark.parametrize(
    ("box", "expected"),
    [((1, 1, -1, -1), (0.8, 1, 1)), ((1, 1, 0, 0), (0.8, 0.8, 0.8)), ((613, 731, 247, -11), (0.8, 0.8, 1))],
)
def test_pysot_asks_where_the_centre_is(box, expected) -> None:
    """LaSOT's three true boxes without area: centres (0, 0), (.5, .5) and (736, 725), the last negative in heights."""
    scores = measure(with_row(TRUE, 2, (5000, 5000, 9, 9)), with_row(TRUE, 2, box), protocol="pysot")
    assert shares(scores) == expected


ABSENT = [
    ("plain", "lasot", (1, 1, 1)),
    ("lasot", "", (0.8, 0.8, 0.8)),
    ("pytracking", "", (1, 1, 1)),
    ("pytracking", "LaSOT", (0.8, 0.8, 0.8)),
    ("pytracking", "LaSOT_ext", (0.8, 0.8, 1)),
    ("pytracking", "uav123", (1, 1, 1)),
    ("ostrack", "lasot", (0.8, 0.8, 0.8)),
    ("ostrack", "lasot-ext", (0.8, 0.8, 1)),
    ("pysot", "", (0.8, 0.8, 0.8)),
    ("got10k", "lasot", (1, 1, 1)),
    ("trackingnet", "", (1, 1, 1)),
]


@pytest.mark.parametrize(("protocol", "dataset", "expected"), ABSENT)
def test_a_frame_flagged_as_without_the_target(protocol, dataset, expected) -> None:
    """The prediction agrees with the true box, which is a guess there."""
    scores = measure(TRUE, TRUE, protocol=protocol, dataset=dataset, absent=[0, 0, 1, 0, 0])
    assert shares(scores) == expected
    assert scores.num_frames == 5
    assert scores.fr0 == (0 if expected[0] == 1 else 0.2)


def test_a_dropped_frame_is_no_hit_in_spite_of_its_true_box() -> None:
    """`lasot` calls the distance of a box without area a hit, but not on a frame that is flagged."""
    true = with_row(TRUE, 2, NO_AREA)
    assert shares(measure(TRUE, true, protocol="lasot", absent=[0, 0, 1, 0, 0])) == (0.8, 0.8, 0.8)
    assert shares(measure(TRUE, true, protocol="pytracking", dataset="lasot_ext", absent=[0, 0, 1, 0, 0]))[2] == 1


def test_pytrackings_mean_overlap_is_that_of_valid_frames() -> None:
    true = with_row(TRUE, 2, NO_AREA)
    predicted = with_row(TRUE, 4, FAR)
    assert measure(predicted, true, protocol="pytracking").ao == 3 / 4
    assert measure(predicted, true, protocol="lasot").ao == 3 / 5
    assert measure(predicted, true, protocol="plain").ao == 3 / 5


# Broken rows and lengths

NO_WIDTH, NEGATIVE = (10, 20, 0, 30), (10, 20, -1, 30)


@pytest.mark.parametrize("box", [NO_WIDTH, NEGATIVE, NAN, (10, np.nan, 40, 30)])
def test_a_bad_row_becomes_the_row_before(box) -> None:
    predicted = with_row(with_row(TRUE, 2, box), 3, box)
    assert shares(measure(predicted, TRUE, protocol="lasot")) == (1, 1, 1)
    for protocol in ("plain", "pysot", "got10k", "trackingnet"):
        assert measure(predicted, TRUE, protocol=protocol).sr50 == 0.6


def test_a_bad_row_is_kept_where_the_true_row_has_nan() -> None:
    predicted, true = with_row(with_row(TRUE, 2, NO_WIDTH), 3, NO_WIDTH), with_row(TRUE, 2, NAN)
    for protocol in ("lasot", "pytracking"):
        scores = measure(predicted, true, protocol=protocol)
        assert scores.sr50 == 0.6  # row 3 becomes row 2, which is bad


def test_a_bad_first_row_is_not_repaired_from_nowhere() -> None:
    assert measure(with_row(TRUE, 0, NAN), TRUE, protocol="lasot").sr50 == 1
    assert measure(with_row(TRUE, 0, NAN), TRUE, protocol="plain").sr50 == 0.8


@pytest.mark.parametrize("protocol", ["pytracking", "ostrack"])
def test_what_pytracking_repairs_and_what_it_refuses(protocol: str) -> None:
    assert measure(with_row(TRUE, 2, NO_WIDTH), TRUE, protocol=protocol).sr50 == 1
    for box in (NEGATIVE, NAN):
        with pytest.raises(DatasetError, match=rf"result row 3: got \[.*\]; expected .* under protocol '{protocol}'"):
            measure(with_row(TRUE, 2, box), TRUE, protocol=protocol)


REFUSED = None
LENGTHS = [  # one row short, one row long: frames that count and hits among them
    ("plain", "", (4, 1.0), (5, 1.0)),
    ("lasot", "", REFUSED, (5, 1.0)),
    ("pytracking", "", (5, 0.8), (5, 1.0)),
    ("pytracking", "lasot", REFUSED, (5, 1.0)),
    ("pytracking", "lasot_ext", (5, 0.8), (5, 1.0)),
    ("ostrack", "uav123", (5, 0.8), (5, 1.0)),
    ("pysot", "", REFUSED, REFUSED),
    ("got10k", "otb100", (4, 1.0), (5, 1.0)),
    ("got10k", "got10k", REFUSED, REFUSED),
    ("trackingnet", "", (5, 0.8), (5, 1.0)),
]


@pytest.mark.parametrize(("protocol", "dataset", "short", "long"), LENGTHS)
def test_results_that_are_short_or_long(protocol, dataset, short, long) -> None:
    for predicted, expected in ((TRUE[:-1], short), (np.concatenate([TRUE, TRUE[:1]]), long)):
        if expected is REFUSED:
            with pytest.raises(
                DatasetError, match=rf"result: got {len(predicted)} rows for 5 true boxes; expected one"
            ):
                measure(predicted, TRUE, protocol=protocol, dataset=dataset)
        else:
            scores = measure(predicted, TRUE, protocol=protocol, dataset=dataset)
            assert (scores.num_frames, scores.sr50) == expected
            assert shares(scores)[1:] == (expected[1], expected[1])


def test_flags_go_with_the_frames_that_are_left() -> None:
    assert measure(TRUE[:4], TRUE, protocol="plain", absent=[0, 0, 0, 0, 1]).sr50 == 1
    longer = np.concatenate([TRUE, TRUE])
    assert measure(longer, TRUE, protocol="lasot", absent=[0, 0, 0, 0, 1]).sr50 == 0.8


@pytest.mark.parametrize("predicted", [[], np.empty((0, 4))])
def test_a_missing_sequence(predicted) -> None:
    scores = measure(predicted, TRUE, protocol="trackingnet")
    assert (scores.num_frames, scores.auc, scores.p, scores.pn, scores.ao, scores.fr0) == (5, 0, 0, 0, 0, 1)
    for protocol in set(PROTOCOLS) - {"trackingnet"}:
        with pytest.raises(DatasetError, match="result: got 0 rows for 5 true boxes"):
            measure(predicted, TRUE, protocol=protocol)


# TrackingNet and GOT-10k


def test_trackingnet_rounds_half_to_even() -> None:
    true = np.tile([10.0, 20.0, 40.0, 30.0], (2, 1))
    for x, expected in ((10.5, 1.0), (10.6, 39 / 41), (9.5, 1.0)):
        assert measure(with_row(true, 1, (x, 20.5, 39.5, 30.4)), true, protocol="trackingnet").ao == (1 + expected) / 2


def test_trackingnets_areas_by_hand() -> None:
    true = np.tile([10.0, 20.0, 40.0, 30.0], (2, 1))
    scores = measure(with_row(true, 1, (15, 20, 40, 30)), true, protocol="trackingnet")
    assert scores.success.tolist() == [1] * 16 + [0.5] * 5  # IoU 35/45
    assert scores.auc == pytest.approx((1 + (15 + 0.5) / 20) / 2, abs=1e-15)
    assert scores.p == pytest.approx((1 + (18 + 0.5) / 20) / 2, abs=1e-15)  # 5 px: thresholds 2 .. 20 of 2.5 px each
    assert scores.pn == pytest.approx((1 + (15 + 0.5) / 20) / 2, abs=1e-15)  # 0.125: thresholds 5 .. 20 of 0.025 each


def test_got10ks_classes_average_the_normalised_curve() -> None:
    true = np.tile([10.0, 20.0, 40.0, 30.0], (2, 1))
    assert measure(with_row(true, 1, (18, 20, 40, 30)), true, protocol="got10k").pn == (1 + 31 / 51) / 2
    tiny = np.tile([10.0, 20.0, 0.5, 0.5], (2, 1))  # divided by 1 instead of by 0.5
    assert measure(with_row(tiny, 1, (10.125, 20, 0.5, 0.5)), tiny, protocol="got10k").pn == (1 + 38 / 51) / 2
    assert measure(with_row(tiny, 1, (10.125, 20, 0.5, 0.5)), tiny, protocol="plain").normalised_precision[24] == 0.5


def test_got10k_moves_the_corner_into_the_image_and_then_cuts_the_size() -> None:
    true = np.array([[0, 0, 20, 20], [0, 0, 20, 20], [95, 0, 5, 20]], float)
    predicted = np.array([FAR, [-10, 0, 20, 20], [95, -5, 20, 20]])
    clipped = measure(predicted, true, protocol="got10k", dataset="GOT-10k", image_size=(100, 80))
    assert clipped.ao == 1
    assert clipped.num_frames == 2
    assert len(clipped.success) == 101
    as_given = measure(predicted, true, protocol="got10k", dataset="got10k")
    assert as_given.ao == pytest.approx((200 / 600 + 75 / 425) / 2, abs=1e-15)
    assert as_given.success.tolist() == [1] * 18 + [0.5] * 16 + [0] * 67  # .176 and .333


def test_got10k_leaves_out_the_first_frame_and_those_without_cover() -> None:
    predicted = np.concatenate([[FAR], shifted(0.625)[1:3], [FAR], shifted(0.31)[4:]])
    scores = measure(predicted, TRUE, protocol="got10k", dataset="got10k", cover=[8, 8, 1, 0, 3])
    assert scores.num_frames == 3
    assert scores.ao == pytest.approx((0.625 + 0.625 + 0.31) / 3, abs=1e-12)
    assert (scores.sr50, scores.sr75, scores.fr0) == (2 / 3, 0, 0)
    assert measure(predicted, TRUE, protocol="got10k", dataset="got10k").num_frames == 4
    with pytest.raises(DatasetError, match="got 5 frames, none of which counts under protocol 'got10k'"):
        measure(predicted, TRUE, protocol="got10k", dataset="got10k", cover=[8, 0, 0, 0, 0])


# Many sequences


def three_sequences(protocol: str = "got10k", dataset: str = "got10k") -> list[Scores]:
    """AO 1 over 4 frames, 0 over 1 and 0.5 over 2: what counts of got10k."""
    rows = [(5, [1, 1, 1, 1]), (2, [0]), (3, [1, 0])]
    boxes = [np.array([TRUE[0], *[TRUE[0] if is_right else FAR for is_right in right]]) for _, right in rows]
    return [measure(one, TRUE[: len(one)], protocol=protocol, dataset=dataset) for one in boxes]


def test_three_ways_to_average() -> None:
    scores = three_sequences()
    assert [one.ao for one in scores] == [1, 0, 0.5]
    assert summarise(scores).ao == pytest.approx(5 / 7)  # pooled, as the toolkit
    assert summarise(scores, average="pooled").success[50] == pytest.approx(5 / 7)
    assert summarise(scores, average="sequences").ao == 0.5
    by_class = summarise(scores, average="classes", classes=["cat", "dog", "cat"])
    assert by_class.ao == by_class.sr50 == pytest.approx((0.75 + 0) / 2)
    assert weights(scores, "classes", ["cat", "dog", "cat"]).tolist() == [0.5, 1, 0.5]
    assert (by_class.num_sequences, by_class.num_frames) == (3, 7)


def test_repetitions_are_averaged_before_anything_else() -> None:
    wrong = three_sequences()[1]
    runs = [measure(boxes, TRUE, protocol="got10k", dataset="got10k") for boxes in (TRUE, np.tile(FAR, (5, 1)))]
    mean = summarise([summarise(runs), wrong], average="sequences")
    assert (mean.ao, mean.num_sequences) == (0.25, 2)
    assert summarise([summarise(runs), wrong]).ao == pytest.approx(4 / 9)  # all repetitions are pooled


def test_every_protocol_but_got10ks_averages_sequences() -> None:
    for row in (*PROTOCOLS.values(), *EXCEPTIONS):
        assert row.average == ("pooled" if row.dataset == "got10k" else "sequences")
    scores = three_sequences("plain", "")
    assert summarise(scores).sr50 == pytest.approx(np.mean([1, 1 / 2, 2 / 3]))


def test_pytracking_stores_curves_in_single_precision() -> None:
    scores = [
        measure(with_row(TRUE, 1, FAR)[:3], TRUE[:3], protocol="pytracking"),
        measure(TRUE, TRUE, protocol="pytracking"),
    ]
    assert scores[0].success.dtype == np.float32
    assert summarise(scores).success.dtype == np.float32
    assert scores[0].p == float(np.float32(2 / 3)) != 2 / 3
    assert summarise(three_sequences("lasot", "")).success.dtype == np.float64


def test_attributes() -> None:
    scores = three_sequences("plain", "")
    means = by_attribute(scores, {"IV": [1, 0, 1], "OV": [0, 1, 0], "FM": [0, 0, 0]})
    assert list(means) == ["IV", "OV"]
    assert means["IV"].sr50 == pytest.approx((1 + 2 / 3) / 2)
    assert means["IV"].num_sequences == 2
    assert means["OV"].fr0 == 0.5
    assert list(by_attribute(three_sequences("lasot", ""), {"IV": [1, 0, 1], "OV": [0, 1, 0]})) == [
        "IV"
    ]  # two at least
    pooled = by_attribute(scores, {"IV": [1, 1, 0]}, average="classes", classes=["a", "b", "a"])
    assert pooled["IV"].sr50 == 0.75


# What is refused


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"predicted_xywh": TRUE[:, :3]}, r"predicted boxes: got shape \(5, 3\); expected \(N, 4\) x,y,w,h\."),
        ({"true_xywh": TRUE[0]}, r"true boxes: got shape \(4,\)"),
        ({"true_xywh": []}, "result: got 5 rows for 0 true boxes"),
        ({"predicted_xywh": [["a"] * 4] * 5}, "predicted boxes: got could not convert"),
        ({"predicted_xywh": [[1, 2, 3, 4], [1, 2]]}, "predicted boxes: got "),
        ({"absent": [0, 1]}, r"absent: got shape \(2,\); expected \(5,\)"),
        ({"cover": [8] * 4, "dataset": "got10k", "protocol": "got10k"}, r"cover: got shape \(4,\); expected \(5,\)"),
        ({"protocol": "lassot"}, "protocol: got 'lassot'; expected one of plain, lasot, .*Did you mean 'lasot'"),
        ({"protocol": "?"}, "protocol: got '\\?'; expected one of plain, lasot, .*Pass one of these names"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, sentence) -> None:
    with pytest.raises(DatasetError, match=sentence):
        measure(**({"predicted_xywh": TRUE, "true_xywh": TRUE} | arguments))


def test_what_cannot_be_averaged_is_refused() -> None:
    scores = three_sequences()
    for call in (summarise, weights, lambda none: by_attribute(none, {"IV": []})):
        with pytest.raises(DatasetError, match="scores: got no sequence"):
            call([])
        with pytest.raises(DatasetError, match="got sequences under got10k got10k, plain; expected one protocol"):
            call([scores[0], measure(TRUE, TRUE)])
    with pytest.raises(DatasetError, match="average: got 'median'; expected one of sequences, pooled, classes"):
        summarise(scores, average="median")
    with pytest.raises(DatasetError, match="got no class names for 3 sequences"):
        summarise(scores, average="classes")
    with pytest.raises(DatasetError, match="got 1 class names for 3 sequences"):
        summarise(scores, average="classes", classes=["cat"])
    with pytest.raises(DatasetError, match="attribute IV: got shape"):
        by_attribute(scores, {"IV": [1, 0]})


# Intervals


def test_the_interval_of_a_mean() -> None:
    """Near that of the normal distribution, where there are many sequences: 1.96 standard errors on each side."""
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    interval = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert (interval.value - interval.low, interval.high - interval.value) == pytest.approx((half, half), rel=0.05)
    narrow = bootstrap(values, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * 0.674 * values.std() / 20, rel=0.05)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.1, 0.7, 0.4, 0.9]
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2, num_resamples=50)


def test_few_sequences() -> None:
    assert bootstrap([0, 1]) == (0.5, 0, 1)
    alone = bootstrap([0.25])
    assert alone.value == 0.25
    assert np.isnan([alone.low, alone.high]).all()


def test_weights_are_drawn_along() -> None:
    scores = three_sequences()
    interval = bootstrap([one.ao for one in scores], weights=weights(scores))
    assert interval.value == pytest.approx(summarise(scores).ao)
    assert (interval.low, interval.high) == (0, 1)
    assert bootstrap([0.2, 0.8], weights=[1, 0]) == pytest.approx((0.2, 0.2, 0.2))


def test_what_two_trackers_share_cancels() -> None:
    hard = np.random.default_rng(2).random(50)
    assert paired_difference(hard, hard) == (0, 0, 0)
    difference = paired_difference(hard + 0.01, hard)
    assert difference == pytest.approx((0.01, 0.01, 0.01))
    assert paired_difference(hard, hard + 0.01).high < 0
    alone = bootstrap(hard)
    assert alone.high - alone.low > 0.1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: bootstrap([]), r"bootstrap: got values of shape \(0,\)"),
        (lambda: bootstrap([[1.0]]), r"bootstrap: got values of shape \(1, 1\)"),
        (lambda: bootstrap([1.0, 2.0], weights=[1.0]), r"weights \(1,\)"),
        (lambda: bootstrap([1.0, np.nan]), "not finite"),
        (lambda: bootstrap([1.0, 2.0], weights=[0, 0]), "all 0"),
        (lambda: bootstrap([1.0, 2.0], level=95), "level 95; expected a share between 0 and 1"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "expected the same sequences of both"),
    ],
)
def test_what_has_no_interval_is_refused(call, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        call()


# The table


@pytest.mark.parametrize("name", ["LaSOT_ext", "lasot-ext", "LASOT EXT", "lasotext"])
def test_names_of_data_sets_are_read_generously(name: str) -> None:
    assert find_protocol("pytracking", name).dataset == "lasot_ext"


def test_a_protocol_of_ones_own() -> None:
    variant = replace(PROTOCOLS["lasot"], name="mine", valid="w, h > 0")
    true = with_row(TRUE, 2, TOUCHES_THE_BORDER)
    assert find_protocol(variant, "got10k") is variant
    assert measure(true, true, protocol=variant).sr50 == 1
    assert find_protocol("pytracking", "a folder of mine") is PROTOCOLS["pytracking"]


def test_every_exception_differs_from_its_protocol_and_is_found() -> None:
    assert len({(row.name, row.dataset) for row in EXCEPTIONS}) == len(EXCEPTIONS)
    for row in EXCEPTIONS:
        assert find_protocol(row.name, row.dataset) is row
        assert replace(row, dataset="") != PROTOCOLS[row.name]


def cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def protocol_table() -> list[str]:
    """The rows of the documentation's table, a switch each."""
    switches = [field.name for field in fields(Protocol) if field.name not in ("name", "dataset")]
    rows = [["switch", *(f"`{name}`" for name in PROTOCOLS)], ["---"] * (len(PROTOCOLS) + 1)]
    rows += [[f"`{name}`", *(cell(getattr(row, name)) for row in PROTOCOLS.values())] for name in switches]
    return [f"| {' | '.join(row)} |" for row in rows]


def exception_table() -> list[str]:
    rows = [["protocol", "data set", "what differs"], ["---"] * 3]
    for row in EXCEPTIONS:
        usual = PROTOCOLS[row.name]
        names = [field.name for field in fields(Protocol) if getattr(row, field.name) != getattr(usual, field.name)]
        changes = "; ".join(f"`{name}` {cell(getattr(row, name))}" for name in names if name != "dataset")
        rows.append([f"`{row.name}`", f"`{row.dataset}`", changes])
    return [f"| {' | '.join(row)} |" for row in rows]


def test_the_page_has_the_table_of_the_code() -> None:
    for table in (protocol_table(), exception_table()):
        assert "\n".join(table) in PAGE


def test_the_page_states_the_figures_that_are_checked() -> None:
    for (protocol, dataset), figures in golden.LASOT_PER_CENT.items():
        if (protocol, dataset) == ("ostrack", "lasot_ext"):
            continue
        cells = " | ".join(f"{value:.2f}" for row in figures for value in row)
        assert f"| {cells} |" in PAGE, (protocol, dataset)


def test_the_pages_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.split("## Single-object")[1].split("\n## ")[0]
    (snippet,) = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    exec(compile(snippet, "evaluation.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3
