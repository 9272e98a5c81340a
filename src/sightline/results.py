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
from sightline.types import TrackResult

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["SUFFIXES", "ResultsSink", "box_row", "mot_row", "open_results"]

COLUMNS = ("frame_index", "time_s", "target_id", "x", "y", "w", "h", "score", "presence")  # of .csv and .parquet
ROW_GROUP = 4096  # rows that a .parquet file collects before it writes them, under 1 MB


class ResultsSink(Protocol):
    """Takes the results of one frame after another."""

    def write(self, results: Sequence[TrackResult]) -> None: ...

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write what is left; a disk without room is known when this returns."""
        ...


@contextmanager
def open_results(path: Path, num_targets: int, is_live: bool = False) -> Iterator[ResultsSink]:
    """A sink by suffix, for results of frames in order and, in each, of the targets in order.

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

    def __init__(self, file: BinaryIO, num_targets: int) -> None:
        self.file = file
        self.row = box_row if num_targets == 1 else mot_row

    def write(self, results: Sequence[TrackResult]) -> None:
        if rows := [row for result in results if (row := self.row(result))]:
            self.file.write(_lines(rows))

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.flush()


class CsvSink:
    """One row per target and frame under a header."""

    def __init__(self, file: BinaryIO, num_targets: int) -> None:
        self.file = file
        self.header = [",".join(COLUMNS)]

    def write(self, results: Sequence[TrackResult]) -> None:
        self.file.write(_lines([*self.header, *map(self._row, results)]))
        self.header = []

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.flush()

    def _row(self, result: TrackResult) -> str:
        return ",".join(
            "" if cell is None else number(cell) if isinstance(cell, float) else str(cell) for cell in _cells(result)
        )


class JsonSink:
    """One object; frames are written as they come, the summary last."""

    def __init__(self, file: BinaryIO, num_targets: int) -> None:
        self.file = file
        self.separator = '{"frames": [\n'

    def write(self, results: Sequence[TrackResult]) -> None:
        self.file.write((self.separator + json.dumps(_frame(results))).encode())
        self.separator = ",\n"

    def close(self, summary: Mapping[str, Any]) -> None:
        rest = "," + json.dumps(dict(summary), indent=1).removeprefix("{") if summary else "}"
        self.file.write(f"\n]{rest}\n".encode())
        self.file.flush()


class JsonLinesSink:
    """One object to a line: the frames, then the summary."""

    def __init__(self, file: BinaryIO, num_targets: int) -> None:
        self.file = file

    def write(self, results: Sequence[TrackResult]) -> None:
        self.file.write(_lines([json.dumps(_frame(results))]))

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.write(_lines([json.dumps({"summary": dict(summary)})]))
        self.file.flush()


class ParquetSink:
    """The columns of `.csv` with types; full row groups are written as they come."""

    def __init__(self, file: BinaryIO, num_targets: int) -> None:
        try:
            import pyarrow
            from pyarrow.parquet import ParquetWriter
        except ImportError as error:
            raise MissingExtra(
                "results in .parquet need pyarrow, which is not installed. Run: pip install 'sightline[parquet]'"
            ) from error
        types = {"frame_index": pyarrow.int64(), "target_id": pyarrow.int32(), "presence": pyarrow.string()}
        self.schema = pyarrow.schema([(name, types.get(name, pyarrow.float64())) for name in COLUMNS])
        self.table = pyarrow.table
        self.writer = ParquetWriter(file, self.schema)
        self.file = file
        self.rows: list[tuple[Any, ...]] = []

    def write(self, results: Sequence[TrackResult]) -> None:
        self.rows.extend(map(_cells, results))
        if len(self.rows) >= ROW_GROUP:
            self._write_rows()

    def close(self, summary: Mapping[str, Any]) -> None:
        if self.rows:
            self._write_rows()
        self.writer.add_key_value_metadata({"sightline": json.dumps(dict(summary))})
        self.writer.close()
        self.file.flush()

    def _write_rows(self) -> None:
        columns = dict(zip(COLUMNS, zip(*self.rows, strict=True), strict=True))
        self.rows = []
        self.writer.write_table(self.table(columns, schema=self.schema))


LIVE_SINKS: dict[str, Callable[[BinaryIO, int], ResultsSink]] = {
    ".txt": TextSink,
    ".csv": CsvSink,
    ".json": JsonLinesSink,
    ".jsonl": JsonLinesSink,
}
SINKS: dict[str, Callable[[BinaryIO, int], ResultsSink]] = {**LIVE_SINKS, ".json": JsonSink, ".parquet": ParquetSink}
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


def _cells(result: TrackResult) -> tuple[Any, ...]:
    """One value for each of `COLUMNS`, None where nothing is known."""
    numbers = [_known(value) for value in (*result.xywh, result.score)]
    return result.frame_index, _known(result.time_s), result.target_id, *numbers, result.presence


def _frame(results: Sequence[TrackResult]) -> dict[str, Any]:
    """One frame as JSON takes it; without targets, but with the reason, where it could not be read."""
    first = results[0]
    frame: dict[str, Any] = {"frame_index": first.frame_index, "time_s": _rounded(first.time_s)}
    if first.error:
        frame["error"] = first.error
    frame["targets"] = [
        {
            "id": result.target_id,
            "xywh": [_rounded(value) for value in result.xywh],
            "score": _rounded(result.score),
            "presence": result.presence,
        }
        for result in results
        if not result.error
    ]
    return frame


def _rounded(value: float | None) -> float | None:
    value = _known(value)
    return None if value is None else round(value, 6)


def _known(value: float | None) -> float | None:
    """None for nan, which JSON has not and a table would take for a number."""
    return None if value is None or math.isnan(value) else float(value)


def _lines(rows: Sequence[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()
