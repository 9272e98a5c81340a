r"""Train OSTrack: the official recipe of each released file, a tiny one for a CPU, and fine-tuning on your own clips.

Command   sightline train ostrack-256-ce:full --data DATA --init mae_pretrain_vit_base.pth --out RUN --devices 4
          DATA holds LaSOT, GOT-10k, COCO and TrackingNet (docs/data.md); `:full` is the recipe of the paper
Cost      18 million pairs of 30.9 GMAC forward; not run here
Expected  LaSOT AUC 69.1, and GOT-10k AO 71.0 of `ostrack-256-ce-got10k:full`: the paper's figures

Command   sightline train ostrack-tiny:full --data DATA --init none --out RUN
          DATA has `sot/` (clips, split.json) and `images/` (folders in COCO's layout, tiny_imagenet)
Cost      and what it reaches: docs/models/ostrack.md

Command   sightline train ostrack-256-ce --data MY_FOLDER --init OSTrack_ep0300.pth.tar --out RUN
          fine-tunes: a tenth of the rates, few epochs, elimination from the first step
Cost      10 thousand pairs of 30.9 GMAC forward: have a GPU
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from sightline.models.blocks import Maps
from sightline.trackers.zoo import ZOO, BoxTrackerConfig
from sightline.training.journal import Journal
from sightline.training.keeping import conclude, keep_weights, pair_sheet
from sightline.training.losses import Losses, as_input, template_losses
from sightline.training.opening import first_model, open_clips, training_sources
from sightline.training.pairs import OSTRACK_384_PAIRS, OfficialPairs, OfficialPairsConfig
from sightline.training.run import Run, RunSettings, replay
from sightline.training.schedule import ce_keep_rate, step_lr

log = logging.getLogger("sightline")

FOUR_SETS = ("lasot:train", "got10k:vot-train", "coco:train", "trackingnet:train")
GOT_10K = ("got10k:train-full",)


@dataclass(frozen=True)
class OSTrackTraining:
    """Settings of one run; the presets below fill them."""

    model: tyro.conf.Suppress[str] = "ostrack-256-ce"
    """A row of `sightline models`: the network, and the tracker that validates it."""
    run: RunSettings = field(default_factory=RunSettings)
    data: Path | None = None
    """The folder that holds the data sets, or your own clips; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = ()
    """What pairs are drawn from, `NAME[:SPLIT][=FOLDER][*WEIGHT]` each; none: whatever lies in `data`."""
    val: tuple[str, ...] = ()
    """Clips to track with the model as it stands, in the same form; none: no validation."""
    init: str = ""
    """A ViT's weights (MAE's, DeiT's), a tracker's, or none; by default, the weights added for the model."""
    epochs: int = 300
    pairs_per_epoch: int = 60_000
    batch: int = 128
    """Pairs per step, of all processes together."""
    lr: float = 4e-4
    backbone_lr: float = 0.1
    """Learning rate of the backbone as a multiple of `lr`."""
    warmup_steps: int = 0
    """Steps over which the rate rises from 0."""
    drop_epoch: int = 240
    """Epochs after which the rate is a tenth, again and again."""
    weight_decay: float = 1e-4
    """Of every tensor, biases and positions too."""
    clip_norm: float = 0.1
    ce_start: int = 20
    """Epoch from which candidate elimination keeps less than everything."""
    ce_warm: int = 80
    """Epochs over which it comes down to 0.7."""
    pairs: OfficialPairsConfig = field(default_factory=OfficialPairsConfig)
    validate_epochs: int = 20
    options: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Fields of the network's config, for networks that are no row."""

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.pairs_per_epoch // self.batch)

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


def _published(name: str) -> OSTrackTraining:
    """The official settings of one of the six released files; the seed, 42, would draw other numbers here."""
    pairs = OSTRACK_384_PAIRS if "384" in name else OfficialPairsConfig()
    full = OSTrackTraining(model=name, sources=FOUR_SETS, val=("got10k:val",), pairs=pairs)
    if name.endswith("got10k"):
        return replace(full, sources=GOT_10K, epochs=100, drop_epoch=80, ce_warm=50)
    return full


def _finetune(full: OSTrackTraining) -> OSTrackTraining:
    """A few minutes on one's own clips, however short."""
    return replace(
        full,
        run=replace(full.run, log_steps=10),
        sources=(),
        val=(),
        epochs=5,
        pairs_per_epoch=2_000,
        batch=16,
        lr=full.lr / 10,
        warmup_steps=20,
        drop_epoch=4,
        ce_start=0,
        ce_warm=0,
        pairs=replace(full.pairs, min_pictures=2, min_visible=2, min_still_px=20.0),
        validate_epochs=1,
    )


