"""Pairs of views of pictures whose colour says where in the picture one is, and what is made of the same places."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.datasets.footage import Footage, LazyFootage, Source
from sightline.errors import DatasetError, VideoError
from sightline.recipes.pretrain_vit import BackboneTraining, loss_of, matched
from sightline.trackers.template_search import IMAGENET_MEAN, IMAGENET_STD
from sightline.training import views
from sightline.training.views import StillViews, Views, ViewsConfig

WIDTH, HEIGHT = 240, 200
CODE = np.stack([*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.full((HEIGHT, WIDTH), 90)], 2).astype(np.uint8)
MIDDLE = (100.0, 80.0, 50.0, 32.0)  # sqrt(w h) = 40
PLAIN = ViewsConfig(flip_share=0.5, grey_share=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unvaried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops whose pixels are as they were cut."""
    monkeypatch.setattr(views, "vary_pixels", lambda crop, rng: crop)


def coded(*boxes: tuple[float, ...]) -> Source:
    """A still for each box; red says x and green says y."""
    footage = [
        Footage("a", np.array([box]), np.ones(1, bool), lambda _: CODE, lambda: iter([CODE]))
        for box in boxes or [MIDDLE]
    ]
    return Source("coded", "stills", footage)


def same(a: Views, b: Views) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def places(made: Views, view: int) -> np.ndarray:
    """(S, S, 2) where in the picture each pixel's centre lies, x and y, as the maps say."""
    side = made.views.shape[1]
    centres = np.stack(np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5), 2)
    scale, shift = made.to_picture[view]
    return np.asarray(centres * scale + shift)


# Pairs of views


def test_a_pair_has_its_stated_form() -> None:
    made = StillViews([coded()])[0]
    assert (made.views.shape, made.views.dtype, made.views.flags.c_contiguous) == ((2, 112, 112, 3), np.uint8, True)
    assert (made.to_picture.shape, made.to_picture.dtype) == ((2, 2, 2), np.float32)
    assert made.size.tolist() == [WIDTH, HEIGHT] and made.size.dtype == np.float32
    assert made.num_skipped == 0


def test_a_pair_depends_on_seed_and_number_alone() -> None:
    forward, backward, other = (StillViews([coded(MIDDLE, (20, 30, 60, 60))], seed=seed) for seed in (0, 0, 1))
    kept = {number: forward[number] for number in range(20)}
    for number in reversed(range(20)):
        assert same(backward[number], kept[number])
    assert not any(same(other[number], kept[number]) for number in range(20))
    assert not any(same(kept[number], kept[number + 1]) for number in range(19))
    assert not any(np.array_equal(*made.views) for made in kept.values())


def coded_footage(_index: int) -> Footage:
    return coded().footage[0]


def test_other_processes_can_have_a_copy() -> None:
    made = StillViews([Source("coded", "stills", LazyFootage(3, coded_footage))])
    assert same(pickle.loads(pickle.dumps(made))[5], made[5])


@pytest.mark.parametrize("flip_share", [0.0, 0.5, 1.0])
def test_the_maps_lead_to_the_place_that_a_pixel_shows(unvaried: None, flip_share: float) -> None:
    """Outside of the picture lies its mean colour."""
    made = StillViews([coded(MIDDLE, (2, 3, 60, 40))], replace(PLAIN, flip_share=flip_share))
    turned = outside = 0
    for number in range(30):
        pair = made[number]
        for view in range(2):
            at, crop = places(pair, view), pair.views[view].astype(float)
            inner = ((at > 1) & (at < pair.size - 1)).all(axis=2)
            assert np.abs(crop[inner][:, :2] + 0.5 - at[inner]).max() <= 1
            outer = ((at < -1) | (at > pair.size + 1)).any(axis=2)
            assert np.abs(crop[outer] - (119.5, 99.5, 90)).max(initial=0) <= 3
            outside += outer.any()
            turned += pair.to_picture[view, 0, 0] < 0
            wrong = at[:, ::-1]  # a map that did not turn with its view
            assert np.abs(crop[inner][:, :2] + 0.5 - wrong[inner]).max() > 5
            assert pair.to_picture[view, 0, 1] > 0
    assert turned / 60 == pytest.approx(flip_share, abs=0.15)
    assert outside > 10


