"""Footage of everything that has boxes: which pictures, which boxes, what is visible, one by one and in order."""

from __future__ import annotations

import multiprocessing
import pickle
import zipfile
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sightline.datasets import footage as module
from sightline.datasets.clips import Clip, Listing
from sightline.datasets.footage import (
    Footage,
    annotated_videos,
    clip_footage,
    clips_footage,
    stills_footage,
    targets_footage,
    video_footage,
    videos_footage,
)
from sightline.datasets.mot_text import MotRows
from sightline.datasets.multi import MotSequence, half, kitti, read_mot_sequence
from sightline.datasets.stills import Still, read_zipped, read_zipped_stills
from sightline.errors import DatasetError, VideoError
from sightline.video import seek
from tests.trees import kitti_tree, mot_sequence, numbered, write

NUM_FRAMES = 23


def grey_png(value: int, side: int = 8) -> bytes:
    return cv2.imencode(".png", np.full((side, side, 3), value, np.uint8))[1].tobytes()


def grey_frames(folder: Path, names: list[str], first: int = 10) -> tuple[Path, ...]:
    """Pictures that can be told apart: the k-th is grey of value first + k."""
    return tuple(write(folder / name, grey_png(first + value)) for value, name in enumerate(names))


def values(footage: Footage) -> list[int]:
    """The grey value of each picture, read one by one, and the same in order."""
    one_by_one = [int(footage.read(index)[0, 0, 0]) for index in range(len(footage))]
    assert [int(rgb[0, 0, 0]) for rgb in footage.read_all()] == one_by_one
    return one_by_one


def make_clip(folder: Path, length: int = 4, **more: object) -> Clip:
    frames = grey_frames(folder, numbered(length, "{:04d}.png"))
    xywh = np.arange(4.0 * length).reshape(length, 4) + 1
    return Clip(folder.name, frames, xywh, np.arange(length) != 1, **more)  # type: ignore[arg-type]


# Clips


def test_a_clip_is_footage_of_its_frames(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "cat")
    made = clip_footage(clip)
    assert (made.name, len(made)) == ("cat", 4)
    assert made.xywh.tolist() == clip.xywh.tolist() and made.is_visible.tolist() == [True, False, True, True]
    assert values(made) == [10, 11, 12, 13]
    assert made.read(2).shape == (8, 8, 3) and made.read(2).dtype == np.uint8


def test_a_target_of_which_nothing_can_be_seen_is_not_visible(tmp_path: Path) -> None:
    made = clip_footage(make_clip(tmp_path, cover=np.array([8, 8, 0, 1])))
    assert made.is_visible.tolist() == [True, False, False, True]


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    made = clip_footage(make_clip(tmp_path))
    (tmp_path / "0003.png").write_bytes(b"no image")
    (tmp_path / "0004.png").unlink()
    with pytest.raises(VideoError, match=r"0003\.png: got 8 bytes that are no whole image"):
        made.read(2)
    with pytest.raises(VideoError, match=r"0004\.png: got 'No such file"):
        made.read(3)
    with pytest.raises(VideoError, match=r"0003\.png"):
        list(made.read_all())


def test_a_clip_whose_truth_is_kept_is_refused(tmp_path: Path) -> None:
    clip = make_clip(tmp_path)
    one_row = Clip("test", clip.frames, clip.xywh[:1], clip.is_present[:1], annotation=tmp_path / "groundtruth.txt")
    with pytest.raises(DatasetError, match=r"groundtruth\.txt: got 1 boxes for 4 frames; expected one each"):
        clip_footage(one_row)


READ: list[str] = []


def read_made(root: Path, name: str) -> Clip:
    READ.append(name)
    return make_clip(root / name)


def made_listing(root: Path) -> Listing[Clip]:
    return Listing(["a", "b", "c"], lambda name: root / name, partial(read_made, root))


