"""Functions drawn from a Gaussian process, to be minimized from values alone (Chen et al. 2017, arXiv:1611.03824)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.api import Optimizee, OptimizeeError, Split, TensorDict

BOX = 1.5  # functions are of |θ_i| ≤ BOX; outside, the value at the edge and the squared distance to it
_NUM_WAVES = 128
_NUM_SAMPLES = 2048
_NUM_DESCENDING = 40  # of the samples, for each dimension
_NUM_DESCENTS = 40
_NUM_ROUNDS = 6


class GPFunctions(Optimizee):
    """Draws of a Gaussian process with a squared exponential kernel, as sums of random cosines (Rahimi and Recht 2007).

    The loss is the value less the least that descents from the best of many places find in the box: the regret.
    """

    def __init__(self, dimensions: int = 2, length_scale: float = 0.6) -> None:
        """Choose how hard they are.

        Args:
            dimensions: N, of the functions.
            length_scale: Of the kernel; the box has a side of 3.

        Raises:
            OptimizeeError: If a value is out of range.
        """
        if dimensions < 1:
            raise OptimizeeError(f"optimizee.dimensions must be at least 1, not {dimensions}")
        if not 0.0 < length_scale < math.inf:
            raise OptimizeeError(f"optimizee.length_scale must be a number of more than 0, not {length_scale}")
        self._dimensions = dimensions
        self._length_scale = length_scale

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0, uniform in -1 to 1."""
        return {"theta": 2.0 * torch.rand(self._dimensions, generator=generator) - 1.0}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """Frequencies, phases and weights of the cosines; the least value."""
        waves = {
            "frequencies": torch.randn(_NUM_WAVES, self._dimensions, generator=generator) / self._length_scale,
            "phases": 2.0 * math.pi * torch.rand(_NUM_WAVES, generator=generator),
            "weights": torch.randn(_NUM_WAVES, generator=generator) * math.sqrt(2.0 / _NUM_WAVES),
        }
        points = BOX * (2.0 * torch.rand(_NUM_SAMPLES, self._dimensions, generator=generator) - 1.0)
        points = points[_value(points, waves).argsort()[: _NUM_DESCENDING * self._dimensions]]
        for _ in range(_NUM_DESCENTS):
            sines = (points @ waves["frequencies"].mT + waves["phases"]).sin() * waves["weights"]
            points = (points + 0.2 * self._length_scale**2 * sines @ waves["frequencies"]).clamp(-BOX, BOX)
        width = 0.3 * self._length_scale
        for _ in range(_NUM_ROUNDS):  # around the best, closer and closer
            best = points[_value(points, waves).argsort()[:16]]
            near = best + width * torch.randn(16, *best.shape, generator=generator)
            points = torch.cat([best, near.flatten(0, 1).clamp(-BOX, BOX)])
            width /= 2.5
        return {**waves, "least": _value(points, waves).min()}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """The regret at θ."""
        theta = params["theta"]
        inside = theta.clamp(-BOX, BOX)
        return (_value(inside, problem) - problem["least"]).clamp_min(0.0) + (theta - inside).square().sum()

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Many problems at once, which cost little."""
        return BLACK_BOX_SETTINGS


BLACK_BOX_SETTINGS: dict[str, Any] = {
    "model.num_steps": 30,
    "model.unroll_length": 30,
    "model.num_problems": 64,
    "model.num_validation_problems": 128,
    "model.reference_lr": 0.1,
    "model.lr_schedule": "cosine",
    "model.normalize_gradient": True,
    "model.average_decay": 0.98,
    "trainer.max_epochs": 20,
}


def _value(points: Tensor, waves: TensorDict) -> Tensor:
    """F at [..., N]."""
    return (points @ waves["frequencies"].mT + waves["phases"]).cos() @ waves["weights"]
