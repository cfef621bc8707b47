"""Truncated evolution strategies: each unroll on its own (Salimans et al. 2017, arXiv:1703.03864)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from meta_opt.meta_training.estimators.evolution import Evolution


class ES(Evolution):
    """All particles start each unroll where φ itself has come to, and only losses of the unroll count.

    The estimate is of the gradient of the unroll's smoothed meta-loss. What an unroll does to those after it is not
    in it: over truncations it is as greedy as backpropagation. Over whole episodes, with ``model.unroll_length``
    equal to ``model.num_steps``, it is not.
    """

    restarts = True

    def directions(self, draw: Callable[[], Tensor], before: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :meth:`Evolution.directions`."""
        drawn = draw()
        return drawn, drawn
