"""How far a mean over sequences would move had other sequences been chosen: the percentile bootstrap (Efron, 1979)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sightline.errors import DatasetError

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A value and the interval around it; `low` and `high` are nan where there is a single sequence."""

    value: float
    low: float
    high: float


def bootstrap(
    values: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of `values` and its bootstrap interval: as many sequences as there are, drawn anew with replacement.

    values: (S,) one number for each sequence, a metric that is averaged over sequences. weights: (S,) what each
    sequence weighs, drawn along with it (`weights` in sot.py); by default all the same. level: the share of resampled
    means inside the interval; what is left is halved between its ends. The same seed gives the same interval.

    Raises `DatasetError` when a number is missing or not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(sample) if weights is None else np.asarray(weights, dtype=np.float64)
    if sample.ndim != 1 or not sample.size or weight.shape != sample.shape:
        raise DatasetError(
            f"bootstrap: got values of shape {sample.shape}, weights {weight.shape}; expected (S,) of both, S > 0. "
            "Pass one number per sequence."
        )
    if not np.isfinite(sample).all() or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise DatasetError(
            "bootstrap: got values or weights that are not finite, or weights below 0 or all 0; expected finite "
            "values and weights of at least 0. Leave out the sequences that have no value."
        )
    if not 0 < level < 1:
        raise DatasetError(f"bootstrap: got level {level:g}; expected a share between 0 and 1. Pass 0.95.")
    value = float(np.average(sample, weights=weight))
    if sample.size == 1:
        return Interval(value, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(sample.size, size=(num_resamples, sample.size), dtype=np.int32)
    total = weight[drawn].sum(axis=1)
    means = (weight * sample)[drawn].sum(axis=1)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    num_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `ours` minus mean of `theirs`, (S,) each, of the same sequences in the same order, and its interval.

    Both trackers are drawn on the same sequences, so what makes a sequence hard for both cancels: the interval is
    narrower than those of the two means suggest. It excludes 0 where the difference would outlast other sequences.
    Raises `DatasetError` as `bootstrap` does, and when the lengths differ.
    """
    one, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if one.shape != other.shape:
        raise DatasetError(
            f"paired difference: got {one.shape} and {other.shape} values; expected the same sequences of both. "
            "Keep those that both trackers have."
        )
    return bootstrap(one - other, weights=weights, level=level, num_resamples=num_resamples, seed=seed)
