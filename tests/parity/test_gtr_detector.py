"""GTR's detector of people against the official network: backbone, pyramid, head, proposals, embeddings.

That of TAO is compared in `test_gtr_tao.py`; the keys of all five files are here. Weights are filled by the fixtures'
rule. Tolerances: maps and embeddings 3e-5, their values reaching 6; figures of whole maps 2e-5 of themselves and as
much again; boxes 0.002 px; scores 2e-6.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import GeometryError
from sightline.geometry import detections
from sightline.geometry.detections import proposals
from sightline.imaging.resize import prepared
from sightline.models import centernet2, deformable, dla
from sightline.models.centernet2 import (
    CENTERNET_CROWDHUMAN,
    CENTERNET_LVIS_COCO,
    CENTERNET_MOT,
    CENTERNET_TAO,
    BoxHead,
    CenterNet2,
    CenterNet2Config,
    clip,
    pool,
    refine,
)
from sightline.models.dla import DLAConfig
from sightline.models.gtr import GTR, GTR_MOT, GTR_MOT_FULL, GTR_TAO, GTRConfig
from sightline.models.res2net import Res2NetConfig
from sightline.models.roi_align import roi_align
from sightline.training.detection import class_loss
from tests.parity.gtr_fill import DATA, fill, manifest, manifest_of, stored

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAPS = {"atol": 3e-5}
FIGURES = {"atol": 2e-5, "rtol": 2e-5}
BOXES = {"atol": 2e-3}
SCORES = {"atol": 2e-6}
PARTIAL = 16  # every 16th channel is stored of the large maps
PLUS = {"centernet_head.bbox_pred.bias": 3.0, ".scale": 1.0}  # the fixture's exceptions to the rule
# What a federated loss weighs classes by: no part of the network, and in some files alone.
OF_THE_LOSS = ("freq_weight", "fed_loss_cls_weights")
ASSOCIATION = ("roi_heads.asso_", "roi_heads.transformer.")
SMALL = CenterNet2Config(DLAConfig(channels=(8, 8, 16, 16, 32, 32)), channels=64, num_cells=2)
SMALL_CASCADE = CenterNet2Config(
    Res2NetConfig((1, 1, 1, 1), base_width=4, channels=8), channels=64, num_classes=3, width=48
)


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def detector() -> CenterNet2:
    with torch.device("meta"):
        model = CenterNet2(CENTERNET_MOT)
    return fill(model, plus=PLUS)


def image() -> Tensor:
    frame = stored("detector_mot")["image_hwc_rgb"]
    return torch.from_numpy(prepared(frame, frame.shape[:2], MEAN, STD, 128)[0])


@functools.cache
@torch.inference_mode()
def detected() -> dict[str, Tensor]:
    return detector().detect(image())


def figures(features: Tensor) -> list[float]:
    """Mean, deviation, largest magnitude, first and last value, as they are stored."""
    values = features.double().flatten()
    return [float(value) for value in (values.mean(), values.std(), values.abs().max(), values[0], values[-1])]


def build(config: CenterNet2Config) -> CenterNet2:
    torch.manual_seed(0)
    return CenterNet2(config).eval()


# Keys


@pytest.mark.parametrize(
    ("name", "config", "num_parameters"),
    [
        ("GTR_MOT_FPN", GTR_MOT, 43_801_870),
        ("GTR_MOTFull_FPN", GTR_MOT_FULL, 43_801_870),
        ("GTR_TAO_DR2101", GTR_TAO, 127_652_121),
        ("CH_FPN_1x", CENTERNET_CROWDHUMAN, 49_343_781),
        ("C2_LVISCOCO_DR2101_4x", CENTERNET_LVIS_COCO, 96_962_841),
    ],
)
def test_whole_files(name: str, config: CenterNet2Config, num_parameters: int) -> None:
    with torch.device("meta"):
        model = GTR(config) if isinstance(config, GTRConfig) else CenterNet2(config)
    ours = manifest_of(model)
    official = {key: row for key, row in manifest(name).items() if not key.endswith(OF_THE_LOSS)}
    assert ours == official
    assert sum(weight.numel() for weight in model.parameters()) == num_parameters
    assert num_parameters == sum(
        math.prod(row["shape"]) for row in manifest(name).values() if row["kind"] == "parameter"
    )


def test_the_detector_of_people_is_a_part_of_the_tracker() -> None:
    with torch.device("meta"):
        whole, part = manifest_of(GTR(GTR_MOT)), manifest_of(CenterNet2(CENTERNET_MOT))
    assert part == {key: row for key, row in whole.items() if not key.startswith(ASSOCIATION)}
    assert len(whole) - len(part) == 20


# Layer by layer


@torch.inference_mode()
def test_bottom_up(compare: Callable) -> None:
    want = json.loads((DATA / "detector_mot.json").read_text())
    assert list(image().shape) == want["padded_input_shape"]
    levels = detector().backbone.bottom_up.levels(image())
    for (name, official), features in zip(want["bottom_up"].items(), levels, strict=True):
        assert list(features.shape) == official["shape"], name
        compare(figures(features), official["mean_std_absmax_first_last"], **FIGURES, what=name)


@torch.inference_mode()
def test_pyramid(compare: Callable) -> None:
    want = json.loads((DATA / "detector_mot.json").read_text())["pyramid"]
    for (name, official), features in zip(want.items(), detector().backbone(image()), strict=True):
        assert list(features.shape) == official["shape"]
        compare(figures(features), official["mean_std_absmax_first_last"], **FIGURES, what=name)
        kept = stored("detector_mot")[f"pyr_{name}"]
        ours = features[0] if len(kept) == features.shape[1] else features[0, ::PARTIAL]
        compare(ours, kept, **MAPS, what=name)


def test_head_maps(compare: Callable) -> None:
    want = stored("detector_mot")
    for level in range(5):
        compare(detected()[f"reg_{level}"][0], want[f"head_reg_l{level}"], **MAPS, what=f"sides of level {level}")
        compare(detected()[f"agn_{level}"][0], want[f"head_agn_logit_l{level}"], **MAPS, what=f"centres of {level}")


def reversed_root(self: dla.Root, maps: list[Tensor]) -> Tensor:
    return F.relu(self.bn(self.conv(torch.cat(maps[1::-1] + maps[2:], dim=1))))


def late_activation(self: centernet2.Node, maps: list[Tensor]) -> Tensor:
    return F.silu(self.after_combine[1](self.combine(maps)))


def mask_first(predicted: Tensor) -> tuple[Tensor, Tensor]:
    return predicted[:, 9:], predicted[:, :9].sigmoid()


@torch.inference_mode()
@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (dla.Root, "forward", reversed_root),
        (centernet2, "EDGE_EPS", 2e-3),
        (centernet2.Node, "forward", late_activation),
        (deformable, "split_offset", mask_first),
    ],
)
def test_another_network_is_noticed(place: object, name: str, wrong: object) -> None:
    with mock.patch.object(place, name, wrong):
        ours = detector().detect(image())
    want = stored("detector_mot")
    assert np.abs(ours["agn_0"][0].numpy() - want["head_agn_logit_l0"]).max() > 30 * MAPS["atol"]


# Proposals and what is read under them


def official_maps() -> dict[str, np.ndarray]:
    want = stored("detector_mot")
    maps = {f"reg_{level}": want[f"head_reg_l{level}"][None] for level in range(5)}
    return maps | {f"agn_{level}": want[f"head_agn_logit_l{level}"][None] for level in range(5)}


def our_maps() -> dict[str, np.ndarray]:
    return {name: features.numpy() for name, features in detected().items()}


def in_their_order(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two proposals, whose official scores are 2e-7 apart, change places where ours are the other way round."""
    order = np.arange(len(scores))
    if abs(scores[92] - scores[93]) < SCORES["atol"] and abs(boxes[92, 0] - 240) < 1:
        order[[92, 93]] = 93, 92
    return boxes[order], scores[order]


