"""Random quadratic functions, the first problem of Andrychowicz et al. 2016 (arXiv:1606.04474, section 3.1)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from meta_opt.api import Optimizee, OptimizeeError, Split, TensorDict

Convention = Literal["gaussian", "uniform"]


class Quadratic(Optimizee):
    """Random quadratic functions ‖Wθ - y‖², a new W and y for every problem."""

    def __init__(
        self, dimension: int = 10, convention: Convention = "gaussian", condition: float | None = None
    ) -> None:
        """Choose the distribution.

        Args:
            dimension: Length of θ and y; W is square.
            convention: gaussian: W, y and θ_0 standard normal, as the paper has it; uniform: W and y uniform in [0, 1)
                and θ_0 normal with standard deviation 0.01, as in DeepMind's published code.
            condition: Condition number κ of the Hessian 2 WᵀW, at least 1: the squares of the singular values of W are
                spaced evenly on a log scale from κ to 1, times what makes their mean N, as in Gaussian W on average;
                singular vectors are random. Null: W as it is drawn. For convention gaussian.

        Raises:
            OptimizeeError: If an argument is out of range.
        """
        if dimension < 1:
            raise OptimizeeError(f"optimizee.dimension must be at least 1, not {dimension}")
        if condition is not None and not condition >= 1.0:
            raise OptimizeeError(f"optimizee.condition must be at least 1, not {condition}")
        if condition is not None and convention != "gaussian":
            raise OptimizeeError(f"optimizee.condition is for the convention gaussian, not {convention}")
        self._dimension = dimension
        self._condition = condition
        self._draw, self._init_std = (torch.randn, 1.0) if convention == "gaussian" else (torch.rand, 0.01)

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0, normal."""
        return {"theta": torch.randn(self._dimension, generator=generator) * self._init_std}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """W and y."""
        w = self._draw(self._dimension, self._dimension, generator=generator)
        if self._condition is not None:
            # Orthogonal factors of Gaussian matrices, which are as likely to point anywhere (up to signs of columns).
            left, _ = torch.linalg.qr(w)
            right, _ = torch.linalg.qr(torch.randn(w.shape, generator=generator))
            squares = torch.logspace(0.0, -math.log10(self._condition), self._dimension)
            w = left * (squares * self._dimension / squares.mean()).sqrt() @ right.T
        return {"w": w, "y": self._draw(self._dimension, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """‖Wθ - y‖², the sum of squares."""
        return (problem["w"] @ params["theta"] - problem["y"]).square().sum()

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """The paper's network without preprocessing, 100 steps in unrolls of 20; many problems at once cost little.

        The meta-gradients are normalized: losses fall by orders of magnitude, and the later unrolls matter too.
        """
        return {
            "model.num_steps": 100,
            "model.unroll_length": 20,
            "model.num_problems": 64,
            "model.num_validation_problems": 128,
            "model.num_test_problems": 256,
            "model.lr": 0.005,
            "model.lr_schedule": "cosine",
            "model.normalize_gradient": True,
            "model.average_decay": 0.98,
            "model.reference_lr": 0.3,
            "optimizer.inputs": "none",
            "optimizer.output": "linear",
            "trainer.max_epochs": 12,
            "alpha_opt:optimizer.direction": "gradient",
            "alpha_opt:optimizer.unit": "secant",  # there is no noise
            "alpha_opt:optimizer.base_rate": 0.1,
            "alpha_opt:optimizer.decades": 0.7,
            "alpha_opt:optimizer.initial_std": 0.2,
            "alpha_opt:model.unroll_length": 100,
            "alpha_opt:model.lr": 0.01,
            "alpha_opt:model.estimator.discount": 1.0,
            "alpha_opt:model.estimator.smoothing": 0.98,
            "alpha_opt:trainer.max_epochs": 4,
        }
