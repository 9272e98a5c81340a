"""The recipes on a small made data set: they learn, go on after being killed as if nothing had been, and say what is
wrong with what they are given."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sightline.building import build_model, empty_model
from sightline.checkpoints.files import FORMAT_VERSION, MODEL, OUR_FORMAT_VERSION, read_weights, write_safetensors
from sightline.checkpoints.spmtrack import SCALARS, delta_of
from sightline.checkpoints.starts import start_model
from sightline.cli import main
from sightline.errors import CheckpointError, DatasetError
from sightline.models.dinov2 import DINOv2
from sightline.models.spmtrack import SPMTRACK_TINY, SPMTrack, from_dinov2, is_trained
from sightline.recipes import pretrain_vit, train_mvt, train_nano, train_ostrack, train_spmtrack
from sightline.training.opening import open_clips, training_sources
from sightline.training.pairs import OfficialPairsConfig
from sightline.training.run import RunSettings
from sightline.training.schedule import warm_cosine_lr
from sightline.training.sequences import SequencesConfig
from sightline.training.views import ViewsConfig
from tests.e2e.killed_run import KILLS, NUM_STEPS, OSTRACK, SOURCES, SPMTRACK, VIT
from tests.e2e.scene import environment, pictures, truth, write_images
from tests.trees import write

Capture = pytest.CaptureFixture[str]
Log = pytest.LogCaptureFixture
NUM_FRAMES = 10


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)
    threads, level = torch.get_num_threads(), logging.getLogger("sightline").level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.getLogger("sightline").setLevel(level)


def clip(folder: Path, target: int = 0) -> Path:
    folder.mkdir(parents=True)
    write_images(folder / "img", pictures(NUM_FRAMES))
    np.savetxt(folder / "groundtruth.txt", truth(NUM_FRAMES, target), fmt="%d", delimiter=",")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sot/` with three clips of ten frames, one of them for validation, and `images/` with five pictures."""
    root = tmp_path_factory.mktemp("data")
    for target, name in enumerate("abc"):
        clip(root / "sot" / name, target % 2)
    write(root / "sot" / "split.json", {"train": ["a", "b"], "val": ["c"]})
    (root / "images").mkdir()
    write_images(root / "images" / "img", pictures(NUM_FRAMES)[::2])
    boxes = [
        {"id": 2 * number + target, "image_id": number, "category_id": 1, "bbox": row}
        for target in (0, 1)
        for number, row in enumerate(truth(NUM_FRAMES, target)[::2].tolist())
    ]
    images = [{"id": number, "file_name": f"{number + 1}.png"} for number in range(NUM_FRAMES // 2)]
    categories = [{"id": 1, "name": "board"}]
    write(root / "images" / "annotations.json", {"images": images, "annotations": boxes, "categories": categories})
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's own folder: two clips."""
    root = tmp_path_factory.mktemp("own")
    for target, name in enumerate(("cat", "dog")):
        clip(root / name, target)
    return root


def column(out: Path, name: str) -> list[float]:
    with (out / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def on_cpu(out: Path, **changes: Any) -> RunSettings:
    return RunSettings(out=out, **{"accelerator": "cpu", "threads": 1, "workers": 0, "log_steps": 1, **changes})


# Twenty steps

SHORT: dict[str, Any] = {
    "sources": SOURCES,
    "val": (),
    "init": "none",
    "epochs": 5,
    "pairs_per_epoch": 8,
    "batch": 2,
}
SMALL_PAIRS = OfficialPairsConfig(64, 128, min_pictures=2, min_visible=2, min_still_px=20.0)
SMALL_MVT = {"template_px": 64, "search_px": 128, "head_width": 64}
# The rates are low at first, so that the rounding of another machine does not grow beyond a thousandth in five steps.
RECIPES: dict[str, tuple[ModuleType, Any]] = {
    "ostrack": (
        train_ostrack,
        dataclasses.replace(OSTRACK, **{**SHORT, "pairs_per_epoch": 16, "batch": 4}, drop_epoch=4, warmup_steps=5),
    ),
    "mvt": (
        train_mvt,
        dataclasses.replace(train_mvt.FULL, **SHORT, pairs=SMALL_PAIRS, options=SMALL_MVT, lr=1e-4),
    ),
    "nano": (train_nano, dataclasses.replace(train_nano.FULL, **SHORT, warmup_steps=5)),
    "spmtrack": (
        train_spmtrack,
        dataclasses.replace(
            train_spmtrack.TINY,
            **{**SHORT, "pairs_per_epoch": 16, "batch": 4},
            warmup_epochs=1,
            lr=3e-3,
            pairs=SequencesConfig(56, 112, shift_jitter=1.5, three_share=0.2),
            options={"backbone": VIT, "template_px": 56, "search_px": 112, "rank": 8},
        ),
    ),
    "backbone": (
        pretrain_vit,
        dataclasses.replace(
            pretrain_vit.PRESETS[pretrain_vit.NAME],
            **{key: value for key, value in SHORT.items() if key != "val"} | {"pairs_per_epoch": 16, "batch": 4},
            warmup_steps=8,
            lr=3e-3,
            pairs=ViewsConfig(VIT.image_px),
        ),
    ),
}
FIRST_LOSSES = {
    "ostrack": [60.0235, 56.3942, 50.3012, 48.0545, 47.199],
    "mvt": [8.38129, 7.55594, 9.01912, 10.4758, 8.00107],
    "nano": [3.83795, 3.76995, 3.10267, 2.73542, 2.83436],
    "spmtrack": [14.4063, 12.9716, 14.1023, 18.5817, 14.8783],
    "backbone": [3.78258, 4.64649, 3.70589, 5.20894, 5.99662],
}
# The last five losses are on the mean at most this share of the first five.
FALLS_TO = {"ostrack": 0.65, "mvt": 0.95, "nano": 0.9, "spmtrack": 0.5, "backbone": 0.85}


@pytest.fixture
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pre-trained has the sizes of the small network here."""
    monkeypatch.setattr(pretrain_vit, "SPMTRACK_TINY", dataclasses.replace(SPMTRACK_TINY, backbone=VIT))


def losses(name: str, data: Path, out: Path, seed: int = 0, **changes: Any) -> list[float]:
    module, settings = RECIPES[name]
    module.train(dataclasses.replace(settings, data=data, run=on_cpu(out, seed=seed), **changes))
    return column(out, "total")


@pytest.mark.usefixtures("small_backbone")
@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_lower_the_loss_and_begin_as_stored(name: str, data: Path, tmp_path: Path) -> None:
    found = losses(name, data, tmp_path / "run")
    assert len(found) == 20
    np.testing.assert_allclose(found[:5], FIRST_LOSSES[name], rtol=1e-3)
    assert np.mean(found[-5:]) < FALLS_TO[name] * np.mean(found[:5])
    other = losses(name, data, tmp_path / "other", seed=1, epochs=1, pairs_per_epoch=4)
    assert not np.allclose(other, FIRST_LOSSES[name][:1], rtol=1e-3)


def test_rates_and_keep_ratios_reach_the_network(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loop gives the network and the optimiser, epoch by epoch, and not only what the functions say."""
    ratios, rates = [], []
    loss_of, step = train_ostrack.loss_of, torch.optim.AdamW.step

    def watched_loss(model: Any, batch: Any, tracker: Any, keep_ratio: float) -> Any:
        ratios.append(keep_ratio)
        return loss_of(model, batch, tracker, keep_ratio)

    def watched_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append([(group["ratio"], group["lr"]) for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(train_ostrack, "loss_of", watched_loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    changes = {"epochs": 4, "pairs_per_epoch": 4, "batch": 2, "backbone_lr": 0.5, "drop_epoch": 3, "ce_warm": 2}
    losses("ostrack", data, tmp_path / "run", warmup_steps=0, **changes)
    assert ratios == pytest.approx([1, 1, 1, 1, 0.85, 0.85, 0.7, 0.7])
    assert (
        rates
        == [[(0.5, pytest.approx(2e-4)), (1.0, pytest.approx(4e-4))]] * 6
        + [[(0.5, pytest.approx(2e-5)), (1.0, pytest.approx(4e-5))]] * 2
    )
    assert column(tmp_path / "run", "lr") == pytest.approx([4e-4] * 6 + [4e-5] * 2)


def test_rates_decays_and_the_boxs_weight_reach_spmtrack(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, rates = [], []
    loss_of, step = train_spmtrack.loss_of, torch.optim.AdamW.step

    def watched_loss(*given: Any) -> Any:
        weights.append(given[-1])
        losses, predictions = loss_of(*given)
        assert losses.total.item() == pytest.approx((losses.score + given[-1] * losses.giou).item(), rel=1e-5)
        return losses, predictions

    def watched_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append({group["weight_decay"]: group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(train_spmtrack, "loss_of", watched_loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched_step)
    changes = {"epochs": 4, "pairs_per_epoch": 4, "batch": 2, "warmup_epochs": 1.5, "giou_warmup_epochs": 2}
    losses("spmtrack", data, tmp_path / "run", weight_decay=0.25, **changes)
    assert weights == [10.0] * 4 + [1.0] * 4
    expected = [warm_cosine_lr(step, 3e-3, 8, 3) for step in range(8)]
    assert [rate[0.25] for rate in rates] == pytest.approx(expected)
    assert [rate[0.0] for rate in rates] == pytest.approx(expected) and all(len(rate) == 2 for rate in rates)
    assert column(tmp_path / "run", "lr") == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("small_backbone")
def test_what_was_pre_trained_is_what_a_tracker_stands_on(data: Path, tmp_path: Path) -> None:
    losses("backbone", data, tmp_path / "vit", epochs=1)
    path = tmp_path / "vit" / "last.safetensors"
    given = {name: torch.from_numpy(value) for name, value in read_weights(path).tensors.items()}
    assert given.keys() == DINOv2(VIT).state_dict().keys()
    saved = torch.load(tmp_path / "vit" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(value, saved[f"backbone.{name}"]) for name, value in given.items())
    assert len(saved) == len(given) + 4  # two layers more, which are not kept
    losses("spmtrack", data, tmp_path / "run", init=str(path), epochs=1)
    tracker = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    frozen = from_dinov2(given, 8)
    assert frozen.keys() == {name for name in tracker if not is_trained(name)}
    assert all(torch.equal(value, tracker[name]) for name, value in frozen.items())


# Runs that are stopped


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """The runs of `killed_run`, and the steps at which those that were killed began."""
    out = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.e2e.killed_run", str(data), str(out)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=root, env=environment())
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


def tensors(content: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a checkpoint by their path."""
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {path: leaf for key, value in items for path, leaf in tensors(value, f"{name}/{key}").items()}
    return {name: content}


def same(one: Path, other: Path) -> bool:
    """Whether two checkpoints agree in every bit."""
    a, b = (tensors(torch.load(out / "last.pt", weights_only=True)) for out in (one, other))
    assert a.keys() == b.keys()
    assert {name.split("/")[1] for name in a} == {"model", "optimizer", "average", "step", "settings"}
    return all(torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name] for name in a)


LOSSES = {"ostrack": ("focal", "l1", "giou"), "nano": ("focal", "l1", "giou"), "spmtrack": ("score", "giou")}


@pytest.mark.parametrize("run", ["ostrack-killed", "ostrack-seldom", "nano-killed", "spmtrack-killed"])
def test_a_run_that_was_killed_ends_as_one_that_was_not(run: str, killed: tuple[Path, dict[str, list[int]]]) -> None:
    """With a worker where the other has none, too; with dropped paths, elimination and averages."""
    out, begun = killed
    starts = begun[run]
    assert len(starts) == len(KILLS) + 1 and starts[0] == 0 and 0 < starts[-1] < NUM_STEPS
    ours, whole = out / run, out / f"{run.partition('-')[0]}-whole"
    assert same(ours, whole)
    averages = tensors(torch.load(ours / "last.pt", weights_only=True)["average"])
    assert (len(averages) > 100) == run.startswith("nano")
    a, b = (read_weights(folder / "last.safetensors").tensors for folder in (ours, whole))
    assert a.keys() == b.keys() and all(np.array_equal(value, b[name]) for name, value in a.items())
    for name in ("step", "epoch", "total", *LOSSES[run.partition("-")[0]], "lr", "skipped"):
        assert column(ours, name) == column(whole, name)
    assert column(ours, "step") == list(range(1, NUM_STEPS + 1))
    if not run.startswith("nano"):
        assert (ours / "validation.csv").read_text() == (whole / "validation.csv").read_text()
        a, b = (read_weights(folder / "best.safetensors").tensors for folder in (ours, whole))
        assert all(np.array_equal(value, b[name]) for name, value in a.items())


def test_a_run_that_forgets_to_seed_its_steps_ends_otherwise(killed: tuple[Path, dict[str, list[int]]]) -> None:
    """The control: paths are dropped, and which ones matters."""
    out, _ = killed
    assert not same(out / "ostrack-careless", out / "ostrack-whole")


@pytest.mark.parametrize("recipe", ["ostrack", "spmtrack"])
def test_nothing_but_the_files_of_a_run_is_left(recipe: str, killed: tuple[Path, dict[str, list[int]]]) -> None:
    """No part of a checkpoint whose writer was killed, either."""
    out, _ = killed
    assert {path.name for path in (out / f"{recipe}-killed").iterdir()} == {
        *("best.safetensors", "last.pt", "last.safetensors", "log.csv", "pictures", "run.json"),
        *("tensorboard", "validation.csv"),
    }


def test_what_is_frozen_stays_to_the_bit_and_all_else_learns(killed: tuple[Path, dict[str, list[int]]]) -> None:
    out, _ = killed
    given = {
        name: torch.from_numpy(value) for name, value in read_weights(out / "backbone.safetensors").tensors.items()
    }
    frozen = from_dinov2(given, SPMTRACK_TINY.search_grid)
    first = start_model("spmtrack-tiny", out / "backbone.safetensors", options=SPMTRACK.options).model.state_dict()
    for run in ("spmtrack-whole", "spmtrack-killed"):
        last = torch.load(out / run / "last.pt", weights_only=True)["model"]
        assert frozen.keys() | {name for name in last if is_trained(name)} == last.keys() == first.keys()
        assert all(torch.equal(last[name], value) for name, value in frozen.items())
        assert not any(torch.equal(last[name], first[name]) for name in last.keys() - frozen.keys())


def test_what_is_kept_of_spmtrack_is_what_was_trained(killed: tuple[Path, dict[str, list[int]]]) -> None:
    out, _ = killed
    path, backbone = out / "spmtrack-whole" / "last.safetensors", out / "backbone.safetensors"
    last = torch.load(path.with_name("last.pt"), weights_only=True)["model"]
    kept = read_weights(path)
    assert kept.metadata[MODEL] == "spmtrack-tiny"
    assert kept.tensors.keys() == {name for name in last if is_trained(name)} | set(SCALARS)
    assert {name: (kept.tensors[name].shape, kept.tensors[name].item()) for name in SCALARS} == {
        "expert_alpha": ((), 8),
        "use_rsexpert": ((), False),
    }
    model, _ = build_model("spmtrack-tiny", path, SPMTRACK.options, backbone)
    assert isinstance(model, SPMTrack)
    state = model.state_dict()
    assert state.keys() == last.keys() and all(torch.equal(state[name], value) for name, value in last.items())
    with pytest.raises(CheckpointError, match="got what was trained alone; expected the file of its backbone besides"):
        build_model("spmtrack-tiny", path, SPMTRACK.options)


def test_other_settings_are_told_in_one_line_and_hold(data: Path, tmp_path: Path, caplog: Log) -> None:
    one_step = {"epochs": 1, "pairs_per_epoch": 2, "batch": 2}
    losses("ostrack", data, tmp_path, **one_step)
    caplog.clear()
    changes = {"epochs": 2, "backbone_lr": 0.25, "weight_decay": 0.5}
    losses("ostrack", data, tmp_path, **{**one_step, **changes})
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    what, _, changed = warning.partition(": ")
    assert what == "other settings than before"
    assert set(changed.split("; ")) == {"backbone_lr 1.0 -> 0.25", "epochs 1 -> 2", "weight_decay 0.05 -> 0.5"}
    assert column(tmp_path, "step") == [1, 2]
    groups = torch.load(tmp_path / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [(group["ratio"], group["weight_decay"]) for group in groups] == [(0.25, 0.5), (1.0, 0.5)]


# The command


def run(*arguments: str | Path) -> int:
    return main(["train", *map(str, arguments)])


NANO = ("--epochs", 2, "--pairs-per-epoch", 4, "--batch", 2, "--threads", 1, "--workers", 0, "--precision", "32-true")


def test_nano_on_ones_own_folder_and_tracking_with_what_it_learnt(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, caplog: Log
) -> None:
    monkeypatch.chdir(own.parent)  # a relative folder is one of the working folder
    out = tmp_path / "run"
    asked = ("nano", "--data", own.name, "--out", out, *NANO, "--val", "folder:all")
    assert run(*asked) == 0
    assert {path.name for path in out.iterdir()} >= {"last.safetensors", "best.safetensors", "last.pt", "log.csv"}
    told = caplog.text
    assert "sightline-nano starts from the tracker 'sightline-nano.safetensors'" in told
    assert f"all 4 steps are done. sightline track VIDEO --model sightline-nano --weights {out}" in told
    with (out / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["epoch"], row["examples"]) for row in rows] == [("2", "1", "4"), ("4", "2", "8")]
    assert all(0.5 < float(row[name]) <= 1 for row in rows for name in ("AO", "AUC", "cat", "dog"))
    assert len(list((out / "pictures").iterdir())) == 2

    # Half of it is what was there before: `blend`.
    before, after = (build_model("sightline-nano", path)[0].state_dict() for path in (None, out / "last.safetensors"))
    assert not all(torch.equal(before[name], value) for name, value in after.items())
    capsys.readouterr()
    weights = ("--model", "sightline-nano", "--weights", str(out / "last.safetensors"), "--threads", "1")
    assert main(["track", str(own / "cat" / "img"), "--box", "40,60,48,48", *weights]) == 0
    found = np.array([line.split(",") for line in capsys.readouterr().out.splitlines()], dtype=float)
    assert np.abs(found - truth(NUM_FRAMES)).max() < 12

    # Once more: there is nothing left to do.
    kept = {path: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != "run.json"}
    caplog.clear()
    assert run(*asked) == 0
    assert f"going on at step 4 of {out / 'last.pt'}" in caplog.text
    assert "all 4 steps are done." in caplog.text and "step 4 of 4" not in caplog.text
    assert all(path.read_bytes() == content for path, content in kept.items())

    # What another run has done, none is left to do of, and there are no weights of this one.
    assert run(*asked, "--out", tmp_path / "other", "--resume", out / "last.pt") == 0
    assert "all 4 steps are done. Give more --epochs." in caplog.text

    assert run(*asked, "--resume", "never") == 2
    assert "which holds a run; expected a free folder with --resume never" in capsys.readouterr().err


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone for spmtrack-tiny, as a pre-training leaves it."""
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    torch.manual_seed(0)
    network = DINOv2(SPMTRACK_TINY.backbone)
    write_safetensors(path, {name: value.numpy() for name, value in network.state_dict().items()}, {})
    return path


def test_spmtrack_fine_tuned_from_what_was_trained_and_tracking_with_the_result(
    own: Path, vit: Path, tmp_path: Path, capsys: Capture, caplog: Log
) -> None:
    delta, out = tmp_path / "model.bin", tmp_path / "run"
    before = delta_of(start_model("spmtrack-tiny", seed=3).model)  # type: ignore[arg-type]
    write_safetensors(delta, before, {})
    steps = ("--epochs", 1, "--pairs-per-epoch", 4, "--batch", 2, "--threads", 1, "--workers", 0)
    assert run("spmtrack-tiny", "--data", own, "--init", delta, "--backbone", vit, "--out", out, *steps) == 0
    assert "spmtrack-tiny starts from the tracker 'model.bin'" in caplog.text
    files = ("--weights", str(out / "last.safetensors"), "--backbone", str(vit))
    assert f"all 2 steps are done. sightline track VIDEO --model spmtrack-tiny {' '.join(files)}" in caplog.text

    after = read_weights(out / "last.safetensors").tensors
    assert after.keys() == before.keys()
    assert {name for name, value in after.items() if np.array_equal(value, before[name])} == set(SCALARS)
    whole = torch.load(out / "last.pt", weights_only=True)["model"]
    frozen = from_dinov2({name: torch.from_numpy(value) for name, value in read_weights(vit).tensors.items()}, 14)
    assert all(torch.equal(whole[name], value) for name, value in frozen.items())

    capsys.readouterr()
    tracked = ["track", str(own / "cat" / "img"), "--box", "40,60,48,48", "--model", "spmtrack-tiny", "--threads", "1"]
    assert main([*tracked, *files]) == 0
    found = np.array([line.split(",") for line in capsys.readouterr().out.splitlines()], dtype=float)
    assert found.shape == (NUM_FRAMES, 4) and np.isfinite(found).all()
    assert found[0].tolist() == [40, 60, 48, 48]
    assert main([*tracked, *files[:2]]) == 2
    assert "got what was trained alone; expected the file of its backbone besides" in capsys.readouterr().err


def test_a_whole_tracker_is_trained_on_and_kept_whole(data: Path, tmp_path: Path) -> None:
    """What came in one file has no other that it goes with."""
    _, settings = RECIPES["spmtrack"]
    model = empty_model("spmtrack-tiny", settings.options)
    path = tmp_path / "merged.safetensors"
    write_safetensors(path, {name: value.numpy() for name, value in model.state_dict().items()}, {})
    losses("spmtrack", data, tmp_path / "run", init=str(path), epochs=1, pairs_per_epoch=4)
    kept = read_weights(tmp_path / "run" / "last.safetensors").tensors
    assert kept.keys() == model.state_dict().keys()
    assert {name for name, value in model.state_dict().items() if np.array_equal(value.numpy(), kept[name])} == {
        name for name in kept if not is_trained(name)
    }


@pytest.mark.parametrize(
    ("init", "sentence"),
    [
        ("none", "init: got none, and the backbone 'vit.safetensors' besides; expected that as init. Pass --init "),
        ("VIT", "init: got 'vit.safetensors', which has nothing that is trained, and the backbone 'vit.safetensors' "),
        ("MERGED", "got a merged file, and the backbone 'vit.safetensors' besides; expected one file"),
    ],
)
def test_a_backbone_that_nothing_is_to_go_with_is_refused(
    init: str, sentence: str, own: Path, vit: Path, tmp_path: Path, capsys: Capture
) -> None:
    merged = tmp_path / "merged.safetensors"
    state = empty_model("spmtrack-tiny").state_dict()
    write_safetensors(merged, {name: value.numpy() for name, value in state.items()}, {})
    given = {"none": "none", "VIT": vit, "MERGED": merged}[init]
    assert run("spmtrack-tiny", "--data", own, "--init", given, "--backbone", vit, "--out", tmp_path / "run") == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["merged.safetensors"]


def test_fine_tuning_begins_with_a_tracker(own: Path, vit: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("spmtrack-tiny", "--data", own, "--init", vit, "--out", tmp_path / "run") == 2
    assert "init: got 'vit.safetensors', a backbone alone; expected a tracker" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help(capsys: Capture) -> None:
    for arguments in ((), ("--help",), ("-h",)):
        assert run(*arguments) == 0
        told = capsys.readouterr().out
        assert "sightline train NAME:full" in told and "sightline-nano, ostrack-256," in told
        assert "spmtrack-b:got10k" in told and " mvt, spmtrack-b, spmtrack-l, spmtrack-g, spmtrack-tiny, " in told
        assert "spmtrack-tiny:backbone" in told and "onetrack-m-tiny" in told and "gtr-mot-full" in told
        assert "; in short nano for sightline-nano and ostrack for ostrack-256-ce.\nOpenCV's own nano, which" in told
    with pytest.raises(SystemExit) as stopped:
        run("ostrack-256-ce:full", "--help")
    told = capsys.readouterr().out
    assert stopped.value.code in (0, None)
    lines = [line.strip() for line in told.splitlines()]
    command = "sightline train ostrack-256-ce:full --data DATA --init mae_pretrain_vit_base.pth --out RUN --devices 4"
    assert f"Command   {command}" in lines and "Cost      18 million pairs of 30.9 GMAC forward; not run here" in lines
    assert "--epochs INT" in told and "(default: 300)" in told and "--search-px INT" in told
    assert "--model" not in told and "--options" not in told  # which only Python may choose


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nanoo"], "recipe: got 'nanoo'; expected one of sightline-nano, ostrack-256, "),
        (["mvt:ful"], "recipe: got 'mvt:ful'; expected one of "),
        (["vittrack"], "recipe: got 'vittrack'; expected one of "),
        (["mvt", "--data", "OWN"], "init: got none, and no weights of mvt in the cache; expected MobileViT_Track"),
        (["ostrack", "--data", "OWN"], "of ostrack-256-ce in the cache; expected OSTrack_ep0300.pth.tar of https://"),
        (["ostrack-tiny", "--data", "OWN"], "expected the ostrack-tiny that a run of ostrack-tiny:full left. Pass"),
        (["mvt:full", "--data", "OWN"], "init: got none; expected the weights that mvt:full starts from. Pass --init"),
        (["nano:full", "--data", "OWN"], "init: got none; expected the weights that nano:full starts from. Pass"),
        (["mvt", "--data", "OWN", "--init", "no.pt"], "no.pt"),
        (["nano"], "data root: got none; expected --data, SIGHTLINE_DATA, or data in "),
        (["nano", "--data", "nowhere"], "data root: got nowhere, which is no folder; expected one."),
        (["mvt:full", "--init", "none"], "data root: got none; expected --data, SIGHTLINE_DATA, or data in "),
        (["nano", "--data", "OWN", "--val", "coco"], "validation clips 'coco': got no data set of one target"),
        (["nano", "--data", "OWN", "--val", "folder=nowhere"], "validation clips 'folder=nowhere': data root: got "),
        (["nano", "--data", "OWN", "--epochs", "0"], "epochs: got 0; expected 1 or more."),
        (["nano", "--data", "OWN", "--batch", "0"], "batch: got 0; expected 1 or more."),
        (["nano", "--data", "OWN", "--batch", "-4"], "batch: got -4; expected 1 or more."),
        (["nano", "--data", "OWN", "--validate-epochs", "0"], "validate_epochs: got 0; expected 1 or more."),
        (["nano", "--data", "OWN", "--lr", "nan"], "lr: got nan; expected 0 or more."),
        (["nano", "--data", "OWN", "--blend", "1.5"], "blend: got 1.5; expected 0 to 1."),
        (["nano", "--data", "OWN", "--log-steps", "0"], "log_steps: got 0; expected 1 or more."),
        (["nano", "--data", "OWN", "--workers", "-1"], "workers: got -1; expected 0 or more."),
        (["nano", "--data", "OWN", "--search-px", "256"], "search_px: got 256; expected 192, which the network is"),
        (["ostrack-tiny:full", "--init", "none", "--drop-epoch", "0"], "drop_epoch: got 0; expected 1 or more."),
        (["spmtrack-b:paper"], "recipe: got 'spmtrack-b:paper'; expected one of "),
        (["spmtrack-tiny:backbone:full"], "recipe: got 'spmtrack-tiny:backbone:full'; expected one of "),
        (["spmtrack-b", "--data", "OWN"], "no weights of spmtrack-b in the cache; expected model.bin of https://"),
        (["spmtrack-tiny", "--data", "OWN"], "expected the spmtrack-tiny that a run of spmtrack-tiny:full left. Pass"),
        (["spmtrack-g:got10k"], "init: got none; expected the weights that spmtrack-g:got10k starts from. Pass --init"),
        (["spmtrack-tiny:full", "--init", "none", "--backbone", "no.pth"], "backbone no.pth: no such file. Check the"),
        (["spmtrack-tiny:full", "--init", "none", "--num-templates", "0"], "num_templates: got 0; expected 1 or more."),
        (["spmtrack-tiny:full", "--init", "none", "--warmup-epochs", "-1"], "warmup_epochs: got -1.0; expected 0 or"),
        (["spmtrack-tiny:full", "--init", "none", "--search-px", "210"], "search_px: got 210; expected 196, which the"),
        (
            ["spmtrack-tiny:backbone", "--init", "a.pth"],
            ": init: got a.pth; expected none. Leave it out.",
        ),
        (
            ["spmtrack-tiny:backbone", "--init", "none", "--view-px", "98"],
            ": view_px: got 98; expected 112.",
        ),
    ],
)
def test_what_is_refused_in_a_sentence_and_leaves_nothing(
    arguments: list[str], sentence: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(str(own) if word == "OWN" else word for word in arguments), "--out", "run") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and sentence in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_folder_is_refused(own: Path, capsys: Capture) -> None:
    assert run("nano", "--data", own) == 2
    assert capsys.readouterr().err == "error: out: got none; expected a folder for the run. Pass --out RUN.\n"


def test_what_was_trained_is_not_taken_for_another_models(own: Path, tmp_path: Path, capsys: Capture) -> None:
    """Not OpenCV's nano, nor what the file says it is not, nor the folder for the file in it."""
    weights, _ = build_model("sightline-nano", None)
    path = tmp_path / "run" / "last.safetensors"
    path.parent.mkdir()
    tensors = {key: value.numpy() for key, value in weights.state_dict().items()}
    write_safetensors(path, tensors, {MODEL: "sightline-nano", FORMAT_VERSION: OUR_FORMAT_VERSION})
    frames = str(next((own / "cat").rglob("img")))
    for model, given, sentence in (
        ("nano", path, "a file or their folder. Sightline's own is sightline-nano.\n"),
        ("mvt", path, ": this file is of sightline-nano. Name that model, or give the weights of mvt.\n"),
        ("sightline-nano", path.parent, "expected encode.onnx and track.onnx. Pass a file of it: last.safetensors.\n"),
    ):
        assert main(["track", frames, "--box", "40,60,48,48", "--model", model, "--weights", str(given)]) == 2
        told = capsys.readouterr().err
        assert told.endswith(sentence) and told.count("\n") == 1


def test_the_folder_is_looked_at_before_the_data(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "mvts").mkdir()
    (tmp_path / "mvts" / "last.pt").write_text("not opened")
    write(tmp_path / "mvts" / "run.json", {"settings": {"model": "mvt"}})
    file, last = tmp_path / "file", tmp_path / "mvts" / "last.pt"
    for out, sentence in (
        ("file", f"out: cannot make {file}: got 'Not a directory'; expected a place for it. Choose another."),
        ("mvts", f"checkpoint {last}: got a run of mvt; expected one of sightline-nano. Choose another --out."),
    ):
        assert run("nano", "--data", "nowhere", "--out", tmp_path / out) == 2
        assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--epoch 3", "option: got --epoch; expected one that sightline train nano has. Did you mean --epochs?"),
        ("--epochs few", "--epochs: got 'few'; expected a whole number. Give another."),
        ("--lr small", "--lr: got 'small'; expected a number. Give another."),
        (
            "--precision bf16",
            "--precision: got 'bf16'; expected one of 16-mixed, 32-true, bf16-mixed. Choose one.",
        ),
        ("--data", "--data: got no value; expected PATH. Write it after the option."),
        (
            "my_clips",
            "arguments: got 'my_clips'; expected nothing more. Leave it out, or run: sightline train nano --h",
        ),
        ("--model mvt", "option: got --model; expected one that sightline train nano has. "),
    ],
)
def test_what_a_recipe_cannot_parse_is_told_in_a_sentence(arguments: str, sentence: str, capsys: Capture) -> None:
    assert run("nano", *arguments.split()) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(f"error: {sentence}") and told.err.count("\n") == 1


@pytest.mark.parametrize("package", ["torch", "lightning_fabric"])
def test_a_missing_package_is_told_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    assert run("nano", "--data", "x", "--out", "y") == 2
    told = capsys.readouterr().err
    name = package.replace("_", "-")
    assert f"training of 'sightline-nano' needs {name}, which is not installed. Run: pip install" in told
    assert "'sightline[train]'" in told


def test_a_step_that_stopped_a_run_is_done_again(tmp_path: Path, caplog: Log) -> None:
    model, _ = build_model("sightline-nano", None)
    state = model.state_dict()
    state["project.bias"][0] = torch.nan
    batch = {
        "template": torch.zeros(2, 96, 96, 3, dtype=torch.uint8),
        "search": torch.zeros(2, 192, 192, 3, dtype=torch.uint8),
        "xywh_unit": torch.tensor([[0.4, 0.4, 0.2, 0.2]] * 2),
        "is_present": torch.tensor([True, True]),
    }
    torch.save({"model": state, "batch": batch, "step": 7}, tmp_path / "nan-step-000007.pt")
    assert run("nano", "--replay", tmp_path / "nan-step-000007.pt") == 0
    told = [record.getMessage() for record in caplog.records]
    assert "not finite: weights project.bias" in told and told[-1] == "step 7: loss nan"
    assert [path.name for path in tmp_path.iterdir()] == ["nan-step-000007.pt"]


# What is trained on


def test_ones_own_folder_in_every_form(own: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(root: Path | str | None) -> list[tuple[str, int]]:
        return [(source.kind, len(source.footage)) for source in training_sources((), root)]

    assert found(own) == [("clips", 2)]
    assert found(own / "cat") == [("clips", 1)]
    assert found(data / "sot") == [("clips", 2)]  # those that split.json names "train"
    assert found(data) == [("stills", 10), ("clips", 2)]
    plain = tmp_path / "plain"
    write_images(plain, pictures(3))
    np.savetxt(plain / "boxes.txt", truth(3), delimiter="\t")
    assert found(plain) == [("clips", 1)]

    monkeypatch.chdir(own.parent)
    assert found(own.name) == found(Path(own.name)) == [("clips", 2)]
    monkeypatch.chdir(own)
    assert found(".") == [("clips", 2)]
    monkeypatch.setenv("SIGHTLINE_DATA", str(own))
    assert found(None) == [("clips", 2)]
    monkeypatch.delenv("SIGHTLINE_DATA")
    write(tmp_path / "config" / "sightline" / "config.toml", f'data = "{own}"\n')
    assert found(None) == [("clips", 2)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="got a folder in no known layout"):
        found(tmp_path / "empty")


def test_clips_to_be_judged_by_are_looked_at_before_the_run(own: Path, tmp_path: Path) -> None:
    assert [clip.name for clip in open_clips(["folder"], own)] == ["cat", "dog"]
    assert [clip.name for clip in open_clips(["folder:all=cat", "folder=dog"], own)] == ["cat", "dog"]
    write(tmp_path / "gone" / "groundtruth.txt", "0,0,0,0\n1,2,3,4\n")
    write_images(tmp_path / "gone" / "img", pictures(2))
    with pytest.raises(DatasetError, match="'gone': got a target on 1 of 2 frames, the first not"):
        open_clips(["folder"], tmp_path)
    with pytest.raises(DatasetError, match="'nonsense'"):
        open_clips(["nonsense"], own)
