"""Where a training starts: a model's own initialisation, published backbone weights, or a tracker's file.

OSTrack takes any ViT-B/16 file with timm's names, as its Table 4 compares them: MAE's encoder, DeiT's and AugReg's
classifiers; OneTrack-M such a file of its own width and patches. MVT takes Apple's MobileViT-S, sightline-nano takes
EfficientNet-Lite0, and OneTrack-M's convolutional backbones either; SPMTrack takes DINOv2 of its size. What a file is,
its content says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.building import empty_model
from sightline.checkpoints.files import read_weights
from sightline.checkpoints.official import check_against
from sightline.checkpoints.spmtrack import frozen_tensors, joined
from sightline.errors import CheckpointError
from sightline.models.mvt import MVT, init_from_mobilevit
from sightline.models.nano import Nano
from sightline.models.onetrack_m import HEADS, OneTrackM, init_backbone
from sightline.models.ostrack import PRETRAINED_GRID, OSTrack, init_from_vit
from sightline.models.spmtrack import SPMTrack, is_trained
from sightline.models.vit import resize_pos_embed

NONE = "none"
OWN = "its own initialisation"
# In the header of a safetensors file that holds a start: from what, and with which seed.
START = "sightline.start"
SEED = "sightline.seed"
State = Mapping[str, Tensor]

# What a ViT file may hold beside the encoder. Anything else belongs to another architecture (DeiT III's and BEiT's
# scales, CLIP's first norm), which would run wrong without it.
BESIDE_THE_ENCODER = (
    "cls_token", "decoder_", "mask_token", "dist_token", "head.", "head_dist.", "pre_logits.", "fc_norm.",
)  # fmt: skip
# What the other backbones' files hold behind the last stage that a tracker runs.
BEHIND_STRIDE_16 = {
    MVT: ("layer_5.", "conv_1x1_exp.", "classifier."),
    Nano: ("_blocks.", "_conv_head.", "_bn1.", "_fc."),
}


@dataclass(frozen=True)
class Start:
    """A network to begin a training with. `title` says from what, `notes` one by one what became of the file's tensors
    and of the network's. `pretrained` are tensors of OneTrack-M that an initialisation gave and no training since."""

    model: nn.Module
    title: str
    notes: tuple[str, ...]
    pretrained: frozenset[str] = frozenset()


def start_model(
    name: str,
    init: str | Path = NONE,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    backbone: Path | None = None,
) -> Start:
    """The network of a model, initialised.

    init: "none" for the model's own initialisation, or a file: weights of the backbone, or a tracker of this model,
    for OSTrack of any crop size. What the file does not give keeps the model's own start. seed: of that start;
    the global random state stays as it was. options: fields of the network's config. backbone: SPMTrack's, where
    `init` has what is trained of it alone.

    Raises `CheckpointError` for a file that is neither, or that lacks a tensor, and `UnknownModel`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = empty_model(name, options)
    own = f"seed {seed}"
    if backbone and str(init) == NONE:
        raise CheckpointError(
            f"init: got none, and the backbone {backbone.name!r} besides; expected that as init. Pass --init {backbone}"
        )
    if str(init) == NONE:
        return Start(model, OWN, (f"initialised: all {len(model.state_dict())} tensors, {own}",))
    path = Path(init)
    weights = read_weights(path)
    if isinstance(model, SPMTrack):
        if any(map(is_trained, weights.tensors)):
            whole = as_state(joined(weights, backbone, model, name))
            return Start(model, f"the tracker {path.name!r}", take_tracker(model, whole, path.name, name))
        if backbone:
            raise CheckpointError(
                f"init: got {path.name!r}, which has nothing that is trained, and the backbone {backbone.name!r} "
                "besides; expected one backbone. Leave the second out."
            )
        frozen = as_state(frozen_tensors(weights, model, name))
        model.load_state_dict(frozen, strict=False)
        taken = f"taken: {len(frozen)} tensors of the backbone, which stay"
        return Start(model, f"DINOv2's {path.name!r}", (taken, f"initialised: what is trained, {own}"))
    state, pretrained = as_state(weights.tensors), frozenset[str]()
    has_heads = not isinstance(model, OneTrackM) or any(key.startswith(HEADS) for key in state)
    if has_heads and any(key.startswith("backbone.") for key in state):
        if isinstance(model, OneTrackM) and weights.metadata.get(START, OWN) != OWN:  # nothing of it was trained since
            pretrained = encoder_names(model)
        return Start(model, f"the tracker {path.name!r}", take_tracker(model, state, path.name, name), pretrained)
    if isinstance(model, OneTrackM):
        pretrained = encoder_names(model)
        title, notes = take_encoder(model, state, path.name)
    elif isinstance(model, OSTrack):
        title, notes = take_vit(model, state, path.name)
    elif isinstance(model, MVT | Nano):
        title, notes = take_convolutional(model, state, path.name)
    else:
        raise CheckpointError(f"{name}: got an initialisation for its backbone; expected a file of the whole tracker.")
    rest = sorted({key.partition(".")[0] for key in model.state_dict()} - {"backbone"})
    return Start(model, title, (*notes, f"initialised: {', '.join(rest)}, {own}"), pretrained)


def as_state(tensors: Mapping[str, NDArray[Any]]) -> State:
    return {key: torch.from_numpy(value).float() for key, value in tensors.items()}


def take_tracker(model: nn.Module, state: State, source: str, name: str) -> tuple[str, ...]:
    """Load a tracker's tensors into `model`, in place; OSTrack's positions are resized to its crops."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    fitted, notes = dict(state), []
    if isinstance(model, OSTrack):
        for key, grid in (("z", model.config.template_grid), ("x", model.config.search_grid)):
            key = f"backbone.pos_embed_{key}"
            side = side_of(state[key].shape[1]) if key in state and state[key].dim() == 3 else 0
            if side and side != grid:
                fitted[key] = resize_pos_embed(state[key], grid)
                notes.append(f"resized: {key} from {side} x {side} to {grid} x {grid}")
    check_against({key: value.numpy() for key, value in fitted.items()}, expected, source=source, model=name)
    model.load_state_dict(fitted, strict=False)  # strictness is check_against's, which explains
    return (f"taken: {len(fitted) - len(notes)} tensors, the head among them", *notes)


