r"""Train MVT: the official recipe, and fine-tuning on your own clips.

Command   sightline train mvt:full --data DATA --init mobilevit_s.pt --out RUN
          DATA holds GOT-10k (docs/data.md), mobilevit_s.pt is Apple's MobileViT-S
Cost      6 million pairs of 3.1 GMAC forward; not run here
Expected  GOT-10k AO 63.3, LaSOT AUC 55.3: the poster's figures

Command   sightline train mvt --data MY_FOLDER --init MobileViT_Track_ep0100.pth.tar --out RUN
          fine-tunes: a tenth of the rates, few epochs
Cost      10 thousand pairs of 3.1 GMAC forward
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from sightline.models.blocks import Maps
from sightline.trackers.zoo import ZOO
from sightline.training.journal import Journal
from sightline.training.keeping import conclude, keep_weights, pair_sheet
from sightline.training.losses import Losses, as_input, focal_loss_mvt, template_losses
from sightline.training.opening import first_model, open_clips, training_sources
from sightline.training.pairs import OfficialPairs, OfficialPairsConfig
from sightline.training.run import Run, RunSettings, replay
from sightline.training.schedule import cosine_lr

log = logging.getLogger("sightline")

NAME = "mvt"
TRACKER = ZOO[NAME].tracker


@dataclass(frozen=True)
class MVTTraining:
    """Settings of one run; the presets below fill them."""

    model: tyro.conf.Suppress[str] = NAME
    """Always this one; written down with the run."""
    run: RunSettings = field(default_factory=RunSettings)
    data: Path | None = None
    """The folder that holds the data sets, or your own clips; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = ("got10k:train-full",)
    """What pairs are drawn from, `NAME[:SPLIT][=FOLDER][*WEIGHT]` each; none: whatever lies in `data`."""
    val: tuple[str, ...] = ("got10k:val",)
    """Clips to track with the model as it stands, in the same form; none: no validation."""
    init: str = ""
    """Apple's MobileViT-S, a tracker's weights, or none; by default, the weights added for the model."""
    epochs: int = 100
    pairs_per_epoch: int = 60_000
    batch: int = 128
    """Pairs per step, of all processes together."""
    lr: float = 4e-4
    """Learning rate of the first epoch; half a cosine leads from there to 1e-9."""
    backbone_lr: float = 0.1
    """Learning rate of the backbone as a multiple of `lr`."""
    weight_decay: float = 1e-4
    """Of every tensor, biases too."""
    clip_norm: float = 0.1
    pairs: OfficialPairsConfig = field(default_factory=OfficialPairsConfig)
    validate_epochs: int = 10
    options: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Fields of the network's config, for networks that are no row."""

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.pairs_per_epoch // self.batch)

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


FULL = MVTTraining()
FINETUNE = MVTTraining(
    run=RunSettings(log_steps=10),
    sources=(),
    val=(),
    epochs=5,
    pairs_per_epoch=2_000,
    batch=16,
    lr=4e-5,
    pairs=OfficialPairsConfig(min_pictures=2, min_visible=2, min_still_px=20.0),
    validate_epochs=1,
)
PRESETS: Mapping[str, MVTTraining] = MappingProxyType({f"{NAME}:full": FULL, NAME: FINETUNE})


def loss_of(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Maps]:
    """MVT's focal + 5 L1 + 2 GIoU of a batch of pairs, and the maps that they are of."""
    template, search = (as_input(batch[name], TRACKER.mean, TRACKER.std) for name in ("template", "search"))
    maps: Maps = model(template, search)
    return template_losses(maps, batch["xywh_unit"], focal_loss_mvt), maps


def learning_rate(step: int, settings: MVTTraining) -> float:
    """The official cosine, epoch by epoch."""
    return cosine_lr(step // settings.steps_per_epoch + 1, settings.lr, settings.epochs)


def parameter_groups(model: nn.Module, settings: MVTTraining) -> list[dict[str, object]]:
    """The backbone at its own rate. One weight decay for everything, as official."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(settings.backbone_lr if name.startswith("backbone.") else 1.0, []).append(parameter)
    return [{"params": parameters, "ratio": ratio} for ratio, parameters in groups.items()]


def train(settings: MVTTraining) -> None:
    """Run, or go on with, one training."""
    bare = first_model(NAME, settings, settings.options)
    if settings.run.replay:
        for line in replay(settings.run.replay, bare, lambda batch: loss_of(bare, batch)[0].total):
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
        losses, maps = loss_of(model, batch.tensors)
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
                keep_weights(run, journal, run.weights(), NAME, clips, step, settings)
            if run.save(step, if_due=not is_judged):
                journal.saved_step = step
    journal.close()
    conclude(run, NAME, settings.num_steps)
