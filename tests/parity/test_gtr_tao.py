"""GTR's detector on TAO against the official network: backbone, pyramid, head, proposals, cascade, embeddings.

Weights are filled by the fixtures' rule. Tolerances: maps and embeddings 3e-5, their values reaching 12; figures of
whole maps 2e-5 of themselves and as much again; boxes 0.002 px, reaching 730; scores 2e-6, and sums of 1204 of them
5e-4; places exact.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.geometry.detections import proposals
from sightline.imaging.resize import prepared
from sightline.models import centernet2, res2net
from sightline.models.centernet2 import CENTERNET_LVIS_COCO, CENTERNET_TAO, BoxHead, CenterNet2, CenterNet2Config, pool
from sightline.models.res2net import FPN, Res2NetConfig
from tests.parity.gtr_fill import DATA, fill, manifest, manifest_of, stored

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAPS = {"atol": 3e-5}
FIGURES = {"atol": 2e-5, "rtol": 2e-5}
BOXES = {"atol": 2e-3}
SCORES = {"atol": 2e-6}
SUMS = {"atol": 5e-4}
LEVELS = ("p3", "p4", "p5", "p6", "p7")
PARTIAL = 16  # every 16th channel is stored of the large maps
PLUS = {"centernet_head.bbox_pred.bias": 3.0, ".scale": 1.0}  # the fixture's exceptions to the rule
# What a federated loss weighs classes by: no part of the network, and in new files alone.
OF_THE_LOSS = ("freq_weight", "fed_loss_cls_weights")
ASSOCIATION = ("roi_heads.asso_", "roi_heads.transformer.")


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def detector() -> CenterNet2:
    with torch.device("meta"):
        model = CenterNet2(CENTERNET_TAO)
    return fill(model, plus=PLUS)


def backbone() -> FPN:
    return detector().backbone


@functools.cache
@torch.inference_mode()
def detected() -> dict[str, Tensor]:
    return detector().detect(image())


def image() -> Tensor:
    frame = stored("detector_tao")["image_hwc_rgb"]
    return torch.from_numpy(prepared(frame, frame.shape[:2], MEAN, STD, 32)[0])


def figures(features: Tensor) -> list[float]:
    """Mean, deviation, largest magnitude, first and last value, as they are stored."""
    values = features.double().flatten()
    return [float(value) for value in (values.mean(), values.std(), values.abs().max(), values[0], values[-1])]


def channels_stored(features: Tensor, kept: np.ndarray) -> Tensor:
    return features[0] if len(kept) == features.shape[1] else features[0, ::PARTIAL]


# Keys


@pytest.mark.parametrize(
    ("name", "config"), [("GTR_TAO_DR2101", CENTERNET_TAO), ("C2_LVISCOCO_DR2101_4x", CENTERNET_LVIS_COCO)]
)
def test_keys(name: str, config: CenterNet2Config) -> None:
    with torch.device("meta"):
        ours = manifest_of(CenterNet2(config))
    official = {
        key: row
        for key, row in manifest(name).items()
        if not key.endswith(OF_THE_LOSS) and not key.startswith(ASSOCIATION)
    }
    assert ours == official


# Backbone and pyramid


@torch.inference_mode()
def test_bottom_up(compare: Callable) -> None:
    want = json.loads((DATA / "detector_tao.json").read_text())
    assert list(image().shape) == want["padded_input_shape"]
    for (name, official), features in zip(want["bottom_up"].items(), backbone().bottom_up(image()), strict=True):
        assert list(features.shape) == official["shape"], name
        compare(figures(features), official["mean_std_absmax_first_last"], **FIGURES, what=name)


@torch.inference_mode()
def test_pyramid(compare: Callable) -> None:
    want = json.loads((DATA / "detector_tao.json").read_text())["pyramid"]
    for name, features in zip(LEVELS, backbone()(image()), strict=True):
        assert list(features.shape) == want[name]["shape"]
        compare(figures(features), want[name]["mean_std_absmax_first_last"], **FIGURES, what=name)
        kept = stored("detector_tao")[f"pyr_{name}"]
        compare(channels_stored(features, kept), kept, **MAPS, what=name)


def swapped(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets as x, y instead of y, x."""
    offset, mask = split_offset(predicted)
    return offset.unflatten(1, (-1, 2)).flip(2).flatten(1, 2), mask


split_offset = res2net.split_offset


@torch.inference_mode()
@pytest.mark.parametrize(("name", "wrong"), [("BATCH_NORM_EPS", 1e-3), ("split_offset", swapped)])
def test_another_constant_is_noticed(name: str, wrong: object) -> None:
    with mock.patch.object(res2net, name, wrong):
        p5 = backbone()(image())[2]
    assert np.abs(p5[0].numpy() - stored("detector_tao")["pyr_p5"]).max() > 100 * MAPS["atol"]


@torch.inference_mode()
def test_splits_add_up_but_in_the_first_block_of_a_stage() -> None:
    """Change one split's input: which convolutions notice?"""
    config = Res2NetConfig(blocks=(2, 1, 1, 1), deformable=(False, False, False, False), base_width=2, channels=8)
    first, second = res2net.Res2Net(config).eval().res2
    for block, noticed in ((first, {0}), (second, {0, 1, 2})):
        x = torch.rand(1, block.conv1.in_channels, 8, 8)
        before, after = seen_by_splits(block, x, 0.0), seen_by_splits(block, x, 1.0)
        assert {i for i in range(3) if not torch.equal(before[i], after[i])} == noticed


