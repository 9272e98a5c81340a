"""The template tokens on the target, against the picture that defines them."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.geometry.masks import template_token_mask


def drawn(xywh_px: np.ndarray, grid: int) -> np.ndarray:
    """The definition, pixel by pixel: draw the box, average the two middle pixels of every token in x and y."""
    picture = np.zeros((grid * 16, grid * 16))
    x, y, w, h = xywh_px
    picture[max(0, int(y)) : max(0, int(y + h - 1)), max(0, int(x)) : max(0, int(x + w - 1))] = 1
    tokens = picture.reshape(grid, 16, grid, 16)[:, 7:9, :, 7:9].mean(axis=(1, 3))
    return (tokens > 0).astype(np.float32).ravel()


@pytest.mark.parametrize("grid", [8, 12])
def test_equals_the_drawn_picture(grid: int) -> None:
    rng = np.random.default_rng(0)
    side_px = grid * 16
    size = rng.uniform(20, side_px * 0.9, (300, 2))
    corner = rng.uniform(-10, side_px - size + 10)
    cxcywh_unit = np.concatenate([corner + size / 2, size], axis=1) / side_px
    expected = np.stack([drawn(box, grid) for box in np.concatenate([corner, size], axis=1)])
    assert expected.any(axis=1).all()
    ours = template_token_mask(cxcywh_unit, grid)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, expected)
    shifted = template_token_mask(cxcywh_unit + np.array([8 / side_px, 0, 0, 0]), grid)  # the control: half a token
    assert (shifted != expected).any()


def test_a_box_between_the_tokens_keeps_the_centre() -> None:
    thin = [[0.5, 0.5, 0.9, 4 / 128]]
    assert template_token_mask(thin, 8).nonzero()[1].tolist() == [3 * 8 + 3]


def test_a_box_larger_than_the_crop_is_cut_at_its_edge() -> None:
    wide = template_token_mask([[0.5, 0.5, 1.4, 0.5]], 8).reshape(8, 8)
    np.testing.assert_array_equal(wide[2:6], 1)
    assert wide.sum() == 32
