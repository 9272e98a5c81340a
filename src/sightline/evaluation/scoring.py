"""From what trackers said, and what is true, to a `Report`: for one target, for many, and for JSON benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import Clip
from sightline.datasets.mot_text import KittiRows, MotRows
from sightline.datasets.tao_json import Boxes, GroundTruth
from sightline.errors import DatasetError
from sightline.evaluation import average_precision, mot, mot_preprocess, sot, tao
from sightline.evaluation.bootstrap import RESAMPLES, Interval, bootstrap, paired_difference
from sightline.evaluation.mot import Clear, Hota, Identity, MotScores
from sightline.evaluation.protocols import Protocol
from sightline.evaluation.report import Difference, Metric, Plot, Report, TrackerReport, Values
from sightline.evaluation.run import Tracked

Floats = NDArray[np.float64]
Facts = Mapping[str, str]

NO_FACTS: Facts = {}
LEVEL = (0.025, 0.975)
FEW = 10  # sequences, of which fewer say little about others


class Entrant(NamedTuple):
    """A tracker with its boxes of every sequence, under the name that a report gives it. facts: what else is known."""

    name: str
    tracked: Mapping[str, Tracked]
    facts: Facts = NO_FACTS


def _intervals(count: int, what: str) -> Facts:
    """What intervals are, where there are any."""
    few = f"; {count} {what}: too few for an interval to mean much" if count < FEW else ""
    return {"intervals": f"95 %, percentile bootstrap over {what} ({RESAMPLES:,} draws){few}"} if count > 1 else {}


# One target


SOT_METRICS = tuple(Metric(key, heading) for key, heading in sot.METRICS.items())


def single_object(
    clips: Sequence[Clip],
    entrants: Sequence[Entrant],
    rule: Protocol,
    *,
    title: str,
    facts: Facts = NO_FACTS,
    attributes: Sequence[str] = (),
) -> Report:
    """Boxes of one target under a protocol.

    clips: what is true, with a box for every frame. rule: from `find_protocol`. attributes: the order in which to list
    those of the clips. Raises `DatasetError` for a sequence that an entrant lacks, unless the protocol counts it as
    missed, and as `measure` does, with the tracker and the sequence.
    """
    scores = [[_score(clip, one, rule) for clip in clips] for one in entrants]
    classes = [clip.class_name for clip in clips]
    flags = _flags(clips, attributes)
    weights = sot.weights(scores[0])
    trackers = []
    for one, mine in zip(entrants, scores, strict=True):
        values = {metric.key: [getattr(score, metric.key) for score in mine] for metric in SOT_METRICS}
        mean = sot.summarise(mine)
        averages = {}
        if rule.average == "pooled":
            ways = [way for way in sot.AVERAGES if way != "classes" or all(classes)]
            averages = {way: _values(sot.summarise(mine, average=way, classes=classes)) for way in ways}
        trackers.append(
            TrackerReport(
                one.name,
                {
                    key: bootstrap(numbers, weights=weights)._replace(value=getattr(mean, key))
                    for key, numbers in values.items()
                },
                {clip.name: _values(score) for clip, score in zip(clips, mine, strict=True)},
                {name: getattr(mean, name) for name in ("success", "precision", "normalised_precision")},
                {name: _values(score) for name, score in sot.by_attribute(mine, flags).items()},
                averages,
                frames_per_second([one.tracked[clip.name] for clip in clips if clip.name in one.tracked], rule),
                one.facts,
            )
        )
    first = scores[0]
    differences = tuple(
        Difference(
            entrants[0].name,
            other.name,
            {
                key: paired_difference(
                    [getattr(s, key) for s in first], [getattr(s, key) for s in theirs], weights=weights
                )
                for key in sot.METRICS
            },
        )
        for other, theirs in zip(entrants[1:], scores[1:], strict=True)
    )
    return Report(
        title,
        {**facts, **_intervals(len(clips), "sequences")},
        SOT_METRICS,
        tuple(trackers),
        differences,
        _sot_plots(rule),
        num_frames={clip.name: len(clip.xywh) for clip in clips},
        num_with={name: sum(flags[name]) for name in trackers[0].attributes},
        notes=tuple(note for one in entrants if (note := _cut(clips, one, rule))),
    )


def _cut(clips: Sequence[Clip], entrant: Entrant, rule: Protocol) -> str:
    """Which results have fewer rows than there are true boxes, under a protocol that looks at those rows alone."""
    if rule.short != "cut":
        return ""
    lengths = {
        clip.name: (min(map(len, entrant.tracked[clip.name].runs)), len(clip.xywh))
        for clip in clips
        if clip.name in entrant.tracked
    }
    short = [f"{name} {got:,} of {total:,} frames" for name, (got, total) in lengths.items() if got < total]
    if not short:
        return ""
    return (
        f"{entrant.name}: results with fewer rows than there are frames, of which {rule.name} scores the rows that are "
        f"there, so that they may be too high: {', '.join(short)}"
    )


def _score(clip: Clip, entrant: Entrant, rule: Protocol) -> sot.Scores:
    """One sequence; several runs of it are averaged."""
    if clip.name not in entrant.tracked and rule.short != "miss":
        raise DatasetError(f"{entrant.name}: got no result of {clip.name}; expected one. Track it, or leave it out.")
    runs = entrant.tracked[clip.name].runs if clip.name in entrant.tracked else (np.empty((0, 4)),)
    try:
        measured = [
            sot.measure(run, clip.xywh, protocol=rule, absent=clip.absent, cover=clip.cover, image_size=clip.image_size)
            for run in runs
        ]
    except DatasetError as error:
        raise DatasetError(f"{entrant.name}, {clip.name}: {error}") from error
    return measured[0] if len(measured) == 1 else sot.summarise(measured, average="sequences")


def _values(scores: sot.Scores) -> Values:
    return {key: float(getattr(scores, key)) for key in sot.METRICS}


def _flags(clips: Sequence[Clip], order: Sequence[str]) -> dict[str, list[bool]]:
    """Attribute -> whether each clip has it; {} where no clip says."""
    found = [set(clip.attributes or ()) for clip in clips]
    names = [*order, *sorted(set().union(*found) - set(order))]
    return {name: [name in mine for mine in found] for name in names if any(name in mine for mine in found)}


def frames_per_second(tracked: Sequence[Tracked], rule: Protocol) -> float:
    """The mean of 1 / seconds over the frames that took some time, and of that over sequences (under a pooled average
    over all frames); nan without times.

    As the toolkits have it, but for a sequence's first frame, on which a tracker is started: SPMTrack asks nothing of
    its network there, and one such frame would outweigh a thousand others.
    """
    later = [one.seconds[1:] for one in tracked if one.seconds is not None]
    rates = [1 / seconds[seconds > 0] for seconds in later]
    rates = [rate for rate in rates if rate.size]
    if not rates:
        return math.nan
    return float(np.concatenate(rates).mean() if rule.average == "pooled" else np.mean([rate.mean() for rate in rates]))


def _sot_plots(rule: Protocol) -> tuple[Plot, ...]:
    metric = {one.key: one for one in SOT_METRICS}
    share = "share of frames"
    return (
        Plot("success", "Success", "overlap (IoU) above", share, np.linspace(0, 1, rule.success_points), metric["auc"]),
        Plot(
            "precision",
            "Precision",
            "distance of centres within (px)",
            share,
            np.linspace(0, sot.MAX_DISTANCE_PX, rule.precision_points),
            metric["p"],
        ),
        Plot(
            "normalised_precision",
            "Normalised precision",
            "distance in sizes of the target within",
            share,
            np.linspace(0, 0.5, rule.normalised_points),
            metric["pn"],
        ),
    )


# Many targets


MOT_METRICS = (
    *(Metric(name, name) for name in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1")),
    *(Metric(key, heading, "count") for key, heading in (("IDSW", "IDSW"), ("CLR_FP", "FP"), ("CLR_FN", "FN"))),
)
ALPHA_CURVES = {"hota": "HOTA", "det_a": "DetA", "ass_a": "AssA"}


def multi_object(
    scores: Mapping[str, Mapping[str, MotScores]],
    *,
    title: str,
    facts: Facts = NO_FACTS,
    tracker_facts: Mapping[str, Facts] | None = None,
    groups: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Report:
    """Tracker -> sequence -> scores, all trackers on the same sequences; the value of all is TrackEval's COMBINED.

    groups: (S,) one name for each sequence; those of one name are drawn together, as copies of one video must be.
    pairs: the trackers to compare, by default the first with each of the others.
    """
    first, names = next(iter(scores)), list(next(iter(scores.values())))
    if pairs is None:
        pairs = [(first, other) for other in list(scores)[1:]]
    counts = draws(groups or names)
    combined = {name: mot.combine(list(mine.values())) for name, mine in scores.items()}
    sampled = {name: resampled(list(mine.values()), counts) for name, mine in scores.items()}

    def around(value: float, drawn: Floats | None) -> Interval:
        if drawn is None or len(set(groups or names)) == 1:
            return Interval(value, math.nan, math.nan)
        return Interval(value, *np.quantile(drawn, LEVEL).tolist())

    metric = {one.key: one for one in MOT_METRICS}
    summary = {name: one.summary() for name, one in combined.items()}
    keys = list(dict.fromkeys([*metric, *summary[first]]))
    empty = [name for name, one in combined.items() if not one.clear.tp + one.clear.fn]
    trackers = tuple(
        TrackerReport(
            name,
            {key: around(summary[name][key], sampled[name].get(key)) for key in keys},
            {sequence: one.summary() for sequence, one in scores[name].items()},
            {curve: getattr(combined[name].hota, curve) for curve in ALPHA_CURVES},
            facts=(tracker_facts or {}).get(name, NO_FACTS),
        )
        for name in scores
    )
    differences = tuple(
        Difference(
            one,
            other,
            {
                key: around(
                    summary[one][key] - summary[other][key],
                    sampled[one][key] - sampled[other][key] if key in sampled[one] else None,
                )
                for key in keys
            },
        )
        for one, other in pairs
    )
    plots = tuple(
        Plot(curve, heading, "IoU threshold (alpha)", heading, mot.ALPHAS, metric[heading])
        for curve, heading in ALPHA_CURVES.items()
    )
    return Report(
        title,
        {**facts, **_intervals(len(set(groups or names)), "videos" if groups else "sequences")},
        MOT_METRICS,
        trackers,
        differences,
        plots,
        num_frames={name: one.counts.frames for name, one in scores[first].items()},
        notes=tuple(f"{name}: there is no true box to score, so that MOTA and its kin say nothing" for name in empty),
    )


def draws(groups: Sequence[str], seed: int = 0) -> Floats:
    """(10,000, S) how often each sequence was drawn, as many as there are, with replacement; groups as wholes."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    num_groups = int(group.max()) + 1
    drawn = np.random.default_rng(seed).integers(num_groups, size=(RESAMPLES, num_groups))
    counts = np.zeros((RESAMPLES, num_groups))
    np.add.at(counts, (np.arange(RESAMPLES)[:, None], drawn), 1)
    return np.asarray(counts[:, group])


