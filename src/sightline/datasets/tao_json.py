"""Boxes in JSON, in the layouts of COCO, LVIS, COCO-VID and TAO: what was annotated, and what was found.

The four differ in what they leave out, so one reader serves them. LVIS and TAO are *federated*: an image (LVIS) or a
video (TAO) is annotated for some categories only. It has boxes of these; it lists as negative some that are not there,
and as not exhaustive those of which not every object is boxed. Of all others nothing is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Row = dict[str, Any]

NO_SYNSET = ("", "unknown")  # TAO's word for its free-form categories


class Category(NamedTuple):
    """A class of objects. `synset` is its WordNet name (LVIS, TAO), `frequency` LVIS's r, c or f for rare, common and
    frequent, `merged` the ids of other categories that count as this one (TAO)."""

    id: int
    name: str
    synset: str = ""
    frequency: str = ""
    merged: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Boxes:
    """N boxes, column by column, in the order of the file. Ids are those of the file.

    `track` is -1 where the layout has no tracks; `xywh` is (N, 4) in pixels of the image; `area` is what the file
    states (COCO, LVIS: of the mask), else w * h, in square pixels; `score` is 1 for ground truth.
    """

    image: Ids
    category: Ids
    track: Ids
    xywh: Floats
    area: Floats
    score: Floats
    is_crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.image)

    def take(self, index: NDArray[Any]) -> Boxes:
        """The rows of an index array or a mask."""
        return Boxes(
            self.image[index],
            self.category[index],
            self.track[index],
            self.xywh[index],
            self.area[index],
            self.score[index],
            self.is_crowd[index],
        )


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotated images. `image_video` and `frame_index` are -1 where there are no videos.

    `negative` and `not_exhaustive` are (K, 2) pairs of a video's id (an image's, in files without videos) and a
    category's. `negative` is None where every category is annotated everywhere (COCO, COCO-VID).
    """

    categories: tuple[Category, ...]
    video: Ids
    video_name: tuple[str, ...]
    image: Ids
    image_video: Ids
    frame_index: Ids
    file_name: tuple[str, ...]
    boxes: Boxes
    negative: Ids | None
    not_exhaustive: Ids


def read_ground_truth(path: Path) -> GroundTruth:
    """Annotations of COCO, LVIS, COCO-VID (`frame_id`, `instance_id`) or TAO (`frame_index`, `track_id`).

    Every listed image counts, also one without boxes. Raises `DatasetError` that names the file and the entry: no such
    file, no JSON, a field that is missing or of another kind, a box that is not finite or has a negative side, an id
    that occurs twice or refers to nothing, an annotation that contradicts its track.
    """
    return parse_ground_truth(_load(path), path)


def parse_ground_truth(content: object, path: Path) -> GroundTruth:
    """`read_ground_truth` of JSON that is loaded already; `path` is what sentences call it."""
    if not isinstance(content, dict):
        _refuse(
            path, f"a JSON {_kind(content)}", "an object with images, annotations and categories", "Name another file"
        )
    categories = _categories(path, content)
    images, annotations = _table(path, content, "images"), _table(path, content, "annotations")
    videos = _table(path, content, "videos") if "videos" in content else None

    image = images.ids("id", unique=True)
    video = videos.ids("id", unique=True) if videos else np.empty(0, dtype=np.int64)
    image_video = images.ids("video_id") if videos else np.full(len(image), -1)
    if videos:
        images.must_refer("video_id", image_video, video, "the id of a video")

    boxes = _boxes(annotations, has_tracks=videos is not None)
    annotations.must_refer("image_id", boxes.image, image, "the id of an image")
    known = np.array([category.id for category in categories], dtype=np.int64)
    annotations.must_refer("category_id", boxes.category, known, "the id of a category")
    if annotations.has("id"):
        annotations.ids("id", unique=True)
    if videos and "tracks" in content:
        tracks = _table(path, content, "tracks")
        track = tracks.ids("id", unique=True)
        annotations.must_refer("track_id", boxes.track, track, "the id of a track")
        row = find(track, boxes.track)
        annotations.must_equal("category_id", boxes.category, tracks.ids("category_id")[row], "category", "its track's")
        own_video = image_video[find(image, boxes.image)]
        annotations.must_equal("image_id", own_video, tracks.ids("video_id")[row], "video", "its track's")

    units, unit = (videos, video) if videos else (images, image)
    is_federated = units.has("neg_category_ids")
    return GroundTruth(
        categories,
        video,
        videos.texts("name") if videos else (),
        image,
        image_video,
        images.ids("frame_index" if images.has("frame_index") else "frame_id") if videos else np.full(len(image), -1),
        images.texts("file_name"),
        boxes,
        units.pairs("neg_category_ids", unit) if is_federated else None,
        units.pairs("not_exhaustive_category_ids", unit),
    )


