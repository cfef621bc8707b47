"""Bases in which the gradients of a matrix are as good as uncorrelated, and moments of gradients in them.

For gradients G of a matrix [r, c], the eigenvectors of averages of G Gᵀ and of Gᵀ G (Gupta et al. 2018,
arXiv:1802.09568). Where a gradient is read in them, Adam sees the curvature that lies across coordinates (SOAP: Vyas et
al. 2024, arXiv:2409.11321).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from meta_opt.optimizees.layout import Segment

BETA = 0.95
"""What averages of G Gᵀ and of squares keep of themselves at each step."""

SMALLEST_SQUARE = 1e-3
"""What part of the mean v̂ of a tensor the smallest of its v̂ count for."""

_LARGEST_BLOCK = 128  # sides that are longer are cut into blocks, each with a basis of its own
_LARGEST_SIDE = 8192  # one that is longer than that, such as a vocabulary, has none
_FIRST_STEPS = 9  # so many first steps turn the bases,
_EVERY = 3  # and of later ones every so many
_RELATIVE_FLOOR = 0.01  # of the mean diagonal element of an average, what is added to that
_LEAST = 1e-36
_SMALLEST_OF_SPARSE = 0.1  # where all rows of the gradient but a few are zero


def turns(num_steps: int) -> bool:
    """Whether the step after ``num_steps`` others turns the bases."""
    return num_steps < _FIRST_STEPS or (num_steps + 1) % _EVERY == 0


@dataclass(frozen=True)
class Side:
    """The rows of E matrices, n of each, in k blocks of b; the last may be shorter than the others."""

    gram: Tensor  # [B, E, k, b, b], the average of G Gᵀ within each block
    basis: Tensor  # [B, E, k, b, b], orthogonal, by its columns

    @classmethod
    def first(cls, like: Tensor, num_problems: int, count: int, size: int) -> Side:
        """Before the first gradient: the coordinates' own basis."""
        num_blocks = math.ceil(size / _LARGEST_BLOCK)
        block = math.ceil(size / num_blocks)
        eye = torch.eye(block, dtype=like.dtype, device=like.device).repeat(num_problems, count, num_blocks, 1, 1)
        return cls(torch.zeros_like(eye), eye)

    def after(self, grad: Tensor, *, turn: bool) -> Side:
        """Go on by one gradient, [B, E, n, m]; turning is one step of orthogonal iteration towards the eigenvectors.

        A little, and a little less for each next coordinate, is added to the diagonal: where there have been fewer
        gradients than coordinates, the basis of the rest would else be one of rounding errors.
        """
        blocks = self._blocks(grad)
        gram, basis = torch.lerp(self.gram, blocks @ blocks.mT, 1.0 - BETA), self.basis
        if turn:
            floor = _RELATIVE_FLOOR * gram.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True) + _LEAST
            falling = torch.linspace(2.0, 1.0, gram.shape[-1], dtype=floor.dtype, device=floor.device)
            basis = orthogonalized((gram + torch.diag_embed(floor * falling)) @ basis)
        return Side(gram, basis)

    def read(self, matrix: Tensor) -> Tensor:
        """Matrices, [B, E, n, m], whose rows are along the basis vectors."""
        return (self.basis.mT @ self._blocks(matrix)).flatten(2, 3)[:, :, : matrix.shape[2]]

    def back(self, matrix: Tensor) -> Tensor:
        """What :meth:`read` was given."""
        return (self.basis @ self._blocks(matrix)).flatten(2, 3)[:, :, : matrix.shape[2]]

    @classmethod
    def joined(cls, sides: Sequence[Side]) -> Side:
        """Those of several tensors of one shape as those of one, one tensor behind the other along B."""
        return cls(torch.cat([side.gram for side in sides]), torch.cat([side.basis for side in sides]))

    def parted(self, count: int) -> list[Side]:
        """What :meth:`joined` was given, ``count`` sides."""
        return [Side(*each) for each in zip(self.gram.chunk(count), self.basis.chunk(count), strict=True)]

    def _blocks(self, matrix: Tensor) -> Tensor:
        """[B, E, n, m] as [B, E, k, b, m]; blocks are filled up with zeros, which no basis vector mixes in."""
        num_blocks, block = self.gram.shape[2:4]
        missing = num_blocks * block - matrix.shape[2]
        if missing:
            matrix = nn.functional.pad(matrix, (0, 0, 0, missing))
        return matrix.unflatten(2, (num_blocks, block))


