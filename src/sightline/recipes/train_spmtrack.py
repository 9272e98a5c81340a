r"""Train SPMTrack: experts beside a frozen DINOv2, by the official recipe; a tiny one for a CPU; or on your own clips.

Command   sightline train spmtrack-b:full --data DATA --init dinov2_vitb14_pretrain.pth --out RUN --devices 4
          DATA holds LaSOT, TrackingNet, COCO and GOT-10k (docs/data.md); spmtrack-b:got10k has GOT-10k alone
Cost      22 million examples of two search frames, 182 GMAC forward each; not run here
Expected  LaSOT AUC 74.9, and GOT-10k AO 76.5 of `spmtrack-b:got10k`: the published figures

Command   sightline train spmtrack-tiny:full --data DATA --init RUN_OF_BACKBONE/last.safetensors --out RUN
          DATA has `sot/` (clips, split.json) and `images/` (folders in COCO's layout)
Cost      and what it reaches: docs/models/spmtrack.md

Command   sightline train spmtrack-b --data MY_FOLDER --init model.bin --backbone dinov2_vitb14_pretrain.pth --out RUN
          fine-tunes the experts: a tenth of the rate, few epochs
Cost      ten thousand examples: have a GPU

What a run keeps is compact: `last.safetensors` has what is trained, and goes with the file that the backbone came from.
A run from one file that holds everything keeps everything.
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

from sightline.checkpoints.spmtrack import backbone_beside, delta_file
from sightline.errors import SightlineError
from sightline.models.spmtrack import Prediction, is_trained
from sightline.trackers.spmtrack import SPMTrackConfig
from sightline.trackers.zoo import ZOO
from sightline.training.journal import Journal
from sightline.training.keeping import conclude, keep_weights, sequence_sheet
from sightline.training.losses import SideLosses, as_input, side_losses, touched_cells
from sightline.training.opening import first_model, open_clips, training_sources
from sightline.training.run import Run, RunSettings, replay
from sightline.training.schedule import warm_cosine_lr
from sightline.training.sequences import SequenceExamples, SequencesConfig

log = logging.getLogger("sightline")


@dataclass(frozen=True)
class SPMTrackTraining:
    """Settings of one run; the presets below fill them."""

    model: tyro.conf.Suppress[str] = "spmtrack-b"
    """A row of `sightline models`: the network, and the tracker that validates it."""
    run: RunSettings = field(default_factory=lambda: RunSettings(precision="16-mixed"))
    data: Path | None = None
    """The folder that holds the data sets, or your own clips; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = ()
    """What examples are drawn from, `NAME[:SPLIT][=FOLDER][*WEIGHT]` each; none: whatever lies in `data`."""
    val: tuple[str, ...] = ()
    """Clips to track with the model as it stands, in the same form; none: no validation."""
    init: str = ""
    """A DINOv2 file, a whole tracker, what is trained of one (then with `backbone`), or none; by default, the weights
    added for the model."""
    backbone: str = ""
    """The DINOv2 file that belongs to an `init` which holds only what is trained."""
    epochs: int = 170
    pairs_per_epoch: int = 131_072
    """Examples, of three templates and two search frames each."""
    batch: int = 128
    """Examples per step, of all processes together."""
    lr: float = 1e-4
    """After the warm-up; half a cosine leads from there to 1e-6."""
    warmup_epochs: float = 2
    weight_decay: float = 0.1
    """Of matrices, but not of embeddings; the track query has it too."""
    clip_norm: float = 1.0
    giou_warmup_epochs: int = 0
    """Epochs in which the box's loss counts ten times."""
    pairs: SequencesConfig = field(default_factory=SequencesConfig)
    validate_epochs: int = 10
    goes_on: tyro.conf.Suppress[bool] = False
    """Whether it begins with a tracker, which a backbone alone is not."""
    options: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Fields of the network's config, for networks that are no row."""

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.pairs_per_epoch // self.batch)

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


FULL = SPMTrackTraining(
    sources=("lasot:train", "trackingnet:train", "coco:train", "got10k:vot-train"), val=("got10k:val",)
)
TINY = SPMTrackTraining(
    model="spmtrack-tiny",
    run=RunSettings(precision="bf16-mixed"),
    sources=("folder:train=sot*8", "images=images/coco80", "images=images/coco_person*0.5"),
    val=("folder:val=sot",),
    epochs=10,
    pairs_per_epoch=5_120,
    batch=16,
    lr=4e-4,  # at 1e-3 the loss stood still: the head's inputs are large, their product with the query unscaled
    warmup_epochs=0.5,
    weight_decay=0.01,
    pairs=SequencesConfig(98, 196, shift_jitter=1.5, three_share=0.2),
    validate_epochs=5,
)
_FULL = {
    "spmtrack-b": FULL,
    "spmtrack-l": replace(FULL, model="spmtrack-l", batch=64, giou_warmup_epochs=2),
    "spmtrack-g": replace(FULL, model="spmtrack-g", batch=32),
    "spmtrack-tiny": TINY,
}


