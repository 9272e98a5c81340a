"""SPMTrack: "SPMTrack: Spatio-Temporal Parameter-Efficient Fine-Tuning with Mixture of Experts for Scalable Visual
Tracking", arXiv 2503.18338.

Compared layer by layer with WenRuiCai/SPMTrack at commit c581fe27231f3e16c38578e47daddadfaf6ffd7d. As released:

- A linear layer of DINOv2 stays frozen and is the paper's shared expert. Beside it stand one compress matrix, four
  routed experts and a router whose softmax weighs all four for every token: nothing is dropped and nothing balanced.
  `compression="per_expert"` gives each routed expert a compress matrix of its own; no released file has it.
- The official factor alpha / r of the experts is 1 in every released file and is left out.
- Templates take the top-left block of the search region's position grid, not a grid of their own.
- The product of track query and search tokens that weighs the head's input is not scaled.
- The official code leaves `track_query` and `query_embed` uninitialised, so a training could start from nan. Here they
  start like `token_type_embed`, normal with deviation 0.02.

Legend: B batch  M templates  Lz, Lx template / search tokens  N = 1 + M Lz + Lx tokens  C width  G search grid
        E routed experts  r their rank  P linear layers that read the same tokens (q, k, v: 3; else 1)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import CheckpointError, GeometryError
from sightline.models.dinov2 import DINOV2_B, DINOV2_G, DINOV2_L, Block, DINOv2Config
from sightline.models.vit import NORM_EPS, PatchEmbed, init_weights, resize_pos_embed

Compression = Literal["shared", "per_expert"]
BACKGROUND, FOREGROUND, SEARCH = range(3)  # rows of `token_type_embed`
TRAINED = ("track_query", "query_embed", "token_type_embed", "head.")  # and whatever belongs to a `tmoe`


@dataclass(frozen=True)
class SPMTrackConfig:
    """The network's sizes, and the number of templates as a choice at run time: no weight depends on it.

    backbone: its `image_px` only says where the position embeddings of its file come from.
    rank: width of the compressed tokens. num_experts: routed experts of every linear layer.
    compression: one compress matrix for all routed experts of a layer, as released, or one for each.
    num_templates: how many templates of the memory a search region is related to.
    drop_path: rate of stochastic depth in training, the same in every block.

    Raises `GeometryError` when the numbers do not fit together.
    """

    backbone: DINOv2Config = field(default_factory=DINOv2Config)
    template_px: int = 196
    search_px: int = 378
    rank: int = 64
    num_experts: int = 4
    compression: Compression = "shared"
    num_templates: int = 3
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.backbone, Mapping):  # JSON has no dataclasses
            object.__setattr__(self, "backbone", DINOv2Config(**self.backbone))
        stride = self.backbone.stride
        for name in ("template_px", "search_px"):
            if (side_px := getattr(self, name)) < stride or side_px % stride:
                raise GeometryError(
                    f"{name}: got {side_px}; expected a positive multiple of the stride, {stride} px. Round it."
                )
        if self.template_px > self.search_px:
            raise GeometryError(
                f"template_px: got {self.template_px}; expected at most search_px, {self.search_px}, whose positions "
                "the template shares. Change one."
            )
        for name in ("rank", "num_experts", "num_templates"):
            if (count := getattr(self, name)) < 1:
                raise GeometryError(f"{name}: got {count}; expected at least 1. The official files use the default.")
        if self.compression not in {"shared", "per_expert"}:
            raise GeometryError(
                f"compression: got {self.compression!r}; expected 'shared' or 'per_expert'. "
                "The official files use 'shared'."
            )
        if not 0 <= self.drop_path < 1:
            raise GeometryError(f"drop_path: got {self.drop_path}; expected a rate in [0, 1). Change it.")

    @property
    def template_grid(self) -> int:
        return self.template_px // self.backbone.stride

    @property
    def search_grid(self) -> int:
        return self.search_px // self.backbone.stride


SPMTRACK_B = SPMTrackConfig(DINOV2_B)
SPMTRACK_L = SPMTrackConfig(DINOV2_L, drop_path=0.1)
SPMTRACK_G = SPMTrackConfig(DINOV2_G, drop_path=0.4)
# Ours, for a CPU: half the official sides, rounded to whole tokens; DeiT-Ti's width and heads, half its depth; the rank
# has B's share of the width, 1 / 12. A frame is 344 tokens and 1.5 GMAC where B's is 1,318 and 182.
SPMTRACK_TINY = SPMTrackConfig(
    DINOv2Config(width=192, depth=6, heads=3, image_px=112), template_px=98, search_px=196, rank=16
)


class Router(nn.Linear):
    """A matrix that is read and never called, which `training.processes.shard` must know: a call is what gathers."""


class Experts(nn.Module):
    """The trained matrices beside one frozen linear layer; `mix` computes with them."""

    def __init__(self, inputs: int, outputs: int, config: SPMTrackConfig) -> None:
        super().__init__()

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, columns), std=0.02))  # B too: it is not zero

        if config.compression == "shared":
            self.compress_expert = matrix(config.rank, inputs)
        else:
            self.compress_experts = nn.ParameterList(matrix(config.rank, inputs) for _ in range(config.num_experts))
        self.routed_experts = nn.ParameterList(matrix(outputs, config.rank) for _ in range(config.num_experts))
        self.expert_route = Router(inputs, config.num_experts, bias=False)

    def compress_matrices(self) -> list[Tensor]:
        """One of (r, in), or E of them."""
        return list(self.compress_experts) if hasattr(self, "compress_experts") else [self.compress_expert]


class Matrices(NamedTuple):
    """The experts of P layers that read the same tokens, laid side by side for few large products.

    down: (P r + P E, in), all compress matrices and then all routers; P E r + P E rows with a matrix per expert.
    up: P of (out, E r), the routed experts of a layer.
    """

    down: Tensor
    up: Sequence[Tensor]
    num_experts: int


def side_by_side(layers: Sequence[Experts]) -> Matrices:
    compress = [matrix for layer in layers for matrix in layer.compress_matrices()]
    down = torch.cat([*compress, *(layer.expert_route.weight for layer in layers)])
    up = [torch.cat(list(layer.routed_experts), dim=1) for layer in layers]
    return Matrices(down, up, len(layers[0].routed_experts))


def router_weights(logits: Tensor) -> Tensor:
    """(..., E) logits of a router to the shares of its experts, which add up to 1."""
    return logits.softmax(dim=-1)


def mix(tokens: Tensor, frozen: Sequence[Tensor], matrices: Matrices) -> list[Tensor]:
    """TMoE of P layers: frozen(x) + sum over e of softmax(W_r x)_e B_e A x, exact but for rounding.

    tokens: (B, N, in). frozen: P of (B, N, out), what the frozen layers gave; so is the result. One product compresses
    and routes for all P layers. The compressed token, times each expert's share, lies side by side as E r numbers, and
    all experts of a layer are one product too.
    """
    down, up, num_experts = matrices
    num_layers, rank = len(up), up[0].shape[1] // num_experts
    num_routes = num_layers * num_experts
    compressed, logits = F.linear(tokens, down).split([down.shape[0] - num_routes, num_routes], dim=-1)
    share = router_weights(logits.unflatten(-1, (num_layers, num_experts)))  # (B, N, P, E)
    scaled = share.unsqueeze(-1) * compressed.unflatten(-1, (num_layers, -1, rank))  # (B, N, P, E, r)
    parts = scaled.flatten(-2).unbind(-2)  # P of (B, N, E r)
    return [base + F.linear(part, matrix) for base, part, matrix in zip(frozen, parts, up, strict=True)]


class ExpertLinear(nn.Module):
    """TMoE: a frozen linear layer and its experts, (B, N, in) to (B, N, out). Keys are the official ones."""

    def __init__(self, inputs: int, outputs: int, config: SPMTrackConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.tmoe = Experts(inputs, outputs, config)

    def forward(self, tokens: Tensor) -> Tensor:
        return mix(tokens, [self.linear(tokens)], side_by_side([self.tmoe]))[0]


class ExpertQKV(nn.Module):
    """Queries, keys and values, each of a frozen linear layer with experts of its own."""

    def __init__(self, width: int, config: SPMTrackConfig) -> None:
        super().__init__()
        self.q, self.k, self.v = (ExpertLinear(width, width, config) for _ in range(3))

    def forward(self, tokens: Tensor) -> list[Tensor]:  # (B, N, C), three times
        layers = (self.q, self.k, self.v)
        return mix(tokens, [layer.linear(tokens) for layer in layers], side_by_side([layer.tmoe for layer in layers]))


class FusedQKV(nn.Module):
    """What layers that read the same tokens give, each times `gamma` (out,), with their matrices joined beforehand."""

    def __init__(self, layers: Sequence[ExpertLinear], gamma: Tensor | None = None) -> None:
        super().__init__()
        down, up, self.num_experts = side_by_side([layer.tmoe for layer in layers])
        weight = torch.cat([layer.linear.weight for layer in layers])
        bias = torch.cat([layer.linear.bias for layer in layers])
        if gamma is not None:
            weight, bias, up = weight * gamma[:, None], bias * gamma, [matrix * gamma[:, None] for matrix in up]
        self.weight, self.bias, self.down = (
            nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias, down)
        )
        self.up = nn.ParameterList(nn.Parameter(matrix, requires_grad=False) for matrix in up)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        frozen = F.linear(tokens, self.weight, self.bias).chunk(len(self.up), dim=-1)
        return mix(tokens, frozen, Matrices(self.down, list(self.up), self.num_experts))


class FusedLinear(FusedQKV):
    """The same of one layer."""

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens)[0]


class ThreeLayers(nn.Module):
    """Three linear layers with an exact (erf) GELU between them."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)])

    def forward(self, tokens: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.gelu(second(F.gelu(first(tokens)))))


