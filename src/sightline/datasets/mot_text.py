"""MOTChallenge and KITTI text: one row per box and frame, read strictly.

What is taken: commas, or blanks and tabs, between columns (what the first line has); blanks around a number; one
delimiter at the end of every row; a byte order mark; both kinds of line ends; blank lines at the very end; rows in any
order of frames, which is kept; ids of any whole number below 2^53; an empty file, which is no boxes. All else is a
`DatasetError` with file and line: rows of unequal length, text where a number belongs, numbers that are not finite,
fractions of a frame, id or class, blank lines inside, frames outside the sequence, an id twice in a frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError

__all__ = ["KittiRows", "MotRows", "read_kitti", "read_mot_result", "read_mot_truth"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_FRAMES = 2**31
MAX_ID = 2**53  # a column is read as float64, exact up to here
MAX_PX = 1e9  # a box beyond it is a slip, and its area would lose digits
PACKED = (".gz", ".bz2", ".xz", ".lzma")

MOT_RESULT = ("frame", "id", "x", "y", "w", "h")
MOT_TRUTH = (*MOT_RESULT, "mark")
MOT_COLUMNS = (*MOT_TRUTH, "class", "visibility", "column 10")
KITTI_BOX = ("frame", "id", "type", "truncated", "occluded", "alpha", "x1", "y1", "x2", "y2")
KITTI_TRUTH = (*KITTI_BOX, "height", "width", "length", "X", "Y", "Z", "rotation")
KITTI_COLUMNS = (*KITTI_TRUTH, "score")


class MotRows(NamedTuple):
    """Rows of one MOTChallenge file, in its order.

    `frame` (N,) counts from 0 (the file's from 1), `track_id` (N,) is as in the file, `xywh` (N, 4) in pixels,
    `mark` (N,) is column 7: 0 for ground truth not to be scored, in results the confidence, 1 where there is none.
    `class_id` (N,) is column 8 of the ground truth, and 1 (pedestrian) where that is not read.
    """

    frame: Ints
    track_id: Ints
    xywh: Floats
    mark: Floats
    class_id: Ints

    def place(self, row: int) -> str:
        """Where a row was read: file and line, where that is known."""
        return f"ground truth: row {row}"


class FileRows(MotRows):
    """Rows that know their `path`, and `line` (N,), from 1; `visibility` (N,) is column 9 of the ground truth, how much
    of the target can be seen, None where that is not read."""

    path: Path
    line: Ints
    visibility: Floats | None

    @classmethod
    def of(cls, rows: MotRows, path: Path, line: Ints, visibility: Floats | None = None) -> FileRows:
        made = cls(*rows)
        made.path, made.line, made.visibility = path, line, visibility
        return made

    def place(self, row: int) -> str:
        return f"{self.path}:{self.line[row]}"

    def take(self, rows: NDArray[np.bool_], first_frame: int) -> FileRows:
        """Some of the rows, their frames counted from `first_frame`."""
        frame, track_id, xywh, mark, class_id = self
        kept = MotRows(frame[rows] - first_frame, track_id[rows], xywh[rows], mark[rows], class_id[rows])
        visibility = None if self.visibility is None else self.visibility[rows]
        return FileRows.of(kept, self.path, self.line[rows], visibility)


class KittiRows(NamedTuple):
    """Rows of one KITTI tracking file, in its order.

    `frame` (N,) counts from 0, `track_id` (N,) is below 0 for what is no object, `kind` (N,) is the class in small
    letters, `truncated` and `occluded` (N,) are cut to whole numbers, `xyxy` (N, 4) is in pixels.
    """

    frame: Ints
    track_id: Ints
    kind: NDArray[np.str_]
    truncated: Ints
    occluded: Ints
    xyxy: Floats


def read_mot_truth(path: Path, num_frames: int | None = None, has_class: bool = True) -> MotRows:
    """`gt.txt`: frame, id, x, y, w, h, mark, class[, visibility]; MOT15 (`has_class=False`) has no class.

    Frames lie in 1..`num_frames`, where that is given. Raises `DatasetError` with file and line.
    """
    table = _read_table(path, MOT_COLUMNS[:8] if has_class else MOT_TRUTH, MOT_COLUMNS)
    return _mot_rows(table, num_frames, table.whole("class", -MAX_FRAMES, MAX_FRAMES) if has_class else None)


def read_mot_result(path: Path, num_frames: int | None = None, is_of_half: bool = False) -> MotRows:
    """A tracker's `SEQ.txt`: frame, id, x, y, w, h[, confidence[, -1, -1, -1]]. An empty file is an empty tracker.

    Frames lie in 1..`num_frames`, where that is given. Column 8, a class, is -1 or at most 1 (pedestrian): these files
    hold nothing else. `is_of_half` says that the sequence is the later half of one, for what is said of a frame beyond
    its end. Raises `DatasetError` with file and line.
    """
    table = _read_table(path, MOT_RESULT, MOT_COLUMNS)
    if "class" in table.names:
        table.whole("class", -MAX_FRAMES, 1)
    return _mot_rows(table, num_frames, None, "frames of a half are counted anew from 1" if is_of_half else "")


def read_kitti(path: Path, num_frames: int | None = None) -> KittiRows:
    """`label_02/SEQ.txt` or a result: frame, id, type, truncated, occluded, alpha, x1, y1, x2, y2, and 7 or 8 more.

    Frames lie in 0..`num_frames` - 1, where that is given. An id below 0 may occur many times in a frame. Raises
    `DatasetError` with file and line.
    """
    table = _read_table(path, KITTI_TRUTH, KITTI_COLUMNS, text_column="type")
    frame = table.whole("frame", 0, (MAX_FRAMES if num_frames is None else num_frames) - 1)
    track_id = table.whole("id", -MAX_ID, MAX_ID)
    table.refuse_twice(frame, track_id, np.flatnonzero(track_id >= 0))
    truncated, occluded = (table.finite(name).astype(np.int64) for name in ("truncated", "occluded"))
    xyxy = np.stack([table.finite(name) for name in ("x1", "y1", "x2", "y2")], axis=1)
    return KittiRows(frame, track_id, table.text, truncated, occluded, xyxy)


class _Table(NamedTuple):
    """The numbers of a text file, `values` (N, len(names)), row k from line k + 1; `text` (N,) is its column of text,
    in small letters, if it has one."""

    path: Path
    names: tuple[str, ...]
    values: Floats
    text: NDArray[np.str_]

    def finite(self, name: str) -> Floats:
        """One column, no number of it beyond `MAX_PX`."""
        column = self.values[:, self.names.index(name)]
        self._refuse(~(np.abs(column) <= MAX_PX), name, column, f"a finite number of at most {MAX_PX:g}")
        return column

    def whole(self, name: str, low: int, high: int, hint: str = "") -> Ints:
        """One column of whole numbers in low..high; `hint` is what a sentence ends in."""
        column = self.values[:, self.names.index(name)]
        wrong = ~((column >= low) & (column <= high)) | (column != np.rint(column))
        self._refuse(wrong, name, column, f"a whole number in {low}..{high}{hint and ': '}{hint}")
        return column.astype(np.int64)

    def refuse_twice(self, frame: Ints, track_id: Ints, rows: NDArray[np.intp]) -> None:
        """No id has two rows in one frame, among these rows."""
        ids, track = np.unique(track_id[rows], return_inverse=True)
        box = frame[rows] * len(ids) + track
        if (np.diff(np.sort(box)) == 0).any():
            order = np.argsort(box, kind="stable")  # of equals, the earlier line first
            again = np.flatnonzero(np.diff(box[order]) == 0)
            first, second = min(zip(rows[order[again]], rows[order[again + 1]], strict=True), key=lambda pair: pair[1])
            what = f"got id {track_id[second]} of line {first + 1} again in the same frame"
            _fail(self.path, int(second) + 1, f"{what}; expected one box per id and frame")

    def _refuse(self, wrong: NDArray[np.bool_], name: str, column: Floats, expected: str) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            _fail(self.path, row + 1, f"got {name} {column[row]:.17g}; expected {expected}")


def _mot_rows(table: _Table, num_frames: int | None, class_id: Ints | None, hint: str = "") -> MotRows:
    frame = table.whole("frame", 1, MAX_FRAMES if num_frames is None else num_frames, hint or "frames count from 1")
    track_id = table.whole("id", -MAX_ID, MAX_ID)
    table.refuse_twice(frame, track_id, np.arange(len(frame)))
    xywh = np.stack([table.finite(name) for name in ("x", "y", "w", "h")], axis=1)
    mark = table.finite("mark") if "mark" in table.names else np.ones(len(frame))
    rows = MotRows(frame - 1, track_id, xywh, mark, np.ones_like(frame) if class_id is None else class_id)
    has_visibility = class_id is not None and "visibility" in table.names
    visibility = table.values[:, table.names.index("visibility")] if has_visibility else None
    return FileRows.of(rows, table.path, np.arange(1, len(frame) + 1), visibility)


def _read_table(path: Path, least: tuple[str, ...], most: tuple[str, ...], text_column: str | None = None) -> _Table:
    """All rows of a file; `least` and `most` name the columns that it has at least and at most."""
    try:
        whole = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: {error}; expected a file of UTF-8 text. Check the path.") from error
    text = whole.rstrip()
    if not text:
        names = tuple(name for name in least if name != text_column)
        return _Table(path, names, np.empty((0, len(names))), np.empty(0, np.str_))
    first = text.partition("\n")[0].rstrip()
    delimiter = "," if "," in first else None
    ends_rows = delimiter is not None and first.endswith(delimiter)
    if ends_rows:
        text = "\n".join(line.rstrip().removesuffix(",") for line in text.split("\n"))
    num_columns = len(first.split(delimiter)) - ends_rows
    if not first:
        _fail(path, 1, "got a blank line; expected a row of numbers")
    if not len(least) <= num_columns <= len(most):
        delimited = ", with commas or blanks as the delimiter, not semicolons" if ";" in first else ""
        expected = f"{len(least)} to {len(most)}: {', '.join(least)}{delimited}"
        _fail(path, 1, f"got {num_columns} columns; expected {expected}")
    names = most[:num_columns]
    numbers = [column for column, name in enumerate(names) if name != text_column]
    # By name it is read in large pieces, far faster than from lines. What differs from our text is not read so.
    is_as_on_disk = not ends_rows and path.suffix not in PACKED and not whole[len(text) :].strip("\r\n")
    source = str(path) if is_as_on_disk else text.split("\n")
    try:
        usecols = numbers if text_column else None  # without it, rows of unequal length are refused
        values = np.loadtxt(source, delimiter=delimiter, comments=None, usecols=usecols, ndmin=2, encoding="utf-8-sig")
        if len(values) != text.count("\n") + 1:
            raise ValueError("lines without numbers")  # which it passes over without a word
        kind = np.empty(0, np.str_)
        if text_column:
            rows = [line.split(delimiter) for line in text.lower().split("\n")]
            if any(len(row) != num_columns for row in rows):
                raise ValueError("rows of unequal length")
            kind = np.array([row[names.index(text_column)].strip() for row in rows])
    except (OSError, ValueError) as error:
        _find_fault(path, text, delimiter, names, text_column)
        raise DatasetError(f"{path}: {error}; expected rows of numbers. Check the file.") from error
    return _Table(path, tuple(names[column] for column in numbers), values, kind)


def _find_fault(path: Path, text: str, delimiter: str | None, names: tuple[str, ...], text_column: str | None) -> None:
    """Raise for the first line that is not a row of numbers, one to each name."""
    between = "commas" if delimiter else "blanks"
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            _fail(path, number, "got a blank line; expected a row of numbers")
        cells = line.split(delimiter)
        if len(cells) != len(names):
            other = None if delimiter else ","
            is_mixed = ";" in line or len(line.strip().strip(",").split(other)) == len(names)
            mixed = f", and the same delimiter, {between}, in every line" if is_mixed else ""
            _fail(path, number, f"got {len(cells)} columns; expected {len(names)}, as in line 1{mixed}")
        for name, cell in zip(names, cells, strict=True):
            if name != text_column and not _is_number(cell):
                _fail(path, number, f"got {name} {cell.strip()[:40]!r}; expected a number, {between} between columns")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isascii() and "_" not in cell


def _fail(path: Path, line: int, fault: str) -> NoReturn:
    raise DatasetError(f"{path}:{line}: {fault}. Correct the line.")
