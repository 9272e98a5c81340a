"""Targets and losses of a CenterNet2 detector, against slow definitions cell by cell and against numbers by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.geometry import detections
from sightline.models.centernet2 import DELTA_WEIGHTS, CenterNet2Config, HeadMaps, RoIHeads, refine
from sightline.models.dla import DLAConfig
from sightline.training import detection
from sightline.training.detection import (
    Proposals,
    Regions,
    Truth,
    cascade_losses,
    centre_focal_loss,
    centre_losses,
    centre_targets,
    class_loss,
    delta_loss,
    distance_giou_loss,
    federated_classes,
    labelled,
    nms,
    sample_regions,
    training_proposals,
)

HEIGHT, WIDTH = 256, 384
STRIDES = (8, 16, 32, 64, 128)
SHAPES = [(HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
RANGES = ((0, 80), (64, 160), (128, 320), (256, 640), (512, math.inf))
NUM_CELLS = sum(height * width for height, width in SHAPES)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def random_boxes(count: int, seed: int = 0, outside: float = 0.0) -> Tensor:
    """(count, 4) `xyxy`, sides from 3 to 300 px, centres in the image or beyond by a share of it."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-outside, 1 + outside, (count, 2)) * (WIDTH, HEIGHT)
    half = np.exp(rng.uniform(*np.log((3, 300)), (count, 2))) / 2
    return torch.from_numpy(np.concatenate([centre - half, centre + half], axis=1)).float()


# Targets of the first stage


def slow_targets(boxes: list[list[float]], size: tuple[int, int] | None) -> tuple[Any, Any, list[int]]:
    """By their definition: heat (M,), distances (M, 4) with nan where there are none, positives."""
    heat, distances, positives = [], [], []
    base = 0
    for stride, (low, high), (num_rows, num_columns) in zip(STRIDES, RANGES, SHAPES, strict=True):
        for row in range(num_rows):
            for column in range(num_columns):
                x, y = column * stride + stride // 2, row * stride + stride // 2
                hottest, nearest, own = 0.0, math.inf, [math.nan] * 4
                for x1, y1, x2, y2 in boxes:
                    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
                    cell = int(cx / stride), int(cy / stride)  # towards 0
                    squared = 0.0 if cell == (column, row) else (x - cx) ** 2 + (y - cy) ** 2
                    weighted = squared / max(2 * (1 / 9) ** 2 * (x2 - x1) * (y2 - y1), 16)
                    hottest = max(hottest, math.exp(-weighted))
                    is_near = abs(cell[0] - column) <= 1 and abs(cell[1] - row) <= 1
                    is_inside = x1 < x < x2 and y1 < y < y2
                    if is_near and is_inside and low <= math.hypot(x2 - x1, y2 - y1) / 2 <= high and weighted < nearest:
                        nearest, own = weighted, [side / stride for side in (x - x1, y - y1, x2 - x, y2 - y)]
                heat.append(hottest if hottest >= 1e-4 else 0.0)
                distances.append(own)
        for x1, y1, x2, y2 in boxes:
            cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
            if size:
                cx, cy = min(max(cx, 0), size[1] - 1), min(max(cy, 0), size[0] - 1)
            if low <= math.hypot(x2 - x1, y2 - y1) / 2 <= high:
                positives.append(base + int(cy / stride) * num_columns + int(cx / stride))
        base += num_rows * num_columns
    return np.array(heat), np.array(distances), positives


