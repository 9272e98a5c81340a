"""Numbered template and search pairs for a template tracker: a pair depends on the seed and its number alone.

`OfficialPairs` draws, jitters and cuts as the training code of OSTrack and MVT does, `NanoPairs` as sightline-nano was
trained. Both draw from sources of footage, which may be one clip of two pictures, and keep no picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from sightline.datasets.footage import Footage, Source
from sightline.errors import DatasetError, VideoError
from sightline.geometry.boxes import Box
from sightline.geometry.crops import CropRegion, official_training_box, snapped_region
from sightline.imaging.sample import crop_exact, crop_snapped, mean_colour
from sightline.training.augment import (
    brighten,
    jittered_region,
    official_jitter,
    paste_backdrop,
    paste_occluder,
    to_grey,
    vary_pixels,
)

Image = NDArray[np.uint8]
Array = NDArray[np.float64]

MAX_UNREADABLE = 100  # pictures in a row that `skip_unreadable` passes over
MAX_DRAWS = 1000  # of footage, or of crops, until one is fit
STRIDE_PX = 16  # of the networks; a crop that is padding at this stride shows them nothing


class Pair(NamedTuple):
    """One training example.

    template, search: (S, S, 3) uint8 RGB. xywh_unit: (4,) float32, the target as fractions of the search crop, which it
    may reach out of. is_present: whether the search crop shows the template's target at all. num_skipped: how many
    unreadable pictures were passed over for it.
    """

    template: Image
    search: Image
    xywh_unit: NDArray[np.float32]
    is_present: bool
    num_skipped: int


@dataclass(frozen=True)
class OfficialPairsConfig:
    """The training data of OSTrack-256 and MVT. Factors in sqrt(w h) of the target, shares of all pairs."""

    template_px: int = 128
    search_px: int = 256
    template_factor: float = 2.0
    search_factor: float = 4.0
    centre_jitter: float = 3.0
    """The search crop is off its target by up to half of this, each way."""
    scale_jitter: float = 0.25
    """The search crop is made for sides that are wrong by exp(scale_jitter N(0, 1))."""
    max_gap: int = 200
    """A search picture comes less than so many pictures after its template; more where there is none."""
    min_pictures: int = 20
    """Shorter clips are not drawn from; lower it to 2 for few pictures of one's own."""
    min_visible: int = 5
    """Nor are clips that show their target in fewer pictures; likewise."""
    min_still_px: float = 50.0
    """Targets of stills are wider and higher than this."""
    grey_share: float = 0.05
    flip_share: float = 0.5
    """Of both pictures together, and once more of each crop by itself."""
    brightness: float = 0.2
    """Each crop's values are multiplied by 1 - brightness to 1 + brightness."""


OSTRACK_384_PAIRS = OfficialPairsConfig(192, 384, search_factor=5.0, centre_jitter=4.5, scale_jitter=0.5)


@dataclass(frozen=True)
class NanoPairsConfig:
    """How sightline-nano's pairs are made. Factors and shifts in sqrt(w h) of the target, shares of all pairs."""

    template_px: int = 96
    search_px: int = 192
    template_factor: float = 2.0
    search_factor: float = 4.0
    search_shift: float = 1.3
    """The search crop is off its target by up to this, each way."""
    search_scale: float = 0.2
    """The search crop is wrong in size by exp(search_scale N(0, 1))."""
    near_share: float = 0.5
    """Of the pairs from clips: at most `near_pictures` apart; the others at any distance."""
    near_pictures: int = 100
    min_clip_px: float = 10.0
    """Pictures of clips are used whose target has at least this sqrt(w h): a smaller one is lost at a stride of 16."""
    min_still_px: float = 20.0
    """The same of stills."""
    max_still_aspect: float = 6.0
    """The longer side of a still's target over the shorter one."""
    absent_share: float = 0.03
    """The template is another target's."""
    backdrop_share: float = 0.5
    """What lies outside the picture is another picture instead of the mean colour."""
    occluder_share: float = 0.2
    flip_share: float = 0.5
    grey_share: float = 0.1


