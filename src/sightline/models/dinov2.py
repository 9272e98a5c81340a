"""DINOv2's Vision Transformer: "DINOv2: Learning Robust Visual Features without Supervision", arXiv 2304.07193.

A ViT of patch 14 with LayerScale (arXiv 2103.17239) on both branches of a block and, in the giant, SwiGLU (arXiv
2002.05202) for its feed-forward. Keys are those of the official files. An adapted network passes its own layers in
place of `nn.Linear`.

Legend: B batch  N tokens  C width  h heads  d = C / h  G grid (tokens per side)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import GeometryError
from sightline.models.vit import NORM_EPS, DropPath, PatchEmbed, init_weights

LAYER_SCALE = 0.1  # at the start of a training, CaiT's choice up to 18 blocks; every published file has its own

Layer = Callable[[int, int], nn.Module]  # inputs and outputs to a module like `nn.Linear`
Projection = Callable[[int], nn.Module]  # width to a module that gives queries, keys and values, (B, N, C) each


@dataclass(frozen=True)
class DINOv2Config:
    """Sizes of the backbone; `image_px` is the side that its position embeddings were learnt at.

    Raises `GeometryError` when the numbers do not fit together.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    ffn: Literal["mlp", "swiglu"] = "mlp"
    image_px: int = 518
    stride: int = 14

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise GeometryError(f"heads: got {self.heads}; expected a divisor of the width {self.width}. Change one.")
        if self.image_px < self.stride or self.image_px % self.stride:
            raise GeometryError(
                f"image_px: got {self.image_px}; expected a positive multiple of the stride, {self.stride}. Round it."
            )
        if self.ffn not in {"mlp", "swiglu"}:
            raise GeometryError(f"ffn: got {self.ffn!r}; expected 'mlp' or 'swiglu'. Only the giant has 'swiglu'.")

    @property
    def grid(self) -> int:
        return self.image_px // self.stride


DINOV2_B = DINOv2Config()
DINOV2_L = DINOv2Config(width=1024, depth=24, heads=16)
DINOV2_G = DINOv2Config(width=1536, depth=40, heads=24, ffn="swiglu")


class QKV(nn.Linear):
    """Queries, keys and values from one matrix."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)

    def forward(self, tokens: Tensor) -> Sequence[Tensor]:  # type: ignore[override]  # (B, N, C), three times
        return super().forward(tokens).chunk(3, dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, linear: Layer = nn.Linear, qkv: Projection = QKV) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = qkv(width)
        self.proj = linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, C)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens))  # (B, h, N, d)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them; four times as wide inside."""

    def __init__(self, width: int, linear: Layer = nn.Linear) -> None:
        super().__init__()
        self.fc1 = linear(width, 4 * width)
        self.fc2 = linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class SwiGLU(nn.Module):
    """SiLU of one half times the other; inside 8 / 3 as wide, rounded up to a multiple of 8: 4096 for 1536."""

    def __init__(self, width: int, linear: Layer = nn.Linear) -> None:
        super().__init__()
        hidden = (4 * width * 2 // 3 + 7) // 8 * 8
        self.w12 = linear(width, 2 * hidden)
        self.w3 = linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """One learnt factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.gamma


class Block(nn.Module):
    """x + ls1(attention(norm1(x))), then x + ls2(feed-forward(norm2(x))); a branch may be dropped in training."""

    def __init__(
        self, config: DINOv2Config, linear: Layer = nn.Linear, qkv: Projection = QKV, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        width = config.width
        self.drop_path = DropPath(drop_path)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, config.heads, linear, qkv)
        self.ls1: nn.Module = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = (Mlp if config.ffn == "mlp" else SwiGLU)(width, linear)
        self.ls2: nn.Module = LayerScale(width)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, C)
        tokens = tokens + self.drop_path(self.ls1(self.attn(self.norm1(tokens))))
        return tokens + self.drop_path(self.ls2(self.mlp(self.norm2(tokens))))


class DINOv2(nn.Module):
    """The backbone by itself, as its files hold it and as a small one is pre-trained: image to tokens."""

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid**2, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width))  # of its own pre-training; unused here
        self.patch_embed = PatchEmbed(config.stride, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_weights)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, image_px, image_px) normalised RGB -> (B, 1 + G * G, C) after the last norm, class token first."""
        patches = self.patch_embed(image)  # (B, G * G, C)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)
