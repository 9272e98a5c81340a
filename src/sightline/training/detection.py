"""What a CenterNet2 detector learns from boxes, as GTR trains it: targets and losses of its two stages.

Facts: xingyizhou/CenterNet2 at commit 8745e012e4dbdf560ac2f27e0b771d4907ad4aaf on detectron2 02b5c4e. Boxes are `xyxy`
in pixels of the padded images, distances the four sides' from a cell's centre, in strides of its level.

What is random (which regions a step takes, which classes count) comes from torch's own generator.

Legend: T images  M cells of all levels, p3's first, row by row  N objects of an image  R regions of all images
        K classes; class K is nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sightline.geometry.detections import LEAST_SIDE_PX, STRIDES
from sightline.models.centernet2 import DELTA_WEIGHTS, HeadMaps, RoIHeads, pool, refine
from sightline.models.gtr import pairwise_iou

SIZE_RANGES_PX = ((0.0, 80.0), (64.0, 160.0), (128.0, 320.0), (256.0, 640.0), (512.0, 1e7))  # of half a diagonal
DELTA = (1 - 0.8) / (1 + 0.8)  # of a minimal overlap of 0.8
MIN_RADIUS_PX = 4.0
LEAST_HEAT = 1e-4
SCORE_FROM = 1e-4  # also where the focal loss cuts probabilities, at both ends
FOCAL_ALPHA, FOCAL_BETA, FOCAL_GAMMA = 0.25, 4, 2
FOCAL_WEIGHT = 0.5  # of each of its two terms
CASCADE_IOUS = (0.6, 0.7, 0.8)
NUM_REGIONS, POSITIVE_SHARE = 512, 0.25  # of an image
NUM_CLASSES_ASKED = 50
NMS_BLOCK = 512


# The first stage: every cell says whether a centre is there, and where the sides are


class Cells(NamedTuple):
    """All cells: `centres` (M, 2) px, `strides` (M,), `sizes` (M, 2), the half diagonals that a cell's level is for."""

    centres: Tensor
    strides: Tensor
    sizes: Tensor


