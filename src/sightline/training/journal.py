"""What a run says: `log.csv`, `validation.csv`, pictures of examples, TensorBoard, and how long it will take."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sightline.errors import SightlineError
from sightline.evaluation.sot import overlap
from sightline.files import atomic_path
from sightline.imaging.draw import BLACK, CAPITAL_PX, FONT
from sightline.imaging.sheet import write_image
from sightline.training.validation import Scores

log = logging.getLogger("sightline")

Image = NDArray[np.uint8]
Array = NDArray[np.float64]
Row = dict[str, str]

RECENT_LINES = 5  # whose speed the time left is reckoned with


class Journal:
    """The files of a run's folder that tell how it goes; ranks that are not the writer write nothing.

    `log.csv` and a line of the log every `every` steps and at the last, `validation.csv`, `pictures/`, and the same for
    TensorBoard in `tensorboard/` where tensorboardX is installed. Steps count from 1.

    A run that goes on from a checkpoint of `start_step` drops the rows of later steps first, and a line cut short, so
    that every step stands there once. `saved_step` is the loop's to set when a checkpoint is written: where something
    cannot be written, on a full disk above all, the `SightlineError` names it.
    """

    def __init__(
        self, folder: Path, num_steps: int, start_step: int = 0, *, every: int = 50, is_writer: bool = True
    ) -> None:
        self.folder, self.num_steps, self.every, self.is_writer = folder, num_steps, every, is_writer
        self.saved_step = start_step
        self._log, self._validations = _Table(folder / "log.csv"), _Table(folder / "validation.csv")
        self._events: _Events | None = None
        self._seconds_before = 0.0
        if is_writer:
            with self._told():
                folder.mkdir(parents=True, exist_ok=True)
                for table in (self._log, self._validations):
                    table.cut(start_step)
                if rows := self._log.rows():
                    self._seconds_before = float(rows[-1]["seconds"])
                self._events = _open_events(folder / "tensorboard", start_step)
        self._parts: dict[str, list[Tensor]] = {}
        self._num_examples, self._waited_s = 0, 0.0
        self._first_step = self._line_step = start_step
        self._started_at = self._line_at = monotonic()
        self._paused_s = self._line_paused_s = 0.0  # spent validating and saving: since the start, since the last line
        self._speeds: deque[tuple[int, float]] = deque(maxlen=RECENT_LINES)  # steps and seconds of a line each

    def step(
        self,
        step: int,
        parts: Mapping[str, Tensor],
        *,
        lr: float,
        num_examples: int,
        waited_s: float = 0.0,
        num_skipped: int = 0,
        epoch: float | None = None,
    ) -> None:
        """Note that a step is done; `step` counts from 1.

        `parts` are 0-dim tensors, the loss and what it is made of. They are kept as they are until a line is due, since
        reading a number waits for the GPU; the line has their means over its steps, nan if one is. `num_examples` of
        this step, over all ranks; seconds `waited_s` for its data, a share of which is logged; `num_skipped` pictures
        so far; `epoch` as the recipe counts.
        """
        if not self.is_writer:
            return
        for name, value in parts.items():
            self._parts.setdefault(name, []).append(value.detach())
        self._num_examples += num_examples
        self._waited_s += waited_s
        if step % self.every and step != self.num_steps:
            return
        means = {name: torch.stack(values).float().mean().item() for name, values in self._parts.items()}
        now = monotonic()
        spent_s = max(now - self._line_at - self._line_paused_s, 1e-6)
        self._speeds.append((step - self._line_step, spent_s))
        speed, waiting = self._num_examples / spent_s, self._waited_s / spent_s
        self._parts = {}
        self._num_examples, self._waited_s = 0, 0.0
        self._line_step, self._line_at, self._line_paused_s = step, now, 0.0

        with self._told():
            self._log.append(
                {"step": str(step)}
                | ({} if epoch is None else {"epoch": f"{epoch:.6g}"})
                | {name: f"{value:.6g}" for name, value in means.items()}
                | {
                    "lr": f"{lr:.6g}",
                    "examples_per_s": f"{speed:.6g}",
                    "waiting": f"{waiting:.4f}",
                    "skipped": str(num_skipped),
                    "seconds": f"{self._seconds_before + now - self._started_at:.1f}",
                }
            )
            scalars = {f"train/{name}": value for name, value in {**means, "lr": lr}.items()}
            self._scalars(step, {**scalars, "speed/examples_per_s": speed, "speed/waiting": waiting})
        log.info(
            "step %d of %d  %s  lr %.2e  %.1f examples/s, %.0f %% of the time waiting%s  %s",
            step,
            self.num_steps,
            "  ".join(f"{name} {value:.4f}" for name, value in means.items()),
            lr,
            speed,
            100 * waiting,
            f", {num_skipped} pictures skipped" if num_skipped else "",
            self._left(step),
        )

    def _left(self, step: int) -> str:
        """The time to the last step: training as fast as of late, validating and saving as often as till now."""
        steps_left = self.num_steps - step
        steps, seconds = (sum(column) for column in zip(*self._speeds, strict=True))
        training_s = steps_left * seconds / max(steps, 1)
        paused_s = steps_left * self._paused_s / max(step - self._first_step, 1)
        text = f"{duration(training_s + paused_s)} left"
        return f"{text}, {duration(paused_s)} of it validating and saving" if paused_s >= 1 else text

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What is done in this block, validating or saving, is no time of training."""
        started_at = monotonic()
        try:
            yield
        finally:
            spent_s = monotonic() - started_at
            self._paused_s += spent_s
            self._line_paused_s += spent_s

    def validation(self, step: int, scores: Scores, *, num_examples: int, epoch: float | None = None) -> None:
        """A row of the scores of all clips, and one score of each; `num_examples` since the first step. An earlier row
        of the step goes."""
        if not self.is_writer:
            return
        overall, by_name = scores.overall, scores.by_name
        row = {"step": str(step), "epoch": "" if epoch is None else f"{epoch:.6g}", "examples": str(num_examples)}
        row |= {name: str(value) for name, value in overall.items()}  # all digits: `keep_best` compares them
        row |= {name: f"{value:.6g}" for name, value in by_name.items()}
        with self._told():
            self._validations.write([*(old for old in self._validations.rows() if old["step"] != str(step)), row])
            of_clips = {f"validation_{scores.column.lower()}/{name}": value for name, value in by_name.items()}
            self._scalars(step, {f"validation/{name}": value for name, value in overall.items()} | of_clips)
        told = ", ".join(f"{name} {value:.4f}" for name, value in overall.items())
        log.info("step %d: validation %s, %d clips", step, told, len(by_name))

    def picture(self, step: int, rgb: Image, what: str = "examples") -> None:
        """Keep a picture, (H, W, 3) uint8 RGB, such as `example_sheet`, as `pictures/step-000123.jpg`; of anything else
        than examples, `pictures/step-000123-what.jpg`."""
        if not self.is_writer:
            return
        path = self.folder / "pictures" / f"step-{step:06d}{'' if what == 'examples' else f'-{what}'}.jpg"
        with self._told():
            path.parent.mkdir(exist_ok=True)
            write_image(path, rgb)
            if self._events:
                self._events.image(step, what, rgb.shape[0], rgb.shape[1], path.read_bytes())

    def close(self) -> None:
        """Close the file for TensorBoard."""
        if self._events:
            with self._told():
                self._events.close()
            self._events = None

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._events:
            self._events.scalars(step, values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SightlineError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError):
                raise
            saved = f"checkpoints up to step {self.saved_step} are intact" if self.saved_step else "no checkpoint yet"
            raise SightlineError(
                f"run {self.folder}: its logs cannot be written: got '{reason.strerror}'; expected room in the folder. "
                f"Free some space and give the same command again ({saved})."
            ) from error


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter: 45 s, 12 min, 3 h 20 min, 2 d 5 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


