"""`sightline track`: follow targets in a video, in images, from a camera or a stream."""

from __future__ import annotations

import glob
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro

from sightline.building import classes_of
from sightline.cli.outputs import open_outputs
from sightline.datasets.lvis import chosen_classes
from sightline.errors import GeometryError, VideoError
from sightline.geometry.boxes import Box
from sightline.loading import load, parse_options
from sightline.results import box_row, mot_row
from sightline.runtime.stages import StageClock
from sightline.trackers.protocol import MultiObjectTracker
from sightline.trackers.zoo import ZOO
from sightline.tracking import Watch, follow, pixels_of_first, refused_boxes, suited
from sightline.types import Frame, TrackResult
from sightline.video.source import IMAGE_SUFFIXES, Source, decode_ahead, natural_key, open_source

PATH = tyro.conf.arg(metavar="FILE", help_behavior_hint="")


def track(
    source: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE", help_behavior_hint="")],
    /,
    box: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="X,Y,W,H")] = (),
    pick: tyro.conf.FlagCreatePairsOff[bool] = False,
    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = "sightline-nano",
    weights: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None,
    backbone: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    settings: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="set", metavar="NAME=VALUE")
    ] = (),
    classes: Annotated[str, tyro.conf.arg(metavar="NAME,...", help_behavior_hint="")] = "",
    backend: Literal["auto", "onnx", "torch"] = "auto",
    device: Annotated[str, tyro.conf.arg(metavar="DEVICE")] = "cpu",
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="VIDEO", help_behavior_hint="")] = None,
    results: Annotated[Path | None, PATH] = None,
    plot: Annotated[Path | None, PATH] = None,
    contact_sheet: Annotated[Path | None, PATH] = None,
    start: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    max_frames: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = None,
) -> int:
    """Follow targets that you point at, or all that a model finds; without any output the boxes go to standard output.

    Args:
        source: A video file, a folder of images, images or a glob of them, the number of a camera (0), or the address
            of a stream (rtsp://, http:// ...). Ctrl-C ends a camera or stream well: its files are complete.
        box: The target on the first frame, X,Y,W,H in pixels: top-left corner and size. Repeat for more targets.
            Without one, the first frame is left as a picture with rulers to read it off. Models that find their targets
            by themselves (gtr-mot, onetrack-m-tiny ...) take none.
        pick: Draw the boxes in a window.
        model: A name from `sightline models`, or a .toml file that describes an ONNX model.
        weights: An official or converted weights file, or a folder made by `sightline export`.
        backbone: DINOv2's file, beside SPMTrack's weights where these have only what was trained.
        settings: One of the settings that `sightline models NAME` lists, for example window=0.6. Repeat for more.
        classes: Keep only these classes of a model that finds its targets: person, or for gtr-tao any of LVIS.
        backend: onnx needs no torch; auto takes onnx where graphs are at hand.
        device: Of torch: cpu, cuda, cuda:1, mps.
        threads: Threads of the network; 0 leaves the choice to the back end.
        output: Video to write with boxes, ids and scores drawn: H.264 in .mp4, .mkv or .mov, or a small .gif.
        results: Boxes to write: .csv, .json (lines of JSON for what is live), .jsonl, .parquet, or .txt (x,y,w,h rows;
            MOTChallenge rows for several targets).
        plot: Picture of score and presence over time: .png, .svg or .pdf.
        contact_sheet: Picture of up to twelve frames of the run with their boxes: .png, .jpg or .webp.
        start: Index of the first frame to use; the boxes are those of that frame.
        max_frames: Stop after so many frames.
    """
    if not source:
        raise VideoError("source: got none; expected a video, images, a camera's number or an address. Name one.")
    if others := [name for name in source if Path(name).suffix.lower() not in IMAGE_SUFFIXES and len(source) > 1]:
        raise VideoError(f"source: got {others[0]!r} among several; expected images. Name one video at a time.")
    boxes = [parse_box(text) for text in box]
    if boxes and pick:
        raise GeometryError("target box: got --box and --pick; expected one of them. Leave one out.")
    finds = model in ZOO and ZOO[model].is_multi_object
    if finds and (boxes or pick):
        raise refused_boxes(model)
    if classes and not finds:
        raise GeometryError(f"classes: got {classes!r} for {model}, which knows none; expected none. Leave them out.")
    wanted = chosen_classes(classes.split(","), classes_of(ZOO[model])) if classes else None
    chosen = parse_options(model, settings)
    refuse_overwriting(source, output, results, plot, contact_sheet)
    if max_frames is not None and max_frames < 1:
        raise VideoError(f"max-frames: got {max_frames}; expected at least 1. Leave it out to go to the end.")
    clock = StageClock()
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(named(source), start=start))
        begun = None
        if not boxes and not finds:
            reading = iter(opened)
            first = next(reading, None)
            boxes = choose_boxes(first, opened, pick, source)
            # What is live goes on from the frame that was drawn on; a file is read again, ahead of the tracker.
            begun = chain([first], reading) if first and opened.is_live else None
        num_targets = None if finds else len(boxes)
        outputs = stack.enter_context(
            open_outputs(opened, num_targets, clock, video=output, results=results, plot=plot, sheet=contact_sheet)
        )
        # Last, since it may take a minute that a mistyped name should not cost.
        chosen = suited(model, chosen, opened)
        tracker = load(
            model, weights=weights, backbone=backbone, backend=backend, device=device, threads=threads, **chosen
        )
        written = [path for path in (output, results, plot, contact_sheet) if path]
        watch = None
        if isinstance(tracker, MultiObjectTracker):
            watch = Watch(tracker, opened, clock, is_live=opened.is_live, classes=wanted)
            followed = iter(watch)
        else:
            followed = follow(tracker, opened, boxes, clock, begun)
        frames = stack.enter_context(closing(followed))
        advance = stack.enter_context(progress(opened, start, max_frames, not written))
        stack.enter_context(interrupted_well(opened))
        began = time.perf_counter()
        count = unreadable = uncertain = 0
        seen: set[int] = set()

        def write(frame: Frame, found: Sequence[TrackResult]) -> None:
            outputs.write(frame, found)
            seen.update(result.target_id for result in found if result.confirmed)
            if not written:
                print_rows(found, num_targets)

        for frame, found in islice(frames, max_frames):
            count += 1
            if frame.error:
                unreadable += 1
                print(f"warning: {frame.error}", file=sys.stderr)
            uncertain += not frame.error and any(result.presence != "tracked" for result in found)
            if watch is None or watch.is_live:
                write(frame, found)
            advance()
        seconds = time.perf_counter() - began
        if watch and not watch.is_live:
            # What is true of the first frame is known after the last: the pictures are read a second time.
            for frame, found in zip(reread(source, start, watch, output or contact_sheet), watch.final(), strict=False):
                write(frame, found)
        summary = {
            "model": model,
            "source": opened.name,
            "num_frames": count,
            "num_unreadable": unreadable,
            **({"num_uncertain": uncertain} if watch is None else {"num_tracks": len(seen)}),
            "num_dropped": opened.num_dropped,
            "num_reconnects": opened.num_reconnects,
            "frames_per_second": round(count / seconds, 2),
            "stages_ms": clock.summary(),
        }
        outputs.finish(summary, getattr(getattr(tracker, "config", None), "tracked_from", None))
    if written:
        told = {
            "uncertain": uncertain,
            "unreadable": unreadable,
            "dropped": opened.num_dropped,
            "reconnects": opened.num_reconnects,
        }
        counts = [f"{count} frames", f"{count / seconds:.1f} frames/s"]
        counts += [f"{len(seen)} tracks"] if finds else []
        counts += [f"{number} {what}" for what, number in told.items() if number]
        print(f"{', '.join(counts)}: {' and '.join(map(str, written))}")
    return 0


