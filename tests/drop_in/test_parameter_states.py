"""States of any form, joined and cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.drop_in.parameter_states import ParameterStates, Place
from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.pooling import spread
from meta_opt.optimizers.state import axis


@dataclass(frozen=True)
class Steps:
    mean: tuple[Tensor, ...] = axis("coordinate")  # one of [3, N]
    count: Tensor = axis("problem")  # [], of all coordinates


class Counting(OptimizerNetwork):
    """g = count · mean of the gradients so far, for each coordinate."""

    scope = "coordinate"
    build = None  # type: ignore[assignment]

    def init_state(self, layout: Layout, num_problems: int) -> Steps:
        return Steps((torch.zeros(3, num_problems * layout.num_coordinates),), torch.zeros((), dtype=torch.int64))

    def step(self, evaluation: Evaluation, state: Steps, noise: Generator | None = None) -> Step:
        count = state.count + 1
        mean = state.mean[0] + (evaluation.grad - state.mean[0]) / count
        return Step(count * mean[:1], Steps((mean,), count))


@dataclass(frozen=True)
class Rows:
    sizes: list[int]
    largest: Tensor = axis("tensor")  # [tensors]


@dataclass(frozen=True)
class Wrong:
    all: Tensor = axis("problem")  # [N], of coordinates


class PerTensor(OptimizerNetwork):
    """g = the largest gradient that the coordinate's tensor has had; its state goes through tensors."""

    scope = "tensor"
    build = None  # type: ignore[assignment]

    def init_state(self, layout: Layout, num_problems: int) -> Rows:
        return Rows([*layout.sizes], torch.zeros(len(layout.names)))

    def step(self, evaluation: Evaluation, state: Rows, noise: Generator | None = None) -> Step:
        parts = evaluation.grad[0].split(state.sizes)
        largest = torch.maximum(state.largest, torch.stack([part.max() for part in parts]))
        return Step(spread(largest.unsqueeze(0), state.sizes), replace(state, largest=largest))


class Run:
    """Two parameters of 2 and 3 coordinates, all of whose gradients are the same number."""

    def __init__(self, optimizer: OptimizerNetwork) -> None:
        self.states = ParameterStates(optimizer)
        self.params = [torch.zeros(2, requires_grad=True), torch.zeros(3, 1, requires_grad=True)]

    def step(self, *grads: float | None) -> list[Any]:
        """The update of each parameter, whose coordinates all have the same."""
        kinds = {}
        for param, grad in zip(self.params, grads, strict=True):
            if grad is not None:
                param.grad = torch.full_like(param, grad)
                kinds[param] = Place.of(param, "all")
        found: dict[Tensor, Any] = {}
        for bucket in self.states.buckets(kinds):
            for param, update in zip(bucket.params, bucket.step(None), strict=True):
                assert update.shape == param.shape
                (found[param],) = set(update.flatten().tolist())
        return [found.get(param) for param in self.params]


def test_parameters_with_one_history_are_one_bucket() -> None:
    run = Run(Counting())
    assert run.step(1.0, 2.0) == [1.0, 2.0]
    (bucket,) = run.states.buckets({param: Place.of(param, "all") for param in run.params})
    assert run.step(3.0, 2.0) == [4.0, 4.0]
    assert run.states.buckets({param: Place.of(param, "all") for param in run.params}) == [bucket]
    assert bucket.state.mean[0].shape == (3, 5)
    assert not dict.__len__(run.states.one_by_one)  # nothing is kept twice


def test_a_shared_count_goes_on_separately() -> None:
    run = Run(Counting())
    run.step(1.0, 2.0)
    assert run.step(None, 4.0) == [None, 6.0]
    assert run.step(3.0, 6.0) == [4.0, 12.0]  # the second step of the one, the third of the other
    counts = [int(run.states.one_by_one[param]["count"]) for param in run.params]
    assert counts == [2, 3]
    assert run.step(None, 8.0) == [None, 20.0]
    assert run.step(None, 5.0) == [None, 25.0]
    assert run.step(2.0, 5.0) == [6.0, 30.0]


def test_states_have_names_and_can_be_replaced() -> None:
    run = Run(Counting())
    run.step(1.0, 2.0)
    states = run.states.one_by_one
    assert {name: tensor.shape for name, tensor in states[run.params[1]].items()} == {"mean.0": (3, 3), "count": ()}
    states[run.params[1]]["mean.0"] = torch.full((3, 3), 7.0)  # holds, as in torch.optim
    assert run.step(3.0, 7.0) == [4.0, 14.0]
    run.states.replace({})
    assert run.step(3.0, 7.0) == [3.0, 7.0]


def test_other_states_are_kept_per_parameter() -> None:
    run = Run(PerTensor())
    assert run.step(1.0, 5.0) == [1.0, 5.0]
    assert run.step(2.0, 3.0) == [2.0, 5.0]
    assert run.step(1.0, None) == [2.0, None]
    assert run.step(1.0, 6.0) == [2.0, 6.0]


def test_empty_tensors_are_not_stepped_with_others() -> None:
    """Of which there is no largest gradient."""
    run = Run(PerTensor())
    run.params.append(torch.zeros(0, requires_grad=True))
    for param in run.params:
        param.grad = torch.ones_like(param)
    buckets = run.states.buckets({param: Place.of(param, "all") for param in run.params})
    assert [[update.tolist() for update in bucket.step(None)] for bucket in buckets] == [
        [[1.0, 1.0], [[1.0], [1.0], [1.0]]],
        [[]],
    ]


def test_a_state_that_is_another_for_several_tensors_is_refused() -> None:
    class Together(PerTensor):
        def init_state(self, layout: Layout, num_problems: int) -> Any:
            return Wrong(torch.zeros(layout.num_coordinates))

    run = Run(Together())
    run.params[1] = torch.zeros(2, requires_grad=True)
    for param in run.params:
        param.grad = torch.ones_like(param)
    with pytest.raises(MetaOptError, match="says that all is problem, and it is another for several tensors"):
        run.states.buckets({param: Place.of(param, "all") for param in run.params})


@pytest.mark.parametrize(("dtype", "computed"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_networks_compute_in_float32_or_more(dtype: torch.dtype, computed: torch.dtype) -> None:
    place = Place.of(torch.zeros(1, dtype=dtype), "all")
    assert place == ("all", torch.device("cpu"), computed, 0.0, 0, torch.Size([1]))
