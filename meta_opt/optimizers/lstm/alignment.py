"""Steps of a tensor that are longer as long as its gradients point where those before pointed."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.preprocessing import MOMENTS_BETA

_LEAST = 1e-30


def aligned(alignment: Tensor, grad: Tensor, mean: Tensor) -> Tensor:
    """How far the gradients of one tensor point where those before pointed, from -1 to 1, [B, 1].

    s ← β s + (1-β) cos(∇, m), with β = 0.95 and the running mean m of the gradients before. Where steps overshoot,
    gradients turn round, and it is less than 0; where they are the noise of small mini-batches, it is about 0. What
    a gradient is compared with is as in the rule delta-bar-delta of Jacobs (1988, "Increased rates of convergence
    through learning rate adaptation").

    Args:
        alignment: s before the gradient, [B, 1].
        grad: ∇, [B, n], bounded.
        mean: m, [B, n].
    """
    norms = torch.linalg.vector_norm(grad, dim=1, keepdim=True) * torch.linalg.vector_norm(mean, dim=1, keepdim=True)
    cosine = (grad * mean).sum(1, keepdim=True) / (norms + _LEAST)
    return torch.lerp(alignment, cosine, 1.0 - MOMENTS_BETA)
