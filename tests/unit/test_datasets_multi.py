"""Multi-object sequences and annotated images in their official layouts, each as a small tree."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from sightline.datasets.mot_text import KittiRows
from sightline.datasets.multi import half, read_mot_sequence
from sightline.datasets.table import NothingThere, open_dataset
from sightline.errors import DatasetError
from tests.trees import HEIGHT, WIDTH, coco_json, images, kitti_tree, mot_sequence, numbered, seqinfo, video_json, write

# MOTChallenge


def test_mot17_has_every_video_three_times(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "MOT17" / "train" / "MOT17-02-FRCNN")
    whole = open_dataset("mot17", root=tmp_path)
    assert (whole.split, len(whole), len(whole.missing())) == ("train", 21, 20)
    assert whole.names[:4] == ["MOT17-02-DPM", "MOT17-02-FRCNN", "MOT17-02-SDP", "MOT17-04-DPM"]
    sequence = whole["MOT17-02-FRCNN"]
    assert (len(sequence), sequence.fps, sequence.image_size) == (5, 30.0, (WIDTH, HEIGHT))
    assert [path.name for path in sequence.frames] == numbered(5, "{:06d}.jpg")
    assert sequence.truth.frame.tolist() == [0, 1, 2, 3, 4, 0]  # from 0, the file's from 1
    assert sequence.truth.track_id.tolist() == [1, 1, 1, 1, 1, 2]
    assert sequence.annotation.name == "gt.txt"


@pytest.mark.parametrize(
    ("length", "first", "rest"), [(5, [0, 1, 2], [0, 1]), (4, [0, 1, 2], [0]), (6, [0, 1, 2, 3], [0, 1])]
)
def test_halves(tmp_path: Path, length: int, first: list[int], rest: list[int]) -> None:
    """0..n // 2 with both ends, the rest counted anew; of three copies one."""
    mot_sequence(tmp_path / "MOT17" / "train" / "MOT17-02-FRCNN", length)
    for split, frames, skipped in (("half-train", first, 0), ("half-val", rest, len(first))):
        part = open_dataset("mot17", split, tmp_path)
        assert len(part) == 7 and all(name.endswith("-FRCNN") for name in part.names)
        sequence = part["MOT17-02-FRCNN"]
        extra = [0] if split == "half-train" else []  # the second target is in the first frame alone
        assert sequence.truth.frame.tolist() == frames + extra
        assert len(sequence) == len(frames) == len(list(sequence.frames))
        assert [path.name for path in sequence.frames] == numbered(len(frames), "{:06d}.jpg", 1 + skipped)
        assert sequence.truth.xywh[0].tolist() == [1 + skipped, 2, 10, 20]
    assert len(open_dataset("mot17", "train", tmp_path)["MOT17-02-FRCNN"]) == length


def test_halves_of_a_benchmark_with_one_copy(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "mot20" / "train" / "MOT20-05")
    assert open_dataset("mot20", "half-val", tmp_path).names == ["MOT20-01", "MOT20-02", "MOT20-03", "MOT20-05"]


def test_mot15_has_no_class(tmp_path: Path) -> None:
    """Columns 8 to 10 are places in the world, of any size and sign."""
    gt = "1,1,1,2,3,4,1,-16.5,25.7,0\n2,1,1,2,3,4,0,7,8,9\n"
    mot_sequence(tmp_path / "2DMOT2015" / "train" / "ETH-Bahnhof", 2, gt)
    sequence = open_dataset("mot15", root=tmp_path)["ETH-Bahnhof"]
    assert sequence.truth.class_id.tolist() == [1, 1] and sequence.truth.mark.tolist() == [1, 0]
    mot_sequence(tmp_path / "MOT16" / "train" / "MOT16-02", 2, gt)
    with pytest.raises(DatasetError, match=r"gt.txt:1: got class -16.5; expected a whole number"):
        open_dataset("mot16", root=tmp_path)["MOT16-02"]


def test_a_test_set_has_no_truth(tmp_path: Path) -> None:
    home = mot_sequence(tmp_path / "MOT16" / "test" / "MOT16-01")
    (home / "gt" / "gt.txt").unlink()
    sequences = open_dataset("mot16", "test", tmp_path)
    assert len(sequences) == 7 and sequences["MOT16-01"].truth is None and len(sequences["MOT16-01"]) == 5


