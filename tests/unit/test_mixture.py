"""Sources by their texts: names and splits, folders whose layout is found out, weights, and what is refused."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import pytest

from sightline.datasets.footage import Source
from sightline.datasets.mixture import open_source, open_sources
from sightline.datasets.shards import pack
from sightline.datasets.single import packaged
from sightline.datasets.table import DATASETS
from sightline.errors import DatasetError
from tests.trees import (
    FOUR,
    coco_json,
    davis_tree,
    images,
    kitti_tree,
    mot_sequence,
    numbered,
    video_json,
    write,
)
from tests.unit.test_footage import film, tiny

LOG = "sightline"


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)


def own(folder: Path, *names: str, rows: str = FOUR) -> Path:
    for name in names:
        write(folder / name / "groundtruth.txt", rows)
        images(folder / name / "img", numbered(4))
    return folder


def own_images(folder: Path, **more: object) -> Path:
    write(folder / "annotations.json", coco_json(**more))
    images(folder / "img", [row["file_name"] for row in coco_json()["images"]])
    return folder


def got10k_sequence(folder: Path) -> None:
    write(folder / "groundtruth.txt", FOUR)
    write(folder / "absence.label", "0\n0\n1\n0\n")
    write(folder / "cover.label", "8\n0\n8\n3\n")
    images(folder, numbered(4))


def told(sources: list[Source]) -> list[tuple[str, str, int, float]]:
    return [(source.name, source.kind, len(source.footage), source.weight) for source in sources]


# Benchmarks


def test_the_training_splits_of_got10k_by_count(tmp_path: Path) -> None:
    names = [f"GOT-10k_Train_{number:06d}" for number in range(1, 9336)]
    for name in names:
        (tmp_path / "GOT-10k" / "train" / name).mkdir(parents=True)
    for name in ("GOT-10k_Train_000001", "GOT-10k_Train_009334"):  # one in each of vot-train and vot-val
        got10k_sequence(tmp_path / "GOT-10k" / "train" / name)
    counts = {"vot-train": 7086, "vot-val": 1249, "paper-train": 8335, "train-full": 9335, "train": 9335}
    for split, count in counts.items():
        source = open_source(f"GOT-10k:{split}", tmp_path)
        assert told([source]) == [(f"got10k:{split}", "clips", count, 1.0)]
        assert DATASETS["got10k"].counts[split] == count
    clip = source.footage[0]
    assert clip.name == "GOT-10k_Train_000001" and clip.is_visible.tolist() == [True, False, False, True]
    with pytest.raises(DatasetError, match="groundtruth.txt: got 'No such file"):
        source.footage[1]


def test_the_papers_part_of_got10k_is_what_the_two_lists_have(tmp_path: Path) -> None:
    paper, train, val = (
        list(DATASETS["got10k"].layout(tmp_path, split).names) for split in ("paper-train", "vot-train", "vot-val")
    )
    assert paper == sorted(paper) and len(paper) == 8335
    assert Counter(paper) == Counter(train) + Counter(val)


def test_lasot_by_count(tmp_path: Path) -> None:
    names = packaged("lasot_train")
    for name in names:
        (tmp_path / name.rpartition("-")[0] / name).mkdir(parents=True)
    home = tmp_path / "zebra" / [name for name in names if name.startswith("zebra-")][-1]
    write(home / "groundtruth.txt", FOUR)
    for flags in ("full_occlusion", "out_of_view"):
        write(home / f"{flags}.txt", "0,1,0,0" if flags == "full_occlusion" else "0,0,0,1")
    images(home / "img", numbered(4))
    source = open_source(f"lasot:train={tmp_path}*0.5")
    assert told([source]) == [("lasot:train", "clips", 1120, 0.5)]
    clip = next(clip for index in range(1119, -1, -1) if (clip := readable(source, index)))
    assert clip.is_visible.tolist() == [True, False, True, False] and clip.read(3).shape == (48, 64, 3)


def readable(source: Source, index: int):
    try:
        return source.footage[index]
    except DatasetError:
        return None


def test_trackingnet_of_all_parts(tmp_path: Path) -> None:
    for part, name in (("TRAIN_0", "b"), ("TRAIN_11", "a")):
        write(tmp_path / part / "anno" / f"{name}.txt", FOUR)
        images(tmp_path / part / "frames" / name, numbered(4, "{}.jpg", 0))
    source = open_source("trackingnet", tmp_path)
    assert told([source]) == [("trackingnet:train", "clips", 2, 1.0)]
    assert [len(clip) for clip in source.footage] == [4, 4]


def test_several_targets_of_davis(tmp_path: Path) -> None:
    davis_tree(tmp_path)
    source = open_source(f"davis2017:val={tmp_path}")
    assert [clip.name for clip in source.footage] == ["bike-1", "bike-2", "cow"]
    assert source.footage[1].is_visible.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("text", "num_targets"),
    [("mot20", 2), ("mot20:half-train", 2), ("mot20:half-val", 1), ("kitti", 1), ("coco_vid", 1), ("tao", 1)],
)
def test_identities_of_benchmarks_of_many_targets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, num_targets: int
) -> None:
    name = text.partition(":")[0]
    mot_sequence(tmp_path / "mot20" / "train" / "MOT20-02")
    kitti_tree(tmp_path / "kitti")
    write(tmp_path / "coco_vid" / "annotations" / "train.json", video_json("frame_id", "instance_id"))
    write(tmp_path / "tao" / "annotations" / "train.json", video_json("frame_index", "track_id"))
    source = open_source(text, tmp_path)
    assert (source.kind, len(source.footage)) == ("clips", num_targets)
    is_incomplete = any("sequences are in" in message for message in caplog.messages)
    assert is_incomplete == (name in ("mot20", "kitti"))


def test_boxes_of_images(tmp_path: Path) -> None:
    write(tmp_path / "coco" / "annotations" / "instances_train2017.json", coco_json())
    images(tmp_path / "coco" / "train2017", ["000000000004.jpg", "000000000009.jpg"])
    source = open_source("coco*2", tmp_path)
    assert told([source]) == [("coco:train", "stills", 2, 2.0)]
    assert [still.xywh.tolist() for still in source.footage] == [[[5, 6, 7, 8]], [[1, 2, 3, 4]]]
    assert source.footage[1].read(0).shape == (48, 64, 3)


def test_a_copy_that_lacks_sequences_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train" / "list.txt", "a\nb\nc\n")
    got10k_sequence(tmp_path / "train" / "b")
    source = open_source(f"got10k:train={tmp_path}")
    assert [clip.name for clip in source.footage] == ["b"]
    assert f"got10k:train: only 1 of 3 sequences are in {tmp_path}; a is not" in caplog.messages


def test_a_split_for_tests_must_be_asked_for(tmp_path: Path) -> None:
    own(tmp_path / "OTB100", "Basketball")
    (tmp_path / "OTB100" / "Basketball" / "groundtruth.txt").rename(
        tmp_path / "OTB100" / "Basketball" / "groundtruth_rect.txt"
    )
    with pytest.raises(DatasetError, match=r"otb100: got no split; expected one of test, .* Write otb100:test to"):
        open_source("otb100", tmp_path)
    assert len(open_source("otb100:test", tmp_path).footage) == 1


def test_a_test_set_whose_truth_is_kept_cannot_be_trained_on(tmp_path: Path) -> None:
    write(tmp_path / "test" / "list.txt", "a\n")
    write(tmp_path / "test" / "a" / "groundtruth.txt", "1,2,3,4\n")
    images(tmp_path / "test" / "a", numbered(3))
    with pytest.raises(DatasetError, match=r"got 1 boxes for 3 frames; expected one each\. Take a split whose truth"):
        open_source(f"got10k:test={tmp_path}")
    mot_sequence(tmp_path / "MOT20" / "test" / "MOT20-04")
    (tmp_path / "MOT20" / "test" / "MOT20-04" / "gt" / "gt.txt").unlink()
    with pytest.raises(DatasetError, match=r"mot20:test: got no box that can be trained on"):
        open_source("mot20:test", tmp_path)


# One's own


def test_every_layout_is_found_out(tmp_path: Path) -> None:
    own(tmp_path / "clips", "cat", "dog")
    own(tmp_path / "one", "cat")
    mot_sequence(tmp_path / "street" / "seq")
    own_images(tmp_path / "pictures")
    tiny(tmp_path / "small", 3)
    film(tmp_path / "films" / "a.mp4")
    pack(open_sources(["clips*3", "pictures"], tmp_path), tmp_path / "packed")
    found = {
        "clips/": [("clips", "clips", 2, 2.0)],
        "one/cat": [("cat", "clips", 1, 2.0)],
        "street": [("street", "clips", 2, 2.0)],
        "street/seq": [("seq", "clips", 2, 2.0)],
        "pictures": [("pictures", "stills", 2, 2.0)],
        "small": [("small", "stills", 3, 2.0)],
        "films": [("films", "clips", 1, 2.0)],
        "packed": [("clips", "clips", 2, 6.0), ("pictures", "stills", 2, 2.0)],
    }
    for text, expected in found.items():
        sources = open_sources([f"{text}*2"], tmp_path)
        assert told(sources) == expected
        for source in sources:
            assert source.footage[-1].read(0).ndim == 3
    everything = [
        (f"{tmp_path.name}/{name}", kind, count, weight)
        for name, kind, count, weight in [
            ("clips", "clips", 2, 1.0),
            ("films", "clips", 1, 1.0),
            ("one", "clips", 1, 1.0),
            ("pictures", "stills", 2, 1.0),
            ("small", "stills", 3, 1.0),
            ("street", "clips", 2, 1.0),
        ]
    ]
    packed = [("clips", "clips", 2, 3.0), ("pictures", "stills", 2, 1.0)]
    assert told(open_sources(["."], tmp_path)) == [*everything[:3], *packed, *everything[3:]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("folder=clips", ("folder:all", "clips", 2)),
        ("images=pictures", ("images:all", "stills", 2)),
        ("mot=street", ("mot:all", "clips", 2)),
        ("tiny_imagenet=small", ("tiny_imagenet", "stills", 3)),
        ("Tiny-ImageNet", ("tiny_imagenet", "stills", 3)),
        ("videos=films", ("videos", "clips", 1)),
        ("videos", ("videos", "clips", 2)),
        ("shards=packed", ("clips", "clips", 2)),
    ],
)
def test_layouts_by_name(tmp_path: Path, text: str, expected: tuple[str, str, int]) -> None:
    own(tmp_path / "clips", "cat", "dog")
    mot_sequence(tmp_path / "street" / "seq")
    own_images(tmp_path / "pictures")
    tiny(tmp_path / "small", 3)
    tiny(tmp_path / "tiny_imagenet", 3)
    film(tmp_path / "films" / "a.mp4")
    film(tmp_path / "videos" / "a.mp4")
    film(tmp_path / "videos" / "b.mp4")
    pack([open_source("clips", tmp_path)], tmp_path / "packed")
    source = open_source(text, tmp_path)
    assert (source.name, source.kind, len(source.footage)) == expected


def test_videos_beside_folders_of_frames_are_clips_too(tmp_path: Path) -> None:
    own(tmp_path / "mine", "cat", "dog")
    film(tmp_path / "mine" / "bird.mp4")
    assert told(open_sources(["mine"], tmp_path)) == [("mine", "clips", 2, 1.0), ("mine", "clips", 1, 1.0)]


def test_clips_that_a_split_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    own(tmp_path / "mine", "cat", "dog", "cow")
    assert len(open_source("mine", tmp_path).footage) == 3
    write(tmp_path / "mine" / "split.json", {"val": ["dog"]})
    assert told([open_source("mine", tmp_path)]) == [("mine", "clips", 3, 1.0)]
    write(tmp_path / "mine" / "split.json", {"train": ["cow", "cat"], "val": ["dog"]})
    caplog.clear()
    for text, name in (("mine", "mine:train"), ("folder=mine", "folder:train")):
        source = open_source(text, tmp_path)
        assert (source.name, [clip.name for clip in source.footage]) == (name, ["cow", "cat"])
    assert f"{tmp_path / 'mine'}: the clips that split.json names as 'train'" in caplog.messages
    assert "mine:train: 2 clips" in caplog.messages
    for split, count in (("val", 1), ("all", 3)):
        assert told([open_source(f"folder:{split}=mine", tmp_path)]) == [(f"folder:{split}", "clips", count, 1.0)]


def test_folders_without_a_known_layout_are_passed_over(tmp_path: Path) -> None:
    own(tmp_path / "data" / "deep" / "clips", "cat")
    write(tmp_path / "data" / "notes" / "a.txt", "text")
    images(tmp_path / "data" / "pictures" / "img", ["a.jpg"])
    own_images(tmp_path / "data" / "too" / "deep" / "for" / "it")
    assert [source.name for source in open_sources(["data"], tmp_path)] == ["data/deep/clips"]


def test_a_folder_is_relative_to_the_root_or_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "here" / "clips", "cat")
    own(tmp_path / "there" / "clips", "cat", "dog")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SIGHTLINE_DATA", str(tmp_path / "there"))
    assert len(open_source("clips").footage) == len(open_source("folder=clips").footage) == 1
    assert (
        len(open_source("clips", tmp_path / "there").footage) == len(open_source("folder=../there/clips").footage) == 2
    )
    assert len(open_source(str(tmp_path / "there" / "clips"), tmp_path / "here").footage) == 2
    own_images(tmp_path / "there")
    assert len(open_source("images").footage) == 2  # a name alone is looked for where the data sets are


def test_a_fault_in_ones_own_clips_is_told_before_the_run(tmp_path: Path) -> None:
    own(tmp_path / "mine", "a", "b")
    write(tmp_path / "mine" / "b" / "groundtruth.txt", "1,2,3,4\n1,2,3,four\n")
    with pytest.raises(DatasetError, match=r"b/groundtruth\.txt:2: got 'four'"):
        open_source("mine", tmp_path)
    film(tmp_path / "films" / "a.mp4")
    write(film(tmp_path / "films" / "b.mp4").with_suffix(".txt"), "1,2,3\n")
    with pytest.raises(DatasetError, match=r"b\.txt:1: got 3 numbers"):
        open_source("films", tmp_path)


def test_videos_without_boxes_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    film(tmp_path / "films" / "a.mp4")
    write(tmp_path / "films" / "b.mp4", b"")
    assert len(open_source("films", tmp_path).footage) == 1
    assert "films: 1 of 2 videos have no .txt of boxes beside them" in caplog.messages


@pytest.mark.parametrize("name", ["GOT-10k", "LaSOT", "MOT17"])
def test_a_benchmark_is_not_taken_for_ones_own(tmp_path: Path, name: str) -> None:
    home = tmp_path / "data" / name / "test"
    if name == "MOT17":
        mot_sequence(home / "MOT17-02-FRCNN")
    else:
        own(home, "one")
    known = name.replace("-", "").lower()
    advice = rf"Write {known}:train={tmp_path}/data/{name}, or folder={tmp_path}/data/{name} for clips of your own\."
    for text in ("data", f"data/{name}"):
        with pytest.raises(DatasetError, match=rf"{name}: got a folder called like a benchmark; .* {advice}"):
            open_sources([text], tmp_path)
    own_images(tmp_path / "data" / "lvis")  # a layout that says what it is
    assert len(open_source("data/lvis", tmp_path).footage) == 2


# Texts


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("got11k", r"source 'got11k': got 'got11k'; expected a folder, or one of lasot, .* Did you mean 'got10k'\?"),
        ("lasott:train", r"got 'lasott'; expected .* Did you mean 'lasot'\?"),
        ("clip=clips", r"got 'clip'; expected a folder, or one of .* Run: sightline data"),
        ("no/folder", r"source 'no/folder': got no such folder in .*; expected one\. Check the path\."),
        ("", r"source '': got no such folder"),
        ("clips*0", r"source 'clips\*0': got the weight '0'; expected a positive number\. Write clips\*2\."),
        ("clips*-1", r"got the weight '-1'"),
        ("clips*inf", r"got the weight 'inf'"),
        ("clips*nan", r"got the weight 'nan'"),
        ("clips*two", r"got the weight 'two'"),
        ("clips*", r"got the weight ''"),
        ("got10k:trian", r"split of got10k: got 'trian'; expected one of val, test, train, vot-train"),
        ("got10k=nowhere", r"got .*nowhere, which is no folder"),
        ("shards:train=clips", r"shards: got the split 'train'; expected none\. Leave it out\."),
        ("shards=clips", r"shards\.json"),
        ("videos=clips", r"videos: got no box that can be trained on"),
        ("tiny_imagenet=clips", r"expected boxes\.csv beside images\.zip"),
        ("folder=empty", r"got nothing of it in .*empty"),
        (
            "empty",
            r"empty: got a folder in no known layout; expected shards\.json, boxes\.csv .* Name the right folder",
        ),
        ("clips/cat/groundtruth.txt", r"groundtruth\.txt: got 'Not a directory'"),
        ("flat", r"flat: got no box that can be trained on; expected some\. Check the annotation\."),
        ("crowds", r"crowds: got no box that can be trained on"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    own(tmp_path / "clips", "cat")
    own(tmp_path / "flat", "cat", rows="1,2,0,4\n" * 4)
    own_images(tmp_path / "crowds", annotations=[coco_json()["annotations"][2]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=sentence):
        open_sources([text], tmp_path)


def test_no_text_and_too_many_sources(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="training data: got no source"):
        open_sources([], tmp_path)
    own(tmp_path / "data" / "a", "cat")
    own(tmp_path / "data" / "b", "cat")
    with pytest.raises(DatasetError, match=r"source 'data': got 2: data/a, data/b; expected one"):
        open_source("data", tmp_path)


def test_sources_in_another_process(tmp_path: Path) -> None:
    own(tmp_path / "clips", "cat", "dog")
    own_images(tmp_path / "pictures")
    tiny(tmp_path / "small", 2)
    mot_sequence(tmp_path / "street" / "seq")
    film(tmp_path / "films" / "a.mp4")
    sources = open_sources(["clips*2", "pictures", "small", "street", "films"], tmp_path)
    for source, copy in zip(sources, pickle.loads(pickle.dumps(sources)), strict=True):
        assert told([source]) == told([copy])
        for ours, theirs in zip(source.footage, copy.footage, strict=True):
            assert ours.name == theirs.name and ours.xywh.tolist() == theirs.xywh.tolist()
            assert ours.read(0).tolist() == theirs.read(0).tolist()


def test_names_of_targets_in_one_picture_are_alike_up_to_the_last_slash(tmp_path: Path) -> None:
    twice = [{**coco_json()["annotations"][0], "id": number, "bbox": [number, 2, 3, 4]} for number in (1, 2)]
    own_images(tmp_path / "pictures", annotations=twice)
    mot_sequence(tmp_path / "street" / "seq")
    for text in ("pictures", "street"):
        names = [footage.name.rpartition("/") for footage in open_source(text, tmp_path).footage]
        assert len({before for before, *_ in names}) == 1 and len({after for *_, after in names}) == 2


# The shared folders


@pytest.mark.shared
def test_the_shared_folders_are_sources(shared: Path) -> None:
    sources = {source.name: source for source in open_sources(["data*2"], shared)}
    stills = {name.rpartition("/")[2]: len(s.footage) for name, s in sources.items() if s.kind == "stills"}
    assert stills.pop("tiny_imagenet") == 12000 and len(stills) == 5
    for name, count in stills.items():
        content = json.loads((shared / "data" / "images" / name / "annotations.json").read_text())
        assert count == sum(not box.get("iscrowd", 0) for box in content["annotations"])
    clips = {name: source for name, source in sources.items() if source.kind == "clips"}
    assert {name: len(source.footage) for name, source in clips.items()} == {"data/mot": 12, "data/sot:train": 27}
    rows = (shared / "data" / "mot" / "PETS09-S2L1-a" / "gt" / "gt.txt").read_text().split()
    counted = Counter(row.split(",")[1] for row in rows if float(row.split(",")[6]) != 0)
    assert {target.name.partition("/")[2]: len(target) for target in clips["data/mot"].footage} == counted
    assert all(source.weight == 2 for source in sources.values())
    for source in sources.values():
        first = source.footage[0]
        height, width = first.read(len(first) - 1).shape[:2]
        x, y, w, h = first.xywh[-1].tolist()
        assert w > 0 < h and x < width and y < height and x + w > 0 < y + h


@pytest.mark.parametrize("flags", ["absence.label", "full_occlusion.txt", "out_of_view.txt"])
def test_flags_of_hidden_targets_are_not_passed_over(tmp_path: Path, flags: str) -> None:
    own(tmp_path / "mine", "cat")
    assert len(open_source("mine", tmp_path).footage) == 1
    (tmp_path / "mine" / "cat" / flags).write_text("0\n1\n0\n")
    with pytest.raises(
        DatasetError, match=rf"mine/cat: got {flags}, .*; expected absent.txt. Write (got10k|lasot):SPLIT="
    ):
        open_source("mine", tmp_path)
