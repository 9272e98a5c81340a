"""`sightline eval`: track a data set and score it, score results that are there, or score two files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from rich.text import Text

from sightline.cli.models import console, grid
from sightline.datasets.table import Dataset, open_dataset
from sightline.errors import DatasetError
from sightline.evaluation.benchmark import check_whole, is_hidden, json_file, pack, sources_of
from sightline.evaluation.benchmark import evaluate as evaluate_dataset
from sightline.evaluation.bootstrap import Interval
from sightline.evaluation.html import Strip, html_text
from sightline.evaluation.report import (
    Metric,
    Report,
    csv_text,
    json_text,
    markdown_text,
    shown,
    shown_interval,
    signed,
    signed_interval,
    speed,
)
from sightline.evaluation.run import Advance, AnyClip, describe, is_done, open_run, threads_each, track_dataset
from sightline.evaluation.two_files import score_two_files
from sightline.files import atomic_path
from sightline.loading import Backend, load, parse_options
from sightline.trackers.zoo import ZOO

MAX_WORKERS = 64
MIN_NAME = 12  # characters that are left of a tracker's name, however narrow the terminal
GAP = 2  # blanks between columns
TEXTS = {".csv": csv_text, ".json": json_text, ".md": markdown_text}
SUFFIXES = (*TEXTS, ".html")

Shown = Callable[[Metric, float], str]
ShownInterval = Callable[[Metric, Interval], str]

FOLDER = tyro.conf.arg(metavar="DIR", help_behavior_hint="")
NAME = tyro.conf.arg(metavar="NAME", help_behavior_hint="")


def evaluate(
    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[GT RESULT]", help_behavior_hint="")
    ] = (),
    /,
    dataset: Annotated[str, NAME] = "",
    split: Annotated[str, NAME] = "",
    data: Annotated[Path | None, FOLDER] = None,
    model: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = (),
    results: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="DIR")] = (),
    protocol: Annotated[str, NAME] = "",
    report: Annotated[tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(metavar="FILE")] = (),
    submission: Annotated[Path | None, FOLDER] = None,
    out: Annotated[Path | None, FOLDER] = None,
    resume: bool = True,
    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 1,
    weights: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None,
    backbone: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    settings: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="NAME=VALUE")
    ] = (),
    backend: Literal["auto", "onnx", "torch"] = "auto",
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "cpu",
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
) -> int:
    """Track a data set and score it, score results that are there, or score two files.

    sightline eval GT.txt RESULT.txt:
        Two files: boxes of one target, MOTChallenge or KITTI rows, or JSON; their columns say which.

    sightline eval --results DIR --dataset NAME:
        Results that are there: DIR/SEQ.txt, for JSON benchmarks a file. Repeat --results to compare trackers.

    sightline eval --model NAME --dataset NAME:
        Tracks every sequence, then scores: a model that starts on a box on data sets of one target, one that finds its
        targets on mot and the MOTChallenge sets. Stopped and given again, it goes on where it was.

    Args:
        files: The ground truth and a result.
        dataset: lasot, got10k, otb100, mot17, tao ...; folder (boxes of one target) and mot (of many) are your own.
        split: Of the data set; by default its first, mostly the one that is published on.
        data: The folder that holds the data sets, or the one; without it SIGHTLINE_DATA or the config file says.
        model: A name from `sightline models`, or a .toml file. Repeat to compare.
        results: A folder of results. Repeat to compare; the first is compared with each of the others.
        protocol: How to score: plain, lasot, pytracking, ostrack, pysot, got10k, trackingnet; MOT15 .. MOT20,
            DanceTrack, none; sane, toolkit, trackeval. By default the data set's own.
        report: A file to write: .json and .csv with all numbers, .md, or .html with charts and pictures. Repeat.
        submission: A folder for the archive that the server of GOT-10k, TrackingNet, MOTChallenge or TAO takes.
        out: Where the boxes of a model are kept; by default eval/MODEL-DATASET.
        resume: Go on with the results in that folder; --no-resume deletes them and begins anew.
        workers: Processes that track, each a sequence at a time.
        weights: As for `sightline track`.
        backbone: As for `sightline track`.
        settings: As for `sightline track`. SPMTrack's figures on LaSOT are of rule=lasot for the model B.
        backend: As for `sightline track`.
        device: As for `sightline track`.
        threads: Threads of the network in each process; 0 shares the cores.
    """
    check_reports(report, [*files, *results])
    of_models = [
        name
        for name, is_given in (
            ("--weights", weights is not None),
            ("--backbone", backbone is not None),
            ("--set", bool(settings)),
            ("--workers", workers != 1),
            ("--out", out is not None),
            ("--no-resume", not resume),
            ("--backend", backend != "auto"),
            ("--device", device != "cpu"),
            ("--threads", threads != 0),
        )
        if is_given
    ]
    if files:
        others = [("--dataset", dataset), ("--model", model), ("--results", results), ("--submission", submission)]
        others += [("--split", split), ("--data", data)]
        beside_them = [name for name, given in others if given] + of_models
        if len(files) != 2 or beside_them:
            beside = f" beside {', '.join(beside_them)}" if len(files) == 2 else ""
            raise DatasetError(
                f"files: got {len(files)}{beside}; expected two alone, ground truth and result. Write: sightline eval "
                "GT.txt RESULT.txt"
            )
        with reports(report) as outputs:
            judged = score_two_files(files[0], files[1], protocol)
            print(f"assumed: {judged.assumed}")
            finish(judged.report, outputs, list)
        return 0
    if not dataset or not (model or results):
        raise DatasetError(
            f"eval: got {'neither a model nor results' if dataset else 'no data set'}; expected two files, or "
            "--dataset with --model or --results. Run: sightline eval --help"
        )
    if not model and of_models:
        raise DatasetError(
            f"eval: got {', '.join(of_models)} without --model; expected a model to track with. Leave them out, or add "
            "--model."
        )
    if len(model) > 1 and (weights or backbone or settings):
        raise DatasetError(
            f"eval: got weights or settings for {len(model)} models; expected one model with them. Track each apart, "
            "then compare with --results."
        )
    if not 1 <= workers <= MAX_WORKERS:
        raise DatasetError(f"workers: got {workers}; expected 1 to {MAX_WORKERS}. Pass no more than there are cores.")
    runs = [Run(name, parse_options(name, settings), weights, backbone, backend, device) for name in model]
    opened = open_dataset(dataset, split, data)
    for run in runs:
        finds = run.model in ZOO and ZOO[run.model].is_multi_object
        if opened.row.kind != ("mot" if finds else "sot") or opened.annotated is not None:
            expected = "sequences of many targets, which it finds" if finds else "a data set of one given target"
            if finds and opened.row.kind == "mot":
                expected = "one whose results are rows of text, not JSON"
            raise DatasetError(
                f"model: got {run.model} for {opened.row.title}; expected {expected}. Choose another "
                "of the two, or score the results of another tracker: --results."
            )
    if is_hidden(opened) and (report or not (runs or submission)):
        raise DatasetError(
            f"{opened.name} {opened.split}: got results to score; expected --submission alone, since only its server "
            "knows what is true. Add --submission DIR for the archive to upload."
        )
    with reports(report) as outputs:
        folders = [folder_of(run.model, opened.name, out, len(runs)) for run in runs]
        for folder in folders:
            if folder.resolve().is_relative_to(opened.folder.resolve()):
                raise DatasetError(
                    f"{folder}: got a folder inside the data set {opened.folder}; expected one elsewhere for results. "
                    "Choose it with --out."
                )
        if runs:
            check_whole(opened)
            clips = list(opened)
            for run, folder in zip(runs, folders, strict=True):
                track(run, opened, clips, folder, resume, workers, threads or threads_each(workers))
        paths = [*folders, *(results if opened.annotated is None else map(json_file, results))]
        sources = sources_of(paths, opened.name)
        for path in pack(opened, sources, submission) if submission else ():
            print(f"archive: {path}")
        if is_hidden(opened):
            print(f"results: {' and '.join(map(str, paths))}; only the server of {opened.name} can score them")
        else:
            outcome = evaluate_dataset(opened, sources, protocol)
            finish(outcome.report, outputs, outcome.strips)
    return 0


def check_reports(paths: Sequence[Path], inputs: Sequence[Path]) -> None:
    """`DatasetError` for a report of no known kind, or in the place of an input or of another report."""
    resolved = [path.resolve() for path in paths]
    for path, place in zip(paths, resolved, strict=True):
        if path.suffix.lower() not in SUFFIXES:
            raise DatasetError(
                f"{path}: got suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}. Rename the report."
            )
        if resolved.count(place) > 1 or place in [given.resolve() for given in inputs]:
            raise DatasetError(f"{path}: got the name of another file; expected one of its own. Rename the report.")


@contextmanager
def reports(paths: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Report -> where to write it; what cannot be written is refused before any work, and appears at the end."""
    with ExitStack() as stack:
        yield {path: stack.enter_context(atomic_path(path, DatasetError)) for path in paths}
    if paths:
        print(f"\nreport: {' and '.join(map(str, paths))}")