def seen_by_splits(block: res2net.Block, x: Tensor, more: float) -> list[Tensor]:
    """What each 3 x 3 convolution returns where the first split of the bottleneck is `more` larger."""
    seen = list[Tensor]()
    hooks = [conv.register_forward_hook(lambda _, __, y: seen.append(y)) for conv in block.convs]
    extra = torch.zeros(len(block.conv1.norm.bias))
    extra[: block.width] = more
    with mock.patch.object(block.conv1.norm, "bias", extra):
        block(x)
    for hook in hooks:
        hook.remove()
    return seen


# Head, proposals, cascade


def test_head_maps(compare: Callable) -> None:
    want = stored("detector_tao")
    for level in range(5):
        compare(detected()[f"reg_{level}"][0], want[f"head_reg_l{level}"], **MAPS, what=f"sides of level {level}")
        compare(detected()[f"agn_{level}"][0], want[f"head_agn_logit_l{level}"], **MAPS, what=f"centres of {level}")


def test_proposals(compare: Callable) -> None:
    """From the stored maps and from ours."""
    want = stored("detector_tao")
    official = {f"reg_{level}": want[f"head_reg_l{level}"][None] for level in range(5)}
    official |= {f"agn_{level}": want[f"head_agn_logit_l{level}"][None] for level in range(5)}
    for maps in (official, {name: features.numpy() for name, features in detected().items()}):
        boxes, scores = proposals(maps, iou=0.7, keep=300)
        compare(boxes, want["proposal_boxes"], **BOXES, what="boxes")
        compare(scores, want["proposal_scores"], **SCORES, what="scores")
        compare(boxes[scores > 0.4], want["kept_boxes"], **BOXES, what="kept boxes")
        compare(scores[scores > 0.4], want["kept_scores"], **SCORES, what="kept scores")
    others, _ = proposals(official, iou=0.6, keep=300)
    assert others.shape != want["proposal_boxes"].shape or np.abs(others - want["proposal_boxes"]).max() > 1


def found_here() -> tuple[Tensor, np.ndarray]:
    """Boxes and scores of the proposals that are kept, from the image on: nothing stored comes in between."""
    boxes, scores = proposals({name: features.numpy() for name, features in detected().items()}, iou=0.7, keep=300)
    return torch.from_numpy(boxes[scores > 0.4].astype(np.float32)), scores[scores > 0.4]


@torch.inference_mode()
def test_embeddings(compare: Callable) -> None:
    want = stored("detector_tao")
    with torch.device("meta"):
        head = BoxHead(256, 1024)
    fill(head, "roi_heads.asso_head.")
    first = found_here()[0][:24]
    compare(head(pool([detected()["p3"]], first)), want["reid_features_first24"], **MAPS, what="embeddings")


@torch.inference_mode()
def classified() -> tuple[np.ndarray, np.ndarray]:
    """Class scores as GTR reports them, with the proposals' in them, and the last stage's boxes."""
    boxes, proposed = found_here()
    size = torch.tensor(stored("detector_tao")["image_hwc_rgb"].shape[:2], dtype=torch.float32)
    found = detector().classify(detected()["p3"], boxes, size)
    return np.sqrt(found["class_scores"].numpy().astype(np.float64) * proposed[:, None]), found["boxes"].numpy()


def test_cascade(compare: Callable) -> None:
    want = stored("detector_tao")
    scores, boxes = classified()
    assert list(scores.shape) == json.loads((DATA / "detector_tao.json").read_text())["cls_scores_shape"]
    compare(boxes, want["out_boxes"], **BOXES, what="boxes")
    compare(scores[:, :40], want["cls_scores_first40cols"], **SCORES, what="first 40 classes")
    compare(scores[:, -1], want["cls_scores_lastcol"], **SCORES, what="background")
    compare(scores.sum(axis=1), want["cls_scores_rowsum"], **SUMS, what="sum over all classes")
    compare(scores.argmax(axis=1), want["cls_scores_argmax"], atol=0, what="best class")


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("DELTA_WEIGHTS", ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 10.0, 10.0))),
        ("clip", lambda boxes, size: boxes),
    ],
)
def test_another_cascade_is_noticed(name: str, wrong: object) -> None:
    with mock.patch.object(centernet2, name, wrong):
        _, boxes = classified()
    assert np.abs(boxes - stored("detector_tao")["out_boxes"]).max() > 100 * BOXES["atol"]


# As a network to be trained


def test_a_small_one_learns_all_but_its_norms_and_looks_straight_ahead_first() -> None:
    torch.manual_seed(0)
    config = Res2NetConfig(blocks=(1, 2, 1, 1), base_width=2, channels=8)
    model = FPN(config, channels=8)
    maps = model(torch.rand(2, 3, 96, 160))
    assert [tuple(level.shape) for level in maps] == [
        (2, 8, 12, 20), (2, 8, 6, 10), (2, 8, 3, 5), (2, 8, 2, 3), (2, 8, 1, 2)
    ]  # fmt: skip
    sum(level.square().sum() for level in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        assert ("conv2_offsets" in name or name.endswith("bias")) == (not parameter.any()), name
    assert not any("norm" in name or ".bn" in name for name, _ in model.named_parameters())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()(torch.rand(1, 3, 64, 64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
