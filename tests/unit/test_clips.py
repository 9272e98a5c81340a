"""Clips of scenes that are drawn here: the frame's number is its blue, and every object has a red of its own."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sightline.datasets.images import coco, lvis
from sightline.datasets.lvis_coco import COCO_SYNSETS, image_counts, merged
from sightline.datasets.mot_text import FileRows, MotRows
from sightline.datasets.multi import MotSequence
from sightline.datasets.stills import Still
from sightline.datasets.synthetic import SyntheticConfig
from sightline.errors import DatasetError, VideoError
from sightline.imaging.resize import resized
from sightline.training.clips import (
    ClipExample,
    ClipExamples,
    ClipsConfig,
    Objects,
    SequenceClips,
    StillClips,
    SyntheticClips,
    Video,
    View,
    between,
    clip_of,
    open_clip_sources,
    random_view,
    repeat_factors,
)
from sightline.training.feed import batches
from tests.trees import images as write_images
from tests.trees import mot_sequence, numbered, write

pytestmark = pytest.mark.torch  # the feed

HEIGHT, WIDTH = 90, 160
REDS = (100, 160, 220)  # of the three objects, which have the ids 11, 12, 13
SMALL = ClipsConfig(clip_length=4, max_frames=8, train_px=96, max_objects=5)


def boxes_of(index: int) -> np.ndarray:
    """(3, 4) `xywh`; the third one reaches out of the picture on the right."""
    return np.array([[10 + index, 10, 20, 30], [60, 40 - index % 20, 24, 24], [140, 50, 40, 20]], dtype=np.float64)


def picture(index: int) -> np.ndarray:
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame[..., 2] = 3 * index
    for red, (x, y, w, h) in zip(REDS, boxes_of(index).astype(int).tolist(), strict=True):
        frame[y : y + h, x : x + w, 0] = red
    return frame


def video(num_frames: int, seen: Callable[[int], Any] = id) -> Video:
    def shot(index: int) -> tuple[np.ndarray, Objects]:
        seen(index)
        return picture(index), Objects(boxes_of(index), np.array([11, 12, 13]), np.array([0, 1, 0]))

    return Video(num_frames, shot)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbers_in(clip: ClipExample) -> list[int]:
    """Which frames a clip shows, by their blue."""
    size = clip.size[clip.size[:, 0] > 0]
    return [round(float(np.median(clip.frames[k, :h, :w, 2])) / 3) for k, (h, w) in enumerate(size.tolist())]


def check_that_boxes_lie_on_their_objects(clip: ClipExample) -> int:
    """Every object's pixels are where its box says; how many boxes could be looked at."""
    looked = 0
    for frame, (height, width), boxes, ids in zip(clip.frames, clip.size, clip.xyxy, clip.track_id, strict=True):
        assert not frame[height:].any() and not frame[:, width:].any()
        for (x1, y1, x2, y2), track_id in zip(boxes, ids, strict=True):
            left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            if track_id == 0 or right - left < 4 or bottom - top < 4:
                continue
            looked += 1
            inside = frame[int(top) + 1 : int(bottom) - 1, int(left) + 1 : int(right) - 1, 0]
            assert np.median(inside) == REDS[track_id - 11]
            for x, y in ((x1 - 2, (top + bottom) / 2), (x2 + 1, (top + bottom) / 2), ((left + right) / 2, y1 - 2)):
                if 0 <= x < width and 0 <= y < height:
                    assert frame[int(y), int(x), 0] != REDS[track_id - 11]
    return looked


# Of videos


def test_frames_are_drawn_in_order_from_twice_as_many_and_seen_alike() -> None:
    starts, gaps = [], set()
    for seed in range(60):
        read: list[int] = []
        clip = clip_of(video(50, read.append), replace(SMALL, scale=(1.0, 1.0)), rng(seed))
        numbers = numbers_in(clip)
        assert len(numbers) == 4 == np.count_nonzero(clip.size[:, 0])
        assert numbers == sorted(set(numbers)) and numbers[-1] - numbers[0] < 8 and set(numbers) <= set(read)
        assert len(read) <= 5  # the first of the window is read for its size, and if it is drawn not again
        assert (clip.size[:4] == clip.size[0]).all() and clip.size[0].tolist() == [54, 96]
        # The first object moves by a pixel a frame, the third one not at all: the view is one.
        third = clip.xyxy[:4][clip.track_id[:4] == 13]
        assert np.ptp(third, axis=0).max() < 1e-4
        starts.append(numbers[0])
        gaps |= set(np.diff(numbers).tolist())
    assert min(starts) < 6 and max(starts) > 40 and gaps >= {1, 2, 3, 4}