def reread(source: Sequence[str], start: int, watch: Watch, with_pixels: Path | None) -> Iterator[Frame]:
    """The frames of a run once more; without their pixels where nobody wants to see them."""
    if not with_pixels:
        yield from watch.heads
        return
    with open_source(named(source), start=start) as again, closing(decode_ahead(again)) as frames:
        yield from frames


def parse_box(text: str) -> Box:
    """Four numbers from `X,Y,W,H`, or a `GeometryError`."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise GeometryError(
            f"target box: got {text!r}; expected X,Y,W,H, four numbers in pixels. Write for example --box 100,50,40,90"
        ) from None
    return x, y, w, h


def choose_boxes(first: Frame | None, source: Source, pick: bool, names: Sequence[str]) -> list[Box]:
    """The boxes that a person draws on the first frame; without `pick` a picture of it with rulers, and a sentence."""
    rgb = pixels_of_first(first, source)
    if pick:
        from sightline.cli.pick import pick_boxes

        return pick_boxes(rgb, source.name)
    from sightline.imaging.sheet import first_frame_sheet, write_image

    height, width = rgb.shape[:2]
    title = Path(source.name).name or "stream"
    picture = Path(f"{safe_name(title)}-first-frame.png")
    if folder_of_frames(names, picture):
        raise GeometryError(
            "target box: got none; expected at least one. Pass --box X,Y,W,H, or go to another folder than that of the "
            "frames, where a picture of the first one would be taken for a frame."
        )
    write_image(picture, first_frame_sheet(rgb, f"{title}, first frame, {width} x {height}"))
    raise GeometryError(
        f"target box: got none; expected at least one. Read the target's left, top, width and height in pixels off "
        f"{picture}, then add --box X,Y,W,H (or draw it: --pick)."
    )


def folder_of_frames(sources: Sequence[str], path: Path) -> Path | None:
    """The folder that a picture would share with the images of a source; None where it shares none."""
    place = Path(os.path.realpath(path))
    if place.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    for source in sources:
        real = Path(os.path.realpath(source))
        folder = real if real.is_dir() else real.parent if has_images(source) else None
        if folder == place.parent:
            return folder
    return None


def has_images(source: str) -> bool:
    """Whether it is an image or a pattern, by its name."""
    return glob.has_magic(source) or Path(source).suffix.lower() in IMAGE_SUFFIXES


def safe_name(title: str) -> str:
    """A file name of the letters, digits, dots and dashes of `title`, without the suffix of a video."""
    stem = Path(title).stem if Path(title).suffix else title
    return "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in stem).strip("-.")[:80] or "source"


def named(sources: Sequence[str]) -> str | list[Path]:
    """One source as it is; several images in natural order (2 before 10), which a shell's own order is not."""
    return sources[0] if len(sources) == 1 else sorted(map(Path, sources), key=natural_key)


