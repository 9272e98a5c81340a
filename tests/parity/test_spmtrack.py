"""SPMTrack against the stored tensors of the official implementation: routers, tokens, maps, labels, losses.

B runs here, L in a slow test, and G, whose 1.34 billion weights take about twelve gigabytes, with

    python -m tests.parity.test_spmtrack giant

Tolerances: logits 1e-4 (L and G 5e-4), boxes 1e-5, losses 1e-5 of themselves, indices exact; tokens 3e-5, which
G's forty blocks need; router weights 2e-6, tight enough to tell LayerNorm's eps 1e-6 from torch's 1e-5. What follows
the network (`*_post_*`, the window, the tracked boxes, the crops) is compared in the tracker's test.
"""

from __future__ import annotations

import copy
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import CheckpointError, GeometryError
from sightline.models import spmtrack
from sightline.models.counting import count_gmac
from sightline.models.dinov2 import DINOv2, DINOv2Config
from sightline.models.spmtrack import (
    SPMTRACK_B,
    SPMTRACK_G,
    SPMTRACK_L,
    SPMTRACK_TINY,
    Prediction,
    SPMTrack,
    SPMTrackConfig,
    cell_centres,
    fused,
    init_from_dinov2,
    is_trained,
    trainable_parameters,
)
from sightline.models.vit import resize_pos_embed
from sightline.training.losses import plain_iou, side_losses, touched_cells
from tests.parity.fill import image_input, parameter, unit

