"""What stands behind OneTrack-M's page: the script of its pictures, and the benchmark of its speed, at a tiny size."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from sightline.datasets.mot_text import MotRows
from sightline.evaluation.mot import mot_scores
from sightline.evaluation.mot_preprocess import MOT_RULES, motchallenge
from sightline.trackers.zoo import ZOO
from sightline.types import Track

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.torch, pytest.mark.extras]


def script(folder: str, name: str) -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / folder))  # its neighbours are there
    yield importlib.import_module(name)
    sys.path.remove(str(ROOT / folder))


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    yield from script("tools", "draw_onetrack_m_page")


@pytest.fixture(scope="module")
def speed() -> Iterator[ModuleType]:
    yield from script("benchmarks", "onetrack_m_speed")


def walkers(page: ModuleType, steals: bool) -> Any:
    """Two people who walk past each other over 40 frames; from frame 20 on the first may have the other's number,
    and the other a new one."""
    rows, tracks = [], []
    for frame in range(40):
        boxes = {1: (float(frame), 10.0, 8.0, 20.0), 2: (40.0 - frame, 22.0, 8.0, 20.0)}
        rows += [(frame, person, box) for person, box in boxes.items()]
        numbers = {1: 6, 2: 7} if steals and frame >= 20 else {1: 5, 2: 6}
        tracks.append({numbers[p]: Track(frame, numbers[p], box, 1.0) for p, box in boxes.items()})
    frames, people, boxes_of = zip(*rows, strict=True)
    ones = np.ones(len(rows))
    truth = MotRows(np.array(frames), np.array(people), np.array(boxes_of), ones, ones.astype(np.int64))
    video = page.Video("walkers", 40, lambda frame: np.full((48, 64, 3), 4 * frame, np.uint8), truth, ones)
    return page.Followed(video, tracks, page.matches_of(video, tracks))


def test_onetrack_page_finds_the_theft_and_nothing_where_nobody_steals(page: ModuleType) -> None:
    assert page.thefts(walkers(page, steals=False)) == []
    (theft,) = page.thefts(walkers(page, steals=True))
    assert theft == page.Theft(frame=20, victim=2, thief=1, stolen=6, own=5)


def test_onetrack_page_matches_as_clear_mot_does(page: ModuleType) -> None:
    """On boxes that jitter, with numbers that come and go: as many matches and switches as the metric counts."""
    rng = np.random.default_rng(0)
    one = walkers(page, steals=True)
    truth, tracks = one.video.truth, []
    for here in one.tracks:
        kept = {number: track for number, track in here.items() if rng.random() < 0.8}
        tracks.append({n: Track(t.frame_index, n, tuple(rng.normal(t.xywh, 2).tolist()), 1.0) for n, t in kept.items()})
    every = [track for here in tracks for track in here.values()]
    frames, numbers = (np.array([getattr(t, name) for t in every]) for name in ("frame_index", "track_id"))
    ones = np.ones(len(every))
    result = MotRows(frames, numbers, np.array([t.xywh for t in every]), ones, ones.astype(np.int64))
    clear = mot_scores(motchallenge(truth, result, 40, MOT_RULES["none"])).clear
    matches = page.matches_of(one.video, tracks)
    assert clear.fn > 0
    assert sum(map(len, matches)) == clear.tp
    switches, last = 0, dict[int, int]()
    for here in matches:
        switches += sum(last.get(person, number) != number for person, number in here.items())
        last |= here
    assert switches == clear.idsw > 1


def test_onetrack_page_draws_from_the_bundled_weights(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two short sequences of each kind; the theft, which they need not have, is drawn of one made for it."""
    monkeypatch.setattr(page, "FEW", 1)
    page.main(out=tmp_path, sequences=2, frames=6)
    page.draw_theft(walkers(page, steals=True), page.thefts(walkers(page, steals=True))[0], tmp_path / "theft.png")
    names = {"onetrack-m-maps.png", "onetrack-m-missed.png", "onetrack-m-training.svg", "theft.png"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.glob("*.png"):
        assert path.stat().st_size < 300_000
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.shape[1] == 1350
        assert picture.std() > 10, f"{path.name} is empty"


def test_onetrack_page_keeps_the_curves_of_runs_that_continue_each_other(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "TRAINING", tmp_path / "training.csv")
    for number, epochs in enumerate(([1, 1, 0, 1], [0, 0, 0, 2])):
        run = tmp_path / f"run{number}"
        run.mkdir()
        settings = {"batch": 10, "pairs_per_epoch": 100, "tmp_epochs": epochs}
        (run / "run.json").write_text(json.dumps({"settings": settings}))
        lines = [f"{step},{step / 10},1,{2 + number},3,4" for step in (5, 10, 20, 25)]
        (run / "log.csv").write_text("\n".join(["step,epoch,total,heat,size,displacement", *lines]))
    (tmp_path / "run1" / "validation.csv").write_text("step,epoch,examples,HOTA\n25,2.5,250,0.5\n")
    page.keep_training((tmp_path / "run0", tmp_path / "run1"))
    with (tmp_path / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["windows"]) for row in rows] == [50, 100, 200, 250, 300, 350, 450, 500]
    assert [row["phase"] for row in rows] == ["heat map", "heat map", "size", *["all"] * 5]
    assert [row["heat"] for row in rows] == ["2"] * 4 + ["3"] * 4
    assert [row["HOTA"] for row in rows] == [""] * 7 + ["0.5"]
    page.draw_training(tmp_path / "training.svg")
    assert (tmp_path / "training.svg").read_text().count('id="axes_') == 4, "three losses and HOTA"


