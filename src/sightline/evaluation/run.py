"""A tracker over a data set: a text file of boxes and one of times for each sequence. A run that was stopped goes on.

A folder holds one run. `run.json` says whose: which model, weights, settings and data set. `SEQ.txt`, an x,y,w,h row
per frame, or MOTChallenge rows of all targets, appears whole when its sequence is done, after `SEQ_time.txt`, seconds
per frame; so whatever ends a run, no more is lost than the sequences under way.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline import __version__
from sightline.building import check_backbone, located
from sightline.datasets.clips import Clip
from sightline.datasets.multi import MotSequence
from sightline.datasets.sot_text import read_rows
from sightline.errors import CheckpointError, DatasetError, SightlineError
from sightline.files import atomic_path
from sightline.results import mot_row, number
from sightline.runtime.sidecar import read_sidecar
from sightline.runtime.store import BUNDLED, sha256_of
from sightline.trackers.opencv import OPENCV, files_of
from sightline.trackers.protocol import MultiObjectTracker, Tracker
from sightline.trackers.zoo import entry_of
from sightline.tracking import Watch
from sightline.video.source import decode_ahead, open_source

log = logging.getLogger("sightline")
Floats = NDArray[np.float64]
Advance = Callable[[int], None]
AnyTracker = Tracker | MultiObjectTracker
AnyClip = Clip | MotSequence

RUN = "run.json"
PLACE = "data"  # the entry of `run.json` that may change: data may move
FRAMES = "frames"  # the one that is compared sequence by sequence
SAME_PX = 1e-5  # of the first box, which is written to six decimals
REPORT_S = 0.25  # between two words of a worker on how far it is
GRACE_S = 5.0  # for a worker to end when it is told to


# Whose results they are


def describe(
    model: str,
    *,
    weights: Path | None = None,
    backbone: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    backend: str = "auto",
    device: str = "cpu",
    dataset: str = "",
    split: str = "",
    data: Path | None = None,
    clips: Sequence[AnyClip] = (),
) -> dict[str, Any]:
    """What results depend on, but for the libraries beneath, as JSON has it. The first arguments are those of `load`.

    data: the folder of the data set. clips: its sequences, of each of which the names and sizes of the frame files are
    told, as a digest; their contents are not read.

    Weights are told by content, with a sidecar that is no part of the package: the SHA-256 of the file, of several
    files that of their digests; "" where there are none. Raises `UnknownModel` and `CheckpointError`.
    """
    return {
        "model": model,
        "weights_sha256": _digest(model, weights, backbone),
        "settings": json.loads(json.dumps(dict(sorted((settings or {}).items())))),
        "backend": backend,
        "device": device,
        "dataset": dataset,
        "split": split,
        "sightline": __version__,
        PLACE: str(data.resolve()) if data else "",
        FRAMES: {clip.name: _frames_digest(clip) for clip in clips},
    }


def _frames_digest(clip: AnyClip) -> str:
    """Of the names and sizes of the frame files; "" where they are not there."""
    try:
        told = "".join(f"{path.name} {path.stat().st_size}\n" for path in clip.frames)
    except (DatasetError, OSError):
        return ""
    return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _digest(model: str, weights: Path | None, backbone: Path | None) -> str:
    beside = check_backbone(model, backbone)
    try:
        digests = [sha256_of(path) for path in (*_files_of(model, weights), *([beside] if beside else []))]
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: got '{error.strerror}'; expected a readable file. Check the path."
        ) from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""


def _files_of(model: str, weights: Path | None) -> list[Path]:
    """The files that make a tracker what it is."""
    if model in OPENCV:
        return files_of(model, OPENCV[model], weights)
    if model.endswith(".toml"):
        return [Path(model), *_graphs_of(Path(model), weights)]
    place = located(model, weights)
    if sidecar := entry_of(model).sidecar:
        return _graphs_of(BUNDLED / sidecar, place)
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]


def _graphs_of(path: Path, place: Path | None) -> list[Path]:
    """The graphs that a sidecar names, in a folder, or the one file."""
    sidecar, place = read_sidecar(path), place or path.parent
    if place.is_file():
        return [place]
    return [place / name for name in (sidecar.encode_file, sidecar.file) if name]


def open_run(folder: Path, about: Mapping[str, Any], *, resume: bool = True) -> None:
    """Make a folder ready for a run, or for the rest of one.

    about: from `describe`. Without `resume` the results of an earlier run are deleted. Raises `DatasetError` for a
    folder with results of another run, also where only the frames of a sequence that is done are others, or with text
    files of no run, which are never touched. The same data in another place is the same.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        texts = sorted(folder.glob("*.txt"))
    except OSError as error:
        raise DatasetError(f"{folder}: got '{error.strerror}'; expected a folder to write. Choose another.") from error
    earlier = read_run(folder)
    if earlier is None and texts:
        raise DatasetError(
            f"{folder}: got {texts[0].name} and no {RUN}; expected an empty folder or that of an earlier run. Choose "
            "another with --out."
        )
    if earlier is not None and not resume:
        for path in texts:
            path.unlink()
    elif earlier is not None:
        keys = [key for key in (*about, *earlier) if key not in (PLACE, FRAMES)]
        if key := next((key for key in keys if earlier.get(key) != about.get(key)), None):
            raise DatasetError(
                f"{folder}: got results with {key} {earlier.get(key)!r}; expected {about.get(key)!r}, as asked for "
                "now. Choose another folder with --out, or begin anew with --no-resume."
            )
        about = {**about, FRAMES: _same_frames(folder, earlier, about)}
    with atomic_path(folder / RUN, DatasetError) as path:
        path.write_text(json.dumps(dict(about), indent=1) + "\n", encoding="utf-8")


