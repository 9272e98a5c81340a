"""What must hold for every single-object score, whatever the boxes and the protocol."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sightline.errors import DatasetError
from sightline.evaluation.bootstrap import bootstrap
from sightline.evaluation.protocols import EXCEPTIONS, PROTOCOLS, Protocol
from sightline.evaluation.sot import METRICS, Scores, by_attribute, measure, precision_curve, success_curve, summarise

ROWS = (*PROTOCOLS.values(), *EXCEPTIONS)
LOW_IS_GOOD = {"fr0", "one_minus_sr50"}

# Eighths of a pixel, so that corners and areas are exact; all above 0, so that every protocol takes every box.
number = st.integers(1, 8 * 600).map(lambda eighths: eighths / 8)
box = st.tuples(number, number, number, number)
sequence = st.integers(2, 12).flatmap(
    lambda length: st.tuples(*(st.lists(box, min_size=length, max_size=length) for _ in range(2)))
)
sequences = st.lists(sequence, min_size=1, max_size=5)
messy_number = st.one_of(number, st.sampled_from([0.0, -3.0, np.nan, np.inf, -np.inf, 1e300]))
messy_boxes = st.lists(st.tuples(*[messy_number] * 4), min_size=2, max_size=8)

few = settings(max_examples=30)  # of each of sixteen rows
every_protocol = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name} {row.dataset}".strip())


def numbers(scores: Scores) -> dict[str, float]:
    return {name: getattr(scores, name) for name in METRICS}


def curves(scores: Scores) -> list[np.ndarray]:
    return [scores.success, scores.precision, scores.normalised_precision]


def with_area(boxes, row: Protocol) -> np.ndarray:
    """The boxes, none of which becomes empty: what is rounded to no area has no IoU, and is a miss even when right."""
    return np.ceil(boxes) if row.box == "rounded" else np.array(boxes)


@every_protocol
@few
@given(boxes=st.lists(box, min_size=2, max_size=12))
def test_a_perfect_tracker_has_exactly_the_ceiling(row: Protocol, boxes) -> None:
    boxes = with_area(boxes, row)
    scores = measure(boxes, boxes, protocol=row)
    points = len(scores.success)
    assert scores.auc == (1 if row.name == "trackingnet" else (points - 1) / points)
    assert (scores.p, scores.pn, scores.sr50, scores.sr75, scores.fr0) == (1, 1, 1, 1, 0)
    assert scores.ao == pytest.approx(1, abs=1e-12)  # got10k adds 2e-16 to the union


@every_protocol
@few
@given(drawn=sequence)
def test_scores_are_shares_and_curves_only_fall_or_rise(row: Protocol, drawn) -> None:
    scores = measure(*drawn, protocol=row)
    assert all(0 <= value <= 1 for value in numbers(scores).values())
    success, *rising = curves(scores)
    assert (np.diff(success) <= 0).all()
    assert all((np.diff(curve) >= 0).all() for curve in rising)
    assert scores.sr75 <= scores.sr50 <= 1 - scores.fr0 + 1e-12


@every_protocol
@few
@given(drawn=sequence, data=st.data())
def test_a_better_box_never_costs(row: Protocol, drawn, data) -> None:
    predicted, true = (with_area(boxes, row) for boxes in drawn)
    frame = data.draw(st.integers(0, len(true) - 1))
    better = predicted.copy()
    better[frame] = true[frame]
    before, after = (numbers(measure(boxes, true, protocol=row)) for boxes in (predicted, better))
    for name in METRICS:
        gain = after[name] - before[name]
        assert (gain <= 1e-12) if name in LOW_IS_GOOD else (gain >= -1e-12), name


@every_protocol
@few
@given(drawn=sequences, data=st.data())
def test_the_order_of_sequences_changes_nothing(row: Protocol, drawn, data) -> None:
    scores = [measure(*one, protocol=row) for one in drawn]
    flags = data.draw(arrays(bool, len(scores)))
    order = data.draw(st.permutations(range(len(scores))))
    shuffled, shuffled_flags = [scores[place] for place in order], flags[list(order)]
    tolerance = 1e-6 if row.curves == "float32" else 1e-12
    for average, classes in (("", None), ("pooled", None), ("classes", ["a", "b", "a", "c", "b"])):
        names = None if classes is None else classes[: len(scores)]
        again = None if names is None else [names[place] for place in order]
        one = summarise(scores, average=average, classes=names)
        other = summarise(shuffled, average=average, classes=again)
        assert numbers(one) == pytest.approx(numbers(other), abs=tolerance)
        for a, b in zip(curves(one), curves(other), strict=True):
            assert np.abs(a - b).max() <= tolerance
    one, other = by_attribute(scores, {"IV": flags}), by_attribute(shuffled, {"IV": shuffled_flags})
    assert list(one) == list(other)
    for name in one:
        assert numbers(one[name]) == pytest.approx(numbers(other[name]), abs=tolerance)


@given(drawn=sequence, data=st.data())
def test_the_order_of_frames_changes_nothing(drawn, data) -> None:
    predicted, true = (np.array(boxes) for boxes in drawn)
    order = data.draw(st.permutations(range(len(true))))
    one, other = measure(predicted, true), measure(predicted[order], true[order])
    for a, b in zip(curves(one), curves(other), strict=True):
        assert np.array_equal(a, b)
    assert one.ao == pytest.approx(other.ao, abs=1e-12)


@given(drawn=sequence, right=st.integers(-500, 500), down=st.integers(-500, 500))
def test_moving_the_picture_changes_nothing(drawn, right: int, down: int) -> None:
    (predicted, true), move = (np.array(boxes) for boxes in drawn), np.array([right, down, 0, 0])
    one, other = measure(predicted, true), measure(predicted + move, true + move)
    assert numbers(one) == numbers(other)


@given(drawn=sequences)
def test_one_long_sequence_is_its_pooled_parts(drawn) -> None:
    """But for the first frames, which `plain` takes as submitted."""
    parts = [measure(*one) for one in drawn]
    whole = measure(np.concatenate([one[0] for one in drawn]), np.concatenate([one[1] for one in drawn]))
    assert numbers(summarise(parts, average="pooled")) == pytest.approx(numbers(whole), abs=1e-12)


@every_protocol
@few
@given(predicted=messy_boxes, true=messy_boxes, data=st.data())
def test_whatever_comes_in_shares_or_a_sentence_come_out(row: Protocol, predicted, true, data) -> None:
    absent = data.draw(arrays(bool, len(true)))
    try:
        with np.errstate(invalid="raise", divide="raise"):
            scores = measure(predicted, true, protocol=row, absent=absent, cover=absent, image_size=(640, 360))
    except DatasetError:
        return
    assert all(0 <= curve.min() <= curve.max() <= 1 for curve in curves(scores))
    assert 0 <= scores.fr0 <= 1


@given(
    arrays(
        np.float64,
        st.integers(1, 40),
        elements=st.one_of(st.floats(-1, 2), st.sampled_from([k / 20 for k in range(21)])),
    ),
    st.booleans(),
)
def test_success_is_what_comparing_gives(overlap, is_strict: bool) -> None:
    thresholds = np.linspace(0, 1, 21)[:, None]
    above = overlap > thresholds if is_strict else overlap >= thresholds
    assert np.array_equal(success_curve(overlap, is_strict=is_strict), above.mean(axis=1))


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.one_of(st.floats(-1, 60), st.just(np.nan), st.integers(0, 50)))
)
def test_precision_is_what_comparing_gives(distance) -> None:
    thresholds = np.arange(51.0)
    assert np.array_equal(precision_curve(distance, thresholds), (distance <= thresholds[:, None]).mean(axis=1))


@given(arrays(np.float64, st.integers(2, 30), elements=st.floats(0, 1)), st.integers(0, 5))
def test_an_interval_lies_among_the_values(values, seed: int) -> None:
    interval = bootstrap(values, num_resamples=200, seed=seed)
    tolerance = 1e-12
    assert values.min() - tolerance <= interval.low <= interval.high <= values.max() + tolerance
    wider = bootstrap(values, num_resamples=200, seed=seed, level=0.99)
    assert wider.low <= interval.low <= interval.high <= wider.high
