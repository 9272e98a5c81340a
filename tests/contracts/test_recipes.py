"""The recipes' tables: the verb's against theirs, the official settings figure by figure, what each parameter gets."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from sightline.building import empty_model
from sightline.cli.train import KINDS, RECIPES, SHORT
from sightline.datasets.mixture import NAMED, OTHERS
from sightline.datasets.table import DATASETS, dataset_row
from sightline.models.dinov2 import DINOv2Config
from sightline.models.res2net import Res2NetConfig
from sightline.models.spmtrack import SPMTRACK_B, SPMTRACK_G, SPMTRACK_L, SPMTRACK_TINY, SPMTrack, is_trained
from sightline.models.vit import DropPath
from sightline.recipes import pretrain_vit, train_gtr, train_mvt, train_nano, train_ostrack, train_spmtrack
from sightline.recipes.train_nano import NanoTraining, freeze
from sightline.trackers.zoo import ZOO
from sightline.training.clips import LVIS_COCO, SYNTHETIC, ClipExamples, ClipsConfig, SyntheticClips
from sightline.training.feed import batches
from sightline.training.joint import Learner, counts_of, lessons_of
from sightline.training.schedule import ce_keep_rate
from tests.parity.test_schedule import STORED, torch_rates

MODULES: dict[str, ModuleType] = {name: importlib.import_module(f"sightline.recipes.{name}") for name in RECIPES}
PRESETS: dict[str, Any] = {name: preset for module in MODULES.values() for name, preset in module.PRESETS.items()}
OF_MANY = ("train_gtr", "train_onetrack_m")  # they find their targets, of which there are many
TRACKERS = [
    name for recipe, module in MODULES.items() for name in module.PRESETS if recipe not in (*OF_MANY, "pretrain_vit")
]
MADE = (SYNTHETIC, LVIS_COCO)  # sources of clips that are no data set

# ostrack.md section 6 and mvt.md section 7 of the specifications, which quote the official code.
OFFICIAL = {
    "pairs_per_epoch": 60_000,
    "batch": 128,
    "lr": 4e-4,
    "backbone_lr": 0.1,
    "weight_decay": 1e-4,
    "clip_norm": 0.1,
    "template_px": 128,
    "search_px": 256,
    "template_factor": 2.0,
    "search_factor": 4.0,
    "centre_jitter": 3.0,
    "scale_jitter": 0.25,
    "max_gap": 200,
    "min_pictures": 20,
    "min_visible": 5,  # more than 2 (1 + 1)
    "min_still_px": 50.0,
    "grey_share": 0.05,
    "flip_share": 0.5,
    "brightness": 0.2,
}
FOUR_SETS = {"lasot:train": 1120, "got10k:vot-train": 7086, "coco:train": 118_287, "trackingnet:train": 30_132}
OSTRACK: dict[str, Any] = OFFICIAL | {
    "epochs": 300,
    "warmup_steps": 0,
    "drop_epoch": 240,
    "ce_start": 20,
    "ce_warm": 80,
    "validate_epochs": 20,
    "sources": FOUR_SETS,
}
OSTRACK_384 = {"template_px": 192, "search_px": 384, "search_factor": 5.0, "centre_jitter": 4.5, "scale_jitter": 0.5}
ONE_SHOT = {"epochs": 100, "drop_epoch": 80, "ce_warm": 50, "sources": {"got10k:train-full": 9335}}
TABLE: dict[str, dict[str, Any]] = {
    "ostrack-256": OSTRACK,
    "ostrack-256-ce": OSTRACK,
    "ostrack-256-ce-got10k": OSTRACK | ONE_SHOT,
    "ostrack-384": OSTRACK | OSTRACK_384,
    "ostrack-384-ce": OSTRACK | OSTRACK_384,
    "ostrack-384-ce-got10k": OSTRACK | OSTRACK_384 | ONE_SHOT,
    "mvt": OFFICIAL | {"epochs": 100, "validate_epochs": 10, "sources": {"got10k:train-full": 9335}},
}
# spmtrack.md section 6 of the specifications; presets by what follows their colon.
SPMTRACK: dict[str, Any] = {
    "epochs": 170,
    "pairs_per_epoch": 131_072,
    "batch": 128,
    "lr": 1e-4,
    "weight_decay": 0.1,
    "warmup_epochs": 2,
    "giou_warmup_epochs": 0,
    "goes_on": False,
    "clip_norm": 1.0,
    "validate_epochs": 10,
    "template_px": 196,
    "search_px": 378,
    "stride": 14,
    "template_factor": 2.0,
    "search_factor": 5.0,
    "search_min_px": 10.0,
    "num_templates": 3,
    "num_searches": 2,
    "template_reach": 200,
    "search_reach": 400,
    "scale_jitter": 0.25,
    "shift_jitter": 3.0,
    "min_seen_px": 10.0,
    "flip_share": 0.5,
    "colour": 0.4,
    "three_share": 1.0,
    "sources": FOUR_SETS,  # without a weight each, so equal ones
}
SPMTRACK_L_ALONE = {"batch": 64, "giou_warmup_epochs": 2}
SPMTRACK_ONE_SHOT = {"epochs": 100, "sources": {"got10k:train-full": 9335}}
SPMTRACK_TABLE: dict[str, dict[str, Any]] = {
    "spmtrack-b:full": SPMTRACK,
    "spmtrack-l:full": SPMTRACK | SPMTRACK_L_ALONE,
    "spmtrack-g:full": SPMTRACK | {"batch": 32},
    "spmtrack-b:got10k": SPMTRACK | SPMTRACK_ONE_SHOT,
    "spmtrack-l:got10k": SPMTRACK | SPMTRACK_L_ALONE | SPMTRACK_ONE_SHOT,
    "spmtrack-g:got10k": SPMTRACK | {"batch": 32} | SPMTRACK_ONE_SHOT,
}
# gtr.md sections 6 and 7 of the specifications.
GTR_MOT: dict[str, Any] = {
    "stage": "joint",
    "sources": {"mot17:half-train": 7, "crowdhuman:train": 15_000},
    "steps": 8_000,
    "batch": 4,
    "optimizer": "adamw",
    "lr": 5e-5,
    "backbone_lr": 0.1,
    "warmup_steps": 1_000,
    "warmup_factor": 1e-3,
    "weight_decay": 1e-4,
    "clip_norm": 0.1,
    "clip_value": 0.0,
    "frozen": (),
    "repeat_threshold": 0.0,
    "variant": "released",
    "score_above": 0.3,
    "has_background": True,
    "nms_iou": 0.7,
    "ignore_above": None,
    "clip_length": 8,
    "max_frames": 16,
    "window": 2.0,
    "train_px": 1280,
    "scale": (0.1, 2.0),
    "flip_share": 0.5,
    "still_scale": (0.8, 1.2),
    "clamp_boxes": False,
}
GTR_TAO = GTR_MOT | {
    "sources": {"lvis_coco": None},
    "steps": 45_000,
    "warmup_steps": 4_000,
    "warmup_factor": 2.5e-4,
    "frozen": ("backbone.bottom_up",),
    "score_above": 0.1,
    "has_background": False,
    "nms_iou": 0.9,
    "ignore_above": 0.85,
    "max_frames": 8,  # of stills alone
    "train_px": 896,
    "clamp_boxes": True,
}
GTR_SINGLE = {"stage": "detector", "batch": 32, "backbone_lr": 1.0, "clip_norm": 0.0, "clip_length": 1, "max_frames": 1}
GTR_TABLE: dict[str, dict[str, Any]] = {
    "gtr-mot:full": GTR_MOT,
    "gtr-mot-full:full": GTR_MOT | {"sources": {"mot17:train": 21, "crowdhuman:train": 15_000}, "steps": 16_000},
    "gtr-tao:full": GTR_TAO,
    "gtr-mot:detector": GTR_MOT
    | GTR_SINGLE
    | {"sources": {"crowdhuman:train": 15_000}, "steps": 45_000, "lr": 1e-4, "clip_value": 1.0, "train_px": 896},
    "gtr-tao:detector": GTR_TAO
    | GTR_SINGLE
    | {
        "steps": 180_000,
        "optimizer": "sgd",
        "lr": 0.04,
        "frozen": ("backbone.bottom_up.stem", "backbone.bottom_up.res2"),
        "repeat_threshold": 0.001,
    },
}
GTR_TABLE["gtr-mot-full:detector"] = GTR_TABLE["gtr-mot:detector"]
NO_SETTING = {"run", "data", "val", "init", "backbone", "options", "model", "pairs"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flat(settings: Any) -> dict[str, Any]:
    """The fields of a recipe's settings and of its pairs, and of the sources the numbers of sequences."""
    found = {field.name: getattr(part, field.name) for part in (settings.pairs, settings) for field in fields(part)}
    counts = {}
    for text in settings.sources:
        named = NAMED.fullmatch(text)
        assert named
        counts[text] = DATASETS[named[1]].counts[named[2]]
    return found | {"sources": counts}


