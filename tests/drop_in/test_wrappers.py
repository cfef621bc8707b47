"""Optimizers around the learned optimizer: they share its state, and keep things of their own in it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meta_opt import LearnedOptimizer

NAMES = ["general_mlp", "general", "quadratic", "alpha_opt", "ntm_bfgs"]  # of every scope


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def step(network: nn.Module, optimizer: Any, number: int = 0) -> None:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def values(network: nn.Module) -> Tensor:
    return torch.cat([param.detach().reshape(-1) for param in network.parameters()])


class Lookahead:
    """Zhang et al. 2019 (arXiv:1907.08610), slow weights in the state of the optimizer below it, as many have it."""

    def __init__(self, below: torch.optim.Optimizer) -> None:
        self.below, self.taken = below, 0

    def zero_grad(self) -> None:
        self.below.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any) -> None:
        self.below.step(closure)
        self.taken += 1
        if self.taken % 2 == 0:
            for param in self.below.param_groups[0]["params"]:
                state = self.below.state[param]
                if "slow" not in state:
                    state["slow"] = param.clone()
                param.copy_(state["slow"].add_(param - state["slow"], alpha=0.5))


class Wrapper(torch.optim.Optimizer):
    """Has the state and the groups of the optimizer below it as its own."""

    def __init__(self, below: torch.optim.Optimizer) -> None:
        super().__init__(below.param_groups, {})
        self.below, self.state, self.param_groups = below, below.state, below.param_groups

    def step(self, closure: Any) -> None:  # type: ignore[override]
        self.below.step(closure)


@pytest.mark.parametrize("name", NAMES)
def test_slow_weights_that_are_kept_in_the_state_are_there_at_the_next_step(name: str) -> None:
    ours, by_hand = model(), model()
    lookahead = Lookahead(LearnedOptimizer(ours.parameters(), name))
    optimizer = LearnedOptimizer(by_hand.parameters(), name)
    slow: list[Tensor] = []
    for number in range(6):
        step(ours, lookahead, number)
        step(by_hand, optimizer, number)
        if number % 2:
            params = list(by_hand.parameters())
            slow = slow or [param.detach().clone() for param in params]
            for param, each in zip(params, slow, strict=True):
                param.data = each.add_(param.detach() - each, alpha=0.5).clone()
    torch.testing.assert_close(values(ours), values(by_hand), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_others_keep_is_saved_and_loaded(name: str) -> None:
    ours, other = model(), model()
    optimizer, loaded = (LearnedOptimizer(each.parameters(), name) for each in (ours, other))
    first, second, *_ = ours.parameters()
    optimizer.state[first]["before any step"] = torch.ones(2)
    optimizer.state["of all"] = 7  # type: ignore[index, assignment]
    for number in range(2):
        step(ours, optimizer, number)
        optimizer.state[second]["number"] = number  # type: ignore[assignment]
    other.load_state_dict(ours.state_dict())
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    first_there, second_there, *_ = other.parameters()
    for number in range(2, 4):
        step(ours, optimizer, number)
        step(other, loaded, number)
    torch.testing.assert_close(values(ours), values(other), rtol=0, atol=0)
    assert loaded.state[first_there]["before any step"].tolist() == [1.0, 1.0]
    assert loaded.state[second_there]["number"] == 1
    assert loaded.state["of all"] == 7  # type: ignore[index]


def test_a_state_of_others_alone_is_loaded() -> None:
    ours, other = model(), model()
    optimizer, loaded = (LearnedOptimizer(each.parameters(), "general_mlp") for each in (ours, other))
    optimizer.state[next(ours.parameters())]["slow"] = torch.ones(2)
    loaded.load_state_dict(optimizer.state_dict())
    step(ours, optimizer)
    step(other, loaded)
    torch.testing.assert_close(values(ours), values(other), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_who_shares_the_state_sees_every_step(name: str) -> None:
    network = model()
    optimizer = LearnedOptimizer(network.parameters(), name)
    wrapper = Wrapper(optimizer)
    for number in range(3):
        step(network, wrapper, number)
        there, expected = wrapper.state_dict()["state"], optimizer.state_dict()["state"]
        assert there.keys() == expected.keys() == {0, 1, 2, 3}
        for of_one, same in zip(there.values(), expected.values(), strict=True):
            assert of_one.keys() == same.keys() != set()
            assert all(torch.equal(of_one[name], same[name]) for name in same)


def test_a_state_may_be_set_to_itself() -> None:
    ours, other = model(), model()
    optimizer, kept = (LearnedOptimizer(each.parameters(), "general_mlp") for each in (ours, other))
    for number in range(3):
        step(ours, optimizer, number)
        step(other, kept, number)
        kept.state = kept.state
    torch.testing.assert_close(values(ours), values(other), rtol=0, atol=0)


@pytest.mark.parametrize("look", [len, list, repr, dict, copy.copy, bool, lambda state: state.get(None)])
def test_looking_changes_nothing(look: Any) -> None:
    ours, other = model(), model()
    optimizer, seen = (LearnedOptimizer(each.parameters(), "general_mlp") for each in (ours, other))
    state = seen.state
    for number in range(3):
        step(ours, optimizer, number)
        step(other, seen, number)
        look(state)
    torch.testing.assert_close(values(ours), values(other), rtol=0, atol=0)
    assert copy.copy(state).keys() == dict(state).keys() == set(other.parameters())


@pytest.mark.parametrize("name", ["mnist_mlp", "general_mlp", "ntm_bfgs"])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_is_listed_twice_is_one(name: str, named: bool) -> None:
    ours, other = model(), model()
    params: list[Any] = list(ours.named_parameters() if named else ours.parameters())
    optimizer = LearnedOptimizer([*params, params[0], params[2]], name)
    once = LearnedOptimizer(other.parameters(), name)
    for number in range(3):
        step(ours, optimizer, number)
        step(other, once, number)
        optimizer.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(values(ours), values(other), rtol=0, atol=0)
