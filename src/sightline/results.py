"""Results on disk: `.txt` as benchmarks read them, `.csv` and `.parquet` as tables, `.json` and `.jsonl` with all."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from sightline.errors import MissingExtra, VideoError
from sightline.files import NO_ROOM, atomic_path
from sightline.types import Frame, TrackResult

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["SUFFIXES", "ResultsSink", "box_row", "mot_row", "open_results"]

COLUMNS = ("frame_index", "time_s", "target_id", "x", "y", "w", "h", "score", "presence")  # of .csv and .parquet
FOUND_COLUMNS = (*COLUMNS, "label", "confirmed")  # of targets that a tracker found by itself
ROW_GROUP = 4096  # rows that a .parquet file collects before it writes them, under 1 MB


class ResultsSink(Protocol):
    """Takes the results of one frame after another."""

    def write(self, frame: Frame, results: Sequence[TrackResult]) -> None: ...

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write what is left; a disk without room is known when this returns."""
        ...


@contextmanager
def open_results(path: Path, num_targets: int | None, is_live: bool = False) -> Iterator[ResultsSink]:
    """A sink by suffix, for results of frames in order and, in each, of the targets in order.

    num_targets: None where a tracker finds them by itself, which may be none on a frame; they have a label, and say
    whether they are confirmed, in all but `.txt`.

    `.txt`, one target: one `x,y,w,h` row per frame, nan where the frame could not be read. `.txt`, several targets:
    MOTChallenge rows `frame,id,x,y,w,h,score,-1,-1,-1`, frame and id from 1 (pixels count from 0, as everywhere here;
    the challenge's own count from 1), no row for an unreadable frame.
    `.csv`: a header, then one row per target and frame; a cell is empty where nothing is known, as the box and score
    of an unreadable frame. `.parquet`: the same columns, typed and null where nothing is known, the summary as JSON
    under the key "sightline" of the file's metadata; memory stays bounded; raises `MissingExtra` without pyarrow.
    `.json`: one object with the summary and a list of frames. `.jsonl`: the same frames, one to a line, and a last line
    with the one key "summary".

    The file is whole or not there: it appears when the block ends well. A live source has no end to wait for, so with
    `is_live` rows of text stand under the final name as soon as they are written, for other programs to follow: `.txt`,
    `.csv`, and lines of JSON in `.jsonl` as in `.json`. An earlier file stays until the first of them; whatever ends
    the run later, a kill too, leaves whole lines. `.parquet` cannot be read before its end and appears with it always.
    Raises `VideoError` for another suffix, a folder that cannot be written or a full disk.
    """
    suffix = path.suffix.lower()
    if suffix not in SINKS:
        expected = ", ".join(SUFFIXES[:-1])
        raise VideoError(
            f"results file {path}: got suffix {path.suffix!r}; expected {expected} or {SUFFIXES[-1]}. Rename it."
        )
    if is_live and suffix in LIVE_SINKS:
        with _open_lines(path) as lines:
            yield LIVE_SINKS[suffix](lines, num_targets)
        return
    with atomic_path(path, VideoError) as partial, partial.open("wb") as file:
        sink = SINKS[suffix](file, num_targets)
        try:
            yield sink
        except BaseException:
            with suppress(Exception):  # lets go of what it holds while there still is a file, which then vanishes
                sink.close({})
            raise


