"""A random part of the coordinates, to replay instead of all of them.

Each coordinate's term of the meta-gradient is weighted by one over the probability that it is replayed, so that the
meta-gradient is right on average. Small tensors are always replayed whole: they are few coordinates and have much of
the variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from meta_opt.optimizees.layout import Layout

SMALL = 1024  # coordinates of a tensor that is not worth cutting


@dataclass(frozen=True)
class Subset:
    """Coordinates to replay."""

    columns: Tensor  # [n], which of the N coordinates, ascending
    weights: Tensor  # [n], one over the probability of each


def draw_subset(layout: Layout, fraction: float, generator: Generator) -> Subset:
    """Draw ``fraction`` of the coordinates of every tensor that is not small.

    Args:
        layout: The N coordinates.
        fraction: Which part of a tensor to draw, more than 0 and at most 1; at least ``SMALL`` of its coordinates.
        generator: The source of randomness, on the CPU.
    """
    columns, weights = [], []
    start = 0
    for size in layout.sizes:
        count = max(min(size, SMALL), round(fraction * size))
        drawn = torch.arange(size) if count == size else torch.randperm(size, generator=generator)[:count].sort().values
        columns.append(start + drawn)
        weights.append(torch.full((count,), size / max(count, 1)))
        start += size
    return Subset(torch.cat(columns), torch.cat(weights))
