"""A run over time, drawn with matplotlib: the scores of targets, or when each track was there."""

from __future__ import annotations

import io
import warnings
from array import array
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import MissingExtra, VideoError
from sightline.files import atomic_path
from sightline.imaging.draw import colour_of
from sightline.types import Frame, TrackResult

__all__ = ["SUFFIXES", "ScoreHistory", "TrackHistory", "check_plot", "plot_scores", "plot_tracks"]

SUFFIXES = (".pdf", ".png", ".svg")
DPI = 120
WIDTH_IN = 11.0


class ScoreHistory:
    """The scores of a run, for `plot_scores`: `add` the results of each frame, the same targets in the same order.

    Takes 17 bytes a frame and 5 more for each target: 2.4 MB for an hour of one target at 30 frames per second.
    """

    def __init__(self) -> None:
        self.target_ids: list[int] = []
        self._frame_index = array("q")
        self._time_s = array("d")
        self._is_readable = array("b")
        self._score = array("f")  # one frame's targets after another
        self._is_tracked = array("b")

    def add(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        self.target_ids = self.target_ids or [result.target_id for result in results]
        self._frame_index.append(frame.index)
        self._time_s.append(np.nan if frame.time_s is None else frame.time_s)
        self._is_readable.append(not frame.error)
        self._score.extend(result.score for result in results)
        self._is_tracked.extend(result.presence == "tracked" for result in results)

    @property
    def num_frames(self) -> int:
        return len(self._frame_index)

    @property
    def frame_index(self) -> NDArray[np.int64]:
        """(frames,)"""
        return np.array(self._frame_index, np.int64)

    @property
    def time_s(self) -> NDArray[np.float64]:
        """(frames,) seconds, nan where a frame has no time."""
        return np.array(self._time_s, np.float64)

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """(frames,)"""
        return np.array(self._is_readable, np.bool_)

    @property
    def score(self) -> NDArray[np.float32]:
        """(frames, targets), nan where nothing is known."""
        return np.array(self._score, np.float32).reshape(self.num_frames, -1)

    @property
    def is_tracked(self) -> NDArray[np.bool_]:
        """(frames, targets): whether `presence` was "tracked"."""
        return np.array(self._is_tracked, np.bool_).reshape(self.num_frames, -1)


class TrackHistory:
    """When each track was there, for `plot_tracks`: `add` the results of each frame."""

    def __init__(self) -> None:
        self.at: list[float] = []  # seconds, or frames where a frame has no time
        self.is_timed = True
        self.seen: dict[int, list[int]] = {}  # track -> places in `at`
        self.labels: dict[int, str] = {}

    def add(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        self.is_timed &= frame.time_s is not None
        self.at.append(frame.index if frame.time_s is None else frame.time_s)
        for target_id in {result.target_id for result in results}:
            self.seen.setdefault(target_id, []).append(len(self.at) - 1)
        self.labels.update({result.target_id: result.label for result in results})


def check_plot(path: Path) -> None:
    """Raise `VideoError` for a suffix that no plot has, and `MissingExtra` without matplotlib; loads nothing."""
    if path.suffix.lower() not in SUFFIXES:
        raise VideoError(f"{path}: got suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}. Rename the plot.")
    if not find_spec("matplotlib"):
        raise MissingExtra("a plot needs matplotlib, which is not installed. Run: pip install 'sightline[viz]'")


def plot_scores(path: Path, history: ScoreHistory, threshold: float | None, title: str) -> None:
    """Draw each target's score over time, in a panel of its own and in its colour, as .png, .svg or .pdf by suffix.

    The axis is in seconds where every frame has a time, else in frames. `threshold`, the score from which on a target
    counts as tracked, is a dashed line; spans in which it was not are shaded; frames that could not be read are ticks
    below, and gaps of the line. The file is whole or not there. Raises `VideoError` for another suffix, a history
    without a frame, a folder that cannot be written or a full disk, and `MissingExtra` without matplotlib.
    """
    if not history.num_frames:
        raise VideoError(f"{path}: got scores of no frame; expected at least one. Add the results of each frame.")
    check_plot(path)
    from matplotlib.figure import Figure

    num_targets = len(history.target_ids)
    panel_in = 3.2 if num_targets == 1 else max(1.1, 2.4 - 0.2 * num_targets)
    # A figure of its own, without pyplot: no window, no back end chosen for the caller.
    figure = Figure(figsize=(WIDTH_IN, 0.9 + panel_in * num_targets), layout="constrained")
    panels = figure.subplots(num_targets, 1, sharex=True, squeeze=False)[:, 0]
    for column, panel in enumerate(panels):
        _draw_panel(panel, history, column, threshold)
    panels[-1].set_xlabel("time (s)" if _has_times(history) else "frame")
    figure.suptitle(title, fontsize="large", parse_math=False)  # a name may hold a dollar sign
    legend: dict[str, Any] = {}
    for panel in panels:
        legend.update(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(legend.values(), legend, loc="outside lower right", ncols=4, frameon=False, fontsize="small")
    _save(figure, path)


def plot_tracks(path: Path, history: TrackHistory, title: str) -> None:
    """Draw a line for every track, in its colour, where it was there, as .png, .svg or .pdf by suffix.

    The axis is in seconds where every frame has a time, else in frames. Raises what `plot_scores` does; a run without
    any track is an empty picture.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    ids = sorted(history.seen, key=lambda target_id: (history.seen[target_id][0], target_id))
    figure = Figure(figsize=(WIDTH_IN, min(30.0, 1.6 + 0.2 * len(ids))), layout="constrained")
    panel = figure.subplots()
    at = np.array(history.at)
    step = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
    for row, target_id in enumerate(ids):
        there = np.zeros(len(at), dtype=np.bool_)
        there[history.seen[target_id]] = True
        bars = [(at[first], at[last - 1] - at[first] + step) for first, last in _spans(there)]
        panel.broken_barh(bars, (row - 0.4, 0.8), color=tuple(value / 255 for value in colour_of(target_id)))
    if len(ids) <= 60:  # more would be a grey column
        panel.set_yticks(range(len(ids)), [f"#{target_id}  {history.labels[target_id]}" for target_id in ids])
    panel.invert_yaxis()
    if len(at):
        panel.set_xlim(at[0], at[-1] + step)
    panel.set_xlabel("time (s)" if history.is_timed else "frame")
    panel.grid(True, axis="x", color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}: {len(ids)} tracks", fontsize="large", parse_math=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write a matplotlib `Figure`, whole or not at all."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a title in a script that the font has not
        figure.savefig(drawn, format=path.suffix.lower()[1:], dpi=DPI)
    with atomic_path(path, VideoError) as partial, partial.open("wb") as file:
        file.write(drawn.getbuffer())


def _has_times(history: ScoreHistory) -> bool:
    return bool(np.isfinite(history.time_s).all())


def _draw_panel(panel: Any, history: ScoreHistory, column: int, threshold: float | None) -> None:
    """One target's scores on a matplotlib `Axes`."""
    at = history.time_s if _has_times(history) else history.frame_index.astype(np.float64)
    readable = history.is_readable
    score = history.score[:, column]
    colour = tuple(value / 255 for value in colour_of(history.target_ids[column]))
    middles = (at[1:] + at[:-1]) / 2
    edges = np.concatenate([at[:1], middles, at[-1:]])
    spans = _spans(~history.is_tracked[:, column] & readable)
    if spans:
        bars = [(edges[first], edges[last] - edges[first]) for first, last in spans]
        panel.broken_barh(bars, (0, 1), color="0.87", linewidth=0, zorder=0, label="uncertain")
    if threshold is not None:
        panel.axhline(threshold, color="0.2", linewidth=1, linestyle=(0, (5, 3)), label=f"tracked from {threshold:g}")
    # A dark line beneath carries the light colours on white paper.
    panel.plot(at, score, color="0.25", linewidth=2.6, solid_capstyle="round")
    panel.plot(at, score, color=colour, linewidth=1.6, solid_capstyle="round", label="score")
    alone = [first for first, last in _spans(np.isfinite(score)) if last - first == 1]  # a line needs two
    panel.plot(at[alone], score[alone], ".", color=colour, markeredgecolor="0.25", markeredgewidth=0.5)
    if not readable.all():
        lost = at[~readable]
        panel.plot(lost, np.full(len(lost), 0.02), "|", color="0", markersize=9, label="frame not readable")
    panel.set_ylim(0, 1)
    panel.set_xlim(edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1)
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    panel.set_ylabel(f"#{history.target_ids[column]}\nscore", rotation=0, ha="right", va="center")
    panel.grid(True, color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _spans(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open ranges of positions where the mask holds."""
    flips = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in flips.reshape(-1, 2)]
