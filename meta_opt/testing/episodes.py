"""What the checks of estimators give them: small problems, a network of two weights, and episodes of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.policies import Decision, Gaussian, Policy, drawn
from meta_opt.optimizers.state import axis

NUM_STEPS, UNROLL_LENGTH, NUM_PROBLEMS = 10, 4, 2


class Bowls(Optimizee):
    """Two tensors in a bowl that is not quadratic; nothing is drawn from step to step."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def init_params(self, generator: Generator) -> TensorDict:
        """See :meth:`Optimizee.init_params`."""
        return {"matrix": torch.randn(2, 2, generator=generator), "vector": torch.randn(3, generator=generator)}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """See :meth:`Optimizee.sample_problem`."""
        return {"curvature": 0.5 + torch.rand(7, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """See :meth:`Optimizee.loss`."""
        theta = torch.cat([params["matrix"].flatten(), params["vector"]])
        coupled = (theta[:-1] * theta[1:]).sin().sum()
        return self.factor * ((problem["curvature"] * theta.square()).sum() + 0.3 * coupled + 8.0)


@dataclass(frozen=True)
class _Mean:
    mean: Tensor = axis("coordinate")  # [B, N]


class Momentum(Policy):
    """A rate and a decay, in two tensors of other shapes; a policy whose actions are rates."""

    scope = "coordinate"

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate

    def build(self, layout: Layout, generator: Generator) -> None:
        """See :meth:`OptimizerNetwork.build`."""
        self.rates, self.decay = nn.Parameter(torch.tensor([self.rate])), nn.Parameter(torch.tensor(0.5))

    def init_state(self, layout: Layout, num_problems: int) -> _Mean:
        """See :meth:`OptimizerNetwork.init_state`."""
        return _Mean(self.decay.new_zeros(num_problems, layout.num_coordinates))

    def step(self, evaluation: Evaluation, state: _Mean, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        mean = self.decay * state.mean + torch.tanh(evaluation.grad)
        if noise is None:
            return Step(-self.rates * mean, _Mean(mean))
        observation = mean.detach().unsqueeze(2)
        action = drawn(self.distributions(observation, state), noise)
        return Step(-action * mean, _Mean(mean), Decision(observation, action.detach()))

    def distributions(self, observations: Tensor, state: _Mean) -> Gaussian:
        """See :meth:`Policy.distributions`."""
        return Gaussian(self.rates.expand(observations.shape[:-1]), self.decay.new_full((), -3.0))


LOSS = MetaLoss("sum", "linear:0.3")


def bowls(factor: float = 1.0) -> Problems:
    """B problems, in float64; their losses are multiplied by ``factor``."""
    return Problems(Bowls(factor), "train", range(NUM_PROBLEMS), seed=0, dtype=torch.float64)


def built(network: OptimizerNetwork) -> OptimizerNetwork:
    """A copy with weights, in float64."""
    network = copy.deepcopy(network)
    network.build(bowls().layout, Generator().manual_seed(0))
    return network.double()


def momentum(rate: float = 0.1) -> OptimizerNetwork:
    """The network of a rate and a decay."""
    return built(Momentum(rate))


def episode_of(
    network: OptimizerNetwork,
    num_steps: int = NUM_STEPS,
    unroll_length: int = UNROLL_LENGTH,
    factor: float = 1.0,
) -> Episode:
    """An episode of :func:`bowls`."""
    streams = partial(problem_generator, 0, "episode")
    return Episode(bowls(factor), network, LOSS, num_steps, unroll_length, streams)


def run(estimator: Estimator, network: OptimizerNetwork, **options: Any) -> list[MetaGradient]:
    """All estimates of an episode."""
    return list(copy.deepcopy(estimator).double().estimates(episode_of(network, **options)))


def same(one: list[MetaGradient], other: list[MetaGradient]) -> bool:
    """Whether estimates are equal to the last bit."""

    def tensors(estimates: list[MetaGradient]) -> list[Tensor]:
        return [tensor for each in estimates for tensor in (each.loss, *each.grads, *each.own_grads, each.losses)]

    first, second = tensors(one), tensors(other)
    return len(first) == len(second) and all(map(torch.equal, first, second))