@pytest.mark.parametrize("maps", [official_maps, our_maps])
def test_proposals(compare: Callable, maps: Callable[[], dict[str, np.ndarray]]) -> None:
    want = stored("detector_mot")
    boxes, scores = in_their_order(*proposals(maps(), iou=0.6, keep=128))
    compare(boxes, want["proposal_boxes"], **BOXES, what="boxes")
    compare(scores, want["proposal_scores"], **SCORES, what="scores")
    likely = scores > 0.55
    for kind in ("kept", "out"):  # one stage, and the image was not resized
        compare(boxes[likely], want[f"{kind}_boxes"], **BOXES, what=f"{kind} boxes")
        compare(scores[likely], want[f"{kind}_scores"], **SCORES, what=f"{kind} scores")


def test_other_proposals_are_noticed() -> None:
    want = stored("detector_mot")

    def differ(iou: float = 0.6, keep: int = 128) -> bool:
        boxes, _ = proposals(official_maps(), iou=iou, keep=keep)
        return boxes.shape != want["proposal_boxes"].shape or bool(np.abs(boxes - want["proposal_boxes"]).max() > 1)

    assert not differ()
    assert differ(iou=0.7)
    assert differ(keep=127)
    with mock.patch.object(detections, "STRIDES", (8, 15, 32, 64, 128)):
        assert differ()


