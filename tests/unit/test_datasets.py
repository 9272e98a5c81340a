"""Readers of annotated data: tiny trees of our own, and the counts that the shared folders state of themselves."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sightline.datasets.clips import read_clip, read_clips, read_split
from sightline.datasets.stills import read_zipped_stills
from sightline.datasets.table import open_dataset
from sightline.errors import DatasetError

ROWS = ["1,2,30,40", "1.5,2.5,30,40", "0,0,0,0"]


def clip_folder(root: Path, rows: list[str] = ROWS, frames: int = 3, absent: str | None = None) -> Path:
    folder = root / "clip"
    (folder / "img").mkdir(parents=True)
    for number in range(frames, 0, -1):
        (folder / "img" / f"{number:05d}.jpg").touch()
    (folder / "groundtruth.txt").write_text("\n".join(rows) + "\n")
    if absent is not None:
        (folder / "absent.txt").write_text(absent)
    return folder


# Clips


def test_clip(tmp_path) -> None:
    clip = read_clip(clip_folder(tmp_path))
    assert clip.name == "clip"
    assert len(clip) == 3
    assert [path.name for path in clip.frames] == ["00001.jpg", "00002.jpg", "00003.jpg"]
    assert clip.xywh.dtype == np.float64
    assert clip.xywh.tolist() == [[1, 2, 30, 40], [1.5, 2.5, 30, 40], [0, 0, 0, 0]]
    assert clip.is_present.tolist() == [True, True, False]  # a box without area is no target


@pytest.mark.parametrize(
    ("images", "boxes"),
    [("imgs", "groundtruth_rect.txt"), ("color", "groundtruth.txt"), ("", "groundtruth.txt"), ("frames", "cat.txt")],
)
def test_other_names_that_a_folder_may_have(tmp_path, images: str, boxes: str) -> None:
    folder = clip_folder(tmp_path, absent="0\n0\n1\n")
    (folder / "groundtruth.txt").rename(folder / boxes)
    for number, frame in enumerate(sorted((folder / "img").iterdir()), 9):  # 9, 10, 11: not in the order of letters
        (folder / images).mkdir(exist_ok=True)
        frame.rename(folder / images / f"f{number}.jpg")
    (folder / "img").rmdir()
    clip = read_clip(folder)
    assert [path.name for path in clip.frames] == ["f9.jpg", "f10.jpg", "f11.jpg"]
    assert clip.xywh[0].tolist() == [1, 2, 30, 40] and clip.annotation == folder / boxes


def test_absent_frames(tmp_path) -> None:
    assert read_clip(clip_folder(tmp_path, absent="0\n1\n0\n")).is_present.tolist() == [True, False, False]


def test_a_box_of_nan_is_no_target(tmp_path) -> None:
    clip = read_clip(clip_folder(tmp_path, rows=["1,2,3,4", "nan,nan,nan,nan", "1,2,3,4"]))
    assert clip.is_present.tolist() == [True, False, True]


def test_clips_come_in_the_order_of_their_names(tmp_path) -> None:
    for name in "ab":
        clip_folder(tmp_path / name).rename(tmp_path / f"clip_{name}")
    assert [clip.name for clip in read_clips(tmp_path, ["clip_b", "clip_a"])] == ["clip_b", "clip_a"]


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"rows": ROWS[:2]}, "groundtruth.txt: got 2 rows for 3 frames in .*img; expected one x,y,w,h row per frame"),
        ({"frames": 2}, "groundtruth.txt: got 3 rows for 2 frames"),
        ({"frames": 0}, "img: got 0 frames; expected some"),
        ({"rows": ["1,2,3"] * 3}, "groundtruth.txt:1: got 3 numbers; expected 4 numbers in a row"),
        ({"rows": []}, "got 0 rows"),
        ({"rows": ["1,2,3,4", "1,2,3"]}, "groundtruth.txt:2: got 3 numbers"),
        ({"rows": ["1,2,3,4", "a,b,c,d", "1,2,3,4"]}, "groundtruth.txt:2: got 'a'; expected a number"),
        ({"absent": "0\n1\n"}, "absent.txt: got 2 flags; expected 3, one each"),
        ({"absent": "1\n"}, "absent.txt: got 1 flags"),
        ({"absent": "0\n1\n2\n"}, r"absent.txt:3: got '2'; expected whole numbers in 0..1"),
        ({"absent": "no\nno\nyes\n"}, "absent.txt:1: got 'no'"),
        ({"absent": ""}, "absent.txt: got 0 flags"),
    ],
)
def test_clips_that_do_not_fit(tmp_path, tree, sentence) -> None:
    with pytest.raises(DatasetError, match=sentence):
        read_clip(clip_folder(tmp_path, **tree))


def test_a_clip_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DatasetError, match="groundtruth.txt: got 'No such file or directory'"):
        read_clip(tmp_path / "nowhere")


def test_split(tmp_path) -> None:
    (tmp_path / "split.json").write_text('{"train": ["a", "b"], "val": ["c"]}')
    assert read_split(tmp_path, "train") == ["a", "b"]
    assert read_split(tmp_path, "val") == ["c"]


@pytest.mark.parametrize("text", [None, "{", "{}", "[]", '{"train": 3}'])
def test_a_split_that_is_none(tmp_path, text) -> None:
    if text is not None:
        (tmp_path / "split.json").write_text(text)
    with pytest.raises(DatasetError, match=r"split.json: .*; expected an object with the list 'train'"):
        read_split(tmp_path, "train")


# Stills


def tiny_folder(root: Path, rows: list[str], names: tuple[str, ...] = ("a.jpg", "sub/b.jpg")) -> Path:
    root.mkdir()
    (root / "boxes.csv").write_text("\n".join(["file,class,x,y,w,h", *rows]))
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return root


def test_tiny_imagenet_in_its_zip(tmp_path) -> None:
    stills = read_zipped_stills(tiny_folder(tmp_path / "tiny", ["a.jpg,0,1,2,3,4", "b.jpg,1,0,0,64,64"]))
    assert [(still.path.as_posix(), still.xywh.tolist()) for still in stills] == [
        ("a.jpg", [[1, 2, 3, 4]]),
        ("sub/b.jpg", [[0, 0, 64, 64]]),
    ]


@pytest.mark.parametrize("rows", [["c.jpg,0,1,2,3,4"], ["a.jpg,0,1,2,3"], ["a.jpg,0,1,2,3,four"]])
def test_tiny_imagenet_that_does_not_fit(tmp_path, rows) -> None:
    with pytest.raises(DatasetError, match=r"tiny: .*; expected boxes.csv beside images.zip"):
        read_zipped_stills(tiny_folder(tmp_path / "tiny", rows))


def test_tiny_imagenet_without_its_pictures(tmp_path) -> None:
    folder = tiny_folder(tmp_path / "tiny", ["a.jpg,0,1,2,3,4"])
    (folder / "images.zip").write_bytes(b"no archive")
    with pytest.raises(DatasetError, match="BadZipFile"):
        read_zipped_stills(folder)
    (folder / "images.zip").unlink()
    with pytest.raises(DatasetError, match="FileNotFoundError"):
        read_zipped_stills(folder)


# The shared folders


@pytest.mark.shared
def test_shared_clips_are_as_their_readme_says(shared) -> None:
    root = shared / "data" / "sot"
    row = re.compile(r"^\| (\w[\w-]*) \| [^|]+ \| (\d+) / \d+ \|", re.MULTILINE)
    kept = {name: int(count) for name, count in row.findall((root / "README.md").read_text())}
    names = read_split(root, "train") + read_split(root, "val")
    clips = {clip.name: clip for clip in read_clips(root, names)}
    assert (len(read_split(root, "train")), len(read_split(root, "val")), len(clips)) == (27, 14, 41)
    assert {name: len(clip) for name, clip in clips.items()} == kept
    assert sum(kept.values()) == 5432
    for clip in clips.values():
        assert clip.is_present[0]
        assert clip.xywh.shape == (len(clip), 4)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["animals", "coco80", "coco_person", "fod_objects", "mot17_person"])
def test_shared_stills_are_as_their_readme_says(shared, name) -> None:
    root = shared / "data" / "images"
    row = re.compile(rf"^\| {name} \| (\d+) \| (\d+) \|", re.MULTILINE)
    images, boxes = row.search((root / "README.md").read_text()).groups()
    content = json.loads((root / name / "annotations.json").read_text())
    assert (len(content["images"]), len(content["annotations"])) == (int(images), int(boxes))

    stills = [still for still in open_dataset("images", root=root / name) if len(still.xywh)]
    usable = [row for row in content["annotations"] if not row.get("iscrowd", 0) and min(row["bbox"][2:]) > 0]
    assert sum(len(still.xywh) for still in stills) == len(usable)
    assert len(stills) == len({row["image_id"] for row in usable})
    assert all(still.path.is_file() for still in stills)


@pytest.mark.shared
def test_shared_tiny_imagenet_is_as_its_readme_says(shared) -> None:
    stills = read_zipped_stills(shared / "data" / "images" / "tiny_imagenet")
    assert len(stills) == len({still.path for still in stills}) == 12000
    assert max(still.xywh[0, 2:].max() for still in stills) <= 64
