"""Text of single-object benchmarks: a row of numbers per frame, or flags; as it is found in the wild.

Read without a word: commas, semicolons, tabs and blanks between numbers, also mixed; a delimiter at the end of a row;
blanks around; a byte order mark; the line ends of all systems; blank lines at the end; nan. All else is a
`DatasetError` with file and line: rows of another length, text, an empty cell, infinities and numbers beyond 1e9,
blank lines inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError

Floats = NDArray[np.float64]

MAX_PX = 1e9  # a box beyond it is a slip, and its area would lose digits
DELIMITERS = str.maketrans(",;\t", "   ")
EMPTY_CELL = re.compile(r"(?:^|[,;])[ \t]*[,;]")


def read_text(path: Path) -> str:
    """The text of a file, lines ended by "\\n", without what is blank at its end. Raises `DatasetError`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are no UTF-8"
        raise DatasetError(f"{path}: got '{reason}'; expected a file of UTF-8 text. Check the path.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip()


def read_rows(path: Path, num_columns: Iterable[int] = (4,)) -> Floats:
    """(N, C) numbers, row k from line k + 1; C is one of `num_columns`, by default 4 for x,y,w,h.

    An empty file is (0, C). Raises `DatasetError` with file and line.
    """
    columns, text = tuple(num_columns), read_text(path)
    if not text:
        return np.empty((0, columns[0]))
    lines = text.split("\n")
    try:  # which takes one delimiter, commas or blanks, and passes over blank lines
        values = np.loadtxt(lines, delimiter="," if "," in lines[0] else None, comments=None, ndmin=2)
    except ValueError:
        values = np.empty((0, 0))
    is_sure = len(values) == len(lines) and values.shape[1] in columns and text.isascii() and "_" not in text
    return values if is_sure and not (np.abs(values) > MAX_PX).any() else _slow_rows(path, lines, columns)


def stretches(numbers: Iterable[int], most: int = 8) -> str:
    """Ascending numbers, what is without a gap as first-last, beyond `most` of those "...": 3, 7-9, 12."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    told = [f"{first}" if first == last else f"{first}-{last}" for first, last in found[:most]]
    return ", ".join([*told, *(["..."] if len(found) > most else [])])


def _slow_rows(path: Path, lines: list[str], columns: tuple[int, ...]) -> Floats:
    """The numbers of lines with any delimiters, or every line that is at fault."""
    rows: list[list[float]] = []
    faults: dict[int, str] = {}
    wanted = 0
    for number, line in enumerate(lines, 1):
        cells = line.translate(DELIMITERS).split()
        wanted = wanted or (len(cells) if len(cells) in columns else 0)
        expected = f"{wanted or ' or '.join(map(str, columns))} numbers in a row"
        if not cells:
            faults[number] = f"got a blank line; expected {expected}"
        elif EMPTY_CELL.search(line):
            faults[number] = f"got an empty cell in {_brief(line)}; expected {expected}"
        elif wrong := [cell for cell in cells if not _is_number(cell)]:
            faults[number] = f"got {_brief(wrong[0])}; expected a number, nan or of at most {MAX_PX:g}"
        elif len(cells) != wanted:
            faults[number] = f"got {len(cells)} numbers; expected {expected}"
        else:
            rows.append(list(map(float, cells)))
    if faults:
        first, *others = faults
        more = f" Also: lines {stretches(others)}." if others else ""
        raise DatasetError(f"{path}:{first}: {faults[first]}. Correct the line.{more}")
    return np.array(rows, dtype=np.float64)


def read_flags(path: Path, num_flags: int, highest: int = 1) -> NDArray[np.int64]:
    """(num_flags,) whole numbers in 0..highest, on one line or several (LaSOT and GOT-10k differ).

    Raises `DatasetError` with file and line, or when there are more or fewer.
    """
    text = read_text(path)
    try:
        flags = np.array([int(cell) for cell in text.translate(DELIMITERS).split()], dtype=np.int64)
        is_sure = text.isascii() and "_" not in text and not ((flags < 0) | (flags > highest)).any()
    except (ValueError, OverflowError):
        is_sure = False
    if not is_sure:
        flags = np.array(_slow_flags(path, text, highest), dtype=np.int64)
    if len(flags) != num_flags:
        raise DatasetError(f"{path}: got {len(flags)} flags; expected {num_flags}, one each. Complete the file.")
    return flags


def _slow_flags(path: Path, text: str, highest: int) -> list[int]:
    """Flags written as 1.0 too; the first cell that is none is named."""
    flags = []
    for number, line in enumerate(text.split("\n"), 1):
        for cell in line.translate(DELIMITERS).split():
            if not _is_number(cell) or not 0 <= float(cell) <= highest or float(cell) % 1:
                raise DatasetError(
                    f"{path}:{number}: got {_brief(cell)}; expected whole numbers in 0..{highest}. Correct the line."
                )
            flags.append(int(float(cell)))
    return flags


def _is_number(cell: str) -> bool:
    try:
        value = float(cell)
    except ValueError:
        return False
    return cell.isascii() and "_" not in cell and not abs(value) > MAX_PX


def _brief(text: str) -> str:
    return repr(text.strip() if len(text.strip()) <= 40 else f"{text.strip()[:37]}...")
