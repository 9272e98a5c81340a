"""How a run is judged: scores reckoned by hand, and the model as it was afterwards."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.datasets.clips import Clip, read_clip
from sightline.errors import DatasetError, SightlineError, VideoError
from sightline.evaluation.sot import success_auc
from sightline.imaging.frames import read_image
from sightline.models.blocks import Maps
from sightline.models.nano import Nano
from sightline.models.session import TorchSession
from sightline.trackers.template_search import TemplateSearchConfig, TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from sightline.training.journal import Journal
from sightline.training.validation import BEST, ClipScore, Validation, keep_best, track_clips

pytestmark = pytest.mark.torch

NANO = ZOO["sightline-nano"].tracker
STAY = TemplateSearchConfig(16, 32, stride=8, crop="exact", map_back="exact")


class Stay(nn.Module):
    """Sees the target where and as large as it was, so that its box never moves."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def encode(self, template: Tensor) -> dict[str, Tensor]:
        return {"nothing": template[:, :1, :1, :1]}

    def track(self, search: Tensor, *, nothing: Tensor) -> Maps:
        score = torch.zeros(len(search), 1, 4, 4)
        score[:, :, 2, 2] = 0.9  # its corner is the middle of the crop
        return Maps(score, torch.full((len(search), 2, 4, 4), 0.25) * self.scale, torch.zeros(len(search), 2, 4, 4))


class NeverAsked(Stay):
    """Fails the test that tracks with it."""

    def encode(self, template: Tensor) -> dict[str, Tensor]:
        pytest.fail("it was asked to track")


def write_clip(folder: Path, xs: list[float], absent: tuple[int, ...] = (), seed: int = 0) -> Clip:
    """A bright square of 20 pixels at (x, 30) in frames of 120 x 90, a frame for each x."""
    rng = np.random.default_rng(seed)
    (folder / "img").mkdir(parents=True)
    for index, x in enumerate(xs):
        frame = rng.integers(0, 120, (90, 120, 3), np.uint8)
        if index not in absent:
            frame[30:50, round(x) : round(x) + 20] = (250, 220, 40 * seed % 250)
        cv2.imwrite(str(folder / "img" / f"{index:04d}.png"), frame)
    (folder / "groundtruth.txt").write_text("".join(f"{x},30,20,20\n" for x in xs))
    (folder / "absent.txt").write_text("".join(f"{int(index in absent)}\n" for index in range(len(xs))))
    return read_clip(folder)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return [write_clip(tmp_path / f"clip{i}", [40, 42 + i, 45, 50, 52], seed=i) for i in range(3)]


@pytest.fixture
def nano() -> Iterator[Nano]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for each other where other work goes on
    torch.manual_seed(0)
    yield Nano()
    torch.set_num_threads(threads)


# Scores


