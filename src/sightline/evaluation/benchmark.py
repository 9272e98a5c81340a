"""A data set and the results of trackers on it: scored as a `Report`, and packed for the server that scores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sightline.datasets.clips import Clip
from sightline.datasets.mot_text import KittiRows, MotRows, read_kitti, read_mot_result
from sightline.datasets.multi import MotSequence
from sightline.datasets.table import Dataset
from sightline.datasets.tao_json import read_results
from sightline.errors import DatasetError
from sightline.evaluation.html import Strip, many_strip, single_strip
from sightline.evaluation.mot import MotScores
from sightline.evaluation.mot_preprocess import KITTI_DISTRACTORS, MOT_RULES
from sightline.evaluation.protocols import find_protocol
from sightline.evaluation.report import Report, shown
from sightline.evaluation.run import RUN, find_results, read_run, read_tracked
from sightline.evaluation.scoring import Entrant, multi_object, of_json, score_kitti, score_mot, single_object
from sightline.evaluation.submission import (
    SINGLE,
    archive_name,
    one_shot_note,
    write_boxes,
    write_mot,
    write_tao,
)
from sightline.evaluation.two_files import json_rule
from sightline.trackers.zoo import ZOO

MOT_SERVERS = ("mot15", "mot16", "mot17", "mot20")
NAMED = 5  # of what is missing, in a sentence
WORST = 5  # sequences of which there are pictures


class Source(NamedTuple):
    """Results of a tracker: its name in reports, the folder or JSON file, and whose they are as far as that is known
    (`run.describe`); `note` is what GOT-10k's protocol says of it."""

    name: str
    path: Path
    about: Mapping[str, Any]
    note: str


class Outcome(NamedTuple):
    """A report, and what makes the pictures of its worst sequences."""

    report: Report
    strips: Callable[[], list[Strip]]


def sources_of(paths: Sequence[Path], dataset: str) -> list[Source]:
    """Results under names of their own: the model's where a run says whose it is, else that of the folder or file."""
    sources: list[Source] = []
    for path in paths:
        about = (read_run(path) if path.is_dir() else None) or {}
        name = str(about.get("model") or (path.resolve().name if path.is_dir() else path.stem))
        if settings := about.get("settings"):
            name += "".join(f" {key}={value}" for key, value in settings.items())
        taken = [source.name for source in sources]
        if name in taken:
            name = next(other for n in range(2, len(paths) + 2) if (other := f"{name} #{n}") not in taken)
        sources.append(Source(name, path, about, one_shot_note(dataset, about.get("model"))))
    return sources


def is_hidden(dataset: Dataset[Any]) -> bool:
    """Whether only a server knows what is true."""
    if dataset.split != "test" or dataset.annotated is not None:
        return False
    return dataset.name in SINGLE or (dataset.row.kind == "mot" and dataset[0].truth is None)


def check_whole(dataset: Dataset[Any]) -> None:
    """`DatasetError` that names the sequences that are not here."""
    if missing := dataset.missing():
        raise DatasetError(
            f"{dataset.name} {dataset.split}: got {len(dataset) - len(missing)} of {len(dataset)} sequences in "
            f"{dataset.folder}; expected all, without {listed(missing)}. Run: sightline data check {dataset.name}"
        )


def evaluate(dataset: Dataset[Any], sources: Sequence[Source], protocol: str = "") -> Outcome:
    """All sources on one data set whose truth is public, by a protocol or by the data set's own.

    Raises `DatasetError` for sequences that are not here, for results that are missing, and as readers and measures do.
    """
    if dataset.annotated is not None:
        return _json(dataset, sources, protocol)
    check_whole(dataset)
    return (_single if dataset.row.kind == "sot" else _many)(dataset, sources, protocol)