@pytest.mark.parametrize("name", ["onetrack-m-tiny", "onetrack-m-b32", "onetrack-m-b16", "onetrack-m-l16"])
def test_onetrack_speed_counts_what_the_zoo_says(speed: ModuleType, name: str) -> None:
    tracker: Any = ZOO[name].tracker
    assert speed.gmac_of(name, tracker.clip_length) == pytest.approx(ZOO[name].gmac, abs=2e-3)
    assert speed.gmac_of(name, tracker.clip_length + 1) > 1.1 * speed.gmac_of(name, tracker.clip_length)


def test_onetrack_speed_goes_on_where_it_was_stopped(
    speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def measured(name: str, window: int, threads: int, rounds: int) -> list[str]:
        asked.append((name, window))
        return [name, str(window), str(threads), "1 M", "1.00", *["1.0"] * 8]

    monkeypatch.setattr(speed, "measured", measured)
    rows = tmp_path / "rows.csv"
    speed.main(models=("onetrack-m-b32",), windows=(1, 2), rows=rows)
    speed.main(models=("onetrack-m-tiny", "onetrack-m-b32"), windows=(1, 2, 3), rows=rows)
    speed.main(models=("onetrack-m-b32",), windows=(3,), rows=rows)
    speed.main(models=("onetrack-m-tiny",), rows=rows)
    assert asked == [("onetrack-m-b32", 1), ("onetrack-m-b32", 2), ("onetrack-m-tiny", 2), ("onetrack-m-b32", 3)]
    told = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("onetrack-m-")]
    assert told == [
        ["onetrack-m-b32", "1"], ["onetrack-m-b32", "2"],
        ["onetrack-m-tiny", "2"], ["onetrack-m-b32", "1"], ["onetrack-m-b32", "2"], ["onetrack-m-b32", "3"],
        ["onetrack-m-b32", "3"],
        ["onetrack-m-tiny", "2"],
    ]  # fmt: skip


@pytest.mark.slow
def test_onetrack_speed_measures_a_row(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SIDE", 512)
    row = speed.measured("onetrack-m-tiny", 1, threads=1, rounds=1)
    assert row[:5] == ["onetrack-m-tiny", "1", "1", "1.6 M", "0.58"]
    assert len(row) == len(speed.HEADINGS)
    for median, least, rate in (row[5:8], row[9:12]):
        assert float(median) >= float(least) > 0
        assert float(rate) == pytest.approx(1e3 / float(median), abs=0.01, rel=0.05)
