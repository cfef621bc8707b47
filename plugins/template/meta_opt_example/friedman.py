"""Regression on a function of ten variables, five of which matter.

J. Friedman, Multivariate adaptive regression splines, The Annals of Statistics 19(1), 1991, equation 61:

    y = 10 sin(π x_1 x_2) + 20 (x_3 - 1/2)² + 10 x_4 + 5 x_5 + noise        x uniform in [0, 1)¹⁰, noise normal
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from meta_opt.api import ModuleOptimizee, OptimizeeError


class Friedman(ModuleOptimizee):
    """A network that learns Friedman's function of ten variables from noisy examples."""

    api_version = 2

    def __init__(self, hidden_size: int = 32, noise: float = 1.0, batch_size: int = 64) -> None:
        """Make the data set: 8,000 examples for training, 1,000 each for validation and test.

        Args:
            hidden_size: Units of each of the two hidden layers.
            noise: Standard deviation of the noise in y.
            batch_size: Examples in a mini-batch.

        Raises:
            OptimizeeError: If a number is out of range.
        """
        if hidden_size < 1:
            raise OptimizeeError(f"optimizee.hidden_size must be at least 1, not {hidden_size}")
        if noise < 0:
            raise OptimizeeError(f"optimizee.noise must be at least 0, not {noise}")
        x, y = examples(10_000, noise, Generator().manual_seed(0))
        super().__init__(
            partial(network, hidden_size),  # not a lambda, which could not be pickled
            train=(x[:8000], y[:8000]),
            validation=(x[8000:9000], y[8000:9000]),
            test=(x[9000:], y[9000:]),
            batch_size=batch_size,
            criterion=mse_loss,
        )

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """What ``fit`` uses unless it is told otherwise."""
        return {
            "model.num_steps": 100,
            "model.unroll_length": 50,
            "model.meta_loss": "log_sum",
            "model.clip_relative": 2.0,
            "optimizer.inputs": "log_sign+moments",
            "optimizer.initial_output": 0.1,
            "optimizer.base_step": 0.01,
        }


def network(hidden_size: int) -> nn.Module:
    """Ten inputs, two hidden layers, one output."""
    return nn.Sequential(
        nn.Linear(10, hidden_size), nn.Tanh(), nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1)
    )


def examples(count: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Inputs [count, 10] and targets [count, 1], the targets with mean 0 and standard deviation 1."""
    x = torch.rand(count, 10, generator=generator)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = y + noise * torch.randn(count, generator=generator)
    return x, ((y - y.mean()) / y.std()).unsqueeze(1)
