"""MOT17's ground truth through OneTrack-M's targets, decoder and tracker, as `benchmarks/onetrack_m_round_trip.py`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sightline.evaluation.mot import combine
from sightline.geometry.heatmaps import as_maps, frame_targets
from sightline.trackers.onetrack_m import OneTrackMConfig, detections, fit_of, in_pixels

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ALL_SEVEN = ("MOT17-02", "MOT17-04", "MOT17-05", "MOT17-09", "MOT17-10", "MOT17-11", "MOT17-13")
TOLERANCE = 0.005

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))  # its neighbours are there
    yield importlib.import_module("onetrack_m_round_trip")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def videos(shared: Path, script: ModuleType) -> dict:
    folder = shared / "data" / "eval" / "mot17_trackeval" / "gt"
    return {name: script.read_video(folder, name) for name in ALL_SEVEN}


def scores(script: ModuleType, videos: dict, names: tuple[str, ...], variant: object) -> dict[str, float]:
    found = [script.score(videos[name], list(script.tracks_of(videos[name], variant))) for name in names]
    return combine(found).summary()


def test_onetrack_perfect_maps_of_196_cells_lose_what_was_measured(script: ModuleType, videos: dict) -> None:
    got = scores(script, videos, script.SEQUENCES, script.Variant(0, 1, "truth"))
    assert got["HOTA"] == pytest.approx(0.863, abs=TOLERANCE)
    assert got["MOTA"] == pytest.approx(0.975, abs=TOLERANCE)


def test_onetrack_coarser_maps_lose_far_more(script: ModuleType, videos: dict) -> None:
    """The control: the same way through 56 x 56 cells ends elsewhere."""
    got = scores(script, videos, script.SEQUENCES, script.Variant(0, 1, "truth", grid=56))
    assert got["HOTA"] == pytest.approx(0.613, abs=TOLERANCE)
    assert got["MOTA"] == pytest.approx(0.630, abs=TOLERANCE)


def test_onetrack_suppression_and_comparing_boxes_cost_what_is_stated(script: ModuleType, videos: dict) -> None:
    """HOTA, MOTA and IDF1 of one sequence: suppression hides people behind others, and boxes alone mix them up."""
    stated = {
        script.Variant(0, 1, "truth"): (0.947, 0.994, 0.997),
        script.Variant(0, 0.5, "truth"): (0.850, 0.881, 0.937),
        script.Variant(0, 1, "tracker"): (0.912, 0.994, 0.952),
        script.Variant(0, 1, "tracker", use_displacement=False): (0.903, 0.994, 0.945),
        script.Variant(0.25, 1, "truth"): (0.708, 0.703, 0.826),
    }
    for variant, numbers in stated.items():
        got = scores(script, videos, ("MOT17-09",), variant)
        assert [got["HOTA"], got["MOTA"], got["IDF1"]] == pytest.approx(numbers, abs=0.003), variant.title


@pytest.mark.slow
def test_onetrack_round_trip_table_is_as_stated(script: ModuleType, videos: dict) -> None:
    stated = {
        script.Variant(0, 1, "truth"): (0.863, 0.975, 0.988),
        script.Variant(0, 0.5, "truth"): (0.808, 0.901, 0.949),
        script.Variant(0, 1, "tracker"): (0.829, 0.972, 0.927),
        script.Variant(0, 1, "tracker", use_displacement=False): (0.802, 0.953, 0.876),
        script.Variant(0, 0.5, "tracker"): (0.728, 0.896, 0.808),
        script.Variant(0.25, 1, "truth"): (0.720, 0.756, 0.861),
        script.Variant(0.25, 0.5, "truth"): (0.709, 0.743, 0.853),
        script.Variant(0.25, 1, "tracker"): (0.668, 0.752, 0.758),
        script.Variant(0.25, 0.5, "tracker"): (0.643, 0.740, 0.728),
        script.Variant(0, 1, "truth", grid=56): (0.613, 0.630, 0.798),
        script.Variant(0, 1, "truth", grid=14): (0.199, -0.302, 0.171),
    }
    assert list(stated) == list(script.VARIANTS)
    for variant, numbers in stated.items():
        got = scores(script, videos, script.SEQUENCES, variant)
        assert [got["HOTA"], got["MOTA"], got["IDF1"]] == pytest.approx(numbers, abs=0.003), variant.title


def test_onetrack_nearly_all_people_come_back_within_half_a_cell(script: ModuleType, videos: dict) -> None:
    total, lost, errors = 0, 0, []
    for video in videos.values():
        order = np.argsort(video.frame, kind="stable")
        for rows in np.split(order, np.searchsorted(video.frame[order], np.arange(1, video.num_frames))):
            peaks, back = script.perfect_peaks(video, rows, script.CONFIG.rules)
            total, lost = total + len(rows), lost + len(rows) - len(back)
            centres, true = (each[:, :2] + each[:, 2:] / 2 for each in (peaks.xywh_unit, video.xywh_unit[back]))
            inside = ((true >= 0) & (true < 1)).all(axis=1)  # outside, the nearest cell stands for the centre
            errors.append(np.abs(centres - true)[inside] * script.CONFIG.grid)
    assert total == 112_297
    assert lost / total == pytest.approx(0.0037, abs=2e-4)  # recall 99.6 %
    error = np.concatenate(errors)
    assert error.max() <= 0.5 + 1e-6 and error.mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("min_visibility", [0.0, 0.25])
def test_onetrack_dense_maps_hold_what_the_round_trip_takes_for_them(
    script: ModuleType, videos: dict, min_visibility: float
) -> None:
    """Whole maps drawn and decoded by the tracker's own functions, against the peaks alone, on crowded frames."""
    video, config = videos["MOT17-04"], replace(OneTrackMConfig(), nms_iou=1.0)
    rules = replace(config.rules, min_visibility=min_visibility)
    for number in range(0, video.num_frames, 50):
        rows = np.flatnonzero(video.frame == number)
        targets = frame_targets(
            video.xywh_unit[rows],
            config.grid,
            rules,
            visibility=video.visibility[rows],
            displacements=video.displacements[rows],
        )
        maps = dict(zip(("heat_map", "size_map", "displacement_map"), as_maps(targets), strict=True))
        dense = detections(maps, video.size, config)
        shown = rows[video.visibility[rows] >= min_visibility]
        sparse = in_pixels(script.perfect_peaks(video, shown, rules)[0], fit_of(video.size, config))
        assert len(dense.scores) == len(sparse.scores) > 10
        for ours, theirs in zip(dense, sparse, strict=True):
            np.testing.assert_array_equal(ours, theirs)
