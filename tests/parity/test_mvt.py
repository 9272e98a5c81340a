"""MVT against the official implementation: every stored tensor, and for each of them a change that makes it fail.

The stored tracks and losses of the same file are compared in the tests of the tracker and of the losses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sightline.errors import CheckpointError, GeometryError
from sightline.geometry.codecs import decode_centre
from sightline.geometry.windows import hann
from sightline.models import mobilevit, mvt
from sightline.models.blocks import pixel_wise_correlation
from sightline.models.mvt import MVT, MVT_256, MVTConfig
from tests.parity.fill import fill, image_input, unit

DATA = Path(__file__).parent / "data" / "mvt"
STORED = {name: array for name, array in np.load(DATA / "mvt.npz").items() if not name.startswith(("track_", "loss_"))}

# fp32 rounding: the official code in float32 is within 7e-7 of itself in float64 on the maps
MAPS = {"atol": 1e-5, "rtol": 0.0}
FEATURES = {"atol": 1e-4, "rtol": 1e-4}
EXACT = {"atol": 0.0, "rtol": 0.0}

TEMPLATE, SEARCH, JOINT = 0, 1, 0
MIDDLE = {  # stored name -> module, and which of its outputs: it runs on, or returns, (template, search) or one tensor
    "template_stem_ch_stride4_sp_stride4": ("backbone.layer_2", TEMPLATE),
    "mid_layer_2_out0_ch8_sp4": ("backbone.layer_2", SEARCH),
    "mid_layer_3_0_out0_ch8_sp4": ("backbone.layer_3.0", TEMPLATE),
    "mid_layer_3_1_global_rep_0_out0_P_tok16_ch16": ("backbone.layer_3.1.global_rep.0", JOINT),
    "mid_layer_3_1_out0_ch8_sp4": ("backbone.layer_3.1", SEARCH),
    "mid_layer_3_1_out1_ch8_sp4": ("backbone.layer_3.1", TEMPLATE),
    "mid_layer_4_1_global_rep_3_out0_P_tok16_ch16": ("backbone.layer_4.1.global_rep.3", JOINT),
    "mid_layer_4_1_out0_ch8_sp4": ("backbone.layer_4.1", SEARCH),
    "mid_layer_4_1_out1_ch8_sp2": ("backbone.layer_4.1", TEMPLATE),
    "mid_neck_out0_ch8_sp4": ("neck", SEARCH),
    "mid_neck_out1_ch8_sp2": ("neck", TEMPLATE),
    "mid_feature_fusor_pw_corr_out0_ch8_sp4": ("feature_fusor.pw_corr", JOINT),
    "mid_feature_fusor_out0_ch8_sp4": ("feature_fusor", JOINT),
}


def tolerance(name: str) -> dict[str, float]:
    if name.startswith("unfold_index"):
        return EXACT
    return FEATURES if name in MIDDLE or name == "pixel_corr_out" else MAPS


def build(config: MVTConfig = MVT_256) -> MVT:
    model = fill(MVT(config))
    assert isinstance(model, MVT)
    return model


def images() -> tuple[Tensor, Tensor]:
    """The stored batch of two: templates (2, 3, 128, 128) and search regions (2, 3, 256, 256)."""

    def batch(name: str, side_px: int) -> Tensor:
        return torch.cat([image_input(name + suffix, side_px, unit_range=True) for suffix in ("", "_b")])

    return batch("template_128", 128), batch("search_256", 256)


def middle_outputs(model: MVT, template: Tensor, search: Tensor) -> tuple[dict[str, list[Tensor]], mvt.Maps]:
    """Run the model once; also everything that the modules of MIDDLE returned, in order."""
    seen: dict[str, list[Tensor]] = {path: [] for path, _ in MIDDLE.values()}

    def recorder(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[path].extend(output if isinstance(output, tuple) else [output])

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(recorder(path)) for path in seen]
    with torch.no_grad():
        maps = model(template, search)
    for hook in hooks:
        hook.remove()
    return seen, maps


def thinned(tensor: Tensor, name: str) -> np.ndarray:
    """The part that is stored: strides for (tokens, channels), or for channels and both axes of the first image."""
    if strides := re.search(r"tok(\d+)_ch(\d+)", name):
        tokens, channels = map(int, strides.groups())
        return tensor[:, ::tokens, ::channels].numpy()
    strides = re.search(r"ch(?:_stride)?(\d+)_sp(?:_stride)?(\d+)", name)
    assert strides is not None, name
    channels, space = map(int, strides.groups())
    return tensor[0, ::channels, ::space, ::space].numpy()


def observe(model: MVT) -> dict[str, np.ndarray]:
    """Ours under every stored name."""
    templates, searches = images()
    seen, maps = middle_outputs(model, templates[:1], searches[:1])
    ours = {name: thinned(seen[path][which], name) for name, (path, which) in MIDDLE.items()}

    score, size, offset = (value.numpy() for value in maps)
    ours |= {"score_map": score, "size_map": size, "offset_map": offset}
    ours["pred_boxes"] = decode_centre(score, size, offset)[0][:, None]
    ours["windowed_response"] = score * hann(16)
    ours["windowed_box"] = decode_centre(score, size, offset, hann(16))[0]

    with torch.no_grad():
        score, size, offset = (value.numpy() for value in model(templates, searches))
    ours["batch2_score_map"] = score
    ours["batch2_pred_boxes"] = decode_centre(score, size, offset)[0][:, None]

    cells = torch.arange(64).reshape(1, 1, 8, 8)
    ours["unfold_index_8x8_BPxN"] = mobilevit.unfold(cells)[..., 0].numpy()
    corr_z, corr_x = (torch.from_numpy(unit(f"corr_{part}", (1, 8, n, n))).float() for part, n in (("z", 2), ("x", 3)))
    ours["pixel_corr_out"] = mvt.pixel_wise_correlation(corr_z, corr_x).numpy()
    return ours


@pytest.fixture(scope="module")
def ours() -> dict[str, np.ndarray]:
    return observe(build())


def failing(observed: dict[str, np.ndarray]) -> set[str]:
    """The stored names outside their tolerance."""

    def agrees(name: str) -> bool:
        mine, stored = observed[name], STORED[name]
        return mine.shape == stored.shape and np.allclose(mine, stored, **tolerance(name))

    return {name for name in STORED if not agrees(name)}


# Parity


def test_manifest_is_met() -> None:
    official = json.loads((DATA / "manifest.json").read_text())["mvt"]
    model = MVT()
    layout = [[key, list(tensor.shape), str(tensor.dtype).split(".")[1]] for key, tensor in model.state_dict().items()]
    assert layout == official["state_dict"]  # names, shapes, types and their order
    assert sum(parameter.numel() for parameter in model.parameters()) == official["num_params"] == 5_480_405


def test_nothing_stored_is_left_out(ours: dict[str, np.ndarray]) -> None:
    assert ours.keys() == STORED.keys()


@pytest.mark.parametrize("name", STORED)
def test_stored_tensor(name: str, ours: dict[str, np.ndarray], compare) -> None:
    compare(ours[name], STORED[name], **tolerance(name), what=name)


@pytest.mark.parametrize(("fusion", "gmac_track", "gmac_both"), [(True, 2.987, 3.102), (False, 2.899, 3.014)])
def test_cost_in_multiplications(fusion: bool, gmac_track: float, gmac_both: float) -> None:
    model = MVT(MVTConfig(fusion=fusion)).eval()
    template, search = torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 256, 256)
    with torch.no_grad():
        with FlopCounterMode(display=False) as both:
            model(template, search)
        features = model.encode(template)
        with FlopCounterMode(display=False) as track:
            model.track(search, **features)
    assert track.get_total_flops() / 2e9 == pytest.approx(gmac_track, abs=5e-4)
    assert both.get_total_flops() / 2e9 == pytest.approx(gmac_both, abs=5e-4)


# Negative controls: one change each


def silu(_patch: pytest.MonkeyPatch) -> MVT:
    return build(MVTConfig(activation="silu"))


def apart(_patch: pytest.MonkeyPatch) -> MVT:
    return build(MVTConfig(fusion=False))


def template_first(_patch: pytest.MonkeyPatch) -> MVT:
    """The transformers see [template; search]; behind them the tokens are put back in the official order."""
    model = build()
    for stage in (model.backbone.layer_3, model.backbone.layer_4):
        transformer = stage[1].global_rep
        transformer.register_forward_pre_hook(lambda _, inputs: inputs[0].roll(inputs[0].shape[1] // 5, dims=1))
        transformer.register_forward_hook(lambda _, inputs, output: output.roll(-(output.shape[1] // 5), dims=1))
    return model


def scaled_correlation(patch: pytest.MonkeyPatch) -> MVT:
    patch.setattr(mvt, "pixel_wise_correlation", lambda z, x: pixel_wise_correlation(z, x) / z.shape[1] ** 0.5)
    return build()


def unfold_by_columns(patch: pytest.MonkeyPatch) -> MVT:
    by_rows = mobilevit.unfold
    patch.setattr(mobilevit, "unfold", lambda features: by_rows(features.transpose(2, 3)))
    return build()


def window_with_zero_ends(patch: pytest.MonkeyPatch) -> MVT:
    patch.setattr(f"{__name__}.hann", lambda grid: np.outer(np.hanning(grid), np.hanning(grid)))
    return build()


CONTROLS = (silu, apart, template_first, scaled_correlation, unfold_by_columns, window_with_zero_ends)
INPUT_FREE = {"unfold_index_8x8_BPxN", "pixel_corr_out"}
TOKENS = {name for name in STORED if "tok16" in name}
BEHIND_CORRELATION = {name for name in STORED if not name.startswith(("mid_layer", "mid_neck", "template_stem"))}


@pytest.fixture(scope="module")
def controls() -> dict[str, set[str]]:
    """For each control, the stored names that it makes fail."""
    found = {}
    for control in CONTROLS:
        with pytest.MonkeyPatch.context() as patch:
            found[control.__name__] = failing(observe(control(patch)))
    return found


def test_the_model_itself_fails_nowhere(ours: dict[str, np.ndarray]) -> None:
    assert failing(ours) == set()


def test_every_stored_tensor_is_failed_by_some_control(controls: dict[str, set[str]]) -> None:
    assert set().union(*controls.values()) == STORED.keys()


def test_silu_fails_everywhere(controls: dict[str, set[str]]) -> None:
    assert controls["silu"] == STORED.keys() - INPUT_FREE


def test_template_first_fails_exactly_the_tokens(controls: dict[str, set[str]]) -> None:
    """Attention without position embedding does not see an order, so only the stored tokens can tell."""
    assert controls["template_first"] == TOKENS


def test_branches_kept_apart_fail_the_official_maps(controls: dict[str, set[str]]) -> None:
    assert controls["apart"] >= TOKENS | {"mid_layer_4_1_out0_ch8_sp4", "score_map", "size_map", "offset_map"}


def test_scaled_correlation_fails_all_behind_it(controls: dict[str, set[str]]) -> None:
    assert controls["scaled_correlation"] == BEHIND_CORRELATION - {"unfold_index_8x8_BPxN"}


# fusion=False: the branches stay apart until the correlation


@pytest.mark.parametrize("changed", [TEMPLATE, SEARCH])
@pytest.mark.parametrize("fusion", [True, False])
def test_branches_meet_in_the_backbone_only_with_fusion(fusion: bool, changed: int) -> None:
    model = build(MVTConfig(fusion=fusion))
    (template, other_template), (search, other_search) = (batch.split(1) for batch in images())
    pair = (template, search)
    other_pair = (other_template, search) if changed == TEMPLATE else (template, other_search)
    seen, maps = middle_outputs(model, *pair)
    other_seen, other_maps = middle_outputs(model, *other_pair)

    untouched = SEARCH if changed == TEMPLATE else TEMPLATE
    for module in ("backbone.layer_3.1", "backbone.layer_4.1", "neck"):
        assert torch.equal(seen[module][untouched], other_seen[module][untouched]) is not fusion
        assert not torch.equal(seen[module][changed], other_seen[module][changed])
    assert not torch.allclose(maps.score_map, other_maps.score_map, atol=1e-3)  # they do meet in the correlation


def test_weights_load_unchanged_without_fusion() -> None:
    fused = build()
    separate = MVT(MVTConfig(fusion=False)).eval()
    assert list(separate.state_dict()) == list(fused.state_dict())
    separate.load_state_dict(fused.state_dict(), strict=True)
    template, search = (batch[:1] for batch in images())
    with torch.no_grad():
        assert not torch.allclose(separate(template, search).score_map, fused(template, search).score_map, **MAPS)


# Training


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout"])
def test_dropout_acts_in_training_only(rate: str) -> None:
    assert (MVT_256.dropout, MVT_256.attention_dropout) == (0.1, 0.1)
    layer = mobilevit.TransformerLayer(16, activation="relu", **{"dropout": 0.0, "attention_dropout": 0.0, rate: 0.1})
    tokens = torch.ones(4, 20, 16)
    assert not torch.equal(layer.train()(tokens), layer(tokens))
    assert torch.equal(layer.eval()(tokens), layer(tokens))


def test_dropout_rates_reach_every_transformer_layer() -> None:
    backbone = MVT(MVTConfig(dropout=0.2, attention_dropout=0.3)).backbone
    layers = [module for module in backbone.modules() if isinstance(module, mobilevit.TransformerLayer)]
    assert len(layers) == 2 + 4
    for layer in layers:
        assert (layer.pre_norm_mha[2].p, layer.pre_norm_ffn[5].p) == (0.2, 0.2)
        assert layer.pre_norm_mha[1].attn_dropout.p == 0.3


def test_training_reaches_the_stem_through_the_template_alone() -> None:
    model = build()
    search_stem = model.backbone.stem(images()[1][:1]).detach()
    template_stem = model.encode(images()[0][:1])["template_stem"]
    template, _ = model.backbone(template_stem, search_stem)
    template.sum().backward()
    gradient = model.backbone.conv_1.block.conv.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


# Initial weights


def mobilevit_s() -> dict[str, Tensor]:
    """A file as ml-cvnets publishes it: the backbone's names, and the layers that the tracker leaves out."""
    left_out = ("layer_5.0.block.exp_1x1.block.conv.weight", "conv_1x1_exp.block.conv.weight", "classifier.fc.bias")
    return build().backbone.state_dict() | {name: torch.zeros(1) for name in left_out}


