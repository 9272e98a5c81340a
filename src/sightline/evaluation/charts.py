"""Charts of a report as SVG, drawn by hand: text that can be read and marked, and no library to load.

Colours and lines are told apart on white paper with any common kind of colour vision. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# Okabe and Ito (2008) without its yellow, which is too light for a line; then the same again, dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
DASHES = ("", "7 4", "2 3", "9 3 2 3")

WIDTH = 360
HEIGHT = 240  # of the frame around the curves with its labels; a legend comes below
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 30, 44  # margins of that frame
LINE = 17  # height of a line of text
CHAR = 6.4  # width of a letter of the small text, roughly
GRID, INK, SOFT = "#e4e4e0", "#202020", "#666"


class Series(NamedTuple):
    """A line of a chart, or a dot; `legend` is its number there."""

    label: str
    y: ArrayLike
    legend: str = ""
    number: int = 0  # of its tracker, which chooses colour and dashes


class Point(NamedTuple):
    """A dot of a scatter: the number of its tracker, its name, and where it is."""

    number: int
    label: str
    x: float
    y: float


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def dashes(number: int) -> str:
    return DASHES[number // len(COLOURS) % len(DASHES)]


def curves(title: str, x_label: str, y_label: str, x: ArrayLike, lines: Sequence[Series]) -> str:
    """Lines over a common x, y from 0 to 1, in the order of the legend beneath."""
    at = np.asarray(x, dtype=np.float64)
    low, high = float(at[0]), float(at[-1])
    to_x = _scale(low, high, LEFT, WIDTH - RIGHT)
    to_y = _scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_frame(title, x_label, y_label)]
    num_ticks = 6 if (len(at) - 1) % 5 == 0 else 7  # so that they are round: HOTA has 19 thresholds, the others 5 k + 1
    parts += [_x_tick(to_x(value), f"{value:.3g}") for value in np.linspace(low, high, num_ticks)]
    parts += [_y_tick(to_y(value), f"{value:.1f}") for value in np.linspace(0, 1, 6)]
    for line in reversed(lines):  # the first on top
        points = " ".join(
            f"{to_x(a):.1f},{to_y(b):.1f}" for a, b in zip(at, np.asarray(line.y, dtype=np.float64), strict=True)
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour(line.number)}" stroke-width="1.8" '
            f'stroke-linejoin="round" stroke-dasharray="{dashes(line.number)}"/>'
        )
    for row, line in enumerate(lines):
        y = HEIGHT + LINE * row + 4
        parts.append(
            f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 24}" y2="{y}" stroke="{colour(line.number)}" stroke-width="2.4" '
            f'stroke-dasharray="{dashes(line.number)}"/>'
        )
        parts.append(_text(LEFT + 32, y + 4, _cut(line.label, WIDTH - LEFT - 90)))
        parts.append(_text(WIDTH - RIGHT, y + 4, line.legend, anchor="end"))
    return _svg(WIDTH, HEIGHT + LINE * len(lines) + 6, title, parts)


def dots(title: str, x_label: str, rows: Sequence[tuple[str, Sequence[Series]]]) -> str:
    """A row for each name with a dot for each tracker, x from 0 to 1; `y` of a series is the one number."""
    widest = max(len(name) for name, _ in rows)
    left, width = min(220, int(20 + CHAR * widest)), 720
    bottom = TOP + LINE * len(rows)
    to_x = _scale(0, 1, left, width - RIGHT)
    parts = [_text(left, 16, title, weight="600"), _text((left + width) / 2, bottom + 34, x_label, anchor="middle")]
    for value in np.linspace(0, 1, 11):
        x = to_x(value)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 16, f"{value:.1f}", anchor="middle", fill=SOFT))
    for row, (name, series) in enumerate(rows):
        y = TOP + LINE * (row + 0.5)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{width - RIGHT}" y2="{y}" stroke="{GRID}"/>')
        parts.append(_text(left - 8, y + 4, _cut(name, left - 16), anchor="end"))
        for one in reversed(series):
            value = float(np.asarray(one.y))
            if math.isfinite(value):
                about = f"{name}, {one.label}: {one.legend}"
                parts.append(_dot(to_x(min(max(value, 0), 1)), y, one.number, about))
    return _svg(width, bottom + 44, title, parts)


def scatter(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> str:
    """Dots with their names: x above 0 on a logarithmic axis, y from 0 to 1."""
    width, height = 720, 320
    exponents = [math.log10(point.x) for point in points]
    low, high = math.floor(min(exponents) - 0.05), math.ceil(max(exponents) + 0.05)
    to_x = _scale(low, high, LEFT, width - RIGHT)
    to_y = _scale(0, 1, height - BOTTOM, TOP)
    parts = [_frame(title, x_label, y_label, width, height)]
    ticks = [step * 10.0**decade for decade in range(low, high + 1) for step in (1, 2, 5)]
    parts += [_x_tick(to_x(math.log10(tick)), f"{tick:g}", height) for tick in ticks if tick <= 10.0**high]
    parts += [_y_tick(to_y(value), f"{value:.1f}", width) for value in np.linspace(0, 1, 6)]
    for point, exponent in zip(points, exponents, strict=True):
        at, y = to_x(exponent), to_y(point.y)
        is_right = at > (LEFT + width) / 2  # the name goes to where there is room
        parts.append(_dot(at, y, point.number, point.label))
        parts.append(_text(at + (-9 if is_right else 9), y + 4, point.label, anchor="end" if is_right else "start"))
    return _svg(width, height, title, parts)


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{escape(title)}" font-family="system-ui, Helvetica, Arial, '
        f'sans-serif" font-size="12" fill="{INK}">' + "".join(parts) + "</svg>"
    )


def _frame(title: str, x_label: str, y_label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    middle_x, middle_y = (LEFT + width - RIGHT) / 2, (TOP + height - BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {middle_y})"'
    return (
        f'<rect x="{LEFT}" y="{TOP}" width="{width - LEFT - RIGHT}" height="{height - TOP - BOTTOM}" fill="none" '
        f'stroke="{GRID}"/>'
        + _text(LEFT, 16, title, weight="600")
        + _text(middle_x, height - 10, x_label, anchor="middle")
        + _text(12, middle_y, y_label, anchor="middle", more=turned)
    )


def _x_tick(x: float, label: str, height: int = HEIGHT) -> str:
    bottom = height - BOTTOM
    line = f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>'
    return line + _text(x, bottom + 16, label, anchor="middle", fill=SOFT)


def _y_tick(y: float, label: str, width: int = WIDTH) -> str:
    line = f'<line x1="{LEFT}" y1="{y:.1f}" x2="{width - RIGHT}" y2="{y:.1f}" stroke="{GRID}"/>'
    return line + _text(LEFT - 6, y + 4, label, anchor="end", fill=SOFT)


def _dot(x: float, y: float, number: int, about: str) -> str:
    ring = f'fill="#fff" stroke="{colour(number)}" stroke-width="2"' if dashes(number) else f'fill="{colour(number)}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {ring}><title>{escape(about)}</title></circle>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400", fill: str = INK, more: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{fill}" {more}>'
        f"{escape(text)}</text>"
    )


def _cut(text: str, room_px: float) -> str:
    most = max(3, int(room_px / CHAR))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    return lambda value: first + (value - low) / (high - low) * (last - first)
