r"""Train OneTrack-M (arXiv 2502.04478), a reconstruction: in part-based phases, or with all losses from the start.

Command   sightline train onetrack-m-tiny:full --data DATA --init sightline-nano --out RUN
          DATA has `images/`: mot17_person and coco_person for windows of stills, and with coco80, animals and
          fod_objects for what synthetic sequences are made of
Cost      and what it reaches: docs/models/onetrack_m.md

Command   sightline train onetrack-m-b16:full --data DATA --init VIT.pth --out RUN
          DATA holds MOT17; VIT is a ViT-B/16 with timm's names, as MAE's, DeiT's or AugReg's. `:joint` in place of
          `:full` is the paper's baseline, all losses from the first epoch
Cost      200 epochs of 2,650 windows of five frames; have a GPU
Expected  the paper's HOTA on MOT17: 65.1 with phases, 49.9 without

Command   sightline train onetrack-m-tiny --data DATA --init RUN/last.safetensors --sources mot17 --out RUN
          goes on from trained weights, all losses together, on sequences of your own

The targets' displacements are measured before a run begins, told, and unless `displacement_scale` is given, their 99th
percentile becomes its scale, which the kept weights carry in their header.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sightline.building import weights_file
from sightline.checkpoints.files import TRACKER
from sightline.checkpoints.starts import NONE, start_model
from sightline.datasets.synthetic import SyntheticConfig
from sightline.errors import SightlineError
from sightline.geometry.heatmaps import PERCENTILES, HeatmapRules, displacement_percentiles, displacement_scale
from sightline.models import onetrack_m
from sightline.models.onetrack_m import HEADS, OneTrackM, OneTrackMConfig, WindowMaps
from sightline.trackers.onetrack_m import OneTrackMConfig as LoopConfig
from sightline.trackers.zoo import ZOO
from sightline.training.heatmap_losses import HeatmapLosses, LossWeights, WindowTargets, heatmap_losses
from sightline.training.journal import Journal
from sightline.training.keeping import conclude, keep_weights, window_sheet
from sightline.training.losses import as_input
from sightline.training.opening import check_ranges, first_weights, open_scenes
from sightline.training.phases import Phase, enter, freeze, num_steps, phase_at, set_mode
from sightline.training.run import Run, RunSettings, read, replay
from sightline.training.windows import HeatmapExamples, WindowExamples, WindowsConfig, moved_unit, open_window_sources

log = logging.getLogger("sightline")

NUM_MEASURED = 200  # windows whose displacements are measured
LOSSES = ("heat", "size", "displacement")  # in the order of HEADS


@dataclass(frozen=True)
class OneTrackMTraining:
    """Settings of one run; the presets below fill them."""

    model: tyro.conf.Suppress[str] = "onetrack-m-b16"
    run: RunSettings = field(default_factory=lambda: RunSettings(precision="bf16-mixed"))
    data: Path | None = None
    """The folder that holds the data sets; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = ("mot17:half-train",)
    """What windows are drawn from: synthetic, synthetic:drawn (figures in place of `cutouts`), or
    `NAME[:SPLIT][=FOLDER]` of images or sequences; each `*WEIGHT`."""
    cutouts: tuple[str, ...] = ()
    """Folders of images, under `data`, that sequences of `synthetic` are made of; none: figures are drawn."""
    val: tuple[str, ...] = ()
    """Sequences to track with the model as it stands: synthetic, synthetic:drawn, of which none is trained on, or
    `NAME[:SPLIT][=FOLDER]` of sequences; none: no validation."""
    init: str = ""
    """A file with the weights of the backbone, or of a whole OneTrack-M; sightline-nano for its backbone; or none."""
    tmp_epochs: tuple[int, int, int, int] = (50, 50, 50, 50)
    """Epochs of the phases heat, size, displacement and joint; in the first three one head learns, from its own loss,
    beside the backbone. A phase of 0 is passed over."""
    freeze_backbone_in: tuple[str, ...] = ()
    """[A-14] Phases, of heat, size and displacement, in which the backbone is frozen too."""
    frozen: tuple[str, ...] = ()
    """Parts of the network, by name, that learn in no phase."""
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    """Of heat map, size and displacement in the joint phase."""
    pairs_per_epoch: int = 2_650
    """Windows; MOT17's halves have 2,664 frames."""
    batch: int = 12
    """Windows per step."""
    lr: float = 1e-4
    """In every phase after its warm-up; half a cosine leads from there to 0."""
    backbone_lr: float = 0.1
    """Learning rate of what `init` gave of the backbone, as a multiple of `lr`."""
    warmup_steps: int = 0
    """Of every phase."""
    weight_decay: float = 1e-4
    """Of matrices and kernels."""
    clip_norm: float = 1.0
    average: float = 0.0
    """Decay of the running mean of the weights, per step, which is then what is kept; 0: the weights themselves."""
    max_objects: int = 128
    """Objects of a frame, of more the largest."""
    reach: int = 1
    """So many cells around an object's learn its sides too, where the network tells sides."""
    displacement_scale: tuple[float, float] | None = None
    """x and y, fractions of the frame; none: of the data."""
    rules: tyro.conf.Suppress[HeatmapRules] = field(default_factory=HeatmapRules)
    pairs: WindowsConfig = field(default_factory=WindowsConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    validate_epochs: int = 5
    options: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Fields of the network's config."""

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.pairs_per_epoch // self.batch)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """TMP: each head by itself, and then all."""
        phases = []
        for own, loss, epochs in zip(HEADS, LOSSES, self.tmp_epochs, strict=False):
            others = tuple(part for part in HEADS if part != own)
            backbone = ("backbone",) if loss in self.freeze_backbone_in else ()
            phases.append(Phase(loss, epochs, {loss: 1.0}, (*others, *backbone, *self.frozen)))
        return (
            *phases,
            Phase("joint", self.tmp_epochs[3], dict(zip(LOSSES, self.loss_weights, strict=True)), self.frozen),
        )

    @property
    def num_steps(self) -> int:
        return num_steps(self.phases, self.steps_per_epoch)


NETWORKS: Mapping[str, OneTrackMConfig] = MappingProxyType(
    {
        "onetrack-m-b16": onetrack_m.ONETRACK_M_B16,
        "onetrack-m-b32": onetrack_m.ONETRACK_M_B32,
        "onetrack-m-l16": onetrack_m.ONETRACK_M_L16,
        "onetrack-m-tiny": onetrack_m.ONETRACK_M_TINY,
    }
)
PAPER = OneTrackMTraining(val=("mot17:half-val",))
TINY = OneTrackMTraining(
    model="onetrack-m-tiny",
    sources=("synthetic*4", "synthetic:drawn*3", "images=images/mot17_person*1.5", "images=images/coco_person*1.5"),
    cutouts=tuple(f"images/{name}" for name in ("coco_person", "mot17_person", "coco80", "animals", "fod_objects")),
    val=("synthetic", "synthetic:drawn"),
    tmp_epochs=(8, 2, 1, 62),
    freeze_backbone_in=("size", "displacement"),
    frozen=tuple(f"backbone.stages.{part}" for part in ("_conv_stem", "_bn0", *(f"_blocks.{k}" for k in range(5)))),
    loss_weights=(1.0, 0.15, 0.5),
    pairs_per_epoch=1_200,
    batch=12,
    lr=1.5e-3,
    backbone_lr=0.2,
    warmup_steps=100,
    weight_decay=1e-2,
    clip_norm=5.0,
    average=0.998,
    pairs=WindowsConfig(clip_length=2, image_px=256),
)
_FULL = {name: TINY if name == TINY.model else replace(PAPER, model=name) for name in NETWORKS}


def _joint(full: OneTrackMTraining) -> OneTrackMTraining:
    """The baseline: as many epochs, all losses from the first."""
    return replace(full, tmp_epochs=(0, 0, 0, sum(full.tmp_epochs)))


def _finetune(full: OneTrackMTraining) -> OneTrackMTraining:
    """A few minutes on one's own sequences."""
    return replace(
        full,
        run=replace(full.run, log_steps=10),
        sources=("mot",),
        cutouts=(),
        val=(),
        tmp_epochs=(0, 0, 0, 5),
        pairs_per_epoch=960,
        lr=full.lr / 10,
        validate_epochs=1,
    )


PRESETS: Mapping[str, OneTrackMTraining] = MappingProxyType(
    {f"{name}:full": full for name, full in _FULL.items()}
    | {f"{name}:joint": _joint(full) for name, full in _FULL.items()}
    | {name: _finetune(full) for name, full in _FULL.items()}
)


def first_network(settings: OneTrackMTraining) -> tuple[OneTrackM, frozenset[str]]:
    """The network that a run begins with, and the names of what was pre-trained of its backbone alone."""
    config = replace(NETWORKS[settings.model], **settings.options)
    for name in ("clip_length", "image_px"):
        if (got := getattr(settings.pairs, name)) != (expected := getattr(config, name)):
            raise SightlineError(f"{name}: got {got}; expected {expected}, which the network is made for. Leave it.")
    init = settings.init
    if init != NONE:
        init = str(weights_file(init, None) if init in ZOO else first_weights(settings.model, init))
    start = start_model(settings.model, init, seed=settings.run.seed, options=settings.options)
    log.info("%s starts from %s (%s)", settings.model, start.title, "; ".join(start.notes))
    assert isinstance(start.model, OneTrackM)
    return start.model, start.pretrained


def loss_of(
    model: nn.Module, batch: Mapping[str, Tensor], phase: Phase, tracker: LoopConfig, reach: int = 0
) -> tuple[HeatmapLosses, WindowMaps]:
    """The losses with the phase's weights, and the maps. frames (B, W, S, S, 3) go in side by side: (B, 3 W, S, S)."""
    frames = as_input(batch["frames"].flatten(0, 1), tracker.mean, tracker.std)
    maps: WindowMaps = model(frames.unflatten(0, batch["frames"].shape[:2]).flatten(1, 2))
    targets = WindowTargets(*(batch[name] for name in WindowTargets._fields))
    weights = LossWeights(**{**dict.fromkeys(LOSSES, 0.0), **phase.weights})
    return heatmap_losses(maps, targets, weights, reach=reach), maps


def learning_rate(step: int, settings: OneTrackMTraining) -> float:
    """[A-15] In every phase a warm-up, then half a cosine to zero."""
    place = phase_at(settings.phases, step, settings.steps_per_epoch)
    warm = min(1.0, (step - place.first_step + 1) / max(1, settings.warmup_steps))
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * place.done(step)))


