"""Tracks in federated video, TAO (Dave et al. 2020): track AP, and HOTA, CLEAR and Identity per class.

Only annotated frames are looked at. Of a video and a category that it neither shows nor lists as negative nothing is
known, so nothing counts there.
Legend of shapes: F found tracks  G true tracks  A ranges of size  T thresholds of IoU  C categories
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.tao_json import Boxes, GroundTruth, find
from sightline.errors import DatasetError
from sightline.evaluation.average_precision import (
    AREAS_PX2,
    EPS,
    THRESHOLDS,
    Cells,
    Found,
    Pairs,
    Sought,
    average_precision,
    best_per_image,
    excused,
    is_outside,
    mean,
    must_be_annotated,
    overlap,
    pairs_of_equal,
    ratio,
    running_count,
)
from sightline.evaluation.mot import MATCH, MotScores, combine, mot_scores
from sightline.evaluation.mot_overlap import Boxes as FrameBoxes
from sightline.evaluation.mot_overlap import Overlaps, assign, overlaps
from sightline.geometry.boxes import xywh_to_xyxy

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]

MOST_PER_IMAGE = 300  # boxes, over all categories
LENGTHS = {"": (0, 1e5), "s": (0, 3), "m": (3, 10), "l": (10, 1e5)}  # boxes; both ends belong to a range

# A track is in a range by its mean area and its number of boxes; the two are never crossed.
RANGES = {
    "": (AREAS_PX2[""], LENGTHS[""]),
    **{f"_area_{name}": (AREAS_PX2[name], LENGTHS[""]) for name in "sml"},
    **{f"_time_{name}": (AREAS_PX2[""], LENGTHS[name]) for name in "sml"},
}


@dataclass(frozen=True, eq=False)
class TrackRule:
    """Where the published evaluators of track AP differ from each other, and from what one would want."""

    thresholds: Floats
    names_thresholds: bool = True  # else AP50 and AP75 are absent: a list, compared with a number, selects nothing
    slack: float = 0.0  # an IoU counts from threshold - slack on; ranges are wider by as much
    states_area: bool = True  # of a true box, maybe that of its mask; else w * h
    keeps_flat_boxes: bool = False  # boxes without an area
    rounds_equal_scores: bool = False  # the mean of n equal scores is computed, and may differ from them by rounding
    frees_id_zero: bool = False  # a found track of id 0 (in one video only) leaves its true one to others as well
    lists_all_categories: bool = True  # else only those with true tracks
    pools_by_name: bool = False  # of the video ("-" for "/"), not by its id: equal scores keep this order


SANE = TrackRule(THRESHOLDS)
TOOLKIT = TrackRule(np.array([0.5]), names_thresholds=False, frees_id_zero=True)
TRACKEVAL = TrackRule(
    np.arange(0.5, 0.96, 0.05),
    slack=EPS,
    states_area=False,
    keeps_flat_boxes=True,
    rounds_equal_scores=True,
    frees_id_zero=True,
    lists_all_categories=False,
    pools_by_name=True,
)
RULES = {
    "sane": SANE,
    "toolkit": TOOLKIT,  # its list of thresholds as it stands
    "toolkit-array": replace(TOOLKIT, names_thresholds=True),  # the same list as an array
    "trackeval": TRACKEVAL,
}


@dataclass(frozen=True, eq=False)
class TrackAp:
    """`ap` and `recall` (A, T, C); A are the rows of `RANGES`, C ascending ids. nan where a category has no true track
    in a range: it is left out of means."""

    rule: TrackRule
    category: Ids
    name: tuple[str, ...]
    ap: Floats
    recall: Floats

    def summary(self) -> dict[str, float]:
        """AP, AP50, AP75, AP_area_s .. AP_time_l, and AR likewise: means over thresholds and categories, nan of
        nothing."""
        line = {"AP": mean(self.ap[0])}
        for t in (0.5, 0.75):
            is_it = np.isclose(self.rule.thresholds, t) & self.rule.names_thresholds
            line[f"AP{100 * t:.0f}"] = mean(self.ap[0, is_it])
        line |= {f"AP{name}": mean(self.ap[row]) for row, name in enumerate(RANGES) if row}
        return line | {f"AR{name}": mean(self.recall[row]) for row, name in enumerate(RANGES)}


def track_ap(truth: GroundTruth, results: Boxes, rule: TrackRule = SANE, iou: TrackIou | None = None) -> TrackAp:
    """Average precision of tracks per category; `iou` is one of `TRACK_IOUS`, by default `iou_3d`.

    `results` are boxes with tracks; `score` of a track is the mean of its boxes'. Tracks are matched greedily within a
    (video, category), as boxes are in an image, and pooled over videos. Found tracks that stay unmatched do not count
    where their own size is out of range, or the category is not exhaustively annotated in the video. Equal scores keep
    the order in which tracks begin in the results (images in the order of their first boxes). Raises `DatasetError` for
    an image that is not annotated, and for a track that changes its category.
    """
    must_have_tracks(truth, results)
    results = results.take(best_per_image(results, MOST_PER_IMAGE))
    found, true = tracks_of(truth, results, rule), tracks_of(truth, truth.boxes, rule)
    rows = sorted(row for row in truth.categories if rule.lists_all_categories or row.id in true.category)
    category = np.array([row.id for row in rows], dtype=np.int64)
    by_name = np.argsort([name.replace("/", "-") for name in truth.video_name], kind="stable")
    cells = Cells(truth.video[by_name] if rule.pools_by_name else np.sort(truth.video), category)
    true_cell, cell = cells(true.video, true.category), cells(found.video, found.category)
    is_excused = excused(truth, cells, true_cell, cell)
    is_zero = found.id == 0
    leaves_open = is_zero & (is_zero.sum() == 1) & rule.frees_id_zero
    areas, lengths = (np.array([row[kind] for row in RANGES.values()]) for kind in (0, 1))

    def is_out(tracks: Tracks) -> Flags:
        return is_outside(tracks.area, areas, rule.slack) | is_outside(tracks.length, lengths, rule.slack)

    common = common_images(found, true)
    ap, recall = average_precision(
        Found(cell, found.score, is_excused | is_out(found)),
        Sought(true_cell, is_out(true)),
        Pairs(common.found, common.true, (iou or iou_3d)(common), ~leaves_open[common.found]),
        rule.thresholds - rule.slack,
        len(rows),
        most=(np.inf,),
    )
    return TrackAp(rule, category, tuple(row.name for row in rows), ap, recall[0])


# HOTA, CLEAR and Identity, class by class


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores of each category with true tracks, ascending ids, over all videos; and of all categories as one: every
    box weighs the same (`over_boxes`), or every category does (`over_classes`)."""

    category: Ids
    name: tuple[str, ...]
    scores: tuple[MotScores, ...]

    def over_boxes(self) -> MotScores:
        """Counts add up, ratios are made of the sums (TrackEval's cls_comb_det_av)."""
        return combine(self.scores)

    def over_classes(self) -> dict[str, float | Floats]:
        """Counts add up, all else is a plain mean, by TrackEval's names (cls_comb_cls_av)."""
        fields = [scores.fields() for scores in self.scores]
        together = {name: np.sum(np.stack([row[name] for row in fields]), axis=0) for name in fields[0]}
        return {name: total if name in COUNTS else total / len(fields) for name, total in together.items()}