@pytest.mark.parametrize("outside", [0.0, 0.3])
def test_targets_are_those_of_the_definition(outside: float) -> None:
    """Of two images and one without objects. With the centres outside, sizes are what keeps positives in the image."""
    images = [random_boxes(9, 1, outside), torch.empty(0, 4), random_boxes(6, 2, outside)]
    size = (230, 371)
    sizes = torch.tensor([size] * 3) if outside else None
    found = centre_targets(images, SHAPES, sizes)
    assert found.heat.shape == (3, NUM_CELLS) and found.distances.shape == (3, NUM_CELLS, 4)
    expected_positives = []
    for number, boxes in enumerate(images):
        heat, distances, positives = slow_targets(boxes.double().tolist(), size if outside else None)
        np.testing.assert_allclose(found.heat[number], heat, atol=2e-5)
        is_box = ~np.isnan(distances[:, 0])
        np.testing.assert_array_equal(found.is_box[number], is_box)
        np.testing.assert_allclose(found.distances[number][is_box], distances[is_box], atol=1e-4)
        expected_positives += [number * NUM_CELLS + place for place in positives]
        assert is_box.any() == bool(len(boxes))
    assert sorted(found.positives.tolist()) == sorted(expected_positives)


def test_a_box_by_hand() -> None:
    """80 x 96 px, half a diagonal of 62.5: level p3 alone. Its centre (60, 52) lies in cell (7, 6), whose middle is
    (60, 52)."""
    found = centre_targets([torch.tensor([[20.0, 4.0, 100.0, 100.0]])], SHAPES)
    own = 6 * (WIDTH // 8) + 7
    assert found.positives.tolist() == [own]
    assert found.heat[0, own] == 1 and found.heat[0].max() == 1
    assert found.heat[0, own + 1] == pytest.approx(math.exp(-64 / (2 / 81 * 80 * 96)))
    assert found.distances[0, own].tolist() == pytest.approx([5, 6, 5, 6])
    assert found.distances[0, own + 1].tolist() == pytest.approx([6, 6, 4, 6])
    cells = [(row, column) for row in (5, 6, 7) for column in (6, 7, 8)]
    assert found.is_box[0].nonzero().squeeze(1).tolist() == [row * 48 + column for row, column in cells]
    p4 = 32 * 48 + 3 * 24 + 3  # its cell one level up is hot too, though no positive
    assert found.heat[0, p4] == 1


def test_a_size_between_two_levels_is_a_positive_of_both() -> None:
    found = centre_targets([torch.tensor([[100.0, 100.0, 200.0, 200.0]])], SHAPES)  # 70.7 px
    assert len(found.positives) == 2
    assert (found.positives < 32 * 48).tolist() == [True, False]


def test_a_centre_beyond_the_border_is_looked_for_at_the_border() -> None:
    box, size = torch.tensor([[-60.0, 100.0, 20.0, 160.0]]), torch.tensor([[HEIGHT, WIDTH]])
    found = centre_targets([box], SHAPES, size)
    assert found.positives.tolist() == [(130 // 8) * 48]
    assert centre_targets([box], SHAPES).positives.tolist() != found.positives.tolist()  # another row of cells


def test_of_two_objects_around_a_cell_the_nearer_one_has_it_and_a_cell_of_two_counts_twice() -> None:
    boxes = torch.tensor([[90.0, 90.0, 120.0, 120.0], [100.0, 80.0, 130.0, 110.0]])  # centres (105, 105), (115, 95)
    found = centre_targets([boxes], SHAPES)
    assert len(found.positives) == 2
    cell = (100 // 8) * 48 + 108 // 8  # centre (108, 100)
    assert found.is_box[0, cell]
    to_first = (108 - 105) ** 2 + (100 - 105) ** 2
    to_second = (108 - 115) ** 2 + (100 - 95) ** 2
    assert to_first < to_second  # equal areas
    assert found.distances[0, cell].tolist() == pytest.approx([18 / 8, 10 / 8, 12 / 8, 20 / 8])
    twice = centre_targets([boxes[[0, 0]]], SHAPES)
    assert twice.positives[0] == twice.positives[1]


# Losses of the first stage


def slow_giou(a: list[float], b: list[float]) -> float:
    """1 - GIoU of two boxes around the origin, with 1 more in the IoU."""
    boxes = [(-left, -top, right, bottom) for left, top, right, bottom in (a, b)]
    inner = [max(boxes[0][0], boxes[1][0]), max(boxes[0][1], boxes[1][1])]
    inner += [min(boxes[0][2], boxes[1][2]), min(boxes[0][3], boxes[1][3])]
    outer = [min(boxes[0][0], boxes[1][0]), min(boxes[0][1], boxes[1][1])]
    outer += [max(boxes[0][2], boxes[1][2]), max(boxes[0][3], boxes[1][3])]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (*boxes, inner, outer)]
    union = areas[0] + areas[1] - areas[2]
    return 1 - ((areas[2] + 1) / (union + 1) - (areas[3] - union) / areas[3])


def test_giou_is_that_of_boxes_around_a_point() -> None:
    a, b = torch.rand(20, 4) * 5, torch.rand(20, 4) * 5
    expected = [slow_giou(x, y) for x, y in zip(a.double().tolist(), b.double().tolist(), strict=True)]
    np.testing.assert_allclose(distance_giou_loss(a, b), expected, rtol=1e-5)
    assert distance_giou_loss(a, a).abs().max() < 1e-6
    # By hand: 2 x 2 in 4 x 4, (4 + 1) / (16 + 1), and the hull is the union.
    assert distance_giou_loss(torch.ones(1, 4), 2 * torch.ones(1, 4)).item() == pytest.approx(1 - 5 / 17)


@pytest.mark.parametrize("ignore_above", [None, 0.85])
def test_the_focal_loss_is_that_of_the_definition(ignore_above: float | None) -> None:
    logits, heat = 4 * torch.randn(60), torch.rand(60)
    positives = torch.tensor([3, 3, 17, 40])
    heat[positives] = 1.0
    pulled = pushed = 0.0
    for z in logits[positives].tolist():
        p = 1 / (1 + math.exp(-z))
        pulled -= 0.25 * (1 - p) ** 2 * math.log(p)
    for z, h in zip(logits.tolist(), heat.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        if ignore_above is None or p < ignore_above:
            pushed -= 0.75 * (1 - h) ** 4 * p**2 * math.log(1 - p)
    found = centre_focal_loss(logits, heat, positives, ignore_above)
    assert [value.item() for value in found] == pytest.approx([pulled, pushed], rel=1e-4)
    other = centre_focal_loss(logits, heat, positives, 0.85 if ignore_above is None else None)
    assert other[1].item() != pytest.approx(pushed, rel=1e-2)  # some are above


def test_certain_mistakes_cost_no_more_than_the_clamp_lets_them() -> None:
    logits = torch.tensor([-100.0, 100.0], requires_grad=True)
    pulled, pushed = centre_focal_loss(logits, torch.tensor([1.0, 0.0]), torch.tensor([0]))
    assert pulled.item() == pytest.approx(-0.25 * (1 - 1e-4) ** 2 * math.log(1e-4), rel=1e-4)
    assert pushed.item() == pytest.approx(-0.75 * (1 - 1e-4) ** 2 * math.log(1e-4), rel=1e-3)
    (pulled + pushed).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def head_maps(num_images: int, seed: int = 0) -> HeadMaps:
    rng = torch.Generator().manual_seed(seed)
    distances = tuple(4 * torch.rand(num_images, 4, *shape, generator=rng) for shape in SHAPES)
    logits = tuple(2 * torch.randn(num_images, 1, *shape, generator=rng) - 2 for shape in SHAPES)
    return HeadMaps(distances, logits)


def test_losses_are_divided_by_what_is_counted_and_maps_are_read_in_the_order_of_the_cells() -> None:
    boxes = [random_boxes(5, 3), random_boxes(4, 4)]
    targets, maps = centre_targets(boxes, SHAPES), head_maps(2)
    found = centre_losses(maps, targets)
    gious, pulled, pushed = [], 0.0, 0.0
    for image in range(2):
        base = 0
        for distances, logits, (_, width) in zip(*maps, SHAPES, strict=True):
            for place in range(distances[image, 0].numel()):
                cell = (place // width, place % width)
                index = base + place
                p = 1 / (1 + math.exp(-logits[image, 0][cell].item()))
                pushed -= 0.75 * (1 - targets.heat[image, index].item()) ** 4 * p**2 * math.log(1 - p)
                pulled -= (
                    0.25 * (1 - p) ** 2 * math.log(p) * targets.positives.eq(image * NUM_CELLS + index).sum().item()
                )
                if targets.is_box[image, index]:
                    gious.append(
                        slow_giou(distances[image][:, *cell].tolist(), targets.distances[image, index].tolist())
                    )
            base += distances[image, 0].numel()
    num = len(targets.positives)
    assert [term.item() for term in found] == pytest.approx(
        [np.mean(gious), 0.5 * pulled / num, 0.5 * pushed / num], rel=1e-4
    )
    halves = centre_losses(maps, targets, num_positive=2.0 * num, num_boxes=torch.tensor(2.0 * len(gious)))
    assert [2 * term.item() for term in halves] == pytest.approx([term.item() for term in found], rel=1e-5)


def test_an_image_without_objects_is_divided_by_one() -> None:
    maps = head_maps(1)
    targets = centre_targets([torch.empty(0, 4)], SHAPES)
    found = centre_losses(maps, targets)
    assert found.box == found.positive == 0 and len(targets.positives) == 0
    logits = torch.cat([level.flatten() for level in maps.logits])
    _, pushed = centre_focal_loss(logits, torch.zeros_like(logits), targets.positives)
    assert found.negative.item() == pytest.approx(0.5 * pushed.item())


# Between the stages


def test_proposals_are_those_of_the_tracker() -> None:
    maps = head_maps(2, 7)
    found = training_proposals(maps, iou=0.7, most=400, keep=300)
    for image, proposed in enumerate(found):
        named = {f"reg_{level}": value[image : image + 1].numpy() for level, value in enumerate(maps.distances)}
        named |= {f"agn_{level}": value[image : image + 1].numpy() for level, value in enumerate(maps.logits)}
        boxes, scores = detections.proposals(named, most=400, iou=0.7, keep=300)
        assert len(boxes) == 300
        np.testing.assert_allclose(proposed.scores, scores, atol=1e-6)
        np.testing.assert_allclose(proposed.boxes, boxes, atol=1e-3)
    assert not found[0].boxes.requires_grad


@pytest.mark.parametrize(("iou", "keep"), [(0.5, 10_000), (0.9, 10_000), (0.7, 40), (0.3, 700)])
def test_suppression_in_blocks_is_suppression_one_by_one(iou: float, keep: int, monkeypatch: Any) -> None:
    rng = np.random.default_rng(5)
    low = rng.integers(0, 60, (900, 2))
    boxes = np.concatenate([low, low + rng.integers(5, 40, (900, 2))], axis=1).astype(np.float64)
    scores = rng.integers(1, 200, 900) / 200  # with ties
    expected = detections.nms(boxes, scores, iou, keep=keep)
    given = torch.from_numpy(boxes), torch.from_numpy(scores)
    for block in (64, 512, 2000):
        monkeypatch.setattr(detection, "NMS_BLOCK", block)
        np.testing.assert_array_equal(nms(*given, iou, keep), expected)
    assert not np.array_equal(nms(*given, iou - 0.2, keep), expected)


def test_regions_are_a_quarter_objects_at_most_and_say_whose() -> None:
    """100 proposals on the first image's object and 700 nowhere, 5 and 20 on the second."""
    truths = [
        Truth(torch.tensor([[0.0, 0.0, 100.0, 100.0], [200.0, 0.0, 300.0, 100.0]]), torch.tensor([3, 1])),
        Truth(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), torch.tensor([2])),
        Truth(torch.empty(0, 4), torch.empty(0, dtype=torch.int64)),
    ]
    proposals = []
    for objects, shows, empty in zip(truths, (300, 5, 0), (700, 20, 30), strict=True):
        owner = torch.randint(len(objects.boxes), (shows,)) if shows else torch.empty(0, dtype=torch.int64)
        near = objects.boxes[owner] + torch.rand(shows, 4)
        far = random_boxes(empty, 6) * 0.01 + 500
        proposals.append(Proposals(torch.cat([near, far]), torch.rand(shows + empty)))
    found = sample_regions(proposals, truths, 5)
    assert found.image.diff().min() >= 0
    counts = [
        (int((found.image == image).sum()), int((found.classes[found.image == image] < 5).sum())) for image in range(3)
    ]
    assert counts == [(512, 128), (25, 5), (30, 0)]
    shows = found.classes < 5
    assert torch.equal(found.classes[shows & (found.image == 1)], torch.full((5,), 2))
    assert (found.boxes - found.true).abs()[shows].max() <= 1  # each has its own object's
    first = shows & (found.image == 0)
    assert torch.equal(found.classes[first], torch.where(found.true[first, 0] > 100, 1, 3))
    again = sample_regions(proposals, truths, 5)
    assert not torch.equal(found.boxes, again.boxes)
    torch.manual_seed(4)
    one = sample_regions(proposals, truths, 5)
    torch.manual_seed(4)
    assert all(torch.equal(a, b) for a, b in zip(one, sample_regions(proposals, truths, 5), strict=True))


def test_the_truth_is_proposed_where_asked_for_alone() -> None:
    truth = Truth(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0]))
    nothing = Proposals(torch.empty(0, 4), torch.empty(0))
    assert len(sample_regions([nothing], [truth], 1).boxes) == 0
    found = sample_regions([nothing], [truth], 1, append_truth=True)
    assert (
        found.boxes.tolist() == truth.boxes.tolist()
        and found.scores.tolist() == [1.0]
        and found.classes.tolist() == [0]
    )


def test_a_box_shows_what_it_overlaps_most_from_the_threshold_on() -> None:
    truth = Truth(torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0]]), torch.tensor([4, 7]))
    boxes = torch.tensor([[0.0, 0.0, 10.0, 7.5], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 3.0]])
    classes, true = labelled(boxes, truth, 0.8, 9)
    assert classes.tolist() == [7, 4, 9]  # 6 / 7.5 is 0.8
    assert torch.equal(true[:2], truth.boxes[[1, 0]])
    assert labelled(boxes, truth, 0.81, 9)[0].tolist() == [9, 4, 9]


