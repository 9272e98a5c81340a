"""OneTrack-M's network: shapes, what a token emits, frames and their rows, the cache of tokens, initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.errors import CheckpointError, GeometryError, ProtocolError
from sightline.models.counting import count_gmac
from sightline.models.efficientnet_lite import EfficientNetLite0
from sightline.models.mobilevit import SiamMobileViT
from sightline.models.onetrack_m import (
    HEADS,
    ONETRACK_M_B16,
    ONETRACK_M_B32,
    ONETRACK_M_L16,
    ONETRACK_M_TI16,
    ONETRACK_M_TINY,
    OneTrackM,
    OneTrackMConfig,
    WindowMaps,
    init_backbone,
)
from sightline.models.session import TorchSession
from sightline.trackers.onetrack_m import OneTrackMConfig as TrackerConfig
from sightline.trackers.onetrack_m import OneTrackMTracker
from sightline.types import Track

SMALL = OneTrackMConfig(
    image_px=32, stride=8, clip_length=3, width=24, depth=2, heads=2, cells_per_token=7, head_hidden=16
)
VARIETIES = {
    "channel": SMALL,
    "positional": replace(SMALL, encoding="positional"),
    "per_frame": replace(SMALL, projection="per_frame"),
    "positional, per_frame": replace(SMALL, encoding="positional", projection="per_frame"),
    "joint_from=1": replace(SMALL, joint_from=1),
    "efficientnet_lite0": replace(SMALL, backbone="efficientnet_lite0", stride=16, cells_per_token=4),
    "mobilevit": replace(SMALL, backbone="mobilevit", image_px=64, stride=16, num_classes=2),
    "one frame": replace(SMALL, clip_length=1),
}


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def frames_for(config: OneTrackMConfig, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3 * config.clip_length, config.image_px, config.image_px)


def lively(config: OneTrackMConfig) -> OneTrackM:
    """With heads that do not start next to zero, so that maps differ from cell to cell."""
    return OneTrackM(replace(config, head_std=0.1, encoding_std=0.5)).eval()


@pytest.mark.parametrize(
    ("config", "tokens", "num_parameters", "gmac_tokens", "gmac_track"),
    [
        (ONETRACK_M_B16, (196, 768), 91_362_004, 0.116, 102.028),
        (ONETRACK_M_B32, (49, 768), 93_774_160, 0.116, 22.225),
        (ONETRACK_M_L16, (196, 1024), 310_635_220, 0.154, 344.592),
        (ONETRACK_M_TI16, (196, 192), 7_104_724, 0.029, 9.937),
        (ONETRACK_M_TINY, (256, 128), 1_571_984, 0.321, 0.562),
    ],
)
def test_onetrack_presets_have_the_papers_shapes(
    config: OneTrackMConfig, tokens: tuple[int, int], num_parameters: int, gmac_tokens: float, gmac_track: float
) -> None:
    with torch.device("meta"):
        model = OneTrackM(config).eval()
        frames = frames_for(config)
        window, grid = config.clip_length, config.grid
        maps = model(frames)
        (kept,) = model.tokens(frames[:1, :3]).values()
        counted = (
            count_gmac(model.tokens, frames[:1, :3]),
            count_gmac(model.track, kept[None].expand(1, window, -1, -1)),
        )
    assert maps.heat_map.shape == (2, window, 1, grid, grid)
    assert maps.displacement_map.shape == (2, window, 2, grid, grid)
    assert maps.size_map.shape == (2, window, 4 if config.box == "sides" else 2, grid, grid)
    assert kept.shape == (1, *tokens)
    assert config is ONETRACK_M_TINY or grid == 196
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert counted == (pytest.approx(gmac_tokens, abs=6e-4), pytest.approx(gmac_track, abs=6e-4))


def test_onetrack_tiny_fits_in_its_file() -> None:
    with torch.device("meta"):
        state = OneTrackM(ONETRACK_M_TINY).state_dict()
    assert 4 * sum(value.numel() for value in state.values()) < 7.5e6  # of 8 MB, float32


@pytest.mark.parametrize("config", VARIETIES.values(), ids=VARIETIES)
def test_onetrack_shapes_for_any_size_and_number_of_classes(config: OneTrackMConfig) -> None:
    maps = lively(config)(frames_for(config))
    side = config.image_px // config.stride * config.cells_per_token
    assert maps.heat_map.shape == (2, config.clip_length, config.num_classes, side, side)
    assert maps.size_map.shape == maps.displacement_map.shape == (2, config.clip_length, 2, side, side)
    assert 0 < maps.heat_map.min() < maps.heat_map.max() < 1
    assert maps.displacement_map.abs().max() < 1
    assert all(torch.isfinite(values).all() for values in maps)


@pytest.mark.parametrize("config", VARIETIES.values(), ids=VARIETIES)
def test_onetrack_kept_tokens_give_the_maps_of_the_whole_window(config: OneTrackMConfig) -> None:
    model, frames = lively(config), frames_for(config)
    whole = model(frames)
    tokens = torch.stack([model.tokens(frame)["tokens"] for frame in frames.split(3, dim=1)], dim=1)
    newest = model.track(tokens)
    model.config = replace(config, every_frame=True)
    every = model.track(tokens)
    for name, of_newest, of_every, of_whole in zip(WindowMaps._fields, newest, every, whole, strict=True):
        torch.testing.assert_close(of_newest, of_whole[:, -1:], atol=1e-5, rtol=0, msg=name)
        torch.testing.assert_close(of_every, of_whole, atol=1e-5, rtol=0, msg=name)
    if config.clip_length > 1:
        assert not torch.allclose(whole.heat_map[:, 0], whole.heat_map[:, -1], atol=1e-3)


@pytest.mark.parametrize(("head_hidden", "reach"), [(0, 0), (16, 1)])
def test_onetrack_a_token_emits_its_own_cells_alone(head_hidden: int, reach: int) -> None:
    """A linear head's cells depend on one token; the 3 x 3 convolution before lets its neighbours speak too."""
    config = replace(SMALL, head_hidden=head_hidden)
    model, grid, r = lively(config), config.token_grid, config.cells_per_token
    encoded = torch.randn(1, 3, grid * grid, config.width)
    changed = encoded.clone()
    row, column = 1, 2
    changed[0, 1, row * grid + column] += 1
    for before, after in zip(model.maps(encoded), model.maps(changed), strict=True):
        differs = (before != after)[0]
        rows, columns = (slice(max(0, i - reach) * r, (i + reach + 1) * r) for i in (row, column))
        assert differs[1, :, rows, columns].all()
        differs[1, :, rows, columns] = False
        assert not differs.any()


