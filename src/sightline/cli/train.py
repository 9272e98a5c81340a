"""`sightline train NAME`: the only place that reaches the recipes, by name."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

import tyro

from sightline.errors import UnknownModel
from sightline.loading import need_torch

# recipe -> (module, settings class); each module has `train(settings)`
RECIPES = {"nano": ("sightline.recipes.train_nano", "NanoTraining")}


def train(arguments: Sequence[str]) -> int:
    """Run the recipe named first; the other arguments are the fields of its settings class."""
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(
            f"usage: sightline train {{{','.join(RECIPES)}}} ...\n\n"
            "  sightline train NAME --help    what a recipe takes"
        )
        return 0
    if name not in RECIPES:
        raise UnknownModel(f"recipe: got {name!r}; expected one of {', '.join(RECIPES)}. Choose one.")
    need_torch(f"training of {name!r}", "train")
    module_name, settings_name = RECIPES[name]
    module = importlib.import_module(module_name)
    settings = tyro.cli(getattr(module, settings_name), args=rest, prog=f"sightline train {name}")
    logging.getLogger("sightline").setLevel(logging.INFO)
    module.train(settings)
    return 0