def test_views_lie_about_the_object_as_the_config_says(unvaried: None) -> None:
    config = replace(PLAIN, scale=0.0)
    steady, wrong = StillViews([coded()], config), StillViews([coded()], PLAIN)
    sides, aways, errors = [], [], []
    for number in range(400):
        pair = steady[number]
        step = np.abs(pair.to_picture[:, 0])  # picture pixels in a pixel of the view
        assert step == pytest.approx(np.full((2, 2), step[0, 0]), rel=1e-5)  # one factor for both
        sides.append(step[0, 0] * 112 / 40)
        aways += [(places(pair, view)[55:57, 55:57].mean(axis=(0, 1)) - (125, 96)) / 40 for view in range(2)]
        errors.append(np.log(np.abs(wrong[number].to_picture[:, 0, 0])))
    assert 1.2 <= min(sides) < 1.22 and 2.95 < max(sides) <= 3.0
    assert np.median(sides) == pytest.approx(np.sqrt(1.2 * 3.0), abs=0.1)  # in the logarithm
    away = np.array(aways)
    assert np.abs(away).max(axis=0) == pytest.approx((0.4, 0.4), abs=0.02)
    assert away.std(axis=0) == pytest.approx(np.full(2, 0.8 / np.sqrt(12)), abs=0.015)
    assert np.diff(errors, axis=1).std() == pytest.approx(0.25 * np.sqrt(2), abs=0.03)  # each view is wrong by itself


def test_views_may_be_grey_each_by_itself() -> None:
    made = StillViews([coded()], ViewsConfig())
    grey = np.array([(np.ptp(made[number].views, axis=3) == 0).all(axis=(1, 2)) for number in range(250)])
    assert grey.mean(axis=0) == pytest.approx((0.2, 0.2), abs=0.07)
    assert abs(np.corrcoef(grey.T.astype(float))[0, 1]) < 0.15


def test_one_picture_of_a_clip_whose_object_is_visible_and_large_enough() -> None:
    boxes = np.array([[0, 0, 60, 60], [0, 0, 60, 60], [0, 0, 19, 20], [0, 0, 10, 41], [0, 0, 0, 0]], float)
    seen: list[int] = []
    visible = np.array([True, False, True, True, True])
    clip = Footage("clip", boxes, visible, lambda index: (seen.append(index), CODE)[1], lambda: iter(()))
    made = StillViews([Source("mine", "clips", [clip])])
    for number in range(40):
        made[number]
    assert set(seen) == {0, 3} and len(seen) == 40  # one picture for both views
    small = replace(clip, xywh=boxes[2:], is_visible=visible[2:])
    with pytest.raises(DatasetError, match="^mine: got 1000 clips in a row that do not fit; expected objects of 42 px"):
        StillViews([Source("mine", "clips", [small])], ViewsConfig(min_object_px=42.0))[0]


def test_unreadable_pictures_are_passed_over_and_counted_or_the_readers_error() -> None:
    failed: list[int] = []
    rng = np.random.default_rng(0)

    def read(index: int) -> np.ndarray:
        if rng.random() < 0.3:
            failed.append(index)
            raise VideoError("a.jpg: got 7 bytes")
        return CODE

    source = Source("mine", "stills", [replace(coded().footage[0], read=read)])
    made = StillViews([source], skip_unreadable=True)
    for number in range(40):
        before = len(failed)
        assert made[number].num_skipped == len(failed) - before
    assert len(failed) > 5
    strict = StillViews([source])
    with pytest.raises(VideoError, match="got 7 bytes"):
        all(strict[number] for number in range(40))


# The same place, seen twice

SIDE, GRID = 32, 4  # tokens of 8 pixels