def _same_frames(folder: Path, earlier: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, str]:
    """Sequence -> digest of its frames, of both runs; `DatasetError` where results are of other frames."""
    then, now = (known if isinstance(known := one.get(FRAMES), dict) else {} for one in (earlier, about))
    for name, digest in now.items():
        if then.get(name) != digest and result_path(folder, name).exists():
            raise DatasetError(
                f"{result_path(folder, name)}: got results on other frames, of {earlier.get(PLACE) or 'data unknown'}; "
                f"expected those of {about.get(PLACE)}, by names and sizes. Choose another folder with --out, or begin "
                "anew with --no-resume."
            )
    return then | now


def read_run(folder: Path) -> dict[str, Any] | None:
    """Whose results a folder holds, as `describe` says it; None where nothing tells. Raises `DatasetError`."""
    path = folder / RUN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: got '{error}'; expected what an earlier run wrote. Choose another folder."
        ) from error
    return content


# The results of one sequence


class Tracked(NamedTuple):
    """What a tracker said of one sequence: `runs`, one (N, 4) `xywh` each, more than one where it was run several
    times; `seconds` (N, runs), those of each frame, None where nobody took them."""

    runs: tuple[Floats, ...]
    seconds: Floats | None


def result_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.txt"


def time_path(folder: Path, name: str) -> Path:
    return folder / f"{name}_time.txt"


def is_done(folder: Path, clip: AnyClip) -> bool:
    """Whether a folder holds the result of a sequence; `DatasetError` for one of another sequence of that name."""
    path = result_path(folder, clip.name)
    if not path.exists():
        return False
    if isinstance(clip, MotSequence):  # nothing of it is given; its frames are told by `open_run`
        return True
    rows = read_rows(path)
    if len(rows) != len(clip) or not np.allclose(rows[:1], clip.xywh[:1], rtol=0, atol=SAME_PX):
        got, expected = (
            ",".join(f"{value:g}" for row in start for value in row) for start in (rows[:1], clip.xywh[:1])
        )
        raise DatasetError(
            f"{path}: got {len(rows)} rows, first {got}; expected {len(clip)}, first {expected}, as the sequence has "
            "now. Choose another folder with --out, or begin anew with --no-resume."
        )
    return True