class Head(nn.Module):
    """Per token one logit and four numbers that become distances to the sides of the box."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_mlp = ThreeLayers(width, 1)
        self.reg_mlp = ThreeLayers(width, 4)
        self.apply(init_weights)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # (B, Lx, C)
        return self.cls_mlp(tokens).float(), self.reg_mlp(tokens).float()  # (B, Lx, 1), (B, Lx, 4)


class Prediction(NamedTuple):
    """What the network says about one search region, row-major over it, float32.

    logit_map: (B, 1, G, G) before the sigmoid.
    box_map: (B, 4, G, G) `xyxy` as fractions of the search crop, one box per cell; it may leave [0, 1].
    query: (B, C) the track query to hand to the next frame.
    """

    logit_map: Tensor
    box_map: Tensor
    query: Tensor


class SideMaps(NamedTuple):
    """A `Prediction` with `score_map` (B, 1, G, G) in [0, 1], which learns to be the IoU of its cell's box."""

    score_map: Tensor
    box_map: Tensor
    query: Tensor


class SPMTrack(nn.Module):
    """SPMTrack from normalised crops to maps. `state_dict` keys are the official ones.

    Crops are float32 RGB, (value / 255 - mean) / std with ImageNet's mean and deviation. What `is_trained` names
    learns; everything else is frozen from the start and comes from a DINOv2 file (`init_from_dinov2`).
    """

    def __init__(self, config: SPMTrackConfig) -> None:
        super().__init__()
        self.config = config
        width = config.backbone.width

        def embedding(*shape: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))

        self.pos_embed = embedding(1, config.search_grid**2, width)
        self.track_query = embedding(1, width)
        self.query_embed = embedding(1, width)
        self.token_type_embed = embedding(3, width)
        self.patch_embed = PatchEmbed(config.backbone.stride, width)
        linear, qkv = partial(ExpertLinear, config=config), partial(ExpertQKV, config=config)
        self.blocks = nn.ModuleList(
            Block(config.backbone, linear, qkv, config.drop_path) for _ in range(config.backbone.depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = Head(width)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_trained(name))

    def encode(self, template: Tensor, foreground: Tensor) -> dict[str, Tensor]:
        """A template's tokens in front of the first block, the same in every frame that uses it.

        template (B, 3, template_px, template_px); foreground (B, Lz) is 1 for the tokens that the target's box touches,
        row-major, else 0. Returns `template_tokens` (B, Lz, C).
        """
        grid = self.config.template_grid
        positions = self.pos_embed.unflatten(1, (self.config.search_grid, -1))[:, :grid, :grid].flatten(1, 2)
        on_target = foreground.unsqueeze(-1) > 0.5  # (B, Lz, 1)
        types = torch.where(on_target, self.token_type_embed[FOREGROUND], self.token_type_embed[BACKGROUND])
        return {"template_tokens": self.patch_embed(template) + positions + types}

    def track(self, search: Tensor, template_tokens: Tensor, query: Tensor) -> SideMaps:
        """One frame: what `predict` gives, with scores in place of logits."""
        logit_map, box_map, query = self.predict(search, template_tokens, query)
        return SideMaps(logit_map.sigmoid(), box_map, query)

    def predict(self, search: Tensor, template_tokens: Tensor, query: Tensor) -> Prediction:
        """Relate a search region (B, 3, search_px, search_px) to M templates and to the frame before.

        template_tokens (B, M, Lz, C): what `encode` gave for each template, oldest first. query (B, C): that of the
        prediction for the frame before; zeros on the first frame.
        """
        query = (query + self.track_query + self.query_embed).unsqueeze(1)  # (B, 1, C)
        search_tokens = self.patch_embed(search) + self.pos_embed + self.token_type_embed[SEARCH]  # (B, Lx, C)
        tokens = torch.cat([query, template_tokens.flatten(1, 2), search_tokens], dim=1)  # (B, N, C)
        for block in self.blocks:
            tokens = block(tokens)
        return self.locate(self.norm(tokens))

    def locate(self, tokens: Tensor) -> Prediction:
        """Read (B, N, C) tokens after the last norm: the query's product with every search token weighs that token."""
        grid = self.config.search_grid
        query, search_tokens = tokens[:, 0], tokens[:, -(grid**2) :]
        weight = search_tokens @ query.unsqueeze(-1)  # (B, Lx, 1)
        logits, sides = self.head(search_tokens * weight)
        left_top, right_bottom = sides.sigmoid().chunk(2, dim=-1)  # distances as fractions of the search crop
        cells = cell_centres(grid, tokens.device)  # (Lx, 2)
        boxes = torch.cat([cells - left_top, cells + right_bottom], dim=-1)  # (B, Lx, 4)
        logit_map, box_map = (rows.transpose(1, 2).unflatten(2, (grid, grid)) for rows in (logits, boxes))
        return Prediction(logit_map, box_map, query.float())

    def forward(self, templates: Tensor, foregrounds: Tensor, searches: Tensor) -> tuple[Prediction, ...]:
        """Frames of one target in order, as training needs them; each takes the detached query of the one before.

        templates (B, M, 3, template_px, template_px), foregrounds (B, M, Lz), searches (B, frames, 3, search_px,
        search_px).
        """
        encoded = self.encode(templates.flatten(0, 1), foregrounds.flatten(0, 1))["template_tokens"]
        template_tokens = encoded.unflatten(0, templates.shape[:2])  # (B, M, Lz, C)
        query = template_tokens.new_zeros(len(templates), self.config.backbone.width)
        predictions = []
        for search in searches.unbind(1):
            predictions.append(self.predict(search, template_tokens, query))
            query = predictions[-1].query.detach()
        return tuple(predictions)


def cell_centres(grid: int, device: torch.device | None = None) -> Tensor:
    """(G * G, 2) x and y of every cell's centre as fractions of the search crop, row-major."""
    centres = (torch.arange(grid, device=device) + 0.5) / grid
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)