def test_boxes_stay_on_their_objects_whatever_is_drawn() -> None:
    looked, flips = 0, set()
    for seed in range(40):
        clip = clip_of(video(20), SMALL, rng(seed))
        looked += check_that_boxes_lie_on_their_objects(clip)
        first, second = (clip.xyxy[0][clip.track_id[0] == id_][0] for id_ in (11, 13))
        flips.add(bool(first[0] > second[0]))
        assert clip.class_id[0][clip.track_id[0] > 0].tolist() == [0, 1, 0]
        assert (clip.class_id[0][clip.track_id[0] == 0] == -1).all()
    assert looked > 100 and flips == {False, True}
    with pytest.raises(AssertionError):
        check_that_boxes_lie_on_their_objects(clip._replace(xyxy=clip.xyxy + 4))


def test_a_small_picture_has_more_frames_up_to_twice_as_many() -> None:
    counts: dict[float, list[int]] = {}
    for scale, expected in ((2.0, {4}), (1.0, {4}), (0.8, {4, 5, 6}), (0.5, set(range(4, 9)))):
        found = [clip_of(video(40), replace(SMALL, scale=(scale, scale)), rng(seed)) for seed in range(80)]
        counts[scale] = [np.count_nonzero(clip.size[:, 0]) for clip in found]
        assert set(counts[scale]) == expected
    # 4 to 16 frames are drawn there, and more than 8 are 8.
    assert 0.5 < counts[0.5].count(8) / 80 < 0.9
    short = clip_of(video(3), replace(SMALL, scale=(0.5, 0.5)), rng())
    assert numbers_in(short) == [0, 1, 2] and not short.frames[3:].any()
    always = replace(SMALL, scale=(0.5, 0.5), max_frames=4)
    assert {len(numbers_in(clip_of(video(40), always, rng(seed)))) for seed in range(20)} == {4}


def test_what_is_too_large_is_cut_anywhere() -> None:
    twice = replace(SMALL, scale=(2.0, 2.0), flip_share=0.0)
    corners = []
    for seed in range(40):
        clip = clip_of(video(20), twice, rng(seed))
        assert clip.size[0].tolist() == [96, 96]  # of 108 x 192
        corners.append(clip.xyxy[0, 0, :2] - boxes_of(numbers_in(clip)[0])[0, :2] * 1.2)
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    assert (low >= (-96, -12)).all() and (high <= 0).all() and (high - low > (60, 7)).all()


def test_boxes_end_at_the_border_where_that_is_asked_for() -> None:
    whole, cut = (clip_of(video(20), replace(SMALL, clamp_boxes=clamp), rng(3)) for clamp in (False, True))
    height, width = whole.size[0]
    kept = [
        (track_id, np.clip(box, 0, (width, height, width, height)).tolist())
        for track_id, box in zip(whole.track_id[0], whole.xyxy[0], strict=True)
        if track_id and (np.diff(np.clip(box, 0, (width, height, width, height)).reshape(2, 2), axis=0) > 1e-5).all()
    ]
    found = [(track_id, box.tolist()) for track_id, box in zip(cut.track_id[0], cut.xyxy[0], strict=True) if track_id]
    assert found == kept
    assert (whole.xyxy[0] < 0).any() or (whole.xyxy[0] > (width, height, width, height)).any()
    np.testing.assert_array_equal(whole.frames, cut.frames)


def test_of_too_many_objects_the_largest_are_kept() -> None:
    clip = clip_of(video(20), replace(SMALL, max_objects=2, flip_share=0.0), rng(0))
    assert clip.track_id[0].tolist() == [11, 13]  # 600 and 800 of 600, 576, 800 square pixels


# Of stills


def still() -> Still:
    boxes = np.array([[8, 6, 20, 16], [50, 20, 30, 40], [100, 30, 40, 50]], dtype=np.float64)
    return Still(Path("still.png"), boxes, np.array([5, 7, 5]), np.array([[0, 0, 9, 9]], dtype=np.float64))


