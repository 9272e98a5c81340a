"""The plain Vision Transformer's parts: "An Image is Worth 16x16 Words", arXiv 2010.11929.

Keys are timm's (`proj`, `norm1`, `attn.qkv`, `attn.proj`, `norm2`, `mlp.fc1`, `mlp.fc2`), so that published weights
load. Pre-norm blocks, exact GELU, LayerNorm with eps 1e-6.

Legend: B batch  N tokens  C width  h heads  d = C / h  G grid (tokens per side)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6  # timm's ViT; torch's own default is 1e-5


class PatchEmbed(nn.Module):
    """One token per `stride` x `stride` pixels: a convolution whose kernel is its stride (Eq. 1, without positions)."""

    def __init__(self, stride: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, stride, stride)

    def forward(self, image: Tensor) -> Tensor:  # (B, 3, G * stride, G * stride)
        return self.proj(image).flatten(2).transpose(1, 2)  # (B, G * G, C), row-major


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values (App. A)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, C)
        return self.attend(*self.project(tokens))

    def with_rows(self, tokens: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """`forward(tokens)`, and the softmax rows (B, h, R, N) of the `rows` queries over all keys.

        The fused attention never forms its matrix, so the few rows are computed beside it: the same numbers at
        R / N of the matrix's cost.
        """
        q, k, v = self.project(tokens)
        logits = q[:, :, list(rows)] @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, h, R, N)
        return self.attend(q, k, v), logits.softmax(dim=-1)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, h, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, h, N, d) each
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = F.scaled_dot_product_attention(q, k, v)  # (B, h, N, d)
        return self.proj(heads.transpose(1, 2).flatten(2))  # (B, N, C)


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drop a sample's whole branch with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(branch.shape[0], *[1] * (branch.dim() - 1), device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)


class Block(nn.Module):
    """One pre-norm encoder layer (Eqs. 2 and 3). Its two halves have names for those who step in between."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, C)
        return self.feed_forward(tokens + self.drop_path(self.attn(self.norm1(tokens))))

    def attend_with_rows(self, tokens: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The attention half (Eq. 2), and the attention (B, h, R, N) that the `rows` queries paid to every token."""
        attended, attention_rows = self.attn.with_rows(self.norm1(tokens), rows)
        return tokens + self.drop_path(attended), attention_rows

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """The MLP half (Eq. 3)."""
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


def init_weights(module: nn.Module) -> None:
    """For `Module.apply`: ViT's start for linear layers, normal with deviation 0.02 cut at two, and zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def resize_pos_embed(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embeddings (1, G * G, C) of a square grid, without class token, resized to (1, grid * grid, C).

    Bicubic, `align_corners=False`, as OSTrack resizes MAE's 14 x 14 grid for its template and search region.
    """
    side = round(pos_embed.shape[1] ** 0.5)
    square = pos_embed.transpose(1, 2).unflatten(2, (side, side))  # (1, C, G, G)
    resized = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)  # (1, grid * grid, C)


def sine_cosine_positions(grid: int, width: int) -> Tensor:
    """(1, grid * grid, width) fixed waves, half of the width for the column and half for the row, row-major.

    "Attention Is All You Need" (arXiv 1706.03762, Sec. 3.5) in two dimensions, as MAE's files hold it; width a multiple
    of 4.
    """
    frequency = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid)[:, None] * frequency  # (grid, C / 4)
    waves = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, C / 2)
    columns, rows = waves.expand(grid, -1, -1), waves[:, None].expand(-1, grid, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, grid * grid, width)
