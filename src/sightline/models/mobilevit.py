"""MobileViT: "Light-weight, General-purpose, and Mobile-friendly Vision Transformer", arXiv 2110.02178.

Layers conv_1 to layer_4 of MobileViT-S with the key names of Apple's ml-cvnets, in the form in which the MVT tracker
runs them (goutamyg/MVT at commit 880e74b1d1f720cb51d78b68655a4ffef94ed954): the same weights see the template and the
search region, and the transformers of layer_3 and layer_4 see the tokens of both at once (the Siam-MoViT block).

Differences from the paper:

- layer_5, the 1 x 1 expansion and the classifier are left out: the tracker works at stride 16.
- MVT runs ReLU in the convolutions and in the transformers. The paper, and the weights MVT starts from, use SiLU.

Differences from the official code, at sizes it was never released for:

- Its LayerNorm normalises over the tokens instead of the channels whenever there are exactly d tokens. Released are 320
  tokens for d = 144 and 80 for d = 192, so it never does, and here is the ordinary LayerNorm.
- It resizes a map of odd side to an even one; here that is an error.

Legend: B batch  C channels  d token width  h heads  P = 4 pixels of a 2 x 2 patch
        N patches of a map (Nz template, Nx search)  S image side
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sightline.errors import GeometryError

Activation = Literal["relu", "silu"]
ACTIVATIONS: dict[Activation, type[nn.ReLU] | type[nn.SiLU]] = {"relu": nn.ReLU, "silu": nn.SiLU}

PATCH = 2  # side of a patch, in cells
NUM_HEADS = 4
EXPANSION = 4  # of the inverted residual's hidden channels
FFN_RATIO = 2


class ConvLayer(nn.Module):
    """Convolution without bias, then BatchNorm and activation if asked for.

    (B, C, H, W) to (B, C', H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.block = nn.Sequential(OrderedDict[str, nn.Module](conv=conv))
        if norm:
            self.block.add_module("norm", nn.BatchNorm2d(out_channels))
        if activation:
            self.block.add_module("act", ACTIVATIONS[activation](inplace=True))

    def forward(self, features: Tensor) -> Tensor:
        return self.block(features)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand four times, filter each channel 3 x 3, project back without activation.

    (B, C, H, W) to (B, C', H / stride, W / stride); the input is added where the shapes agree.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, activation: Activation) -> None:
        super().__init__()
        hidden = EXPANSION * in_channels
        self.block = nn.Sequential(
            OrderedDict(
                exp_1x1=ConvLayer(in_channels, hidden, 1, activation=activation),
                conv_3x3=ConvLayer(hidden, hidden, 3, stride=stride, groups=hidden, activation=activation),
                red_1x1=ConvLayer(hidden, out_channels, 1),
            )
        )
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features) if self.has_residual else self.block(features)


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, d), where batch is B * P."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.scale = (width // NUM_HEADS) ** -0.5
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.attn_dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv_proj(tokens).unflatten(-1, (3, NUM_HEADS, -1))  # (batch, tokens, 3, h, d/h)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, h, tokens, d/h)
        weights = torch.softmax((query * self.scale) @ key.transpose(-1, -2), dim=-1)  # (batch, h, tokens, tokens)
        mixed = self.attn_dropout(weights) @ value  # (batch, h, tokens, d/h)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # (batch, tokens, d)


