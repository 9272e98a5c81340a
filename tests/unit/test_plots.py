"""Scores over time: what is collected, what is drawn of it, and what is said where that cannot be."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sightline.errors import MissingExtra, VideoError
from sightline.imaging.draw import colour_of
from sightline.plots import ScoreHistory, TrackHistory, _draw_panel, plot_scores, plot_tracks
from sightline.types import Frame, TrackResult

NAN = math.nan


def history(scores: list[list[float]], has_times: bool = True, start: int = 0) -> ScoreHistory:
    """One list of scores per frame, a fifth of a second apart; nan is one that could not be read; tracked from 0.5."""
    collected = ScoreHistory()
    for step, frame in enumerate(scores):
        error = "damaged." if math.isnan(frame[0]) else None
        collected.add(
            Frame(start + step, step / 5 if has_times else None, None, error),
            [
                TrackResult(
                    start + step,
                    step / 5 if has_times else None,
                    target_id,
                    (NAN,) * 4 if error else (1.0, 2.0, 3.0, 4.0),
                    score,
                    "tracked" if score >= 0.5 else "uncertain",
                    error,
                )
                for target_id, score in enumerate(frame, start=1)
            ],
        )
    return collected


RUN = [[1.0], [0.75], [0.25], [0.375], [NAN], [0.625], [0.125], [0.875]]


def test_a_history_holds_what_it_was_given():
    collected = history([[1.0, 0.25], [NAN, NAN], [0.5, 0.75]], start=7)
    assert collected.target_ids == [1, 2]
    assert collected.num_frames == 3
    assert collected.frame_index.tolist() == [7, 8, 9]
    assert collected.time_s.tolist() == [0, 0.2, 0.4]
    assert collected.is_readable.tolist() == [True, False, True]
    np.testing.assert_array_equal(collected.score, np.array([[1, 0.25], [NAN, NAN], [0.5, 0.75]], np.float32))
    assert collected.is_tracked.tolist() == [[True, False], [False, False], [True, True]]
    assert np.isnan(history([[1.0]], has_times=False).time_s).all()


def test_a_history_takes_the_bytes_that_it_says():
    for num_targets in (1, 4):
        collected = history([[0.5] * num_targets] * 100)
        stored = [values for values in vars(collected).values() if hasattr(values, "itemsize")]
        assert sum(len(values) * values.itemsize for values in stored) == 100 * (17 + 5 * num_targets)


def test_without_matplotlib_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"needs matplotlib, .* Run: pip install 'sightline\[viz\]'"):
        plot_scores(tmp_path / "plot.png", history(RUN), 0.5, "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_drawn_is_refused(tmp_path: Path):
    with pytest.raises(VideoError, match=r"got suffix '.jpg'; expected .pdf, .png, .svg"):
        plot_scores(tmp_path / "plot.jpg", history(RUN), 0.5, "clip.mp4")
    with pytest.raises(VideoError, match="got scores of no frame"):
        plot_scores(tmp_path / "plot.png", ScoreHistory(), 0.5, "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extras
@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_a_plot_is_a_file_of_its_suffix(tmp_path: Path, suffix: str, begins: bytes):
    path = tmp_path / f"plot{suffix}"
    plot_scores(path, history([[1.0, 0.25], [NAN, NAN], [0.5, 0.75]]), None, "a $name$ of 字, 50 %")
    assert path.read_bytes().startswith(begins)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@pytest.mark.extras
@pytest.mark.parametrize("scores", [[[1.0]], [[NAN]], [[1.0], [NAN], [0.25]], [[0.5] * 20] * 3])
def test_short_and_wide_runs_are_drawn(tmp_path: Path, scores: list[list[float]]):
    plot_scores(tmp_path / "plot.png", history(scores), 0.5, "clip.mp4")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.extras
def test_a_folder_that_is_missing_is_told(tmp_path: Path):
    with pytest.raises(VideoError, match="No such file or directory"):
        plot_scores(tmp_path / "missing" / "plot.png", history(RUN), 0.5, "clip.mp4")


def panel_of(collected: ScoreHistory, threshold: float | None = 0.5, column: int = 0):
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    _draw_panel(panel, collected, column, threshold)
    return panel


def labelled(panel, label: str):
    (found,) = [artist for artist in (*panel.lines, *panel.collections) if artist.get_label() == label]
    return found


@pytest.mark.extras
@pytest.mark.parametrize(("has_times", "unit"), [(True, 0.2), (False, 1.0)])
def test_a_panel_shows_scores_threshold_and_what_was_lost(has_times: bool, unit: float):
    """In seconds where they are known, else in frames."""
    panel = panel_of(history(RUN, has_times))
    line = labelled(panel, "score")
    np.testing.assert_allclose(line.get_xdata(), unit * np.arange(8))
    np.testing.assert_array_equal(line.get_ydata(), np.array(RUN, np.float32)[:, 0])
    assert line.get_color() == tuple(value / 255 for value in colour_of(1))
    assert set(labelled(panel, "tracked from 0.5").get_ydata()) == {0.5}
    np.testing.assert_allclose(labelled(panel, "frame not readable").get_xdata(), [4 * unit])
    np.testing.assert_allclose(panel.get_xlim(), (0, 7 * unit))


@pytest.mark.extras
def test_spans_in_which_the_target_was_uncertain_are_shaded():
    """From the middle between two frames on; not over a frame that could not be read."""
    panel = panel_of(history(RUN, has_times=False))
    spans = [path.get_extents().intervalx.tolist() for path in labelled(panel, "uncertain").get_paths()]
    np.testing.assert_allclose(spans, [[1.5, 3.5], [5.5, 6.5]])
    sure = panel_of(history([[1.0], [0.75]]), threshold=None)
    assert [artist.get_label() for artist in sure.collections] == []
    assert len(sure.lines) == len(panel.lines) - 2  # neither a threshold nor a lost frame


@pytest.mark.extras
def test_each_target_has_its_scores_in_its_colour():
    collected = history([[1.0, 0.25], [0.75, 0.5]])
    second = labelled(panel_of(collected, column=1), "score")
    assert second.get_ydata().tolist() == [0.25, 0.5]
    assert second.get_color() == tuple(value / 255 for value in colour_of(2))


@pytest.mark.extras
def test_a_readable_frame_between_lost_ones_is_a_point():
    panel = panel_of(history([[NAN], [0.75], [NAN]]))
    (point,) = [line for line in panel.lines if line.get_marker() == "."]
    assert point.get_ydata().tolist() == [0.75]


@pytest.mark.extras
def test_no_state_of_pyplot_is_made(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from tests.unit.test_plots import *\n"
        "plot_scores(Path(sys.argv[1]), history(RUN), 0.5, 'clip.mp4')\n"
        "print('matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "plot.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("True False\n", "")


def seen(spans: dict[int, list[int]], num_frames: int = 10) -> TrackHistory:
    """Tracks that were there on these frames, a fifth of a second apart."""
    kept = TrackHistory()
    for k in range(num_frames):
        there = [one for one, frames in spans.items() if k in frames]
        boxes = [TrackResult(k, k / 5, one, (0, 0, 1, 1), 0.5, "tracked", label="person") for one in there]
        kept.add(Frame(k, k / 5, None), boxes)
    return kept


@pytest.mark.extras
@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_tracks_are_lines_where_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tracks{suffix}"
    plot_tracks(path, seen({4: [0, 1, 2, 6, 7], 9: [3]}), "a run")
    assert path.stat().st_size > 1000
    if suffix == ".svg":
        drawn = path.read_text()
        assert "#4" in drawn and "#9" in drawn and "2 tracks" in drawn and "time (s)" in drawn


@pytest.mark.extras
def test_a_run_without_a_track_is_an_empty_picture(tmp_path: Path) -> None:
    plot_tracks(tmp_path / "none.png", TrackHistory(), "a run")
    assert (tmp_path / "none.png").stat().st_size > 1000
    with pytest.raises(VideoError, match="got suffix '.bmp'"):
        plot_tracks(tmp_path / "none.bmp", seen({1: [0]}), "a run")