def pack(dataset: Dataset[Any], sources: Sequence[Source], folder: Path) -> list[Path]:
    """The archive of each source for the data set's server, in a folder that is made; the paths of them.

    Raises `DatasetError` for a data set without a server, and for results that are not complete.
    """
    has_server = (dataset.name in SINGLE and dataset.split == "test") or dataset.name in (*MOT_SERVERS, "tao")
    if not has_server:
        raise DatasetError(
            f"submission: got {dataset.name} {dataset.split}; expected the test split of {' or '.join(SINGLE)}, or one "
            f"of {', '.join(MOT_SERVERS)}, tao. Leave --submission out."
        )
    total = dataset.row.splits.get(dataset.split)
    if dataset.name in SINGLE and len(dataset) != total:
        raise DatasetError(
            f"{dataset.folder}: got {len(dataset)} sequences of {dataset.name} {dataset.split}; expected {total}, all "
            "that the server asks for. Complete the data set."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(f"{folder}: got '{error.strerror}'; expected a folder to write. Choose another.") from error
    paths = []
    for source in sources:
        path = folder / archive_name(source.name, dataset.name, dataset.split, source.note)
        paths.append(path)
        if dataset.annotated is not None:
            truth = dataset.annotated.truth
            write_tao(path, read_results(source.path, truth, has_tracks=True), truth, dataset.split)
            continue
        names = list(dataset.names)
        found = find_results(source.path, names, dataset.row.result_prefix)
        lengths = {name: len(dataset[name]) for name in names if name in found}
        if dataset.name in SINGLE:
            write_boxes(
                path, dataset.name, {name: read_tracked(files) for name, files in found.items()}, lengths, names
            )
        else:
            rows = {name: read_mot_result(files[0], lengths[name]) for name, files in found.items()}
            write_mot(path, rows, names)
    return paths


# One target


def _single(dataset: Dataset[Any], sources: Sequence[Source], protocol: str) -> Outcome:
    rule = find_protocol(protocol or dataset.row.protocol, dataset.name)
    clips: dict[str, Clip] = {clip.name: clip for clip in dataset}
    entrants = []
    for source in sources:
        found = find_results(source.path, list(clips), dataset.row.result_prefix)
        if rule.short != "miss":
            _refuse_missing(source, found, list(clips))
        tracked = {name: read_tracked(files) for name, files in found.items()}
        entrants.append(Entrant(_shown_name(source), tracked, _facts_of(source)))
    facts = _facts_of_dataset(dataset, sum(len(clip.xywh) for clip in clips.values()))
    report = single_object(
        list(clips.values()),
        entrants,
        rule,
        title=_title(dataset),
        facts=facts | {"protocol": _protocol(rule.name, protocol)},
        attributes=dataset.row.attributes,
    )

    def strip(name: str, heading: str) -> Strip:
        boxes = [one.tracked[name].runs[0] if name in one.tracked else None for one in entrants]
        return single_strip(heading, clips[name].frames, clips[name].xywh, boxes)

    return Outcome(report, lambda: _worst(report, strip))


# Many targets


def _many(dataset: Dataset[Any], sources: Sequence[Source], protocol: str) -> Outcome:
    is_kitti = dataset.row.protocol == "kitti"
    known = ["kitti"] if is_kitti else list(MOT_RULES)
    asked = protocol or dataset.row.protocol
    rule = next((name for name in known if name.lower() == asked.lower()), "")
    if not rule:
        raise DatasetError(
            f"protocol: got {asked!r} for {dataset.name}; expected one of {', '.join(known)}. Choose one."
        )
    names = list(dataset.names)
    found = [find_results(source.path, names) for source in sources]
    for source, files in zip(sources, found, strict=True):
        _refuse_missing(source, files, names)

    scores: dict[str, dict[str, MotScores]] = {}
    owner = {}
    for name in names:
        sequence: MotSequence = dataset[name]
        length = len(sequence)
        if sequence.truth is None:
            raise DatasetError(
                f"{sequence.annotation}: got no file; expected the ground truth. Complete {dataset.name}."
            )
        for source, files in zip(sources, found, strict=True):
            path = files[name][0]
            if isinstance(sequence.truth, KittiRows):
                by_kind = score_kitti(sequence.truth, read_kitti(path, length), length)
                mine = {f"{_shown_name(source)}, {kind}": one for kind, one in by_kind.items()}
            else:
                result = read_mot_result(path, length, is_of_half=dataset.split == "half-val")
                mine = {_shown_name(source): score_mot(sequence.truth, result, length, rule)}
            for label, one in mine.items():
                scores.setdefault(label, {})[name] = one
                owner[label] = source
    shown_names = [_shown_name(source) for source in sources]
    kinds = [f", {kind}" for kind in KITTI_DISTRACTORS] if is_kitti else [""]
    report = multi_object(
        scores,
        title=_title(dataset),
        facts=_facts_of_dataset(dataset) | {"protocol": _protocol(rule, protocol)},
        tracker_facts={label: _facts_of(source) for label, source in owner.items()},
        # MOT17 has every video three times
        groups=[name.rpartition("-")[0] for name in names] if dataset.name == "mot17" else None,
        pairs=[(f"{shown_names[0]}{kind}", f"{other}{kind}") for other in shown_names[1:] for kind in kinds],
    )

    def strip(name: str, heading: str) -> Strip:
        sequence = dataset[name]
        rows = [sequence.truth, *(read_mot_result(files[name][0], len(sequence)) for files in found)]
        true, *results = ((one.frame, one.xywh) for one in rows if isinstance(one, MotRows))
        return many_strip(heading, sequence.frames, true, results)

    return Outcome(report, lambda: [] if is_kitti else _worst(report, strip))


# JSON


def _json(dataset: Dataset[Any], sources: Sequence[Source], protocol: str) -> Outcome:
    assert dataset.annotated is not None
    truth = dataset.annotated.truth
    has_videos = bool(len(truth.video))
    rule = json_rule(protocol, has_videos, is_federated=truth.negative is not None)
    found = {source.name: read_results(source.path, truth, has_tracks=has_videos) for source in sources}
    facts = _facts_of_dataset(dataset) | {"annotated images": f"{len(truth.image):,}", "protocol": rule}
    return Outcome(of_json(found, truth, rule, title=_title(dataset), facts=facts), list)


def json_file(path: Path) -> Path:
    """A JSON file, or the only one in a folder."""
    if not path.is_dir():
        return path
    found = [file for file in sorted(path.glob("*.json")) if file.name != RUN]
    if len(found) != 1:
        raise DatasetError(f"results {path}: got {len(found)} .json files; expected one. Name the file.")
    return found[0]


# What is said of all


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _refuse_missing(source: Source, found: Mapping[str, object], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in found]:
        raise DatasetError(
            f"results {source.path}: got {len(names) - len(missing)} of {len(names)} sequences; expected all, without "
            f"{listed(missing)}. Complete them."
        )


def _title(dataset: Dataset[Any]) -> str:
    is_own = not dataset.row.page
    return f"{dataset.folder.resolve().name if is_own else dataset.row.title}, {dataset.split}"


def _protocol(rule: str, asked: str) -> str:
    return rule if asked else f"{rule}, the data set's own"


def _shown_name(source: Source) -> str:
    return f"{source.name} ({source.note})" if source.note else source.name


def _facts_of(source: Source) -> dict[str, str]:
    facts = {"results": str(source.path)}
    if (model := str(source.about.get("model"))) in ZOO:
        facts["trained on"] = ZOO[model].trained_on
    known = ("weights_sha256", "backend", "device", "sightline")
    return facts | {key.replace("_", " "): str(source.about[key]) for key in known if source.about.get(key)}


def _facts_of_dataset(dataset: Dataset[Any], num_frames: int | None = None) -> dict[str, str]:
    frames = "" if num_frames is None else f", {num_frames:,} frames"
    items = {"images": "image"}.get(dataset.row.kind, "sequence") + "s" * (len(dataset) != 1)
    return {"data set": f"{dataset.name} {dataset.split}, {len(dataset):,} {items}{frames}"}


def _worst(report: Report, strip: Callable[[str, str], Strip]) -> list[Strip]:
    """Strips of the worst sequences; where frames are not here, none."""
    main, rows = report.metrics[0], report.trackers[0].rows
    strips = []
    for name in report.worst(WORST):
        try:
            strips.append(strip(name, f"{name}: {main.heading} {shown(main, rows[name][main.key])}"))
        except DatasetError:
            continue
    return strips
