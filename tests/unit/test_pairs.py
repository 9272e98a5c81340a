"""Training pairs of scenes that are drawn here, so that where the target lies can be read off the pixels."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sightline.datasets.footage import Footage, LazyFootage, Source
from sightline.errors import DatasetError, VideoError
from sightline.geometry.boxes import Box
from sightline.geometry.crops import CropRegion, exact_region, snapped_region
from sightline.imaging.frames import read_image
from sightline.training import augment, pairs
from sightline.training.pairs import (
    OSTRACK_384_PAIRS,
    Deck,
    NanoPairs,
    NanoPairsConfig,
    OfficialPairs,
    OfficialPairsConfig,
    Pair,
    is_all_padding,
    mirrored,
    nano_choice,
    official_choice,
    reaches_out,
)

RED, GREEN, BLUE = (230, 30, 30), (30, 230, 30), (20, 40, 120)
HEIGHT, WIDTH = 160, 200
SIDES = {"template_px": 96, "search_px": 192}
SMALL = {"template_px": 32, "search_px": 64}  # where the pixels do not matter
FEW = {"min_pictures": 2, "min_visible": 2, "min_still_px": 20}  # what is drawn here is short and small
OFFICIAL = OfficialPairsConfig(**SIDES, **FEW, grey_share=0)
NANO = NanoPairsConfig(**SIDES, absent_share=0, grey_share=0, occluder_share=0, backdrop_share=0)
MAKERS = pytest.mark.parametrize(("maker", "config"), [(OfficialPairs, OFFICIAL), (NanoPairs, NANO)])


def small(config: Any, **changes: Any) -> Any:
    return replace(config, **SMALL, **changes)


def box_of(number: int) -> Box:
    """Somewhere in the frame."""
    rng = np.random.default_rng(number)
    w, h = rng.integers(24, 60, 2)
    x, y = rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h)
    return float(x), float(y), float(w), float(h)


@cache
def draw(number: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A blue picture with the target that belongs to its number. Not to be written to."""
    frame = np.random.default_rng(number).integers(-15, 16, (HEIGHT, WIDTH, 3)) + BLUE
    x, y, w, h = (int(value) for value in box_of(number))
    frame[y : y + h, x : x + w] = colour
    frame = frame.clip(0, 255).astype(np.uint8)
    frame.flags.writeable = False
    return frame


def drawn(number: int, length: int, colour: tuple[int, int, int], seen: Callable[[int], Any] = id) -> Footage:
    """Pictures 1000 number and on; `seen` is told the index of each that is read."""
    numbers = [1000 * number + index for index in range(length)]

    def read(index: int) -> np.ndarray:
        seen(index)
        return draw(numbers[index], colour)

    boxes = np.array([box_of(number) for number in numbers])
    return Footage(f"{number}", boxes, np.ones(length, bool), read, lambda: map(read, range(length)))


def stills(count: int, weight: float = 1.0) -> Source:
    return Source("stills", "stills", [drawn(number, 1, RED) for number in range(count)], weight)


def clips(count: int, weight: float = 1.0, length: int = 10) -> Source:
    return Source("clips", "clips", [drawn(number, length, GREEN) for number in range(1, count + 1)], weight)


def both() -> list[Source]:
    return [stills(6), clips(3)]


def blank(length: int, visible: Any = None, xywh: Box = (0, 0, 60, 60)) -> Footage:
    """Boxes alone."""
    is_visible = np.ones(length, bool) if visible is None else np.isin(np.arange(length), visible)
    return Footage("blank", np.tile(np.array(xywh, float), (length, 1)), is_visible, None, None)  # type: ignore[arg-type]


def same(a: Pair, b: Pair) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def share(flags: Any) -> float:
    return float(np.mean(list(flags)))


def shows(crop: np.ndarray, channel: int) -> bool:
    """Whether the target of that colour is the one in the crop."""
    return bool((crop[..., channel] > crop[..., 1 - channel] + 60.0).mean() > 0.01)


# Which pair


@MAKERS
def test_a_pair_has_its_stated_form(maker, config) -> None:
    template, search, xywh_unit, is_present, num_skipped = maker(both(), config)[0]
    assert (template.shape, template.dtype) == ((96, 96, 3), np.uint8)
    assert (search.shape, search.dtype) == ((192, 192, 3), np.uint8)
    assert (xywh_unit.shape, xywh_unit.dtype) == ((4,), np.float32)
    assert (is_present, num_skipped) == (True, 0)
    assert template.flags.c_contiguous
    assert search.flags.c_contiguous


