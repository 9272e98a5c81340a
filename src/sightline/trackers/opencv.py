"""OpenCV's own trackers behind the protocol of ours: KCF, CSRT, NanoTrack and VitTrack as OpenCV runs them.

They are kept as they are, with their default parameters; docs/models/onnx.md tells what that costs VitTrack.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sightline.errors import CheckpointError, GeometryError, MissingExtra, ProtocolError, UnknownModel
from sightline.geometry.boxes import Box, check_target_box, one_box
from sightline.runtime.stages import StageClock
from sightline.trackers.template_search import Image, check_frame
from sightline.types import Presence, TargetState

log = logging.getLogger("sightline")

PLAIN_WHEEL, CONTRIB_WHEEL = "opencv-python-headless", "opencv-contrib-python-headless"


@dataclass(frozen=True)
class OpenCVRow:
    """One of OpenCV's trackers. maker: the class, in `cv2` or `cv2.legacy`. wheel: the leanest one that has it.
    files: fields of its parameters to patterns of file names, in order. has_score: whether it says how sure it is."""

    title: str
    maker: str
    wheel: str
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    has_score: bool = False


OPENCV: Mapping[str, OpenCVRow] = MappingProxyType(
    {
        "csrt": OpenCVRow(
            "CSRT, a correlation filter with channel and spatial reliability", "TrackerCSRT", CONTRIB_WHEEL
        ),
        "kcf": OpenCVRow("KCF, a kernelised correlation filter, of fixed size", "TrackerKCF", CONTRIB_WHEEL),
        "nano": OpenCVRow(
            "NanoTrack as OpenCV runs it",
            "TrackerNano",
            PLAIN_WHEEL,
            MappingProxyType({"backbone": "*backbone*.onnx", "neckhead": "*head*.onnx"}),
            has_score=True,
        ),
        "vit": OpenCVRow(
            "VitTrack as OpenCV runs it",
            "TrackerVit",
            PLAIN_WHEEL,
            MappingProxyType({"net": "*.onnx"}),
            has_score=True,
        ),
    }
)


class Follower:
    """An OpenCV tracker at work on one target; `turn` counts its updates."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self.turn = 0
        self.has_failed = False


@dataclass(frozen=True, eq=False)
class OpenCVState(TargetState):
    """The state of a target that OpenCV follows: no value, but a ticket for an object that changes.

    Box, score and presence of an old state stay as they were, but only the newest state of a target can be updated, and
    none can be saved or copied, since OpenCV's trackers cannot. `features` is empty. A state equals only itself.
    """

    follower: Follower = field(repr=False)
    turn: int = field(repr=False)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        raise self._refusal("saved")

    def __reduce__(self) -> str:
        raise self._refusal("copied")

    def _refusal(self, what: str) -> ProtocolError:
        return ProtocolError(
            f"state of OpenCV's {self.model}: got asked to be {what}; expected only to be updated, since OpenCV keeps "
            "what it knows to itself. Use a model of `sightline models` for states that are values."
        )


