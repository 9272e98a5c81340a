"""A run of one process: it goes on bit by bit, stops before it is spoilt, and loses nothing to a full disk."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sightline.errors import CheckpointError, SightlineError
from sightline.training import run as module
from sightline.training.feed import batches
from sightline.training.processes import launch, one_voice
from sightline.training.run import ABOUT, LAST, Run, RunSettings, check_out, replay


@dataclass(frozen=True)
class Recipe:
    run: RunSettings = field(default_factory=RunSettings)
    lr: float = 1e-2
    data: Path | None = None


@dataclass(frozen=True)
class Named(Recipe):
    model: str = ""


class Net(nn.Module):
    """With statistics, dropped values, a weight that never learns, and one that no loss reaches."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5)
        self.last, self.unused = nn.Linear(width, 1), nn.Linear(2, 2)
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu()))


class Example(NamedTuple):
    x: np.ndarray
    y: np.float32
    num_skipped: int


class Numbered:
    def __getitem__(self, number: int) -> Example:
        x = np.random.default_rng(number).normal(size=4).astype(np.float32)
        return Example(x, np.float32(x.sum()), 0)


def settings(out: Path, **more: Any) -> RunSettings:
    return RunSettings(out=out, **{"accelerator": "cpu", "workers": 0, "save_minutes": 0, **more})


def loss_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return (model(batch["x"])[:, 0] - batch["y"]).square().mean()


class Made(NamedTuple):
    run: Run
    net: Net
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    steps: list[float]


def train(out: Path, num_steps: int, *, lr: float = 1e-2, width: int = 8, poison_at: int = -1, **more: Any) -> Made:
    """A recipe's loop, short; from `poison_at` on a weight is no number."""
    asked = settings(out, **more)
    run = Run(asked, Recipe(asked, lr))
    torch.manual_seed(asked.seed)
    net = Net(width)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    groups = [
        {"params": [p for p in net.parameters() if p.dim() > 1], "ratio": 0.1, "weight_decay": 0.5},
        {"params": [p for p in net.parameters() if p.dim() < 2], "ratio": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr)
    model, wrapped, step = run.setup(net, optimizer, average)
    steps, stream = [], run.feed(Numbered(), 4, step)
    while step < num_steps:
        tensors = next(stream).tensors
        for group in wrapped.param_groups:
            group["lr"] = lr * group["ratio"]
        run.reseed(step)
        model.train()
        if step == poison_at:
            net.norm.weight.data[3] = torch.nan
        loss = loss_of(model, tensors)
        run.fabric.backward(loss)
        norm = run.fabric.clip_gradients(model, wrapped, max_norm=1.0, error_if_nonfinite=False)
        means = run.guard(step, tensors, {"total": loss.detach(), "twice": 2 * loss.detach()}, norm)
        assert means["twice"] == 2 * means["total"]
        steps.append(float(means["total"]))
        wrapped.step()
        wrapped.zero_grad(set_to_none=True)
        average.update_parameters(net)
        step += 1
        run.save(step)
    return Made(run, net, optimizer, average, steps)


def same(a: Any, b: Any) -> bool:
    """Bit by bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def everything(made: Made) -> tuple[Any, ...]:
    return made.net.state_dict(), made.optimizer.state_dict(), made.average.state_dict()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Going on


def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 9)
    parts = [train(tmp_path / "parts", steps) for steps in (4, 5, 9)]
    assert [loss for part in parts for loss in part.steps] == whole.steps
    assert same(everything(parts[-1]), everything(whole))
    other = train(tmp_path / "other", 9, seed=1)  # of what is dropped and of the start; the examples are the same
    assert not same(everything(other), everything(whole))


def test_what_a_checkpoint_lacks_is_missed(tmp_path: Path) -> None:
    """Each part of it counts: without the optimiser's state, the statistics or the mean the run goes elsewhere."""
    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "parts", 3)
    saved = torch.load(tmp_path / "parts" / LAST, weights_only=True)
    assert set(saved) == {"model", "optimizer", "average", "precision", "step", "settings"}
    saved["optimizer"]["state"]["last.weight"]["exp_avg"].zero_()
    saved["average"]["module.norm.running_mean"].zero_()
    torch.save(saved, tmp_path / "parts" / LAST)
    found, expected = everything(train(tmp_path / "parts", 6)), everything(whole)
    assert [same(a, b) for a, b in zip(found, expected, strict=True)] == [False, False, False]


