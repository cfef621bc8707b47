"""What the gradient of a matrix says as a matrix: where it points once all its singular values are one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.preprocessing import MOMENTS_BETA, Moments

_COEFFICIENTS = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS = 5
_LEAST_NORM = 1e-12
_NEARLY_SQUARE = 1.4


def orthogonalized(matrices: Tensor) -> Tensor:
    """About U Vᵀ for M = U S Vᵀ, scaled so that the root mean square of the entries is about 1.

    Newton-Schulz iterations with the polynomial of Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
    neural networks"), which bring singular values of M down to about 1e-3 of its norm to between 0.7 and 1.2. Unless M
    is nearly square they run on M Mᵀ of the shorter side, so that M itself is multiplied twice only.

    Args:
        matrices: M, [..., r, c].

    Returns:
        [..., r, c]; zero where M is.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalized(matrices.mT).mT
    rows, columns = matrices.shape[-2:]
    matrices = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + _LEAST_NORM)
    identity = torch.eye(rows, dtype=matrices.dtype, device=matrices.device)
    gram = matrices @ matrices.mT
    if columns < _NEARLY_SQUARE * rows:  # five times two products with M and one of M Mᵀ are fewer operations
        for _ in range(_NUM_ITERATIONS - 1):
            matrices = _polynomial(gram, identity) @ matrices
            gram = matrices @ matrices.mT
        return math.sqrt(columns) * (_polynomial(gram, identity) @ matrices)
    factor = product = _polynomial(gram, identity)
    for _ in range(_NUM_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram, identity)
        product = factor @ product
    return math.sqrt(columns) * (product @ matrices)


def _polynomial(gram: Tensor, identity: Tensor) -> Tensor:
    """What one iteration multiplies a matrix by whose M Mᵀ is ``gram``, [..., r, r]."""
    linear, cubic, quintic = _COEFFICIENTS
    return linear * identity + gram @ (cubic * identity + quintic * gram)


def directions(grads: Sequence[Tensor], moments: Moments, segments: Sequence[Segment]) -> list[Tensor]:
    """Of each matrix the orthogonalized m̂ + ∇ after each gradient.

    Args:
        grads: The next T gradients, each [B, N], bounded.
        moments: Those before them.
        segments: What tensors the coordinates are in.

    Returns:
        T tensors [B, N]; zero in vectors.
    """
    mean, decay, sums = moments.mean, moments.decay, []
    for grad in grads:
        mean, decay = torch.lerp(mean, grad, 1.0 - MOMENTS_BETA), decay * MOMENTS_BETA
        sums.append(mean / (1.0 - decay) + grad)
    parts = []
    for segment in segments:
        part = torch.stack([each[:, segment.start : segment.stop] for each in sums])  # [T, B, n]
        if segment.num_rows:
            parts.append(orthogonalized(part.unflatten(-1, (segment.num_rows, -1))).flatten(-2))
        else:
            parts.append(torch.zeros_like(part))
    return list(torch.cat(parts, dim=-1))
