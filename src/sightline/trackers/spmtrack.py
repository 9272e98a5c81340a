"""SPMTrack's loop (arXiv 2503.18338): a search region, remembered templates and a track query in, the next box out.

Compared with WenRuiCai/SPMTrack at commit c581fe27231f3e16c38578e47daddadfaf6ffd7d. Differences, each by its name here:

- `memory="exact"` lets go of templates that no later frame can ask for; officially all are kept, 462 KB a frame.
- `memory="bounded:N"` is ours, for sources that never end.
- A box without area inside the frame ends the official program; here the target is held where it was (`_next_state`).

Legend: K targets  M templates of each  T template tokens  D width  G cells per side of the maps
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import ProtocolError
from sightline.geometry.aligned_crops import AlignedCrop, aligned_crop, foreground_tokens
from sightline.geometry.boxes import Array, Box, check_target_box, one_box
from sightline.imaging.sample import crop_aligned, normalise_float, whole_mean_colour
from sightline.runtime.session import Arrays, Session
from sightline.runtime.stages import StageClock
from sightline.trackers.template_memory import Kept, TemplateMemory, TemplateStore, limit_of, memory_of
from sightline.trackers.template_search import IMAGENET_MEAN, IMAGENET_STD, check_frame
from sightline.types import Presence, TargetState

Image = NDArray[np.uint8]
Colour = tuple[float, float, float]

BOUNDED = "bounded:64"  # what suits a source without a known end: 30 MB a target


@dataclass(frozen=True)
class SPMTrackConfig:
    """Everything the loop needs besides the network.

    template_px, search_px: sides of the crops. template_factor, search_factor: SiamFC's, for their sides in the frame,
    see `siamfc_map`. stride: crop pixels per token. mean, std: of the values / 255, RGB. search_min_px: a target's side
    counts as at least so long where the search region is placed. window: weight of the Hann window in [0, 1]; the score
    map has the rest.
    num_templates: M, with how many templates a frame is compared. rule: which frames' templates, see `asked`; "lasot"
    is what the official code does on LaSOT with the model B, "default" everywhere else.
    memory: "exact" grows with every frame, by 346 MB in 1,000 (308 by the rule "lasot") for each target; "bounded:N"
    holds N templates of 0.46 MB. memory_budget_mb: beyond it, over all targets, templates go to a temporary file.
    tracked_from: the score, in [0, 1], from which on a target counts as tracked; below it is uncertain.

    Raises `ProtocolError` for values that make no sense.
    """

    template_px: int = 196
    search_px: int = 378
    template_factor: float = 2.0
    search_factor: float = 5.0
    stride: int = 14
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    search_min_px: float = 10.0
    window: float = 0.45
    num_templates: int = 3
    rule: Literal["default", "lasot"] = "default"
    memory: str = "exact"
    memory_budget_mb: float = 1000.0
    tracked_from: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in ("default", "lasot"):
            raise ProtocolError(f"tracker config: got rule={self.rule!r}; expected 'default' or 'lasot'. Choose one.")
        for name in ("window", "tracked_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ProtocolError(f"tracker config: got {name}={getattr(self, name)}; expected 0 to 1.")
        for name in ("template_px", "search_px", "template_factor", "search_factor", "stride", "num_templates"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ProtocolError(f"tracker config: got {name}={getattr(self, name)}; expected a positive number.")
        if self.search_min_px < 0 or self.memory_budget_mb < 0:
            raise ProtocolError(
                f"tracker config: got search_min_px={self.search_min_px}, memory_budget_mb={self.memory_budget_mb}; "
                "expected 0 or more."
            )
        limit = limit_of(self.memory)
        if limit is not None and limit < self.num_templates:
            raise ProtocolError(
                f"tracker config: got memory={self.memory!r}; expected at least the {self.num_templates} templates of "
                f"a frame. Choose 'bounded:{self.num_templates}' or more."
            )
        if np.shape(self.mean) != (3,) or np.shape(self.std) != (3,) or not all(self.std):
            raise ProtocolError(f"tracker config: got mean={self.mean}, std={self.std}; expected three numbers each.")

    @property
    def grid(self) -> int:
        """G: cells per side of the maps."""
        return self.search_px // self.stride

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SPMTrackConfig:
        """The inverse of `to_json`; unknown fields raise `ProtocolError` (a file made by a newer version)."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ProtocolError(f"tracker config: got unknown fields {unknown}; expected {sorted(known)}. Update.")
        tupled: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            return cls(**tupled)
        except (TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"tracker config: got {values}; expected numbers where numbers go.") from error


