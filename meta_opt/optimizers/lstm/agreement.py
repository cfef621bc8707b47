"""How far the gradients of a tensor agree from step to step, and steps that are the longer for it."""

from __future__ import annotations

from torch import Tensor

from meta_opt.optimizers.lstm.preprocessing import MOMENTS_BETA, Moments

_LEAST = 1e-30


def factors(moments: Moments, exponent: float) -> Tensor:
    """What updates of one tensor are multiplied with, [B, 1]: its agreement to a power, but never less than 1."""
    return agreement(moments).clamp_min(1.0).pow(exponent)


def agreement(moments: Moments) -> Tensor:
    """What the mean is of the gradients of one tensor, over what it would be if they were noise alone.

    Σ m̂² / Σ v̂, over its coordinates, which is 1 where all gradients are alike; over
    (1 - β)(1 + β^t) / ((1 + β)(1 - β^t)), which it is for independent gradients with a mean of zero. So it is 1 at the
    first step, about 1 where mini-batches are too small to say where to go, up to (1 + β) / (1 - β) = 39 where all of
    them say the same, and less than 1 where each takes back what the last one did.

    Args:
        moments: Those of the tensor after the last gradient, [B, n].

    Returns:
        [B, 1].
    """
    of_mean, of_square = moments.mean.square().sum(1, keepdim=True), moments.square.sum(1, keepdim=True)
    noise = (1.0 - MOMENTS_BETA) * (1.0 + moments.decay) / (1.0 + MOMENTS_BETA)
    return of_mean / ((of_square + _LEAST) * noise)