class _Table:
    """A CSV file with a heading and a row per step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []

    def rows(self) -> list[Row]:
        """The rows that are whole: as many cells as the heading, a number of a step, the line's end."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        whole = (row for row in table if None not in row and None not in row.values())
        return [row for row in whole if row.get("step", "").isdecimal()]

    def cut(self, last_step: int) -> None:
        """Drop what is not whole or later than a step."""
        if rows := [row for row in self.rows() if int(row["step"]) <= last_step]:
            self.write(rows)
        else:
            self.path.unlink(missing_ok=True)

    def append(self, row: Row) -> None:
        """Add a line; columns that are new go behind the others."""
        if not self.path.exists() or not row.keys() <= set(self._columns):
            self.write([*self.rows(), row])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow(row)

    def write(self, rows: Sequence[Row]) -> None:
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_path(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: Any) -> csv.DictWriter[str]:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")


class _Events:
    """An event file of TensorBoard, written at once.

    tensorboardX's own SummaryWriter leaves that to a thread; once a full disk has ended it, the next few scalars fill
    its queue and the run waits for ever.
    """

    def __init__(self, writer: Any, event: Any, summary: Any) -> None:
        self._writer, self._event, self._summary = writer, event, summary
        self.close = writer.close

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def image(self, step: int, tag: str, height: int, width: int, data: bytes) -> None:
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._write(step, [self._summary.Value(tag=tag, image=image)])

    def _write(self, step: int, values: Sequence[Any]) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
        self._writer.flush()


