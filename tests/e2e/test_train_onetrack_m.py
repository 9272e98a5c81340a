"""The recipe of OneTrack-M on small synthetic windows: it learns, its phases freeze what they say, and it goes on as if
it had never stopped."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline.building import empty_model, tracker_of
from sightline.checkpoints.files import MODEL, TRACKER, read_weights
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence, write_sequence
from sightline.errors import CheckpointError, DatasetError, SightlineError
from sightline.geometry.heatmaps import HeatmapRules
from sightline.imaging.frames import read_image
from sightline.models.onetrack_m import HEADS, ONETRACK_M_TINY, OneTrackM
from sightline.recipes import train_onetrack_m
from sightline.recipes.train_onetrack_m import PRESETS, OneTrackMTraining, learning_rate, train
from sightline.trackers.onetrack_m import OneTrackMConfig as LoopConfig
from sightline.trackers.zoo import ZOO
from sightline.training import keeping, opening
from sightline.training.feed import batches
from sightline.training.phases import phase_at
from sightline.training.run import Run, RunSettings
from sightline.training.scenes import track_scenes
from sightline.training.windows import HeatmapExamples, SyntheticWindows, WindowExamples, WindowsConfig

SMALL = replace(
    PRESETS["onetrack-m-tiny:full"],
    sources=("synthetic",),
    cutouts=(),
    val=(),
    init="none",
    tmp_epochs=(2, 1, 1, 1),
    frozen=(),
    freeze_backbone_in=("size",),
    pairs_per_epoch=8,
    batch=2,
    lr=3e-3,
    warmup_steps=2,
    average=0.0,
    max_objects=16,
    pairs=WindowsConfig(2, 64),
    synthetic=SyntheticConfig(width=64, height=64, num_people=(3, 4), num_others=(0, 1), object_height=(0.3, 0.5)),
    validate_epochs=1,
    options={"backbone": "vit", "image_px": 64, "clip_length": 2, "width": 32, "depth": 2, "heads": 2},
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train_onetrack_m, "NUM_MEASURED", 8)
    threads, level = torch.get_num_threads(), logging.getLogger("sightline").level
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logging.getLogger("sightline").setLevel(level)


def run_of(settings: OneTrackMTraining, out: Path, **changes: Any) -> Path:
    run = RunSettings(out=out, accelerator="cpu", threads=1, workers=0, log_steps=1, save_minutes=0.0)
    train(replace(settings, run=run, **changes))
    return out


def column(out: Path, name: str) -> list[float]:
    with (out / "log.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def saved(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(out / "last.pt", weights_only=True)
    return content


def tensors(content: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a checkpoint by their path."""
    if isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {path: leaf for key, value in items for path, leaf in tensors(value, f"{name}/{key}").items()}
    return {name: content}


# After each phase, the model as it is


@pytest.fixture(scope="module")
def phased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, torch.Tensor]]]:
    """A run through all phases, and its weights before it, and after each phase."""
    states: list[dict[str, torch.Tensor]] = []
    enter = train_onetrack_m.enter

    def watched(model: torch.nn.Module, *given: Any) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        enter(model, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_onetrack_m, "enter", watched)
        patch.setattr(train_onetrack_m, "NUM_MEASURED", 8)
        out = run_of(SMALL, tmp_path_factory.mktemp("phased") / "run")
    return out, [*states, saved(out)["model"]]


