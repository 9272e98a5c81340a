"""The command line: one verb, one file. `VERBS` is the whole table; a verb's module loads only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from sightline import __version__
from sightline.errors import SightlineError

# verb -> (module:function, one line of help)
VERBS = {
    "track": ("sightline.cli.track:track", "Follow targets in a video or image folder."),
    "models": ("sightline.cli.models:models", "List the models: size, figures, licence, whether the weights are here."),
    "convert": (
        "sightline.cli.convert:convert",
        "Turn an official weights file into safetensors; runs none of its code.",
    ),
    "export": ("sightline.cli.export:export", "Write a model as ONNX graphs and check them against torch."),
    "train": ("sightline.cli.train:train", "Train a model with one of the recipes."),
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
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] in (["--version"], ["-V"]):
        print(f"sightline {__version__}")
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb = given[0]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"error: verb: got {verb!r}; expected one of {', '.join(VERBS)}.{hint}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return run(verb, given[1:])
    except SightlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(verb: str, arguments: Sequence[str]) -> int:
    """Parse a verb's arguments from its signature and call it; None counts as 0."""
    import tyro

    module, _, name = VERBS[verb][0].partition(":")
    function = getattr(importlib.import_module(module), name)
    if verb == "train":  # each recipe has flags of its own
        return function(arguments) or 0
    return tyro.cli(function, args=list(arguments), prog=f"sightline {verb}") or 0
