"""GTR's recipe on scenes that are drawn: it learns, goes on after being killed as if nothing had been, and its detector
is what a tracker begins with."""

from __future__ import annotations

import csv
import dataclasses
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.checkpoints.files import MODEL, read_weights
from sightline.cli import main
from sightline.models.res2net import Res2NetConfig
from sightline.recipes import train_gtr
from sightline.training import opening
from sightline.training.clips import ClipExamples, ClipsConfig, SyntheticClips
from sightline.training.feed import batches
from sightline.training.joint import JointSettings, Learner
from sightline.training.run import RunSettings
from tests.e2e.killed_gtr import SMALL
from tests.e2e.scene import environment

Log = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)
    threads, level = torch.get_num_threads(), logging.getLogger("sightline").level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.getLogger("sightline").setLevel(level)


def columns(out: Path) -> dict[str, list[float]]:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def trained(settings: Any, out: Path, seed: int = 0, **changes: Any) -> dict[str, list[float]]:
    run = RunSettings(out=out, accelerator="cpu", threads=1, workers=0, log_steps=1, seed=seed)
    train_gtr.train(dataclasses.replace(settings, run=run, **changes))
    return columns(out)


# Nothing is suppressed and everything is likely enough, so that no close call, which the rounding of another machine
# may decide otherwise, is in the first losses. Nor the background, which is nearly all of them then.
SURE: dict[str, Any] = {
    "batch": 1,
    "losses": JointSettings(score_above=0.03, has_background=False, nms_iou=1.0),
    "pairs": ClipsConfig(2, 2, train_px=128, scale=(0.8, 1.0), max_objects=16),
    "lr": 5e-4,
}
TAO = dataclasses.replace(
    train_gtr.TAO,
    **{key: value for key, value in SURE.items() if key != "losses"},
    losses=dataclasses.replace(train_gtr.TAO.losses, score_above=0.03, nms_iou=1.0),
    sources=("synthetic",),
    synthetic=SMALL.synthetic,
    init="none",
    steps=10,
    warmup_steps=2,
    clip_norm=1.0,
    options={
        "backbone": Res2NetConfig((1, 1, 1, 1), base_width=4, channels=8),
        "channels": 32,
        "width": 32,
        "hidden": 32,
    },
)
RECIPES = {"gtr-tiny": dataclasses.replace(SMALL, **SURE, steps=20), "gtr-tao": TAO}
# On TAO the classes are a large number, nearly the same for any scene, so the association is looked at.
FIRST_LOSSES = {
    "gtr-tiny": ("total", [6.8276, 6.6036, 6.1421, 6.1483, 6.5432]),
    "gtr-tao": ("association", [5.7546, 5.8114, 6.4303, 5.846, 5.6537]),
}
FALLS_TO = {"gtr-tiny": 0.9, "gtr-tao": 0.98}  # the last three losses, on the mean, of the first three
PARTS = {"gtr-tiny": {"association"}, "gtr-tao": {"association", "classes", "deltas"}}


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_begins_as_stored(name: str, tmp_path: Path) -> None:
    found = trained(RECIPES[name], tmp_path / "run")
    assert len(found["total"]) == RECIPES[name].steps
    column, first = FIRST_LOSSES[name]
    np.testing.assert_allclose(found[column][:5], first, rtol=1e-3)
    parts = {"box", "positive", "negative"} | PARTS[name]
    assert found.keys() == {"step", "total", "lr", "examples_per_s", "waiting", "skipped", "seconds"} | parts
    np.testing.assert_allclose(found["total"], np.sum([found[part] for part in parts], axis=0), rtol=1e-4)
    assert all(found[part][0] > 0 for part in parts - {"deltas"})
    assert np.mean(found["total"][-3:]) < FALLS_TO[name] * np.mean(found["total"][:3])
    settings = dataclasses.replace(RECIPES[name], steps=1)
    other = trained(settings, tmp_path / "other", seed=1)
    assert not np.allclose(other[column], first[:1], rtol=1e-3)


def test_a_frozen_backbone_stays_and_the_papers_learns(tmp_path: Path) -> None:
    short = dataclasses.replace(TAO, steps=1, warmup_steps=0)
    released, paper = (
        dataclasses.replace(short, losses=dataclasses.replace(short.losses, variant=variant))
        for variant in ("released", "paper")
    )
    first = train_gtr.first_network(released).state_dict()
    for settings, is_frozen in ((released, True), (paper, False)):
        trained(settings, tmp_path / settings.losses.variant)
        last = read_weights(tmp_path / settings.losses.variant / "last.safetensors")
        assert last.metadata[MODEL] == "gtr-tao" and last.tensors.keys() == first.keys()
        same = {name for name, value in last.tensors.items() if np.array_equal(value, first[name].numpy())}
        inside = {name for name, value in first.items() if name.startswith("backbone.bottom_up.")}
        kernels = {name for name in inside if first[name].dim() == 4 and "offset" not in name}
        assert inside <= same if is_frozen else not kernels & same
        assert "backbone.fpn_lateral3.weight" not in same