@torch.inference_mode()
def test_embeddings(compare: Callable) -> None:
    """End to end: from the image, through our own proposals."""
    with torch.device("meta"):
        head = BoxHead(160, 1024)
    fill(head, "roi_heads.asso_head.")
    boxes, _ = proposals(our_maps(), iou=0.6, keep=128)
    first = torch.from_numpy(boxes[:24].astype(np.float32))
    want = torch.from_numpy(stored("detector_mot")["reid_features_first24"])
    compare(head(pool([detected()["p3"]], first)), want, **MAPS, what="embeddings")
    assert (head(pool([detected()["p3"]], first + 0.5)) - want).abs().max() > 100 * MAPS["atol"]


# Files


@torch.inference_mode()
def test_loading_twice_changes_nothing() -> None:
    model, other = build(SMALL), build(SMALL)
    for weight in other.parameters():
        weight.mul_(1.5)
    x = torch.randn(1, 3, 128, 128)
    for _ in range(2):
        model.load_state_dict(other.state_dict(), strict=True)
        for name, features in model.detect(x).items():
            assert torch.equal(features, other.detect(x)[name])


def test_the_projection_of_a_deep_tree_is_in_the_file_alone() -> None:
    model = build(SMALL)
    names = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {name.rsplit(".", 2)[0] for name in names} == {"backbone.bottom_up.level4.project"}
    model.backbone.bottom_up.level4.project.requires_grad_(False).apply(
        lambda module: nn.init.constant_(module.weight, 7.0) if isinstance(module, nn.Conv2d) else None
    )
    x = torch.randn(1, 3, 128, 128)
    for name, features in build(SMALL).detect(x).items():
        assert torch.equal(features, model.detect(x)[name])


@pytest.mark.parametrize(
    "config", [CENTERNET_MOT, CENTERNET_TAO, CENTERNET_CROWDHUMAN, CENTERNET_LVIS_COCO, SMALL, SMALL_CASCADE]
)
def test_a_configuration_survives_json(config: CenterNet2Config) -> None:
    assert CenterNet2Config(**json.loads(json.dumps(asdict(config)))) == config


def test_impossible_configurations_are_refused() -> None:
    for change, sentence in [
        ({"channels": 40}, "channels: got 40; expected a positive multiple of 32"),
        ({"channels": 0}, "channels: got 0"),
        ({"num_cells": 0}, "num_cells: got 0"),
        ({"num_classes": -1}, "num_classes: got -1"),
        ({"pool_levels": 3}, "pool_levels: got 3; expected 1 to 2"),
        ({"width": 0}, "width: got 0"),
    ]:
        with pytest.raises(GeometryError, match=sentence):
            replace(SMALL, **change)


# As a network to be trained


@torch.inference_mode()
def test_a_fresh_network_expects_little_everywhere() -> None:
    pyramid, maps = build(SMALL)(torch.randn(1, 3, 256, 384))
    assert [tuple(level.shape) for level in pyramid] == [(1, 64, 32 >> i, 48 >> i) for i in range(5)]
    for distances, logits in zip(maps.distances, maps.logits, strict=True):
        assert (distances.mean() - 8).abs() < 0.5
        assert (logits.sigmoid().mean() - 0.01).abs() < 0.003
    heads = build(SMALL_CASCADE).roi_heads
    scores, boxes = heads([pyramid[0]], corners(40), torch.tensor([250.0, 380.0]))
    assert (scores - 0.01).abs().max() < 0.005
    assert (boxes - clip(corners(40), torch.tensor([250.0, 380.0]))).abs().max() < 2


def corners(count: int) -> Tensor:
    """Boxes around and partly outside an image of 250 x 380."""
    rng = np.random.default_rng(0)
    centres, sizes = rng.uniform(0, (380, 250), (count, 2)), np.exp(rng.uniform(2, 6.5, (count, 2)))
    return torch.from_numpy(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype(np.float32))