# The second stage


def test_the_class_loss_is_of_sigmoids_over_regions_and_of_one_class_a_softmax() -> None:
    logits, classes = torch.randn(7, 5), torch.tensor([0, 4, 2, 4, 1, 4, 4])
    expected = 0.0
    for row, shown in zip(logits.tolist(), classes.tolist(), strict=True):
        for place, z in enumerate(row[:-1]):
            p = 1 / (1 + math.exp(-z))
            expected -= math.log(p if place == shown else 1 - p)
    assert class_loss(logits, classes).item() == pytest.approx(expected / 7, rel=1e-5)
    counted = class_loss(logits, classes, torch.tensor([0.0, 1.0, 0.0, 0.0])).item()
    assert counted < class_loss(logits, classes).item()  # class 3, which nothing shows and has no odds, does not count
    without = logits.clone()
    without[:, 3] = 50
    assert class_loss(without, classes, torch.tensor([0.0, 1.0, 0.0, 0.0])).item() == pytest.approx(counted)
    two, shown = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 1])
    by_hand = [math.log(sum(map(math.exp, row))) - row[k] for row, k in zip(two.tolist(), shown.tolist(), strict=True)]
    assert class_loss(two, shown).item() == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_federated_classes_are_those_there_and_others_by_their_odds() -> None:
    weights = torch.ones(100)
    weights[80:] = 0
    weights[5] = 30.0
    classes = torch.tensor([2, 2, 90, 100, 100])  # 100 is nothing
    counts = torch.zeros(100)
    for _ in range(200):
        chosen = federated_classes(classes, weights, 20)
        assert len(chosen) == len(chosen.unique()) == 19  # nothing is one of the twenty
        counts[chosen] += 1
    assert counts[[2, 90]].tolist() == [200, 200]  # also 90, which has no odds
    assert counts[80:90].sum() + counts[91:].sum() == 0
    assert counts[5] > 180 and 20 < counts[7] < 90
    assert len(federated_classes(torch.arange(30), weights, 20)) == 30
    assert federated_classes(torch.tensor([2, 8]), torch.ones(8), 50).sort().values.tolist() == list(range(8))  # all


