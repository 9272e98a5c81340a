"""Modulated deformable convolution, 3 x 3: "Deformable ConvNets v2", arXiv 1811.11168, Eq. (1), one group, stride 1.

Each of the nine taps looks where an offset sends it and counts as much as a mask says:

    y(p) = sum over k of w_k x(p + p_k + offset_k) mask_k

with bilinear x, zero outside the map. The sampling is `grid_sample`, so that gradients, GPU and ONNX come with torch.

Legend: B batch  C, O channels in / out  H, W map
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = 9


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The sum above for every cell: (B, C, H, W) to (B, O, H, W).

    offset (B, 18, H, W): dy, dx of tap 0, of tap 1, ... in cells; taps are row-major. mask (B, 9, H, W). weight
    (O, C, 3, 3), bias (O). Cost: nine copies of x are held at once.
    """
    height, width = x.shape[-2:]
    taps = torch.arange(-1, 2, device=x.device)
    rows = torch.arange(height, device=x.device)[:, None] + taps.repeat_interleave(3)[:, None, None]  # (9, H, 1)
    columns = torch.arange(width, device=x.device) + taps.repeat(3)[:, None, None]  # (9, 1, W)
    dy, dx = offset.unflatten(1, (TAPS, 2)).unbind(2)  # (B, 9, H, W) each
    # grid_sample counts from -1 at the map's left edge to 1 at its right one; a cell's centre is half a cell inside.
    grid = torch.stack([(columns + dx + 0.5) * (2 / width) - 1, (rows + dy + 0.5) * (2 / height) - 1], dim=-1)
    sampled = F.grid_sample(x, grid.flatten(1, 2), align_corners=False)  # (B, C, 9 H, W), zero outside
    sampled = sampled.unflatten(2, (TAPS, height)) * mask.unsqueeze(1)  # (B, C, 9, H, W)
    y = (weight.flatten(1) @ sampled.flatten(3).flatten(1, 2)).unflatten(2, (height, width))  # (B, O, H, W)
    return y if bias is None else y + bias[:, None, None]


def split_offset(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """What a convolution predicts, (B, 27, H, W), as offset (B, 18, H, W) and mask (B, 9, H, W) in [0, 1]."""
    offset, mask = predicted.split([2 * TAPS, TAPS], dim=1)
    return offset, mask.sigmoid()


class ModulatedDeformConv(nn.Module):
    """A deformable convolution that predicts its own offsets and mask. Keys: `offset.*` and `conv.*`, with biases.

    Starts as the official one: small random offsets, deviation 0.01, and masks near 1 / 2.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offset = nn.Conv2d(in_channels, 3 * TAPS, 3, padding=1)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)  # holds the weights; its forward is not used
        nn.init.normal_(self.offset.weight, std=0.01)
        nn.init.kaiming_uniform_(self.conv.weight, nonlinearity="relu")
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, O, H, W)
        offset, mask = split_offset(self.offset(x))
        return deform_conv(x, offset, mask, self.conv.weight, self.conv.bias)
