"""The recipe of sightline-nano on a made data set: it learns, resumes, starts from files, refuses validation clips."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sightline.checkpoints.files import read_weights
from sightline.errors import CheckpointError, DatasetError, SightlineError
from sightline.models.nano import Nano
from sightline.recipes.train_nano import (
    NanoTraining,
    initialise,
    learning_rate,
    loss_of,
    parameter_groups,
    train,
    train_mode,
    training_clips,
    training_stills,
)
from sightline.training.pairs import Pairs

CLIPS = {"train": ["davis_a", "otb_b"], "val": ["otb_c"]}


def scene(rng: np.random.Generator, x: int, y: int) -> np.ndarray:
    frame = np.full((120, 160, 3), (90, 110, 130), dtype=np.uint8) + rng.integers(0, 20, (120, 160, 3), dtype=np.uint8)
    frame[y : y + 30, x : x + 40] = (40, 60, 220)
    frame[y + 10 : y + 20, x + 10 : x + 30] = (240, 220, 30)
    return frame


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sot/` with three clips of six frames and `images/coco80` with eight pictures."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in (*CLIPS["train"], *CLIPS["val"]):
        folder = root / "sot" / name
        (folder / "img").mkdir(parents=True)
        boxes = [(20 + 6 * t, 30 + 4 * t, 40, 30) for t in range(6)]
        for t, (x, y, _, _) in enumerate(boxes):
            cv2.imwrite(str(folder / "img" / f"{t + 1:05d}.jpg"), scene(rng, x, y))
        (folder / "groundtruth.txt").write_text("".join(",".join(map(str, box)) + "\n" for box in boxes))
    (root / "sot" / "split.json").write_text(json.dumps(CLIPS))
    folder = root / "images" / "coco80"
    (folder / "img").mkdir(parents=True)
    images, annotations = [], []
    for number in range(8):
        x, y = (int(value) for value in rng.integers(5, 80, 2))
        cv2.imwrite(str(folder / "img" / f"{number}.jpg"), scene(rng, x, y))
        images.append({"id": number, "file_name": f"{number}.jpg"})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 40, 30]})
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


def settings(data: Path, out: Path, **changes: object) -> NanoTraining:
    few = {"steps": 3, "batch": 2, "workers": 0, "warmup_steps": 1, "validate_minutes": 1e9, "device": "cpu"}
    return NanoTraining(data=data, out=out, **{**few, **changes})  # type: ignore[arg-type]


def rows(out: Path) -> list[list[str]]:
    with (out / "validation.csv").open(newline="") as file:
        return list(csv.reader(file))


def test_validation_clips_are_refused(data: Path) -> None:
    with pytest.raises(DatasetError, match=r"got validation clips \['otb_c'\]; expected none"):
        training_clips(data / "sot", names=["davis_a", "otb_c"])
    assert [clip.name for clip in training_clips(data / "sot")] == CLIPS["train"]


@pytest.mark.shared
def test_the_real_validation_clips_are_refused(shared: Path) -> None:
    root = shared / "data" / "sot"
    split = json.loads((root / "split.json").read_text())
    assert {clip.name for clip in training_clips(root)} == set(split["train"])
    for name in split["val"]:
        with pytest.raises(DatasetError, match=name):
            training_clips(root, names=[*split["train"], name])


def test_data_can_be_left_out(data: Path, tmp_path: Path) -> None:
    assert [clip.name for clip in training_clips(data / "sot", ["davis"])] == ["otb_b"]
    assert training_stills(data / "images", tmp_path, ["coco"]) == []
    ((stills, weight),) = training_stills(data / "images", tmp_path)
    assert (len(stills), weight) == (8, 4.0)


def test_a_run_ends_with_weights_and_a_figure(data: Path, tmp_path: Path) -> None:
    train(settings(data, tmp_path))
    ((step, pairs, _, auc),) = rows(tmp_path)
    assert (step, pairs) == ("3", "6")
    assert 0 <= float(auc) <= 1
    found = read_weights(tmp_path / "nano-000003.safetensors").tensors
    assert {name: value.shape for name, value in found.items()} == {
        name: tuple(value.shape) for name, value in Nano().state_dict().items()
    }


def test_a_stopped_run_goes_on_to_the_same_weights(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two steps and two more give what four in a row give, bit by bit, where the schedule is the same."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(settings(data, whole, steps=4, lr=0.0, weight_decay=0.0))
    with caplog.at_level(logging.INFO, logger="sightline"):
        train(settings(data, parts, steps=2, lr=0.0, weight_decay=0.0))
        train(settings(data, parts, steps=4, lr=0.0, weight_decay=0.0))
    assert "resumed" in caplog.text
    one, other = (read_weights(out / "nano-000004.safetensors").tensors for out in (whole, parts))
    # At a learning rate of 0 what changes is the statistics of the heads, by the pairs that were drawn.
    assert all(np.array_equal(value, other[name]) for name, value in one.items())
    start = read_weights(parts / "nano-000002.safetensors").tensors
    assert not np.array_equal(start["score_head.1.running_mean"], one["score_head.1.running_mean"])


def test_twenty_steps_lower_the_loss(data: Path) -> None:
    torch.manual_seed(0)
    model = Nano()
    train_mode(model)
    stills = training_stills(data / "images", data)
    pairs = Pairs(training_clips(data / "sot"), stills)
    numbered = [pairs[number] for number in range(4)]
    batch = [
        torch.from_numpy(np.stack([pair.template for pair in numbered])),
        torch.from_numpy(np.stack([pair.search for pair in numbered])),
        torch.from_numpy(np.stack([pair.xywh_unit for pair in numbered])),
        torch.tensor([pair.is_present for pair in numbered]),
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss, parts = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(parts["loss"])
    assert losses[-1] < 0.5 * losses[0]
    frozen = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert frozen and not any(module.training for module in frozen)


def test_it_starts_from_a_whole_file_or_from_a_backbone(tmp_path: Path) -> None:
    donor, model = Nano(), Nano()
    torch.save(donor.backbone.state_dict(), tmp_path / "backbone.pth")
    initialise(model, tmp_path / "backbone.pth")
    assert torch.equal(model.backbone._conv_stem.weight, donor.backbone._conv_stem.weight)
    assert not torch.equal(model.project.weight, donor.project.weight)
    torch.save({"net": donor.state_dict()}, tmp_path / "whole.pth")
    initialise(model, tmp_path / "whole.pth")
    assert torch.equal(model.project.weight, donor.project.weight)
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="miss .* backbone tensors"):
        initialise(model, tmp_path / "other.pth")


def test_schedule_and_groups() -> None:
    asked = NanoTraining(data=Path(), out=Path(), steps=10, lr=1.0, warmup_steps=4)
    assert [learning_rate(0, step, asked) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert learning_rate(0.5, 100, asked) == pytest.approx(0.5)
    assert learning_rate(1.0, 100, asked) == pytest.approx(0)
    model = Nano()
    groups = parameter_groups(model, asked)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))  # type: ignore[arg-type]
    assert {(group["ratio"], group["weight_decay"]) for group in groups} == {(1, 0.01), (1, 0), (0.1, 0.01), (0.1, 0)}


def test_the_length_is_said_once(data: Path, tmp_path: Path) -> None:
    for both in ({"steps": None}, {"minutes": 1.0}):
        with pytest.raises(SightlineError, match="got both or neither"):
            train(settings(data, tmp_path / "none", **both))
    with pytest.raises(SightlineError, match="got zero or less"):
        train(settings(data, tmp_path / "none", steps=0))
