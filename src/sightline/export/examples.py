"""Inputs for the two graphs of a model as its loop feeds them: to trace the graphs with, and to compare them on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.geometry.masks import template_token_mask
from sightline.imaging.sample import normalise
from sightline.runtime.session import Arrays
from sightline.trackers.spmtrack import SPMTrackConfig
from sightline.trackers.zoo import BoxTrackerConfig


def example(rng: np.random.Generator, num_targets: int, tracker: BoxTrackerConfig, *, masked: bool) -> Arrays:
    """Images of random patches for both graphs, normalised as the tracker does, and boxes as masks of the templates.

    `search` and one template of each target, or for SPMTrack `num_templates` of each; `masked`: whether `encode` of a
    template-search model takes a mask. What else `track` takes comes from `encode`, see `track_inputs`.
    """

    def images(count: int, side_px: int) -> NDArray[np.float32]:
        return np.stack(
            [normalise(picture(rng, side_px, tracker.stride), tracker.mean, tracker.std) for _ in range(count)]
        )

    remembers = isinstance(tracker, SPMTrackConfig)
    num_templates = num_targets * tracker.num_templates if isinstance(tracker, SPMTrackConfig) else num_targets
    inputs = {"template": images(num_templates, tracker.template_px), "search": images(num_targets, tracker.search_px)}
    if masked or remembers:
        centres, sizes = np.full((num_templates, 2), 0.5), rng.uniform(0.2, 0.6, (num_templates, 2))
        mask = template_token_mask(np.hstack([centres, sizes]), tracker.template_px // tracker.stride)
        inputs["foreground" if remembers else "template_mask"] = mask
    return inputs


def track_inputs(search: Any, features: dict[str, Any], tracker: BoxTrackerConfig) -> Any:
    """The inputs of `track`, arrays or tensors: search regions (K, ...) and what `encode` gave for their templates.

    SPMTrack's tokens are parted by target, (K, M, T, D), and a token of each target stands in for its track query:
    numbers of the network's own size, where a first frame's zeros would show nothing.
    """
    if not isinstance(tracker, SPMTrackConfig):
        return {"search": search, **features}
    tokens = features["template_tokens"]
    tokens = tokens.reshape(len(search), -1, *tokens.shape[1:])
    return {"search": search, "template_tokens": tokens, "query": tokens[:, 0, 0]}


def picture(rng: np.random.Generator, side_px: int, patch_px: int) -> NDArray[np.uint8]:
    """(side_px, side_px, 3) uint8: patches of one colour each under some noise, so that no two tokens are alike."""
    grid = side_px // patch_px
    patches = rng.integers(0, 192, (grid, grid, 3)).repeat(patch_px, axis=0).repeat(patch_px, axis=1)
    return (patches + rng.integers(0, 64, patches.shape)).astype(np.uint8)
