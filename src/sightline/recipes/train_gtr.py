r"""Train GTR (arXiv 2203.13250): detector and association together, from clips of videos and of still images.

Command   sightline train gtr-mot:full --data DATA --init CH_FPN_1x.pth --out RUN --devices 4
          DATA holds MOT17 and CrowdHuman (docs/data.md); gtr-mot-full:full has all of MOT17. Give each process some
          --workers
Cost      8,000 steps of 4 clips, each 8 to 16 frames of up to 1280 x 1280; not run here
Expected  on the second halves of MOT17 MOTA 71.3, IDF1 75.9, HOTA 63.0: the published figures

Command   sightline train gtr-tao:full --data DATA --init C2_LVISCOCO_DR2101_4x.pth --out RUN --devices 4
          DATA holds COCO, with LVIS v1's annotations; no video at all
Cost      45,000 steps of 4 clips of 8 frames of up to 896 x 896; not run here
Expected  on TAO's validation set track mAP50 22.5

Command   sightline train gtr-mot:detector --data DATA --init DLA34.pth --out RUN --devices 8
          the detector by itself that the others start from, on CrowdHuman; gtr-tao:detector on LVIS and COCO, from
          Res2Net-101
Cost      45,000 steps of 32 images (gtr-tao: 180,000); not run here

Command   sightline train gtr-tiny:full --init none --out RUN
          on drawn scenes, for tests and a first look, on a CPU

Command   sightline train gtr-mot --data MY_FOLDER --init GTR_MOT_FPN.pth --out RUN
          fine-tunes on sequences in MOTChallenge's layout, gtr-tao on images in COCO's: a tenth of the rate, few steps

`--variant paper` is the paper's text where it differs from the released code (docs/adr has the list).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from sightline.checkpoints.files import FORMAT_VERSION, OUR_FORMAT_VERSION, write_safetensors
from sightline.checkpoints.gtr import take_what_fits
from sightline.datasets.cutouts import PERSON
from sightline.datasets.lvis import class_names
from sightline.datasets.synthetic import SyntheticConfig
from sightline.errors import SightlineError
from sightline.models import centernet2, gtr
from sightline.models.centernet2 import CenterNet2, CenterNet2Config
from sightline.models.gtr import GTR, GTRConfig
from sightline.training.clips import ClipExamples, ClipsConfig, open_clip_sources
from sightline.training.joint import JointSettings, Learner, Lesson, counts_of, lessons_of
from sightline.training.journal import Journal
from sightline.training.keeping import LAST_WEIGHTS, conclude, keep_weights
from sightline.training.opening import check_ranges, first_weights, open_scenes
from sightline.training.phases import check_parts, is_in
from sightline.training.run import Run, RunSettings, replay
from sightline.training.scenes import Scene

log = logging.getLogger("sightline")

BOTTOM_UP = "backbone.bottom_up"


@dataclass(frozen=True)
class GTRTraining:
    """Settings of one run; the presets below fill them."""

    model: tyro.conf.Suppress[str] = "gtr-mot"
    stage: tyro.conf.Suppress[Literal["joint", "detector"]] = "joint"
    run: RunSettings = field(default_factory=RunSettings)
    data: Path | None = None
    """The folder that holds the data sets; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = ("mot17:half-train", "crowdhuman:train")
    """What clips are drawn from: synthetic, lvis_coco, or `NAME[:SPLIT][=FOLDER]` of images or sequences; each
    `*WEIGHT`."""
    cutouts: tuple[str, ...] = ()
    """Folders of images, under `data`, that synthetic sequences are made of; none: figures are drawn."""
    val: tuple[str, ...] = ()
    """Sequences of people to track with the model as it stands: synthetic, synthetic:drawn, or `NAME[:SPLIT][=FOLDER]`;
    none: no validation."""
    init: str = ""
    """A detector's file, or a whole tracker's, of which what fits is taken; for a detector its backbone's; or none."""
    steps: int = 8_000
    batch: int = 4
    """Clips per step, of all processes together; each goes through the network by itself. A detector's images go
    together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-5
    """After the warm-up; half a cosine leads from there to 0."""
    backbone_lr: float = 0.1
    """Learning rate of the backbone, with its pyramid, as a multiple of `lr`."""
    warmup_steps: int = 1_000
    """Steps over which the rate rises, at most half of all."""
    warmup_factor: float = 1e-3
    """The rate begins at this share."""
    weight_decay: float = 1e-4
    clip_norm: float = 0.1
    """Of all gradients together; 0: not clipped."""
    clip_value: float = 0.0
    """Of each number of a gradient, instead of the norm; 0: not clipped."""
    frozen: tuple[str, ...] = ()
    """Parts of the network that stay as they are."""
    repeat_threshold: float = 0.0
    """Images are repeated whose classes are in a smaller share of all; 0: none."""
    losses: JointSettings = field(default_factory=JointSettings)
    pairs: ClipsConfig = field(default_factory=ClipsConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    keep_steps: int = 1_000
    """Steps between two validations and writings of the weights."""
    options: tyro.conf.Suppress[dict[str, Any]] = field(default_factory=dict)
    """Fields of the network's config."""

    @property
    def num_steps(self) -> int:
        return self.steps

    @property
    def is_joint(self) -> bool:
        return self.stage == "joint"


