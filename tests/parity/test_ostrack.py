"""OSTrack against every stored tensor of the official implementation, layer by layer and end to end.

Tolerances: maps and boxes 1e-5; tokens 1.5e-5, tight enough to tell LayerNorm's eps 1e-6 from torch's 1e-5;
elimination scores 1e-5 of the largest. Elimination sets are exact; the order of kept tokens counts wherever two scores
differ by more than 1e-5 of themselves.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.geometry.codecs import decode_centre
from sightline.geometry.masks import template_token_mask
from sightline.geometry.windows import hann
from sightline.models.blocks import Maps
from sightline.models.ostrack import (
    OSTRACK_256,
    OSTRACK_256_CE,
    OSTRACK_384,
    OSTRACK_384_CE,
    Features,
    OSTrack,
    OSTrackConfig,
)
from sightline.models.vit import resize_pos_embed
from tests.parity.fill import image_input, parameter, unit

TOKENS_ATOL = 1.5e-5
DATA = Path(__file__).parent / "data" / "ostrack"
MANIFEST = json.loads((DATA / "manifest.json").read_text())
VARIANTS = {
    "ostrack_256": OSTRACK_256,
    "ostrack_256_ce": OSTRACK_256_CE,
    "ostrack_384": OSTRACK_384,
    "ostrack_384_ce": OSTRACK_384_CE,
}
ELIMINATING = [name for name, config in VARIANTS.items() if config.ce_layers]


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@functools.cache
def weights(key: str, shape: tuple[int, ...]) -> Tensor:
    """One filled tensor; the cache lets all variants share their weights."""
    return torch.from_numpy(np.asarray(parameter(key, shape), np.int64 if key.endswith("tracked") else np.float32))


@pytest.fixture(scope="module", autouse=True)
def free_weights() -> Iterator[None]:
    yield
    weights.cache_clear()


def build(config: OSTrackConfig) -> OSTrack:
    with torch.device("meta"):
        model = OSTrack(config)
    state = {key: weights(key, tuple(tensor.shape)) for key, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model.eval()


def images(config: OSTrackConfig, suffix: str = "") -> tuple[Tensor, Tensor]:
    return tuple(
        image_input(f"{name}_{side_px}{suffix}", side_px)
        for name, side_px in (("template", config.template_px), ("search", config.search_px))
    )


@functools.cache
def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


@dataclass
class Run:
    """One forward pass and what was seen on the way."""

    maps: Maps
    features: Features
    patches: dict[int, Tensor]  # by number of tokens
    blocks: list[Tensor]


def run(model: OSTrack, template: Tensor, search: Tensor, **options) -> Run:
    """A forward pass with hooks; a block's output is what the next norm reads."""
    patches, blocks, features, backbone = {}, [], [], model.backbone
    norms = [*(block.norm1 for block in backbone.blocks[1:]), backbone.norm]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: blocks.append(inputs[0])) for norm in norms]
    hooks.append(
        backbone.patch_embed.register_forward_hook(lambda _, __, tokens: patches.update({tokens.shape[1]: tokens}))
    )
    hooks.append(backbone.register_forward_hook(lambda _, __, result: features.append(result)))
    maps = model(template, search, **options)
    for hook in hooks:
        hook.remove()
    return Run(maps, features[0], patches, blocks)


def close(ours, stored, *, atol: float, rtol: float = 0.0, what: str = "") -> None:
    """`compare` for negative controls, which do not count as compared tensors."""
    np.testing.assert_allclose(ours, stored, atol=atol, rtol=rtol, err_msg=what)


