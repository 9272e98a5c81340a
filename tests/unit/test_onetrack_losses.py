"""What OneTrack-M minimises, against sums written out, and that a few steps lower it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sightline.errors import GeometryError
from sightline.geometry.heatmaps import FrameTargets, HeatmapRules, as_maps, frame_targets, gaussian_radius
from sightline.models.onetrack_m import HEADS, OneTrackM, OneTrackMConfig, WindowMaps
from sightline.training.heatmap_losses import LossWeights, WindowTargets, heatmap_losses, stack_targets
from sightline.training.losses import focal_loss
from sightline.training.targets import corner_radius

GRID, RULES = 16, HeatmapRules()


def targets_of(rng: np.random.Generator, count: int = 3) -> FrameTargets:
    boxes = np.concatenate([rng.uniform(0, 0.7, (count, 2)), rng.uniform(0.1, 0.3, (count, 2))], axis=1)
    moved = rng.uniform(-0.02, 0.02, (count, 2))
    moved[0] = np.nan
    visibility = np.array([1.0] * (count - 1) + [0.1])
    return frame_targets(boxes, GRID, RULES, visibility=visibility, displacements=moved, max_objects=5)


def batch_of(seed: int = 0, windows: int = 2, frames: int = 3) -> tuple[list[list[FrameTargets]], WindowTargets]:
    rng = np.random.default_rng(seed)
    made = [[targets_of(rng) for _ in range(frames)] for _ in range(windows)]
    return made, stack_targets(made)


def perfect(made: list[list[FrameTargets]]) -> WindowMaps:
    stacked = [np.stack([np.stack([as_maps(one)[k] for one in window]) for window in made]) for k in range(3)]
    return WindowMaps(*(torch.from_numpy(values) for values in stacked))


def random_maps(windows: int = 2, frames: int = 3) -> WindowMaps:
    generator = torch.Generator().manual_seed(0)
    shape = (windows, frames, 2, GRID, GRID)
    heat = torch.rand(windows, frames, 1, GRID, GRID, generator=generator)
    return WindowMaps(heat, *(torch.randn(shape, generator=generator) for _ in range(2)))


def test_onetrack_losses_are_their_sums_written_out() -> None:
    made, targets = batch_of()
    maps = random_maps()
    losses = heatmap_losses(maps, targets)
    heat, num_peaks = 0.0, 0
    errors: dict[str, list[float]] = {"size": [], "displacement": []}
    for b, window in enumerate(made):
        for w, one in enumerate(window):
            p = np.clip(maps.heat_map[b, w].double().numpy(), 1e-4, 1 - 1e-4)
            y = one.heat_map.astype(np.float64)
            heat -= ((1 - p) ** 2 * np.log(p))[y == 1].sum()
            heat -= ((1 - y) ** 4 * p**2 * np.log(1 - p))[(y != 1) & one.is_counted].sum()
            num_peaks += (y == 1).sum()
            for k in np.flatnonzero(one.is_object):
                row, column = divmod(int(one.cells[k]), GRID)
                errors["size"] += np.abs(maps.size_map[b, w, :, row, column].numpy() - one.sizes[k]).tolist()
                if one.has_displacement[k]:
                    predicted = maps.displacement_map[b, w, :, row, column].numpy()
                    errors["displacement"] += np.abs(predicted - one.displacements[k]).tolist()
    assert num_peaks and (~targets.is_counted).any()
    assert losses.heat.item() == pytest.approx(heat / num_peaks, rel=1e-5)
    assert losses.size.item() == pytest.approx(np.mean(errors["size"]), rel=1e-4)
    assert losses.displacement.item() == pytest.approx(np.mean(errors["displacement"]), rel=1e-4)
    assert len(errors["displacement"]) == len(errors["size"]) / 2
    average = (losses.heat + 0.1 * losses.size + losses.displacement) / 2.1
    assert losses.total.item() == pytest.approx(average.item(), rel=1e-6)


def test_onetrack_sides_are_learnt_around_the_centre_too() -> None:
    """Every cell within reach and inside the map tells the object's box from its own place."""
    rules, box = HeatmapRules(box="sides"), np.array([[0.01, 0.4, 0.1, 0.3]])  # the centre lies in the first column
    targets = stack_targets([[frame_targets(box, GRID, rules, max_objects=2)]])
    places = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(places, places)
    sides = np.stack([x - 0.01, y - 0.4, 0.11 - x, 0.7 - y]) * GRID  # of this box, from every cell
    true = torch.from_numpy(sides).float()[None, None]
    heat, displacement = torch.rand(1, 1, 1, GRID, GRID), torch.zeros(1, 1, 2, GRID, GRID)
    row, column = divmod(int(targets.cells[0, 0, 0]), GRID)
    assert column == 0
    for reach, count in ((0, 1), (1, 6), (2, 15)):
        assert heatmap_losses(WindowMaps(heat, true, displacement), targets, reach=reach).size.item() < 1e-5
        wrong = true.clone()
        wrong[..., row - reach : row + reach + 1, : reach + 1] += 1
        assert heatmap_losses(WindowMaps(heat, wrong, displacement), targets, reach=reach).size.item() > 0.99
        wrong[..., row, 0] -= 1
        found = heatmap_losses(WindowMaps(heat, wrong, displacement), targets, reach=reach).size.item()
        assert found == pytest.approx((count - 1) / count, abs=1e-4)