def resampled(scores: Sequence[MotScores], counts: Floats) -> dict[str, Floats]:
    """Ratio -> (R,) its value over sequences drawn anew, each as often as `counts` (R, S) says.

    For all draws at once, it is what `mot.combine` makes of them.
    """
    tp, fn, fp, *association, loc_a = (np.stack(values) for values in zip(*(one.hota for one in scores), strict=True))
    total = counts @ tp
    ass_a, ass_re, ass_pr = ((counts @ (value * tp)) / np.maximum(1, total) for value in association)
    together = Hota(
        total,
        counts @ fn,
        counts @ fp,
        ass_a,
        ass_re,
        ass_pr,
        np.maximum(1e-10, counts @ (loc_a * tp)) / np.maximum(1e-10, total),
    )
    clear = counts @ np.array([one.clear[:-1] for one in scores], dtype=np.float64)
    identity = counts @ np.array([one.identity for one in scores], dtype=np.float64)
    family = {"HOTA": together.hota, "DetA": together.det_a, "AssA": together.ass_a, "LocA": together.loc_a}
    return {
        **{name: value.mean(axis=1) for name, value in family.items()},
        "MOTA": np.array([Clear(*row).mota for row in clear.tolist()]),
        "IDF1": np.array([Identity(*row).idf1 for row in identity.tolist()]),
    }


