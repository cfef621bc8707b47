"""The meta-gradient with ∂∇_t/∂φ := 0 (Andrychowicz et al. 2016, section 2.1), without a graph of the optimizee.

With gradients held constant, θ_t depends on φ only through the sum of the updates before it, so

    ∂L/∂g_τ = Σ_{t=τ+1..T} (∂L/∂f_t) ∇f_t(θ_t) =: c_τ

and every term is a gradient that the rollout computed anyway. The meta-gradient Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ is then plain
backpropagation through the optimizer network over the recorded inputs: the replay, :meth:`LearnedOptimizer.replay`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from meta_opt.inner_loop.unroll import Trajectory
from meta_opt.meta_training.estimators.base import MetaGradient
from meta_opt.meta_training.estimators.subset import Subset
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizers.contract import LearnedOptimizer


def first_order(
    trajectory: Trajectory, optimizer: LearnedOptimizer, meta_loss: MetaLoss, subset: Subset | None = None
) -> MetaGradient:
    """∂L/∂φ of ``trajectory`` to first order, at the φ that ``optimizer`` has now.

    Args:
        trajectory: What was recorded.
        optimizer: m_φ.
        meta_loss: L.
        subset: Replay these coordinates only, weighted.
    """
    losses = trajectory.losses
    coefficients = update_gradients(trajectory, meta_loss.slopes(losses))
    recorded = trajectory.evaluations[:-1], trajectory.start.state
    if subset is None:
        return MetaGradient(meta_loss.value(losses), optimizer.replay(*recorded, coefficients))
    columns, weights = subset.columns.to(losses.device), subset.weights.to(losses)
    coefficients = [item.index_select(1, columns) * weights for item in coefficients]
    grads = optimizer.replay(*recorded, coefficients, columns)
    return MetaGradient(meta_loss.value(losses), grads)


def update_gradients(trajectory: Trajectory, slopes: Tensor) -> list[Tensor]:
    """c_τ = ∂L/∂g_τ for τ = 0..T-1, each [B, N], from the slopes ∂L/∂f_t [T, B]."""
    total = torch.zeros_like(trajectory.start.evaluation.grad)
    coefficients = []
    for slope, evaluation in zip(slopes.flip(0), reversed(trajectory.evaluations[1:]), strict=True):
        total = torch.addcmul(total, evaluation.grad, slope.unsqueeze(1))
        coefficients.append(total)
    return coefficients[::-1]