@pytest.mark.parametrize(
    ("maker", "config"),
    [
        (OfficialPairs, OfficialPairsConfig(**SMALL, **FEW)),
        (NanoPairs, NanoPairsConfig(**SMALL, absent_share=0.3)),
    ],
)
def test_a_pair_depends_on_seed_and_number_alone(maker, config) -> None:
    forward, backward = maker(both(), config), maker(both(), config)
    numbers = range(60)
    kept = {number: forward[number] for number in numbers}
    for number in reversed(numbers):
        assert same(backward[number], kept[number])
    assert same(forward[7], kept[7])
    assert sum(same(maker(both(), config, seed=1)[number], kept[number]) for number in numbers) == 0
    assert sum(same(kept[number], kept[number + 1]) for number in range(59)) == 0


@MAKERS
def test_other_processes_can_have_a_copy(maker, config) -> None:
    config = small(config)
    copied = pickle.loads(pickle.dumps(maker([Source("red", "stills", LazyFootage(5, red_still))], config)))
    made = maker([Source("red", "stills", [red_still(index) for index in range(5)])], config)
    assert all(same(copied[number], made[number]) for number in range(10))


def red_still(index: int) -> Footage:
    return drawn(index, 1, RED)


def test_the_official_settings() -> None:
    plain = OfficialPairsConfig()
    assert (plain.template_px, plain.search_px, plain.template_factor, plain.search_factor) == (128, 256, 2, 4)
    assert (plain.centre_jitter, plain.scale_jitter) == (3, 0.25)
    large = OSTRACK_384_PAIRS
    assert (large.template_px, large.search_px, large.template_factor, large.search_factor) == (192, 384, 2, 5)
    assert (large.centre_jitter, large.scale_jitter) == (4.5, 0.5)


@MAKERS
@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.0, 2.0), (0.6, 0.9)])
def test_sources_are_drawn_by_their_weights(maker, config, weights) -> None:
    made = maker([stills(6, weights[0]), clips(3, weights[1])], small(config))
    found = share(shows(made[number].search, 0) for number in range(900))
    assert found == pytest.approx(weights[0] / sum(weights), abs=0.05)  # three standard deviations


@pytest.mark.parametrize(("maker", "config", "expected"), [(OfficialPairs, OFFICIAL, 0.5), (NanoPairs, NANO, 0.75)])
def test_long_clips_are_drawn_as_others_or_by_the_root_of_their_length(maker, config, expected) -> None:
    seen: Counter[int] = Counter()
    footage = [
        drawn(number, length, GREEN, lambda _, n=number: seen.update([n])) for number, length in ((1, 10), (2, 90))
    ]
    made = maker([Source("two", "clips", footage)], small(config))
    for number in range(900):
        made[number]
    assert seen[2] / seen.total() == pytest.approx(expected, abs=0.05)


@MAKERS
def test_a_person_may_have_one_clip_of_two_pictures(maker, config) -> None:
    made = maker([clips(1, length=2)], small(config))
    assert all(made[number].is_present for number in range(20))
    with pytest.raises(DatasetError, match=r"^clips: got 1000 clips in a row that do not fit; expected .*Lower"):
        maker([clips(1, length=1)], config)[0]


def test_official_pairs_of_a_short_clip_are_refused_by_the_official_settings() -> None:
    with pytest.raises(DatasetError, match=r"expected clips of 20 pictures, 5 of them with the target, .* Lower these"):
        OfficialPairs([clips(1, length=19)])[0]


@MAKERS
def test_nothing_to_draw_from_is_refused(maker, config) -> None:
    for sources in ([], [stills(3, 0.0)], [stills(3, 2.0), clips(1, -1.0)]):
        with pytest.raises(DatasetError, match=r"^training pairs: got sources of weights \[.*; expected positive ones"):
            maker(sources, config)
    with pytest.raises(DatasetError, match="^empty: got no clip and no image; expected some. Leave it out."):
        maker([stills(3), Source("empty", "clips", [])], config)


# Which pictures


def chosen(choose: Any, footage: Footage, config: Any, count: int = 400) -> np.ndarray:
    """(count, 2) numbers of the pictures."""
    rng = np.random.default_rng(0)
    return np.array([choose(footage, False, rng, config=config) for _ in range(count)])


def test_official_pictures_are_in_order_and_less_than_a_gap_apart() -> None:
    found = chosen(official_choice, blank(1000), OfficialPairsConfig(), 3000)
    away = found[:, 1] - found[:, 0]
    assert (away.min(), away.max()) == (1, 199)
    assert away[found[:, 0] < 800].mean() == pytest.approx(100, abs=5)
    assert found[:, 0].mean() == pytest.approx(500, abs=25)


def test_official_pictures_show_the_target_and_the_gap_grows_until_one_does() -> None:
    visible = [3, 5, 6, 300, 301, 640]
    found = chosen(official_choice, blank(1000, visible), OfficialPairsConfig(max_gap=3))
    assert np.isin(found, visible).all()
    assert (found[:, 0] < found[:, 1]).all()
    assert {(3, 5), (5, 6), (300, 301)} == {pair for pair in map(tuple, found.tolist()) if pair[1] - pair[0] < 3}
    two = chosen(official_choice, blank(1000, [10, 900]), OfficialPairsConfig(min_visible=0), 3)
    assert (two == (10, 900)).all()
    rare = chosen(official_choice, blank(1000, [0, 1, 2, 3, 999]), OfficialPairsConfig(max_gap=3), 300)
    assert rare.max() == 3  # it grows by fives, and each time another template is drawn