def score_mot(truth: MotRows, result: MotRows, num_frames: int, rule: str) -> MotScores:
    """One sequence by a rule of `MOT_RULES`."""
    return mot.mot_scores(mot_preprocess.motchallenge(truth, result, num_frames, mot_preprocess.MOT_RULES[rule]))


def score_kitti(truth: KittiRows, result: KittiRows, num_frames: int) -> dict[str, MotScores]:
    """Class -> one sequence; KITTI never averages them."""
    return {
        kind: mot.mot_scores(mot_preprocess.kitti(truth, result, num_frames, kind))
        for kind in mot_preprocess.KITTI_DISTRACTORS
    }


# JSON


VIDEO_METRICS = ("AP", "AP50", "AP75", "AR", "HOTA", "DetA", "AssA", "MOTA", "IDF1")


def of_json(
    results: Mapping[str, Boxes], truth: GroundTruth, rule: str, *, title: str, facts: Facts = NO_FACTS
) -> Report:
    """Track AP, HOTA, MOTA and IDF1 of videos by a rule of `tao.RULES`; box AP of images by "coco" or "lvis".

    A row is a class. There are no intervals: AP is made of all videos (images) together.
    """
    build = _of_videos if len(truth.video) else _of_images
    trackers = tuple(build(name, truth, boxes, rule) for name, boxes in results.items())
    metrics = tuple(Metric(key, key) for key in (VIDEO_METRICS if len(truth.video) else trackers[0].overall))
    first, *others = trackers
    differences = tuple(
        Difference(
            first.name,
            other.name,
            {key: _alone(value.value - other.overall[key].value) for key, value in first.overall.items()},
        )
        for other in others
    )
    plots = tuple(
        Plot(curve, heading, "IoU threshold (alpha)", heading, mot.ALPHAS, Metric(heading, heading))
        for curve, heading in ALPHA_CURVES.items()
        if curve in first.curves
    )
    return Report(title, facts, metrics, trackers, differences, plots, row_kind="class")