def test_the_right_deltas_cost_nothing_and_others_their_distance() -> None:
    boxes, true = random_boxes(6, 8), random_boxes(6, 9)
    shows = torch.tensor([True, True, False, True, False, True])
    for weights in DELTA_WEIGHTS:
        low, high = boxes[:, :2], boxes[:, 2:]
        size, true_size = high - low, true[:, 2:] - true[:, :2]
        shift = ((true[:, :2] + true[:, 2:]) - (low + high)) / 2 / size
        wanted = torch.cat([shift, (true_size / size).log()], dim=1) * torch.tensor(weights)
        assert delta_loss(wanted, boxes, true, shows, weights).item() == pytest.approx(0, abs=1e-4)
        kept = (wanted[:, 2:] / torch.tensor(weights)[2:]).max(dim=1).values < math.log(1000 / 16)
        np.testing.assert_allclose(refine(boxes, wanted, weights)[kept], true[kept], atol=0.01)
        off = wanted.clone()
        off[3, 1] += 7.0
        off[2] += 100.0  # shows nothing
        assert delta_loss(off, boxes, true, shows, weights).item() == pytest.approx(7 / 6, rel=1e-3)


@pytest.fixture
def heads() -> RoIHeads:
    config = CenterNet2Config(DLAConfig(), channels=32, num_classes=3, width=16)
    torch.manual_seed(1)
    return RoIHeads(config)


