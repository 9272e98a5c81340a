"""MVT: "Mobile Vision Transformer-based Visual Object Tracking", BMVC 2023, arXiv 2309.05829.

Compared layer by layer with goutamyg/MVT at commit 880e74b1d1f720cb51d78b68655a4ffef94ed954. Where paper and code
differ we follow the code, which made the released weights:

- The template is matched by pixel-wise correlation, unscaled and reweighted by channel attention; the paper writes
  cross-correlation.
- The head has three branches (score, offset, size); the paper speaks of two.
- ReLU runs where the backbone's initial weights knew SiLU. `MVTConfig.activation` offers both.
- Images are RGB in [0, 1]. The backbone's initial weights expect BGR in [0, 1].

See `sightline.models.mobilevit` for the backbone's own differences.

Legend: B batch  C = 128 channels  Gz, G template and search grid (cells per side, stride 16)  Nz = Gz * Gz
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightline.errors import CheckpointError, GeometryError
from sightline.models.blocks import CenterHead, Maps, pixel_wise_correlation
from sightline.models.mobilevit import PATCH, Activation, SiamMobileViT

CHANNELS = 128  # of the backbone's last stage
STRIDE = 16  # pixels per cell there


@dataclass(frozen=True)
class MVTConfig:
    """The network's sizes and switches. No weight's shape depends on `search_px`, `fusion`, `activation` or a dropout.

    template_px, search_px: sides of the two images, multiples of 32. stride: pixels per cell, fixed by the backbone.
    fusion: True relates the branches inside the backbone (Siam-MoViT); False keeps them apart until the correlation,
        the poster's ablation.
    activation: "relu" as released, or "silu" as in the MobileViT paper.
    dropout: of what attention and feed-forward add to the tokens; attention_dropout: of the attention weights. Both in
        training only.

    Raises `GeometryError` when the sides do not fit the backbone.
    """

    template_px: int = 128
    search_px: int = 256
    stride: int = STRIDE
    head_width: int = 256
    fusion: bool = True
    activation: Activation = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        multiple_px = PATCH * STRIDE  # layer_4 cuts its map into whole patches
        sides_px = (self.template_px, self.search_px)
        if self.stride != STRIDE or min(sides_px) <= 0 or any(side_px % multiple_px for side_px in sides_px):
            raise GeometryError(
                f"MVT sizes: got template_px={self.template_px}, search_px={self.search_px}, stride={self.stride}; "
                f"expected positive multiples of {multiple_px} px and stride {STRIDE}. The released file uses 128, 256."
            )

    @property
    def template_grid(self) -> int:
        """Gz, cells per side of the template."""
        return self.template_px // self.stride

    @property
    def search_grid(self) -> int:
        """G, cells per side of the search region and of every map."""
        return self.search_px // self.stride


MVT_256 = MVTConfig()  # mobilevit_256_128x1_got10k_ep100_cosine_annealing: 5,480,405 parameters


class Neck(nn.Module):
    """A BatchNorm of its own for each branch: (B, C, Gz, Gz) and (B, C, G, G), shapes unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.BN_x = nn.BatchNorm2d(CHANNELS)
        self.BN_z = nn.BatchNorm2d(CHANNELS)

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        return self.BN_z(template), self.BN_x(search)


class ChannelAttention(nn.Module):
    """Multiply each channel by a weight in (0, 1), computed from the means of all channels; (B, Nz, G, G) stays so."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels, 1)
        self.fc2 = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        mean = features.mean(dim=(2, 3), keepdim=True)  # (B, Nz, 1, 1)
        return features * torch.sigmoid(self.fc2(torch.relu(self.fc1(mean))))


class PixelWiseCorrelation(nn.Module):
    """Unscaled pixel-wise correlation, its Nz channels (one per template cell) weighed by channel attention."""

    def __init__(self, num_template_cells: int) -> None:
        super().__init__()
        self.CA_layer = ChannelAttention(num_template_cells)

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        return self.CA_layer(pixel_wise_correlation(template, search))  # (B, Nz, G, G)


class FeatureFusor(nn.Module):
    """The two branches become one map: correlation, then a 1 x 1 convolution to the head's width."""

    def __init__(self, num_template_cells: int, width: int) -> None:
        super().__init__()
        self.pw_corr = PixelWiseCorrelation(num_template_cells)
        self.adj_layer = nn.Conv2d(num_template_cells, width, 1)

    def forward(self, template: Tensor, search: Tensor) -> Tensor:
        return self.adj_layer(self.pw_corr(template, search))  # (B, width, G, G)


class MVT(nn.Module):
    """The MVT tracker's network, with the official `state_dict` keys.

    Images are float32 RGB in [0, 1], (B, 3, side, side); what lies outside the frame is 0. `encode` runs once per
    target, `track` once per frame. The template's last two stages see the search region and so belong to `track`; its
    stem does not, and keeping it saves 0.115 of 3.102 GMAC per frame.
    """

    def __init__(self, config: MVTConfig = MVT_256) -> None:
        super().__init__()
        self.config = config
        self.backbone = SiamMobileViT(
            activation=config.activation,
            joint=config.fusion,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
        )
        self.neck = Neck()
        self.feature_fusor = FeatureFusor(config.template_grid**2, config.head_width)
        self.box_head = CenterHead(config.head_width, config.head_width)

    def encode(self, template: Tensor) -> dict[str, Tensor]:
        """What no frame changes: {"template_stem": (B, 64, template_px / 4, template_px / 4)}."""
        return {"template_stem": self.backbone.stem(template)}

    def track(self, search: Tensor, *, template_stem: Tensor) -> Maps:
        """Maps of G x G cells over the search region (B, 3, search_px, search_px), given what `encode` returned."""
        template, search = self.backbone(template_stem, self.backbone.stem(search))  # (B, C, Gz, Gz), (B, C, G, G)
        return self.box_head(self.feature_fusor(*self.neck(template, search)))

    def forward(self, template: Tensor, search: Tensor) -> Maps:
        """`encode`, then `track`: what training runs."""
        return self.track(search, **self.encode(template))


def init_from_mobilevit(model: MVT, state: Mapping[str, Tensor]) -> None:
    """Start the backbone from MobileViT-S trained on ImageNet-1k, Apple ml-cvnets' `mobilevit_s.pt`, in place.

    `state` is that file's flat dictionary, with names such as `conv_1.block.conv.weight`. Its layer_5, conv_1x1_exp and
    classifier have no place in the tracker and are left out. Raises CheckpointError, before anything is changed, if a
    tensor of the backbone is missing or has another shape.
    """
    expected = model.backbone.state_dict()
    unfit = [name for name, tensor in expected.items() if name not in state or state[name].shape != tensor.shape]
    if unfit:
        first = unfit[0]
        found = tuple(state[first].shape) if first in state else "nothing"
        raise CheckpointError(
            f"MobileViT-S weights lack {len(unfit)} of {len(expected)} tensors, or have them in other shapes: "
            f"got {found} for {first}; expected {tuple(expected[first].shape)}. Use ml-cvnets' mobilevit_s.pt."
        )
    model.backbone.load_state_dict({name: state[name] for name in expected})