@pytest.mark.parametrize("name", ["mot15", "mot16", "mot17", "mot20"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_official_names(tmp_path: Path, name: str, split: str) -> None:
    with pytest.raises(NothingThere, match=f"{name} {split}: got nothing of it in .*; expected .* sequences, such as"):
        open_dataset(name, split, tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "seqinfo.ini: got 'Sequence'; expected .Sequence. with seqLength"),
        ("[Sequence]\nseqLength=5\n", "got 'imWidth'"),
        (seqinfo(0), "got seqLength 0, imWidth 64"),
        (seqinfo(3).replace("frameRate=30", "frameRate=fast"), "got could not convert string to float: 'fast'"),
        ("seqLength=3\n", "got File contains no section headers"),
        ("[Sequence]\n[Sequence]\n", "got While reading from"),
    ],
)
def test_seqinfo_that_is_none(tmp_path: Path, content: str, sentence: str) -> None:
    home = mot_sequence(tmp_path / "seq")
    write(home / "seqinfo.ini", content)
    with pytest.raises(DatasetError, match=sentence) as refused:
        read_mot_sequence(home)
    assert "\n" not in str(refused.value)


def test_seqinfo_as_windows_writes_it(tmp_path: Path) -> None:
    home = mot_sequence(tmp_path / "seq")
    write(home / "seqinfo.ini", "\ufeff" + seqinfo(5).replace("\n", "\r\n"))
    assert len(read_mot_sequence(home)) == 5


def test_frames_that_are_not_as_many_as_stated(tmp_path: Path) -> None:
    home = mot_sequence(tmp_path / "seq")
    (home / "img1" / "000003.jpg").unlink()
    sequence = read_mot_sequence(home)
    assert len(sequence) == 5
    with pytest.raises(DatasetError, match="img1: got 4 frames; expected 5, as annotated"):
        sequence.frames[0]
    with pytest.raises(DatasetError, match="img1: got 4 frames"):
        half(sequence, is_first=True).frames[0]


def test_dancetrack(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "dancetrack" / "val" / "dancetrack0004", pattern="{:08d}.jpg")
    mot_sequence(tmp_path / "dancetrack" / "val" / "dancetrack0010", pattern="{:08d}.jpg")
    sequences = open_dataset("DanceTrack", root=tmp_path)
    assert sequences.names == ["dancetrack0004", "dancetrack0010"]
    assert sequences[0].frames[4].name == "00000005.jpg"


def test_a_persons_own_sequences(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "mine" / "b10")
    mot_sequence(tmp_path / "mine" / "b9")
    assert open_dataset("mot", root=tmp_path / "mine").names == ["b9", "b10"]
    assert open_dataset("mot", root=tmp_path / "mine" / "b9").names == ["b9"]


@pytest.mark.shared
def test_shared_sequence_is_as_its_readme_says(shared: Path) -> None:
    (sequence,) = open_dataset("mot", root=shared / "data" / "mot")
    assert (sequence.name, len(sequence), len(sequence.truth.frame)) == ("PETS09-S2L1-a", 500, 2538)
    assert len(list(sequence.frames)) == 500 and sequence.image_size == (576, 432)