NETWORKS: Mapping[str, GTRConfig] = MappingProxyType(
    {"gtr-mot": gtr.GTR_MOT, "gtr-mot-full": gtr.GTR_MOT_FULL, "gtr-tao": gtr.GTR_TAO, "gtr-tiny": gtr.GTR_TINY}
)
# What each starts from.
DETECTORS: Mapping[str, CenterNet2Config] = MappingProxyType(
    {
        "gtr-mot": centernet2.CENTERNET_CROWDHUMAN,
        "gtr-mot-full": centernet2.CENTERNET_CROWDHUMAN,
        "gtr-tao": centernet2.CENTERNET_LVIS_COCO,
        "gtr-tiny": CenterNet2Config(
            gtr.GTR_TINY.backbone, gtr.GTR_TINY.channels, gtr.GTR_TINY.num_cells, False, 1, width=gtr.GTR_TINY.width
        ),
    }
)
MOT = GTRTraining(val=("mot17:half-val",))
TAO = GTRTraining(
    model="gtr-tao",
    sources=("lvis_coco",),
    steps=45_000,
    warmup_steps=4_000,
    warmup_factor=2.5e-4,
    frozen=(BOTTOM_UP,),
    losses=JointSettings(score_above=0.1, has_background=False, nms_iou=0.9, ignore_above=0.85),
    pairs=ClipsConfig(max_frames=8, train_px=896, clamp_boxes=True),  # no still has more
)
TINY = GTRTraining(
    model="gtr-tiny",
    sources=("synthetic",),
    steps=2_000,
    batch=2,
    lr=1e-3,
    backbone_lr=1.0,  # nothing of it is trained yet
    warmup_steps=100,
    clip_norm=1.0,
    pairs=ClipsConfig(clip_length=4, max_frames=8, train_px=256, scale=(0.5, 1.5), max_objects=64),
    keep_steps=500,
)
_SINGLE = replace(MOT.pairs, clip_length=1, max_frames=1, train_px=896)
CROWDHUMAN = replace(
    MOT,
    stage="detector",
    sources=("crowdhuman:train",),
    val=(),
    steps=45_000,
    batch=32,
    lr=1e-4,
    backbone_lr=1.0,
    clip_norm=0.0,
    clip_value=1.0,
    pairs=_SINGLE,
)
LVIS_COCO = replace(
    TAO,
    stage="detector",
    steps=180_000,
    batch=32,
    optimizer="sgd",
    lr=0.04,
    backbone_lr=1.0,
    clip_norm=0.0,
    frozen=(f"{BOTTOM_UP}.stem", f"{BOTTOM_UP}.res2"),
    repeat_threshold=0.001,
    pairs=replace(_SINGLE, clamp_boxes=True),
)
_FULL = {
    "gtr-mot": MOT,
    "gtr-mot-full": replace(
        MOT, model="gtr-mot-full", sources=("mot17:train", "crowdhuman:train"), val=(), steps=16_000
    ),
    "gtr-tao": TAO,
    "gtr-tiny": TINY,
}
_DETECTORS = {
    "gtr-mot": CROWDHUMAN,
    "gtr-mot-full": replace(CROWDHUMAN, model="gtr-mot-full"),
    "gtr-tao": LVIS_COCO,
    "gtr-tiny": replace(TINY, stage="detector", batch=8, pairs=replace(TINY.pairs, clip_length=1, max_frames=1)),
}


