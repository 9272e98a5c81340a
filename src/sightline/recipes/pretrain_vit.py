r"""Pre-train the small ViT that spmtrack-tiny stands on, without labels: the same place of a picture, seen twice.

Command   sightline train spmtrack-tiny:backbone --data DATA --out RUN
          DATA has `images/`: coco80, coco_person, animals, fod_objects in COCO's layout, and tiny_imagenet: images.zip
          beside boxes.csv with the columns file, class, x, y, w, h; --sources names others
Cost      100 thousand pairs of views, some 45 of them a second on one core of a busy machine
Expected  RUN/last.safetensors, under DINOv2's names, which `sightline train spmtrack-tiny:full --init` takes; how often
          a place is found again among all of a batch: docs/models/spmtrack.md

Two views of a picture go through the network. A token of the first and what the second has at the same place of the
picture shall be more alike than either is to any other token of the batch (InfoNCE, arXiv 1807.03748, for every place
as in arXiv 2011.09157). Published trackers start from DINOv2 instead, which took 142 million pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.checkpoints.files import write_safetensors
from sightline.errors import SightlineError
from sightline.models.dinov2 import DINOv2, DINOv2Config
from sightline.models.spmtrack import SPMTRACK_TINY
from sightline.trackers.template_search import IMAGENET_MEAN, IMAGENET_STD
from sightline.training.journal import Journal
from sightline.training.keeping import LAST_WEIGHTS
from sightline.training.losses import as_input
from sightline.training.opening import check_ranges, training_sources
from sightline.training.run import Run, RunSettings, replay
from sightline.training.schedule import warm_cosine_lr
from sightline.training.views import StillViews, ViewsConfig

log = logging.getLogger("sightline")

NAME = "spmtrack-tiny:backbone"
KEY_WIDTH = 128  # of what is compared, which is not kept


@dataclass(frozen=True)
class BackboneTraining:
    """Settings of one run; the preset below fills them."""

    model: tyro.conf.Suppress[str] = NAME
    """Always this one; written down with the run."""
    run: RunSettings = field(default_factory=lambda: RunSettings(precision="bf16-mixed"))
    data: Path | None = None
    """The folder that holds the data sets; by default SIGHTLINE_DATA or the config file says."""
    sources: tuple[str, ...] = (
        "tiny_imagenet=images/tiny_imagenet*3",
        "images=images/coco80*2",
        "images=images/coco_person",
        "images=images/animals",
        "images=images/fod_objects*0.5",
    )
    """What pictures are drawn from, `NAME[:SPLIT][=FOLDER][*WEIGHT]` each."""
    init: str = "none"
    """Only none: it starts from nothing."""
    epochs: int = 16
    pairs_per_epoch: int = 6_400
    batch: int = 64
    """Pairs of views per step, of all processes together; the more, the harder to find the right place.
    Each process compares its own part."""
    lr: float = 1e-3
    weight_decay: float = 0.05
    """Of matrices and kernels; vectors, positions and tokens have none."""
    clip_norm: float = 1.0
    warmup_steps: int = 200
    temperature: float = 0.1
    pairs: ViewsConfig = field(default_factory=ViewsConfig)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.pairs_per_epoch // self.batch)

    @property
    def num_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


PRESETS: Mapping[str, BackboneTraining] = MappingProxyType({NAME: BackboneTraining()})


class Matches(NamedTuple):
    """What a step minimises, `total`, and the share of the tokens whose own place is the most alike, `found`."""

    total: Tensor
    found: Tensor

    def detached(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self._asdict().items()}


class Keyed(nn.Module):
    """The backbone, and two layers that turn its tokens into what is compared."""

    def __init__(self, config: DINOv2Config) -> None:
        super().__init__()
        self.backbone = DINOv2(config)
        self.backbone.mask_token.requires_grad_(False)  # which nothing reads
        self.keys = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.GELU(), nn.Linear(2 * config.width, KEY_WIDTH)
        )

    def forward(self, views: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, G * G, KEY_WIDTH), a key for each patch."""
        return self.keys(self.backbone(views)[:, 1:])


