"""A file of what is true and a file of results, scored with no data set around them; columns say what they are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from sightline.datasets.clips import Clip, has_area
from sightline.datasets.mot_text import read_kitti, read_mot_result, read_mot_truth
from sightline.datasets.sot_text import DELIMITERS, read_rows, read_text
from sightline.datasets.tao_json import read_ground_truth, read_results
from sightline.datasets.vot import polygon_to_xywh
from sightline.errors import DatasetError
from sightline.evaluation.mot_preprocess import MOT_RULES
from sightline.evaluation.protocols import find_protocol
from sightline.evaluation.report import Report
from sightline.evaluation.run import Tracked
from sightline.evaluation.scoring import Entrant, multi_object, of_json, score_kitti, score_mot, single_object
from sightline.evaluation.tao import RULES

Kind = Literal["boxes", "mot", "kitti", "json"]
GENERAL = ("groundtruth", "groundtruth_rect", "gt")  # names that say nothing: the folder's does


class Judged(NamedTuple):
    """What a pair of files was taken for, in a sentence, and what came out."""

    assumed: str
    report: Report


def score_two_files(truth: Path, result: Path, protocol: str = "") -> Judged:
    """Boxes of one target (4 numbers a row), MOTChallenge (6 to 10) or KITTI text (17, 18), or JSON of boxes.

    protocol: what is scored by, "" for `plain`, for what the columns of MOTChallenge text tell, for `sane` of JSON.
    Raises `DatasetError`, with file and line where it is the fault of one.
    """
    columns = [_columns(path) for path in (truth, result)]
    kind = _kind(truth, columns)
    if kind == "json":
        return _json(truth, result, protocol)
    if kind == "boxes":
        return _boxes(truth, result, protocol)
    return (_kitti if kind == "kitti" else _mot)(truth, result, protocol)


def _columns(path: Path) -> int:
    """Columns of the first line, 0 of an empty file, -1 of JSON."""
    first = read_text(path).lstrip().partition("\n")[0]
    return -1 if first.startswith(("[", "{")) else len(first.translate(DELIMITERS).split())


def _kind(truth: Path, columns: list[int]) -> Kind:
    true, found = columns
    if true == -1 and found == -1:
        return "json"
    if (true == 4 or (true == 8 and found == 4)) and found in (4, 0):
        return "boxes"
    if true in (17, 18) and found in (17, 18, 0):
        return "kitti"
    if (6 <= true <= 10 or true == 0) and (6 <= found <= 10 or found == 0):
        return "mot"
    got = " and ".join("JSON" if number == -1 else f"{number} columns" for number in columns)
    raise DatasetError(
        f"{truth} and the result: got {got}; expected 4 columns of both (x,y,w,h), 6 to 10 (MOTChallenge), 17 or 18 "
        "(KITTI), or JSON. Name the ground truth first, then the result."
    )


def _name_of(truth: Path) -> str:
    """What to call the sequence."""
    home = truth.absolute().parent
    if truth.stem not in GENERAL:
        return truth.stem
    return home.parent.name if home.name == "gt" else home.name


def _boxes(truth: Path, result: Path, protocol: str) -> Judged:
    rule = find_protocol(protocol or "plain")
    xywh = read_rows(truth, (4, 8))
    shape = ""
    if xywh.shape[1] == 8:
        xywh, shape = polygon_to_xywh(xywh), ", polygons made upright"
    predicted = read_rows(result)
    clip = Clip(_name_of(truth), (), xywh, has_area(xywh), annotation=truth)
    tracker = Entrant(result.stem, {clip.name: Tracked((predicted,), None)})
    facts = {"ground truth": f"{truth}, {len(xywh)} rows", "result": f"{result}, {len(predicted)} rows"}
    report = single_object(
        [clip], [tracker], rule, title=f"{result.name} against {truth.name}", facts={**facts, "protocol": rule.name}
    )
    chosen = "" if protocol else " (--protocol for another)"
    return Judged(f"boxes x,y,w,h of one target{shape}, protocol {rule.name}{chosen}", report)


def _mot(truth: Path, result: Path, protocol: str) -> Judged:
    columns = _columns(truth)
    guess = "MOT15" if columns == 10 else "none" if columns in (0, 6, 7) else "MOT17"
    rule = next((name for name in MOT_RULES if name.lower() == (protocol or guess).lower()), None)
    if rule is None:
        raise DatasetError(f"protocol: got {protocol!r}; expected one of {', '.join(MOT_RULES)}. Choose one.")
    num_frames = _stated_length(truth)
    true = read_mot_truth(truth, num_frames, MOT_RULES[rule].has_class)
    is_fractional = bool((true.mark % 1 != 0).any())
    note = ""
    if is_fractional or (columns == 10 and _columns(result) in (8, 9)):
        why = "marks between whole numbers, like confidences" if is_fractional else "10 columns, like a result"
        note = f"{truth.name} has {why}: is the ground truth first? Write: sightline eval GT.txt RESULT.txt"
    try:
        found = read_mot_result(result, num_frames)
    except DatasetError as error:
        raise DatasetError(f"{error} {note}".rstrip()) from error
    length = num_frames or 1 + int(max([-1, *true.frame.tolist(), *found.frame.tolist()]))
    name = _name_of(truth)
    report = multi_object(
        {result.stem: {name: score_mot(true, found, length, rule)}},
        title=f"{result.name} against {truth.name}",
        facts={"ground truth": str(truth), "result": str(result), "protocol": rule},
    )
    if note:
        report = replace(report, notes=(note, *report.notes))
    source = "as seqinfo.ini says" if num_frames else "up to the last row"
    what = "no classes, only marks" if MOT_RULES[rule].scored is None else f"preprocessing of {rule}"
    chosen = "" if protocol else f" (--protocol for another: {', '.join(MOT_RULES)})"
    return Judged(f"MOTChallenge rows, {length} frames {source}, {what}{chosen}", report)


def _stated_length(truth: Path) -> int | None:
    """Frames of a sequence laid out like MOTChallenge's, SEQ/gt/gt.txt, as SEQ/seqinfo.ini says."""
    info = truth.absolute().parent.parent / "seqinfo.ini"
    if truth.name != "gt.txt" or not info.exists():
        return None
    found = re.search(r"^\s*seqLength\s*=\s*(\d+)\s*$", read_text(info), re.MULTILINE | re.IGNORECASE)
    return int(found[1]) if found else None