@pytest.fixture
def stills(tmp_path: Path) -> list[Still]:
    path = tmp_path / "still.png"
    cv2.imwrite(str(path), rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    return [replace(still(), path=path)]


def slow_view(start: View, end: View, step: int, last: int) -> View:
    """The official interpolation, written as it is told: whole steps of the corner, floored; a line of the scale."""
    scale = start.scale + (end.scale - start.scale) * step / last
    top, left = (a + int(np.floor((b - a) * step / last)) for a, b in ((start.top, end.top), (start.left, end.left)))
    return View(scale, int(HEIGHT * scale), int(WIDTH * scale), top, left)


def test_a_still_moves_from_one_view_to_another(stills: list[Still]) -> None:
    """T frames, never mirrored, whose pixels are the picture's, resized; every object one identity throughout."""
    config = replace(SMALL, flip_share=1.0, train_px=128)
    image = cv2.cvtColor(cv2.imread(str(stills[0].path)), cv2.COLOR_BGR2RGB)
    directions = set()
    for seed in range(30):
        clip = clip_of(StillClips(stills).draw(rng(seed)), config, rng(seed))
        generator = rng(seed)
        start, end = (random_view(HEIGHT, WIDTH, 128, (0.8, 1.2), generator) for _ in range(2))
        directions.add((start.left > end.left) - (start.left < end.left))
        assert np.count_nonzero(clip.size[:, 0]) == 4 and 0.8 <= start.scale * WIDTH / 128 <= 1.2
        for step in range(4):
            view = slow_view(start, end, step, 3)
            assert between(start, end, step, 3, HEIGHT, WIDTH) == view
            seen = resized(image, (view.height, view.width))[view.top : view.top + 128, view.left : view.left + 128]
            height, width = clip.size[step]
            np.testing.assert_array_equal(clip.frames[step, :height, :width], seen)
            assert clip.track_id[step].tolist() == [1, 2, 3, 0, 0]
            expected = stills[0].xywh[:, :2] * view.scale - (view.left, view.top)
            np.testing.assert_allclose(clip.xyxy[step, :3, :2], expected, atol=1e-3)
    assert directions == {-1, 0, 1}


def test_a_corner_moves_in_whole_pixels_rounded_down() -> None:
    start, end = View(1.0, 90, 160, 5, 10), View(1.3, 117, 208, 3, 17)
    path = [between(start, end, step, 7, 90, 160) for step in range(8)]
    assert [view.left for view in path] == [10, 11, 12, 13, 14, 15, 16, 17]
    assert [view.top for view in path] == [5, 4, 4, 4, 3, 3, 3, 3]  # -2 / 7 is -1
    assert [round(view.scale, 6) for view in path] == [round(1 + 0.3 * step / 7, 6) for step in range(8)]


def test_a_single_picture_is_cut_and_mirrored_and_does_not_move(stills: list[Still]) -> None:
    config = replace(SMALL, clip_length=1, max_frames=1)
    sizes, flips = set(), set()
    for seed in range(40):
        clip = clip_of(StillClips(stills).draw(rng(seed)), config, rng(seed))
        assert clip.frames.shape == (1, 96, 96, 3) and clip.track_id[0].tolist() == [1, 2, 3, 0, 0]
        sizes.add(int(clip.size[0, 1]))
        flips.add(bool(clip.xyxy[0, 0, 0] > clip.xyxy[0, 2, 0]))
    assert min(sizes) < 40 and max(sizes) == 96 and flips == {False, True}


def test_a_stills_categories_become_classes_and_others_are_left_out(stills: list[Still]) -> None:
    clip = clip_of(StillClips(stills, class_ids={5: 2, 6: 0}).draw(rng()), SMALL, rng())
    assert clip.class_id[0].tolist() == [2, 2, -1, -1, -1]
    np.testing.assert_allclose(np.diff(clip.xyxy[0, 0, ::2]) / np.diff(clip.xyxy[0, 1, ::2]), 20 / 40, rtol=1e-5)
    assert clip_of(StillClips(stills).draw(rng()), SMALL, rng()).class_id[0].tolist() == [0, 0, 0, -1, -1]


# Of sequences


def sequence(rows: list[tuple[float, ...]], length: int = 6) -> MotSequence:
    """Rows are frame from 0, id, mark, class, visibility; boxes are 10 x 20 at the id."""
    table = np.array(rows, dtype=np.float64)
    frame, track_id, mark, class_id, visibility = (table[:, column] for column in range(5))
    xywh = np.column_stack([track_id, track_id, np.full(len(table), 10), np.full(len(table), 20)])
    truth = MotRows(frame.astype(int), track_id.astype(int), xywh, mark, class_id.astype(int))
    kept = FileRows.of(truth, Path("gt.txt"), np.arange(len(table)), visibility)
    return MotSequence("s", [Path(f"{k}.png") for k in range(length)], kept, None, None, Path("gt.txt"))


def test_pedestrians_that_count_and_are_not_hidden_are_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        (2, 7, 1, 1, 0.1),
        (2, 3, 1, 1, 1.0),
        (2, 5, 1, 1, 0.0),
        (2, 6, 0, 1, 1.0),
        (2, 9, 1, 7, 1.0),
        (4, 7, 1, 1, 1),
    ]
    monkeypatch.setattr("sightline.training.clips.read_image", lambda path: picture(int(path.stem)))
    drawn = SequenceClips([sequence(rows)], class_id=4).draw(rng())
    assert drawn.num_frames == 6
    image, objects = drawn.shot(2)
    np.testing.assert_array_equal(image, picture(2))
    assert objects.xywh[:, 0].tolist() == [7, 3] and objects.class_id.tolist() == [4, 4]
    later, empty = drawn.shot(4)[1], drawn.shot(3)[1]
    assert later.track_id.tolist() == objects.track_id[:1].tolist() and later.xywh[:, 0].tolist() == [7]
    assert objects.track_id.min() >= 1 and len(set(objects.track_id.tolist())) == 2 and len(empty.track_id) == 0