@pytest.mark.parametrize("name", TABLE)
def test_the_official_settings(name: str) -> None:
    settings = PRESETS[f"{name}:full"]
    found = flat(settings)
    assert {key: found[key] for key in TABLE[name]} == TABLE[name]
    assert settings.val == ("got10k:val",) and DATASETS["got10k"].counts["val"] == 180
    assert settings.steps_per_epoch == 468  # 60,000 pairs make 468 batches of 128, and the rest is dropped
    assert settings.num_steps == 468 * TABLE[name]["epochs"]
    assert settings.run.precision == "32-true"
    # What no row of the table speaks of is no setting of the training.
    assert found.keys() - TABLE[name].keys() <= NO_SETTING


@pytest.mark.parametrize("name", SPMTRACK_TABLE)
def test_the_official_settings_of_spmtrack(name: str) -> None:
    settings, table = PRESETS[name], SPMTRACK_TABLE[name]
    found = flat(settings)
    assert {key: found[key] for key in table} == table
    assert found.keys() - table.keys() <= NO_SETTING
    assert settings.model == name.partition(":")[0] and settings.val == ("got10k:val",)
    assert settings.steps_per_epoch == {128: 1024, 64: 2048, 32: 4096}[table["batch"]]
    assert settings.num_steps == settings.steps_per_epoch * table["epochs"]
    assert settings.run.precision == "16-mixed"


