"""`sightline eval` with a model that finds its targets: a run over sequences of many, scored, and gone on with."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.building import empty_model
from sightline.checkpoints.files import TRACKER, read_weights, write_safetensors
from sightline.cli import main
from sightline.datasets.cutouts import drawn_gallery
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence, write_sequence
from sightline.errors import CheckpointError
from sightline.loading import load
from sightline.trackers.onetrack_m import OneTrackMTracker

Capture = pytest.CaptureFixture[str]
NAME = "onetrack-m-tiny"
FRAMES = 4
FIRST, SECOND = "synthetic-0-0", "synthetic-0-1"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees an object of 8 x 16 cells in every place, so that there always is something to follow."""
    torch.manual_seed(0)
    model = empty_model(NAME)
    state = model.state_dict()
    state["heat_head.2.bias"].fill_(1.0)
    state["size_head.2.bias"].fill_(2.0)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    write_safetensors(path, {name: value.numpy() for name, value in state.items()}, {"sightline.model": NAME})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    config = SyntheticConfig(width=96, height=96, num_frames=FRAMES)
    for number in range(2):
        sequence = SyntheticSequence(config, seed=0, number=number, gallery=drawn_gallery(8))
        write_sequence(sequence, home)
    return home


def evaluate(data: Path, weights: Path, out: Path, *more: str) -> int:
    command = ["eval", "--model", NAME, "--weights", str(weights), "--dataset", "mot", "--data", str(data)]
    return main([*command, "--out", str(out), "--threads", "1", *more])


def test_every_sequence_is_tracked_once_and_scored(data: Path, weights: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert evaluate(data, weights, out) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("HOTA", "MOTA", "IDF1"))
    rows = np.loadtxt(out / f"{FIRST}.txt", delimiter=",")
    assert set(rows[:, 0]) == {1, 2, 3, 4} and rows[:, 1].min() >= 1 and rows.shape[1] == 10
    assert len((out / f"{FIRST}_time.txt").read_text().splitlines()) == FRAMES
    written = (out / f"{FIRST}.txt").stat().st_mtime_ns
    assert evaluate(data, weights, out) == 0
    assert (out / f"{FIRST}.txt").stat().st_mtime_ns == written
    assert capsys.readouterr().out == told


def test_processes_share_the_sequences(data: Path, weights: Path, tmp_path: Path, capsys: Capture) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert evaluate(data, weights, alone) == evaluate(data, weights, shared, "--workers", "2") == 0
    for name in (f"{FIRST}.txt", f"{SECOND}.txt"):
        assert (alone / name).read_bytes() == (shared / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dataset", "folder"], "expected sequences of many targets, which it finds"),
        (["--dataset", "mot", "--set", "match_iou=2"], "match_iou"),
        (["--dataset", "tao"], "for TAO; expected one whose results are rows of text, not JSON. Choose another"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: list[str], sentence: str, data: Path, weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    clip = tmp_path / "data" / "cat"
    clip.mkdir(parents=True)
    (clip / "groundtruth.txt").write_text("1,2,3,4\n")
    (clip.parent / "annotations").mkdir()
    (clip.parent / "annotations" / "validation.json").write_text(
        '{"videos": [], "images": [], "annotations": [], "categories": []}'
    )
    place = ["--data", str(data if "mot" in arguments else clip.parent), "--out", str(tmp_path / "out")]
    assert main(["eval", "--model", NAME, "--weights", str(weights), *place, *arguments]) == 2
    said = capsys.readouterr().err
    assert re.match(r"error: .*\n$", said) and sentence in said


def test_a_setting_that_was_measured_stands_in_the_header_of_the_weights(weights: Path, tmp_path: Path) -> None:
    def kept(told: str) -> Path:
        path = tmp_path / "measured.safetensors"
        write_safetensors(path, read_weights(weights).tensors, {"sightline.model": NAME, TRACKER: told})
        return path

    def scale(path: Path) -> tuple[float, float]:
        tracker = load(NAME, weights=path, threads=1)
        assert isinstance(tracker, OneTrackMTracker)
        return tracker.config.displacement_scale

    measured = kept('{"displacement_scale": [0.3, 0.2]}')
    assert scale(weights) != scale(measured) == (0.3, 0.2)
    converted = tmp_path / "converted.safetensors"
    assert main(["convert", str(measured), "--model", NAME, "-o", str(converted)]) == 0
    assert scale(converted) == (0.3, 0.2)
    for told in ("{", "[1]", '{"speed": 3}', '{"displacement_scale": [0, 1]}'):
        with pytest.raises(CheckpointError, match=r"measured.safetensors.*in the header"):
            load(NAME, weights=kept(told), threads=1)
