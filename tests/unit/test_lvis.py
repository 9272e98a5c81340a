"""LVIS's classes: the packaged list, the way to TAO's by synset, and names as a person types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.datasets.lvis import categories, chosen_classes, class_names
from sightline.datasets.tao_json import Category, read_ground_truth, synset_map
from sightline.errors import SightlineError

# By id, from another copy of the official list than the one the file was made from.
KNOWN = {
    1: ("aerosol_can", "aerosol.n.02"),
    23: ("trash_can", "ashcan.n.01"),
    35: ("handbag", "bag.n.04"),
    46: ("Band_Aid", "band_aid.n.01"),
    80: ("cow", "beef.n.01"),
    998: ("crawfish", "spiny_lobster.n.02"),
    1020: ("brake_light", "stoplight.n.01"),
    1024: ("straw_(for_drinking)", "straw.n.04"),
    1048: ("Tabasco_sauce", "tabasco.n.02"),
    1049: ("table-tennis_table", "table-tennis_table.n.01"),
    1058: ("army_tank", "tank.n.01"),
}


def test_there_are_1203_in_the_official_order() -> None:
    names, synsets = class_names(), [category.synset for category in categories()]
    assert len(names) == len(set(names)) == len(set(synsets)) == 1203
    assert [category.id for category in categories()] == list(range(1, 1204))
    assert synsets == sorted(synsets)  # as they are numbered
    assert all(synset[-5:-2] == ".n." for synset in synsets)
    for number, known in KNOWN.items():
        assert (names[number - 1], synsets[number - 1]) == known


def test_a_name_leads_to_its_place_however_it_is_typed() -> None:
    names = class_names()
    for place, name in enumerate(names):
        assert chosen_classes([name], names) == (place,)
    assert chosen_classes(["Baby Buggy", "person", " PERSON "], names) == (31, names.index("person"))
    assert chosen_classes([], names) == ()


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("car", "'car_(automobile)'"),
        ("dgo", "'dog'"),
        ("televison", "'television_set'"),
        ("Phone", "'earphone'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(SightlineError) as caught:
        chosen_classes(["person", typed], class_names())
    sentence = str(caught.value)
    assert sentence.startswith(f"class: got {typed!r}; expected one of 1203 names. Did you mean ")
    assert near in sentence and sentence.count(" or ") <= 2


def test_where_nothing_is_near_nothing_is_guessed() -> None:
    for typed in ("", "qqqq"):
        with pytest.raises(SightlineError, match=r"expected one of 1203 names\. Choose one\.$"):
            chosen_classes([typed], class_names())
    with pytest.raises(SightlineError, match=r"got 'dog'; expected person, car\. Choose one\.$"):
        chosen_classes(["dog"], ("person", "car"))


def test_other_ids_are_matched_by_synset_and_the_rest_is_left_out() -> None:
    others = [Category(7, "auto", "car.n.01"), Category(9, "car", ""), Category(12, "thing", "unknown")]
    assert synset_map(others, categories()) == {7: class_names().index("car_(automobile)") + 1}


@pytest.mark.shared
def test_classes_of_a_tao_file_are_found(shared: Path) -> None:
    found = read_ground_truth(shared / "golden" / "tao" / "gt" / "gt.json").categories
    matched = synset_map(found, categories())
    for name in ("cat", "dog"):
        (place,) = chosen_classes([name], class_names())
        assert [matched[category.id] for category in found if category.name == name] == [place + 1]
