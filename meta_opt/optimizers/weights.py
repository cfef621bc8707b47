"""How weights of learned optimizers are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def uniform(shape: Sequence[int], bound: float, generator: Generator) -> Tensor:
    """Numbers from U(-bound, bound)."""
    return (torch.rand(*shape, generator=generator) * 2.0 - 1.0) * bound
