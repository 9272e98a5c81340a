"""From a clip to GTR's losses: what goes in, what is added up, and that every weight hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.checkpoints.files import write_safetensors
from sightline.checkpoints.gtr import take_what_fits
from sightline.errors import CheckpointError
from sightline.models import gtr
from sightline.models.centernet2 import CenterNet2, CenterNet2Config
from sightline.models.dla import DLAConfig
from sightline.models.gtr import GTR, GTR_TINY, GTRConfig
from sightline.models.res2net import Res2NetConfig
from sightline.training import joint
from sightline.training.clips import ClipExamples, ClipsConfig, SyntheticClips
from sightline.training.feed import batches
from sightline.training.joint import JointSettings, Learner, Lesson, counts_of, images_of, lessons_of, level_shapes

DETECTOR = CenterNet2Config(GTR_TINY.backbone, GTR_TINY.channels, GTR_TINY.num_cells, False, 1, width=GTR_TINY.width)
CLASSES = GTRConfig(
    Res2NetConfig((1, 1, 1, 1), base_width=4, channels=8), 32, num_classes=4, width=32, hidden=32, projection_layers=2
)
SETTINGS = JointSettings(score_above=0.05, nms_iou=0.9)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def batch(num: int = 1, length: int = 2, seed: int = 0, **changes: Any) -> dict[str, Tensor]:
    config = replace(ClipsConfig(length, length, train_px=128, scale=(0.7, 1.0), max_objects=16), **changes)
    clips = ClipExamples([SyntheticClips(num_frames=6)], config, seed)
    return next(batches(clips, batch=num)).tensors


def lesson(seed: int = 0, multiple: int = 128) -> Lesson:
    return lessons_of(batch(seed=seed), multiple, together=False, are_inside=False)[0]


def network(config: CenterNet2Config = GTR_TINY) -> CenterNet2:
    torch.manual_seed(1)
    return GTR(config) if isinstance(config, GTRConfig) else CenterNet2(config)


# What goes in


def test_a_lesson_is_the_frames_there_are_in_multiples_of_what_is_asked_for() -> None:
    given = batch(2, train_px=120, max_frames=4)
    for multiple, side in ((32, 128), (64, 128), (8, 120)):
        found = lessons_of(given, multiple, together=False, are_inside=False)
        assert len(found) == 2
        for place, one in enumerate(found):
            num = int((given["size"][place, :, 0] > 0).sum())
            height, width = one.frames.shape[1:3]
            assert one.frames.shape[0] == num == len(one.sizes) == len(one.truths) == len(one.ids)
            assert height % multiple == width % multiple == 0 and max(height, width) <= side
            assert 0 <= height - int(one.sizes[:, 0].max()) < multiple
            inside = min(height, 120), min(width, 120)
            shown = given["frames"][place, :num, : inside[0], : inside[1]]
            assert torch.equal(one.frames[:, : inside[0], : inside[1]], shown)
            assert not one.frames[:, inside[0] :].any() and not one.frames[:, :, inside[1] :].any()
            for t, truth in enumerate(one.truths):
                there = given["track_id"][place, t] > 0
                assert torch.equal(one.ids[t], given["track_id"][place, t][there])
                assert torch.equal(truth.boxes, given["xyxy"][place, t][there]) and not truth.classes.any()


def test_a_detectors_pictures_are_one_lesson() -> None:
    given = batch(3, length=1)
    (found,) = lessons_of(given, 128, together=True, are_inside=False)
    assert found.frames.shape == (3, 128, 128, 3) and torch.equal(found.sizes, given["size"][:, 0])


def test_centres_out_of_the_picture_are_positives_at_its_border_unless_boxes_end_there() -> None:
    given = batch()
    given["xyxy"][0, 0, 0] = torch.tensor([-70.0, 20.0, -10.0, 60.0])
    given["track_id"][0, 0, 0] = 1
    clamped, not_clamped = (lessons_of(given, 128, together=False, are_inside=inside)[0] for inside in (False, True))
    assert 16 * (40 // 8) in clamped.targets.positives.tolist()
    assert 16 * (40 // 8) - 5 in not_clamped.targets.positives.tolist()  # five cells to the left: the row above


def test_images_are_normalised_and_zero_around_the_picture() -> None:
    one = lesson()
    sizes = one.sizes.clone()
    sizes[1] = torch.tensor([50, 70])
    images = images_of(one._replace(sizes=sizes))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected = (one.frames[1, 30, 40].numpy() - mean) / std
    np.testing.assert_allclose(images[1, :, 30, 40], expected, atol=1e-5)
    assert not images[1, :, 50:].any() and not images[1, :, :, 70:].any()
    assert images[1, :, :50, :70].all() and images[0, :, : int(sizes[0, 0]), : int(sizes[0, 1])].any()


@pytest.mark.parametrize("config", [GTR_TINY, CLASSES])
def test_levels_have_the_shapes_that_the_network_gives_them(config: CenterNet2Config) -> None:
    height, width = (128, 256) if config is GTR_TINY else (96, 224)
    with torch.no_grad():
        pyramid, _ = network(config)(torch.zeros(1, 3, height, width))
    assert level_shapes(height, width) == [tuple(level.shape[-2:]) for level in pyramid]


# What comes out


def test_losses_are_added_up_and_divided_by_what_is_counted() -> None:
    learner, one = Learner(network(), SETTINGS).eval(), lesson()
    counts = counts_of([one])
    losses = learner(one, counts)
    assert list(losses) == ["total", "box", "positive", "negative", "association"]
    assert losses["total"].item() == pytest.approx(sum(losses[name].item() for name in list(losses)[1:]), rel=1e-6)
    assert all(losses[name] > 0 for name in losses)
    assert counts.tolist() == [len(one.targets.positives), one.targets.is_box.sum()]
    torch.manual_seed(0)
    twice = learner(one, 2 * counts)
    assert twice["positive"].item() == pytest.approx(losses["positive"].item() / 2, rel=1e-5)
    assert twice["box"].item() == pytest.approx(losses["box"].item() / 2, rel=1e-5)
    mean = counts_of([one, lesson(3)])
    assert mean.tolist() == ((counts + counts_of([lesson(3)])) / 2).tolist()


def test_a_step_of_two_clips_is_the_official_one_of_two_processes() -> None:
    """Sums over all of both, over the number of all: the mean over the clips of each one's sum by the mean number."""
    learner, lessons = Learner(network(), SETTINGS).eval(), [lesson(0), lesson(3)]
    counts = counts_of(lessons)
    found = sum(learner(one, counts)["positive"].item() for one in lessons) / 2
    alone = [learner(one, counts_of([one]))["positive"].item() for one in lessons]
    numbers = [len(one.targets.positives) for one in lessons]
    assert numbers[0] != numbers[1]
    assert found == pytest.approx(np.average(alone, weights=numbers), rel=1e-5)
    assert found != pytest.approx(np.mean(alone), rel=1e-5)


