"""What came out of an evaluation, as one value for every kind of benchmark, and its tables: JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sightline import __version__
from sightline.evaluation.bootstrap import Interval

Floats = NDArray[np.floating]
Values = Mapping[str, float]

UNKNOWN = "–"  # what is nan


class Metric(NamedTuple):
    """A column: where its number is found, what stands above it, and whether it is a share of 1, shown in percent, or
    a count."""

    key: str
    heading: str
    unit: Literal["share", "count"] = "share"


class Plot(NamedTuple):
    """Curves to draw: of each tracker `curves[key]` over `x`, the best by `metric` first."""

    key: str
    title: str
    x_label: str
    y_label: str
    x: Floats
    metric: Metric


class Difference(NamedTuple):
    """One tracker minus another, on the same sequences."""

    one: str
    other: str
    values: Mapping[str, Interval]


@dataclass(frozen=True, eq=False)
class TrackerReport:
    """The numbers of one tracker, by the keys of `Report.metrics`, and maybe more.

    overall: with intervals, nan where there is none. rows: of each sequence (class). attributes: of the sequences with
    an attribute. averages: of other ways to put sequences together. curves: as `Report.plots` asks for.
    frames_per_second: nan where nobody measured it. facts: whose results they are.
    """

    name: str
    overall: Mapping[str, Interval]
    rows: Mapping[str, Values]
    curves: Mapping[str, Floats] = field(default_factory=dict)
    attributes: Mapping[str, Values] = field(default_factory=dict)
    averages: Mapping[str, Values] = field(default_factory=dict)
    frames_per_second: float = math.nan
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Report:
    """An evaluation: trackers in the order given, and how the first differs from the others.

    facts: what was measured and how, in words. metrics: the first is the main one, of which more is better. row_kind:
    what a row is, "sequence" or "class". num_frames: of each row, where that is known. num_with: of each attribute, the
    sequences that have it. notes: sentences on what a reader of the numbers must know.
    """

    title: str
    facts: Mapping[str, str]
    metrics: tuple[Metric, ...]
    trackers: tuple[TrackerReport, ...]
    differences: tuple[Difference, ...] = ()
    plots: tuple[Plot, ...] = ()
    row_kind: str = "sequence"
    num_frames: Mapping[str, int] = field(default_factory=dict)
    num_with: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def row_names(self) -> list[str]:
        """Rows of any tracker, in order."""
        return list(dict.fromkeys(name for tracker in self.trackers for name in tracker.rows))

    @property
    def rows_called(self) -> str:
        return {"sequence": "sequences", "class": "classes"}[self.row_kind]

    def worst(self, count: int) -> list[str]:
        """Names of the rows in which the first tracker is worst, by the main metric."""
        main, rows = self.metrics[0].key, self.trackers[0].rows
        known = [name for name in rows if not math.isnan(rows[name].get(main, math.nan))]
        return sorted(known, key=lambda name: rows[name][main])[:count]


# Numbers in words


def shown(metric: Metric, value: float, decimals: int = 2) -> str:
    """A share in percent, a count whole."""
    if math.isnan(value):
        return UNKNOWN
    return f"{100 * value:z.{decimals}f}" if metric.unit == "share" else f"{value:z,.0f}"  # z: no minus before zero


def shown_interval(metric: Metric, interval: Interval) -> str:
    """`61.2 to 77.5`, or nothing where there is no interval."""
    if math.isnan(interval.low):
        return ""
    return f"{shown(metric, interval.low, 1)} to {shown(metric, interval.high, 1)}"


def signed(metric: Metric, value: float, decimals: int = 2) -> str:
    """As `shown`, with a plus before what is not below 0."""
    text = shown(metric, value, decimals)
    return text if text == UNKNOWN or text.startswith("-") else f"+{text}"


def signed_interval(metric: Metric, interval: Interval) -> str:
    if math.isnan(interval.low):
        return ""
    return f"{signed(metric, interval.low, 1)} to {signed(metric, interval.high, 1)}"


def speed(frames_per_second: float) -> str:
    return UNKNOWN if math.isnan(frames_per_second) else f"{frames_per_second:.3g}"


# Tables


def json_text(report: Report) -> str:
    """All of it: shares as fractions of 1, null for what is not known."""

    def intervals(values: Mapping[str, Interval]) -> dict[str, Any]:
        return {key: one._asdict() for key, one in values.items()}

    content = {
        "sightline": __version__,
        "title": report.title,
        "facts": report.facts,
        "notes": report.notes,
        "metrics": [metric._asdict() for metric in report.metrics],
        "row_kind": report.row_kind,
        "num_frames": report.num_frames,
        "num_with_attribute": report.num_with,
        "trackers": [
            {
                "name": one.name,
                "facts": one.facts,
                "frames_per_second": one.frames_per_second,
                "overall": intervals(one.overall),
                "averages": one.averages,
                "attributes": one.attributes,
                "rows": one.rows,
                "curves": one.curves,
            }
            for one in report.trackers
        ],
        "differences": [{**one._asdict(), "values": intervals(one.values)} for one in report.differences],
        "plots": {plot.key: {"title": plot.title, "x_label": plot.x_label, "x": plot.x} for plot in report.plots},
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """What JSON has a word for; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(report: Report) -> str:
    """A line for each tracker as a whole and for each of its sequences (classes), attributes and other averages.

    Shares are fractions of 1; a cell is empty where nothing is known; `_low` and `_high` are the ends of intervals.
    """
    known = [metric.key for metric in report.metrics]
    keys = list(dict.fromkeys([*known, *(key for one in report.trackers for key in one.overall)]))
    bounds = [f"{key}_{end}" for key in keys for end in ("low", "high")]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["tracker", "kind", "name", "num_frames", *keys, *bounds, "frames_per_second"])
    for one in report.trackers:
        ends = [bound for key in keys for bound in one.overall[key][1:]]
        total = sum(report.num_frames.values()) or ""
        values = [one.overall[key].value for key in keys]
        table.writerow([one.name, "all", "", total, *_cells([*values, *ends, one.frames_per_second])])
        parts: tuple[tuple[str, Mapping[str, Values]], ...] = (
            ("average", one.averages),
            ("attribute", one.attributes),
            (report.row_kind, one.rows),
        )
        for kind, rows in parts:
            for name, row in rows.items():
                length = report.num_frames.get(name, "") if kind == report.row_kind else ""
                blank = [""] * (len(bounds) + 1)
                cells = _cells([row.get(key, math.nan) for key in keys])
                table.writerow([one.name, kind, name, length, *cells, *blank])
    return out.getvalue()