@dataclass(frozen=True, eq=False)
class SPMTrackState(TargetState):
    """All that SPMTrack knows of one target; a value, as every `TargetState`.

    `features` holds the track query (1, D) from the first update on, `memory` a template for every frame so far,
    `fill_rgb` the first frame's mean colour, 0..255, which search regions are filled with. To save a state reads and
    stacks its whole memory; one read back lies in RAM, outside the tracker's budget.
    """

    memory: TemplateMemory = field(repr=False)
    fill_rgb: Colour = field(repr=False)

    @property
    def frame_index(self) -> int:
        """Frames since the target's first, which is 0."""
        return self.memory.count - 1

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SPMTrackState) or not super().__eq__(other):
            return False
        return (self.fill_rgb, self.memory) == (other.fill_rgb, other.memory)

    __hash__ = TargetState.__hash__

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        indices, kept = zip(*self.memory.items(), strict=True)
        return super().to_arrays() | {
            "fill_rgb": np.array(self.fill_rgb),
            "memory.kind": np.array(self.memory.kind),
            "memory.indices": np.array(indices),
            "memory.templates": np.stack([template.read() for template in kept]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SPMTrackState:
        base = TargetState.from_arrays(arrays)
        try:
            red, green, blue = arrays["fill_rgb"].tolist()
            indices, templates = arrays["memory.indices"].tolist(), arrays["memory.templates"]
            items = [(index, Kept(template.copy())) for index, template in zip(indices, templates, strict=True)]
            memory = memory_of(str(arrays["memory.kind"]), items)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(
                f"saved state: got arrays {sorted(arrays)}; expected those of SPMTrack's to_arrays(). Save it again."
            ) from error
        return cls(base.xywh, base.score, base.presence, base.model, base.features, memory, (red, green, blue))


def asked(t: int, num: int, rule: Literal["default", "lasot"]) -> tuple[int, ...]:
    """The `num` frames, oldest first, whose templates frame t >= 1 is compared with; all are in 0..t-1.

    By default the first, and the middle of each of num - 1 equal parts of the past; on LaSOT the first of each of num
    parts. Officially num is 3: (0, d // 2, d + d // 2) with d = t // 2, and (0, t // 3, 2 t // 3), from t = 4 on;
    before that all there are, the newest again where they are too few.
    """
    if t < 2 * (num - 1) or num == 1:
        return tuple(min(i, t - 1) for i in range(num))
    if rule == "lasot":
        return tuple(i * t // num for i in range(num))
    part = t // (num - 1)
    return 0, *(i * part + part // 2 for i in range(num - 1))


def oldest(t: int, num: int, rule: Literal["default", "lasot"]) -> int:
    """The oldest frame besides 0 that frame t or a later one asks for: t // 4 of three templates, t // 3 on LaSOT.

    Within a frame `asked` rises, so its second number bounds the rest: (t // (num - 1)) // 2 = t // (2 (num - 1)), or
    t // num. Both never fall as t rises (and are 0 or 1 while t < 2 (num - 1), when no frame but 0 below 1 is asked
    for). Nor is any frame from there on kept in vain: k is the second number at t = 2 (num - 1) k, or num k.
    """
    if num == 1:
        return t
    return t // num if rule == "lasot" else t // (2 * (num - 1))


class SPMTrackTracker:
    """Follows any number of targets over one session; keeps nothing between calls but the room for their templates.

    The session has two graphs. `encode` takes `template` (B, 3, S, S) and `foreground` (B, T), 1 on the target, and
    gives `template_tokens` (B, T, D). `track` takes `search` (K, 3, S, S), `template_tokens` (K, M, T, D), oldest
    first, and `query` (K, D), zeros on a target's first frame, and gives `score_map` (K, 1, G, G) in [0, 1], `box_map`
    (K, 4, G, G), xyxy as fractions of the search region, and the next `query`. All float32.
    """

    def __init__(self, session: Session, config: SPMTrackConfig, name: str = "spmtrack") -> None:
        self.session = session
        self.config = config
        self.name = name
        self._store = TemplateStore(config.memory_budget_mb)
        line = np.hanning(config.grid)  # zero at both ends, torch's periodic=False
        self._window = np.outer(line, line)

    def init(
        self,
        frame: Image,
        *,
        xywh: ArrayLike | None = None,
        xyxy: ArrayLike | None = None,
        cxcywh: ArrayLike | None = None,
    ) -> SPMTrackState:
        """Start on a target: `frame` (H, W, 3) uint8 RGB and its box in exactly one format, float pixels.

        Costs one crop and no pass through the network. Raises `GeometryError` for a box without area, not finite or
        fully outside; a box partly outside is legal and kept as given.
        """
        given = one_box(xywh, xyxy, cxcywh)
        check_frame(frame)
        box = check_target_box(given, *frame.shape[:2])
        fill = whole_mean_colour(frame)
        memory = memory_of(self.config.memory, [(0, self._template(frame, box, fill))])
        return SPMTrackState(box, 1.0, "tracked", self.name, {}, memory, fill)

    def update(self, frame: Image, state: TargetState, clock: StageClock | None = None) -> SPMTrackState:
        """Follow one target to the next frame; returns the new state and leaves the old one as it was."""
        return self.update_many(frame, [state], clock)[0]

    def update_many(
        self, frame: Image, states: Sequence[TargetState], clock: StageClock | None = None
    ) -> list[SPMTrackState]:
        """Follow K targets, of any ages, to the next frame (H, W, 3) uint8 RGB in one batched pass; order is kept.

        `clock` collects the stages crop, network, decode and remember in milliseconds. The M templates are embedded
        anew on every frame, 0.2 % of the work of model B: crops take less room than tokens, 0.46 MB for 0.60 (B),
        0.80 (L) or 1.20 (G).
        """
        if not states:
            return []
        check_frame(frame)
        known = [self._check_own(state) for state in states]
        config, (height, width) = self.config, frame.shape[:2]
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("crop"):
            regions = [
                aligned_crop(s.xywh, config.search_factor, config.search_px, height, width, config.search_min_px)
                for s in known
            ]
            search = np.stack([self._pixels(frame, at, s.fill_rgb) for at, s in zip(regions, known, strict=True)])
            templates = self._remembered(known)
        with stage("network"):
            tokens = self._encode(templates, len(known))
            query = np.concatenate(
                [s.features.get("query", np.zeros((1, tokens.shape[-1]), np.float32)) for s in known]
            )
            maps = self.session.run("track", {"search": search, "template_tokens": tokens, "query": query})
            check_maps(maps, query.shape, config.grid)
        with stage("decode"):
            xyxy_unit, scores = decode_corners(maps["score_map"], maps["box_map"], self._window, config.window)
            check_finite(xyxy_unit, scores, maps["query"])
            xyxy = [at.to_frame(unit * config.search_px) for at, unit in zip(regions, xyxy_unit, strict=True)]
        with stage("remember"):
            fill = whole_mean_colour(frame)
            return [
                self._next_state(frame, s, np.clip(box, 0, (width, height) * 2), float(score), next_query, fill)
                for s, box, score, next_query in zip(known, xyxy, scores, maps["query"], strict=True)
            ]

    def _next_state(
        self, frame: Image, state: SPMTrackState, xyxy: Array, score: float, query: NDArray[np.float32], fill: Colour
    ) -> SPMTrackState:
        """The state after a frame, with a template cut at the new box.

        A box without area keeps the last box and remembers the last template once more, with a score of 0; the track
        query goes on in any case.
        """
        x1, y1, x2, y2 = xyxy.tolist()
        if x2 > x1 and y2 > y1:
            xywh = (x1, y1, x2 - x1, y2 - y1)
            kept = self._template(frame, xywh, fill)
        else:
            xywh, score, kept = state.xywh, 0.0, state.memory.at(state.frame_index)
        next_t = state.memory.count + 1
        memory = state.memory.appended(kept, oldest(next_t, self.config.num_templates, self.config.rule))
        presence: Presence = "tracked" if score >= self.config.tracked_from else "uncertain"
        return SPMTrackState(xywh, score, presence, self.name, {"query": query[None].copy()}, memory, state.fill_rgb)

    def _pixels(self, frame: Image, crop: AlignedCrop, fill: Colour) -> NDArray[np.float32]:
        return normalise_float(crop_aligned(frame, crop, fill), self.config.mean, self.config.std)

    def _template(self, frame: Image, xywh: Box, fill: Colour) -> Kept:
        """What is remembered of a frame: the normalised crop, filled with the frame's own colour; its foreground."""
        config = self.config
        x, y, w, h = xywh
        crop = aligned_crop(xywh, config.template_factor, config.template_px, *frame.shape[:2])
        xyxy_crop = crop.to_crop((x, y, x + w, y + h))
        foreground = foreground_tokens(xyxy_crop, config.template_px // config.stride, config.stride)
        return self._store.keep(np.concatenate([self._pixels(frame, crop, fill).ravel(), foreground]))

    def _remembered(self, states: Sequence[SPMTrackState]) -> Arrays:
        """The templates that each of the states is now to be compared with, K M in all."""
        config = self.config
        kept = [
            state.memory.at(index)
            for state in states
            for index in asked(state.memory.count, config.num_templates, config.rule)
        ]
        side = config.template_px
        template = np.empty((len(kept), 3, side, side), np.float32)
        foreground = np.empty((len(kept), (side // config.stride) ** 2), np.float32)
        for one, image, mask in zip(kept, template, foreground, strict=True):
            values = one.read()
            if values.size != image.size + mask.size:
                raise ProtocolError(
                    f"state: got templates of {values.size} numbers; expected {image.size + mask.size}, of {side} px. "
                    "Use the sides that made the state."
                )
            image[:], mask[:] = values[: image.size].reshape(image.shape), values[image.size :]
        return {"template": template, "foreground": foreground}

    def _encode(self, templates: Arrays, targets: int) -> NDArray[np.float32]:
        """(K, M, T, D) tokens of K M templates."""
        tokens = self.session.run("encode", templates).get("template_tokens", np.empty(0, np.float32))
        expected = templates["foreground"].shape
        if tokens.ndim != 3 or tokens.shape[:2] != expected:
            raise ProtocolError(
                f"session: got template_tokens of shape {tokens.shape}; expected {(*expected, 'D')}. Give a tracker "
                "the session of its own model."
            )
        return tokens.reshape(targets, -1, *tokens.shape[1:])

    def _check_own(self, state: TargetState) -> SPMTrackState:
        if not isinstance(state, SPMTrackState) or state.model != self.name:
            raise ProtocolError(
                f"state: got one made by {state.model!r}; expected one made by {self.name!r}. "
                "Call init of this tracker."
            )
        return state


def decode_corners(
    score_map: NDArray[np.floating], box_map: NDArray[np.floating], window: Array, weight: float
) -> tuple[Array, Array]:
    """The box at the peak of the windowed score map (K, 1, G, G), from the corners (K, 4, G, G) of every cell.

    Unlike OSTrack's, the window (G, G) is added: score * (1 - weight) + window * weight. Returns (K, 4) `xyxy_unit`
    float64, fractions of the search region, and (K,) scores at the peaks before the window. The first of equal peaks
    wins.
    """
    targets = len(score_map)
    score = score_map.reshape(targets, -1).astype(np.float64)
    peak = (score * (1 - weight) + window.ravel() * weight).argmax(axis=1)
    rows = np.arange(targets)
    return box_map.reshape(targets, 4, -1)[rows, :, peak].astype(np.float64), score[rows, peak]


def check_maps(maps: Arrays, query_shape: tuple[int, ...], grid: int) -> None:
    """Raise `ProtocolError` unless the session gave both maps of K targets and G x G cells, and the next query."""
    targets = query_shape[0]
    expected = {"score_map": (targets, 1, grid, grid), "box_map": (targets, 4, grid, grid), "query": query_shape}
    got = {name: np.shape(value) for name, value in maps.items()}
    if any(got.get(name) != shape for name, shape in expected.items()):
        raise ProtocolError(f"session: got {got}; expected {expected}. Give a tracker the session of its own model.")


def check_finite(xyxy_unit: Array, scores: Array, query: NDArray[np.float32]) -> None:
    """Raise `ProtocolError` where a decoded box, its score or a query is nan or infinite: nothing later mends it."""
    bad = ~(np.isfinite(xyxy_unit).all(axis=1) & np.isfinite(scores) & np.isfinite(query).all(axis=1))
    if bad.any():
        first = int(bad.argmax())
        raise ProtocolError(
            f"session: answer on target {first}: got score {scores[first]:g}, xyxy {xyxy_unit[first].tolist()} at the "
            f"peak and a query up to {np.abs(query[first]).max():g}; expected finite numbers. Check the weights, or "
            "run in float32."
        )
