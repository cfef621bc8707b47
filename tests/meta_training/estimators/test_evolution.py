"""Evolution strategies against exact gradients: what is unbiased, and over what."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.estimators.contract import Episode, MetaGradient
from meta_opt.meta_training.estimators.es import ES
from meta_opt.meta_training.estimators.evolution import Evolution
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.state import axis
from meta_opt.testing.episodes import bowls, built

SUM = MetaLoss("sum", "constant")


def an_episode(
    optimizee: Optimizee, network: OptimizerNetwork, num_steps: int, unroll_length: int, *, seed: int = 0, count: int = 1
) -> Episode:
    problems = Problems(optimizee, "train", range(count), seed=0, dtype=torch.float64)
    if not list(network.parameters()):
        network.build(problems.layout, Generator().manual_seed(0))
    return Episode(problems, network.double(), SUM, num_steps, unroll_length, partial(problem_generator, seed))


def total(estimates: list[MetaGradient]) -> Tensor:
    """The sum of an episode's meta-gradients, [D]."""
    return torch.stack([torch.cat([grad.flatten() for grad in each.grads]) for each in estimates]).sum(0)


class Parabola(Optimizee):
    """f = Σ c_i (θ_i - b)² / 2, θ_0 = 0; b is another in each mini-batch."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"theta": torch.zeros(3)}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {"b": torch.randn((), generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        curvature = torch.tensor([1.0, 2.0, 3.0], dtype=params["theta"].dtype)
        return (curvature * (params["theta"] - batch["b"]).square()).sum() / 2

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"above": (params["theta"] > 0.5).double().mean()}


class Constant(OptimizerNetwork):
    """The update is φ, so that the meta-loss is a quadratic in φ."""

    reads = frozenset({"params"})

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def init_state(self, layout: Layout, num_problems: int) -> tuple[()]:
        return ()

    def step(self, evaluation: Evaluation, state: tuple[()], noise: Generator | None = None) -> Step:
        return Step(self.weights.expand_as(evaluation.params), ())


@pytest.mark.parametrize("estimator", [ES(50, 0.3), PES(50, 0.3), NRES(50, 0.3)])
def test_the_mean_is_the_gradient_of_a_quadratic_meta_loss(estimator: Evolution) -> None:
    """Antithetic differences of a quadratic know no smoothing: (L+ - L-) / 2σ = ∇L·ε, and E[ε εᵀ] = 1."""
    make = partial(an_episode, Parabola(), Constant(), 2, 2)
    exact = total(list(SecondOrder().estimates(make())))
    drawn = torch.stack([total(list(estimator.estimates(make(seed=seed)))) for seed in range(40)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - exact).abs() < 3.5 * error).all()
    assert (error < 0.06 * exact.norm()).all()  # so that a wrong factor would be seen


@dataclass(frozen=True)
class Steps:
    taken: Tensor = axis("problem")  # []


class LinearSchedule(OptimizerNetwork):
    """SGD whose learning rate goes from e^φ_0 to e^φ_1 in 100 steps."""

    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.full((2,), math.log(0.01)))

    def init_state(self, layout: Layout, num_problems: int) -> Steps:
        return Steps(self.weights.new_zeros(()))

    def step(self, evaluation: Evaluation, state: Steps, noise: Generator | None = None) -> Step:
        first, last = self.weights.exp()
        rate = torch.lerp(first, last, state.taken / 100)
        return Step(-rate * evaluation.grad, Steps(state.taken + 1))


class ToyRegression(Optimizee):
    """The toy problem of Vicol et al. (2021, arXiv:2112.13835, section 5): greedy learning rates are far too small."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"x": torch.ones(2)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        first, second = params["x"]
        bowl = (first.square() + 5).sqrt() - math.sqrt(5)
        return bowl + second.sin().square() * (-5 * first.square()).exp() + 0.25 * (second - 100).abs()


def toy(unroll_length: int, seed: int = 0) -> Episode:
    return an_episode(ToyRegression(), LinearSchedule(), 100, unroll_length, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [PES, NRES, ES])
def test_over_truncations_pes_and_nres_are_unbiased_and_es_is_not(kind: Callable[..., Evolution]) -> None:
    exact = total(list(SecondOrder().estimates(toy(100))))
    truncated = total(list(SecondOrder().estimates(toy(10))))
    drawn = torch.stack([total(list(kind(20, 0.1).estimates(toy(10, seed)))) for seed in range(30)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    print(exact, truncated, drawn.mean(0), error)
    right, greedy = (((drawn.mean(0) - each).abs() / error).max() for each in (exact, truncated))
    if kind is ES:
        assert greedy < 4.0 < right
    else:
        assert right < 4.0 < greedy
