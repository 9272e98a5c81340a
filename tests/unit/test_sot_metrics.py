"""Success AUC worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.errors import DatasetError
from sightline.evaluation.sot import THRESHOLDS, success_auc, success_curve

TRUE = np.tile([10.0, 20.0, 40.0, 30.0], (5, 1))
ALL = np.ones(5, bool)


def shifted(share: float) -> np.ndarray:
    """TRUE moved right so that its IoU is `share`: (w - d) / (w + d) = share."""
    return TRUE + np.array([TRUE[0, 2] * (1 - share) / (1 + share), 0, 0, 0])


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
