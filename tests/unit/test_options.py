"""Options by name: from text to values of the right kind, with one sentence for everything else."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

import sightline
from sightline.errors import SightlineError, UnknownModel
from sightline.loading import load, parse_options
from sightline.options import describe, fits, meanings, parse, sort_options, written
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.trackers.zoo import ZOO


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("sightline-nano", "window=0.5", 0.5),
        ("sightline-nano", " window = 1 ", 1.0),
        ("sightline-nano", "search_px=160", 160),
        ("sightline-nano", "crop=snapped", "snapped"),
        ("sightline-nano", "mean=0.1, 0.2,0.3", (0.1, 0.2, 0.3)),
        ("ostrack-256-ce", "ce_layers=3,6,9", (3, 6, 9)),
        ("ostrack-256-ce", "ce_layers=4", (4,)),
        ("ostrack-256-ce", "ce_layers=", ()),
        ("ostrack-256-ce", "ce_keep_ratios=0.9", 0.9),
        ("ostrack-256-ce", "ce_keep_ratios=0.9,0.8,0.7", (0.9, 0.8, 0.7)),
        ("ostrack-256-ce", "ce_keep_ratios=0.9,", (0.9,)),
        ("ostrack-256-ce", "ce_template_tokens=2x2", "2x2"),
        ("mvt", "fusion=no", False),
        ("mvt", "fusion=True", True),
        ("vittrack", "tracked_from=.3", 0.3),
        ("spmtrack-b", "memory=bounded:32", "bounded:32"),
        ("spmtrack-b", "rule=lasot", "lasot"),
        ("spmtrack-l", "num_templates=5", 5),
        ("spmtrack-tiny", "compression=per_expert", "per_expert"),
        ("mine.toml", "map_back=exact", "exact"),
    ],
)
def test_a_setting_is_read_by_its_kind(name: str, setting: str, value: Any) -> None:
    (found,) = parse_options(name, [setting]).values()
    assert found == value and type(found) is type(value)


def test_settings_add_up_and_the_last_counts() -> None:
    settings = ["window=0.5", "search_factor=5", "window=0.25"]
    assert parse_options("mvt", settings) == {"window": 0.25, "search_factor": 5.0}
    assert parse_options("csrt", []) == parse_options("mvt", []) == {}


@pytest.mark.parametrize(
    ("name", "setting", "sentence"),
    [
        ("mvt", "windw=0.5", "Did you mean 'window'?"),
        ("ostrack-256", "ce_layer=3", "Did you mean 'ce_layers'?"),
        ("mvt", "memory=exact", "option of mvt: got 'memory'; expected one of template_px, "),
        ("spmtrack-b", "crop=exact", "option of spmtrack-b: got 'crop'; expected one of template_px, "),
        ("spmtrack-b", "rule=uav", "rule: got 'uav'; expected default or lasot."),
        ("mvt", "ce_layers=3", "option of mvt: got 'ce_layers'; expected one of template_px, "),
        ("mvt", "window", "setting: got 'window'; expected NAME=VALUE. Write for example window=0.5."),
        ("mvt", "window=half", "window: got 'half'; expected a number. Run: sightline models mvt"),
        ("mvt", "window=", "window: got ''; expected a number."),
        ("mvt", "search_px=25.5", "expected a whole number."),
        ("mvt", "mean=0,0", "mean: got '0,0'; expected 3 numbers with commas between."),
        ("mvt", "crop=round", "crop: got 'round'; expected snapped or exact."),
        ("mvt", "fusion=maybe", "expected true or false."),
        ("ostrack-256", "ce_layers=3,x", "expected whole numbers with commas between."),
        ("ostrack-256", "ce_keep_ratios=x", "expected a number, or numbers with commas between."),
        ("ostrack-256", "ce_template_tokens=3x3", "expected centre, 2x2, box or all."),
        ("csrt", "window=0.5", "option of csrt: got 'window'; expected none, since it has no settings."),
    ],
)
def test_what_is_no_setting_is_one_sentence(name: str, setting: str, sentence: str) -> None:
    with pytest.raises(SightlineError) as refused:
        parse_options(name, [setting])
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "nearest"), [("ostrack-265-ce", "ostrack-256-ce"), ("crst", "csrt"), ("vitrack", "vit")]
)
def test_an_unknown_model_is_told_the_nearest_of_all(name: str, nearest: str) -> None:
    with pytest.raises(UnknownModel, match=f"Did you mean '{nearest}"):
        parse_options(name, [])
    with pytest.raises(UnknownModel, match=f"Did you mean '{nearest}"):
        load(name)


@pytest.mark.parametrize("name", ZOO)
def test_every_option_has_a_meaning_and_a_value_that_reads_back(name: str) -> None:
    entry = ZOO[name]
    told = meanings(type(entry.tracker))
    assert list(told) == [field.name for field in fields(entry.tracker)]
    for option in (*told.values(), *(option.meaning for option in entry.options.values())):
        assert len(option.split()) >= 4 and not option.endswith(".")
    for key, option in entry.options.items():
        assert parse(written(option.default), option.kind) == option.default
        assert describe(option.kind)
        assert sort_options(name, entry, {key: option.default}) == ({}, {key: option.default})


def test_meanings_are_read_from_a_docstring_of_either_form() -> None:
    @dataclass
    class Config:
        """Two: the colon behind a word that is no field ends nothing.

        width, depth: of the network,
            told in two lines. rate: of learning: not zero.

        Raises `ValueError`: never.
        """

        width: int
        depth: int
        rate: float
        hidden: int

    size = "of the network, told in two lines"
    assert meanings(Config) == {"width": size, "depth": size, "rate": "of learning: not zero"}


def test_load_takes_every_field_of_the_config() -> None:
    tracker = load(threads=1, mean=[0.4, 0.4, 0.4], tracked_from=0.7, clip_margin_px=2.0)
    assert isinstance(tracker, TemplateSearchTracker)
    assert tracker.config.mean == (0.4, 0.4, 0.4)
    assert (tracker.config.tracked_from, tracker.config.clip_margin_px) == (0.7, 2.0)
    frame = np.zeros((64, 64, 3), np.uint8)
    state = tracker.update(frame, tracker.init(frame, xywh=(10, 10, 20, 20)))
    assert state.presence == ("tracked" if state.score >= 0.7 else "uncertain")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"window": "0.5"}, "window: got '0.5'; expected a number."),
        ({"window": True}, "window: got True; expected a number."),
        ({"search_px": 192.0}, "search_px: got 192.0; expected a whole number."),
        ({"mean": (0.5, 0.5)}, "mean: got (0.5, 0.5); expected 3 numbers with commas between."),
        ({"mean": 0.5}, "mean: got 0.5; expected 3 numbers with commas between."),
        ({"crop": "round"}, "crop: got 'round'; expected snapped or exact."),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_one_sentence(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SightlineError) as refused:
        load(**option)
    assert str(refused.value) == f"{sentence} Run: sightline models sightline-nano"


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (True, bool, True),
        ("exact", str, True),
        (64, str, False),
        (1, bool, False),
        (False, int, False),
        (np.int64(3), int, True),
        (np.float32(3), float, True),
        (np.float32(3), int, False),
        ([3, 6], tuple[int, ...], True),
        ((), tuple[int, ...], True),
        ((3, 6.5), tuple[int, ...], False),
        ("36", tuple[int, ...], False),
        (0.7, float | tuple[float, ...], True),
        ((0.7, 1), float | tuple[float, ...], True),
        ("x", float | tuple[float, ...], False),
    ],
)
def test_what_fits_a_kind(value: Any, kind: Any, right: bool) -> None:
    assert fits(value, kind) is right


@pytest.mark.parametrize(
    "size", [{"template_px": 128}, {"search_px": 256}, {"stride": 8}, {"search_px": 256, "stride": 8}]
)
def test_sizes_that_the_network_does_not_take_are_refused_at_load(size: dict[str, int]) -> None:
    with pytest.raises(SightlineError) as refused:
        load(threads=1, **size)
    got = ", ".join(f"{key}={value}" for key, value in size.items())
    own = {"template_px": 96, "search_px": 192, "stride": 16}
    expected = ", ".join(f"{key}={own[key]}" for key in size)
    told = f"sightline-nano: got {got}; expected {expected}, which the network is made for. Leave it as it is."
    assert str(refused.value) == told


def test_the_threshold_is_the_tables_whenever_the_graphs_were_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ZOO["sightline-nano"]
    other = replace(row, tracker=replace(row.tracker, tracked_from=0.375, window=0.5))
    monkeypatch.setattr("sightline.loading.entry_of", lambda name: other)
    tracker = load(threads=1)
    assert isinstance(tracker, TemplateSearchTracker)
    assert (tracker.config.tracked_from, tracker.config.window) == (0.375, row.tracker.window)


def test_sizes_as_they_are_may_be_said() -> None:
    assert isinstance(load(threads=1, template_px=96, search_px=192), sightline.TemplateSearchTracker)
