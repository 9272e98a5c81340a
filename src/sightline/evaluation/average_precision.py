"""Average precision of boxes: COCO (Lin et al. 2014) and, federated, LVIS (Gupta et al. 2019).

What both share with the AP of tracks is here too: what was found is matched greedily, best score first, to what is true
(`match`), and precision is read off at 101 recalls (`interpolated_precision`).
Legend of shapes: F found  G true  E pairs of both  A ranges of size  T thresholds of IoU  C categories
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.datasets.tao_json import Boxes, GroundTruth, find
from sightline.errors import DatasetError

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

EPS = float(np.finfo(np.float64).eps)
RECALLS = np.linspace(0, 1, 101)  # 0, .01 .. 1
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS_PX2 = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}  # both ends belong to a range

UNMATCHED, MATCHED, IGNORED = 0, 1, 2  # what became of something found; IGNORED: matched to what does not count


@dataclass(frozen=True)
class BoxRule:
    """What tells the benchmarks apart. Only the best `most_per_image` boxes of an image are looked at, over all
    categories; `most` are numbers of boxes per image and category, with a recall for each; a federated benchmark lists
    what it annotated."""

    most_per_image: int | None
    most: tuple[int, ...]
    is_federated: bool


COCO = BoxRule(most_per_image=None, most=(1, 10, 100), is_federated=False)
LVIS = BoxRule(most_per_image=300, most=(300,), is_federated=True)


@dataclass(frozen=True, eq=False)
class BoxAp:
    """`ap` (A, T, C) and `recall` (M, A, T, C), the latter with the best `rule.most` boxes; A are the rows of
    `AREAS_PX2`, C ascending ids. nan where a category has nothing to find in a range: it is left out of means."""

    rule: BoxRule
    category: Ids
    frequency: tuple[str, ...]
    thresholds: Floats
    ap: Floats
    recall: Floats

    def summary(self) -> dict[str, float]:
        """The line that the benchmarks print: AP, AP50, AP75, APs, APm, APl, for LVIS APr, APc, APf, then AR1, AR10,
        AR100 (LVIS AR300), ARs, ARm, ARl. Each is the mean of all that is not nan, nan itself where nothing is left."""
        sizes = list(enumerate(AREAS_PX2))[1:]
        line = {"AP": mean(self.ap[0])}
        line |= {f"AP{100 * t:.0f}": mean(self.ap[0, np.isclose(self.thresholds, t)]) for t in (0.5, 0.75)}
        line |= {f"AP{name}": mean(self.ap[row]) for row, name in sizes}
        if self.rule.is_federated:
            line |= {f"AP{name}": mean(self.ap[0][:, np.array(self.frequency) == name]) for name in "rcf"}
        line |= {f"AR{most}": mean(self.recall[row, 0]) for row, most in enumerate(self.rule.most)}
        return line | {f"AR{name}": mean(self.recall[-1, row]) for row, name in sizes}


def box_ap(truth: GroundTruth, results: Boxes, rule: BoxRule, thresholds: ArrayLike = THRESHOLDS) -> BoxAp:
    """Average precision of boxes per category, range of area and threshold of IoU, by the rule `COCO` or `LVIS`.

    The area of a true box is the one that its file states (of the mask), of a found one w * h. A crowd takes any number
    of boxes, whose overlap with it is measured against their own area alone, and they do not count. Federated, the
    boxes of an (image, category) count only where the category has a true box or is listed as negative, and those that
    stay unmatched do not where it is listed as not exhaustive. Raises `DatasetError` where a federated rule finds no
    such lists, and for an image that is not annotated.
    """
    if rule.is_federated and (truth.negative is None or len(truth.video)):
        raise DatasetError(
            "federated box AP: got images without neg_category_ids; expected the lists of LVIS. Use the rule COCO."
        )
    must_be_annotated(truth, results)
    if rule.most_per_image is not None:
        results = results.take(best_per_image(results, rule.most_per_image))
    true, categories = truth.boxes, sorted(truth.categories)
    cells = Cells(np.sort(truth.image), np.array([row.id for row in categories], dtype=np.int64))
    true_cell, cell = cells(true.image, true.category), cells(results.image, results.category)
    is_excused = excused(truth, cells, true_cell, cell) if rule.is_federated else cell < 0

    found, matched = pairs_of_equal(cell, true_cell)
    intersection, union = overlap(results.xywh[found], true.xywh[matched])
    is_crowd = true.is_crowd[matched]
    iou = ratio(intersection, np.where(is_crowd, results.area[found], union))
    ranges = np.array(list(AREAS_PX2.values()))
    at = np.asarray(thresholds, dtype=np.float64)
    ap, recall = average_precision(
        Found(cell, results.score, is_excused | is_outside(results.area, ranges)),
        Sought(true_cell, true.is_crowd | is_outside(true.area, ranges)),
        Pairs(found, matched, iou, ~is_crowd),
        at,
        len(categories),
        rule.most,
    )
    return BoxAp(rule, cells.category, tuple(row.frequency for row in categories), at, ap, recall)


# Precision over recall


class Found(NamedTuple):
    """What was found: its cell, score, and whether it does not count should it stay unmatched, (A, F)."""

    cell: Ids
    score: Floats
    is_excused: Flags


class Sought(NamedTuple):
    """What is true, and sought: its cell, and whether it does not count, (A, G)."""

    cell: Ids
    is_ignored: Flags


class Pairs(NamedTuple):
    """Indices of something found and something true of the same cell, their IoU, and whether a match leaves the true
    one to nobody else."""

    found: Ids
    true: Ids
    iou: Floats
    is_exclusive: Flags

    def take(self, index: NDArray[Any]) -> Pairs:
        return Pairs(self.found[index], self.true[index], self.iou[index], self.is_exclusive[index])


def average_precision(
    found: Found, true: Sought, pairs: Pairs, thresholds: Floats, num_categories: int, most: Sequence[float]
) -> tuple[Floats, Floats]:
    """AP (A, T, C) and recall (M, A, T, C) with the best `most` of each cell (AP: with the last number); nan where
    nothing counts as true. A cell is an image or video and a category, numbered unit * C + category.

    Equal scores keep the order of units, then that of `found`. Pairs without overlap may be left out.
    """
    unit, category = np.divmod(found.cell, max(1, num_categories))
    order = np.lexsort((unit, -found.score, category))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = running_count(found.cell[order])
    num_true = np.stack(
        [np.bincount(true.cell[~row] % num_categories, minlength=num_categories) for row in true.is_ignored]
    )

    matched, state = match(pairs, rank, true.is_ignored, thresholds)
    slot = np.full(len(order), len(matched))
    slot[matched] = np.arange(len(matched))
    state = np.concatenate([state, np.full((*state.shape[:2], 1), UNMATCHED, dtype=state.dtype)], axis=2)

    ap = np.full((len(num_true), len(thresholds), num_categories), np.nan)
    recall = np.full((len(most), *ap.shape), np.nan)
    can_count = np.asarray(~found.is_excused.all(axis=0))
    can_count[matched] = True
    order = order[can_count[order] & (rank[order] < most[-1])]
    borders = np.searchsorted(category[order], np.arange(num_categories + 1))
    for c in np.flatnonzero(num_true.any(axis=0)):
        rows = order[borders[c] : borders[c + 1]]  # pooled over units, best score first
        fate = state[:, :, slot[rows]]  # (A, T, rows)
        is_hit = fate == MATCHED
        is_slip = (fate == UNMATCHED) & ~found.is_excused[:, None, rows]
        for a in np.flatnonzero(num_true[:, c]):
            recall[:, a, :, c] = [(is_hit[a] & (rank[rows] < m)).sum(axis=1) / num_true[a, c] for m in most]
            ap[a, :, c] = [
                interpolated_precision(hit, slip, num_true[a, c]).mean()
                for hit, slip in zip(is_hit[a], is_slip[a], strict=True)
            ]
    return ap, recall


def interpolated_precision(is_hit: Flags, is_slip: Flags, num_true: int) -> Floats:
    """(101,) the best precision at a recall of at least 0, .01 .. 1; 0 for recalls that are not reached.

    `is_hit` and `is_slip` (true and false positives; neither: not counted) are in descending order of score, `num_true`
    is above 0. This is the interpolation of Pascal VOC (Everingham et al. 2010) at COCO's recalls.
    """
    hits, slips = np.cumsum(is_hit), np.cumsum(is_slip)
    precision = hits / (hits + slips + EPS)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(hits / num_true, RECALLS)
    return np.append(best_from_here, 0.0)[reached]


def match(pairs: Pairs, rank: Ids, is_ignored: Flags, thresholds: Floats) -> tuple[Ids, NDArray[np.int8]]:
    """What becomes of everything found, one after the other in each cell: it takes, of what is still free and overlaps
    enough, whatever counts before what does not, then the largest IoU, then the last. `rank` (F,) is its place in its
    cell.

    Returns the found that are in a pair, (K,), and their fates (A, T, K); all others stay `UNMATCHED`.
    """
    at = np.minimum(thresholds, 1 - 1e-10)[:, None]
    pairs = pairs.take(pairs.iou >= at.min())
    pairs = pairs.take(np.lexsort((pairs.true, pairs.iou, pairs.found, rank[pairs.found])))
    start = np.flatnonzero(np.diff(pairs.found, prepend=-1))
    found = pairs.found[start]

    fate = np.full((len(is_ignored), len(thresholds), len(found)), UNMATCHED, dtype=np.int8)
    is_taken = np.zeros((*fate.shape[:2], is_ignored.shape[1]), dtype=bool)
    steps = np.flatnonzero(np.diff(rank[found], prepend=-1, append=-1))
    for first, last in pairwise(steps):  # of all cells at once, what has the same rank
        here = slice(start[first], start[last] if last < len(start) else None)
        true, num_pairs = pairs.true[here], len(pairs.true[here])
        is_possible = ~is_taken[:, :, true] & (pairs.iou[here] >= at)
        place = np.arange(1, num_pairs + 1) + num_pairs * ~is_ignored[:, None, true]
        best = np.maximum.reduceat(np.where(is_possible, place, 0), start[first:last] - start[first], axis=2)
        a, t, k = np.nonzero(best)
        winner = (best[a, t, k] - 1) % num_pairs
        fate[a, t, first + k] = np.where(is_ignored[a, true[winner]], IGNORED, MATCHED)
        is_taken[a, t, true[winner]] = pairs.is_exclusive[here][winner]
    return found, fate


# Cells, and what lies in them


class Cells(NamedTuple):
    """The numbers of all cells of units (images or videos, in the order in which they are pooled) and categories."""

    unit: Ids
    category: Ids

    def __call__(self, unit: Ids, category: Ids) -> Ids:
        """unit * C + category, by position; -1 where either is unknown."""
        row, column = find(self.unit, unit), find(self.category, category)
        return np.where((row < 0) | (column < 0), -1, row * len(self.category) + column)


def excused(truth: GroundTruth, cells: Cells, true_cell: Ids, cell: Ids) -> Flags:
    """Whether something found in a cell does not count when it is unmatched: because the cell has nothing true and is
    not listed as negative, or because it is listed as not exhaustive."""
    is_excused = (cell < 0) | np.isin(cell, cells(*truth.not_exhaustive.T))
    if truth.negative is not None:
        is_excused |= ~np.isin(cell, true_cell) & ~np.isin(cell, cells(*truth.negative.T))
    return is_excused


def best_per_image(boxes: Boxes, most: int) -> Ids:
    """Rows of the `most` best boxes of each image: images in the order of their first rows, and the rows of one that
    has too many by descending score."""
    _, first, inverse, count = np.unique(boxes.image, return_index=True, return_inverse=True, return_counts=True)
    appearance = first[inverse]
    order = np.lexsort((np.where(count[inverse] > most, -boxes.score, 0), appearance))
    return order[running_count(appearance[order]) < most]


def must_be_annotated(truth: GroundTruth, results: Boxes) -> None:
    """Raise `DatasetError` for results of an image that is not listed."""
    is_unknown = find(truth.image, results.image) < 0
    if is_unknown.any():
        raise DatasetError(
            f"results: got image {results.image[np.argmax(is_unknown)]}; expected annotated images only. Leave it out."
        )


def pairs_of_equal(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """All (i, j) with a[i] == b[j], as two index arrays, ascending in i, then in j."""
    order = np.argsort(b, kind="stable")
    low, high = (np.searchsorted(b, a, side=side, sorter=order) for side in ("left", "right"))
    count = high - low
    i = np.repeat(np.arange(len(a)), count)
    return i, order[np.repeat(low, count) + running_count(i)]


def running_count(values: Ids) -> Ids:
    """How often each value came before."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    start = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    count = np.empty(len(values), dtype=np.int64)
    count[order] = np.arange(len(values)) - np.repeat(start, np.diff(start, append=len(values)))
    return count


def overlap(a_xywh: Floats, b_xywh: Floats) -> tuple[Floats, Floats]:
    """Areas of intersection and union, row by row, in square pixels."""
    low = np.maximum(a_xywh[:, :2], b_xywh[:, :2])
    high = np.minimum(a_xywh[:, :2] + a_xywh[:, 2:], b_xywh[:, :2] + b_xywh[:, 2:])
    intersection = np.prod(np.maximum(high - low, 0), axis=1)
    return intersection, np.prod(a_xywh[:, 2:], axis=1) + np.prod(b_xywh[:, 2:], axis=1) - intersection


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, at most 1 (two equal boxes may reach more by rounding), and 0 of nothing."""
    return np.minimum(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0), 1.0)


def is_outside(size: Floats | Ids, ranges: Floats, slack: float = 0.0) -> Flags:
    """(A, N): whether a size is below the lower or above the upper end of a range, (A, 2)."""
    return np.asarray((size < ranges[:, :1] - slack) | (size > ranges[:, 1:] + slack))


def mean(values: Floats) -> float:
    """Of all that is not nan."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