@dataclass(frozen=True)
class Eigenbases:
    """Those of one tensor; of a vector there are none."""

    rows: Side | None
    columns: Side | None

    @classmethod
    def first(cls, like: Tensor, num_problems: int, segment: Segment) -> Eigenbases:
        """Before the first gradient."""
        count, *sizes = segment.matrices
        rows, columns = (Side.first(like, num_problems, count, n) if 1 < n <= _LARGEST_SIDE else None for n in sizes)
        return cls(rows, columns)

    def __bool__(self) -> bool:
        return self.rows is not None or self.columns is not None

    @torch.no_grad()
    def after(self, grad: Tensor, *, turn: bool) -> Eigenbases:
        """Go on by one gradient, [B, E, r, c].

        Args:
            grad: G.
            turn: Whether to turn the bases.
        """
        rows = None if self.rows is None else self.rows.after(grad, turn=turn)
        return Eigenbases(rows, None if self.columns is None else self.columns.after(grad.mT, turn=turn))

    @classmethod
    def joined(cls, bases: Sequence[Eigenbases]) -> Eigenbases:
        """Those of several tensors of one shape as those of one, see :meth:`Side.joined`."""
        if len(bases) == 1:
            return bases[0]
        rows, columns = [each.rows for each in bases if each.rows], [each.columns for each in bases if each.columns]
        return cls(Side.joined(rows) if rows else None, Side.joined(columns) if columns else None)

    def parted(self, count: int) -> list[Eigenbases]:
        """What :meth:`joined` was given, those of ``count`` tensors."""
        sides = ([None] * count if side is None else side.parted(count) for side in (self.rows, self.columns))
        return [Eigenbases(rows, columns) for rows, columns in zip(*sides, strict=True)]

    def read(self, matrix: Tensor) -> Tensor:
        """Matrices, [B, E, r, c], in these bases."""
        matrix = matrix if self.rows is None else self.rows.read(matrix)
        return matrix if self.columns is None else self.columns.read(matrix.mT).mT

    def back(self, matrix: Tensor) -> Tensor:
        """What :meth:`read` was given."""
        matrix = matrix if self.rows is None else self.rows.back(matrix)
        return matrix if self.columns is None else self.columns.back(matrix.mT).mT


def orthogonalized(matrix: Tensor) -> Tensor:
    """The orthogonal factor of a QR decomposition, up to signs, of a matrix whose condition is good, [..., n, n].

    On a GPU by Cholesky decomposition, which is five to forty times as fast there for many small matrices. It squares
    the condition, and so is done in float64. Apple's GPUs have neither float64 nor a fast QR decomposition: there, on
    the CPU.
    """
    if matrix.device.type == "mps":
        return orthogonalized(matrix.cpu()).to(matrix.device)
    if not matrix.is_cuda or matrix.dtype == torch.float64:
        return torch.linalg.qr(matrix).Q.contiguous()
    wide = matrix.double()
    factor = torch.linalg.cholesky_ex(wide.mT @ wide).L
    return torch.linalg.solve_triangular(factor.mT, wide, upper=True, left=False).to(matrix.dtype)


def used_rows(grad: Tensor) -> Tensor:
    """How far rows of matrices are used, [B, E]: twice the part of them whose gradient is not exactly zero, 1 at most.

    Less than 1 is an embedding of which few rows are used at a time.

    Args:
        grad: G, [B, E, r, c].
    """
    return (2.0 * (grad != 0.0).any(-1).to(grad.dtype).mean(-1)).clamp_max(1.0)


def smallest_square(used: Tensor) -> Tensor:
    """What part of the mean v̂ of a matrix the smallest of its v̂ count for, as ``used``.

    A thousandth, but more where few rows are used, up to a tenth: of the others v̂ has forgotten most, and the steps of
    small batches would be too long.

    Args:
        used: See :func:`used_rows`.
    """
    return SMALLEST_SQUARE + (_SMALLEST_OF_SPARSE - SMALLEST_SQUARE) * (1.0 - used)


def normalized(mean: Tensor, square: Tensor, smallest: Tensor | float) -> Tensor:
    """m̂/√v̂, [B, ...], where no v̂ counts for less than a small part of the mean of its tensor: small ones are noise.

    Args:
        mean: m̂.
        square: v̂, of the same shape.
        smallest: That part, [B] or the same for all.
    """
    least = smallest * mean_of(square) + _LEAST
    return mean / (square + least.view(-1, *[1] * (square.dim() - 1))).sqrt()


def mean_of(tensor: Tensor) -> Tensor:
    """Over all but the first axis, [B, ...] to [B]; 0 where there is nothing."""
    return tensor.flatten(1).sum(1) / max(tensor[0].numel(), 1)
