"""What a learned optimizer reads instead of the raw gradient, whose scale ranges over many powers of ten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_SIGN_P = 10.0
MOMENTS_BETA = 0.95
_EPSILON = 1e-8


def log_sign(grad: Tensor, p: float = LOG_SIGN_P) -> Tensor:
    """Logarithm and sign of the gradient (Andrychowicz et al. 2016, appendix A).

        (ln|∇|/p, sgn ∇)   if |∇| ≥ e^-p
        (-1, e^p ∇)        otherwise

    Args:
        grad: ∇, any shape [...].
        p: How small a gradient still counts: the smallest is e^-p.

    Returns:
        The two inputs, [2, ...].
    """
    smallest = math.exp(-p)
    # Both cases at once: below e^-p the clamped logarithm is -p, and above it e^p ∇ is clamped to the sign.
    return torch.stack([grad.abs().clamp_min(smallest).log() / p, (grad / smallest).clamp(-1.0, 1.0)])


@dataclass(frozen=True)
class Moments:
    """Running moments of the gradient, both with decay β = 0.95 (Lv, Jiang and Li 2017, arXiv:1703.03633).

    m ← β m + (1-β) ∇,  v ← β v + (1-β) ∇²; a hat divides by 1 - β^t, as in Adam.
    """

    mean: Tensor  # [B, N], m
    square: Tensor  # [B, N], v
    decay: Tensor  # [], β^t

    @classmethod
    def zeros(cls, like: Tensor, num_problems: int, num_coordinates: int) -> Moments:
        """The moments before the first gradient, of the type and on the device of ``like``."""
        shape = (num_problems, num_coordinates)
        return cls(like.new_zeros(shape), like.new_zeros(shape), like.new_ones(()))

    def updated(self, grad: Tensor) -> Moments:
        """The moments after one more gradient, [B, N]."""
        beta = MOMENTS_BETA
        return Moments(
            torch.lerp(self.mean, grad, 1.0 - beta),
            torch.lerp(self.square, grad * grad, 1.0 - beta),
            self.decay * beta,
        )

    def normalized(self, grad: Tensor) -> Tensor:
        """(m̂/√v̂, ∇/√v̂), [2, B, N]; the first is Adam's direction."""
        correction = 1.0 - self.decay
        # (v + 1e-30) keeps the square root differentiable where every gradient so far was zero.
        scale = 1.0 / (((self.square + 1e-30) / correction).sqrt() + _EPSILON)
        return torch.stack([self.mean * (scale / correction), grad * scale])
