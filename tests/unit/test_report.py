"""Reports: what is put into them, and what their tables, charts and pages say."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sightline.datasets.clips import Clip, has_area
from sightline.datasets.mot_text import MotRows
from sightline.datasets.tao_json import parse_ground_truth, parse_results
from sightline.errors import DatasetError
from sightline.evaluation import charts
from sightline.evaluation.average_precision import mean
from sightline.evaluation.bootstrap import Interval, bootstrap, paired_difference
from sightline.evaluation.html import TRUE, html_text, many_strip, single_strip
from sightline.evaluation.mot import combine
from sightline.evaluation.protocols import PLAIN, find_protocol
from sightline.evaluation.report import (
    Metric,
    Report,
    TrackerReport,
    csv_text,
    json_text,
    markdown_text,
    shown,
    shown_interval,
    signed,
)
from sightline.evaluation.run import Tracked
from sightline.evaluation.scoring import (
    Entrant,
    draws,
    frames_per_second,
    multi_object,
    of_json,
    resampled,
    score_mot,
    single_object,
)
from sightline.evaluation.sot import measure, summarise
from sightline.evaluation.tao import federated_mot, track_ap
from tests.trees import images, numbered

NASTY = "<b>&\"'|`x"
LENGTHS = {"one": 30, "two": 40, "three": 50, NASTY: 20}


def clips(folder: Path = Path("nowhere")) -> list[Clip]:
    """Four sequences of a target that moves to the right, with attributes of two kinds."""
    made = []
    for number, (name, length) in enumerate(LENGTHS.items()):
        xywh = np.array([10.0, 10, 20, 16]) + np.arange(length)[:, None] * [1, 0, 0, 0]
        frames = tuple(folder / file for file in numbered(length))
        flags = ("SV", "IV")[: 1 + number % 2]
        made.append(Clip(name, frames, xywh, has_area(xywh), class_name="ab"[number % 2], attributes=flags))
    return made


def entrant(name: str, drift_px: float, *, seconds: float | None = 0.01) -> Entrant:
    """A tracker that falls behind the target by so many pixels a frame, in the first sequence twice as fast."""
    tracked = {}
    for number, clip in enumerate(clips()):
        rate = drift_px * (2 if number == 0 else 1)
        rows = clip.xywh - np.arange(len(clip))[:, None] * [rate, 0, 0, 0]
        times = None if seconds is None else np.full((len(clip), 1), seconds)
        tracked[clip.name] = Tracked((rows,), times)
    return Entrant(name, tracked, {"results": f"folder of {name}"})


@pytest.fixture(scope="module")
def report() -> Report:
    trackers = [entrant("slow", 0.4, seconds=0.1), entrant(NASTY, 0.8), entrant("lost", 3)]
    return single_object(clips(), trackers, PLAIN, title=f"set {NASTY}", attributes=("IV", "SV", "XX"))


# What is put in


def test_the_numbers_are_those_of_measure_summarise_and_bootstrap(report: Report) -> None:
    one, *_ = report.trackers
    scores = [measure(entrant("", 0.4).tracked[clip.name].runs[0], clip.xywh) for clip in clips()]
    assert [one.rows[name]["auc"] for name in LENGTHS] == [score.auc for score in scores]
    assert one.overall["auc"].value == summarise(scores).auc
    assert one.overall["p"] == bootstrap([score.p for score in scores])
    assert one.overall["auc"].low < one.overall["auc"].value < one.overall["auc"].high
    np.testing.assert_array_equal(one.curves["success"], summarise(scores).success)
    assert one.attributes["IV"]["ao"] == np.mean([scores[1].ao, scores[3].ao])
    assert report.num_with == {"IV": 2, "SV": 4}
    assert report.num_frames == LENGTHS
    assert report.worst(2) == ["one", "three"]


def test_differences_are_paired(report: Report) -> None:
    first, other, _ = report.trackers
    found = report.differences[0]
    assert (found.one, found.other) == ("slow", NASTY)
    values = [[tracker.rows[name]["auc"] for name in LENGTHS] for tracker in (first, other)]
    assert found.values["auc"] == paired_difference(*values)
    assert found.values["auc"].value > 0 > paired_difference(*reversed(values)).value


def test_a_pooled_protocol_weighs_by_frames_and_lists_the_other_averages() -> None:
    rule = find_protocol("got10k", "got10k")
    found = single_object(clips(), [entrant("x", 0.4)], rule, title="").trackers[0]
    lengths = [length - 1 for length in LENGTHS.values()]
    values = [found.rows[name]["ao"] for name in LENGTHS]
    assert found.overall["ao"].value == pytest.approx(np.average(values, weights=lengths), abs=1e-15)
    assert list(found.averages) == ["sequences", "pooled", "classes"]
    assert found.averages["sequences"]["ao"] == pytest.approx(np.mean(values), abs=1e-15)
    assert found.averages["pooled"]["ao"] == found.overall["ao"].value != found.averages["sequences"]["ao"]
    by_class = [np.mean(values[0::2]), np.mean(values[1::2])]
    assert found.averages["classes"]["ao"] == pytest.approx(np.mean(by_class), abs=1e-15)


def test_several_runs_of_a_sequence_are_averaged() -> None:
    good, bad = entrant("good", 0.2), entrant("bad", 1)
    both = {name: Tracked(good.tracked[name].runs + bad.tracked[name].runs, None) for name in LENGTHS}
    found = single_object(clips(), [Entrant("both", both), good, bad], PLAIN, title="").trackers
    assert found[0].overall["auc"].value == pytest.approx(
        (found[1].overall["auc"].value + found[2].overall["auc"].value) / 2
    )


def test_a_missing_sequence_is_refused_or_missed_as_the_protocol_says() -> None:
    whole = entrant("x", 0.4)
    part = whole._replace(tracked={name: one for name, one in whole.tracked.items() if name != "two"})
    with pytest.raises(DatasetError, match="x: got no result of two"):
        single_object(clips(), [part], PLAIN, title="")
    found = single_object(clips(), [part], find_protocol("trackingnet"), title="").trackers[0]
    assert found.rows["two"]["p"] == 0 < found.rows["one"]["p"]


def test_a_fault_names_the_tracker_and_the_sequence() -> None:
    whole = entrant("mine", 0.4)
    short = Tracked((whole.tracked["two"].runs[0][:3],), None)
    whole = whole._replace(tracked={**whole.tracked, "two": short})
    with pytest.raises(DatasetError, match="^mine, two: result: got 3 rows for 40 true boxes"):
        single_object(clips(), [whole], find_protocol("lasot"), title="")


def test_speed_is_the_toolkits_without_the_first_frame() -> None:
    times = np.array([[1e-4], [0.1], [0.0], [0.2]])
    tracked = [Tracked((), times), Tracked((), np.array([[1e-4], [0.05]])), Tracked((), None)]
    assert frames_per_second(tracked, PLAIN) == pytest.approx(np.mean([(10 + 5) / 2, 20]))
    assert frames_per_second(tracked, find_protocol("got10k", "got10k")) == pytest.approx((10 + 5 + 20) / 3)
    assert math.isnan(frames_per_second(tracked[2:], PLAIN))


# Many targets


def mot_rows(seed: int, num_frames: int, miss: float, jitter_px: float) -> MotRows:
    """Three targets side by side; with `miss` some boxes left out and ids swapped, with `jitter_px` boxes moved."""
    rng = np.random.default_rng(seed)
    frame, track = (part.ravel() for part in np.mgrid[0:num_frames, 1:4])
    xywh = np.stack([40.0 * track, frame % 7, np.full(len(frame), 30), np.full(len(frame), 30)], axis=1)
    xywh[:, :2] += rng.normal(0, jitter_px, (len(frame), 2)) if jitter_px else 0
    kept = rng.random(len(frame)) >= miss
    swapped = np.where((frame > num_frames // 2) & (miss > 0) & (track < 3), 3 - track, track)
    rows = MotRows(frame, swapped, xywh, np.ones(len(frame)), np.ones(len(frame), dtype=np.int64))
    return MotRows(*(column[kept] for column in rows))


def mot_scores(miss: float) -> dict:
    return {
        f"video-{n}": score_mot(mot_rows(n, 20 + n, 0, 0), mot_rows(n, 20 + n, miss * n, 2), 20 + n, "none")
        for n in range(1, 6)
    }


def test_resampled_is_what_combine_makes_of_the_drawn_sequences() -> None:
    scores = list(mot_scores(0.1).values())
    counts = draws([f"{n}" for n in range(5)])[:6]
    assert counts.sum(axis=1).tolist() == [5] * 6
    found = resampled(scores, counts)
    assert set(found) == {"HOTA", "DetA", "AssA", "LocA", "MOTA", "IDF1"}
    for row, count in enumerate(counts.astype(int)):
        drawn = combine([one for one, times in zip(scores, count, strict=True) for _ in range(times)]).summary()
        for name, values in found.items():
            assert values[row] == pytest.approx(drawn[name], abs=1e-12), name
    everything = combine(scores).summary()
    assert abs(found["HOTA"][0] - everything["HOTA"]) > 1e-3  # the check above can fail: draws differ from the whole


def test_copies_of_a_video_are_drawn_together() -> None:
    counts = draws(["a", "b", "a", "c", "b"])
    np.testing.assert_array_equal(counts[:, 0], counts[:, 2])
    np.testing.assert_array_equal(counts[:, 1], counts[:, 4])
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert len(np.unique(counts[:, 0])) > 1


def test_a_report_of_many_targets_has_combined_values_intervals_and_curves() -> None:
    scores = {"good": mot_scores(0.05), "bad": mot_scores(0.2)}
    report = multi_object(scores, title="mot")
    good = report.trackers[0]
    together = combine(list(scores["good"].values()))
    assert good.overall["HOTA"].value == together.summary()["HOTA"]
    assert good.overall["HOTA"].low < good.overall["HOTA"].value < good.overall["HOTA"].high
    assert math.isnan(good.overall["IDSW"].low)
    np.testing.assert_array_equal(good.curves["ass_a"], together.hota.ass_a)
    assert good.rows["video-3"]["MOTA"] == scores["good"]["video-3"].clear.mota
    difference = report.differences[0].values
    assert difference["MOTA"].value == together.clear.mota - combine(list(scores["bad"].values())).clear.mota
    assert difference["MOTA"].low > 0
    copies = multi_object(scores, title="mot", groups=["a"] * 5)
    assert math.isnan(copies.trackers[0].overall["HOTA"].low)
    assert "intervals" in report.facts and "intervals" not in copies.facts
    assert "5 sequences: too few" in report.facts["intervals"] and not report.notes


def test_every_number_of_many_targets_is_in_the_reports() -> None:
    scores = {"good": mot_scores(0.05), "bad": mot_scores(0.2)}
    report = multi_object(scores, title="mot")
    together = combine(list(scores["good"].values())).summary()
    stored = json.loads(json_text(report))["trackers"][0]["overall"]
    assert {key: one["value"] for key, one in stored.items()} == together
    assert {"DetRe", "AssPr", "MOTP", "MT", "Frag", "IDR", "sMOTA", "OWTA"} < set(together)
    line = next(csv.DictReader(io.StringIO(csv_text(report))))
    assert {key: float(line[key]) for key in together} == together
    assert "sMOTA" not in markdown_text(report)


def test_that_nothing_is_true_is_told() -> None:
    nothing, rows = MotRows(*(column[:0] for column in mot_rows(0, 4, 0, 1))), mot_rows(0, 4, 0, 1)
    report = multi_object({"x": {"empty": score_mot(nothing, rows, 4, "none")}}, title="mot")
    assert report.trackers[0].overall["MOTA"].value < 0 == report.trackers[0].rows["empty"]["MOTA"]
    assert report.notes == ("x: there is no true box to score, so that MOTA and its kin say nothing",)


def test_ten_sequences_are_enough_for_an_interval() -> None:
    many = [replace(clip, name=f"{clip.name}{number}") for number in range(3) for clip in clips()]
    slow = entrant("slow", 0.4).tracked
    tracked = {clip.name: slow[clip.name[:-1]] for clip in many}
    assert "too few" not in single_object(many, [Entrant("slow", tracked)], PLAIN, title="").facts["intervals"]
    assert "4 sequences: too few" in single_object(clips(), [Entrant("", slow)], PLAIN, title="").facts["intervals"]


def test_results_that_are_cut_are_named() -> None:
    whole = entrant("x", 0.4)
    cut = {name: Tracked((one.runs[0][:9],), None) if name == "two" else one for name, one in whole.tracked.items()}
    notes = single_object(clips(), [whole, Entrant("cut", cut)], PLAIN, title="").notes
    assert len(notes) == 1 and notes[0].startswith("cut: ") and notes[0].endswith(": two 9 of 40 frames")
    assert not single_object(clips(), [Entrant("cut", cut)], find_protocol("pytracking"), title="").notes


# JSON


def tao_truth() -> dict:
    boxes = [(1, 1, 1, 0), (2, 1, 1, 5), (1, 2, 2, 50), (2, 2, 2, 50), (3, 3, 1, 0)]
    return {
        "videos": [
            {"id": 1, "name": "v", "neg_category_ids": [], "not_exhaustive_category_ids": []},
            {"id": 2, "name": "w", "neg_category_ids": [2], "not_exhaustive_category_ids": []},
        ],
        "images": [{"id": n, "video_id": 1 + (n > 2), "frame_index": n, "file_name": f"{n}.jpg"} for n in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": NASTY}, {"id": 3, "name": "none"}],
        "tracks": [{"id": t, "category_id": c, "video_id": 1 + (t == 3)} for t, c in ((1, 1), (2, 2), (3, 1))],
        "annotations": [
            {"id": n, "image_id": image, "track_id": track, "category_id": kind, "bbox": [x, 0, 20, 20], "area": 400}
            for n, (image, track, kind, x) in enumerate(boxes, 1)
        ],
    }


def test_a_report_of_tracks_in_json_has_the_values_of_tao() -> None:
    truth = parse_ground_truth(tao_truth(), Path("gt.json"))
    rows = [
        {"image_id": row["image_id"], "category_id": row["category_id"], "track_id": row["track_id"], "score": 0.5}
        | {"bbox": row["bbox"]}
        for row in tao_truth()["annotations"]
    ]
    found = {
        name: parse_results(rows[:count], truth, Path("r.json"), has_tracks=True)
        for name, count in (("all", 5), ("some", 3))
    }
    report = of_json(found, truth, "sane", title="tao")
    assert report.trackers[0].overall["AP"].value == 1
    part, expected = report.trackers[1], track_ap(truth, found["some"])
    assert part.overall["AP"].value == expected.summary()["AP"] < 1
    assert part.rows["cat"]["AP"] == mean(expected.ap[0, :, 0])
    assert part.overall["HOTA"].value == federated_mot(truth, found["some"]).over_boxes().summary()["HOTA"]
    assert list(part.rows) == ["cat", NASTY]
    assert report.differences[0].values["AP"].value == 1 - part.overall["AP"].value
    assert math.isnan(part.overall["AP"].low)
    assert json.loads(json_text(report))["row_kind"] == "class"
    assert "## Classes" in markdown_text(report)
    assert "The worst" not in html_text(report)


# Tables


@pytest.mark.parametrize(
    ("value", "text", "with_sign"),
    [(0.69862, "69.86", "+69.86"), (-0.00001, "0.00", "+0.00"), (-0.1, "-10.00", "-10.00"), (math.nan, "–", "–")],
)
def test_shares_are_shown_in_percent(value: float, text: str, with_sign: str) -> None:
    assert shown(Metric("x", "X"), value) == text
    assert signed(Metric("x", "X"), value) == with_sign


def test_counts_are_shown_whole_and_intervals_only_where_there_are_any() -> None:
    assert shown(Metric("x", "X", "count"), 1605.0) == "1,605"
    assert shown_interval(Metric("x", "X"), Interval(0.5, 0.4012, 0.6)) == "40.1 to 60.0"
    assert shown_interval(Metric("x", "X"), Interval(0.5, math.nan, math.nan)) == ""


def test_json_holds_every_number_and_null_for_what_is_not_known(report: Report) -> None:
    content = json.loads(json_text(report), parse_constant=pytest.fail)
    for tracker, stored in zip(report.trackers, content["trackers"], strict=True):
        assert stored["name"] == tracker.name
        assert stored["rows"] == {name: dict(row) for name, row in tracker.rows.items()}
        assert stored["overall"]["auc"] == tracker.overall["auc"]._asdict()
        assert stored["curves"]["success"] == tracker.curves["success"].tolist()
    assert content["differences"][1]["other"] == "lost"
    unknown = TrackerReport("x", {"auc": Interval(0.5, math.nan, math.inf)}, {})
    bare = json.loads(json_text(Report("", {}, (Metric("auc", "AUC"),), (unknown,))))
    assert bare["trackers"][0]["overall"]["auc"] == {"value": 0.5, "low": None, "high": None}
    assert bare["trackers"][0]["frames_per_second"] is None


def test_csv_has_a_line_for_each_tracker_sequence_and_attribute(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert len(rows) == 3 * (1 + len(LENGTHS) + 2)
    line = next(row for row in rows if row["tracker"] == NASTY and row["kind"] == "all")
    assert float(line["auc"]) == report.trackers[1].overall["auc"].value
    assert float(line["auc_low"]) == report.trackers[1].overall["auc"].low
    line = next(row for row in rows if (row["tracker"], row["kind"], row["name"]) == ("slow", "sequence", NASTY))
    assert float(line["ao"]) == report.trackers[0].rows[NASTY]["ao"]
    assert line["num_frames"] == "20" and line["auc_low"] == ""


def test_markdown_tables_are_whole_whatever_names_hold(report: Report) -> None:
    text = markdown_text(report)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text
    value = report.trackers[0].overall["auc"]
    assert f"{100 * value.value:.2f} ({100 * value.low:.1f} to {100 * value.high:.1f})" in text
    for heading in ("Scores", "Differences", "Attributes", "Sequences", "Trackers"):
        assert f"## {heading}\n" in text


# The page


class Page(HTMLParser):
    """The tags, texts and attributes of a page; fails where tags do not close each other."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_has_its_sections_and_escapes_every_name(report: Report) -> None:
    page = Page(html_text(report))
    text = " ".join(page.texts)
    for heading in ("Scores", "Differences", "Curves", "Accuracy against speed", "Attributes", "Sequences", "Trackers"):
        assert heading in page.texts, heading
    assert "b" not in page.tags  # what the names would open
    assert text.count(NASTY) >= 8
    assert page.tags.count("svg") == 3 + 1 + 1
    assert page.tags.count("polyline") == 3 * 3
    assert page.tags.count("script") == 1