def refuse_overwriting(sources: Sequence[str], *outputs: Path | None) -> None:
    """`VideoError` when an output is a source itself or a picture among its pictures, or two outputs are one file."""
    paths = [Path(os.path.realpath(path)) for path in outputs if path]
    for source in sources:
        place = Path(os.path.realpath(source))
        if place in paths:
            raise VideoError(f"output: got the name of the source, {source}; expected another. Choose another name.")
    for path in paths:
        if folder := folder_of_frames(sources, path):
            raise VideoError(
                f"output: got a picture in the folder of the source, {folder}, where it would be taken for a frame; "
                "expected another folder. Choose another name."
            )
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise VideoError(f"output: got {twice.name} for two outputs; expected two names. Change one.")


@contextmanager
def interrupted_well(source: Source) -> Iterator[None]:
    """Ctrl-C, or being terminated, ends what is live as its own end would; asked a second time, at once."""
    if not source.is_live:
        yield
        return

    def stop(*_: object) -> None:
        if source.is_stopping:
            raise KeyboardInterrupt
        source.is_stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_rows(results: Sequence[TrackResult], num_targets: int | None) -> None:
    """The rows of a `.txt` file on standard output, as they come."""
    row = box_row if num_targets == 1 else mot_row
    for result in results:
        if text := row(result):
            print(text, flush=True)


class Advance(Protocol):
    """Counts one frame more."""

    def __call__(self) -> None: ...


@contextmanager
def progress(source: Source, start: int, max_frames: int | None, prints: bool) -> Iterator[Advance]:
    """A bar with frame rate and time left on standard error, if that is a terminal and shows no printed rows."""
    if not sys.stderr.isatty() or (prints and sys.stdout.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # Rows on their way into a file or pipe must not be redirected to the console, as rich does unless told.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        known = [] if source.num_frames is None else [max(0, source.num_frames - start)]
        total = min([*known, *([max_frames] if max_frames else [])], default=None)
        task = bar.add_task(Path(source.name).name, total=total, rate="")
        began, done = time.perf_counter(), 0

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, rate=f"{done / (time.perf_counter() - began):.0f} frames/s")

        yield advance
