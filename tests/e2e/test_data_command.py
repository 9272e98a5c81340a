"""`sightline data`: the table, and the check with its exit statuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from sightline.cli import main
from sightline.datasets.table import DATASETS
from tests.e2e.scene import command
from tests.trees import images, mot_sequence, numbered, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SIGHTLINE_DATA", raising=False)


def own(root: Path, rows: str = "1,2,3,4\n5,6,7,8\n") -> Path:
    write(root / "cat" / "groundtruth.txt", rows)
    images(root / "cat" / "img", numbered(2))
    return root


def test_the_table_names_every_data_set_and_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setenv("COLUMNS", "240")
    (tmp_path / "data" / "LaSOT").mkdir(parents=True)
    assert main(["data"]) == 0
    told = capsys.readouterr().out
    for name, row in DATASETS.items():
        assert re.search(rf"^{name} +{re.escape(row.title)} ", told, re.MULTILINE), name
    assert re.search(r"^lasot .*test 280, train 1120 *$", told, re.MULTILINE)
    assert main(["data", "--data", str(tmp_path / "data")]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"^lasot .*train 1120 +{tmp_path}/data/LaSOT *$", told, re.MULTILINE)
    assert re.search(r"^got10k .*train 9335 *$", told, re.MULTILINE)


def test_a_clean_copy(tmp_path: Path, capsys: Capture):
    for arguments in (["--data", str(own(tmp_path))], ["--data", str(tmp_path), "--images", "--split", "all"]):
        assert main(["data", "check", "folder", *arguments]) == 0
        assert capsys.readouterr() == ("folder all: 1 sequence, 2 frames, 0 findings\n", "")


def test_findings_and_notes(tmp_path: Path, capsys: Capture):
    own(tmp_path / "bad", "1,2,0,4\n60,6,70,8\n")
    assert main(["data", "check", "folder", "--data", str(tmp_path / "bad")]) == 1
    lines = capsys.readouterr().out.splitlines()
    where = tmp_path / "bad" / "cat" / "groundtruth.txt"
    assert lines == [
        f"{where}:1: box 1,2,0,4 has no area, and nothing says that the target is gone",
        f"note: {where}:2: box 60,6,70,8 reaches beyond the image, 64 x 48 pixels",
        "folder all: 1 sequence, 2 frames, 1 finding, 1 note",
    ]
    own(tmp_path / "odd", "1,2,3,4\n60,6,70,8\n")
    assert main(["data", "check", "folder", "--data", str(tmp_path / "odd")]) == 0  # a note is no fault


def test_splits_of_which_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    for name in ("MOT20-01", "MOT20-02", "MOT20-03", "MOT20-05"):
        mot_sequence(tmp_path / "MOT20" / "train" / name)
    monkeypatch.setenv("SIGHTLINE_DATA", str(tmp_path))
    assert main(["data", "check", "MOT20"]) == 0
    assert capsys.readouterr().out == "mot20 train: 4 sequences, 20 frames, 0 findings\nmot20 test: not here\n"
    assert main(["data", "check", "mot20", "--split", "half-val"]) == 0
    assert capsys.readouterr().out == "mot20 half-val: 4 sequences, 8 frames, 0 findings\n"
    (tmp_path / "MOT20" / "train" / "MOT20-02" / "gt" / "gt.txt").write_text("1,1,1,2,3,4,1,1,1\n1,1,1,2,3,4,1,1,1\n")
    assert main(["data", "check", "mot20"]) == 1
    assert "MOT20-02/gt/gt.txt:2: the id of line 1 again in the same frame\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check"], "error: data check: got no name; expected one of the table. Run: sightline data\n"),
        (["chek", "lasot"], "error: data: got ['chek', 'lasot']; expected nothing, check NAME or pack SOURCE"),
        (["check", "lasot"], "error: data root: got none; expected --data, SIGHTLINE_DATA, or data in "),
        (["check", "lasott", "--data", "."], "error: data set: got 'lasott'; expected one of lasot, "),
        (
            ["check", "lasot", "--data", "."],
            "error: lasot test: got nothing of it in .; expected 280 sequences, such as",
        ),
        (
            ["check", "lasot", "--data", ".", "--split", "v"],
            "error: split of lasot: got 'v'; expected one of test, train",
        ),
        (["check", "coco", "--data", "nowhere"], "error: data root: got nowhere, which is no folder"),
        (["--data", "nowhere"], "error: data root: got nowhere, which is no folder"),
        (["check", "images", "--data", "."], "error: images all: annotations.json: got "),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith(sentence) and told.err.count("\n") == 1


def test_one_file_that_cannot_be_read_is_a_finding(tmp_path: Path, capsys: Capture):
    path = write(tmp_path / "annotations.json", "{")
    assert main(["data", "check", "images", "--data", str(tmp_path)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}: got 'Expecting property name") and last.startswith("images all: 1 finding")


def test_it_loads_no_torch_and_tells_status_as_a_process(tmp_path: Path):
    done = command(["data", "check", "folder", "--data", str(own(tmp_path, "1,2,3,4\nnan,1,2,3\n"))])
    assert (done.returncode, done.stderr) == (1, "")
    assert "groundtruth.txt:2: box nan,1,2,3 is no box" in done.stdout


@pytest.mark.shared
def test_the_shared_sequences_every_frame(shared: Path, capsys: Capture):
    assert main(["data", "check", "folder", "--data", str(shared / "data" / "sot"), "--split", "val", "--images"]) == 0
    assert capsys.readouterr().out == "folder val: 14 sequences, 2,091 frames, 0 findings\n"
    assert main(["data", "check", "mot", "--data", str(shared / "data" / "mot")]) == 0
    assert capsys.readouterr().out == "mot all: 1 sequence, 500 frames, 0 findings\n"


def test_a_bar_on_a_terminal_and_rows_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    root = own(tmp_path, "1,2,0,4\n5,6,7,8\n")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["data", "check", "folder", "--data", str(root)]) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2 and "0/1" in told.err and "1/1" in told.err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert main(["data", "check", "folder", "--data", str(root)]) == 1
    assert capsys.readouterr() == (told.out, "")
