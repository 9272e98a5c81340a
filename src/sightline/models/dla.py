"""DLA: "Deep Layer Aggregation", arXiv 1707.06484, without its classifier. Keys are the official ones.

A level is a tree of residual blocks. A node joins what its two subtrees gave, 1 x 1; the last node of a tree also joins
the roots of the subtrees on its way, and from level 3 on the tree's own input.

Difference from the paper, from the official code: a tree of depth 2 has a projection of its input for a residual that
its first subtree then makes for itself. Its weights are in every file and reach nothing; here it is not computed and
not trained.

Legend: B batch  C channels  H, W map
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DLAConfig:
    """channels: of levels 0 to 5, strides 1 to 32. depths: 1 or 2, of the trees of levels 2 to 5."""

    channels: tuple[int, int, int, int, int, int] = (16, 32, 64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (1, 2, 2, 1)


DLA_34 = DLAConfig()


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias and BatchNorm, keys `0.*` and `1.*`."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a residual: (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(in_channels, out_channels, 3, stride)
        self.conv2, self.bn2 = conv_norm(out_channels, out_channels, 3)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + residual)


class Root(nn.Module):
    """The node: all maps that it joins, side by side, 1 x 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv, self.bn = conv_norm(in_channels, out_channels, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return F.relu(self.bn(self.conv(torch.cat(maps, dim=1))))


class Tree(nn.Module):
    """A tree of depth 1 or 2 over residual blocks; the first one halves the map where `stride` is 2.

    joins_input: whether the last node joins the tree's own input, halved as well. passed: channels of further maps that
    the last node joins, which a tree above hands down.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        joins_input: bool = False,
        passed: int = 0,
    ) -> None:
        super().__init__()
        self.depth, self.stride, self.joins_input = depth, stride, joins_input
        if joins_input:
            passed += in_channels
        self.tree1: Block | Tree
        self.tree2: Block | Tree
        if depth == 1:
            self.tree1 = Block(in_channels, out_channels, stride)
            self.tree2 = Block(out_channels, out_channels, 1)
            self.root = Root(2 * out_channels + passed, out_channels)
        else:
            self.tree1 = Tree(depth - 1, in_channels, out_channels, stride)
            self.tree2 = Tree(depth - 1, out_channels, out_channels, 1, passed=passed + out_channels)
        self.project = conv_norm(in_channels, out_channels, 1) if in_channels != out_channels else None
        if self.project is not None and depth > 1:
            self.project.requires_grad_(False)

    def forward(self, x: Tensor, handed_down: tuple[Tensor, ...] = ()) -> Tensor:
        halved = F.max_pool2d(x, self.stride) if self.stride > 1 else x
        if self.joins_input:
            handed_down = (*handed_down, halved)
        if self.depth > 1:
            first = self.tree1(x)
            return self.tree2(first, (*handed_down, first))
        first = self.tree1(x, halved if self.project is None else self.project(halved))
        second = self.tree2(first, first)
        return self.root([second, first, *handed_down])


class DLA(nn.Module):
    """Image (B, 3, H, W), H and W multiples of 32, to the maps of levels 3, 4, 5 at strides 8, 16, 32.

    BatchNorm is the ordinary one. Convolutions start normal with variance 2 / fan-out, as officially.
    """

    def __init__(self, config: DLAConfig = DLA_34) -> None:
        super().__init__()

        def stem(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
            return nn.Sequential(*conv_norm(in_channels, out_channels, kernel, stride), nn.ReLU(inplace=True))

        def tree(level: int) -> Tree:
            in_channels, out_channels = config.channels[level - 1 : level + 1]
            return Tree(config.depths[level - 2], in_channels, out_channels, 2, joins_input=level > 2)

        self.channels = config.channels[3:]
        first, second = config.channels[:2]
        self.base_layer = stem(3, first, 7, 1)
        self.level0 = stem(first, first, 3, 1)
        self.level1 = stem(first, second, 3, 2)
        self.level2, self.level3, self.level4, self.level5 = (tree(level) for level in (2, 3, 4, 5))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def levels(self, image: Tensor) -> list[Tensor]:
        """The maps of all six levels, strides 1 to 32."""
        maps = [self.level0(self.base_layer(image))]
        for level in (self.level1, self.level2, self.level3, self.level4, self.level5):
            maps.append(level(maps[-1]))
        return maps

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, _, _, level3, level4, level5 = self.levels(image)
        return level3, level4, level5
