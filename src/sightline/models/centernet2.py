"""CenterNet2: "Probabilistic two-stage detection", arXiv 2103.07461, as GTR (arXiv 2203.13250) detects with it.

Compared layer by layer with xingyizhou/CenterNet2 at commit 8745e012e4dbdf560ac2f27e0b771d4907ad4aaf. Two detectors:

- of people (MOT): DLA-34 under a BiFPN (arXiv 1911.09070) and a class-agnostic CenterNet head, one stage;
- of 1203 classes (TAO): Res2Net-101 under an FPN, the same head, and a cascade of three stages (arXiv 1712.00726) that
  refines the boxes that the head proposes and says what is in them.

The network ends at maps and at what it says of given boxes; `sightline.geometry.detections` makes boxes of the maps.
Differences from the papers, all from the official code:

- A BiFPN's convolutions are whole, not separable, with GroupNorm, and come after their activation.
- The last convolution of the head's tower is deformable; a tower for classes, which the head could have, is empty.
- Every stage of the cascade scores several classes with sigmoids, and one class (CrowdHuman) with a softmax of it and
  nothing; the mean of the stages is the score.

Legend: B images  C channels of the pyramid  h, w maps of a level  N boxes  D width of a box's vector
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import GeometryError
from sightline.models.deformable import ModulatedDeformConv
from sightline.models.dla import DLA, DLAConfig
from sightline.models.res2net import FPN, Res2NetConfig
from sightline.models.roi_align import roi_align

GROUPS = 32  # of every GroupNorm
NUM_LEVELS = 5  # p3 to p7, strides 8 to 128
TOWER_DEPTH = 4
PRIOR = 0.01  # the probability of an object, or of a class, that a fresh network gives
ROI_PX = 7
EDGE_EPS = 1e-4
DELTA_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))  # of the three stages
LARGEST_DELTA = math.log(1000 / 16)  # of the logarithm of a side
CANONICAL_PX, CANONICAL_LEVEL = 224, 4  # FPN, Eq. (1): a box of that side is read from p4
# BiFPN: the level of each node (0 is p3) and the maps it joins. 0 to 4 are the cell's inputs, node k makes map 5 + k.
NODES = (
    (3, (3, 4)),
    (2, (2, 5)),
    (1, (1, 6)),
    (0, (0, 7)),
    (1, (1, 7, 8)),
    (2, (2, 6, 9)),
    (3, (3, 5, 10)),
    (4, (4, 11)),
)


@dataclass(frozen=True)
class CenterNet2Config:
    """The network's sizes.

    backbone: DLA goes under a BiFPN of `num_cells`, Res2Net under an FPN. channels: C, a multiple of 32; with 32 itself
    a map of one cell cannot be normalised, so an image must be larger than 128 x 128. deformable_tower: whether the
    head's last convolution is. num_classes: of the cascade; 0 for no second stage. pool_levels: 1 to read boxes from
    p3, 2 for p3 and p4, each box from that of its size. width: D.

    Raises `GeometryError` when the numbers do not fit together.
    """

    backbone: DLAConfig | Res2NetConfig = field(default_factory=DLAConfig)
    channels: int = 160
    num_cells: int = 3
    deformable_tower: bool = True
    num_classes: int = 0
    pool_levels: int = 1
    width: int = 1024

    def __post_init__(self) -> None:
        if isinstance(self.backbone, Mapping):  # JSON has neither dataclasses nor tuples
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in self.backbone.items()
            }
            kind = Res2NetConfig if "base_width" in fields else DLAConfig
            object.__setattr__(self, "backbone", kind(**fields))
        if self.channels < GROUPS or self.channels % GROUPS:
            raise GeometryError(
                f"channels: got {self.channels}; expected a positive multiple of {GROUPS}, the groups of the norms. "
                "Round it."
            )
        for name, least in (("num_cells", 1), ("num_classes", 0), ("width", 1)):
            if (count := getattr(self, name)) < least:
                raise GeometryError(f"{name}: got {count}; expected at least {least}. Change it.")
        if self.pool_levels not in {1, 2}:
            raise GeometryError(f"pool_levels: got {self.pool_levels}; expected 1 to 2. Take p3, or p3 and p4.")


CENTERNET_MOT = CenterNet2Config()  # GTR_MOT_FPN, GTR_MOTFull_FPN
CENTERNET_TAO = CenterNet2Config(Res2NetConfig(), channels=256, num_classes=1203)  # GTR_TAO_DR2101
# What the two start from: CH_FPN_1x, trained on CrowdHuman, and C2_LVISCOCO_DR2101_4x.
CENTERNET_CROWDHUMAN = CenterNet2Config(deformable_tower=False, num_classes=1)
CENTERNET_LVIS_COCO = CenterNet2Config(Res2NetConfig(), channels=256, num_classes=1203, pool_levels=2)


class ConvNorm(nn.Module):
    """Convolution without bias and GroupNorm, keys `conv.*` and `bn.*`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.GroupNorm(GROUPS, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def to_width(in_channels: int, channels: int) -> nn.Sequential:
    """1 x 1, from the backbone's channels to the pyramid's; keys `conv.conv.*` and `conv.bn.*`."""
    return nn.Sequential(OrderedDict(conv=ConvNorm(in_channels, channels, 1)))


class Join(nn.Module):
    """The weighted mean of maps of neighbouring levels, "fast normalized fusion" (BiFPN Sec. 3.3).

    sources: index and level of each map. widths: the channels of those maps that come from the backbone, by index; a
    node brings these to its own channels by itself.
    """

    def __init__(
        self, level: int, sources: Sequence[tuple[int, int]], widths: Mapping[int, int], channels: int
    ) -> None:
        super().__init__()
        self.level, self.sources = level, tuple(sources)
        self.edge_weights = nn.Parameter(torch.ones(len(self.sources)))
        self.resample = nn.ModuleDict(
            {str(index): to_width(widths[index], channels) for index, _ in self.sources if index in widths}
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        weights = F.relu(self.edge_weights)
        total = weights.sum() + EDGE_EPS
        joined = []
        for weight, (index, level) in zip(weights, self.sources, strict=True):
            x = self.resample[str(index)](maps[index]) if str(index) in self.resample else maps[index]
            if level < self.level:
                x = F.max_pool2d(x, 2)
            elif level > self.level:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            joined.append(x * (weight / total))
        return torch.stack(joined).sum(dim=0)


class Node(nn.Module):
    """A join, Swish, and a 3 x 3 convolution."""

    def __init__(self, join: Join, channels: int) -> None:
        super().__init__()
        self.combine = join
        self.after_combine = nn.Sequential(OrderedDict(activation=nn.SiLU(), conv=ConvNorm(channels, channels, 3)))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.after_combine(self.combine(maps))


class Cell(nn.Module):
    """Down the pyramid and up again: five maps to five maps. `widths` as in `Join`."""

    def __init__(self, channels: int, widths: Mapping[int, int]) -> None:
        super().__init__()
        level_of = [*range(NUM_LEVELS), *(level for level, _ in NODES)]
        self.fnode = nn.ModuleList(
            Node(Join(level, [(index, level_of[index]) for index in inputs], widths, channels), channels)
            for level, inputs in NODES
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        maps = list(maps)
        for node in self.fnode:
            maps.append(node(maps))
        return maps[-NUM_LEVELS:]


class BiFPN(nn.Module):
    """Image (B, 3, H, W), H and W multiples of 128, to the maps p3 to p7 at strides 8 to 128, each (B, C, h, w)."""

    def __init__(self, bottom_up: DLA, channels: int, num_cells: int) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.resample = nn.ModuleDict({"3": to_width(bottom_up.channels[-1], channels)})  # of p6
        raw = dict(enumerate(bottom_up.channels))
        self.cell = nn.ModuleList(Cell(channels, {} if number else raw) for number in range(num_cells))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.bottom_up(image))
        maps.append(F.max_pool2d(self.resample["3"](maps[-1]), 2))
        maps.append(F.max_pool2d(maps[-1], 2))
        for cell in self.cell:
            maps = cell(maps)
        return tuple(maps)


class Scale(nn.Module):
    """One learnt factor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class HeadMaps(NamedTuple):
    """What the CenterNet head says of each cell of the five levels.

    distances: 5 of (B, 4, h, w), left, top, right and bottom side from the cell's centre, in strides, not negative.
    logits: 5 of (B, 1, h, w), of the probability that an object's centre is there.
    """

    distances: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]


class CenterNetHead(nn.Module):
    """Boxes and the centres of objects of any class, by one tower for all levels.

    A fresh one's convolutions are normal with deviation 0.01, so every distance is near 8 strides at first and every
    probability near 1 %.
    """

    def __init__(self, channels: int, *, deformable: bool) -> None:
        super().__init__()
        tower = list[nn.Module]()
        for depth in range(TOWER_DEPTH):
            last = depth == TOWER_DEPTH - 1
            layer = (
                ModulatedDeformConv(channels, channels)
                if last and deformable
                else nn.Conv2d(channels, channels, 3, padding=1)
            )
            tower += [layer, nn.GroupNorm(GROUPS, channels), nn.ReLU(inplace=True)]
        self.bbox_tower = nn.Sequential(*tower)
        self.bbox_pred = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(NUM_LEVELS))
        self.agn_hm = nn.Conv2d(channels, 1, 3, padding=1)
        for module in (*self.bbox_tower, self.bbox_pred, self.agn_hm):
            if isinstance(module, nn.Conv2d):
                init_layer(module, 0.01)
        init_bias(self.bbox_pred, 8.0)
        init_bias(self.agn_hm, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, pyramid: Sequence[Tensor]) -> HeadMaps:
        towers = [self.bbox_tower(level) for level in pyramid]
        distances = (F.relu(scale(self.bbox_pred(x))) for scale, x in zip(self.scales, towers, strict=True))
        return HeadMaps(tuple(distances), tuple(self.agn_hm(x) for x in towers))


def init_layer(layer: nn.Conv2d | nn.Linear, deviation: float) -> None:
    nn.init.normal_(layer.weight, std=deviation)
    init_bias(layer, 0.0)


def init_bias(layer: nn.Conv2d | nn.Linear, value: float) -> None:
    assert layer.bias is not None
    nn.init.constant_(layer.bias, value)


class BoxHead(nn.Module):
    """What is pooled under a box, (N, C, 7, 7), to its vector (N, D): two linear layers, each with a ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * ROI_PX**2, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            init_bias(layer, 0.0)

    def forward(self, pooled: Tensor) -> Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))


