"""OSTrack's choices at run time and its refusals, on a network of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
import torch

from sightline.errors import CheckpointError, GeometryError, ProtocolError
from sightline.models.ostrack import Features, OSTrack, OSTrackConfig, init_from_vit
from sightline.models.vit import DropPath, resize_pos_embed

SMALL = OSTrackConfig(template_px=64, search_px=128, width=24, depth=4, heads=3)
ELIMINATING = replace(SMALL, ce_layers=(1, 2), ce_keep_ratios=(0.5, 0.9))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same weights every time, and one thread: the network is too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def build(config: OSTrackConfig, state: dict[str, torch.Tensor] | None = None) -> OSTrack:
    model = OSTrack(config).eval()
    if state is not None:
        model.load_state_dict(state, strict=True)
    return model


def crops(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, SMALL.template_px, SMALL.template_px), torch.randn(batch, 3, 128, 128)


@torch.inference_mode()
def test_elimination_is_a_choice_and_a_ratio_of_one_is_none() -> None:
    plain = build(SMALL)
    eliminating = build(ELIMINATING, plain.state_dict())
    template, search = crops()
    for kept, eliminated in zip(plain(template, search), eliminating(template, search), strict=True):
        assert kept.shape == eliminated.shape
        assert not torch.equal(kept, eliminated)
    for kept, warm_up in zip(plain(template, search), eliminating(template, search, keep_ratio=1.0), strict=True):
        assert torch.equal(kept, warm_up)


@torch.inference_mode()
def test_eliminated_positions_are_zero_in_front_of_the_head() -> None:
    model = build(ELIMINATING)
    template, search = crops()
    caught: list[Features] = []
    model.backbone.register_forward_hook(lambda _, __, features: caught.append(features))
    model(template, search)
    seen = caught[0]
    assert [step.kept_index.shape[1] for step in seen.eliminations] == [32, 29]
    removed = torch.cat([step.removed_index for step in seen.eliminations], dim=1)
    alive = seen.search_tokens.abs().sum(dim=2) > 0
    assert not alive.gather(1, removed).any()
    assert alive.sum(dim=1).tolist() == [29, 29]


@torch.inference_mode()
@pytest.mark.parametrize("template_tokens", ["centre", "2x2", "all"])
def test_a_batch_equals_its_samples(template_tokens: str) -> None:
    model = build(replace(ELIMINATING, ce_template_tokens=template_tokens))
    template, search = crops()
    together = model(template, search)
    for i in range(2):
        alone = model(template[i : i + 1], search[i : i + 1])
        for batch, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batch[i : i + 1], single, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_box_over_all_tokens_is_all_and_over_the_centre_is_the_centre() -> None:
    box = build(replace(ELIMINATING, ce_template_tokens="box"))
    template, search = crops()
    for template_tokens in ("all", "2x2", "centre"):
        named = build(replace(ELIMINATING, ce_template_tokens=template_tokens), box.state_dict())
        mask = torch.zeros(2, 16)
        mask[:, list(named.config.template_rows)] = 1
        for expected, ours in zip(named(template, search), box(template, search, mask), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_template_mask_goes_with_box_mode_only() -> None:
    template, _ = crops()
    with pytest.raises(ProtocolError, match="got one with ce_template_tokens='centre'"):
        build(SMALL).encode(template, torch.ones(2, 16))
    box = build(replace(SMALL, ce_template_tokens="box"))
    with pytest.raises(ProtocolError, match="got none"):
        box.encode(template)
    assert box.takes_template_mask
    assert not build(SMALL).takes_template_mask
    assert list(box.encode(template, torch.ones(2, 16))) == ["template_tokens", "template_mask"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"template_px": 100}, "template_px: got 100"),
        ({"search_px": 0}, "search_px: got 0"),
        ({"heads": 5}, "heads: got 5"),
        ({"ce_layers": (1, 4)}, "ce_layers: got"),
        ({"ce_layers": (2, 1)}, "ce_layers: got"),
        ({"ce_keep_ratios": 0.0}, "ce_keep_ratios: got 0.0"),
        ({"ce_layers": (1, 2, 3), "ce_keep_ratios": (0.5, 0.5)}, "one per layer"),
        ({"ce_template_tokens": "center"}, "expected 'centre'"),
    ],
)
def test_impossible_configurations_are_refused(change: dict, sentence: str) -> None:
    with pytest.raises(GeometryError, match=sentence):
        replace(SMALL, **change)


def test_a_configuration_survives_json() -> None:
    assert OSTrackConfig(**json.loads(json.dumps(asdict(ELIMINATING)))) == ELIMINATING


def test_training_reaches_every_living_weight() -> None:
    model = build(ELIMINATING).train()
    maps = model(*crops())
    sum(tensor.sum() for tensor in maps).backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert without == {"backbone.cls_token", "backbone.pos_embed"}


def test_drop_path_keeps_the_mean_and_rests_in_eval() -> None:
    drop, ones = DropPath(0.25), torch.ones(4000, 2, 2)
    dropped = drop.train()(ones)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped[:, 0, 0], dropped[:, 1, 1])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(ones) is ones
    rates = [block.drop_path.rate for block in build(SMALL).backbone.blocks]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])


def pretrained() -> dict[str, torch.Tensor]:
    backbone = build(SMALL).backbone.state_dict()
    state = {name: tensor for name, tensor in backbone.items() if name not in {"pos_embed_z", "pos_embed_x"}}
    return state | {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}


def test_a_vit_file_starts_the_backbone() -> None:
    model, state = build(SMALL), pretrained()
    init_from_vit(model, state)
    ours = model.backbone.state_dict()
    assert all(torch.equal(ours[name], state[name]) for name in state.keys() & ours.keys())
    torch.testing.assert_close(ours["pos_embed_x"], resize_pos_embed(state["pos_embed"][:, 1:], 8))
    torch.testing.assert_close(ours["pos_embed_z"], resize_pos_embed(state["pos_embed"][:, 1:], 4))


def test_a_vit_file_that_does_not_fit_is_explained() -> None:
    state = pretrained()
    del state["blocks.2.mlp.fc1.bias"]
    with pytest.raises(CheckpointError, match=r"1 of 54 backbone tensors, first blocks.2.mlp.fc1.bias: got nothing"):
        init_from_vit(build(SMALL), state)
    with pytest.raises(CheckpointError, match=r"first cls_token: got \(1, 1, 24\); expected \(1, 1, 48\)"):
        init_from_vit(build(replace(SMALL, width=48)), pretrained())
