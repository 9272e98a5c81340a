"""Fuzzing of the text readers: rows that agree with a plain reading, or `DatasetError`, and nothing else."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.datasets.mot_text import KittiRows, MotRows, read_kitti, read_mot_result, read_mot_truth
from sightline.errors import DatasetError

NUM_FRAMES = 9

READERS = {
    "result": lambda path: read_mot_result(path, NUM_FRAMES),
    "truth": lambda path: read_mot_truth(path, NUM_FRAMES),
    "truth of MOT15": lambda path: read_mot_truth(path, NUM_FRAMES, has_class=False),
    "kitti": lambda path: read_kitti(path, NUM_FRAMES),
}
LEAST = {"result": 6, "truth": 8, "truth of MOT15": 7}

whole = st.integers(-2, 12).map(str)
decimal = st.floats(-50, 2000).map(lambda value: f"{value:.{abs(hash(value)) % 17}f}")
good = whole | decimal | st.floats(-1e4, 1e4).map(repr) | st.sampled_from(["1e1", "+3", "007", ".5", "5.", " 4", "4 "])
bad = st.sampled_from(
    ["", " ", "nan", "inf", "-inf", "1e400", "a", "1_0", "0x1", "--1", "1.2.3", "1 2", "1;2", "\0", "-"]
)
cell = st.one_of(*[good] * 12, st.sampled_from(["1e9", "1000000000", "9007199254740993", "2147483649"]), bad)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text") / "rows.txt"


@st.composite
def mot_text(draw: st.DrawFn) -> str:
    """Rows that are right but for a few cells, and now and then something of the layout."""
    num_columns = draw(st.sampled_from([6, 7, 8, 9, 10, 10, 11, 5]))
    delimiter = draw(st.sampled_from([",", ",", ",", ", ", " ", "\t", ";"]))
    rows = []
    for number in range(draw(st.integers(1, 6))):
        row = [
            str(draw(st.integers(1, NUM_FRAMES))),
            str(number),
            "10",
            "20.5",
            "30",
            "40.25",
            "1",
            "1",
            "-1",
            "-1",
            "-1",
        ]
        row = row[:num_columns]
        if draw(st.integers(0, 3)) == 0:
            row[draw(st.integers(0, len(row) - 1))] = draw(cell)
        if draw(st.integers(0, 30)) == 0:
            del row[draw(st.integers(0, len(row) - 1))]
        rows.append(draw(st.sampled_from([*[delimiter] * 30, ",", " "])).join(row))
    if draw(st.integers(0, 30)) == 0:
        rows.insert(draw(st.integers(0, len(rows))), draw(st.sampled_from(["", " ", "#", rows[0]])))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", f"{delimiter.strip()}\n", " \n"]))
    text = end.join(rows) + draw(st.sampled_from(["", end, "\n\n"]))
    return draw(st.sampled_from(["", "", "", "\ufeff"])) + text


def plainly(text: str, kind: str) -> list[list[float]] | None:
    """The rows of a MOTChallenge file by the rules in words, or nothing where they are broken."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").rstrip().split("\n")
    if lines == [""]:
        return []
    delimiter = "," if "," in lines[0] else None
    if delimiter and lines[0].rstrip().endswith(","):
        lines = [line.rstrip().removesuffix(",") for line in lines]
    cells = [line.split(delimiter) for line in lines]
    try:
        rows = [[float(value) for value in row] for row in cells]
    except ValueError:
        return None
    columns = {len(row) for row in rows}
    if (
        len(columns) > 1
        or not LEAST[kind] <= columns.pop() <= 10
        or any("_" in value for row in cells for value in row)
    ):
        return None
    class_column = rows[0][7:8] if kind != "truth of MOT15" else []
    for row in rows:
        numbers = row[:2] + (row[7:8] if class_column else [])
        if not all(math.isfinite(value) and value == int(value) for value in numbers):
            return None
        if not all(abs(value) <= 1e9 for value in row[2:7]) or not 1 <= row[0] <= NUM_FRAMES or abs(row[1]) > 2**53:
            return None
        if class_column and (abs(row[7]) > 2**31 or (kind == "result" and row[7] > 1)):
            return None
    return rows if len({(row[0], row[1]) for row in rows}) == len(rows) else None


@pytest.mark.parametrize("kind", LEAST)
@given(data=st.data())
def test_rows_are_those_of_a_plain_reading_or_refused(path: Path, kind: str, data: st.DataObject) -> None:
    text = data.draw(mot_text())
    path.write_bytes(text.encode())
    expected = plainly(text, kind)
    if expected is None:
        with pytest.raises(DatasetError, match=rf"^{re.escape(str(path))}:\d+: got .*; expected .*\. \w+ .*\.$"):
            READERS[kind](path)
    else:
        rows = READERS[kind](path)
        assert rows.frame.tolist() == [row[0] - 1 for row in expected]
        assert rows.track_id.tolist() == [row[1] for row in expected]
        assert rows.xywh.tolist() == [row[2:6] for row in expected]
        assert rows.mark.tolist() == [(row[6:7] or [1])[0] for row in expected]


@pytest.mark.parametrize("kind", READERS)
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused(path: Path, kind: str, content: bytes) -> None:
    path.write_bytes(content)
    check(outcome(kind, path), path)


@pytest.mark.parametrize("kind", READERS)
@given(text=st.text("0123456789.,-+e \t\r\n\ufeffnaif_;#\"'\0\x0b\x1c\x85\u2028", max_size=120))
def test_any_text_of_such_signs_is_read_or_refused(path: Path, kind: str, text: str) -> None:
    path.write_bytes(text.encode())
    check(outcome(kind, path), path)


@given(st.lists(st.lists(cell | st.sampled_from(["Car", "DontCare"]), min_size=15, max_size=19), max_size=4), st.data())
def test_kitti_is_read_or_refused(path: Path, rows: list[list[str]], data: st.DataObject) -> None:
    for number, row in enumerate(rows):
        row[:10] = [str(number), "1", "Car", *row[3:6], *row[6:10]] if data.draw(st.booleans()) else row[:10]
        row[10:] = row[10 : data.draw(st.sampled_from([17, 17, 17, 18]))]
    path.write_text("\n".join(" ".join(row) for row in rows))
    check(outcome("kitti", path), path)


def outcome(kind: str, path: Path) -> MotRows | KittiRows | str:
    try:
        return READERS[kind](path)
    except DatasetError as error:
        return str(error)


def check(found: MotRows | KittiRows | str, path: Path) -> None:
    """A sentence that names the file, or rows that are whole and in bounds."""
    if isinstance(found, str):
        assert found.startswith(str(path))
        return
    assert len({len(column) for column in found}) == 1
    assert ((found.frame >= 0) & (found.frame < NUM_FRAMES)).all()
    boxes = found.xywh if isinstance(found, MotRows) else found.xyxy
    assert boxes.shape == (len(found.frame), 4)
    assert (np.abs(boxes) <= 1e9).all()
    named = found.track_id >= (-(2**53) if isinstance(found, MotRows) else 0)
    assert len(np.unique(np.stack([found.frame, found.track_id])[:, named], axis=1).T) == named.sum()
