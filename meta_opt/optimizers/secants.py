"""Lengths of steps that the last step tells of, for optimizees whose gradients have no noise.

Where the gradient changed by y over a step s, a gradient of size |∇| is gone after a step of |s|/|y| · |∇|, were the
curvature the same in all directions (after Barzilai and Borwein 1988).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.optimizers.state import axis

NUM_FEATURES = 3
LONGER = 3.0  # a step is at most so many times as long as the last
_LEAST = 1e-30
_DECADES = 4.0  # that count as one


@dataclass(frozen=True)
class LastStep:
    """The last step that was one; zero before the first."""

    update: Tensor = axis("coordinate")  # s, [B, N]
    grad: Tensor = axis("coordinate")  # ∇ before it, [B, N]

    def followed_by(
        self, step: LastStep, mean_of: Callable[[Tensor], Tensor], spread: Callable[[Tensor], Tensor]
    ) -> LastStep:
        """A step, or, of what it does not move, this one, which still tells the curvature.

        Args:
            step: The step.
            mean_of: Means over the coordinates of each action, [B, N] to [B, A].
            spread: The other way, [B, A] to [B, N].
        """
        moved = spread(root_mean_square(step.update.detach(), mean_of)) > 0.0
        return LastStep(torch.where(moved, step.update, self.update), torch.where(moved, step.grad, self.grad))


def root_mean_square(rows: Tensor, mean_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Over the coordinates of each action, [B, N] to [B, A]; where it is 0, its derivative counts as 0.

    In float64, where squares of small numbers are not 0, but on Apple's GPUs, which do not have it.
    """
    wide = rows if rows.device.type == "mps" else rows.double()
    squares = mean_of(wide.square())
    known = squares > 0.0
    return torch.where(known, torch.where(known, squares, 1.0).sqrt(), 0.0).to(rows.dtype)


def divisor(size: Tensor) -> Tensor:
    """Sizes of at least 1e-30 to divide by; 1 for 0, so that no derivative is infinite where a quotient is not used."""
    return torch.where(size > 0.0, size, 1.0) + _LEAST


def secant_lengths(
    last: LastStep, grad: Tensor, first: float, longest: float, mean_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """How long the next step should be, by root mean squares over the coordinates of what has an action of its own.

    Args:
        last: The last step. To first order, where ∇ has no graph, what it was is taken as it is.
        grad: ∇, [B, N].
        first: Length of the first step.
        longest: No step is longer than this.
        mean_of: Means over the coordinates of each action, [B, N] to [B, A].

    Returns:
        Lengths |s|/|y| · |∇|, [B, A]; limits, the most that a step may be, [B, A]; and what a policy should know of
        them, [B, A, 3]: the cosine of s and y, below zero where the curvature is negative, and the logarithms of the
        length relative to the last step and to ``first``, both from -1 to 1.
    """
    update, before = last.update, last.grad
    if not grad.requires_grad:
        update, before = update.detach(), before.detach()
    change = grad - before
    stepped, size, bent = (root_mean_square(each, mean_of) for each in (update, grad, change))
    known = (stepped > 0.0) & (bent > 0.0)
    limit = torch.where(stepped > 0.0, LONGER * stepped, first).clamp_max(longest)
    length = torch.where(known, stepped * (size / divisor(bent)), torch.where(stepped > 0.0, stepped, first))
    length = torch.minimum(length, limit)
    cosine = mean_of(update * change) / divisor(stepped * bent)
    relative = torch.where(stepped > 0.0, length / divisor(stepped) + _LEAST, 1.0)
    features = [
        torch.where(known, cosine, 0.0).clamp(-1.0, 1.0),
        (relative.log10() / _DECADES).clamp(-1.0, 1.0),
        ((length + _LEAST) / first).log10().div(_DECADES).clamp(-1.0, 1.0),
    ]
    return length, limit, torch.stack(features, dim=-1)