# The fields that are counts; the sum of IoUs is averaged like a ratio.
COUNTS = {"Dets", "GT_Dets", "IDs", "GT_IDs", "Frames", "HOTA_TP", "HOTA_FN", "HOTA_FP", "CLR_TP", "CLR_FN", "CLR_FP"}
COUNTS |= {"IDSW", "MT", "PT", "ML", "Frag", "CLR_Frames", "IDTP", "IDFN", "IDFP"}


def federated_mot(truth: GroundTruth, results: Boxes) -> ClassScores:
    """HOTA, CLEAR and Identity of each category, on annotated frames, as TrackEval defines them for TAO.

    A frame is an image with a true box of any category; what is found on others is dropped. Where a found box matches
    no true one of its category (IoU 0.5), it is a false positive only if the category has a true box in that very frame
    or is listed as negative for the video, and is not listed as not exhaustive; otherwise it is removed. The frames of
    CLEAR are all images of the videos in which both sides have boxes of the category. Raises `DatasetError` like
    `track_ap`, for a track with two boxes in a frame, and where there is no true box at all.
    """
    must_have_tracks(truth, results)
    if not len(truth.boxes):
        raise DatasetError("tracks: got ground truth without boxes; expected some. Name another file.")
    results = results.take(best_per_image(results, MOST_PER_IMAGE))
    true, found = in_time(truth, truth.boxes), in_time(truth, results.take(np.isin(results.image, truth.boxes.image)))
    rows = sorted(row for row in truth.categories if row.id in true.category)
    sequences = (federated_sequence(truth, row.id, true.of(row.id), found.of(row.id)) for row in rows)
    return ClassScores(
        np.array([row.id for row in rows], dtype=np.int64),
        tuple(row.name for row in rows),
        tuple(mot_scores(sequence) for sequence in sequences),
    )