def test_initial_weights_are_taken_over() -> None:
    model, state = MVT(), mobilevit_s()
    head = model.box_head.conv5_ctr.weight.clone()
    mvt.init_from_mobilevit(model, state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.backbone.state_dict().items())
    assert torch.equal(model.box_head.conv5_ctr.weight, head)


def test_initial_weights_that_do_not_fit_change_nothing() -> None:
    model = MVT()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    missing, misshapen = mobilevit_s(), mobilevit_s()
    del missing["conv_1.block.conv.weight"]
    misshapen["layer_4.1.global_rep.4.weight"] = torch.zeros(144)
    with pytest.raises(
        CheckpointError, match=r"lack 1 of 228 .* nothing for conv_1\.block\.conv\.weight; expected \(16,"
    ):
        mvt.init_from_mobilevit(model, missing)
    with pytest.raises(CheckpointError, match=r"got \(144,\) for layer_4\.1\.global_rep\.4\.weight; expected \(192,\)"):
        mvt.init_from_mobilevit(model, misshapen)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Shapes


def test_fold_undoes_unfold() -> None:
    features = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    assert torch.equal(mobilevit.fold(mobilevit.unfold(features), 4, 6), features)


def test_odd_maps_and_sides_are_refused() -> None:
    with pytest.raises(GeometryError, match="7 x 8 cells"):
        mobilevit.unfold(torch.zeros(1, 3, 7, 8))
    for wrong in ({"template_px": 112}, {"search_px": 250}, {"search_px": 0}, {"stride": 8}):
        with pytest.raises(GeometryError, match="multiples of 32 px"):
            MVTConfig(**wrong)


@pytest.mark.parametrize("fusion", [True, False])
def test_graph_holds_for_any_batch(fusion: bool) -> None:
    """One exported graph, no branch on data: made at two targets, run at three."""
    model = build(MVTConfig(fusion=fusion))
    batch = torch.export.Dim("batch", max=64)
    two = (torch.rand(2, 3, 128, 128), torch.rand(2, 3, 256, 256))
    graph = torch.export.export(model, two, dynamic_shapes={"template": {0: batch}, "search": {0: batch}}).module()
    template, search = torch.rand(3, 3, 128, 128), torch.rand(3, 3, 256, 256)
    with torch.no_grad():
        for exported, eager in zip(graph(template, search), model(template, search), strict=True):
            assert torch.allclose(exported, eager, atol=1e-5)
