"""Numbered pairs of views of one picture, for training a backbone without labels: a pair depends on the seed and its
number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sightline.datasets.footage import Footage, Source
from sightline.imaging.sample import crop_exact, mean_colour
from sightline.training.augment import jittered_region, to_grey, vary_pixels
from sightline.training.pairs import Deck, draw_one

Image = NDArray[np.uint8]


class Views(NamedTuple):
    """Two crops of one picture around the same object.

    views: (2, S, S, 3) uint8 RGB. to_picture: (2, 2, 2) float32, for each view scale and shift in x and y, so that
    picture pixel = crop pixel * scale + shift; the scale in x is negative where the view is mirrored. size: (2,)
    float32, width and height of the picture, outside of which a view shows nothing. num_skipped: unreadable pictures.
    """

    views: Image
    to_picture: NDArray[np.float32]
    size: NDArray[np.float32]
    num_skipped: int


@dataclass(frozen=True)
class ViewsConfig:
    """How the two views are cut and changed. Shares of all views."""

    view_px: int = 112
    factor: tuple[float, float] = (1.2, 3.0)
    """A view's side in sqrt(w h) of the object, drawn once for both views, in the logarithm."""
    shift: float = 0.4
    """Each view is off the object's centre by up to this in sqrt(w h), each way."""
    scale: float = 0.25
    """Each view is wrong in size by exp(scale N(0, 1))."""
    min_object_px: float = 20.0
    """Smaller objects, by sqrt(w h), are left out."""
    flip_share: float = 0.5
    grey_share: float = 0.2


class StillViews:
    """Endless pairs of views by number: `views[number]` is always the same pair.

    A source is drawn by its weight, footage of it uniformly; of a clip, one picture. Errors as in `OfficialPairs`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: ViewsConfig | None = None,
        seed: int = 0,
        skip_unreadable: bool = False,
    ) -> None:
        self.config = config = config or ViewsConfig()
        self.seed = seed
        expected = f"objects of {config.min_object_px:g} px or more"
        self._deck = Deck(sources, partial(view_choice, config=config), expected, skip_unreadable=skip_unreadable)

    def __getitem__(self, number: int) -> Views:
        config, rng = self.config, np.random.default_rng((self.seed, number))
        shot = self._deck.draw(rng, alone=True)
        rgb, fill = shot.template, mean_colour(shot.template)
        factor = float(np.exp(rng.uniform(*np.log(config.factor))))
        views, maps = [], []
        for _ in range(2):
            region = jittered_region(
                shot.template_xywh, factor, config.view_px, rng, shift=config.shift, scale=config.scale
            )
            view, step, x1 = crop_exact(rgb, region, fill), 1 / region.scale, region.x1
            if rng.random() < config.flip_share:
                view, x1 = view[:, ::-1], region.x1 + region.side_px
                maps.append([[-step, step], [x1, region.y1]])
            else:
                maps.append([[step, step], [x1, region.y1]])
            view = vary_pixels(np.ascontiguousarray(view), rng)
            views.append(to_grey(view) if rng.random() < config.grey_share else view)
        size = np.array(rgb.shape[1::-1], np.float32)
        return Views(np.stack(views), np.array(maps, np.float32), size, shot.num_skipped)


def view_choice(footage: Footage, _is_still: bool, rng: Generator, config: ViewsConfig) -> tuple[int, int] | None:
    """One picture, twice, of those whose object is large enough."""
    usable = np.flatnonzero(footage.is_visible & (footage.xywh[:, 2:].prod(axis=1) >= config.min_object_px**2))
    if not len(usable):
        return None
    chosen = draw_one(usable, rng)
    return chosen, chosen