def _finetune(full: SPMTrackTraining) -> SPMTrackTraining:
    """A few minutes on one's own clips, however short."""
    return replace(
        full,
        run=replace(full.run, log_steps=10, precision="bf16-mixed"),
        sources=(),
        val=(),
        epochs=5,
        pairs_per_epoch=2_000,
        batch=16,
        lr=full.lr / 10,
        warmup_epochs=0.1,
        giou_warmup_epochs=0,
        validate_epochs=1,
        goes_on=True,
    )


def _one_shot(full: SPMTrackTraining) -> SPMTrackTraining:
    """On GOT-10k's training split alone, all of it, which its protocol asks for."""
    return replace(full, sources=("got10k:train-full",), val=("got10k:val",), epochs=100)


PRESETS: Mapping[str, SPMTrackTraining] = MappingProxyType(
    {f"{name}:full": full for name, full in _FULL.items()}
    | {f"{name}:got10k": _one_shot(full) for name, full in _FULL.items()}
    | {name: _finetune(full) for name, full in _FULL.items()}
)


def loss_of(
    model: nn.Module, batch: Mapping[str, Tensor], tracker: SPMTrackConfig, run: Run | None, giou_weight: float = 1.0
) -> tuple[SideLosses, tuple[Prediction, ...]]:
    """Cross entropy towards the IoU, and GIoU, added over the search frames; and what was predicted for each.

    run: whose processes divide by the mean of their numbers of positive cells; None for this one's own.
    """
    images = [batch[name] for name in ("templates", "searches")]
    templates, searches = (
        as_input(crops.flatten(0, 1), tracker.mean, tracker.std).unflatten(0, crops.shape[:2]) for crops in images
    )
    predictions: tuple[Prediction, ...] = model(templates, batch["foregrounds"], searches)
    parts = []
    for prediction, true in zip(predictions, batch["xyxy_unit"].unbind(1), strict=True):
        count = touched_cells(true, prediction.logit_map.shape[-1]).sum().float()
        if run is not None and run.num_ranks > 1:
            count = run.fabric.all_reduce(count, reduce_op="mean")  # type: ignore[assignment]
        parts.append(
            side_losses(prediction.logit_map, prediction.box_map, true, num_positive=count, giou_weight=giou_weight)
        )
    return SideLosses(*(torch.stack(terms).sum() for terms in zip(*parts, strict=True))), predictions


def learning_rate(step: int, settings: SPMTrackTraining) -> float:
    """timm's cosine by the step, after a warm-up."""
    warm_steps = round(settings.warmup_epochs * settings.steps_per_epoch)
    return warm_cosine_lr(step, settings.lr, settings.num_steps, warm_steps)


def giou_weight(step: int, settings: SPMTrackTraining) -> float:
    return 10.0 if step < settings.giou_warmup_epochs * settings.steps_per_epoch else 1.0


def parameter_groups(model: nn.Module, settings: SPMTrackTraining) -> list[dict[str, object]]:
    """What is trained alone; vectors and what is called an embedding without weight decay."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if is_trained(name):
            has_decay = parameter.dim() > 1 and "embed" not in name
            groups.setdefault(settings.weight_decay if has_decay else 0.0, []).append(parameter)
    return [{"params": rows, "weight_decay": decay} for decay, rows in groups.items()]


def train(settings: SPMTrackTraining) -> None:
    """Run, or go on with, one training."""
    tracker = ZOO[settings.model].tracker
    assert isinstance(tracker, SPMTrackConfig)
    bare = first_model(settings.model, settings, settings.options)
    if settings.run.replay:
        for line in replay(settings.run.replay, bare, lambda batch: loss_of(bare, batch, tracker, None)[0].total):
            log.info(line)
        return
    sources = training_sources(settings.sources, settings.data)
    examples = SequenceExamples(sources, settings.pairs, settings.run.seed, settings.run.skip_unreadable)
    clips = open_clips(settings.val, settings.data)
    backbone = backbone_beside(settings.init, settings.backbone)
    if settings.goes_on and not settings.backbone and backbone:
        raise SightlineError(
            f"init: got {Path(backbone).name!r}, a backbone alone; expected a tracker to go on from. Train one from it "
            f"with {settings.model}:full, or pass a tracker as --init and this file as --backbone."
        )
    run = Run(settings.run, settings)
    model, optimizer, step = run.setup(bare, torch.optim.AdamW(parameter_groups(bare, settings), lr=settings.lr))
    journal = Journal(run.folder, settings.num_steps, step, every=settings.run.log_steps, is_writer=run.is_first)
    stream, num_skipped = run.feed(examples, settings.batch, step), 0
    while step < settings.num_steps:
        batch = next(stream)
        lr = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr
        run.reseed(step)
        model.train()
        losses, predictions = loss_of(model, batch.tensors, tracker, run, giou_weight(step, settings))
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
                journal.picture(step, sequence_sheet(batch.tensors, predictions))
                stored = delta_file if backbone else None
                keep_weights(run, journal, run.weights(), settings.model, clips, step, settings, stored)
            if run.save(step, if_due=not is_judged):
                journal.saved_step = step
    journal.close()
    conclude(run, settings.model, settings.num_steps, backbone)