def read_results(path: Path, truth: GroundTruth, has_tracks: bool = False) -> Boxes:
    """A detector's or tracker's boxes: a list of {image_id, category_id, bbox, score}, with `has_tracks` also track_id.

    `bbox` is x, y, w, h in pixels; a missing video_id is taken from the image. A category that the ground truth does
    not list is kept: it cannot match, but counts where the boxes of an image are limited. An empty list is legal.
    Raises `DatasetError` like `read_ground_truth`, also for an image that is not annotated and a track id below 0.
    """
    return parse_results(_load(path), truth, path, has_tracks)


def parse_results(content: object, truth: GroundTruth, path: Path, has_tracks: bool = False) -> Boxes:
    """`read_results` of JSON that is loaded already; `path` is what sentences call it."""
    if not isinstance(content, list):
        _refuse(path, f"a JSON {_kind(content)}", "a list of {image_id, category_id, bbox, score}", "Name another file")
    table = _Table(path, "", content)
    boxes = _boxes(table, has_tracks, is_result=True)
    table.must_refer("image_id", boxes.image, truth.image, "the id of an annotated image")
    stated = [index for index, row in enumerate(content) if "video_id" in row] if len(truth.video) else []
    if stated:
        part = _Table(path, "", [content[index] for index in stated], stated)
        own_video = truth.image_video[find(truth.image, boxes.image[stated])]
        part.must_equal("video_id", part.ids("video_id"), own_video, "video", "its image's")
    return boxes


def read_categories(path: Path) -> tuple[Category, ...]:
    """The categories alone, say of LVIS v1. Raises `DatasetError` like `read_ground_truth`."""
    content = _load(path)
    if not isinstance(content, dict):
        _refuse(path, f"a JSON {_kind(content)}", "an object with categories", "Name another file")
    return _categories(path, content)


# LVIS v0.5 (TAO) and v1, by synset


class Mapped(NamedTuple):
    """Ground truth in other categories, and what had none there: categories with boxes, their boxes and tracks, and
    entries of the lists of negative and not exhaustive categories."""

    truth: GroundTruth
    num_dropped_categories: int
    num_dropped_boxes: int
    num_dropped_tracks: int
    num_dropped_entries: int


def synset_map(source: Iterable[Category], target: Iterable[Category]) -> dict[int, int]:
    """Id in `source` to the id in `target` with the same synset; of several the last. No synset, no entry."""
    ids = {category.synset: category.id for category in target if category.synset not in NO_SYNSET}
    return {category.id: ids[category.synset] for category in source if category.synset in ids}


def map_ground_truth(truth: GroundTruth, target: Sequence[Category]) -> Mapped:
    """TAO's annotations in the categories of LVIS v1 (or the reverse), for models that know only those.

    The lists of negative and not exhaustive categories keep those that have boxes somewhere, as in the published
    conversion. What `merged` joined is joined afterwards only by an equal synset.
    """
    occurring = set(truth.boxes.category.tolist())
    ids = {key: value for key, value in synset_map(truth.categories, target).items() if key in occurring}
    category, is_known = _renamed(truth.boxes.category, ids)
    boxes = replace(truth.boxes, category=category).take(is_known)

    def mapped(pairs: Ids) -> Ids:
        renamed, known = _renamed(pairs[:, 1], ids)
        return np.column_stack([pairs[:, 0], renamed])[known]

    negative = None if truth.negative is None else mapped(truth.negative)
    not_exhaustive = mapped(truth.not_exhaustive)
    entries = len(truth.not_exhaustive) + (0 if truth.negative is None else len(truth.negative))
    left = len(not_exhaustive) + (0 if negative is None else len(negative))
    return Mapped(
        replace(truth, categories=tuple(target), boxes=boxes, negative=negative, not_exhaustive=not_exhaustive),
        len(occurring) - len(ids),
        len(truth.boxes) - len(boxes),
        _num_tracks(truth, truth.boxes) - _num_tracks(truth, boxes),
        entries - left,
    )