def _open_events(folder: Path, start_step: int) -> _Events | None:
    """A new event file in the folder, which hides those events of older ones that are later than `start_step`."""
    try:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary
    except ImportError:
        log.info("nothing is written for TensorBoard without tensorboardX. Run: pip install 'sightline[train]'")
        return None
    folder.mkdir(exist_ok=True)
    writer = EventsWriter(str(folder / "events"), f".{token_hex(4)}")  # named by the second, which two runs may share
    start = SessionLog(status=SessionLog.START)
    writer.write_event(Event(wall_time=time.time(), step=start_step + 1, session_log=start))
    return _Events(writer, Event, Summary)


# Examples


SEARCH_PX = 256  # side of a search crop on the sheet
HALF_PX = SEARCH_PX // 2 - 1  # of template and score map, above each other with a gap of 2
PICTURE_LEFT = HALF_PX + 2
GAP_PX = 16
CAPTION_PX = 22
PAPER, INK = (252, 252, 250), (32, 32, 32)
TRUE, PREDICTED = (0, 190, 80), (235, 40, 40)


def example_sheet(
    template: ArrayLike,
    search: ArrayLike,
    true_xywh_unit: ArrayLike,
    predicted_xywh_unit: ArrayLike,
    score_map: ArrayLike,
    num: int = 8,
) -> Image:
    """A page of the first `num` examples of a batch, four in a row, uint8 RGB.

    Of each the template above the score map, and beside them the search crop with the true box in green and the
    predicted one in red. template (B, T, T, 3) and search (B, S, S, 3) uint8 RGB; boxes (B, 4) as fractions of the
    search crop, left out where they have no area or are nan; score_map (B, 1, G, G) or (B, G, G), lit from 0 to its own
    peak, which is written beneath. At least one example.
    """
    template, search = np.asarray(template)[:num], np.asarray(search)[:num]
    true, predicted = (np.asarray(xywh, np.float64)[:num] for xywh in (true_xywh_unit, predicted_xywh_unit))
    grid = np.shape(score_map)[-1]
    scores = np.asarray(score_map, np.float64)[:num].reshape(-1, grid, grid)
    return _page([_example(*example) for example in zip(template, search, true, predicted, scores, strict=True)])


def objects_sheet(
    frames: ArrayLike,
    true_xywh_unit: Sequence[ArrayLike],
    found_xywh_unit: Sequence[ArrayLike],
    true_heat: ArrayLike,
    heat: ArrayLike,
    num: int = 8,
) -> Image:
    """A page as `example_sheet` lays it out, of the first `num` of B frames with many objects each.

    The heat map to be learnt is above the one that came out, and beside them is the frame with the true boxes in green
    and those found in red. frames (B, S, S, 3) uint8 RGB; boxes of each frame (N, 4) as fractions of it; heat maps
    (B, G, G), each lit as a score map is. At least one frame.
    """
    frames, maps = np.asarray(frames)[:num], np.stack([true_heat, heat]).astype(np.float64)[:, :num]
    return _page([_objects(*row) for row in zip(frames, true_xywh_unit, found_xywh_unit, *maps, strict=False)])