def _of_videos(name: str, truth: GroundTruth, boxes: Boxes, rule: str) -> TrackerReport:
    ap, classes = tao.track_ap(truth, boxes, tao.RULES[rule]), tao.federated_mot(truth, boxes)
    summary, over_boxes = ap.summary(), classes.over_boxes()
    is_named = {t: np.isclose(ap.rule.thresholds, t) & ap.rule.names_thresholds for t in (0.5, 0.75)}
    rows = {
        label: {
            "AP": average_precision.mean(ap.ap[0, :, column]),
            "AP50": average_precision.mean(ap.ap[0, is_named[0.5], column]),
            "AP75": average_precision.mean(ap.ap[0, is_named[0.75], column]),
            "AR": average_precision.mean(ap.recall[0, :, column]),
        }
        for column, label in enumerate(ap.name)
    }
    for label, scores in zip(classes.name, classes.scores, strict=True):
        rows[label] = {**rows.get(label, {}), **scores.summary()}
    by_class = {key: float(np.mean(value)) for key, value in classes.over_classes().items()}
    return TrackerReport(
        name,
        {key: _alone(value) for key, value in {**summary, **over_boxes.summary()}.items()},
        {label: row for label, row in rows.items() if not math.isnan(row["AP"])},
        {curve: getattr(over_boxes.hota, curve) for curve in ALPHA_CURVES},
        averages={"classes": {**summary, **by_class}},
    )


def _of_images(name: str, truth: GroundTruth, boxes: Boxes, rule: str) -> TrackerReport:
    found = average_precision.box_ap(truth, boxes, average_precision.LVIS if rule == "lvis" else average_precision.COCO)
    labels = {row.id: row.name for row in truth.categories}
    rows = {
        labels[category]: {"AP": average_precision.mean(found.ap[0, :, column])}
        for column, category in enumerate(found.category.tolist())
    }
    return TrackerReport(
        name,
        {key: _alone(value) for key, value in found.summary().items()},
        {label: row for label, row in rows.items() if not math.isnan(row["AP"])},
    )


def _alone(value: float) -> Interval:
    return Interval(float(value), math.nan, math.nan)