@pytest.mark.parametrize("name", GTR_TABLE)
def test_the_official_settings_of_gtr(name: str) -> None:
    settings, table = PRESETS[name], GTR_TABLE[name]
    found = {field.name: getattr(settings.losses, field.name) for field in fields(settings.losses)}
    found |= {field.name: getattr(part, field.name) for part in (settings.pairs, settings) for field in fields(part)}
    sources = [text.partition(":") for text in settings.sources]  # without a weight each, so one to one
    found["sources"] = {
        f"{name}{colon}{split}": DATASETS[name].counts[split] if name in DATASETS else None
        for name, colon, split in sources
    }
    assert {key: found[key] for key in table} == table
    ours = {"losses", "cutouts", "synthetic", "keep_steps", "max_objects"}
    assert found.keys() - table.keys() <= NO_SETTING | ours
    assert settings.model == name.partition(":")[0] and settings.run.precision == "32-true"


@pytest.mark.parametrize(
    ("config", "rate"), [(SPMTRACK_B, 0.0), (SPMTRACK_L, 0.1), (SPMTRACK_G, 0.4), (SPMTRACK_TINY, 0.0)]
)
def test_paths_are_dropped_alike_in_every_block(config: Any, rate: float) -> None:
    with torch.device("meta"):
        drops = [module for module in SPMTrack(config).modules() if isinstance(module, DropPath)]
    assert len(drops) == config.backbone.depth and {drop.rate for drop in drops} == {rate}


def test_every_official_file_has_its_recipe() -> None:
    named = {name for name, entry in ZOO.items() if entry.model and entry.official_file}
    assert TABLE.keys() | {name.partition(":")[0] for name in (*SPMTRACK_TABLE, *GTR_TABLE)} == named


def test_the_papers_wording_of_got10k_can_be_asked_for() -> None:
    assert DATASETS["got10k"].counts["paper-train"] == 8335


def test_nanos_own_recipe() -> None:
    settings = PRESETS["sightline-nano:full"]
    assert (settings.epochs * settings.pairs_per_epoch, settings.batch, settings.num_steps) == (192_000, 32, 6_000)


