"""MOTChallenge and KITTI text: what is taken, and what is refused with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from sightline.datasets.mot_text import FileRows, read_kitti, read_mot_result, read_mot_truth
from sightline.errors import DatasetError
from sightline.evaluation.mot_preprocess import MOT_RULES, motchallenge

ROW = "1,2,10,20,30,40,1,-1,-1,-1"
TRUTH = "1,1,912,484,97,109,0,7,1"
KITTI = "0 3 Car 0 1 -1.6 296.7 161.7 455.2 292.3 2.0 1.8 4.4 -4.5 1.8 13.4 -2.1"


def file(folder: Path, content: str | bytes, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_result(tmp_path) -> None:
    rows = read_mot_result(file(tmp_path, "2,7,1.5,-2,3e1,4.25,0.5,-1,-1,-1\n1,9,0,0,1,1,.5,-1,-1,-1\n"))
    assert rows.frame.tolist() == [1, 0]  # from 0, in the order of the file
    assert rows.track_id.tolist() == [7, 9]
    assert rows.xywh.tolist() == [[1.5, -2, 30, 4.25], [0, 0, 1, 1]]
    assert rows.mark.tolist() == [0.5, 0.5]
    assert rows.class_id.tolist() == [1, 1]
    assert (rows.frame.dtype, rows.track_id.dtype, rows.xywh.dtype) == (np.int64, np.int64, np.float64)


@pytest.mark.parametrize("columns", range(6, 11))
def test_a_result_has_six_to_ten_columns(tmp_path, columns) -> None:
    path = file(tmp_path, ",".join(ROW.split(",")[:columns]))
    assert read_mot_result(path).xywh.tolist() == [[10, 20, 30, 40]]


def test_ground_truth(tmp_path) -> None:
    rows = read_mot_truth(file(tmp_path, f"{TRUTH}\n5,2,1,2,3,4,1,1,0.25\n"), num_frames=5)
    assert (rows.frame.tolist(), rows.mark.tolist(), rows.class_id.tolist()) == ([0, 4], [0, 1], [7, 1])
    mot15 = file(tmp_path, "1,2,181,95,75.808,227.01,1,4.4091,4.4283,0\n")
    assert read_mot_truth(mot15, has_class=False).class_id.tolist() == [1]
    with pytest.raises(DatasetError, match=r"a.txt:1: got class 4.409\S*; expected a whole number"):
        read_mot_truth(mot15)


def test_kitti(tmp_path) -> None:
    region = "1 -1 DontCare -1 -1 -10 0 0 9 9 -1000 -1000 -1000 -10 -1 -1 -1"
    rows = read_kitti(file(tmp_path, f"{KITTI}\n{region}\n{region}\n"), num_frames=2)
    assert rows.frame.tolist() == [0, 1, 1]
    assert rows.track_id.tolist() == [3, -1, -1]
    assert rows.kind.tolist() == ["car", "dontcare", "dontcare"]
    assert (rows.truncated.tolist(), rows.occluded.tolist()) == ([0, -1, -1], [1, -1, -1])
    assert rows.xyxy[0].tolist() == [296.7, 161.7, 455.2, 292.3]
    scored = read_kitti(file(tmp_path, KITTI.replace("Car 0", "Car 0.9") + " 0.5\n"))
    assert scored.truncated.tolist() == [0]  # cut, not rounded


@pytest.mark.parametrize(
    "content",
    [
        f"{ROW}\n{ROW.replace('1,2', '2,2')}",
        f"\ufeff{ROW}\n{ROW.replace('1,2', '2,2')}\n",
        f"{ROW}\r\n{ROW.replace('1,2', '2,2')}\r\n",
        f"{ROW}\n{ROW.replace('1,2', '2,2')}\n\n \n",
        f"{ROW}, \n{ROW.replace('1,2', '2,2')},\n",
        f"{ROW}  \n{ROW.replace('1,2', '2,2')}\t\n",
        f"{ROW}\n{ROW.replace('1,2', '2,2')}\n".replace(",", ", "),
        f"{ROW}\n{ROW.replace('1,2', '2,2')}\n".replace(",", " "),
        f"{ROW}\n{ROW.replace('1,2', '2,2')}\n".replace(",", "\t"),
        f" {ROW}\n  {ROW.replace('1,2', '2,2')}\n",
        f"{ROW.replace(',', '.0,')}\n{ROW.replace('1,2', '2e0,+2')}\n",
    ],
    ids=[
        "no line end",
        "byte order mark",
        "CRLF",
        "blank lines at the end",
        "delimiter at the end",
        "blanks at the end",
        "blanks around",
        "blanks",
        "tabs",
        "indented",
        "numbers written otherwise",
    ],
)
def test_the_same_rows_in_other_words(tmp_path, content) -> None:
    rows = read_mot_result(file(tmp_path, content))
    assert (rows.frame.tolist(), rows.track_id.tolist()) == ([0, 1], [2, 2])
    assert rows.xywh.tolist() == [[10, 20, 30, 40]] * 2
    assert rows.mark.tolist() == [1, 1]


@pytest.mark.parametrize("content", ["", "\n", "\ufeff", " \r\n\n"])
def test_an_empty_file_has_no_rows(tmp_path, content) -> None:
    path = file(tmp_path, content)
    for rows in (read_mot_result(path), read_mot_truth(path), read_mot_truth(path, has_class=False), read_kitti(path)):
        assert [len(column) for column in rows] == [0] * len(rows)
        assert rows[-1].shape == ((0, 4) if len(rows) == 6 else (0,))


def test_large_ids(tmp_path) -> None:
    ids = [10**9, 0, -5, 2**53 - 1]
    path = file(tmp_path, "".join(f"1,{track_id},0,0,9,9,1\n" for track_id in ids))
    assert read_mot_result(path).track_id.tolist() == ids


def test_a_text_that_is_named_like_an_archive(tmp_path) -> None:
    for name in ("a.txt.gz", "a.xz", "a.bz2"):
        assert len(read_mot_result(file(tmp_path, ROW, name)).frame) == 1
    with pytest.raises(DatasetError, match=r"b.gz: .*; expected a file of UTF-8 text"):
        read_mot_result(file(tmp_path, gzip.compress(ROW.encode()), "b.gz"))


REFUSED = [
    ("1,2,3\n", "1: got 3 columns; expected 6 to 10: frame, id, x, y, w, h"),
    (f"{ROW},1\n", "1: got 11 columns; expected 6 to 10"),
    (f"{ROW}\n2,2,10,20,30,40,1\n", "2: got 7 columns; expected 10, as in line 1"),
    (f"{ROW}\n2,2,10,20\n{ROW}\n", r"2: got 4 columns; expected 10, as in line 1\. Correct"),
    (f"1,2,1,2,3,4\n{ROW}\n", "2: got 10 columns; expected 6, as in line 1"),
    (f"{ROW}\n{ROW.replace(',', ' ')}\n", "2: got 1 columns; expected 10, as in line 1"),
    (f"{ROW.replace(',', ' ')}\n{ROW}\n", "2: got 1 columns; expected 10, as in line 1"),
    (f"{ROW}\n1 2,3,10,20,30,40,1,-1,-1,-1\n", "2: got frame '1 2'; expected a number, commas between columns"),
    ("1;2;10;20;30;40\n", "1: got 1 columns; .*, with commas or blanks as the delimiter, not semicolons. Correct"),
    (f"{ROW}\n{ROW.replace(',', ';')}\n", "2: got 1 columns; .*, and the same delimiter, commas, in every line"),
    (f"{ROW}\n{ROW.replace(',', ' ')}\n", "2: got 1 columns; .*, and the same delimiter, commas, in every line"),
    (f"{ROW.replace(',', ' ')}\n{ROW}\n", "2: got 1 columns; .*, and the same delimiter, blanks, in every line"),
    (f"{ROW}\n2,2,a,20,30,40,1,-1,-1,-1\n", "2: got x 'a'; expected a number"),
    (f"{ROW}\n2,2,,20,30,40,1,-1,-1,-1\n", "2: got x ''; expected a number"),
    (f"{ROW}\n2,2,1_0,20,30,40,1,-1,-1,-1\n", "2: got x '1_0'; expected a number"),
    (f"{ROW}\n2,2,0x1,20,30,40,1,-1,-1,-1\n", "2: got x '0x1'; expected a number"),
    (f"{ROW}\n# a comment\n", "2: got 1 columns"),
    (f"frame,id,x,y,w,h\n{ROW}\n", "1: got frame 'frame'; expected a number"),
    (f"{ROW}\n\n{ROW}\n", "2: got a blank line; expected a row of numbers"),
    (f"\n{ROW}\n", "1: got a blank line"),
    (f"{ROW}\n2,2,nan,20,30,40,1,-1,-1,-1\n", "2: got x nan; expected a finite number"),
    (f"{ROW}\n2,2,10,20,inf,40,1,-1,-1,-1\n", "2: got w inf; expected a finite number"),
    (f"{ROW}\n2,2,10,20,30,1e400,1,-1,-1,-1\n", "2: got h inf; expected a finite number"),
    (f"{ROW}\n2,2,10,20,30,40,-nan,-1,-1,-1\n", r"2: got mark -?nan; expected a finite number"),
    (f"{ROW}\n2,2,1e10,20,30,40,1,-1,-1,-1\n", "2: got x 10000000000; expected a finite number of at most 1e"),
    (f"{ROW}\nnan,2,10,20,30,40,1,-1,-1,-1\n", "2: got frame nan; expected a whole number in 1.."),
    (f"{ROW}\n0,2,10,20,30,40,1,-1,-1,-1\n", "2: got frame 0; expected a whole number in 1..9: frames count from 1"),
    (f"{ROW}\n10,2,10,20,30,40,1,-1,-1,-1\n", "2: got frame 10; expected a whole number in 1..9"),
    (f"{ROW}\n2.5,2,10,20,30,40,1,-1,-1,-1\n", "2: got frame 2.5; expected a whole number"),
    (f"{ROW}\n2,912.25,10,20,30,40,1,-1,-1,-1\n", "2: got id 912.25; expected a whole number"),
    (f"{ROW}\n2,1e17,10,20,30,40,1,-1,-1,-1\n", "2: got id 1e.17; expected a whole number"),
    (f"{ROW}\n2,2,10,20,30,40,1,2,-1,-1\n", "2: got class 2; expected a whole number in -2147483648..1"),
    (
        f"{ROW}\n3,5,1,1,1,1,1,-1,-1,-1\n2,5,1,1,1,1,1,-1,-1,-1\n3,5,9,9,9,9,1,-1,-1,-1\n{ROW}\n",
        "4: got id 5 of line 2 again in the same frame; expected one box per id and frame",
    ),
    (f"{ROW}\r{ROW}\n", "1: got 19 columns"),
    (f"{ROW}\n2,2,1\0,20,30,40,1,-1,-1,-1\n", "2: got x '1.x00'; expected a number"),
]


@pytest.mark.parametrize(("content", "sentence"), REFUSED)
def test_what_is_refused_with_its_line(tmp_path, content, sentence) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path / 'a.txt'}:{sentence}"):
        read_mot_result(file(tmp_path, content), num_frames=9)


def test_what_is_no_text(tmp_path) -> None:
    for content in (b"\xff\xfe1\x00,\x00", b"1,2,\x80", bytes(range(128, 256))):
        with pytest.raises(DatasetError, match="a.txt: .*; expected a file of UTF-8 text"):
            read_mot_result(file(tmp_path, content))
    for path in (tmp_path / "nowhere.txt", tmp_path):
        with pytest.raises(DatasetError, match=f"{path}: .*; expected a file of UTF-8 text. Check the path"):
            read_mot_truth(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (KITTI.rpartition(" ")[0], "1: got 16 columns; expected 17 to 18: frame, id, type, truncated"),
        (f"{KITTI}\n{KITTI} 1", "2: got 18 columns; expected 17, as in line 1"),
        (f"{KITTI}\n\n{KITTI}", "2: got a blank line"),
        (f"{KITTI}\n{KITTI}", "2: got id 3 of line 1 again"),
        (KITTI.replace("161.7", "nan"), "1: got y1 nan; expected a finite number"),
        (KITTI.replace("0 3 Car", "0 Car 3"), "1: got id 'Car'; expected a number, blanks between columns"),
        (KITTI.replace("0 3", "5 3"), "1: got frame 5; expected a whole number in 0..4"),
    ],
)
def test_what_is_refused_of_kitti(tmp_path, content, sentence) -> None:
    with pytest.raises(DatasetError, match=f"a.txt:{sentence}"):
        read_kitti(file(tmp_path, content), num_frames=5)


def test_short_ground_truth_is_refused(tmp_path) -> None:
    path = file(tmp_path, "1,2,10,20,30,40,1\n")
    with pytest.raises(DatasetError, match="1: got 7 columns; expected 8 to 10: frame, id, x, y, w, h, mark, class"):
        read_mot_truth(path)
    assert len(read_mot_truth(path, has_class=False).frame) == 1
    with pytest.raises(DatasetError, match="1: got 6 columns; expected 7 to 10"):
        read_mot_truth(file(tmp_path, "1,2,10,20,30,40\n"), has_class=False)


def test_no_frames_at_all(tmp_path) -> None:
    with pytest.raises(DatasetError, match="1: got frame 1; expected a whole number in 1..0"):
        read_mot_result(file(tmp_path, ROW), num_frames=0)


def test_a_frame_beyond_a_half_is_told_how_frames_count(tmp_path) -> None:
    path = file(tmp_path, ROW.replace("1,", "300,", 1))
    with pytest.raises(DatasetError, match=r"got frame 300; expected .* in 1..299: frames of a half are counted anew"):
        read_mot_result(path, 299, is_of_half=True)
    with pytest.raises(DatasetError, match=r"got frame 300; expected .* in 1..299: frames count from 1\."):
        read_mot_result(path, 299)


def test_a_class_that_does_not_exist_is_told_with_file_and_line(tmp_path) -> None:
    rows = read_mot_truth(file(tmp_path, "1,1,9,9,9,9,1,1,1\n2,1,9,9,9,9,1,1,1\n3,1,9,9,9,9,1,-1,1\n"))
    assert isinstance(rows, FileRows)
    result = read_mot_result(file(tmp_path, "1,1,9,9,9,9\n", "b.txt"))
    for truth in (rows, rows.take(rows.frame >= 1, 1)):  # of a part, the line is still the file's
        with pytest.raises(DatasetError, match=rf"^{tmp_path}/a.txt:3: got class -1; expected 1..13. Correct the line"):
            motchallenge(truth, result, 3, MOT_RULES["MOT17"])
