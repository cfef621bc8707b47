"""Noise-reuse evolution strategies (Li et al. 2023, arXiv:2304.12180; as ES-Single, Vicol 2023, arXiv:2304.11153)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from meta_opt.meta_training.estimators.evolution import Evolution


class NRES(Evolution):
    """Particles go on from unroll to unroll, with one perturbation for the whole episode.

    The sum of an episode's estimates is on average the gradient of the smoothed meta-loss of the whole episode, as with
    PES, and its variance does not grow with the number of unrolls.
    """

    def directions(self, draw: Callable[[], Tensor], before: Tensor | None) -> tuple[Tensor, Tensor]:
        """See :meth:`Evolution.directions`."""
        kept = draw() if before is None else before
        return kept, kept