@pytest.mark.parametrize("name", ["sightline-nano", "ostrack-tiny", "spmtrack-tiny"])
def test_our_own_recipes_learn_from_the_training_clips_alone(name: str) -> None:
    settings = PRESETS[f"{name}:full"]
    assert settings.val == ("folder:val=sot",)
    assert {text.partition("*")[0] for text in settings.sources if "sot" in text} == {"folder:train=sot"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_sources_that_there_are(name: str) -> None:
    settings = PRESETS[name]
    for text in (*settings.sources, *getattr(settings, "val", ())):
        named = NAMED.fullmatch(text.partition("*")[0])
        assert named and (named[1] in (*OTHERS, *MADE) or dataset_row(named[1])[0] == named[1])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_preset_fits_its_tracker(name: str) -> None:
    model, _, kind = name.partition(":")
    settings, tracker = PRESETS[name], ZOO[model].tracker
    shared = {field.name for field in fields(settings.pairs)} & {field.name for field in fields(tracker)}
    assert shared >= {"template_px", "search_px", "template_factor", "search_factor"}
    for size in shared:
        assert getattr(settings.pairs, size) == getattr(tracker, size)
    if not kind:  # whatever a person has, however little, and gently
        full = PRESETS[f"{name}:full"]
        assert settings.sources == settings.val == ()
        assert settings.lr == pytest.approx(full.lr / 10)
        assert getattr(settings.pairs, "min_pictures", 2) == getattr(settings.pairs, "min_visible", 2) == 2


# The verb


def test_the_backbones_preset_fits_the_network_that_stands_on_it() -> None:
    settings = PRESETS[pretrain_vit.NAME]
    assert settings.pairs.view_px == SPMTRACK_TINY.backbone.image_px
    assert not {text for text in settings.sources if "sot" in text or "val" in text}  # nor of clips to be judged by


def test_the_verb_names_every_preset_and_no_other() -> None:
    for name, models in RECIPES.items():
        expected = {f"{model}{kind}" for model in models for kind in ("", *(f":{kind}" for kind in KINDS[name]))}
        assert MODULES[name].PRESETS.keys() == expected
    assert sum(map(len, RECIPES.values())) == len(set().union(*RECIPES.values()))
    assert len(PRESETS) == sum(len(module.PRESETS) for module in MODULES.values())  # no name twice
    assert set(SHORT.values()) <= PRESETS.keys() and not SHORT.keys() & PRESETS.keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_recipe_is_short_and_says_what_it_costs(name: str) -> None:
    module = MODULES[name]
    source = Path(module.__file__ or "").read_text()
    assert len(source.splitlines()) <= 400
    header = module.__doc__ or ""
    assert all(re.search(rf"^{word} ", header, re.MULTILINE) for word in ("Command", "Cost", "Expected"))
    commands = re.findall(r"sightline train (\S+)( .+)?$", header, re.MULTILINE)
    known = {field.name for part in (PRESETS[RECIPES[name][0]],) for field in (*fields(part), *fields(part.run))}
    for called, arguments in commands:
        model, colon, kind = called.partition(":")
        assert f"{SHORT.get(model, model)}{colon}{kind}" in PRESETS
        assert {flag.replace("-", "_") for flag in re.findall(r"--([\w-]+)", arguments)} <= known
    told = {called.partition(":")[2] for called, _ in commands}
    assert told >= ({"", "full"} if KINDS[name] else {"backbone"})


# Schedules


@pytest.mark.parametrize("name", GTR_TABLE)
def test_gtrs_rate_rises_to_where_the_cosine_is_then(name: str) -> None:
    """As detectron2 has it since fvcore's schedulers: not to the whole rate."""
    settings = PRESETS[name]
    warm, steps = settings.warmup_steps, settings.steps

    def cosine(step: int) -> float:
        return settings.lr * (1 + math.cos(math.pi * step / steps)) / 2

    found = [train_gtr.learning_rate(step, settings) for step in (0, warm // 2, warm - 1, warm, steps // 2, steps - 1)]
    start, top = settings.warmup_factor * settings.lr, cosine(warm)
    expected = [
        start,
        (start + top) / 2,
        start + (top - start) * (warm - 1) / warm,
        top,
        settings.lr / 2,
        cosine(steps - 1),
    ]
    assert found == pytest.approx(expected, rel=1e-9)
    assert top < settings.lr and found[2] < found[3] > found[4]


@pytest.mark.parametrize("name", TABLE)
def test_rates_by_epoch_are_the_official_ones(name: str) -> None:
    settings, module = PRESETS[f"{name}:full"], train_mvt if name == "mvt" else train_ostrack
    if name == "mvt":
        expected = torch_rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-9), 4e-4, 100)
    else:
        drop = TABLE[name]["drop_epoch"]
        expected = torch_rates(lambda optimizer: StepLR(optimizer, drop), 4e-4, settings.epochs)
    for step in (0, 467):  # the first and the last of every epoch
        rates = [module.learning_rate(468 * epoch + step, settings) for epoch in range(settings.epochs)]
        np.testing.assert_allclose(rates, expected, rtol=1e-9)
    late = [module.learning_rate(468 * epoch + 468, settings) for epoch in range(settings.epochs)]
    assert not np.allclose(late, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("ostrack-256-ce", "keep_rate_ep300_start20_warm80"),
        ("ostrack-384-ce", "keep_rate_ep300_start20_warm80"),
        ("ostrack-256-ce-got10k", "keep_rate_got10k_start20_warm50"),
        ("ostrack-384-ce-got10k", "keep_rate_got10k_start20_warm50"),
    ],
)
def test_keep_ratios_by_epoch_are_the_official_ones(name: str, stored: str) -> None:
    settings, expected = PRESETS[f"{name}:full"], STORED[stored]
    assert len(expected) > settings.epochs
    ratios = [train_ostrack.keep_ratio(468 * (epoch - 1), settings) for epoch in range(1, settings.epochs + 1)]
    np.testing.assert_allclose(ratios, expected[1 : settings.epochs + 1], atol=1e-12, rtol=0)
    assert not np.allclose(ratios, expected[: settings.epochs], atol=1e-12, rtol=0)
    assert train_ostrack.keep_ratio(0, PRESETS[name]) == ce_keep_rate(300, 20, 80) == 0.7  # fine-tuning, at once


