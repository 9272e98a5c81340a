"""From a clip to what GTR loses on it: its detector and its association together, or a detector by itself.

Legend: T frames of a clip, or images of a detector's step  K classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.models.centernet2 import CenterNet2, pool
from sightline.models.dla import DLAConfig
from sightline.models.gtr import GTR, assign, association_loss, times_of
from sightline.trackers.template_search import IMAGENET_MEAN, IMAGENET_STD
from sightline.training.detection import (
    CentreTargets,
    Regions,
    Truth,
    cascade_losses,
    centre_losses,
    centre_targets,
    sample_regions,
    training_proposals,
)
from sightline.training.losses import as_input

PAPER_IOU = 0.5  # of Eq. (2)


@dataclass(frozen=True)
class JointSettings:
    """Where released trainings differ, and where the paper's text does."""

    variant: Literal["released", "paper"] = "released"
    """paper: a detection shows an object from an IoU of 0.5 on, the association's losses are plain sums, those of the
    background included, and the whole backbone learns."""
    score_above: float = 0.3
    """Detections are associated that have a higher score."""
    has_background: bool = True
    """Detections that show nothing learn that they are nowhere."""
    nms_iou: float = 0.7
    """Proposals overlap by so much at most."""
    ignore_above: float | None = None
    """Places without an object that the heat map calls likelier than this cost nothing."""


class Lesson(NamedTuple):
    """What goes through the network at once.

    frames: (T, H, W, 3) uint8 RGB, H and W multiples of what the network asks for. sizes: (T, 2) int64, height and
    width of what is picture in it. truths: of each frame; ids: alike, (N,) identities from 1. targets: of them all.
    """

    frames: Tensor
    sizes: Tensor
    truths: list[Truth]
    ids: list[Tensor]
    targets: CentreTargets


def lessons_of(batch: Mapping[str, Tensor], multiple: int, *, together: bool, are_inside: bool) -> list[Lesson]:
    """The clips of a batch of `training.clips.ClipExample`, or all its pictures `together` as one lesson.

    multiple: of H and W. are_inside: whether boxes end at the pictures' borders.
    """
    if together:
        batch = {name: value.flatten(0, 1)[None] for name, value in batch.items()}
    lessons = []
    for place in range(len(batch["size"])):
        frames, sizes, xyxy, ids, classes = (
            batch[name][place] for name in ("frames", "size", "xyxy", "track_id", "class_id")
        )
        num = int((sizes[:, 0] > 0).sum())
        sizes, ids = sizes[:num], ids[:num]
        height, width = (-(-side // multiple) * multiple for side in sizes.amax(dim=0).tolist())
        frames = frames[:num, :height, :width]
        frames = F.pad(frames, (0, 0, 0, width - frames.shape[2], 0, height - frames.shape[1]))
        truths = [Truth(xyxy[t][row > 0], classes[t][row > 0]) for t, row in enumerate(ids)]
        boxes = [truth.boxes for truth in truths]
        targets = centre_targets(boxes, level_shapes(height, width), None if are_inside else sizes)
        lessons.append(Lesson(frames, sizes, truths, [row[row > 0] for row in ids], targets))
    return lessons


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Of p3 to p7, the last two halved and rounded up."""
    shapes = [(height // stride, width // stride) for stride in (8, 16, 32)]
    for _ in range(2):
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def counts_of(lessons: Sequence[Lesson]) -> Tensor:
    """(2,) what the first stage's losses are divided by: positives, and cells that learn a box, of a mean lesson."""
    counts = [(len(lesson.targets.positives), int(lesson.targets.is_box.sum())) for lesson in lessons]
    return torch.tensor(counts, dtype=torch.float32).mean(dim=0)


class Learner(nn.Module):
    """A network, and from a lesson to its losses in one call, which is how several processes share the work.

    class_weights: (K,), odds of a class to count in the federated loss; None: all do.
    """

    def __init__(self, network: CenterNet2, settings: JointSettings, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.network, self.settings, self.class_weights = network, settings, class_weights
        self.multiple = 128 if isinstance(network.config.backbone, DLAConfig) else 32

    def forward(self, lesson: Lesson, counts: Tensor) -> dict[str, Tensor]:
        """All losses by name, `total` first. counts: as `counts_of`, of all lessons of a step."""
        settings, config = self.settings, self.network.config
        pyramid, maps = self.network(images_of(lesson))
        num_positive, num_boxes = counts.tolist()
        centre = centre_losses(
            maps, lesson.targets, num_positive=num_positive, num_boxes=num_boxes, ignore_above=settings.ignore_above
        )
        is_joint, num_classes = isinstance(self.network, GTR), max(config.num_classes, 1)
        proposals = training_proposals(maps, iou=settings.nms_iou)
        regions = sample_regions(proposals, lesson.truths, num_classes, append_truth=not is_joint)
        losses = centre._asdict()
        if config.num_classes:
            weights = None if self.class_weights is None else self.class_weights.to(regions.boxes)
            heads, levels = self.network.roi_heads, pyramid[: config.pool_levels]
            losses |= cascade_losses(
                heads, levels, regions, lesson.truths, lesson.sizes, num_classes, weights
            )._asdict()
        if is_joint:
            losses["association"] = self.association(pyramid[0], regions, lesson)
        return {"total": torch.stack(list(losses.values())).sum()} | losses

    def association(self, p3: Tensor, regions: Regions, lesson: Lesson) -> Tensor:
        """Who is who among the detections whose score is high enough."""
        settings, network = self.settings, self.network
        assert isinstance(network, GTR)
        likely = regions.scores > settings.score_above
        boxes, image = regions.boxes[likely], regions.image[likely]
        n_t = torch.bincount(image, minlength=len(lesson.sizes)).tolist()
        features = network.roi_heads.asso_head(pool([p3], boxes, image))
        fractions = boxes / lesson.sizes[image].flip(1).repeat(1, 2)
        logits = network.roi_heads.relate(features, features, fractions, times_of(n_t, boxes.device))
        is_paper = settings.variant == "paper"
        true_boxes = torch.cat([truth.boxes for truth in lesson.truths])
        true_frames = torch.cat([torch.full_like(ids, t) for t, ids in enumerate(lesson.ids)])
        true_ids = torch.cat(lesson.ids)
        assignment = assign(boxes, n_t, true_boxes, true_frames, true_ids, PAPER_IOU if is_paper else 0.0)
        background = settings.has_background or is_paper
        return association_loss(logits, n_t, assignment, background=background, variant=settings.variant)


def images_of(lesson: Lesson) -> Tensor:
    """(T, 3, H, W) as the network takes them; zero outside of the pictures."""
    images = as_input(lesson.frames, IMAGENET_MEAN, IMAGENET_STD)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    height, width = lesson.sizes.unbind(1)
    is_picture = (rows < height[:, None])[:, :, None] & (columns < width[:, None])[:, None]
    return torch.where(is_picture[:, None], images, 0.0)
