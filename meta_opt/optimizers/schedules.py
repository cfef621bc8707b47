"""Schedules of learning rates over a known number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Factor = Callable[[int], float]  # what the learning rate of step t = 0, 1, ... is multiplied by


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1.0 - progress


SHAPES: dict[str, Callable[[float], float]] = {"constant": _constant, "cosine": _cosine, "linear": _linear}


@dataclass(frozen=True)
class Schedule:
    """How a learning rate goes through a run.

    Attributes:
        shape: A name of :data:`SHAPES`: ``constant``, or how it falls to 0, reached after the last step.
        warmup: Over which part of the steps it first rises, in equal amounts.
    """

    shape: str = "constant"
    warmup: float = 0.0

    @property
    def is_constant(self) -> bool:
        """Whether the number of steps does not matter."""
        return self.shape == "constant" and not self.warmup

    def over(self, num_steps: int) -> Factor:
        """The factors of the steps of a run of so many; of later ones that of the last."""
        rising = round(self.warmup * num_steps)
        falling = SHAPES[self.shape]

        def factor(t: int) -> float:
            if t < rising:
                return (t + 1) / rising
            return falling((min(t, num_steps - 1) - rising) / max(num_steps - rising, 1))

        return factor
