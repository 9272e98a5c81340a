"""Schedules against the official keep ratios and against torch's schedulers, which the official loops step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from sightline.training.schedule import ce_keep_rate, cosine_lr, step_lr, warm_cosine_lr

STORED = dict(np.load(Path(__file__).parent / "data" / "ostrack" / "schedule.npz"))
KEEP_RATES = {"keep_rate_ep300_start20_warm80": (20, 80), "keep_rate_got10k_start20_warm50": (20, 50)}
ROUNDING = {"atol": 1e-12, "rtol": 0.0}  # float64 on both sides


def keep_rates(name: str, base: float = 0.7) -> list[float]:
    return [ce_keep_rate(epoch, *KEEP_RATES[name], base) for epoch in range(len(STORED[name]))]


def test_nothing_stored_is_left_out() -> None:
    assert STORED.keys() == KEEP_RATES.keys()


@pytest.mark.parametrize("name", KEEP_RATES)
def test_keep_rate(name: str, compare) -> None:
    compare(keep_rates(name), STORED[name], **ROUNDING, what=name)


@pytest.mark.parametrize("name", KEEP_RATES)
def test_keep_rate_fails_when_shifted_or_with_another_base(name: str) -> None:
    start, warm = KEEP_RATES[name]
    shifted = [ce_keep_rate(epoch, start + 1, warm) for epoch in range(len(STORED[name]))]
    assert not np.allclose(shifted, STORED[name], **ROUNDING)
    assert not np.allclose(keep_rates(name, base=0.75), STORED[name], **ROUNDING)


def torch_rates(make: Callable[[torch.optim.Optimizer], LRScheduler], base_lr: float, num_epochs: int) -> list[float]:
    """The rate in each epoch, or step, of a loop that steps its scheduler after every one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base_lr)
    scheduler, rates = make(optimizer), []
    for _ in range(num_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():  # torch warns that nothing was optimised
            warnings.simplefilter("ignore")
            scheduler.step()
    return rates


@pytest.mark.parametrize(("num_epochs", "drop_every"), [(300, 240), (100, 80)])
def test_step_lr(num_epochs: int, drop_every: int) -> None:
    expected = torch_rates(lambda optimizer: StepLR(optimizer, drop_every), 4e-4, num_epochs)
    epochs = range(1, num_epochs + 1)
    np.testing.assert_allclose([step_lr(epoch, 4e-4, drop_every) for epoch in epochs], expected, rtol=1e-12)
    assert not np.allclose([step_lr(epoch + 1, 4e-4, drop_every) for epoch in epochs], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("base_lr", [4e-4, 4e-5])  # everything else, the backbone
def test_cosine_lr(base_lr: float) -> None:
    expected = torch_rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-9), base_lr, 100)
    epochs = range(1, 101)
    np.testing.assert_allclose([cosine_lr(epoch, base_lr) for epoch in epochs], expected, rtol=1e-9)
    assert not np.allclose([cosine_lr(epoch, base_lr, min_lr=0) for epoch in epochs], expected, rtol=1e-9, atol=0)
    assert not np.allclose([cosine_lr(epoch - 1, base_lr) for epoch in epochs], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("base_lr", "num_steps", "warm_steps"), [(1e-4, 1700, 20), (1e-3, 160, 8), (1e-4, 30, 1)])
def test_warm_cosine_lr(base_lr: float, num_steps: int, warm_steps: int) -> None:
    """timm's is the straight line of one of torch's schedulers and then the half cosine of another."""

    def timms(optimizer: torch.optim.Optimizer) -> LRScheduler:
        rise = LinearLR(optimizer, start_factor=1e-7 / base_lr, total_iters=warm_steps)
        return SequentialLR(optimizer, [rise, CosineAnnealingLR(optimizer, num_steps, 1e-6)], [warm_steps])

    expected, steps = torch_rates(timms, base_lr, num_steps), range(num_steps)
    rates = [warm_cosine_lr(step, base_lr, num_steps, warm_steps) for step in steps]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    whole = [warm_cosine_lr(step, base_lr, num_steps - warm_steps, warm_steps) for step in steps]
    late = [warm_cosine_lr(step + 1, base_lr, num_steps, warm_steps) for step in steps]
    for wrong in (whole, late, [warm_cosine_lr(step, base_lr, num_steps, warm_steps, min_lr=0) for step in steps]):
        assert not np.allclose(wrong, expected, rtol=1e-9, atol=0)


def test_warm_cosine_lr_rises_in_a_line_and_then_falls_to_its_end() -> None:
    rates = np.array([warm_cosine_lr(step, 1e-4, 100, 10) for step in range(130)])
    assert rates[0] == 1e-7 and rates.argmax() == 10 and rates[10] == pytest.approx(1e-4, rel=1e-12)
    np.testing.assert_allclose(np.diff(rates[:11]), (1e-4 - 1e-7) / 10, rtol=1e-9)
    assert (np.diff(rates[10:111]) < 0).all()
    assert rates[60] == pytest.approx((1e-4 + 1e-6) / 2, rel=1e-12)  # halfway
    assert 1e-6 < rates[99] < 4e-6  # the last of a run of 100 steps, which misses the last ten of the cosine
    np.testing.assert_allclose(rates[110:], 1e-6, rtol=1e-12)
    assert warm_cosine_lr(0, 1e-4, 100, 0) == pytest.approx(1e-4, rel=1e-12)  # no warm-up