@pytest.mark.shared
def test_shared_mot17_annotation_in_its_layout(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "eval" / "mot17_trackeval" / "gt"
    for path in sorted(source.glob("*FRCNN*.txt.gz")):
        home = tmp_path / "MOT17" / "train" / path.name.removesuffix(".txt.gz")
        write(home / "gt" / "gt.txt", gzip.decompress(path.read_bytes()))
        write(home / "seqinfo.ini", (source / f"{home.name}.seqinfo.ini").read_bytes())
    first, rest = (open_dataset("mot17", split, tmp_path) for split in ("half-train", "half-val"))
    whole = open_dataset("mot17", "train", tmp_path)
    assert len(first) == len(rest) == 7 and not first.missing() and len(whole.missing()) == 14
    for name in first.names:
        lengths = [len(part[name]) for part in (first, rest, whole)]
        assert lengths[0] == lengths[2] // 2 + 1 and lengths[0] + lengths[1] == lengths[2]
        rows = [len(part[name].truth.frame) for part in (first, rest, whole)]
        assert rows[0] + rows[1] == rows[2]
        assert rest[name].truth.frame.min() == 0 and rest[name].truth.frame.max() < lengths[1]
    assert sum(len(sequence) for sequence in whole.only(first.names)) == 5316


# KITTI


def test_kitti(tmp_path: Path) -> None:
    kitti_tree(tmp_path / "kitti")
    sequences = open_dataset("kitti", root=tmp_path)
    assert len(sequences) == 21 and sequences.names[7] == "0007"
    sequence = sequences["0007"]
    assert isinstance(sequence.truth, KittiRows)
    assert sequence.truth.xyxy[0].tolist() == [10, 20, 40.5, 45] and sequence.truth.kind.tolist() == ["car", "dontcare"]
    assert [path.name for path in sequence.frames] == numbered(3, "{:06d}.png", 0)


def test_kittis_length_is_the_seqmaps(tmp_path: Path) -> None:
    """And frames have the number in their name, also where an image is missing."""
    kitti_tree(tmp_path / "kitti", images_there=6)
    (tmp_path / "kitti/training/image_02/0007/000001.png").unlink()
    assert len(open_dataset("kitti", root=tmp_path)["0007"]) == 6
    seqmap = write(
        tmp_path / "kitti" / "evaluate_tracking.seqmap.training", "0000 empty 000000 000154\n0007 empty 0 5\n"
    )
    sequence = open_dataset("kitti", root=tmp_path)["0007"]
    assert [path.name for path in sequence.frames] == numbered(5, "{:06d}.png", 0)
    write(seqmap, "0007 empty 5\n")
    with pytest.raises(DatasetError, match=r"seqmap.training:1: got '0007 empty 5'; expected sequence, empty, first"):
        open_dataset("kitti", root=tmp_path)["0007"]


def test_kitti_test_has_no_truth(tmp_path: Path) -> None:
    images(tmp_path / "kitti" / "testing" / "image_02" / "0028", numbered(2, "{:06d}.png", 0))
    sequences = open_dataset("kitti", "test", tmp_path)
    assert len(sequences) == 29 and sequences["0028"].truth is None and len(sequences["0028"]) == 2


# COCO, LVIS, CrowdHuman


@pytest.mark.parametrize("folder", ["val2017", "images/val2017"])
def test_coco(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "COCO" / "annotations" / "instances_val2017.json", coco_json())
    images(tmp_path / "COCO" / folder, [f"00000000000{number}.jpg" for number in (9, 4, 5)])
    stills = open_dataset("coco", root=tmp_path)
    assert len(stills) == 3 and stills.names[0] == "000000000009.jpg"
    still = stills["000000000004.jpg"]
    assert still.path == tmp_path / "COCO" / folder / "000000000004.jpg" and still.path.exists()
    assert (still.xywh.tolist(), still.category.tolist()) == ([[1, 2, 3, 4]], [18])
    assert still.ignored_xywh.tolist() == [[0, 0, 60, 40]]
    assert stills[2].xywh.shape == (0, 4)  # an image without boxes counts
    assert stills.annotated.truth.boxes.area.tolist() == [7.5, 50, 900]
    assert stills.annotated.size.tolist() == [[WIDTH, HEIGHT]] * 3


def test_lvis_finds_cocos_images_by_address(tmp_path: Path) -> None:
    content = coco_json()
    for row, folder in zip(content["images"], ("train2017", "val2017", "val2017"), strict=True):
        row["coco_url"] = f"http://images.example.org/{folder}/{row.pop('file_name')}"
        row |= {"neg_category_ids": [18], "not_exhaustive_category_ids": []}
    write(tmp_path / "coco" / "annotations" / "lvis_v1_val.json", content)
    stills = open_dataset("lvis", "val", tmp_path)
    assert [still.path for still in stills] == [
        tmp_path / "coco" / name
        for name in ("train2017/000000000009.jpg", "val2017/000000000004.jpg", "val2017/000000000005.jpg")
    ]
    assert stills.annotated.truth.negative.tolist() == [[9, 18], [4, 18], [5, 18]]


def test_crowdhuman(tmp_path: Path) -> None:
    person = {"tag": "person", "fbox": [-5, 1, 30, 60], "vbox": [0, 1, 25, 40], "hbox": [1, 1, 5, 5]}
    lines = [
        {"ID": "273271,1", "gtboxes": [person | {"extra": {"box_id": 0}}, person | {"extra": {"ignore": 1}}]},
        {"ID": "273271,2", "gtboxes": [{"tag": "mask", "fbox": [1, 2, 3, 4], "extra": {"ignore": 1}}]},
    ]
    write(tmp_path / "CrowdHuman" / "annotation_val.odgt", "\n".join(map(json.dumps, lines)) + "\n")
    images(tmp_path / "CrowdHuman" / "Images", ["273271,1.jpg", "273271,2.jpg"])
    stills = open_dataset("crowdhuman", root=tmp_path)
    assert [still.xywh.tolist() for still in stills] == [[[-5, 1, 30, 60]], []]
    assert [len(still.ignored_xywh) for still in stills] == [1, 1]
    assert stills[0].path.exists() and stills.annotated.line.tolist() == [1, 1, 2]
    assert stills.annotated.entry(2).endswith("annotation_val.odgt:2")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r"annotation_val.odgt:2: got JSONDecodeError"),
        ("", r"annotation_val.odgt:2: got JSONDecodeError"),
        ("[1]", r"annotation_val.odgt:2: got TypeError"),
        ('{"ID": "b"}', r"annotation_val.odgt:2: got KeyError\('gtboxes'\); expected ID and gtboxes"),
        ('{"ID": "b", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3]}]}', r"odgt:2: got .*box \[1, 2, 3\]"),
        ('{"ID": "b", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, NaN]}]}', r"odgt:2: got .*box \[1, 2, 3, nan\]"),
        ('{"ID": "b", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, 4], "extra": 3}]}', "odgt:2: got AttributeError"),
        ('{"ID": "a", "gtboxes": []}', "odgt: got a.jpg twice; expected one line for an image"),
    ],
)
def test_crowdhuman_lines_that_are_none(tmp_path: Path, line: str, sentence: str) -> None:
    whole = '{"ID": "a", "gtboxes": []}'
    write(tmp_path / "crowdhuman" / "annotation_val.odgt", f"{whole}\n{line}\n" + whole.replace("a", "c", 1))
    with pytest.raises(DatasetError, match=sentence):
        open_dataset("crowdhuman", root=tmp_path)


