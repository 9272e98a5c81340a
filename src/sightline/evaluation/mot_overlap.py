"""Which boxes of a sequence overlap, and the best assignment of one side to the other, for all frames at once.

Only pairs with an IoU above 0 can change a multi-object measure, so a sequence is a list of edges between rows of the
ground truth and rows of the result, not a matrix per frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError

__all__ = [
    "EPS",
    "Boxes",
    "Overlaps",
    "Rows",
    "assign",
    "is_touched",
    "most_meetings",
    "outweighs",
    "overlaps",
    "problems",
    "solve",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Mask = NDArray[np.bool_]
Problem = tuple[tuple[int, int], Ints, Ints]  # the shape of a frame's matrix; rows and columns of its edges

EPS = float(np.finfo(np.float64).eps)  # the tolerance of every official comparison
MAX_PX = 1e9  # areas beyond it lose digits
MAX_FRAMES = 2**31
CHUNK = 2**16  # pairs that meet in x, looked at together: they stay in the processor's cache
MARGIN = 1e-12  # far above rounding; totals nearer than that are the solver's to choose from, as officially


class Boxes(NamedTuple):
    """One side of a sequence: `frame` (N,) from 0, `track_id` (N,) any integer, `xyxy` (N, 4) in pixels.

    Rows may be in any order of frames; their order within a frame decides between equals.
    """

    frame: NDArray[np.integer]
    track_id: NDArray[np.integer]
    xyxy: Floats


class Rows(NamedTuple):
    """One side, ordered by frame: `frame` (N,), `track` (N,) in 0..`num_tracks` - 1, each of which occurs, and
    `given` (N,), the position of the row in what was given."""

    frame: Ints
    track: Ints
    num_tracks: int
    given: Ints

    @classmethod
    def of(cls, frame: Ints, track_id: Ints, given: Ints) -> Rows:
        ids, track = np.unique(track_id, return_inverse=True)
        return cls(frame, track, len(ids), given)

    def keep(self, rows: Mask) -> Rows:
        return Rows.of(self.frame[rows], self.track[rows], self.given[rows])


@dataclass(frozen=True, eq=False)
class Overlaps:
    """One sequence as every metric sees it: who is in which frame on either side, and which boxes overlap.

    Edge k joins row `edge_true[k]` with row `edge_result[k]` of the same frame, whose IoU `iou[k]` is above 0. Edges
    are ordered by these two. `num_frames` counts empty frames too.
    """

    num_frames: int
    true: Rows
    result: Rows
    edge_true: Ints
    edge_result: Ints
    iou: Floats

    @cached_property
    def pairs(self) -> tuple[Ints, Ints, Ints]:
        """Pairs of tracks that overlap somewhere: (pair of each edge (E,), true track (P,), result track (P,))."""
        code = self.true.track[self.edge_true] * self.result.num_tracks + self.result.track[self.edge_result]
        pairs, pair_of_edge = np.unique(code, return_inverse=True)
        return pair_of_edge, *np.divmod(pairs, max(1, self.result.num_tracks))

    def keep(self, true: Mask, result: Mask) -> Overlaps:
        """The sequence with these rows only."""
        edges = true[self.edge_true] & result[self.edge_result]
        new_true, new_result = np.cumsum(true) - 1, np.cumsum(result) - 1
        return Overlaps(
            self.num_frames,
            self.true.keep(true),
            self.result.keep(result),
            new_true[self.edge_true[edges]],
            new_result[self.edge_result[edges]],
            self.iou[edges],
        )


def overlaps(true: Boxes, result: Boxes, num_frames: int) -> Overlaps:
    """All pairs of boxes that share a frame and some area, with their IoU.

    Areas are those of the corners; a box with an area of at most eps overlaps nothing. The cost grows with the pairs
    that share a frame and some x. Raises `DatasetError` for frames outside 0..`num_frames` - 1, an id twice in a frame,
    and coordinates that are not finite or beyond 1e9.
    """
    true_rows, result_rows = _ordered(true, "true", num_frames), _ordered(result, "result", num_frames)
    one, other = _Side.of(true, true_rows.given), _Side.of(result, result_rows.given)
    none = np.zeros(0, np.intp)
    # Of two boxes that share some x, one starts within the other, or both at the same place.
    ahead = np.searchsorted(one.start, other.start, "right")
    behind = np.cumsum(np.bincount(ahead, minlength=len(one.start) + 1))[:-1]
    met = [(none, none, np.zeros(0)), *_meetings(one, other, behind)]
    met += [(row, column, iou) for column, row, iou in _meetings(other, one, ahead)]
    row, column, iou = (np.concatenate(parts) for parts in zip(*met, strict=True))
    order = np.argsort(row * len(result_rows.frame) + column)
    return Overlaps(num_frames, true_rows, result_rows, row[order], column[order], iou[order])


def _ordered(boxes: Boxes, name: str, num_frames: int) -> Rows:
    """The rows by frame, equal frames in the given order; all of them checked."""
    frame, track_id, xyxy = (np.asarray(part) for part in boxes)
    if not (frame.shape == track_id.shape == (len(xyxy),) and xyxy.shape == (len(xyxy), 4)):
        raise DatasetError(
            f"{name} boxes: got frame {frame.shape}, track_id {track_id.shape}, xyxy {xyxy.shape}; expected (N,), "
            "(N,), (N, 4). Pass one row per box."
        )
    if len(frame) and not 0 <= frame.min() <= frame.max() < num_frames <= MAX_FRAMES:
        raise DatasetError(
            f"{name} boxes: got frames {frame.min()}..{frame.max()}; expected 0..{num_frames - 1}. "
            "Pass the length of the sequence."
        )
    if not (np.abs(xyxy) <= MAX_PX).all():
        row = int((~(np.abs(xyxy) <= MAX_PX)).any(axis=1).argmax())
        raise DatasetError(
            f"{name} boxes: got xyxy {xyxy[row].tolist()} in row {row}; expected finite numbers up to {MAX_PX:g} px. "
            "Leave the row out."
        )
    sixteen_bits = num_frames <= 2**16  # those are sorted by counting
    order = np.argsort(frame.astype(np.uint16 if sixteen_bits else np.int64), kind="stable")
    rows = Rows.of(frame[order].astype(np.intp), track_id[order], order)
    box = np.sort(rows.frame * rows.num_tracks + rows.track)
    again = np.flatnonzero(np.diff(box) == 0)
    if len(again):
        frame_again, track = divmod(int(box[again[0]]), rows.num_tracks)
        raise DatasetError(
            f"{name} boxes: got id {np.unique(track_id)[track]} twice in frame {frame_again}; expected one box per id "
            "and frame. Leave one out."
        )
    return rows


class _Side(NamedTuple):
    """Boxes with an area in the order of their left edges, on one axis where frames lie far apart. `row` is the place
    of each in the order by frame."""

    row: Ints
    start: Floats
    end: Floats
    corners: Floats
    area: Floats

    @classmethod
    def of(cls, boxes: Boxes, given: Ints) -> _Side:
        # What is cut off or rounded away here keeps its order, so no pair that overlaps is lost; the IoU decides.
        frame, xyxy = np.asarray(boxes.frame) * 2.0**22, np.asarray(boxes.xyxy, dtype=np.float64)
        start, end = (frame + np.clip(xyxy[:, k], -(2.0**20), 2.0**20) for k in (0, 2))
        x1, y1, x2, y2 = xyxy.T
        area = (x2 - x1) * (y2 - y1)
        order = np.argsort(start)
        order = order[area[order] > EPS]
        row = np.empty(len(given), np.intp)
        row[given] = np.arange(len(given))
        return cls(row[order], start[order], end[order], np.ascontiguousarray(xyxy[order].T), area[order])


def _meetings(one: _Side, other: _Side, first: Ints) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs in which the box of `other` is one of those from `first` on that start before the box of `one` ends."""
    count = np.maximum(np.searchsorted(other.start, one.end, "right") - first, 0)
    total = np.concatenate([[0], np.cumsum(count)])
    borders = np.append(np.searchsorted(total, np.arange(0, total[-1], CHUNK)), len(count))
    for low, high in pairwise(np.unique(borders).tolist()):
        n = count[low:high]
        a = np.repeat(np.arange(low, high), n)
        b = np.arange(len(a)) + np.repeat(first[low:high] - total[low:high] + total[low], n)
        height = np.minimum(one.corners[3][a], other.corners[3][b]) - np.maximum(one.corners[1][a], other.corners[1][b])
        meet = np.flatnonzero(height > 0)
        a, b, height = a[meet], b[meet], height[meet]
        width = np.minimum(one.corners[2][a], other.corners[2][b]) - np.maximum(one.corners[0][a], other.corners[0][b])
        intersection = np.maximum(width, 0) * height
        union = one.area[a] + other.area[b] - intersection
        meet = (intersection > 0) & (union > EPS)
        yield one.row[a[meet]], other.row[b[meet]], intersection[meet] / union[meet]