class InTime(NamedTuple):
    """Boxes in the order of videos and frames; `frame` numbers the images in that order, `id` the tracks."""

    frame: Ids
    video: Ids
    category: Ids
    id: Ids
    xyxy: Floats

    def of(self, category: int) -> InTime:
        is_it = self.category == category
        return InTime(*(column[is_it] for column in self))


def in_time(truth: GroundTruth, boxes: Boxes) -> InTime:
    """The boxes of all videos one after the other, equal frames in the given order."""
    when = np.argsort(np.lexsort((truth.frame_index, truth.image_video)))  # of each image
    image = find(truth.image, boxes.image)
    order = np.argsort(when[image], kind="stable")
    boxes, image = boxes.take(order), image[order]
    again = np.flatnonzero(running_count(numbered(boxes.image, boxes.track)))
    if len(again):
        raise DatasetError(
            f"image {boxes.image[again[0]]}: got track {boxes.track[again[0]]} twice; expected one box per track. "
            "Leave one out."
        )
    video, category = truth.image_video[image], merged_category(truth, boxes.category)
    return InTime(when[image], video, category, numbered(video, boxes.track), xywh_to_xyxy(boxes.xywh))


def federated_sequence(truth: GroundTruth, category: int, true: InTime, found: InTime) -> Overlaps:
    """All videos as one sequence of one category, without the found boxes that do not count."""
    true_boxes, found_boxes = (FrameBoxes(side.frame, side.id, side.xyxy) for side in (true, found))
    sequence = overlaps(true_boxes, found_boxes, len(truth.image))

    def is_listed(pairs: Ids) -> Flags:
        return np.isin(found.video, pairs[pairs[:, 1] == category, 0])

    edge = np.flatnonzero(sequence.iou >= MATCH - EPS)
    is_matched = np.zeros(len(found.frame), dtype=bool)
    is_matched[sequence.edge_result[edge[assign(sequence, edge, sequence.iou[edge])]]] = True
    is_known = np.isin(found.frame, true.frame) | (truth.negative is None or is_listed(truth.negative))
    counts = is_matched | (is_known & ~is_listed(truth.not_exhaustive))
    has_both = np.isin(truth.image_video, np.intersect1d(true.video, found.video[counts]))
    sequence = sequence.keep(np.ones(len(true.frame), dtype=bool), counts)
    return replace(sequence, num_frames=int(has_both.sum()))


def numbered(unit: Ids, key: Ids) -> Ids:
    """One number for each pair that occurs of a unit and a key, say of a video and the id of a track."""
    _, first = np.unique(unit, return_inverse=True)
    keys, second = np.unique(key, return_inverse=True)
    return np.asarray(first * len(keys) + second)


# Tracks, and what two have in common


def must_have_tracks(truth: GroundTruth, results: Boxes) -> None:
    """Raise `DatasetError` unless both are of videos, and the results of annotated images."""
    if not len(truth.video) or (results.track < 0).any():
        which = "results without track ids" if len(truth.video) else "ground truth without videos"
        raise DatasetError(f"tracks: got {which}; expected TAO's layout. Evaluate boxes, or name another file.")
    must_be_annotated(truth, results)


class Tracks(NamedTuple):
    """K tracks in the order in which they begin, and their B boxes, one per image."""

    video: Ids
    id: Ids
    category: Ids
    score: Floats  # (K,) as are all so far
    length: Ids  # number of boxes, of one image maybe several
    area: Floats  # mean, square pixels
    track: Ids  # (B,) of a box: the number of its track
    image: Ids
    xywh: Floats