def _page(cells: Sequence[Image]) -> Image:
    """Cells of one size, four in a row."""
    columns = min(4, len(cells))
    rows = -(-len(cells) // columns)
    h, w = cells[0].shape[:2]
    page = _paper(rows * (h + GAP_PX) + GAP_PX, columns * (w + GAP_PX) + GAP_PX)
    for number, cell in enumerate(cells):
        top, left = GAP_PX + number // columns * (h + GAP_PX), GAP_PX + number % columns * (w + GAP_PX)
        page[top : top + h, left : left + w] = cell
    return page


def _cell(upper: Image, lower: Image, picture: Image) -> Image:
    """Two small pictures above each other, the large one beside them, and room for a line beneath."""
    cell = _paper(SEARCH_PX + CAPTION_PX, PICTURE_LEFT + SEARCH_PX)
    cell[:HALF_PX, :HALF_PX], cell[HALF_PX + 2 : SEARCH_PX, :HALF_PX] = upper, lower
    cell[:SEARCH_PX, PICTURE_LEFT:] = picture
    return cell


def _example(template: Image, search: Image, true: Array, predicted: Array, scores: Array) -> Image:
    picture = _scaled(search, SEARCH_PX)
    _draw_box(picture, true, BLACK, 5)
    _draw_box(picture, true, TRUE, 3)
    _draw_box(picture, predicted, PREDICTED, 2)  # thinner, so that the other is seen where they agree
    cell = _cell(_scaled(template, HALF_PX), _lit(_scaled(search, HALF_PX), scores), picture)
    share = overlap([predicted], [true])[0]
    _caption(cell, f"peak {scores.max():.2f}", 0)
    _caption(cell, "no overlap" if np.isnan(share) else f"overlap {share:.2f}", PICTURE_LEFT)
    _caption(cell, "true", PICTURE_LEFT + 140, TRUE)
    _caption(cell, "predicted", PICTURE_LEFT + 180, PREDICTED)
    return cell


def _objects(frame: Image, true: Array, found: Array, true_heat: Array, heat: Array) -> Image:
    picture, small = _scaled(frame, SEARCH_PX), _scaled(frame, HALF_PX)
    for boxes, colour, line_px in ((true, TRUE, 2), (found, PREDICTED, 1)):
        for box in boxes:
            _draw_box(picture, box, colour, line_px)
    cell = _cell(_lit(small, true_heat), _lit(small, heat), picture)
    _caption(cell, f"peak {heat.max():.2f}", 0)
    _caption(cell, f"{len(true)} true", PICTURE_LEFT, TRUE)
    _caption(cell, f"{len(found)} found", PICTURE_LEFT + 80, PREDICTED)
    return cell


def _lit(rgb: Image, scores: Array) -> Image:
    """The picture in grey, its cells lit by their scores."""
    share = np.nan_to_num(scores / max(scores.max(), 1e-9)).clip(0, 1)
    share = cv2.resize(share, rgb.shape[:2], interpolation=cv2.INTER_NEAREST)
    heat = cv2.cvtColor(cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(grey, 0.4, heat, 0.6, 0), np.uint8)


def _draw_box(picture: Image, xywh_unit: Array, colour: tuple[int, int, int], line_px: int) -> None:
    x, y, w, h = SEARCH_PX * xywh_unit
    if not (np.isfinite(xywh_unit).all() and w > 0 and h > 0):
        return
    left, top, right, bottom = (round(min(max(edge, 0), SEARCH_PX)) for edge in (x, y, x + w, y + h))
    if left < right and top < bottom:
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, line_px)


def _paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAPER, np.uint8)


def _scaled(rgb: Image, side_px: int) -> Image:
    smooth = cv2.INTER_AREA if side_px < rgb.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (side_px, side_px), interpolation=smooth), np.uint8)


def _caption(cell: Image, text: str, left: int, colour: tuple[int, int, int] = INK) -> None:
    cv2.putText(cell, text, (left, cell.shape[0] - 6), FONT, 10 / CAPITAL_PX, colour, 1, cv2.LINE_AA)