@pytest.mark.parametrize("config", [SMALL, SMALL_CASCADE])
def test_training_reaches_every_weight(config: CenterNet2Config) -> None:
    torch.manual_seed(0)
    model = build(config).train()
    for name, weight in model.named_parameters():
        if "conv2_offsets" in name:
            nn.init.normal_(weight, std=0.1)  # what starts at zero would look at whole cells only
        elif weight.dim() == 1:
            nn.init.normal_(weight, 0.5, 0.1)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    pyramid, maps = model(torch.randn(2, 3, 128, 256))
    total = sum(level.square().mean() for pair in zip(*maps, strict=True) for level in pair)
    if config.num_classes:
        scores, boxes = model.roi_heads([pyramid[0]], corners(9), torch.tensor([128.0, 256.0]), torch.arange(9) % 2)
        total = total + scores.sum() + boxes.square().mean()
    total.backward()
    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, weight in learnt.items() if weight.grad is None or not weight.grad.any()] == []
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert bool(changed) == isinstance(config.backbone, DLAConfig)  # Res2Net's norms are frozen


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL, SMALL_CASCADE])
def test_a_batch_is_its_images(config: CenterNet2Config) -> None:
    model, images = build(config), torch.randn(2, 3, 128, 256)
    together = model.detect(images)
    for i in range(2):
        for name, features in model.detect(images[i : i + 1]).items():
            torch.testing.assert_close(together[name][i : i + 1], features, atol=1e-4, rtol=0)
    if config.num_classes:
        boxes, size, index = corners(10), torch.tensor([120.0, 250.0]), torch.arange(10) % 2
        scores, refined = model.roi_heads([together["p3"]], boxes, size, index)
        for i in range(2):
            alone = model.classify(together["p3"][i : i + 1], boxes[index == i], size)
            torch.testing.assert_close(scores[index == i], alone["class_scores"], atol=1e-6, rtol=0)
            torch.testing.assert_close(refined[index == i], alone["boxes"], atol=1e-3, rtol=0)


@torch.inference_mode()
def test_with_two_maps_a_box_is_read_from_that_of_its_size() -> None:
    p3, p4 = torch.randn(2, 8, 32, 48), torch.randn(2, 8, 16, 24)
    boxes, index = corners(60), torch.arange(60) % 2
    boxes[0] = torch.tensor([10.0, 20, 234, 244])  # 224 x 224: the smallest of p4
    boxes[1] = torch.tensor([10.0, 20, 233, 244])
    pooled = pool([p3, p4], boxes, index)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    assert 3 < (sides >= 224).sum() < 57
    for i in range(60):
        features, scale = (p4, 1 / 16) if i == 0 or sides[i] > 224 else (p3, 1 / 8)
        torch.testing.assert_close(pooled[i : i + 1], roi_align(features[index[i]][None], boxes[i : i + 1], 7, scale))
    config = replace(SMALL_CASCADE, pool_levels=2)
    model = build(config)
    found = model.detect(torch.randn(1, 3, 256, 384))
    assert set(found) == {"p3", "p4", *(f"{kind}_{level}" for kind in ("reg", "agn") for level in range(5))}
    size = torch.tensor([250.0, 380.0])
    from_both = model.classify(found["p3"], boxes, size, p4=found["p4"])["class_scores"]
    assert not torch.equal(from_both, model.classify(found["p3"], boxes, size)["class_scores"])
    assert model.classify(found["p3"], boxes[:0], size, p4=found["p4"])["boxes"].shape == (0, 4)


@torch.inference_mode()
@pytest.mark.parametrize(("num_classes", "is_shared"), [(1, True), (3, False)])
def test_one_class_and_nothing_share_a_softmax(num_classes: int, is_shared: bool) -> None:
    model = build(replace(SMALL_CASCADE, num_classes=num_classes))
    for predictor in model.roi_heads.box_predictor:
        nn.init.normal_(predictor.cls_score.bias, std=2)
    scores = model.classify(torch.randn(1, 64, 32, 48), corners(9), torch.tensor([250.0, 380.0]))["class_scores"]
    assert scores.shape == (9, num_classes + 1) and scores.min() > 0 and scores.max() < 1
    assert bool(((scores.sum(dim=1) - 1).abs() < 1e-5).all()) == is_shared
    if is_shared:  # it is what training lowers
        logits = torch.randn(9, 2)
        losses = torch.stack([class_loss(row[None], torch.tensor([0])) for row in logits])
        torch.testing.assert_close(losses, -logits.softmax(dim=1)[:, 0].log())


def test_boxes_move_by_their_size_and_stretch_by_its_logarithm() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 60]])
    deltas = torch.tensor([[1.0, -0.5, math.log(2), 0]]) * torch.tensor([10.0, 10, 5, 5])
    torch.testing.assert_close(refine(boxes, deltas, (10, 10, 5, 5)), torch.tensor([[20.0, 0, 60, 40]]))
    (x1, _, x2, _) = refine(boxes, torch.tensor([[0.0, 0, 1e9, 0]]), (10, 10, 5, 5))[0].tolist()
    assert x2 - x1 == pytest.approx(20 * 62.5)
    outside = torch.tensor([[-5.0, -6, 7, 8], [90, 40, 120, 70], [200, 200, 210, 220]])
    inside = torch.tensor([[0.0, 0, 7, 8], [90, 40, 100, 50], [100, 50, 100, 50]])
    assert torch.equal(clip(outside, torch.tensor([50.0, 100.0])), inside)
