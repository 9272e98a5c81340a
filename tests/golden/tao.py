"""Scores of two trackers on a small federated set, by TAO's toolkit and by TrackEval."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sightline.datasets.tao_json import Boxes, GroundTruth, read_ground_truth, read_results
from sightline.evaluation.average_precision import mean
from sightline.evaluation.tao import COUNTS, RANGES, RULES, TRACK_IOUS, TrackAp, federated_mot, track_ap
from tests.golden.value import Value

TRACKERS = ("near_perfect", "mixed")
TOLERANCE = 1e-9
ABSENT = -1.0  # both write it for nan

# Our names of the ranges, and those of the toolkit's summary and of TrackEval's fields.
TOOLKIT = dict(
    zip(
        RANGES,
        ("", "|area|small", "|area|medium", "|area|large", "|time|short", "|time|medium", "|time|long"),
        strict=True,
    )
)
TRACKEVAL = {name: name or "_all" for name in RANGES}


def values(shared: Path) -> Iterator[Value]:
    """Every number; a file that is not there is an error."""
    root = shared / "golden" / "tao"
    stored = json.loads((root / "results.json").read_text())
    truth = read_ground_truth(root / "gt" / "gt.json")
    for tracker in TRACKERS:
        results = read_results(root / "trackers" / tracker / "data" / "results.json", truth, has_tracks=True)
        yield from by_toolkit(f"tao {tracker} toolkit", truth, results, stored[tracker]["tao_toolkit"])
        yield from by_trackeval(f"tao {tracker} trackeval", truth, results, stored[tracker]["trackeval"])


def by_toolkit(name: str, truth: GroundTruth, results: Boxes, stored: dict[str, Any]) -> Iterator[Value]:
    """AP and recall at IoU 0.5, with each IoU of tracks."""
    for kind, numbers in stored.items():
        ap = track_ap(truth, results, RULES["toolkit-array"], TRACK_IOUS[kind])
        ours = ap.summary()
        names = {f"AP{size}{'|300' if size else ''}": f"AP{own}" for own, size in TOOLKIT.items()}
        names |= {f"AR{size}|300" if size else "AR@300": f"AR{own}" for own, size in TOOLKIT.items()}
        for field, number in numbers["summary"].items():
            yield value(f"{name} {kind} {field}", ours[names.get(field, field)], number)
        for category, fields in numbers["per_category"].items():
            column = ap.category.tolist().index(int(category))
            yield value(f"{name} {kind} {category} AP50", ap.ap[0, 0, column], fields["AP50"])
            yield value(f"{name} {kind} {category} AR50", ap.recall[0, 0, column], fields["AR50"])


def by_trackeval(name: str, truth: GroundTruth, results: Boxes, stored: dict[str, Any]) -> Iterator[Value]:
    """Everything of each category, and both means over categories."""
    ap, mot = track_ap(truth, results, RULES["trackeval"]), federated_mot(truth, results)
    for category, metrics in stored.items():
        yield from track_map(f"{name} {category}", ap, category, metrics["TrackMAP"])
        if category in mot.name:
            fields = mot.scores[mot.name.index(category)].fields()
        else:
            fields = mot.over_classes() if category == "cls_comb_cls_av" else mot.over_boxes().fields()
        for metric in ("HOTA", "CLEAR", "Identity", "Count"):
            for field, numbers in metrics[metric].items():
                for row, (ours, number) in enumerate(
                    zip(np.atleast_1d(fields[field]), np.atleast_1d(numbers), strict=True)
                ):
                    tolerance = 0.0 if field in COUNTS else TOLERANCE
                    yield Value(f"{name} {category} {field} {row}", float(ours), float(number), tolerance)


def track_map(name: str, ap: TrackAp, category: str, stored: dict[str, list[float]]) -> Iterator[Value]:
    for row, size in enumerate(TRACKEVAL.values()):
        for kind, ours in (("AP", ap.ap[row]), ("AR", ap.recall[row])):
            for t, number in enumerate(stored[f"{kind}{size}"]):
                own = ours[t, ap.name.index(category)] if category in ap.name else mean(ours[t])
                yield value(f"{name} {kind}{size} {t}", own, number)


def value(name: str, ours: float, number: float) -> Value:
    return Value(name, ABSENT if np.isnan(ours) else float(ours), float(number), TOLERANCE)