def _finetune(full: GTRTraining) -> GTRTraining:
    """A few minutes on one's own sequences or, where there are classes, images."""
    return replace(
        full,
        run=replace(full.run, log_steps=10),
        sources=("images",) if NETWORKS[full.model].num_classes else ("mot",),
        val=(),
        steps=500,
        lr=full.lr / 10,
        warmup_steps=50,
        keep_steps=100,
    )


PRESETS: Mapping[str, GTRTraining] = MappingProxyType(
    {f"{name}:full": full for name, full in _FULL.items()}
    | {f"{name}:detector": detector for name, detector in _DETECTORS.items()}
    | {name: _finetune(full) for name, full in _FULL.items()}
)


def first_network(settings: GTRTraining) -> CenterNet2:
    """The network that a run begins with: of `init` what fits, and the rest as the seed has it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.run.seed)
        if settings.is_joint:
            network: CenterNet2 = GTR(replace(NETWORKS[settings.model], **settings.options))
        else:
            network = CenterNet2(replace(DETECTORS[settings.model], **settings.options))
    if settings.init != "none":
        path = Path(first_weights(settings.model, settings.init))
        taken, dropped, fresh = take_what_fits(network, path)
        log.info("%s takes %d tensors from %s", settings.model, len(taken), path.name)
        for what, names in (("dropped", dropped), ("not in it, so as the seed has them", fresh)):
            if names:
                log.info("%s: %s", what, ", ".join(names))
    if not (settings.is_joint and settings.losses.variant == "paper"):
        check_parts(network, settings.frozen)
        for name, parameter in network.named_parameters():
            if is_in(name, settings.frozen):
                parameter.requires_grad_(False)
    return network


def learning_rate(step: int, settings: GTRTraining) -> float:
    """Half a cosine to 0; before, in detectron2's way, a straight line up to where that is then."""
    warm = min(settings.warmup_steps, settings.steps // 2)
    share = (1 + math.cos(math.pi * max(step, warm) / settings.steps)) / 2
    if step < warm:
        share = settings.warmup_factor + (share - settings.warmup_factor) * step / warm
    return settings.lr * share


def parameter_groups(model: nn.Module, settings: GTRTraining) -> list[dict[str, object]]:
    """The backbone at its own rate; with SGD, which detectron2 makes, norms without weight decay."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d | nn.SyncBatchNorm | nn.LayerNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            has_decay = settings.optimizer == "adamw" or id(parameter) not in norms
            key = (
                settings.backbone_lr if ".backbone." in f".{name}" else 1.0,
                settings.weight_decay if has_decay else 0.0,
            )
            groups.setdefault(key, []).append(parameter)
    return [{"params": rows, "ratio": ratio, "weight_decay": decay} for (ratio, decay), rows in groups.items()]


def optimizer_of(model: nn.Module, settings: GTRTraining) -> torch.optim.Optimizer:
    groups = parameter_groups(model, settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=settings.lr)


def keep(run: Run, journal: Journal, settings: GTRTraining, scenes: Sequence[Scene], step: int) -> None:
    """`last.safetensors`: the tracker's weights, with its scores, or the detector's."""
    weights = {name.removeprefix("network."): value for name, value in run.weights().items()}
    if settings.is_joint:
        keep_weights(run, journal, weights, settings.model, scenes, step, settings)
    elif run.is_first:
        header = {FORMAT_VERSION: OUR_FORMAT_VERSION, "sightline.examples": str(step * settings.batch)}
        tensors = {name: value.numpy() for name, value in weights.items()}
        write_safetensors(run.folder / LAST_WEIGHTS, tensors, header)


def train(settings: GTRTraining) -> None:
    """Run, or go on with, one training."""
    check_ranges(settings)
    if settings.val and (not settings.is_joint or NETWORKS[settings.model].num_classes > 1):
        raise SightlineError(
            f"val: got {', '.join(settings.val)}; expected none for a detector by itself or for many classes, since "
            "tracks of people are scored. Leave it out."
        )
    network = first_network(settings)
    if settings.run.replay:
        learner = Learner(network, settings.losses)
        for line in replay(settings.run.replay, learner, lambda batch: loss_of(learner, batch, settings)):
            log.info(line)
        return
    names = class_names() if network.config.num_classes > 1 else (PERSON,)
    found = open_clip_sources(
        settings.sources,
        settings.data,
        names,
        synthetic=settings.synthetic,
        cutouts=settings.cutouts,
        repeat_threshold=settings.repeat_threshold,
        skip_empty=not settings.is_joint,
    )
    clips = ClipExamples(found.sources, settings.pairs, settings.run.seed, settings.run.skip_unreadable)
    scenes = open_scenes(settings.val, settings.data, settings.synthetic, settings.cutouts)
    odds = None if found.image_counts is None else torch.from_numpy(found.image_counts).sqrt()
    bare = Learner(network, settings.losses, odds)
    run = Run(settings.run, settings)
    model, optimizer, step = run.setup(bare, optimizer_of(bare, settings))
    journal = Journal(run.folder, settings.steps, step, every=settings.run.log_steps, is_writer=run.is_first)
    stream, num_skipped = run.feed(clips, settings.batch, step), 0
    while step < settings.steps:
        batch = next(stream)
        lr = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["ratio"]
        run.reseed(step)
        model.train()
        lessons = step_lessons(batch.tensors, bare, settings)
        counts, parts = counts_of(lessons), dict[str, Tensor]()
        if run.num_ranks > 1:
            counts = run.fabric.all_reduce(counts.to(run.device), reduce_op="mean")  # type: ignore[assignment]
        for number, lesson in enumerate(lessons, start=1):
            with run.fabric.no_backward_sync(model, enabled=number < len(lessons)):  # type: ignore[arg-type]
                losses = {name: value / len(lessons) for name, value in model(lesson, counts).items()}
                run.fabric.backward(losses["total"])
            parts = {name: parts.get(name, 0.0) + value.detach() for name, value in losses.items()}
        norm = None
        if settings.clip_norm:
            norm = run.fabric.clip_gradients(model, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False)
        elif settings.clip_value:
            run.fabric.clip_gradients(model, optimizer, clip_val=settings.clip_value)
        parts = run.guard(step, batch.tensors, parts, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        step, num_skipped = step + 1, num_skipped + batch.num_skipped
        journal.step(step, parts, lr=lr, num_examples=settings.batch, waited_s=batch.waited_s, num_skipped=num_skipped)
        is_kept = step % settings.keep_steps == 0 or step == settings.steps
        with journal.pause():
            if is_kept:
                keep(run, journal, settings, scenes, step)
            if run.save(step, if_due=not is_kept):
                journal.saved_step = step
    journal.close()
    if settings.is_joint:
        conclude(run, settings.model, settings.steps)
    elif run.is_first:
        path = run.folder / LAST_WEIGHTS
        log.info("all %d steps are done. sightline train %s:full --init %s", settings.steps, settings.model, path)


def step_lessons(batch: Mapping[str, Tensor], learner: Learner, settings: GTRTraining) -> list[Lesson]:
    """Clip by clip; a detector's images all at once."""
    return lessons_of(batch, learner.multiple, together=not settings.is_joint, are_inside=settings.pairs.clamp_boxes)


def loss_of(learner: Learner, batch: Mapping[str, Tensor], settings: GTRTraining) -> Tensor:
    """The loss of a whole batch, as a step adds it up."""
    lessons = step_lessons(batch, learner, settings)
    counts = counts_of(lessons)
    return torch.stack([learner(lesson, counts)["total"] for lesson in lessons]).mean()