def maps(*views: tuple[float, float, float, float]) -> Tensor:
    """(1, 2, 2, 2) of scale and shift in x and y for each view."""
    return torch.tensor([[[view[:2], view[2:]] for view in views]])


def one_hot(which: Tensor, count: int) -> Tensor:
    return torch.nn.functional.one_hot(which, count).float()


def keys_of(to_picture: Tensor, token_px: float, columns: int = 64) -> Tensor:
    """(1, 2, G * G, C) keys that say which square of `token_px` of the picture a token's centre lies in."""
    centres = (torch.arange(GRID) + 0.5) * (SIDE / GRID)
    at = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).flatten(0, 1)  # (L, 2) x and y
    found = []
    for view in range(2):
        scale, shift = to_picture[0, view]
        x, y = ((at * scale + shift) / token_px).floor().long().clamp(min=0).unbind(-1)
        found.append(one_hot((y * 8 + x) % columns, columns))
    return torch.stack(found)[None]


WHOLE = torch.tensor([[256.0, 256.0]])
# The second view begins two tokens further right and one further down; or one further right, and is mirrored.
SHIFTED = maps((2, 2, 32, 32), (2, 2, 64, 48))
MIRRORED = maps((2, 2, 32, 32), (-2, 2, 32 + 16 + 64, 32))


@pytest.mark.parametrize("to_picture", [SHIFTED, MIRRORED], ids=["shifted", "mirrored"])
def test_perfect_keys_have_no_loss_and_permuted_ones_have(to_picture: Tensor) -> None:
    keys = keys_of(to_picture, token_px=16)
    total, found = matched(keys, to_picture, WHOLE, SIDE, 0.05)
    assert 0 <= total < 1e-6 and found == 1
    order = torch.randperm(GRID**2, generator=torch.Generator().manual_seed(0))
    total, found = matched(torch.stack([keys[:, 0], keys[:, 1, order]], 1), to_picture, WHOLE, SIDE, 0.05)
    assert total > 3 and found < 0.5
    turned = to_picture.clone()
    turned[0, 1, 1, 0] += SIDE * turned[0, 1, 0, 0]  # the same view, said to be mirrored when it is not
    turned[0, 1, 0, 0] *= -1
    total, found = matched(keys, turned, WHOLE, SIDE, 0.05)
    assert total > 1 and found < 0.7