def map_results(results: Boxes, source: Iterable[Category], target: Iterable[Category]) -> tuple[Boxes, int]:
    """A model's boxes in the categories of another list, and how many boxes have none there (for TAO's server)."""
    category, is_known = _renamed(results.category, synset_map(source, target))
    return replace(results, category=category).take(is_known), int((~is_known).sum())


def find(ids: Ids, wanted: Ids) -> Ids:
    """Position in `ids`, which are unique, of each wanted id; -1 where it is not there."""
    if not len(ids):
        return np.full(len(wanted), -1)
    order = np.argsort(ids)
    position = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)]
    return np.where(ids[position] == wanted, position, -1)


def _renamed(ids: Ids, names: dict[int, int]) -> tuple[Ids, NDArray[np.bool_]]:
    """The new id of each, and whether it has one."""
    position = find(np.array(list(names), dtype=np.int64), ids)
    new = np.array([*names.values(), -1], dtype=np.int64)[position]
    return new, position >= 0


def _num_tracks(truth: GroundTruth, boxes: Boxes) -> int:
    videos = truth.image_video[find(truth.image, boxes.image)]
    return len(np.unique(np.column_stack([videos, boxes.track])[boxes.track >= 0], axis=0))


# JSON rows to columns


@dataclass(frozen=True, eq=False)
class _Table:
    """Rows of one list of a file; `number` holds their places in the list where only some are looked at."""

    path: Path
    name: str
    rows: list[Row]
    number: list[int] | None = None

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if not isinstance(row, dict):
                self.refuse(index, "", f"a JSON {_kind(row)}", "an object")

    def refuse(self, index: int, key: str, got: str, expected: str) -> NoReturn:
        entry = f"{self.path}: {self.name}[{index if self.number is None else self.number[index]}]"
        _refuse(f"{entry}.{key}" if key else entry, got, expected, "Mend the entry")

    def has(self, key: str) -> bool:
        return any(key in row for row in self.rows)

    def values(self, key: str, expected: str, is_legal: Callable[[Any], bool]) -> list[Any]:
        found = [row.get(key) for row in self.rows]
        for index, value in enumerate(found):
            if not is_legal(value):
                self.refuse(index, key, _brief(value) if key in self.rows[index] else "nothing", expected)
        return found

    def ids(self, key: str, unique: bool = False) -> Ids:
        values = np.array(self.values(key, "a whole number", _is_whole), dtype=np.int64)
        if unique and len(values) > len(np.unique(values)):
            order = np.argsort(values, kind="stable")
            again = int(order[1:][values[order[1:]] == values[order[:-1]]].min())
            self.refuse(again, key, f"{values[again]} once more", "an id of its own")
        return values

    def numbers(self, key: str) -> Floats:
        return np.array(self.values(key, "a finite number", _is_number), dtype=np.float64)

    def texts(self, key: str) -> tuple[str, ...]:
        """Texts that a row may lack."""
        values = self.values(key, "a text", lambda value: value is None or isinstance(value, str))
        return tuple(value or "" for value in values)

    def xywh(self, key: str) -> Floats:
        expected = "x, y, w, h in pixels, finite, w and h not below 0"
        return np.array(self.values(key, expected, _is_xywh), dtype=np.float64).reshape(-1, 4)

    def lists(self, key: str, expected: str, is_legal: Callable[[Any], bool]) -> list[list[Any]]:
        """Lists that a row may lack, each entry of which is legal."""

        def is_list(value: Any) -> bool:
            return value is None or (isinstance(value, list) and all(map(is_legal, value)))

        return [value or [] for value in self.values(key, expected, is_list)]

    def pairs(self, key: str, unit: Ids) -> Ids:
        """(K, 2): the id of a row and each of the ids in its list."""
        lists = self.lists(key, "a list of category ids", _is_whole)
        flat = [(own, other) for own, others in zip(unit.tolist(), lists, strict=True) for other in others]
        return np.array(flat, dtype=np.int64).reshape(-1, 2)

    def must_refer(self, key: str, ids: Ids, known: Ids, what: str) -> None:
        unknown = np.flatnonzero(~np.isin(ids, known))
        if len(unknown):
            self.refuse(int(unknown[0]), key, f"{ids[unknown[0]]}", what)

    def must_equal(self, key: str, ids: Ids, expected: Ids, what: str, whose: str) -> None:
        wrong = np.flatnonzero(ids != expected)
        if len(wrong):
            row = int(wrong[0])
            self.refuse(row, key, f"{what} {ids[row]}", f"{what} {expected[row]}, {whose}")