class BoxPredictor(nn.Module):
    """A box's vector (N, D) to class logits (N, K + 1), the last of nothing and unused, and box deltas (N, 4)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4)
        init_layer(self.cls_score, 0.01)
        init_layer(self.bbox_pred, 0.001)
        init_bias(self.cls_score, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(vectors), self.bbox_pred(vectors)


class RoIHeads(nn.Module):
    """The cascade; without classes it only pools."""

    def __init__(self, config: CenterNet2Config) -> None:
        super().__init__()
        stages = range(len(DELTA_WEIGHTS) if config.num_classes else 0)
        self.box_head = nn.ModuleList(BoxHead(config.channels, config.width) for _ in stages)
        self.box_predictor = nn.ModuleList(BoxPredictor(config.width, config.num_classes) for _ in stages)

    def forward(
        self, maps: Sequence[Tensor], boxes: Tensor, size: Tensor, image_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Class probabilities (N, K + 1), the mean of the stages, and the boxes that the last one makes, (N, 4).

        Those of several classes are sigmoids; with one class, it and nothing share a softmax.
        maps: those that boxes are read from, p3 first, each (B, C, h, w). boxes (N, 4): proposals, xyxy in pixels of
        the padded image. size (2,): height and width of the image in it, where boxes end before the next stage refines
        them; the last stage's do not. image_index (N,): the image of each box; None: the first.
        """
        scores = []
        for stage in range(len(self.box_head)):
            if stage:
                boxes = clip(boxes, size)
            logits, deltas = self.stage(stage, pool(maps, boxes, image_index))
            boxes = refine(boxes, deltas, DELTA_WEIGHTS[stage])
            scores.append(logits.sigmoid() if logits.shape[1] > 2 else logits.softmax(dim=1))
        return torch.stack(scores).mean(dim=0), boxes

    def stage(self, number: int, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N, K + 1) and box deltas (N, 4) of one stage, from (N, C, 7, 7)."""
        return self.box_predictor[number](self.box_head[number](pooled))


def pool(maps: Sequence[Tensor], boxes: Tensor, image_index: Tensor | None = None) -> Tensor:
    """RoIAlign of boxes (N, 4) in pixels, (N, C, 7, 7), from p3, or from that of several maps which fits their size."""
    if len(maps) == 1:
        return roi_align(maps[0], boxes, ROI_PX, 1 / 8, image_index)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1).sqrt()
    level = (CANONICAL_LEVEL - 3 + torch.log2(sides / CANONICAL_PX + 1e-8)).floor().clamp(0, len(maps) - 1)
    pooled = maps[0].new_zeros(len(boxes), maps[0].shape[1], ROI_PX, ROI_PX)
    for number, features in enumerate(maps):
        chosen = (level == number).nonzero().squeeze(1)
        index = None if image_index is None else image_index[chosen]
        scale = 1 / (8 << number)
        pooled = pooled.index_put((chosen,), roi_align(features, boxes[chosen], ROI_PX, scale, index))
    return pooled


def refine(boxes: Tensor, deltas: Tensor, weights: Sequence[float]) -> Tensor:
    """Move and stretch boxes (N, 4) xyxy by deltas (N, 4): centre in sizes, logarithm of the sizes, times weights."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    shift, stretch = (deltas / deltas.new_tensor(weights)).split(2, dim=1)
    centre, half = centre + shift * size, stretch.clamp(max=LARGEST_DELTA).exp() * size / 2
    return torch.cat([centre - half, centre + half], dim=1)


