"""External memories that are matrices over all coordinates, written by outer products.

    read:   M r                    write:  M ← M + Σ_k a_k b_kᵀ

M = scale · I + what has been written. The scale is no part of a memory, but of the weights φ, so that meta-gradients
reach it whatever has been written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizers.state import axis

MAX_DENSE = 2000  # coordinates of a dense memory: one of float32 takes 16 MB


@dataclass(frozen=True)
class DenseMemory:
    """The sum of all that has been written, as one matrix per problem."""

    written: Tensor = axis("pair")  # [B, N, N]

    @classmethod
    def empty(cls, like: Tensor, num_problems: int, num_coordinates: int) -> DenseMemory:
        """A memory that nothing has been written to, of the type and on the device of ``like``.

        Raises:
            MetaOptError: If it would be too large.
        """
        if num_coordinates > MAX_DENSE:
            raise MetaOptError(
                f"a dense memory is for at most {MAX_DENSE:,} coordinates, and here are {num_coordinates:,}: set "
                "optimizer.rank, such as 10, to keep the last writes instead"
            )
        return cls(like.new_zeros(num_problems, num_coordinates, num_coordinates))

    def read(self, asked: Tensor, scale: Tensor) -> Tensor:
        """M r for r = ``asked``, [B, N], and the scale, [] or [B, 1]."""
        return scale * asked + (self.written @ asked.unsqueeze(2)).squeeze(2)

    def write(self, lefts: Tensor, rights: Tensor) -> DenseMemory:
        """Add the products of left and right vectors, each [B, heads, N]."""
        return DenseMemory(torch.baddbmm(self.written, lefts.mT, rights))

    def cleared(self, where: Tensor) -> DenseMemory:
        """Without what has been written, for some problems, [B, 1]."""
        return DenseMemory(self.written.masked_fill(where.unsqueeze(2), 0.0))


@dataclass(frozen=True)
class LowRankMemory:
    """The last K writes, newest first: O(N K heads) numbers, and as many operations a read."""

    lefts: Tensor = axis("coordinate")  # [B, K · heads, N]
    rights: Tensor = axis("coordinate")  # [B, K · heads, N]

    @classmethod
    def empty(cls, like: Tensor, num_problems: int, num_coordinates: int, num_pairs: int) -> LowRankMemory:
        """A memory for ``num_pairs`` pairs, K times the heads, that nothing has been written to."""
        zeros = like.new_zeros(num_problems, num_pairs, num_coordinates)
        return cls(zeros, zeros.clone())

    def read(self, asked: Tensor, scale: Tensor) -> Tensor:
        """See :meth:`DenseMemory.read`."""
        along = self.rights @ asked.unsqueeze(2)  # [B, K · heads, 1]
        return scale * asked + (self.lefts.mT @ along).squeeze(2)

    def write(self, lefts: Tensor, rights: Tensor) -> LowRankMemory:
        """See :meth:`DenseMemory.write`; the oldest write of each head is forgotten."""
        kept = self.lefts.shape[1] - lefts.shape[1]
        return LowRankMemory(
            torch.cat([lefts, self.lefts[:, :kept]], dim=1), torch.cat([rights, self.rights[:, :kept]], dim=1)
        )

    def cleared(self, where: Tensor) -> LowRankMemory:
        """See :meth:`DenseMemory.cleared`."""
        return LowRankMemory(*(each.masked_fill(where.unsqueeze(2), 0.0) for each in (self.lefts, self.rights)))


def bfgs_writes(step: Tensor, change: Tensor, read_change: Tensor) -> tuple[Tensor, Tensor]:
    """The three outer products by which BFGS updates the inverse Hessian M (Nocedal and Wright 2006, equation 6.17).

        M ← M + (1 + yᵀMy/sᵀy) s (s/sᵀy)ᵀ - My (s/sᵀy)ᵀ - s (My/sᵀy)ᵀ

    Args:
        step: s, [B, N].
        change: y, what s changed the gradient by, [B, N].
        read_change: M y, [B, N].

    Returns:
        Left and right vectors, each [B, 3, N]; zeros where y does not point along s (a cosine of 1/1000 or less), so
        that M stays positive definite.
    """
    curvature = (step * change).sum(1, keepdim=True)
    lengths = torch.linalg.vector_norm(step, dim=1, keepdim=True) * torch.linalg.vector_norm(
        change, dim=1, keepdim=True
    )
    usable = curvature > (1e-3 * lengths).clamp_min(torch.finfo(lengths.dtype).tiny)  # of less, 1/sᵀy is infinite
    inverse = torch.where(usable, 1.0 / torch.where(usable, curvature, 1.0), 0.0)
    along = torch.where(usable, step, 0.0)
    factor = 1.0 + inverse * (change * read_change).sum(1, keepdim=True)
    lefts = torch.stack([factor * along, -torch.where(usable, read_change, 0.0), -along], dim=1)
    return lefts, torch.stack([inverse * step, inverse * step, inverse * read_change], dim=1)