def test_nanos_rate_rises_and_falls() -> None:
    asked = NanoTraining(epochs=2, pairs_per_epoch=10, batch=1, lr=1.0, warmup_steps=4)
    rates = [train_nano.learning_rate(step, asked) for step in range(20)]
    half_cosine = (1 + np.cos(np.pi * np.arange(20) / 20)) / 2
    np.testing.assert_allclose(rates, half_cosine * np.minimum(1, np.arange(1, 21) / 4), rtol=1e-12)


@pytest.mark.parametrize("name", SPMTRACK_TABLE)
def test_spmtracks_rate_rises_for_two_epochs_and_giou_weighs_ten_times_in_two_of_l(name: str) -> None:
    settings = PRESETS[name]
    epoch = settings.steps_per_epoch
    rates = [train_spmtrack.learning_rate(step, settings) for step in (0, epoch, 2 * epoch, settings.num_steps - 1)]
    share = (settings.epochs - 2) / settings.epochs  # of the half cosine is gone through
    assert rates[:3] == pytest.approx([1e-7, (1e-7 + 1e-4) / 2, 1e-4], rel=1e-12)
    assert rates[3] == pytest.approx(1e-6 + 9.9e-5 * (1 + np.cos(np.pi * share)) / 2, rel=2e-3)
    weights = [train_spmtrack.giou_weight(step, settings) for step in (0, 2 * epoch - 1, 2 * epoch)]
    assert weights == ([10, 10, 1] if "-l:" in name else [1, 1, 1])


# Parameters

BACKBONE = DINOv2Config(width=32, depth=2, heads=2, image_px=56)
GTR_SMALL = {
    "backbone": Res2NetConfig((1, 1, 1, 1), base_width=4, channels=8),
    "channels": 32,
    "width": 32,
    "hidden": 32,
}
SMALL = {
    "ostrack": ("ostrack-tiny", {"width": 32, "heads": 2, "depth": 3, "ce_layers": (1,)}),
    "mvt": ("mvt", {"template_px": 64, "search_px": 128, "head_width": 32}),
    "nano": ("sightline-nano", {}),
    "spmtrack": ("spmtrack-tiny", {"backbone": BACKBONE, "template_px": 28, "search_px": 56, "rank": 4}),
    "backbone": ("spmtrack-tiny:backbone", {}),
    "gtr": ("gtr-tiny", {}),
    "gtr-tao": ("gtr-tao", GTR_SMALL),
}
GROUPS: dict[str, Callable[[nn.Module, Any], list[dict[str, Any]]]] = {
    "ostrack": train_ostrack.parameter_groups,
    "mvt": train_mvt.parameter_groups,
    "nano": train_nano.parameter_groups,
    "spmtrack": train_spmtrack.parameter_groups,
    "backbone": pretrain_vit.parameter_groups,
    "gtr": train_gtr.parameter_groups,
    "gtr-tao": train_gtr.parameter_groups,
}
DEAD = {
    "ostrack": r"^backbone\.(cls_token|pos_embed)$",
    "backbone": r"^backbone\.mask_token$",
    "gtr": r"^network\.backbone\.bottom_up\.level[34]\.project\.",  # computed for nothing, officially
    "gtr-tao": r"^network\.backbone\.bottom_up\.",
}


