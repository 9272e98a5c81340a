"""Losses and heat maps where the right answer, or the sign of its gradient, is known without the official code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.geometry.boxes import iou
from sightline.geometry.codecs import decode_centre
from sightline.models.blocks import Maps
from sightline.training.losses import box_losses, boxes_at, corners, focal_loss, focal_loss_mvt, generalised_iou
from sightline.training.targets import centred_heat_map, corner_radius, official_heat_map, peak_cells

pytestmark = pytest.mark.torch

GRIDS = [7, 12, 16, 24]


def random_boxes(count: int, seed: int = 0) -> Tensor:
    """(count, 4) `xywh_unit`, centres inside the crop, sides that may leave it."""
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, 1, (count, 2)), rng.uniform(0.02, 0.9, (count, 2))
    return torch.from_numpy(np.concatenate([centre - size / 2, size], axis=1)).float()


def one_peak() -> Tensor:
    """(1, 16, 16) with a peak, a skirt and zeros."""
    return official_heat_map(torch.tensor([[0.2, 0.2, 0.4, 0.4]]), 16)


# Focal loss


@pytest.mark.parametrize("loss", [focal_loss, focal_loss_mvt])
def test_a_right_score_map_costs_nothing(loss) -> None:
    heat = torch.zeros(2, 6, 6)
    heat[:, 2, 3] = 1
    assert loss(heat, heat).item() == pytest.approx(0, abs=1e-6)
    assert loss(1 - heat, heat).item() > 100
    assert torch.isfinite(loss(1 - heat, heat))


@pytest.mark.parametrize("loss", [focal_loss, focal_loss_mvt])
def test_the_peak_is_drawn_up_and_the_rest_down(loss) -> None:
    heat = torch.zeros(2, 6, 6)
    heat[:, 2, 3] = 1
    score = torch.full_like(heat, 0.3, requires_grad=True)
    loss(score, heat).backward()
    assert (score.grad[heat == 1] < 0).all()
    assert (score.grad[heat == 0] > 0).all()


def test_the_skirt_is_forgiven_by_one_and_wanted_by_the_other() -> None:
    heat = one_peak()
    skirt = (heat > 0.1) & (heat < 1)
    assert skirt.any()
    gradients = []
    for loss in (focal_loss, focal_loss_mvt):
        score = torch.full_like(heat, 0.3, requires_grad=True)
        loss(score, heat).backward()
        gradients.append(score.grad)
    ostrack, mvt = gradients
    assert (ostrack[skirt] > 0).all()
    assert ostrack[skirt].max() < ostrack[heat == 0].min()  # (1 - heat)^4 of a full negative
    assert (mvt[skirt] < 0).all()


def test_the_sum_is_divided_by_the_positives_of_the_batch() -> None:
    heat = torch.zeros(1, 4, 4)
    heat[0, 1, 1] = 1
    score = torch.full_like(heat, 0.4)
    once, nothing = focal_loss(score, heat), focal_loss(score, torch.zeros_like(heat))
    assert focal_loss(score.repeat(3, 1, 1), heat.repeat(3, 1, 1)) == pytest.approx(once)
    assert nothing == pytest.approx(-16 * 0.4**2 * np.log(0.6), rel=1e-5)  # no positive: the sum itself
    assert focal_loss(score[:, None], heat[:, None]) == once


@pytest.mark.parametrize("loss", [focal_loss, focal_loss_mvt])
def test_scores_of_exactly_nought_and_one_have_a_gradient(loss) -> None:
    heat = one_peak()
    for value in (0.0, 1.0):
        score = torch.full_like(heat, value, requires_grad=True)
        loss(score, heat).backward()
        assert torch.isfinite(score.grad).all()


# Box losses


def as_cxcywh(xywh: Tensor) -> Tensor:
    return torch.cat([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]], dim=1)


def test_right_boxes_cost_nothing() -> None:
    inside = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0]])
    giou, l1 = box_losses(as_cxcywh(inside), inside)
    assert (giou.item(), l1.item()) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "component", "sign"),
    [
        ((0.58, 0.5, 0.2, 0.2), 0, 1),
        ((0.5, 0.42, 0.2, 0.2), 1, -1),
        ((0.5, 0.5, 0.3, 0.2), 2, 1),
        ((0.5, 0.5, 0.2, 0.1), 3, -1),
    ],
    ids=["right", "above", "wide", "flat"],
)
def test_box_losses_draw_towards_the_target(wrong, component, sign) -> None:
    predicted = torch.tensor([wrong], requires_grad=True)
    for loss in box_losses(predicted, torch.tensor([[0.4, 0.4, 0.2, 0.2]])):
        (gradient,) = torch.autograd.grad(loss, predicted, retain_graph=True)
        assert gradient[0, component] * sign > 0


def test_generalised_iou_pulls_boxes_together_that_do_not_touch() -> None:
    apart = torch.tensor([[0.9, 0.5, 0.1, 0.1]], requires_grad=True)
    giou, _ = box_losses(apart, torch.tensor([[0.4, 0.4, 0.2, 0.2]]))
    giou.backward()
    assert apart.grad[0, 0] > 0


def test_true_boxes_are_cut_to_the_crop() -> None:
    half = torch.tensor([[0.0, 0.0, 0.25, 0.5]])
    giou, l1 = box_losses(as_cxcywh(half), torch.tensor([[-0.25, 0.0, 0.5, 0.5]]))
    assert (giou.item(), l1.item()) == pytest.approx((0, 0), abs=1e-6)


def test_losses_are_means_over_rows() -> None:
    predicted, true = as_cxcywh(random_boxes(6)), random_boxes(6, seed=1)
    rows = torch.tensor([[loss.item() for loss in box_losses(predicted[k : k + 1], true[k : k + 1])] for k in range(6)])
    assert torch.stack(box_losses(predicted, true)).numpy() == pytest.approx(rows.mean(dim=0).numpy(), rel=1e-5)


def test_no_rows_cost_nothing_and_train_on() -> None:
    predicted = torch.zeros(3, 4, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    giou, l1 = box_losses(predicted[none], torch.zeros(3, 4)[none])
    (giou + l1).backward()
    assert (giou.item(), l1.item()) == (0, 0)
    assert not predicted.grad.any()


def test_generalised_iou() -> None:
    a = corners(as_cxcywh(random_boxes(50)))
    b = corners(as_cxcywh(random_boxes(50, seed=1)))
    giou = generalised_iou(a, b)
    plain = iou(random_boxes(50).numpy(), random_boxes(50, seed=1).numpy())
    assert (giou.numpy() <= plain + 1e-6).all()
    assert torch.allclose(giou, generalised_iou(b, a), atol=1e-6)
    assert generalised_iou(a, a).numpy() == pytest.approx(1, abs=1e-6)
    unit, beside = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    assert generalised_iou(unit, beside).item() == pytest.approx(-1 / 3)  # hull 3, union 2
    assert generalised_iou(unit, beside + torch.tensor([1e4, 0, 1e4, 0])).item() == pytest.approx(-1, abs=1e-3)


# Where the box is read


@pytest.mark.parametrize("grid", GRIDS)
def test_a_box_is_read_at_its_cell(grid) -> None:
    rng = np.random.default_rng(grid)
    score = rng.random((4, 1, grid, grid)).astype(np.float32)
    size, offset = (rng.random((4, 2, grid, grid)).astype(np.float32) for _ in range(2))
    maps = Maps(*(torch.from_numpy(value) for value in (score, size, offset)))
    ours = boxes_at(maps, torch.from_numpy(score.reshape(4, -1).argmax(axis=1)))
    expected, _ = decode_centre(score, size, offset)
    assert ours.numpy() == pytest.approx(expected, abs=1e-6)


def test_the_gradient_reaches_that_cell_only() -> None:
    maps = Maps(
        torch.zeros(1, 1, 4, 4), torch.rand(1, 2, 4, 4, requires_grad=True), torch.rand(1, 2, 4, 4, requires_grad=True)
    )
    boxes_at(maps, torch.tensor([6])).sum().backward()  # row 1, column 2
    for value in (maps.size_map, maps.offset_map):
        assert value.grad.nonzero().tolist() == [[0, 0, 1, 2], [0, 1, 1, 2]]


# Heat maps


@pytest.mark.parametrize("grid", GRIDS)
def test_the_peak_of_the_heat_map_is_the_cell_that_learns_the_box(grid) -> None:
    boxes = torch.cat([random_boxes(2000), on_the_lines(grid)])
    heat = centred_heat_map(boxes, grid).flatten(1)
    assert torch.equal(heat.argmax(dim=1), peak_cells(boxes, grid))
    assert torch.equal(heat.amax(dim=1), torch.ones(len(boxes)))
    assert (heat == 1).sum(dim=1).max() == 1


def on_the_lines(grid: int) -> Tensor:
    """Boxes whose centres lie, but for rounding, on the lines between cells: two formulas would part here."""
    sizes = torch.linspace(0.05, 0.5, 40)
    centres = torch.arange(1, grid) / grid
    return torch.cat([torch.stack([c - sizes / 2, c - sizes / 2, sizes, sizes], dim=1) for c in centres])


@pytest.mark.parametrize("grid", GRIDS)
def test_the_offset_at_the_peak_can_be_learnt(grid) -> None:
    boxes = random_boxes(500)
    cell = peak_cells(boxes, grid)
    centre = (boxes[:, :2] + boxes[:, 2:] / 2) * grid
    offset = centre - torch.stack([cell % grid, cell // grid], dim=1)
    assert offset.min() > -1e-5
    assert offset.max() < 1 + 1e-5
    official = official_heat_map(boxes, grid).flatten(1).argmax(dim=1)
    assert (official != cell).float().mean() > 0.3  # the official peak is another cell for many boxes


def test_a_centre_outside_has_no_peak() -> None:
    outside = torch.tensor([[-0.2, 0.4, 0.2, 0.2], [0.9, 0.4, 0.4, 0.2], [0.4, -0.2, 0.2, 0.2], [0.4, 1.0, 0.2, 0.2]])
    assert not centred_heat_map(outside, 12).any()
    assert peak_cells(outside, 12).tolist() == [6 * 12 + 0, 6 * 12 + 11, 0 * 12 + 6, 11 * 12 + 6]
    assert official_heat_map(outside, 12).amax() < 1


def test_the_flank_of_an_official_peak_outside_is_left() -> None:
    """A centre at 0.98 rounds to cell 16 of 16: what lies inside of its Gaussian stays, as in the official drawing."""
    box = torch.tensor([[0.68, 0.3, 0.6, 0.4]])
    heat = official_heat_map(box, 16)[0]
    inside = official_heat_map(box - torch.tensor([[0.25, 0, 0, 0]]), 16)[0]  # the same box, four cells further left
    assert heat.any()
    assert heat.max() < 1
    assert torch.equal(heat[:, 8:], inside[:, 4:12])


@pytest.mark.parametrize("grid", GRIDS)
def test_the_official_heat_map_is_an_even_bump(grid) -> None:
    box = torch.tensor([[0.25, 0.25, 0.5, 0.5]])
    heat = official_heat_map(box, grid)[0]
    row, column = divmod(int(heat.argmax()), grid)
    assert row == column == round(grid / 2)  # half to even
    radius = int(corner_radius(box[:, 2:] * grid))
    assert heat[row, column] == 1
    rows, columns = heat.nonzero(as_tuple=True)
    assert (rows.max() - row, column - columns.min()) == (min(radius, grid - 1 - row), min(radius, column))
    assert torch.equal(heat, heat.T)
    beside = np.exp(-1 / (2 * ((2 * radius + 1) / 6) ** 2)) if radius else 0
    assert heat[row, column - 1] == pytest.approx(beside, rel=1e-5)


def test_a_target_of_no_size_is_one_cell() -> None:
    for make in (official_heat_map, centred_heat_map):
        heat = make(torch.tensor([[0.3, 0.6, 0.0, 0.0]]), 10)
        assert heat.max() == 1
        assert torch.isfinite(heat).all()
        assert (heat > 0.14).sum() == 1