class Run(NamedTuple):
    """A model to track with."""

    model: str
    options: Mapping[str, Any]
    weights: Path | None
    backbone: Path | None
    backend: Backend
    device: str


def folder_of(model: str, dataset: str, out: Path | None, num_models: int) -> Path:
    """Where the results of a model are kept."""
    stem = Path(model).stem if model.endswith(".toml") else model
    if out is None:
        return Path("eval") / f"{stem}-{dataset}"
    return out if num_models == 1 else out / stem


def track(
    run: Run, opened: Dataset[Any], clips: Sequence[AnyClip], folder: Path, resume: bool, workers: int, threads: int
) -> None:
    """Track what is not tracked yet, with a bar."""
    model, options, weights, backbone, backend, device = run
    about = describe(
        model,
        weights=weights,
        backbone=backbone,
        settings=options,
        backend=backend,
        device=device,
        dataset=opened.name,
        split=opened.split,
        data=opened.folder,
        clips=clips,
    )
    open_run(folder, about, resume=resume)
    maker = partial(
        load, model, weights=weights, backbone=backbone, backend=backend, device=device, threads=threads, **options
    )
    try:
        with progress(model, sum(len(clip) for clip in clips if not is_done(folder, clip))) as advance:
            track_dataset(maker, clips, folder, workers=workers, advance=advance)
    except KeyboardInterrupt:
        kept = sum(is_done(folder, clip) for clip in clips)
        print(f"kept: {kept} of {len(clips)} sequences in {folder}; the same command goes on", file=sys.stderr)
        raise