def test_the_page_loads_nothing_from_anywhere(report: Report) -> None:
    html = html_text(report)
    page = Page(html)
    assert not {"link", "iframe", "img", "object", "base"} & set(page.tags)
    links = [value for key, value in page.attributes if key in ("src", "href", "action", "data")]
    assert links == []
    assert set(re.findall(r"https?://[^\"' ]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html


def test_one_tracker_has_no_differences_and_no_speeds_to_compare() -> None:
    html = html_text(single_object(clips(), [entrant("x", 0.4)], PLAIN, title="x"))
    assert "Differences" not in html and "Accuracy against speed" not in html


def test_curves_are_drawn_where_the_numbers_are() -> None:
    lines = [charts.Series("first", [1.0, 0.5, 0.0], "50.00", 0), charts.Series("ninth", [0.2, 0.2, 0.2], "20.00", 8)]
    svg = ElementTree.fromstring(charts.curves("t", "x", "y", [0, 1, 2], lines))
    drawn = [line for line in svg.iter() if line.tag.endswith("polyline")]
    points = [[tuple(map(float, point.split(","))) for point in line.attrib["points"].split()] for line in drawn]
    left, right, top, bottom = charts.LEFT, charts.WIDTH - charts.RIGHT, charts.TOP, charts.HEIGHT - charts.BOTTOM
    assert points[1] == [(left, top), ((left + right) / 2, (top + bottom) / 2), (right, bottom)]
    assert [y for _, y in points[0]] == pytest.approx([bottom - 0.2 * (bottom - top)] * 3, abs=0.05)
    looks = {(line.attrib["stroke"], line.attrib["stroke-dasharray"]) for line in drawn}
    assert len(looks) == 2


def test_the_first_28_trackers_look_different() -> None:
    assert len({(charts.colour(number), charts.dashes(number)) for number in range(28)}) == 28


def test_speeds_stand_on_a_logarithmic_axis() -> None:
    points = [charts.Point(n, f"t{n}", x, 0.5) for n, x in enumerate((1.0, 10.0, 100.0))]
    svg = ElementTree.fromstring(charts.scatter("t", "x", "y", points))
    at = [float(dot.attrib["cx"]) for dot in svg.iter() if dot.tag.endswith("circle")]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], abs=0.11) and at[1] > at[0] + 50


