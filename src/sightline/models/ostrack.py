"""OSTrack: "Joint Feature Learning and Relation Modeling for Tracking: A One-Stream Framework", arXiv 2203.11991.

Compared layer by layer with botaoye/OSTrack at commit 33b5e12586216b7fd0e95d255bd01ba44cbec759. Where paper and code
differ we follow the code, which made the released weights:

- The template's centre token is ((G - 1) // 2, (G - 1) // 2), so (3, 3) of 8 x 8; the paper writes floor(G / 2).
- The offset map is raw; the paper states [0, 1].
- Kept tokens stay in order of falling score up to the end; the paper does not speak of an order.
- Eliminated positions are exact zeros in front of the head, because the padding comes after the last norm.
- `cls_token` and `pos_embed` are in every official file and no forward pass reads them.

Legend: B batch  Lz, Lx template / search tokens  L living search tokens  C width  h heads  G grid (tokens per side)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sightline.errors import CheckpointError, GeometryError, ProtocolError
from sightline.models.blocks import CenterHead, Maps
from sightline.models.vit import (
    NORM_EPS,
    Block,
    PatchEmbed,
    init_weights,
    resize_pos_embed,
    sine_cosine_positions,
)

DROP_PATH = 0.1  # of the last block in training; rises linearly from 0
PRETRAINED_GRID = 14  # the ViT files that training starts from were made at 224 px


@dataclass(frozen=True)
class OSTrackConfig:
    """The network's sizes, and candidate elimination as a choice at run time: no weight depends on a `ce_` field.

    ce_layers: blocks, counted from 0, that eliminate; () switches elimination off.
    ce_keep_ratios: share of the living search tokens that each of these blocks keeps, one for all or one per block.
    ce_template_tokens: whose attention ranks the candidates: the centre token, the 2 x 2 in the middle, the tokens
        inside the target's box (`encode` then takes a `template_mask`), or all.
    head_norm: "batch" as published; "group" makes a step of several processes the step of one.

    Raises `GeometryError` when the numbers do not fit together.
    """

    template_px: int = 128
    search_px: int = 256
    stride: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    ce_layers: tuple[int, ...] = ()
    ce_keep_ratios: float | tuple[float, ...] = 0.7
    ce_template_tokens: Literal["centre", "2x2", "box", "all"] = "centre"
    head_norm: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        for name in ("ce_layers", "ce_keep_ratios"):
            if isinstance(value := getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(value))
        for name in ("template_px", "search_px"):
            if (side_px := getattr(self, name)) < self.stride or side_px % self.stride:
                raise GeometryError(
                    f"{name}: got {side_px}; expected a positive multiple of the stride, {self.stride} px. Round it."
                )
        if self.width % self.heads:
            raise GeometryError(f"heads: got {self.heads}; expected a divisor of the width {self.width}. Change one.")
        if sorted(set(self.ce_layers)) != list(self.ce_layers) or not set(self.ce_layers) <= set(range(self.depth)):
            raise GeometryError(
                f"ce_layers: got {self.ce_layers}; expected rising block indices from 0 to {self.depth - 1}. "
                "The official files use (3, 6, 9)."
            )
        ratios = self.ce_keep_ratios if isinstance(self.ce_keep_ratios, tuple) else (self.ce_keep_ratios,)
        if not all(0 < ratio <= 1 for ratio in ratios) or len(ratios) not in {1, len(self.ce_layers)}:
            raise GeometryError(
                f"ce_keep_ratios: got {self.ce_keep_ratios} for layers {self.ce_layers}; expected one ratio in (0, 1] "
                "or one per layer. The official files use 0.7."
            )
        if self.ce_template_tokens not in {"centre", "2x2", "box", "all"}:
            raise GeometryError(
                f"ce_template_tokens: got {self.ce_template_tokens!r}; expected 'centre', '2x2', 'box' or 'all'. "
                "The official files use 'centre'."
            )

    @property
    def template_grid(self) -> int:
        return self.template_px // self.stride

    @property
    def search_grid(self) -> int:
        return self.search_px // self.stride

    @property
    def keep_ratios(self) -> dict[int, float]:
        """Block index to keep ratio, for the blocks that eliminate."""
        ratios = self.ce_keep_ratios if isinstance(self.ce_keep_ratios, tuple) else (self.ce_keep_ratios,)
        return dict(zip(self.ce_layers, ratios * (len(self.ce_layers) // len(ratios)), strict=True))

    @property
    def template_rows(self) -> tuple[int, ...]:
        """Flat indices of the template tokens whose attention is computed; box mode then weights all of them."""
        grid = self.template_grid
        if self.ce_template_tokens in {"box", "all"}:
            return tuple(range(grid * grid))
        first = (grid - 1) // 2  # (3, 3) of 8 x 8 and (5, 5) of 12 x 12, not the paper's floor(grid / 2)
        last = first if self.ce_template_tokens == "centre" else grid // 2
        middle = range(first, last + 1)
        return tuple(row * grid + column for row in middle for column in middle)


OSTRACK_256 = OSTrackConfig()
OSTRACK_256_CE = replace(OSTRACK_256, ce_layers=(3, 6, 9))
OSTRACK_384 = OSTrackConfig(template_px=192, search_px=384)
OSTRACK_384_CE = replace(OSTRACK_384, ce_layers=(3, 6, 9))
# Ours: ViT-Ti/16 (DeiT's width and heads) at nano's crops, small enough to be trained on a CPU.
OSTRACK_TINY = OSTrackConfig(template_px=96, search_px=192, width=192, heads=3, ce_layers=(3, 6, 9))


class Elimination(NamedTuple):
    """What one layer kept and removed; indices are int64 positions in the whole search region, row-major.

    tokens: (B, K, C) the kept tokens, by falling score.
    score: (B, L) each candidate's score, in the order in which the candidates came.
    kept_index: (B, K), removed_index: (B, L - K), both by falling score.
    """

    tokens: Tensor
    score: Tensor
    kept_index: Tensor
    removed_index: Tensor


def candidate_elimination(
    attention_rows: Tensor,
    search_tokens: Tensor,
    index: Tensor,
    keep_ratio: float,
    row_mask: Tensor | None = None,
) -> Elimination:
    """Keep the search tokens that the template attends to most (Sec. 3.2, "early candidate elimination").

    attention_rows: (B, h, R, L) post-softmax attention that R template tokens paid to the candidates.
    search_tokens: (B, L, C). index: (B, L) int64 position of each candidate in the search region.
    keep_ratio: ceil(keep_ratio * L) tokens stay; L is a shape, so their number is a constant of the graph.
    row_mask: (B, R) of 0 and 1, at least one 1 per sample; rows at 0 do not vote. None lets every row vote.

    The score is the mean over template rows, then over heads. The kept tokens are reordered by falling score, as in
    the official code. A ratio that keeps every token changes nothing, the order included.
    """
    if row_mask is None:
        votes = attention_rows.mean(dim=2)  # (B, h, L)
    else:
        share = row_mask / row_mask.sum(dim=1, keepdim=True)
        votes = torch.einsum("bhrl,br->bhl", attention_rows, share)
    score = votes.mean(dim=1)  # (B, L)
    num_candidates = search_tokens.shape[1]
    num_kept = math.ceil(keep_ratio * num_candidates)
    if num_kept == num_candidates:
        return Elimination(search_tokens, score, index, index[:, :0])
    order = score.argsort(dim=1, descending=True)
    kept, removed = order[:, :num_kept], order[:, num_kept:]
    tokens = search_tokens.gather(1, kept.unsqueeze(-1).expand(-1, -1, search_tokens.shape[2]))  # (B, K, C)
    return Elimination(tokens, score, index.gather(1, kept), index.gather(1, removed))


def restore(search_tokens: Tensor, kept_index: Tensor, num_tokens: int) -> Tensor:
    """Put kept tokens (B, K, C) back at `kept_index` (B, K) of (B, num_tokens, C); removed positions are zeros."""
    batch, _, width = search_tokens.shape
    padded = search_tokens.new_zeros(batch, num_tokens, width)
    return padded.scatter(1, kept_index.unsqueeze(-1).expand(-1, -1, width), search_tokens)


class Features(NamedTuple):
    """The backbone's output: (B, Lz, C) and (B, Lx, C) tokens after the last norm, and what each layer eliminated."""

    template_tokens: Tensor
    search_tokens: Tensor
    eliminations: tuple[Elimination, ...]