def assign(sequence: Overlaps, edge: Ints, score: Floats, asked: Mask | None = None) -> Mask:
    """The edges of the assignment with the highest total score, frame by frame.

    `edge` (E',) are the positions of the edges that take part, ascending, with `score` (E',) above 0; the answer is
    (E',). Of equal totals it is the official choice: that of `scipy.optimize.linear_sum_assignment` on the whole matrix
    of the frame, ground truth in rows, both sides in the given order. Where `asked` (E',) is passed, only the answers
    on these edges need be right, which saves time.

    An edge heavier than the sum of the next best of its row and of its column is in every best assignment, since to
    swap it in for both gains. Such edges are taken from all frames at once, their rows and columns leave, and again;
    the solver is asked for the frames where something is left.
    """
    row, column = sequence.edge_true[edge], sequence.edge_result[edge]
    chosen, left = _dominant(row, column, score)
    if asked is not None:
        left = left[asked[left]]
    for here, problem in problems(sequence, edge, sequence.true.frame[row[left]]):
        chosen[here] = solve(*problem, score[here])
    return chosen


def most_meetings(true_track: Ints, result_track: Ints, meetings: Ints) -> int:
    """The highest total of `meetings` (P,) in an assignment of true tracks to result tracks, pair by pair."""
    from scipy.optimize import linear_sum_assignment

    met = np.flatnonzero(meetings)
    chosen, left = _dominant(true_track[met], result_track[met], meetings[met].astype(np.float64))
    total = int(meetings[met[chosen]].sum())
    if len(left):
        _, row = np.unique(true_track[met[left]], return_inverse=True)
        _, column = np.unique(result_track[met[left]], return_inverse=True)
        matrix = np.zeros((row.max() + 1, column.max() + 1))
        matrix[row, column] = meetings[met[left]]
        total += int(matrix[linear_sum_assignment(matrix, maximize=True)].sum())
    return total


