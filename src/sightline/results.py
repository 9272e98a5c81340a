"""Results on disk: `.txt` as benchmarks read them, `.json` with everything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import VideoError
from sightline.files import atomic_path
from sightline.types import TrackResult

SUFFIXES = (".txt", ".json")


class ResultsSink(Protocol):
    """Takes the results of one frame after another."""

    def write(self, results: Sequence[TrackResult]) -> None: ...

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write what is left; a disk without room is known when this returns."""
        ...


@contextmanager
def open_results(path: Path, num_targets: int) -> Iterator[ResultsSink]:
    """A sink by suffix. The file is whole or not there: it appears when `close` was called and the block ended well.

    `.txt`, one target: one `x,y,w,h` row per frame, nan where the frame could not be read. `.txt`, several targets:
    MOTChallenge rows `frame,id,x,y,w,h,score,-1,-1,-1`, frame and id from 1 (pixels count from 0, as everywhere here;
    the challenge's own count from 1), no row for an unreadable frame. `.json`: one object with the summary and a list
    of frames. Raises `VideoError` for another suffix or a full disk.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise VideoError(f"results file {path}: got suffix {path.suffix!r}; expected .txt or .json. Rename it.")
    with atomic_path(path, VideoError) as partial:
        sink: ResultsSink
        with partial.open("w", encoding="utf-8") as file:
            sink = JsonSink(file) if suffix == ".json" else TextSink(file, num_targets)
            yield sink


class TextSink:
    """Rows of text, written as they come."""

    def __init__(self, file: Any, num_targets: int) -> None:
        self.file = file
        self.row = box_row if num_targets == 1 else mot_row

    def write(self, results: Sequence[TrackResult]) -> None:
        self.file.writelines(row + "\n" for result in results if (row := self.row(result)))

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.flush()


class JsonSink:
    """One object; frames are written as they come, the summary last."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.separator = '{"frames": [\n'

    def write(self, results: Sequence[TrackResult]) -> None:
        first = results[0]
        time_s = None if first.time_s is None else round(first.time_s, 6)
        frame: dict[str, Any] = {"frame_index": first.frame_index, "time_s": time_s}
        if first.error:
            frame["error"] = first.error
        frame["targets"] = [
            {"id": result.target_id, "xywh": [round(x, 6) for x in result.xywh], "score": round(result.score, 6)}
            for result in results
            if not result.error
        ]
        self.file.write(self.separator + json.dumps(frame))
        self.separator = ",\n"

    def close(self, summary: Mapping[str, Any]) -> None:
        self.file.write("\n],\n" + json.dumps(dict(summary), indent=1).removeprefix("{\n") + "\n")
        self.file.flush()


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
