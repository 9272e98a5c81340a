"""`sightline train NAME`: the only place that reaches the recipes, by name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import logging
import textwrap
from collections.abc import Sequence

import tyro

from sightline.cli.parsing import parse
from sightline.errors import MissingExtra, SightlineError, UnknownModel
from sightline.loading import need_torch

OSTRACK = ("256", "256-ce", "256-ce-got10k", "384", "384-ce", "384-ce-got10k", "tiny")
# Recipe's module, which has `PRESETS` and `train(settings)`, and what it trains, models or NAME:PART; a test holds them
# together.
RECIPES = {
    "train_nano": ("sightline-nano",),
    "train_ostrack": tuple(f"ostrack-{size}" for size in OSTRACK),
    "train_mvt": ("mvt",),
    "train_spmtrack": tuple(f"spmtrack-{size}" for size in ("b", "l", "g", "tiny")),
    "pretrain_vit": ("spmtrack-tiny:backbone",),
    "train_gtr": ("gtr-mot", "gtr-mot-full", "gtr-tao", "gtr-tiny"),
    "train_onetrack_m": tuple(f"onetrack-m-{size}" for size in ("b16", "b32", "l16", "tiny")),
}
# What else than fine-tuning there is of each.
KINDS = {
    "train_nano": ("full",),
    "train_ostrack": ("full",),
    "train_mvt": ("full",),
    "train_spmtrack": ("full", "got10k"),
    "pretrain_vit": (),
    "train_gtr": ("full", "detector"),
    "train_onetrack_m": ("full", "joint"),
}
SHORT = {"nano": "sightline-nano", "ostrack": "ostrack-256-ce"}
USAGE = """usage: sightline train NAME --data FOLDER --out RUN ...

  sightline train NAME          fine-tune on your own clips, from trained weights
  sightline train NAME:full     the whole training, from a backbone's weights, as published
  sightline train spmtrack-b:got10k        the same on GOT-10k alone, as its rules ask for
  sightline train spmtrack-tiny:backbone   a backbone's weights for spmtrack-tiny
  sightline train gtr-mot:detector         the detector by itself that gtr-mot:full starts from
  sightline train onetrack-m-b16:joint     all losses from the start, the baseline of training by parts
  sightline train NAME --help   what a recipe takes, and its settings

NAME is one of"""


def train(arguments: Sequence[str]) -> int:
    """Run the recipe named first; the other arguments are the fields of its settings class."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        short = " and ".join(f"{short} for {model}" for short, model in SHORT.items())
        print(f"{USAGE} {', '.join(model for models in RECIPES.values() for model in models)}; in short {short}.")
        print("OpenCV's own nano, which `sightline track --model nano` is, is another and cannot be trained.")
        return 0
    model, colon, kind = name.partition(":")
    model = SHORT.get(model, model)
    chosen = f"{model}{colon}{kind}"
    recipes = {model: recipe for recipe, models in RECIPES.items() for model in models}
    recipes |= {f"{model}:{kind}": recipe for model, recipe in recipes.items() for kind in KINDS[recipe]}
    if chosen not in recipes:
        close = difflib.get_close_matches(chosen, recipes, n=1)
        advice = f"Did you mean {close[0]!r}?" if close else "Run: sightline train --help"
        raise UnknownModel(f"recipe: got {name!r}; expected one of {', '.join(recipes)}. {advice}")
    need_torch(f"training of {model!r}", "train")
    if importlib.util.find_spec("lightning_fabric") is None:
        raise MissingExtra(
            f"training of {model!r} needs lightning-fabric, which is not installed. Run: pip install 'sightline[train]'"
        )
    module = importlib.import_module(f"sightline.recipes.{recipes[chosen]}")
    preset = module.PRESETS[chosen]
    title, _, header = (module.__doc__ or "").partition("\n")
    settings = parse(
        type(preset),
        rest,
        f"sightline train {name}",
        default=preset,
        description=f"{title}\n{textwrap.indent(header, '  ')}",  # what is indented keeps its lines
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if kind and not settings.init:  # weights that are added or inside the package are trained already
        raise SightlineError(
            f"init: got none; expected the weights that {name} starts from. Pass --init FILE, or --init none; "
            f"sightline train {name} --help names the file."
        )
    if not settings.run.replay:  # before a network is built and data are looked through
        importlib.import_module("sightline.training.run").check_out(settings.run, settings)
    logging.getLogger("sightline").setLevel(logging.INFO)
    with importlib.import_module("sightline.training.processes").one_voice():
        module.train(settings)
    return 0