DATA = Path(__file__).parent / "data" / "spmtrack"
MANIFEST = json.loads((DATA / "manifest.json").read_text())
VARIANTS = {"b": SPMTRACK_B, "l": SPMTRACK_L, "g": SPMTRACK_G}
TOKENS = {"atol": 3e-5}
SHARES = {"atol": 2e-6}
BOXES = {"atol": 1e-5}
LATER = ("post_", "hann_window")  # what the tracker's test compares


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def filled(config: SPMTrackConfig) -> SPMTrack:
    """The network with the weights of the filling rule, one tensor at a time: no more memory than the weights."""
    with torch.device("meta"):
        model = SPMTrack(config)
    state = {
        key: torch.from_numpy(parameter(key, tuple(tensor.shape)).astype(np.float32))
        for key, tensor in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


def template(index: int) -> tuple[Tensor, Tensor]:
    x0, y0, x1, y1 = [(4, 4, 10, 10), (3, 5, 11, 9), (5, 3, 9, 12)][index]
    foreground = torch.zeros(1, 14, 14)
    foreground[:, y0:y1, x0:x1] = 1
    return image_input(f"spm_z{index}", 196), foreground.flatten(1)


def templates(*indices: int) -> tuple[Tensor, Tensor]:
    """(1, M, 3, 196, 196) and (1, M, 196)."""
    images, foregrounds = zip(*(template(index) for index in indices), strict=True)
    return torch.stack(images, dim=1), torch.stack(foregrounds, dim=1)


def search(index: int) -> Tensor:
    return image_input(f"spm_x{index}", 378)


@dataclass
class Seen:
    """What one forward pass computed on the way, each list in the order of the network."""

    blocks: list[Tensor] = field(default_factory=list)
    shares: list[Tensor] = field(default_factory=list)  # (N, 4), by linear layer
    norm: list[Tensor] = field(default_factory=list)

    def layer_names(self, config: SPMTrackConfig) -> list[str]:
        feed_forward = ("fc1", "fc2") if config.backbone.ffn == "mlp" else ("w12", "w3")
        layers = ("attn_qkv_q", "attn_qkv_k", "attn_qkv_v", "attn_proj", *(f"mlp_{name}" for name in feed_forward))
        return [f"block{block}_{layer}" for block in range(config.backbone.depth) for layer in layers]


@torch.inference_mode()
def run(model: SPMTrack, *inputs: Tensor) -> tuple[tuple[Prediction, ...], Seen]:
    """`forward`, watched."""
    seen, route = Seen(), spmtrack.router_weights

    def watched(logits: Tensor) -> Tensor:
        share = route(logits)
        seen.shares += share[0].unbind(1)
        return share

    hooks = [block.register_forward_hook(lambda _, __, tokens: seen.blocks.append(tokens[0])) for block in model.blocks]
    hooks.append(model.norm.register_forward_hook(lambda _, __, tokens: seen.norm.append(tokens[0])))
    with mock.patch.object(spmtrack, "router_weights", watched):
        predictions = model(*inputs)
    for hook in hooks:
        hook.remove()
    return predictions, seen


def close(ours, stored, *, atol: float, rtol: float = 0.0, what: str = "") -> None:
    """`compare` for negative controls, which do not count as compared tensors."""
    np.testing.assert_allclose(ours, stored, atol=atol, rtol=rtol, err_msg=what)


def check_layers(compare: Callable, config: SPMTrackConfig, seen: Seen, name: str, num_frames: int) -> set[str]:
    """Block outputs and router weights against whatever is stored of them; returns the names."""
    want, done = stored(name), set[str]()

    def check(key: str, ours: Tensor, tolerance: dict[str, float]) -> None:
        if key in want:
            compare(ours, want[key], **tolerance, what=key)
            done.add(key)

    layers = seen.layer_names(config)
    for frame in range(num_frames):
        for layer, share in zip(layers, seen.shares[frame * len(layers) :], strict=False):
            check(f"frame{frame}_route_{layer}_tmoe_mean", share.mean(dim=0), SHARES)
            check(f"frame{frame}_route_{layer}_tmoe_tok_stride64", share[::64], SHARES)
        for block, tokens in enumerate(seen.blocks[frame * config.backbone.depth :][: config.backbone.depth]):
            check(f"frame{frame}_block{block}_out_tokens_stride32_ch_stride32", tokens[::32, ::32], TOKENS)
    return done


def check_prediction(compare: Callable, prediction: Prediction, want: dict[str, Tensor], logits_atol: float) -> None:
    """`want`: the stored tensors of one frame, by the word in their names."""
    compare(prediction.logit_map[:, 0], want["logits"], atol=logits_atol, what="logits")
    compare(prediction.box_map.permute(0, 2, 3, 1), want["boxes"], **BOXES, what="boxes")
    compare(prediction.query[0], want["query"], **TOKENS, what="query")


def run_two_frames(model: SPMTrack) -> tuple[tuple[Prediction, ...], Seen]:
    return run(model, *templates(0, 1, 2), torch.stack([search(0), search(1)], dim=1))


def check_two_frames(
    compare: Callable, config: SPMTrackConfig, name: str, predictions: tuple[Prediction, ...], seen: Seen
) -> set[str]:
    """The training forward on two search regions against everything stored of it."""
    want = stored(name)
    done = check_layers(compare, config, seen, name, num_frames=2)
    for frame, prediction in enumerate(predictions):
        keys = {
            "logits": f"frame{frame}_score_map_logits",
            "boxes": f"frame{frame}_boxes_xyxy_norm",
            "query": f"frame{frame}_track_query_out",
        }
        logits_atol = 1e-4 if name == "spmtrack_b" else 5e-4
        check_prediction(compare, prediction, {word: want[key] for word, key in keys.items()}, logits_atol)
        tokens = f"frame{frame}_norm_tokens_stride32_ch_stride32"
        compare(seen.norm[frame][::32, ::32], want[tokens], **TOKENS, what=tokens)
        done |= {*keys.values(), tokens}
    return done


def check_tracking(compare: Callable, model: SPMTrack) -> set[str]:
    """Three single frames as a tracker asks for them: `encode` once per template, the query handed on."""
    want, done, query = stored("spmtrack_b"), set[str](), torch.zeros(1, 768)
    encoded = [model.encode(*template(index))["template_tokens"] for index in range(3)]
    for call, (memory, region) in enumerate([((0, 0, 0), 0), ((0, 1, 1), 1), ((0, 1, 2), 0)]):
        tokens = torch.stack([encoded[index] for index in memory], dim=1)
        prediction = model.predict(search(region), tokens, query)
        keys = {
            "logits": f"tracking_call{call}_score_map_logits",
            "boxes": f"tracking_call{call}_boxes",
            "query": f"tracking_call{call}_track_query",
        }
        check_prediction(compare, prediction, {word: want[key] for word, key in keys.items()}, 1e-4)
        query = prediction.query
        done |= set(keys.values())
    return done


# The stored tensors


@pytest.fixture(scope="module")
def base() -> SPMTrack:
    return filled(SPMTRACK_B)


@pytest.fixture(scope="module")
def two_frames(base: SPMTrack) -> tuple[tuple[Prediction, ...], Seen]:
    return run_two_frames(base)


def test_two_frames_of_b(two_frames: tuple[tuple[Prediction, ...], Seen], compare: Callable) -> None:
    done = check_two_frames(compare, SPMTRACK_B, "spmtrack_b", *two_frames)
    assert done == {key for key in stored("spmtrack_b") if not any(word in key for word in ("tracking_", *LATER))}


@torch.inference_mode()
def test_three_tracked_frames_of_b_by_the_fused_copy(base: SPMTrack, compare: Callable) -> None:
    done = check_tracking(compare, fused(base))
    assert done == {key for key in stored("spmtrack_b") if key.startswith("tracking_")}


@pytest.mark.slow
@torch.inference_mode()
def test_two_frames_of_l(compare: Callable) -> None:
    done = check_two_frames(compare, SPMTRACK_L, "spmtrack_l", *run_two_frames(filled(SPMTRACK_L)))
    assert done == {key for key in stored("spmtrack_l") if not any(word in key for word in LATER)}


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_is_the_official_one(name: str) -> None:
    official = MANIFEST[f"spmtrack_{name}_378"]
    with torch.device("meta"):
        model, backbone = SPMTrack(VARIANTS[name]), DINOv2(VARIANTS[name].backbone)
    entries = [
        [
            key,
            list(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            "checkpoint" if is_trained(key) else "backbone",
        ]
        for key, tensor in model.state_dict().items()
    ]
    assert entries == official["state_dict"]
    assert [[k, list(v.shape)] for k, v in backbone.state_dict().items()] == official["dinov2_pretrained_file_keys"]


@pytest.mark.parametrize(
    ("name", "total", "trained", "released_tensors"),
    [
        ("b", 115_330_565, 29_243_909, 447),
        ("l", 379_582_469, 75_872_261, 879),
        ("g", 1_339_511_813, 204_018_693, 1455),
    ],
)
def test_parameters(name: str, total: int, trained: int, released_tensors: int) -> None:
    with torch.device("meta"):
        model = SPMTrack(VARIANTS[name])
    weights = dict(model.named_parameters())
    assert sum(weight.numel() for weight in weights.values()) == total == MANIFEST[f"spmtrack_{name}_378"]["num_params"]
    assert sum(weight.numel() for weight in trainable_parameters(model).values()) == trained
    assert trained == MANIFEST[f"spmtrack_{name}_378"]["num_trainable"]
    assert len(trainable_parameters(model)) == released_tensors
    assert trainable_parameters(model).keys() == {key for key, weight in weights.items() if weight.requires_grad}


# Negative controls: one thing changed, and the comparisons above must fail. The first block shows most of them.


def one_block(config: SPMTrackConfig) -> SPMTrack:
    """The filling rule goes by name, so the first block of one is the first block of forty."""
    return filled(replace(config, backbone=replace(config.backbone, depth=1)))


@pytest.fixture(scope="module")
def first_block() -> SPMTrack:
    return one_block(SPMTRACK_B)


def check_first_block(compare: Callable, model: SPMTrack, name: str = "spmtrack_b") -> None:
    _, seen = run(model, *templates(0, 1, 2), search(0)[:, None])
    done = check_layers(compare, model.config, seen, name, num_frames=1)
    assert len(done) == 1 + 2 * 6


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_block_by_itself(name: str, compare: Callable) -> None:
    check_first_block(compare, one_block(VARIANTS[name]), f"spmtrack_{name}")


def central_positions(model: SPMTrack) -> None:
    encode = model.encode

    def moved(template: Tensor, foreground: Tensor) -> dict[str, Tensor]:
        positions = model.pos_embed.unflatten(1, (27, 27))
        away = (positions[:, 6:20, 6:20] - positions[:, :14, :14]).flatten(1, 2)
        return {"template_tokens": encode(template, foreground)["template_tokens"] + away}

    model.encode = moved


def types_exchanged(model: SPMTrack) -> None:
    model.token_type_embed = nn.Parameter(model.token_type_embed[[1, 0, 2]])


def no_query_embed(model: SPMTrack) -> None:
    model.query_embed = nn.Parameter(torch.zeros(1, 768))


def torchs_eps(model: SPMTrack) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def fewer_heads(model: SPMTrack) -> None:
    model.blocks[0].attn.heads = 6


def no_layer_scale(model: SPMTrack) -> None:
    model.blocks[0].ls2 = nn.Identity()


def experts_of_another_layer(model: SPMTrack) -> None:
    attention = model.blocks[0].attn
    attention.proj.tmoe, attention.qkv.v.tmoe = attention.qkv.v.tmoe, attention.proj.tmoe


def experts_in_another_order(model: SPMTrack) -> None:
    experts = model.blocks[0].mlp.fc2.tmoe
    experts.routed_experts = nn.ParameterList(reversed(list(experts.routed_experts)))


CHANGES = [
    central_positions,
    types_exchanged,
    no_query_embed,
    torchs_eps,
    fewer_heads,
    no_layer_scale,
    experts_of_another_layer,
    experts_in_another_order,
]


@pytest.mark.parametrize("change", CHANGES)
@torch.inference_mode()
def test_a_changed_network_fails(change: Callable, first_block: SPMTrack) -> None:
    model = copy.deepcopy(first_block)
    change(model)
    with pytest.raises(AssertionError, match="frame0_"):
        check_first_block(close, model)


@pytest.mark.parametrize("temperature", [0.99, 1.01])
def test_another_temperature_of_the_router_fails(temperature: float, first_block: SPMTrack) -> None:
    def tempered(logits: Tensor) -> Tensor:
        return (logits / temperature).softmax(dim=-1)

    with (
        mock.patch.object(spmtrack, "router_weights", tempered),
        pytest.raises(AssertionError, match="frame0_route_block0_attn_qkv_q"),
    ):
        check_first_block(close, first_block)


def test_another_gelu_fails(first_block: SPMTrack) -> None:
    with (
        mock.patch.object(F, "gelu", functools.partial(F.gelu, approximate="tanh")),
        pytest.raises(AssertionError, match="frame0_route_block0_mlp_fc2"),
    ):
        check_first_block(close, first_block)


@torch.inference_mode()
def test_the_second_frame_takes_the_query_of_the_first(first_block: SPMTrack, compare: Callable) -> None:
    """With the stored query of the first frame, the first block of the second is the stored one; with none, not."""
    want, blocks = stored("spmtrack_b"), []
    images, foregrounds = templates(0, 1, 2)
    tokens = first_block.encode(images[0], foregrounds[0])["template_tokens"][None]
    hook = first_block.blocks[0].register_forward_hook(lambda _, __, tokens: blocks.append(tokens[0, ::32, ::32]))
    for query in (torch.from_numpy(want["frame0_track_query_out"])[None], torch.zeros(1, 768)):
        first_block.predict(search(1), tokens, query)
    hook.remove()
    compare(blocks[0], want["frame1_block0_out_tokens_stride32_ch_stride32"], **TOKENS)
    with pytest.raises(AssertionError):
        close(blocks[1], want["frame1_block0_out_tokens_stride32_ch_stride32"], **TOKENS)


@torch.inference_mode()
def test_a_changed_reading_of_the_tokens_fails(two_frames: tuple, base: SPMTrack) -> None:
    _, seen = two_frames
    tokens, want = seen.norm[0][None], stored("spmtrack_b")
    stored_logits, stored_boxes = want["frame0_score_map_logits"], want["frame0_boxes_xyxy_norm"]

    def check(tokens: Tensor) -> None:
        prediction = base.locate(tokens)
        close(prediction.logit_map[:, 0], stored_logits, atol=1e-4, what="logits")
        close(prediction.box_map.permute(0, 2, 3, 1), stored_boxes, **BOXES, what="boxes")

    check(tokens)
    scaled = tokens.clone()
    scaled[:, 0] *= 768**-0.5  # the product of query and tokens, as an attention has it
    with pytest.raises(AssertionError, match="logits"):
        check(scaled)
    corners = cell_centres(27) - 0.5 / 27
    with (
        mock.patch.object(spmtrack, "cell_centres", return_value=corners),
        pytest.raises(AssertionError, match="boxes"),
    ):
        check(tokens)


# Positions, labels, losses


def pretrained_positions() -> Tensor:
    return torch.from_numpy(0.5 * unit("dinov2_pos_embed_37x37", (1, 1369, 768))).float()


def test_resized_position_embeddings(compare: Callable) -> None:
    official = stored("common_ops")["pos_embed_37_to_27_ch_stride64"]
    resized = resize_pos_embed(pretrained_positions(), 27)[0, :, ::64]
    compare(resized, official, atol=1e-5)
    square = pretrained_positions().transpose(1, 2).unflatten(2, (37, 37))
    scaled = F.interpolate(square, scale_factor=27.1 / 37, mode="bicubic")  # DINOv2's own way, with its offset of 0.1
    with pytest.raises(AssertionError):
        close(scaled.flatten(2).transpose(1, 2)[0, :, ::64], official, atol=1e-5)


def test_cell_centres(compare: Callable) -> None:
    official = stored("common_ops")["ref_points_27"]
    compare(cell_centres(27).unflatten(0, (27, 27)), official, atol=1e-7)
    with pytest.raises(AssertionError):
        close(cell_centres(27).unflatten(0, (27, 27)).transpose(0, 1), official, atol=1e-7)


def true_boxes() -> Tensor:
    return torch.from_numpy(stored("common_ops")["label_gt_xyxy_pixels"] / 378).float()


def test_labels(compare: Callable) -> None:
    official = [stored("common_ops")[f"label{i}_positive_indices"] for i in range(3)]
    for i, cells in enumerate(touched_cells(true_boxes(), 27).flatten(1)):
        compare(np.flatnonzero(cells), official[i], atol=0, what=f"label {i}")
    rounded = touched_cells((true_boxes() * 27).round() / 27 + 1e-6, 27).flatten(1)
    assert not np.array_equal(np.flatnonzero(rounded[0]), official[0])


def loss_inputs() -> tuple[Tensor, Tensor]:
    logits = torch.from_numpy(2 * unit("spm_loss_score", (3, 27, 27))).float()
    sides = torch.sigmoid(torch.from_numpy(unit("spm_loss_box", (3, 27, 27, 4)) - 2)).float()
    cells = cell_centres(27).unflatten(0, (27, 27))
    boxes = torch.cat([cells - sides[..., :2], cells + sides[..., 2:]], dim=-1)
    return logits[:, None], boxes.permute(0, 3, 1, 2)


def test_losses(compare: Callable) -> None:
    official = stored("common_ops")
    losses = side_losses(*loss_inputs(), true_boxes())
    compare(losses.total, official["loss_total"], atol=0, rtol=1e-5)
    compare(torch.stack([losses.score, losses.giou]), official["loss_bce_iou"], atol=0, rtol=1e-5)
    with (
        mock.patch("sightline.training.losses.plain_iou", lambda a, b: torch.ones(len(a))),  # plain cross entropy
        pytest.raises(AssertionError),
    ):
        close(side_losses(*loss_inputs(), true_boxes()).total, official["loss_total"], atol=0, rtol=1e-5)


def test_losses_are_divided_by_what_a_step_of_several_processes_says() -> None:
    logits, boxes = loss_inputs()
    whole = side_losses(logits, boxes, true_boxes())
    num_positive = touched_cells(true_boxes(), 27).sum() / 3
    parts = [
        side_losses(logits[i : i + 1], boxes[i : i + 1], true_boxes()[i : i + 1], num_positive=num_positive)
        for i in range(3)
    ]
    for name in ("total", "score", "giou"):
        assert np.mean([getattr(part, name) for part in parts]) == pytest.approx(getattr(whole, name).item(), rel=1e-5)
    heavier = side_losses(logits, boxes, true_boxes(), giou_weight=10)
    assert heavier.total.item() == pytest.approx((whole.score + 10 * whole.giou).item())


def test_only_positive_boxes_learn_and_the_target_is_a_constant() -> None:
    logits, boxes = loss_inputs()
    logits.requires_grad_(), boxes.requires_grad_()
    losses = side_losses(logits, boxes, true_boxes())
    losses.score.backward(retain_graph=True)
    assert boxes.grad is None
    losses.giou.backward()
    moved = boxes.grad.abs().sum(dim=1) > 0
    assert not (moved & ~touched_cells(true_boxes(), 27)).any()
    assert moved.any()


def test_a_target_outside_the_crop_has_no_positive_and_a_finite_loss() -> None:
    logits, boxes = loss_inputs()
    outside = torch.tensor([[-0.3, 0.2, -0.1, 0.4]])
    assert not touched_cells(outside, 27).any()
    losses = side_losses(logits[:1], boxes[:1], outside)
    assert losses.giou == 0
    assert losses.score.item() == pytest.approx(F.softplus(logits[0]).sum().item(), rel=1e-5)


def test_plain_iou() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 1.0]])
    for other, expected in [([0, 0, 2, 1], 1.0), ([1, 0, 3, 1], 1 / 3), ([2, 0, 3, 1], 0.0), ([5, 5, 6, 6], 0.0)]:
        assert plain_iou(box, torch.tensor([other]).float()).item() == pytest.approx(expected)


