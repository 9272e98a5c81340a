"""What a recipe does before its loop: find its first weights, open what it trains on and what it is judged by."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sightline.building import added, check_backbone, weights_file
from sightline.checkpoints.starts import start_model
from sightline.datasets.clips import Clip
from sightline.datasets.footage import Source
from sightline.datasets.mixture import NAMED, open_sources
from sightline.datasets.mot_text import MotRows
from sightline.datasets.multi import MotSequence
from sightline.datasets.root import dataset_folder
from sightline.datasets.synthetic import SyntheticConfig, SyntheticSequence
from sightline.datasets.table import DATASETS, dataset_row, open_dataset
from sightline.errors import CheckpointError, DatasetError, SightlineError
from sightline.evaluation.mot_preprocess import MOT_RULES
from sightline.imaging.frames import read_image
from sightline.trackers.zoo import entry_of
from sightline.training.scenes import Scene, synthetic_scene
from sightline.training.validation import check_clip
from sightline.training.windows import SYNTHETIC, gallery_of

log = logging.getLogger("sightline")

SCENE_FRAMES = 60
SCENE_SEED = 2**31  # below those that are trained on

# What the settings of any recipe, of its run and of its examples may be.
RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    dict.fromkeys(("epochs", "pairs_per_epoch", "batch", "drop_epoch", "validate_epochs"), (1, math.inf))
    | dict.fromkeys(("steps", "keep_steps", "clip_length", "train_px", "max_objects"), (1, math.inf))
    | dict.fromkeys(("lr", "backbone_lr", "weight_decay", "clip_norm", "clip_value"), (0, math.inf))
    | dict.fromkeys(
        ("warmup_steps", "warmup_epochs", "giou_warmup_epochs", "freeze_blocks", "ce_start", "ce_warm"), (0, math.inf)
    )
    | dict.fromkeys(("average", "blend"), (0, 1))
    | dict.fromkeys(("log_steps", "nodes", "num_templates", "num_searches"), (1, math.inf))
    | dict.fromkeys(("seed", "devices", "threads", "workers", "save_minutes"), (0, math.inf))
)


def first_model(name: str, settings: Any, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network that a run of these settings begins with, on the CPU. options: fields of the network's config.

    Raises `SightlineError` for settings that no run can have, and what `first_weights` and `start_model` raise.
    """
    check_ranges(settings)
    backbone = check_backbone(name, getattr(settings, "backbone", "") or None)
    init = first_weights(name, settings.init)
    start = start_model(name, init, seed=settings.run.seed, options=options, backbone=backbone)
    log.info("%s starts from %s (%s)", name, start.title, "; ".join(start.notes))
    config: Any = start.model.config
    for field in ("template_px", "search_px"):
        if (got := getattr(settings.pairs, field)) != (side_px := getattr(config, field)):
            raise SightlineError(
                f"{field}: got {got}; expected {side_px}, which the network is made for. Leave it as it is."
            )
    return start.model


def check_ranges(settings: Any) -> None:
    """Raise `SightlineError` for settings that no run can have."""
    for part in (settings, settings.run, settings.pairs):
        for field, (low, high) in RANGES.items():
            value = getattr(part, field, low)
            if not low <= value <= high:
                expected = f"{low} to {high}" if high < math.inf else f"{low} or more"
                raise SightlineError(f"{field}: got {value}; expected {expected}. Give another.")


def first_weights(name: str, init: str) -> str | Path:
    """`init`, or where that is empty the weights inside the package, or those added for the model.

    Raises `CheckpointError` where there are none, which says what to pass.
    """
    entry = entry_of(name)
    if init or entry.bundled or added(name):
        return init or weights_file(name, None)
    official = f"{PurePath(entry.official_file).name} of {entry.official_page}"
    expected = official if entry.official_file else f"the {name} that a run of {name}:full left"
    raise CheckpointError(
        f"init: got none, and no weights of {name} in the cache; expected {expected}. Pass --init FILE, or run: "
        f"sightline models add {name} FILE"
    )