def tracks_of(truth: GroundTruth, boxes: Boxes, rule: TrackRule) -> Tracks:
    """The tracks of ground truth or results, each of one video and category; where a track has several boxes in an
    image, the last one is its box. A category that is merged into another counts as that one."""
    size = boxes.xywh[:, 2] * boxes.xywh[:, 3]
    area = boxes.area if rule.states_area else size
    if not rule.keeps_flat_boxes:
        boxes, area = boxes.take(size > 0), area[size > 0]
    image = find(truth.image, boxes.image)
    video, category = truth.image_video[image], merged_category(truth, boxes.category)
    _, first, inverse = np.unique(numbered(video, boxes.track), return_index=True, return_inverse=True)
    track = np.argsort(np.argsort(first))[inverse]
    first = np.sort(first)
    if (category != category[first][track]).any():
        row = int(np.argmax(category != category[first][track]))
        raise DatasetError(
            f"track {boxes.track[row]} of video {video[row]}: got categories {category[first][track][row]} and "
            f"{category[row]}; expected one per track. Split the track."
        )
    order = np.lexsort((image, truth.frame_index[image], track))
    track, image, area, score = track[order], image[order], area[order], boxes.score[order]
    length = np.bincount(track, minlength=len(first))
    start = np.cumsum(length) - length
    # Not by bincount: another order of summation rounds otherwise, and breaks ties between tracks otherwise.
    mean_score = np.array([score[low : low + n].mean() for low, n in zip(start, length, strict=True)], dtype=np.float64)
    if not rule.rounds_equal_scores:
        low, high = np.minimum.reduceat(score, start), np.maximum.reduceat(score, start)
        mean_score = np.where(low == high, low, mean_score)
    is_last = np.append((track[1:] != track[:-1]) | (image[1:] != image[:-1]), True)[: len(track)]
    return Tracks(
        video[first],
        boxes.track[first],
        category[first],
        mean_score,
        length,
        np.bincount(track, area, len(first)) / length,
        track[is_last],
        image[is_last],
        boxes.xywh[order][is_last],
    )


class Common(NamedTuple):
    """P pairs of a found and a true track of one category that share images, E in all."""

    found: Ids  # (P,)
    true: Ids
    num_images: Ids  # that have a box of either
    volume: Floats  # areas of all boxes of both
    pair: Ids  # (E,) of a shared image: the number of its pair
    intersection: Floats
    union: Floats

    def total(self, values: NDArray[np.float64 | np.bool_]) -> Floats:
        """(P,) sums over the shared images."""
        return np.bincount(self.pair, values, len(self.found)).astype(np.float64)


TrackIou = Callable[[Common], Floats]


def common_images(found: Tracks, true: Tracks) -> Common:
    """All pairs of tracks of one category with an image in common."""
    cells = Cells(np.union1d(found.image, true.image), np.union1d(found.category, true.category))
    f_box, t_box = pairs_of_equal(*(cells(side.image, side.category[side.track]) for side in (found, true)))
    code, pair = np.unique(found.track[f_box] * len(true.id) + true.track[t_box], return_inverse=True)
    f, t = np.divmod(code, max(1, len(true.id)))
    intersection, union = overlap(found.xywh[f_box], true.xywh[t_box])
    return Common(
        f,
        t,
        num_images(found)[f] + num_images(true)[t] - np.bincount(pair, minlength=len(code)),
        volume(found)[f] + volume(true)[t],
        pair,
        intersection,
        union,
    )


def num_images(tracks: Tracks) -> Ids:
    """(K,) of each track."""
    return np.bincount(tracks.track, minlength=len(tracks.id))


def volume(tracks: Tracks) -> Floats:
    """(K,) the sum of the areas of a track's boxes, square pixels times images."""
    area = tracks.xywh[:, 2] * tracks.xywh[:, 3]
    return np.bincount(tracks.track, area, len(tracks.id)).astype(np.float64)


def iou_3d(common: Common) -> Floats:
    """Intersections of all images over unions of all images, lone boxes counting as unions (Yang et al. 2019,
    YouTube-VIS)."""
    intersection = common.total(common.intersection)
    return ratio(intersection, common.volume - intersection)


def iou_average(common: Common) -> Floats:
    """Mean over all images of either of the IoU, 0 where only one has a box."""
    return common.total(ratio(common.intersection, common.union)) / common.num_images


def iou_imagenet_vid(common: Common) -> Floats:
    """Share of all images of either with an IoU above 0.5 (the rule of ImageNet VID for tracks)."""
    return common.total(common.intersection > 0.5 * common.union) / common.num_images


TRACK_IOUS: dict[str, TrackIou] = {
    "3d_iou": iou_3d,  # TAO's own
    "avg_iou": iou_average,
    "imagenetvid": iou_imagenet_vid,
}


def merged_category(truth: GroundTruth, category: Ids) -> Ids:
    """The category that each counts as; lists of negative and not exhaustive categories are taken as they are."""
    names = {other: row.id for row in truth.categories for other in row.merged}
    position = find(np.array(list(names), dtype=np.int64), category)
    return np.where(position < 0, category, np.array([*names.values(), -1], dtype=np.int64)[position])
