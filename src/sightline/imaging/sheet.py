"""Pages of pictures: a run on one page, and a first frame with rulers to read a box from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.errors import VideoError
from sightline.files import atomic_path
from sightline.imaging.draw import BLACK, CAPITAL_PX, COLOURS, FONT, draw_targets
from sightline.types import TrackResult

Image = NDArray[np.uint8]

__all__ = ["SUFFIXES", "ContactSheet", "first_frame_sheet", "write_image"]

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
JPEG_QUALITY = 92

PAGE_PX = 1600  # width of a contact sheet, and the longer side of a first frame
GAP_PX = 24  # between pictures, and around them
PAPER, INK = (252, 252, 250), (32, 32, 32)


def write_image(path: Path, rgb: Image) -> None:
    """An (H, W, 3) uint8 RGB picture as .png, .jpg (or .jpeg) or .webp, by suffix; the file is whole or not there.

    Raises `VideoError` for another suffix, a folder that cannot be written, a full disk, and a side that the format
    does not allow (JPEG 65535 px, WebP 16383).
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise VideoError(f"{path}: got suffix {path.suffix!r}; expected {', '.join(SUFFIXES)}. Rename the picture.")
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix in (".jpeg", ".jpg") else []
    try:
        is_encoded, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    except cv2.error:  # what some encoders raise and others return
        is_encoded = False
    if not is_encoded:
        raise VideoError(
            f"{path}: got a picture of {rgb.shape[1]} x {rgb.shape[0]} pixels; expected a size that {suffix} allows. "
            "Write a .png."
        )
    with atomic_path(path, VideoError) as partial, partial.open("wb") as file:
        file.write(data.tobytes())


# A run on one page


CAPTION_PX = 30  # height of the line beneath a picture


class _Shot(NamedTuple):
    """A picture of the run; the boxes are in its own pixels."""

    number: int  # of those that were added, from 0
    rgb: Image
    results: tuple[TrackResult, ...]


class ContactSheet:
    """Pictures spread evenly over a run of any length: `add` every frame, `draw` the page when the run is over.

    Among the `num_pictures` are the first and the last frame. At most four times as many are held, no larger than the
    page shows them (25 MB for 12), and the frame that was added last, which is not copied.
    """

    def __init__(self, num_pictures: int = 12) -> None:
        self.num_pictures = num_pictures
        self._held: list[_Shot] = []
        self._last: _Shot | None = None
        self._every = 1  # frames from one that is held to the next
        self._aspect = 1.0

    def add(self, rgb: Image, results: Iterable[TrackResult]) -> None:
        """One frame, (H, W, 3) uint8 RGB, of any size, with what was found on it; costs little but for some frames."""
        number = self._last.number + 1 if self._last else 0
        self._last = _Shot(number, rgb, tuple(results))
        if number == 0:
            self._aspect = rgb.shape[1] / rgb.shape[0]
        if number % self._every:
            return
        self._held.append(self._last._replace(rgb=rgb.copy()))
        if len(self._held) > 4 * self.num_pictures:
            self._held = self._held[::2]
            self._every *= 2
        _, *cell = _cells(min(len(self._held), self.num_pictures), self._aspect)
        self._held = [_fit(shot, *cell, may_enlarge=False) for shot in self._held]

    def draw(self) -> Image:
        """The page, 1600 pixels wide, uint8 RGB: pictures in order, each with its frame index, time and, of one
        target, score.

        Raises `VideoError` where no frame was added.
        """
        if self._last is None:
            raise VideoError("contact sheet: got no frame; expected at least one. Add the frames that could be read.")
        shots = [*(shot for shot in self._held if shot.number != self._last.number), self._last]
        wanted = np.linspace(0, self._last.number, min(self.num_pictures, self._last.number + 1))
        chosen = sorted({min(shots, key=lambda shot: abs(shot.number - number)).number for number in wanted})
        columns, width, height = _cells(len(chosen), self._aspect)
        cells = [_captioned(shot, width, height) for shot in shots if shot.number in chosen]
        rows = [_beside(cells[i : i + columns], PAGE_PX) for i in range(0, len(cells), columns)]
        return _below(rows, PAGE_PX)


