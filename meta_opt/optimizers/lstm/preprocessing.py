"""What a learned optimizer reads instead of the raw gradient, whose scale ranges over many powers of ten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.optimizers.state import axis

LOG_SIGN_P = 10.0
MOMENTS_BETA = 0.95
NUM_SCALES = 3  # what Scales says of a tensor
MORE_STEPS = 1000.0  # how many are to come, for all that is known, where the length of a run is not
LAST_STEP = 1000.0  # time stands still from here on: what it would be later, hardly any meta-training has seen
LARGEST_GRADIENT = 1e15
LARGEST_JUMP = 1e3  # of the root mean square of a tensor's gradient, to that of those before
_EPSILON = 1e-8
_LEAST_SQUARE = 1e-20  # a mean square that is no larger is as good as zero


def bounded(grad: Tensor) -> Tensor:
    """The gradient within ±1e15, which is what everything here reads; infinity too, not-a-number stays what it is.

    One gradient of 1e25, once, would else make squares infinite in float32, whose largest number is 3e38, and moments
    not-a-number for good. Of a bounded gradient squares are at most 1e30; sums of these over a tensor, and its norm,
    are finite up to 3e8 coordinates (half of that where the mean, at most as large, is added before, as for
    Newton-Schulz iterations); the ratios that networks read have a root of 1e-10 or more in the denominator and are at
    most 1e26.

    Args:
        grad: ∇, any shape.
    """
    return grad.clamp(-LARGEST_GRADIENT, LARGEST_GRADIENT)


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


def log_times_sign(grad: Tensor, p: float = LOG_SIGN_P) -> Tensor:
    """The product of the two components of :func:`log_sign`: one number, as a bachelor's thesis tried it.

        ln|∇|/p · sgn ∇   if |∇| ≥ e^-p
        -e^p ∇            otherwise

    It falls from 0 to -1 at ∇ = e^-p, and rises again to 0 at ∇ = 1: two gradients give the same number.

    Args:
        grad: ∇, any shape [...].
        p: As in :func:`log_sign`.

    Returns:
        The input, [1, ...].
    """
    return log_sign(grad, p).prod(0, keepdim=True)


@dataclass(frozen=True)
class Moments:
    """Running moments of the gradient, both with decay β = 0.95 (Lv, Jiang and Li 2017, arXiv:1703.03633).

    m ← β m + (1-β) ∇,  v ← β v + (1-β) ∇²; a hat divides by 1 - β^t, as in Adam.
    """

    mean: Tensor = axis("coordinate")  # [B, N], m
    square: Tensor = axis("coordinate")  # [B, N], v
    decay: Tensor = axis("problem")  # [], β^t

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

    def part(self, start: int, stop: int) -> Moments:
        """The moments of coordinates ``start:stop``."""
        return Moments(self.mean[:, start:stop], self.square[:, start:stop], self.decay)

    def corrected(self) -> Tensor:
        """m̂, [B, N]."""
        return self.mean / (1.0 - self.decay)

    def normalized(self, grad: Tensor) -> Tensor:
        """(m̂/√v̂, ∇/√v̂), [2, B, N], after the gradient; the first is Adam's direction."""
        scale = self._scale()
        return torch.stack([self.mean * (scale / (1.0 - self.decay)), grad * scale])

    def faded(self, update: Tensor, grad: Tensor) -> Tensor:
        """An update, [B, N], but times |m̂|/√v̂, which is at most 1, where the gradient is exactly zero.

        Where gradients have ended, in the row of an embedding that is seen once or a unit that is dead, it so fades as
        Adam's does, whatever a network writes. A padding row or a pruned weight, whose gradients are all zero, stays
        where it is.
        """
        share = (self.mean * (self._scale() / (1.0 - self.decay))).abs()
        return torch.where(grad == 0.0, update * share, update)

    def _scale(self) -> Tensor:
        """1/√v̂, [B, N]."""
        # (v + 1e-30) keeps the square root differentiable where every gradient so far was zero.
        return 1.0 / (((self.square + 1e-30) / (1.0 - self.decay)).sqrt() + _EPSILON)