# The network's choices, on a few thousand weights

SMALL = SPMTrackConfig(
    DINOv2Config(width=24, depth=2, heads=3, image_px=70), template_px=28, search_px=56, rank=4, num_experts=3
)
GIANT = replace(SMALL, backbone=replace(SMALL.backbone, ffn="swiglu"))
PER_EXPERT = replace(SMALL, compression="per_expert")


def build(config: SPMTrackConfig) -> SPMTrack:
    torch.manual_seed(0)
    return SPMTrack(config).eval()


def small_inputs(targets: int = 2, num_templates: int = 3, frames: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(targets, num_templates, 3, 28, 28, generator=random),
        (torch.rand(targets, num_templates, 4, generator=random) > 0.5).float(),
        torch.randn(targets, frames, 3, 56, 56, generator=random),
    )


def flat(predictions: tuple[Prediction, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for prediction in predictions for tensor in prediction])


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL, GIANT, PER_EXPERT], ids=["mlp", "swiglu", "per-expert"])
def test_experts_by_the_sum_that_defines_them(config: SPMTrackConfig) -> None:
    """Spec: frozen(x) + sum over e of softmax(W_r x)_e B_e A_e x, one expert at a time and token by token."""
    for layer, width in [
        (build(config).blocks[1].attn.proj, 24),
        (list(build(config).blocks[1].mlp.children())[1], None),
    ]:
        tokens = torch.randn(2, 5, width or layer.linear.in_features)
        experts, expected = layer.tmoe, layer.linear(tokens)
        share = experts.expert_route(tokens).softmax(dim=-1)
        compress = experts.compress_matrices()
        for e, routed in enumerate(experts.routed_experts):
            expected = expected + share[..., e : e + 1] * (tokens @ compress[e % len(compress)].T @ routed.T)
        torch.testing.assert_close(layer(tokens), expected, atol=1e-6, rtol=1e-5)
        assert (expected - layer.linear(tokens)).abs().max() > 1e-4
    assert len(compress) == (3 if config.compression == "per_expert" else 1)


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL, GIANT, PER_EXPERT], ids=["mlp", "swiglu", "per-expert"])
def test_the_fused_copy_has_the_same_numbers_and_shares_nothing(config: SPMTrackConfig) -> None:
    model = build(config)
    for weight in model.parameters():
        weight += 0.1 * torch.randn_like(weight)
    expected, before = model(*small_inputs()), {key: tensor.clone() for key, tensor in model.state_dict().items()}
    copied = fused(model)
    torch.testing.assert_close(flat(copied(*small_inputs())), flat(expected), atol=1e-5, rtol=1e-5)
    for weight in copied.parameters():
        weight.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        copied.load_state_dict(before)