def test_draws_depend_on_seed_step_and_process(tmp_path: Path) -> None:
    def draw(seed: int, step: int, rank: int) -> tuple[float, ...]:
        run = Run(settings(tmp_path / str(seed), seed=seed), Recipe())
        run.rank = rank
        run.reseed(step)
        return tuple(nn.functional.dropout(torch.ones(64)).tolist())

    cases = [(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)]
    drawn = {case: draw(*case) for case in cases}
    torch.rand(7)
    assert {case: draw(*case) for case in cases} == drawn
    assert len(set(drawn.values())) == len(cases)


def test_a_run_goes_on_from_another_ones_checkpoint_but_never_over_a_run(tmp_path: Path) -> None:
    one = train(tmp_path / "one", 3)
    last = tmp_path / "one" / LAST
    assert train(tmp_path / "two", 5, resume=str(last)).steps == train(tmp_path / "one", 5).steps
    assert len(one.steps) == 3
    for chosen in ("never", str(last)):
        with pytest.raises(CheckpointError, match=f"two, which holds a run; expected .* --resume {chosen}. Choose"):
            train(tmp_path / "two", 6, resume=chosen)
    assert len(train(tmp_path / "two", 6, resume=str(tmp_path / "two" / LAST)).steps) == 1  # that is auto, spelt out
    assert len(train(tmp_path / "three", 2, resume="never").steps) == 2
    with pytest.raises(CheckpointError, match=r"resume: got .*none\.pt, which is no file; expected auto, never or a "):
        train(tmp_path / "four", 2, resume=str(tmp_path / "none.pt"))
    assert not (tmp_path / "four").exists()


