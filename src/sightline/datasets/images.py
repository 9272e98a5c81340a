"""Annotated images and videos in one file for all: COCO, LVIS, CrowdHuman; TAO and COCO-VID."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.datasets.clips import Listing, first_there
from sightline.datasets.mot_text import MotRows
from sightline.datasets.multi import MotSequence
from sightline.datasets.sot_text import MAX_PX, read_text
from sightline.datasets.stills import Still
from sightline.datasets.tao_json import Boxes, Category, Floats, GroundTruth, Ids, parse_ground_truth
from sightline.errors import DatasetError

PERSON = Category(1, "person")


@dataclass(frozen=True, eq=False)
class Annotated:
    """What one annotation file says, for evaluation (`truth`), with the files of its images.

    `files` are in the order of `truth.image`; `size` (N, 2) is width and height in pixels as the file states them, nan
    where it does not. `line` (M,) is the line of each box where the file has lines, None for JSON.
    """

    path: Path
    truth: GroundTruth
    files: tuple[Path, ...]
    size: Floats
    line: Ids | None = None

    def entry(self, box: int) -> str:
        """Where in the file a box is."""
        return f"{self.path}: annotations[{box}]" if self.line is None else f"{self.path}:{self.line[box]}"


# Images


def coco(folder: Path, split: str) -> Annotated:
    """`annotations/instances_SPLIT2017.json`, `SPLIT2017/%012d.jpg`."""
    return read_annotated(
        first_there(folder, f"annotations/instances_{split}2017.json"),
        [folder / f"{split}2017", folder / "images" / f"{split}2017", folder / "images", folder],
    )


def lvis(folder: Path, split: str) -> Annotated:
    """`annotations/lvis_v1_SPLIT.json`; images are COCO's, of both its folders, by the ends of their addresses."""
    return read_annotated(
        first_there(folder, f"annotations/lvis_v1_{split}.json", f"lvis_v1_{split}.json"),
        [folder, folder / "images", folder.parent / "coco"],
    )


def own_images(folder: Path, _split: str) -> Annotated:
    """COCO's JSON as `annotations.json` beside `img` or `images`."""
    return read_annotated(first_there(folder, "annotations.json"), [folder / "img", folder / "images", folder])


def crowdhuman(folder: Path, split: str) -> Annotated:
    """`annotation_SPLIT.odgt`, `Images/ID.jpg`; boxes of whole people, which reach beyond the image."""
    images = first_there(folder, "Images", f"CrowdHuman_{split}/Images", f"CrowdHuman_{split}", f"Images_{split}")
    return read_odgt(first_there(folder, f"annotation_{split}.odgt"), images)


# Videos


def tao(folder: Path, split: str) -> Annotated:
    """`annotations/{train,validation}.json`, `frames/`, in which the file says where."""
    names = ["train.json"] if split == "train" else ["validation.json", "val.json"]
    path = first_there(folder, *(f"annotations/{name}" for name in names), *names)
    return read_annotated(path, [folder / "frames", folder])


def coco_vid(folder: Path, split: str) -> Annotated:
    """`annotations/imagenet_vid_SPLIT.json` or `annotations/SPLIT.json`, `Data/VID/` or `images/`."""
    path = first_there(folder, f"annotations/imagenet_vid_{split}.json", f"annotations/{split}.json")
    return read_annotated(path, [folder / "Data" / "VID", folder / "images", folder / split, folder])


def videos(annotated: Annotated) -> Listing[MotSequence]:
    """A sequence for each video: its listed images in order, and a row for each box, by the image's place among them.

    Rows have the file's track ids, and its category as class; crowds have the mark 0. Frames that are not listed, in
    TAO those between the seconds, are not annotated and not here.
    """
    truth, boxes = annotated.truth, annotated.truth.boxes
    order = np.lexsort((truth.frame_index, truth.image_video))
    image_of = {video: order[truth.image_video[order] == video] for video in truth.video.tolist()}
    names = [name or str(video) for name, video in zip(truth.video_name, truth.video.tolist(), strict=True)]
    video_of = dict(zip(names, truth.video.tolist(), strict=True))
    box_image = _position(truth.image, boxes.image)

    def read(name: str) -> MotSequence:
        images = image_of[video_of[name]]
        rank = np.full(len(truth.image), -1)
        rank[images] = np.arange(len(images))
        rows = np.flatnonzero(rank[box_image] >= 0)
        frame, mark = rank[box_image[rows]], (~boxes.is_crowd[rows]).astype(np.float64)
        found = MotRows(frame, boxes.track[rows], boxes.xywh[rows], mark, boxes.category[rows])
        sizes = {(int(w), int(h)) for w, h in annotated.size[images].tolist() if not math.isnan(w + h)}
        size = sizes.pop() if len(sizes) == 1 else None
        return MotSequence(
            name, tuple(annotated.files[image] for image in images.tolist()), found, size, None, annotated.path
        )

    def place(name: str) -> Path:
        images = image_of[video_of[name]]
        return annotated.files[images[0]] if len(images) else annotated.path

    return Listing(names, place, read)


