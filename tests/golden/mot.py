"""Multi-object scores of TrackEval and py-motmetrics on MOT15 and MOT17, per sequence and combined."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import numpy as np

from sightline.datasets.mot_text import read_mot_result, read_mot_truth
from sightline.evaluation.mot import ALPHAS, MotScores, combine, mot_scores
from sightline.evaluation.mot_events import MotEvents, combine_events, mot_events
from sightline.evaluation.mot_preprocess import MOT_RULES, MotRule, motchallenge, motmetrics
from sightline.evaluation.tao import COUNTS
from tests.golden.value import Value

TOLERANCE = 1e-9
OLD_NAMES = {"RHOTA": "OWTA"}

# Printed in the documentation of py-motmetrics: IDF1 and MOTA in per cent, switches
PRINTED = {"TUD-Campus": (55.8, 52.6, 7), "TUD-Stadtmitte": (64.5, 56.4, 7), "OVERALL": (62.4, 55.5, None)}
PRINTED_TOLERANCE = 0.05 + 1e-9
TUD_FRAMES = {"TUD-Campus": 71, "TUD-Stadtmitte": 179}


def values(shared: Path) -> Iterator[Value]:
    """Every number; a file that is not there is an error."""
    golden = shared / "golden" / "mot"
    for name, bench in json.loads((golden / "trackeval_results.json").read_text()).items():
        yield from of_bench(name, golden / name.removesuffix("_no_preproc"), bench)
    stored = json.loads((golden / "motmetrics_results.json").read_text())["results"]
    yield from of_motmetrics(golden / "mot15_tud", stored)
    yield from of_printed(shared / "data" / "eval" / "tud_motmetrics")
    yield from of_csv(shared / "data" / "eval" / "mot17_trackeval")


def of_bench(name: str, folder: Path, bench: Mapping[str, Any]) -> Iterator[Value]:
    """All fields of one set of TrackEval's, each tracker."""
    rule = MOT_RULES[bench["benchmark"] if bench["preprocessing"] else "none"]
    for tracker, stored in bench["trackers"].items():
        scores = {
            sequence: scores_of(
                folder / "gt" / sequence / "gt" / "gt.txt",
                folder / "trackers" / tracker / f"{sequence}.txt",
                num_frames,
                rule,
            )
            for sequence, num_frames in bench["sequences"].items()
        }
        scores["COMBINED_SEQ"] = combine(list(scores.values()))
        assert set(scores) == set(stored)
        for sequence, classes in stored.items():
            for field, number in (row for metric in classes["pedestrian"].values() for row in metric.items()):
                yield from compared(f"{name} {tracker} {sequence} {field}", scores[sequence], field, number)


def of_csv(folder: Path) -> Iterator[Value]:
    """The official table of seven sequences and of all, each three times as the data set has them."""
    with (folder / "pedestrian_detailed.csv").open(newline="") as file:
        rows = {row.pop("seq"): row for row in csv.DictReader(file)}
    names = [name for name in rows if name.endswith("-FRCNN")]
    scores = {}
    for name in names:
        info = ConfigParser()
        info.read_string((folder / "gt" / f"{name}.seqinfo.ini").read_text())
        num_frames = info.getint("Sequence", "seqLength")
        scores[name] = scores_of(
            folder / "gt" / f"{name}.txt", folder / "tracker" / f"{name}.txt", num_frames, MOT_RULES["MOT17"]
        )
    scores["COMBINED"] = combine(3 * [scores[name] for name in names])
    for name, one in scores.items():
        fields = one.fields()
        for column, number in rows[name].items():
            if not number:  # of all sequences together there is no count of frames
                continue
            field, _, alpha = column.partition("___")
            ours = np.asarray(fields[OLD_NAMES.get(field, field)])
            if alpha:
                ours = ours.mean() if alpha == "AUC" else ours[np.isclose(ALPHAS, int(alpha) / 100)].item()
            tolerance = 0.0 if field in COUNTS and alpha != "AUC" else TOLERANCE
            yield Value(f"csv {name} {column}", float(ours), float(number), tolerance)


def of_motmetrics(folder: Path, stored: Mapping[str, Mapping[str, float]]) -> Iterator[Value]:
    for name, fields in stored.items():
        truth = folder / "gt" / name / "gt" / "gt.txt"
        events = events_of(truth, folder / "trackers" / "real" / f"{name}.txt", TUD_FRAMES[name])
        for field, number in fields.items():
            tolerance = 0.0 if field in MotEvents._fields else TOLERANCE
            yield Value(f"motmetrics {name} {field}", float(getattr(events, field)), number, tolerance)


def of_printed(folder: Path) -> Iterator[Value]:
    events = {
        name: events_of(folder / f"{name}.gt.txt", folder / f"{name}.tracker.txt", num_frames)
        for name, num_frames in TUD_FRAMES.items()
    }
    events["OVERALL"] = combine_events(list(events.values()))
    for name, (idf1, mota, switches) in PRINTED.items():
        yield Value(f"printed {name} IDF1", 100 * events[name].idf1, idf1, PRINTED_TOLERANCE)
        yield Value(f"printed {name} MOTA", 100 * events[name].mota, mota, PRINTED_TOLERANCE)
        if switches is not None:
            yield Value(f"printed {name} switches", float(events[name].num_switches), float(switches), 0.0)


def scores_of(truth: Path, result: Path, num_frames: int, rule: MotRule) -> MotScores:
    with tempfile.TemporaryDirectory() as folder:
        true_rows = read_mot_truth(plain(truth, Path(folder) / "gt.txt"), num_frames, rule.has_class)
        result_rows = read_mot_result(plain(result, Path(folder) / "result.txt"), num_frames)
    return mot_scores(motchallenge(true_rows, result_rows, num_frames, rule))


def events_of(truth: Path, result: Path, num_frames: int) -> MotEvents:
    with tempfile.TemporaryDirectory() as folder:
        true_rows = read_mot_truth(plain(truth, Path(folder) / "gt.txt"), num_frames, has_class=False)
        result_rows = read_mot_result(plain(result, Path(folder) / "result.txt"), num_frames)
    return mot_events(motmetrics(true_rows, result_rows, num_frames))


def plain(path: Path, copy: Path) -> Path:
    """The text file, unpacked to `copy` where it is stored with gzip."""
    packed = path.with_name(f"{path.name}.gz")
    copy.write_bytes(gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes())
    return copy


def compared(name: str, scores: MotScores, field: str, number: float | list[float]) -> Iterator[Value]:
    """One value, or one of each threshold."""
    ours, numbers = np.atleast_1d(scores.fields()[field]), np.atleast_1d(number)
    assert ours.shape == numbers.shape
    tolerance = 0.0 if field in COUNTS else TOLERANCE
    for k, (own, other) in enumerate(zip(ours.tolist(), numbers.tolist(), strict=True)):
        yield Value(f"{name} {k}" if len(ours) > 1 else name, float(own), float(other), tolerance)