def test_clips_are_read_when_they_are_asked_for_and_the_newest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_CLIPS", 2)
    READ.clear()
    clips = clips_footage(partial(made_listing, tmp_path), ["c", "a", "b"])
    assert len(clips) == 3 and not READ
    assert [clips[index].name for index in (0, 1, 0, 1)] == ["c", "a", "c", "a"] and READ == ["c", "a"]
    assert [clips[index].name for index in (2, 1, 0)] == ["b", "a", "c"] and READ == ["c", "a", "b", "c"]


def test_a_copy_in_another_process_opens_the_listing_again(tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(clips_footage(partial(made_listing, tmp_path), ["b", "a"])))
    assert [clip.name for clip in copy] == ["b", "a"] and values(copy[0]) == [10, 11, 12, 13]


def test_positions_and_slices(tmp_path: Path) -> None:
    clips = clips_footage(partial(made_listing, tmp_path), ["a", "b", "c"])
    assert [clip.name for clip in clips[1:]] == ["b", "c"] and clips[-1].name == "c"
    assert [clip.name for clip in clips] == ["a", "b", "c"]
    with pytest.raises(IndexError):
        clips[3]


# Sequences of many targets


def mot(folder: Path, gt: str, length: int = 4) -> MotSequence:
    mot_sequence(folder, length, gt)
    for path in (folder / "img1").iterdir():
        path.unlink()
    grey_frames(folder / "img1", numbered(length, "{:06d}.png"))
    return read_mot_sequence(folder)


GT = """\
4,7,40,2,10,20,1,1,1
2,7,20,2,10,20,1,1,0.5
1,7,10,2,10,20,1,1,1
1,3,11,2,10,20,0,1,1
2,5,12,2,10,20,1,1,0
3,5,13,2,10,20,1,1,0.1
4,5,14,2,10,0,1,1,1
3,9,15,2,10,20,1,1,0
4,9,15,2,10,20,1,1,0
"""


def test_every_identity_is_footage_of_the_frames_that_have_it(tmp_path: Path) -> None:
    targets = targets_footage([mot(tmp_path / "street", GT)])
    assert [target.name for target in targets] == ["street/5", "street/7"]  # 3 is not to be counted, 9 never seen
    five, seven = targets
    assert seven.xywh[:, 0].tolist() == [10, 20, 40] and seven.is_visible.all()
    assert values(seven) == [10, 11, 13]  # the file counts frames from 1: its frame 1 is the first picture
    assert five.is_visible.tolist() == [False, True, False]  # wholly hidden, hardly seen, no area
    assert values(five) == [11, 12, 13]


def test_identities_of_several_sequences_are_not_mixed(tmp_path: Path) -> None:
    sequences = [mot(tmp_path / name, f"1,1,{x},2,3,4,1,1,1\n2,2,9,2,3,4,1,1,1\n") for name, x in (("b", 5), ("a", 6))]
    targets = targets_footage([sequences[0], MotSequence("none", (), None, None, None, tmp_path), sequences[1]])
    assert [(target.name, target.xywh[0, 0]) for target in targets] == [("b/1", 5), ("b/2", 9), ("a/1", 6), ("a/2", 9)]
    assert values(targets[3]) == [11]


def test_a_half_begins_with_its_own_first_frame(tmp_path: Path) -> None:
    later = half(mot(tmp_path / "street", GT), is_first=False)
    (target,) = targets_footage([later])  # in its one frame 5 has no area and 9 cannot be seen
    assert (target.name, target.xywh[:, 0].tolist(), values(target)) == ("street/7", [40], [13])


def test_targets_of_kitti_without_its_regions(tmp_path: Path) -> None:
    kitti_tree(tmp_path)
    (car,) = targets_footage([kitti(tmp_path, "train").read("0007")])
    assert (car.name, car.xywh.tolist()) == ("0007/0", [[10, 20, 30.5, 25]])
    assert car.read(0).shape == (48, 64, 3)


def test_rows_without_a_file_have_no_visibility(tmp_path: Path) -> None:
    rows = MotRows(
        np.array([0, 0]),
        np.array([4, 6]),
        np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
        np.array([1.0, 0]),
        np.ones(2, int),
    )
    frames = grey_frames(tmp_path, ["1.png"])
    (target,) = targets_footage([MotSequence("made", frames, rows, None, None, tmp_path)])
    assert (target.name, target.xywh.tolist(), values(target)) == ("made/4", [[1, 2, 3, 4]], [10])


