"""A reconstruction of OneTrack-M: "OneTrack-M: A multitask approach to transformer-based MOT models", arXiv 2502.04478.

No code of the authors is public, so nothing here was compared with theirs. Known are a ViT without decoder over the
196 W tokens of W frames, a learnt row that tells frames apart (channel-wise encoding), and three light heads that give
[B, W, 196, 196] each. The rest is assumed; every assumption has its number in docs/models/onetrack_m.md and a field:

- [A-1] the 196 x 196 grids are maps of the frame: each token emits 14 x 14 cells (`cells_per_token`), pixel-shuffled.
- [A-2] heat map 1 channel (`num_classes`), dimension 2, displacement 2. [A-3] the heads: `head_hidden`. [A-4] how they
  start: `heat_bias`, `head_std`.
- [A-6] one patch projection for all frames: `projection`. Channels are frame-major, oldest frame first.
- [A-7] `encoding`, `encoding_std`, and joint attention in all blocks: `joint_from`. There is no class token.

Those of the targets are in `geometry.heatmaps.HeatmapRules`, those of the loop in `trackers.onetrack_m`'s config.

Legend: B batch  W frames of a window  L tokens of a frame  D width  C classes  G grid of the maps (cells per side)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sightline.errors import CheckpointError, GeometryError
from sightline.models import efficientnet_lite, mobilevit
from sightline.models.efficientnet_lite import EfficientNetLite0
from sightline.models.mobilevit import SiamMobileViT
from sightline.models.vit import NORM_EPS, Block, PatchEmbed, init_weights, resize_pos_embed, sine_cosine_positions

BackboneName = Literal["vit", "efficientnet_lite0", "mobilevit"]
HEADS = ("heat_head", "size_head", "displacement_head")  # with "backbone", the parts that a phase may freeze
STAGES_STRIDE = 16  # pixels per token of the convolutional backbones
MOBILEVIT_CHANNELS = 128
COUNTER = ".num_batches_tracked"  # of a BatchNorm, which a forward pass does not read and many files lack


@dataclass(frozen=True)
class OneTrackMConfig:
    """The network's sizes and switches.

    backbone: what makes tokens of a frame. "vit" projects patches; "efficientnet_lite0" and "mobilevit" (MVT's encoder)
        are convolutional stages to stride 16, projected to the width. `depth` blocks follow in either case.
    image_px: side of the square frames, a multiple of the stride (of 32 for mobilevit). stride: pixels per token.
    clip_length: W, frames of a window.
    cells_per_token: the maps have so many cells per token and axis; 7/8 of the stride gives 196 x 196 at 224 px.
    num_classes: channels of the heat map. head_hidden: channels between a head's two convolutions, 0 for a linear one.
    heat_bias: start of the heat map's last bias, the logit of the share of peaks. head_std: deviation with which the
        last convolutions start. size_scale: the size head counts in so many cells; above 1 it learns sooner.
    box: [A-11] what the size head tells, "size" as in the paper, or the four "sides", see
        `geometry.heatmaps.HeatmapRules`.
    projection: "shared" by all frames, or "per_frame", one for each place in the window (ViT only, joint_from 0).
    encoding: "channel", a learnt row for each place in the window beside positions that all frames share, or
        "positional", one learnt table of W L positions (joint_from 0). encoding_std: deviation with which the rows
        start; the table starts as W copies of the positions.
    joint_from: blocks before this one see each frame alone, and so their work is kept with the frame's tokens.
    drop_path: rate of stochastic depth of the last block in training; rises linearly from 0.
    every_frame: `track` gives the maps of all W frames, as a loop in clips needs them, or of the newest alone.

    Raises `GeometryError` when the numbers do not fit together.
    """

    backbone: BackboneName = "vit"
    image_px: int = 224
    stride: int = 16
    clip_length: int = 5
    width: int = 768
    depth: int = 12
    heads: int = 12
    cells_per_token: int = 14
    num_classes: int = 1
    head_hidden: int = 256
    heat_bias: float = -2.19
    head_std: float = 0.001
    size_scale: float = 1.0
    box: Literal["size", "sides"] = "size"
    projection: Literal["shared", "per_frame"] = "shared"
    encoding: Literal["channel", "positional"] = "channel"
    encoding_std: float = 0.02
    joint_from: int = 0
    drop_path: float = 0.0
    every_frame: bool = False

    def __post_init__(self) -> None:
        choices = {
            "backbone": ("vit", "efficientnet_lite0", "mobilevit"),
            "projection": ("shared", "per_frame"),
            "encoding": ("channel", "positional"),
            "box": ("size", "sides"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise GeometryError(f"{name}: got {getattr(self, name)!r}; expected one of {allowed}. Choose one.")
        if self.backbone != "vit" and self.stride != STAGES_STRIDE:
            raise GeometryError(
                f"stride: got {self.stride}; expected {STAGES_STRIDE}, which {self.backbone} ends at. Change it."
            )
        multiple_px = 2 * STAGES_STRIDE if self.backbone == "mobilevit" else self.stride
        if self.image_px < multiple_px or self.image_px % multiple_px:
            raise GeometryError(
                f"image_px: got {self.image_px}; expected a positive multiple of {multiple_px}. Round it."
            )
        for name in ("clip_length", "depth", "cells_per_token", "num_classes"):
            if (count := getattr(self, name)) < 1:
                raise GeometryError(f"{name}: got {count}; expected at least 1. Change it.")
        if self.width % self.heads or self.width % 4:
            raise GeometryError(
                f"width: got {self.width}; expected a multiple of 4 and of the {self.heads} heads. Change one."
            )
        if self.head_hidden < 0 or not 0 <= self.drop_path < 1 or not 0 <= self.joint_from < self.depth:
            raise GeometryError(
                f"network: got head_hidden={self.head_hidden}, drop_path={self.drop_path}, joint_from="
                f"{self.joint_from}; expected 0 or more, a rate in [0, 1), a block in 0..{self.depth - 1}. Change it."
            )
        if self.joint_from and (self.encoding, self.projection) != ("channel", "shared"):
            raise GeometryError(
                f"joint_from: got {self.joint_from} with encoding={self.encoding!r}, projection={self.projection!r}; "
                "expected 0, since a block that sees one frame alone cannot know its place. Change one."
            )
        if self.projection == "per_frame" and self.backbone != "vit":
            raise GeometryError(f"projection: got 'per_frame' with {self.backbone}; expected 'shared'. Change one.")

    @property
    def token_grid(self) -> int:
        """Tokens per side of a frame."""
        return self.image_px // self.stride

    @property
    def grid(self) -> int:
        """G, cells per side of the maps."""
        return self.token_grid * self.cells_per_token


ONETRACK_M_B16 = OneTrackMConfig()
ONETRACK_M_B32 = OneTrackMConfig(stride=32, cells_per_token=28)
ONETRACK_M_L16 = OneTrackMConfig(width=1024, depth=24, heads=16)
ONETRACK_M_TI16 = OneTrackMConfig(width=192, heads=3)  # DeiT's width and heads
# Ours, for a CPU: convolutions that know edges from ImageNet, three joint blocks as in sightline-nano, cells of 4 px.
ONETRACK_M_TINY = OneTrackMConfig(
    backbone="efficientnet_lite0",
    image_px=256,
    clip_length=2,
    width=128,
    depth=3,
    heads=4,
    cells_per_token=4,
    head_hidden=64,
    size_scale=4.0,
    box="sides",
)


class WindowMaps(NamedTuple):
    """What the network ends at, for each of W frames or for the newest alone (then W is 1); row-major, over the frame.

    heat_map: (B, W, C, G, G) probability of an object's centre in [0, 1].
    size_map: (B, W, 2, G, G) width and height of the object centred here, in cells, or (B, W, 4, G, G) how far its
        left, upper, right and lower side are from here.
    displacement_map: (B, W, 2, G, G) in (-1, 1): tanh of the way x, y to the object's centre in the frame before, over
        the scale of `HeatmapRules`.
    """

    heat_map: Tensor
    size_map: Tensor
    displacement_map: Tensor


def head(config: OneTrackMConfig, channels: int) -> nn.Sequential:
    """[A-3] (N, D, g, g) tokens of a frame to (N, channels, G, G): every token emits a square of cells by itself, but
    for the 3 x 3 convolution before. Channel c r r + i r + j of the last convolution is row i, column j of map c."""
    r = config.cells_per_token
    hidden = config.head_hidden
    first = [nn.Conv2d(config.width, hidden, 3, padding=1), nn.ReLU(inplace=True)] if hidden else []
    last = nn.Conv2d(hidden or config.width, channels * r * r, 1)
    nn.init.normal_(last.weight, std=config.head_std)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    if hidden:
        assert isinstance(first[0], nn.Conv2d) and first[0].bias is not None
        nn.init.zeros_(first[0].bias)
    return nn.Sequential(*first, last, nn.PixelShuffle(r))


class Backbone(nn.Module):
    """The encoder over a window. Keys of a ViT are timm's; those of the convolutional stages stand under `stages`."""

    def __init__(self, config: OneTrackMConfig) -> None:
        super().__init__()
        self.config = config
        width, window = config.width, config.clip_length
        if config.backbone == "vit":
            self.patch_embed = PatchEmbed(config.stride, width * (window if config.projection == "per_frame" else 1))
        elif config.backbone == "efficientnet_lite0":
            self.stages: nn.Module = EfficientNetLite0()
            self.project = nn.Conv2d(efficientnet_lite.CHANNELS, width, 1)
        else:
            self.stages = SiamMobileViT(activation="silu", joint=False, dropout=0.0, attention_dropout=0.0)
            self.project = nn.Conv2d(MOBILEVIT_CHANNELS, width, 1)
        positions = sine_cosine_positions(
            config.token_grid, width
        )  # from these a network learns sooner than from noise
        if config.encoding == "channel":
            self.pos_embed = nn.Parameter(positions)  # (1, L, D)
            self.frame_embed = nn.Parameter(torch.randn(window, 1, width) * config.encoding_std)  # E
        else:
            self.pos_embed = nn.Parameter(positions.repeat(1, window, 1))  # (1, W L, D)
        rate = config.drop_path / max(1, config.depth - 1)
        self.blocks = nn.ModuleList(Block(width, config.heads, drop_path=rate * i) for i in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.blocks.apply(init_weights)

    def features(self, frame: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, L, D) before any position, or (B, L, W D), D for each place, if projections differ."""
        if self.config.backbone == "vit":
            return self.patch_embed(frame)
        if isinstance(self.stages, SiamMobileViT):
            maps = mobilevit_alone(self.stages, frame)
        else:
            maps = self.stages(frame)
        return self.project(maps).flatten(2).transpose(1, 2)

    def tokens(self, frame: Tensor) -> Tensor:
        """What a frame gives whatever its place in the window: see `OneTrackM.tokens`."""
        tokens = self.features(frame)
        if self.config.encoding == "channel":
            tokens = tokens + self.pos_embed.repeat(1, 1, tokens.shape[2] // self.config.width)
        for block in self.blocks[: self.config.joint_from]:
            tokens = block(tokens)
        return tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, W, L, D) tokens of the window's frames, oldest first, encoded together: (B, W, L, D)."""
        window = self.config.clip_length
        if self.config.projection == "per_frame":  # of W projections of each frame, the one of its place
            places = tokens.unflatten(3, (window, self.config.width))  # (B, W, L, W, D)
            tokens = torch.stack([places[:, place, :, place] for place in range(window)], dim=1)
        if self.config.encoding == "channel":
            tokens = tokens + self.frame_embed  # channel-wise encoding: row w for all tokens of frame w
        else:
            tokens = tokens + self.pos_embed.unflatten(1, (window, -1))
        joint = tokens.flatten(1, 2)  # (B, W L, D)
        for block in self.blocks[self.config.joint_from :]:
            joint = block(joint)
        return self.norm(joint).unflatten(1, (window, -1))


class OneTrackM(nn.Module):
    """From W frames to the maps of each.

    Frames are float32 RGB, (value / 255 - mean) / std of the initial weights. `tokens` runs once per frame and is kept;
    `track` runs over the tokens of a window. Together they are `forward`.
    """

    graphs = ("tokens", "track")

    def __init__(self, config: OneTrackMConfig = ONETRACK_M_B16) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.heat_head = head(config, config.num_classes)
        self.size_head = head(config, 4 if config.box == "sides" else 2)
        self.displacement_head = head(config, 2)
        last = self.heat_head[-2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, config.heat_bias)

    def tokens(self, frame: Tensor) -> dict[str, Tensor]:
        """What is kept of a frame (B, 3, S, S): {"tokens": (B, L, D)}, with their places in the frame and not yet the
        frame's place in the window.

        With `projection="per_frame"` they are (B, L, W D).
        """
        return {"tokens": self.backbone.tokens(frame)}

    def track(self, tokens: Tensor) -> WindowMaps:
        """The maps of the newest frame, (B, 1, ...), or of all with `every_frame`, (B, W, ...).

        tokens: (B, W, L, D), what `tokens` gave for the frames of the window, oldest first.
        """
        encoded = self.backbone(tokens)
        return self.maps(encoded if self.config.every_frame else encoded[:, -1:])

    def maps(self, encoded: Tensor) -> WindowMaps:
        """The heads, frame by frame: (B, W, L, D) encoded tokens of any number of frames to their maps."""
        grid = self.config.token_grid
        frames = encoded.flatten(0, 1).transpose(1, 2).unflatten(2, (grid, grid))  # (B W, D, g, g)
        heat, size, displacement = (
            part(frames).unflatten(0, encoded.shape[:2])
            for part in (self.heat_head, self.size_head, self.displacement_head)
        )
        return WindowMaps(torch.sigmoid(heat), size * self.config.size_scale, torch.tanh(displacement))

    def forward(self, frames: Tensor) -> WindowMaps:
        """(B, 3 W, S, S) frames on the channel axis, frame-major, oldest first, to the maps of all: for training."""
        window = self.config.clip_length
        tokens = self.backbone.tokens(frames.unflatten(1, (window, 3)).flatten(0, 1))  # (B W, L, D)
        return self.maps(self.backbone(tokens.unflatten(0, (-1, window))))


def mobilevit_alone(stages: SiamMobileViT, image: Tensor) -> Tensor:
    """MVT's encoder on one image, no other beside it: (B, 3, S, S) to (B, 128, S / 16, S / 16)."""
    features = stages.stem(image)
    for downsample, movit in (stages.layer_3, stages.layer_4):
        features = downsample(features)
        assert isinstance(movit, mobilevit.SiamMoViT)
        tokens = movit.global_rep(mobilevit.unfold(movit.local_rep(features)))
        features = movit.merge(features, tokens)
    return features


def init_backbone(model: OneTrackM, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Start the backbone from published weights, in place; heads, and the rows of the window, keep their own start.

    state: a ViT of these sizes with timm's names (MAE's encoder, DeiT's and AugReg's classifiers), whose positions, of
    any square grid, are resized and the same for every frame; for the convolutional backbones EfficientNet-Lite0 or
    ml-cvnets' MobileViT-S with their own names, after which the blocks keep their start. Further tensors are ignored.
    Returns the names of the model's tensors that were filled. Raises `CheckpointError`, and changes nothing, when a
    tensor is absent or has another shape.
    """
    config = model.config
    given = {f"backbone.{name}": tensor for name, tensor in from_vit(config, state).items()}
    if config.backbone != "vit":
        given = {f"backbone.stages.{name}": tensor for name, tensor in state.items()}
    own = model.state_dict()
    parts = ("backbone.patch_embed.", "backbone.pos_embed", "backbone.blocks.", "backbone.norm.")
    taken = [name for name in own if name.startswith(parts if config.backbone == "vit" else "backbone.stages.")]
    taken = [name for name in taken if name in given or not name.endswith(COUNTER)]
    check_fit(taken, own, given, config)
    model.load_state_dict({name: given[name] for name in taken}, strict=False)
    return tuple(taken)


def from_vit(config: OneTrackMConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ViT file as this config needs them: positions resized, and repeated where it keeps W of them."""
    ours = dict(state)
    window, positions = config.clip_length, state.get("pos_embed")
    if positions is not None and positions.dim() == 3:
        count = positions.shape[1]  # some start with the positions of a class token, and of DeiT's distillation token
        for extra in range(3):
            if count > extra and isqrt(count - extra) ** 2 == count - extra:
                grid = resize_pos_embed(positions[:, extra:], config.token_grid)
                ours["pos_embed"] = grid.repeat(1, window if config.encoding == "positional" else 1, 1)
                break
    if config.projection == "per_frame":
        for name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
            if name in state:
                ours[name] = torch.cat([state[name]] * window)
    return ours


def check_fit(
    names: Iterable[str], own: Mapping[str, Tensor], given: Mapping[str, Tensor], config: OneTrackMConfig
) -> None:
    """Raise `CheckpointError` unless each of these tensors was given in the shape that the model has it in."""
    names = list(names)
    unfit = [name for name in names if name not in given or given[name].shape != own[name].shape]
    if not unfit:
        return
    first = unfit[0]
    got = tuple(given[first].shape) if first in given else "nothing"
    whose = {
        "vit": f"a ViT of width {config.width} and stride {config.stride} with timm's names",
        "efficientnet_lite0": "EfficientNet-Lite0",
        "mobilevit": "ml-cvnets' MobileViT-S",
    }
    raise CheckpointError(
        f"{config.backbone} initialisation does not fit {len(unfit)} of {len(names)} backbone tensors, first {first}: "
        f"got {got}; expected {tuple(own[first].shape)}. Pass {whose[config.backbone]}."
    )
