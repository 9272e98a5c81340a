"""Results on disk: what each format holds, what is left when a run breaks off, and what others may read meanwhile."""

from __future__ import annotations

import csv
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.errors import MissingExtra, VideoError
from sightline.results import ROW_GROUP, SUFFIXES, open_results
from sightline.types import Frame, TrackResult

NAN = math.nan
SUMMARY = {"model": "a-model", "num_frames": 3, "stages_ms": {"network": {"median": 1.5}}}
LIVE = (".txt", ".csv", ".json", ".jsonl")
HEADER = "frame_index,time_s,target_id,x,y,w,h,score,presence"


def found(index: int, num_targets: int = 2, time_s: float | None = None) -> list[TrackResult]:
    """Two targets on frame `index`; the second is uncertain."""
    first = TrackResult(index, time_s, 1, (100.0, 50.25, 40.0, 1 / 3), 0.875, "tracked")
    second = TrackResult(index, time_s, 2, (index + 0.1234567, -2.0, 30.0, 60.0), 0.25, "uncertain")
    return [first, second][:num_targets]


def frame_of(results: list[TrackResult]) -> Frame:
    return Frame(results[0].frame_index, results[0].time_s, None, results[0].error)


def unreadable(index: int, num_targets: int = 2) -> list[TrackResult]:
    return [TrackResult(index, 0.04, i + 1, (NAN,) * 4, NAN, "uncertain", "damaged.") for i in range(num_targets)]


def write(path: Path, num_targets: int = 2, is_live: bool = False) -> Path:
    """Frames 7, 8 (unreadable) and 9, of which one knows its time."""
    with open_results(path, num_targets, is_live) as sink:
        for results in (found(7, num_targets, 0.0), unreadable(8, num_targets), found(9, num_targets)):
            sink.write(frame_of(results), results)
        sink.close(SUMMARY)
    return path


@pytest.mark.parametrize("is_live", [False, True])
def test_text_holds_what_benchmarks_read(tmp_path: Path, is_live: bool):
    one = write(tmp_path / "one.txt", 1, is_live).read_text()
    assert one == "100.00,50.25,40.00,0.333333\nnan,nan,nan,nan\n100.00,50.25,40.00,0.333333\n"
    two = write(tmp_path / "two.TXT", 2, is_live).read_text()
    assert two == (
        "8,1,100.00,50.25,40.00,0.333333,0.8750,-1,-1,-1\n8,2,7.123457,-2.00,30.00,60.00,0.2500,-1,-1,-1\n"
        "10,1,100.00,50.25,40.00,0.333333,0.8750,-1,-1,-1\n10,2,9.123457,-2.00,30.00,60.00,0.2500,-1,-1,-1\n"
    )


@pytest.mark.parametrize("is_live", [False, True])
def test_csv_is_a_table_with_empty_cells_for_what_is_unknown(tmp_path: Path, is_live: bool):
    text = write(tmp_path / "boxes.csv", 2, is_live).read_bytes().decode()
    assert text == (
        f"{HEADER}\n"
        "7,0.00,1,100.00,50.25,40.00,0.333333,0.875,tracked\n"
        "7,0.00,2,7.123457,-2.00,30.00,60.00,0.25,uncertain\n"
        "8,0.04,1,,,,,,uncertain\n"
        "8,0.04,2,,,,,,uncertain\n"
        "9,,1,100.00,50.25,40.00,0.333333,0.875,tracked\n"
        "9,,2,9.123457,-2.00,30.00,60.00,0.25,uncertain\n"
    )
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["presence"] for row in rows if row["x"]] == ["tracked", "uncertain"] * 2


def test_json_holds_everything(tmp_path: Path):
    told = json.loads(write(tmp_path / "boxes.json").read_text())
    frames = told.pop("frames")
    assert told == SUMMARY
    assert frames[0] == {
        "frame_index": 7,
        "time_s": 0.0,
        "targets": [
            {"id": 1, "xywh": [100.0, 50.25, 40.0, 0.333333], "score": 0.875, "presence": "tracked"},
            {"id": 2, "xywh": [7.123457, -2.0, 30.0, 60.0], "score": 0.25, "presence": "uncertain"},
        ],
    }
    assert frames[1] == {"frame_index": 8, "time_s": 0.04, "error": "damaged.", "targets": []}
    assert [frames[2]["time_s"], len(frames)] == [None, 3]


@pytest.mark.parametrize(("suffix", "is_live"), [(".jsonl", False), (".jsonl", True), (".json", True)])
def test_json_lines_are_the_frames_of_json_and_a_summary(tmp_path: Path, suffix: str, is_live: bool):
    *frames, last = map(json.loads, write(tmp_path / f"lines{suffix}", 2, is_live).read_text().splitlines())
    assert frames == json.loads(write(tmp_path / "whole.json").read_text())["frames"]
    assert last == {"summary": SUMMARY}


