"""Stored scores of the official evaluators come out, and a changed constant or rule is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sightline.evaluation import mot as ours
from sightline.evaluation import mot_events, mot_preprocess
from tests.golden import mot
from tests.golden.value import Value

pytestmark = pytest.mark.shared


def differing(values: list[Value]) -> set[str]:
    return {value.name for value in values if not abs(value.ours - value.reference) <= value.tolerance}


def test_every_stored_score_comes_out(shared: Path) -> None:
    values = list(mot.values(shared))
    print(f"multi-object: {len(values)} values")
    assert len(values) == len({value.name for value in values}) == 9099
    assert differing(values) == set()


def small_set(shared: Path, tracker: str) -> set[str]:
    """Fields that differ for one tracker of the small set."""
    golden = shared / "golden" / "mot"
    bench = json.loads((golden / "trackeval_results.json").read_text())["mot17_small"]
    bench["trackers"] = {tracker: bench["trackers"][tracker]}
    names = differing(list(mot.of_bench("mot17_small", golden / "mot17_small", bench)))
    return {name.split()[3] for name in names}


@pytest.mark.parametrize(
    ("constant", "changed", "noticed", "blind"),
    [
        ("ALPHAS", ours.ALPHAS + 0.001, {"HOTA_TP", "HOTA", "AssA"}, {"MOTA", "IDF1"}),
        ("MATCH", 0.51, {"CLR_TP", "MOTA", "IDTP", "IDF1"}, {"HOTA"}),
        ("MOSTLY_TRACKED", 0.9, {"MT", "PT", "MTR"}, {"MOTA", "HOTA", "ML"}),
        ("MOSTLY_LOST", 0.7, {"PT", "ML", "MLR"}, {"MOTA", "HOTA", "MT"}),
    ],
)
def test_a_changed_constant_is_noticed(
    shared: Path, monkeypatch, constant: str, changed: object, noticed: set[str], blind: set[str]
) -> None:
    monkeypatch.setattr(ours, constant, changed)
    wrong = small_set(shared, "mixed")
    assert wrong >= noticed
    assert not wrong & blind


@pytest.mark.parametrize("distractors", [(), (2, 7, 8), (2, 7, 8, 12, 1)])
def test_a_changed_rule_is_noticed(shared: Path, monkeypatch, distractors: tuple[int, ...]) -> None:
    rule = mot_preprocess.MOT_RULES["MOT17"]._replace(distractors=distractors)
    monkeypatch.setitem(mot_preprocess.MOT_RULES, "MOT17", rule)
    wrong = small_set(shared, "mixed")
    assert wrong >= {"HOTA", "MOTA", "IDF1", "Dets"}
    assert "GT_Dets" not in wrong


def test_a_changed_distance_is_noticed(shared: Path, monkeypatch) -> None:
    monkeypatch.setattr(mot_events, "MAX_DISTANCE", 0.45)
    golden = shared / "golden" / "mot"
    stored = json.loads((golden / "motmetrics_results.json").read_text())["results"]
    wrong = {name.split()[2] for name in differing(list(mot.of_motmetrics(golden / "mot15_tud", stored)))}
    assert wrong >= {"idf1", "mota", "motp", "num_misses", "num_false_positives"}


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(mot.values(tmp_path))
