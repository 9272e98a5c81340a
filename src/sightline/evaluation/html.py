"""A report as one HTML file that needs nothing else: charts, tables, and pictures of what went worst."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.errors import DatasetError, VideoError
from sightline.evaluation import charts
from sightline.evaluation.bootstrap import Interval
from sightline.evaluation.charts import Series, colour
from sightline.evaluation.report import (
    Metric,
    Plot,
    Report,
    TrackerReport,
    Values,
    shown,
    shown_interval,
    signed,
    signed_interval,
    speed,
)
from sightline.evaluation.sot import overlap
from sightline.imaging.frames import read_image

Floats = NDArray[np.float64]

PICTURES = 6  # of a strip
PICTURE_PX = 320  # width
JPEG_QUALITY = 78
TRUE = -1  # the "tracker" whose boxes are true

STYLE = """
body { font: 15px/1.5 system-ui, Helvetica, Arial, sans-serif; color: #202020; background: #fff; max-width: 1180px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; } dt { color: #666; }
dd { margin: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e0; white-space: nowrap; }
th { font-weight: 600; border-bottom: 2px solid #bbb; } td.name, th.name { text-align: left; }
small { display: block; color: #666; } .row { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .5em; }
.sortable th { cursor: pointer; } .sortable th:hover { background: #f3f3f0; }
figure { margin: 0; } figure svg { display: block; width: 100%; height: auto; }
figcaption { color: #666; font-size: 13px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: .6rem; }
.note { color: #666; } svg { max-width: 100%; height: auto; }
"""

SORT = """
document.querySelectorAll('table.sortable th').forEach((head, column) => head.addEventListener('click', () => {
  const body = head.closest('table').tBodies[0], down = head.dataset.down !== '1', key = row => {
    const cell = row.cells[column]; return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v); };
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return (x < y ? -1 : x > y ? 1 : 0) * (down ? 1 : -1); }).forEach(row => body.append(row));
  head.parentNode.querySelectorAll('th').forEach(other => delete other.dataset.down);
  head.dataset.down = down ? '1' : '0';
}));
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


# Pictures


class Picture(NamedTuple):
    """A frame of a strip: JPEG data, width and height in pixels, and boxes in these: a tracker's number, or `TRUE`, and
    (x, y, w, h)."""

    jpeg: bytes
    size: tuple[int, int]
    caption: str
    boxes: tuple[tuple[int, tuple[float, float, float, float]], ...]


class Strip(NamedTuple):
    """Pictures of one sequence."""

    title: str
    pictures: tuple[Picture, ...]


def single_strip(title: str, frames: Sequence[Path], true_xywh: Floats, predicted: Sequence[Floats | None]) -> Strip:
    """Frames spread over a sequence, among them the first on which the first tracker misses the target.

    true_xywh: (N, 4). predicted: (M, 4) of each tracker, None where it has none. Frames that cannot be read are left
    out.
    """
    main = next((boxes for boxes in predicted if boxes is not None), np.empty((0, 4)))
    length = min(len(frames), len(true_xywh), len(main)) or min(len(frames), len(true_xywh))
    chosen = {round(at) for at in np.linspace(0, length - 1, PICTURES)}
    both = min(length, len(main))
    iou = overlap(main[:both], true_xywh[:both])
    missed = np.flatnonzero((iou == 0) & (true_xywh[:both, 2:] > 0).all(axis=1))
    if len(missed) and missed[0] not in chosen:
        nearest = min(sorted(chosen)[1:], key=lambda frame: abs(frame - missed[0]), default=None)
        chosen = (chosen - {nearest}) | {int(missed[0])}
    pictures = []
    for frame in sorted(chosen):
        boxes = [(TRUE, true_xywh[frame])]
        boxes += [(n, rows[frame]) for n, rows in enumerate(predicted) if rows is not None and frame < len(rows)]
        words = f"frame {frame}"
        if frame < both and not math.isnan(iou[frame]):
            words += f", IoU {iou[frame]:.2f}"
        pictures += _picture(frames[frame], words, boxes)
    return Strip(title, tuple(pictures))


def many_strip(
    title: str,
    frames: Sequence[Path],
    true: tuple[NDArray[np.int64], Floats],
    predicted: Sequence[tuple[NDArray[np.int64], Floats]],
) -> Strip:
    """Frames spread over a sequence with all boxes: of the rows of each side the frame (N,) from 0, `xywh` (N, 4)."""
    pictures = []
    for frame in sorted({round(at) for at in np.linspace(0, len(frames) - 1, PICTURES)}):
        sides = [(TRUE, true), *enumerate(predicted)]
        boxes = [(n, box) for n, (at, xywh) in sides for box in xywh[at == frame]]
        pictures += _picture(frames[frame], f"frame {frame}", boxes)
    return Strip(title, tuple(pictures))


def _picture(path: Path, caption: str, boxes: Iterable[tuple[int, Floats]]) -> list[Picture]:
    """One picture, or none where the frame cannot be read."""
    try:
        rgb = read_image(path)
    except (VideoError, DatasetError):
        return []
    height, width = rgb.shape[:2]
    scale = min(1.0, PICTURE_PX / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    found = []
    for number, box in boxes:
        if np.isfinite(box).all() and (box[2:] > 0).all():
            x, y, w, h = (float(value) for value in box * scale)
            found.append((number, (x, y, w, h)))
    return [Picture(data.tobytes(), size, caption, tuple(found))]


def _strip_html(strip: Strip) -> str:
    return (
        f'<h3>{escape(strip.title)}</h3><div class="strip">'
        + "".join(
            f"<figure>{_picture_svg(one)}<figcaption>{escape(one.caption)}</figcaption></figure>"
            for one in strip.pictures
        )
        + "</div>"
    )


def _picture_svg(picture: Picture) -> str:
    width, height = picture.size
    data = base64.b64encode(picture.jpeg).decode()
    parts = [f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>']
    for number, (x, y, w, h) in picture.boxes:
        place = (
            f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="none" vector-effect="non-scaling-stroke"'
        )
        ink = "#fff" if number == TRUE else colour(number)
        dash = ' stroke-dasharray="5 3"' if number == TRUE else ""
        parts.append(f'<rect {place} stroke="#000" stroke-width="2.6" stroke-opacity=".55"/>')
        parts.append(f'<rect {place} stroke="{ink}" stroke-width="1.5"{dash}/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(picture.caption)}">{"".join(parts)}</svg>'
    )


# The page


def html_text(report: Report, strips: Sequence[Strip] = ()) -> str:
    """The page; every name in it is escaped, and it loads nothing from anywhere."""
    title = escape(report.title)
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in report.facts.items())
    notes = "".join(f"<p><strong>Note:</strong> {escape(note)}</p>" for note in report.notes)
    sections = [
        ("Scores", _scores(report)),
        ("Differences", _differences(report)),
        ("Curves", _curves(report)),
        ("Accuracy against speed", _speeds(report)),
        ("Attributes", _attributes(report)),
        ("Other averages", _averages(report)),
        (f"The worst {report.rows_called}", _strips(report, strips)),
        (report.rows_called.capitalize(), _rows(report)),
        ("Trackers", _trackers(report)),
    ]
    body = "".join(
        f"<section><h2>{escape(heading)}</h2>{content}</section>" for heading, content in sections if content
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1><dl>{facts}</dl>{notes}"
        f"{body}<script>{SORT}</script></body></html>\n"
    )


def _table(headings: Sequence[str], rows: Iterable[str], names: int = 1, kind: str = "") -> str:
    """Rows are those of `_row`; the first columns hold names."""
    named = "".join(f'<th class="name">{escape(heading)}</th>' for heading in headings[:names])
    cells = named + "".join(f"<th>{escape(heading)}</th>" for heading in headings[names:])
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def _row(names: Sequence[str], cells: Iterable[str]) -> str:
    """`names` and `cells` are HTML; a cell brings its own <td>."""
    return "<tr>" + "".join(f'<td class="name">{name}</td>' for name in names) + "".join(cells) + "</tr>"


def _number(metric: Metric, value: float) -> str:
    order = -1 if math.isnan(value) else value
    return f'<td data-v="{order:.12g}">{shown(metric, value)}</td>'


def _numbers(report: Report, values: Values) -> list[str]:
    return [_number(metric, values.get(metric.key, math.nan)) for metric in report.metrics]


def _around(text: str, interval: str) -> str:
    return f"<td>{text}{f'<small>{interval}</small>' if interval else ''}</td>"


def _name(report: Report, name: str) -> str:
    number = [one.name for one in report.trackers].index(name)
    return f'<span class="chip" style="background:{colour(number)}"></span>{escape(name)}'


def _headings(report: Report) -> list[str]:
    return [metric.heading for metric in report.metrics]


def _scores(report: Report) -> str:
    has_speed = any(not math.isnan(one.frames_per_second) for one in report.trackers)
    rows = [
        _row(
            [_name(report, one.name)],
            [
                *(
                    _around(shown(metric, value.value), shown_interval(metric, value))
                    for metric in report.metrics
                    for value in [one.overall[metric.key]]
                ),
                *([f"<td>{speed(one.frames_per_second)}</td>"] if has_speed else []),
            ],
        )
        for one in report.trackers
    ]
    note = '<p class="note">Shares in percent.</p>'
    return _table(["tracker", *_headings(report), *(["frames/s"] if has_speed else [])], rows) + note


def _differences(report: Report) -> str:
    def cells(values: Mapping[str, Interval]) -> list[str]:
        found = [(metric, values[metric.key]) for metric in report.metrics]
        return [_around(signed(metric, one.value), signed_interval(metric, one)) for metric, one in found]

    rows = [_row([f"{escape(one.one)} − {escape(one.other)}"], cells(one.values)) for one in report.differences]
    note = "On the same sequences; with ten or more, an interval that leaves out 0 is more than their choice."
    return _table(["", *_headings(report)], rows) + f'<p class="note">{note}</p>' if rows else ""


def _ranked(report: Report, metric: Metric) -> list[tuple[int, TrackerReport]]:
    """Trackers with their numbers, the best first."""

    def value(entry: tuple[int, TrackerReport]) -> float:
        found = entry[1].overall[metric.key].value
        return math.inf if math.isnan(found) else -found

    return sorted(enumerate(report.trackers), key=value)


def _curves(report: Report) -> str:
    def chart(plot: Plot) -> str:
        lines = [
            Series(one.name, one.curves[plot.key], shown(plot.metric, one.overall[plot.metric.key].value), number)
            for number, one in _ranked(report, plot.metric)
            if plot.key in one.curves
        ]
        title = f"{plot.title} [{plot.metric.heading}]" if plot.title != plot.metric.heading else plot.title
        return charts.curves(title, plot.x_label, plot.y_label, plot.x, lines)

    return f'<div class="row">{"".join(map(chart, report.plots))}</div>' if report.plots else ""


def _speeds(report: Report) -> str:
    main = report.metrics[0]
    points = [
        charts.Point(number, one.name, one.frames_per_second, one.overall[main.key].value)
        for number, one in enumerate(report.trackers)
        if one.frames_per_second > 0
    ]
    if len(points) < 2:
        return ""
    note = '<p class="note">Frames per second of the tracker alone, as each was timed on its own machine.</p>'
    return charts.scatter(f"{main.heading} and speed", "frames per second", main.heading, points) + note


def _attributes(report: Report) -> str:
    if not report.num_with:
        return ""
    main = report.metrics[0]
    rows = [
        (
            f"{name} ({count})",
            [
                Series(one.name, value, shown(main, value), number)
                for number, one in enumerate(report.trackers)
                for value in [one.attributes[name][main.key]]
            ],
        )
        for name, count in report.num_with.items()
    ]
    table = [
        _row([escape(name), _name(report, one.name)], [f"<td>{count}</td>", *_numbers(report, one.attributes[name])])
        for name, count in report.num_with.items()
        for one in report.trackers
    ]
    headings = ["attribute", "tracker", "sequences", *_headings(report)]
    chart = charts.dots(f"{main.heading} by attribute", main.heading, rows)
    return f'<p class="note">{_legend(report)}</p>{chart}' + _table(headings, table, names=2)


def _averages(report: Report) -> str:
    rows = [
        _row([_name(report, one.name), escape(way)], _numbers(report, values))
        for one in report.trackers
        for way, values in one.averages.items()
    ]
    return _table(["tracker", "average over", *_headings(report)], rows, names=2) if rows else ""


def _strips(report: Report, strips: Sequence[Strip]) -> str:
    if not any(strip.pictures for strip in strips):
        return ""
    true = '<span class="chip" style="background:#fff;border:1.5px dashed #000"></span>true &emsp; '
    legend = f'<p class="note">{true}{_legend(report)}</p>'
    return legend + "".join(_strip_html(strip) for strip in strips if strip.pictures)


def _legend(report: Report) -> str:
    return " &emsp; ".join(_name(report, one.name) for one in report.trackers)


def _rows(report: Report) -> str:
    rows = []
    for name in report.row_names:
        length = report.num_frames.get(name)
        frames = [] if length is None else [f'<td data-v="{length}">{length:,}</td>']
        rows += [
            _row([escape(name), _name(report, one.name)], [*frames, *_numbers(report, one.rows[name])])
            for one in report.trackers
            if name in one.rows
        ]
    headings = [report.row_kind, "tracker", *(["frames"] if report.num_frames else []), *_headings(report)]
    note = '<p class="note">Click a heading to sort.</p>'
    return note + _table(headings, rows, names=2, kind="sortable") if rows else ""


def _trackers(report: Report) -> str:
    rows = [
        _row([_name(report, one.name), escape(key), escape(text)], [])
        for one in report.trackers
        for key, text in one.facts.items()
    ]
    return _table(["tracker", "", ""], rows, names=3) if rows else ""