def find_results(folder: Path, names: Sequence[str], prefix: str = "") -> dict[str, tuple[Path, ...]]:
    """Result files of sequences: `SEQ.txt`, with a prefix before it, or GOT-10k's `SEQ/SEQ_001.txt`, `_002` ...

    Sequences of which there is none are left out. Raises `DatasetError` where the folder has no result at all.
    """
    if not folder.is_dir():
        raise DatasetError(f"results {folder}: got no folder; expected one with SEQ.txt for each sequence. Check it.")
    found = {}
    for name in names:
        single = next((path for stem in (name, prefix + name) if (path := result_path(folder, stem)).is_file()), None)
        pattern = f"{glob.escape(name)}_[0-9][0-9][0-9].txt"
        repeated = [single] if single else sorted((folder / name).glob(pattern))
        if repeated:
            found[name] = tuple(repeated)
    if not found and names:
        raise DatasetError(
            f"results {folder}: got no result of {len(names)} sequences; expected {result_path(folder, names[0])} and "
            "so on. Check the folder and the data set."
        )
    return found


def read_tracked(paths: Sequence[Path]) -> Tracked:
    """The results in the files of one sequence, and the times beside them."""
    first = paths[0]
    stem = first.stem[:-4] if first.parent.name == first.stem[:-4] else first.stem
    times = time_path(first.parent, stem)
    seconds = read_rows(times, range(1, 100)) if times.exists() else None
    return Tracked(tuple(read_rows(path) for path in paths), seconds)


def track_clip(tracker: Tracker, clip: Clip, advance: Advance) -> tuple[Floats, Floats]:
    """Boxes (N, 4) `xywh` and seconds (N,) of one sequence, the first box being the given one.

    A second counts the tracker alone, not reading the frame. Raises `DatasetError` for a frame that cannot be read,
    since what is measured without it would not be the benchmark, and for a first box that no tracker can start on.
    """
    boxes, seconds, state = [], [], None
    with open_source(list(clip.frames)) as source, closing(decode_ahead(source)) as frames:
        for frame in frames:
            if frame.rgb is None:
                raise DatasetError(f"{clip.name}: {frame.error}")
            began = time.perf_counter()
            try:
                state = tracker.update(frame.rgb, state) if state else tracker.init(frame.rgb, xywh=clip.xywh[0])
            except SightlineError as error:
                raise DatasetError(f"{clip.name}, frame {frame.index}: {error}") from error
            seconds.append(time.perf_counter() - began)
            boxes.append(state.xywh)
            advance(1)
    boxes[0] = tuple(clip.xywh[0].tolist())
    return np.array(boxes, dtype=np.float64), np.array(seconds)


def track_sequence(tracker: MultiObjectTracker, sequence: MotSequence, advance: Advance) -> tuple[list[str], Floats]:
    """MOTChallenge rows of one sequence, final ones, and seconds (N,), those of `update` alone.

    Boxes stand in them as the tracker gives them: one that learnt from MOTChallenge counts pixels from 1 as that does.
    Raises `DatasetError` for a frame that cannot be read.
    """
    seconds = []
    with open_source(list(sequence.frames)) as source:
        watch = Watch(tracker, source, is_live=False)
        for frame, _ in watch:
            if frame.rgb is None:
                raise DatasetError(f"{sequence.name}: {frame.error}")
            seconds.append(watch.seconds)
            advance(1)
    return [mot_row(result) for results in watch.final() for result in results], np.array(seconds)


def write_result(folder: Path, name: str, rows: Sequence[str], seconds: Floats) -> None:
    """The two files of a sequence, the boxes last, for where they are the sequence is done."""
    times = [f"{value:.6f}" for value in seconds.tolist()]
    for path, lines in ((time_path(folder, name), times), (result_path(folder, name), rows)):
        text = "".join(f"{line}\n" for line in lines)
        with atomic_path(path, DatasetError) as partial:
            partial.write_text(text, encoding="utf-8")


# All sequences