@torch.inference_mode()
def test_one_compress_matrix_per_expert_is_the_shared_one_when_they_are_equal() -> None:
    shared, per_expert = build(SMALL), build(PER_EXPERT)
    for key, tensor in per_expert.state_dict().items():
        head, _, expert = key.partition("compress_experts")
        tensor.copy_(shared.state_dict()[f"{head}compress_expert" if expert else key])
    torch.testing.assert_close(flat(per_expert(*small_inputs())), flat(shared(*small_inputs())), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_loading_twice_changes_nothing() -> None:
    model, other = build(SMALL), build(replace(SMALL))
    for weight in other.parameters():
        weight.mul_(1.5)
    state = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    model.load_state_dict(state, strict=True)
    once = flat(model(*small_inputs()))
    model.load_state_dict(state, strict=True)
    assert torch.equal(flat(model(*small_inputs())), once)
    assert list(model.state_dict()) == list(state)
    assert torch.equal(once, flat(other(*small_inputs())))


@torch.inference_mode()
@pytest.mark.parametrize("num_templates", [1, 2, 3, 5])
def test_any_number_of_templates(num_templates: int) -> None:
    model = build(SMALL)
    inputs = small_inputs(num_templates=num_templates)
    for prediction in model(*inputs):
        assert [tuple(tensor.shape) for tensor in prediction] == [(2, 1, 4, 4), (2, 4, 4, 4), (2, 24)]
    for i in range(2):  # a batch is its samples
        alone = model(*(tensor[i : i + 1] for tensor in inputs))
        for together, single in zip(model(*inputs), alone, strict=True):
            for batch, one in zip(together, single, strict=True):
                torch.testing.assert_close(batch[i : i + 1], one, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_tracking_frame_by_frame_is_the_training_forward() -> None:
    model, (images, foregrounds, searches) = build(SMALL), small_inputs()
    tokens = torch.stack([model.encode(images[:, m], foregrounds[:, m])["template_tokens"] for m in range(3)], dim=1)
    query = torch.zeros(2, 24)
    for k, prediction in enumerate(model(images, foregrounds, searches)):
        maps = model.track(searches[:, k], tokens, query)
        assert maps._fields == ("score_map", "box_map", "query")
        torch.testing.assert_close(maps.score_map, prediction.logit_map.sigmoid())
        torch.testing.assert_close(maps.box_map, prediction.box_map)
        query = maps.query


def test_training_reaches_what_is_trained_and_no_frame_before() -> None:
    model, (images, foregrounds, searches) = build(SMALL).train(), small_inputs()
    searches.requires_grad_()
    _, second = model(images, foregrounds, searches)
    flat((second,)).sum().backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert reached == trainable_parameters(model).keys()
    assert all(trainable_parameters(model)[name].grad.any() for name in reached if "expert_route" not in name)
    assert searches.grad[:, 1].any()
    assert not searches.grad[:, 0].any()


def test_drop_path_is_the_same_in_every_block() -> None:
    rates = {name: config.drop_path for name, config in VARIANTS.items()}
    assert rates == {"b": 0.0, "l": 0.1, "g": 0.4}
    model = build(replace(SMALL, drop_path=0.4))
    assert [block.drop_path.rate for block in model.blocks] == [0.4, 0.4]
    assert torch.equal(flat(model(*small_inputs())), flat(model(*small_inputs())))
    assert not torch.equal(flat(model.train()(*small_inputs())), flat(model(*small_inputs())))


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = SPMTrack(replace(SMALL, backbone=DINOv2Config(width=192, depth=1, heads=3, image_px=70), rank=16))
    for name, weight in trainable_parameters(model).items():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "expert_route" not in name:  # as any linear layer
            assert 0.015 < weight.std() < 0.025, name
            assert weight.abs().max() <= 2, name


def test_impossible_configurations_are_refused() -> None:
    for change, sentence in [
        ({"template_px": 30}, "template_px: got 30"),
        ({"search_px": 0}, "search_px: got 0"),
        ({"template_px": 70}, "template_px: got 70; expected at most search_px, 56"),
        ({"rank": 0}, "rank: got 0"),
        ({"num_templates": 0}, "num_templates: got 0"),
        ({"compression": "none"}, "compression: got 'none'"),
        ({"drop_path": 1.0}, "drop_path: got 1.0"),
    ]:
        with pytest.raises(GeometryError, match=sentence):
            replace(SMALL, **change)
    for change, sentence in [({"heads": 5}, "heads: got 5"), ({"image_px": 75}, "image_px"), ({"ffn": "relu"}, "ffn")]:
        with pytest.raises(GeometryError, match=sentence):
            replace(SMALL.backbone, **change)


@pytest.mark.parametrize("config", [SPMTRACK_B, SPMTRACK_G, PER_EXPERT, SPMTRACK_TINY])
def test_a_configuration_survives_json(config: SPMTrackConfig) -> None:
    assert SPMTrackConfig(**json.loads(json.dumps(asdict(config)))) == config


# DINOv2 files


@torch.inference_mode()
@pytest.mark.parametrize("config", [SMALL, GIANT], ids=["mlp", "swiglu"])
def test_without_experts_it_is_dinov2(config: SPMTrackConfig) -> None:
    """A backbone of the search region's own size, experts silenced: one sequence of patches, the same tokens."""
    torch.manual_seed(0)
    backbone = DINOv2(replace(config.backbone, image_px=56)).eval()
    model = build(config)
    before = {name: weight.clone() for name, weight in trainable_parameters(model).items()}
    init_from_dinov2(model, backbone.state_dict())
    assert all(torch.equal(weight, before[name]) for name, weight in trainable_parameters(model).items())
    for name, weight in trainable_parameters(model).items():
        if ".tmoe." in name:
            weight.zero_()
    image = torch.randn(1, 3, 56, 56)
    tokens = torch.cat(
        [backbone.cls_token + backbone.pos_embed[:, :1], model.patch_embed(image) + model.pos_embed], dim=1
    )
    for block in model.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(model.norm(tokens), backbone(image), atol=1e-5, rtol=1e-5)


def test_positions_of_a_file_are_resized() -> None:
    model, backbone = build(SMALL), DINOv2(SMALL.backbone)
    init_from_dinov2(model, backbone.state_dict())
    assert backbone.pos_embed.shape == (1, 26, 24)
    torch.testing.assert_close(model.pos_embed, resize_pos_embed(backbone.pos_embed[:, 1:], 4))


def test_a_dinov2_file_that_does_not_fit_is_explained_and_changes_nothing() -> None:
    model, state = build(SMALL), DINOv2(SMALL.backbone).state_dict()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    short = {key: tensor for key, tensor in state.items() if key != "blocks.1.attn.qkv.bias"}
    with pytest.raises(
        CheckpointError, match=r"3 of 41 frozen tensors, first blocks\.1\.attn\.qkv\.q\.linear\.bias: got n"
    ):
        init_from_dinov2(model, short)
    with pytest.raises(CheckpointError, match=r"mlp\.fc1\.linear\.weight: got nothing; expected \(96, 24\)"):
        init_from_dinov2(model, DINOv2(GIANT.backbone).state_dict())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


# Cost


@pytest.mark.parametrize(
    ("config", "every_product", "official"),
    [(SPMTRACK_B, 181.70, 149.68), (SPMTRACK_L, 581.71, 496.33), (SPMTRACK_G, 1970.55, 1757.09)],
    ids=VARIANTS,
)
def test_gmac(config: SPMTrackConfig, every_product: float, official: float) -> None:
    """The official figure for B, 149.7, leaves the two products inside attention out."""
    with torch.device("meta"):
        model = SPMTrack(config).eval()
        inputs = torch.zeros(1, 3, 3, 196, 196), torch.zeros(1, 3, 196), torch.zeros(1, 1, 3, 378, 378)
    assert count_gmac(model, *inputs) == pytest.approx(every_product, abs=0.01)
    assert count_gmac(model, *inputs, attention=False) == pytest.approx(official, abs=0.01)
    if config is SPMTRACK_B:
        without = replace(config, rank=63)
        with torch.device("meta"):
            assert count_gmac(SPMTrack(without).eval(), *inputs, attention=False) < official - 0.1


# The command


def giant() -> None:
    """G against every stored tensor, and what it took."""
    counted, worst = [0], {}

    def compare(ours, stored, *, atol: float, rtol: float = 0.0, what: str = "") -> None:
        close(ours, stored, atol=atol, rtol=rtol, what=what)
        counted[0] += 1
        kind = next((word for word in ("route", "tokens", "logits", "boxes", "query") if word in what), what)
        worst[kind] = max(worst.get(kind, 0.0), float(np.abs(np.asarray(ours) - np.asarray(stored)).max()))

    start = time.perf_counter()
    model = filled(SPMTRACK_G)
    print(
        f"filled {sum(weight.numel() for weight in model.parameters()):,} weights: {time.perf_counter() - start:.0f} s"
    )
    start = time.perf_counter()
    done = check_two_frames(compare, SPMTRACK_G, "spmtrack_g", *run_two_frames(model))
    assert done == {key for key in stored("spmtrack_g") if not any(word in key for word in LATER)}
    print(f"two frames, {torch.get_num_threads()} threads: {time.perf_counter() - start:.0f} s")
    print(f"{counted[0]} tensors agree; largest differences: {', '.join(f'{k} {v:.1e}' for k, v in worst.items())}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    if sys.argv[1:] != ["giant"]:
        sys.exit("usage: python -m tests.parity.test_spmtrack giant")
    giant()