def is_trained(name: str) -> bool:
    """Whether the tensor of that `state_dict` key learns, which also says that it is in a released file."""
    return name.startswith(TRAINED) or ".tmoe." in name


def trainable_parameters(model: SPMTrack) -> dict[str, nn.Parameter]:
    """What training changes, by name; the rest is the backbone's and stays as it is, to the bit."""
    return {name: parameter for name, parameter in model.named_parameters() if is_trained(name)}


@torch.no_grad()
def fused(model: SPMTrack) -> SPMTrack:
    """A copy in eval mode that runs faster, for inference and export alone: the same numbers but for rounding.

    The matrices that `forward` otherwise joins on every call are joined once, and LayerScale is multiplied into the
    layers before it. The copy shares nothing with `model` and its keys are not the official ones: load before, save
    the original. Costs the model's memory a second time until the original is let go.
    """
    replaced: dict[int, nn.Module] = {}
    blocks: Iterable[Any] = model.blocks
    for block in blocks:
        inner, outer = block.mlp.children()
        replaced |= {
            id(block.attn.qkv): FusedQKV([block.attn.qkv.q, block.attn.qkv.k, block.attn.qkv.v]),
            id(block.attn.proj): FusedLinear([block.attn.proj], block.ls1.gamma),
            id(block.ls1): nn.Identity(),
            id(inner): FusedLinear([inner]),
            id(outer): FusedLinear([outer], block.ls2.gamma),
            id(block.ls2): nn.Identity(),
        }
    return copy.deepcopy(model, replaced).eval()


