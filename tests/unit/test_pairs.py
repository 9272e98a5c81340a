"""Training pairs of scenes that are drawn here, so that where the target lies can be read off the pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.datasets.clips import Clip
from sightline.datasets.stills import Still
from sightline.errors import DatasetError
from sightline.geometry.crops import CropRegion, exact_region
from sightline.training import augment, pairs
from sightline.training.pairs import Pair, PairConfig, Pairs, load_rgb, usable_frames, usable_stills

RED, GREEN, BLUE = (230, 30, 30), (30, 230, 30), (20, 40, 120)
HEIGHT, WIDTH = 160, 200
PLAIN = PairConfig(absent_share=0, grey_share=0, occluder_share=0, backdrop_share=0)
TINY = replace(PLAIN, template_px=16, search_px=32)  # where the pixels do not matter


def box_of(number: int) -> tuple[float, float, float, float]:
    """Somewhere in the frame."""
    rng = np.random.default_rng(number)
    w, h = rng.integers(24, 60, 2)
    x, y = rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h)
    return float(x), float(y), float(w), float(h)


def still(number: int) -> Still:
    return Still(Path(f"/red/{number}.png"), np.array([box_of(number)]))


def clip(number: int, length: int = 10) -> Clip:
    frames = tuple(Path(f"/green/{number}/{1000 * number + index}.png") for index in range(length))
    boxes = np.array([box_of(int(path.stem)) for path in frames])
    return Clip(f"clip{number}", frames, boxes, np.ones(length, bool))


def draw(path: Path) -> np.ndarray:
    """A blue picture with the target that belongs to its name, red for stills and green for clips."""
    number = int(path.stem)
    frame = np.random.default_rng(number).integers(-15, 16, (HEIGHT, WIDTH, 3)) + BLUE
    x, y, w, h = (int(value) for value in box_of(number))
    frame[y : y + h, x : x + w] = RED if path.parts[1] == "red" else GREEN
    return frame.clip(0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def drawn(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "load_rgb", draw)


def make(config: PairConfig = PLAIN, stills: int = 6, clips: int = 3, seed: int = 0) -> Pairs:
    groups = [([still(number) for number in range(stills)], 1.0)] if stills else []
    return Pairs([clip(number) for number in range(1, clips + 1)], groups, config, seed)


def coloured(crop: np.ndarray, channel: int) -> np.ndarray:
    """The pixels nearer to the target than to the blue, by how far a channel stands above blue."""
    above = crop[..., channel].astype(float) - crop[..., 2]
    return above > (above.max() + np.median(above[above < above.max() / 2])) / 2


def same(a: Pair, b: Pair) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# Which pair


def test_a_pair_has_its_stated_form() -> None:
    template, search, xywh_unit, is_present = make()[0]
    assert (template.shape, template.dtype) == ((96, 96, 3), np.uint8)
    assert (search.shape, search.dtype) == ((192, 192, 3), np.uint8)
    assert (xywh_unit.shape, xywh_unit.dtype) == ((4,), np.float32)
    assert is_present is True
    assert template.flags.c_contiguous
    assert search.flags.c_contiguous


def test_a_pair_depends_on_seed_and_number_alone() -> None:
    config = PairConfig(template_px=32, search_px=64)
    forward, backward = make(config), make(config)
    numbers = range(40)
    kept = {number: forward[number] for number in numbers}
    for number in reversed(numbers):
        assert same(backward[number], kept[number])
    assert same(forward[7], kept[7])
    assert sum(same(make(config, seed=1)[number], kept[number]) for number in numbers) == 0
    assert sum(same(kept[number], kept[number + 1]) for number in range(39)) == 0


def test_pairs_leave_the_cached_pictures_alone() -> None:
    source = make(PairConfig(template_px=32, search_px=64, absent_share=0.5))
    for number in range(60):
        source[number]
    for path in {row.path for row in map(still, range(6))}:
        assert np.array_equal(source._load(path), draw(path))


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def shows(crop: np.ndarray, channel: int) -> bool:
    """Whether the target of that colour is the one in the crop."""
    return (crop[..., channel] > crop[..., 1 - channel] + 60.0).mean() > 0.01


def is_grey(crop: np.ndarray) -> bool:
    """Channels within the colour jitter of each other."""
    return np.median(np.ptp(crop, axis=2) / np.maximum(crop.max(axis=2), 1)) < 0.4


@pytest.mark.parametrize("still_share", [0.0, 0.6, 1.0])
def test_share_of_stills(still_share) -> None:
    source = make(replace(TINY, still_share=still_share))
    drawn = [shows(source[number].search, 0) for number in range(900)]  # three standard deviations: 0.05
    assert share(drawn) == pytest.approx(still_share, abs=0.05)


def test_groups_of_stills_have_weights() -> None:
    groups = [
        ([replace(still(1), path=Path(f"/{colour}/1.png"))], weight) for colour, weight in (("red", 3), ("green", 1))
    ]
    source = Pairs([], groups, TINY)
    assert share([shows(source[number].search, 0) for number in range(900)]) == pytest.approx(0.75, abs=0.05)


def test_share_of_grey_pairs() -> None:
    source = make(replace(TINY, grey_share=0.2))
    drawn = [source[number] for number in range(900)]
    assert share([is_grey(pair.search) for pair in drawn]) == pytest.approx(0.2, abs=0.04)
    assert all(is_grey(pair.search) == is_grey(pair.template) for pair in drawn)


def test_share_of_absent_pairs() -> None:
    source = make(replace(TINY, absent_share=0.3), stills=50, clips=0)
    assert share([not source[number].is_present for number in range(900)]) == pytest.approx(0.3 * 49 / 50, abs=0.05)


def test_an_absent_pair_shows_another_target() -> None:
    one_each = Pairs([clip(1)], [([still(1)], 1.0)], replace(PLAIN, absent_share=1.0))
    flags = []
    for number in range(40):
        template, search, _, is_present = one_each[number]
        assert (shows(template[32:64, 32:64], 0) == shows(search, 0)) == is_present
        flags.append(is_present)
    assert set(flags) == {True, False}  # drawn from the same source again, a pair is present and says so
    only_one = make(replace(TINY, absent_share=1.0), stills=1, clips=0)
    assert all(only_one[number].is_present for number in range(20))


def test_frames_of_a_clip_are_near_or_anywhere(monkeypatch) -> None:
    loaded: list[int] = []

    def watched(path: Path) -> np.ndarray:
        loaded.append(int(path.stem) % 1000)
        return draw(path)

    monkeypatch.setattr(pairs, "load_rgb", watched)
    gaps = {}
    for near_share in (0.0, 1.0):
        config = replace(TINY, still_share=0, near_share=near_share, near_frames=10)
        source = Pairs([clip(1, 300)], [], config, cache_images=0)
        loaded.clear()
        for number in range(200):
            source[number]
        gaps[near_share] = np.abs(np.diff(np.reshape(loaded, (200, 2)), axis=1))
    assert gaps[1.0].max() <= 10
    assert gaps[0.0].max() > 200
    assert gaps[0.0].mean() == pytest.approx(100, abs=20)  # a third of the length


def test_long_clips_are_drawn_by_the_root_of_their_length(monkeypatch) -> None:
    seen: Counter[str] = Counter()

    def watched(path: Path) -> np.ndarray:
        seen[path.parts[2]] += 1
        return draw(path)

    monkeypatch.setattr(pairs, "load_rgb", watched)
    source = Pairs([clip(1, 10), clip(2, 90)], [], TINY, cache_images=0)
    for number in range(900):
        source[number]
    assert seen["2"] / (seen["1"] + seen["2"]) == pytest.approx(0.75, abs=0.05)


# What is drawn from


def test_frames_without_a_fit_target_are_not_used() -> None:
    boxes = np.array([[0, 0, 30, 30], [0, 0, 30, 30], [0, 0, 9, 9], [0, 0, 2, 50], [0, 0, 0, 0], [np.nan] * 4])
    present = np.array([True, False, True, True, True, False])
    with np.errstate(invalid="raise"):
        assert usable_frames(Clip("clip", (), boxes, present)).tolist() == [0, 3]


def test_boxes_too_small_or_too_long_are_not_used() -> None:
    boxes = np.array([[1, 2, 30, 20], [0, 0, 19, 19], [0, 0, 121, 20], [0, 0, 20, 121], [0, 0, 120, 20]], float)
    assert usable_stills([Still(Path("a"), boxes)]) == [(Path("a"), (1, 2, 30, 20)), (Path("a"), (0, 0, 120, 20))]


def test_nothing_to_draw_from_is_refused() -> None:
    lonely = Clip("clip", (Path("0.png"),), np.array([[0.0, 0.0, 30.0, 30.0]]), np.ones(1, bool))
    for clips, stills in (([], []), ([lonely], []), ([], [([Still(Path("a"), np.ones((1, 4)))], 1.0)])):
        with pytest.raises(DatasetError, match="got no clip and no image with a usable box; expected some"):
            Pairs(clips, stills)


def test_a_picture_is_read_as_rgb(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 5, 3), (10, 20, 30), np.uint8))
    assert (load_rgb(tmp_path / "a.png") == (30, 20, 10)).all()
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 5), 7, np.uint8))
    assert (load_rgb(tmp_path / "grey.png") == np.full((4, 5, 3), 7)).all()
    (tmp_path / "b.png").write_bytes(b"no picture")
    for name in ("b.png", "c.png"):
        with pytest.raises(DatasetError, match=rf"{name}: cannot be read; expected a picture"):
            load_rgb(tmp_path / name)


# Where the target is


def misfit(pair: Pair, xywh_unit: np.ndarray, channel: int) -> float:
    """Largest distance, in crop pixels, of the sides of a box from those of the coloured pixels, inside the crop."""
    side = pair.search.shape[0]
    rows, columns = (np.flatnonzero(coloured(pair.search, channel).any(axis=axis)) for axis in (1, 0))
    x, y, w, h = (float(value) for value in xywh_unit * side)
    stated = np.clip([x, y, x + w, y + h], 0, side)
    return float(np.abs(stated - (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).max())


@pytest.mark.parametrize("flip_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("channel", "still_share"), [(0, 1.0), (1, 0.0)], ids=["stills", "clips"])
def test_the_box_lies_on_the_target(monkeypatch, channel, still_share, flip_share) -> None:
    monkeypatch.setattr(pairs, "vary_pixels", augment.jitter_colour)  # blur softens the sides, see below
    config = replace(PLAIN, still_share=still_share, flip_share=flip_share, search_shift=0.8)
    source = make(config, stills=30, clips=8)
    for number in range(80):
        pair = source[number]
        assert misfit(pair, pair.xywh_unit, channel) <= 1
        assert coloured(pair.template, channel)[44:52, 44:52].all()  # the template shows it in its middle


def test_a_box_that_did_not_turn_with_its_crop_shows() -> None:
    source = make(replace(PLAIN, still_share=1.0, flip_share=1.0), stills=30)
    drawn = [source[number] for number in range(30)]
    turned = [pair.xywh_unit * (-1, 1, 1, 1) + (1 - pair.xywh_unit[2], 0, 0, 0) for pair in drawn]
    assert share([misfit(pair, box, 0) <= 1.5 for pair, box in zip(drawn, turned, strict=True)]) < 0.3


def test_a_flip_mirrors_the_whole_pair(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "vary_pixels", lambda crop, rng: crop)
    plain, mirrored = (make(replace(PLAIN, flip_share=flips)) for flips in (0.0, 1.0))
    for number in range(10):
        a, b = plain[number], mirrored[number]
        assert np.array_equal(a.search, b.search[:, ::-1])
        assert np.array_equal(a.template, b.template[:, ::-1])
        x, y, w, h = a.xywh_unit
        assert b.xywh_unit == pytest.approx((1 - x - w, y, w, h), abs=1e-6)


def test_the_target_stays_within_the_shift() -> None:
    """Its centre is off the middle of the crop by at most 1.3 sqrt(wh), the crop being about 4 sqrt(wh) long."""
    source = make(replace(TINY, search_scale=0.0))
    away = np.array([source[number].xywh_unit[:2] + source[number].xywh_unit[2:] / 2 - 0.5 for number in range(300)])
    assert np.abs(away).max() <= 1.3 / 4 + 1e-6
    assert np.abs(away).max() > 0.25
    assert np.abs(away.mean(axis=0)).max() < 0.03


# The changes, one by one


def test_no_jitter_is_the_exact_region() -> None:
    still_region = augment.jittered_region((10, 20, 30, 40), 4.0, 64, np.random.default_rng(0), shift=0, scale=0)
    exact = exact_region((10, 20, 30, 40), 4.0, 64)
    values = [(region.x1, region.y1, region.side_px, region.out_px) for region in (still_region, exact)]
    assert values[0] == pytest.approx(values[1])


def test_another_picture_fills_what_lies_outside() -> None:
    rgb, other = np.full((50, 60, 3), 100, np.uint8), np.full((9, 7, 3), 200, np.uint8)
    region = CropRegion(-20, -10, 100, 50)  # two frame pixels in one; the frame covers columns 10..40, rows 5..30
    crop = np.full((50, 50, 3), 1, np.uint8)
    filled = pairs.fill_outside(crop, region, rgb, other)
    assert (filled[5:30, 10:40] == 1).all()
    filled[5:30, 10:40] = 200
    assert (filled == 200).all()
    assert (crop == 1).all()


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
    crop = draw(Path("/red/3.png"))[:96, :96]
    kept = crop.copy()
    outcomes = [change(crop, np.random.default_rng(seed)) for seed in range(20)]
    for seed, changed in enumerate(outcomes):
        assert (changed.shape, changed.dtype) == (crop.shape, np.uint8)
        assert np.array_equal(changed, change(crop, np.random.default_rng(seed)))
    assert np.array_equal(crop, kept)
    assert sum(not np.array_equal(changed, crop) for changed in outcomes) >= 10


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
