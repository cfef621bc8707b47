"""Few examples: what is late in training on a large data set comes early."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator

from meta_opt.api import ModuleOptimizee, Optimizee, OptimizeeError, OptimizeeFamily
from meta_opt_optimizees.small_mlps import SmallMlps, log_uniform


class Subsets(OptimizeeFamily):
    """A data-set optimizee whose problems each learn from some of the examples only.

    With few of them an episode goes through all many times, and ends where losses vanish or rest on the hardest
    examples: a state that on all of the data takes far longer episodes to see.
    """

    def __init__(self, part: Optimizee, num_examples: tuple[int, int] = (500, 50_000)) -> None:
        """Keep the optimizee.

        Args:
            part: What the problems come from: an optimizee with a module and a data set, or a family of such.
            num_examples: Fewest and most examples of a problem; log-uniform between them, never more than there are.

        Raises:
            OptimizeeError: If the part has no data set, or the numbers are out of range.
        """
        low, high = num_examples
        if not 1 <= low <= high:
            raise OptimizeeError(
                f"optimizee.num_examples must be two numbers of at least 1, the first not larger, not {low}, {high}"
            )
        self._part = part
        self._low, self._high = low, high
        self.variant(Generator().manual_seed(0))  # which sees whether there are examples

    def variant(self, generator: Generator) -> Optimizee:
        """Draw which examples, and of a family which variant."""
        num = round(log_uniform(self._low, self._high, generator))
        part = self._part.variant(generator)
        if not isinstance(part, ModuleOptimizee):
            raise OptimizeeError(f"optimizee.part must learn from examples, which {type(part).__name__} does not")
        return part.with_examples(num, generator)

    def to(self, device: torch.device | str) -> Optimizee:
        """Move the examples to ``device``."""
        self._part.to(device)
        return self

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small_mlps, where losses vanish in some of the episodes as well."""
        return SmallMlps.recommended_settings()