@contextmanager
def progress(name: str, num_frames: int) -> Iterator[Advance]:
    """A bar with the time left on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda frames: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(name, total=num_frames)
        yield lambda frames: bar.update(task, advance=frames)


def finish(report: Report, outputs: Mapping[Path, Path], strips: Callable[[], Sequence[Strip]]) -> None:
    """The table, and the reports."""
    show(report)
    for path, place in outputs.items():
        suffix = path.suffix.lower()
        text = html_text(report, strips()) if suffix == ".html" else TEXTS[suffix](report)
        place.write_bytes(text.encode("utf-8", "backslashreplace"))  # a folder's name may hold what is no character


def show(report: Report) -> None:
    """The scores, in percent, with intervals beneath; columns that do not fit stand in a further table below."""
    out = console()
    for line in (report.title, *(f"{key}: {text}" for key, text in report.facts.items()), ""):
        out.print(Text(line))
    has_speed = any(one.frames_per_second > 0 for one in report.trackers)
    rows = [["tracker", *(["frames/s"] if has_speed else []), *(metric.heading for metric in report.metrics)]]

    def add(label: str, values: Mapping[str, Interval], number: Shown, interval: ShownInterval, rate: str) -> None:
        cells = [(metric, values[metric.key]) for metric in report.metrics]
        before = [rate] if has_speed else []
        rows.append([label, *before, *(number(metric, value.value) for metric, value in cells)])
        if any(around := [interval(metric, value).replace(" to ", "..") for metric, value in cells]):
            rows.append(["", *[""] * len(before), *around])

    for one in report.trackers:
        add(one.name, one.overall, shown, shown_interval, speed(one.frames_per_second))
    first = report.trackers[0].name
    for difference in report.differences:
        label = f"{difference.one if difference.one != first else ''} - {difference.other}".lstrip()
        add(label, difference.values, signed, signed_interval, "")
    names, *columns = (list(column) for column in zip(*rows, strict=True))
    widths = [GAP + max(map(len, column)) for column in columns]
    width = out.width
    room = max(MIN_NAME, width - max(widths))
    names = [name if len(name) <= room else f"{name[: room - 1]}…" for name in names]
    name_width = max(map(len, names))
    while columns:
        count = max(1, sum(name_width + end <= width for end in accumulate(widths)))
        table = grid(names[0], *(column[0] for column in columns[:count]))
        table.columns[-1].justify = "right"  # which of a grid begins at the left
        for name, *cells in zip(names[1:], *(column[1:] for column in columns[:count]), strict=True):
            table.add_row(*map(Text, (name, *cells)), style="" if name else "dim")
        out.width = max(width, name_width + sum(widths[:count]))  # rather a line that wraps than a number that is cut
        out.print(table)
        columns, widths = columns[count:], widths[count:]
        if columns:
            out.print()
    out.width = width
    for note in report.notes:
        out.print(Text(f"\nnote: {note}"))