def test_each_phase_changes_its_own_part_and_no_bit_of_the_others(
    phased: tuple[Path, list[dict[str, torch.Tensor]]],
) -> None:
    _, states = phased
    learning = [
        {"heat_head", "backbone"},
        {"size_head"},  # the backbone is frozen in this one
        {"displacement_head", "backbone"},
        {*HEADS, "backbone"},
    ]
    assert len(states) == 5
    for parts, before, after in zip(learning, states, states[1:], strict=False):
        changed = {name.partition(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
        assert changed == parts


def test_a_phase_minimises_its_own_loss_and_its_rate_begins_anew(
    phased: tuple[Path, list[dict[str, torch.Tensor]]],
) -> None:
    out, _ = phased
    total, heat, size, displacement = (column(out, name) for name in ("total", *train_onetrack_m.LOSSES))
    assert len(total) == 20
    assert total[:8] == heat[:8] and total[8:12] == size[8:12] and total[12:16] == displacement[12:16]
    joint = np.average([heat, size, displacement], axis=0, weights=(1, 0.15, 0.5))  # tiny's weights
    np.testing.assert_allclose(total[16:], joint[16:], rtol=1e-4)
    rates = [learning_rate(step, SMALL) for step in range(20)]
    assert column(out, "lr") == pytest.approx(rates, rel=1e-5)
    assert rates[0] == rates[8] == SMALL.lr / 2 and rates[7] < 0.1 * rates[1] and rates[16] == SMALL.lr / 2
    assert [phase_at(SMALL.phases, step, 4).phase.name for step in (7, 8, 12, 16)] == [
        *("heat", "size", "displacement", "joint")
    ]


def test_twenty_steps_of_all_losses_lower_them(tmp_path: Path) -> None:
    joint = replace(SMALL, tmp_epochs=(0, 0, 0, 5), warmup_steps=4, lr=1e-2, batch=8, pairs_per_epoch=32)
    found = column(run_of(joint, tmp_path / "run"), "total")
    assert len(found) == 20 and np.mean(found[-5:]) < 0.92 * np.mean(found[:5])
    other = column(run_of(replace(joint, lr=0.0), tmp_path / "idle"), "total")
    assert np.mean(other[-5:]) > 0.95 * np.mean(other[:5])  # the control: it is not the windows that differ


@pytest.mark.parametrize("stop", [8, 10])  # where a phase ends, and in the middle of one
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    stop: int, phased: tuple[Path, list[dict[str, torch.Tensor]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = phased
    save = Run.save

    def stopping(self: Run, step: int, *, if_due: bool = True) -> bool:
        done = save(self, step, if_due=if_due)
        if step == stop:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_of(SMALL, tmp_path / "run")
    out = run_of(SMALL, tmp_path / "run")
    assert json.loads((out / "run.json").read_text())["first_step"] == stop
    ours, theirs = tensors(saved(out)), tensors(saved(whole))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name], name
    assert column(out, "total") == column(whole, "total")


def test_weights_carry_the_scale_of_their_displacements(
    phased: tuple[Path, list[dict[str, torch.Tensor]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, states = phased
    kept = read_weights(out / "last.safetensors")
    scale = json.loads(kept.metadata[TRACKER])["displacement_scale"]
    assert kept.metadata[MODEL] == "onetrack-m-tiny" and len(scale) == 2 and 0 < min(scale) < max(scale) < 0.5
    assert all(torch.equal(torch.from_numpy(value), states[-1][name]) for name, value in kept.tensors.items())
    with caplog.at_level(logging.INFO, "sightline"):
        given = run_of(SMALL, tmp_path / "given", tmp_epochs=(0, 0, 0, 1), displacement_scale=(0.3, 0.2))
    assert json.loads(read_weights(given / "last.safetensors").metadata[TRACKER]) == {"displacement_scale": [0.3, 0.2]}
    assert "displacement in x, fractions of the frame: 50 %: 0.0" in caplog.text and "99.9 %" in caplog.text


# Validation

# The heat map begins high everywhere and does not learn, so that tracks are found that are wrong in various ways.
JUDGED = replace(
    SMALL,
    val=("synthetic",),
    tmp_epochs=(0, 2, 1, 0),
    freeze_backbone_in=(),
    warmup_steps=0,
    lr=2e-2,
    average=0.2,
    options={**SMALL.options, "heat_bias": 2.0},
)


Judged = tuple[Path, list[dict[str, np.ndarray]], list[Any]]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """A run that is validated three times, and each time the weights that are kept and the loop that is used."""
    kept: list[dict[str, np.ndarray]] = []
    followers: list[Any] = []
    write, track = keeping.write_safetensors, keeping.track_scenes

    def watched(path: Path, tensors: Any, header: Any) -> None:
        kept.append({name: value.copy() for name, value in tensors.items()})  # training goes on in their memory
        write(path, tensors, header)

    def followed(model: torch.nn.Module, scenes: Any, tracker: Any, *given: Any) -> Any:
        followers.append(tracker)
        return track(model, scenes, tracker, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "write_safetensors", watched)
        patch.setattr(keeping, "track_scenes", followed)
        patch.setattr(train_onetrack_m, "NUM_MEASURED", 8)
        patch.setattr(opening, "SCENE_FRAMES", 8)
        out = run_of(JUDGED, tmp_path_factory.mktemp("judged") / "run")
    return out, kept, followers


def test_every_epoch_is_judged_by_scenes_and_the_best_weights_stay(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, kept, followers = judged
    rows = table(out / "validation.csv")
    shown = ("HOTA", "DetA", "AssA", "IDF1", "MOTA")
    assert list(rows[0]) == ["step", "epoch", "examples", *shown, "synthetic-0", "synthetic-1"]
    assert [(row["step"], row["epoch"], row["examples"]) for row in rows] == [
        *(("4", "1", "8"), ("8", "2", "16"), ("12", "3", "24"))
    ]
    hota = [float(row["HOTA"]) for row in rows]
    assert len(set(hota)) == 3 and 0 < max(hota) < 1
    last, best = (read_weights(out / f"{name}.safetensors").tensors for name in ("last", "best"))
    for found, expected in ((last, kept[-1]), (best, kept[int(np.argmax(hota))])):
        assert found.keys() == expected.keys()
        assert all(np.array_equal(value, expected[name]) for name, value in found.items())
    # The averaged weights, not those that are trained on; followed by hand, they have this score.
    state = saved(out)["average"]
    assert all(np.array_equal(value, state[f"module.{name}"].numpy()) for name, value in last.items())
    assert not np.array_equal(last["size_head.0.weight"], saved(out)["model"]["size_head.0.weight"].numpy())
    monkeypatch.setattr(opening, "SCENE_FRAMES", 8)
    scenes = opening.open_scenes(JUDGED.val, None, JUDGED.synthetic)
    model = empty_model("onetrack-m-tiny", JUDGED.options)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in last.items()})
    loop = tracker_of("onetrack-m-tiny", out / "last.safetensors")
    assert isinstance(loop, LoopConfig)
    config = replace(loop, image_px=64, grid=16)
    scores = track_scenes(model, scenes, config, "onetrack-m-tiny", ("person",))
    assert {name: str(value) for name, value in scores.overall.items()} == {name: rows[-1][name] for name in shown}
    fewer = replace(config, started_from=0.9)  # the control
    assert track_scenes(model, scenes, fewer, "onetrack-m-tiny", ("person",)).overall != scores.overall
    assert followers == [config] * 3 and config.displacement_scale != ZOO["onetrack-m-tiny"].tracker.displacement_scale


def test_pictures_show_what_the_maps_say_and_what_is_followed(
    judged: Judged,
) -> None:
    out = judged[0]
    assert {path.name for path in (out / "pictures").iterdir()} == {
        f"step-{step:06d}{what}.jpg" for step in (4, 8, 12) for what in ("", "-scenes")
    }
    examples, scenes = (read_image(out / "pictures" / f"step-000012{what}.jpg") for what in ("", "-scenes"))
    assert scenes.shape[1] == 1600 and examples.shape[0] < scenes.shape[0]
    assert (examples.max(axis=2) - examples.min(axis=2)).max() > 100 < np.ptp(scenes, axis=2).max()


def test_validation_leaves_the_training_as_it_is(judged: Judged, tmp_path: Path) -> None:
    out = judged[0]
    without = run_of(JUDGED, tmp_path / "run", val=())
    ours, theirs = (tensors(saved(folder)) for folder in (out, without))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert name == "/settings" or (
            torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]
        ), name
    assert column(out, "total") == column(without, "total")
    assert not (without / "validation.csv").exists() and not (without / "best.safetensors").exists()
    assert len(list((without / "pictures").iterdir())) == 3


def test_a_run_that_goes_on_is_judged_as_one_that_was_not_stopped(
    judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = judged[0]
    monkeypatch.setattr(opening, "SCENE_FRAMES", 8)
    write = Run._write

    def stopping(self: Run, path: Path, content: Any) -> None:
        if content["step"] == 8:
            raise KeyboardInterrupt  # after it was validated and before that was saved
        write(self, path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_of(JUDGED, tmp_path / "run")
    assert [row["step"] for row in table(tmp_path / "run" / "validation.csv")] == ["4", "8"]
    out = run_of(JUDGED, tmp_path / "run")
    assert json.loads((out / "run.json").read_text())["first_step"] == 7
    assert (out / "validation.csv").read_text() == (whole / "validation.csv").read_text()
    ours, theirs = (read_weights(folder / "best.safetensors").tensors for folder in (out, whole))
    assert all(np.array_equal(value, theirs[name]) for name, value in ours.items())


def test_one_s_own_sequences_judge_too(tmp_path: Path) -> None:
    sequence = SyntheticSequence(replace(SMALL.synthetic, num_frames=5), 3, 0)
    write_sequence(sequence, tmp_path / "mine")
    short = replace(JUDGED, tmp_epochs=(0, 1, 0, 0), data=tmp_path, val=("mot=mine",))
    out = run_of(short, tmp_path / "run")
    (row,) = table(out / "validation.csv")
    assert list(row)[3:] == ["HOTA", "DetA", "AssA", "IDF1", "MOTA", sequence.name]
    assert float(row["HOTA"]) == pytest.approx(float(row[sequence.name]), rel=1e-5)


# A step again


@pytest.mark.parametrize(("step", "phase"), [(3, "heat"), (9, "size"), (13, "displacement"), (17, "joint")])
def test_a_step_is_done_again_as_its_phase_does_it(
    step: int,
    phase: str,
    phased: tuple[Path, list[dict[str, torch.Tensor]]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, states = phased
    windows = WindowExamples([SyntheticWindows(SMALL.synthetic)], SMALL.pairs)
    model, _ = train_onetrack_m.first_network(SMALL)
    examples = HeatmapExamples(windows, 16, HeatmapRules(box=model.config.box), SMALL.max_objects)
    batch = next(batches(examples, batch=2)).tensors
    path = tmp_path / f"nan-step-{step:06d}.pt"
    torch.save({"model": states[-1], "batch": batch, "step": step}, path)
    model.load_state_dict(states[-1])
    loop = ZOO["onetrack-m-tiny"].tracker
    assert isinstance(loop, LoopConfig)
    totals = {
        one.name: float(train_onetrack_m.loss_of(model, batch, one, loop, SMALL.reach)[0].total.detach())
        for one in SMALL.phases
    }
    assert len({round(total, 3) for total in totals.values()}) == 4
    with caplog.at_level(logging.INFO, "sightline"):
        train(replace(SMALL, run=RunSettings(replay=path)))
    assert caplog.messages[-1] == f"step {step}: loss {totals[phase]:g}"
    assert caplog.messages[-2] == "all is finite here, in float32 on the CPU"


# What it begins with


def test_it_goes_on_from_a_whole_network_and_from_a_backbone(
    phased: tuple[Path, list[dict[str, torch.Tensor]]], tmp_path: Path
) -> None:
    out, states = phased
    model, pretrained = train_onetrack_m.first_network(replace(SMALL, init=str(out / "last.safetensors")))
    assert not pretrained and all(torch.equal(value, states[-1][name]) for name, value in model.state_dict().items())
    tiny = replace(PRESETS["onetrack-m-tiny:full"], init="sightline-nano")
    model, pretrained = train_onetrack_m.first_network(tiny)
    nano = read_weights(Path(train_onetrack_m.weights_file("sightline-nano", None))).tensors
    stem = nano["backbone._conv_stem.weight"].astype(np.float32)
    assert np.array_equal(model.state_dict()["backbone.stages._conv_stem.weight"].numpy(), stem)
    assert pretrained and all(name.startswith("backbone.stages.") for name in pretrained)
    groups = train_onetrack_m.parameter_groups(model, pretrained, tiny)
    of = {id(parameter): group for group in groups for parameter in group["params"]}  # type: ignore[attr-defined]
    for name, parameter in model.named_parameters():
        group = of[id(parameter)]
        assert group["ratio"] == (tiny.backbone_lr if name in pretrained else 1.0)
        has_decay = parameter.dim() > 1 and not name.endswith(("frame_embed", "pos_embed"))
        assert group["weight_decay"] == (tiny.weight_decay if has_decay else 0.0)
    torch.save({"patch_embed.proj.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError):
        train_onetrack_m.first_network(replace(SMALL, init=str(tmp_path / "other.pth")))


def test_presets_are_the_papers_and_their_baselines() -> None:
    paper, tiny = PRESETS["onetrack-m-b16:full"], PRESETS["onetrack-m-tiny:full"]
    assert [(phase.name, phase.epochs) for phase in paper.phases] == [
        *(("heat", 50), ("size", 50), ("displacement", 50), ("joint", 50))
    ]
    for phase, own in zip(paper.phases, HEADS, strict=False):
        assert set(phase.frozen) == set(HEADS) - {own}
    assert paper.phases[3].frozen == () and paper.phases[3].weights == {"heat": 1.0, "size": 0.1, "displacement": 1.0}
    assert (paper.lr, paper.backbone_lr, paper.weight_decay, paper.batch, paper.clip_norm) == (1e-4, 0.1, 1e-4, 12, 1.0)
    assert paper.sources == ("mot17:half-train",) and (paper.pairs.clip_length, paper.pairs.image_px) == (5, 224)
    for full in (paper, tiny):
        joint = PRESETS[f"{full.model}:joint"]
        assert [phase.epochs for phase in joint.phases] == [0, 0, 0, full.num_steps // full.steps_per_epoch]
        assert joint.num_steps == full.num_steps
    network = OneTrackM(ONETRACK_M_TINY)
    for part in tiny.frozen:
        network.get_submodule(part)


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="clip_length: got 3; expected 2"):
        run_of(SMALL, tmp_path, pairs=WindowsConfig(3, 64))
    with pytest.raises(SightlineError, match="devices: got several"):
        train(replace(SMALL, run=RunSettings(out=tmp_path, accelerator="cpu", devices=2)))
    with pytest.raises(SightlineError, match="got the part 'neck'"):
        run_of(SMALL, tmp_path / "run", frozen=("neck",))
    with pytest.raises(DatasetError, match="validation sequences 'got10k:val': got no data set in MOTChallenge's"):
        run_of(SMALL, tmp_path / "no", val=("got10k:val",))
    assert not (tmp_path / "no").exists()
