"""Examples of templates and later frames of scenes that are drawn here, so that the pixels tell where the target is."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sightline.datasets.footage import Footage, LazyFootage, Source
from sightline.errors import DatasetError, VideoError
from sightline.geometry.aligned_crops import AlignedCrop, aligned_crop, jittered_crop
from sightline.geometry.boxes import Box
from sightline.imaging.frames import read_image
from sightline.imaging.sample import crop_aligned, whole_mean_colour
from sightline.training import augment
from sightline.training.sequences import (
    SequenceExample,
    SequenceExamples,
    SequencesConfig,
    cut_box,
    interval_choice,
    search_crop,
)

RED, GREEN, BLUE = (230, 30, 30), (30, 230, 30), (20, 40, 120)
HEIGHT, WIDTH = 160, 200
PLAIN = SequencesConfig(98, 196, flip_share=0.0, colour=0.0, three_share=0.0)  # cut alone
STEADY = replace(PLAIN, scale_jitter=0.0, shift_jitter=0.0)
SMALL = replace(PLAIN, template_px=28, search_px=56, min_seen_px=2.0)  # where the pixels do not matter


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


def drawn(number: int, length: int, colour: tuple[int, int, int] = GREEN, seen: Callable[[int], Any] = id) -> Footage:
    """Pictures 1000 number and on; `seen` is told the index of each that is read."""
    numbers = [1000 * number + index for index in range(length)]

    def read(index: int) -> np.ndarray:
        seen(index)
        return draw(numbers[index], colour)

    boxes = np.array([box_of(number) for number in numbers])
    return Footage(f"{number}", boxes, np.ones(length, bool), read, lambda: map(read, range(length)))


def still_of(picture: np.ndarray, xywh: Box) -> Source:
    footage = Footage("one", np.array([xywh]), np.ones(1, bool), lambda _: picture, lambda: iter([picture]))
    return Source("one", "stills", [footage])


def stills(count: int) -> Source:
    return Source("stills", "stills", [drawn(number, 1, RED) for number in range(count)])


def clips(count: int, length: int = 10) -> Source:
    return Source("clips", "clips", [drawn(number, length) for number in range(1, count + 1)])


def blank(length: int, visible: Any = None) -> Footage:
    """Boxes alone."""
    is_visible = np.ones(length, bool) if visible is None else np.isin(np.arange(length), visible)
    return Footage("blank", np.tile((0.0, 0, 60, 60), (length, 1)), is_visible, None, None)  # type: ignore[arg-type]


def same(a: SequenceExample, b: SequenceExample) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def made(sources: Sequence[Source] | Source, config: SequencesConfig, count: int) -> list[SequenceExample]:
    examples = SequenceExamples([sources] if isinstance(sources, Source) else sources, config)
    return [examples[number] for number in range(count)]


# Which example


@pytest.mark.parametrize(
    ("config", "sides", "tokens"),
    [
        (SequencesConfig(), ((3, 196, 196, 3), (2, 378, 378, 3)), 196),
        (replace(SMALL, num_templates=5, num_searches=1), ((5, 28, 28, 3), (1, 56, 56, 3)), 4),
    ],
)
def test_an_example_has_its_stated_form(config: SequencesConfig, sides: Any, tokens: int) -> None:
    example = SequenceExamples([stills(6), clips(3)], config)[0]
    for crops, shape in zip((example.templates, example.searches), sides, strict=True):
        assert (crops.shape, crops.dtype, crops.flags.c_contiguous) == (shape, np.uint8, True)
    assert (example.foregrounds.shape, example.foregrounds.dtype) == ((len(example.templates), tokens), np.float32)
    assert set(np.unique(example.foregrounds)) <= {0.0, 1.0} and example.foregrounds.any(axis=1).all()
    assert (example.xyxy_unit.shape, example.xyxy_unit.dtype) == ((len(example.searches), 4), np.float32)
    assert example.xyxy_unit.min() >= 0 and example.xyxy_unit.max() <= 1
    assert example.num_skipped == 0


def test_an_example_depends_on_seed_and_number_alone() -> None:
    config = SequencesConfig(28, 56, min_seen_px=2.0)
    forward, backward = (SequenceExamples([stills(6), clips(3)], config) for _ in range(2))
    kept = {number: forward[number] for number in range(40)}
    for number in reversed(range(40)):
        assert same(backward[number], kept[number])
    other = SequenceExamples([stills(6), clips(3)], config, seed=1)
    assert not any(same(other[number], kept[number]) for number in range(40))
    assert not any(same(kept[number], kept[number + 1]) for number in range(39))


def green_clip(index: int) -> Footage:
    return drawn(index, 10)


def test_other_processes_can_have_a_copy() -> None:
    examples = SequenceExamples([Source("green", "clips", LazyFootage(5, green_clip))], SMALL)
    copied = pickle.loads(pickle.dumps(examples))
    assert all(same(copied[number], examples[number]) for number in range(10))


# Which pictures


def chosen(footage: Footage, config: SequencesConfig, count: int = 4000) -> np.ndarray:
    """(count, M + F) numbers of the pictures."""
    rng = np.random.default_rng(0)
    return np.array([interval_choice(footage, False, rng, config) for _ in range(count)])


def parts(row: np.ndarray, config: SequencesConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """What may have been drawn as templates and as search frames, by the order of the numbers alone."""
    row = np.sort(row)
    ends = row[: config.num_templates], row[config.num_templates :]
    starts = row[config.num_searches :], row[: config.num_searches]
    return [ends, starts]


def fits(row: np.ndarray, config: SequencesConfig) -> bool:
    """Whether templates within reach of one of them, and search frames beyond them on one side, explain the row."""

    def is_near(templates: np.ndarray) -> bool:
        return bool(np.abs(templates[:, None] - templates).max(axis=1).min() <= config.template_reach)

    def is_beyond(templates: np.ndarray, searches: np.ndarray) -> bool:
        after, before = searches - templates[-1], templates[0] - searches
        away = after if after.min() > 0 else before
        return bool(away.min() > 0 and away.max() <= config.search_reach)

    return any(is_near(templates) and is_beyond(templates, searches) for templates, searches in parts(row, config))


def test_templates_lie_near_one_another_and_the_search_frames_on_one_side_of_them() -> None:
    config = SequencesConfig(template_reach=20, search_reach=30)
    rows = chosen(blank(1000), config)
    assert all(fits(row, config) for row in rows)
    for short in (replace(config, template_reach=19), replace(config, search_reach=29)):
        assert 0.9 < np.mean([fits(row, short) for row in rows]) < 1
    steps = np.diff(rows, axis=1)
    assert ((steps >= 0).all(axis=1) | (steps <= 0).all(axis=1)).all()  # in order or in reverse
    assert np.mean(rows[:, 0] < rows[:, -1]) == pytest.approx(0.5, abs=0.03)
    assert rows[:, 2].mean() == pytest.approx(500, abs=15)  # around one drawn anywhere


def test_the_official_reach_is_used_up() -> None:
    config = SequencesConfig()
    rows = chosen(blank(5000), config)
    assert all(fits(row, config) for row in rows)
    spread = np.ptp(rows, axis=1)
    assert 700 < spread.max() <= 2 * config.template_reach + config.search_reach


def test_search_frames_lie_evenly_on_either_side_and_the_parts_swap_with_the_side_and_the_order() -> None:
    """All templates are one picture here, so that what is not it is a search frame."""
    config = SequencesConfig(template_reach=0, search_reach=100)
    kinds: Counter[tuple[bool, bool]] = Counter()
    away = []
    for row in chosen(blank(20_000), config):
        values, counts = np.unique(row, return_counts=True)
        base = values[counts >= 3][0]
        searches = row[row != base]
        assert len(searches) == 2 and len(set(np.sign(searches - base))) == 1
        is_after, is_in_order = bool(searches[0] > base), bool(row[0] < row[-1])
        # The first three are the templates: the base thrice, or, where it comes last, the search frames and it.
        assert (row[:3] == base).all() == (is_after == is_in_order)
        assert (row[3:] == base).all() == (is_after != is_in_order)
        kinds[is_after, is_in_order] += 1
        away += np.abs(searches - base).tolist()
    assert all(count / 4000 == pytest.approx(0.25, abs=0.025) for count in kinds.values()) and len(kinds) == 4
    assert (min(away), max(away)) == (1, 100)
    assert np.mean(away) == pytest.approx(50.5, abs=1.5)


def test_only_pictures_that_show_the_target_are_drawn() -> None:
    visible = [3, 5, 6, 300, 301, 640]
    assert set(chosen(blank(1000, visible), SequencesConfig()).ravel().tolist()) == set(visible)


def test_few_pictures_are_repeated() -> None:
    config = SequencesConfig()
    assert (chosen(blank(1), config, 20) == 0).all()  # a still
    assert (chosen(blank(9, [5]), config, 20) == 5).all()
    alone = chosen(blank(2000, [0, 1000]), config, 200)  # neither is within reach of the other
    assert set(map(tuple, alone.tolist())) == {(0,) * 5, (1000,) * 5}
    two = chosen(blank(2), config, 200)  # both may be templates, and there is no side then
    assert {tuple(sorted(set(row))) for row in two.tolist()} == {(0, 1)}
    assert (0, 0, 0, 1, 1) in set(map(tuple, two.tolist())) and (0, 1, 1, 1, 1) in set(map(tuple, two.tolist()))
    assert interval_choice(blank(7, []), False, np.random.default_rng(0), config) is None


@pytest.mark.parametrize(("num_templates", "num_searches"), [(1, 2), (2, 1), (5, 3)])
def test_any_number_of_templates_and_search_frames(num_templates: int, num_searches: int) -> None:
    config = SequencesConfig(num_templates=num_templates, num_searches=num_searches, template_reach=9, search_reach=9)
    rows = chosen(blank(300), config, 500)
    assert rows.shape == (500, num_templates + num_searches)
    assert all(fits(row, config) for row in rows)


def test_a_picture_is_read_once_however_often_it_is_drawn() -> None:
    for kind, length in (("stills", 1), ("clips", 2), ("clips", 40)):
        seen: list[int] = []
        source = Source(kind, kind, [drawn(1, length, seen=seen.append)])  # type: ignore[arg-type]
        examples = SequenceExamples([source], SMALL)
        for number in range(20):
            seen.clear()
            examples[number]
            assert len(seen) == len(set(seen)) <= min(length, 5)


# Pictures that cannot be read, targets that cannot be seen


def on_disk(folder: Path, broken: list[int], length: int = 8) -> Source:
    """A clip of JPEG files, of which some end in the middle."""
    paths = [folder / f"{index}.jpg" for index in range(length)]
    for index, path in enumerate(paths):
        data = cv2.imencode(".jpg", draw(index, GREEN)[..., ::-1])[1].tobytes()
        path.write_bytes(data[: len(data) // 2] if index in broken else data)
    boxes = np.array([box_of(index) for index in range(length)])
    read: Callable[[int], np.ndarray] = lambda index: read_image(paths[index])  # noqa: E731
    footage = Footage("clip", boxes, np.ones(length, bool), read, lambda: map(read_image, paths))
    return Source("mine", "clips", [footage])


def test_unreadable_pictures_are_passed_over_and_counted_or_the_readers_error(tmp_path: Path) -> None:
    source = on_disk(tmp_path, [0, 5])
    strict, lenient = (SequenceExamples([source], SMALL, skip_unreadable=skip) for skip in (False, True))
    counts = []
    for number in range(40):
        example = lenient[number]
        assert same(example, lenient[number])
        counts.append(example.num_skipped)
        if example.num_skipped:
            with pytest.raises(VideoError, match=r"[05].jpg"):
                strict[number]
        else:
            assert same(example, strict[number])
    assert min(counts) == 0 and 0.5 < np.mean(counts) < 6
    with pytest.raises(DatasetError, match=r"got 101 unreadable pictures in a row; expected at most 100"):
        SequenceExamples([on_disk(tmp_path, list(range(8)))], SMALL, skip_unreadable=True)[0]


def test_every_picture_that_could_not_be_read_is_counted() -> None:
    """Of examples that are drawn again because the target is not to be seen, too."""
    failed: list[int] = []
    rng = np.random.default_rng(0)

    def fail_at_times(index: int) -> None:
        if rng.random() < 0.1:
            failed.append(index)
            raise VideoError("a.jpg: got 7 bytes")

    footage = drawn(1, 10, seen=fail_at_times)
    boxes = footage.xywh.copy()
    boxes[::4] += 1000.0
    source = Source("half", "clips", [replace(footage, xywh=boxes)])
    examples = SequenceExamples([source], SMALL, skip_unreadable=True)
    for number in range(100):
        before = len(failed)
        assert examples[number].num_skipped == len(failed) - before
    assert len(failed) > 50


def test_an_example_whose_target_is_outside_is_drawn_again() -> None:
    footage = drawn(1, 10)
    boxes = footage.xywh.copy()
    boxes[3:] += 1000.0
    seen: Counter[int] = Counter()
    inside = replace(footage, xywh=boxes, read=lambda index: (seen.update([index]), footage.read(index))[1])
    for example in made(Source("half", "clips", [inside]), replace(SMALL, template_reach=2, search_reach=2), 20):
        assert all((crop[..., 1] > 128).any() for crop in (*example.templates, *example.searches))
    assert {3, 4, 5, 6, 7, 8, 9} & seen.keys()
    outside = replace(footage, xywh=footage.xywh + 1000.0)
    with pytest.raises(DatasetError, match="^training examples: got 1000 in a row whose target is not to be seen; exp"):
        SequenceExamples([Source("bad", "clips", [outside])], SMALL)[0]


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(DatasetError, match="got sources of weights"):
        SequenceExamples([])
    with pytest.raises(DatasetError, match="^empty: got no clip and no image; expected some. Leave it out."):
        SequenceExamples([Source("empty", "clips", [])])
    with pytest.raises(DatasetError, match="^mine: got 1000 clips in a row that do not fit; expected a picture that"):
        SequenceExamples([Source("mine", "clips", [blank(9, [])])], SMALL)[0]


def test_a_box_is_cut_at_the_border() -> None:
    assert cut_box((10, 20, 30, 40), 100, 100) == (10, 20, 30, 40)
    assert cut_box((-10, -20, 30, 40), 100, 100) == (0, 0, 20, 20)
    assert cut_box((90, 80, 30, 40), 100, 100) == (90, 80, 10, 20)
    for box in ((100, 0, 9, 9), (0, -9, 9, 9), (-9, 0, 9, 9), (50, 50, 0, 9)):
        assert cut_box(box, 100, 100) is None


# Where the target is


def coloured(crop: np.ndarray, channel: int) -> np.ndarray:
    """The pixels nearer to the target than to the blue, by how far a channel stands above blue."""
    above = crop[..., channel].astype(float) - crop[..., 2]
    return above > (above.max() + np.median(above[above < above.max() / 2])) / 2


def misfit(crop: np.ndarray, xyxy_unit: np.ndarray, channel: int) -> float:
    """Largest distance, in crop pixels, of the sides of a box from those of the coloured pixels."""
    rows, columns = (np.flatnonzero(coloured(crop, channel).any(axis=axis)) for axis in (1, 0))
    found = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return float(np.abs(xyxy_unit * crop.shape[0] - found).max())


@pytest.mark.parametrize("flip_share", [0.0, 0.5, 1.0])
def test_boxes_lie_on_the_target_and_the_foreground_covers_it(flip_share: float) -> None:
    """However a search crop is stretched and shifted, cut at its border and mirrored."""
    config = replace(PLAIN, flip_share=flip_share, shift_jitter=2.5)
    cut = mirrored = 0
    for example in made([stills(12), clips(3)], config, 40):
        channel = int(example.templates[0][..., 1].max() > 200)
        for crop, box in zip(example.searches, example.xyxy_unit, strict=True):
            assert misfit(crop, box, channel) <= 1
            mirrored += misfit(crop, box[[2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0), channel) <= 1
            cut += bool((box == 0).any() or (box == 1).any())
        for crop, foreground in zip(example.templates, example.foregrounds, strict=True):
            target = coloured(crop, channel).astype(np.uint8)
            least, most = (
                change(target, np.ones((3, 3), np.uint8)).reshape(7, 14, 7, 14).any(axis=(1, 3)).ravel()
                for change in (partial(cv2.erode, borderValue=0), cv2.dilate)
            )
            assert (least <= foreground).all() and (foreground <= most).all()
            assert least.sum() > 0 and most.sum() < 49
    assert cut > 5 and mirrored < 15  # a box that did not turn with its crop is found out


def test_the_foreground_turns_with_its_template() -> None:
    """Of small targets, which the rounding to whole pixels pushes off the template's middle."""
    picture, rng, sides = draw(3, RED), np.random.default_rng(0), 0
    for _ in range(20):
        x, y, w, h = (*rng.uniform(60, 90, 2).tolist(), *rng.uniform(2, 5, 2).tolist())
        source = still_of(picture, (x, y, w, h))
        (plain,), (mirror,) = (
            made(source, replace(STEADY, flip_share=flips, min_seen_px=1), 1) for flips in (0.0, 1.0)
        )
        assert np.array_equal(plain.templates[:, :, ::-1], mirror.templates)
        assert np.array_equal(plain.searches[:, :, ::-1], mirror.searches)
        a, b = plain.foregrounds.reshape(3, 7, 7), mirror.foregrounds.reshape(3, 7, 7)
        assert np.array_equal(a[:, :, ::-1], b)
        sides += not np.array_equal(a, b)
        assert mirror.xyxy_unit == pytest.approx(plain.xyxy_unit[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (1, 0, 1, 0))
    assert sides > 3


def test_each_crop_is_mirrored_by_itself() -> None:
    """Two halves of different colours tell which way a crop is."""
    picture = np.zeros((200, 300, 3), np.uint8)
    picture[80:120, 130:150], picture[80:120, 150:170] = RED, GREEN
    source = still_of(picture, (130, 80, 40, 40))
    turned = []
    for example in made(source, replace(SMALL, flip_share=0.5, shift_jitter=0.5), 400):
        middles = [
            [np.flatnonzero((crop[..., channel] > 120).any(axis=0)).mean() for channel in (0, 1)]
            for crop in (*example.templates, *example.searches)
        ]
        turned.append([red > green for red, green in middles])
    assert np.mean(turned, axis=0) == pytest.approx(np.full(5, 0.5), abs=0.08)
    assert np.abs(np.corrcoef(np.array(turned, float).T) - np.eye(5)).max() < 0.16


def test_without_jitter_crops_are_those_of_the_tracker() -> None:
    """Outside of the picture lies its own mean."""
    picture = draw(4, RED)
    box = box_of(4)
    (example,) = made(still_of(picture, box), STEADY, 1)
    fill = whole_mean_colour(picture)
    for crops, factor, side, min_px in ((example.templates, 2.0, 98, 0.0), (example.searches, 5.0, 196, 10.0)):
        region = aligned_crop(box, factor, side, HEIGHT, WIDTH, min_px)
        expected = crop_aligned(picture, region, fill)
        for crop in crops:
            assert np.abs(crop - expected).max() <= 0.5
    (left, right), side = region.crop_x, 196
    assert right - left < side  # some of it is outside
    assert np.abs(example.searches[0][:, :left].astype(float) - fill).max(initial=0) <= 0.5
    x, y, w, h = box
    assert example.xyxy_unit[0] * side == pytest.approx(region.to_crop((x, y, x + w, y + h)), abs=1e-3)


# How search crops stray


def far_from_the_border(count: int, config: SequencesConfig) -> tuple[np.ndarray, np.ndarray]:
    """Of search crops in a large picture: stretch in x and y, and the target's way off the middle in mean sides."""
    rng, xywh = np.random.default_rng(0), (9960.0, 9980.0, 80.0, 40.0)
    steady = aligned_crop(xywh, config.search_factor, config.search_px, 20_000, 20_000)
    stretches, aways = [], []
    for _ in range(count):
        crop = search_crop(xywh, config, rng, 20_000, 20_000)
        assert crop is not None
        stretch = np.divide(crop.scale, steady.scale)
        centre = crop.to_crop((10_000, 10_000, 10_000, 10_000))[:2]
        mean_side = (80 * crop.scale[0] + 40 * crop.scale[1]) / 2
        stretches.append(stretch)
        aways.append((centre - config.search_px / 2) / mean_side)
    return np.array(stretches), np.array(aways)


def test_search_crops_stray_from_the_target_as_published() -> None:
    stretch, away = far_from_the_border(3000, SequencesConfig(min_seen_px=-400.0))
    sides = np.log(stretch)
    assert sides.mean(axis=0) == pytest.approx(np.zeros(2), abs=0.015)
    assert sides.std(axis=0) == pytest.approx(np.full(2, 0.25), abs=0.01)
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.05  # each axis its own
    assert np.abs(away).max(axis=0) == pytest.approx(np.full(2, 3.0), abs=0.02)
    assert away.std(axis=0) == pytest.approx(np.full(2, 3 / np.sqrt(3)), abs=0.03)
    assert away.mean(axis=0) == pytest.approx(np.zeros(2), abs=0.1)
    assert abs(np.corrcoef(away.T)[0, 1]) < 0.05
    stretch, away = far_from_the_border(50, SequencesConfig(scale_jitter=0.0, shift_jitter=0.0))
    assert np.abs(stretch - 1).max() < 1e-6 and np.abs(away).max() < 0.02  # the rounding to whole pixels


def test_a_jittered_crop_is_stretched_about_the_target_and_shifted_by_its_sides() -> None:
    xywh: Box = (460.0, 480.0, 80.0, 40.0)
    steady = aligned_crop(xywh, 5.0, 378, 1000, 1000)
    assert jittered_crop(xywh, 5.0, 378, 1000, 1000, (1, 1), (0, 0)) == steady
    crop = jittered_crop(xywh, 5.0, 378, 1000, 1000, (1.5, 0.75), (1.0, -0.5))
    assert np.divide(crop.scale, steady.scale) == pytest.approx((1.5, 0.75), rel=0.01)  # whole pixels
    mean_side = (80 * crop.scale[0] + 40 * crop.scale[1]) / 2
    centre = crop.to_crop((500, 500, 500, 500))[:2]
    assert centre == pytest.approx((189 + mean_side, 189 - mean_side / 2), abs=1)
    away = jittered_crop(xywh, 5.0, 378, 1000, 1000, (1, 1), (40, 0))
    assert away.crop_x == away.crop_y == (0, 0)  # nothing of the picture is left in it


def sides_seen_px(config: SequencesConfig, count: int = 60) -> np.ndarray:
    """(examples, search frames, 2) how much of the target's width and height is in a search crop."""
    boxes = np.array([example.xyxy_unit for example in made([stills(9), clips(2)], config, count)]) * config.search_px
    return boxes[..., 2:] - boxes[..., :2]


def test_enough_of_the_target_is_in_every_search_crop() -> None:
    config = replace(PLAIN, three_share=0.0, shift_jitter=4.0)
    assert 10 - 1e-3 <= sides_seen_px(config).min() < 16
    assert sides_seen_px(replace(config, min_seen_px=25.0)).min() >= 25 - 1e-3
    assert sides_seen_px(replace(config, min_seen_px=1.0), 120).min() < 10  # the control
    with pytest.raises(DatasetError, match="got 1000 in a row whose target is not to be seen"):
        SequenceExamples([stills(3)], replace(SMALL, min_seen_px=57.0))[0]


def test_a_tiny_target_is_searched_as_one_of_ten_pixels() -> None:
    config = replace(STEADY, min_seen_px=0.0)
    crops = [search_crop((500.0, 500.0, side, side), config, np.random.default_rng(0), 1000, 1000) for side in (2, 10)]
    a, b = (crop for crop in crops if isinstance(crop, AlignedCrop))
    assert a.scale == pytest.approx(b.scale, rel=0.05) and a.scale[0] == pytest.approx(196 / 50, rel=0.05)


# Pixels


class Fixed:
    """Stands for a generator: an order of the three changes and their factors, in that order."""

    def __init__(self, order: Sequence[int], factors: Sequence[float]) -> None:
        self.order, self.factors = order, iter(factors)

    def permutation(self, count: int) -> Sequence[int]:
        assert count == len(self.order)
        return self.order

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == pytest.approx((0.6, 1.4))
        return next(self.factors)


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def expected_jitter(rgb: np.ndarray, order: Sequence[int], factors: Sequence[float]) -> np.ndarray:
    """Brightness, contrast and saturation in floats, cut to bytes' range after each."""
    rgb = rgb.astype(float)
    for which, factor in zip(order, factors, strict=True):
        others = (np.zeros_like(rgb), np.full_like(rgb, luma(rgb).mean()), np.repeat(luma(rgb)[..., None], 3, axis=2))
        rgb = np.clip(factor * rgb + (1 - factor) * others[which], 0, 255)
    return rgb


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_colours_are_jittered_in_the_order_drawn(order: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    for factors in ((1.4, 0.6, 1.3), (0.7, 1.4, 1.2), (1.0, 1.0, 1.0)):
        changed = augment.jitter_in_any_order(picture, 0.4, Fixed(order, factors))  # type: ignore[arg-type]
        expected = expected_jitter(picture, order, factors)
        assert np.abs(changed - expected).max() <= 3  # each is rounded to a byte
    other = expected_jitter(picture, order[::-1], (0.7, 1.4, 1.2)[::-1])  # where values are cut, the order counts
    mine = augment.jitter_in_any_order(picture, 0.4, Fixed(order, (0.7, 1.4, 1.2)))  # type: ignore[arg-type]
    assert np.abs(mine - other).max() > 3


def test_each_crop_is_jittered_by_itself_and_within_bounds() -> None:
    grey = np.full((160, 200, 3), 100, np.uint8)
    source = still_of(grey, (80, 60, 40, 40))
    values = []
    for example in made(source, replace(SMALL, colour=0.4), 300):
        assert (np.ptp(example.templates, axis=(1, 2, 3)) == 0).all()  # grey has brightness alone
        values.append([crop[0, 0, 0] for crop in (*example.templates, *example.searches)])
    found = np.array(values, float)
    assert (found.min(), found.max()) == (60, 140)
    assert found.mean(axis=0) == pytest.approx(np.full(5, 100), abs=4)
    assert found.std(axis=0) == pytest.approx(np.full(5, 80 / np.sqrt(12)), abs=2)
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.2
    (still,) = made(source, SMALL, 1)
    assert (still.templates == 100).all() and (still.searches == 100).all()


def test_three_augment_is_grey_solarised_or_blurred() -> None:
    rgb = np.array([[[200, 100, 50], [127, 128, 255]]], np.uint8)
    assert np.abs(augment.three_augment(rgb, 0, 1.0) - luma(rgb)[..., None]).max() <= 1
    assert augment.three_augment(rgb, 1, 1.0).tolist() == [[[55, 100, 50], [127, 127, 0]]]
    spot = np.zeros((61, 61, 3), np.uint8)
    spot[20:41, 20:41] = 240
    along = np.arange(61) - 30.0
    for sigma in (0.1, 1.0, 2.0):
        blurred = augment.three_augment(spot, 2, sigma)[..., 0].astype(float)
        profile = blurred.sum(axis=0) / blurred.sum()
        assert profile @ along == pytest.approx(0, abs=0.01)
        assert profile @ along**2 == pytest.approx((21**2 - 1) / 12 + sigma**2, rel=0.01)  # variances add up
    assert (spot[20:41, 20:41] == 240).all()


KINDS = ("grey", "solarised", "blurred", "none")


def kind_of(crop: np.ndarray, plain: np.ndarray) -> str:
    if np.array_equal(crop, plain):
        return "none"
    if (np.ptp(crop, axis=2) == 0).all():
        return "grey"
    return "solarised" if np.array_equal(crop, np.where(plain < 128, plain, 255 - plain)) else "blurred"


@pytest.mark.parametrize("three_share", [1.0, 0.25, 0.0])
def test_all_crops_of_an_example_are_changed_alike(three_share: float) -> None:
    source = still_of(draw(3, RED), box_of(3))
    (plain,) = made(source, replace(STEADY, template_px=28, search_px=56, min_seen_px=2.0), 1)
    config = replace(STEADY, template_px=28, search_px=56, min_seen_px=2.0, three_share=three_share)
    found: Counter[str] = Counter()
    sigmas = set()
    for example in made(source, config, 300):
        # All three templates are cut alike, so that kind and blur are the same where the crops are.
        assert (example.templates == example.templates[0]).all() and (example.searches == example.searches[0]).all()
        kinds = {kind_of(example.templates[0], plain.templates[0]), kind_of(example.searches[0], plain.searches[0])}
        assert len(kinds) == 1
        found[kinds.pop()] += 1
        sigmas.add(example.searches[0].tobytes())
    for kind in KINDS:
        share = (1 - three_share) if kind == "none" else three_share / 3
        assert found[kind] / 300 == pytest.approx(share, abs=0.09)
    if three_share == 1:
        assert found["none"] < 12  # a blur too little to change a byte
        assert len(sigmas) > 40  # blurs differ from example to example
