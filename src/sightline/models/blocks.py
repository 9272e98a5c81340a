"""The small vocabulary that several papers share: the maps of a template tracker and the centre head.

Legend: B batch  C width  G grid (tokens per side)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

SCORE_FLOOR = 1e-4  # OSTrack clamps score and size to [1e-4, 1 - 1e-4] after the sigmoid
GROUPS = 8  # of GroupNorm, where it takes the place of BatchNorm


class Maps(NamedTuple):
    """What a template tracker's network ends at; every map is float32, row-major over the search region.

    score_map: (B, 1, G, G) target centre probability in [0, 1].
    size_map: (B, 2, G, G) width and height as fractions of the search region's side.
    offset_map: (B, 2, G, G) x and y of the centre inside its cell, in cells.
    """

    score_map: Tensor
    size_map: Tensor
    offset_map: Tensor


def conv_norm_relu(in_channels: int, out_channels: int, norm: Literal["batch", "group"]) -> nn.Sequential:
    """3 x 3 convolution with bias, a norm, ReLU; keys `0.*` and `1.*` as in the official heads, whose norm is batch."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels) if norm == "batch" else nn.GroupNorm(GROUPS, out_channels),
        nn.ReLU(inplace=True),
    )


class CenterHead(nn.Module):
    """Fully convolutional centre head: three alike branches for score, offset and size (OSTrack Sec. 3.3).

    Each branch halves its width four times (3 x 3 + BatchNorm + ReLU), then a 1 x 1 convolution. Keys are the
    official ones, `conv{1..4}_{ctr,offset,size}.{0,1}.*` and `conv5_{ctr,offset,size}.*`. The offset is raw, as
    in the official code; the paper states [0, 1]. With `norm="group"` the maps of a sample depend on it alone.
    """

    def __init__(self, in_channels: int, width: int = 256, norm: Literal["batch", "group"] = "batch") -> None:
        super().__init__()
        for branch, out_channels in (("ctr", 1), ("offset", 2), ("size", 2)):
            channels = in_channels
            for depth in range(4):
                setattr(self, f"conv{depth + 1}_{branch}", conv_norm_relu(channels, width >> depth, norm))
                channels = width >> depth
            setattr(self, f"conv5_{branch}", nn.Conv2d(channels, out_channels, 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def branch(self, name: str, features: Tensor) -> Tensor:
        for depth in range(1, 6):
            features = getattr(self, f"conv{depth}_{name}")(features)
        return features

    def forward(self, features: Tensor) -> Maps:  # (B, C, G, G)
        def bounded(logits: Tensor) -> Tensor:
            return torch.sigmoid(logits).clamp(SCORE_FLOOR, 1 - SCORE_FLOOR)

        return Maps(
            score_map=bounded(self.branch("ctr", features)),
            size_map=bounded(self.branch("size", features)),
            offset_map=self.branch("offset", features),
        )


def pixel_wise_correlation(template: Tensor, search: Tensor) -> Tensor:
    """Every template cell against every search cell, unscaled (MVT's neck, after Alpha-Refine).

    template (B, C, K, K), search (B, C, G, G) -> (B, K*K, G, G): channel j is template cell j, row-major.
    """
    cells = template.flatten(2).transpose(1, 2)  # (B, K*K, C)
    return (cells @ search.flatten(2)).unflatten(2, search.shape[-2:])
