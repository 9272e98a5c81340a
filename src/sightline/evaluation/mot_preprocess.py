"""What a benchmark takes out before it scores: distractors, marked boxes, regions nobody labelled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sightline.datasets.mot_text import KittiRows, MotRows
from sightline.errors import DatasetError
from sightline.evaluation.mot_overlap import EPS, Boxes, Floats, Ints, Overlaps, assign, overlaps
from sightline.geometry.boxes import xywh_to_xyxy

__all__ = [
    "KITTI_DISTRACTORS",
    "MOT_RULES",
    "MotRule",
    "kitti",
    "mot_boxes",
    "motchallenge",
    "motmetrics",
    "preprocess",
]

MATCH = 0.5 - EPS  # IoU from which a result may be matched to what is taken out
CLASSES = (1, 13)  # first and last class of MOTChallenge

KITTI_DISTRACTORS = {"car": ("van",), "pedestrian": ("person", "person_sitting")}
KITTI_MAX_OCCLUDED = 2
KITTI_MAX_TRUNCATED = 0
KITTI_MIN_HEIGHT_PX = 25


class MotRule(NamedTuple):
    """What a MOTChallenge benchmark scores: ground truth with a mark, of these classes; a result that is matched to a
    distractor is taken out. `has_class` says whether the ground truth has a column for it."""

    has_class: bool
    scored: tuple[int, ...] | None
    distractors: tuple[int, ...]


# 1 pedestrian, 2 person on vehicle, 6 non-motorised vehicle, 7 static person, 8 distractor, 12 reflection
MOT_RULES = {
    "MOT15": MotRule(has_class=False, scored=None, distractors=()),
    "MOT16": MotRule(has_class=True, scored=(1,), distractors=(2, 7, 8, 12)),
    "MOT17": MotRule(has_class=True, scored=(1,), distractors=(2, 7, 8, 12)),
    "MOT20": MotRule(has_class=True, scored=(1,), distractors=(2, 6, 7, 8, 12)),
    "DanceTrack": MotRule(has_class=True, scored=(1,), distractors=(2, 7, 8, 12)),
    "none": MotRule(has_class=False, scored=None, distractors=()),  # TrackEval with its preprocessing off
}


def motchallenge(truth: MotRows, result: MotRows, num_frames: int, rule: MotRule) -> Overlaps:
    """The sequence that is scored under a rule of `MOT_RULES`; raises as `overlaps` and `preprocess` do."""
    return preprocess(overlaps(mot_boxes(truth), mot_boxes(result), num_frames), truth, rule)


def motmetrics(truth: MotRows, result: MotRows, num_frames: int) -> Overlaps:
    """The sequence that py-motmetrics scores (see `mot_events`): all ground truth with a mark of 1 or more."""
    sequence = overlaps(mot_boxes(truth), mot_boxes(result), num_frames)
    return sequence.keep((truth.mark >= 1)[sequence.true.given], np.ones(len(result.frame), dtype=np.bool_))


def mot_boxes(rows: MotRows) -> Boxes:
    """The rows of a file as boxes with corners."""
    return Boxes(rows.frame, rows.track_id, xywh_to_xyxy(rows.xywh))


def preprocess(sequence: Overlaps, truth: MotRows, rule: MotRule) -> Overlaps:
    """What a rule leaves of a sequence; `truth` are the rows that its ground truth was made of.

    Per frame, results are assigned to all ground truth, of every class and mark, for the highest total of IoU from 0.5
    up; those that go to a distractor leave. What goes to anything else stays, and may become a false positive. Then
    ground truth leaves that has mark 0 or another class. Raises `DatasetError` for a class outside 1..13 where the rule
    looks at classes.
    """
    kept = truth.mark != 0
    if rule.scored is not None:
        unknown = (truth.class_id < CLASSES[0]) | (truth.class_id > CLASSES[1])
        if unknown.any():
            row = int(unknown.argmax())
            raise DatasetError(
                f"{truth.place(row)}: got class {truth.class_id[row]}; expected {CLASSES[0]}..{CLASSES[1]}. "
                "Correct the line, or leave the preprocessing out (protocol none)."
            )
        kept &= np.isin(truth.class_id, rule.scored)
    is_distractor = np.isin(truth.class_id, rule.distractors)[sequence.true.given]
    strong = np.flatnonzero(sequence.iou >= MATCH)
    asked = is_distractor[sequence.edge_true[strong]]
    chosen = assign(sequence, strong, sequence.iou[strong], asked)
    stays = np.ones(len(sequence.result.frame), dtype=np.bool_)
    stays[sequence.edge_result[strong[chosen & asked]]] = False
    return sequence.keep(kept[sequence.true.given], stays)


def kitti(truth: KittiRows, result: KittiRows, num_frames: int, kind: str) -> Overlaps:
    """The sequence that is scored for one class of KITTI tracking, "car" or "pedestrian".

    Results of the class are assigned per frame to ground truth of the class and of its distractor, for the highest
    total of IoU from 0.5 up. A result that goes to a distractor, or to a box that is occluded by more than 2 or
    truncated, leaves; so does one that goes nowhere and is at most 25 px high or lies by more than half of its area in
    one `dontcare` region. Raises `DatasetError` for another class, and as `overlaps` does.
    """
    if kind not in KITTI_DISTRACTORS:
        raise DatasetError(f"KITTI class: got {kind!r}; expected one of {sorted(KITTI_DISTRACTORS)}. Choose one.")
    is_true = (truth.track_id >= 0) & np.isin(truth.kind, (kind, *KITTI_DISTRACTORS[kind]))
    is_result = (result.track_id >= 0) & (result.kind == kind)
    true_boxes, result_boxes = (
        Boxes(rows.frame[mask], rows.track_id[mask], rows.xyxy[mask])
        for rows, mask in ((truth, is_true), (result, is_result))
    )
    sequence = overlaps(true_boxes, result_boxes, num_frames)
    true_row = np.flatnonzero(is_true)[sequence.true.given]
    result_row = np.flatnonzero(is_result)[sequence.result.given]
    scored = (
        (truth.kind[true_row] == kind)
        & (truth.occluded[true_row] <= KITTI_MAX_OCCLUDED)
        & (truth.truncated[true_row] <= KITTI_MAX_TRUNCATED)
    )
    strong = np.flatnonzero(sequence.iou >= MATCH)
    matched = strong[assign(sequence, strong, sequence.iou[strong])]
    goes_to_scored = np.zeros(len(result_row), dtype=np.bool_)
    goes_nowhere = np.ones(len(result_row), dtype=np.bool_)
    goes_to_scored[sequence.edge_result[matched]] = scored[sequence.edge_true[matched]]
    goes_nowhere[sequence.edge_result[matched]] = False
    xyxy = result.xyxy[result_row]
    is_small = xyxy[:, 3] - xyxy[:, 1] <= KITTI_MIN_HEIGHT_PX + EPS
    is_region = truth.kind == "dontcare"
    lies_in_region = (
        _share_inside(sequence.result.frame, xyxy, truth.frame[is_region], truth.xyxy[is_region]) > 0.5 + EPS
    )
    return sequence.keep(scored, goes_to_scored | (goes_nowhere & ~is_small & ~lies_in_region))


def _share_inside(frame: Ints, xyxy: Floats, region_frame: Ints, region_xyxy: Floats) -> Floats:
    """(N,) share of each box's own area inside the region of its frame that covers most of it; `frame` ascends."""
    first, end = (np.searchsorted(frame, region_frame, side) for side in ("left", "right"))
    region = np.repeat(np.arange(len(region_frame)), end - first)
    box = np.arange(len(region)) - np.repeat(np.cumsum(end - first) - end, end - first)
    a, b = xyxy[box], region_xyxy[region]
    size = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None)
    area = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    share = np.zeros(len(frame))
    has_area = area > EPS
    np.maximum.at(share, box[has_area], (size[:, 0] * size[:, 1])[has_area] / area[has_area])
    return share
