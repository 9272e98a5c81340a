"""Single-object benchmarks in their official layouts, each as a small tree; the lists that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sightline.datasets import sot_text
from sightline.datasets.clips import Clip, Frames
from sightline.datasets.davis import mask_boxes
from sightline.datasets.single import lasot_names, packaged
from sightline.datasets.table import DATASETS, open_dataset
from sightline.datasets.vot import polygon_to_xywh, read_vot
from sightline.errors import DatasetError
from tests.trees import FOUR, davis_tree, images, numbered, palette_png, write

NAN = "NaN,NaN,NaN,NaN"


def names(clip: Clip) -> list[str]:
    return [path.name for path in clip.frames]


# LaSOT


def lasot_sequence(folder: Path) -> Path:
    images(folder / "img", numbered(4))
    write(folder / "groundtruth.txt", FOUR)
    write(folder / "full_occlusion.txt", "0,1,0,0")
    write(folder / "out_of_view.txt", "0,0,0,1\n")
    return folder


def test_lasot(tmp_path: Path) -> None:
    lasot_sequence(tmp_path / "LaSOT" / "cat" / "cat-1")
    clips = open_dataset("LaSOT", root=tmp_path)
    assert (clips.name, clips.split, len(clips), len(clips.missing())) == ("lasot", "test", 280, 279)
    clip = clips["cat-1"]
    assert names(clip) == numbered(4) and len(clip) == 4
    assert clip.xywh.tolist() == [[1, 2, 30, 40], [1.5, 2.5, 30, 40], [5, 6, 10, 12], [7, 8, 9, 10]]
    assert clip.absent.tolist() == [False, True, False, True]
    assert clip.is_present.tolist() == [True, False, True, False]
    assert (clip.class_name, clip.attributes, clip.cover) == ("cat", None, None)
    with pytest.raises(DatasetError, match="airplane-1/groundtruth.txt: got 'No such file or directory'"):
        clips[0]
    with pytest.raises(
        DatasetError, match="lasot test: got 'cat-01'; expected one of its 280 names. Did you mean 'cat-1'"
    ):
        clips["cat-01"]
    place = clips.names.index("cat-1")
    assert clips[place - 1 : place + 2].names == ["car-17", "cat-1", "cat-3"]
    assert [clip.name for clip in clips.only(["cat-1"])] == ["cat-1"]


def test_lasot_without_the_folders_of_classes_and_the_root_itself(tmp_path: Path) -> None:
    lasot_sequence(tmp_path / "cat-1")
    assert open_dataset("lasot", "test", tmp_path)["cat-1"].name == "cat-1"
    assert open_dataset("lasot", "test", tmp_path).folder == tmp_path


def test_opening_reads_no_annotation_and_lists_no_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = lasot_sequence(tmp_path / "lasot" / "cat" / "cat-1")
    read: list[Path] = []
    whole = sot_text.read_text
    monkeypatch.setattr(sot_text, "read_text", lambda path: (read.append(path), whole(path))[1])
    clips = open_dataset("lasot", "test", tmp_path)
    assert read == []
    shutil.rmtree(home / "img")
    clip = clips["cat-1"]
    assert {path.name for path in read} == {"groundtruth.txt", "full_occlusion.txt", "out_of_view.txt"}
    assert len(clip) == 4  # known from the boxes
    with pytest.raises(DatasetError, match="img: got 'No such file or directory'; expected a folder"):
        clip.frames[0]
    images(home / "img", numbered(3))
    with pytest.raises(DatasetError, match="img: got 3 frames; expected 4, as annotated. Complete the folder"):
        clip.frames[0]


def test_lasot_flags_that_do_not_fit(tmp_path: Path) -> None:
    home = lasot_sequence(tmp_path / "lasot" / "cat" / "cat-1")
    write(home / "out_of_view.txt", "0,0,0")
    with pytest.raises(DatasetError, match="out_of_view.txt: got 3 flags; expected 4"):
        open_dataset("lasot", "test", tmp_path)["cat-1"]


def test_attributes_of_a_table_and_of_files(tmp_path: Path) -> None:
    home = lasot_sequence(tmp_path / "lasot" / "cat" / "cat-1").parents[1]
    flags = ["0"] * 14
    flags[0] = flags[6] = flags[13] = "1"
    write(home / "att" / "cat-1.txt", ",".join(flags))
    assert open_dataset("lasot", "test", tmp_path)["cat-1"].attributes == ("IV", "BC", "ARC")
    write(home / "attributes.csv", "sequence,FM,LR,SV\ncat-1,1,0,1\r\ncat-2,0,0,0\n")
    assert open_dataset("lasot", "test", tmp_path)["cat-1"].attributes == ("FM", "SV")
    write(home / "attributes.csv", "sequence,FM,LR,SV\ncat-1,1,0,1\ncat-2,0,0\n")
    with pytest.raises(DatasetError, match="attributes.csv:3: got 'cat-2,0,0'; expected a sequence and 3 flags"):
        open_dataset("lasot", "test", tmp_path)


def test_lasot_ext(tmp_path: Path) -> None:
    lasot_sequence(tmp_path / "LaSOTExtensionSubset" / "rhino" / "rhino-10")
    clips = open_dataset("lasot_ext", root=tmp_path)
    assert len(clips) == 150 and clips.names[:2] == ["atv-1", "atv-2"]
    assert clips["rhino-10"].absent.tolist() == [False, True, False, True]


# GOT-10k


def got10k_sequence(folder: Path, rows: str = FOUR) -> Path:
    images(folder, numbered(4))
    write(folder / "groundtruth.txt", rows.replace("\n", ".0000\n"))
    write(folder / "absence.label", "0\n0\n0\n1\n")
    write(folder / "cover.label", "8\n7\n0\n0\n")
    write(folder / "cut_by_image.label", "0\n0\n0\n0\n")
    meta = "[METAINFO]\nurl: https://example.org/watch?v=1\nobject_class: bear\nresolution: (64, 48)\n"
    write(folder / "meta_info.ini", meta)
    return folder


def test_got10k(tmp_path: Path) -> None:
    got10k_sequence(tmp_path / "GOT-10k" / "val" / "GOT-10k_Val_000007")
    clips = open_dataset("got10k", root=tmp_path)
    assert (clips.split, len(clips), len(clips.missing())) == ("val", 180, 179)
    clip = clips["GOT-10k_Val_000007"]
    assert names(clip) == numbered(4)
    assert clip.cover.tolist() == [8, 7, 0, 0] and clip.absent.tolist() == [False, False, False, True]
    assert clip.is_present.tolist() == [True, True, False, False]
    assert (clip.class_name, clip.image_size) == ("bear", (64, 48))


def test_got10k_test_has_one_row(tmp_path: Path) -> None:
    home = tmp_path / "got10k" / "test" / "GOT-10k_Test_000180"
    images(home, numbered(3))
    write(home / "groundtruth.txt", "1,2,3,4\n")
    clip = open_dataset("got10k", "test", tmp_path)[-1]
    assert (len(clip), clip.xywh.tolist(), clip.absent, clip.image_size) == (3, [[1, 2, 3, 4]], None, None)


def test_got10k_training_parts_are_positions_in_its_list(tmp_path: Path) -> None:
    home = tmp_path / "got10k" / "train"
    official = [f"GOT-10k_Train_{number:06d}" for number in range(1, 9336)]
    write(home / "list.txt", "\n".join(official) + "\n")
    got10k_sequence(home / official[3784])  # the first position of vot-train
    clips = open_dataset("got10k", "vot-train", tmp_path)
    assert len(clips) == 7086 and clips.names[0] == "GOT-10k_Train_003785" == clips[0].name
    write(home / "list.txt", "\n".join(official[:9000]) + "\n")
    with pytest.raises(DatasetError, match="list.txt: got 9000 names; expected 9335, of which 'vot-train' is a part"):
        open_dataset("got10k", "vot-train", tmp_path)


# TrackingNet


def test_trackingnet(tmp_path: Path) -> None:
    for part, name, rows in (("TEST", "b_3", "1,2,3,4\n"), ("TRAIN_0", "a", FOUR), ("TRAIN_11", "z", FOUR)):
        home = tmp_path / "TrackingNet" / part
        images(home / "frames" / name, numbered(12 if part == "TEST" else 4, "{}.jpg", first=0))
        write(home / "anno" / f"{name}.txt", rows)
    test = open_dataset("trackingnet", root=tmp_path)
    assert test.names == ["b_3"] and len(test[0]) == 12
    assert names(test[0]) == [f"{number}.jpg" for number in range(12)]  # 2 before 10
    train = open_dataset("trackingnet", "train", tmp_path)
    assert train.names == ["a", "z"] and train["z"].frames[0] == tmp_path / "TrackingNet/TRAIN_11/frames/z/0.jpg"


# NfS


def nfs_rows(count: int) -> str:
    """id xmin ymin xmax ymax frame lost occluded generated "label"."""
    return "".join(f'0 {row} 2 {row + 10} 22 {row} {int(row == 8)} 0 0 "a ball"\n' for row in range(count))


@pytest.mark.parametrize(
    ("home", "num_frames", "num_rows", "expected"),
    [
        ("bee/30", 3, 24, [0, 8, 16]),
        ("bee/30", 3, 25, [0, 8, 16]),  # four rows of every eighth: one more than frames
        ("bee/30", 4, 24, [0, 8, 16]),
        ("bee/30", 3, 3, [0, 1, 2]),  # annotated at 30
        ("bee/240", 24, 24, [0, 8, 16]),
        ("bee/240", 25, 24, [0, 8, 16]),
    ],
)
def test_nfs(tmp_path: Path, home: str, num_frames: int, num_rows: int, expected: list[int]) -> None:
    images(tmp_path / "nfs" / home / "bee", numbered(num_frames, "{:05d}.jpg"))
    write(tmp_path / "nfs" / home / "bee.txt", nfs_rows(num_rows))
    clip = open_dataset("nfs30", root=tmp_path)["bee"]
    assert clip.xywh.tolist() == [[row, 2, 10, 20] for row in expected]
    step = 8 if home.endswith("240") else 1
    assert names(clip) == [f"{1 + step * index:05d}.jpg" for index in range(3)]
    assert clip.is_present.tolist() == [row != 8 for row in expected] and clip.absent is None


def test_nfs_as_pytracking_has_it(tmp_path: Path) -> None:
    images(tmp_path / "nfs30" / "sequences" / "bee", numbered(5, "{:05d}.jpg"))
    write(tmp_path / "nfs30" / "anno" / "nfs_bee.txt", FOUR.replace(",", "\t"))
    clips = open_dataset("nfs30", root=tmp_path)
    assert len(clips) == 100 and len(clips["bee"]) == 4 and clips["bee"].xywh[3].tolist() == [7, 8, 9, 10]
    assert DATASETS["nfs30"].result_prefix == "nfs_"


def test_nfs_that_does_not_fit(tmp_path: Path) -> None:
    images(tmp_path / "nfs" / "bee/30/bee", numbered(5, "{:05d}.jpg"))
    path = write(tmp_path / "nfs" / "bee/30/bee.txt", nfs_rows(24))
    with pytest.raises(DatasetError, match="bee.txt: got 3 rows for 5 frames at 30 per second"):
        open_dataset("nfs30", root=tmp_path)["bee"]
    for broken in ("0 1 2 3 4 5\n", "0 1 2 3 x 5 0 0 0\n", "0 1 2 3 inf 5 0 0 0\n", "\n0 1 2 3 4 5 0 0 0\n", ""):
        write(path, nfs_rows(3) + broken if broken else "")
        with pytest.raises(DatasetError, match=r"bee.txt:\d: got .*; expected id xmin ymin xmax ymax frame lost"):
            open_dataset("nfs30", root=tmp_path)["bee"]


# UAV123


def test_uav123_segments_of_a_video(tmp_path: Path) -> None:
    root = tmp_path / "UAV123"
    images(root / "data_seq" / "UAV123" / "bird1", numbered(253, "{:06d}.jpg") + numbered(703, "{:06d}.jpg", 775))
    write(root / "anno" / "UAV123" / "bird1_1.txt", "1,2,3,4\n" * 252 + NAN + "\n")
    write(root / "anno" / "UAV123" / "bird1_2.txt", "1,2,3,4\n" * 703)
    write(root / "anno" / "UAV123" / "att" / "bird1_1.txt", "1,0,0,0,0,0,0,0,0,0,0,1")
    clips = open_dataset("uav123", root=tmp_path)
    first, second = clips["bird1_1"], clips["bird1_2"]
    assert (len(clips), len(first), len(second)) == (123, 253, 703)
    assert (names(first)[-1], names(second)[0], names(second)[-1]) == ("000253.jpg", "000775.jpg", "001477.jpg")
    assert first.is_present.sum() == 252 and np.isnan(first.xywh[-1]).all()
    assert (first.attributes, second.attributes) == (("SV", "SOB"), None)


def test_the_table_of_uav123() -> None:
    rows = [(name, int(first), int(last)) for name, first, last in map(str.split, packaged("uav123"))]
    assert len({name for name, *_ in rows}) == 123
    assert ("bird1_1", 1, 253) in rows and ("bird1_2", 775, 1477) in rows
    assert all(0 < first < last for _, first, last in rows)
    videos = {name[: -len(tail) - 1] if (tail := name.rpartition("_")[2]).isdecimal() else name for name, *_ in rows}
    assert len(videos) == 91


# OTB


@pytest.mark.parametrize("delimiter", [",", "\t", "   "])
def test_otb_with_any_delimiter_and_five_digits(tmp_path: Path, delimiter: str) -> None:
    write(tmp_path / "otb" / "Board" / "groundtruth_rect.txt", FOUR.replace(",", delimiter))
    images(tmp_path / "otb" / "Board" / "img", numbered(4, "{:05d}.jpg"))
    clip = open_dataset("otb100", root=tmp_path)["Board"]
    assert names(clip) == numbered(4, "{:05d}.jpg") and clip.xywh[0].tolist() == [1, 2, 30, 40]  # from 1, as published


@pytest.mark.parametrize(("name", "images_there", "first", "last"), [
    ("David", (1, 770), 300, 770), ("BlurCar1", (247, 988), 247, 988), ("Football1", (1, 81), 1, 74),
])  # fmt: skip
def test_otb_ranges(tmp_path: Path, name: str, images_there: tuple[int, int], first: int, last: int) -> None:
    count = images_there[1] - images_there[0] + 1
    images(tmp_path / "OTB" / name / "img", numbered(count, "{:04d}.jpg", images_there[0]))
    write(tmp_path / "OTB" / name / "groundtruth_rect.txt", "1,2,3,4\n" * (last - first + 1))
    clip = open_dataset("otb100", root=tmp_path)[name]
    assert names(clip) == numbered(last - first + 1, "{:04d}.jpg", first)
    write(tmp_path / "OTB" / name / "groundtruth_rect.txt", "1,2,3,4\n" * (last - first))
    with pytest.raises(DatasetError, match=f"img: got {last - first + 1} frames numbered {first} to {last}; expected"):
        len(open_dataset("otb100", root=tmp_path)[name].frames.paths)


def test_otb_two_targets(tmp_path: Path) -> None:
    images(tmp_path / "otb" / "Jogging" / "img", numbered(4, "{:04d}.jpg"))
    write(tmp_path / "otb" / "Jogging" / "groundtruth_rect.1.txt", FOUR)
    write(tmp_path / "otb" / "Jogging" / "groundtruth_rect.2.txt", "9,9,9,9\n" * 4)
    clips = open_dataset("otb100", root=tmp_path)
    assert len(clips) == 100 and {"Jogging-1", "Skating2-2", "Human4-2"} < set(clips.names)
    assert len({name.partition("-")[0] for name in clips.names}) == 98
    assert clips["Jogging-1"].xywh[0].tolist() == [1, 2, 30, 40] and clips["Jogging-2"].xywh[0].tolist() == [9] * 4
    assert names(clips["Jogging-1"]) == names(clips["Jogging-2"]) == numbered(4, "{:04d}.jpg")


# TNL2K


def test_tnl2k_frames_of_many_names(tmp_path: Path) -> None:
    home = tmp_path / "TNL2K"
    for folder in ("TNL2K_test_subset/advSamp_1", "TNL2K_train_subset/part_3/other"):
        images(home / folder / "imgs", ["b10.png", "b9.jpg", "a.JPG", "c_ (1).bmp"])
        write(home / folder / "groundtruth.txt", "1,2,3,4\n0,0,0,0\n5,6,7,8\n5,6,7,8\n")
        write(home / folder / "language.txt", "the cat")
    clip = open_dataset("tnl2k", root=tmp_path)[0]
    assert clip.name == "advSamp_1" and names(clip) == ["a.JPG", "b10.png", "b9.jpg", "c_ (1).bmp"]
    assert clip.is_present.tolist() == [True, False, True, True]
    assert open_dataset("tnl2k", "train", tmp_path).names == ["other"]


# VOT


def vot_sequence(folder: Path, rows: str, colour: str = "color") -> Path:
    images(folder / colour, numbered(len(rows.split("\n"))))
    write(folder / "groundtruth.txt", rows)
    return folder


def test_vot_rectangles_and_nan(tmp_path: Path) -> None:
    vot_sequence(tmp_path / "vot" / "ball", f"1,2,3,4\n{NAN}\n5,6,7,8", colour="")
    vot_sequence(tmp_path / "vot" / "bag", "1,2,3,4")
    assert open_dataset("vot", root=tmp_path).names == ["bag", "ball"]
    write(tmp_path / "vot" / "list.txt", "ball\r\nbag\n")
    clips = open_dataset("vot", root=tmp_path)
    assert clips.names == ["ball", "bag"] and clips[0].is_present.tolist() == [True, False, True]
    assert names(clips[0]) == numbered(3)


def test_vot_polygons(tmp_path: Path) -> None:
    tilted = "10,0,20,10,10,20,0,10"  # a square on its corner: hull 20 x 20, area 200
    folder = vot_sequence(tmp_path / "bag", f"{tilted}\n1,1,5,1,5,4,1,4")
    assert read_vot(folder).xywh.tolist() == [[0, 0, 20, 20], [1, 1, 4, 3]]
    side = 20 * np.sqrt(200 / 400) + 1
    np.testing.assert_allclose(
        read_vot(folder, "area").xywh, [[10 - side / 2, 10 - side / 2, side, side], [0.5, 0.5, 5, 4]], atol=1e-12
    )
    assert not np.isfinite(polygon_to_xywh(np.full((1, 8), 3.0), "area")).all()  # four corners in one point


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("m10,20,5,4,6,3,2,3", (11, 21, 3, 2)),  # pixels 6..8 and 11..13 of 5 a row: columns 1..3 of rows 1 and 2
        ("m0,0,4,3,2,3", (0, 0, 4, 2)),  # over a line's end
        ("m7,8,3,3,0,9", (7, 8, 3, 3)),
        ("m7,8,3,3,4,1,", (8, 9, 1, 1)),
        ("m0,0,0,0", (0, 0, 0, 0)),
        ("m5,5,3,3,9", (0, 0, 0, 0)),
        ("m5,5,3,3,2,0,7", (0, 0, 0, 0)),
    ],
)
def test_vot_masks(tmp_path: Path, line: str, box: tuple[int, ...]) -> None:
    clip = read_vot(vot_sequence(tmp_path / "cat", f"{line}\nm1,2,1,1,0,1"))
    assert clip.xywh.tolist() == [list(box), [1, 2, 1, 1]]
    assert clip.is_present.tolist() == [box[2] > 0, True]


@pytest.mark.parametrize(
    "line", ["m1,2,3", "m", "1,2,3,4", "m1,2,3,4,99", "m1,2,-3,4,1", "m1,2,x,4", "m1,2,3,3,-1,2", ""]
)
def test_vot_masks_that_are_none(tmp_path: Path, line: str) -> None:
    with pytest.raises(DatasetError, match=r"groundtruth.txt:2: got .*; expected a mask: m, the four numbers"):
        read_vot(vot_sequence(tmp_path / "cat", f"m1,2,1,1,0,1\n{line}\nm1,2,1,1,0,1"))


def test_masks_are_the_boxes_of_their_pixels(tmp_path: Path) -> None:
    """Against drawing them."""
    rng = np.random.default_rng(0)
    masks = [rng.random((6, 7)) < share for share in (0.03, 0.1, 0.5, 0.03, 0.05)]
    lines, boxes = [], []
    for mask in masks:
        flat = mask.ravel().astype(int)
        ends = np.flatnonzero(np.diff(flat)) + 1
        runs = np.diff([0, *ends, len(flat)]).tolist()
        lines.append("m3,4,7,6," + ",".join(map(str, runs if flat[0] == 0 else [0, *runs])))
        rows, columns = np.nonzero(mask)
        box = [3 + columns.min(), 4 + rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if len(rows) else [0] * 4
        boxes.append(list(map(int, box)))
    assert read_vot(vot_sequence(tmp_path / "cat", "\n".join(lines))).xywh.tolist() == boxes


# DAVIS


def test_davis_has_a_clip_for_each_object(tmp_path: Path) -> None:
    davis_tree(tmp_path / "DAVIS")
    clips = open_dataset("davis2017", root=tmp_path)
    assert clips.names == ["bike-1", "bike-2", "cow"]
    assert clips["bike-1"].xywh.tolist() == [[3, 2, 4, 3], [4, 2, 4, 3], [5, 2, 4, 3]]
    assert clips["bike-2"].xywh.tolist() == [[8, 7, 4, 3], [0, 0, 0, 0], [8, 7, 4, 3]]
    assert clips["bike-2"].is_present.tolist() == [True, False, True]
    assert clips["cow"].is_present.all() and names(clips["cow"]) == numbered(3, "{:05d}.jpg", 0)


def test_masks_without_a_palette_and_what_is_no_mask(tmp_path: Path) -> None:
    import cv2

    grey = np.zeros((6, 8), dtype=np.uint8)
    grey[1:3, 2:7] = 255
    path = write(tmp_path / "a.png", cv2.imencode(".png", grey)[1].tobytes())
    assert mask_boxes(path) == {255: (2, 1, 5, 2)}
    assert mask_boxes(write(tmp_path / "b.png", palette_png(np.zeros((4, 4), dtype=np.uint8)))) == {}
    for name, content in (("c.png", b"no picture"), ("d.png", b"")):
        with pytest.raises(DatasetError, match=f"{name}: got no mask .*; expected a PNG. Replace the file"):
            mask_boxes(write(tmp_path / name, content))


# A person's own


def test_a_folder_of_frames_and_a_text_file(tmp_path: Path) -> None:
    images(tmp_path / "own" / "cat", numbered(4, "f{}.png", 8))
    write(tmp_path / "own" / "cat" / "boxes.txt", FOUR.replace(",", " "))
    images(tmp_path / "own" / "dog" / "img", numbered(4))
    write(tmp_path / "own" / "dog" / "groundtruth.txt", "\ufeff" + FOUR.replace("\n", "\r\n"))
    write(tmp_path / "own" / "README.md", "mine")
    clips = open_dataset("folder", root=tmp_path / "own")
    assert clips.names == ["cat", "dog"] and names(clips[0]) == ["f8.png", "f9.png", "f10.png", "f11.png"]
    assert clips[0].xywh.tolist() == clips[1].xywh.tolist()
    assert [clip.name for clip in open_dataset("folder", root=tmp_path / "own" / "cat")] == ["cat"]
    write(tmp_path / "own" / "split.json", {"train": ["dog"], "val": ["cat"]})
    assert open_dataset("folder", "train", tmp_path / "own").names == ["dog"]


@pytest.mark.shared
def test_shared_sequences_are_as_their_readme_says(shared: Path) -> None:
    clips = open_dataset("folder", root=shared / "data" / "sot")
    assert (len(clips), sum(map(len, clips))) == (41, 5432)
    assert [len(open_dataset("folder", split, shared / "data" / "sot")) for split in ("train", "val")] == [27, 14]
    assert all(clip.xywh.shape == (len(clip), 4) and clip.is_present[0] for clip in clips)
    bolt = clips["otb_Bolt"]
    assert (len(bolt), bolt.frames[0].name, bolt.frames[-1].name) == (200, "00001.jpg", "00200.jpg")


# What comes with the package


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("got10k_vot_train", 7086), ("got10k_vot_val", 1249), ("got10k_train_full", 9335), ("lasot_train", 1120),
        ("nfs", 100), ("otb100", 100), ("uav123", 123),
    ],
)  # fmt: skip
def test_lists_by_count(name: str, count: int) -> None:
    lines = packaged(name)
    assert len(lines) == len(set(lines)) == count and all(line.strip() == line and line for line in lines)


def test_got10k_parts_do_not_overlap() -> None:
    train, val, full = (set(map(int, packaged(f"got10k_{name}"))) for name in ("vot_train", "vot_val", "train_full"))
    assert full == set(range(9335))
    assert not train & val and len(train | val) == 8335  # the thousand that VOT has are in neither


def test_lasot_has_1400_sequences() -> None:
    train, test = lasot_names("train"), lasot_names("test")
    assert len({name.rpartition("-")[0] for name in test}) == 70 and not set(train) & set(test)
    assert len(train) + len(test) == 1400 == len(set(train + test))
    assert test[:3] == ["airplane-1", "airplane-9", "airplane-13"]


@pytest.mark.shared
def test_lists_are_those_of_the_specification(shared: Path) -> None:
    for ours, theirs in (("got10k_vot_train", "got10k_vot_train_split"), ("lasot_train", "lasot_train_split")):
        assert list(packaged(ours)) == (shared / "specs" / "splits" / f"{theirs}.txt").read_text().split()
    lasot = np.load(shared / "data" / "eval" / "lasot" / "groundtruth.npz").files
    assert set(lasot_names("test")) == set(lasot)
    otb = np.load(shared / "data" / "eval" / "otb92" / "groundtruth.npz").files
    assert set(otb) < set(packaged("otb100"))


@pytest.mark.shared
def test_lasots_published_annotation_in_its_layout(shared: Path, tmp_path: Path) -> None:
    """Eight sequences, with the flags and attributes as published; the whole set is read alike."""
    source = shared / "data" / "eval" / "lasot"
    truth, absent = np.load(source / "groundtruth.npz"), np.load(source / "absent.npz")
    chosen = ["lion-5", "microphone-6", "tiger-6", *truth.files[:5]]
    for name in chosen:
        home = tmp_path / "lasot" / name.rpartition("-")[0] / name
        write(home / "groundtruth.txt", "".join(",".join(map("{:g}".format, row)) + "\n" for row in truth[name]))
        write(home / "full_occlusion.txt", ",".join(map(str, absent[name].astype(int))))
        write(home / "out_of_view.txt", ",".join("0" * len(absent[name])) + "\n")
    write(tmp_path / "lasot" / "attributes.csv", (source / "attributes.csv").read_bytes())
    clips = open_dataset("lasot", "test", tmp_path)
    for name in chosen:
        clip = clips[name]
        np.testing.assert_array_equal(clip.xywh, truth[name])
        np.testing.assert_array_equal(clip.absent, absent[name].astype(bool))
    assert clips["airplane-1"].attributes == ("POC", "ROT", "SV", "LR")


def test_frames_are_listed_once(tmp_path: Path) -> None:
    images(tmp_path, ["2.jpg", "10.jpg", ".hidden.jpg", "._1.jpg"])
    write(tmp_path / "notes.txt", "no frame")
    frames = Frames(tmp_path, part=slice(None, None, 2))
    assert [path.name for path in frames] == ["10.jpg"]
    (tmp_path / "10.jpg").unlink()
    assert len(frames) == 1
