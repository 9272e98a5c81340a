"""Scores of the federated set come out, and a changed constant or switch is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sightline.evaluation import tao as ours
from tests.golden import tao
from tests.golden.value import Value

pytestmark = pytest.mark.shared


def differing(values: list[Value]) -> set[str]:
    return {value.name for value in values if not abs(value.ours - value.reference) <= value.tolerance}


def test_every_stored_score_comes_out(shared: Path) -> None:
    values = list(tao.values(shared))
    print(f"federated tracks: {len(values)} values")
    assert len(values) == 5822
    assert len({value.name for value in values}) == len(values)
    assert differing(values) == set()


def test_a_changed_match_is_noticed(shared: Path, monkeypatch) -> None:
    monkeypatch.setattr(ours, "MATCH", 0.75)  # what removes found boxes that do not count
    wrong = differing(list(tao.values(shared)))
    assert any(name.endswith("DetPr 0") for name in wrong)
    assert not any(" AP_" in name or " toolkit " in name for name in wrong)


def test_fewer_boxes_per_image_are_noticed(shared: Path, monkeypatch) -> None:
    monkeypatch.setattr(ours, "MOST_PER_IMAGE", 3)
    wrong = differing(list(tao.values(shared)))
    assert {"tao mixed toolkit 3d_iou AP", "tao mixed trackeval cls_comb_cls_av AP_all 0"} <= wrong


@pytest.mark.parametrize("rule", [{"thresholds": np.array([0.6])}, {"names_thresholds": False}])
def test_a_changed_rule_is_noticed(shared: Path, monkeypatch, rule) -> None:
    changed = replace(ours.RULES["toolkit-array"], **rule)
    monkeypatch.setitem(ours.RULES, "toolkit-array", changed)
    wrong = differing(list(tao.values(shared)))
    assert "tao mixed toolkit 3d_iou AP50" in wrong
    assert not any("trackeval" in name for name in wrong)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(tao.values(tmp_path))
