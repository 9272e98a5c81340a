"""Multi-object metrics by the conventions of py-motmetrics, whose names they bear: CLEAR MOT as a log of events.

They differ from `sightline.evaluation.mot`: a pair is held on to however long ago it was matched, as many pairs as can
be come before a higher IoU, tracks are mostly tracked from 0.8 on, and `motp` is a distance, 1 - IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from sightline.evaluation.mot_overlap import Floats, Overlaps, most_meetings

__all__ = ["MotEvents", "combine_events", "mot_events"]

MAX_DISTANCE = 0.5
MOSTLY_TRACKED = 0.8
MOSTLY_LOST = 0.2
FORBIDDEN = 1e6  # above any sum of distances


class MotEvents(NamedTuple):
    """Counts of one sequence, or of several, and the ratios made of them.

    A match of an object to a hypothesis other than its last one is a switch (and no match); it ascends where that
    hypothesis is new. A hypothesis that goes over from another object is a transfer; it migrates where the object is
    new. `distance_sum` is over matches and switches.
    """

    num_objects: int
    num_predictions: int
    num_unique_objects: int
    num_matches: int
    num_switches: int
    num_misses: int
    num_false_positives: int
    num_fragmentations: int
    num_transfer: int
    num_ascend: int
    num_migrate: int
    mostly_tracked: int
    partially_tracked: int
    mostly_lost: int
    idtp: int
    distance_sum: float

    @property
    def num_detections(self) -> int:
        return self.num_matches + self.num_switches

    @property
    def recall(self) -> float:
        return self.num_detections / max(1, self.num_objects)

    @property
    def precision(self) -> float:
        return self.num_detections / max(1, self.num_detections + self.num_false_positives)

    @property
    def mota(self) -> float:
        return 1 - (self.num_misses + self.num_switches + self.num_false_positives) / max(1, self.num_objects)

    @property
    def motp(self) -> float:
        return self.distance_sum / max(1, self.num_detections)

    @property
    def idr(self) -> float:
        return self.idtp / max(1, self.num_objects)

    @property
    def idp(self) -> float:
        return self.idtp / max(1, self.num_predictions)

    @property
    def idf1(self) -> float:
        return 2 * self.idtp / max(1, self.num_objects + self.num_predictions)


def mot_events(sequence: Overlaps) -> MotEvents:
    """Events frame by frame, Bernardin and Stiefelhagen 2008 as py-motmetrics reads it.

    In each frame, in the order of the ground truth, an object takes the hypothesis of its last match if that is there,
    free and within a distance of 0.5; of what is left, as many pairs as can be are matched, for the least distance.
    Where there are no objects or predictions to divide by, ratios are 0 (and `mota` 1 less the errors) instead of nan.
    """
    true, result = sequence.true, sequence.result
    distance = 1 - sequence.iou
    edge = np.flatnonzero(distance <= MAX_DISTANCE)
    row = sequence.edge_true[edge]
    pairs = zip(true.track[row].tolist(), result.track[sequence.edge_result[edge]].tolist(), strict=True)
    pairs_of_frames = groupby(zip(edge.tolist(), true.frame[row].tolist(), pairs, strict=True), key=itemgetter(1))

    matched: list[int] = []
    last_hypothesis: dict[int, int] = {}
    last_object: dict[int, int] = {}
    num_switches = num_transfer = num_ascend = num_migrate = 0
    for _, found in pairs_of_frames:
        here = {pair: at for at, _, pair in found}
        kept = [pair for pair in here if last_hypothesis.get(pair[0]) == pair[1]]
        held = {hypothesis: thing for thing, hypothesis in reversed(kept)}  # of two objects the first keeps it
        matched += (here[thing, hypothesis] for hypothesis, thing in held.items())
        free = [pair for pair in here if pair[0] not in held.values() and pair[1] not in held]
        for thing, hypothesis in _most_pairs(free, distance[[here[pair] for pair in free]]):
            matched.append(here[thing, hypothesis])
            if thing in last_hypothesis:
                num_switches += 1
                num_ascend += hypothesis not in last_object
            if last_object.get(hypothesis, thing) != thing:
                num_transfer += 1
                num_migrate += thing not in last_hypothesis
            last_hypothesis[thing], last_object[hypothesis] = hypothesis, thing

    is_hit = np.zeros(len(true.frame), dtype=np.bool_)
    is_hit[sequence.edge_true[matched]] = True
    by_track = np.argsort(true.track, kind="stable")
    track, hit = true.track[by_track], is_hit[by_track]
    starts = hit & np.append(True, ~hit[:-1] | (np.diff(track) != 0))[: len(hit)]
    hits = np.bincount(track[hit], minlength=true.num_tracks)
    share = hits / np.bincount(track, minlength=true.num_tracks)
    mostly_tracked, at_least_partially = int((share >= MOSTLY_TRACKED).sum()), int((share >= MOSTLY_LOST).sum())

    pair, true_track, result_track = sequence.pairs
    meetings = np.bincount(pair[edge], minlength=len(true_track))
    return MotEvents(
        num_objects=len(true.frame),
        num_predictions=len(result.frame),
        num_unique_objects=true.num_tracks,
        num_matches=len(matched) - num_switches,
        num_switches=num_switches,
        num_misses=len(true.frame) - len(matched),
        num_false_positives=len(result.frame) - len(matched),
        num_fragmentations=int(starts.sum() - (hits > 0).sum()),
        num_transfer=num_transfer,
        num_ascend=num_ascend,
        num_migrate=num_migrate,
        mostly_tracked=mostly_tracked,
        partially_tracked=at_least_partially - mostly_tracked,
        mostly_lost=true.num_tracks - at_least_partially,
        idtp=most_meetings(true_track, result_track, meetings),
        distance_sum=float(distance[matched].sum()),
    )


def combine_events(sequences: Sequence[MotEvents]) -> MotEvents:
    """All counts add up, and the ratios are made of the sums."""
    return MotEvents(*(sum(values) for values in zip(*sequences, strict=True)))


def _most_pairs(free: list[tuple[int, int]], distance: Floats) -> list[tuple[int, int]]:
    """As many of the pairs as can be one to one, for the least total of `distance` (len(free),)."""
    from scipy.optimize import linear_sum_assignment

    things, hypotheses = (list(dict.fromkeys(side)) for side in zip(*free, strict=True)) if free else ([], [])
    if len(free) == len(things) == len(hypotheses):
        return free
    cost = np.full((len(things), len(hypotheses)), FORBIDDEN)
    for (thing, hypothesis), value in zip(free, distance, strict=True):
        cost[things.index(thing), hypotheses.index(hypothesis)] = value
    best = zip(*linear_sum_assignment(cost), strict=True)
    return [(things[row], hypotheses[column]) for row, column in best if cost[row, column] < FORBIDDEN]