def test_a_score_that_is_nan_is_no_number(tmp_path: Path):
    """JSON has no nan, and a table would count it."""
    unsure = TrackResult(0, 0.0, 1, (1.0, 2.0, 3.0, 4.0), NAN, "tracked")
    for name in ("boxes.json", "boxes.jsonl", "boxes.csv"):
        with open_results(tmp_path / name, 1) as sink:
            sink.write(frame_of([unsure]), [unsure])
            sink.close({})
    assert json.loads((tmp_path / "boxes.json").read_text())["frames"][0]["targets"][0]["score"] is None
    assert "NaN" not in (tmp_path / "boxes.jsonl").read_text()
    assert (tmp_path / "boxes.csv").read_text().splitlines()[1] == "0,0.00,1,1.00,2.00,3.00,4.00,,tracked"


@pytest.mark.extras
def test_parquet_is_the_same_table_with_types_and_the_summary(tmp_path: Path):
    import pyarrow.parquet

    path = write(tmp_path / "boxes.parquet")
    table = pyarrow.parquet.read_table(path)
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    doubles = dict.fromkeys(("x", "y", "w", "h", "score"), "double")
    assert types == {
        "frame_index": "int64",
        "time_s": "double",
        "target_id": "int32",
        **doubles,
        "presence": "string",
    }
    assert ",".join(types) == HEADER
    rows = table.to_pylist()
    assert rows[1] == {
        "frame_index": 7,
        "time_s": 0.0,
        "target_id": 2,
        "x": 7.1234567,
        "y": -2.0,
        "w": 30.0,
        "h": 60.0,
        "score": 0.25,
        "presence": "uncertain",
    }
    assert [row["frame_index"] for row in rows] == [7, 7, 8, 8, 9, 9]
    assert [row["x"] is None for row in rows] == [False, False, True, True, False, False]
    assert rows[2]["score"] is None and rows[4]["time_s"] is None
    assert json.loads(pyarrow.parquet.read_metadata(path).metadata[b"sightline"]) == SUMMARY


@pytest.mark.extras
def test_parquet_writes_row_groups_as_they_fill(tmp_path: Path):
    import pyarrow.parquet

    path = tmp_path / "boxes.parquet"
    num_frames = ROW_GROUP + 10  # two targets: two full row groups and the rest
    with open_results(path, 2, is_live=True) as sink:
        for index in range(num_frames):
            sink.write(frame_of(found(index)), found(index))
            assert len(sink.rows) < ROW_GROUP
        (partial,) = tmp_path.iterdir()  # not under its name before the end, live or not
        assert partial.name != path.name and partial.stat().st_size > 10_000
        sink.close(SUMMARY)
    described = pyarrow.parquet.read_metadata(path)
    assert [described.row_group(i).num_rows for i in range(described.num_row_groups)] == [ROW_GROUP, ROW_GROUP, 20]
    assert pyarrow.parquet.read_table(path)["frame_index"].to_pylist() == [i for i in range(num_frames) for _ in "ab"]


def test_parquet_without_pyarrow_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    sentence = r"need pyarrow, which is not installed. Run: pip install 'sightline\[parquet\]'"
    with pytest.raises(MissingExtra, match=sentence), open_results(tmp_path / "boxes.parquet", 1):
        pytest.fail("opened")
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused(tmp_path: Path):
    for name in ("boxes.xlsx", "boxes"):
        sentence = r"got suffix '.*'; expected .txt, .csv, .json, .jsonl or .parquet. Rename it"
        with pytest.raises(VideoError, match=sentence), open_results(tmp_path / name, 1):
            pytest.fail("opened")
    assert list(tmp_path.iterdir()) == []


# What is left when a run breaks off


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".parquet"])
def test_a_run_that_breaks_off_leaves_nothing(tmp_path: Path, suffix: str):
    assert_nothing_is_left(tmp_path, suffix)


@pytest.mark.extras
def test_a_run_that_breaks_off_leaves_no_parquet(tmp_path: Path):
    assert_nothing_is_left(tmp_path, ".parquet")


def assert_nothing_is_left(folder: Path, suffix: str) -> None:
    def break_off() -> None:
        with open_results(folder / f"boxes{suffix}", 2) as sink:
            for index in range(3000):
                sink.write(frame_of(found(index)), found(index))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("suffix", LIVE)
def test_a_live_file_can_be_followed_line_by_line_and_stays(tmp_path: Path, suffix: str):
    path = tmp_path / f"rows{suffix}"
    seen = [""]

    def follow_until_interrupted() -> None:
        with open_results(path, 2, is_live=True) as sink:
            for index in range(3):
                sink.write(frame_of(found(index)), found(index))
                seen.append(path.read_text())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow_until_interrupted()
    for index, (before, after) in enumerate(itertools.pairwise(seen)):
        assert after.startswith(before) and after.endswith("\n")
        assert str(index) in after.removeprefix(before)
    assert path.read_text() == seen[3]
    assert [path.name] == [left.name for left in tmp_path.iterdir()]


