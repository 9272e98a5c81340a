"""GTR: "Global Tracking Transformers", arXiv 2203.13250.

Compared layer by layer with xingyizhou/GTR at commit 7138b95b5c7951e763af2a3ced15cb29ac8fc9de. A detector
(`centernet2`) finds the objects of every frame; here all objects of a window are related at once, and an object taken
as query gets a probability for every object of every frame: its trajectory. As released, against the paper:

- Where two identities overlap a detection most, the later owns it; the least overlap is anything above 0, not 0.5.
- The loss is a mean over the pairs of an owned object and a frame that shows its identity, not a plain sum, and on TAO
  objects of no identity are no queries: `association_loss` has both. The loop's differences are `trackers.gtr`'s.
- The ablations (Table 4 and the supplement) are fields of the config; no released file has one.

Legend: N objects of a window of T frames, n_t of them on frame t  M queries  D width  h heads  K identities
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.errors import GeometryError, ProtocolError
from sightline.models.centernet2 import (
    CENTERNET_MOT,
    CENTERNET_TAO,
    BoxHead,
    CenterNet2,
    CenterNet2Config,
    RoIHeads,
    pool,
)
from sightline.models.dla import DLAConfig
from sightline.models.res2net import Res2NetConfig

BOX_BINS, TIME_BINS = 16, 16  # rows of the learnt tables of places and of times
COUNT_EPS = 1e-4  # added to the number of pairs that the loss is divided by


@dataclass(frozen=True)
class GTRConfig(CenterNet2Config):
    """The detector's sizes, of which the association shares `width`, D, and its own.

    hidden: of the feed forwards. heads: h. encoder_layers, decoder_layers: 0 leaves one out; without both, the score
    of two objects is the product of their features. decoder_self_attention: among the queries, before they look at the
    window. layer_norm: after every residual sum. projection_layers: linear layers, with ReLUs between, before the
    product of queries and objects; 2 on TAO. position_embedding: of boxes; temporal_embedding: of frames as well.
    dropout: in training, of the transformer and the projections.

    Raises `GeometryError` when the numbers do not fit together.
    """

    hidden: int = 1024
    heads: int = 8
    encoder_layers: int = 1
    decoder_layers: int = 1
    decoder_self_attention: bool = False
    layer_norm: bool = False
    projection_layers: int = 0
    position_embedding: bool = False
    temporal_embedding: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("hidden", 1), ("heads", 1), ("encoder_layers", 0), ("decoder_layers", 0)):
            if (count := getattr(self, name)) < least:
                raise GeometryError(f"{name}: got {count}; expected at least {least}. Change it.")
        if self.width % self.heads or self.width % 4:
            raise GeometryError(
                f"width: got {self.width}; expected a multiple of 4 and of the {self.heads} heads. Change one."
            )
        if self.projection_layers < 0 or not 0 <= self.dropout < 1:
            raise GeometryError(
                f"network: got projection_layers={self.projection_layers}, dropout={self.dropout}; expected 0 or more, "
                "and a rate in [0, 1). Change it."
            )
        if self.temporal_embedding and not self.position_embedding:
            raise GeometryError(
                "temporal_embedding: got it without position_embedding; expected both, since their mean is added. "
                "Turn on the other."
            )


GTR_MOT = GTRConfig(CENTERNET_MOT.backbone)
GTR_MOT_FULL = GTR_MOT  # another training, the same network
GTR_TAO = GTRConfig(
    CENTERNET_TAO.backbone, CENTERNET_TAO.channels, num_classes=CENTERNET_TAO.num_classes, projection_layers=2
)
# Ours, for tests and a CPU: the same parts with an eighth of the width or less.
GTR_TINY = GTRConfig(DLAConfig(channels=(8, 8, 16, 16, 32, 32)), channels=64, num_cells=1, width=64, hidden=64)
GTR_TAO_TINY = GTRConfig(
    Res2NetConfig((1, 1, 1, 1), base_width=4, channels=8),
    channels=64,
    num_classes=1203,
    width=64,
    hidden=64,
    projection_layers=2,
)


class Attention(nn.Module):
    """Multi-head attention of queries (M, D) over N objects; q, k and v in one matrix, as in torch's own module."""

    def __init__(self, config: GTRConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Inputs that are one and the same are projected by one product."""
        if queries is keys is values:
            projected = self.project(queries, 0, 3)
        elif keys is values:
            projected = [*self.project(queries, 0, 1), *self.project(keys, 1, 3)]
        else:
            projected = [self.project(x, i, i + 1)[0] for i, x in enumerate((queries, keys, values))]
        q, k, v = (x.unflatten(1, (self.heads, -1)).transpose(0, 1).unsqueeze(0) for x in projected)  # (1, h, N, d)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(mixed.squeeze(0).transpose(0, 1).flatten(1))

    def project(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """The parts `first` to `last` of q, k, v."""
        width = x.shape[1]
        rows = slice(first * width, last * width)
        return list(F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows]).chunk(last - first, dim=1))


def norm(config: GTRConfig) -> nn.Module:
    """What follows a residual sum: nothing, as released."""
    return nn.LayerNorm(config.width) if config.layer_norm else nn.Identity()


class EncoderLayer(nn.Module):
    """All objects of the window look at each other."""

    def __init__(self, config: GTRConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.linear1 = nn.Linear(config.width, config.hidden)
        self.linear2 = nn.Linear(config.hidden, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm1, self.norm2 = norm(config), norm(config)

    def forward(self, objects: Tensor, positions: Tensor | None) -> Tensor:  # (N, D)
        placed = objects if positions is None else objects + positions
        x = self.norm1(objects + self.dropout(self.self_attn(placed, placed, objects)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class DecoderLayer(nn.Module):
    """The queries look at what the encoder made of the objects, and before that, if told to, at each other."""

    def __init__(self, config: GTRConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config) if config.decoder_self_attention else None
        self.multihead_attn = Attention(config)
        self.linear1 = nn.Linear(config.width, config.hidden)
        self.linear2 = nn.Linear(config.hidden, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.norm1 = norm(config) if config.decoder_self_attention else nn.Identity()
        self.norm2, self.norm3 = norm(config), norm(config)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor | None) -> Tensor:  # (M, D)
        x = queries
        if self.self_attn is not None:
            x = self.norm1(x + self.dropout(self.self_attn(x, x, x)))
        keys = memory if positions is None else memory + positions
        x = self.norm2(x + self.dropout(self.multihead_attn(x, keys, memory)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm3(x + self.dropout(self.linear2(hidden)))


class Layers(nn.Module):
    """Layers in a row, keys `layers.0.*` and on."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Transformer(nn.Module):
    """The global tracking transformer (Sec. 4.2): one encoder and one decoder layer as released."""

    def __init__(self, config: GTRConfig) -> None:
        super().__init__()
        self.encoder = Layers([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.decoder = Layers([DecoderLayer(config) for _ in range(config.decoder_layers)])
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, objects: Tensor, queries: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The queries (M, D) as the decoder leaves them and the objects (N, D) as the encoder does.

        Queries enter as raw features, also where they are among the objects.
        """
        memory = objects
        for layer in self.encoder.layers:
            memory = layer(memory, positions)
        for layer in self.decoder.layers:
            queries = layer(queries, memory, positions)
        return queries, memory


class Projection(Layers):
    """Linear layers with ReLUs and dropout between; none at all leaves features as they are."""

    def __init__(self, config: GTRConfig) -> None:
        super().__init__([nn.Linear(config.width, config.width) for _ in range(config.projection_layers)])
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = layer(x if not number else self.dropout(F.relu(x)))
        return x


class Heads(RoIHeads):
    """What is said of boxes: by the cascade their classes, and who is who."""

    def __init__(self, config: GTRConfig) -> None:
        super().__init__(config)
        self.asso_head = BoxHead(config.channels, config.width)
        self.asso_predictor = nn.ModuleDict({"q_proj": Projection(config), "k_proj": Projection(config)})
        self.transformer = Transformer(config)
        if config.position_embedding:
            self.pos_emb = table(BOX_BINS * 4, config.width // 4)
        if config.temporal_embedding:
            self.temp_emb = table(TIME_BINS, config.width)

    def relate(
        self, features: Tensor, queries: Tensor, boxes: Tensor | None = None, times: Tensor | None = None
    ) -> Tensor:
        """G (M, N), the logit of each object for each query: (N, D) and (M, D) features to Eq. (1)'s numbers.

        boxes (N, 4) xyxy as fractions of the image, of the objects, and times (N,), their frames' numbers as fractions
        of T: for a network that embeds these, and ignored by others.
        """
        queries, memory = self.transformer(features, queries, self.positions(boxes, times))
        return self.asso_predictor["q_proj"](queries) @ self.asso_predictor["k_proj"](memory).T

    def positions(self, boxes: Tensor | None, times: Tensor | None) -> Tensor | None:
        """What is added to features (N, D) to say where, and when, an object is."""
        if not hasattr(self, "pos_emb"):
            return None
        timed = hasattr(self, "temp_emb")
        if boxes is None or (timed and times is None):
            raise ProtocolError(
                f"association: got no {'boxes' if boxes is None else 'times'}; expected them, since this network "
                "embeds positions. Pass boxes as fractions of the image and times as fractions of the clip."
            )
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = self.pos_emb.weight.unflatten(0, (BOX_BINS, 4))  # (bins, 4, D / 4)
        places = between(rows, torch.cat([centre, size], dim=1)).flatten(1)
        if not timed or times is None:
            return places
        return (places + between(self.temp_emb.weight.unsqueeze(1), times[:, None]).flatten(1)) / 2


def table(rows: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(rows, width)
    nn.init.normal_(embedding.weight, std=0.02)
    return embedding


def between(rows: Tensor, fractions: Tensor) -> Tensor:
    """Rows of tables (bins, A, E), read at fractions (N, A) of their lengths, linearly between two: (N, A, E)."""
    place = (fractions * len(rows)).clamp(0, len(rows) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(rows) - 1)
    share = (place - below).unsqueeze(-1)
    which = torch.arange(rows.shape[1], device=rows.device)
    return (1 - share) * rows[below, which] + share * rows[above, which]


class GTR(CenterNet2):
    """Detector and association, from normalised images to who is who. `state_dict` keys are the official ones.

    What a tracker asks for is in methods by name, `graphs`; images are those of `CenterNet2`.
    """

    config: GTRConfig
    roi_heads: Heads

    def __init__(self, config: GTRConfig) -> None:
        super().__init__(replace(config, num_classes=0))  # its heads are replaced by ours
        self.config = config
        self.roi_heads = Heads(config)

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of the methods that are a session's graphs."""
        classified = ("classify",) if self.config.num_classes else ()
        return ("detect", "embed", *classified, "associate", "association")

    def embed(self, p3: Tensor, boxes: Tensor) -> dict[str, Tensor]:
        """`embeddings` (N, D) of boxes (N, 4), xyxy in pixels of the padded image, read from its p3 (1, C, h, w)."""
        return {"embeddings": self.roi_heads.asso_head(pool([p3], boxes))}

    def associate(
        self, features: Tensor, queries: Tensor, boxes: Tensor | None = None, times: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`logits` (M, N) of a window's objects, features (N, D), for queries (M, D); see `Heads.relate`."""
        return {"logits": self.roi_heads.relate(features, queries, boxes, times)}

    def association(self) -> dict[str, Tensor]:
        """The association's weights by their names without `roi_heads.`, for what computes with them itself."""
        parts = ("asso_predictor.", "transformer.", "pos_emb.", "temp_emb.")
        return {name: weight for name, weight in self.roi_heads.state_dict().items() if name.startswith(parts)}


class Trajectories(NamedTuple):
    """Where M queries are on T frames (Sec. 4.1).

    objects (M, T) int64: the likeliest object of each frame by its place there, -1 where it is likeliest that the query
    is not on the frame. probabilities (M, T): P_A of that. log_probability (M,): log P_T, the sum of their logarithms.
    """

    objects: Tensor
    probabilities: Tensor
    log_probability: Tensor


def associate(
    model: GTR, clip: Sequence[Tensor], query_frame: int | None = None, boxes: Sequence[Tensor] | None = None
) -> Trajectories:
    """Whole trajectories from one forward pass: those of all objects of one frame, or of all frames.

    clip: the embeddings (n_t, D) of each of T frames, in order; n_t may be 0. query_frame: the frame whose objects are
    the queries, None for all of them. boxes: xyxy of each frame's objects as fractions of the image, for a network that
    embeds positions. Two queries may claim the same object; see `trackers.gtr` for a loop that decides.
    """
    n_t = [len(frame) for frame in clip]
    features = torch.cat(list(clip))
    queries = features if query_frame is None else clip[query_frame]
    places = None if boxes is None else torch.cat(list(boxes))
    logits = model.roi_heads.relate(features, queries, places, times_of(n_t, features.device))
    log_best, objects = zip(*(frame.max(dim=1) for frame in frame_log_softmax(logits, n_t)), strict=True)
    chosen = torch.stack(objects, dim=1)  # (M, T), n_t for none
    log_p = torch.stack(log_best, dim=1)
    chosen = chosen.masked_fill(chosen == torch.tensor(n_t, device=chosen.device), -1)
    return Trajectories(chosen, log_p.exp(), log_p.sum(dim=1))


def times_of(n_t: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(N,) the frame of each object as a fraction of T."""
    frames = torch.arange(len(n_t), device=device).repeat_interleave(torch.tensor(n_t, device=device))
    return frames / len(n_t)


def frame_log_softmax(logits: Tensor, n_t: Sequence[int]) -> list[Tensor]:
    """log P_A (Eq. 1) frame by frame: (M, N) to T of (M, n_t + 1), the last of the empty class, whose logit is 0."""
    empty = logits.new_zeros(len(logits), 1)
    return [torch.cat([part, empty], dim=1).log_softmax(dim=1) for part in logits.split(list(n_t), dim=1)]


class Assignment(NamedTuple):
    """Who is who among a clip's detections.

    targets (K, T) int64: the detection, by its place on the frame, that shows each identity; n_t for none. owners (N,)
    int64: the identity of each detection, -1 for none.
    """

    targets: Tensor
    owners: Tensor


def assign(
    boxes: Tensor,
    n_t: Sequence[int],
    true_boxes: Tensor,
    true_frames: Tensor,
    true_ids: Tensor,
    iou_above: float = 0.0,
) -> Assignment:
    """Give every identity on every frame the detection that overlaps it most (Eq. 2), if its IoU exceeds `iou_above`.

    boxes (N, 4) of the frames in order. true_boxes (R, 4), true_frames and true_ids (R,): an id of 0 or less is no
    identity; identities are in the order of their ids. iou_above: the paper's is 0.5. A detection chosen by two is the
    target of both, and owned by the later.
    """
    ids = true_ids[true_ids > 0].unique()
    targets = torch.tensor(n_t, device=boxes.device).repeat(len(ids), 1)  # (K, T)
    owners = boxes.new_full((len(boxes),), -1, dtype=torch.int64)
    for t, (detected, own) in enumerate(zip(boxes.split(list(n_t)), owners.split(list(n_t)), strict=True)):
        here = (true_frames == t) & (true_ids > 0)
        if not len(detected) or not here.any():
            continue
        iou, best = pairwise_iou(true_boxes[here], detected).max(dim=1)
        identity = torch.searchsorted(ids, true_ids[here])
        for k, place in sorted(zip(identity[iou > iou_above].tolist(), best[iou > iou_above].tolist(), strict=True)):
            targets[k, t] = place
            own[place] = k
    return Assignment(targets, owners)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes xyxy: (A, 4), (B, 4) -> (A, B); 0 for boxes without area."""
    inner = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    intersection = inner.clamp(min=0).prod(dim=2)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(dim=1) - intersection
    return torch.where(intersection > 0, intersection / union, 0)


def association_loss(
    logits: Tensor,
    n_t: Sequence[int],
    assignment: Assignment,
    *,
    background: bool = True,
    variant: Literal["released", "paper"] = "released",
) -> Tensor:
    """How unlikely the true trajectories are: cross entropy of every query on every frame.

    logits (N, N): all detections of the clip as queries of all of them. background: whether those of no identity are
    queries too, which are nowhere (Eq. 4); True on MOT, False on TAO. "released" divides the sum by the number of owned
    queries times the frames that show their identity, and is 0 for a clip without identities; "paper" is the plain sum
    of Eqs. 3 to 5, in which the background always has its part and a detection that two identities chose counts twice.
    """
    targets, owners = assignment
    lengths = torch.tensor(n_t, device=logits.device)
    shown = targets < lengths  # (K, T)
    identity, frame = shown.nonzero(as_tuple=True)
    queries = (lengths.cumsum(0) - lengths)[frame] + targets[identity, frame]
    if variant == "released":
        mine = owners[queries] == identity
        identity, queries = identity[mine], queries[mine]
        background = background and len(targets) > 0
    wanted = targets[identity]  # (R, T)
    num_pairs = shown[identity].sum()
    if background or variant == "paper":
        nobody = (owners < 0).nonzero().squeeze(1)
        queries = torch.cat([queries, nobody])
        wanted = torch.cat([wanted, lengths.expand(len(nobody), -1)])
    frames = frame_log_softmax(logits[queries].float(), n_t)
    total = sum(
        (F.nll_loss(frame, target, reduction="sum") for frame, target in zip(frames, wanted.unbind(1), strict=True)),
        start=logits.new_zeros(()),
    )
    return total if variant == "paper" else total / (num_pairs + COUNT_EPS)
