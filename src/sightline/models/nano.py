"""sightline-nano: a tracker of 1.6 M parameters for one CPU core, ours.

What comes from where: joint attention over template and search tokens and the centre decoding from OSTrack (arXiv
2203.11991, Sec. 3.1 and 3.3); a convolutional mobile backbone before the attention and the pixel-wise correlation from
MVT (arXiv 2309.05829); the backbone is EfficientNet-Lite0 to stride 16 (arXiv 1905.11946). Differences: three attention
layers of width 128 instead of twelve of 768, learned position maps, the correlation is an extra input of the head and
not a replacement of the search features, two head branches instead of three.

B batch  C width  T, S template / search side in tokens (6, 12)  K correlation side (8)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.blocks import Maps, pixel_wise_correlation
from sightline.models.efficientnet_lite import CHANNELS, EfficientNetLite0


@dataclass(frozen=True)
class NanoConfig:
    """Sizes of the network. Weights belong to one input size: the position maps have 6 x 6 and 12 x 12 cells."""

    template_px: int = 96
    search_px: int = 192
    stride: int = 16
    width: int = 128
    depth: int = 3
    heads: int = 4
    mlp_width: int = 256
    correlation_grid: int = 8


NANO = NanoConfig()


class JointLayer(nn.Module):
    """Pre-norm attention and MLP over [template; search] tokens (OSTrack Eq. 1-3, without elimination)."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, T*T + S*S, C)
        batch, count, width = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, T*T + S*S, C / heads)
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


def head(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with BatchNorm and ReLU, then 1 x 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 96, 3, padding=1, bias=False),
        nn.BatchNorm2d(96),
        nn.ReLU(inplace=True),
        nn.Conv2d(96, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, out_channels, 1),
    )


class Nano(nn.Module):
    """(B, 3, 96, 96) template and (B, 3, 192, 192) search region, values (rgb / 255 - 127 / 255) / (128 / 255)."""

    def __init__(self, config: NanoConfig = NANO) -> None:
        super().__init__()
        self.config = config
        self.template_grid = config.template_px // config.stride
        self.search_grid = config.search_px // config.stride
        self.backbone = EfficientNetLite0()
        self.project = nn.Conv2d(CHANNELS, config.width, 1)
        self.template_position = nn.Parameter(torch.zeros(1, config.width, self.template_grid, self.template_grid))
        self.search_position = nn.Parameter(torch.zeros(1, config.width, self.search_grid, self.search_grid))
        nn.init.trunc_normal_(self.template_position, std=0.02)
        nn.init.trunc_normal_(self.search_position, std=0.02)
        self.layers = nn.ModuleList(
            JointLayer(config.width, config.heads, config.mlp_width) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        cells = config.correlation_grid**2
        self.correlation = nn.Conv2d(cells, cells, 1)
        self.score_head = head(config.width + cells, 1)
        self.box_head = head(config.width + cells, 4)
        final = self.score_head[-1]
        assert isinstance(final, nn.Conv2d) and final.bias is not None
        nn.init.constant_(final.bias, -2.2)  # start near the share of positive cells (focal loss, CornerNet)

    def encode(self, template: Tensor) -> dict[str, Tensor]:
        """(B, 3, 96, 96) -> {"template_tokens": (B, T*T, C)}; runs once per target."""
        tokens = self.project(self.backbone(template)) + self.template_position  # (B, C, T, T)
        return {"template_tokens": tokens.flatten(2).transpose(1, 2)}

    def track(self, search: Tensor, *, template_tokens: Tensor) -> Maps:
        """(B, 3, 192, 192) and the encoded template -> maps of 12 x 12; runs on every frame."""
        t, s, k, width = self.template_grid, self.search_grid, self.config.correlation_grid, self.config.width
        x = self.project(self.backbone(search)) + self.search_position  # (B, C, S, S)
        tokens = torch.cat([template_tokens, x.flatten(2).transpose(1, 2)], dim=1)  # (B, T*T + S*S, C)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens).transpose(1, 2)  # (B, C, T*T + S*S)
        z = tokens[:, :, : t * t].unflatten(2, (t, t))
        x = tokens[:, :, t * t :].unflatten(2, (s, s))
        z = F.interpolate(z, size=(k, k), mode="bilinear", align_corners=False)  # (B, C, K, K)
        similarity = pixel_wise_correlation(z, x) * width**-0.5  # (B, K*K, S, S)
        fused = torch.cat([x, self.correlation(similarity)], dim=1)
        offset, size = self.box_head(fused).split(2, dim=1)
        return Maps(torch.sigmoid(self.score_head(fused)), torch.sigmoid(size), offset)

    def forward(self, template: Tensor, search: Tensor) -> Maps:
        return self.track(search, **self.encode(template))
