"""The contract of stochastic policies: optimizer networks whose steps draw actions, for estimators of their return.

With ``noise`` a policy draws a_t ~ N(μ_φ(o_t), σ_φ²) and records the decision; without, it acts by μ_φ.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta_opt.optimizers.contract import OptimizerNetwork


class Decision(NamedTuple):
    """What a stochastic step decided, and on what grounds; neither has a graph.

    Attributes:
        observation: o_t, [B, A, F]: of A actions of each problem.
        action: a_t, [B, A].
    """

    observation: Tensor
    action: Tensor


class Gaussian(NamedTuple):
    """Independent normal distributions of actions.

    Attributes:
        mean: μ, [..., B, A].
        log_std: ln σ, of a shape that broadcasts to it.
    """

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        """Ln p(a) of each action, [..., B, A]."""
        error = (action - self.mean) * (-self.log_std).exp()
        return -0.5 * error.square() - self.log_std - 0.5 * math.log(2.0 * math.pi)

    @property
    def entropy(self) -> Tensor:
        """Entropy of each action's distribution, in nats, as ln σ."""
        return self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)


class Policy(OptimizerNetwork):
    """An optimizer network whose steps with ``noise`` give a :class:`Decision` as their record.

    What it observes depends on φ through the actions before only, so that the probabilities of recorded actions are a
    function of the recorded observations.
    """

    @abstractmethod
    def distributions(self, observations: Tensor, state: Any) -> Gaussian:
        """The distributions that the actions of recorded steps are drawn from, differentiable in φ.

        Args:
            observations: o_t of steps t = 0..T-1, [T, B, A, F].
            state: h_0, the state before the first of them.

        Returns:
            Distributions of [T, B, A].
        """


def drawn(distribution: Gaussian, noise: torch.Generator) -> Tensor:
    """Actions from a distribution, on its device, differentiable in it."""
    mean = distribution.mean
    normal = torch.randn(mean.shape, generator=noise, dtype=mean.dtype, device=noise.device).to(mean.device)
    return mean + distribution.log_std.exp() * normal