def stills(annotated: Annotated) -> Listing[Still]:
    """A still for each image, with or without boxes."""
    truth, boxes = annotated.truth, annotated.truth.boxes
    image = _position(truth.image, boxes.image)
    order = np.argsort(image, kind="stable")
    begin = np.searchsorted(image[order], np.arange(len(truth.image) + 1))
    position = {_name(annotated, index): index for index in range(len(annotated.files))}

    def read(name: str) -> Still:
        index = position[name]
        rows = order[begin[index] : begin[index + 1]]
        crowd = boxes.is_crowd[rows]
        kept = rows[~crowd]
        return Still(annotated.files[index], boxes.xywh[kept], boxes.category[kept], boxes.xywh[rows[crowd]])

    return Listing(list(position), lambda name: annotated.files[position[name]], read)


def _name(annotated: Annotated, index: int) -> str:
    return annotated.truth.file_name[index] or annotated.files[index].name


def _position(ids: Ids, wanted: Ids) -> NDArray[np.intp]:
    """Where each wanted id, which is there, is among the ids."""
    order = np.argsort(ids)
    return np.asarray(order[np.searchsorted(ids, wanted, sorter=order)] if len(ids) else np.empty(0, np.intp))


# Files


def read_annotated(path: Path, image_folders: Sequence[Path]) -> Annotated:
    """An annotation file by `tao_json.parse_ground_truth`, with images in the first folder that holds the first.

    Raises `DatasetError` as that does.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: got '{error}'; expected a JSON file. Check the file.") from error
    truth = parse_ground_truth(content, path)
    rows = content["images"]
    names = [_file_name(row) for row in rows]
    home = next((home for home in image_folders if names and (home / names[0]).is_file()), image_folders[0])
    size = np.array([(_side(row.get("width")), _side(row.get("height"))) for row in rows]).reshape(-1, 2)
    return Annotated(path, truth, tuple(home / name for name in names), size)


def _file_name(row: dict[str, Any]) -> str:
    """LVIS has an address, .../train2017/000000391895.jpg, and no file name."""
    if name := row.get("file_name"):
        return str(name)
    address = row.get("coco_url")
    return "/".join(address.split("/")[-2:]) if isinstance(address, str) and address else f"{int(row['id']):012d}.jpg"


def _side(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < MAX_PX else math.nan


def read_odgt(path: Path, images: Path) -> Annotated:
    """CrowdHuman's lines of JSON: {ID, gtboxes: [{tag, fbox, vbox, hbox, extra: {ignore, box_id}}]}.

    Boxes are `fbox`, the whole person, seen or not. What has another tag than "person", or `ignore` 1, is a region to
    leave out: a crowd, in COCO's words. Raises `DatasetError` with file and line.
    """
    names: list[str] = []
    found: list[tuple[int, int, bool, list[float]]] = []  # image, line, is a crowd, box
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            row = json.loads(line)
            names.append(f"{row['ID']}.jpg")
            for box in row["gtboxes"]:
                is_crowd = box["tag"] != "person" or bool(box.get("extra", {}).get("ignore", 0))
                found.append((len(names) - 1, number, is_crowd, _four_numbers(box["fbox"])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DatasetError(
                f"{path}:{number}: got {' '.join(repr(error).split())[:80]}; expected ID and gtboxes with tag and fbox "
                "x,y,w,h in pixels. Correct the line."
            ) from error
    if len(set(names)) < len(names):
        again = next(name for place, name in enumerate(names) if name in names[:place])
        raise DatasetError(f"{path}: got {again} twice; expected one line for an image. Delete one.")
    xywh = np.array([box for *_, box in found], dtype=np.float64).reshape(-1, 4)
    image, line_number = (np.array([row[column] for row in found], dtype=np.int64) for column in (0, 1))
    boxes = Boxes(
        image,
        np.ones_like(image),
        np.full_like(image, -1),
        xywh,
        xywh[:, 2] * xywh[:, 3],
        np.ones(len(found)),
        np.array([row[2] for row in found], dtype=np.bool_),
    )
    nothing, pairs = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
    every, none = np.arange(len(names)), np.full(len(names), -1)
    truth = GroundTruth((PERSON,), nothing, (), every, none, none, tuple(names), boxes, None, pairs)
    return Annotated(path, truth, tuple(images / name for name in names), np.full((len(names), 2), np.nan), line_number)


def _four_numbers(box: object) -> list[float]:
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"box {box}")
    if not all(isinstance(side, int | float) and abs(side) <= MAX_PX for side in box):
        raise ValueError(f"box {box}")
    return [float(side) for side in box]