def test_sequences_are_drawn_alike_whatever_their_length() -> None:
    clips = SequenceClips([sequence([(0, 1, 1, 1, 1)], length) for length in (6, 600)])
    lengths = [clips.draw(rng(seed)).num_frames for seed in range(300)]
    assert 110 < lengths.count(6) < 190


def test_a_sequence_without_truth_is_an_error() -> None:
    clips = SequenceClips([replace(sequence([(0, 1, 1, 1, 1)]), truth=None)])
    with pytest.raises(DatasetError, match="got no MOTChallenge truth"):
        clips.draw(rng()).shot(0)


def test_synthetic_clips_show_what_their_truth_says() -> None:
    source = SyntheticClips(SyntheticConfig(width=128, height=96), num_frames=16, class_id=2)
    one, other = (clip_of(source.draw(rng(seed)), SMALL, rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one.frames, other.frames)
    assert (one.track_id > 0).any() and set(one.class_id[one.track_id > 0].tolist()) == {2}
    frame_of: dict[int, int] = {}
    for ids in one.track_id:
        for track_id in ids[ids > 0].tolist():
            frame_of[track_id] = frame_of.get(track_id, 0) + 1
    assert max(frame_of.values()) > 2  # an identity lasts


# Numbers


def test_a_clip_depends_on_the_seed_and_its_number_alone(stills: list[Still]) -> None:
    sources = [SyntheticClips(SyntheticConfig(width=96, height=64), num_frames=8), StillClips(stills, weight=3.0)]
    clips = ClipExamples(sources, SMALL, seed=5)
    found = [clips[number] for number in range(12)]
    for number in (7, 0, 11):
        for again in (clips[number], pickle.loads(pickle.dumps(clips))[number]):
            assert all(np.array_equal(a, b) for a, b in zip(again, found[number], strict=True))
    assert not np.array_equal(found[0].frames, found[1].frames)
    assert not np.array_equal(ClipExamples(sources, SMALL, seed=6)[0].frames, found[0].frames)
    of_stills = sum(clip.track_id.max() == 3 and np.count_nonzero(clip.size[:, 0]) == 4 for clip in found)
    assert 5 < of_stills < 12
    stacked = next(batches(clips, batch=4, first_step=2)).tensors
    assert stacked["frames"].shape == (4, 8, 96, 96, 3) and stacked["xyxy"].dtype.is_floating_point
    assert all(np.array_equal(stacked["frames"][k], found[8 + k].frames) for k in range(4))


def test_an_unreadable_picture_is_passed_over_where_asked_for(stills: list[Still]) -> None:
    gone = replace(stills[0], path=stills[0].path.with_name("gone.png"))
    with pytest.raises(VideoError):
        ClipExamples([StillClips([gone])], SMALL)[0]
    found = [ClipExamples([StillClips([gone, *stills])], SMALL, skip_unreadable=True)[number] for number in range(20)]
    assert max(clip.num_skipped for clip in found) > 0 and all(clip.size[0, 0] > 0 for clip in found)
    with pytest.raises(VideoError):
        ClipExamples([StillClips([gone])], SMALL, skip_unreadable=True)[0]
    with pytest.raises(DatasetError, match="training clips: got no source"):
        ClipExamples([])


def test_rare_classes_are_repeated_by_the_root_of_their_rarity() -> None:
    def image(*classes: int) -> Still:
        return Still(Path("x"), np.ones((len(classes), 4)), np.array(classes, dtype=np.int64))

    found = repeat_factors([image(1, 1), image(1, 2), image(1), image(1, 3), image()], 0.5)
    # Class 1 is in 4 of 5 images, 2 and 3 in one each.
    assert found.tolist() == pytest.approx([1, np.sqrt(0.5 / 0.2), 1, np.sqrt(0.5 / 0.2), 1])
    assert repeat_factors([image(1), image(2)], 0.001).tolist() == [1, 1]
    often = StillClips([image(1), image(2)], odds=np.array([1.0, 3.0]))
    drawn = [often._ends.searchsorted(rng(seed).random(), side="right") for seed in range(400)]
    assert 250 < sum(drawn) < 350


# LVIS and COCO


def lvis_json() -> dict[str, Any]:
    """Image 1 with a person, a dog and no cat; image 2, of which COCO knows too, without a box; image 3."""
    names = [(1, "cat", "cat.n.01"), (2, "dog", "dog.n.01"), (3, "person", "person.n.01")]
    return {
        "categories": [{"id": id_, "name": name, "synset": synset, "frequency": "f"} for id_, name, synset in names],
        "images": [
            {"id": number, "coco_url": f"http://x/train2017/{number:012d}.jpg", "neg_category_ids": negative}
            for number, negative in ((1, [1]), (2, []), (3, []))
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 20]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [30, 10, 10, 10]},
            {"id": 3, "image_id": 3, "category_id": 2, "bbox": [1, 1, 5, 5]},
            {"id": 4, "image_id": 3, "category_id": 2, "bbox": [21, 1, 5, 5]},
        ],
    }


