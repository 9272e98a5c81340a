"""Scores of published result files come out, and a changed constant is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sightline.evaluation import sot as ours
from sightline.evaluation.protocols import find_protocol
from tests.golden import sot
from tests.golden.value import Value

pytestmark = pytest.mark.shared


def differing(values: list[Value]) -> list[Value]:
    return [value for value in values if not value.agrees]


def test_every_published_score_comes_out(shared: Path) -> None:
    values = list(sot.values(shared))
    print(f"single-object: {len(values)} values")
    assert len(values) == 2622
    assert len({value.name for value in values}) == len(values)
    assert differing(values) == []


def metrics_that_differ(shared: Path) -> set[str]:
    values = list(sot.lasot_table(shared / "data" / "eval" / "lasot", trackers=("ATOM",)))
    return {value.name.split()[-1] for value in differing(values)}


@pytest.mark.parametrize(
    ("constant", "changed", "metric"), [("MAX_DISTANCE_PX", 50.25, "P"), ("HIT", np.inf, "Pn"), ("MISS", -1.0, "Pn")]
)
def test_a_changed_constant_is_noticed(shared: Path, monkeypatch, constant: str, changed: float, metric: str) -> None:
    monkeypatch.setattr(ours, constant, changed)
    assert metric in metrics_that_differ(shared)


def test_a_changed_switch_is_noticed(shared: Path, monkeypatch) -> None:
    def with_a_pixel_more(protocol, dataset):
        return replace(find_protocol(protocol, dataset), union_epsilon=1.0)

    monkeypatch.setattr(ours, "find_protocol", with_a_pixel_more)
    wrong = metrics_that_differ(shared)
    assert wrong >= {"AUC", "AO"}
    assert not wrong & {"P", "Pn"}


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(sot.values(tmp_path))