def test_official_clips_are_long_enough_and_their_stills_large_enough() -> None:
    rng, config = np.random.default_rng(0), OfficialPairsConfig()
    assert official_choice(blank(19), False, rng, config) is None
    assert official_choice(blank(20), False, rng, config) is not None
    assert official_choice(blank(100, range(4)), False, rng, config) is None
    assert official_choice(blank(100, range(5)), False, rng, config) is not None
    assert official_choice(blank(20, [4]), False, rng, replace(config, min_visible=0)) is None
    for size, is_fit in (((51, 51), True), ((50, 90), False), ((90, 50), False)):
        assert official_choice(blank(1, xywh=(0, 0, *size)), True, rng, config) == ((0, 0) if is_fit else None)
    assert official_choice(blank(1, []), True, rng, config) is None


def test_nano_pictures_of_a_clip_are_near_or_anywhere() -> None:
    for near_share, most in ((1.0, 10), (0.0, 299)):
        found = chosen(nano_choice, blank(300), replace(NANO, near_share=near_share, near_pictures=10), 2000)
        away = found[:, 1] - found[:, 0]
        assert (away.min() < 0) and (away.max() > 0)
        assert np.abs(away).max() == pytest.approx(most, abs=15 if near_share == 0 else 0)
    assert np.abs(away).mean() == pytest.approx(100, abs=7)  # a third of the length


def test_nano_leaves_out_targets_that_are_too_small_or_too_long() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 30, 30], [0, 0, 30, 30], [0, 0, 9, 9], [0, 0, 2, 50], [0, 0, 0, 0], [np.nan] * 4])
    visible = np.array([True, False, True, True, True, False])
    clip = Footage("clip", boxes, visible, None, None)  # type: ignore[arg-type]
    with np.errstate(invalid="raise"):
        assert set(chosen(nano_choice, clip, NANO).ravel()) == {0, 3}
    for size, is_fit in (
        ((30, 20), True),
        ((19, 19), False),
        ((121, 20), False),
        ((20, 121), False),
        ((120, 20), True),
    ):
        assert nano_choice(blank(1, xywh=(0, 0, *size)), True, rng, NANO) == ((0, 0) if is_fit else None)
    assert nano_choice(blank(1, []), True, rng, NANO) is None
    assert nano_choice(blank(9, [3]), False, rng, NANO) is None


def test_a_still_is_read_once_and_a_clip_twice() -> None:
    for kind, length, expected in (("stills", 1, 1), ("clips", 30, 2)):
        seen: list[int] = []
        source = Source(kind, kind, [drawn(1, length, GREEN, seen.append)])  # type: ignore[arg-type]
        OfficialPairs([source], OFFICIAL)[0]
        assert len(seen) == expected


def test_a_deck_has_the_pictures_that_were_chosen_in_their_order_and_reads_each_once() -> None:
    seen: list[int] = []
    footage = replace(drawn(7, 9, GREEN, seen.append), name="street/7")
    choose: Any = lambda *_: (4, 8, 4, 0, 8)  # noqa: E731
    deck = Deck([stills(2, 0.0), Source("a", "clips", [footage])], choose, "anything", skip_unreadable=False)
    for num, chosen_pictures in ((None, (4, 8, 4, 0, 8)), (3, (4, 8, 4)), (1, (4,))):
        seen.clear()
        images, boxes, scene, num_skipped = deck.draw_all(np.random.default_rng(0), num)
        assert seen == list(dict.fromkeys(chosen_pictures))
        assert boxes == [box_of(7000 + index) for index in chosen_pictures]
        expected = [draw(7000 + index, GREEN) for index in chosen_pictures]
        assert all(np.array_equal(image, other) for image, other in zip(images, expected, strict=True))
        assert (scene, num_skipped) == ((1, "street"), 0)
    for alone, ends in ((False, (4, 8)), (True, (4, 4))):
        seen.clear()
        shot = deck.draw(np.random.default_rng(0), alone)
        assert (shot.template_xywh, shot.search_xywh) == tuple(box_of(7000 + index) for index in ends)
        assert np.array_equal(shot.search, draw(7000 + ends[1], GREEN))
        assert seen == ([4] if alone else [4, 8, 0])


# Pictures that cannot be read