def training_sources(texts: Sequence[str], root: str | Path | None) -> list[Source]:
    """The sources of these texts as `open_sources` has them; without any, whatever lies in `root`, or where that is
    none, in the folder that `SIGHTLINE_DATA` or the config file names."""
    return open_sources(texts, root) if texts else open_sources(["."], dataset_folder("", (), root, DATASETS))


def open_clips(texts: Sequence[str], root: str | Path | None = None) -> list[Clip]:
    """The clips of data sets of one target, `NAME[:SPLIT][=FOLDER]` each as in `datasets.mixture`, in their order.

    Raises `DatasetError` for other texts, sets of another kind, and clips that cannot be read or scored.
    """
    clips: list[Clip] = []
    for text in texts:
        named = NAMED.fullmatch(text)
        name, split, folder = named.groups(default="") if named else ("", "", "")
        if not name or dataset_row(name)[1].kind != "sot":
            raise DatasetError(
                f"validation clips {text!r}: got no data set of one target; expected NAME[:SPLIT][=FOLDER], as "
                "got10k:val or folder=my_clips. Run: sightline data"
            )
        place = Path(root or "").expanduser() / Path(folder).expanduser() if folder else root
        try:
            clips += open_dataset(name, split, place)
        except DatasetError as error:
            raise DatasetError(f"validation clips {text!r}: {error} Or name others with --val, or none.") from error
    for clip in clips:
        check_clip(clip)
    return clips


def open_scenes(
    texts: Sequence[str], root: str | Path | None, synthetic: SyntheticConfig, cutouts: Sequence[str] = ()
) -> list[Scene]:
    """The sequences of data sets in MOTChallenge's layout, `NAME[:SPLIT][=FOLDER]` each, in their order; and of
    "synthetic" and "synthetic:drawn" two each, of `SCENE_FRAMES`, that no training sees. The last two arguments are
    those of `windows.open_window_sources`.

    Raises `DatasetError` for other texts, and for sequences whose truth cannot be read or that share a name.
    """
    scenes: list[Scene] = []
    for text in texts:
        if text in SYNTHETIC:
            gallery, regime = gallery_of(text, root, cutouts), replace(synthetic, num_frames=SCENE_FRAMES)
            for number in range(len(scenes), len(scenes) + 2):
                sequence = SyntheticSequence(regime, SCENE_SEED, number, gallery)
                scenes.append(synthetic_scene(sequence, f"{text.replace(':', '-')}-{number}"))
            continue
        named = NAMED.fullmatch(text)
        name, split, folder = named.groups(default="") if named else ("", "", "")
        if not name or (row := dataset_row(name)[1]).kind != "mot" or row.protocol not in MOT_RULES:
            raise DatasetError(
                f"validation sequences {text!r}: got no data set in MOTChallenge's layout; expected synthetic, "
                "synthetic:drawn, or NAME[:SPLIT][=FOLDER] as mot17:half-val or mot=my_sequences. Run: sightline data"
            )
        place = Path(root or "").expanduser() / Path(folder).expanduser() if folder else root
        try:
            found = list(open_dataset(name, split, place))
        except DatasetError as error:
            raise DatasetError(f"validation sequences {text!r}: {error} Or name others with --val, or none.") from error
        for one in found:
            if not isinstance(one.truth, MotRows):
                raise DatasetError(
                    f"validation sequence {one.name!r}: got no truth, {one.annotation}; expected a row for each box. "
                    "Name others with --val, or none."
                )
            scenes.append(Scene(one.name, len(one), partial(_image, one), one.truth, row.protocol))
    names = [scene.name for scene in scenes]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise DatasetError(f"validation sequence {twice!r}: got it twice; expected it once. Leave one out of --val.")
    return scenes


def _image(sequence: MotSequence, index: int) -> NDArray[np.uint8]:
    return read_image(sequence.frames[index])
