"""What an estimator of the meta-gradient gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MetaGradient:
    """What an unroll says about φ."""

    loss: Tensor  # [], the meta-loss L
    grads: tuple[Tensor, ...]  # ∂L/∂φ, one per parameter of the optimizer that requires a gradient, in their order
