"""How far the gradients of a tensor agree from step to step, and steps that are the longer for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.preprocessing import MOMENTS_BETA, Moments

_LEAST = 1e-30


def factors(moments: Moments, sizes: Sequence[int], exponent: float) -> Tensor:
    """What updates of each tensor are multiplied with, [B, S]: its agreement to a power, but never less than 1."""
    return agreement(moments, sizes).clamp_min(1.0).pow(exponent)


def agreement(moments: Moments, sizes: Sequence[int]) -> Tensor:
    """What the mean is of the gradients, over what it would be if they were noise alone.

    Of each tensor Σ m̂² / Σ v̂, over its coordinates, which is 1 where all gradients are alike; over
    (1 - β)(1 + β^t) / ((1 + β)(1 - β^t)), which it is for independent gradients with a mean of zero. So it is 1 at the
    first step, about 1 where mini-batches are too small to say where to go, up to (1 + β) / (1 - β) = 39 where all of
    them say the same, and less than 1 where each takes back what the last one did.

    Args:
        moments: Those after the last gradient, [B, N].
        sizes: How many of the N coordinates each of S tensors has.

    Returns:
        [B, S].
    """
    means, squares = (each.split(list(sizes), dim=1) for each in (moments.mean, moments.square))
    of_mean = torch.stack([part.square().sum(1) for part in means], dim=1)
    of_square = torch.stack([part.sum(1) for part in squares], dim=1)
    noise = (1.0 - MOMENTS_BETA) * (1.0 + moments.decay) / (1.0 + MOMENTS_BETA)
    return of_mean / ((of_square + _LEAST) * noise)


def lengthened(update: Tensor, factors: Tensor, sizes: Sequence[int]) -> Tensor:
    """An update, or what it is multiplied with, [B, N], times the factor of each tensor, [B, S]."""
    parts = zip(update.split(list(sizes), dim=1), factors.split(1, dim=1), strict=True)
    return torch.cat([part * factor for part, factor in parts], dim=1)
