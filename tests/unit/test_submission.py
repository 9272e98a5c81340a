"""Archives for servers: what is in them, to the byte, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sightline.datasets.mot_text import MotRows, read_mot_result
from sightline.datasets.tao_json import parse_ground_truth, parse_results
from sightline.errors import DatasetError
from sightline.evaluation.run import Tracked
from sightline.evaluation.submission import archive_name, one_shot_note, write_boxes, write_mot, write_tao
from sightline.trackers.zoo import ZOO

BOXES = np.array([[1, 2, 30.5, 40], [1.0004, 2.0005, 30.12345, 40], [-3.456, 0, 7, 8]])
NAMES = ["GOT-10k_Test_000001", "GOT-10k_Test_000002"]
LENGTHS = dict.fromkeys(NAMES, 3)


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def tracked(runs: int = 1, times: bool = True) -> Tracked:
    return Tracked((BOXES,) * runs, np.full((3, runs), 0.0123456789) if times else None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.zip"


def test_got10k_takes_three_decimals_a_folder_for_each_sequence_and_times(path: Path) -> None:
    write_boxes(path, "got10k", {NAMES[0]: tracked(), NAMES[1]: tracked(runs=2)}, LENGTHS, NAMES)
    found = contents(path)
    first, second = NAMES
    assert list(found) == [
        f"{first}/{first}_001.txt",
        f"{first}/{first}_time.txt",
        f"{second}/{second}_001.txt",
        f"{second}/{second}_002.txt",
        f"{second}/{second}_time.txt",
    ]
    assert found[f"{first}/{first}_001.txt"] == (
        "1.000,2.000,30.500,40.000\n1.000,2.001,30.123,40.000\n-3.456,0.000,7.000,8.000\n"
    )
    assert found[f"{first}/{first}_time.txt"] == "0.012346\n" * 3
    assert found[f"{second}/{second}_time.txt"] == "0.012346,0.012346\n" * 3


def test_trackingnet_takes_two_decimals_and_no_folder(path: Path) -> None:
    write_boxes(path, "trackingnet", {"a-b_0": tracked(times=False)}, {"a-b_0": 3}, ["a-b_0"])
    assert contents(path) == {"a-b_0.txt": "1.00,2.00,30.50,40.00\n1.00,2.00,30.12,40.00\n-3.46,0.00,7.00,8.00\n"}


def test_the_same_results_make_the_same_bytes(path: Path, tmp_path: Path) -> None:
    results = {name: tracked() for name in NAMES}
    write_boxes(path, "got10k", results, LENGTHS, NAMES)
    write_boxes(tmp_path / "y.zip", "got10k", results, LENGTHS, NAMES)
    assert path.read_bytes() == (tmp_path / "y.zip").read_bytes()


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ({NAMES[0]: tracked()}, r"results of 1 of 2 sequences; expected all, without GOT-10k_Test_000002\."),
        ({NAMES[0]: tracked(), NAMES[1]: tracked(times=False)}, r"without GOT-10k_Test_000002 \(times\)"),
        (
            {NAMES[0]: tracked(), NAMES[1]: Tracked((BOXES[:2],), np.ones((2, 1)))},
            "got 2 rows of .*2; expected 3 boxes",
        ),
        ({NAMES[0]: tracked(), NAMES[1]: Tracked((BOXES * np.nan,), np.ones((3, 1)))}, "rows that are not finite"),
        ({NAMES[0]: tracked(), NAMES[1]: Tracked((BOXES,), np.ones((2, 1)))}, r"times \(2, 1\) .*expected \(3, 1\)"),
    ],
)
def test_what_is_not_complete_is_refused_and_nothing_is_left(
    path: Path, results: dict[str, Tracked], sentence: str
) -> None:
    with pytest.raises(DatasetError, match=sentence):
        write_boxes(path, "got10k", results, LENGTHS, NAMES)
    assert list(path.parent.iterdir()) == []


def test_a_long_list_of_what_is_missing_is_cut(path: Path) -> None:
    names = [f"s{n}" for n in range(180)]
    with pytest.raises(DatasetError, match=r"of 1 of 180 .* without s0, s1, .*s10 and 169 more\. Complete"):
        write_boxes(path, "trackingnet", {"s7": tracked()}, dict.fromkeys(names, 3), names)


def test_motchallenge_takes_ten_columns_in_the_order_of_frames(path: Path) -> None:
    rows = MotRows(np.array([1, 0, 0]), np.array([3, 9, 2]), BOXES, np.array([0.9, -1, 1]), np.ones(3, dtype=np.int64))
    empty = MotRows(*(column[:0] for column in rows))
    write_mot(path, {"MOT17-01-DPM": rows, "MOT17-01-SDP": empty}, ["MOT17-01-DPM", "MOT17-01-SDP"])
    found = contents(path)
    assert found["MOT17-01-DPM.txt"] == (
        "1,2,-3.456,0.00,7.00,8.00,1.00,-1,-1,-1\n"
        "1,9,1.0004,2.0005,30.12345,40.00,-1.00,-1,-1,-1\n"
        "2,3,1.00,2.00,30.50,40.00,0.90,-1,-1,-1\n"
    )
    assert found["MOT17-01-SDP.txt"] == ""
    with pytest.raises(DatasetError, match="without MOT17-02-DPM"):
        write_mot(path, {"MOT17-01-DPM": rows}, ["MOT17-01-DPM", "MOT17-02-DPM"])


def test_what_is_written_for_motchallenge_reads_back_the_same(path: Path, tmp_path: Path) -> None:
    rows = MotRows(np.array([0, 0, 1]), np.array([2, 9, 3]), BOXES, np.array([1.0, 0.5, 0]), np.ones(3, dtype=np.int64))
    write_mot(path, {"a": rows}, ["a"])
    (tmp_path / "a.txt").write_text(contents(path)["a.txt"])
    for ours, back in zip(rows, read_mot_result(tmp_path / "a.txt"), strict=True):
        np.testing.assert_array_equal(ours, back)


def test_tao_takes_one_list_with_the_video_of_every_image(path: Path) -> None:
    truth = parse_ground_truth(
        {
            "videos": [{"id": 7, "name": "v", "neg_category_ids": []}],
            "images": [{"id": 1, "video_id": 7, "frame_index": 0, "file_name": "a.jpg"}],
            "categories": [{"id": 4, "name": "cat"}],
            "annotations": [],
        },
        Path("gt.json"),
    )
    rows = [{"image_id": 1, "category_id": 4, "track_id": 5, "bbox": [1, 2.5, 3, 4], "score": 0.25}]
    write_tao(path, parse_results(rows, truth, Path("r"), has_tracks=True), truth, "val")
    found = contents(path)
    assert list(found) == ["TAO_val.json"]
    assert json.loads(found["TAO_val.json"]) == [{**rows[0], "video_id": 7}]
    with pytest.raises(DatasetError, match="got no box"):
        write_tao(path, parse_results([], truth, Path("r"), has_tracks=True), truth, "val")
    unknown = parse_results([{**rows[0], "category_id": 9}], truth, Path("r"), has_tracks=True)
    with pytest.raises(DatasetError, match="got category 9; expected one of TAO's"):
        write_tao(path, unknown, truth, "val")


def test_only_models_trained_on_got10k_alone_are_one_shot() -> None:
    notes = {name: one_shot_note("got10k", name) for name in ZOO}
    one_shot = {name for name, note in notes.items() if not note}
    assert one_shot == {"ostrack-256-ce-got10k", "ostrack-384-ce-got10k", "mvt"}
    assert {note for name, note in notes.items() if name not in one_shot} == {"not one-shot"}
    assert one_shot_note("got10k", None) == one_shot_note("got10k", "kcf") == "training data not known"
    assert one_shot_note("lasot", "sightline-nano") == ""


def test_the_name_of_an_archive_says_so() -> None:
    note = one_shot_note("got10k", "sightline-nano")
    assert archive_name("sightline-nano", "got10k", "test", note) == "sightline-nano-got10k-test-not-one-shot.zip"
    assert archive_name("mvt", "got10k", "test", one_shot_note("got10k", "mvt")) == "mvt-got10k-test.zip"
    assert archive_name("../my tracker: 2", "got10k", "test") == "my-tracker-2-got10k-test.zip"
