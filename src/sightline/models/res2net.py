"""Res2Net, arXiv 1904.01169, under a feature pyramid (FPN), arXiv 1612.03144: what GTR's detector on TAO sees with.

Res2Net-101 26w x 4s with a deep stem and modulated deformable convolution in res4 and res5, and p3 to p7 on top. Keys
are those of CenterNet2 (xingyizhou/CenterNet2 at commit 8745e01) in detectron2.

Differences from the paper, all from the official code:

- The step of a stage is in its first 1 x 1 convolution, not in the 3 x 3 ones, so the last split is never pooled.
- In the first block of a stage no split is added to the one before it.
- Deep stem; the shortcut averages before its convolution; BatchNorm is frozen: its four vectors are never trained.

Legend: B batch  C channels  H, W map
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.models.deformable import TAPS, deform_conv, split_offset

BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Res2NetConfig:
    """blocks: of res2, res3, res4, res5. deformable: which of these have deformable 3 x 3 convolutions.

    scale: splits of a block. base_width: channels of a split in res2. channels: of the stem's output; res2 has four
    times as many, and each stage doubles both.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 23, 3)
    deformable: tuple[bool, bool, bool, bool] = (False, False, True, True)
    scale: int = 4
    base_width: int = 26
    channels: int = 64


RES2NET_101_DCN = Res2NetConfig()


class FrozenBatchNorm(nn.Module):
    """BatchNorm by its stored statistics and weights, which are buffers: training leaves them as they are."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=BATCH_NORM_EPS)


class ConvNorm(nn.Conv2d):
    """1 x 1 convolution without bias, then the frozen norm at key `norm`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)
        self.norm = FrozenBatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


class Stem(nn.Module):
    """Three 3 x 3 convolutions and a maximum: (B, 3, H, W) to (B, C, H / 4, W / 4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Sequential(
            conv3x3(3, half, stride=2),
            FrozenBatchNorm(half),
            nn.ReLU(inplace=True),
            conv3x3(half, half),
            FrozenBatchNorm(half),
            nn.ReLU(inplace=True),
            conv3x3(half, channels),
        )
        self.bn1 = FrozenBatchNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, stride=2, padding=1)


class Block(nn.Module):
    """Split the bottleneck's channels; each split but the last is filtered 3 x 3 together with the one before it.

    (B, C, H, W) to (B, C', H / stride, W / stride). With `deformable`, a 3 x 3 convolution of the split says where its
    taps look; it starts at zero, which is nowhere else.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, width: int, scale: int, stride: int, deformable: bool
    ) -> None:
        super().__init__()
        self.width, self.deformable = width, deformable
        self.is_first = in_channels != out_channels
        if self.is_first:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                ConvNorm(in_channels, out_channels),
            )
        self.conv1 = ConvNorm(in_channels, scale * width, stride)
        if deformable:
            self.conv2_offsets = nn.ModuleList(conv3x3(width, 3 * TAPS) for _ in range(scale - 1))
        self.convs = nn.ModuleList(conv3x3(width, width) for _ in range(scale - 1))
        self.bns = nn.ModuleList(FrozenBatchNorm(width) for _ in range(scale - 1))
        self.conv3 = ConvNorm(scale * width, out_channels)

    def filter(self, i: int, split: Tensor) -> Tensor:
        if self.deformable:
            where = split_offset(self.conv2_offsets[i](split))
            filtered = deform_conv(split, *where, self.convs[i].get_parameter("weight"))
        else:
            filtered = self.convs[i](split)
        return F.relu(self.bns[i](filtered))

    def forward(self, x: Tensor) -> Tensor:
        splits = list(F.relu(self.conv1(x)).split(self.width, dim=1))  # (B, width, h, w) each
        for i in range(len(self.convs)):
            if i > 0 and not self.is_first:
                splits[i] = splits[i] + splits[i - 1]
            splits[i] = self.filter(i, splits[i])
        shortcut = self.shortcut(x) if self.is_first else x
        return F.relu(self.conv3(torch.cat(splits, dim=1)) + shortcut)


class Res2Net(nn.Module):
    """Image (B, 3, H, W) to res3, res4, res5 at strides 8, 16, 32: 512, 1024, 2048 channels in Res2Net-101."""

    def __init__(self, config: Res2NetConfig) -> None:
        super().__init__()
        self.stem = Stem(config.channels)
        channels, width = config.channels, config.base_width
        out_channels = 4 * channels
        stages = list[nn.Sequential]()
        for stage, (num_blocks, deformable) in enumerate(zip(config.blocks, config.deformable, strict=True)):
            blocks = list[Block]()
            for number in range(num_blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                sizes = {"width": width, "scale": config.scale, "stride": stride}
                blocks.append(Block(channels, out_channels, **sizes, deformable=deformable))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
            width, out_channels = 2 * width, 2 * out_channels
        self.res2, self.res3, self.res4, self.res5 = stages
        self.channels = tuple(4 * config.channels * 2**stage for stage in (1, 2, 3))
        for name, parameter in self.named_parameters():
            if "conv2_offsets" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        res3 = self.res3(self.res2(self.stem(image)))
        res4 = self.res4(res3)
        return res3, res4, self.res5(res4)


class TopBlock(nn.Module):
    """p6 and p7 from p5: two 3 x 3 convolutions of stride 2, ReLU between them (RetinaNet's, arXiv 1708.02002)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, p5: Tensor) -> tuple[Tensor, Tensor]:
        p6 = self.p6(p5)
        return p6, self.p7(F.relu(p6))


class FPN(nn.Module):
    """Image (B, 3, H, W), H and W multiples of 32, to the maps p3 to p7 at strides 8 to 128, each (B, channels, h, w).

    A level is the map of the backbone and what lies above it, doubled, through a 3 x 3 convolution. h and w of p6 and
    p7 are rounded up.
    """

    def __init__(self, config: Res2NetConfig = RES2NET_101_DCN, channels: int = 256) -> None:
        super().__init__()
        bottom_up = Res2Net(config)
        lateral3, lateral4, lateral5 = (nn.Conv2d(above, channels, 1) for above in bottom_up.channels)
        output3, output4, output5 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.fpn_lateral3, self.fpn_output3 = lateral3, output3
        self.fpn_lateral4, self.fpn_output4 = lateral4, output4
        self.fpn_lateral5, self.fpn_output5 = lateral5, output5
        self.top_block = TopBlock(channels)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=1)
        self.bottom_up = bottom_up

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        res3, res4, res5 = self.bottom_up(image)
        m5 = self.fpn_lateral5(res5)
        m4 = self.fpn_lateral4(res4) + F.interpolate(m5, scale_factor=2.0, mode="nearest")
        m3 = self.fpn_lateral3(res3) + F.interpolate(m4, scale_factor=2.0, mode="nearest")
        p5 = self.fpn_output5(m5)
        return self.fpn_output3(m3), self.fpn_output4(m4), p5, *self.top_block(p5)
