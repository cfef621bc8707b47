"""The kit for estimators, the estimators that ship and that of the template; values worked out by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.api import Episode, Estimator, MetaGradient, Optimizee, OptimizerNetwork, TensorDict
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM
from meta_opt.testing import check_meta_gradient, estimator_checks

sys.path.append(str(Path(__file__).parents[1] / "plugins" / "template"))
from meta_opt_example.balanced import Balanced
from meta_opt_example.momentum_mlp import MomentumMlp
from meta_opt_example.polyak_decay import PolyakDecay
from meta_opt_example.shrink import Shrink
from meta_opt_example.two_points import TwoPoints

ESTIMATORS = {
    "first_order": FirstOrder(),
    "a window": FirstOrder(update_every=2),
    "a part": FirstOrder(update_every=2, replay_fraction=0.5),
    "second_order": SecondOrder(),
    "two_points": TwoPoints(),
}
NETWORKS: dict[str, Callable[[], OptimizerNetwork]] = {
    "grad, coordinate": partial(CoordinatewiseLSTM, 1, 3),
    "grad, coordinate, moments": MomentumMlp,
    "grad, tensor": partial(CoordinatewiseLSTM, 1, 3, inputs="log_sign+moments+scales"),
    "grad, problem": Balanced,
    "grad, problem, vectors": partial(SubspaceLSTM, 2, 5),
    "loss, grad, params": PolyakDecay,
    "loss, params": Shrink,
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("check", estimator_checks())
def test_estimators(check: Callable[[Estimator], None], name: str) -> None:
    check(ESTIMATORS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_first_order(name: str) -> None:
    check_meta_gradient(FirstOrder(), NETWORKS[name](), "gradients held constant")


@pytest.mark.parametrize("name", NETWORKS)
def test_second_order(name: str) -> None:
    check_meta_gradient(SecondOrder(), NETWORKS[name](), "finite differences")


class Half(Optimizee):
    """f = θ²/2, θ_0 = 1."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"theta": torch.ones(1)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return params["theta"].square().sum() / 2


def of_half(estimator: Estimator, decay: float, step_size: float) -> MetaGradient:
    network = Shrink(decay, step_size)
    problems = Problems(Half(), "train", [0], seed=0, dtype=torch.float64)
    network.build(problems.layout, Generator())
    with torch.no_grad():
        for weight, value in zip(network.double().parameters(), (decay, step_size), strict=True):
            weight.fill_(value)
    streams = partial(problem_generator, 0)
    (estimate,) = estimator.estimates(Episode(problems, network, MetaLoss("sum", "constant"), 3, 3, streams))
    return estimate


@pytest.mark.parametrize("estimator", [FirstOrder(), SecondOrder()])
def test_an_update_of_theta(estimator: Estimator) -> None:
    """θ_t = (1-a)^t: dL/da = -Σ t (1-a)^(2t-1) = -(0.7 + 2·0.7³ + 3·0.7⁵) at a = 0.3."""
    assert of_half(estimator, 0.3, 0.0).grads[0].item() == pytest.approx(-1.89021, abs=1e-9)


@pytest.mark.parametrize("estimator", [FirstOrder(), SecondOrder()])
def test_an_update_of_the_loss(estimator: Estimator) -> None:
    above, below = (of_half(FirstOrder(), 0.0, 0.3 + side).loss.item() for side in (1e-5, -1e-5))
    assert of_half(estimator, 0.0, 0.3).grads[1].item() == pytest.approx((above - below) / 2e-5, rel=1e-8)


def test_a_wrong_gradient_is_seen() -> None:
    with pytest.raises(AssertionError, match="FirstOrder with MomentumMlp: the meta-gradient of .* is off by"):
        check_meta_gradient(FirstOrder(), MomentumMlp(), "finite differences")


class OneUnrollOnly(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        yield next(iter(super().estimates(episode)))


def test_missing_losses_are_seen() -> None:
    (check,) = (each for each in estimator_checks() if each.__name__ == "losses_of_every_step_once")
    with pytest.raises(AssertionError, match=r"must have the shape \[10, 2\] together, not \[4, 2\]"):
        check(OneUnrollOnly())