COCO_BOXES = [
    (1, 1, [0, 0, 10, 16], 0, False),  # person, 0.8 of LVIS's
    (1, 1, [0, 0, 10, 13], 0, True),  # person, 0.65
    (1, 18, [0, 0, 10, 20], 0, True),  # dog, where LVIS has a person
    (1, 17, [40, 30, 10, 10], 0, False),  # cat, which LVIS says is not there
    (1, 44, [40, 30, 10, 10], 0, False),  # bottle, which this LVIS does not know
    (1, 1, [40, 30, 10, 10], 1, False),  # a crowd
    (2, 1, [4, 3, 10, 10], 0, False),  # an image without a box of LVIS
    (3, 18, [1, 1, 5, 3.5], 0, False),  # dog, 0.7 sharp
    (3, 17, [1, 1, 5, 5], 0, True),  # cat
    (9, 17, [1, 1, 5, 5], 0, False),  # an image that LVIS has not
]


def annotated(tmp_path: Path) -> Path:
    write(tmp_path / "annotations" / "lvis_v1_train.json", lvis_json())
    images = [{"id": 10 * number, "file_name": f"{number:012d}.jpg"} for number in (1, 2, 3, 9)]
    rows = [
        {"id": place, "image_id": 10 * image, "category_id": category, "bbox": box, "iscrowd": crowd}
        for place, (image, category, box, crowd, _) in enumerate(COCO_BOXES, start=1)
    ]
    categories = [{"id": id_, "name": f"{id_}"} for id_ in (1, 17, 18, 44)]
    content = {"images": images, "annotations": rows, "categories": categories}
    write(tmp_path / "annotations" / "instances_train2017.json", content)
    write_images(tmp_path / "train2017", numbered(3, "{:012d}.jpg"))
    return tmp_path


def test_cocos_boxes_are_added_to_lvis_where_they_are_new(tmp_path: Path) -> None:
    folder = annotated(tmp_path)
    found = {int(still.path.stem): still for still in merged(lvis(folder, "train"), coco(folder, "train"))}
    assert sorted(found) == [1, 2, 3] and all(still.path.is_file() for still in found.values())
    of_coco = {1: 3, 17: 1, 18: 2}
    for image, still in found.items():
        own = [(row["category_id"], row["bbox"]) for row in lvis_json()["annotations"] if row["image_id"] == image]
        new = [
            (of_coco[category], box) for number, category, box, _, is_new in COCO_BOXES if number == image and is_new
        ]
        assert still.category is not None and still.ignored_xywh is None
        assert list(zip(still.category.tolist(), still.xywh.tolist(), strict=True)) == own + new
    assert image_counts(lvis(folder, "train")) == {1: 0, 2: 2, 3: 1}
    other = write(
        tmp_path / "other" / "annotations" / "instances_train2017.json",
        {**lvis_json(), "images": [], "annotations": []},
    )
    with pytest.raises(DatasetError, match="got no image of .*lvis_v1_train.json; expected the same images"):
        merged(lvis(folder, "train"), coco(other.parents[1], "train"))