def seen_by_association(settings: JointSettings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the loss of the association is given, and what it is."""
    kept: dict[str, Any] = {}

    def watched_assign(*given: Any) -> gtr.Assignment:
        kept["assign"] = given
        kept["assignment"] = gtr.assign(*given)
        return kept["assignment"]

    def watched_loss(*given: Any, **named: Any) -> Tensor:
        kept["loss"] = (*given, named)
        return gtr.association_loss(*given, **named)

    monkeypatch.setattr(joint, "assign", watched_assign)
    monkeypatch.setattr(joint, "association_loss", watched_loss)
    one = lesson()
    torch.manual_seed(0)
    kept["losses"] = Learner(network(), settings).eval()(one, counts_of([one]))
    kept["lesson"] = one
    return kept


def test_the_detections_of_a_clip_are_associated(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = seen_by_association(SETTINGS, monkeypatch)
    boxes, n_t, true_boxes, true_frames, true_ids, least = kept["assign"]
    one = kept["lesson"]
    assert len(boxes) == sum(n_t) and len(n_t) == 2 and min(n_t) > 20 and least == 0.0
    assert true_frames.tolist() == [t for t, ids in enumerate(one.ids) for _ in ids]
    assert torch.equal(true_boxes, torch.cat([truth.boxes for truth in one.truths]))
    assert torch.equal(true_ids, torch.cat(one.ids))
    logits, lengths, assignment, named = kept["loss"]
    assert logits.shape == (sum(n_t), sum(n_t)) and lengths == n_t and assignment is kept["assignment"]
    assert named == {"background": True, "variant": "released"}
    assert (assignment.owners >= 0).any()


def test_a_higher_score_lets_fewer_be_associated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh network's scores are the root of about 1 %."""
    all_ = seen_by_association(SETTINGS, monkeypatch)["assign"][1]
    some = seen_by_association(replace(SETTINGS, score_above=0.0999), monkeypatch)["assign"][1]
    none = seen_by_association(replace(SETTINGS, score_above=0.3), monkeypatch)
    assert 0 < sum(some) < sum(all_) and none["assign"][1] == [0, 0] and none["losses"]["association"] == 0


def test_the_papers_variant_asks_for_half_an_overlap_and_adds_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = replace(SETTINGS, has_background=False)
    released = seen_by_association(quiet, monkeypatch)
    paper = seen_by_association(replace(quiet, variant="paper"), monkeypatch)
    assert released["assign"][5] == 0.0 and paper["assign"][5] == 0.5
    assert released["loss"][3] == {"background": False, "variant": "released"}
    assert paper["loss"][3] == {"background": True, "variant": "paper"}
    assert (paper["assignment"].owners >= 0).sum() < (released["assignment"].owners >= 0).sum()
    assert paper["losses"]["association"] > 20 * released["losses"]["association"]


def test_classes_are_learnt_where_there_are_some_and_by_their_odds() -> None:
    one = lesson(multiple=32)
    counts = counts_of([one])
    learner = Learner(network(CLASSES), SETTINGS).eval()
    losses = learner(one, counts)
    assert list(losses) == ["total", "box", "positive", "negative", "classes", "deltas", "association"]
    assert losses["classes"] > 0
    torch.manual_seed(0)
    few = Learner(learner.network, SETTINGS, torch.tensor([0.0, 0.0, 4.0, 0.0])).eval()(one, counts)
    assert 0 < few["classes"] < 0.6 * losses["classes"]  # class 2, and that of the objects, if they are found


def test_a_detector_by_itself_has_the_truth_among_its_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    sample = joint.sample_regions

    def watched(*given: Any, append_truth: bool) -> Any:
        told.append(append_truth)
        return sample(*given, append_truth=append_truth)

    monkeypatch.setattr(joint, "sample_regions", watched)
    one = lesson()
    losses = Learner(network(DETECTOR), SETTINGS)(one, counts_of([one]))
    assert list(losses) == ["total", "box", "positive", "negative", "classes", "deltas"]
    Learner(network(), SETTINGS)(one, counts_of([one]))
    assert told == [True, False]


@pytest.mark.parametrize("config", [GTR_TINY, CLASSES, DETECTOR])
@pytest.mark.parametrize("score_above", [0.05, 2.0])
@pytest.mark.parametrize("is_empty", [False, True])
def test_every_weight_hears_of_every_step(config: CenterNet2Config, score_above: float, is_empty: bool) -> None:
    """Also without a detection, or an object: several processes would wait for the others' gradients."""
    given = batch()
    if is_empty:
        given["track_id"][:] = 0
    multiple = 128 if isinstance(config.backbone, DLAConfig) else 32
    (one,) = lessons_of(given, multiple, together=False, are_inside=False)
    learner = Learner(network(config), replace(SETTINGS, score_above=score_above))
    assert learner.multiple == multiple
    losses = learner(one, counts_of([one]))
    losses["total"].backward()
    for name, parameter in learner.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    if is_empty:
        assert losses["box"] == losses["positive"] == 0
        assert losses.get("association", torch.tensor(0)) == 0


# What a training begins with


def stored(path: Path, tensors: dict[str, Tensor]) -> Path:
    write_safetensors(path, {name: value.numpy() for name, value in tensors.items()}, {})
    return path


def test_a_tracker_takes_its_detector_but_for_the_cascade_and_the_plain_convolution(tmp_path: Path) -> None:
    """As GTR_MOT_FPN takes CH_FPN_1x."""
    detector, tracker = network(DETECTOR), GTR(GTR_TINY)
    path = stored(tmp_path / "detector.safetensors", detector.state_dict())
    taken, dropped, fresh = take_what_fits(tracker, path)
    tower = "proposal_generator.centernet_head.bbox_tower.9."
    cascade = ("roi_heads.box_head.", "roi_heads.box_predictor.")
    assert {name for name in dropped if not name.startswith(cascade)} == {f"{tower}weight", f"{tower}bias"}
    assert len([name for name in dropped if name.startswith(cascade)]) == 24
    assert {name for name in fresh if not name.startswith("roi_heads.")} == {
        f"{tower}{part}.{kind}" for part in ("offset", "conv") for kind in ("weight", "bias")
    }
    assert {name.split(".")[1] for name in fresh if name.startswith("roi_heads.")} == {"asso_head", "transformer"}
    ours, theirs = tracker.state_dict(), detector.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in taken)
    assert set(taken) | set(fresh) == ours.keys() and set(taken) | set(dropped) == theirs.keys()