@dataclass(frozen=True)
class Scales:
    """How large the gradients of each of S tensors are.

    s ← β s + (1-β) mean ∇² over the tensor, with β = 0.95; its root s̄ = √ŝ has the hat of :class:`Moments`.
    """

    square: Tensor = axis("tensor")  # [B, S], s

    @classmethod
    def zeros(cls, like: Tensor, num_problems: int, num_tensors: int) -> Scales:
        """The scales before the first gradient, of the type and on the device of ``like``."""
        return cls(like.new_zeros(num_problems, num_tensors))

    def updated(self, grad: Tensor, sizes: Sequence[int], steps: Tensor) -> tuple[Scales, Tensor]:
        """Go on by one gradient.

        One that is out of all proportion would hide all others for as long as it is remembered: moments and scales
        forget a factor of 1e10 in a thousand steps. So a tensor's gradient is shortened to a root mean square of 1,000
        times s̄ before it, the most that there is in trainings that go well; where s is as good as zero, there is
        nothing to go by.

        Args:
            grad: ∇, [B, N], bounded.
            sizes: How many of the N coordinates each of S tensors has.
            steps: t, [], how many gradients there were before.

        Returns:
            The scales after it, and the gradient as it is read, [B, N].
        """
        parts = grad.split(list(sizes), dim=1)
        roots = [torch.linalg.vector_norm(part, dim=1) / math.sqrt(max(part.shape[1], 1)) for part in parts]
        root = torch.stack(roots, dim=1)  # [B, S]
        with torch.no_grad():
            most = LARGEST_JUMP * (self.square / (1.0 - MOMENTS_BETA**steps)).sqrt()
            factor = torch.where((self.square > _LEAST_SQUARE) & (root > most), most / root, 1.0)
        grad = torch.cat([part * factor[:, index : index + 1] for index, part in enumerate(parts)], dim=1)
        return Scales(torch.lerp(self.square, (root * factor).square(), 1.0 - MOMENTS_BETA)), grad

    def read(self, steps: Tensor) -> Tensor:
        """Of each tensor ln min(t, 1000) / 4 - 1, ln s̄ / 5 + 1 and 1 / s̄, [S, B, 3]: two inputs and a factor.

        Args:
            steps: t, [], with the last gradient.
        """
        root = (self.square / (1.0 - MOMENTS_BETA**steps) + _LEAST_SQUARE).sqrt()
        time = (steps.clamp_max(LAST_STEP).log() / 4.0 - 1.0).expand_as(root)
        return torch.stack([time, root.log() / 5.0 + 1.0, 1.0 / root], dim=-1).transpose(0, 1).contiguous()


def relative(mean: Tensor, grad: Tensor, scales: Tensor) -> Tensor:
    """What a network reads of coordinates of one tensor by its :class:`Scales`, [4, B, n].

    Time ln min(t, 1000) / 4 - 1 and size ln s̄ / 5 + 1 of the tensor, the same for all coordinates; then m̂/s̄ and ∇/s̄,
    each as sgn(x) ln(1 + |x|).

    Args:
        mean: m̂, [B, n].
        grad: ∇, [B, n].
        scales: Of this tensor, [B, 3], see :meth:`Scales.read`.
    """
    time, size, factor = (column.unsqueeze(1) for column in scales.unbind(1))
    parts = torch.stack([mean, grad]) * factor
    negative = parts < 0.0  # not by sign and size, whose derivatives at zero are zero: here it is 1 there too
    logs = torch.where(negative, -parts, parts).log1p()
    same = torch.stack([time, size]).expand(-1, -1, grad.shape[1])
    return torch.cat([same, torch.where(negative, -logs, logs)])


def log_odds(steps: Tensor, horizon: Tensor) -> Tensor:
    """How far a run is, ln(t / (steps still to come, this one too)) / 4, []: 0 in the middle, fine at both ends.

    Args:
        steps: t, [], 1 at the first step.
        horizon: The number of steps of the run, []; 0 where it is not known, and there are 1,000 to come.
    """
    to_come = torch.where(horizon == 0.0, MORE_STEPS, (horizon - steps + 1.0).clamp_min(1.0))
    return (steps / to_come).log() / 4.0