def test_all_classes_of_coco_are_classes_of_lvis() -> None:
    from sightline.datasets.lvis import categories

    synsets = COCO_SYNSETS.split()
    assert len(synsets) == 90 and sum(synset != "-" for synset in synsets) == 80
    assert {synset for synset in synsets if synset != "-"} <= {category.synset for category in categories()}


# By name


def test_sources_by_name(tmp_path: Path) -> None:
    annotated(tmp_path / "lvis")
    found = open_clip_sources(["lvis_coco"], tmp_path / "lvis", ("person", "cat", "dog", "fish"), repeat_threshold=0.5)
    (source,) = found.sources
    assert isinstance(source, StillClips) and source.class_ids == {1: 1, 2: 2, 3: 0}
    assert found.image_counts is not None and found.image_counts.tolist() == [1, 0, 2, 0]
    assert source.odds is not None and source.odds.max() > 1 and len(source.stills) == 3
    kept = open_clip_sources(["lvis_coco"], tmp_path / "lvis", ("cat", "dog"), skip_empty=True).sources[0]
    assert isinstance(kept, StillClips) and len(kept.stills) == 2 and kept.odds is None

    lines = [{"ID": "a", "gtboxes": [
        {"tag": "person", "fbox": [1, 2, 30, 60], "vbox": [1, 2, 3, 4], "hbox": [1, 2, 3, 4], "extra": {"box_id": 0}},
        {"tag": "person", "fbox": [9, 9, 9, 9], "extra": {"ignore": 1}},
        {"tag": "mask", "fbox": [5, 5, 5, 5], "extra": {"ignore": 1}},
    ]}]  # fmt: skip
    write(tmp_path / "crowdhuman" / "annotation_train.odgt", "\n".join(map(json.dumps, lines)) + "\n")
    write_images(tmp_path / "crowdhuman" / "Images", ["a.jpg"])
    for number in ("02", "04", "05", "09", "10", "11", "13"):
        mot_sequence(tmp_path / "mot17" / "train" / f"MOT17-{number}-FRCNN", 5)
    sources = open_clip_sources(
        ["mot17:half-train", "mot17:train*2", "crowdhuman:train*0.5", "synthetic"], tmp_path
    ).sources
    halves, whole, crowd, made = sources
    assert isinstance(halves, SequenceClips) and [len(part) for part in halves.sequences] == [3] * 7
    assert isinstance(whole, SequenceClips) and [len(part) for part in whole.sequences] == [5] * 7
    assert [source.weight for source in sources] == [1.0, 2.0, 0.5, 1.0] and isinstance(made, SyntheticClips)
    assert isinstance(crowd, StillClips) and crowd.stills[0].xywh.tolist() == [[1, 2, 30, 60]]
    clip = clip_of(crowd.draw(rng()), SMALL, rng())
    assert clip.track_id[0].tolist() == [1, 0, 0, 0, 0] and clip.class_id[0, 0] == 0


@pytest.mark.shared
def test_shared_images_of_people_become_clips(shared: Path) -> None:
    found = open_clip_sources(["images=coco_person", "images=mot17_person*2"], shared / "data" / "images")
    assert found.image_counts is None and [source.weight for source in found.sources] == [1, 2]
    clips = ClipExamples(found.sources, replace(SMALL, max_objects=64))
    people = [int((clips[number].track_id > 0).sum(axis=1).max()) for number in range(4)]
    assert max(people) > 0 and all(clips[number].class_id.max() <= 0 for number in range(4))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("got10k:train", "got no set of images or of many targets; expected synthetic, lvis_coco, or NAME"),
        ("a/b", "got no set of images or of many targets"),
        ("images=own", "got none of the 2 classes; expected categories that are called like them"),
    ],
)
def test_other_texts_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "board"}],
    }
    write(tmp_path / "own" / "annotations.json", content)
    write_images(tmp_path / "own" / "img", ["1.jpg"])
    with pytest.raises(DatasetError, match=sentence):
        open_clip_sources([text], tmp_path, ("person", "cat"))
    assert open_clip_sources(["images=own"], tmp_path).sources[0].class_ids is None  # type: ignore[union-attr]