class TransformerLayer(nn.Module):
    """Pre-norm transformer layer, attention then feed-forward, over (batch, tokens, d)."""

    def __init__(self, width: int, *, activation: Activation, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        hidden = FFN_RATIO * width
        self.pre_norm_mha = nn.Sequential(
            nn.LayerNorm(width),
            Attention(width, dropout=attention_dropout),
            nn.Dropout(dropout),
        )
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            ACTIVATIONS[activation](),
            nn.Identity(),  # a dropout of rate 0 in the official code: keeps the second Linear at key 4
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.pre_norm_mha(tokens)
        return tokens + self.pre_norm_ffn(tokens)


def unfold(features: Tensor) -> Tensor:
    """A map (B, d, H, W) as tokens (B * P, N, d): one sequence for each of the four pixel positions in a patch.

    Row b * P + 2 * (y % 2) + x % 2 holds the pixels (y, x) of image b, ordered row-major by patch. `fold` is the
    inverse. Raises GeometryError where the patches do not fill the map.
    """
    width, height_cells, width_cells = features.shape[1:]
    rows, columns = height_cells // PATCH, width_cells // PATCH
    if rows * PATCH != height_cells or columns * PATCH != width_cells:
        raise GeometryError(
            f"map to unfold: got {height_cells} x {width_cells} cells; expected even sides, for patches of 2 x 2. "
            "Use image sides that are multiples of 32 px."
        )
    patches = features.reshape(-1, width, rows, PATCH, columns, PATCH)  # (B, d, H/2, 2, W/2, 2)
    return patches.permute(0, 3, 5, 2, 4, 1).reshape(-1, rows * columns, width)  # (B * P, N, d)


def fold(tokens: Tensor, height_cells: int, width_cells: int) -> Tensor:
    """The inverse of `unfold`: tokens (B * P, N, d) as a map (B, d, H, W)."""
    rows, columns, width = height_cells // PATCH, width_cells // PATCH, tokens.shape[2]
    patches = tokens.reshape(-1, PATCH, PATCH, rows, columns, width)  # (B, 2, 2, H/2, W/2, d)
    return patches.permute(0, 5, 3, 1, 4, 2).reshape(-1, width, height_cells, width_cells)  # (B, d, H, W)


class SiamMoViT(nn.Module):
    """MVT's Siam-MoViT block: a MobileViT block whose transformer relates template and search region.

    Takes and returns the template's map (B, C, Hz, Wz) and the search region's (B, C, Hx, Wx); both pass the same
    weights. A token attends only to tokens at its own pixel position in their patches (MobileViT Eq. 1); there is no
    position embedding. With `joint=False` the transformer sees one branch at a time: two plain MobileViT blocks.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        num_layers: int,
        *,
        activation: Activation,
        joint: bool,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.joint = joint
        self.local_rep = nn.Sequential(
            OrderedDict(
                conv_3x3=ConvLayer(channels, channels, 3, activation=activation),
                conv_1x1=ConvLayer(channels, width, 1, norm=False),
            )
        )
        self.global_rep = nn.Sequential(
            *(
                TransformerLayer(width, activation=activation, dropout=dropout, attention_dropout=attention_dropout)
                for _ in range(num_layers)
            ),
            nn.LayerNorm(width),
        )
        self.conv_proj = ConvLayer(width, channels, 1, activation=activation)
        self.fusion = ConvLayer(2 * channels, channels, 3, activation=activation)

    def relate(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer: template tokens (B * P, Nz, d) and search tokens (B * P, Nx, d), each as it comes out."""
        if not self.joint:
            return self.global_rep(template), self.global_rep(search)
        tokens = self.global_rep(torch.cat([search, template], dim=1))  # (B * P, Nx + Nz, d), official order
        search, template = tokens.split([search.shape[1], template.shape[1]], dim=1)
        return template, search

    def merge(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Put tokens (B * P, N, d) back on the map and fuse them with the block's input (B, C, H, W)."""
        projected = self.conv_proj(fold(tokens, *features.shape[2:]))  # (B, C, H, W)
        return self.fusion(torch.cat([features, projected], dim=1))  # (B, C, H, W)

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        template_tokens, search_tokens = self.relate(
            unfold(self.local_rep(template)),  # (B * P, Nz, d)
            unfold(self.local_rep(search)),  # (B * P, Nx, d)
        )
        return self.merge(template, template_tokens), self.merge(search, search_tokens)


class SiamMobileViT(nn.Module):
    """MobileViT-S up to stride 16, for two images: `stem` sees one alone, `forward` relates the two.

    Stages (channels, stride): conv_1 (16, 2), layer_1 (32, 2), layer_2 (64, 4), layer_3 (96, 8), layer_4 (128, 16).
    """

    def __init__(self, *, activation: Activation, joint: bool, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        residual = partial(InvertedResidual, activation=activation)
        movit = partial(
            SiamMoViT, activation=activation, joint=joint, dropout=dropout, attention_dropout=attention_dropout
        )
        self.conv_1 = ConvLayer(3, 16, 3, stride=2, activation=activation)
        self.layer_1 = nn.Sequential(residual(16, 32))
        self.layer_2 = nn.Sequential(residual(32, 64, stride=2), residual(64, 64), residual(64, 64))
        self.layer_3 = nn.ModuleList([residual(64, 96, stride=2), movit(96, 144, num_layers=2)])
        self.layer_4 = nn.ModuleList([residual(96, 128, stride=2), movit(128, 192, num_layers=4)])

    def stem(self, image: Tensor) -> Tensor:
        """The purely convolutional part: image (B, 3, S, S) to (B, 64, S/4, S/4)."""
        return self.layer_2(self.layer_1(self.conv_1(image)))

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Stems (B, 64, Sz/4, Sz/4) and (B, 64, Sx/4, Sx/4) to (B, 128, Sz/16, Sz/16) and (B, 128, Sx/16, Sx/16)."""
        for downsample, relate in (self.layer_3, self.layer_4):
            template, search = relate(downsample(template), downsample(search))
        return template, search