class OfficialPairs:
    """Endless pairs by number, as OSTrack and MVT are trained with: `pairs[number]` is always the same pair.

    A source is drawn by its weight, footage of it uniformly; of a clip two pictures in order, a still twice. An
    unreadable picture is the reader's `DatasetError` or `VideoError`; with `skip_unreadable` another pair is drawn
    instead, and the picture counted. Raises `DatasetError` where nothing fits the config.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: OfficialPairsConfig | None = None,
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.config = config = config or OfficialPairsConfig()
        self.seed = seed
        expected = (
            f"clips of {config.min_pictures} pictures, {config.min_visible} of them with the target, and targets of "
            f"stills wider and higher than {config.min_still_px:g} px"
        )
        choose = partial(official_choice, config=config)
        self._deck = Deck(sources, choose, expected, skip_unreadable=skip_unreadable)

    def __getitem__(self, number: int) -> Pair:
        rng = np.random.default_rng((self.seed, number))
        num_skipped = 0
        for _ in range(MAX_DRAWS):
            shot = self._deck.draw(rng)
            num_skipped += shot.num_skipped
            if pair := official_pair(shot, self.config, rng):
                return pair._replace(num_skipped=num_skipped)
        raise DatasetError(
            f"training pairs: got {MAX_DRAWS} crops in a row that show nothing of their pictures; expected boxes "
            "inside the pictures. Check the boxes."
        )


class NanoPairs:
    """Endless pairs by number, as sightline-nano was trained with: `pairs[number]` is always the same pair.

    A source is drawn by its weight, a clip of it by the square root of its length, a still uniformly. To learn the
    lengths, every clip's annotation is read at the start. Unreadable pictures and errors as in `OfficialPairs`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: NanoPairsConfig | None = None,
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.config = config = config or NanoPairsConfig()
        self.seed = seed
        expected = (
            f"clips with two pictures of a target of {config.min_clip_px:g} px or more, and targets of stills of "
            f"{config.min_still_px:g} px or more"
        )
        choose = partial(nano_choice, config=config)
        self._deck = Deck(sources, choose, expected, skip_unreadable=skip_unreadable, by_length=True)

    def __getitem__(self, number: int) -> Pair:
        config, rng = self.config, np.random.default_rng((self.seed, number))
        shot = self._deck.draw(rng)
        num_skipped, is_present = shot.num_skipped, True
        template_rgb, template_xywh = shot.template, shot.template_xywh
        if rng.random() < config.absent_share:
            other = self._deck.draw(rng, alone=True)
            num_skipped += other.num_skipped
            if other.scene != shot.scene:  # which may show that target after all
                template_rgb, template_xywh, is_present = other.template, other.template_xywh, False

        region = jittered_region(template_xywh, config.template_factor, config.template_px, rng, shift=0.05, scale=0.05)
        template = crop_exact(template_rgb, region, mean_colour(template_rgb))
        shift, scale = config.search_shift * rng.random(), config.search_scale
        region = jittered_region(
            shot.search_xywh, config.search_factor, config.search_px, rng, shift=shift, scale=scale
        )
        search = crop_exact(shot.search, region, mean_colour(shot.search))
        x, y, w, h = region.to_crop(shot.search_xywh).tolist()

        height, width = shot.search.shape[:2]
        if rng.random() < config.backdrop_share and reaches_out(region, height, width):
            other = self._deck.draw(rng, alone=True)
            num_skipped += other.num_skipped
            if other.scene != shot.scene:  # no second copy of the target
                search = paste_backdrop(search, region, height, width, other.template)
        if rng.random() < config.occluder_share:
            other = self._deck.draw(rng, alone=True)
            num_skipped += other.num_skipped
            search = paste_occluder(search, (x, y, w, h), other.template, rng)

        if rng.random() < config.flip_share:
            template, search = np.ascontiguousarray(template[:, ::-1]), np.ascontiguousarray(search[:, ::-1])
            x = config.search_px - x - w
        template, search = vary_pixels(template, rng), vary_pixels(search, rng)
        if rng.random() < config.grey_share:
            template, search = to_grey(template), to_grey(search)
        xywh_unit = (np.array([x, y, w, h]) / config.search_px).astype(np.float32)
        return Pair(template, search, xywh_unit, is_present, num_skipped)


# Which pictures


class Shot(NamedTuple):
    """Two pictures of one target, decoded, and its box in each; `scene` is the source's number and the name of the clip
    or the image, which footage of other targets may share."""

    template: Image
    template_xywh: Box
    search: Image
    search_xywh: Box
    scene: tuple[int, str]
    num_skipped: int


class Pictures(NamedTuple):
    """Any number of pictures of one target; as `Shot` else."""

    images: list[Image]
    boxes: list[Box]
    scene: tuple[int, str]
    num_skipped: int


