"""Training in phases: who learns when, and that what is frozen stays to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sightline.errors import SightlineError
from sightline.training.phases import Phase, Place, enter, is_in, num_steps, phase_at, set_mode

ONE = Phase("one", 2, {"a": 1.0}, ("b",))
ALL = Phase("all", 1, {"a": 1.0, "b": 1.0})


class Two(nn.Module):
    """A trunk with BatchNorm, which counts what it sees, and two heads, `b` with one too."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.a = nn.Linear(8, 1)
        self.b = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.b2 = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"a": self.a(features), "b": self.b(features)}


def run(phases: tuple[Phase, ...], steps: range, network: Two, optimizer: torch.optim.Optimizer, **loop: bool) -> None:
    """A loop as recipes have it, three steps an epoch. loop: `careful`, whether it enters phases."""
    phase = None
    for step in steps:
        place = phase_at(phases, step, 3)
        if place.phase != phase:
            phase = place.phase
            if loop.get("careful", True):
                enter(network, optimizer, place, step)
        assert phase is not None
        set_mode(network, phase) if loop.get("careful", True) else network.train()
        out = network(torch.randn(6, 4, generator=torch.Generator().manual_seed(step)))
        sum(weight * out[name].square().mean() for name, weight in phase.weights.items()).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def made(seed: int = 0) -> tuple[Two, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = Two()
    return network, torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.1)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


B = {
    "b.0.weight",
    "b.0.bias",
    "b.0.running_mean",
    "b.0.running_var",
    "b.0.num_batches_tracked",
    "b.1.weight",
    "b.1.bias",
}


def test_steps_find_their_phase() -> None:
    phases = (ONE, Phase("none", 0, {"b": 1.0}), ALL)
    places = [phase_at(phases, step, 3) for step in range(12)]
    assert [place.phase.name for place in places] == ["one"] * 6 + ["all"] * 6
    assert {place.first_step for place in places} == {0, 6} and places[7] == Place(ALL, 6, 3)
    assert [place.done(step) for step, place in enumerate(places[:3])] == [0, 1 / 6, 2 / 6]
    assert num_steps(phases, 3) == 9
    with pytest.raises(SightlineError, match="got none with an epoch"):
        phase_at((Phase("none", 0, {}),), 0, 3)


def test_what_is_frozen_is_the_same_to_the_bit_and_all_else_is_not() -> None:
    """Although the optimiser holds it, decays weights, and has momentum of it from the phase before."""
    network, optimizer = made()
    run((ALL,), range(3), network, optimizer)
    before = state(network)
    run((ALL, ONE), range(3, 9), network, optimizer)
    assert not changed(before, state(network)) & B
    assert {name for name in before if name.startswith(("trunk", "a"))} <= changed(before, state(network))
    assert all(parameter.grad is None for parameter in network.parameters())
    again = state(network)
    run((ALL, ONE, ALL), range(9, 12), network, optimizer)
    assert changed(again, state(network)) >= B


def test_a_loop_that_does_not_enter_its_phases_changes_them() -> None:
    """The control: statistics and momentum."""
    network, optimizer = made()
    run((ALL,), range(3), network, optimizer)
    before = state(network)
    run((ALL, ONE), range(3, 9), network, optimizer, careful=False)
    assert changed(before, state(network)) & B


def test_every_phase_begins_with_an_optimiser_that_remembers_nothing() -> None:
    one, optimizer = made()
    run((ALL,), range(3), one, optimizer)
    other, _ = made()
    other.load_state_dict(one.state_dict())
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.1)
    for network, own in ((one, optimizer), (other, fresh)):
        run((ALL, ONE), range(3, 9), network, own)
    assert not changed(state(one), state(other))
    third, _ = made()
    third.load_state_dict(one.state_dict())
    enter(one, optimizer, Place(ONE, 3, 6), 5)  # gone on with in the middle of a phase
    assert optimizer.state


def test_parts_are_named_whole() -> None:
    network, optimizer = made()
    enter(network, optimizer, Place(ONE, 0, 6), 0)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in B if name.endswith(("weight", "bias"))}  # and b2 is not of it
    set_mode(network, ONE)
    assert not network.b[0].training and network.trunk[1].training and network.b2.training
    assert is_in("b.1.weight", ("b.1",)) and not is_in("b.10.weight", ("b.1",))
    enter(network, optimizer, Place(ALL, 6, 3), 6)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_unknown_parts_and_phases_without_any_are_refused() -> None:
    network, optimizer = made()
    with pytest.raises(SightlineError, match="got the part 'c'; expected one of trunk, a, b, b2"):
        enter(network, optimizer, Place(Phase("p", 1, {}, ("c",)), 0, 3), 0)
    with pytest.raises(SightlineError, match="phase 'p': got all parts frozen"):
        enter(network, optimizer, Place(Phase("p", 1, {}, ("trunk", "a", "b", "b2")), 0, 3), 0)
