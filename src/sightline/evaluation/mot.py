"""Multi-object metrics of one sequence and of several together: HOTA, CLEAR and Identity, TrackEval's to the digit.

Each takes an `Overlaps`: the boxes that the preprocessing of a benchmark leaves (`mot_preprocess`), and their overlaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.evaluation.mot_overlap import (
    EPS,
    Floats,
    Ints,
    Mask,
    Overlaps,
    assign,
    is_touched,
    most_meetings,
    outweighs,
    problems,
    solve,
)

ALPHAS = 0.05 + 0.05 * np.arange(19)
MATCH = 0.5  # IoU from which CLEAR and Identity match
MOSTLY_TRACKED = 0.8
MOSTLY_LOST = 0.2
PASSES = 3  # over all frames, for what is certain; after that, single frames are faster


class Count(NamedTuple):
    """Boxes and identities that were scored."""

    dets: int
    gt_dets: int
    ids: int
    gt_ids: int
    frames: int


class Hota(NamedTuple):
    """HOTA and its factors, each (19,) over the thresholds `ALPHAS`.

    `tp`, `fn`, `fp` are detections; `ass_a`, `ass_re`, `ass_pr` the mean association accuracy, recall and precision of
    true positives; `loc_a` their mean IoU, 1 where there are none.
    """

    tp: Floats
    fn: Floats
    fp: Floats
    ass_a: Floats
    ass_re: Floats
    ass_pr: Floats
    loc_a: Floats

    @property
    def det_re(self) -> Floats:
        return self.tp / np.maximum(1, self.tp + self.fn)

    @property
    def det_pr(self) -> Floats:
        return self.tp / np.maximum(1, self.tp + self.fp)

    @property
    def det_a(self) -> Floats:
        return self.tp / np.maximum(1, self.tp + self.fn + self.fp)

    @property
    def hota(self) -> Floats:
        return np.sqrt(self.det_a * self.ass_a)

    @property
    def owta(self) -> Floats:
        return np.sqrt(self.det_re * self.ass_a)


class Clear(NamedTuple):
    """CLEAR MOT counts at IoU 0.5, and the ratios made of them.

    `motp_sum` is the sum of the matches' IoU. `is_void` marks a sequence without ground truth, which the official
    evaluator does not score: its ratios are 0 and `mlr` is 1, whatever the formulas would give.
    """

    tp: int
    fn: int
    fp: int
    idsw: int
    mt: int
    pt: int
    ml: int
    frag: int
    frames: int
    motp_sum: float
    is_void: bool = False

    def ratio(self, part: float, whole: float) -> float:
        return 0.0 if self.is_void else part / max(1, whole)

    @property
    def recall(self) -> float:
        return self.ratio(self.tp, self.tp + self.fn)

    @property
    def precision(self) -> float:
        return self.ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> float:
        return self.ratio(self.tp, self.tp + self.fn / 2 + self.fp / 2)

    @property
    def moda(self) -> float:
        return self.ratio(self.tp - self.fp, self.tp + self.fn)

    @property
    def mota(self) -> float:
        return self.ratio(self.tp - self.fp - self.idsw, self.tp + self.fn)

    @property
    def motal(self) -> float:
        """MOTA with the logarithm of the switches; no switch and one switch count alike."""
        return self.ratio(self.tp - self.fp - log10(max(1, self.idsw)), self.tp + self.fn)

    @property
    def smota(self) -> float:
        return self.ratio(self.motp_sum - self.fp - self.idsw, self.tp + self.fn)

    @property
    def motp(self) -> float:
        """Mean IoU of the matches (py-motmetrics' `motp` is a mean distance)."""
        return self.ratio(self.motp_sum, self.tp)

    @property
    def mtr(self) -> float:
        return self.ratio(self.mt, self.mt + self.pt + self.ml)

    @property
    def ptr(self) -> float:
        return self.ratio(self.pt, self.mt + self.pt + self.ml)

    @property
    def mlr(self) -> float:
        return 1.0 if self.is_void else self.ratio(self.ml, self.mt + self.pt + self.ml)

    @property
    def fp_per_frame(self) -> float:
        return self.ratio(self.fp, self.frames)


class Identity(NamedTuple):
    """Detections on the best one-to-one assignment of whole tracks, and the ratios made of them."""

    idtp: int
    idfn: int
    idfp: int

    @property
    def idr(self) -> float:
        return self.idtp / max(1, self.idtp + self.idfn)

    @property
    def idp(self) -> float:
        return self.idtp / max(1, self.idtp + self.idfp)

    @property
    def idf1(self) -> float:
        return self.idtp / max(1, self.idtp + self.idfp / 2 + self.idfn / 2)


# TrackEval's names, and ours
FIELDS = {
    "counts": {"Dets": "dets", "GT_Dets": "gt_dets", "IDs": "ids", "GT_IDs": "gt_ids", "Frames": "frames"},
    "hota": {
        "HOTA": "hota",
        "DetA": "det_a",
        "AssA": "ass_a",
        "DetRe": "det_re",
        "DetPr": "det_pr",
        "AssRe": "ass_re",
        "AssPr": "ass_pr",
        "LocA": "loc_a",
        "OWTA": "owta",
        "HOTA_TP": "tp",
        "HOTA_FN": "fn",
        "HOTA_FP": "fp",
    },
    "clear": {
        "MOTA": "mota",
        "MOTP": "motp",
        "MODA": "moda",
        "CLR_Re": "recall",
        "CLR_Pr": "precision",
        "MTR": "mtr",
        "PTR": "ptr",
        "MLR": "mlr",
        "sMOTA": "smota",
        "CLR_F1": "f1",
        "FP_per_frame": "fp_per_frame",
        "MOTAL": "motal",
        "MOTP_sum": "motp_sum",
        "CLR_TP": "tp",
        "CLR_FN": "fn",
        "CLR_FP": "fp",
        "IDSW": "idsw",
        "MT": "mt",
        "PT": "pt",
        "ML": "ml",
        "Frag": "frag",
        "CLR_Frames": "frames",
    },
    "identity": {"IDF1": "idf1", "IDR": "idr", "IDP": "idp", "IDTP": "idtp", "IDFN": "idfn", "IDFP": "idfp"},
}


class MotScores(NamedTuple):
    """Everything that is measured on a sequence, or on several together."""

    counts: Count
    hota: Hota
    clear: Clear
    identity: Identity

    def fields(self) -> dict[str, float | Floats]:
        """All values under TrackEval's names; those of HOTA are (19,), but for the three of alpha 0.05."""
        values = {
            name: getattr(getattr(self, metric), ours)
            for metric, names in FIELDS.items()
            for name, ours in names.items()
        }
        hota, loc_a = self.hota.hota[0], self.hota.loc_a[0]
        return {**values, "HOTA(0)": hota, "LocA(0)": loc_a, "HOTALocA(0)": hota * loc_a}

    def summary(self) -> dict[str, float]:
        """One number for each name: of HOTA's values the mean over the thresholds."""
        return {name: float(np.mean(value)) for name, value in self.fields().items()}


def mot_scores(sequence: Overlaps) -> MotScores:
    """All metrics of one sequence."""
    return MotScores(count(sequence), hota(sequence), clear(sequence), identity(sequence))


def combine(scores: Sequence[MotScores]) -> MotScores:
    """Several sequences, at least one, as one: counts add up and ratios are made of the sums. TrackEval's COMBINED."""
    return MotScores(
        Count(*(sum(values) for values in zip(*(one.counts for one in scores), strict=True))),
        combine_hota([one.hota for one in scores]),
        combine_clear([one.clear for one in scores]),
        Identity(*(sum(values) for values in zip(*(one.identity for one in scores), strict=True))),
    )


def count(sequence: Overlaps) -> Count:
    true, result = sequence.true, sequence.result
    return Count(len(result.frame), len(true.frame), result.num_tracks, true.num_tracks, sequence.num_frames)


def hota(sequence: Overlaps) -> Hota:
    """Higher order tracking accuracy, Luiten et al. 2021.

    With S the IoU of two boxes of a frame, n_i and m_j the lengths of the tracks: the alignment of two tracks is
    G_ij = P_ij / (n_i + m_j - P_ij), P_ij the sum over frames of S / (sum of S over the row + over the column - S).
    One assignment per frame maximises the sum of G S, for all thresholds at once. A pair of it is a true positive at
    alpha if S >= alpha. With C_ij the true positives of two tracks, A = C / (n_i + m_j - C) and
    AssA = sum of C A / TP, AssRe with C / n_i, AssPr with C / m_j; DetA = TP / (TP + FN + FP), HOTA = sqrt(DetA AssA),
    OWTA = sqrt(DetRe AssA).
    """
    true, result, iou = sequence.true, sequence.result, sequence.iou
    row_sum = np.bincount(sequence.edge_true, iou, len(true.frame))[sequence.edge_true]
    column_sum = np.bincount(sequence.edge_result, iou, len(result.frame))[sequence.edge_result]
    union = column_sum + row_sum - iou
    pair, true_track, result_track = sequence.pairs
    lengths = np.bincount(true.track)[true_track] + np.bincount(result.track)[result_track]
    shared = np.bincount(pair, np.where(union > EPS, iou / union, 0), len(lengths))
    alignment = shared / (lengths - shared)
    score = alignment[pair] * iou
    weighed = np.flatnonzero(score > 0)
    chosen = weighed[assign(sequence, weighed, score[weighed])]

    passed = np.searchsorted(ALPHAS - EPS, iou[chosen], "right")  # thresholds that a pair is a true positive at
    tp = _from_above(np.bincount(passed, minlength=20))
    loc_sum = _from_above(np.bincount(passed, iou[chosen], 20))
    pairs, pair = np.unique(pair[chosen], return_inverse=True)
    c = _from_above(np.bincount(pair * 20 + passed, minlength=20 * len(pairs)).reshape(-1, 20))
    n = np.bincount(true.track)[true_track[pairs], None]
    m = np.bincount(result.track)[result_track[pairs], None]
    ass_a, ass_re, ass_pr = ((c * c / np.maximum(1, d)).sum(axis=0) / np.maximum(1, tp) for d in (n + m - c, n, m))
    return Hota(tp, len(true.frame) - tp, len(result.frame) - tp, ass_a, ass_re, ass_pr, _location(loc_sum, tp))


def combine_hota(sequences: Sequence[Hota]) -> Hota:
    """Detections add up, association is weighed by true positives; the rest is made of the sums."""
    tp, fn, fp, ass_a, ass_re, ass_pr, loc_a = (np.stack(values) for values in zip(*sequences, strict=True))
    total = tp.sum(axis=0)
    ass_a, ass_re, ass_pr = ((value * tp).sum(axis=0) / np.maximum(1, total) for value in (ass_a, ass_re, ass_pr))
    loc_a = _location((loc_a * tp).sum(axis=0), total)
    return Hota(total, fn.sum(axis=0), fp.sum(axis=0), ass_a, ass_re, ass_pr, loc_a)


def _from_above(histogram: NDArray[np.generic]) -> Floats:
    """How many passed at least the first, second .. threshold; the last axis has those that passed 0, 1, .. 19."""
    return np.cumsum(histogram[..., :0:-1], axis=-1, dtype=np.float64)[..., ::-1]


def _location(loc_sum: Floats, tp: Floats) -> Floats:
    return np.asarray(np.maximum(1e-10, loc_sum) / np.maximum(1e-10, tp))


def clear(sequence: Overlaps) -> Clear:
    """CLEAR MOT, Bernardin and Stiefelhagen 2008, with the matching of the MOTChallenge.

    In each frame, pairs of IoU 0.5 or more that were matched in the frame before stay matched; the others are assigned
    for the highest total IoU. Frames in which either side is empty do not count as a frame before. A switch is a match
    of a true track to another result track than its last match, however long ago; a fragmentation, a match after a
    frame without one. Tracks are mostly tracked above 0.8 of their length, mostly lost below 0.2.
    """
    true, result = sequence.true, sequence.result
    if not len(true.frame) or not len(result.frame):
        empty = Clear(0, len(true.frame), len(result.frame), 0, 0, 0, true.num_tracks, 0, 0, 0.0)
        return empty._replace(is_void=not len(true.frame))
    edge = np.flatnonzero(sequence.iou >= MATCH - EPS)
    step = np.searchsorted(np.intersect1d(true.frame, result.frame), true.frame[sequence.edge_true[edge]])
    matched = _matches_in_time(sequence, edge, step)
    edge, step = edge[matched], step[matched]

    track = true.track[sequence.edge_true[edge]]
    hits = np.bincount(track, minlength=true.num_tracks)
    share = hits / np.bincount(true.track)
    mt, tracked = int((share > MOSTLY_TRACKED).sum()), int((share >= MOSTLY_LOST).sum())

    in_time = np.argsort(track, kind="stable")  # edges are ordered by frame
    is_same_track = np.diff(track[in_time]) == 0
    has_switched = np.diff(result.track[sequence.edge_result[edge[in_time]]]) != 0
    has_gap = np.diff(step[in_time]) > 1
    return Clear(
        tp=len(edge),
        fn=len(true.frame) - len(edge),
        fp=len(result.frame) - len(edge),
        idsw=int((is_same_track & has_switched).sum()),
        mt=mt,
        pt=tracked - mt,
        ml=true.num_tracks - tracked,
        frag=int((is_same_track & has_gap).sum()),
        frames=sequence.num_frames,
        motp_sum=float(sequence.iou[edge].sum()),
    )


def _matches_in_time(sequence: Overlaps, edge: Ints, step: Ints) -> Mask:
    """(E',) which of these edges, of IoU 0.5 or more, are matched when each step holds on to the matches of the last.

    What is certain goes first, for all frames at once: a pair of tracks that was matched a step before is matched, and
    so through a whole run of steps; an edge that outweighs its rivals, whether they were matched before or not, is
    matched; the rivals of a matched edge are not. The frames in which an edge is left open are solved in order.
    """
    row, column, iou = sequence.edge_true[edge], sequence.edge_result[edge], sequence.iou[edge]
    moment = sequence.pairs[0][edge] * (len(sequence.true.frame) + 1) + step
    order = np.argsort(moment)
    starts_run = np.diff(moment[order], prepend=-2) != 1
    run = np.cumsum(starts_run) - 1
    before = np.empty_like(order)
    before[order] = np.where(starts_run, -1, np.append(-1, order[:-1]))

    matched = np.zeros(len(edge) + 1, dtype=np.bool_)  # the last stands for "no edge before"
    is_open = np.append(np.ones(len(edge), dtype=np.bool_), False)
    for _ in range(PASSES):
        left = np.flatnonzero(is_open)
        low = iou[left] + 1000 * matched[before[left]]
        high = iou[left] + 1000 * (matched | is_open)[before[left]]
        matched[left[outweighs(row[left], column[left], low, high)]] = True
        up_to_here = np.cumsum(matched[order])
        matched[order] = up_to_here > (up_to_here - matched[order])[starts_run][run]
        is_open[:-1] = ~(is_touched(row, matched[:-1]) | is_touched(column, matched[:-1]))
    for here, problem in problems(sequence, edge, sequence.true.frame[row[is_open[:-1]]]):
        matched[:-1][here] = solve(*problem, iou[here] + 1000 * matched[before[here]])
    return matched[:-1]


def combine_clear(sequences: Sequence[Clear]) -> Clear:
    """All counts add up, and the ratios are made of the sums."""
    *sums, _ = (sum(values) for values in zip(*sequences, strict=True))
    return Clear(*sums)


def identity(sequence: Overlaps) -> Identity:
    """Identity scores, Ristani et al. 2016: true tracks and result tracks are assigned one to one as wholes, so that
    they meet with an IoU of 0.5 or more in as many frames as can be; IDTP is that number."""
    pair, true_track, result_track = sequence.pairs
    meetings = np.bincount(pair[sequence.iou >= MATCH], minlength=len(true_track))
    idtp = most_meetings(true_track, result_track, meetings)
    return Identity(idtp, len(sequence.true.frame) - idtp, len(sequence.result.frame) - idtp)