def test_onetrack_cells_of_a_token_are_row_major() -> None:
    """Channel c r r + i r + j of a head's last convolution is row i, column j of map c."""
    config = replace(SMALL, head_hidden=0)
    model, r = OneTrackM(config), config.cells_per_token
    last = model.size_head[-2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(2 * r * r))
    size = model.maps(torch.zeros(1, 1, config.token_grid**2, config.width)).size_map[0, 0]
    expected = torch.arange(2 * r * r).view(2, r, r).repeat(1, config.token_grid, config.token_grid)
    torch.testing.assert_close(size, expected.float())


def test_onetrack_frames_permuted_with_their_rows_give_permuted_tokens() -> None:
    model, order = lively(SMALL), [2, 0, 1]
    tokens = torch.randn(2, 3, SMALL.token_grid**2, SMALL.width)
    encoded = model.backbone(tokens)
    alone = model.backbone(tokens[:, order])
    with torch.no_grad():
        model.backbone.frame_embed.copy_(model.backbone.frame_embed[order].clone())
    together = model.backbone(tokens[:, order])
    torch.testing.assert_close(together, encoded[:, order], atol=1e-5, rtol=0)
    assert not torch.allclose(alone, encoded[:, order], atol=1e-2)


def test_onetrack_the_newest_frame_looks_at_the_oldest() -> None:
    model, tokens = lively(SMALL), torch.randn(1, 3, SMALL.token_grid**2, SMALL.width)
    other = tokens.clone()
    other[:, 0] = torch.randn_like(other[:, 0])
    assert not torch.allclose(model.backbone(tokens)[:, -1], model.backbone(other)[:, -1], atol=1e-3)