def clip(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes (N, 4) xyxy within an image of `size` (2,), height and width."""
    return boxes.clamp(min=0).minimum(size.flip(0).repeat(2))


class CenterNet2(nn.Module):
    """The detector, from normalised images to maps and from boxes to classes. `state_dict` keys are the official ones.

    Images are float32 RGB, (value / 255 - mean) / std with ImageNet's mean and deviation, padded below and to the right
    with zeros to multiples of 128 (BiFPN) or 32 (FPN).
    """

    def __init__(self, config: CenterNet2Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = (
            BiFPN(DLA(config.backbone), config.channels, config.num_cells)
            if isinstance(config.backbone, DLAConfig)
            else FPN(config.backbone, config.channels)
        )
        head = CenterNetHead(config.channels, deformable=config.deformable_tower)
        self.proposal_generator = nn.ModuleDict({"centernet_head": head})
        self.roi_heads = RoIHeads(config)

    def forward(self, image: Tensor) -> tuple[tuple[Tensor, ...], HeadMaps]:
        """(B, 3, H, W) to the pyramid p3 to p7, 5 of (B, C, h, w), and what the head says of it."""
        pyramid = self.backbone(image)
        return pyramid, self.proposal_generator["centernet_head"](pyramid)

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """The first stage by name: `p3` (and `p4`, where boxes are read from it), `reg_0`.. `reg_4`, `agn_0`.. `agn_4`.

        image (B, 3, H, W). `reg_l` and `agn_l` are the `distances` and `logits` of `HeadMaps`.
        """
        pyramid, maps = self(image)
        named = {f"p{level + 3}": pyramid[level] for level in range(self.config.pool_levels)}
        named |= {f"reg_{level}": distances for level, distances in enumerate(maps.distances)}
        return named | {f"agn_{level}": logits for level, logits in enumerate(maps.logits)}

    def classify(self, p3: Tensor, boxes: Tensor, size: Tensor, p4: Tensor | None = None) -> dict[str, Tensor]:
        """The second stage of one image by name: `class_scores` (N, K + 1), `boxes` (N, 4); see `RoIHeads.forward`."""
        scores, boxes = self.roi_heads([p3] if p4 is None else [p3, p4], boxes, size)
        return {"class_scores": scores, "boxes": boxes}
