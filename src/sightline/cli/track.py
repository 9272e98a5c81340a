"""`sightline track`: follow targets in a video or image folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal, Protocol

import tyro

from sightline.errors import GeometryError, VideoError
from sightline.geometry.boxes import Box
from sightline.imaging.draw import draw_targets
from sightline.loading import load
from sightline.results import box_row, mot_row, open_results
from sightline.runtime.stages import StageClock
from sightline.tracking import follow
from sightline.types import TrackResult
from sightline.video.sink import VideoSink
from sightline.video.source import Source, open_source


def track(
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")],
    /,
    box: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="X,Y,W,H")] = (),
    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = "sightline-nano",
    weights: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None,
    backend: Literal["auto", "onnx", "torch"] = "auto",
    threads: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="VIDEO", help_behavior_hint="")] = None,
    results: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    start: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
) -> int:
    """Follow one or more targets; without -o and --results the boxes go to standard output, one row per frame.

    Args:
        source: A video file, a folder of images, or a quoted glob ("frames/*.jpg").
        box: The target on the first frame, X,Y,W,H in pixels: top-left corner and size. Repeat for more targets.
        model: A name from `sightline models`.
        weights: An official or converted weights file, or a folder made by `sightline export`.
        backend: onnx needs no torch; auto takes onnx where graphs are at hand.
        threads: Threads of the network; 0 leaves the choice to the back end.
        output: Video to write (H.264 in .mp4) with boxes, ids and scores drawn.
        results: Boxes to write: .txt (x,y,w,h rows; MOTChallenge rows for several targets) or .json (everything).
        start: Index of the first frame to use; the boxes are those of that frame.
    """
    boxes = [parse_box(text) for text in box]
    if not boxes:
        raise GeometryError(
            "target box: got none; expected at least one. Pass --box X,Y,W,H in pixels of the first frame."
        )
    refuse_overwriting(source, output, results)
    clock = StageClock()
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(source, start=start))
        # The video ends before the results take their name: if its end finds no room, neither file is left.
        rows = stack.enter_context(open_results(results, len(boxes))) if results else None
        video = stack.enter_context(VideoSink(output, opened.fps)) if output else None
        prints = not rows and not video
        # Last, since it may take a minute that a mistyped name should not cost.
        tracker = load(model, weights=weights, backend=backend, threads=threads)
        advance = stack.enter_context(progress(opened, start, prints))
        began = time.perf_counter()
        count = unreadable = 0
        for frame, found in follow(tracker, opened, boxes, clock):
            count += 1
            if frame.error:
                unreadable += 1
                print(f"warning: {frame.error}", file=sys.stderr)
            if rows:
                rows.write(found)
            if video and frame.rgb is not None:
                with clock.stage("draw"):
                    picture = draw_targets(frame.rgb, found)
                with clock.stage("encode"):
                    video.write(picture, frame.time_s)
            if prints:
                print_rows(found)
            advance()
        seconds = time.perf_counter() - began
        if rows:
            rows.close(
                {
                    "model": model,
                    "source": source,
                    "num_frames": count,
                    "num_unreadable": unreadable,
                    "frames_per_second": round(count / seconds, 2),
                    "stages_ms": clock.summary(),
                }
            )
    if output or results:
        where = " and ".join(str(path) for path in (output, results) if path)
        print(f"{count} frames, {count / seconds:.1f} frames/s: {where}")
    return 0


def parse_box(text: str) -> Box:
    """Four numbers from `X,Y,W,H`, or a `GeometryError`."""
    try:
        x, y, w, h = (float(part) for part in text.split(","))
    except ValueError:
        raise GeometryError(
            f"target box: got {text!r}; expected X,Y,W,H, four numbers in pixels. Write for example --box 100,50,40,90"
        ) from None
    return x, y, w, h


def refuse_overwriting(source: str, *outputs: Path | None) -> None:
    """`VideoError` when an output is the source itself, or two outputs are one file."""
    paths = [path.resolve() for path in outputs if path]
    if Path(source).resolve() in paths:
        raise VideoError(f"output: got the name of the source, {source}; expected another. Choose another name.")
    if len(set(paths)) < len(paths):
        raise VideoError(f"output: got {outputs[0]} for the video and the results; expected two names. Change one.")


def print_rows(results: Sequence[TrackResult]) -> None:
    """The rows of a `.txt` file on standard output, as they come."""
    row = box_row if len(results) == 1 else mot_row
    for result in results:
        if text := row(result):
            print(text, flush=True)


class Advance(Protocol):
    """Counts one frame more."""

    def __call__(self) -> None: ...


@contextmanager
def progress(source: Source, start: int, prints: bool) -> Iterator[Advance]:
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
        total = None if source.num_frames is None else max(0, source.num_frames - start)
        task = bar.add_task(Path(source.name).name, total=total, rate="")
        began, done = time.perf_counter(), 0

        def advance() -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, rate=f"{done / (time.perf_counter() - began):.0f} frames/s")

        yield advance
