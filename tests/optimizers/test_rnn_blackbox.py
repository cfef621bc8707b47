"""The black-box LSTM: no gradient is asked for, proposals in batches, training through f or by evolution."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.contract import Episode
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.rnn_blackbox import RNNBlackBox
from meta_opt.testing import check_meta_gradient, optimizer_checks
from meta_opt_optimizees.landscape import Landscape


@pytest.mark.parametrize("proposals", [1, 3])
@pytest.mark.parametrize("check", optimizer_checks())
def test_contract(check: Callable[[OptimizerNetwork], None], proposals: int) -> None:
    check(RNNBlackBox(8, proposals))


@pytest.mark.parametrize("proposals", [1, 2])
def test_first_order_is_exact(proposals: int) -> None:
    """f_t depends on φ through θ_t alone, and no gradient is read: nothing is held constant."""
    check_meta_gradient(FirstOrder(), RNNBlackBox(3, proposals), "finite differences", num_steps=5)


def of_bowls(network: RNNBlackBox, count: int = 4) -> Problems:
    problems = Problems(Landscape("convex_bowl"), "train", range(count), seed=0, dtype=torch.float64)
    if not list(network.parameters()):
        network.build(problems.layout, Generator().manual_seed(0))
        network.double()
    return problems


def test_no_gradient_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = RNNBlackBox(8)
    problems = of_bowls(network)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a gradient was asked for")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    losses = unroll(problems, network, begin(problems, network), 10).losses
    assert losses.shape == (10, 4)
    assert losses.isfinite().all()


def test_proposals_of_a_batch_do_not_depend_on_each_others_losses() -> None:
    network = RNNBlackBox(8, proposals=3)
    problems = of_bowls(network)
    position = begin(problems, network)
    state, places = position.state, []
    for loss in (5.0, 1.0, 2.0, 3.0):
        for other in (loss, loss + 1.0):  # the same place whatever its predecessor's loss, but when a batch is complete
            evaluation = position.evaluation.of(
                loss=torch.full((4,), other).double(), params=position.evaluation.params
            )
            step = network.step(evaluation, state)
            places.append(step.update)
        state = network.step(
            position.evaluation.of(loss=torch.full((4,), loss).double(), params=evaluation.params), state
        ).state
    same = [torch.equal(places[2 * at], places[2 * at + 1]) for at in range(4)]
    assert same == [False, True, True, False]


def test_all_proposals_are_within_the_bound() -> None:
    network = RNNBlackBox(8, bound=0.5)
    problems = of_bowls(network)
    with torch.no_grad():
        network.output_biases.fill_(20.0)
    end = unroll(problems, network, begin(problems, network), 6).end.evaluation.params
    assert (end.abs() <= 0.5).all()
    assert (end > 0.49).all()


@pytest.mark.parametrize("estimator", [FirstOrder(), NRES(8, 0.05)])
def test_meta_training_finds_the_bottom_of_bowls(estimator: FirstOrder | NRES) -> None:
    network, regrets = RNNBlackBox(16), []
    of_bowls(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def regret() -> Tensor:
        problems = of_bowls(network, 16)
        return unroll(problems, network, begin(problems, network), 10).losses.amin(0).mean()

    regrets.append(float(regret()))
    for index in range(60):
        episode = Episode(
            of_bowls(network, 16), network, MetaLoss("best", "constant"), 10, 10, partial(problem_generator, index)
        )
        for estimate in estimator.estimates(episode):
            for weight, grad in zip(network.parameters(), estimate.grads, strict=True):
                weight.grad = grad
            optimizer.step()
    regrets.append(float(regret()))
    assert regrets[1] < 0.3 * regrets[0]


def test_another_number_of_coordinates_is_refused() -> None:
    network = RNNBlackBox(8)
    of_bowls(network)
    from meta_opt_optimizees.gp_functions import GPFunctions

    problems = Problems(GPFunctions(3), "train", [0], seed=0)
    with pytest.raises(MetaOptError, match="was made for 2 coordinates, and the problem has 3"):
        begin(problems, network)


@pytest.mark.parametrize(("option", "value"), [("hidden_size", 0), ("proposals", 0), ("bound", 0.0)])
def test_values_out_of_range(option: str, value: float) -> None:
    with pytest.raises(MetaOptError, match=f"optimizer.{option} must be"):
        RNNBlackBox(**{option: value})  # type: ignore[arg-type]