def cells_of(shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Cells:
    """The cells of levels of these heights and widths."""
    parts = []
    for (height, width), stride, size in zip(shapes, STRIDES, SIZE_RANGES_PX, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 2) * stride + stride // 2
        count = height * width
        parts.append((centres.float(), torch.full((count,), float(stride)), torch.tensor(size).expand(count, 2)))
    return Cells(*(torch.cat(part).to(device) for part in zip(*parts, strict=True)))


class CentreTargets(NamedTuple):
    """What the cells of T images learn.

    heat: (T, M) in [0, 1]. distances: (T, M, 4), where `is_box` (T, M). positives: (P,) int64, places in T * M of the
    objects' own cells; a cell stands there once for each of its objects.
    """

    heat: Tensor
    distances: Tensor
    is_box: Tensor
    positives: Tensor


def centre_targets(
    boxes: Sequence[Tensor], shapes: Sequence[tuple[int, int]], sizes: Tensor | None = None
) -> CentreTargets:
    """Targets of T images, whose boxes are (N, 4) each and whose levels have these heights and widths.

    Heat is a Gaussian around each object's centre on every level, 1 in the cell that holds it. Positives are these
    cells on the levels whose range holds half the box's diagonal, which may be two or none. Distances are learnt in the
    3 x 3 cells around, inside the box, from the object that is nearest in its own size.

    sizes: (T, 2), height and width of the images, for boxes that reach out of them: such an object's own cell is the
    nearest one in the image. None where all centres are inside.
    """
    cells = cells_of(shapes, boxes[0].device)
    heat, distances, is_box = zip(*(_image_targets(found, cells) for found in boxes), strict=True)
    num_cells, places = len(cells.strides), []
    for number, found in enumerate(boxes):
        centres = (found[:, :2] + found[:, 2:]) / 2
        if sizes is not None:
            centres = centres.clamp(min=0).minimum(sizes[number].flip(0).to(centres) - 1)
        half_diagonal = (found[:, 2:] - found[:, :2]).square().sum(dim=1).sqrt() / 2
        base = number * num_cells
        for (height, width), stride, (low, high) in zip(shapes, STRIDES, SIZE_RANGES_PX, strict=True):
            column, row = (centres / stride).long().unbind(1)
            places.append((base + row * width + column)[(half_diagonal >= low) & (half_diagonal <= high)])
            base += height * width
    return CentreTargets(torch.stack(heat), torch.stack(distances), torch.stack(is_box), torch.cat(places))


def _image_targets(boxes: Tensor, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Heat (M,), distances (M, 4) and where there are some, (M,), of one image."""
    num_cells = len(cells.strides)
    if not len(boxes):
        none = cells.centres.new_zeros(num_cells, 4)
        return none[:, 0], none, none[:, 0] > 0
    low, high = boxes[:, :2], boxes[:, 2:]
    centres, stride = (low + high) / 2, cells.strides[:, None]  # (N, 2), (M, 1)
    # (M, N): how far each cell is from the one that holds the centre; towards 0, also outside of the image.
    away_x, away_y = (
        (cells.centres[:, None, axis] - ((centres[:, axis] / stride).trunc() * stride + stride / 2)).abs()
        for axis in (0, 1)
    )
    x, y = cells.centres[:, None, 0], cells.centres[:, None, 1]
    squared = (x - centres[:, 0]).square() + (y - centres[:, 1]).square()
    squared[(away_x == 0) & (away_y == 0)] = 0
    size = high - low
    weighted = squared / (2 * DELTA**2 * size.prod(dim=1)).clamp(min=MIN_RADIUS_PX**2)
    heat = (-weighted.min(dim=1).values).exp()
    heat = torch.where(heat < LEAST_HEAT, 0.0, heat)

    is_inside = (x > low[:, 0]) & (y > low[:, 1]) & (x < high[:, 0]) & (y < high[:, 1])
    half_diagonal = size.square().sum(dim=1).sqrt() / 2
    is_of_level = (half_diagonal >= cells.sizes[:, :1]) & (half_diagonal <= cells.sizes[:, 1:])
    is_near = (away_x <= stride) & (away_y <= stride) & is_inside & is_of_level
    nearest, owner = torch.where(is_near, weighted, torch.inf).min(dim=1)
    distances = torch.cat([cells.centres - low[owner], high[owner] - cells.centres], dim=1) / stride
    return heat, distances, nearest.isfinite()


class CentreLosses(NamedTuple):
    """Terms of the first stage, each already with its weight."""

    box: Tensor
    positive: Tensor
    negative: Tensor


def centre_losses(
    maps: HeadMaps,
    targets: CentreTargets,
    *,
    num_positive: Tensor | float | None = None,
    num_boxes: Tensor | float | None = None,
    ignore_above: float | None = None,
) -> CentreLosses:
    """Focal loss of the centres over `num_positive`, GIoU of the boxes over `num_boxes`, in float32.

    By default these are the numbers of these images' positives and of the cells that learn a box; where a step takes
    several calls, or several processes, their mean is the official one. At least 1 each. ignore_above: cells that are
    no centre and have a higher probability cost nothing: they may show an object that nobody labelled.
    """
    predicted = torch.cat([level.flatten(2) for level in maps.distances], dim=2).transpose(1, 2).float()  # (T, M, 4)
    logits = torch.cat([level.flatten(1) for level in maps.logits], dim=1).float()  # (T, M)
    giou = distance_giou_loss(predicted[targets.is_box], targets.distances[targets.is_box])
    positive, negative = centre_focal_loss(logits.flatten(), targets.heat.flatten(), targets.positives, ignore_above)
    per_object = FOCAL_WEIGHT / at_least_one(len(targets.positives) if num_positive is None else num_positive)
    per_box = 1 / at_least_one(len(giou) if num_boxes is None else num_boxes)
    return CentreLosses(giou.sum() * per_box, positive * per_object, negative * per_object)


def at_least_one(count: Tensor | float) -> float:
    return max(float(count), 1.0)


def distance_giou_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """1 - GIoU of boxes around one point, row by row: distances (P, 4) left, top, right, bottom -> (P,).

    As FCOS has it: in the IoU 1 is added to the intersection and to the union.
    """

    def area(distances: Tensor) -> Tensor:
        return (distances[:, :2] + distances[:, 2:]).prod(dim=1)

    intersection, hull = area(torch.minimum(predicted, true)), area(torch.maximum(predicted, true))
    union = area(predicted) + area(true) - intersection
    return 1 - (intersection + 1) / (union + 1) + (hull - union) / hull


def centre_focal_loss(
    logits: Tensor, heat: Tensor, positives: Tensor, ignore_above: float | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over positives (P,), which may repeat, and over all cells, with (1 - heat)^4: (M,), (M,) -> two scalars."""
    probability = logits.sigmoid().clamp(SCORE_FROM, 1 - SCORE_FROM)
    own = probability[positives]
    attracted = own.log() * (1 - own) ** FOCAL_GAMMA
    repelled = (1 - probability).log() * probability**FOCAL_GAMMA * (1 - heat) ** FOCAL_BETA
    if ignore_above is not None:
        repelled = repelled * (probability < ignore_above)
    return -FOCAL_ALPHA * attracted.sum(), -(1 - FOCAL_ALPHA) * repelled.sum()


# Between the stages: regions, and what is in them


class Proposals(NamedTuple):
    """Of one image: `boxes` (n, 4), `scores` (n,), best first."""

    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def training_proposals(maps: HeadMaps, *, iou: float, most: int = 4000, keep: int = 2000) -> list[Proposals]:
    """What the first stage proposes to the second one in training, for each of T images.

    As `geometry.detections.proposals`, but on the device: the `most` likely cells of each level, no two overlapping by
    more than `iou`, and of these the `keep` best.
    """
    found = []
    for number in range(len(maps.logits[0])):
        boxes, scores = [], []
        for distances, logits, stride in zip(maps.distances, maps.logits, STRIDES, strict=True):
            probability = logits[number].float().sigmoid().flatten()
            cells = (probability > SCORE_FROM).nonzero().squeeze(1)
            probability, best = probability[cells].sort(descending=True, stable=True)
            cells, probability = cells[best[:most]], probability[:most]
            width = logits.shape[-1]
            centres = torch.stack([cells % width, cells // width], dim=1) * stride + stride // 2
            sides = distances[number].float().flatten(1)[:, cells].T * stride
            low = centres - sides[:, :2]
            boxes.append(torch.cat([low, torch.maximum(centres + sides[:, 2:], low + LEAST_SIDE_PX)], dim=1))
            scores.append(probability.sqrt())
        all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
        kept = nms(all_boxes, all_scores, iou, keep)
        found.append(Proposals(all_boxes[kept], all_scores[kept]))
    return found


def nms(boxes: Tensor, scores: Tensor, iou: float, keep: int) -> Tensor:
    """`geometry.detections.nms` in tensors, a block of boxes at a time: (n,) indices, best first."""
    scores, order = scores.sort(descending=True, stable=True)
    boxes = boxes[order]
    is_left = torch.ones_like(scores, dtype=torch.bool)
    num_kept, end = 0, len(boxes)
    for start in range(0, len(boxes), NMS_BLOCK):
        if num_kept >= keep and scores[start] < scores[is_left[:start].nonzero()[keep - 1, 0]]:
            end = start
            break
        block = slice(start, start + NMS_BLOCK)
        covers = (pairwise_iou(boxes[block], boxes[block]) > iou).triu(1)
        open_, stays = is_left[block].clone(), is_left[block].clone()
        while True:  # in each round at least one more of them has got its final answer
            again = open_ & ~(covers & stays[:, None]).any(dim=0)
            if bool((again == stays).all()):
                break
            stays = again
        is_left[block] = stays
        rest = slice(start + NMS_BLOCK, None)
        is_left[rest] &= ~(pairwise_iou(boxes[block][stays], boxes[rest]) > iou).any(dim=0)
        num_kept += int(stays.sum())
    kept = is_left[:end].nonzero().squeeze(1)
    if len(kept) > keep:
        kept = kept[scores[kept] >= scores[kept[keep - 1]]]
    return order[kept]


class Truth(NamedTuple):
    """Of one image: `boxes` (N, 4), `classes` (N,) int64, 0 to K - 1."""

    boxes: Tensor
    classes: Tensor


class Regions(NamedTuple):
    """Boxes that the second stage looks at, those of the first image first.

    boxes: (R, 4). scores: (R,). image: (R,) int64. classes: (R,), K for nothing. true: (R, 4), the object's box; of
    nothing that of any object, or its own.
    """

    boxes: Tensor
    scores: Tensor
    image: Tensor
    classes: Tensor
    true: Tensor


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Proposals],
    truths: Sequence[Truth],
    num_classes: int,
    *,
    iou: float = CASCADE_IOUS[0],
    num: int = NUM_REGIONS,
    positive_share: float = POSITIVE_SHARE,
    append_truth: bool = False,
) -> Regions:
    """At most `num` proposals of each image at random, `positive_share` of them with an object that they overlap by
    `iou` or more, as far as there are so many; the rest show nothing.

    append_truth: the objects' own boxes are proposals too, of score 1; not where GTR is trained jointly.
    """
    found = []
    for number, (proposed, truth) in enumerate(zip(proposals, truths, strict=True)):
        boxes, scores = proposed
        if append_truth:
            boxes = torch.cat([boxes, truth.boxes])
            scores = torch.cat([scores, scores.new_ones(len(truth.boxes))])
        classes, true = labelled(boxes, truth, iou, num_classes)
        shows, empty = (classes < num_classes).nonzero().squeeze(1), (classes == num_classes).nonzero().squeeze(1)
        shows = _some(shows, int(num * positive_share))
        chosen = torch.cat([shows, _some(empty, num - len(shows))])
        image = torch.full_like(chosen, number)
        found.append(Regions(boxes[chosen], scores[chosen], image, classes[chosen], true[chosen]))
    return Regions(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _some(places: Tensor, num: int) -> Tensor:
    """At most `num` of them, in random order."""
    return places[torch.randperm(len(places), device=places.device)[:num]]


def labelled(boxes: Tensor, truth: Truth, iou: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """The class (n,) and the box (n, 4) of the object that each box overlaps most; `num_classes` where that is by less
    than `iou`."""
    if not len(truth.boxes):
        return torch.full((len(boxes),), num_classes, device=boxes.device), boxes
    best, owner = pairwise_iou(boxes, truth.boxes).max(dim=1)
    return torch.where(best >= iou, truth.classes[owner], num_classes), truth.boxes[owner]


# The second stage: three times, what is it and where exactly


class StageLosses(NamedTuple):
    """Terms of the cascade, each the sum over its stages."""

    classes: Tensor
    deltas: Tensor


def cascade_losses(
    heads: RoIHeads,
    maps: Sequence[Tensor],
    regions: Regions,
    truths: Sequence[Truth],
    sizes: Tensor,
    num_classes: int,
    class_weights: Tensor | None = None,
) -> StageLosses:
    """Each stage refines the boxes of the one before and learns from the objects that these overlap by 0.6, 0.7, 0.8.

    maps: those that boxes are read from, p3 first. sizes: (T, 2), height and width of the images, where boxes end
    between the stages. class_weights: (K,), odds of a class to count in the federated loss; None: all count. One class
    is told from nothing by a softmax, several by sigmoids. The maps get a third of each stage's gradient.
    """
    boxes, image, classes, true = regions.boxes, regions.image, regions.classes, regions.true
    terms = []
    for number, (iou, weights) in enumerate(zip(CASCADE_IOUS, DELTA_WEIGHTS, strict=True)):
        if number:
            boxes = boxes.clamp(min=0).minimum(sizes[image].flip(1).repeat(1, 2).to(boxes))
            has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, image = boxes[has_area], image[has_area]
            parts = [labelled(boxes[image == place], truth, iou, num_classes) for place, truth in enumerate(truths)]
            classes, true = (torch.cat(part) for part in zip(*parts, strict=True))
        pooled = pool(maps, boxes, image)
        logits, deltas = heads.stage(number, torch.lerp(pooled.detach(), pooled, 1 / len(CASCADE_IOUS)))
        shows = classes < num_classes
        terms.append((class_loss(logits, classes, class_weights), delta_loss(deltas, boxes, true, shows, weights)))
        boxes = refine(boxes, deltas.float(), weights).detach()
    return StageLosses(*(torch.stack(parts).sum() for parts in zip(*terms, strict=True)))


def class_loss(logits: Tensor, classes: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross entropy of (R, K + 1) logits over the number of regions: of a softmax for K = 1, else of K sigmoids."""
    logits, num_classes = logits.float(), logits.shape[1] - 1
    if num_classes == 1:
        return F.cross_entropy(logits, classes, reduction="sum") / at_least_one(len(classes))
    target = F.one_hot(classes, num_classes + 1)[:, :-1].to(logits)
    losses = F.binary_cross_entropy_with_logits(logits[:, :-1], target, reduction="none")
    if class_weights is not None:
        losses = losses[:, federated_classes(classes, class_weights)]
    return losses.sum() / at_least_one(len(classes))


def federated_classes(classes: Tensor, class_weights: Tensor, num: int = NUM_CLASSES_ASKED) -> Tensor:
    """Which classes count in a step, (n,) int64: those of the regions, and by their odds others, until there are `num`.

    As officially, nothing (class K) is one of the `num` where a region shows it. class_weights: (K,), 0 for never.
    """
    there = classes.unique()
    odds = class_weights.float().clone()
    real = there[there < len(odds)]
    odds[real] = 0
    num_more = min(num - len(there), int(odds.count_nonzero()))
    return torch.cat([real, torch.multinomial(odds, num_more)]) if num_more > 0 else real


def delta_loss(deltas: Tensor, boxes: Tensor, true: Tensor, shows: Tensor, weights: Sequence[float]) -> Tensor:
    """L1 of the deltas (R, 4) that lead from a box to its object's, where it shows one (R,), over all R regions."""
    low, high = boxes[shows].chunk(2, dim=1)
    true_low, true_high = true[shows].chunk(2, dim=1)
    shift = (true_low + true_high - low - high) / 2 / (high - low)
    stretch = ((true_high - true_low) / (high - low)).log()
    wanted = torch.cat([shift, stretch], dim=1) * boxes.new_tensor(weights)
    return (deltas[shows].float() - wanted).abs().sum() / at_least_one(len(boxes))
