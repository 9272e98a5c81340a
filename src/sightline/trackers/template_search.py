"""The one loop of OSTrack, MVT and sightline-nano: crop around the last box, run the network, decode, map back.

Sources: OSTrack Sec. 3 and the behaviour of the official `lib/test/tracker/ostrack.py`; MVT's tracker is the same file
with other constants. Where the official behaviour and the honest one differ, a field of `TemplateSearchConfig`
names both.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import GeometryError, ProtocolError
from sightline.geometry.boxes import Box, check_target_box, clip_xywh, one_box
from sightline.geometry.codecs import decode_centre
from sightline.geometry.crops import CropRegion, exact_region, snapped_region
from sightline.geometry.masks import template_token_mask
from sightline.geometry.windows import hann
from sightline.imaging.sample import crop_exact, crop_snapped, mean_colour, normalise
from sightline.runtime.session import Arrays, Session
from sightline.runtime.stages import StageClock
from sightline.types import TargetState

Image = NDArray[np.uint8]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TemplateSearchConfig:
    """Everything the loop needs besides the network; it travels in an exported file's metadata.

    template_px, search_px: sides of the two crops. template_factor, search_factor: their sides in the frame, as
    multiples of sqrt(w h). stride: crop pixels per cell of the maps. mean, std: of the values / 255, RGB.

    crop: "snapped" is the official rule (whole pixels, black padding before normalising); "exact" cuts to the
    sub-pixel and fills with the frame's mean colour. map_back: "centre" is the official rule (the crop is taken to
    be centred on the last box, although "snapped" rounded it); "exact" inverts the crop that was really cut.
    window: weight of the Hann window in [0, 1]: 1 multiplies the score map by it (official), 0 ignores it.
    clip_margin_px: at least so many pixels of the box stay in the frame, and no side is ever smaller: a target of
    less than 10 px is reported as 10 px (official).
    tracked_from: the score, in [0, 1], from which on a target counts as tracked; below it is uncertain.

    Raises `ProtocolError` for a rule that does not exist, a window outside [0, 1] and sizes that are not positive.
    """

    template_px: int
    search_px: int
    template_factor: float = 2.0
    search_factor: float = 4.0
    stride: int = 16
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop: Literal["snapped", "exact"] = "snapped"
    map_back: Literal["centre", "exact"] = "centre"
    window: float = 1.0
    clip_margin_px: float = 10.0
    tracked_from: float = 0.5

    def __post_init__(self) -> None:
        if self.crop not in ("snapped", "exact") or self.map_back not in ("centre", "exact"):
            raise ProtocolError(
                f"tracker config: got crop={self.crop!r}, map_back={self.map_back!r}; expected 'snapped' or 'exact', "
                "'centre' or 'exact'. Choose one of each."
            )
        if not 0 <= self.window <= 1:
            raise ProtocolError(f"tracker config: got window={self.window}; expected 0 to 1. Officially 1.")
        if not 0 <= self.tracked_from <= 1:
            raise ProtocolError(f"tracker config: got tracked_from={self.tracked_from}; expected a score, 0 to 1.")
        sizes = (self.template_px, self.search_px, self.template_factor, self.search_factor, self.stride)
        if not all(0 < size < float("inf") for size in sizes) or not 0 < self.clip_margin_px < float("inf"):
            raise ProtocolError(
                f"tracker config: got sides {self.template_px}, {self.search_px}, factors {self.template_factor}, "
                f"{self.search_factor}, stride {self.stride}, margin {self.clip_margin_px}; expected positive numbers."
            )

    @property
    def grid(self) -> int:
        """Cells per side of the maps."""
        return self.search_px // self.stride

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TemplateSearchConfig:
        """The inverse of `to_json`; unknown fields raise `ProtocolError` (a file made by a newer version)."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ProtocolError(f"tracker config: got unknown fields {unknown}; expected {sorted(known)}. Update.")
        if absent := [name for name in ("template_px", "search_px") if name not in values]:
            raise ProtocolError(f"tracker config: got no {absent[0]}; expected the sides of both crops. Export again.")
        tupled: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        try:
            config = cls(**tupled)
            numbers = np.array([config.mean, config.std], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ProtocolError(
                f"tracker config: got {values}; expected numbers, and three in mean and std."
            ) from error
        if numbers.shape != (2, 3) or not np.isfinite(numbers).all() or not numbers[1].all():
            raise ProtocolError(
                f"tracker config: got mean={config.mean}, std={config.std}; expected three finite numbers each, and "
                "none of std 0."
            )
        return config


class TemplateSearchTracker:
    """Follows any number of targets over one session; holds no state of its own between calls."""

    def __init__(self, session: Session, config: TemplateSearchConfig, name: str = "template-search") -> None:
        self.session = session
        self.config = config
        self.name = name
        window = config.window * hann(config.grid) + (1 - config.window)
        self._window = window.astype(np.float32)

    def init(
        self,
        frame: Image,
        *,
        xywh: ArrayLike | None = None,
        xyxy: ArrayLike | None = None,
        cxcywh: ArrayLike | None = None,
    ) -> TargetState:
        """Start on a target: `frame` (H, W, 3) uint8 RGB and its box in exactly one format, float pixels.

        Costs one pass of the template through the network. Raises `GeometryError` for a box without area, not finite
        or fully outside; a box partly outside is legal and kept as given.
        """
        given = one_box(xywh, xyxy, cxcywh)
        check_frame(frame)
        box = check_target_box(given, *frame.shape[:2])
        config = self.config
        region = self._region(box, config.template_factor, config.template_px)
        inputs = {"template": self._pixels(frame, region)[None]}
        if "template_mask" in self.session.inputs("encode"):
            unit = np.array([[0.5, 0.5, box[2] / region.side_px, box[3] / region.side_px]])
            inputs["template_mask"] = template_token_mask(unit, config.template_px // config.stride)
        return TargetState(box, 1.0, "tracked", self.name, self.session.run("encode", inputs))

    def update(self, frame: Image, state: TargetState, clock: StageClock | None = None) -> TargetState:
        """Follow one target to the next frame; returns the new state and leaves the old one as it was."""
        return self.update_many(frame, [state], clock)[0]

    def update_many(
        self, frame: Image, states: Sequence[TargetState], clock: StageClock | None = None
    ) -> list[TargetState]:
        """Follow K targets to the next frame (H, W, 3) uint8 RGB in one batched pass; order is kept.

        Frames may change size: boxes stay in pixels of the frame they were found on. `clock` collects the stages
        crop, network and decode in milliseconds.
        """
        if not states:
            return []
        check_frame(frame)
        for state in states:
            if state.model != self.name:
                raise ProtocolError(
                    f"state: got one made by {state.model!r}; expected one made by {self.name!r}. "
                    "Call init of this tracker."
                )
        config = self.config
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("crop"):
            regions = [self._region(state.xywh, config.search_factor, config.search_px) for state in states]
            search = np.stack([self._pixels(frame, region) for region in regions])
            features = batched(states)
        with stage("network"):
            maps = self.session.run("track", {"search": search, **features})
        with stage("decode"):
            check_maps(maps, len(states), config.grid)
            cxcywh_unit, scores = decode_centre(maps["score_map"], maps["size_map"], maps["offset_map"], self._window)
            check_finite(cxcywh_unit, scores)
            return [
                TargetState(
                    self._to_frame(unit, region, state, frame),
                    float(score),
                    "tracked" if score >= config.tracked_from else "uncertain",
                    self.name,
                    state.features,
                )
                for unit, score, region, state in zip(cxcywh_unit, scores, regions, states, strict=True)
            ]

    def _region(self, xywh: Box, factor: float, out_px: int) -> CropRegion:
        place = snapped_region if self.config.crop == "snapped" else exact_region
        return place(xywh, factor, out_px)

    def _pixels(self, frame: Image, region: CropRegion) -> NDArray[np.float32]:
        if self.config.crop == "snapped":
            crop = crop_snapped(frame, region)
        else:
            crop = crop_exact(frame, region, mean_colour(frame))
        return normalise(crop, self.config.mean, self.config.std)

    def _to_frame(self, cxcywh_unit: NDArray[np.float64], region: CropRegion, state: TargetState, frame: Image) -> Box:
        """From fractions of the search region to pixels of the frame, clipped to it."""
        cx, cy, w, h = (float(value) for value in cxcywh_unit * region.side_px)
        if self.config.map_back == "centre":
            last_cx, last_cy, _, _ = state.cxcywh
            cx, cy = cx + last_cx - 0.5 * region.side_px, cy + last_cy - 0.5 * region.side_px
        else:
            cx, cy = cx + region.x1, cy + region.y1
        height, width = frame.shape[:2]
        return clip_xywh((cx - 0.5 * w, cy - 0.5 * h, w, h), height, width, self.config.clip_margin_px)


def batched(states: Sequence[TargetState]) -> Arrays:
    """The template features of K states, joined along their leading axis."""
    if len(states) == 1:
        return dict(states[0].features)
    return {name: np.concatenate([state.features[name] for state in states]) for name in states[0].features}


def check_maps(maps: Arrays, targets: int, grid: int) -> None:
    """Raise `ProtocolError` unless the session gave the three maps of K targets and G x G cells."""
    channels = {"score_map": 1, "size_map": 2, "offset_map": 2}
    expected = {name: (targets, count, grid, grid) for name, count in channels.items()}
    got = {name: np.shape(value) for name, value in maps.items()}
    if any(got.get(name) != shape for name, shape in expected.items()):
        raise ProtocolError(f"session: got {got}; expected {expected}. Give a tracker the session of its own model.")


def check_finite(cxcywh_unit: NDArray[np.float64], scores: NDArray[np.float64]) -> None:
    """Raise `ProtocolError` where a decoded box or score is nan or infinite: clipping would make a box of it."""
    bad = ~(np.isfinite(cxcywh_unit).all(axis=1) & np.isfinite(scores))
    if bad.any():
        first = int(bad.argmax())
        raise ProtocolError(
            f"session: maps of target {first}: got score {scores[first]:g} and cxcywh {cxcywh_unit[first].tolist()} at "
            "the peak; expected finite numbers. Check the weights, or run in float32."
        )


def check_frame(frame: Image) -> None:
    """Raise `GeometryError` unless `frame` is (H, W, 3) uint8, H and W at least 1."""
    fits = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    if not fits or frame.size == 0:
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise GeometryError(
            f"frame: got {got}; expected (H, W, 3) uint8 RGB. "
            "sightline.imaging.frames.to_rgb converts grey, alpha and 16 bits."
        )