def test_a_trackers_first_weights_are_its_detectors(tmp_path: Path, caplog: Log) -> None:
    logging.getLogger("sightline").setLevel(logging.INFO)
    detector = dataclasses.replace(
        train_gtr.PRESETS["gtr-tiny:detector"],
        init="none",
        steps=2,
        batch=2,
        pairs=ClipsConfig(1, 1, train_px=128, max_objects=16),
        synthetic=SMALL.synthetic,
    )
    found = trained(detector, tmp_path / "detector")
    assert {"classes", "deltas"} <= found.keys() and "association" not in found
    path = tmp_path / "detector" / "last.safetensors"
    assert MODEL not in read_weights(path).metadata
    assert f"sightline train gtr-tiny:full --init {path}" in caplog.text
    caplog.clear()
    trained(dataclasses.replace(SMALL, steps=1, batch=1, lr=0.0, weight_decay=0.0), tmp_path / "run", init=str(path))
    told = {record.getMessage().partition(":")[0]: record.getMessage() for record in caplog.records}
    assert "bbox_tower.9.weight" in told["dropped"] and "roi_heads.box_head.0.fc1.weight" in told["dropped"]
    assert "bbox_tower.9.conv.weight" in told["not in it, so as the seed has them"]
    theirs, ours = (read_weights(file).tensors for file in (path, tmp_path / "run" / "last.safetensors"))
    learnt = [
        name for name in theirs if name in ours and ours[name].shape == theirs[name].shape and "running" not in name
    ]
    assert len(learnt) > 200
    assert all(np.array_equal(theirs[name], ours[name]) for name in learnt if not name.endswith("num_batches_tracked"))


def leaves(content: Any, name: str = "") -> dict[str, Any]:
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {path: leaf for key, value in items for path, leaf in leaves(value, f"{name}/{key}").items()}
    return {name: content}


def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.e2e.killed_gtr", str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, env=environment())
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < SMALL.steps
    one, other = (leaves(torch.load(tmp_path / run / "last.pt", weights_only=True)) for run in ("killed", "whole"))
    assert one.keys() == other.keys() and one["/step"] == SMALL.steps
    for name, value in one.items():
        assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name
    a, b = columns(tmp_path / "killed"), columns(tmp_path / "whole")
    for name in ("step", "total", "box", "positive", "negative", "association", "lr"):
        assert a[name] == b[name]
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {
        *("last.pt", "last.safetensors", "log.csv", "run.json", "tensorboard"),
    }


def test_a_run_is_judged_by_scenes_and_trains_as_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SCENE_FRAMES", 2)
    settings = dataclasses.replace(SMALL, steps=1, warmup_steps=0)
    found = trained(settings, tmp_path / "judged", val=("synthetic",))
    assert found["total"] == trained(settings, tmp_path / "plain")["total"]
    with (tmp_path / "judged" / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"], row["examples"]) for row in rows] == [("1", "", "1")]
    assert list(rows[0])[3:] == ["HOTA", "DetA", "AssA", "IDF1", "MOTA", "synthetic-0", "synthetic-1"]
    assert [path.name for path in (tmp_path / "judged" / "pictures").iterdir()] == ["step-000001-scenes.jpg"]
    one, other = (read_weights(tmp_path / run / "last.safetensors").tensors for run in ("judged", "plain"))
    assert all(np.array_equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "judged" / "best.safetensors").exists() and not (tmp_path / "plain" / "validation.csv").exists()


def test_a_step_that_stopped_a_run_is_done_again(tmp_path: Path, caplog: Log) -> None:
    learner = Learner(train_gtr.first_network(SMALL), SMALL.losses)
    state = learner.state_dict()
    state["network.roi_heads.asso_head.fc2.bias"][0] = torch.nan
    clips = ClipExamples([SyntheticClips(SMALL.synthetic, num_frames=4)], SMALL.pairs)
    path = tmp_path / "nan-step-000007.pt"
    torch.save({"model": state, "batch": next(batches(clips, batch=1)).tensors, "step": 7}, path)
    logging.getLogger("sightline").setLevel(logging.INFO)
    train_gtr.train(dataclasses.replace(SMALL, run=RunSettings(replay=path)))
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "not finite: weights network.roi_heads.asso_head.fc2.bias" and told[-1] == "step 7: loss nan"
    assert "not finite: what network.roi_heads.asso_head makes" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gtr-mot:full", "--data", "x"], "init: got none; expected the weights that gtr-mot:full starts from."),
        (["gtr-tiny:full", "--init", "none", "--steps", "0"], "steps: got 0; expected 1 or more."),
        (
            ["gtr-tiny:full", "--init", "none", "--frozen", "neck"],
            "phases: got the part 'neck'; expected one of backbone,",
        ),
        (
            ["gtr-tiny:full", "--init", "none", "--sources", "got10k:train"],
            "source 'got10k:train': got no set of images",
        ),
        (
            ["gtr-tiny:detector", "--init", "none", "--val", "synthetic"],
            "val: got synthetic; expected none for a detector by itself or for many classes",
        ),
        (["gtr-tiny:full", "--init", "none"], "out: got none; expected a folder for the run. Pass --out RUN."),
        (["gtr-tiny:full", "--init", "gone.pth"], "weights 'gone.pth': got No such file"),
    ],
)
def test_what_is_refused_in_a_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    out = [] if sentence.startswith("out") else ["--out", "run"]
    assert main(["train", *arguments, *out]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and sentence in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
