"""Packed footage: what comes back, where boxes lie, what is stored once, and files that are damaged or made up."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.cli import main
from sightline.datasets import shards
from sightline.datasets.footage import Footage, Image, Source
from sightline.datasets.shards import PackedFootage, footage_row, open_shards, pack
from sightline.errors import DatasetError, SightlineError, VideoError
from sightline.geometry.boxes import Box
from sightline.training.augment import jittered_region, official_jitter
from sightline.training.pairs import OSTRACK_384_PAIRS, NanoPairsConfig, OfficialPairsConfig
from tests.e2e.scene import command, limit_files, names_in
from tests.trees import images, numbered, write

Capture = pytest.CaptureFixture[str]

FILES = ["00000.jpgs", "footage.npy", "index.npy", "shards.json"]
BOX: Box = (100, 60, 40, 20)


def picture(width: int, height: int, xywh: Box = BOX, seed: int | None = None) -> Image:
    """A white target on black, or on a smooth dark ground."""
    ground = np.random.default_rng(seed).integers(20, 90, (4, 4, 3), dtype=np.uint8) * np.uint8(seed is not None)
    frame = np.asarray(cv2.resize(ground, (width, height)), dtype=np.uint8)
    x, y, w, h = map(int, xywh)
    frame[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = 255
    return frame


def noise(seed: int, width: int = 320, height: int = 240) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def footage(
    pictures: Sequence[Image | SightlineError], xywh: Any = BOX, is_visible: Any = True, name: str = "clip"
) -> Footage:
    """Of pictures in memory; an error among them is what reading it raises."""

    def read(index: int) -> Image:
        if isinstance(found := pictures[index], SightlineError):
            raise found
        return found

    boxes = np.broadcast_to(np.asarray(xywh, dtype=np.float64), (len(pictures), 4)).copy()
    seen = np.broadcast_to(np.asarray(is_visible), len(pictures)).copy()
    return Footage(name, boxes, seen, read, lambda: map(read, range(len(pictures))))


def clips(*several: Footage, name: str = "clips", weight: float = 1.0) -> Source:
    return Source(name, "clips", several, weight)


def packed(folder: Path, *several: Footage, **options: Any) -> Sequence[Footage]:
    """The footage of one source, packed and opened again."""
    pack([clips(*several)], folder, **options)
    return open_shards(folder)[0].footage


def white(rgb: Image) -> NDArray[np.float64]:
    """`xywh` of the white target on black, seen to a part of a pixel by the grey of its edges."""
    share = rgb.mean(axis=2) / 255
    spans = []
    for axis in (1, 0):
        profile = share.max(axis=axis)
        inside = np.flatnonzero(profile > 0.6)
        first, last = inside[0], inside[-1]
        before = profile[first - 1] if first else 0.0
        after = profile[last + 1] if last + 1 < len(profile) else 0.0
        spans.append((first + 1 - profile[first] - before, last + profile[last] + after))
    (y1, y2), (x1, x2) = spans
    return np.array([x1, y1, x2 - x1, y2 - y1])


# What comes back


def test_sources_come_back_with_names_weights_boxes_and_pictures(tmp_path: Path):
    pictures = [picture(200, 150, (10 + index, 20, 30, 40), seed=index) for index in range(5)]
    boxes = np.array([(10.25 + index, 20.125, 30, 40) for index in range(5)])
    boxes[3] = np.nan
    seen = np.arange(5) != 3
    written = pack(
        [
            clips(footage(pictures[:2], name="a/ü"), footage(pictures, boxes, seen, "no\udce9"), weight=0.25),
            Source("boxes", "stills", [footage(pictures[4:], boxes[4], name="still/0")], 3.0),
        ],
        tmp_path / "out",
    )
    assert names_in(tmp_path / "out") == FILES and names_in(tmp_path) == ["out"]
    num_bytes = (tmp_path / "out" / "00000.jpgs").stat().st_size
    assert written == (3, 8, num_bytes, 0, "")
    first, second = open_shards(str(tmp_path / "out"))
    assert [(s.name, s.kind, s.weight, len(s.footage)) for s in (first, second)] == [
        ("clips", "clips", 0.25, 2),
        ("boxes", "stills", 3.0, 1),
    ]
    assert [found.name for found in (*first.footage, *second.footage)] == ["a/ü", "no\udce9", "still/0"]
    found = first.footage[1]
    np.testing.assert_array_equal(found.xywh, boxes)  # 200 px are not shrunk
    np.testing.assert_array_equal(found.is_visible, seen)
    assert found.xywh.dtype == np.float64 and found.is_visible.dtype == np.bool_ and len(found) == 5
    for index, rgb in enumerate(found.read_all()):
        np.testing.assert_array_equal(rgb, found.read(index))
        assert rgb.shape == (150, 200, 3) and rgb.dtype == np.uint8
        errors = [np.abs(rgb.astype(int) - other).mean() for other in pictures]
        assert errors[index] < 2.5 and sorted(errors)[1] > 2 * errors[index], "another picture, or swapped colours"
    np.testing.assert_array_equal(second.footage[0].read(0), found.read(4))


def test_footage_is_a_sequence(tmp_path: Path):
    made = packed(tmp_path / "out", *(footage([noise(n)] * 2, name=str(n)) for n in range(4)))
    assert isinstance(made, PackedFootage) and [found.name for found in made] == list("0123")
    assert made[-1].name == "3" and [found.name for found in made[1::2]] == ["1", "3"] and len(made[2:]) == 2
    with pytest.raises(IndexError):
        made[4]
    with pytest.raises(IndexError):  # and not a picture of the next footage
        made[0].read(2)
    np.testing.assert_array_equal(made[1].read(-1), made[1].read(1))


@pytest.mark.parametrize("quality", [50, 92])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, quality: int):
    def contents(folder: Path, quality: int) -> list[bytes]:
        packed(folder, footage([noise(1), picture(900, 500)], [BOX, (np.nan, 0, 0, 0)], [True, False]), quality=quality)
        return [(folder / name).read_bytes() for name in FILES]

    assert contents(tmp_path / "a", quality) == contents(tmp_path / "b", quality)
    assert contents(tmp_path / "a1", quality)[0] != contents(tmp_path / "b1", quality - 1)[0]


def test_what_was_packed_can_be_packed_again(tmp_path: Path):
    pack([clips(footage([picture(400, 300)] * 2), weight=2)], tmp_path / "whole")
    pack(open_shards(tmp_path / "whole"), tmp_path / "crops", crop=4)
    (source,) = open_shards(tmp_path / "crops")
    assert source.weight == 2 and source.footage[0].read(1).shape == (114, 114, 3)  # 4 sqrt(40 * 20) = 113.1


# Where boxes lie


@pytest.mark.parametrize(
    ("size", "side_px", "expected"),
    [
        ((800, 600), 400, (400, 300)),
        ((333, 1001), 400, (133, 400)),
        ((1001, 333), 200, (200, 67)),
        ((400, 300), 400, (400, 300)),
        ((300, 100), 400, (300, 100)),  # never enlarged
    ],
)
def test_a_whole_frame_is_shrunk_and_its_box_with_it(
    tmp_path: Path, size: tuple[int, int], side_px: int, expected: tuple[int, int]
):
    (made,) = packed(tmp_path / "out", footage([picture(*size)]), side_px=side_px)
    rgb = made.read(0)
    assert rgb.shape[1::-1] == expected
    grow = np.tile(np.array(expected) / size, 2)
    np.testing.assert_allclose(made.xywh[0], grow * BOX, atol=1e-12)
    np.testing.assert_allclose(made.xywh[0], white(rgb), atol=0.35)
    if size != expected:
        assert np.abs(np.array(BOX) - white(rgb)).max() > 5, "a box that was not scaled would have passed"


CROPS = {  # box, frame, crop, side_px, size of the packed picture
    "in the middle": ((300, 250, 60, 40), (800, 600), 4, 400, (196, 196)),  # 4 * 48.99 = 195.96
    "shrunk": ((300, 250, 60, 40), (800, 600), 4, 100, (100, 100)),
    "cut on the left and at the top": ((10, 20, 60, 40), (800, 600), 4, 98, (69, 69)),  # from -58, to 138: half of it
    "cut on the right and at the bottom": ((730, 560, 60, 40), (800, 600), 4, 196, (138, 118)),
    "larger than the frame": ((100, 100, 300, 300), (500, 400), 8, 400, (83, 67)),  # 2,400 px to 400
    "reaches out of the frame": ((-20, 40, 60, 40), (300, 200), 2, 400, (59, 98)),
    "small": ((100, 60, 10, 10), (300, 200), 8, 400, (80, 80)),
}


@pytest.mark.parametrize("case", CROPS)
def test_a_crop_ends_where_the_frame_does_and_its_box_is_on_the_target(tmp_path: Path, case: str):
    xywh, size, crop, side_px, expected = CROPS[case]
    (made,) = packed(tmp_path / "out", footage([picture(*size, xywh)], xywh), crop=crop, side_px=side_px)
    rgb, (x, y, w, h) = made.read(0), made.xywh[0]
    assert rgb.shape[1::-1] == expected and max(rgb.shape) <= side_px
    there = np.array([max(x, 0), max(y, 0), min(w, x + w), h])  # the part that can be seen
    np.testing.assert_allclose(there, white(rgb), atol=0.35)
    scale = min(1, side_px / (crop * np.sqrt(xywh[2] * xywh[3])))
    np.testing.assert_allclose((w, h), scale * np.array(xywh[2:]), rtol=0.01)
    if case in ("in the middle", "shrunk", "small"):
        np.testing.assert_allclose((x + w / 2, y + h / 2), np.array(expected) / 2, atol=0.6)


def test_a_box_beside_its_frame_still_gives_a_picture(tmp_path: Path):
    boxes = [(900, 60, 10, 10), (-900, -99, 10, 10)]
    (made,) = packed(tmp_path / "out", footage([picture(300, 200)] * 2, boxes), crop=2)
    assert [rgb.shape for rgb in made.read_all()] == [(20, 1, 3), (1, 1, 3)]
    np.testing.assert_allclose(made.xywh, [(601, 5, 10, 10), (-900, -99, 10, 10)])


def test_where_the_target_is_gone_the_crop_stays_where_it_was(tmp_path: Path):
    boxes = [(0, 0, 0, 0), (200, 100, 20, 20), (np.nan,) * 4, (500, 300, 20, 20), (0, 0, 0, 0)]
    seen = [False, True, False, True, False]
    pictures = [picture(700, 500, (200, 100, 20, 20))] * 3 + [picture(700, 500, (500, 300, 20, 20))] * 2
    (made,) = packed(tmp_path / "out", footage(pictures, boxes, seen), crop=4)
    assert [rgb.shape for rgb in made.read_all()] == [(80, 80, 3)] * 5
    for rgb in made.read_all():
        np.testing.assert_allclose(white(rgb), (30, 30, 20, 20), atol=0.35)
    np.testing.assert_array_equal(made.is_visible, seen)
    assert np.isnan(made.xywh[2]).all() and made.xywh[4, 2:].tolist() == [0, 0]


@pytest.mark.parametrize("crop", [None, 4])
def test_footage_that_never_shows_its_target_is_left_out(tmp_path: Path, crop: float | None):
    never = footage([noise(0)], (0, 0, 0, 0), False, "never")
    made = packed(tmp_path / "out", never, footage([noise(1)], name="once"), never, crop=crop)
    assert [found.name for found in made] == ["once"]
    with pytest.raises(DatasetError, match=r"^clips: got no picture that can be packed; expected some\. Check"):
        pack([clips(never)], tmp_path / "nothing")


def test_the_room_for_jitter_is_what_the_docstring_says():
    def outside(
        jitter: Callable[[np.random.Generator], tuple[float, float, float]], crop: float
    ) -> tuple[float, float]:
        rng = np.random.default_rng(0)
        x, y, side = np.array([jitter(rng) for _ in range(20_000)]).T  # corner and side for a target of 1 x 1 at (0, 0)
        low, high = 0.5 - crop / 2, 0.5 + crop / 2
        x_in, y_in = (np.minimum(start + side, high) - np.maximum(start, low) for start in (x, y))
        is_out = (np.minimum(x, y) < low) | (np.maximum(x, y) + side > high)
        return float(is_out.mean()), float(1 - (np.clip(x_in, 0, None) * np.clip(y_in, 0, None) / side**2).mean())

    def official(rng: np.random.Generator, config: OfficialPairsConfig) -> tuple[float, float, float]:
        x, y, w, h = official_jitter((0, 0, 1, 1), rng, config.centre_jitter, config.scale_jitter)
        side = config.search_factor * np.sqrt(w * h)
        return x + w / 2 - side / 2, y + h / 2 - side / 2, side

    def nano(rng: np.random.Generator) -> tuple[float, float, float]:
        c = NanoPairsConfig()
        shift = c.search_shift * rng.random()
        region = jittered_region((0, 0, 1, 1), c.search_factor, 192, rng, shift=shift, scale=c.search_scale)
        return region.x1, region.y1, region.side_px

    of_256, of_384 = (partial(official, config=config) for config in (OfficialPairsConfig(), OSTRACK_384_PAIRS))
    found = [outside(*pair) for pair in ((nano, 8), (of_256, 8), (of_256, 10), (of_384, 16))]
    stated = [(0.005, 0.0002), (0.08, 0.006), (0.005, 0.0003), (0.03, 0.004)]
    np.testing.assert_allclose(found, stated, rtol=0.25, atol=5e-5)


# What is stored once


def counted(found: Footage, reads: list[str]) -> Footage:
    def read(index: int) -> Image:
        reads.append(found.name)
        return found.read(index)

    return replace(found, read=read, read_all=lambda: map(read, range(len(found))))


def test_an_image_of_several_targets_is_decoded_once_and_stored_once(tmp_path: Path):
    boxes = [(10 * n, 20, 30, 40) for n in range(3)]
    reads: list[str] = []
    stills = [counted(footage([noise(0)], box, name=f"a.jpg/{n}"), reads) for n, box in enumerate(boxes)]
    stills += [counted(footage([noise(1)], name=name), reads) for name in ("b.jpg/0", "alone", "too")]
    pack([Source("s", "stills", stills)], tmp_path / "out")
    assert reads == ["a.jpg/0", "b.jpg/0", "alone", "too"]  # what has no "/" says nothing of its image
    index = np.load(tmp_path / "out" / "index.npy")
    assert len(index) == 6 and len(np.unique(index["offset"])) == 2
    assert (tmp_path / "out" / "00000.jpgs").stat().st_size == index["length"][0] + index["length"][3]
    made = open_shards(tmp_path / "out")[0].footage
    np.testing.assert_array_equal(np.concatenate([found.xywh for found in made[:3]]), boxes)
    np.testing.assert_array_equal(made[0].read(0), made[2].read(0))
    assert (made[2].read(0) != made[3].read(0)).any()
    pack([Source("s", "stills", stills[:3])], tmp_path / "crops", crop=2)
    assert len(np.unique(np.load(tmp_path / "crops" / "index.npy")["offset"])) == 3


def test_frames_that_targets_share_are_stored_once(tmp_path: Path):
    frames = [noise(n) for n in range(3)]
    written = pack([clips(footage(frames, name="v/1"), footage(frames[1:], name="v/2"))], tmp_path / "out")
    index = np.load(tmp_path / "out" / "index.npy")
    assert written.num_pictures == 5 and index["offset"].tolist()[1:3] == index["offset"].tolist()[3:]
    assert written.num_bytes == index["length"][:3].sum() == (tmp_path / "out" / "00000.jpgs").stat().st_size


def test_a_shard_ends_before_it_is_too_large(tmp_path: Path):
    pictures = [noise(n, 400, 400) for n in range(20)]
    made = packed(tmp_path / "out", footage(pictures), shard_mb=1, quality=98)[0]
    written = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.jpgs"))]
    assert len(written) > 2 and max(written) <= 2**20
    assert json.loads((tmp_path / "out" / "shards.json").read_text())["shards"] == written
    for index, rgb in enumerate(made.read_all()):
        own, other = (cv2.absdiff(rgb, pictures[number]).mean() for number in (index, index - 1))
        assert own < 50 < 70 < other


# What cannot be read or written


BROKEN = VideoError("b.jpg: got 3 bytes that are no whole image; expected one. Replace the file.")


def test_the_first_unreadable_picture_is_an_error_and_nothing_is_left(tmp_path: Path):
    source = clips(footage([noise(0), BROKEN, noise(1)]))
    with pytest.raises(VideoError, match=r"^b\.jpg: got 3 bytes"):
        pack([source], tmp_path / "out")
    assert names_in(tmp_path) == []


def test_unreadable_pictures_are_left_out_and_counted_where_asked(tmp_path: Path):
    boxes = [(10 * n, 20, 30, 40) for n in range(5)]
    whole = footage([noise(n) for n in range(5)], boxes)
    several = [footage([noise(0), BROKEN, noise(2), BROKEN, noise(4)], boxes), footage([BROKEN]), whole]
    written = pack([clips(*several)], tmp_path / "out", skip_unreadable=True)
    assert written[:2] == (2, 8) and written.num_unreadable == 3 and written.unreadable == str(BROKEN)
    made = open_shards(tmp_path / "out")[0].footage
    np.testing.assert_array_equal(made[0].xywh[:, 0], [0, 20, 40])
    for index, number in enumerate((0, 2, 4)):
        np.testing.assert_array_equal(made[0].read(index), made[1].read(number))
    with pytest.raises(DatasetError, match=r"^clips: got no picture that can be packed; expected some\. b\.jpg: got 3"):
        pack([clips(footage([BROKEN] * 2))], tmp_path / "nothing", skip_unreadable=True)


def test_a_video_that_ends_early_or_has_too_many_frames(tmp_path: Path):
    def stream(error: SightlineError) -> Iterator[Image]:
        yield from (noise(0), noise(1))
        raise error

    short = footage([noise(0), noise(1), BROKEN])
    written = pack([clips(replace(short, read_all=lambda: stream(BROKEN)))], tmp_path / "a", skip_unreadable=True)
    assert (written.num_pictures, written.num_unreadable) == (2, 1)
    silent = replace(short, read_all=lambda: iter([noise(0), noise(1)]))
    assert pack([clips(silent)], tmp_path / "b", skip_unreadable=True)[:4] == written[:4]
    with pytest.raises(VideoError, match="got 3 bytes"):
        pack([clips(silent)], tmp_path / "c")
    rows = DatasetError("v.txt: got 2 rows for 3 frames; expected one each. Complete the file.")
    long = replace(footage([noise(0), noise(1)]), read_all=lambda: stream(rows))
    with pytest.raises(DatasetError, match=r"^v\.txt: got 2 rows"):  # every box may be off: no picture's fault
        pack([clips(long)], tmp_path / "d", skip_unreadable=True)


def test_an_interrupt_leaves_nothing(tmp_path: Path):
    seen: list[list[str]] = []

    def stream() -> Iterator[Image]:
        yield noise(0)
        seen.append(names_in(tmp_path))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack([clips(replace(footage([noise(0)] * 2), read_all=stream))], tmp_path / "out")
    assert names_in(tmp_path) == [] and len(seen[0]) == 1 and seen[0][0].startswith(".out.")


def test_the_folder_is_new_or_empty(tmp_path: Path):
    source = [clips(footage([noise(0)]))]
    (tmp_path / "empty").mkdir()
    pack(source, tmp_path / "empty")
    assert names_in(tmp_path / "empty") == FILES
    write(tmp_path / "file", "x")
    for name, got in (("empty", "a folder that is not empty"), ("file", "a file")):
        with pytest.raises(DatasetError, match=rf"/{name}: got {got}; expected a new or empty folder\. Choose"):
            pack(source, tmp_path / name)
    with pytest.raises(DatasetError, match="no/such: cannot be written: got 'No such file or directory'; expected"):
        pack(source, tmp_path / "no" / "such")
    assert names_in(tmp_path) == ["empty", "file"] and (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize(
    "options",
    [{"side_px": 0}, {"crop": 0.5}, {"crop": 0.0}, {"crop": np.nan}, {"quality": 0}, {"quality": 101}, {"shard_mb": 0}],
)
def test_numbers_out_of_range_are_a_sentence(tmp_path: Path, options: dict[str, Any]):
    with pytest.raises(DatasetError, match=r"^pack, .+: got .+; expected 1 to [\d,]+\. Choose another\.$"):
        pack([clips(footage([noise(0)]))], tmp_path / "out", **options)
    with pytest.raises(DatasetError, match="^pack, sources: got 0; "):
        pack([], tmp_path / "out")
    assert names_in(tmp_path) == []


def test_progress_rises_to_the_end(tmp_path: Path):
    shares: list[float] = []
    several = [footage([noise(0)] * 4), footage([noise(1)] * 2)]
    pack([clips(*several), clips(*several)], tmp_path / "out", on_share=shares.append)
    np.testing.assert_allclose(shares, [n / 16 for n in (1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 14, 16)])


# Files that others wrote


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pack([clips(footage([noise(0), noise(1)], name="a"), footage([noise(2)], name="b"))], tmp_path / "packed")
    return tmp_path / "packed"


def read_everything(folder: Path) -> int:
    return sum(rgb.size > 0 for source in open_shards(folder) for found in source.footage for rgb in found.read_all())


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    table = np.load(path)
    np.save(path, change(table))


def column(name: str, row: int, value: Any) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        table[name][row] = value
        return table

    return change


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"shards\.json: got 'No such file or directory'; expected a folder of shards\. Check the path, or pack"),
        ("{", r"shards\.json: got JSONDecodeError '.+'; expected shards of format 1\. Pack them again\.$"),
        ("[" * 100_000, r"shards\.json: got RecursionError '.+'; expected shards of format 1"),
        ("[]", r"shards\.json: got TypeError '.+'; expected shards of format 1"),
        ('{"format": 2}', r"shards\.json: got ValueError 'format 2'; expected shards of format 1"),
        ('{"format": 1}', r"shards\.json: got KeyError ''shards''; expected shards of format 1"),
        ('{"format": 1, "shards": [1e999]}', r"shards\.json: got OverflowError '.+'; expected shards of format 1"),
    ],
)
def test_no_folder_of_shards_is_a_sentence(folder: Path, content: str | None, sentence: str):
    assert read_everything(folder) == 3
    (folder / "shards.json").unlink()
    if content is not None:
        write(folder / "shards.json", content)
    with pytest.raises(DatasetError, match=sentence):
        open_shards(folder)


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "videos"},
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": "much"},
        {"footage": [0, 3]},
        {"footage": [-1, 1]},
        {"footage": [2, 1]},
        {"footage": [0]},
        {"footage": [0, "2"]},
        {"footage": None},
    ],
)
def test_sources_that_cannot_be_are_a_sentence(folder: Path, source: dict[str, Any]):
    content = json.loads((folder / "shards.json").read_text())
    content["sources"][0] |= source
    write(folder / "shards.json", content)
    with pytest.raises(DatasetError, match=r"shards\.json: got (Type|Value)Error '.+'; expected shards of format 1"):
        open_shards(folder)


def test_a_copy_that_is_not_whole_is_a_sentence(folder: Path):
    content = (folder / "00000.jpgs").read_bytes()
    (folder / "00000.jpgs").write_bytes(content[:-1])
    with pytest.raises(DatasetError, match=rf"00000\.jpgs: got {len(content) - 1:,} bytes; expected {len(content):,}"):
        open_shards(folder)
    (folder / "00000.jpgs").unlink()
    with pytest.raises(DatasetError, match=r"00000\.jpgs: got no such file; expected .* bytes\. Copy the folder again"):
        open_shards(folder)
    (folder / "00000.jpgs").write_bytes(content)
    for name in ("index.npy", "footage.npy"):
        whole = (folder / name).read_bytes()
        for length in (0, 5, 40, len(whole) - 1):
            (folder / name).write_bytes(whole[:length])
            with pytest.raises(DatasetError, match=rf"{name}: got '.*'; expected what packing wrote\. Copy the folder"):
                read_everything(folder)
        (folder / name).unlink()
        with pytest.raises(DatasetError, match=rf"{name}: got '.*No such file"):
            read_everything(folder)
        (folder / name).write_bytes(whole)
    assert read_everything(folder) == 3


class Trap:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(TRAPPED),)


TRAPPED = Path("trapped")


@pytest.mark.parametrize("name", ["index.npy", "footage.npy"])
def test_nothing_in_the_files_is_run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    np.save(name, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match=rf"{name}: got '.*'; expected what packing wrote"):
        read_everything(folder)
    (folder / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DatasetError, match=rf"{name}: got '.*'; expected what packing wrote"):
        read_everything(folder)
    with (folder / name).open("wb") as file:
        np.savez(file, np.zeros(3))
    with pytest.raises(DatasetError, match=rf"{name}: got "):
        read_everything(folder)
    assert not TRAPPED.exists()
    pickle.loads(pickle.dumps(Trap()))  # it would have told
    assert TRAPPED.exists()


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "index.npy",
            column("offset", 2, 10**9),
            r"index\.npy: got row 2: no JPEG of [\d,]+ bytes at 1,000,000,000 of",
        ),
        ("index.npy", column("offset", 2, 2**64 - 1), r"index\.npy: got row 2: no JPEG"),
        ("index.npy", column("offset", 2, 1), r"index\.npy: got row 2: no JPEG of [\d,]+ bytes at 1 of shard 0; exp"),
        ("index.npy", column("length", 2, 2**32 - 1), r"index\.npy: got row 2: no JPEG of 4,294,967,295 bytes"),
        ("index.npy", column("length", 2, 0), r"index\.npy: got row 2: no JPEG of 0 bytes"),
        (
            "index.npy",
            column("length", 2, 500),
            r"00000\.jpgs, byte [\d,]+: got 500 bytes that are no whole image; exp",
        ),
        ("index.npy", column("shard", 2, 1), r"index\.npy: got row 2: no JPEG of .* of shard 1; expected what packing"),
        ("index.npy", lambda table: table["length"], r"index\.npy: got rows of uint32; expected what packing wrote"),
        ("index.npy", lambda table: table[None], r"index\.npy: got no table; expected what packing wrote"),
        (
            "index.npy",
            lambda table: table[:2],
            r"footage\.npy: got row 1: rows 2 to 3 of 2; expected what packing wrote",
        ),
        ("footage.npy", column("begin", 1, -1), r"footage\.npy: got row 1: rows -1 to 3 of 3"),
        ("footage.npy", column("end", 1, 2), r"footage\.npy: got row 1: rows 2 to 2 of 3"),
        ("footage.npy", column("end", 1, 4), r"footage\.npy: got row 1: rows 2 to 4 of 3"),
        ("footage.npy", lambda table: table["name"], r"footage\.npy: got rows of \|S1"),
        ("footage.npy", lambda table: table[:1], r"shards\.json: got ValueError 'a source of 1 footage: "),
    ],
)
def test_rows_that_point_nowhere_are_a_sentence(folder: Path, name: str, change: Callable[[Any], Any], sentence: str):
    rewrite(folder / name, change)
    with pytest.raises((DatasetError, VideoError), match=sentence):
        read_everything(folder)


def test_a_box_without_area_is_not_visible_whatever_the_file_says(folder: Path):
    rewrite(folder / "index.npy", column("xywh", 0, (np.nan, 1, 2, 3)))
    rewrite(folder / "index.npy", column("xywh", 2, (1, 1, 0, 3)))
    first, second = open_shards(folder)[0].footage
    assert first.is_visible.tolist() == [False, True] and second.is_visible.tolist() == [False]


def test_damaged_bytes_are_sentences_or_pictures(folder: Path):
    rng = np.random.default_rng(0)
    contents = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    told = 0
    for _ in range(100):
        for path, content in contents.items():
            path.write_bytes(content)
        path = list(contents)[rng.integers(len(contents))]
        damaged = bytearray(contents[path])
        for position in rng.integers(min(len(damaged), 400), size=rng.integers(1, 4)):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(DatasetError, VideoError):
            read_everything(folder)
            continue
        told += 1
    for path, content in contents.items():
        path.write_bytes(content)
    assert told > 30 and read_everything(folder) == 3


# Many rows, many processes


def test_a_million_rows_are_no_objects(folder: Path):
    count = 1_000_000
    index = np.load(folder / "index.npy")
    np.save(folder / "index.npy", np.resize(index, count))
    rows = np.zeros(count, footage_row(12))
    rows["name"], rows["begin"], rows["end"] = b"image.jpg/0", np.arange(count), np.arange(1, count + 1)
    np.save(folder / "footage.npy", rows)
    content = json.loads((folder / "shards.json").read_text())
    content["sources"][0] |= {"kind": "stills", "footage": [0, count]}
    write(folder / "shards.json", content)
    del rows, index
    tracemalloc.start()
    try:
        (source,) = open_shards(folder)
        assert len(source.footage) == count and source.footage[count - 1].read(0).shape == (240, 320, 3)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        np.load(folder / "index.npy")
        loaded_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2e6 < 40e6 < loaded_bytes


def test_other_processes_map_for_themselves(folder: Path):
    (source,) = open_shards(folder)
    expected = [rgb.sum(dtype=np.int64) for found in source.footage for rgb in found.read_all()]
    assert len(pickle.dumps(source)) < 1000 < (folder / "index.npy").stat().st_size + 1000
    copy: Source = pickle.loads(pickle.dumps(source))
    assert [rgb.sum(dtype=np.int64) for found in copy.footage for rgb in found.read_all()] == expected
    for method in ("fork", "spawn"):
        if method in multiprocessing.get_all_start_methods():
            with multiprocessing.get_context(method).Pool(1) as pool:
                rgb = pool.apply_async(source.footage[1].read, (0,)).get(timeout=60)
                assert rgb.sum(dtype=np.int64) == expected[2]


def test_they_stay_open_where_the_working_folder_changes(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    (source,) = open_shards("packed")
    monkeypatch.chdir("/")
    assert source.footage[0].read(0).shape == (240, 320, 3)


def test_more_shards_than_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "MAX_MAPPED", 2)
    made = packed(tmp_path / "out", footage([noise(n, 400, 400) for n in range(20)]), shard_mb=1, quality=98)[0]
    assert len(list((tmp_path / "out").glob("*.jpgs"))) > 3
    once = [made.read(index).sum(dtype=np.int64) for index in range(20)]
    assert [made.read(index).sum(dtype=np.int64) for index in reversed(range(20))] == once[::-1]
    assert len(set(once)) == 20


# The command


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)
    for name in ("cat", "dog"):
        write(tmp_path / "own" / name / "groundtruth.txt", "1,2,3,4\n5,6,7,8\n")
        images(tmp_path / "own" / name / "img", numbered(2))
    return tmp_path / "own"


def test_the_command_packs_sources(own: Path, capsys: Capture):
    out = own.parent / "out"
    assert main(["data", "pack", f"{own}*2", "folder=own", "-o", str(out), "--data", str(own.parent)]) == 0
    size = (out / "00000.jpgs").stat().st_size
    assert capsys.readouterr() == (f"{out}: 8 pictures of 4 targets, {size / 1e6:.1f} MB\n", "")
    assert [(source.name, source.weight) for source in open_shards(out)] == [("own", 2.0), ("folder:all", 1.0)]
    crops = own.parent / "crops"
    options = ["--crop", "4", "--side", "8", "--quality", "60"]
    assert main(["data", "pack", str(out), "-o", str(crops), *options]) == 0
    first = open_shards(crops)[0].footage[0]
    assert first.read(0).shape == (6, 6, 3)  # of 14 px 10 x 11 lie in the frame, and 14 become 8
    about = json.loads((crops / "shards.json").read_text())
    assert (about["side_px"], about["crop"], about["quality"]) == (8, 4, 60)


def test_the_command_leaves_out_what_it_cannot_read(own: Path, capsys: Capture):
    (own / "cat" / "img" / "00000002.jpg").write_bytes(b"\xff\xd8\xff")
    out = own.parent / "out"
    assert main(["data", "pack", str(own), "-o", str(out)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "00000002.jpg: got 3 bytes" in told.err and told.err.count("\n") == 1 and not out.exists()
    assert main(["data", "pack", str(own), "-o", str(out), "--skip-unreadable"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: 3 pictures of 2 targets, ")
    assert second.startswith("left out: 1 unreadable picture, the first: ") and "00000002.jpg: got 3 bytes" in second


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: data pack: got no source; expected both. Write: sightline data pack SOURCE -o FOLDER\n"),
        (["own"], "error: data pack: got no folder to write; expected both. Write: sightline data pack SOURCE -o"),
        (["own", "-o", "own"], "error: own: got a folder that is not empty; expected a new or empty folder. Choose"),
        (["nowhere", "-o", "out"], "error: source 'nowhere': got "),
        (["own", "-o", "out", "--crop", "0"], "error: pack, crop: got 0.0; expected 1 to 1,000. Choose another.\n"),
        (
            ["own", "-o", "no/out"],
            "error: no/out: cannot be written: got 'No such file or directory'; expected a folder",
        ),
    ],
)
def test_bad_input_to_the_command_is_one_sentence(
    own: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.chdir(own.parent)
    assert main(["data", "pack", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(sentence) and told.err.count("\n") == 1
    assert names_in(own.parent) == ["own"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(own: Path):
    out = own.parent / "out"
    done = command(["data", "pack", own, "-o", out], first=limit_files(1000))
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.startswith(f"error: {out}: cannot be written: got 'File too large'; expected a folder that")
    assert done.stderr.count("\n") == 1 and names_in(own.parent) == ["own"]
    assert command(["data", "pack", own, "-o", out], first=limit_files(10**6)).returncode == 0