class Backbone(nn.Module):
    """A ViT over template and search tokens together: features are extracted and related in one stream (Sec. 3.1)."""

    def __init__(self, config: OSTrackConfig) -> None:
        super().__init__()

        def positions(num_tokens: int, *, requires_grad: bool = True) -> nn.Parameter:
            embedding = torch.empty(1, num_tokens, config.width)
            return nn.Parameter(nn.init.trunc_normal_(embedding, std=0.02), requires_grad)

        self.cls_token = positions(1, requires_grad=False)  # this and the next are dead, kept for the official files
        self.pos_embed = positions(1 + PRETRAINED_GRID**2, requires_grad=False)
        # The official start is noise, over which a file's positions go. From these a network learns by itself, sooner.
        self.pos_embed_z = nn.Parameter(sine_cosine_positions(config.template_grid, config.width))
        self.pos_embed_x = nn.Parameter(sine_cosine_positions(config.search_grid, config.width))
        self.patch_embed = PatchEmbed(config.stride, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, drop_path=DROP_PATH * layer / max(1, config.depth - 1))
            for layer in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.apply(init_weights)

    def embed_template(self, template: Tensor) -> Tensor:
        return self.patch_embed(template) + self.pos_embed_z  # (B, Lz, C)  Eq. (1)

    def embed_search(self, search: Tensor) -> Tensor:
        return self.patch_embed(search) + self.pos_embed_x  # (B, Lx, C)  Eq. (2)

    def forward(
        self,
        template_tokens: Tensor,
        search_tokens: Tensor,
        keep_ratios: Mapping[int, float],
        template_rows: Sequence[int],
        row_mask: Tensor | None = None,
    ) -> Features:
        """Joint attention over (B, Lz, C) and (B, Lx, C) tokens (Eq. 3), eliminating in the blocks of `keep_ratios`."""
        num_template, num_search = template_tokens.shape[1], search_tokens.shape[1]
        index = torch.arange(num_search, device=search_tokens.device).expand(search_tokens.shape[0], -1)  # (B, Lx)
        eliminations: list[Elimination] = []
        tokens = torch.cat([template_tokens, search_tokens], dim=1)  # (B, Lz + Lx, C)
        for layer, block in enumerate(self.blocks):
            if layer not in keep_ratios:
                tokens = block(tokens)
                continue
            assert isinstance(block, Block)
            tokens, rows = block.attend_with_rows(tokens, template_rows)  # (B, Lz + L, C), (B, h, R, Lz + L)
            candidates = rows[..., num_template:]  # w_x of Eq. (6)
            step = candidate_elimination(candidates, tokens[:, num_template:], index, keep_ratios[layer], row_mask)
            tokens = block.feed_forward(torch.cat([tokens[:, :num_template], step.tokens], dim=1))  # (B, Lz + K, C)
            index = step.kept_index
            eliminations.append(step)
        tokens = self.norm(tokens)
        search_tokens = tokens[:, num_template:]
        if eliminations:
            search_tokens = restore(search_tokens, index, num_search)  # (B, Lx, C)
        return Features(tokens[:, :num_template], search_tokens, tuple(eliminations))