@pytest.mark.parametrize(("folder", "images_there", "boxes"), [("coco80", 482, 4207), ("mot17_person", 39, 818)])
@pytest.mark.shared
def test_shared_images_are_as_their_readme_says(shared: Path, folder: str, images_there: int, boxes: int) -> None:
    stills = open_dataset("images", root=shared / "data" / "images" / folder)
    assert len(stills) == images_there and all(still.path.exists() for still in stills)
    num_boxes = [len(still.xywh) for still in stills], [len(still.ignored_xywh) for still in stills]
    assert boxes in (sum(num_boxes[0]), sum(num_boxes[0]) + sum(num_boxes[1]))


# TAO, COCO-VID


@pytest.mark.parametrize(
    ("name", "annotation", "image_folder", "frame", "track"),
    [
        ("tao", "TAO/annotations/validation.json", "TAO/frames", "frame_index", "track_id"),
        ("coco_vid", "ILSVRC/annotations/imagenet_vid_val.json", "ILSVRC/Data/VID", "frame_id", "instance_id"),
        ("coco_vid", "coco_vid/annotations/val.json", "coco_vid/images", "frame_id", "instance_id"),
    ],
)
def test_videos_of_one_file(
    tmp_path: Path, name: str, annotation: str, image_folder: str, frame: str, track: str
) -> None:
    write(tmp_path / annotation, video_json(frame, track))
    images(tmp_path / image_folder / "train/one", ["000000000009.jpg"])
    sequences = open_dataset(name, "val", tmp_path)
    assert sequences.names == ["train/one", "train/two"]
    one, two = sequences
    assert one.frames == tuple(tmp_path / image_folder / "train/one" / f"00000000000{k}.jpg" for k in (4, 9))
    assert one.truth.frame.tolist() == [0, 1]  # by frame, whatever the order of the file
    assert one.truth.track_id.tolist() == [12, 12] and one.truth.class_id.tolist() == [18, 18]
    assert one.truth.xywh.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and one.image_size == (WIDTH, HEIGHT)
    assert two.truth.mark.tolist() == [0.0] and one.truth.mark.tolist() == [1.0, 1.0]
    assert sequences.annotated.truth.video.tolist() == [3, 7]


def test_files_that_are_not_there_or_no_json(tmp_path: Path) -> None:
    (tmp_path / "tao").mkdir()
    with pytest.raises(NothingThere, match=r"tao val: .*annotations/validation.json: got .*No such file"):
        open_dataset("tao", root=tmp_path)
    path = write(tmp_path / "tao" / "annotations" / "validation.json", "{")
    with pytest.raises(DatasetError, match=r"validation.json: got 'Expecting property name.*; expected a JSON file"):
        open_dataset("tao", root=tmp_path)
    write(path, {"images": []})
    with pytest.raises(DatasetError, match=re.escape(f"{path}: categories: got nothing")):
        open_dataset("tao", root=tmp_path)


@pytest.mark.shared
def test_shared_tao_annotation_in_its_layout(shared: Path, tmp_path: Path) -> None:
    write(tmp_path / "TAO/annotations/validation.json", (shared / "golden/tao/gt/gt.json").read_bytes())
    sequences = open_dataset("tao", root=tmp_path)
    truth = sequences.annotated.truth
    assert len(sequences) == len(truth.video) > 1
    assert sum(len(sequence) for sequence in sequences) == len(truth.image)
    assert sum(len(sequence.truth.frame) for sequence in sequences) == len(truth.boxes)
    assert np.array_equal(
        np.sort(np.concatenate([sequence.truth.xywh for sequence in sequences]), axis=0),
        np.sort(truth.boxes.xywh, axis=0),
    )