def test_a_detector_takes_a_backbone_whose_names_are_its_own(tmp_path: Path) -> None:
    detector = network(DETECTOR)
    backbone = {
        name.removeprefix("backbone.bottom_up."): value + 1
        for name, value in detector.state_dict().items()
        if name.startswith("backbone.bottom_up.")
    }
    path = stored(tmp_path / "dla.safetensors", {**backbone, "fc.weight": torch.zeros(3)})
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    taken, dropped, _ = take_what_fits(detector, path)
    assert len(taken) == len(backbone) and dropped == ["backbone.bottom_up.fc.weight"]
    after = detector.state_dict()
    assert all(torch.equal(after[name], before[name] + (name in taken)) for name in after)


def test_federated_buffers_are_no_weights_and_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    tracker = GTR(CLASSES)
    state = {**tracker.state_dict(), "roi_heads.box_predictor.0.freq_weight": torch.ones(4)}
    taken, dropped, fresh = take_what_fits(tracker, stored(tmp_path / "tao.safetensors", state))
    assert len(taken) == len(tracker.state_dict()) and dropped == fresh == []
    foreign = stored(tmp_path / "foreign.safetensors", {"pos_embed": torch.zeros(1, 197, 768)})
    with pytest.raises(
        CheckpointError, match="init 'foreign.safetensors': got 1 tensors, none of which fits; expected"
    ):
        take_what_fits(tracker, foreign)