Choose = Callable[[Footage, bool, Generator], tuple[int, ...] | None]


class Deck:
    """What pairs are drawn from: a source by its weight, its footage uniformly or `by_length` (clips alone, by the
    square root), of that the pictures that `choose(footage, is_still, rng)` names, two for `draw`, or other footage
    where it names none. `expected` says in an error what `choose` looks for.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        choose: Choose,
        expected: str,
        *,
        skip_unreadable: bool,
        by_length: bool = False,
    ) -> None:
        weights = [source.weight for source in sources]
        if not (sum(weights) > 0 and min(weights) >= 0):
            raise DatasetError(
                f"training pairs: got sources of weights {weights}; expected positive ones. Add a source."
            )
        self.sources, self.choose, self.expected, self.skip_unreadable = sources, choose, expected, skip_unreadable
        self._source_odds = cumulative(weights)
        self._footage_odds = []
        for source in sources:
            if not len(source.footage):
                raise DatasetError(f"{source.name}: got no clip and no image; expected some. Leave it out.")
            is_weighed = by_length and source.kind == "clips"
            lengths = [len(footage) for footage in source.footage] if is_weighed else np.ones(len(source.footage))
            self._footage_odds.append(cumulative(np.sqrt(lengths)))

    def draw(self, rng: Generator, alone: bool = False) -> Shot:
        """Two decoded pictures of one target, or `alone` the first of them twice. Raises as `draw_all` does."""
        images, boxes, scene, num_skipped = self.draw_all(rng, 1 if alone else None)
        return Shot(images[0], boxes[0], images[-1], boxes[-1], scene, num_skipped)

    def draw_all(self, rng: Generator, num: int | None = None) -> Pictures:
        """All pictures that `choose` names, decoded, or the first `num` of them. Raises what the reader raises, or
        passes over up to `MAX_UNREADABLE` pictures."""
        num_skipped = 0
        while True:
            number, footage, chosen = self._drawn(rng)
            try:
                decoded = {index: footage.read(index) for index in dict.fromkeys(chosen[:num])}
            except (DatasetError, VideoError) as error:
                if not self.skip_unreadable:
                    raise
                num_skipped += 1
                if num_skipped > MAX_UNREADABLE:
                    raise DatasetError(
                        f"training pairs: got {num_skipped} unreadable pictures in a row; expected at most "
                        f"{MAX_UNREADABLE}. The last of them: {error}"
                    ) from error
                continue
            images, boxes = zip(*((decoded[index], as_box(footage.xywh[index])) for index in chosen[:num]), strict=True)
            scene = number, footage.name.rpartition("/")[0] or footage.name
            return Pictures(list(images), list(boxes), scene, num_skipped)

    def _drawn(self, rng: Generator) -> tuple[int, Footage, tuple[int, ...]]:
        """The source's number, footage of it, and the pictures of that."""
        number = pick(self._source_odds, rng)
        source = self.sources[number]
        for _ in range(MAX_DRAWS):
            footage = source.footage[pick(self._footage_odds[number], rng)]
            if chosen := self.choose(footage, source.kind == "stills", rng):
                return number, footage, chosen
        raise DatasetError(
            f"{source.name}: got {MAX_DRAWS} {source.kind} in a row that do not fit; expected {self.expected}. Lower "
            "these numbers or leave it out."
        )


def official_choice(
    footage: Footage, is_still: bool, rng: Generator, config: OfficialPairsConfig
) -> tuple[int, int] | None:
    """The official 'causal' mode. A still twice, if its target is large enough; of a long enough clip two pictures."""
    if is_still:
        return (0, 0) if footage.is_visible[0] and footage.xywh[0, 2:].min() > config.min_still_px else None
    if len(footage) < config.min_pictures or np.count_nonzero(footage.is_visible) < max(config.min_visible, 2):
        return None
    visible = np.flatnonzero(footage.is_visible)
    gap = config.max_gap
    while True:
        template = draw_one(visible[visible < len(footage) - 1], rng)
        later = visible[(visible > template) & (visible < template + gap)]
        if len(later):
            return template, draw_one(later, rng)
        gap += 5


