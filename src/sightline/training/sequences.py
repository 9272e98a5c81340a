"""Numbered examples for a tracker with a memory: some templates and some later frames of one target, as SPMTrack is
trained. An example depends on the seed and its number alone.

Facts: WenRuiCai/SPMTrack at commit c581fe27231f3e16c38578e47daddadfaf6ffd7d. Differences, besides the numbers drawn:
sequences are drawn with replacement where they are officially shuffled once an epoch; pixels are rounded to bytes; a
tiny target's search region is enlarged as it is in tracking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sightline.datasets.footage import Footage, Source
from sightline.errors import DatasetError
from sightline.geometry.aligned_crops import AlignedCrop, aligned_crop, foreground_tokens, jittered_crop
from sightline.geometry.boxes import Box
from sightline.imaging.sample import crop_aligned, whole_mean_colour
from sightline.training.augment import jitter_in_any_order, three_augment
from sightline.training.pairs import MAX_DRAWS, Deck, Pictures, draw_one

Image = NDArray[np.uint8]

MAX_JITTERS = 10  # of one search crop, until its target is in it


class SequenceExample(NamedTuple):
    """One training example of M templates and F search frames.

    templates: (M, T, T, 3) uint8 RGB, in the order that the memory gives them. foregrounds: (M, L) float32, 1 for the
    tokens that the target's box touches. searches: (F, S, S, 3) uint8 RGB, in the order that they are tracked in.
    xyxy_unit: (F, 4) float32, the target as fractions of each search crop, cut at its border. num_skipped: how many
    unreadable pictures were passed over for it.
    """

    templates: Image
    foregrounds: NDArray[np.float32]
    searches: Image
    xyxy_unit: NDArray[np.float32]
    num_skipped: int


@dataclass(frozen=True)
class SequencesConfig:
    """SPMTrack's training data. Factors as `siamfc_map` has them, shares of all crops."""

    template_px: int = 196
    search_px: int = 378
    stride: int = 14
    template_factor: float = 2.0
    search_factor: float = 5.0
    search_min_px: float = 10.0
    """A target's side counts as at least so long where the search region is placed."""
    num_templates: int = 3
    num_searches: int = 2
    template_reach: int = 200
    """Templates lie at most so many pictures from the first one drawn."""
    search_reach: int = 400
    """Search frames lie at most so many pictures before the first template, or after the last."""
    scale_jitter: float = 0.25
    """Search crops are stretched by exp(scale_jitter N(0, 1)), each axis its own."""
    shift_jitter: float = 3.0
    """Search crops are off their target by up to this, each way, times the mean of its sides."""
    min_seen_px: float = 10.0
    """At least so much of the target's width and height is in a search crop."""
    flip_share: float = 0.5
    colour: float = 0.4
    """Brightness, contrast and saturation change by up to this."""
    three_share: float = 1.0
    """Of the examples: all crops are grey, or solarised, or blurred. Officially every example is one of these."""