def test_other_settings_than_before_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, 1)
    with caplog.at_level(logging.INFO, logger="sightline"):
        train(tmp_path, 2)
        assert f"going on at step 1 of {tmp_path / LAST}" in caplog.text
        assert "other settings" not in caplog.text
        train(tmp_path, 3, lr=2e-2, seed=5, threads=0)
    assert "other settings than before: lr 0.01 -> 0.02; seed 0 -> 5" in caplog.text


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil-was-here",)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def edited(path: Path, key: str, value: Any) -> None:
    torch.save({**torch.load(path, weights_only=True), key: value}, path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "cut": truncated,
    "code": lambda path: path.write_bytes(pickle.dumps(Evil())),
    "zipped code": lambda path: torch.save({"model": Evil()}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "a tensor": lambda path: torch.save(torch.zeros(2), path),
    "bare weights": lambda path: torch.save(Net().state_dict(), path),
    "another network": lambda path: edited(path, "model", nn.Linear(2, 2).state_dict()),
    "no optimiser": lambda path: edited(path, "optimizer", {}),
    "no mean": lambda path: edited(path, "average", None),
    "no step": lambda path: edited(path, "step", "third"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_foreign_checkpoint_is_a_sentence(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(tmp_path / "run", 2)
    path = tmp_path / "run" / LAST
    DAMAGE[kind](path)
    with pytest.raises(CheckpointError) as raised:
        train(tmp_path / "run", 3)
    sentence = str(raised.value)
    assert sentence.count("\n") == 0
    assert f"{path}: got " in sentence and "; expected a" in sentence
    assert not (tmp_path / "evil-was-here").exists()


# Stopping


def test_a_step_that_would_spoil_the_weights_is_kept_instead(tmp_path: Path) -> None:
    with pytest.raises(SightlineError) as raised:
        train(tmp_path, 5, poison_at=2)
    path = tmp_path / "nan-step-000002.pt"
    assert str(raised.value) == (
        "training: got total nan, twice nan and a gradient of norm nan in step 2; expected finite numbers. See where "
        f"it begins with --replay {path}, or go on from the last checkpoint with a lower --lr."
    )
    last, kept = (torch.load(file, weights_only=True) for file in (tmp_path / LAST, path))
    assert last["step"] == kept["step"] == 2
    assert all(torch.isfinite(value).all() for value in last["model"].values())
    assert kept["batch"]["x"].tolist() == [Numbered()[number].x.tolist() for number in range(8, 12)]
    net = Net()
    assert replay(path, net, lambda batch: loss_of(net, batch)) == [
        "not finite: weights norm.weight",
        "not finite: what norm makes",
        "not finite: what drop makes",
        "not finite: what last makes",
        "not finite: what the model makes",
        "step 2: loss nan",
    ]
    assert len(train(tmp_path, 4).steps) == 2  # and the run goes on


def test_a_learning_rate_that_is_far_too_high_is_stopped(tmp_path: Path) -> None:
    train(tmp_path, 2)
    with pytest.raises(SightlineError, match="with a lower --lr"):
        train(tmp_path, 9, lr=1e30, save_minutes=60)
    assert torch.load(tmp_path / LAST, weights_only=True)["step"] == 2


def test_a_gradient_that_is_no_number_stops_too_unless_the_scale_can_be_lowered(tmp_path: Path) -> None:
    made = train(tmp_path, 1)
    batch, losses = {"x": torch.ones(4, 4), "y": torch.ones(4)}, {"total": torch.tensor(1.0)}
    assert made.run.guard(1, batch, losses, None) == losses
    for norm in (torch.tensor(torch.inf), torch.tensor(torch.nan)):
        with pytest.raises(SightlineError, match=r"got total 1 and a gradient of norm (inf|nan) in step 1; expected"):
            made.run.guard(1, batch, losses, norm)

    class Scaler:
        scale = 2.0

        def get_scale(self) -> float:
            return self.scale

    made.run.fabric.strategy.precision.scaler = scaler = Scaler()  # type: ignore[attr-defined]
    assert made.run.guard(1, batch, losses, torch.tensor(torch.inf)) == losses
    with pytest.raises(SightlineError, match="total nan and a gradient of norm 1"):
        made.run.guard(1, batch, {"total": torch.tensor(torch.nan)}, torch.tensor(1.0))
    scaler.scale = 1.0
    with pytest.raises(SightlineError, match="total 1 and a gradient of norm inf"):
        made.run.guard(1, batch, losses, torch.tensor(torch.inf))


def replayed(folder: Path, loss_of: Any = loss_of, **batch: Tensor) -> list[str]:
    """A step with a sound network, by default of a sound batch."""
    path, net = folder / "nan-step-000007.pt", Net()
    tensors = {"x": torch.ones(4, 4), "y": torch.zeros(4)} | batch
    torch.save({"model": net.state_dict(), "batch": tensors, "step": 7}, path)
    return replay(path, net, lambda batch: loss_of(net, batch))


def test_replay_looks_at_the_batch_the_modules_and_the_gradients(tmp_path: Path) -> None:
    x = torch.ones(4, 4)
    x[1, 2] = torch.inf
    assert replayed(tmp_path, x=x)[:2] == ["not finite: batch x", "not finite: what first makes"]
    assert replayed(tmp_path, lambda net, batch: (net(batch["x"]) * 0).abs().sqrt().sum()) == [
        *(
            f"not finite: gradient of {name}"
            for name in ("first.weight", "norm.weight", "norm.bias", "last.weight", "last.bias")
        ),
        "step 7: loss 0",
    ]
    healthy, last = replayed(tmp_path)
    assert healthy == "all is finite here, in float32 on the CPU"
    assert last.startswith("step 7: loss ")
    with pytest.raises(
        CheckpointError, match=r"got Error\(s\) in loading state_dict for Net: size mismatch for first.weight"
    ):
        replay(tmp_path / "nan-step-000007.pt", Net(width=6), lambda batch: torch.zeros(()))


def test_replay_runs_no_code_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil(), "batch": {}, "step": 0}, tmp_path / "step.pt")
    with pytest.raises(CheckpointError, match=r"step\.pt: got what is no checkpoint, or code; expected a file that"):
        replay(tmp_path / "step.pt", Net(), lambda batch: torch.zeros(()))
    assert not (tmp_path / "evil-was-here").exists()


# The folder


def test_a_full_disk_is_a_sentence_and_the_checkpoint_before_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train(tmp_path, 2)
    before, names = (tmp_path / LAST).read_bytes(), names_in(tmp_path)

    def save(_content: object, file: Any) -> None:
        file.write(b"half of it")
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("unexpected pos 768 vs 662") from None  # as torch's writer does

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(CheckpointError) as raised:
        made.run.save(3, if_due=False)
    assert str(raised.value) == (
        f"{tmp_path / LAST}: cannot be written: got 'No space left on device'; expected room for it. Free some space "
        f"and give the same command again ({tmp_path / LAST} is whole)."
    )
    assert (tmp_path / LAST).read_bytes() == before
    assert names_in(tmp_path) == names == [LAST, "run.json"]
    with pytest.raises(CheckpointError, match=r"and give the same command again \(there is no checkpoint yet\)"):
        train(tmp_path / "new", 1)
    assert names_in(tmp_path / "new") == ["run.json"]


def test_a_disk_that_is_really_full_is_no_other(tmp_path: Path) -> None:
    made = train(tmp_path, 2, width=20_000)
    before, names = (tmp_path / LAST).read_bytes(), names_in(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # a writer meets it as it meets a full disk
    try:
        with pytest.raises(
            CheckpointError, match=r"cannot be written: got 'File too large'; .* \(.*last\.pt is whole\)"
        ):
            made.run.save(3, if_due=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / LAST).read_bytes() == before
    assert names_in(tmp_path) == names


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    train(tmp_path, 1)
    for name in (".last.0a1b2c3d.part.pt", ".log.0a1b2c3d.part.csv", "mine.part.pt", ".hidden"):
        (tmp_path / name).write_text("half")
    train(tmp_path, 2)
    assert names_in(tmp_path) == [".hidden", LAST, "mine.part.pt", "run.json"]


def test_a_checkpoint_is_written_when_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = train(tmp_path, 1, save_minutes=2)
    assert not (tmp_path / LAST).exists()
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 121)
    assert [made.run.save(2), made.run.save(3)] == [True, False]
    assert made.run.save(4, if_due=False)
    assert torch.load(tmp_path / LAST, weights_only=True)["step"] == 4


def test_the_folder_says_what_was_asked_for(tmp_path: Path) -> None:
    asked = settings(tmp_path / "a" / "run", seed=4)
    run = Run(asked, Recipe(asked, 0.5, Path("clips")))
    net = Net()
    run.setup(net, torch.optim.SGD(net.parameters(), 0.1))
    found = json.loads((tmp_path / "a" / "run" / "run.json").read_text())
    assert found["settings"] == {"lr": 0.5, "data": "clips", "seed": 4, "precision": "32-true"}
    assert found["run"]["out"] == str(asked.out) and found["run"]["save_minutes"] == 0
    assert (found["processes"], found["device"], found["first_step"]) == (1, "cpu", 0)
    assert set(found["versions"]) == {"sightline", "torch", "numpy"}
    assert isinstance(found["command"], list)


def test_weights_to_keep_are_those_of_the_mean(tmp_path: Path) -> None:
    made = train(tmp_path, 3)
    assert same(made.run.weights(), dict(made.average.module.state_dict()))
    assert not same(made.run.weights(), made.net.state_dict())
    made.run.average = None
    assert same(made.run.weights(), dict(made.net.state_dict()))


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SightlineError, match=r"out: cannot make .*file/run: got 'Not a directory'; expected a place"):
        Run(settings(tmp_path / "file" / "run"), Recipe())
    with pytest.raises(SightlineError, match=r"out: cannot make .*file: got 'Not a directory'; expected a place"):
        Run(settings(tmp_path / "file"), Recipe())
    with pytest.raises(SightlineError, match="out: got none; expected a folder"):
        Run(RunSettings(), Recipe())


def test_the_folder_is_looked_at_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(tmp_path / "a" / "run")
    assert check_out(asked, Recipe()) == asked.out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(module.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(SightlineError, match=r"out: cannot make .*a/run: got 'Permission denied'; expected a place"):
        check_out(asked, Recipe())


@pytest.mark.parametrize("with_about", [True, False])
def test_a_run_of_another_model_is_named(with_about: bool, tmp_path: Path) -> None:
    """By what lies beside the checkpoint, or where that is gone by the checkpoint itself."""

    def run_of(model: str) -> None:
        asked = settings(tmp_path)
        run, net = Run(asked, Named(asked, model=model)), Net()
        run.setup(net, torch.optim.SGD(net.parameters(), 0.1))
        run.save(0)

    run_of("mvt")
    assert check_out(settings(tmp_path), Named(model="mvt")) == tmp_path
    if not with_about:
        (tmp_path / ABOUT).unlink()
    with pytest.raises(CheckpointError) as raised:
        run_of("ostrack-tiny")
    sentence = f"checkpoint {tmp_path / LAST}: got a run of mvt; expected one of ostrack-tiny. Choose another --out."
    assert str(raised.value) == sentence
    assert (tmp_path / ABOUT).exists() == with_about


def test_what_torch_says_of_another_network_is_not_told(tmp_path: Path) -> None:
    train(tmp_path, 1)
    with pytest.raises(CheckpointError) as raised:
        train(tmp_path, 2, width=9)
    assert str(raised.value) == (
        f"checkpoint {tmp_path / LAST}: got the weights of another network, or other parts of it that learn; expected "
        "a run of the same model and recipe. Choose another --out."
    )


# Processes

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "RANK": "4", "LOCAL_RANK": "1",
    "GROUP_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "12911",
}  # fmt: skip
SLURM = {
    "SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "3", "SLURM_NNODES": "2", "SLURM_PROCID": "4", "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1", "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "tracker", "SLURM_NODELIST": "node[3-4]",
}  # fmt: skip


@pytest.fixture
def started_by(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand in the place of a process that something started."""
    monkeypatch.setattr(Fabric, "launch", lambda self: None)
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # Fabric sets it, for good

    def stand_in(variables: Mapping[str, str]) -> None:
        for name in {*TORCHRUN, *SLURM}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return stand_in


@pytest.mark.parametrize(("variables", "kind"), [(TORCHRUN, TorchElasticEnvironment), (SLURM, SLURMEnvironment)])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_processes_of_torchrun_and_slurm_are_recognised(
    started_by: Any, variables: Mapping[str, str], kind: type, strategy: Any
) -> None:
    started_by(variables)
    fabric = launch(RunSettings(accelerator="cpu", devices=3, nodes=2, strategy=strategy))
    assert type(fabric.strategy.cluster_environment) is kind  # type: ignore[attr-defined]
    assert (fabric.world_size, fabric.global_rank, fabric.local_rank, fabric.node_rank) == (6, 4, 1, 1)


@pytest.mark.parametrize(
    ("variables", "more", "sentence"),
    [
        (TORCHRUN, {}, "devices: got 1 on 1 nodes; expected 6 in all, which torchrun has started. Give --devices"),
        (TORCHRUN, {"devices": 6, "nodes": 2}, "devices: got 6 on 2 nodes; expected 6 in all, which torchrun has"),
        (TORCHRUN | {"WORLD_SIZE": "1"}, {"devices": 2}, "devices: got 2 on 1 nodes; expected 1 in all"),
        (SLURM, {"devices": 3}, "devices: got 3 on 1 nodes; expected 6 in all, which Slurm has started"),
        ({**SLURM, "SLURM_NTASKS": "1"}, {"devices": 4}, "expected 1 in all, which Slurm has started"),
        (
            {name: value for name, value in SLURM.items() if name != "SLURM_NTASKS_PER_NODE"},
            {"devices": 3, "nodes": 2},
            "processes: got 'You set `--ntasks=6` in your SLURM bash script.*; expected 3 on each of 2 nodes",
        ),
        ({}, {"sync_bn": True}, "sync_bn: got the CPU; expected GPUs"),
        ({}, {"precision": "16-mixed"}, "precision: got 16-mixed for the CPU; expected 32-true or bf16-mixed"),
        ({}, {"strategy": "fsdp2"}, "strategy: got fsdp2 for one process; expected several"),
        ({}, {"strategy": "fsdp2", "devices": 2, "precision": "16-mixed"}, "precision: got 16-mixed"),
        ({}, {"accelerator": "cuda"}, "accelerator: got cuda; expected a GPU, which torch finds none of"),
    ],
)
def test_settings_that_do_not_fit_together_are_one_sentence(
    started_by: Any, monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], more: Any, sentence: str
) -> None:
    started_by(variables)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SightlineError, match=sentence):
        launch(RunSettings(**{"accelerator": "auto", **more}))


def test_a_mean_of_weights_in_pieces_is_refused(tmp_path: Path) -> None:
    run, net = Run(settings(tmp_path), Recipe()), Net()
    run.settings = replace(run.settings, strategy="fsdp2")
    with pytest.raises(SightlineError, match="strategy: got fsdp2 for a recipe that averages its weights"):
        run.setup(net, torch.optim.SGD(net.parameters(), 0.1), AveragedModel(net))


def test_threads_are_those_asked_for(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        Run(settings(tmp_path, threads=before + 1), Recipe())
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


class Fatal:
    """Examples whose maker dies, as for want of memory."""

    def __getitem__(self, number: int) -> Example:
        os.kill(os.getpid(), 9)
        raise AssertionError


def test_a_worker_that_dies_is_a_sentence() -> None:
    with (
        pytest.raises(SightlineError, match=r"^workers: got 'DataLoader worker \(pid.*'; expected them to go on\."),
        one_voice(),
    ):
        next(batches(Fatal(), batch=2, workers=1))


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to\nmore"),
            "batch: got 'CUDA out of memory. Tried to more'; expected",
        ),
        (RuntimeError("[pair.cc:553] Connection closed by peer [::1]"), "processes: got no answer from another one; e"),
        (RuntimeError("NCCL error: remote process exited or"), "processes: got no answer from another one; expected"),
    ],
)
def test_what_torch_says_for_want_of_memory_or_of_a_process_is_a_sentence(raised: Exception, sentence: str) -> None:
    with pytest.raises(SightlineError) as told, one_voice():
        raise raised
    assert str(told.value).startswith(sentence)
    assert str(told.value).endswith("The same command goes on from the last checkpoint.")


@pytest.mark.parametrize("raised", [RuntimeError("a bug"), SightlineError("told"), KeyboardInterrupt(), ValueError()])
def test_other_errors_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as told, one_voice():
        raise raised
    assert told.value is raised