def _kitti(truth: Path, result: Path, protocol: str) -> Judged:
    if protocol not in ("", "kitti"):
        raise DatasetError(f"protocol: got {protocol!r} for KITTI's columns; expected 'kitti'. Leave it out.")
    true, found = read_kitti(truth), read_kitti(result)
    length = 1 + int(np.concatenate([[-1], true.frame, found.frame]).max())
    scores = score_kitti(true, found, length)
    report = multi_object(
        {f"{result.stem}, {kind}": {_name_of(truth): one} for kind, one in scores.items()},
        title=f"{result.name} against {truth.name}",
        facts={"ground truth": str(truth), "result": str(result), "protocol": "kitti"},
        pairs=(),
    )
    return Judged(f"KITTI tracking rows, {length} frames up to the last row, cars and pedestrians apart", report)


def _json(truth: Path, result: Path, protocol: str) -> Judged:
    true = read_ground_truth(truth)
    has_videos = bool(len(true.video))
    rule = json_rule(protocol, has_videos, is_federated=true.negative is not None)
    found = read_results(result, true, has_tracks=has_videos)
    facts = {"ground truth": str(truth), "result": str(result), "protocol": rule}
    report = of_json({result.stem: found}, true, rule, title=f"{result.name} against {truth.name}", facts=facts)
    what = "tracks in videos" if has_videos else "boxes in images"
    chosen = "" if protocol else " (--protocol for another)"
    return Judged(f"{what}, {len(true.image):,} images, {len(true.categories):,} classes, rule {rule}{chosen}", report)


def json_rule(protocol: str, has_videos: bool, is_federated: bool) -> str:
    """The rule of JSON files: the one asked for, or by what they hold; `DatasetError` where it does not exist."""
    known = list(RULES) if has_videos else ["coco", "lvis"]
    rule = protocol or ("sane" if has_videos else "lvis" if is_federated else "coco")
    if rule not in known:
        raise DatasetError(f"protocol: got {protocol!r}; expected one of {', '.join(known)}. Choose one.")
    return rule