def matched(keys: Tensor, to_picture: Tensor, size: Tensor, view_px: int, temperature: float) -> Matches:
    """InfoNCE between places of the first view and the same places in the second.

    keys (B, 2, G * G, C); to_picture (B, 2, 2, 2) and size (B, 2) as in `Views`. Places that lie outside of the second
    view or of the picture are left out; between token centres the second view's keys are interpolated.
    """
    grid = round(keys.shape[2] ** 0.5)
    centres = (torch.arange(grid, device=keys.device) + 0.5) * (view_px / grid)
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    places = torch.stack([columns, rows], dim=-1).flatten(0, 1)  # (L, 2) pixels of the first view
    (scale, shift), (other_scale, other_shift) = (to_picture[:, view, :, None].unbind(1) for view in range(2))
    in_picture = places * scale + shift  # (B, L, 2)
    unit = (in_picture - other_shift) / other_scale / view_px  # fractions of the second view
    is_seen = ((unit > 0) & (unit < 1) & (in_picture > 0) & (in_picture < size[:, None])).all(dim=-1)
    first, second = keys.float().unbind(1)
    second_map = second.transpose(1, 2).unflatten(2, (grid, grid))
    sampled = F.grid_sample(second_map, 2 * unit[:, None] - 1, align_corners=False, padding_mode="border")[:, :, 0]
    a, b = (F.normalize(part[is_seen], dim=-1) for part in (first, sampled.transpose(1, 2)))
    logits, own = a @ b.T / temperature, torch.arange(len(a), device=keys.device)
    total = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return Matches(total, (logits.argmax(dim=1) == own).float().mean())


def loss_of(model: nn.Module, batch: Mapping[str, Tensor], settings: BackboneTraining) -> Matches:
    views = as_input(batch["views"].flatten(0, 1), IMAGENET_MEAN, IMAGENET_STD)
    keys = model(views).unflatten(0, (-1, 2))
    return matched(keys, batch["to_picture"], batch["size"], settings.pairs.view_px, settings.temperature)


def parameter_groups(model: nn.Module, settings: BackboneTraining) -> list[dict[str, object]]:
    """Weight decay for what is no vector, position or token."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            has_decay = parameter.dim() > 1 and not name.endswith(("_embed", "_token"))
            groups.setdefault(settings.weight_decay if has_decay else 0.0, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def train(settings: BackboneTraining) -> None:
    """Run, or go on with, one training."""
    check_ranges(settings)
    config = SPMTRACK_TINY.backbone
    for name, got, expected in (
        ("init", settings.init, "none"),
        ("view_px", settings.pairs.view_px, config.image_px),
    ):
        if got != expected:
            raise SightlineError(f"{NAME}: {name}: got {got}; expected {expected}. Leave it out.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.run.seed)
        bare = Keyed(config)
    if settings.run.replay:
        for line in replay(settings.run.replay, bare, lambda batch: loss_of(bare, batch, settings).total):
            log.info(line)
        return
    sources = training_sources(settings.sources, settings.data)
    views = StillViews(sources, settings.pairs, settings.run.seed, settings.run.skip_unreadable)
    run = Run(settings.run, settings)
    model, optimizer, step = run.setup(bare, torch.optim.AdamW(parameter_groups(bare, settings), lr=settings.lr))
    journal = Journal(run.folder, settings.num_steps, step, every=settings.run.log_steps, is_writer=run.is_first)
    stream, num_skipped = run.feed(views, settings.batch, step), 0
    while step < settings.num_steps:
        batch = next(stream)
        lr = warm_cosine_lr(step, settings.lr, settings.num_steps, settings.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        losses = loss_of(model, batch.tensors, settings)
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
        with journal.pause():
            if run.save(step, if_due=step < settings.num_steps):
                journal.saved_step = step
    journal.close()
    weights = run.weights()
    if run.is_first:
        path = run.folder / LAST_WEIGHTS
        own = {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}
        write_safetensors(path, {name: value.numpy() for name, value in own.items()}, {})
        log.info("all %d steps are done. sightline train spmtrack-tiny:full --init %s", settings.num_steps, path)
