"""What a learned optimizer reads instead of the raw gradient, whose scale ranges over many powers of ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_SIGN_P = 10.0
MOMENTS_BETA = 0.95
SLOW_BETA = 0.999
NUM_SCALES = 5  # what Scales says of a tensor
LAST_STEP = 1000.0  # time stands still from here on: what it would be later, hardly any meta-training has seen
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

    def corrected(self) -> Tensor:
        """m̂, [B, N]."""
        return self.mean / (1.0 - self.decay)

    def normalized(self, grad: Tensor) -> Tensor:
        """(m̂/√v̂, ∇/√v̂), [2, B, N]; the first is Adam's direction."""
        correction = 1.0 - self.decay
        # (v + 1e-30) keeps the square root differentiable where every gradient so far was zero.
        scale = 1.0 / (((self.square + 1e-30) / correction).sqrt() + _EPSILON)
        return torch.stack([self.mean * (scale / correction), grad * scale])


@dataclass(frozen=True)
class Scales:
    """How large the gradients of each of S tensors are, whether they agree, and for how many steps it has been.

    s ← β s + (1-β) mean ∇² over the tensor, with β = 0.95, and the same with β = 0.999, r; their roots s̄ = √ŝ and
    r̄ = √r̂ have the hat of :class:`Moments`. a = cos(∇, m), where m is the mean of the gradients before: about 0 where
    they are mostly noise, negative where steps overshoot.
    """

    square: Tensor  # [B, S], s
    slow: Tensor  # [B, S], r
    alignment: Tensor  # [B, S], a
    steps: Tensor  # [], t

    @classmethod
    def zeros(cls, like: Tensor, num_problems: int, num_tensors: int) -> Scales:
        """The scales before the first gradient, of the type and on the device of ``like``."""
        zeros = like.new_zeros(num_problems, num_tensors)
        return cls(zeros, zeros, zeros, like.new_zeros(()))

    def updated(self, grad: Tensor, mean: Tensor, sizes: Sequence[int]) -> Scales:
        """The scales after one more gradient.

        Args:
            grad: ∇, [B, N].
            mean: The mean of the gradients before it, m, [B, N].
            sizes: How many of the N coordinates each tensor has.
        """
        products = torch.stack([grad * grad, grad * mean, mean * mean])
        square, product, mean_square = torch.stack([part.mean(-1) for part in products.split(sizes, dim=-1)], dim=-1)
        # (x + 1e-30) keeps the square roots differentiable, and the cosine 0 where there is no direction.
        roots = (square + 1e-30).sqrt() * (mean_square + 1e-30).sqrt()
        return Scales(
            torch.lerp(self.square, square, 1.0 - MOMENTS_BETA),
            torch.lerp(self.slow, square, 1.0 - SLOW_BETA),
            product / roots,
            self.steps + 1.0,
        )

    def read(self) -> Tensor:
        """Four inputs and a factor for each tensor, [S, B, 5].

        ln min(t, 1000) / 4 - 1, ln s̄ / 5 + 1, a and ln(s̄ / r̄) / 2; and 1 / s̄.
        """
        root = (self.square / (1.0 - MOMENTS_BETA**self.steps) + 1e-20).sqrt()
        slow = (self.slow / (1.0 - SLOW_BETA**self.steps) + 1e-20).sqrt()
        size = root.log()
        time = (self.steps.clamp_max(LAST_STEP).log() / 4.0 - 1.0).expand_as(root)
        numbers = [time, size / 5.0 + 1.0, self.alignment, (size - slow.log()) / 2.0, 1.0 / root]
        return torch.stack(numbers, dim=-1).transpose(0, 1).contiguous()


def relative(mean: Tensor, grad: Tensor, scales: Tensor) -> Tensor:
    """What a network reads of coordinates of one tensor by its :class:`Scales`, [6, B, n].

    Four numbers of the tensor, the same for all coordinates, see :meth:`Scales.read`; then m̂/s̄ and ∇/s̄, each as
    sgn(x) ln(1 + |x|).

    Args:
        mean: m̂, [B, n].
        grad: ∇, [B, n].
        scales: Of this tensor, [B, 5], see :meth:`Scales.read`.
    """
    *same, factor = (column.unsqueeze(1) for column in scales.unbind(1))
    parts = torch.stack([mean, grad]) * factor
    negative = parts < 0.0  # not by sign and size, whose derivatives at zero are zero: here it is 1 there too
    logs = torch.where(negative, -parts, parts).log1p()
    return torch.cat([torch.stack(same).expand(-1, -1, grad.shape[1]), torch.where(negative, -logs, logs)])