def _dominant(row: Ints, column: Ints, score: Floats) -> tuple[Mask, Ints]:
    """(E,) the edges that are in every best assignment because they outweigh their rivals, and the positions of those
    that are left open."""
    chosen = np.zeros(len(score), dtype=np.bool_)
    left = np.arange(len(score))
    while len(left):
        r, c, s = row[left], column[left], score[left]
        sure = outweighs(r, c, s, s)
        if not sure.any():
            break
        chosen[left[sure]] = True
        left = left[~(is_touched(r, sure) | is_touched(c, sure))]
    return chosen, left


def outweighs(row: Ints, column: Ints, low: Floats, high: Floats) -> Mask:
    """(E,) the edges that weigh more than the best rivals of their row and of their column together, though they may
    weigh as little as `low` and the rivals as much as `high`."""
    is_best: Mask = np.logical_and(*(high == _highest(side, high)[side] for side in (row, column)))
    best, others = np.flatnonzero(is_best), np.flatnonzero(~is_best)
    gain = low[best]
    for side in (row, column):
        rival = np.zeros(side.max(initial=-1) + 1)
        np.maximum.at(rival, side[others], high[others])
        rival[np.bincount(side[best], minlength=len(rival)) > 1] = np.inf  # equals: neither is sure
        gain -= rival[side[best]]
    is_best[best] = gain > MARGIN
    return is_best


def _highest(group: Ints, score: Floats) -> Floats:
    highest = np.zeros(group.max(initial=-1) + 1)
    np.maximum.at(highest, group, score)
    return highest


def is_touched(group: Ints, sure: Mask) -> Mask:
    """(E,) the edges that share a group with one of those marked."""
    touched = np.zeros(group.max(initial=-1) + 1, dtype=np.bool_)
    touched[group[sure]] = True
    return np.asarray(touched[group])


def problems(sequence: Overlaps, edge: Ints, frame: Ints) -> Iterator[tuple[slice, Problem]]:
    """For each of the frames, ascending: where its edges are among these, and what `solve` is to be given of them."""
    frames = np.unique(frame)
    row, column = sequence.edge_true[edge], sequence.edge_result[edge]
    sides = (sequence.true.frame, sequence.result.frame, sequence.true.frame[row])
    borders = [np.searchsorted(side, values) for side in sides for values in (frames, frames + 1)]
    for t, t_end, r, r_end, here, end in np.stack(borders, axis=1).tolist():
        yield slice(here, end), ((t_end - t, r_end - r), row[here:end] - t, column[here:end] - r)


def solve(shape: tuple[int, int], row: Ints, column: Ints, score: Floats) -> Mask:
    """(E',) which of the edges of one frame are in its best assignment, by the solver on its matrix of this shape."""
    from scipy.optimize import linear_sum_assignment

    cost, chosen = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    cost[row, column] = -score
    chosen[linear_sum_assignment(cost)] = True
    return chosen[row, column]