class SequenceExamples:
    """Endless examples by number: `examples[number]` is always the same one.

    A source is drawn by its weight, footage of it uniformly; of a still all frames are that one picture. Errors as in
    `OfficialPairs`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: SequencesConfig | None = None,
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.config = config = config or SequencesConfig()
        self.seed = seed
        choose = partial(interval_choice, config=config)
        self._deck = Deck(sources, choose, "a picture that shows its target", skip_unreadable=skip_unreadable)

    def __getitem__(self, number: int) -> SequenceExample:
        rng, num_skipped = np.random.default_rng((self.seed, number)), 0
        for _ in range(MAX_DRAWS):
            pictures = self._deck.draw_all(rng)
            num_skipped += pictures.num_skipped
            if example := sequence_example(pictures, self.config, rng):
                return example._replace(num_skipped=num_skipped)
        raise DatasetError(
            f"training examples: got {MAX_DRAWS} in a row whose target is not to be seen; expected boxes inside the "
            "pictures. Check the boxes."
        )


def interval_choice(
    footage: Footage, _is_still: bool, rng: Generator, config: SequencesConfig
) -> tuple[int, ...] | None:
    """The official 'interval' mode: indices of the templates and then of the search frames.

    Templates lie around one drawn anywhere; all search frames lie on one side of them, drawn where both have some. Half
    the time all are then put in order, half the time in reverse, and the first of them are the templates: time runs
    backwards too, and the parts swap where the search frames were on the other side.
    """
    visible = np.flatnonzero(footage.is_visible)
    if not len(visible):
        return None
    base = draw_one(visible, rng)
    near = visible[np.abs(visible - base) <= config.template_reach]
    templates = sorted([base, *(draw_one(near, rng) for _ in range(config.num_templates - 1))])
    before = visible[(visible < templates[0]) & (visible >= templates[0] - config.search_reach)]
    after = visible[(visible > templates[-1]) & (visible <= templates[-1] + config.search_reach)]
    sides = [side for side in (before, after) if len(side)] or [near]
    side = sides[int(rng.integers(len(sides)))]
    indices = sorted([*templates, *(draw_one(side, rng) for _ in range(config.num_searches))])
    return tuple(indices if rng.random() < 0.5 else indices[::-1])


def sequence_example(pictures: Pictures, config: SequencesConfig, rng: Generator) -> SequenceExample | None:
    """Crops of the pictures, changed; None where a target is not to be seen in one of them."""
    style, sigma, is_plain = int(rng.integers(3)), float(rng.uniform(0.1, 2)), rng.random() >= config.three_share
    templates, foregrounds, searches, boxes = [], [], [], []
    for position, (rgb, box) in enumerate(zip(pictures.images, pictures.boxes, strict=True)):
        height, width = rgb.shape[:2]
        inside = cut_box(box, width, height)
        if inside is None:
            return None
        x, y, w, h = inside
        corners = (x, y, x + w, y + h)
        if position < config.num_templates:
            crop = aligned_crop(inside, config.template_factor, config.template_px, height, width)
        else:
            found = search_crop(inside, config, rng, height, width)
            if found is None:
                return None
            crop = found
        pixels = np.rint(crop_aligned(rgb, crop, whole_mean_colour(rgb))).astype(np.uint8)
        xyxy = crop.to_crop(corners)
        if rng.random() < config.flip_share:
            pixels, xyxy = (
                np.ascontiguousarray(pixels[:, ::-1]),
                np.array([crop.out_px - xyxy[2], xyxy[1], crop.out_px - xyxy[0], xyxy[3]]),
            )
        pixels = jitter_in_any_order(pixels, config.colour, rng)
        if not is_plain:
            pixels = three_augment(pixels, style, sigma)
        if position < config.num_templates:
            templates.append(pixels)
            foregrounds.append(foreground_tokens(xyxy, config.template_px // config.stride, config.stride))
        else:
            searches.append(pixels)
            boxes.append(np.clip(xyxy / config.search_px, 0, 1).astype(np.float32))
    return SequenceExample(np.stack(templates), np.stack(foregrounds), np.stack(searches), np.stack(boxes), 0)


def cut_box(xywh: Box, width: int, height: int) -> Box | None:
    """The part of a box inside the picture; None for none."""
    x, y, w, h = xywh
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return (x1, y1, x2 - x1, y2 - y1) if x2 > x1 and y2 > y1 else None


def search_crop(xywh: Box, config: SequencesConfig, rng: Generator, height: int, width: int) -> AlignedCrop | None:
    """A crop that is off its target and stretched, with enough of the target in it; None after too many that have
    not."""
    x, y, w, h = xywh
    for _ in range(MAX_JITTERS):
        stretch = np.exp(config.scale_jitter * rng.standard_normal(2)).tolist()
        away = (rng.uniform(-1, 1, 2) * config.shift_jitter).tolist()
        crop = jittered_crop(
            xywh, config.search_factor, config.search_px, height, width, stretch, away, config.search_min_px
        )
        x1, y1, x2, y2 = np.clip(crop.to_crop((x, y, x + w, y + h)), 0, config.search_px).tolist()
        if crop.crop_x[0] < crop.crop_x[1] and min(x2 - x1, y2 - y1) >= config.min_seen_px:
            return crop
    return None