def from_dinov2(state: Mapping[str, Tensor], grid: int) -> dict[str, Tensor]:
    """The tensors of a DINOv2 file under our keys: positions resized to grid x grid, q, k and v apart.

    Class token and mask token are left out; unknown names pass unchanged.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "pos_embed":
            ours[name] = resize_pos_embed(tensor[:, 1:], grid)  # the first is the class token's
        elif ".attn.qkv." in name:
            prefix, last = name.rsplit(".", 1)
            ours |= {f"{prefix}.{part}.linear.{last}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
        elif ".attn.proj." in name or ".mlp." in name:
            prefix, last = name.rsplit(".", 1)
            ours[f"{prefix}.linear.{last}"] = tensor
        elif name not in {"cls_token", "mask_token"}:
            ours[name] = tensor
    return ours


def init_from_dinov2(model: SPMTrack, state: Mapping[str, Tensor]) -> None:
    """Fill the frozen part from a DINOv2 file's tensors, official names; what is trained keeps its values.

    Position embeddings are resized (bicubic) to the search region's grid. Further tensors of the file are ignored.
    Raises `CheckpointError` when a tensor is absent or has another shape; nothing is changed then.
    """
    expected = {name: tensor for name, tensor in model.state_dict().items() if not is_trained(name)}
    given = from_dinov2(state, model.config.search_grid)
    unfit = [name for name in expected if name not in given or given[name].shape != expected[name].shape]
    if unfit:
        first = unfit[0]
        got = tuple(given[first].shape) if first in given else "nothing"
        raise CheckpointError(
            f"DINOv2 initialisation does not fit {len(unfit)} of {len(expected)} frozen tensors, first {first}: got "
            f"{got}; expected {tuple(expected[first].shape)}. Pass the DINOv2 file of this size, with its own names."
        )
    model.load_state_dict({name: given[name] for name in expected}, strict=False)