# Pictures


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    images(tmp_path, numbered(30), width=640, height=480)
    return [tmp_path / name for name in numbered(30)]


def test_a_strip_spreads_over_the_sequence_and_shows_the_first_miss(frames: list[Path]) -> None:
    true = np.tile([100.0, 80, 60, 40], (30, 1))
    found = true.copy()
    found[16:, 0] += 60  # beside the target, which is a miss
    strip = single_strip("title", frames, true, [found, None])
    assert [one.caption for one in strip.pictures] == [
        "frame 0, IoU 1.00",
        "frame 6, IoU 1.00",
        "frame 12, IoU 1.00",
        "frame 16, IoU 0.00",
        "frame 23, IoU 0.00",
        "frame 29, IoU 0.00",
    ]
    last = strip.pictures[-1]
    assert last.size == (320, 240)
    assert last.boxes == ((TRUE, (50, 40, 30, 20)), (0, (80, 40, 30, 20)))
    assert last.jpeg.startswith(b"\xff\xd8") and len(last.jpeg) < 100_000
    page = Page(html_text(single_object(clips(), [entrant("x", 0.4)], PLAIN, title="x"), [strip]))
    assert page.tags.count("image") == 6
    assert all(value.startswith("data:image/jpeg;base64,") for key, value in page.attributes if key == "href" and value)
    assert ("x", "80.0") in page.attributes


def test_a_strip_without_frames_is_left_out(frames: list[Path]) -> None:
    frames[0].write_bytes(b"no image")
    true = np.tile([10.0, 10, 20, 20], (30, 1))
    assert len(single_strip("t", frames, true, [true]).pictures) == 5
    empty = single_strip("t", [Path("nowhere") / path.name for path in frames], true, [true])
    assert empty.pictures == ()
    assert "The worst" not in html_text(single_object(clips(), [entrant("x", 0.4)], PLAIN, title="x"), [empty])


def test_a_strip_of_many_targets_has_all_boxes_of_a_frame(frames: list[Path]) -> None:
    rows = mot_rows(1, 30, 0, 0)
    strip = many_strip("t", frames, (rows.frame, rows.xywh), [(rows.frame[:3], rows.xywh[:3])])
    assert [len(one.boxes) for one in strip.pictures] == [6, 3, 3, 3, 3, 3]
    assert {number for number, _ in strip.pictures[0].boxes} == {TRUE, 0}