TINY = OSTrackTraining(
    model="ostrack-tiny",
    run=RunSettings(precision="bf16-mixed"),
    # Mostly clips: a ViT that starts from nothing follows what it has seen long before it follows anything else.
    sources=(
        "folder:train=sot*8",
        "images=images/coco80",
        "images=images/coco_person*0.5",
        "images=images/animals*0.5",
    ),
    val=("folder:val=sot",),
    epochs=22,
    pairs_per_epoch=5_120,
    batch=16,
    lr=4e-4,
    backbone_lr=1.0,  # nothing of it is trained yet
    warmup_steps=400,
    drop_epoch=18,
    weight_decay=0.05,
    ce_start=15,  # before the attention has found the target, elimination throws the target away
    ce_warm=3,
    pairs=OfficialPairsConfig(template_px=96, search_px=192, min_still_px=20.0),
    validate_epochs=11,
)
_FULL = {name: _published(name) for name in ZOO if name.startswith("ostrack-")} | {TINY.model: TINY}
PRESETS: Mapping[str, OSTrackTraining] = MappingProxyType(
    {f"{name}:full": full for name, full in _FULL.items()} | {name: _finetune(full) for name, full in _FULL.items()}
)


def loss_of(
    model: nn.Module, batch: Mapping[str, Tensor], tracker: BoxTrackerConfig, keep_ratio: float
) -> tuple[Losses, Maps]:
    """focal + 5 L1 + 2 GIoU of a batch of pairs, and the maps that they are of."""
    template, search = (as_input(batch[name], tracker.mean, tracker.std) for name in ("template", "search"))
    maps: Maps = model(template, search, keep_ratio=keep_ratio)
    return template_losses(maps, batch["xywh_unit"]), maps


def learning_rate(step: int, settings: OSTrackTraining) -> float:
    """The official steps, epoch by epoch; before, where asked for, a linear warm-up."""
    epoch = step // settings.steps_per_epoch + 1
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return warm * step_lr(epoch, settings.lr, settings.drop_epoch)


def keep_ratio(step: int, settings: OSTrackTraining) -> float:
    """What each eliminating layer keeps, epoch by epoch."""
    return ce_keep_rate(step // settings.steps_per_epoch + 1, settings.ce_start, settings.ce_warm)


def parameter_groups(model: nn.Module, settings: OSTrackTraining) -> list[dict[str, object]]:
    """The backbone at its own rate. One weight decay for everything, as official."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(settings.backbone_lr if name.startswith("backbone.") else 1.0, []).append(parameter)
    return [{"params": parameters, "ratio": ratio} for ratio, parameters in groups.items()]


def train(settings: OSTrackTraining) -> None:
    """Run, or go on with, one training."""
    tracker = ZOO[settings.model].tracker
    assert isinstance(tracker, BoxTrackerConfig)
    bare = first_model(settings.model, settings, settings.options)
    if settings.run.replay:
        for line in replay(settings.run.replay, bare, lambda batch: loss_of(bare, batch, tracker, 1.0)[0].total):
            log.info(line)
        return
    sources = training_sources(settings.sources, settings.data)
    pairs = OfficialPairs(sources, settings.pairs, settings.run.seed, settings.run.skip_unreadable)
    clips = open_clips(settings.val, settings.data)
    run = Run(settings.run, settings)
    groups = parameter_groups(bare, settings)
    model, optimizer, step = run.setup(bare, torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay))
    journal = Journal(run.folder, settings.num_steps, step, every=settings.run.log_steps, is_writer=run.is_first)
    stream, num_skipped = run.feed(pairs, settings.batch, step), 0
    while step < settings.num_steps:
        batch = next(stream)
        lr = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["ratio"]
        run.reseed(step)
        model.train()
        losses, maps = loss_of(model, batch.tensors, tracker, keep_ratio(step, settings))
        run.fabric.backward(losses.total)
        norm = run.fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        parts = run.guard(step, batch.tensors, losses.detached(), norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

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
                journal.picture(step, pair_sheet(batch.tensors, maps))
                keep_weights(run, journal, run.weights(), settings.model, clips, step, settings)
            if run.save(step, if_due=not is_judged):
                journal.saved_step = step
    journal.close()
    conclude(run, settings.model, settings.num_steps)