def _cells(count: int, aspect: float) -> tuple[int, int, int]:
    """Columns, and width and height of each picture in pixels, that make a handsome page of so many pictures."""

    def layout(columns: int) -> tuple[float, tuple[int, int, int]]:
        rows = math.ceil(count / columns)
        width = (PAGE_PX - GAP_PX * (columns + 1)) // columns
        height = max(1, min(round(width / aspect), PAGE_PX * 5 // 8))
        page_px = rows * (height + CAPTION_PX + GAP_PX)
        ugliness = abs(math.log(PAGE_PX / page_px / 1.5)) + (rows * columns - count) / count
        return ugliness, (columns, width, height)

    return min(layout(columns) for columns in range(1, min(count, 6) + 1))[1]


def _captioned(shot: _Shot, width: int, height: int) -> Image:
    """The picture, as large as it fits into width x height, with its boxes and a line of text beneath."""
    shot = _fit(shot, width, height, may_enlarge=True)
    picture = draw_targets(shot.rgb, shot.results)
    cell = _paper(height + CAPTION_PX, width)
    left, top = (width - picture.shape[1]) // 2, height - picture.shape[0]
    cell[top:height, left : left + picture.shape[1]] = picture
    words = []
    if shot.results:
        first = shot.results[0]
        words = [f"frame {first.frame_index}"]
        if first.time_s is not None:
            words.append(f"{first.time_s:.2f} s")
        if len(shot.results) == 1 and not math.isnan(first.score):
            words.append(f"score {first.score:.2f}")
        if any(result.presence != "tracked" for result in shot.results):
            words.append("uncertain")
    _write(cell, "   ".join(words), (0, height + 21), capital_px=12, room_px=width)
    return cell


def _fit(shot: _Shot, width: int, height: int, *, may_enlarge: bool) -> _Shot:
    """The shot scaled to touch width x height from within, boxes and all."""
    h, w = shot.rgb.shape[:2]
    scale = min(width / w, height / h)
    if scale == 1 or (scale > 1 and not may_enlarge):
        return shot
    rgb = _scaled(shot.rgb, max(1, round(w * scale)), max(1, round(h * scale)))
    by = np.array([rgb.shape[1] / w, rgb.shape[0] / h] * 2)

    def moved(result: TrackResult) -> TrackResult:
        x, y, w, h = (float(value) for value in by * result.xywh)
        return replace(result, xywh=(x, y, w, h))

    return shot._replace(rgb=rgb, results=tuple(map(moved, shot.results)))


# A first frame to read a box from


class _Part(NamedTuple):
    """A rectangle of the frame, half-open, in its whole pixels."""

    left: int
    top: int
    right: int
    bottom: int


RULER_PX = (26, 58)  # height of the ones above and below, width of the ones at the sides
NUMBER_PX = 10  # height of the digits on rulers
TICK_PX = (5, 9)  # length of a small and of a large tick
SHADE = 56  # of 255, by which lines of the grid are lighter and darker than the frame
STEPS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000)  # frame pixels between numbered lines
TILES = ((6, 1), (3, 2), (2, 3), (1, 6))  # columns and rows
MANY_TILES = ((12, 1), (4, 3), (3, 4), (1, 12))  # for frames wider or higher than the next number
LARGE_PX = 2560
OVERLAP = 0.08  # of a tile's side, over to its neighbour's on each side, for a target on the line between


def first_frame_sheet(rgb: Image, title: str) -> Image:
    """A page from which a person reads a box: the frame between rulers, and beneath it enlarged in numbered tiles.

    `rgb` is (H, W, 3) uint8; lines and rulers count its pixels. `title` stands above (what is not ASCII becomes a
    question mark), at the bottom how a box is written, with an example that is drawn in the frame. Comes out uint8 RGB,
    about 1750 pixels wide and for most frames twice as high.
    """
    height, width = rgb.shape[:2]
    scale = PAGE_PX / max(height, width)
    step = _step(max(height, width), columns=16)
    example = [*_example_span(width, step), *_example_span(height, step)]
    x, w, y, h = example
    tiles = _tiles(height, width)

    whole = _Part(0, 0, width, height)
    picture = _gridded(rgb, whole, scale, step)
    for number, tile in enumerate(tiles, start=1):
        _draw_badge(picture, str(number), round(tile.left * scale) + 3, round(tile.top * scale) + 3)
    _draw_example(picture, [round(value * scale) for value in (x, y, x + w, y + h)], f"example {x},{y},{w},{h}")
    page_px = PAGE_PX + 2 * (RULER_PX[1] + GAP_PX)
    rows = [
        _line(title, page_px, capital_px=18),
        _centred(_ruled(picture, whole, step), page_px),
    ]

    tile_px = (page_px - 3 * GAP_PX) // 2 - 2 * RULER_PX[1]
    drawn = []
    for number, tile in enumerate(tiles, start=1):
        part = _widened(tile, height, width)
        finer = _step(max(part.right - part.left, part.bottom - part.top), columns=12)
        scale = min(tile_px / (part.right - part.left), PAGE_PX * 5 / 8 / (part.bottom - part.top))
        drawn.append(_headed(_ruled(_gridded(rgb, part, scale, finer), part, finer), number, part))
    in_row = max(1, (page_px - GAP_PX) // (max(tile.shape[1] for tile in drawn) + GAP_PX))
    rows += [_beside(drawn[i : i + in_row], page_px) for i in range(0, len(drawn), in_row)]
    rows.append(
        _line(
            "A box is X,Y,W,H = left, top, width, height in pixels of the frame, as the rulers count them. "
            f'The one marked "example" is {x},{y},{w},{h}',
            page_px,
            capital_px=15,
        )
    )
    return _below(rows, page_px)


def _step(side_px: int, columns: int) -> int:
    """The smallest of `STEPS` that divides a side into so many columns at most."""
    return next((step for step in STEPS if side_px <= columns * step), STEPS[-1])


def _example_span(side_px: int, step: int) -> tuple[int, int]:
    """Start and length of the example along one side, on lines of the grid while there are any."""
    start = step * (side_px // 4 // step)
    return start, min(step * max(1, side_px // 6 // step), side_px - start)


def _tiles(height: int, width: int) -> list[_Part]:
    """The frame in parts of a shape near 4:3, row by row."""
    choice = TILES if max(height, width) <= LARGE_PX else MANY_TILES
    columns, rows = min(choice, key=lambda tile: abs(math.log(width / tile[0] / (height / tile[1]) * 3 / 4)))
    columns, rows = min(columns, width), min(rows, height)
    xs = [round(i * width / columns) for i in range(columns + 1)]
    ys = [round(i * height / rows) for i in range(rows + 1)]
    return [_Part(xs[i], ys[j], xs[i + 1], ys[j + 1]) for j in range(rows) for i in range(columns)]


def _widened(tile: _Part, height: int, width: int) -> _Part:
    """The tile and a little of its neighbours."""
    x = math.ceil(OVERLAP * (tile.right - tile.left))
    y = math.ceil(OVERLAP * (tile.bottom - tile.top))
    return _Part(max(0, tile.left - x), max(0, tile.top - y), min(width, tile.right + x), min(height, tile.bottom + y))


def _gridded(rgb: Image, part: _Part, scale: float, step: int) -> Image:
    """A part of the frame, scaled, with thin lines at the multiples of `step`, a light beside a dark one."""
    crop = rgb[part.top : part.bottom, part.left : part.right]
    w, h = (max(1, round(side_px * scale)) for side_px in (crop.shape[1], crop.shape[0]))
    picture = _scaled(crop, w, h)
    for shift, before in ((-SHADE, 1), (SHADE, 0)):  # the light one is at the place itself
        shaded = np.clip(picture.astype(np.int16) + shift, 0, 255).astype(np.uint8)
        for _, place in _marks(part.left, part.right, step, w):
            if before <= place < w:
                picture[:, place - before] = shaded[:, place - before]
        for _, place in _marks(part.top, part.bottom, step, h):
            if before <= place < h:
                picture[place - before] = shaded[place - before]
    return picture


def _marks(first: int, last: int, step: int, side_px: int) -> list[tuple[int, int]]:
    """The multiples of `step` from `first` to `last`, each with its place along `side_px` page pixels."""
    scale = side_px / (last - first)
    return [(value, round((value - first) * scale)) for value in range(-(-first // step) * step, last + 1, step)]


def _ruled(picture: Image, part: _Part, step: int) -> Image:
    """The picture of a part with rulers on its four sides that count the pixels of the frame."""
    h, w = picture.shape[:2]
    above, beside = RULER_PX
    page = _paper(h + 2 * above, w + 2 * beside)
    page[above : above + h, beside : beside + w] = picture
    cv2.rectangle(page, (beside - 1, above - 1), (beside + w, above + h), INK, 1)
    for first, last, side_px, is_row in ((part.left, part.right, w, True), (part.top, part.bottom, h, False)):
        for fine in (_finer(step, side_px / (last - first)), step):
            length_px = TICK_PX[fine == step]
            for _, place in _marks(first, last, fine, side_px):
                if is_row:
                    x = beside + place
                    page[above - 1 - length_px : above - 1, x] = page[above + h + 1 : above + h + 1 + length_px, x] = (
                        INK
                    )
                else:
                    y = above + place
                    page[y, beside - 1 - length_px : beside - 1] = INK
                    page[y, beside + w + 1 : beside + w + 1 + length_px] = INK
        for value, place in _marks(first, last, step, side_px):
            text = str(value)
            text_px = _width_px(text, NUMBER_PX)
            if is_row:
                x = beside + place - text_px // 2
                _write(page, text, (x, above - TICK_PX[1] - 5), NUMBER_PX)
                _write(page, text, (x, above + h + TICK_PX[1] + 5 + NUMBER_PX), NUMBER_PX)
            else:
                y = above + place + NUMBER_PX // 2
                _write(page, text, (beside - TICK_PX[1] - 5 - text_px, y), NUMBER_PX)
                _write(page, text, (beside + w + TICK_PX[1] + 5, y), NUMBER_PX)
    return page


def _finer(step: int, scale: float) -> int:
    """What the small ticks count: a tenth, a fifth or a half of a step, whole and at least 6 page pixels wide."""
    return next((step // n for n in (10, 5, 2) if step % n == 0 and step / n * scale >= 6), step)


def _headed(picture: Image, number: int, part: _Part) -> Image:
    """A tile under its number and what it shows."""
    page = _paper(picture.shape[0] + 34, picture.shape[1])
    page[34:] = picture
    right = _draw_badge(page, str(number), RULER_PX[1], 6)
    text = f"x {part.left} to {part.right}, y {part.top} to {part.bottom}"
    _write(page, text, (right + 10, 24), capital_px=12, room_px=page.shape[1] - right - 10)
    return page


def _draw_badge(page: Image, text: str, left: int, top: int) -> int:
    """White digits on a dark square; returns where it ends on the right."""
    right, bottom = left + _width_px(text, 13) + 12, top + 24
    cv2.rectangle(page, (left, top), (right - 1, bottom - 1), INK, cv2.FILLED)
    _write(page, text, (left + 6, bottom - 6), 13, colour=PAPER)
    return right


def _draw_example(picture: Image, xyxy: Sequence[int], text: str) -> None:
    """The example's box with its label beneath it, or above where the frame ends."""
    left, top, right, bottom = xyxy
    corners = (left, top), (max(left, right - 1), max(top, bottom - 1))
    cv2.rectangle(picture, *corners, BLACK, 4)
    cv2.rectangle(picture, *corners, COLOURS[0], 2)
    height_px = 24
    y = bottom if bottom + height_px <= picture.shape[0] else max(0, top - height_px)
    x = max(0, min(left, picture.shape[1] - _width_px(text, 12) - 12))
    cv2.rectangle(picture, (x, y), (x + _width_px(text, 12) + 11, y + height_px - 1), COLOURS[0], cv2.FILLED)
    _write(picture, text, (x + 6, y + 18), 12, colour=BLACK)


# Paper and text


def _paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAPER, np.uint8)


def _scaled(rgb: Image, width: int, height: int) -> Image:
    """Averaged where it shrinks, smooth where it grows; a copy always."""
    smooth = cv2.INTER_AREA if width < rgb.shape[1] else cv2.INTER_CUBIC
    return np.array(cv2.resize(rgb, (width, height), interpolation=smooth), np.uint8)


def _beside(pictures: Sequence[Image], page_px: int) -> Image:
    """Pictures in a row from the left, a gap before each."""
    row = _paper(max(picture.shape[0] for picture in pictures), page_px)
    left = GAP_PX
    for picture in pictures:
        row[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP_PX
    return row


def _centred(picture: Image, page_px: int) -> Image:
    row = _paper(picture.shape[0], page_px)
    left = (page_px - picture.shape[1]) // 2
    row[:, left : left + picture.shape[1]] = picture
    return row


def _below(rows: Sequence[Image], page_px: int) -> Image:
    """Rows under each other with a gap around each."""
    gap = _paper(GAP_PX, page_px)
    return np.concatenate([gap, *(part for row in rows for part in (row, gap))])


def _line(text: str, page_px: int, capital_px: int) -> Image:
    """A line of text as wide as the page."""
    line = _paper(2 * capital_px, page_px)
    _write(line, text, (GAP_PX, 3 * capital_px // 2), capital_px, room_px=page_px - 2 * GAP_PX)
    return line


def _width_px(text: str, capital_px: float) -> int:
    return int(cv2.getTextSize(text, FONT, capital_px / CAPITAL_PX, 1)[0][0])


def _write(
    page: Image,
    text: str,
    at: tuple[int, int],
    capital_px: float,
    *,
    room_px: int | None = None,
    colour: tuple[int, int, int] = INK,
) -> None:
    """Text from its lower left corner on, made smaller where it is longer than `room_px`."""
    text = text.encode("ascii", "replace").decode()  # all that OpenCV's fonts are sure to have
    if room_px is not None:
        capital_px *= min(1.0, 0.97 * room_px / max(1, _width_px(text, capital_px)))  # widths are not quite linear
    cv2.putText(page, text, at, FONT, capital_px / CAPITAL_PX, colour, 1, cv2.LINE_AA)
