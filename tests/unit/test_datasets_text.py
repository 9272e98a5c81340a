"""Text of single-object benchmarks: what is read, what is refused with file and line, and nothing in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sightline.datasets.clips import read_split
from sightline.datasets.davis import mask_boxes
from sightline.datasets.images import read_annotated, read_odgt, stills
from sightline.datasets.multi import read_mot_sequence
from sightline.datasets.root import read_config
from sightline.datasets.single import read_attribute_table, read_meta, read_nfs_rows
from sightline.datasets.sot_text import read_flags, read_rows, stretches
from sightline.datasets.vot import mask_rows
from sightline.errors import DatasetError
from tests.trees import write

TWO = [[1, 2.5, 30, 40], [-5, 6, 7, 8e2]]


@pytest.mark.parametrize(
    "content",
    [
        "1,2.5,30,40\n-5,6,7,8e2\n",
        "1,2.5,30,40\n-5,6,7,8e2",
        "1\t2.5\t30\t40\n-5\t6\t7\t8e2\n",
        "1 2.5  30 40 \n  -5 6 7 8e2\n",
        "1, 2.5, 30, 40\n-5 ,6 ,7 ,8e2\n",
        "1;2.5;30;40\n-5;6;7;8e2\n",
        "1,2.5\t30 40\n-5;6,\t7 8e2\n",
        "1,2.5,30,40\n-5\t6\t7\t8e2\n",
        "1,2.5,30,40,\n-5,6,7,8e2,\n",
        "\ufeff1,2.5,30,40\r\n-5,6,7,8e2\r\n",
        "1,2.5,30,40\r-5,6,7,8e2\r",
        "1,2.5,30,40  \n-5,6,7,8e2\t\n\n \r\n\n",
        "1,2.5,30,40\n-5,\u00a06,7,8e2\n",
    ],
    ids=[
        "commas", "no end", "tabs", "blanks", "commas and blanks", "semicolons", "mixed in a row", "mixed over rows",
        "a delimiter at the end", "byte order mark, CRLF", "CR", "blank lines at the end", "a blank that is no space",
    ],
)  # fmt: skip
def test_the_same_rows(tmp_path: Path, content: str) -> None:
    rows = read_rows(write(tmp_path / "a.txt", content))
    assert rows.dtype == np.float64 and rows.tolist() == TWO


def test_nan_is_a_number_and_nothing_is_no_row(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "a.txt", "NaN,NaN,NaN,NaN\nnan,1,2,3\n"))
    assert np.isnan(rows).tolist() == [[True] * 4, [True, False, False, False]]
    assert read_rows(write(tmp_path / "b.txt", " \n\n")).shape == (0, 4)
    assert read_rows(write(tmp_path / "c.txt", "1,2,3,4,5,6,7,8\n"), (4, 8)).shape == (1, 8)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("1,2,3\n", r"a.txt:1: got 3 numbers; expected 4 numbers in a row. Correct the line.$"),
        ("1,2,3,4\n1,2,3,4,5\n", r"a.txt:2: got 5 numbers; expected 4 numbers"),
        ("1,2,3,4\n\n1,2,3,4\n", r"a.txt:2: got a blank line; expected 4 numbers"),
        ("\n1,2,3,4\n", r"a.txt:1: got a blank line"),
        ("1,2,3,4\n1,,3,4\n", r"a.txt:2: got an empty cell in '1,,3,4'"),
        ("1,2,3,4\n,1,2,3,4\n", r"a.txt:2: got an empty cell"),
        ("x,y,w,h\n1,2,3,4\n", r"a.txt:1: got 'x'; expected a number, nan or of at most 1e\+09"),
        ("1,2,3,inf\n", r"a.txt:1: got 'inf'; expected a number"),
        ("1,2,3,1e10\n", r"a.txt:1: got '1e10'; expected a number"),
        ("1_0,2,3,4\n", r"a.txt:1: got '1_0'"),
        ("\u0661,2,3,4\n", r"a.txt:1: got '\u0661'"),
        ("1,5;2,5;3,5;4,5\n", r"a.txt:1: got 8 numbers"),
        ("1,2,3,4,5,6,7,8\n", r"a.txt:1: got 8 numbers; expected 4 numbers"),
        ("1,2,3,4\na\n1,2,3,4\nb\nc\n1,2,3,4\n\n1,2\n", r"a.txt:2: got 'a'.* Also: lines 4-5, 7-8.$"),
        (b"\xff\xfe1\x00,\x00", r"a.txt: got 'bytes that are no UTF-8'; expected a file of UTF-8 text"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        read_rows(write(tmp_path / "a.txt", content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="b.txt: got 'No such file or directory'; expected a file"):
        read_rows(tmp_path / "b.txt")
    with pytest.raises(DatasetError, match="got 'Is a directory'"):
        read_rows(tmp_path)


def test_flags_on_one_line_or_several(tmp_path: Path) -> None:
    for content in ("0,1,0", "0\n1\n0\n", "0,1\n0\r\n\n", "0.0 1.0 0.0\n", "\ufeff0,1,0"):
        assert read_flags(write(tmp_path / "a.txt", content), 3).tolist() == [0, 1, 0], content
    assert read_flags(write(tmp_path / "a.txt", "8\n0\n"), 2, highest=8).tolist() == [8, 0]
    assert read_flags(write(tmp_path / "a.txt", ""), 0).tolist() == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("0,1", "a.txt: got 2 flags; expected 3, one each. Complete the file"),
        ("0,1,0,0", "a.txt: got 4 flags; expected 3"),
        ("0\n1\n2\n", "a.txt:3: got '2'; expected whole numbers in 0..1"),
        ("0\n-1\n1\n", "a.txt:2: got '-1'"),
        ("0,0.5,1", "a.txt:1: got '0.5'"),
        ("0,nan,1", "a.txt:1: got 'nan'"),
        ("0\nno\n1\n", "a.txt:2: got 'no'"),
        ("9" * 5000, r"a.txt:1: got '9999.*\.\.\.'"),
    ],
)
def test_flags_that_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        read_flags(write(tmp_path / "a.txt", content), 3)


def test_stretches_of_lines() -> None:
    assert stretches([]) == ""
    assert stretches([3, 7, 8, 9, 12]) == "3, 7-9, 12"
    assert stretches(range(0, 100, 2), most=2) == "0, 2, ..."


# Whatever a file holds, it is read or refused by a sentence

CELL = st.one_of(
    st.floats().map(str),
    st.integers(-10, 3000).map(str),
    st.sampled_from(["nan", "inf", "-", "1e400", "0x1p3", "1_0", "\u0663", "", "m3", "\x00", '"', "#"]),
)
TEXT = st.lists(
    st.tuples(st.lists(CELL, max_size=9), st.sampled_from([",", "\t", " ", ";", ", "])).map(
        lambda row: row[1].join(row[0])
    ),
    max_size=6,
).flatmap(lambda lines: st.sampled_from(["\n", "\r\n", "\r", "\n\n"]).map(lambda end: end.join(lines)))
BYTES = st.one_of(
    st.binary(max_size=60), TEXT.map(str.encode), TEXT.map(lambda text: b"\xef\xbb\xbf" + text.encode()), st.text().map(
        lambda text: text.encode("utf-8", "surrogatepass")
    ),
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(content=BYTES, num_columns=st.sampled_from([(4,), (4, 8), (1,)]))
@example(content=b"1,2,3,4\x0b", num_columns=(4,))
@example(content=b"1 2 3 4\x1c5 6 7 8", num_columns=(4, 8))
@example(content="1\u00a02 3 4\n\u2028".encode(), num_columns=(4,))
def test_nothing_but_a_dataset_error_escapes(tmp_path_factory, content: bytes, num_columns: tuple[int, ...]) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz.txt", content)
    rows, sentence = read_or_refused(lambda: read_rows(path, num_columns))
    if rows is not None:
        assert rows.dtype == np.float64 and rows.ndim == 2 and rows.shape[1] in num_columns
        assert not (np.abs(rows) > 1e9).any()
    flags, other = read_or_refused(lambda: read_flags(path, 3))
    if flags is not None:
        assert len(flags) == 3 and set(flags.tolist()) <= {0, 1}
    for told in filter(None, (sentence, other)):
        assert told.startswith(f"{path}:") and "expected" in told and "\n" not in told


def read_or_refused(read: Callable[[], Any]) -> tuple[Any, str]:
    try:
        return read(), ""
    except DatasetError as error:
        return None, str(error)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.floats(-1e9, 1e9) | st.just(float("nan")), min_size=4, max_size=4), min_size=1, max_size=8
    ),
    joints=st.lists(st.sampled_from([",", "\t", " ", ";", ", ", "  "]), min_size=3, max_size=3),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path_factory, rows, joints, end) -> None:
    lines = ["".join(part for pair in zip(map(repr, row), [*joints, ""], strict=True) for part in pair) for row in rows]
    path = write(tmp_path_factory.getbasetemp() / "round.txt", end.join(lines))
    np.testing.assert_array_equal(read_rows(path), np.array(rows))


# And so is every other file of text


READERS: dict[str, Callable[[Path], object]] = {
    "nfs": read_nfs_rows,
    "masks": mask_rows,
    "attributes": read_attribute_table,
    "meta": read_meta,
    "odgt": lambda path: read_odgt(path, path.parent),
    "images": lambda path: stills(read_annotated(path, [path.parent])).names,
    "seqinfo": lambda path: list(read_mot_sequence(path.parent).frames[:1]),
    "split": lambda path: read_split(path.parent, "train"),
    "config": read_config,
    "palette": mask_boxes,
}
NAMES = {"seqinfo": "seqinfo.ini", "split": "split.json"}
PIECES = st.sampled_from(
    [
        "m", "0 1 2 3 4 5 0 0 0 x", "sequence,IV", "cat,1", "resolution: (1, 2)", '{"ID": "a", "gtboxes": []}',
        '{"ID": 3',
        '{"tag": "person", "fbox": [1, 2, 3, 4]}', "[Sequence]", "seqLength=99999999999999", "seqLength=2", "imWidth=4",
        "imHeight=nan", "frameRate=1e400", '{"train": ["a"]}', '{"train": {}}', 'data = "x"', "[datasets]", "lasot = 1",
        '{"images": [{"id": 1.0, "width": 1e999}], "annotations": [], "categories": []}', "null", "\x89PNG",
        "%(a)s", "[[",
    ]
)  # fmt: skip
ANYTHING = st.one_of(BYTES, st.lists(PIECES | CELL, max_size=8).flatmap(
    lambda pieces: st.sampled_from(["\n", ",", " ", "\r\n"]).map(lambda joint: joint.join(pieces).encode())
))  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(content=ANYTHING, name=st.sampled_from(sorted(READERS)))
def test_nothing_but_a_dataset_error_escapes_any_reader(tmp_path_factory, content: bytes, name: str) -> None:
    path = write(tmp_path_factory.getbasetemp() / "fuzz" / NAMES.get(name, "fuzz.txt"), content)
    _, sentence = read_or_refused(lambda: READERS[name](path))
    assert not sentence or ("expected" in sentence and "\n" not in sentence), sentence
