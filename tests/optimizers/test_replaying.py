"""Backpropagation step by step against one graph of all steps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from networks_for_tests import Averaged, Coupled, Decay, Fall, LearnedFirstMean, LearnedFirstMeanOfAll
from problems_for_tests import Regression
from torch import Generator

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators import first_order
from meta_opt.meta_training.estimators.contract import Episode, Estimator
from meta_opt.meta_training.estimators.es import ES
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers import contract
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.hierarchical_rnn import HierarchicalRNN
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM

NETWORKS: dict[str, Callable[[], OptimizerNetwork]] = {
    "decay": Decay,
    "fall": Fall,
    "coupled": Coupled,
    "soap": partial(LearnedSOAP, hidden_size=4, initial_output=1.0),
    "subspace": SubspaceLSTM,
    "averages": partial(LSTMGAC, 2, 5),
    "hierarchy": HierarchicalRNN,
    "memory": partial(NTMBFGS, 1, 5),
    "last writes": partial(NTMBFGS, 1, 5, rank=2),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("meta_loss", [MetaLoss("sum", "constant"), MetaLoss("log_mean", "linear:0.3")])
def test_equals_one_graph(name: str, meta_loss: MetaLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
    network = NETWORKS[name]()
    network.build(problems.layout, problem_generator(0, "phi"))
    network.double()
    start = unroll(problems, network, begin(problems, network, grads=True), 3, grads=True).end.detach()
    trajectory = unroll(problems, network, start, 6, grads=True)
    found = []
    for large in (1 << 18, 0):
        for module in (contract, first_order):
            monkeypatch.setattr(module, "LARGE", large)
        found.append(first_order.first_order(trajectory, network, meta_loss).grads)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert any(grad.any() for grad in found[0])


@pytest.mark.parametrize("large", [1 << 18, 0])
@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"decay", "fall", "coupled"}))  # those of several weights
def test_frozen_weights_have_no_gradient_and_change_no_other(
    name: str, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
    network = NETWORKS[name]()
    network.build(problems.layout, problem_generator(0, "phi"))
    trajectory = unroll(problems, network.double(), begin(problems, network, grads=True), 4, grads=True)
    for module in (contract, first_order):
        monkeypatch.setattr(module, "LARGE", large)
    whole = first_order.first_order(trajectory, network, MetaLoss("sum", "constant")).grads
    for weight in [*network.parameters()][::2]:
        weight.requires_grad_(False)
    part = first_order.first_order(trajectory, network, MetaLoss("sum", "constant")).grads
    torch.testing.assert_close(part, whole[1::2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", [LearnedFirstMean(), LearnedFirstMeanOfAll()], ids=["gradients", "everything"])
def test_a_first_state_that_is_learned(network: OptimizerNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one graph, step by step, in pieces of exact meta-gradients and as a control variate."""
    problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
    network.build(problems.layout, problem_generator(0, "phi"))
    network.double()

    def of(estimator: Estimator) -> tuple[torch.Tensor, ...]:
        generator = partial(problem_generator, 0, "noise")
        loss = MetaLoss("sum", "constant")
        (estimate,) = estimator.estimates(Episode(problems.twin(), network, loss, 6, 6, generator))
        return estimate.grads

    first = of(FirstOrder())
    assert first[1].abs() > 1e-3  # of the first average
    for module in (contract, first_order):
        monkeypatch.setattr(module, "LARGE", 0)
    torch.testing.assert_close(of(FirstOrder()), first)
    torch.testing.assert_close(of(ES(2, 1e-3, correction=0.0)), first)
    torch.testing.assert_close(of(SecondOrder(2)), of(SecondOrder()))


def test_an_update_without_a_graph_is_refused_step_by_step_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Detached(LearnedFirstMean):
        def init_state(self, layout: Layout, num_problems: int) -> Averaged:
            return Averaged(torch.zeros(num_problems, layout.num_coordinates, dtype=torch.float64))

        def step(self, evaluation: Evaluation, state: Averaged, noise: Generator | None = None) -> Step:
            update, state, _ = super().step(evaluation, state)
            return Step(update.detach(), state)

    problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
    network = Detached()
    network.build(problems.layout, problem_generator(0, "phi"))
    network.double()
    trajectory = unroll(problems, network, begin(problems, network, grads=True), 6, grads=True)
    for large in (1 << 18, 0):
        monkeypatch.setattr(contract, "LARGE", large)
        with pytest.raises(MetaOptError, match=r"Detached\.step must make its update of the weights of build"):
            first_order.first_order(trajectory, network, MetaLoss("sum", "constant"))


def peak(num_steps: int, by_step: bool) -> float:
    """How much the replay of so many steps of 20,000 coordinates takes, in MB."""
    program = f"""
import pathlib, re, torch
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, problem_generator
from meta_opt.optimizers import contract
from meta_opt.optimizers.lstm_gac import LSTMGAC
contract.LARGE = {0 if by_step else 1 << 40}
layout = Layout.of({{"theta": torch.zeros(20_000)}})
network = LSTMGAC()
network.build(layout, problem_generator(0, "phi"))
grads = [torch.randn(1, 20_000) for _ in range({num_steps})]
evaluations = [Evaluation.of(grad=grad) for grad in grads]
def held():  # at most, by this program: ru_maxrss would count what its parent held when it forked
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
before = held()
network.replay(evaluations, network.init_state(layout, 1), grads)
print(held() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_memory_grows_with_the_states_alone() -> None:
    # Hidden and cell of two layers of 20, and two moments: 82 numbers of 4 bytes for each of 20,000 coordinates, or
    # 6.3 MB a step, and what the allocator wastes. A graph keeps several times that.
    state = 82 * 4 * 20_000 / 2**20
    growth = (peak(16, True) - peak(4, True)) / 12
    assert growth < 2.5 * state
    assert (peak(16, False) - peak(4, False)) / 12 > 2.0 * growth