class OpenCVTracker:
    """One of the table `OPENCV` by its name, with OpenCV's defaults; a target costs an object of its own.

    files: what a tracker with a network needs: its one file, a folder that holds its files, or all of them in the
    table's order. Threads are OpenCV's (`cv2.setNumThreads`).

    Raises `UnknownModel`; `MissingExtra` when the installed OpenCV lacks the tracker, with the wheel that has it;
    `CheckpointError` for missing or damaged files.
    """

    def __init__(self, name: str, files: str | Path | Sequence[str | Path] | None = None) -> None:
        if name not in OPENCV:
            raise UnknownModel(f"OpenCV's tracker: got {name!r}; expected one of {', '.join(OPENCV)}.")
        self.name = name
        self._row = OPENCV[name]
        self._home = home_of(self._row)
        self._files = files_of(name, self._row, files)
        if self._files:
            self._create()  # so that damaged files are noticed here

    def init(
        self,
        frame: Image,
        *,
        xywh: ArrayLike | None = None,
        xyxy: ArrayLike | None = None,
        cxcywh: ArrayLike | None = None,
    ) -> OpenCVState:
        """Start on a target: `frame` (H, W, 3) uint8 RGB and its box in exactly one format, float pixels.

        OpenCV gets the box in whole pixels; the state keeps it as given. A box partly outside is legal where OpenCV's
        tracker takes it. Raises `GeometryError`.
        """
        given = one_box(xywh, xyxy, cxcywh)
        check_frame(frame)
        box = check_target_box(given, *frame.shape[:2])
        x, y, w, h = box
        follower = Follower(self._create())
        try:
            is_ready = follower.tracker.init(in_bgr(frame), (round(x), round(y), max(1, round(w)), max(1, round(h))))
        except cv2.error as error:
            raise GeometryError(
                f"target box: got xywh=({x:g}, {y:g}, {w:g}, {h:g}); expected one that OpenCV's {self.name} takes "
                f"({error.err}). Pass a larger box inside the frame."
            ) from error
        if is_ready is False:  # those in cv2.legacy answer, the others return nothing
            raise GeometryError(f"target box: got one that OpenCV's {self.name} does not take. Pass a larger box.")
        return OpenCVState(box, 1.0, "tracked", self.name, {}, follower, 0)

    def update(self, frame: Image, state: TargetState, clock: StageClock | None = None) -> TargetState:
        """Follow one target to the next frame; `state` must be the newest of its target."""
        return self.update_many(frame, [state], clock)[0]

    def update_many(
        self, frame: Image, states: Sequence[TargetState], clock: StageClock | None = None
    ) -> list[TargetState]:
        """Follow K targets to the next frame (H, W, 3) uint8 RGB, one after the other; order is kept.

        A target that is not found, or on which OpenCV fails, keeps its last box, is uncertain, and is asked for again
        on the next frame. `score` is OpenCV's own, or 1 for found and 0 for not found where it has none. `clock`
        collects the stages colour and tracker in milliseconds. Raises `ProtocolError`, before anything is updated, for
        a state of another tracker, one that is not the newest, and a target given twice.
        """
        if not states:
            return []
        check_frame(frame)
        newest = [self._check_newest(state) for state in states]
        if len({id(state.follower) for state in newest}) < len(newest):
            raise ProtocolError("states: got one target twice; expected each once. Drop the second.")
        stage = clock.stage if clock else lambda _: nullcontext()
        with stage("colour"):
            bgr = in_bgr(frame)
        with stage("tracker"):
            return [self._advance(bgr, state) for state in newest]

    def _check_newest(self, state: TargetState) -> OpenCVState:
        if not isinstance(state, OpenCVState) or state.model != self.name:
            raise ProtocolError(
                f"state: got one made by {state.model!r}; expected one made by OpenCV's {self.name!r}. "
                "Call init of this tracker."
            )
        if state.turn != state.follower.turn:
            raise ProtocolError(
                f"state of OpenCV's {self.name}: got update {state.turn} of a target that has seen "
                f"{state.follower.turn}; expected its newest state, since OpenCV cannot go back. Call init again."
            )
        return state

    def _advance(self, bgr: NDArray[np.uint8], state: OpenCVState) -> OpenCVState:
        follower = state.follower
        follower.turn += 1
        box: Box = state.xywh
        try:
            is_found, found = follower.tracker.update(bgr)
            score = follower.tracker.getTrackingScore() if self._row.has_score else float(is_found)
            x, y, w, h = (float(value) for value in found)
            is_found = is_found and w > 0 and h > 0  # a box that is cut down to whole pixels may vanish
            if is_found:
                box = x, y, w, h
        except cv2.error as error:
            is_found, score = False, 0.0
            if not follower.has_failed:
                log.warning("OpenCV's %s failed on a frame (%s) and keeps its last box", self.name, error.err)
            follower.has_failed = True
        presence: Presence = "tracked" if is_found else "uncertain"
        return OpenCVState(box, float(score), presence, self.name, {}, follower, follower.turn)

    def _create(self) -> Any:
        make = getattr(self._home, f"{self._row.maker}_create")
        if not self._files:
            return make()
        parameters = getattr(self._home, f"{self._row.maker}_Params")()
        for name, path in zip(self._row.files, self._files, strict=True):
            setattr(parameters, name, str(path))
        try:
            return make(parameters)
        except cv2.error as error:
            raise CheckpointError(
                f"OpenCV's {self.name}: got {', '.join(map(str, self._files))}, which OpenCV {cv2.__version__} cannot "
                f"read ({error.err}); expected ONNX files of that tracker. Fetch them again."
            ) from error


def in_bgr(rgb: Image) -> Image:
    """The frame in the order of colours that OpenCV's own reader gives, and that its trackers expect."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), dtype=np.uint8)


def home_of(row: OpenCVRow) -> Any:
    """The module that has a tracker, `cv2` or `cv2.legacy`; `MissingExtra` names the wheel where neither has."""
    for module in (cv2, getattr(cv2, "legacy", None)):
        if hasattr(module, f"{row.maker}_create"):
            return module
    raise MissingExtra(
        f"OpenCV {cv2.__version__} has no {row.maker}: got another wheel; expected {row.wheel}. The four OpenCV wheels "
        "overwrite each other's files, so take out the one that is here (`pip list` names it). "
        f"Run: pip uninstall {PLAIN_WHEEL}; pip install {row.wheel}"
    )


def files_of(name: str, row: OpenCVRow, files: str | Path | Sequence[str | Path] | None) -> list[Path]:
    """The files of a tracker in the table's order, all of them there; `CheckpointError` says which are wanted."""
    given = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files or ()]
    wanted = f"expected {' and '.join(f'{key} ({pattern})' for key, pattern in row.files.items()) or 'none'}"
    if len(given) == 1 and given[0].is_dir() and row.files:
        folder = given[0]
        found = [sorted(folder.glob(pattern)) for pattern in row.files.values()]
        if any(len(matches) != 1 for matches in found):
            names = ", ".join(path.name for path in sorted(folder.glob("*.onnx"))) or "no .onnx file"
            raise CheckpointError(f"OpenCV's {name}: got {names} in {folder}; {wanted}, one of each. Pass the files.")
        given = [match for matches in found for match in matches]
    if len(given) != len(row.files):
        got = ", ".join(map(str, given)) or "no file"
        ours = " Sightline's own is sightline-nano." if name == "nano" else ""
        raise CheckpointError(
            f"OpenCV's {name}: got {got}; {wanted}. Pass weights= (--weights): a file or their folder.{ours}"
        )
    for path in given:
        if not path.is_file():
            raise CheckpointError(f"OpenCV's {name}: got no file {path}; {wanted}. Check the path.")
    return given
