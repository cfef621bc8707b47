"""What a meta-training has cost so far, as checkpoints keep it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """What a meta-training has cost.

    Attributes:
        optimizee_steps: Steps of the optimizee, of all problems, particles and processes together.
        seconds: Wall time of its episodes, without validation.
    """

    optimizee_steps: int = 0
    seconds: float = 0.0

    def more(self, optimizee_steps: int, seconds: float) -> Cost:
        """The cost after another episode."""
        return Cost(self.optimizee_steps + optimizee_steps, self.seconds + seconds)


def read_cost(entry: Mapping[str, Any]) -> Cost | None:
    """The cost in a checkpoint's entry ``meta_opt``; None if it says none, as those of before do.

    Raises:
        ValueError: If it is not what it should be.
    """
    cost = entry.get("cost")
    if cost is None:
        return None
    if not isinstance(cost, dict) or set(cost) != set(Cost._fields):
        raise ValueError("its cost is incomplete")
    steps, seconds = cost["optimizee_steps"], cost["seconds"]
    if type(steps) is not int or steps < 0 or type(seconds) is not float or not 0.0 <= seconds < math.inf:
        raise ValueError("its cost is no number")
    return Cost(steps, seconds)