def test_onetrack_the_positional_table_starts_as_copies_and_parts_nothing() -> None:
    positional, channel = OneTrackM(VARIETIES["positional"]), OneTrackM(replace(SMALL, encoding_std=0.0))
    shared = {name: value for name, value in positional.state_dict().items() if name != "backbone.pos_embed"}
    channel.load_state_dict(shared, strict=False)
    frames = frames_for(SMALL)
    torch.testing.assert_close(positional(frames), channel(frames), atol=1e-5, rtol=0)
    assert positional.backbone.pos_embed.shape[1] == 3 * channel.backbone.pos_embed.shape[1]
    assert not hasattr(positional.backbone, "frame_embed")


def test_onetrack_starts_with_the_prior_and_small_maps() -> None:
    maps = OneTrackM(SMALL).eval()(frames_for(SMALL))
    assert maps.heat_map.mean().item() == pytest.approx(0.1, abs=0.005)
    assert maps.size_map.abs().max() < 0.1 and maps.displacement_map.abs().max() < 0.1
    likelier = OneTrackM(replace(SMALL, heat_bias=0.0)).eval()(frames_for(SMALL))
    assert likelier.heat_map.mean().item() == pytest.approx(0.5, abs=0.01)


def test_onetrack_size_scale_multiplies_the_size_alone() -> None:
    model, frames = lively(SMALL), frames_for(SMALL)
    plain = model(frames)
    model.config = replace(SMALL, size_scale=8.0)
    scaled = model(frames)
    torch.testing.assert_close(scaled.size_map, 8 * plain.size_map)
    torch.testing.assert_close(scaled.heat_map, plain.heat_map)


def test_onetrack_tracker_runs_on_the_network_in_every_mode() -> None:
    """Both loops over one network's sessions; a sliding one needs the newest frame's maps alone."""
    model = lively(replace(SMALL, size_scale=20.0))
    model.load_state_dict({k: v + 3 * k.startswith("size_head.2.bias") for k, v in model.state_dict().items()})
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(5)]
    config = TrackerConfig(image_px=32, grid=SMALL.grid, clip_length=3, detected_from=0.1, started_from=0.1)

    def tracks(every_frame: bool, mode: Literal["sliding", "clip"]) -> list[Track]:
        model.config = replace(SMALL, size_scale=20.0, every_frame=every_frame)
        tracker = OneTrackMTracker(TorchSession(model), replace(config, mode=mode))
        state, history = tracker.init(), []
        for frame in frames:
            state = tracker.update(frame, state)
            history += state.tracks
        return tracker.finish(state, history)

    newest, every, clips = tracks(False, "sliding"), tracks(True, "sliding"), tracks(True, "clip")
    assert len(newest) >= 5 and [track.track_id for track in newest] == [track.track_id for track in every]
    for one, other in zip(newest, every, strict=True):
        assert one.xywh == pytest.approx(other.xywh, abs=1e-3)
    assert {track.frame_index for track in clips} == set(range(5))
    with pytest.raises(ProtocolError, match="every_frame=true"):
        tracks(False, "clip")


@pytest.mark.parametrize("config", VARIETIES.values(), ids=VARIETIES)
def test_onetrack_every_parameter_learns(config: OneTrackMConfig) -> None:
    model = lively(config).train()
    sum(values.square().mean() for values in model(frames_for(config))).backward()
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not still


def test_onetrack_parts_have_the_names_that_phases_freeze() -> None:
    model = OneTrackM(SMALL)
    assert {name for name, _ in model.named_children()} == {"backbone", *HEADS}


def vit_state(model: OneTrackM, grid: int, extra: int) -> dict[str, Tensor]:
    """A file of a ViT with timm's names as `model`'s backbone would have it at another grid, and a classifier."""
    own = {name: torch.randn_like(value) for name, value in model.backbone.state_dict().items()}
    own.pop("frame_embed", None)
    width, stride = model.config.width, model.config.stride
    own["patch_embed.proj.weight"] = torch.randn(width, 3, stride, stride)
    own["patch_embed.proj.bias"] = torch.randn(width)
    own["pos_embed"] = torch.randn(1, extra + grid * grid, width)
    return {**own, "head.weight": torch.randn(10, width)}