def test_the_cascade_labels_its_boxes_anew_and_gives_the_maps_a_third(heads: RoIHeads) -> None:
    """A box that overlaps its object by 0.65 shows it to the first stage alone, if no stage moves it."""
    for predictor in heads.box_predictor:
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
    truth = Truth(torch.tensor([[16.0, 16.0, 116.0, 116.0]]), torch.tensor([1]))
    boxes = torch.tensor([[16.0, 16.0, 116.0, 81.0], [16.0, 16.0, 116.0, 91.0], [140.0, 20.0, 400.0, 90.0]])
    image = torch.zeros(3, dtype=torch.int64)
    classes, true = labelled(boxes, truth, 0.6, 3)
    maps = torch.randn(1, 32, 16, 16, requires_grad=True)
    seen: list[tuple[list[int], Tensor]] = []

    def watched(logits: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
        seen.append((classes.tolist(), logits))
        return class_loss(logits, classes, weights)

    regions = Regions(boxes, torch.ones(3), image, classes, true)
    sizes = torch.tensor([[128, 128]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "class_loss", watched)
        found = cascade_losses(heads, [maps], regions, [truth], sizes, 3)
    # The third one is out of the image after the first stage, and gone.
    assert [labels for labels, _ in seen] == [[1, 1, 3], [3, 1], [3, 3]]
    expected = sum(class_loss(logits, torch.tensor(labels)).item() for labels, logits in seen)
    assert found.classes.item() == pytest.approx(expected, rel=1e-6)
    (found.classes + found.deltas).backward()
    assert maps.grad is not None
    third = maps.grad.clone()
    maps.grad = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "lerp", lambda start, end, weight: end)
        again = cascade_losses(heads, [maps], regions, [truth], sizes, 3)
    assert again.classes.item() == pytest.approx(found.classes.item())
    (again.classes + again.deltas).backward()
    torch.testing.assert_close(third, maps.grad / 3)
    assert third.abs().max() > 0


def test_the_cascade_without_any_region_costs_nothing_and_reaches_every_weight(heads: RoIHeads) -> None:
    nothing = Regions(torch.empty(0, 4), torch.empty(0), *(torch.empty(0, dtype=torch.int64),) * 2, torch.empty(0, 4))
    truth = Truth(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    found = cascade_losses(heads, [torch.randn(1, 32, 8, 8)], nothing, [truth], torch.tensor([[64, 64]]), 3)
    (found.classes + found.deltas).backward()
    assert found.classes == found.deltas == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in heads.parameters())
