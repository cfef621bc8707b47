"""Persistent evolution strategies (Vicol, Metz and Sohl-Dickstein 2021, arXiv:2112.13835)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from meta_opt.meta_training.estimators.evolution import Evolution


class PES(Evolution):
    """Particles go on from unroll to unroll with new perturbations, whose sum losses are multiplied by.

        ξ_i = ε_1 + ... + ε_i

    What a particle loses in unroll i is due to all perturbations so far. So the sum of an episode's estimates is on
    average the gradient of the smoothed meta-loss of the whole episode, however long its unrolls are; its variance
    grows with their number.
    """

    def directions(self, draw: Callable[[], Tensor], before: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :meth:`Evolution.directions`."""
        drawn = draw()
        return drawn, drawn if before is None else before + drawn