def _cells(values: Sequence[float]) -> Iterator[str]:
    return ("" if math.isnan(value) else repr(float(value)) for value in values)


def markdown_text(report: Report) -> str:
    """The tables that a reader wants, shares in percent."""
    headings = [metric.heading for metric in report.metrics]
    has_speed = any(not math.isnan(one.frames_per_second) for one in report.trackers)
    parts = [f"# {_inline(report.title)}", "\n".join(f"- {key}: {_inline(text)}" for key, text in report.facts.items())]
    parts += [f"**Note:** {_inline(note)}" for note in report.notes]

    def numbers(row: Values) -> list[str]:
        return [shown(metric, row.get(metric.key, math.nan)) for metric in report.metrics]

    rows = []
    for one in report.trackers:
        cells = [_with_interval(shown, shown_interval, metric, one.overall[metric.key]) for metric in report.metrics]
        rows.append([one.name, *cells, *([speed(one.frames_per_second)] if has_speed else [])])
    parts += ["## Scores", _table(["tracker", *headings, *(["frames/s"] if has_speed else [])], rows)]
    if report.differences:
        rows = [
            [
                f"{one.one} - {one.other}",
                *(_with_interval(signed, signed_interval, metric, one.values[metric.key]) for metric in report.metrics),
            ]
            for one in report.differences
        ]
        parts += ["## Differences", _table(["", *headings], rows)]
    if any(one.averages for one in report.trackers):
        rows = [[one.name, how, *numbers(row)] for one in report.trackers for how, row in one.averages.items()]
        parts += ["## Other averages", _table(["tracker", "average over", *headings], rows)]
    if report.num_with:
        rows = [
            [name, f"{count}", one.name, *numbers(one.attributes[name])]
            for name, count in report.num_with.items()
            for one in report.trackers
        ]
        parts += ["## Attributes", _table(["attribute", "sequences", "tracker", *headings], rows)]
    lengths = {name: [f"{count:,}"] for name, count in report.num_frames.items()}
    rows = [
        [name, one.name, *lengths.get(name, []), *numbers(one.rows[name])]
        for name in report.row_names
        for one in report.trackers
        if name in one.rows
    ]
    titles = [report.row_kind, "tracker", *(["frames"] if lengths else []), *headings]
    parts += [f"## {report.rows_called.capitalize()}", _table(titles, rows)]
    facts = [[one.name, key, text] for one in report.trackers for key, text in one.facts.items()]
    if facts:
        parts += ["## Trackers", _table(["tracker", "", ""], facts)]
    return "\n\n".join(parts) + "\n"


def _with_interval(
    number: Callable[[Metric, float], str],
    interval: Callable[[Metric, Interval], str],
    metric: Metric,
    value: Interval,
) -> str:
    around = interval(metric, value)
    return number(metric, value.value) + (f" ({around})" if around else "")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(_inline, line)) + " |" for line in lines)


def _inline(text: str) -> str:
    """Text that stands in a Markdown table as it is, whatever a person called a folder."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\`*|[]" else sign for sign in text)