@pytest.mark.parametrize("name", ["channel", "positional", "per_frame"])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_onetrack_starts_from_a_vit_of_any_grid(name: str, extra: int) -> None:
    config = VARIETIES[name]
    model = OneTrackM(config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = vit_state(model, grid=config.token_grid, extra=extra)
    taken = init_backbone(model, state)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    untouched = set(before) - set(taken)
    assert untouched == {key for key in before if key.startswith(HEADS) or key.endswith("frame_embed")}
    assert all(torch.equal(before[key], after[key]) for key in untouched)
    torch.testing.assert_close(after["backbone.blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"])
    copies = {"channel": 1, "positional": 3, "per_frame": 1}[name]
    expected = state["pos_embed"][:, extra:].repeat(1, copies, 1)
    torch.testing.assert_close(after["backbone.pos_embed"], expected, atol=1e-5, rtol=0)
    smaller = vit_state(model, grid=3, extra=extra)
    init_backbone(model, smaller)
    assert not torch.equal(model.state_dict()["backbone.pos_embed"], after["backbone.pos_embed"])


def test_onetrack_projections_that_start_alike_are_the_shared_one() -> None:
    shared, apart = OneTrackM(SMALL).eval(), OneTrackM(VARIETIES["per_frame"]).eval()
    state = vit_state(shared, grid=4, extra=1)
    rest = {name: value for name, value in shared.state_dict().items() if "patch_embed" not in name}
    apart.load_state_dict(rest, strict=False)
    for model in (shared, apart):
        init_backbone(model, state)
    frames = frames_for(SMALL)
    torch.testing.assert_close(apart(frames), shared(frames), atol=1e-5, rtol=0)


def test_onetrack_starts_from_published_convolutions() -> None:
    published = {
        "efficientnet_lite0": EfficientNetLite0().state_dict(),
        "mobilevit": SiamMobileViT(activation="silu", joint=False, dropout=0, attention_dropout=0).state_dict(),
    }
    for name, state in published.items():
        model = OneTrackM(VARIETIES[name])
        taken = init_backbone(model, {**state, "classifier.weight": torch.zeros(1)})
        assert len(taken) == len(state) and all(key.startswith("backbone.stages.") for key in taken)
        ours = model.state_dict()
        assert all(torch.equal(ours[f"backbone.stages.{key}"], value) for key, value in state.items())
        without_counters = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        assert len(init_backbone(OneTrackM(VARIETIES[name]), without_counters)) == len(without_counters) < len(state)


def test_onetrack_refuses_a_foreign_start_and_stays_as_it_was() -> None:
    model = OneTrackM(SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = vit_state(model, grid=4, extra=1)
    wider = {**state, "blocks.1.norm2.bias": torch.zeros(25)}
    lacking = {name: value for name, value in state.items() if name != "norm.weight"}
    for foreign, words in ((wider, r"blocks.1.norm2.bias: got \(25,\)"), (lacking, "norm.weight: got nothing")):
        with pytest.raises(CheckpointError, match=words):
            init_backbone(model, foreign)
    odd = {**state, "pos_embed": torch.zeros(1, 13, SMALL.width)}  # neither square nor one or two above a square
    with pytest.raises(CheckpointError, match="pos_embed"):
        init_backbone(model, odd)
    with pytest.raises(CheckpointError, match="Pass EfficientNet-Lite0"):
        init_backbone(OneTrackM(VARIETIES["efficientnet_lite0"]), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"backbone": "resnet"},
        {"image_px": 33},
        {"clip_length": 0},
        {"cells_per_token": 0},
        {"num_classes": 0},
        {"heads": 5},
        {"head_hidden": -1},
        {"drop_path": 1.0},
        {"joint_from": 2},
        {"joint_from": 1, "encoding": "positional"},
        {"joint_from": 1, "projection": "per_frame"},
        {"encoding": "sine"},
        {"backbone": "mobilevit"},
        {"backbone": "efficientnet_lite0", "stride": 16, "projection": "per_frame"},
        {"backbone": "mobilevit", "stride": 16, "image_px": 48},
    ],
)
def test_onetrack_config_refuses_sizes_that_do_not_fit(wrong: dict[str, object]) -> None:
    with pytest.raises(GeometryError, match="expected"):
        replace(SMALL, **wrong)


def test_onetrack_config_survives_json_types() -> None:
    assert OneTrackMConfig(**asdict(ONETRACK_M_TINY)) == ONETRACK_M_TINY
