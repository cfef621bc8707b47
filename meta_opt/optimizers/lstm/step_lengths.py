"""How long the steps of each coordinate are, by what recorded gradients say, whatever a network writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm import agreement, caution
from meta_opt.optimizers.lstm.preprocessing import Moments, bounded


@dataclass(frozen=True)
class StepLengths:
    """Factors of updates that are functions of the gradients alone, and so, to first order, constants.

    Attributes:
        agreement: Power of how far the gradients of a tensor agree, see ``agreement``; 0 for none.
        caution: How far updates against the last gradient are held back, see ``caution``; 0 for none.
    """

    agreement: float = 0.0
    caution: float = 0.0

    def __bool__(self) -> bool:
        return self.agreement != 0.0 or self.caution != 0.0

    def of(self, grad: Tensor, moments: Moments, of_matrices: Tensor | None, segments: Sequence[Segment]) -> Tensor:
        """What updates are multiplied with, [B, N].

        Args:
            grad: ∇, [B, N], bounded.
            moments: Those after it.
            of_matrices: The orthogonalized directions of matrices, [B, N], if they are read.
            segments: The tensors.
        """
        parts = []
        for segment in segments:
            here = slice(segment.start, segment.stop)
            part = moments.part(segment.start, segment.stop)
            factor = torch.ones_like(part.mean[:, :1])
            if self.agreement != 0.0:
                factor = factor * agreement.factors(part, self.agreement)
            if self.caution != 0.0:
                direction = of_matrices[:, here] if of_matrices is not None and segment.num_rows else part.mean
                factor = factor * caution.factors(direction, grad[:, here], self.caution)
            parts.append(factor.expand_as(part.mean))
        return torch.cat(parts, dim=1)

    def read(
        self,
        grads: Sequence[Tensor],
        moments: Moments | None,
        of_matrices: Sequence[Tensor],
        segments: Sequence[Segment],
    ) -> list[Tensor]:
        """The same after each of T gradients, each [B, N]; nothing where there are no factors.

        Args:
            grads: Each [B, N].
            moments: Those before them.
            of_matrices: After each, if they are read, or none.
            segments: The tensors.
        """
        if not self or moments is None:
            return []
        found = []
        for index, grad in enumerate(map(bounded, grads)):
            moments = moments.updated(grad)
            found.append(self.of(grad, moments, of_matrices[index] if of_matrices else None, segments))
        return found
