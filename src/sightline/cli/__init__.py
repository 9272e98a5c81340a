"""The command line: one verb, one file. `VERBS` is the whole table; a verb's module loads only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from itertools import takewhile

from sightline import __version__
from sightline.errors import SightlineError
from sightline.files import NO_ROOM

# verb -> (module:function, one line of help)
VERBS = {
    "track": ("sightline.cli.track:track", "Follow targets in a video, in images, from a camera or a stream."),
    "models": (
        "sightline.cli.models:models",
        "List the models, explain one, keep its weights: models, models NAME, models add NAME FILE.",
    ),
    "convert": (
        "sightline.cli.convert:convert",
        "Turn an official weights file into safetensors; runs none of its code.",
    ),
    "export": ("sightline.cli.export:export", "Write a model as ONNX graphs and check them against torch."),
    "eval": ("sightline.cli.eval:evaluate", "Score a tracker on a data set, results that are there, or two files."),
    "train": ("sightline.cli.train:train", "Fine-tune a model on your own clips, or train it as published."),
    "data": ("sightline.cli.data:data", "List data sets that can be read; check a copy; pack for training."),
    "doctor": ("sightline.cli.doctor:doctor", "Versions, back ends, and a self-test on 20 frames."),
}


def usage() -> str:
    rows = "\n".join(f"  {verb:<9} {text}" for verb, (_, text) in VERBS.items())
    return (
        "usage: sightline VERB ...\n\n"
        f"{rows}\n\n"
        "  sightline VERB --help      what a verb takes\n"
        "  sightline --version        the version\n\n"
        "example: sightline track clip.mp4 --box 100,50,40,90 -o out.mp4"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 a check failed, 2 bad input (one sentence), 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if sys.stderr.isatty():  # someone is watching and may wonder what takes so long
        logging.getLogger("sightline").setLevel(logging.INFO)
    if arguments is None:  # a process of our own: being terminated cleans up as an interrupt does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = run(list(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout:
            sys.stdout.flush()  # while a full disk can still be told
        return status
    except SightlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away: not an error of ours
        discard_stdout()
        return 0
    except OSError as error:
        if error.filename is not None:  # a path that a person named
            place, expected = str(error.filename), "a path that can be used. Check the name and its rights"
        elif error.errno in NO_ROOM:
            discard_stdout()
            place, expected = "standard output", "room for it. Free some space"
        elif isinstance(error, FileNotFoundError):  # what a folder that was deleted under us says
            place, expected = "the working directory", "one that exists. Change to another"
        else:
            raise
        print(f"error: {place}: got '{error.strerror}'; expected {expected}.", file=sys.stderr)
        return 2


def discard_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: Sequence[str]) -> int:
    """Find the verb, parse its arguments from its signature and call it; None counts as 0."""
    match arguments:
        case ["--version" | "-V", *_]:
            print(f"sightline {__version__}")
            return 0
        case [] | ["-h" | "--help" | "help", *_]:
            print(usage())
            return 0
    verb, *rest = arguments
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Run: sightline --help"
        raise SightlineError(f"verb: got {verb!r}; expected one of {', '.join(VERBS)}. {hint}")
    from sightline.cli.parsing import parse

    module, _, name = VERBS[verb][0].partition(":")
    function = getattr(importlib.import_module(module), name)
    if verb == "train":  # each recipe has flags of its own
        return function(rest) or 0
    return parse(function, join_boxes(rest), f"sightline {verb}") or 0


def join_boxes(arguments: Sequence[str]) -> list[str]:
    """`--box 100 50 40 90` and `--box 100, 50, 40, 90` as `--box 100,50,40,90`; fewer numbers also, to be refused."""
    joined: list[str] = []
    rest = list(arguments)
    while rest:
        joined.append(rest.pop(0))
        if joined[-1] == "--box":
            numbers = list(takewhile(is_number, (word.removesuffix(",") for word in rest[:4])))
            joined += [",".join(numbers)] if numbers else []
            del rest[: len(numbers)]
    return joined


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