def seen_places(to_picture: Tensor, size: Tensor) -> set[int]:
    """The tokens of the first view that the loss reads."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 2, GRID**2, 8, generator=generator)
    assert matched(keys, to_picture, size, SIDE, 0.1).total.isfinite()
    read = set()
    for token in range(GRID**2):
        spoiled = keys.clone()
        spoiled[0, 0, token] = torch.nan
        if matched(spoiled, to_picture, size, SIDE, 0.1).total.isnan():
            read.add(token)
    return read


def test_places_outside_the_second_view_or_the_picture_are_left_out() -> None:
    grid = np.arange(GRID**2).reshape(GRID, GRID)
    # In tokens of 16 picture pixels, the second view begins 2 further right and 1 further down.
    assert seen_places(SHIFTED, WHOLE) == set(grid[1:, 2:].ravel().tolist())
    # The picture ends in the middle of the first view: at x = 80 lies the third token's centre + 8, at y = 64 + 1 ...
    assert seen_places(SHIFTED, torch.tensor([[80.0, 256.0]])) == set(grid[1:, 2:3].ravel().tolist())
    assert seen_places(SHIFTED, torch.tensor([[256.0, 60.0]])) == set(grid[1:2, 2:].ravel().tolist())
    # ... and begins behind its first column and first two rows.
    same_twice = maps((2, 2, -16, -32), (2, 2, -16, -32))
    assert seen_places(same_twice, WHOLE) == set(grid[2:, 1:].ravel().tolist())
    assert seen_places(MIRRORED, WHOLE) == set(grid[:, 1:].ravel().tolist())


def by_hand(keys: np.ndarray, to_picture: np.ndarray, size: np.ndarray, temperature: float) -> tuple[float, float]:
    """The loss and the share found, place by place."""
    firsts, seconds = [], []
    for example in range(len(keys)):
        (scale, shift), (other_scale, other_shift) = to_picture[example]
        second = keys[example, 1].reshape(GRID, GRID, -1)
        for row in range(GRID):
            for column in range(GRID):
                at = (np.array([column, row]) + 0.5) * SIDE / GRID * scale + shift
                there = (at - other_shift) / other_scale
                if not (((there > 0) & (there < SIDE)).all() and ((at > 0) & (at < size[example])).all()):
                    continue
                x, y = there / (SIDE / GRID) - 0.5
                left, top = int(np.floor(x)), int(np.floor(y))
                key = np.zeros(keys.shape[-1])
                for j in (top, top + 1):
                    for i in (left, left + 1):
                        weight = (1 - abs(x - i)) * (1 - abs(y - j))
                        key += weight * second[min(max(j, 0), GRID - 1), min(max(i, 0), GRID - 1)]
                firsts.append(keys[example, 0, row * GRID + column])
                seconds.append(key)
    a, b = (np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (firsts, seconds))
    logits = a @ b.T / temperature
    loss = [np.log(np.exp(table).sum(axis=1)) - np.diag(table) for table in (logits, logits.T)]
    return float(np.mean(loss)), float(np.mean(logits.argmax(axis=1) == np.arange(len(logits))))


def test_between_tokens_keys_are_interpolated_and_all_places_of_the_batch_are_compared() -> None:
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((3, 2, GRID**2, 16))
    keys[:, 1] = keys[:, 0] + 0.5 * keys[:, 1]
    to_picture = np.empty((3, 2, 2, 2))
    to_picture[:, :, 0] = rng.uniform(0.8, 1.3, (3, 2, 2))
    to_picture[1, 1, 0, 0] *= -1
    to_picture[:, :, 1] = rng.uniform(-6, 6, (3, 2, 2))
    to_picture[1, 1, 1, 0] += 40
    size = np.array([[30.0, 90], [90, 90], [90, 25]])
    given = [torch.tensor(value, dtype=torch.float32) for value in (keys, to_picture, size)]
    total, found = matched(*given, SIDE, 0.1)
    expected, share = by_hand(keys, to_picture, size, 0.1)
    assert float(total) == pytest.approx(expected, rel=1e-5) and float(found) == pytest.approx(share)
    assert 0.1 < share < 1
    apart = [float(matched(*(value[number : number + 1] for value in given), SIDE, 0.1).total) for number in range(3)]
    assert expected > np.mean(apart) + 0.3  # other pictures' places are in the way too


class PlaceReader(nn.Module):
    """Keys of coded views, read off their colours: waves that are the same where the colours are."""

    def forward(self, crops: Tensor) -> Tensor:
        mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
        place = nn.functional.avg_pool2d((crops * std + mean)[:, :2], 14).flatten(2).transpose(1, 2)  # (B, L, 2)
        waves = [trig(place * rate) for trig in (torch.sin, torch.cos) for rate in (3.0, 6.0, 12.0)]
        return torch.cat(waves, dim=-1)


def test_places_of_real_views_are_found_again(unvaried: None) -> None:
    """From the picture to the loss, mirrored views included: a token is known by what it shows."""
    settings = BackboneTraining(pairs=replace(PLAIN, shift=0.2, scale=0.15), temperature=1e-3)
    turned = set()
    for number in range(12):
        pair = StillViews([coded()], settings.pairs)[number]
        batch = {name: torch.from_numpy(value)[None] for name, value in pair._asdict().items() if name != "num_skipped"}
        total, found = loss_of(PlaceReader(), batch, settings)
        assert found > 0.95 and total < 1
        crooked = batch | {"to_picture": batch["to_picture"].clone()}
        crooked["to_picture"][0, 1, 1] += 30.0  # picture pixels
        assert loss_of(PlaceReader(), crooked, settings).found < 0.5
        turned.add(bool(np.prod(pair.to_picture[:, 0, 0]) < 0))
    assert turned == {True, False}
