"""Several optimizees in one meta-training."""

from __future__ import annotations

import torch
from torch import Generator

from meta_opt.api import Optimizee, OptimizeeError, OptimizeeFamily


class Mixture(OptimizeeFamily):
    """Several optimizees, drawn from with weights: a learned optimizer that has seen all of them."""

    def __init__(self, parts: list[Optimizee], weights: list[float] | None = None) -> None:
        """Keep the optimizees.

        Args:
            parts: What to draw from.
            weights: How often to draw each, relative to the others; null for all alike.

        Raises:
            OptimizeeError: If there are no parts, or the weights do not suit them.
        """
        if not parts:
            raise OptimizeeError("optimizee.parts must name at least one optimizee, found none")
        weights = [1.0] * len(parts) if weights is None else weights
        if len(weights) != len(parts) or min(weights) < 0 or not sum(weights) > 0:
            raise OptimizeeError(
                f"optimizee.weights must be {len(parts)} numbers of at least 0 that are not all 0, not {weights}"
            )
        self._parts = parts
        self._weights = weights

    def variant(self, generator: Generator) -> Optimizee:
        """Draw a part; of a family, one of its variants."""
        weights = torch.tensor(self._weights, dtype=torch.float64)
        return self._parts[int(torch.multinomial(weights, 1, generator=generator))].variant(generator)

    def to(self, device: torch.device | str) -> Optimizee:
        """Move the parts to ``device``."""
        for part in self._parts:
            part.to(device)
        return self