def _boxes(table: _Table, has_tracks: bool, is_result: bool = False) -> Boxes:
    image, category, xywh = table.ids("image_id"), table.ids("category_id"), table.xywh("bbox")
    track = np.full(len(image), -1)
    if has_tracks:
        key = "instance_id" if table.has("instance_id") and not table.has("track_id") else "track_id"
        track = table.ids(key)
        if (track < 0).any():
            index = int(np.argmax(track < 0))
            table.refuse(index, key, f"{track[index]}", "an id from 0 on")
    size = xywh[:, 2] * xywh[:, 3]
    if is_result:
        return Boxes(image, category, track, xywh, size, table.numbers("score"), np.zeros(len(image), dtype=bool))
    stated = table.values("area", "a finite number", lambda value: value is None or _is_number(value))
    area = np.array([np.nan if value is None else value for value in stated], dtype=np.float64)
    crowd = table.values("iscrowd", "0 or 1", lambda value: value is None or (_is_whole(value) and value in (0, 1)))
    return Boxes(
        image,
        category,
        track,
        xywh,
        np.where(np.isnan(area), size, area),
        np.ones(len(image)),
        np.array([value == 1 for value in crowd], dtype=bool),
    )


def _categories(path: Path, content: Row) -> tuple[Category, ...]:
    table = _table(path, content, "categories")
    merged = table.lists("merged", "a list of {id}", lambda row: isinstance(row, dict) and _is_whole(row.get("id")))
    ids, texts = table.ids("id", unique=True).tolist(), [table.texts(key) for key in ("name", "synset", "frequency")]
    joined = [tuple(int(row["id"]) for row in rows) for rows in merged]
    return tuple(map(Category, ids, *texts, joined))


def _table(path: Path, content: Row, name: str) -> _Table:
    rows = content.get(name)
    if not isinstance(rows, list):
        got = f"a JSON {_kind(rows)}" if name in content else "nothing"
        _refuse(f"{path}: {name}", got, "a list of objects", "Name another file")
    return _Table(path, name, rows)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: got '{error}'; expected a JSON file. Check the file.") from error


def _refuse(place: str | Path, got: str, expected: str, remedy: str) -> NoReturn:
    raise DatasetError(f"{place}: got {got}; expected {expected}. {remedy}.")


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _brief(value: object) -> str:
    text = (
        f"a JSON {_kind(value)}"
        if isinstance(value, dict)
        else json.dumps(value)
        if _is_flat(value)
        else "nested lists"
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_flat(value: object) -> bool:  # what is not might be nested too deeply to print
    return not (isinstance(value, list) and any(isinstance(part, list | dict) for part in value))


def _is_whole(value: object) -> bool:
    """A whole number of 64 bits; 3.0 is one, as some writers put it."""
    return (type(value) is int or (type(value) is float and value.is_integer())) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e150  # type: ignore[arg-type]  # squares stay finite


def _is_xywh(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)) and min(value[2:]) >= 0