def test_no_target_at_all(tmp_path: Path) -> None:
    assert len(targets_footage([])) == 0
    assert len(targets_footage([mot(tmp_path / "empty", "1,3,11,2,10,20,0,1,1\n")])) == 0


def test_targets_in_another_process(tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(targets_footage([mot(tmp_path / "street", GT)])))
    assert copy[1].name == "street/7" and values(copy[1]) == [10, 11, 13]


# Images


def test_every_box_of_an_image_is_footage_of_one_picture(tmp_path: Path) -> None:
    paths = grey_frames(tmp_path, ["a.png", "sub/b.png", "c.png"])
    boxes = ([[1, 2, 3, 4], [1, 2, 0, 4], [5, 6, 7, 8]], [], [[9, 1, 2, 3]])
    stills = [Still(path, np.array(rows, np.float64).reshape(-1, 4)) for path, rows in zip(paths, boxes, strict=True)]
    made = stills_footage(stills)
    assert [(one.name, one.xywh.tolist(), values(one)) for one in made] == [
        ("a/0", [[1, 2, 3, 4]], [10]),
        ("a/1", [[5, 6, 7, 8]], [10]),
        ("c/0", [[9, 1, 2, 3]], [12]),
    ]
    assert all(one.is_visible.tolist() == [True] for one in made)
    assert [one.name for one in pickle.loads(pickle.dumps(made))] == ["a/0", "a/1", "c/0"]
    assert len(stills_footage([])) == 0


