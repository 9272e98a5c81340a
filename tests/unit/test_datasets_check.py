"""What a check finds, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightline.datasets.check import Finding, check, check_frames
from sightline.datasets.table import open_dataset
from sightline.errors import DatasetError
from tests.trees import (
    coco_json,
    davis_tree,
    image_bytes,
    images,
    kitti_tree,
    mot_sequence,
    numbered,
    video_json,
    write,
)

ABSENT = "and nothing says that the target is gone"


def found(name: str, root: Path, split: str = "", every_image: bool = False) -> list[str]:
    """All findings, without the folder of the test."""
    reports = list(check(open_dataset(name, split, root), every_image))
    return [str(finding).replace(f"{root}/", "") for report in reports for finding in report.findings]


def own(root: Path, rows: str, **files: str) -> Path:
    write(root / "a" / "groundtruth.txt", rows)
    images(root / "a" / "img", numbered(len(rows.rstrip("\n").split("\n"))))
    for name, content in files.items():
        write(root / "a" / f"{name}.txt", content)
    return root


def lasot(root: Path, rows: str, occluded: str) -> Path:
    home = root / "lasot" / "cat" / "cat-1"
    write(home / "groundtruth.txt", rows)
    images(home / "img", numbered(len(rows.rstrip("\n").split("\n"))))
    write(home / "full_occlusion.txt", occluded)
    write(home / "out_of_view.txt", ",".join("0" * len(occluded.split(","))))
    return root


# Boxes of one target


def test_a_whole_copy_has_no_findings(tmp_path: Path) -> None:
    reports = list(check(open_dataset("folder", root=own(tmp_path, "1,2,3,4\n5,6,7,8\n0,0,64,48\n")), every_image=True))
    assert [(report.name, report.num_frames, report.findings) for report in reports] == [("", 0, []), ("a", 3, [])]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("1,2,3,4\nnan,nan,nan,nan\n", f"a/groundtruth.txt:2: box nan,nan,nan,nan is no box, {ABSENT}"),
        ("1,2,3,4\n1,nan,3,4\n", f"a/groundtruth.txt:2: box 1,nan,3,4 is no box, {ABSENT}"),
        ("1,2,3,4\n5,6,0,4\n", f"a/groundtruth.txt:2: box 5,6,0,4 has no area, {ABSENT}"),
        ("1,2,3,4\n0,0,0,0\n", f"a/groundtruth.txt:2: box 0,0,0,0 has no area, {ABSENT}"),
        ("1,2,3,4\n9,8,-3,4\n", f"a/groundtruth.txt:2: box 9,8,-3,4 has no area, {ABSENT}"),
        ("70,2,3,4\n1,2,3,4\n", "a/groundtruth.txt:1: box 70,2,3,4 lies outside the image, 64 x 48 pixels"),
        ("1,2,3,4\n1,-9,3,4\n", "a/groundtruth.txt:2: box 1,-9,3,4 lies outside the image, 64 x 48 pixels"),
        ("1,2,3,4\n60,2,8,4\n", "note: a/groundtruth.txt:2: box 60,2,8,4 reaches beyond the image, 64 x 48 pixels"),
        ("1,2,3,4\n-2,2,8,4\n", "note: a/groundtruth.txt:2: box -2,2,8,4 reaches beyond the image, 64 x 48 pixels"),
        ("1,2,3,4\n1,2\n", "a/groundtruth.txt:2: got 2 numbers; expected 4 numbers in a row. Correct the line."),
    ],
)
def test_rows_that_are_no_boxes(tmp_path: Path, rows: str, expected: str) -> None:
    assert found("folder", own(tmp_path, rows)) == [expected]


def test_a_box_counted_from_one_may_end_a_pixel_late(tmp_path: Path) -> None:
    assert found("folder", own(tmp_path, "1,1,64,48\n-1,-1,5,5\n")) == []
    assert len(found("folder", own(tmp_path, "1,1,64.5,48\n-1.5,-1,5,5\n"))) == 1


def test_rows_of_a_kind_are_told_together(tmp_path: Path) -> None:
    rows = ["1,2,3,4"] * 20
    for line in (3, 7, 8, 9, 15):
        rows[line - 1] = "5,6,0,4"
    (told,) = found("folder", own(tmp_path, "\n".join(rows)))
    assert told == f"a/groundtruth.txt:3: box 5,6,0,4 has no area, {ABSENT} (and 4 more: 7-9, 15)"


def test_what_a_layout_says_of_absence_is_no_finding(tmp_path: Path) -> None:
    flagged = own(tmp_path / "own", "1,2,3,4\n0,0,0,0\nnan,nan,nan,nan\n70,2,3,4\n", absent="0\n1\n1\n1\n")
    assert found("folder", flagged) == []
    told = found("lasot", lasot(tmp_path / "l", "1,2,3,4\n0,0,0,0\n9,9,0,0\n5,6,7,8\n1,1,0,0\n", "0,1,1,1,0"))
    assert told[1:] == [f"lasot/cat/cat-1/groundtruth.txt:5: box 1,1,0,0 has no area, {ABSENT}"]
    uav = tmp_path / "u" / "uav123"
    write(uav / "anno/UAV123/uav6.txt", "1,2,3,4\n" * 107 + "nan,nan,nan,nan\n0,0,0,0\n")
    images(uav / "data_seq/UAV123/uav6", numbered(109, "{:06d}.jpg"))
    told = found("uav123", tmp_path / "u")
    assert told[1:] == [f"uav123/anno/UAV123/uav6.txt:109: box 0,0,0,0 has no area, {ABSENT}"]
    tnl2k = tmp_path / "t" / "tnl2k" / "cat"
    images(tnl2k / "imgs", numbered(3))
    write(tnl2k / "groundtruth.txt", "1,2,3,4\n0,0,0,0\nnan,nan,nan,nan\n")
    assert found("tnl2k", tmp_path / "t")[1:] == [
        f"tnl2k/cat/groundtruth.txt:3: box nan,nan,nan,nan is no box, {ABSENT}"
    ]


def test_lines_of_a_file_of_which_every_eighth_is_read(tmp_path: Path) -> None:
    images(tmp_path / "nfs/bee/30/bee", numbered(3, "{:05d}.jpg"))
    rows = [f'0 1 2 {1 if row == 16 else 11} 22 {row} 0 0 0 "ball"' for row in range(24)]
    write(tmp_path / "nfs/bee/30/bee.txt", "\n".join(rows))
    assert found("nfs30", tmp_path)[1:] == [f"nfs/bee/30/bee.txt:17: box 1,2,0,20 has no area, {ABSENT}"]


# What is missing


def test_missing_sequences_are_named(tmp_path: Path) -> None:
    lasot(tmp_path, "1,2,3,4\n", "0")
    (told,) = found("lasot", tmp_path)
    assert told.startswith("lasot: got 1 of 280 sequences; missing: airplane-1, airplane-9, ")
    assert told.count(",") == 278 and "cat-1," not in told and "cat-3," in told


def test_another_number_of_sequences_than_official(tmp_path: Path) -> None:
    images(tmp_path / "tnl2k" / "cat" / "imgs", numbered(1))
    write(tmp_path / "tnl2k" / "cat" / "groundtruth.txt", "1,2,3,4\n")
    assert found("tnl2k", tmp_path) == ["tnl2k: got 1 sequences; expected 700"]


def test_clips_of_several_objects_are_one_sequence(tmp_path: Path) -> None:
    davis_tree(tmp_path / "DAVIS")
    assert found("davis2017", tmp_path) == ["DAVIS: got 2 sequences; expected 30"]


def test_frames_that_are_too_few(tmp_path: Path) -> None:
    lasot(tmp_path, "1,2,3,4\n5,6,0,8\n", "0,0")
    (tmp_path / "lasot/cat/cat-1/img/00000002.jpg").unlink()
    assert found("lasot", tmp_path)[1:] == [
        f"lasot/cat/cat-1/groundtruth.txt:2: box 5,6,0,8 has no area, {ABSENT}",
        "lasot/cat/cat-1/img: got 1 frames; expected 2, as annotated. Complete the folder.",
    ]


# Frames


def test_frames_that_cannot_be_read(tmp_path: Path) -> None:
    root = own(tmp_path, "1,2,3,4\n" * 5)
    cut = image_bytes()[:700]
    for number in (1, 3, 5):
        write(root / f"a/img/0000000{number}.jpg", cut)
    ends = [f"a/img/0000000{number}.jpg: got 700 bytes that are no whole image" for number in (1, 3, 5)]
    told = found("folder", root)
    assert len(told) == 2 and told[0].startswith(ends[0]) and told[1].startswith(ends[2])
    told = found("folder", root, every_image=True)
    assert len(told) == 3 and told[1].startswith(ends[1])


def test_frames_of_several_sizes(tmp_path: Path) -> None:
    root = own(tmp_path, "1,2,3,4\n" * 3)
    write(root / "a/img/00000003.jpg", image_bytes(".jpg", 32, 24))
    told = ["note: a/img/00000003.jpg: got 32 x 24 pixels; the first frame has 64 x 48 pixels"]
    assert found("folder", root) == found("folder", root, every_image=True) == told
    paths = sorted((root / "a/img").iterdir())
    (strict,) = check_frames(paths, (640, 480), every_image=True, is_strict=True)
    assert not strict.is_note
    assert strict.fault == "got 64 x 48 pixels; stated are 640 x 480 pixels (and 2 more frames)"
    assert check_frames([], None, every_image=True, is_strict=True) == []


# Many targets


def test_boxes_of_many_targets(tmp_path: Path) -> None:
    gt = "1,1,1,2,3,4,1,1,1\n1,2,5,5,0,4,1,1,1\n2,1,-30,2,3,4,1,1,1\n2,2,60,2,30,4,1,1,1\n3,1,61,2,30,4,1,1,1\n"
    mot_sequence(tmp_path / "seq", gt=gt)
    assert found("mot", tmp_path) == [
        "seq/gt/gt.txt:2: box 5,5,0,4 has no area",
        "seq/gt/gt.txt:3: box -30,2,3,4 lies outside the image, 64 x 48 pixels",
        "note: seq/gt/gt.txt:4: box 60,2,30,4 reaches beyond the image, 64 x 48 pixels (and 1 more: 5)",
    ]


def test_every_id_that_is_there_twice_and_every_number_that_is_none(tmp_path: Path) -> None:
    gt = "1,1,1,2,3,4,1,1,1\n1,1,5,5,2,4,1,1,1\n2,1,3,2,nan,4,1,1,1\n2,1,6,2,3,4,1,1,1\n1,1,3,3,3,3,1,1,1\n"
    mot_sequence(tmp_path / "seq", gt=gt)
    assert found("mot", tmp_path) == [
        "seq/gt/gt.txt:3: a number that is not finite",
        "seq/gt/gt.txt:2: the id of line 1 again in the same frame (and 2 more: 4-5)",
    ]
    write(tmp_path / "seq/gt/gt.txt", "1,1,1,2,3,4,1,1,1\n1,x,1,2,3,4,1,1,1\n1,1,1,2,3,4,1,1,1\n")
    assert found("mot", tmp_path) == [
        "seq/gt/gt.txt:2: got id 'x'; expected a number, commas between columns. Correct the line.",
        "seq/gt/gt.txt:3: the id of line 1 again in the same frame",
    ]


def test_every_kind_of_fault_of_a_sequence_that_cannot_be_read(tmp_path: Path) -> None:
    rows = ("1,1,1,2,3,4", "1,1,5,5,2,4", "2,1,3,2,0,4", "3,1,99,2,3,4", "4,1,nan,3,3,3", "6,1,3,3,3,3", "5,1,3,3,3,3")
    home = mot_sequence(tmp_path / "seq", gt="".join(f"{row},1,1,1\n" for row in rows))
    write(home / "img1" / "000005.jpg", image_bytes(".jpg", 32, 24))
    (report,) = list(check(open_dataset("mot", root=tmp_path)))[1:]
    assert report.num_frames == 5
    assert [str(finding).replace(f"{tmp_path}/", "") for finding in report.findings] == [
        "seq/gt/gt.txt:5: a number that is not finite",
        "seq/gt/gt.txt:2: the id of line 1 again in the same frame",
        "seq/gt/gt.txt:6: a frame outside the sequence; they count from 1 to 5",
        "seq/gt/gt.txt:3: box 3,2,0,4 has no area",
        "seq/gt/gt.txt:4: box 99,2,3,4 lies outside the image, 64 x 48 pixels",
        "seq/img1/000005.jpg: got 32 x 24 pixels; stated are 64 x 48 pixels",
    ]
    (home / "img1" / "000003.jpg").unlink()
    (report,) = list(check(open_dataset("mot", root=tmp_path)))[1:]
    assert report.num_frames == 4
    assert "seq/img1: got 4 frames; expected 5, as annotated. Complete the folder." in found("mot", tmp_path)


def test_two_faults_of_one_line_are_both_told(tmp_path: Path) -> None:
    mot_sequence(tmp_path / "seq", gt="1,1,1,2,3,4,1,1,1\n2,1,1,2,0,4,1,1.5,1\n")
    refused, flat = found("mot", tmp_path)
    assert refused.startswith("seq/gt/gt.txt:2: got class 1.5; expected a whole number")
    assert flat == "seq/gt/gt.txt:2: box 1,2,0,4 has no area"


def test_a_sequence_without_its_files_is_found_and_not_left_out(tmp_path: Path) -> None:
    for name in ("whole", "no_info", "no_truth"):
        mot_sequence(tmp_path / name)
    assert found("mot", tmp_path / "whole") == []
    (tmp_path / "no_info" / "seqinfo.ini").unlink()
    (tmp_path / "no_truth" / "gt" / "gt.txt").unlink()
    no_info, no_truth = found("mot", tmp_path)
    assert no_info.startswith("no_info/seqinfo.ini: got 'No such file")
    assert no_truth == "no_truth/gt/gt.txt: no such file: nothing is annotated"
    with pytest.raises(DatasetError, match=r"no_info/seqinfo.ini: got 'No such file"):
        open_dataset("mot", root=tmp_path)["no_info"]


@pytest.mark.parametrize("where", ["img", "."])
def test_frames_without_a_text_file_are_found_and_not_left_out(tmp_path: Path, where: str) -> None:
    own(tmp_path, "1,2,3,4\n")
    images(tmp_path / "b" / where, numbered(2))
    (tmp_path / "notes").mkdir()  # which holds no frames
    assert open_dataset("folder", root=tmp_path).names == ["a", "b"]
    told = "b/groundtruth.txt: got no such file; expected one x,y,w,h row per frame. Add it, or move the folder away."
    assert found("folder", tmp_path) == [told]
    with pytest.raises(DatasetError, match=r"b/groundtruth.txt: got no such file"):
        list(open_dataset("folder", root=tmp_path))


def test_mot_faults_outside_the_rows(tmp_path: Path) -> None:
    home = mot_sequence(tmp_path / "seq")
    write(home / "img1" / "000005.jpg", image_bytes(".jpg", 32, 24))
    (told,) = found("mot", tmp_path)
    assert told == "seq/img1/000005.jpg: got 32 x 24 pixels; stated are 64 x 48 pixels"
    (home / "img1" / "000004.jpg").unlink()
    assert found("mot", tmp_path) == ["seq/img1: got 4 frames; expected 5, as annotated. Complete the folder."]
    write(home / "seqinfo.ini", "nothing")
    assert found("mot", tmp_path)[0].startswith("seq/seqinfo.ini: got File contains no section headers")


def test_kitti(tmp_path: Path) -> None:
    kitti_tree(tmp_path / "kitti", images_there=4)
    (tmp_path / "kitti/training/image_02/0007/000001.png").unlink()
    told = found("kitti", tmp_path)
    assert told[0].startswith("kitti: got 1 of 21 sequences; missing: 0000, 0001, ")
    assert told[1:] == ["kitti/training/image_02/0007/000001.png: no such image"]
    path = tmp_path / "kitti/training/label_02/0007.txt"
    write(path, path.read_text().replace("10 20 40.5 45", "10 20 10 45").replace("\n2 -1", "\n0 -1"))
    assert found("kitti", tmp_path)[1] == "kitti/training/label_02/0007.txt:1: box 10,20,0,25 has no area"


# One file for all


def annotated(root: Path, content: dict[str, Any]) -> Path:
    write(root / "annotations.json", content)
    images(root / "img", [row["file_name"] for row in content["images"]])
    return root


def test_entries_of_a_json_file(tmp_path: Path) -> None:
    content = coco_json()
    assert found("images", annotated(tmp_path, content), every_image=True) == []
    boxes = ([1, 2, 0, 4], [70, 6, 7, 8], [0, 0, 70, 40])
    for row, box in zip(content["annotations"], boxes, strict=True):
        row["bbox"] = box
    assert found("images", annotated(tmp_path, content)) == [
        "annotations.json: annotations[0]: box 1,2,0,4 has no area",
        "annotations.json: annotations[1]: box 70,6,7,8 lies outside the image, 64 x 48 pixels",
        "note: annotations.json: annotations[2]: box 0,0,70,40 reaches beyond the image, 64 x 48 pixels",
    ]


def test_images_of_a_json_file(tmp_path: Path) -> None:
    content = coco_json()
    annotated(tmp_path, content)
    write(tmp_path / "img/000000000004.jpg", image_bytes(".jpg", 32, 24))
    write(tmp_path / "img/000000000005.jpg", b"nothing")
    first = "img/000000000004.jpg: got 32 x 24 pixels; the annotation says 64 x 48 pixels"
    last = "img/000000000005.jpg: got 7 bytes that are no whole image; expected one. Replace the file."
    assert found("images", tmp_path) == [last]  # of the three the second is not looked at
    assert found("images", tmp_path, every_image=True) == [first, last]
    for name in ("000000000004.jpg", "000000000005.jpg"):
        (tmp_path / "img" / name).unlink()
    assert found("images", tmp_path) == ["img/000000000004.jpg: no such image (and 1 more of 3)"]


def test_sizes_that_a_file_does_not_state(tmp_path: Path) -> None:
    lines = (
        '{"ID": "a", "gtboxes": [{"tag": "person", "fbox": [70, 1, 3, 6]}, {"tag": "person", "fbox": [-5, 1, 9, 6]}]}\n'
    )
    lines += (
        '{"ID": "b", "gtboxes": [{"tag": "person", "fbox": [-5, 1, 9, 6]}, {"tag": "mask", "fbox": [1, 1, 0, 6]}]}\n'
    )
    write(tmp_path / "crowdhuman" / "annotation_val.odgt", lines)
    images(tmp_path / "crowdhuman" / "Images", ["a.jpg"])
    assert found("crowdhuman", tmp_path) == [
        "crowdhuman: got 2 images; expected 4,370",
        "crowdhuman/annotation_val.odgt:2: box 1,1,0,6 has no area",
        "crowdhuman/annotation_val.odgt:1: box 70,1,3,6 lies outside the image, 64 x 48 pixels",
        "note: crowdhuman/annotation_val.odgt:1: box -5,1,9,6 reaches beyond the image, 64 x 48 pixels",
        "crowdhuman/Images/b.jpg: no such image",
    ]


def test_videos_of_a_json_file(tmp_path: Path) -> None:
    write(tmp_path / "tao/annotations/validation.json", video_json("frame_index", "track_id"))
    images(tmp_path / "tao/frames/train/one", [f"00000000000{number}.jpg" for number in (9, 4)])
    assert found("tao", tmp_path) == [
        "tao: got 2 sequences; expected 988",
        "tao/frames/train/one/000000000005.jpg: no such image",
    ]


# Nothing is changed


def test_nothing_is_changed(tmp_path: Path) -> None:
    root = own(tmp_path, "1,2,3,4\n5,6,0,8\n")

    def state() -> list[tuple[str, bytes, int]]:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return [(str(path), path.read_bytes(), path.stat().st_mtime_ns) for path in files]

    before = state()
    assert found("folder", root, every_image=True)
    assert state() == before


def test_a_finding_as_a_line() -> None:
    assert str(Finding("a.txt:3", "is bad")) == "a.txt:3: is bad"
    assert str(Finding("", "a.txt: is bad")) == "a.txt: is bad"
    assert str(Finding("a.txt:3", "is odd", is_note=True)) == "note: a.txt:3: is odd"


@pytest.mark.shared
def test_the_shared_data_has_no_findings(shared: Path) -> None:
    data = shared / "data"
    for name, root in (("folder", data / "sot"), ("mot", data / "mot"), ("images", data / "images" / "coco80")):
        reports = list(check(open_dataset(name, root=root)))
        assert [str(finding) for report in reports for finding in report.findings] == []
        assert sum(report.num_frames for report in reports) == {"folder": 5432, "mot": 500, "images": 482}[name]
