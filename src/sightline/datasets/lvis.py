"""The 1203 classes of LVIS v1, arXiv 1908.03195, which GTR on TAO tells apart; found by a name.

`lvis_v1.txt` has a line for each, name and WordNet synset, in the order of the ids, which count from 1. By the synsets
`tao_json.map_ground_truth` and `map_results` lead from TAO's classes to these and back.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from sightline.datasets.tao_json import Category
from sightline.errors import SightlineError

__all__ = ["categories", "chosen_classes", "class_names"]

SHOWN = 8  # names that a sentence lists in full


@cache
def categories() -> tuple[Category, ...]:
    """The classes by id; a network's output counts from 0: its class k is `categories()[k]`, with id k + 1."""
    lines = Path(__file__).with_name("lvis_v1.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return tuple(Category(number, name, synset) for number, (name, synset) in enumerate(rows, start=1))


def class_names() -> tuple[str, ...]:
    """The official names, slips of the pen included ("speaker_(stero_equipment)"); each occurs once."""
    return tuple(category.name for category in categories())


def chosen_classes(texts: Iterable[str], names: Sequence[str]) -> tuple[int, ...]:
    """Places in `names` of the classes that a person named, in that order, each once.

    Case does not matter, and a space may stand for "_". Raises `SightlineError`, which tells the nearest names, for a
    text that is none of them.
    """
    places = {_plain(name): place for place, name in enumerate(names)}
    chosen = list[int]()
    for text in texts:
        if _plain(text) not in places:
            expected = ", ".join(names) if len(names) <= SHOWN else f"one of {len(names)} names"
            near = [repr(names[places[name]]) for name in _nearest(_plain(text), list(places))]
            question = f" Did you mean {' or '.join(near)}?" if near else " Choose one."
            raise SightlineError(f"class: got {text!r}; expected {expected}.{question}")
        chosen.append(places[_plain(text)])
    return tuple(dict.fromkeys(chosen))


def _plain(text: str) -> str:
    return text.strip().lower().replace(" ", "_")


def _nearest(sought: str, known: Sequence[str]) -> list[str]:
    """Three at most: names that begin with the word, names that have it in them, names spelt alike."""
    if not sought:
        return []
    begin = [name for name in known if re.match(rf"{re.escape(sought)}[\W_]", name)]
    have = [name for name in known if sought in name]
    return list(dict.fromkeys([*begin, *have, *difflib.get_close_matches(sought, known, n=3)]))[:3]