class TextSink:
    """Rows as benchmarks read them: boxes of one target, MOTChallenge rows of several."""

    def __init__(self, file: BinaryIO, num_targets: int | None) -> None:
        self.file = file
        self.row = box_row if num_targets == 1 else mot_row

    def write(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        if rows := [row for result in results if (row := self.row(result))]:
            self.file.write(_lines(rows))

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.flush()


class CsvSink:
    """One row per target and frame under a header."""

    def __init__(self, file: BinaryIO, num_targets: int | None) -> None:
        self.file = file
        self.columns = FOUND_COLUMNS if num_targets is None else COLUMNS
        self.header = [",".join(self.columns)]

    def write(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        self.file.write(_lines([*self.header, *map(self._row, results)]))
        self.header = []

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.flush()

    def _row(self, result: TrackResult) -> str:
        return ",".join(map(_cell_text, _cells(result, self.columns)))


class JsonSink:
    """One object; frames are written as they come, the summary last."""

    def __init__(self, file: BinaryIO, num_targets: int | None) -> None:
        self.file, self.were_found = file, num_targets is None
        self.separator = '{"frames": [\n'

    def write(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        self.file.write((self.separator + json.dumps(_frame(frame, results, self.were_found))).encode())
        self.separator = ",\n"

    def close(self, summary: Mapping[str, Any]) -> None:
        rest = "," + json.dumps(dict(summary), indent=1).removeprefix("{") if summary else "}"
        self.file.write(f"\n]{rest}\n".encode())
        self.file.flush()


class JsonLinesSink:
    """One object to a line: the frames, then the summary."""

    def __init__(self, file: BinaryIO, num_targets: int | None) -> None:
        self.file, self.were_found = file, num_targets is None

    def write(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        self.file.write(_lines([json.dumps(_frame(frame, results, self.were_found))]))

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.write(_lines([json.dumps({"summary": dict(summary)})]))
        self.file.flush()


class ParquetSink:
    """The columns of `.csv` with types; full row groups are written as they come."""

    def __init__(self, file: BinaryIO, num_targets: int | None) -> None:
        try:
            import pyarrow
            from pyarrow.parquet import ParquetWriter
        except ImportError as error:
            raise MissingExtra(
                "results in .parquet need pyarrow, which is not installed. Run: pip install 'sightline[parquet]'"
            ) from error
        self.columns = FOUND_COLUMNS if num_targets is None else COLUMNS
        types = {"frame_index": pyarrow.int64(), "target_id": pyarrow.int32(), "confirmed": pyarrow.bool_()}
        types |= {"presence": pyarrow.string(), "label": pyarrow.string()}
        self.schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in self.columns])
        self.table = pyarrow.table
        self.writer = ParquetWriter(file, self.schema)
        self.file = file
        self.rows: list[tuple[Any, ...]] = []

    def write(self, frame: Frame, results: Sequence[TrackResult]) -> None:
        self.rows.extend(_cells(result, self.columns) for result in results)
        if len(self.rows) >= ROW_GROUP:
            self._write_rows()

    def close(self, summary: Mapping[str, Any]) -> None:
        if self.rows:
            self._write_rows()
        self.writer.add_key_value_metadata({"sightline": json.dumps(dict(summary))})
        self.writer.close()
        self.file.flush()

    def _write_rows(self) -> None:
        columns = dict(zip(self.columns, zip(*self.rows, strict=True), strict=True))
        self.rows = []
        self.writer.write_table(self.table(columns, schema=self.schema))


Opener = Callable[[BinaryIO, int | None], ResultsSink]
LIVE_SINKS: dict[str, Opener] = {
    ".txt": TextSink,
    ".csv": CsvSink,
    ".json": JsonLinesSink,
    ".jsonl": JsonLinesSink,
}
SINKS: dict[str, Opener] = {**LIVE_SINKS, ".json": JsonSink, ".parquet": ParquetSink}
SUFFIXES = tuple(SINKS)


class LineFile(io.FileIO):
    """A file that others read while it grows: takes whole lines and holds nothing back.

    What stood in it before goes with the first lines; lines that find no room are taken out again.
    """

    has_lines = False

    def write(self, lines: ReadableBuffer, /) -> int:
        if not self.has_lines:
            self.truncate(0)
            self.has_lines = True
        end = self.seek(0, io.SEEK_END)
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError:
            self.truncate(end)
            raise
        return memoryview(lines).nbytes


@contextmanager
def _open_lines(path: Path) -> Iterator[LineFile]:
    """A `LineFile`; where nothing was written to it, all is as it was before."""
    was_there = path.exists()
    if was_there and not path.is_file():
        raise VideoError(f"{path}: got something that is not a file; expected a file or a free name. Rename it.")
    try:
        file = LineFile(path, "a")
    except OSError as reason:
        raise VideoError(
            f"{path}: cannot be written: got '{reason.strerror}'; expected a folder that can be written. Create it or "
            "choose another."
        ) from reason
    try:
        with file:
            yield file
    except OSError as reason:
        if reason.errno not in NO_ROOM or reason.filename:
            raise
        raise VideoError(
            f"{path}: cannot be written: got '{reason.strerror}'; expected room for the next line. Free some space; "
            "the lines before it are whole."
        ) from reason
    finally:
        if not file.has_lines and not was_there:
            path.unlink(missing_ok=True)


def box_row(result: TrackResult) -> str:
    """`x,y,w,h` with at least two decimals."""
    return ",".join(number(value) for value in result.xywh)


def mot_row(result: TrackResult) -> str:
    """One MOTChallenge row, or nothing for an unreadable frame."""
    if result.error:
        return ""
    return f"{result.frame_index + 1},{result.target_id},{box_row(result)},{result.score:.4f},-1,-1,-1"


def number(value: float) -> str:
    """Two to six decimals, as many as the value has: a box given by hand stands in the file as it was typed."""
    whole, _, decimals = f"{value:.6f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}" if decimals else whole  # nan has no decimals


def _cells(result: TrackResult, columns: Sequence[str]) -> tuple[Any, ...]:
    """One value for each column, None where nothing is known."""
    values = {column: getattr(result, column) for column in columns if hasattr(result, column)}
    values |= dict(zip("xywh", map(_known, result.xywh), strict=True))
    values |= {"time_s": _known(result.time_s), "score": _known(result.score)}
    return tuple(values[column] for column in columns)


def _frame(frame: Frame, results: Sequence[TrackResult], were_found: bool) -> dict[str, Any]:
    """One frame as JSON takes it; without targets, but with the reason, where it could not be read."""
    row: dict[str, Any] = {"frame_index": frame.index, "time_s": _rounded(frame.time_s)}
    if frame.error:
        row["error"] = frame.error
    row["targets"] = [
        {
            "id": result.target_id,
            "xywh": [_rounded(value) for value in result.xywh],
            "score": _rounded(result.score),
            **({"label": result.label, "confirmed": result.confirmed} if were_found else {"presence": result.presence}),
        }
        for result in results
        if not result.error
    ]
    return row


def _cell_text(cell: Any) -> str:
    """A value as CSV takes it: the name of a class may hold a comma."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return number(cell)
    text = str(cell)
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


def _rounded(value: float | None) -> float | None:
    value = _known(value)
    return None if value is None else round(value, 6)


def _known(value: float | None) -> float | None:
    """None for nan, which JSON has not and a table would take for a number."""
    return None if value is None or math.isnan(value) else float(value)


def _lines(rows: Sequence[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()
