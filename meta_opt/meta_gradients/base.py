"""What an estimator of the meta-gradient takes and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from meta_opt.meta_loss import MetaLoss
from meta_opt.optimizers.base import LearnedOptimizer
from meta_opt.unroll import Trajectory


@dataclass(frozen=True)
class MetaGradient:
    """What an unroll says about φ."""

    loss: Tensor  # [], the meta-loss L
    grads: tuple[Tensor, ...]  # ∂L/∂φ, one per parameter of the optimizer that requires a gradient, in their order


Estimator = Callable[[Trajectory, LearnedOptimizer, MetaLoss], MetaGradient]
