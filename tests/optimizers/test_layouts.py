"""Every architecture on tensors with 0, 1 and many coordinates, in both types, for any number of steps and problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from networks_for_tests import Coupled, Decay, Fall
from torch import Generator, Tensor

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.baseline_names import BASELINES, OF_CURVATURE, OF_MATRICES, baseline
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.hierarchical_rnn import HierarchicalRNN
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.replaying import replay_by_step
from meta_opt.optimizers.state import map_state
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM

SHAPES = [(), (1,), (0,), (5,), (2, 3), (0, 4), (3, 0), (1, 1), (4, 1, 3, 3)]
NETWORKS: dict[str, Callable[[], OptimizerNetwork]] = {
    "lstm": partial(CoordinatewiseLSTM, 1, 3, inputs="log_sign+moments+scales", share="group"),
    "averages": partial(LSTMGAC, 2, 4),
    "averages in tensors": partial(LSTMGAC, 1, 4, 1, "tensor"),
    "hierarchy": partial(HierarchicalRNN, 3, 4, 2),
    "memory": partial(NTMBFGS, 1, 4),
    "last writes": partial(NTMBFGS, 1, 4, rank=2),
    "soap": partial(LearnedSOAP, hidden_size=4, initial_output=1.0),
    "subspace": partial(SubspaceLSTM, 2, 5),
    "coupled": Coupled,
    "decay": Decay,
    "fall": Fall,
}
MAKES: dict[str, Callable[[], InnerOptimizer]] = {
    **NETWORKS,
    **{name: partial(baseline(name), 0.01) for name in [*BASELINES, *OF_MATRICES, *OF_CURVATURE]},
}
PROPERTIES = settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


class Case(NamedTuple):
    """T evaluations of B problems of N coordinates."""

    layout: Layout
    evaluations: list[Evaluation]
    dtype: torch.dtype

    @property
    def num_problems(self) -> int:
        return len(self.evaluations[0].loss)

    def only(self, problem: int) -> Case:
        rows = slice(problem, problem + 1)
        parts = [Evaluation(each.loss[rows], each.grad[rows], each.params[rows]) for each in self.evaluations]
        return self._replace(evaluations=parts)


def _some(shapes: list[tuple[int, ...]]) -> bool:
    return any(math.prod(shape) for shape in shapes)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Shapes with 0, 1 and many coordinates in two groups, gradients some of which are zero."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4).filter(_some))
    params = {f"tensor{index}": torch.zeros(shape) for index, shape in enumerate(shapes)}
    layout = Layout.of(params, {name: draw(st.sampled_from(["one", "two"])) for name in params})
    num_problems, num_steps = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 5]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = Generator().manual_seed(draw(st.integers(0, 1000)))
    zero = draw(st.sampled_from([None, 0, num_steps - 1]))
    evaluations = []
    for step in range(num_steps):
        grad, theta = torch.randn(2, num_problems, layout.num_coordinates, generator=generator, dtype=dtype)
        grad = torch.zeros_like(grad) if step == zero else grad
        evaluations.append(Evaluation(torch.rand(num_problems, generator=generator).to(dtype) + 0.1, grad, theta))
    return Case(layout, evaluations, dtype)


def built(name: str, case: Case) -> InnerOptimizer:
    optimizer = MAKES[name]()
    if not isinstance(optimizer, OptimizerNetwork):
        return optimizer
    generator = Generator().manual_seed(0)
    optimizer.build(case.layout, generator)
    for parameter in optimizer.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return optimizer.to(case.dtype)


def updates(optimizer: InnerOptimizer, case: Case) -> Tensor:
    """[T, B, N], by rollouts of one step and of the rest, where a second begins where the first ends."""
    state, found = optimizer.init_state(case.layout, case.num_problems), []
    with torch.no_grad():
        for part in (case.evaluations[:1], case.evaluations[1:]):
            rollout = optimizer.rollout(state)
            found += [rollout.step(each.only(optimizer.reads)).clone() for each in part]
            state = rollout.state
    return torch.stack(found)


def assert_equal(one: Tensor, other: Tensor, dtype: torch.dtype) -> None:
    tolerance = 1e-3 if dtype == torch.float32 else 1e-8
    assert one.shape == other.shape
    assert one.isfinite().all()
    assert (one - other).norm() <= tolerance * (other.norm() + 1e-3)


@pytest.mark.parametrize("name", MAKES)
@PROPERTIES
@given(case=cases())
def test_problems_side_by_side_are_problems_alone(name: str, case: Case) -> None:
    together = updates(built(name, case), case)
    assert together.shape == (len(case.evaluations), case.num_problems, case.layout.num_coordinates)
    for problem in range(case.num_problems):
        alone = updates(built(name, case), case.only(problem))
        assert_equal(together[:, problem], alone[:, 0], case.dtype)


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name]().reads == {"grad"}])
@PROPERTIES
@given(case=cases())
def test_replays_are_the_graph_of_all_steps(name: str, case: Case) -> None:
    optimizer = built(name, case)
    assert isinstance(optimizer, OptimizerNetwork)
    coefficients = [torch.cos(each.params) for each in case.evaluations]
    evaluations = [each.only(optimizer.reads) for each in case.evaluations]
    start = map_state(Tensor.detach, optimizer.init_state(case.layout, case.num_problems))
    expected = OptimizerNetwork.replay(optimizer, evaluations, start, coefficients)
    for found in (
        optimizer.replay(evaluations, start, coefficients),
        replay_by_step(optimizer, evaluations, start, coefficients),
    ):
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other, case.dtype)