def places_of(wanted: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Where each position of `wanted` stands in `index`: two tokens with equal scores may have changed places."""
    assert sorted(wanted) == sorted(index)
    return np.array([list(index).index(position) for position in wanted])


def check_ranking(compare: Callable, step_index: Tensor, score_of: np.ndarray, official: np.ndarray, what: str) -> None:
    """The same set, in the same order but for ties."""
    ours = step_index[0].numpy()
    assert set(ours) == set(official), what
    compare(score_of[ours], score_of[official], atol=0, rtol=1e-5, what=what)


def check_forward(
    compare: Callable,
    config: OSTrackConfig,
    seen: Run,
    want: dict[str, np.ndarray],
    window_of: Callable[[int], np.ndarray] = hann,
) -> set[str]:
    """Compare one plain forward pass with its stored tensors, from the first layer to the box; returns their names."""
    num_template, done = config.template_grid**2, set[str]()

    def check(name: str, ours: Tensor | np.ndarray, atol: float = 1e-5) -> None:
        compare(ours, want[name], atol=atol, what=name)
        done.add(name)

    for num_tokens, tokens in seen.patches.items():
        check(f"patch_embed_len{num_tokens}_stride", tokens[0, ::8, ::32], TOKENS_ATOL)

    eliminations = dict(zip(config.ce_layers, seen.features.eliminations, strict=True))
    index = official = np.arange(config.search_grid**2)
    for layer, tokens in enumerate(seen.blocks):
        if layer in eliminations:
            prefix, step = f"ce_layer{layer}", eliminations[layer]
            order = places_of(want[f"{prefix}_index_in"], index)
            check(f"{prefix}_index_in", index[order], 0)
            check(f"{prefix}_score", step.score[0, order], 1e-5 * want[f"{prefix}_score"].max())
            score_of = np.full(config.search_grid**2, np.nan)
            score_of[index] = step.score[0]
            for kind, chosen in (("kept_index", step.kept_index), ("removed_index", step.removed_index)):
                check_ranking(compare, chosen, score_of, want[f"{prefix}_{kind}"], f"{prefix}_{kind}")
                done.add(f"{prefix}_{kind}")
            index, official = step.kept_index[0].numpy(), want[f"{prefix}_kept_index"]
        if (name := f"block{layer}_out_tokens_stride8_ch_stride32") in want:
            order = np.concatenate([np.arange(num_template), num_template + places_of(official, index)])
            check(name, tokens[0, order][::8, ::32], TOKENS_ATOL)

    tokens = torch.cat([seen.features.template_tokens, seen.features.search_tokens], dim=1)[0]
    check("backbone_feat_tokens_x_ch_stride32", tokens[:, ::32], TOKENS_ATOL)
    check("backbone_feat_first4_tokens", tokens[:4], TOKENS_ATOL)
    for name, tensor in seen.maps._asdict().items():
        check(name, tensor)

    maps = [tensor.numpy() for tensor in seen.maps]
    check("pred_boxes", decode_centre(*maps)[0][:, None])
    window = window_of(config.search_grid)
    response = maps[0] * window
    check("windowed_response", response)
    check("windowed_argmax", np.argmax(response), 0)
    check("windowed_box", decode_centre(*maps, window)[0])
    return done


def check_choices(
    compare: Callable,
    config: OSTrackConfig,
    *,
    ratio: float = 0.85,
    template_tokens: Literal["all", "2x2"] = "all",
    batch: tuple[str, str] = ("", "_b"),
) -> set[str]:
    """The other runs stored for the eliminating variants: explicit ratios, all template tokens, a batch of two."""
    template, search = images(config)
    model, want = build(config), stored(f"ostrack_{config.search_px}_ce")
    every_token = build(replace(config, ce_template_tokens=template_tokens))
    runs = {
        "keep_rate_0p85": (model, {"keep_ratio": ratio}),
        "keep_rate_1": (model, {"keep_ratio": 1.0}),
        "mask_ALL": (every_token, {}),
    }
    done = {f"{name}_{what}" for name in runs for what in ("score_map", "final_kept_index")}
    for name, (network, options) in runs.items():
        seen = run(network, template, search, **options)
        compare(seen.maps.score_map, want[f"{name}_score_map"], atol=1e-5, what=name)
        steps = seen.features.eliminations
        official = want[f"{name}_final_kept_index"]
        if steps:
            score_of = np.full(config.search_grid**2, np.nan)
            score_of[steps[-2].kept_index[0]] = steps[-1].score[0]
            check_ranking(compare, steps[-1].kept_index, score_of, official, name)
        else:
            compare(np.arange(config.search_grid**2), official, atol=0, what=name)  # nothing was moved
        if (counts := f"{name}_n_kept_per_layer") in want:
            compare([step.kept_index.shape[1] for step in steps], want[counts], atol=0, what=counts)
            done.add(counts)

    pairs = [images(config, suffix) for suffix in batch]
    maps = model(*(torch.cat(both) for both in zip(*pairs, strict=True)))
    compare(maps.score_map, want["batch2_score_map"], atol=1e-5, what="batch2_score_map")
    boxes = decode_centre(*(tensor.numpy() for tensor in maps))[0][:, None]
    compare(boxes, want["batch2_pred_boxes"], atol=1e-5, what="batch2_pred_boxes")
    return done | {"batch2_score_map", "batch2_pred_boxes"}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_stored_tensor(name: str, compare: Callable) -> None:
    config, want = VARIANTS[name], stored(name)
    model = build(config)
    done = check_forward(compare, config, run(model, *images(config)), want)
    if config.ce_layers:
        done |= check_choices(compare, config)
    assert done == {key for key in want if not key.startswith("track_")}  # the tracker's test has those


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict_is_the_official_one(name: str) -> None:
    with torch.device("meta"):
        model = OSTrack(VARIANTS[name])
    entries = [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in model.state_dict().items()
    ]
    assert entries == MANIFEST[name]["state_dict"]
    num_params = sum(parameter.numel() for parameter in model.parameters())
    assert num_params == MANIFEST[name]["num_params"] == {256: 92_518_533, 384: 92_825_733}[model.config.search_px]


@pytest.mark.parametrize("name", ELIMINATING)
def test_the_centre_token_as_a_box_gives_the_same_numbers(name: str, compare: Callable) -> None:
    config, want = replace(VARIANTS[name], ce_template_tokens="box"), stored(name)
    grid = config.template_grid
    mask = torch.from_numpy(stored("common_ops")[f"template_mask_{grid}x{grid}_CTR_POINT"]).float()
    seen = run(build(config), *images(config), template_mask=mask)
    check_forward(compare, config, seen, want)


@pytest.mark.parametrize(
    ("config", "suffix"),
    [
        (replace(OSTRACK_256, ce_template_tokens="centre"), "8x8_CTR_POINT"),
        (replace(OSTRACK_256, ce_template_tokens="2x2"), "8x8_CTR_REC"),
        (replace(OSTRACK_384, ce_template_tokens="centre"), "12x12_CTR_POINT"),
        (replace(OSTRACK_384, ce_template_tokens="2x2"), "12x12_CTR_REC"),
    ],
)
def test_template_rows(config: OSTrackConfig, suffix: str, compare: Callable) -> None:
    official = stored("common_ops")[f"template_mask_{suffix}"]
    compare(np.array(config.template_rows), np.flatnonzero(official), atol=0, what=suffix)
    assert replace(config, ce_template_tokens="all").template_rows == tuple(range(official.size))


@pytest.mark.parametrize("grid", [8, 12])
def test_template_token_mask(grid: int, compare: Callable) -> None:
    official = stored("common_ops")[f"template_mask_{grid}x{grid}_GT_BOX"]
    box = [[0.5, 0.5, 0.5, 0.4]]  # the masks are stored without their box; this one draws both
    compare(template_token_mask(box, grid), official, atol=0)
    with pytest.raises(AssertionError):
        close(template_token_mask([[0.5, 0.5, 0.5, 0.8]], grid), official, atol=0)


def pretrained_positions() -> Tensor:
    return torch.from_numpy(0.5 * unit("mae_pos_embed_14x14", (1, 196, 768))).float()


@pytest.mark.parametrize("grid", [8, 12, 16, 24])
def test_resized_position_embeddings(grid: int, compare: Callable) -> None:
    official = stored("common_ops")[f"pos_embed_resized_{grid}_ch_stride96"]
    compare(resize_pos_embed(pretrained_positions(), grid)[0, :, ::96], official, atol=1e-5)
    with (
        mock.patch.object(F, "interpolate", functools.partial(with_aligned_corners, F.interpolate)),
        pytest.raises(AssertionError),
    ):
        close(resize_pos_embed(pretrained_positions(), grid)[0, :, ::96], official, atol=1e-5)


def with_aligned_corners(interpolate: Callable, *args, **options) -> Tensor:
    return interpolate(*args, **{**options, "align_corners": True})


# Negative controls: one thing changed, and the comparisons above must fail.


class PapersCentre(OSTrackConfig):
    template_rows = (4 * 8 + 4,)  # floor(G / 2), as the paper writes


def papers_centre(model: OSTrack) -> None:
    model.config = PapersCentre(**vars(model.config))


def another_ratio(model: OSTrack) -> None:
    model.config = replace(model.config, ce_keep_ratios=0.71)


def another_layer(model: OSTrack) -> None:
    model.config = replace(model.config, ce_layers=(3, 6, 8))


def torchs_eps(model: OSTrack) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5


def fewer_heads(model: OSTrack) -> None:
    for block in model.backbone.blocks:
        block.attn.heads = 6


def no_last_norm(model: OSTrack) -> None:
    model.backbone.norm = nn.Identity()


def papers_offset(model: OSTrack) -> None:
    model.box_head.conv5_offset = nn.Sequential(model.box_head.conv5_offset, nn.Sigmoid())


CHANGES = [papers_centre, another_ratio, another_layer, torchs_eps, fewer_heads, no_last_norm, papers_offset]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_fails(change: Callable) -> None:
    config, model = OSTRACK_256_CE, build(OSTRACK_256_CE)
    change(model)
    with pytest.raises(AssertionError):
        check_forward(close, config, run(model, *images(config)), stored("ostrack_256_ce"))


def test_a_window_with_zero_ends_fails() -> None:
    config = OSTRACK_256_CE
    seen = run(build(config), *images(config))
    with pytest.raises(AssertionError, match="windowed_response"):
        check_forward(close, config, seen, stored("ostrack_256_ce"), lambda grid: np.outer(*[np.hanning(grid)] * 2))


@pytest.mark.parametrize("choice", [{"ratio": 0.86}, {"template_tokens": "2x2"}, {"batch": ("_b", "")}])
def test_another_choice_fails(choice: dict) -> None:
    with pytest.raises(AssertionError):
        check_choices(close, OSTRACK_256_CE, **choice)
