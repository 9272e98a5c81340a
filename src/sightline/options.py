"""What may be chosen of a tracker by name: which options there are, what they mean, and their values from text."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sightline.errors import SightlineError
from sightline.trackers.template_search import TemplateSearchConfig
from sightline.trackers.zoo import Entry, nearest

VARIANT, OFFICIAL = "variant", "official"  # which of the entry's variants the other options change
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def tracker_kinds(entry: Entry | None) -> dict[str, Any]:
    """The fields of the tracker's config and their types; a sidecar has no row, and its loop is the template search."""
    config = type(entry.tracker) if entry else TemplateSearchConfig
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def kinds_of(entry: Entry | None) -> dict[str, Any]:
    """Every option of a model and its type: the tracker's and, for a row of the zoo, the network's."""
    network = {name: option.kind for name, option in entry.options.items()} if entry else {}
    variant = {VARIANT: Literal[OFFICIAL, *entry.variants]} if entry and entry.variants else {}
    return tracker_kinds(entry) | variant | network


def sort_options(name: str, entry: Entry | None, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the tracker and of the network, apart.

    name: the tracker's, for the sentence. Raises `SightlineError` for an unknown option, which tells the nearest, and
    for a value of another kind.
    """
    known, ours = kinds_of(entry), tracker_kinds(entry)
    for option, value in options.items():
        check_known(name, option, known)
        if not fits(value, known[option]):
            raise wrong_kind(name, option, value, known[option])
    tracker = {key: value for key, value in options.items() if key in ours or key == VARIANT}
    return tracker, {key: value for key, value in options.items() if key not in tracker}


def check_known(name: str, option: str, known: Iterable[str]) -> None:
    """`SightlineError` unless the tracker `name` has that option."""
    names = list(known)
    if option not in names:
        expected = f"one of {', '.join(names)}" if names else "none, since it has no settings"
        advice = nearest(option, names) or f" Run: sightline models {name}"
        raise SightlineError(f"option of {name}: got {option!r}; expected {expected}.{advice}")


def parse_settings(name: str, kinds: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Options from texts such as `window=0.5` and `ce_layers=3,6,9`, by their types.

    name: the tracker's, for the sentence. Of an option given twice the last counts. A tuple is written with commas, the
    empty one as nothing. Raises `SightlineError` for an unknown name, which tells the nearest, and for a value of
    another kind.
    """
    options = {}
    for setting in settings:
        option, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise SightlineError(f"setting: got {setting!r}; expected NAME=VALUE. Write for example window=0.5.")
        check_known(name, option, kinds)
        try:
            options[option] = parse(text, kinds[option])
        except ValueError:
            raise wrong_kind(name, option, text, kinds[option]) from None
    return options


def wrong_kind(name: str, option: str, value: Any, kind: Any) -> SightlineError:
    advice = f"Correct {name}." if name.endswith(".toml") else f"Run: sightline models {name}"
    return SightlineError(f"{option}: got {value!r}; expected {describe(kind)}. {advice}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; a list will do for a tuple, and any whole number for a number."""
    members = get_args(kind)
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real)
    if get_origin(kind) is Literal:
        return value in members
    if get_origin(kind) in (Union, types.UnionType):
        return any(fits(value, member) for member in members)
    assert get_origin(kind) is tuple
    right_length = ... in members or (isinstance(value, tuple | list) and len(value) == len(members))
    return isinstance(value, tuple | list) and right_length and all(fits(part, members[0]) for part in value)


def parse(text: str, kind: Any) -> Any:
    """The value of a type that `text` says, or `ValueError`."""
    if kind is bool:
        if text.lower() in (*TRUE, *FALSE):
            return text.lower() in TRUE
        raise ValueError(text)
    if kind in (int, float, str):
        return kind(text)
    members = get_args(kind)
    if get_origin(kind) is Literal:
        if text in members:
            return text
        raise ValueError(text)
    if get_origin(kind) in (Union, types.UnionType):
        for member in members:
            try:
                return parse(text, member)
            except ValueError:
                continue
        raise ValueError(text)
    assert get_origin(kind) is tuple
    parts = text.removesuffix(",").split(",") if text else []
    if ... not in members and len(parts) != len(members):
        raise ValueError(text)
    return tuple(parse(part.strip(), members[0]) for part in parts)


def describe(kind: Any) -> str:
    """A type in words."""
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if kind in plain:
        return plain[kind]
    members = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join([", ".join(members[:-1]), members[-1]])
    if get_origin(kind) is tuple:
        some = f"{len(members)} " if ... not in members else ""
        numbers = "whole numbers" if members[0] is int else "numbers"
        return f"{some}{numbers} with commas between"
    return ", or ".join(describe(member) for member in members)


def written(value: Any) -> str:
    """A value as `parse` reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(written(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def meanings(config: type) -> dict[str, str]:
    """What each field of a config means, from the entries `name, name: meaning` of its docstring."""
    names = "|".join(field.name for field in fields(config))
    entry = re.compile(rf"(?:^|(?<=\s))((?:{names})(?:, (?:{names}))*): ")
    found: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", config.__doc__ or ""):
        _, *parts = entry.split(" ".join(paragraph.split()))
        for heading, meaning in zip(parts[::2], parts[1::2], strict=True):
            found |= dict.fromkeys(heading.split(", "), meaning.strip().removesuffix("."))
    return found


def variant_of(entry: Entry, name: str) -> Any:
    """The tracker's config of a variant, by its name."""
    return entry.tracker if name == OFFICIAL else entry.variants[name](entry.tracker)