def take_vit(model: OSTrack, state: State, source: str) -> tuple[str, tuple[str, ...]]:
    """Load a ViT's encoder into the backbone, in place. Position embeddings of any square grid will do, with those of
    the class token and of DeiT's distillation token before them."""
    if "pos_embed" not in state or "patch_embed.proj.weight" not in state:
        raise CheckpointError(
            f"weights {source!r}: got {len(state)} tensors without pos_embed and patch_embed.proj.weight; expected a "
            "ViT-B/16 with timm's names, or an OSTrack file. Give MAE's, DeiT's or AugReg's."
        )
    ours = model.backbone.state_dict()
    got, expected = (tuple(tensors["patch_embed.proj.weight"].shape) for tensors in (state, ours))
    if got != expected:
        raise CheckpointError(
            f"weights {source!r}: got patch_embed.proj.weight {got}; expected {expected}, as ViT-B/16 has it. "
            "Give MAE's, DeiT's or AugReg's ViT-B/16."
        )
    foreign = [key for key in state if key not in ours and not key.startswith(BESIDE_THE_ENCODER)]
    if foreign:
        raise CheckpointError(
            f"weights {source!r}: got {foreign[0]} {tuple(state[foreign[0]].shape)}, which a plain ViT does not have; "
            "expected a ViT-B/16 with timm's names. Give MAE's, DeiT's or AugReg's."
        )
    tokens = 2 if "dist_token" in state else 1
    positions = state["pos_embed"]
    side = side_of(positions.shape[1] - tokens) if positions.dim() == 3 else 0
    if not side:
        raise CheckpointError(
            f"weights {source!r}: got pos_embed {tuple(positions.shape)}; expected {tokens} and a square number of "
            "positions, as 1 + 14 x 14. Give MAE's, DeiT's or AugReg's ViT-B/16."
        )
    grid = positions[:, tokens:]
    # The embedding of 14 x 14 stays in OSTrack's files although nothing reads it.
    kept = grid if side == PRETRAINED_GRID else resize_pos_embed(grid, PRETRAINED_GRID)
    init_from_vit(model, {**state, "pos_embed": torch.cat([positions[:, :1], kept], dim=1)})
    template, search = model.config.template_grid, model.config.search_grid
    with torch.no_grad():  # from the file's own grid, whatever it is
        model.backbone.pos_embed_z.copy_(resize_pos_embed(grid, template))
        model.backbone.pos_embed_x.copy_(resize_pos_embed(grid, search))
    ignored = sorted({key.partition(".")[0] for key in state if key not in ours})
    notes = [
        f"taken: {len(ours) - 2} tensors of the backbone",
        f"resized: pos_embed from {side} x {side} to {template} x {template} for the template "
        f"and {search} x {search} for the search region",
    ]
    if ignored:
        notes.append(f"ignored: {shortened(ignored)}")
    return kind_of_vit(state), tuple(notes)