def parameter_groups(
    model: nn.Module, pretrained: frozenset[str], settings: OneTrackMTraining
) -> list[dict[str, object]]:
    """What was pre-trained at its own rate; vectors and embeddings without weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        ratio = settings.backbone_lr if name in pretrained else 1.0
        decay = settings.weight_decay if parameter.dim() > 1 and not name.endswith("_embed") else 0.0
        groups.setdefault((ratio, decay), []).append(parameter)
    return [{"params": rows, "ratio": ratio, "weight_decay": decay} for (ratio, decay), rows in groups.items()]


def train_mode(model: nn.Module, phase: Phase) -> None:
    """As the phase says; statistics of BatchNorms stay those of the first weights, since batches are small."""
    set_mode(model, phase)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.eval()


def measured_rules(windows: WindowExamples, settings: OneTrackMTraining) -> HeatmapRules:
    """Tell how far objects move in the data at hand, and choose the scale of displacements [A-12]."""
    moved = np.concatenate([moved_unit(windows[number]) for number in range(NUM_MEASURED)])
    rows = displacement_percentiles(moved).T.tolist()
    for axis, row in zip("xy", rows, strict=True):
        found = "  ".join(f"{share:g} %: {value:.4f}" for share, value in zip(PERCENTILES, row, strict=True))
        log.info("displacement in %s, fractions of the frame: %s", axis, found)
    scale = settings.displacement_scale or displacement_scale(moved)
    log.info("displacement scale %.4f, %.4f", *scale)
    return replace(settings.rules, displacement_scale=scale)


def train(settings: OneTrackMTraining) -> None:
    """Run, or go on with, one training."""
    check_ranges(settings)
    if settings.run.devices * settings.run.nodes != 1 and any(phase.frozen for phase in settings.phases):
        raise SightlineError(
            "devices: got several for phases that freeze parts; expected 1. Leave it out, or train :joint."
        )
    tracker = ZOO[settings.model].tracker
    assert isinstance(tracker, LoopConfig)
    bare, pretrained = first_network(settings)
    if settings.run.replay:
        step = int(read(settings.run.replay, ("step",))["step"])
        own = phase_at(settings.phases, step, settings.steps_per_epoch).phase
        freeze(bare, own)
        train_mode(bare, own)
        for line in replay(
            settings.run.replay, bare, lambda batch: loss_of(bare, batch, own, tracker, settings.reach)[0].total
        ):
            log.info(line)
        return
    sources = open_window_sources(settings.sources, settings.data, settings.synthetic, settings.cutouts)
    windows = WindowExamples(sources, settings.pairs, settings.run.seed, settings.run.skip_unreadable)
    rules = replace(measured_rules(windows, settings), box=bare.config.box)
    examples = HeatmapExamples(windows, bare.config.grid, rules, settings.max_objects)
    scenes = open_scenes(settings.val, settings.data, settings.synthetic, settings.cutouts)
    sizes = {name: getattr(bare.config, name) for name in ("image_px", "grid", "clip_length")}
    learnt = {name: getattr(rules, name) for name in ("centre_in_cell", "displacement_scale")}
    loop = replace(tracker, **sizes, **learnt)  # the one that follows the scenes
    about = {TRACKER: json.dumps({"displacement_scale": rules.displacement_scale})}
    run = Run(settings.run, settings)
    bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = (
        AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)
        if settings.average
        else None
    )
    groups = parameter_groups(bare, pretrained, settings)
    model, optimizer, step = run.setup(bare, torch.optim.AdamW(groups, lr=settings.lr), average)
    journal = Journal(run.folder, settings.num_steps, step, every=settings.run.log_steps, is_writer=run.is_first)
    stream, num_skipped, phase = run.feed(examples, settings.batch, step), 0, None
    while step < settings.num_steps:
        place = phase_at(settings.phases, step, settings.steps_per_epoch)
        if place.phase != phase:
            phase = place.phase
            enter(run.model, run.optimizer, place, step)
            log.info(
                "phase %s: %d steps; frozen: %s", phase.name, place.num_steps, ", ".join(phase.frozen) or "nothing"
            )
        batch = next(stream)
        lr = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["ratio"]
        run.reseed(step)
        train_mode(run.model, phase)
        losses, maps = loss_of(model, batch.tensors, phase, tracker, settings.reach)
        run.fabric.backward(losses.total)
        norm = run.fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        parts = run.guard(step, batch.tensors, losses.detached(), norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update_parameters(bare)

        step, num_skipped = step + 1, num_skipped + batch.num_skipped
        journal.step(
            step,
            parts,
            lr=lr,
            num_examples=settings.batch,
            waited_s=batch.waited_s,
            num_skipped=num_skipped,
            epoch=step / settings.steps_per_epoch,
        )
        is_judged = step % (settings.validate_epochs * settings.steps_per_epoch) == 0 or step == settings.num_steps
        with journal.pause():
            if is_judged:
                journal.picture(step, window_sheet(batch.tensors, maps, loop))
                keep_weights(
                    run, journal, run.weights(), settings.model, scenes, step, settings, about=about, tracker=loop
                )
            if run.save(step, if_due=not is_judged):
                journal.saved_step = step
    journal.close()
    conclude(run, settings.model, settings.num_steps)
