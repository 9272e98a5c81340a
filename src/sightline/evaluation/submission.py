"""Archives for the servers that keep their ground truth: GOT-10k, TrackingNet, MOTChallenge, TAO.

A server scores what is missing as missed, or refuses the whole upload days later; so an incomplete archive is refused
here, with the list of what is missing. The same results make the same bytes.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.mot_text import MotRows
from sightline.datasets.tao_json import Boxes, GroundTruth, find
from sightline.errors import DatasetError
from sightline.evaluation.run import Tracked
from sightline.files import atomic_path
from sightline.results import number
from sightline.trackers.zoo import ZOO

Floats = NDArray[np.float64]
Members = Iterator[tuple[str, str]]  # names and texts of an archive

NOT_ONE_SHOT = "not one-shot"
LISTED = 10  # of what is missing, in a sentence
ANY_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can tell


def one_shot_note(dataset: str, model: str | None) -> str:
    """What GOT-10k's protocol says of a model: "" if it was trained on GOT-10k alone or the data set is another one,
    "not one-shot" if on other data, "training data not known" for what is no row of the zoo."""
    if dataset != "got10k":
        return ""
    if model is None or model not in ZOO:
        return "training data not known"
    return "" if ZOO[model].trained_on == "GOT-10k" else NOT_ONE_SHOT


def archive_name(tracker: str, dataset: str, split: str, note: str = "") -> str:
    """`TRACKER-DATASET-SPLIT.zip`, with the note of `one_shot_note` before the suffix."""
    parts = [tracker, dataset, split, *([note] if note == NOT_ONE_SHOT else [])]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") or "x" for part in parts) + ".zip"


def write_boxes(
    path: Path, dataset: str, results: Mapping[str, Tracked], lengths: Mapping[str, int], names: Sequence[str]
) -> None:
    """The archive of a single-object benchmark, "got10k" or "trackingnet".

    results: sequence -> what `read_tracked` gave. lengths: sequence -> number of its frames, of those that have
    results. names: all sequences of the split. Raises `DatasetError` for a sequence without results or, for GOT-10k,
    times; for one with more or fewer rows than frames; and for rows that are not finite.
    """
    missing = [name for name in names if name not in results]
    if dataset == "got10k":
        missing += [f"{name} (times)" for name in names if name in results and results[name].seconds is None]
    _refuse(path, missing, len(names))
    for name in names:
        length = lengths[name]
        for rows in results[name].runs:
            if len(rows) != length or not np.isfinite(rows).all():
                what = f"{len(rows)} rows" if len(rows) != length else "rows that are not finite"
                raise DatasetError(f"{path.name}: got {what} of {name}; expected {length} boxes. Track it again.")
        seconds = results[name].seconds
        if dataset == "got10k" and seconds is not None and seconds.shape != (length, len(results[name].runs)):
            raise DatasetError(
                f"{path.name}: got times {seconds.shape} of {name}; expected {(length, len(results[name].runs))}, a "
                "row for each frame and a column for each run. Track it again."
            )
    _write(path, SINGLE[dataset](results, names))


def _got10k(results: Mapping[str, Tracked], names: Iterable[str]) -> Members:
    """`SEQ/SEQ_001.txt`, a file for each run, and `SEQ/SEQ_time.txt`, a column for each."""
    for name in names:
        for run, rows in enumerate(results[name].runs, 1):
            yield f"{name}/{name}_{run:03d}.txt", _lines(rows, "%.3f")
        seconds = results[name].seconds
        assert seconds is not None
        yield f"{name}/{name}_time.txt", _lines(seconds, "%.6f")


def _trackingnet(results: Mapping[str, Tracked], names: Iterable[str]) -> Members:
    """`ID.txt`, all in one folder."""
    for name in names:
        yield f"{name}.txt", _lines(results[name].runs[0], "%.2f")


SINGLE: Mapping[str, Callable[[Mapping[str, Tracked], Iterable[str]], Members]] = MappingProxyType(
    {"got10k": _got10k, "trackingnet": _trackingnet}
)


def write_mot(path: Path, results: Mapping[str, MotRows], names: Sequence[str]) -> None:
    """MOTChallenge's archive: `SEQ.txt` of every sequence, frame,id,x,y,w,h,confidence,-1,-1,-1, ordered by frame.

    Raises `DatasetError` for sequences that are missing; one in which nothing was found has an empty file.
    """
    _refuse(path, [name for name in names if name not in results], len(names))
    _write(path, ((f"{name}.txt", _mot_text(results[name])) for name in names))


def _mot_text(rows: MotRows) -> str:
    order = np.lexsort((rows.track_id, rows.frame))
    return "".join(
        f"{frame + 1},{track},{','.join(map(number, box))},{number(mark)},-1,-1,-1\n"
        for frame, track, box, mark in zip(
            *(column[order].tolist() for column in (rows.frame, rows.track_id, rows.xywh, rows.mark)), strict=True
        )
    )


def write_tao(path: Path, results: Boxes, truth: GroundTruth, split: str) -> None:
    """TAO's archive: `TAO_SPLIT.json`, {image_id, video_id, track_id, category_id, bbox, score} for each box.

    Raises `DatasetError` for an empty result and for a category that TAO does not have.
    """
    if not len(results):
        raise DatasetError(f"{path.name}: got no box; expected some. Check the results.")
    known = np.array([row.id for row in truth.categories], dtype=np.int64)
    if unknown := sorted(set(results.category.tolist()) - set(known.tolist())):
        raise DatasetError(
            f"{path.name}: got category {unknown[0]}; expected one of TAO's. Map the results with map_results first."
        )
    video = truth.image_video[find(truth.image, results.image)]
    columns = (results.image, video, results.track, results.category, results.xywh, results.score)
    keys = ("image_id", "video_id", "track_id", "category_id", "bbox", "score")
    rows = (dict(zip(keys, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True))
    _write(path, [(f"TAO_{split}.json", "[" + ",\n".join(map(json.dumps, rows)) + "]\n")])


def _refuse(path: Path, missing: Sequence[str], total: int) -> None:
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise DatasetError(
            f"{path.name}: got results of {total - len(missing)} of {total} sequences; expected all, without "
            f"{', '.join(missing[:LISTED])}{more}. Complete them."
        )


def _lines(rows: Floats, form: str) -> str:
    return "".join(",".join(form % value for value in row) + "\n" for row in rows.tolist())


def _write(path: Path, members: Iterable[tuple[str, str]]) -> None:
    with atomic_path(path, DatasetError) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            about = zipfile.ZipInfo(name, ANY_TIME)
            about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(about, text)