def small(name: str) -> Any:
    """The network that a recipe trains, little."""
    row, options = SMALL[name]
    if name.startswith("gtr"):
        settings = replace(PRESETS[f"{row}:full"], init="none", options=options)
        return Learner(train_gtr.first_network(settings), settings.losses)
    torch.manual_seed(0)
    return pretrain_vit.Keyed(BACKBONE) if name == "backbone" else empty_model(row, options)


def grouped(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> its group without the parameters; each is in one group alone."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert len(found) == len(dict(found))
    return {name: {key: value for key, value in group.items() if key != "params"} for name, group in found}


def learnt(model: Any, name: str) -> set[str]:
    """The names that a step gives a gradient to."""
    if name.startswith("gtr"):
        clips = ClipExamples([SyntheticClips(num_frames=4)], ClipsConfig(2, 2, train_px=128, max_objects=20))
        (lesson,) = lessons_of(next(batches(clips, batch=1)).tensors, 128, together=False, are_inside=False)
        maps = [model(lesson, counts_of([lesson]))["total"]]
    elif name == "backbone":
        maps = [model(torch.rand(2, 3, BACKBONE.image_px, BACKBONE.image_px))]
    elif name == "spmtrack":
        crops = [torch.rand(2, 2, 3, px, px) for px in (model.config.template_px, model.config.search_px)]
        foregrounds = torch.tensor([0.0, 1.0]).repeat(2, 2, model.config.template_grid**2 // 2)
        maps = [value for prediction in model(crops[0], foregrounds, crops[1]) for value in prediction[:2]]
    else:
        maps = model(*(torch.rand(2, 3, px, px) for px in (model.config.template_px, model.config.search_px)))
    sum(value.square().mean() for value in maps).backward()
    return {key for key, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_that_learns_is_in_one_group_and_no_other_is(name: str) -> None:
    """Nor does one ask for a gradient that gets none: several processes would wait for it."""
    model, row = small(name), SMALL[name][0]
    found = grouped(model, GROUPS[name](model, PRESETS[row if row in RECIPES["pretrain_vit"] else f"{row}:full"]))
    assert found.keys() == learnt(model, name)
    assert found.keys() == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    dead = {key for key, _ in model.named_parameters()} - found.keys()
    assert dead == {
        key for key in dead if re.search(DEAD.get(name, "$^"), key) or (name == "spmtrack" and not is_trained(key))
    }
    assert bool(dead) == (name in DEAD or name == "spmtrack")


@pytest.mark.parametrize("name", SMALL)
def test_every_linear_layer_that_fsdp2_cuts_up_is_called(name: str) -> None:
    """Its weights are whole within a call alone."""
    model, called = small(name), set()
    linear = {key: module for key, module in model.named_modules() if type(module) is nn.Linear}
    for key, module in linear.items():
        module.register_forward_hook(lambda *_, key=key: called.add(key))
    learnt(model, name)
    assert called == linear.keys() and (name == "mvt" or called)


@pytest.mark.parametrize("name", ["ostrack-256-ce", "mvt"])
def test_the_backbone_learns_at_a_tenth_of_the_rate(name: str) -> None:
    with torch.device("meta"):
        model = empty_model(name)
    settings = PRESETS[f"{name}:full"]
    groups = GROUPS[name.partition("-")[0]](model, settings)
    found = grouped(model, groups)
    assert {key for key, group in found.items() if group == {"ratio": 0.1}} == {
        key for key in found if key.startswith("backbone.")
    }
    assert {key.partition(".")[0] for key, group in found.items() if group == {"ratio": 1.0}} == (
        {"box_head"} if name != "mvt" else {"neck", "feature_fusor", "box_head"}
    )
    optimizer = torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}  # of biases and norms too
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


@pytest.mark.parametrize(
    ("name", "num_tensors", "num_parameters"),
    [("spmtrack-b", 447, 29_243_909), ("spmtrack-l", 879, 75_872_261), ("spmtrack-g", 1455, 204_018_693)],
)
def test_spmtracks_experts_learn_with_decay_and_its_embeddings_and_biases_without(
    name: str, num_tensors: int, num_parameters: int
) -> None:
    with torch.device("meta"):
        model = empty_model(name)
    settings = PRESETS[f"{name}:full"]
    groups = train_spmtrack.parameter_groups(model, settings)
    found = grouped(model, groups)
    assert found.keys() == {key for key in model.state_dict() if is_trained(key)}
    assert (len(found), sum(model.get_parameter(key).numel() for key in found)) == (num_tensors, num_parameters)
    free = {key for key, group in found.items() if group == {"weight_decay": 0.0}}
    biases = {f"head.{part}.layers.{layer}.bias" for part in ("cls_mlp", "reg_mlp") for layer in range(3)}
    assert free == {"query_embed", "token_type_embed"} | biases
    assert {key for key, group in found.items() if group == {"weight_decay": 0.1}} == found.keys() - free
    assert "track_query" not in free and "blocks.0.attn.qkv.q.tmoe.expert_route.weight" not in free
    optimizer = torch.optim.AdamW(groups, settings.lr)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}
    assert {group["lr"] for group in optimizer.param_groups} == {1e-4}


def test_the_backbones_vectors_positions_and_tokens_have_no_decay() -> None:
    model, settings = small("backbone"), PRESETS[pretrain_vit.NAME]
    found = grouped(model, pretrain_vit.parameter_groups(model, settings))
    free = {key for key, group in found.items() if group["weight_decay"] == 0}
    vectors = {key for key, value in model.named_parameters() if value.dim() == 1}
    assert free == vectors | {"backbone.cls_token", "backbone.pos_embed"}
    assert {group["weight_decay"] for key, group in found.items() if key not in free} == {settings.weight_decay}
    assert "backbone.patch_embed.proj.weight" in found.keys() - free


def test_nanos_vectors_and_positions_have_no_decay_and_what_is_frozen_has_no_group() -> None:
    model: Any = empty_model("sightline-nano")
    settings = PRESETS["sightline-nano"]
    found = grouped(model, GROUPS["nano"](model, settings))
    bare = {key for key, group in found.items() if group["weight_decay"] == 0}
    assert bare == {key for key, value in model.named_parameters() if value.dim() == 1 or "position" in key}
    assert {"template_position", "norm.weight", "backbone._bn0.bias"} <= bare and "project.weight" not in bare
    assert {group["weight_decay"] for key, group in found.items() if key not in bare} == {settings.weight_decay}
    assert {key for key, group in found.items() if group["ratio"] == 0.1} == {
        key for key in found if key.startswith("backbone.")
    }

    freeze(model, 5)
    left = grouped(model, GROUPS["nano"](model, settings))
    gone = found.keys() - left.keys()
    stem = ("backbone._conv_stem.", "backbone._bn0.", *(f"backbone._blocks.{block}." for block in range(5)))
    assert gone == {key for key in found if key.startswith(stem)}
    assert left.keys() == learnt(model, "nano")
    assert left == {key: found[key] for key in left}


def test_the_batchnorm_of_nanos_backbone_keeps_its_statistics() -> None:
    model: Any = empty_model("sightline-nano")
    train_nano.train_mode(model)
    norms = {key: module for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {key.startswith("backbone.") for key in norms} == {True, False}
    assert all(module.training is not key.startswith("backbone.") for key, module in norms.items())


def test_blended_weights_lie_between() -> None:
    before = {"w": torch.tensor([0.0, 2.0]), "num_batches_tracked": torch.tensor(3)}
    after = {"w": torch.tensor([1.0, 4.0]), "num_batches_tracked": torch.tensor(9)}
    mixed = train_nano.blended(before, after, 0.25)
    assert mixed["w"].tolist() == [0.25, 2.5] and mixed["num_batches_tracked"] == 9
    assert torch.equal(train_nano.blended(before, after, 1.0)["w"], after["w"])


def test_settings_are_values() -> None:
    """A preset that a run changed would change the next run's."""
    for settings in PRESETS.values():
        assert replace(settings) == settings
        with pytest.raises(AttributeError, match="cannot assign"):
            settings.epochs = 1