def test_onetrack_perfect_maps_cost_next_to_nothing_and_each_fault_its_own_term() -> None:
    made, targets = batch_of()
    maps = perfect(made)
    best = heatmap_losses(maps, targets)
    assert best.size.item() == best.displacement.item() == 0
    assert best.heat.item() < heatmap_losses(random_maps(), targets).heat.item() / 10
    for field, term in zip(WindowMaps._fields, ("heat", "size", "displacement"), strict=True):
        worse = heatmap_losses(maps._replace(**{field: getattr(maps, field) + 0.3}), targets)
        for name in ("heat", "size", "displacement"):
            assert (getattr(worse, name) > getattr(best, name) + 0.05) == (name == term)


def test_onetrack_what_is_ignored_costs_nothing_and_background_does() -> None:
    _, targets = batch_of()
    maps = random_maps()
    free = heatmap_losses(maps, targets).heat
    loud = torch.where(targets.is_counted, maps.heat_map, 0.99)
    assert heatmap_losses(maps._replace(heat_map=loud), targets).heat.item() == pytest.approx(free.item())
    counted = targets._replace(is_counted=torch.ones_like(targets.is_counted))
    assert heatmap_losses(maps._replace(heat_map=loud), counted).heat > free + 0.1


def test_onetrack_focal_loss_without_a_mask_is_the_one_of_all_trackers() -> None:
    _, targets = batch_of()
    maps = random_maps()
    masked = focal_loss(maps.heat_map, targets.heat_map, torch.ones_like(targets.is_counted))
    assert masked.item() == focal_loss(maps.heat_map, targets.heat_map).item()


def test_onetrack_a_phase_of_one_task_trains_that_task() -> None:
    _, targets = batch_of()
    maps = WindowMaps(*(values.requires_grad_() for values in random_maps()))
    losses = heatmap_losses(maps, targets, LossWeights(heat=0, size=1, displacement=0))
    assert losses.total.item() == losses.size.item()
    gradients = torch.autograd.grad(losses.total, list(maps), allow_unused=True)
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [False, True, False]
    for wrong in ((0.0, 0.0, 0.0), (-1.0, 1.0, 1.0)):
        with pytest.raises(GeometryError, match="loss weights"):
            LossWeights(*wrong)


def test_onetrack_empty_windows_have_finite_losses() -> None:
    empty = frame_targets(np.zeros((0, 4)), GRID, RULES, max_objects=2)
    losses = heatmap_losses(random_maps(1, 1), stack_targets([[empty]]))
    assert losses.size.item() == losses.displacement.item() == 0 and losses.heat.item() > 0


def test_onetrack_radius_is_the_one_of_the_template_trackers() -> None:
    sizes = np.random.default_rng(0).uniform(0.5, 60, (200, 2))
    theirs = corner_radius(torch.from_numpy(sizes)).clamp(min=0).floor().numpy()
    np.testing.assert_array_equal(gaussian_radius(sizes), theirs)


@pytest.fixture
def learnable() -> tuple[OneTrackM, torch.Tensor, WindowTargets]:
    """A small network and two windows in which bright squares move."""
    config = OneTrackMConfig(
        image_px=32, stride=8, clip_length=2, width=32, depth=1, heads=2, cells_per_token=4, head_hidden=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OneTrackM(config)
    frames, made = np.zeros((2, 2, 3, 32, 32), np.float32), []
    for b in range(2):
        window = []
        for w in range(2):
            x, y = 6 + 8 * b + 2 * w, 10
            frames[b, w, :, y : y + 8, x : x + 8] = 2
            moved = [[-2 / 32, 0.0]] if w else [[np.nan, np.nan]]
            window.append(frame_targets([[x / 32, y / 32, 0.25, 0.25]], GRID, RULES, displacements=moved))
        made.append(window)
    return model, torch.from_numpy(frames).flatten(1, 2), stack_targets(made)


def test_onetrack_a_few_steps_lower_every_loss(learnable: tuple[OneTrackM, torch.Tensor, WindowTargets]) -> None:
    model, frames, targets = learnable
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        losses = heatmap_losses(model(frames), targets)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        history.append(losses.detached())
    for name in ("total", "heat", "size", "displacement"):
        assert history[-1][name] < 0.7 * history[0][name], name


def test_onetrack_frozen_heads_stay_to_the_bit(learnable: tuple[OneTrackM, torch.Tensor, WindowTargets]) -> None:
    model, frames, targets = learnable
    frozen = HEADS[1:]  # the first phase of TMP
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        heatmap_losses(model(frames), targets, LossWeights(1, 0, 0)).total.backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith(frozen)}


def test_onetrack_losses_do_not_depend_on_rows_kept_for_more() -> None:
    made, _ = batch_of()
    roomy = [[one._replace(**padded(one, 9)) for one in window] for window in made]
    few, many = (heatmap_losses(random_maps(), stack_targets(each)) for each in (made, roomy))
    for a, b in zip(few, many, strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-6)


def padded(one: FrameTargets, room: int) -> dict[str, np.ndarray]:
    extra = room - len(one.cells)
    return {
        name: np.concatenate([values, np.zeros((extra, *values.shape[1:]), values.dtype)])
        for name, values in one._asdict().items()
        if name not in ("heat_map", "is_counted")
    }


def test_onetrack_half_precision_maps_are_compared_in_single() -> None:
    _, targets = batch_of()
    maps = random_maps()
    halves = WindowMaps(*(values.bfloat16() for values in maps))
    full = heatmap_losses(WindowMaps(*(values.float() for values in halves)), targets)
    assert all(a.item() == b.item() for a, b in zip(heatmap_losses(halves, targets), full, strict=True))