def nano_choice(footage: Footage, is_still: bool, rng: Generator, config: NanoPairsConfig) -> tuple[int, int] | None:
    """A still twice; of a clip two pictures in any order, near each other or anywhere. Targets too small to learn from
    are left out."""
    area = footage.xywh[:, 2] * footage.xywh[:, 3]
    if is_still:
        low, high = sorted(footage.xywh[0, 2:].tolist())
        is_fit = footage.is_visible[0] and area[0] >= config.min_still_px**2 and high <= config.max_still_aspect * low
        return (0, 0) if is_fit else None
    usable = np.flatnonzero(footage.is_visible & (area >= config.min_clip_px**2))
    if len(usable) < 2:
        return None
    first = draw_one(usable, rng)
    if rng.random() < config.near_share:
        usable = usable[np.abs(usable - first) <= config.near_pictures]
    return first, draw_one(usable, rng)


def cumulative(weights: ArrayLike) -> Array:
    """Where in [0, 1] the share of each ends."""
    ends = np.cumsum(weights, dtype=np.float64)
    return np.asarray(ends / ends[-1])


def pick(ends: Array, rng: Generator) -> int:
    """An index by its share of `cumulative`; `Generator.choice` is ten times slower."""
    return int(np.searchsorted(ends, rng.random(), side="right"))


def draw_one(indices: NDArray[np.int64], rng: Generator) -> int:
    return int(indices[rng.integers(len(indices))])


def as_box(row: Array) -> Box:
    x, y, w, h = row.tolist()
    return x, y, w, h


# Crops


def official_pair(shot: Shot, config: OfficialPairsConfig, rng: Generator) -> Pair | None:
    """Grey and mirrored together, the search jittered, each cut, brightened and mirrored by itself; None for what the
    official code rejects too. Its chances are the official ones, the numbers drawn are not."""
    is_grey, is_mirrored = rng.random() < config.grey_share, rng.random() < config.flip_share
    crops = []
    for is_search, rgb, xywh, factor, out_px in (
        (False, shot.template, shot.template_xywh, config.template_factor, config.template_px),
        (True, shot.search, shot.search_xywh, config.search_factor, config.search_px),
    ):
        if is_grey:
            rgb = to_grey(rgb)
        if is_mirrored:
            rgb, xywh = mirrored(rgb, xywh)
        around = official_jitter(xywh, rng, config.centre_jitter, config.scale_jitter) if is_search else xywh
        cut = official_cut(rgb, xywh, around, factor, out_px)
        if cut is None:
            return None
        crop, (x, y, w, h) = cut
        crop = brighten(crop, rng.uniform(1 - config.brightness, 1 + config.brightness))
        if rng.random() < config.flip_share:
            crop, x = np.ascontiguousarray(crop[:, ::-1]), 1 - x - w
        crops.append((crop, np.array([x, y, w, h], dtype=np.float32)))
    (template, _), (search, xywh_unit) = crops
    return Pair(template, search, xywh_unit, True, shot.num_skipped)


def mirrored(rgb: Image, xywh: Box) -> tuple[Image, Box]:
    """Picture and box, left for right. Kept quirk: x becomes width - 1 - x as if it were an index, so that the box ends
    up one picture pixel off its target."""
    x, y, w, h = xywh
    return rgb[:, ::-1], (rgb.shape[1] - 1 - x - w, y, w, h)


def official_cut(rgb: Image, xywh: Box, around: Box, factor: float, out_px: int) -> tuple[Image, Box] | None:
    """The crop around a box and `xywh` in it as fractions; None where there is no side or nothing but padding."""
    if not around[2] * around[3] > 0:
        return None
    region = snapped_region(around, factor, out_px)
    if is_all_padding(region, *rgb.shape[:2]):
        return None
    return crop_snapped(rgb, region), as_box(official_training_box(xywh, around, region))


def is_all_padding(region: CropRegion, height: int, width: int) -> bool:
    """Whether, `STRIDE_PX` apart, every pixel of a `crop_snapped` is padding or mixed with it."""
    centre = (np.arange(0, region.out_px, STRIDE_PX) + 0.5) / region.scale - 0.5
    centre = np.clip(centre, 0, region.side_px - 1)
    for start, length in ((region.x1, width), (region.y1, height)):
        last = length - 1 if start + region.side_px < length else length - 2  # the quirk of `crop_snapped`
        if not ((np.floor(centre) + start >= 0) & (np.ceil(centre) + start <= last)).any():
            return True
    return False


def reaches_out(region: CropRegion, height: int, width: int) -> bool:
    """Whether a crop shows anything outside of its picture."""
    x2, y2 = region.x1 + region.side_px, region.y1 + region.side_px
    return region.x1 < 0 or region.y1 < 0 or x2 > width or y2 > height
