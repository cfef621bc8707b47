"""Steps that hold back where the last gradient speaks against them."""

from __future__ import annotations

from torch import Tensor


def factors(direction: Tensor, grad: Tensor, caution: float) -> Tensor:
    """What updates of one tensor are multiplied with, [B, n] (after Liang et al. 2024, arXiv:2411.16085).

    1 - caution where a step along -d climbs by the last gradient, as the signs of d and ∇ differ, and 1 elsewhere; over
    the mean of these, so that what is taken away is given to the other coordinates.

    Args:
        direction: d of the base step, [B, n], or what has its signs.
        grad: The last gradient ∇, [B, n].
        caution: From 0 to less than 1.
    """
    held_back = 1.0 - caution * (direction * grad < 0.0).to(grad.dtype)
    return held_back / held_back.mean(1, keepdim=True)
