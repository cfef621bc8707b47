"""Hand-made optimizers behind the learned optimizer's contract: ``torch.optim`` itself, applied to θ of B problems.

SGD, momentum, RMSprop and Adam work coordinate by coordinate, so the tensor [B, N] is one parameter to them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meta_opt.optimizers.base import LearnedOptimizer
from meta_opt.params import Layout
from meta_opt.problems import Evaluation


class Baseline(LearnedOptimizer):
    """A ``torch.optim`` optimizer with fixed hyperparameters. Its state is the optimizer object itself."""

    def __init__(self, optimizer_class: type[torch.optim.Optimizer], lr: float, **options: Any) -> None:
        """Choose ``optimizer_class(params, lr=lr, **options)``."""
        super().__init__()
        self.optimizer_class = optimizer_class
        self.options = {"lr": lr, **options}

    def init_state(self, layout: Layout, num_problems: int) -> None:
        """Nothing yet: ``torch.optim`` wants the parameters first."""
        return

    def step(self, evaluation: Evaluation, state: torch.optim.Optimizer | None) -> tuple[Tensor, torch.optim.Optimizer]:
        """One step of the ``torch.optim`` optimizer; unlike a learned optimizer's, the state changes in place."""
        if state is None:
            state = self.optimizer_class([torch.empty_like(evaluation.params)], **self.options)
        param = state.param_groups[0]["params"][0]
        param.copy_(evaluation.params)
        param.grad = evaluation.grad
        state.step()
        return param - evaluation.params, state


def sgd(lr: float) -> Baseline:
    """Plain gradient descent."""
    return Baseline(torch.optim.SGD, lr)


def nesterov(lr: float) -> Baseline:
    """Gradient descent with Nesterov momentum 0.9."""
    return Baseline(torch.optim.SGD, lr, momentum=0.9, nesterov=True)


def rmsprop(lr: float) -> Baseline:
    """RMSprop with PyTorch's defaults."""
    return Baseline(torch.optim.RMSprop, lr)


def adam(lr: float) -> Baseline:
    """Adam with PyTorch's defaults."""
    return Baseline(torch.optim.Adam, lr)


BASELINES = {"SGD": sgd, "Nesterov": nesterov, "RMSprop": rmsprop, "Adam": adam}