def test_scores_are_those_reckoned_by_hand_over_later_frames_with_the_target(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", [40, 45, 90, 50, 40], absent=(2,))
    score = track_clips(Stay(), [clip], STAY, "stay").clips[0]
    overlaps = np.array([15 / 25, 10 / 30, 1])
    assert score.name == "clip"
    assert score.ao == pytest.approx(overlaps.mean(), abs=1e-6)
    assert score.auc == pytest.approx(np.mean([(overlaps > limit).mean() for limit in np.linspace(0, 1, 21)]), abs=1e-6)


def test_a_frame_more_or_less_changes_the_score(tmp_path: Path) -> None:
    scores = [
        track_clips(Stay(), [write_clip(tmp_path / str(i), [40, 45, 90, 50], absent)], STAY, "stay").ao
        for i, absent in enumerate(((2,), (), (1, 2)))
    ]
    assert scores == pytest.approx([(0.6 + 1 / 3) / 2, (0.6 + 0 + 1 / 3) / 3, 1 / 3], abs=1e-6)


def test_it_is_the_real_tracker_that_follows(clips: list[Clip], nano: Nano) -> None:
    found = track_clips(nano, clips[:1], NANO, "sightline-nano").clips[0]
    tracker = TemplateSearchTracker(TorchSession(nano), NANO, "sightline-nano")
    state = tracker.init(read_image(clips[0].frames[0]), xywh=clips[0].xywh[0])
    boxes = [state.xywh]
    for path in clips[0].frames[1:]:
        state = tracker.update(read_image(path), state)
        boxes.append(state.xywh)
    assert found.auc == success_auc(boxes, clips[0].xywh, clips[0].is_present)
    torch.manual_seed(1)
    assert track_clips(Nano(), clips[:1], NANO, "sightline-nano").clips[0] != found


def test_means_weigh_every_clip_alike_and_are_nan_of_none() -> None:
    scores = Validation((ClipScore("a", 0.2, 0.4), ClipScore("b", 0.6, 0.5)))
    assert (scores.ao, scores.auc) == pytest.approx((0.4, 0.45))
    assert math.isnan(Validation(()).ao) and math.isnan(Validation(()).auc)


# The model is as it was


def test_every_module_is_in_its_own_mode_again_and_no_weight_has_moved(clips: list[Clip], nano: Nano) -> None:
    nano.train()
    nano.backbone.eval()  # as the recipe trains it
    modes = {name: module.training for name, module in nano.named_modules()}
    weights = {name: value.clone() for name, value in nano.state_dict().items()}
    random = torch.get_rng_state()
    assert track_clips(nano, clips[:1], NANO, "sightline-nano") == track_clips(
        nano, clips[:1], NANO, "sightline-nano", "cpu"
    )
    assert {name: module.training for name, module in nano.named_modules()} == modes
    assert set(modes.values()) == {True, False}
    assert all(torch.equal(value, weights[name]) for name, value in nano.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_it_tracks_in_eval_mode(clips: list[Clip]) -> None:
    seen = []

    class Watched(Stay):
        def track(self, search: Tensor, *, nothing: Tensor) -> Maps:
            seen.append(self.training)
            return super().track(search, nothing=nothing)

    model = Watched().train()
    track_clips(model, clips[:1], STAY, "stay")
    assert seen == [False] * 4
    assert model.training


def test_the_mode_is_put_back_after_an_error_too(clips: list[Clip], nano: Nano) -> None:
    nano.train()
    clips[0].frames[3].write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"0003.png: got 8 bytes"):
        track_clips(nano, clips, NANO, "sightline-nano")
    assert all(module.training for module in nano.modules())


def test_it_can_be_trained_afterwards(clips: list[Clip], nano: Nano) -> None:
    track_clips(nano.train(), clips[:1], NANO, "sightline-nano")
    nano(torch.rand(2, 3, 96, 96), torch.rand(2, 3, 192, 192)).score_map.sum().backward()
    assert all(parameter.grad is not None for name, parameter in nano.named_parameters() if "backbone" in name)


# What cannot be scored


def test_clips_that_cannot_be_scored_are_refused_before_any_is_tracked(clips: list[Clip]) -> None:
    present = np.array([True, False, True, True, True])
    cases = {
        "1 boxes for 5 frames": replace(clips[2], xywh=clips[2].xywh[:1], is_present=clips[2].is_present[:1]),
        "a target on 4 of 5 frames, the first not;": replace(clips[2], is_present=np.roll(present, -1)),
        "a target on 1 of 5 frames, the first included;": replace(clips[2], is_present=np.arange(5) == 0),
    }
    for sentence, clip in cases.items():
        with pytest.raises(DatasetError, match=rf"validation clip 'clip2': got {sentence}"):
            track_clips(NeverAsked(), [*clips[:2], clip], STAY, "stay")
    track_clips(Stay(), [replace(clips[2], is_present=present)], STAY, "stay")
    with pytest.raises(DatasetError, match="validation: got no clip"):
        track_clips(Stay(), [], STAY, "stay")


# Best beside last


def validate(journal: Journal, step: int, auc: float) -> bool:
    """What a recipe does with a score; the file tells which weights they are."""
    weights = journal.folder / f"model-{step:06d}.safetensors"
    weights.write_text(f"{step} {auc}")
    journal.validation(step, Validation((ClipScore("a", 0.5, auc),)), num_examples=step)
    return keep_best(weights, step, auc)


def test_the_best_weights_stay_beside_the_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    kept = [validate(journal, step, auc) for step, auc in enumerate((0.3, 0.2, 0.5, 0.5, math.nan, 0.4, 0.51), start=1)]
    assert kept == [True, False, True, False, False, False, True]
    assert (tmp_path / BEST).read_text() == "7 0.51"
    assert sorted(path.name for path in tmp_path.glob("model-*")) == [f"model-{i:06d}.safetensors" for i in range(1, 8)]


def test_a_resumed_run_knows_the_best_so_far_and_forgets_what_it_does_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    assert [validate(journal, step, auc) for step, auc in ((10, 0.5), (20, 0.6), (30, 0.9))] == [True, True, True]
    again = Journal(tmp_path, 100, start_step=20)
    assert not validate(again, 25, 0.55)
    assert (tmp_path / BEST).read_text() == "30 0.9"
    assert validate(again, 30, 0.7)
    assert (tmp_path / BEST).read_text() == "30 0.7"
    assert validate(Journal(tmp_path, 100, start_step=30), 30, 0.7)  # validated twice, it has no rival in itself


def test_equal_scores_of_many_digits_keep_the_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    score = 0.1 + 0.2
    assert validate(journal, 1, score)
    assert not validate(journal, 2, score)
    assert validate(journal, 3, math.nextafter(score, 1))


def test_before_the_first_row_anything_but_nan_is_best(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("w")
    assert not keep_best(tmp_path / "w.safetensors", 1, math.nan)
    assert not (tmp_path / BEST).exists()
    assert keep_best(tmp_path / "w.safetensors", 1, 0.0)


def test_ao_can_be_what_is_best(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    journal.validation(1, Validation((ClipScore("a", 0.9, 0.1),)), num_examples=1)
    (tmp_path / "w.safetensors").write_text("w")
    assert not keep_best(tmp_path / "w.safetensors", 2, 0.5, "AO")
    assert keep_best(tmp_path / "w.safetensors", 2, 0.5, "AUC")


def test_a_full_disk_leaves_the_best_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 100)
    validate(journal, 1, 0.5)
    (tmp_path / "w.safetensors").write_text("w")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sightline.training.validation.os.fsync", full)
    with pytest.raises(SightlineError, match=r"best.safetensors: cannot be written: got 'No space left on device'"):
        keep_best(tmp_path / "w.safetensors", 2, 0.6)
    assert (tmp_path / BEST).read_text() == "1 0.5"
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]
