"""The files that a run of `sightline track` leaves: refused at once where they cannot be, whole or not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sightline.errors import VideoError
from sightline.files import atomic_path
from sightline.imaging.draw import draw_targets
from sightline.imaging.sheet import SUFFIXES as PICTURES
from sightline.imaging.sheet import ContactSheet, write_image
from sightline.plots import ScoreHistory, TrackHistory, check_plot, plot_scores, plot_tracks
from sightline.results import ResultsSink, open_results
from sightline.runtime.stages import StageClock
from sightline.types import Frame, TrackResult
from sightline.video.sink import VideoSink
from sightline.video.source import Source


class Outputs:
    """Takes the results of each frame to wherever they were asked for; made by `open_outputs`."""

    def __init__(
        self,
        video: VideoSink | None,
        rows: ResultsSink | None,
        plot: Path | None,
        sheet: Path | None,
        clock: StageClock,
        num_targets: int | None,
    ) -> None:
        self.video, self.rows, self.plot, self.sheet, self.clock = video, rows, plot, sheet, clock
        self.history: ScoreHistory | TrackHistory | None = None
        if plot:
            self.history = TrackHistory() if num_targets is None else ScoreHistory()
        self.pages = ContactSheet() if sheet else None

    def write(self, frame: Frame, found: Sequence[TrackResult]) -> None:
        if self.rows:
            self.rows.write(frame, found)
        if self.history:
            self.history.add(frame, found)
        if frame.rgb is None:
            return
        if self.pages:
            self.pages.add(frame.rgb, found)
        if self.video:
            with self.clock.stage("draw"):
                picture = draw_targets(frame.rgb, found)
            with self.clock.stage("encode"):
                self.video.write(picture, frame.time_s)

    def finish(self, summary: Mapping[str, Any], threshold: float | None) -> None:
        """What can only be written at the end."""
        title = f"{Path(summary['source']).name}, {summary['model']}"
        if self.plot and isinstance(self.history, ScoreHistory):
            plot_scores(self.plot, self.history, threshold, title)
        elif self.plot and isinstance(self.history, TrackHistory):
            plot_tracks(self.plot, self.history, title)
        if self.pages is not None and self.sheet:
            write_image(self.sheet, self.pages.draw())
        if self.rows:
            self.rows.close(summary)


@contextmanager
def open_outputs(
    source: Source,
    num_targets: int | None,
    clock: StageClock,
    *,
    video: Path | None,
    results: Path | None,
    plot: Path | None,
    sheet: Path | None,
) -> Iterator[Outputs]:
    """Every output by its path; what cannot be written is a `VideoError` now. Files appear when the block ends well.

    num_targets: None where the tracker finds them by itself.
    """
    if plot:
        check_plot(plot)
    if sheet and sheet.suffix.lower() not in PICTURES:
        raise VideoError(f"{sheet}: got suffix {sheet.suffix!r}; expected {', '.join(PICTURES)}. Rename the picture.")
    with ExitStack() as stack:
        # The video ends before the others take their names: if its end finds no room, no file is left.
        plot = stack.enter_context(atomic_path(plot, VideoError)) if plot else None
        sheet = stack.enter_context(atomic_path(sheet, VideoError)) if sheet else None
        rows = stack.enter_context(open_results(results, num_targets, source.is_live)) if results else None
        sink = VideoSink(video, source.fps, sound=source.sound, pixel_aspect=source.pixel_aspect) if video else None
        with sink or nullcontext():
            yield Outputs(sink, rows, plot, sheet, clock, num_targets)