def kind_of_vit(state: State, vit: str = "ViT-B/16") -> str:
    """What a ViT file was made by, as far as its tensors tell."""
    if "mask_token" in state or "decoder_embed.weight" in state:
        return f"MAE's {vit}, encoder and decoder"
    if "dist_token" in state:
        return f"DeiT's distilled {vit}"
    if "head.weight" in state:
        return f"a {vit} classifier of {len(state['head.weight']):,} classes, as DeiT's and AugReg's"
    return f"a {vit} encoder, as MAE's"


def take_encoder(model: OneTrackM, state: State, source: str) -> tuple[str, tuple[str, ...]]:
    """Load a ViT's encoder, or the convolutions of a file of their own or of another tracker, in place."""
    config, backbone = model.config, model.backbone
    inner = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    given = inner or state
    if config.backbone == "vit":
        title = kind_of_vit(given, f"ViT of width {config.width}, patches of {config.stride} px")
        ours, beside = backbone.state_dict().keys(), tuple[str, ...](BESIDE_THE_ENCODER)
    else:
        is_mobile = config.backbone == "mobilevit"
        title = "MobileViT-S" if is_mobile else "EfficientNet-Lite0"
        ours, beside = backbone.stages.state_dict().keys(), BEHIND_STRIDE_16[MVT if is_mobile else Nano]
    if inner:
        title += f" in the tracker {source!r}"
    foreign = [key for key in given if key not in ours and not key.startswith(beside)]
    if foreign:
        raise CheckpointError(
            f"weights {source!r}: got {foreign[0]} {tuple(given[foreign[0]].shape)}, which {config.backbone} does not "
            "have here; expected a file with the official names, of a ViT timm's. Give that, or the tracker's."
        )
    try:
        taken = init_backbone(model, given)
    except CheckpointError as error:
        raise CheckpointError(f"weights {source!r}: {error}") from error
    notes = [f"taken: {len(taken)} tensors of the backbone"]
    if config.backbone == "vit":
        side = next(side for extra in range(3) if (side := side_of(given["pos_embed"].shape[1] - extra)))
        if side != config.token_grid:
            notes.append(f"resized: pos_embed from {side} x {side} to {config.token_grid} x {config.token_grid}")
    if ignored := sorted({key.partition(".")[0] for key in given if key not in ours}):
        notes.append(f"ignored: {shortened(ignored)}")
    return title, tuple(notes)


def encoder_names(model: OneTrackM) -> frozenset[str]:
    """What `take_encoder` fills: a ViT but for the rows of the window, or the convolutions."""
    part = "backbone." if model.config.backbone == "vit" else "backbone.stages."
    return frozenset(key for key in model.state_dict() if key.startswith(part) and not key.endswith("frame_embed"))


def take_convolutional(model: MVT | Nano, state: State, source: str) -> tuple[str, tuple[str, ...]]:
    """Load MobileViT-S or EfficientNet-Lite0 into the backbone up to stride 16, in place."""
    title = "MobileViT-S" if isinstance(model, MVT) else "EfficientNet-Lite0"
    ours = model.backbone.state_dict()
    behind = BEHIND_STRIDE_16[type(model)]
    unfit = [key for key in ours if key not in state or state[key].shape != ours[key].shape]
    foreign = [key for key in state if key not in ours and not key.startswith(behind)]
    if unfit or foreign:
        first = (unfit + foreign)[0]
        got = tuple(state[first].shape) if first in state else "nothing"
        expected = tuple(ours[first].shape) if first in ours else "nothing"
        raise CheckpointError(
            f"weights {source!r}: got {got} for {first}; expected {expected}, as {title} has it. "
            f"Give a file of {title} with the official names, or of the tracker."
        )
    if isinstance(model, MVT):
        init_from_mobilevit(model, state)
    else:
        model.backbone.load_state_dict({key: state[key] for key in ours})
    ignored = sorted({key.partition(".")[0] for key in state if key not in ours})
    notes = [f"taken: {len(ours)} tensors of the backbone"]
    if ignored:
        notes.append(f"ignored: what lies behind stride 16 ({shortened(ignored)})")
    return title, tuple(notes)


def side_of(num_positions: int) -> int:
    """The side of a square grid of so many positions; 0 where there is none."""
    side = isqrt(max(0, num_positions))
    return side if side * side == num_positions else 0


def shortened(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
