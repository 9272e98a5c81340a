"""The public names: few, lazy, real, and each of them explained."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import sightline


def test_there_are_at_most_sixteen() -> None:
    assert len(set(sightline.__all__)) == len(sightline.__all__) <= 16
    assert dir(sightline) == sorted(sightline.__all__)


@pytest.mark.parametrize("name", sightline.__all__)
def test_each_is_there_and_explained(name: str) -> None:
    value = getattr(sightline, name)
    if name != "__version__":
        assert value.__module__.startswith("sightline.")
        assert len((inspect.getdoc(value) or "").split()) > 5


def test_what_editors_see_is_what_is_loaded() -> None:
    """The imports for type checkers and the table of lazy names are written twice; they agree."""
    tree = ast.parse(Path(sightline.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    shown = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown == sightline._HOME
    assert {*shown, "__version__"} == set(sightline.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tracker'"):
        _ = sightline.Tracker