def tiny(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    names = [f"n{number}.png" for number in range(count)]
    write(folder / "boxes.csv", "file,class,x,y,w,h\n" + "".join(f"{name},0,1,2,3,4\n" for name in names))
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(f"sub/{name}", grey_png(number))
    return folder


def test_images_are_read_from_their_zip_file(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny", 5)
    made = stills_footage(read_zipped_stills(folder), partial(read_zipped, folder / "images.zip"))
    assert [(one.name, values(one)) for one in made] == [(f"n{number}/0", [number]) for number in range(5)]
    assert {path.name for path in folder.iterdir()} == {"boxes.csv", "images.zip"}  # nothing is unpacked


def test_an_image_that_the_zip_file_lacks(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "tiny", 1)
    with pytest.raises(DatasetError, match=r"images\.zip: .*other\.png.*; expected the image other\.png in it"):
        read_zipped(folder / "images.zip", Path("other.png"))
    with zipfile.ZipFile(folder / "images.zip", "a") as archive:
        archive.writestr("bad.png", b"no image")
    with pytest.raises(VideoError, match=r"images\.zip/bad\.png: got 8 bytes"):
        read_zipped(tmp_path / "tiny" / ".." / "tiny" / "images.zip", Path("bad.png"))


def read_many(archive: Path) -> bool:
    names = [f"sub/n{number % 50}.png" for number in range(400)]
    return [int(read_zipped(archive, Path(name))[0, 0, 0]) for name in names] == [n % 50 for n in range(400)]


def test_processes_do_not_share_a_position_in_the_zip_file(tmp_path: Path) -> None:
    archive = tiny(tmp_path / "tiny", 50) / "images.zip"
    assert read_many(archive)  # which opens it before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(read_many, [archive] * 4, chunksize=1).get(timeout=60) == [True] * 4


# Videos


def film(path: Path, codec: str = "libx264", **options: str) -> Path:
    """Frames of rising grey with a moving stripe, a key frame every fifth, with frames that refer to later ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "5", **options})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(NUM_FRAMES):
            rgb = np.full((64, 64, 3), 8 * index + 20, np.uint8)
            rgb[:, 2 * index : 2 * index + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    write(path.with_suffix(".txt"), "".join(f"{2 * index},0,8,64\n" for index in range(NUM_FRAMES)))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "2"}),
        ("a.mov", "libx264", {"bf": "2", "x264-params": "open-gop=1:scenecut=0"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.m4v", "mpeg4", {}),
    ],
)
def test_a_frame_of_a_video_alone_is_the_one_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str, options: dict[str, str]
) -> None:
    made = video_footage(film(tmp_path / name, codec, **options))
    in_order = list(made.read_all())
    assert len(in_order) == len(made) == NUM_FRAMES
    monkeypatch.setattr(seek, "open_video", None)  # none of them needs the frames before the key frame
    for index in np.random.default_rng(0).permutation(NUM_FRAMES):
        np.testing.assert_array_equal(made.read(int(index)), in_order[index])
    assert not np.array_equal(in_order[3], in_order[4])


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "mpeg4"), ("a.avi", "libx264"), ("a.webm", "libvpx")])
def test_a_video_whose_times_do_not_tell_is_decoded_from_its_start(tmp_path: Path, name: str, codec: str) -> None:
    made = video_footage(film(tmp_path / name, codec))
    in_order = list(made.read_all())
    for index in (0, 7, NUM_FRAMES - 1, 4):
        np.testing.assert_array_equal(made.read(index), in_order[index])


def test_boxes_of_a_video_and_frames_without_its_target(tmp_path: Path) -> None:
    path = film(tmp_path / "cat.mp4")
    rows = path.with_suffix(".txt").read_text().splitlines()
    path.with_suffix(".txt").write_text("\n".join([*rows[:3], "0,0,0,0", *rows[4:]]))
    (tmp_path / "cat.absent.txt").write_text("0\n1\n" + "0\n" * (NUM_FRAMES - 2))
    (made,) = videos_footage(annotated_videos(tmp_path))
    assert (made.name, made.xywh[2].tolist()) == ("cat", [4, 0, 8, 64])
    assert np.flatnonzero(~made.is_visible).tolist() == [1, 3]
    (tmp_path / "cat.absent.txt").write_text("0\n1\n")
    with pytest.raises(DatasetError, match=r"cat\.absent\.txt: got 2 flags; expected 23"):
        video_footage(path)


def test_videos_with_a_text_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MOV", "c.mkv", "d.mp3"):
        write(tmp_path / name, b"")
    for name in ("b.txt", "a.txt", "d.txt", "e.txt"):
        write(tmp_path / name, "1,2,3,4\n")
    assert [path.name for path in annotated_videos(tmp_path)] == ["a.MOV", "b.mp4"]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_video_with_another_number_of_rows(tmp_path: Path, change: int) -> None:
    path = film(tmp_path / "cat.mp4")
    write(path.with_suffix(".txt"), "1,2,3,4\n" * (NUM_FRAMES + change))
    made = video_footage(path)
    with pytest.raises(DatasetError, match=rf"cat\.txt: got {NUM_FRAMES + change} rows for 23 frames of cat\.mp4"):
        list(made.read_all())
    with pytest.raises(VideoError, match=rf"cat\.mp4: got 23 frames; expected {NUM_FRAMES + change}"):
        made.read(3)


def test_a_damaged_frame_of_a_video_is_an_error_alone_and_in_order(tmp_path: Path) -> None:
    path = film(tmp_path / "cat.mp4", bf="0")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    place, size = packets[7]
    data[place + 4 : place + size] = bytes(size - 4)
    path.write_bytes(data)
    made = video_footage(path)
    with pytest.raises(VideoError, match=r"cat\.mp4, frame 7"):
        list(made.read_all())
    with pytest.raises(VideoError, match=r"cat\.mp4, frame 7"):
        made.read(7)
    assert made.read(4).shape == (64, 64, 3)


def test_a_text_beside_no_video(tmp_path: Path) -> None:
    write(tmp_path / "cat.txt", "1,2,3,4\n")
    write(tmp_path / "cat.mp4", b"no film")
    made = video_footage(tmp_path / "cat.mp4")
    for read in (lambda: made.read(0), lambda: list(made.read_all())):
        with pytest.raises(VideoError, match=r"cat\.mp4"):
            read()
