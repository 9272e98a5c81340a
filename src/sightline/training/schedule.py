"""What changes from epoch to epoch: learning rates and OSTrack's keep ratio. Pure functions of the epoch.

Epochs count from 1, as in the official loops. A rate holds for the whole epoch.
"""

from __future__ import annotations

import math


def step_lr(epoch: int, base_lr: float, drop_every: int, gamma: float = 0.1) -> float:
    """OSTrack's learning rate in `epoch`: `base_lr`, times `gamma` after every `drop_every` epochs.

    The released models drop once: after 240 of 300 epochs, or 80 of 100. `gamma` is torch's default, because the
    official code does not read the DECAY_RATE of its own configuration.
    """
    return base_lr * gamma ** ((epoch - 1) // drop_every)


def cosine_lr(epoch: int, base_lr: float, num_epochs: int = 100, min_lr: float = 1e-9) -> float:
    """MVT's learning rate in `epoch`: half a cosine from `base_lr` in epoch 1 down towards `min_lr`.

    `min_lr` itself would be reached in epoch `num_epochs + 1`, one after the last.
    """
    return min_lr + (base_lr - min_lr) * (1 + math.cos(math.pi * (epoch - 1) / num_epochs)) / 2


def ce_keep_rate(epoch: int, start: int, warm: int, base: float = 0.7) -> float:
    """OSTrack's keep ratio for candidate elimination in `epoch`, one for all eliminating layers.

    1, so no elimination, before epoch `start`; half a cosine down over `warm` epochs; `base` from `start + warm` on.
    Official (start, warm): (20, 80) for 300 epochs, (20, 50) for 100. Validation runs at the same ratio.
    """
    if epoch < start:
        return 1.0
    if epoch >= start + warm:
        return base
    return base + (1 - base) * (1 + math.cos(math.pi * (epoch - start) / warm)) / 2


def warm_cosine_lr(
    step: int,
    base_lr: float,
    num_steps: int,
    warm_steps: int,
    *,
    first_lr: float = 1e-7,
    min_lr: float = 1e-6,
) -> float:
    """The learning rate of step `step`, from 0, as timm's cosine with `warmup_prefix` has it, which SPMTrack uses.

    A straight line from `first_lr` to `base_lr` over `warm_steps`; then half a cosine of `num_steps` down to `min_lr`,
    of which a run of `num_steps` in all does not see the last `warm_steps`.
    """
    if step < warm_steps:
        return first_lr + step * (base_lr - first_lr) / warm_steps
    done = min(1.0, (step - warm_steps) / num_steps)
    return min_lr + (base_lr - min_lr) * (1 + math.cos(math.pi * done)) / 2
