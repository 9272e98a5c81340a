"""Template and search pairs for a template tracker, from stills and from sequences.

A pair depends on the seed and its number alone, never on the number of workers or the order of asking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import Clip
from sightline.datasets.stills import Still
from sightline.errors import DatasetError
from sightline.geometry.boxes import Box
from sightline.geometry.crops import CropRegion
from sightline.imaging.sample import crop_exact, mean_colour
from sightline.training.augment import jittered_region, paste_occluder, to_grey, vary_pixels

Image = NDArray[np.uint8]
MIN_TARGET_PX = 10.0  # smaller boxes teach nothing at a stride of 16
MAX_ASPECT = 6.0


class Pair(NamedTuple):
    """One training example: two crops (S, S, 3) uint8 RGB, the target's `xywh` as fractions of the search crop, and
    whether the search crop shows the template's target at all."""

    template: Image
    search: Image
    xywh_unit: NDArray[np.float32]
    is_present: bool


@dataclass(frozen=True)
class PairConfig:
    """How pairs are drawn. Sides in pixels, factors and shifts in sqrt(w h) of the target, the rest are shares."""

    template_px: int = 96
    search_px: int = 192
    template_factor: float = 2.0
    search_factor: float = 4.0
    still_share: float = 0.57
    near_share: float = 0.5  # of the sequence pairs: at most `near_frames` apart; the others at any distance
    near_frames: int = 100
    absent_share: float = 0.03  # the template is another target's
    grey_share: float = 0.1
    flip_share: float = 0.5
    occluder_share: float = 0.2
    backdrop_share: float = 0.5  # what lies outside the frame is another picture instead of the mean colour
    search_shift: float = 1.3
    search_scale: float = 0.2


class Pairs:
    """Endless pairs by number: `pairs[i]` is always the same pair.

    clips and groups of stills with a weight each; a clip is drawn by the square root of its length. Frames are kept
    decoded in memory, at most `cache_images` of them. Raises `DatasetError` when there is nothing to draw from.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        stills: Sequence[tuple[Sequence[Still], float]],
        config: PairConfig | None = None,
        seed: int = 0,
        cache_images: int = 12_000,
    ) -> None:
        self.config = config or PairConfig()
        self.seed = seed
        self.clips = [(clip, usable) for clip in clips if len(usable := usable_frames(clip)) >= 2]
        self.stills = [(rows, weight) for group, weight in stills if (rows := usable_stills(group))]
        if not self.clips and not self.stills:
            raise DatasetError(
                "training pairs: got no clip and no image with a usable box; expected some. Check paths."
            )
        self._clip_odds = odds([np.sqrt(len(usable)) for _, usable in self.clips])
        self._still_odds = odds([weight for _, weight in self.stills])
        self._load = lru_cache(maxsize=cache_images)(load_rgb)

    def __getitem__(self, number: int) -> Pair:
        config = self.config
        rng = np.random.default_rng((self.seed, number))
        (template_rgb, template_box), (search_rgb, search_box), source = self._draw(rng)
        is_present = True
        if rng.random() < config.absent_share:
            other, _, other_source = self._draw(rng)
            if other_source != source:  # the same picture or clip may show the target after all
                is_present = False
                template_rgb, template_box = other
        template_region = jittered_region(
            template_box, config.template_factor, config.template_px, rng, shift=0.05, scale=0.05
        )
        search_region = jittered_region(
            search_box,
            config.search_factor,
            config.search_px,
            rng,
            shift=config.search_shift * rng.random(),
            scale=config.search_scale,
        )
        template = crop_exact(template_rgb, template_region, mean_colour(template_rgb))
        search = crop_exact(search_rgb, search_region, mean_colour(search_rgb))
        if rng.random() < config.backdrop_share:
            (backdrop, _), *_ = self._draw(rng)
            search = fill_outside(search, search_region, search_rgb, backdrop)
        x, y, w, h = (float(value) for value in search_region.to_crop(search_box))
        if rng.random() < config.occluder_share:
            (patch, _), *_ = self._draw(rng)
            search = paste_occluder(search, (x, y, w, h), patch, rng)
        if rng.random() < config.flip_share:
            template, search = template[:, ::-1], search[:, ::-1]
            x = config.search_px - x - w
        is_grey = rng.random() < config.grey_share
        template, search = (vary_pixels(np.ascontiguousarray(crop), rng) for crop in (template, search))
        return Pair(
            to_grey(template) if is_grey else template,
            to_grey(search) if is_grey else search,
            (np.array([x, y, w, h]) / config.search_px).astype(np.float32),
            is_present,
        )

    def _draw(self, rng: np.random.Generator) -> tuple[tuple[Image, Box], tuple[Image, Box], Path]:
        """(frame, box) twice and where they are from: the same still, or two frames of one clip."""
        config = self.config
        if self.stills and (not self.clips or rng.random() < config.still_share):
            rows, _ = self.stills[rng.choice(len(self.stills), p=self._still_odds)]
            path, box = rows[rng.integers(len(rows))]
            rgb = self._load(path)
            return (rgb, box), (rgb, box), path
        clip, usable = self.clips[rng.choice(len(self.clips), p=self._clip_odds)]
        first = int(rng.choice(usable))
        others = usable[np.abs(usable - first) <= config.near_frames] if rng.random() < config.near_share else usable
        second = int(rng.choice(others))
        a, b = ((self._load(clip.frames[index]), as_box(clip.xywh[index])) for index in (first, second))
        return a, b, clip.frames[0].parent


def fill_outside(crop: Image, region: CropRegion, rgb: Image, other: Image) -> Image:
    """The same crop with another picture where the region reaches out of its frame."""
    height, width = rgb.shape[:2]
    x, y, w, h = region.to_crop((0, 0, width, height))
    x1, y1 = max(int(np.ceil(x)), 0), max(int(np.ceil(y)), 0)
    x2, y2 = (min(int(end), region.out_px) for end in (x + w, y + h))
    filled = np.asarray(cv2.resize(other, (region.out_px, region.out_px)), dtype=np.uint8)
    filled[y1:y2, x1:x2] = crop[y1:y2, x1:x2]
    return filled


def usable_frames(clip: Clip) -> NDArray[np.int64]:
    """Frames whose target is present and not smaller than `MIN_TARGET_PX`."""
    return np.flatnonzero(clip.is_present & (np.sqrt(clip.xywh[:, 2] * clip.xywh[:, 3]) >= MIN_TARGET_PX))


def usable_stills(stills: Sequence[Still]) -> list[tuple[Path, Box]]:
    """(path, box) of every box of a size and shape that can be tracked."""
    return [
        (still.path, as_box(box))
        for still in stills
        for box in still.xywh
        if np.sqrt(box[2] * box[3]) >= 2 * MIN_TARGET_PX and max(box[2] / box[3], box[3] / box[2]) <= MAX_ASPECT
    ]


def as_box(row: NDArray[np.float64]) -> Box:
    x, y, w, h = (float(value) for value in row)
    return x, y, w, h


def odds(weights: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(weights, dtype=np.float64) / max(sum(weights), 1e-12)


def load_rgb(path: Path) -> Image:
    """Decode an image file to (H, W, 3) uint8 RGB."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DatasetError(f"image {path}: cannot be read; expected a picture. Remove it or fetch it again.")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
