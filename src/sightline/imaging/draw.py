"""Boxes, ids and scores drawn onto a frame, legible at any size."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.types import TrackResult

Image = NDArray[np.uint8]
Corners = tuple[int, int, int, int]  # xyxy in whole pixels

__all__ = ["COLOURS", "colour_of", "draw_targets"]

# Okabe and Ito (2008), told apart with any common kind of colour vision; without black, bright ones first. RGB.
COLOURS = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)

FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPITAL_PX = 21  # height of its capitals and digits at scale 1
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def colour_of(target_id: int) -> tuple[int, int, int]:
    """The RGB colour of an identity: always the same, and different for any seven ids in a row."""
    return COLOURS[target_id % len(COLOURS)]


def draw_targets(rgb: Image, targets: Iterable[TrackResult]) -> Image:
    """A copy of the frame, (H, W, 3) uint8 RGB, with each target's box and a label of its id, class and score.

    Boxes are in pixels of this frame and clipped to it; a box that is nan or wholly outside is left out, a score that
    is nan is not written. A target that is not `tracked` has a dashed box and a question mark behind its id. Labels
    stay inside the picture and, while there is room, off each other.
    """
    picture = rgb.copy()
    height, width = rgb.shape[:2]
    side_px = math.sqrt(height * width)
    line_px = max(1, round(side_px / 240))  # 2 at 640 x 360, 6 at 1920 x 1080
    text_scale = max(0.36, side_px / 900)  # digits 8 px tall at least, 11 at 640 x 360
    boxes = [(target, box) for target in targets if (box := _clip(target.xyxy, width, height))]
    rim_px = 1 if line_px > 1 else 0  # keeps the colour apart from a ground of the same colour
    for target, (left, top, right, bottom) in boxes:
        corners = (left, top), (right - 1, bottom - 1)
        draw = cv2.rectangle if target.presence == "tracked" else _draw_dashes
        if rim_px:
            draw(picture, *corners, BLACK, line_px + 2 * rim_px)
        draw(picture, *corners, colour_of(target.target_id), line_px)
    taken: list[Corners] = []  # labels come after all boxes, so that no line runs through one
    for target, (left, top, right, bottom) in boxes:
        out_px = line_px // 2 + rim_px
        outline = max(0, left - out_px), max(0, top - out_px), min(width, right + out_px), min(height, bottom + out_px)
        taken.append(_draw_label(picture, target, outline, text_scale, taken))
    return picture


def _draw_dashes(
    picture: Image, corner: tuple[int, int], opposite: tuple[int, int], colour: tuple[int, int, int], line_px: int
) -> None:
    """A rectangle as `cv2.rectangle` draws it, in dashes that do not move with `line_px`, whole at the corners."""
    (left, top), (right, bottom) = corner, opposite
    period_px = max(8.0, math.sqrt(picture.shape[0] * picture.shape[1]) / 24)
    before_px, after_px = line_px // 2, line_px - line_px // 2

    def fill(x1: int, y1: int, x2: int, y2: int) -> None:
        picture[max(0, y1 - before_px) : y2 + after_px, max(0, x1 - before_px) : x2 + after_px] = colour

    for x1, x2 in _dashes(left, right, period_px):
        fill(x1, top, x2, top)
        fill(x1, bottom, x2, bottom)
    for y1, y2 in _dashes(top, bottom, period_px):
        fill(left, y1, left, y2)
        fill(right, y1, right, y2)


def _dashes(first: int, last: int, period_px: float) -> list[tuple[int, int]]:
    """Ends of dashes from `first` to `last`, two at least; two fifths dash, for a line's width makes them longer."""
    count = max(2, round((last - first) / period_px + 0.6))
    unit_px = (last - first) / (10 * count - 6)
    starts = [first + 10 * i * unit_px for i in range(count)]
    return [(round(start), round(start + 4 * unit_px)) for start in starts]


def _clip(xyxy: tuple[float, float, float, float], width: int, height: int) -> Corners | None:
    """The box in whole pixels of the picture, or None where no pixel of it is left."""
    if not all(map(math.isfinite, xyxy)):
        return None
    left, right = (round(min(max(x, 0), width)) for x in xyxy[0::2])
    top, bottom = (round(min(max(y, 0), height)) for y in xyxy[1::2])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _draw_label(picture: Image, target: TrackResult, box: Corners, text_scale: float, taken: list[Corners]) -> Corners:
    """Draw the label where it is inside the picture and hides no other, above the box if it can. Returns its place."""
    text = f"#{target.target_id}" + ("" if target.presence == "tracked" else " ?")
    if target.label:
        text += f" {target.label.replace('_', ' ')}"
    if picture.shape[1] >= 160 and not math.isnan(target.score):  # a narrower picture would be all labels
        text += f"  {target.score:.2f}"
    weight = max(1, round(1.5 * text_scale))
    margin_px = max(2, round(7 * text_scale))
    w = cv2.getTextSize(text, FONT, text_scale, weight)[0][0] + 2 * margin_px
    h = round(CAPITAL_PX * text_scale) + 2 * margin_px
    left, top, right, bottom = box
    corners = [(x, y) for y in (top - h, bottom, top, bottom - h) for x in (left, right - w)]
    corners += [(x, y) for y in (top, bottom - h) for x in (right, left - w)]
    last_x, last_y = max(0, picture.shape[1] - w), picture.shape[0] - h
    shifted = [(min(max(0, x), last_x), y) for x, y in corners]
    places = [(x, y, x + w, y + h) for x, y in shifted if 0 <= y <= last_y]
    free = [place for place in places if not any(_overlap(place, other) for other in taken)]
    place = (free or places or [(0, 0, w, h)])[0]
    colour = colour_of(target.target_id)
    cv2.rectangle(picture, place[:2], (place[2] - 1, place[3] - 1), colour, cv2.FILLED)
    ink = BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 100 else WHITE
    cv2.putText(picture, text, (place[0] + margin_px, place[3] - margin_px), FONT, text_scale, ink, weight, cv2.LINE_AA)
    return place


def _overlap(a: Corners, b: Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