def track_dataset(
    make_tracker: Callable[[], AnyTracker],
    clips: Sequence[AnyClip],
    folder: Path,
    *,
    workers: int = 1,
    advance: Advance = lambda frames: None,
) -> None:
    """Track every sequence whose result is not there yet, in the folder that `open_run` made ready.

    make_tracker: called once in each process; for more than one worker it must be picklable, and the caller's module
    importable (`if __name__ == "__main__"`). workers: processes, each of which takes the next sequence when it is done
    with one. advance: told of every few frames.

    A sequence that fails does not stop the others; then `DatasetError` tells why the first did, and names all.
    Raises what `make_tracker` does, and `is_done`.
    """
    todo = [clip for clip in clips if not is_done(folder, clip)]
    if len(todo) < len(clips):
        log.info("%s: %d of %d sequences are there", folder, len(clips) - len(todo), len(clips))
    if not todo:
        return
    todo.sort(key=len, reverse=True)  # so that no long one is left to the end
    if workers > 1 and len(todo) > 1:
        failures = list(_in_processes(make_tracker, todo, folder, min(workers, len(todo)), advance))
    else:
        tracker = make_tracker()
        failures = [error for clip in todo if (error := _track_one(tracker, clip, folder, advance))]
    if failures:
        failed = ", ".join(clip.name for clip in clips if not result_path(folder, clip.name).exists())
        more = f" ({len(failures)} of {len(clips)} sequences failed, {failed}; the others are in {folder})"
        raise DatasetError(f"{failures[0]}{more if len(failures) > 1 else ''}") from failures[0]


def _track_one(tracker: AnyTracker, clip: AnyClip, folder: Path, advance: Advance) -> SightlineError | None:
    try:
        if isinstance(clip, MotSequence):
            assert isinstance(tracker, MultiObjectTracker)
            rows, seconds = track_sequence(tracker, clip, advance)
        else:
            assert not isinstance(tracker, MultiObjectTracker)
            xywh, seconds = track_clip(tracker, clip, advance)
            rows = [",".join(map(number, row)) for row in xywh.tolist()]
    except SightlineError as error:
        return error
    write_result(folder, clip.name, rows, seconds)
    return None


class _Failed(NamedTuple):
    error: SightlineError
    is_final: bool  # the worker has no tracker, and nor would another


def _in_processes(
    make_tracker: Callable[[], AnyTracker], todo: Sequence[AnyClip], folder: Path, workers: int, advance: Advance
) -> Iterator[SightlineError]:
    """The failures of sequences that processes of their own track.

    Each is at the end of a pipe: it gets clips and sends numbers of frames, then None or what failed. Where one end is
    gone the other notices, so that none is left over, however this process ends.
    """
    context = multiprocessing.get_context("spawn")  # the only way that is safe beside threads
    waiting = iter(todo)
    processes = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, make_tracker, folder), daemon=True)
            process.start()
            theirs.close()
            processes[ours] = process
            ours.send(next(waiting))
        busy = set(processes)
        while busy:
            for connection in wait(busy):
                assert isinstance(connection, Connection)
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    process = processes[connection]
                    process.join(GRACE_S)
                    raise SightlineError(
                        f"worker: got its end with exit status {process.exitcode}; expected it to go on. Maybe memory "
                        "ran out: run again, it goes on, with fewer --workers."
                    ) from None
                if isinstance(message, int):
                    advance(message)
                    continue
                if isinstance(message, _Failed):
                    if message.is_final:
                        raise message.error
                    yield message.error
                if (clip := next(waiting, None)) is not None:
                    connection.send(clip)
                else:
                    busy.discard(connection)
    finally:
        for connection, process in processes.items():
            connection.close()
            if process.exitcode is None:
                process.terminate()
        for process in processes.values():
            process.join(GRACE_S)


def _work(connection: Connection, make_tracker: Callable[[], AnyTracker], folder: Path) -> None:
    """A process: tracks what comes until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which goes to a whole terminal; our parent ends us
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no half-written file stays
    last, waiting = time.monotonic(), 0

    def advance(frames: int) -> None:
        nonlocal last, waiting
        waiting += frames
        if time.monotonic() - last > REPORT_S:
            connection.send(waiting)
            last, waiting = time.monotonic(), 0

    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        tracker: AnyTracker | None = None
        while True:
            clip = connection.recv()
            try:
                tracker = tracker or make_tracker()
            except SightlineError as error:
                connection.send(_Failed(error, is_final=True))
                return
            failure = _track_one(tracker, clip, folder, advance)
            connection.send(waiting)
            waiting = 0
            connection.send(_Failed(failure, is_final=False) if failure else None)


def threads_each(workers: int) -> int:
    """Threads for the network of each of so many workers, so that together they are as many as there are cores; 0, the
    back end's own choice, for one worker."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if workers == 1 else max(1, cores // workers)