def on_disk(folder: Path, broken: list[int], length: int = 8) -> Source:
    """A clip of JPEG files, of which some end in the middle."""
    paths = [folder / f"{index}.jpg" for index in range(length)]
    for index, path in enumerate(paths):
        data = cv2.imencode(".jpg", draw(index, GREEN)[..., ::-1])[1].tobytes()
        path.write_bytes(data[: len(data) // 2] if index in broken else data)
    boxes = np.array([box_of(index) for index in range(length)])
    read: Callable[[int], np.ndarray] = lambda index: read_image(paths[index])  # noqa: E731
    return Source(
        "mine", "clips", [Footage("clip", boxes, np.ones(length, bool), read, lambda: map(read_image, paths))]
    )


@MAKERS
def test_an_unreadable_picture_is_the_readers_error(maker, config, tmp_path) -> None:
    made = maker([on_disk(tmp_path, [3])], small(config))
    failed = []
    for number in range(40):
        try:
            made[number]
        except VideoError as error:
            failed.append(str(error))
    assert 4 <= len(failed) <= 25  # a quarter of the pairs is made of it
    assert all(str(tmp_path / "3.jpg") in sentence for sentence in failed)


@MAKERS
def test_unreadable_pictures_are_passed_over_and_counted(maker, config, tmp_path) -> None:
    source = on_disk(tmp_path, [0, 2, 3, 6])
    strict, lenient = (maker([source], small(config), skip_unreadable=skip) for skip in (False, True))
    drawn = [lenient[number] for number in range(60)]
    for number, pair in enumerate(drawn):
        assert same(pair, lenient[number])
        if pair.num_skipped:
            with pytest.raises(VideoError):
                strict[number]
        else:
            assert same(pair, strict[number])
    counts = [pair.num_skipped for pair in drawn]
    assert np.mean(counts) == pytest.approx(3, abs=1.3)  # of two pictures out of eight, both are whole in some 1 of 4
    assert min(counts) == 0


@pytest.mark.parametrize(
    ("maker", "config"),
    [(OfficialPairs, OFFICIAL), (NanoPairs, replace(NANO, occluder_share=0.7, backdrop_share=0.7, absent_share=0.7))],
)
def test_every_picture_that_could_not_be_read_is_counted(maker, config) -> None:
    failed: list[int] = []
    rng = np.random.default_rng(0)

    def fail_at_times(index: int) -> None:
        if rng.random() < 0.3:
            failed.append(index)
            raise VideoError("a.jpg: got 7 bytes")

    footage = [drawn(number, 10, GREEN, fail_at_times) for number in (1, 2)]
    made = maker([Source("two", "clips", footage)], small(config), skip_unreadable=True)
    for number in range(150):
        before = len(failed)
        assert made[number].num_skipped == len(failed) - before
    assert len(failed) > 100


@MAKERS
def test_nothing_but_unreadable_pictures_is_an_error(maker, config, tmp_path) -> None:
    made = maker([on_disk(tmp_path, list(range(8)))], small(config), skip_unreadable=True)
    with pytest.raises(DatasetError, match=r"got 101 unreadable pictures in a row; expected at most 100.*\d.jpg"):
        made[0]


def test_errors_that_are_not_of_pictures_are_never_passed_over() -> None:
    class Broken(list[Footage]):
        def __getitem__(self, index: Any) -> Any:
            raise DatasetError("boxes of clip 7: got text")

    source = Source("mine", "clips", Broken([blank(30)]))
    with pytest.raises(DatasetError, match="boxes of clip 7"):
        OfficialPairs([source], skip_unreadable=True)[0]


# Where the target is


def coloured(crop: np.ndarray, channel: int) -> np.ndarray:
    """The pixels nearer to the target than to the blue, by how far a channel stands above blue."""
    above = crop[..., channel].astype(float) - crop[..., 2]
    return above > (above.max() + np.median(above[above < above.max() / 2])) / 2


def misfit(pair: Pair, xywh_unit: np.ndarray, channel: int) -> float:
    """Largest distance, in crop pixels, of the sides of a box from those of the coloured pixels, inside the crop."""
    side = pair.search.shape[0]
    rows, columns = (np.flatnonzero(coloured(pair.search, channel).any(axis=axis)) for axis in (1, 0))
    x, y, w, h = (float(value) for value in xywh_unit * side)
    stated = np.clip([x, y, x + w, y + h], 0, side)
    return float(np.abs(stated - (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).max())


def honest_mirror(rgb: np.ndarray, xywh: Box) -> tuple[np.ndarray, Box]:
    x, y, w, h = xywh
    return rgb[:, ::-1], (rgb.shape[1] - x - w, y, w, h)


@pytest.mark.parametrize("flip_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("source", "channel"), [(stills(30), 0), (clips(8), 1)], ids=["stills", "clips"])
def test_the_box_of_nano_lies_on_the_target(monkeypatch, source, channel, flip_share) -> None:
    monkeypatch.setattr(pairs, "vary_pixels", augment.jitter_colour)  # blur softens the sides, see below
    made = NanoPairs([source], replace(NANO, flip_share=flip_share, search_shift=0.8))
    for number in range(80):
        pair = made[number]
        assert misfit(pair, pair.xywh_unit, channel) <= 1
        assert coloured(pair.template, channel)[44:52, 44:52].all()  # the template shows it in its middle


@MAKERS
def test_a_box_that_did_not_turn_with_its_crop_shows(maker, config) -> None:
    made = maker([stills(30)], replace(config, flip_share=1.0))
    pairs_of = [made[number] for number in range(30)]
    turned = [pair.xywh_unit * (-1, 1, 1, 1) + (1 - pair.xywh_unit[2], 0, 0, 0) for pair in pairs_of]
    assert share(misfit(pair, pair.xywh_unit, 0) <= 4 for pair in pairs_of) == 1
    assert share(misfit(pair, box, 0) <= 4 for pair, box in zip(pairs_of, turned, strict=True)) < 0.3


@cache
def white_targets() -> Source:
    """A white target of some 100 pixels in the middle of large black pictures, half a crop pixel each."""
    boxes = np.array([(400 + 7 * index, 380 - 5 * index, 90 + index, 112 - 3 * index) for index in range(6)], float)
    pictures = []
    for x, y, w, h in boxes.astype(int).tolist():
        picture = np.zeros((900, 1000, 3), np.uint8)
        picture[y : y + h, x : x + w] = 255
        pictures.append(cv2.GaussianBlur(picture, (0, 0), 3))  # a crop of half its size then misses no sharp edge
    footage = Footage("white", boxes, np.ones(6, bool), pictures.__getitem__, lambda: iter(pictures))
    return Source("white", "clips", [footage])


def found_xywh(crop: np.ndarray) -> np.ndarray:
    """(4,) crop pixels, to a fraction of one: the centre of mass and the extent of what is white."""
    light, along = crop[..., 0] / crop.max(), np.arange(crop.shape[0]) + 0.5
    columns, rows = light.sum(axis=0), light.sum(axis=1)
    w, h = light.sum() / columns.max(), light.sum() / rows.max()
    return np.array([columns @ along / columns.sum() - w / 2, rows @ along / rows.sum() - h / 2, w, h])


def errors_px(maker: Any, config: Any) -> np.ndarray:
    """(60, 4) crop pixels, stated minus found."""
    made = maker([white_targets()], config)
    return np.array([made[n].xywh_unit * made[n].search.shape[0] - found_xywh(made[n].search) for n in range(60)])


@pytest.mark.parametrize("flip_share", [0.0, 0.5, 1.0])
def test_boxes_follow_their_targets_to_less_than_a_pixel(monkeypatch, flip_share) -> None:
    """The official ones to half a crop pixel and half a picture's, of a rounded corner; and a mirrored one to one more
    of the picture's, unless the mirror is mended."""
    monkeypatch.setattr(pairs, "vary_pixels", lambda crop, rng: crop)
    official = replace(OFFICIAL, flip_share=flip_share, centre_jitter=1.5, scale_jitter=0.1, brightness=0.0)
    nano = replace(NANO, flip_share=flip_share, search_shift=0.5, search_scale=0.1)
    with_quirk = np.abs(errors_px(OfficialPairs, official))
    assert np.abs(errors_px(NanoPairs, nano)).max() < 0.05
    monkeypatch.setattr(pairs, "mirrored", honest_mirror)
    mended = np.abs(errors_px(OfficialPairs, official))
    assert 0.5 < mended.max() < 0.95
    if flip_share:
        assert mended.max() < with_quirk.max() < 1.5
    else:
        assert np.array_equal(with_quirk, mended)


def test_a_mirrored_box_is_one_pixel_off() -> None:
    picture, (x, y, w, h) = draw(3, RED), box_of(3)
    turned, box = mirrored(picture, (x, y, w, h))
    x1, y1 = int(box[0]) + 1, int(box[1])
    assert (turned[y1 : y1 + int(h), x1 : x1 + int(w)] == RED).all()
    assert not (turned[y1 : y1 + int(h), x1 - 1] == RED).any()
    assert box == (WIDTH - 1 - x - w, y, w, h)


def test_a_nano_flip_mirrors_the_whole_pair(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "vary_pixels", lambda crop, rng: crop)
    plain, turned = (NanoPairs(both(), replace(NANO, flip_share=flips)) for flips in (0.0, 1.0))
    for number in range(10):
        a, b = plain[number], turned[number]
        assert np.array_equal(a.search, b.search[:, ::-1])
        assert np.array_equal(a.template, b.template[:, ::-1])
        x, y, w, h = a.xywh_unit
        assert b.xywh_unit == pytest.approx((1 - x - w, y, w, h), abs=1e-6)


def test_official_flips_are_together_and_by_themselves() -> None:
    """Two halves of different colours tell which way a crop is."""
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[80:120, 130:150], picture[80:120, 150:170] = RED, GREEN
    footage = Footage(
        "two", np.array([[130.0, 80, 40, 40]]), np.ones(1, bool), lambda _: picture, lambda: iter([picture])
    )
    made = OfficialPairs([Source("two", "stills", [footage])], small(OFFICIAL, centre_jitter=0.5))
    turned = []
    for number in range(800):
        pair = made[number]
        sides = [np.flatnonzero((crop[..., 0] > 120).any(axis=0)).mean() for crop in (pair.template, pair.search)]
        others = [np.flatnonzero((crop[..., 1] > 120).any(axis=0)).mean() for crop in (pair.template, pair.search)]
        turned.append([red > green for red, green in zip(sides, others, strict=True)])
    both_ways = Counter(map(tuple, turned))
    assert all(count / 800 == pytest.approx(0.25, abs=0.05) for count in both_ways.values())
    assert len(both_ways) == 4


def test_official_crops_stray_from_the_target_as_published() -> None:
    made = OfficialPairs(both(), small(OFFICIAL, flip_share=0.0))
    boxes = np.array([made[number].xywh_unit for number in range(600)], float)
    away = (boxes[:, :2] + boxes[:, 2:] / 2 - (32 - 0.5) / 64) * 4 / 3  # crops are 4 sqrt(wh) long, less what ceil adds
    assert np.abs(away).max() <= 0.5
    assert away.std(axis=0) == pytest.approx(np.full(2, np.sqrt(1 / 12)), abs=0.02)
    assert away.mean(axis=0) == pytest.approx(np.zeros(2), abs=0.04)
    size = np.log(np.sqrt(boxes[:, 2] * boxes[:, 3]) * 4)
    assert size.std() == pytest.approx(0.25 / np.sqrt(2), abs=0.02)
    assert size.mean() == pytest.approx(0, abs=0.03)


def test_official_jitter_has_the_published_moments() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([augment.official_jitter((10, 20, 30, 40), rng, centre=4.5, scale=0.5) for _ in range(4000)])
    sides = np.log(boxes[:, 2:] / (30, 40))
    assert sides.mean(axis=0) == pytest.approx(np.zeros(2), abs=0.03)
    assert sides.std(axis=0) == pytest.approx(np.full(2, 0.5), abs=0.02)
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.06
    reach = np.sqrt(boxes[:, 2] * boxes[:, 3])[:, None]
    away = (boxes[:, :2] + boxes[:, 2:] / 2 - (25, 40)) / reach
    assert (np.abs(away).max(axis=0) <= 2.25).all()
    assert away.std(axis=0) == pytest.approx(np.full(2, 4.5 / np.sqrt(12)), abs=0.05)
    assert augment.official_jitter((10, 20, 30, 40), rng, centre=0, scale=0) == (10, 20, 30, 40)


def test_the_target_of_nano_stays_within_the_shift() -> None:
    """Its centre is off the middle of the crop by at most 1.3 sqrt(wh), the crop being about 4 sqrt(wh) long."""
    made = NanoPairs(both(), small(NANO, search_scale=0.0))
    away = np.array([made[number].xywh_unit[:2] + made[number].xywh_unit[2:] / 2 - 0.5 for number in range(300)])
    assert np.abs(away).max() <= 1.3 / 4 + 1e-6
    assert np.abs(away).max() > 0.25
    assert np.abs(away.mean(axis=0)).max() < 0.03


# What the crops must show


def is_all_black(region: CropRegion, height: int, width: int) -> bool:
    """The official way: a mask of the padding, resized, and every 16th pixel of it."""
    x1, y1, side = int(region.x1), int(region.y1), int(region.side_px)
    mask = np.ones((side, side))
    top, left = max(0, -y1), max(0, -x1)
    mask[top : max(min(side, height - 1 - y1), 0), left : max(min(side, width - 1 - x1), 0)] = 0
    if x1 + side < width:
        mask[top : max(min(side, height - 1 - y1), 0), left:] = 0
    if y1 + side < height:
        mask[top:, left : side if x1 + side < width else max(min(side, width - 1 - x1), 0)] = 0
    return bool((cv2.resize(mask, (region.out_px, region.out_px)) > 0)[::16, ::16].all())


def test_a_crop_of_padding_alone_is_known_by_its_geometry() -> None:
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(3000):
        x, y = rng.uniform(-60, 90, 2)
        region = snapped_region((x, y, *rng.uniform(2, 30, 2)), 4.0, int(rng.choice([32, 64, 96])))
        verdicts.append(is_all_padding(region, 60, 80))
        assert verdicts[-1] == is_all_black(region, 60, 80), region
    assert 0.1 < share(verdicts) < 0.9


def test_crops_that_show_nothing_are_drawn_again() -> None:
    outside = Footage(
        "far", np.array([[900.0, 900, 60, 60]]), np.ones(1, bool), lambda _: draw(1, RED), lambda: iter(())
    )
    half = Source("half", "stills", [outside, drawn(1, 1, GREEN)])
    made = OfficialPairs([half], small(OFFICIAL))
    assert all(shows(made[number].template, 1) for number in range(60))
    flat = replace(outside, xywh=np.array([[20.0, 20, 60, 0]]))
    for footage in (outside, flat):
        with pytest.raises(DatasetError, match="got 1000 crops in a row that show nothing .*; expected boxes inside"):
            OfficialPairs([Source("bad", "stills", [footage])], small(OFFICIAL, min_still_px=-1))[0]


# Pixels


def is_grey(crop: np.ndarray) -> bool:
    return bool((np.ptp(crop, axis=2) == 0).all())


@MAKERS
def test_grey_is_of_both_crops(maker, config) -> None:
    made = maker(both(), small(config, grey_share=0.2))
    drawn_pairs = [made[number] for number in range(900)]
    assert share(is_grey(pair.search) for pair in drawn_pairs) == pytest.approx(0.2, abs=0.04)
    assert all(is_grey(pair.search) == is_grey(pair.template) for pair in drawn_pairs)


def test_official_brightness_is_each_crops_own() -> None:
    picture = np.full((300, 300, 3), (200, 100, 240), np.uint8)
    footage = Footage(
        "a", np.array([[130.0, 130, 60, 60]]), np.ones(1, bool), lambda _: picture, lambda: iter([picture])
    )
    made = OfficialPairs([Source("a", "stills", [footage])], small(OFFICIAL, centre_jitter=0, scale_jitter=0))
    means = []
    for number in range(400):
        pair = made[number]
        means.append([crop[16, 16].astype(float) for crop in (pair.template, pair.search)])
    red, green, blue = np.moveaxis(np.array(means), 2, 0)
    factor = green / 100
    assert (factor.min(), factor.max()) == pytest.approx((0.8, 1.2), abs=0.01)
    assert factor.std(axis=0) == pytest.approx(np.full(2, 0.4 / np.sqrt(12)), abs=0.01)
    assert abs(np.corrcoef(factor.T)[0, 1]) < 0.15
    assert np.abs(red - 200 * factor).max() <= 1.5
    assert (blue[factor > 1.07] == 255).all()  # 240 is cut at 255 from a factor of 1.0625 on
    assert (blue[factor < 1.055] < 255).all()


def test_share_of_absent_pairs() -> None:
    made = NanoPairs([stills(50)], small(NANO, absent_share=0.3))
    assert share(not made[number].is_present for number in range(900)) == pytest.approx(0.3 * 49 / 50, abs=0.05)
    assert all(OfficialPairs([stills(50)], small(OFFICIAL))[number].is_present for number in range(50))


def test_an_absent_pair_shows_another_target() -> None:
    one_each = [Source("a", "clips", [drawn(1, 10, GREEN)]), Source("b", "stills", [drawn(1, 1, RED)])]
    made = NanoPairs(one_each, replace(NANO, absent_share=1.0))
    flags = []
    for number in range(40):
        template, search, _, is_present, _ = made[number]
        assert (shows(template[32:64, 32:64], 0) == shows(search, 0)) == is_present
        flags.append(is_present)
    assert set(flags) == {True, False}  # drawn from the same clip again, a pair is present and says so


def test_targets_of_one_scene_are_not_absent_from_each_other() -> None:
    named = [replace(drawn(number, 10, GREEN), name=f"street/{number}") for number in (1, 2)]
    config = small(NANO, absent_share=1.0)
    together, apart = (
        NanoPairs([Source("a", "clips", footage)], config)
        for footage in (named, [drawn(1, 10, RED), drawn(2, 10, RED)])
    )
    assert all(together[number].is_present for number in range(30))
    assert share(apart[number].is_present for number in range(200)) == pytest.approx(0.5, abs=0.12)


# The changes, one by one


def test_no_jitter_is_the_exact_region() -> None:
    still_region = augment.jittered_region((10, 20, 30, 40), 4.0, 64, np.random.default_rng(0), shift=0, scale=0)
    exact = exact_region((10, 20, 30, 40), 4.0, 64)
    values = [(region.x1, region.y1, region.side_px, region.out_px) for region in (still_region, exact)]
    assert values[0] == pytest.approx(values[1])


def test_another_picture_fills_what_lies_outside() -> None:
    other = np.full((9, 7, 3), 200, np.uint8)
    region = CropRegion(-20, -10, 100, 50)  # two frame pixels in one; the frame covers columns 10..40, rows 5..30
    crop = np.full((50, 50, 3), 1, np.uint8)
    filled = augment.paste_backdrop(crop, region, 50, 60, other)
    assert (filled[5:30, 10:40] == 1).all()
    filled[5:30, 10:40] = 200
    assert (filled == 200).all()
    assert (crop == 1).all()
    for far in (CropRegion(-200, -10, 100, 50), CropRegion(70, 0, 100, 50), CropRegion(0, 500, 100, 50)):
        assert (augment.paste_backdrop(crop, far, 50, 60, other) == 200).all()


def test_a_crop_reaches_out_on_any_side() -> None:
    assert not reaches_out(CropRegion(0, 0, 50, 64), 50, 50)
    for x1, y1 in ((-1, 0), (0, -1), (1, 0), (0, 1)):
        assert reaches_out(CropRegion(x1, y1, 50, 64), 50, 50)


def test_a_backdrop_is_never_of_the_same_scene() -> None:
    """Outside the picture lies red where a still is the backdrop, the mean colour where the clip itself is drawn."""
    edge = replace(drawn(1, 10, GREEN), xywh=np.tile([0.0, 0, 60, 60], (10, 1)))
    red = np.full((20, 20, 3), RED, np.uint8)
    still = Footage("red", np.array([[0.0, 0, 60, 60]]), np.ones(1, bool), lambda _: red, lambda: iter([red]))
    config = replace(NANO, backdrop_share=1.0, search_shift=0.0, search_scale=0.0, flip_share=0.0)
    alone = NanoPairs([Source("a", "clips", [edge])], config)
    plain = NanoPairs([Source("a", "clips", [edge])], replace(config, backdrop_share=0.0))
    mixed = NanoPairs([Source("a", "clips", [edge]), Source("b", "stills", [still])], config)
    for number in range(10):
        corner, without = alone[number].search[:50, :50], plain[number].search[:50, :50]
        assert np.ptp(corner.reshape(-1, 3), axis=0).max() <= 8
        assert np.ptp(without.reshape(-1, 3), axis=0).max() <= 8
    corners = [mixed[number].search[:50, :50].mean(axis=(0, 1)) for number in range(120)]
    assert 0.15 < share(red > 2.5 * blue for red, _, blue in corners) < 0.85


def test_an_occluder_covers_a_part_of_the_target() -> None:
    crop, patch = np.zeros((64, 64, 3), np.uint8), np.full((10, 10, 3), 255, np.uint8)
    covered = []
    for seed in range(200):
        changed = augment.paste_occluder(crop, (20, 24, 20, 16), patch, np.random.default_rng(seed))
        rows, columns = np.nonzero(changed[..., 0])
        assert 14 <= columns.min() <= columns.max() < 20 + 20 + 14
        assert 24 - 5 <= rows.min() <= rows.max() < 24 + 16 + 12
        covered.append((changed[24:40, 20:40, 0] > 0).mean())
    assert not crop.any()
    assert 0.05 < np.mean(covered) < 0.5
    assert max(covered) < 0.6
    far = augment.paste_occluder(crop, (500, 500, 20, 16), patch, np.random.default_rng(0))
    assert not far.any()


@pytest.mark.parametrize("change", [augment.jitter_colour, augment.blur, augment.vary_pixels])
def test_changes_keep_form_and_follow_their_generator(change) -> None:
    crop = draw(3, RED)[:96, :96]
    kept = crop.copy()
    outcomes = [change(crop, np.random.default_rng(seed)) for seed in range(20)]
    for seed, changed in enumerate(outcomes):
        assert (changed.shape, changed.dtype) == (crop.shape, np.uint8)
        assert np.array_equal(changed, change(crop, np.random.default_rng(seed)))
    assert np.array_equal(crop, kept)
    assert sum(not np.array_equal(changed, crop) for changed in outcomes) >= 10


def test_colours_change_by_a_third_and_contrast_about_the_mean() -> None:
    crop = np.full((8, 8, 3), 100, np.uint8)
    crop[:4], crop[4:] = 80, 120
    changed = [augment.jitter_colour(crop, np.random.default_rng(seed)).astype(float) for seed in range(2000)]
    dark, light = (np.array([half[row, 0] for half in changed]) for row in (0, 7))
    mean = (dark + light) / 2
    assert mean.mean() == pytest.approx(102.5, abs=1.5)  # halfway between 0.75 and 1.3
    assert mean.min() >= 100 * 0.75 * 0.9 - 11
    assert mean.max() <= 100 * 1.3 * 1.1 + 11
    spread = (light - dark) / mean / 0.4  # of which the gain has no part
    assert spread.mean() == pytest.approx(1, abs=0.03)
    assert (spread.min(), spread.max()) == pytest.approx((0.75, 1.3), abs=0.1)  # with what the offset adds
    assert (mean.max(axis=1) / mean.min(axis=1)).max() == pytest.approx(1.2, abs=0.05)


def test_blur_moves_nothing() -> None:
    """The middle of a bright spot stays where it was, to a third of a pixel."""
    crop = np.zeros((96, 96, 3), np.uint8)
    crop[40:60, 30:50] = 200
    along = np.arange(96) + 0.5
    for seed in range(60):
        bright = augment.blur(crop, np.random.default_rng(seed))[..., 0].astype(float)
        middle = (bright.sum(axis=0) @ along, bright.sum(axis=1) @ along) / bright.sum()
        assert middle == pytest.approx((40, 50), abs=0.34)


def test_grey_is_the_luma() -> None:
    crop = np.full((2, 2, 3), (200, 100, 50), np.uint8)
    assert np.abs(augment.to_grey(crop) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 1
