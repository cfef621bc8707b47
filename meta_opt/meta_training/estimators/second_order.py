"""The exact meta-gradient of an unroll: backpropagation through every step, second derivatives of f included."""

from __future__ import annotations

import torch

from meta_opt.inner_loop.unroll import Trajectory
from meta_opt.meta_training.estimators.base import MetaGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizers.contract import LearnedOptimizer


def second_order(trajectory: Trajectory, optimizer: LearnedOptimizer, meta_loss: MetaLoss) -> MetaGradient:
    """∂L/∂φ of ``trajectory``, which has kept its whole graph."""
    loss = meta_loss.value(trajectory.losses)
    grads = torch.autograd.grad(loss, optimizer.trained_parameters(), materialize_grads=True)
    return MetaGradient(loss.detach(), grads)