class OSTrack(nn.Module):
    """OSTrack from normalised crops to maps. `state_dict` keys are the official ones, with and without elimination.

    Crops are float32 RGB, (value / 255 - mean) / std with ImageNet's mean and deviation.
    """

    def __init__(self, config: OSTrackConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.box_head = CenterHead(config.width, norm=config.head_norm)

    @property
    def takes_template_mask(self) -> bool:
        return self.config.ce_template_tokens == "box"

    def encode(self, template: Tensor, template_mask: Tensor | None = None) -> dict[str, Tensor]:
        """What a target needs to be remembered by, computed once: (B, 3, template_px, template_px) to named features.

        Returns `template_tokens` (B, Lz, C), still before the first block because the template is attended to anew
        with every search region. With `ce_template_tokens="box"` a `template_mask` (B, Lz) of 0 and 1 is required
        and returned (`geometry.masks.template_token_mask` makes it); otherwise passing one raises `ProtocolError`.
        """
        if (template_mask is not None) != self.takes_template_mask:
            raise ProtocolError(
                f"template_mask: got {'none' if template_mask is None else 'one'} with ce_template_tokens="
                f"{self.config.ce_template_tokens!r}; expected one exactly for 'box'. Change one of the two."
            )
        features = {"template_tokens": self.backbone.embed_template(template)}
        return features if template_mask is None else {**features, "template_mask": template_mask}

    def track(
        self,
        search: Tensor,
        template_tokens: Tensor,
        template_mask: Tensor | None = None,
        keep_ratio: float | None = None,
    ) -> Maps:
        """Maps over a search region (B, 3, search_px, search_px), given what `encode` returned (Sec. 3.3).

        `keep_ratio` overrides the configured ratio in every layer of `ce_layers`; 1 costs what no elimination costs.
        """
        grid = self.config.search_grid
        ratios = self.config.keep_ratios if keep_ratio is None else dict.fromkeys(self.config.ce_layers, keep_ratio)
        ratios = {layer: ratio for layer, ratio in ratios.items() if ratio < 1}
        search_tokens = self.backbone.embed_search(search)
        tokens = self.backbone(template_tokens, search_tokens, ratios, self.config.template_rows, template_mask)
        return self.box_head(tokens.search_tokens.transpose(1, 2).unflatten(2, (grid, grid)))  # (B, C, G, G)

    def forward(
        self,
        template: Tensor,
        search: Tensor,
        template_mask: Tensor | None = None,
        keep_ratio: float | None = None,
    ) -> Maps:
        """Both steps at once, as training needs them: its warm-up moves `keep_ratio` from 1 to the configured value."""
        return self.track(search, **self.encode(template, template_mask), keep_ratio=keep_ratio)


def init_from_vit(model: OSTrack, state: Mapping[str, Tensor]) -> None:
    """Start the backbone from a ViT-B/16 file with timm's names, such as MAE's; the head keeps its own start.

    Position embeddings are resized from the file's 14 x 14 grid to the template's and the search region's. Further
    tensors of the file (MAE's decoder, a classifier) are ignored. Raises `CheckpointError` when a backbone tensor
    is absent or has another shape.
    """
    ours = {
        name: tensor
        for name, tensor in model.backbone.state_dict().items()
        if name not in {"pos_embed_z", "pos_embed_x"}
    }
    unfit = [name for name in ours if name not in state or state[name].shape != ours[name].shape]
    if unfit:
        first = unfit[0]
        got = tuple(state[first].shape) if first in state else "nothing"
        raise CheckpointError(
            f"ViT initialisation does not fit {len(unfit)} of {len(ours)} backbone tensors, first {first}: got {got}; "
            f"expected {tuple(ours[first].shape)}. Pass a ViT-B/16 state with timm's names, such as MAE's `model`."
        )
    grid_positions = state["pos_embed"][:, 1:]  # without the class token's
    model.backbone.load_state_dict(
        {name: state[name] for name in ours}
        | {
            "pos_embed_z": resize_pos_embed(grid_positions, model.config.template_grid),
            "pos_embed_x": resize_pos_embed(grid_positions, model.config.search_grid),
        }
    )