@pytest.mark.parametrize("suffix", LIVE)
def test_a_live_run_without_a_row_leaves_all_as_it_was(tmp_path: Path, suffix: str):
    path = tmp_path / f"rows{suffix}"
    for before in ([], ["earlier"]):
        for text in before:
            path.write_text(text)
        with pytest.raises(ZeroDivisionError), open_results(path, 1, is_live=True):
            raise ZeroDivisionError
        assert [left.read_text() for left in tmp_path.iterdir()] == before
    write(path, 1, is_live=True)
    assert "earlier" not in path.read_text()


def test_live_places_that_cannot_be_written_are_refused(tmp_path: Path):
    (tmp_path / "folder.csv").mkdir()
    for name, sentence in (("folder.csv", "not a file"), ("missing/rows.csv", "No such file or directory")):
        with pytest.raises(VideoError, match=sentence), open_results(tmp_path / name, 1, is_live=True):
            pytest.fail("opened")
    assert [left.name for left in tmp_path.iterdir()] == ["folder.csv"]


FULL = """
import resource, signal, sys
from pathlib import Path
from sightline.errors import VideoError
from sightline.results import open_results
from tests.unit.test_results import found, frame_of

path, is_live, room_bytes = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, room_bytes))
try:
    with open_results(path, 2, is_live) as sink:
        for index in range(10_000):
            sink.write(frame_of(found(index)), found(index))
        sink.close({})
except VideoError as error:
    print(error)
"""


def fill_the_disk(path: Path, is_live: bool, room_bytes: int = 50_001) -> str:
    """What is said by a run of 10,000 frames that has room for some of them only."""
    command = [sys.executable, "-c", FULL, str(path), str(is_live), str(room_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    return done.stdout


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_full_disk_leaves_nothing_or_of_a_live_run_whole_lines(tmp_path: Path, suffix: str):
    path = tmp_path / f"rows{suffix}"
    assert "File too large" in fill_the_disk(path, is_live=False)
    assert list(tmp_path.iterdir()) == []
    told = fill_the_disk(path, is_live=True)
    assert "File too large" in told and "lines before it are whole" in told
    lines = path.read_text().splitlines(keepends=True)
    assert 40_000 < path.stat().st_size <= 50_001
    rows = [line.count(",") == 8 and line.endswith("\n") for line in lines] if suffix == ".csv" else lines
    assert all(rows) if suffix == ".csv" else [json.loads(line)["frame_index"] for line in rows] == [*range(len(rows))]


@pytest.mark.extras
@pytest.mark.parametrize("room_bytes", [0, 5000, 50_001])
def test_a_full_disk_leaves_no_parquet(tmp_path: Path, room_bytes: int):
    assert "File too large" in fill_the_disk(tmp_path / "rows.parquet", is_live=False, room_bytes=room_bytes)
    assert list(tmp_path.iterdir()) == []


def write_found(path: Path) -> Path:
    """What a tracker found by itself: two objects, none, and one on a frame after one that cannot be read."""
    walker = TrackResult(0, 0.0, 3, (1.0, 2.0, 30.0, 60.0), 0.5, "tracked", label="person")
    lamp = TrackResult(0, 0.0, 4, (5.0, 5.0, 9.0, 9.0), 0.25, "tracked", label='"lamp", oil', confirmed=False)
    with open_results(path, None) as sink:
        sink.write(Frame(0, 0.0, None), [walker, lamp])
        sink.write(Frame(1, 0.04, None), [])
        sink.write(Frame(2, None, None, "damaged."), [])
        sink.close(SUMMARY)
    return path


def test_what_a_tracker_found_has_its_label_and_may_be_nothing(tmp_path: Path):
    assert write_found(tmp_path / "found.txt").read_text().splitlines() == [
        "1,3,1.00,2.00,30.00,60.00,0.5000,-1,-1,-1",
        "1,4,5.00,5.00,9.00,9.00,0.2500,-1,-1,-1",
    ]
    with write_found(tmp_path / "found.csv").open(newline="") as file:
        header, first, second = csv.reader(file)
    assert ",".join(header) == f"{HEADER},label,confirmed"
    assert (first[-2:], second[-2:]) == (["person", "true"], ['"lamp", oil', "false"])
    for suffix in (".json", ".jsonl"):
        path = write_found(tmp_path / f"found{suffix}")
        text = path.read_text()
        frames = json.loads(text)["frames"] if suffix == ".json" else list(map(json.loads, text.splitlines()))[:-1]
        assert [frame["frame_index"] for frame in frames] == [0, 1, 2]
        assert [len(frame["targets"]) for frame in frames] == [2, 0, 0] and frames[2]["error"] == "damaged."
        assert frames[0]["targets"][1] == {
            "id": 4, "xywh": [5, 5, 9, 9], "score": 0.25, "label": '"lamp", oil', "confirmed": False
        }  # fmt: skip


@pytest.mark.extras
def test_a_table_of_what_a_tracker_found_has_types(tmp_path: Path):
    from pyarrow import parquet

    table = parquet.read_table(write_found(tmp_path / "found.parquet"))
    assert table.column("label").to_pylist() == ["person", '"lamp", oil']
    assert table.column("confirmed").to_pylist() == [True, False]
