"""The reader of COCO, LVIS, COCO-VID and TAO files: small files of each layout, and every way to spoil one."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.datasets.tao_json import (
    Category,
    find,
    map_ground_truth,
    map_results,
    parse_ground_truth,
    parse_results,
    read_categories,
    read_ground_truth,
    read_results,
    synset_map,
)
from sightline.errors import DatasetError, SightlineError

NAME = Path("file.json")

TAO: dict[str, Any] = {
    "videos": [
        {"id": 8, "name": "val/a", "neg_category_ids": [3], "not_exhaustive_category_ids": []},
        {"id": 2, "name": "val/b", "neg_category_ids": [1, 3], "not_exhaustive_category_ids": [2]},
    ],
    "images": [
        {"id": 70, "video_id": 2, "frame_index": 30, "file_name": "b/30.jpg"},
        {"id": 10, "video_id": 8, "frame_index": 0, "file_name": "a/0.jpg"},
        {"id": 60, "video_id": 2, "frame_index": 0, "file_name": "b/0.jpg"},
    ],
    "tracks": [{"id": 5, "category_id": 2, "video_id": 2}, {"id": 0, "category_id": 1, "video_id": 8}],
    "annotations": [
        {"id": 1, "image_id": 70, "track_id": 5, "category_id": 2, "bbox": [1, 2, 30, 40], "area": 1000.5},
        {"id": 2, "image_id": 10, "track_id": 0, "category_id": 1, "bbox": [0.5, 0, 3, 0]},
    ],
    "categories": [
        {"id": 1, "name": "cat", "synset": "cat.n.01", "frequency": "f"},
        {"id": 2, "name": "car", "synset": "car.n.01", "frequency": "c", "merged": [{"id": 3, "name": "auto"}]},
        {"id": 3, "name": "auto", "synset": "unknown"},
    ],
}
RESULTS: list[dict[str, Any]] = [
    {"image_id": 60, "video_id": 2, "track_id": 4, "category_id": 99, "bbox": [1, 2, 3, 4.5], "score": 0.25},
    {"image_id": 10, "track_id": 0, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1},
]


def test_tao() -> None:
    truth = parse_ground_truth(TAO, NAME)
    assert truth.categories == (
        Category(1, "cat", "cat.n.01", "f"),
        Category(2, "car", "car.n.01", "c", (3,)),
        Category(3, "auto", "unknown"),
    )
    assert (truth.video.tolist(), truth.video_name) == ([8, 2], ("val/a", "val/b"))
    assert (truth.image.tolist(), truth.image_video.tolist()) == ([70, 10, 60], [2, 8, 2])
    assert (truth.frame_index.tolist(), truth.file_name) == ([30, 0, 0], ("b/30.jpg", "a/0.jpg", "b/0.jpg"))
    assert truth.negative.tolist() == [[8, 3], [2, 1], [2, 3]]
    assert truth.not_exhaustive.tolist() == [[2, 2]]
    boxes = truth.boxes
    assert len(boxes) == 2
    assert (boxes.image.tolist(), boxes.category.tolist(), boxes.track.tolist()) == ([70, 10], [2, 1], [5, 0])
    assert boxes.xywh.tolist() == [[1, 2, 30, 40], [0.5, 0, 3, 0]]
    assert boxes.area.tolist() == [1000.5, 0]  # as stated, else w * h
    assert (boxes.score.tolist(), boxes.is_crowd.tolist()) == ([1, 1], [False, False])
    assert boxes.xywh.dtype == boxes.area.dtype == np.float64


def test_coco() -> None:
    content = {
        "images": [{"id": 3}],
        "annotations": [{"image_id": 3, "category_id": 1, "bbox": [1, 1, 2, 2], "iscrowd": 1, "area": 3}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    truth = parse_ground_truth(content, NAME)
    assert truth.negative is None
    assert truth.not_exhaustive.shape == (0, 2)
    assert truth.video.tolist() == [] and truth.image_video.tolist() == truth.frame_index.tolist() == [-1]
    assert (truth.boxes.is_crowd.tolist(), truth.boxes.track.tolist()) == ([True], [-1])
    assert truth.categories == (Category(1, "cat"),)


def test_lvis() -> None:
    content = {
        "images": [{"id": 3, "neg_category_ids": [1], "not_exhaustive_category_ids": []}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat", "frequency": "r"}],
    }
    truth = parse_ground_truth(content, NAME)
    assert truth.negative.tolist() == [[3, 1]]
    assert truth.boxes.xywh.shape == (0, 4)


def test_coco_vid() -> None:
    content = {
        "videos": [{"id": 1, "name": "v"}],
        "images": [{"id": 3, "video_id": 1, "frame_id": 0}, {"id": 4, "video_id": 1, "frame_id": 7}],
        "annotations": [{"image_id": 4, "video_id": 1, "instance_id": 6, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    truth = parse_ground_truth(content, NAME)
    assert truth.frame_index.tolist() == [0, 7]
    assert truth.boxes.track.tolist() == [6]
    assert truth.negative is None


def test_results() -> None:
    truth = parse_ground_truth(TAO, NAME)
    boxes = parse_results(RESULTS, truth, NAME, has_tracks=True)
    assert (boxes.image.tolist(), boxes.category.tolist(), boxes.track.tolist()) == ([60, 10], [99, 1], [4, 0])
    assert boxes.score.tolist() == [0.25, 1]
    assert boxes.area.tolist() == [13.5, 1]
    assert parse_results(RESULTS, truth, NAME).track.tolist() == [-1, -1]
    assert len(parse_results([], truth, NAME, has_tracks=True)) == 0


def test_files(tmp_path) -> None:
    """As text with a byte order mark, too; whole numbers may be written as 3.0, ids may be large."""
    truth_path, results_path = tmp_path / "gt.json", tmp_path / "results.json"
    truth_path.write_text(json.dumps(TAO), encoding="utf-8-sig")
    truth = read_ground_truth(truth_path)
    assert truth.image.tolist() == [70, 10, 60]
    assert read_categories(truth_path) == truth.categories
    results_path.write_text(json.dumps([RESULTS[0] | {"image_id": 60.0, "track_id": 10**9}]))
    boxes = read_results(results_path, truth, has_tracks=True)
    assert (boxes.image.tolist(), boxes.track.tolist()) == ([60], [10**9])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1,", b"\xff\xfe", "[" * 100_000, None],
    ids=["empty", "cut", "cut list", "no text", "deep", "no file"],
)
def test_what_is_no_json_is_refused(tmp_path, text) -> None:
    path = tmp_path / "gt.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    truth = parse_ground_truth(TAO, NAME)
    for read in (read_ground_truth, read_categories, lambda path: read_results(path, truth)):
        with pytest.raises(DatasetError, match=r"gt.json: got .*; expected a JSON file. Check the file"):
            read(path)


def spoiled(content: Any, place: str, value: Any) -> Any:
    """A copy with one entry replaced, or removed if the value is `...`."""
    content = copy.deepcopy(content)
    *way, last = (int(step) if step.isdigit() else step for step in place.split("."))
    inner = content
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("images", ..., "images: got nothing; expected a list of objects. Name another file"),
        ("annotations", 3, "annotations: got a JSON number; expected a list"),
        ("categories", None, "categories: got a JSON null; expected a list"),
        ("videos", {}, "videos: got a JSON object; expected a list"),
        ("tracks", "x", "tracks: got a JSON text; expected a list"),
        ("images.1", 4, r"images[1]: got a JSON number; expected an object. Mend the entry"),
        ("images.1.id", ..., "images[1].id: got nothing; expected a whole number"),
        ("images.1.id", "10", 'images[1].id: got "10"; expected a whole number'),
        ("images.1.id", True, "images[1].id: got true; expected a whole number"),
        ("images.1.id", 2**63, "images[1].id: got 9223372036854775808; expected a whole number"),
        ("images.2.id", 70, "images[2].id: got 70 once more; expected an id of its own"),
        ("images.0.video_id", 3, "images[0].video_id: got 3; expected the id of a video"),
        ("images.0.frame_index", ..., "images[0].frame_index: got nothing"),
        ("images.0.file_name", 3, "images[0].file_name: got 3; expected a text"),
        ("videos.1.id", 8, "videos[1].id: got 8 once more"),
        ("videos.1.neg_category_ids", 3, "videos[1].neg_category_ids: got 3; expected a list of category ids"),
        ("videos.1.neg_category_ids", ["a"], 'videos[1].neg_category_ids: got ["a"]; expected a list'),
        (
            "videos.1.not_exhaustive_category_ids",
            [[1]],
            "videos[1].not_exhaustive_category_ids: got nested lists; expected",
        ),
        ("tracks.1.id", 5, "tracks[1].id: got 5 once more"),
        ("tracks.1.id", 7, "annotations[1].track_id: got 0; expected the id of a track"),
        ("tracks.0.category_id", 1, "annotations[0].category_id: got category 2; expected category 1, its track's"),
        ("tracks.0.video_id", 8, "annotations[0].image_id: got video 2; expected video 8, its track's"),
        ("annotations.1.id", 1, "annotations[1].id: got 1 once more"),
        ("annotations.1.image_id", 11, "annotations[1].image_id: got 11; expected the id of an image"),
        ("annotations.1.category_id", 4, "annotations[1].category_id: got 4; expected the id of a category"),
        ("annotations.1.track_id", ..., "annotations[1].track_id: got nothing"),
        ("annotations.1.track_id", -1, "annotations[1].track_id: got -1; expected an id from 0 on"),
        ("annotations.1.bbox", [1, 2, 3], "annotations[1].bbox: got [1, 2, 3]; expected x, y, w, h in pixels"),
        ("annotations.1.bbox.2", -1, "annotations[1].bbox: got [0.5, 0, -1, 0]"),
        ("annotations.1.bbox.0", float("nan"), "annotations[1].bbox: got [NaN, 0, 3, 0]"),
        ("annotations.1.bbox.3", 1e300, "annotations[1].bbox: got [0.5, 0, 3, 1e+300]"),
        ("annotations.1.bbox.3", "4", 'annotations[1].bbox: got [0.5, 0, 3, "4"]'),
        ("annotations.1.bbox", {}, "annotations[1].bbox: got a JSON object"),
        ("annotations.0.area", "big", 'annotations[0].area: got "big"; expected a finite number'),
        ("annotations.0.iscrowd", 2, "annotations[0].iscrowd: got 2; expected 0 or 1"),
        ("categories.2.id", 1, "categories[2].id: got 1 once more"),
        ("categories.2.name", 1, "categories[2].name: got 1; expected a text"),
        ("categories.1.merged", [3], "categories[1].merged: got [3]; expected a list of {id}"),
    ],
)
def test_ground_truth_that_does_not_fit(place, value, sentence) -> None:
    with pytest.raises(DatasetError, match=rf"^file\.json: {re.escape(sentence)}"):
        parse_ground_truth(spoiled(TAO, place, value), NAME)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ("0", [], "[0]: got a JSON list; expected an object"),
        ("0.image_id", 7, "[0].image_id: got 7; expected the id of an annotated image"),
        ("0.score", ..., "[0].score: got nothing; expected a finite number"),
        ("1.score", float("inf"), "[1].score: got Infinity; expected a finite number"),
        ("1.track_id", ..., "[1].track_id: got nothing; expected a whole number"),
        ("1.track_id", -3, "[1].track_id: got -3; expected an id from 0 on"),
        ("0.video_id", 8, "[0].video_id: got video 8; expected video 2, its image's"),
        ("0.video_id", None, "[0].video_id: got null; expected a whole number"),
        ("1.video_id", 9, "[1].video_id: got video 9; expected video 8, its image's"),
        ("1.category_id", 1.5, "[1].category_id: got 1.5; expected a whole number"),
        ("1.bbox", ..., "[1].bbox: got nothing; expected x, y, w, h"),
    ],
)
def test_results_that_do_not_fit(place, value, sentence) -> None:
    truth = parse_ground_truth(TAO, NAME)
    with pytest.raises(DatasetError, match=rf"^file\.json: {re.escape(sentence)}"):
        parse_results(spoiled(RESULTS, place, value), truth, NAME, has_tracks=True)


def test_files_of_another_kind_are_refused() -> None:
    with pytest.raises(DatasetError, match="file.json: got a JSON list; expected an object with images"):
        parse_ground_truth(RESULTS, NAME)
    with pytest.raises(DatasetError, match="file.json: got a JSON object; expected a list of"):
        parse_results(TAO, parse_ground_truth(TAO, NAME), NAME)


# Whatever the JSON: columns, or a sentence

WRONG = [None, True, 0, -1, 2, 10, 70, 1.5, 3.0, 2**63, -(2**63), 10**400, 1e200, float("nan"), float("inf"), "", "x"]
WRONG += [
    [],
    {},
    [1],
    [[1]],
    [None],
    ["1"],
    [0, 0, 1, 1],
    [1, 2, 3, float("nan")],
    [{"id": 1}],
    [{"id": "x"}],
    {"id": 1},
]


def places(content: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, part in inner for place in ((*way, key), *places(part, (*way, key)))]


def fuzzed(data: st.DataObject, content: Any) -> Any:
    """A copy in which one to three values are replaced by others, or removed."""
    for _ in range(data.draw(st.integers(1, 3))):
        place = ".".join(str(step) for step in data.draw(st.sampled_from(places(content))))
        content = spoiled(content, place, data.draw(st.sampled_from([*WRONG, ...])))
        if not places(content):
            break
    return content


@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_any_ground_truth_is_read_or_refused(data) -> None:
    content = fuzzed(data, TAO)
    with contextlib.suppress(SightlineError):
        truth = parse_ground_truth(content, NAME)
        assert np.isfinite(truth.boxes.xywh).all()
        assert (find(truth.image, truth.boxes.image) >= 0).all()


@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_any_results_are_read_or_refused(data) -> None:
    truth, content = parse_ground_truth(TAO, NAME), fuzzed(data, RESULTS)
    with contextlib.suppress(SightlineError):
        boxes = parse_results(content, truth, NAME, has_tracks=True)
        assert len(boxes) == len(content)
        assert np.isfinite(boxes.score).all()


@settings(max_examples=1000, deadline=None)
@given(st.text(max_size=40) | st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(tmp_path_factory, text) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    with pytest.raises(DatasetError, match="fuzz.json: "):
        read_ground_truth(path)


# LVIS v0.5 and v1

V1 = (
    Category(10, "feline", "cat.n.01", "c"),
    Category(11, "tomcat", "cat.n.01", "r"),
    Category(12, "thing", "unknown"),
    Category(13, "dog", "dog.n.01"),
)


def test_categories_meet_by_synset() -> None:
    truth = parse_ground_truth(TAO, NAME)
    assert synset_map(truth.categories, V1) == {1: 11}  # of two the last; what is unknown is not the same
    mapped = map_ground_truth(truth, V1)
    assert mapped.truth.categories == V1
    assert mapped.truth.boxes.category.tolist() == [11]
    assert mapped.truth.boxes.image.tolist() == [10]
    assert mapped.truth.negative.tolist() == [[2, 11]]
    assert mapped.truth.not_exhaustive.tolist() == []
    dropped = mapped.num_dropped_categories, mapped.num_dropped_boxes, mapped.num_dropped_tracks
    assert (*dropped, mapped.num_dropped_entries) == (1, 1, 1, 3)


def test_lists_keep_categories_with_boxes_only() -> None:
    categories = (*V1, Category(14, "motorcar", "car.n.01"))
    content = spoiled(TAO, "annotations.1", TAO["annotations"][0] | {"id": 9, "image_id": 60})  # no cat any more
    mapped = map_ground_truth(parse_ground_truth(content, NAME), categories)
    assert mapped.truth.negative.tolist() == []
    assert mapped.truth.not_exhaustive.tolist() == [[2, 14]]
    assert mapped.num_dropped_entries == 3
    assert mapped.num_dropped_boxes == mapped.num_dropped_tracks == mapped.num_dropped_categories == 0


def test_results_are_mapped_back() -> None:
    truth = parse_ground_truth(TAO, NAME)
    results = parse_results([RESULTS[1] | {"category_id": key} for key in (11, 10, 13, 77)], truth, NAME)
    back, num_dropped = map_results(results, V1, truth.categories)
    assert (back.category.tolist(), num_dropped) == ([1, 1], 2)


def test_mapping_to_nothing() -> None:
    mapped = map_ground_truth(parse_ground_truth(TAO, NAME), ())
    assert len(mapped.truth.boxes) == 0
    assert mapped.num_dropped_boxes == 2


# The shared set


@pytest.mark.shared
def test_the_shared_federated_set_is_as_its_readme_says(shared) -> None:
    root = shared / "golden" / "tao"
    truth = read_ground_truth(root / "gt" / "gt.json")
    assert (len(truth.video), len(truth.image), len(truth.categories), len(truth.boxes)) == (3, 34, 7, 102)
    assert np.unique(truth.image_video, return_counts=True)[1].tolist() == [8, 12, 14]
    assert len(np.unique(truth.boxes.track)) == 12
    assert {row.id: row.merged for row in truth.categories if row.merged} == {3: (7,)}
    for name, count in {"mixed": 153, "near_perfect": 102}.items():
        results = read_results(root / "trackers" / name / "data" / "results.json", truth, has_tracks=True)
        assert len(results) == count
