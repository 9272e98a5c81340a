"""Arguments from a signature, by tyro; what it refuses is told in one sentence, as everything else."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from sightline.errors import SightlineError


def parse(target: Callable[..., Any], arguments: Sequence[str], prog: str, **more: Any) -> Any:
    """`tyro.cli`. Raises `SightlineError` for options and values that do not fit; `--help` prints and exits.

    tyro prints what is wrong, several lines in a box, and asks nobody. The interface that tells it instead, since
    1.0.15, is called unstable: where it is missing or has changed, the box is what is printed, with status 2 as well.
    """

    def refuse(event: Any) -> None:
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):  # of an event of another form
            if told := sentence(event, prog, lambda: options_of(target, prog, **more)):
                raise SightlineError(told)

    try:
        listening = importlib.import_module("tyro._errors").on_parse_error(refuse)
    except (ImportError, AttributeError):
        listening = contextlib.nullcontext()
    with listening:
        return tyro.cli(target, args=arguments, prog=prog, **more)


def options_of(target: Callable[..., Any], prog: str, **more: Any) -> list[str]:
    """The long options that its help names."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        tyro.cli(target, args=["--help"], prog=prog, **more)
    return sorted(set(re.findall(r"--[a-z][a-z-]*[a-z]", page.getvalue())))


def sentence(event: Any, prog: str, options: Callable[[], list[str]]) -> str:
    """What one of tyro's events tells; "" for a kind that is not known here."""
    kind = type(event).__name__
    tokens: list[str] = [*getattr(event, "tokens", ()), *getattr(event, "unrecognized_tokens", ())]
    if unknown := next((token.partition("=")[0] for token in tokens if re.match("--?[A-Za-z]", token)), ""):
        advice = nearest(unknown.replace("_", "-"), options()) or f"Run: {prog} --help"
        return f"option: got {unknown}; expected one that {prog} has. {advice}"
    if kind == "UnrecognizedArgs":
        return f"arguments: got {tokens[0]!r}; expected nothing more. Leave it out, or run: {prog} --help"
    if kind == "MissingArgs":
        missing = [context.arg for context in event.missing_arguments]
        told = [form(one) if one.is_positional() else f"{name(one)} {form(one)}" for one in missing]
        all_of = "one" if len(told) == 1 else "each"
        return f"{prog}: got no {' and no '.join(told)}; expected {all_of}. Run: {prog} --help"
    if kind == "InstantiationFailure" and event.argument is None:  # a settings class speaks for itself
        return " ".join(str(event.message).split())
    if kind == "InstantiationFailure":
        quoted = re.search(r"""(['"])(.*?)\1""", event.message)
        got, advice = quoted[0] if quoted else event.message, "Give another."
    elif kind == "InvalidChoice":
        got, advice = repr(event.value), nearest(event.value, choices(event.argument)) or "Choose one."
    elif kind == "BadValue" and event.offending_value is None:
        got, advice = "no value", "Write it after the option."
    else:
        return ""
    return f"{name(event.argument)}: got {got}; expected {form(event.argument)}. {advice}"


def nearest(text: str, words: Sequence[str]) -> str:
    """A question that names the nearest of the words, "" where none is near."""
    close = difflib.get_close_matches(text, words, n=1)
    return f"Did you mean {close[0]}?" if close else ""


def name(argument: Any) -> str:
    return str(argument.lowered.name_or_flags[-1])


def choices(argument: Any) -> list[str]:
    return sorted(set(argument.lowered.choices or ()) - {"None"})


def form(argument: Any) -> str:
    """What its value looks like."""
    if listed := choices(argument):
        return f"one of {', '.join(listed)}"
    types = str(argument.field.type_stripped)
    if "int" in types or "float" in types:
        return "a number" if "float" in types else "a whole number"
    return str(argument.lowered.metavar).removeprefix("{None}|").replace("STR", "WORD")
