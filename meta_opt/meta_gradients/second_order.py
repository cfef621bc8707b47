"""The exact meta-gradient of an unroll: backpropagation through every step, second derivatives of f included."""

from __future__ import annotations

import torch

from meta_opt.meta_gradients.base import MetaGradient
from meta_opt.meta_loss import MetaLoss
from meta_opt.optimizers.base import LearnedOptimizer
from meta_opt.problems import Problems
from meta_opt.unroll import Position, unroll


def second_order(
    problems: Problems, optimizer: LearnedOptimizer, start: Position, num_steps: int, meta_loss: MetaLoss
) -> MetaGradient:
    """Roll out ``num_steps`` steps from ``start``, keeping the whole graph, and differentiate it."""
    trajectory = unroll(problems, optimizer, start, num_steps, keep_graph=True)
    loss = meta_loss.value(trajectory.losses)
    grads = torch.autograd.grad(loss, optimizer.trained_parameters(), materialize_grads=True)
    return MetaGradient(trajectory, loss.detach(), grads)
