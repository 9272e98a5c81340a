"""Training in phases: which parts of a network learn when, and from which losses. For any recipe.

    place = phase_at(phases, step, steps_per_epoch)
    enter(model, optimizer, place, step)       # where a phase begins, and where a run goes on
    set_mode(model, place.phase)               # instead of model.train()

What is frozen is the same to the bit after a phase: it gets no gradient, so the optimiser passes over it, weight decay
and momentum too, and its BatchNorms are in eval mode. Every phase begins with an optimiser that remembers nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from sightline.errors import SightlineError


@dataclass(frozen=True)
class Phase:
    """So many epochs in which the losses have these weights, by name (those not named have none), and parts of the
    network are frozen: modules and parameters by name ("heat_head", "backbone.blocks.0"), with all that is in them."""

    name: str
    epochs: int
    weights: Mapping[str, float]
    frozen: tuple[str, ...] = ()


class Place(NamedTuple):
    """Where in a training a step is: its phase, the first step of that, and how many it has."""

    phase: Phase
    first_step: int
    num_steps: int

    def done(self, step: int) -> float:
        """The share of the phase before a step, in [0, 1)."""
        return (step - self.first_step) / self.num_steps


def phase_at(phases: Sequence[Phase], step: int, steps_per_epoch: int) -> Place:
    """The place of a step, counted from 0; beyond the last phase it is that one. Phases of no epochs are passed over.

    Raises `SightlineError` where no phase has an epoch.
    """
    held = [phase for phase in phases if phase.epochs > 0]
    if not held:
        raise SightlineError("phases: got none with an epoch; expected at least one. Give more epochs.")
    first = 0
    for phase in held:
        num_steps = phase.epochs * steps_per_epoch
        if step < first + num_steps or phase is held[-1]:
            return Place(phase, first, num_steps)
        first += num_steps
    raise AssertionError("the last phase takes every step")


def num_steps(phases: Sequence[Phase], steps_per_epoch: int) -> int:
    """Of all phases."""
    return steps_per_epoch * sum(phase.epochs for phase in phases)


def enter(model: nn.Module, optimizer: torch.optim.Optimizer, place: Place, step: int) -> None:
    """Freeze what the phase of `step` freezes and nothing else; in its first step the optimiser's memory goes.

    optimizer: the one itself, not a wrapper, which may hold an old memory. It may hold all parameters.

    Raises `SightlineError` for a part that the network does not have, and where nothing is left to learn.
    """
    freeze(model, place.phase)
    if step == place.first_step:
        optimizer.state.clear()


def freeze(model: nn.Module, phase: Phase) -> None:
    """Freeze what a phase freezes and nothing else; no gradient is left. Raises what `enter` does."""
    check_parts(model, phase.frozen)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_in(name, phase.frozen))
        parameter.grad = None
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SightlineError(f"phase {phase.name!r}: got all parts frozen; expected one that learns. Free one.")


def set_mode(model: nn.Module, phase: Phase) -> None:
    """Training mode, but for the frozen parts."""
    model.train()
    for name, module in model.named_modules():
        if is_in(name, phase.frozen):
            module.eval()


def check_parts(model: nn.Module, parts: Sequence[str]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(is_in(name, (part,)) for name in names):
            known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise SightlineError(f"phases: got the part {part!r}; expected one of {known}, or of theirs. Correct it.")


def is_in(name: str, parts: Sequence[str]) -> bool:
    """Whether a parameter or module is one of these parts or in one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)
