"""The direction of limited-memory BFGS, from inner products.

The two loops of Nocedal 1980 add multiples of steps and of changes of the gradient to a gradient; which multiples,
inner products of all of these determine (Chen et al. 2014, "Large-scale L-BFGS using MapReduce"). So the direction of B
problems is found in coefficients, whatever the number of coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_COSINE = 1e-3  # between a step and the change of the gradient in it, for the pair to tell the curvature
_MAX_LENGTH = 2.0  # of the direction, times the longest step


class Direction(NamedTuple):
    """A combination d of the V vectors of B problems."""

    coefficients: Tensor  # [B, V]
    length: Tensor  # [B, 1], ‖d‖
    cosines: Tensor  # [B, V], between d and each of the vectors; 0 for vectors of length 0


def lbfgs_direction(lengths: Tensor, cosines: Tensor) -> Direction:
    """The gradient times the inverse Hessian that V = 2k + 1 vectors tell of; the step is minus that.

    A pair whose step and change do not point the same way, or which is not there yet, is left out. The direction is
    made no longer than twice the longest step: without a line search this is what keeps it from going astray.

    Args:
        lengths: Of gradient, k steps and k changes of the gradient, newest first, [B, V]; not far from 1.
        cosines: Between all of them, [B, V, V].
    """
    history = lengths.shape[1] // 2
    products = cosines * lengths.unsqueeze(2) * lengths.unsqueeze(1)  # [B, V, V]
    pairs = [(1 + i, 1 + history + i) for i in range(history)]
    usable = torch.stack([cosines[:, step, change] > _LEAST_COSINE for step, change in pairs])  # [k, B]
    curvatures = torch.stack([products[:, step, change] for step, change in pairs])
    inverse = torch.where(usable, 1.0 / torch.where(usable, curvatures, 1.0), 0.0).unsqueeze(2)  # [k, B, 1]
    along = products[:, 0]  # inner products of all vectors with what is to become d
    first = []
    for index, (step, change) in enumerate(pairs):
        first.append(inverse[index] * along[:, step : step + 1])
        along = along - first[index] * products[:, change]
    newest = torch.where(usable[0], products[:, history + 1, history + 1], 1.0)
    scale = torch.where(usable[0], curvatures[0] / newest, 1.0).unsqueeze(1)
    along = scale * along
    second = []
    for index, (step, change) in reversed([*enumerate(pairs)]):
        second.append(first[index] - inverse[index] * along[:, change : change + 1])
        along = along + second[-1] * products[:, step]
    coefficients = torch.cat([scale, *reversed(second), *(-scale * item for item in first)], dim=1)

    squared = (coefficients * along).sum(1, keepdim=True)
    length = torch.where(squared > 0.0, squared, 1.0).sqrt()
    known = (squared > 0.0) & (lengths > 0.0)
    along = torch.where(known, along / (length * torch.where(known, lengths, 1.0)), 0.0)
    length = torch.where(squared > 0.0, length, 0.0)
    limit = _MAX_LENGTH * lengths[:, 1 : history + 1].amax(1, keepdim=True)
    long = (length > limit) & (limit > 0.0)
    factor = torch.where(long, limit / torch.where(long, length, 1.0), 1.0)
    return Direction(factor * coefficients, factor * length, along)
