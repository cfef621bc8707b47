"""The parameters of an optimizee as one vector, and back.

Learned optimizers see θ as a tensor [B, N]: B problems, N coordinates. Optimizees see named tensors.
:class:`Layout` is the map between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Sharing = Literal["all", "kind", "group", "tensor"]


def kind_of(shape: torch.Size) -> str:
    """What a tensor of this shape is in most networks: vector, a bias or scale, or matrix, weights or a filter."""
    return "vector" if len(shape) < 2 else "matrix"


def matrices_in(shape: torch.Size) -> tuple[int, int, int]:
    """How many matrices a tensor holds, and the rows and columns of each; zeros if it is a vector, or empty.

    A filter bank is one, with a row for each output channel. But where the last of more than two dimensions is longer
    than filters are wide, and none is shorter than the first, there are no filters: [E, in, out] are matrices side by
    side, as of experts, [1, L, D] is a table, as of positions, and a token [1, 1, D] and pictures [1, C, H, W] are
    vectors.
    """
    size = math.prod(shape)
    if len(shape) < 2 or not size:
        return 0, 0, 0
    if len(shape) == 2 or shape[-1] <= _WIDEST_FILTER or shape[0] > min(shape) or (len(shape) > 3 and shape[0] > 1):
        return 1, shape[0], size // shape[0]
    count, rows, columns = shape if len(shape) == 3 else (0, 0, 0)
    return (count, rows, columns) if rows > 1 else (0, 0, 0)


_WIDEST_FILTER = 16

NUM_FEATURES = 5


def features_of(shape: torch.Size, depth: float) -> tuple[float, ...]:
    """What tells tensors of a network apart, as ``NUM_FEATURES`` numbers of about 0 to 1.

    Whether it is a vector, and whether a filter; its place among the parameters, from 0, the first, to 1, the last; and
    the logarithms of its fan-in and fan-out.
    """
    fan_out = max(shape[0], 1) if shape else 1
    fan_in = max(math.prod(shape) / fan_out, 1.0)
    is_vector, is_filter = len(shape) < 2, len(shape) > 2
    return (float(is_vector), float(is_filter), depth, math.log(fan_in) / 5.0, math.log(fan_out) / 5.0)


@dataclass(frozen=True)
class Segment:
    """A named range ``start:stop`` of coordinates; where it is one tensor that is asked for, with what is known of it.

    Attributes:
        features: See :func:`features_of`; only where asked for.
        num_rows: Rows of the matrix, or output channels of the filter, that the tensor is; 0 for others.
        num_columns: Columns of the matrix, or numbers of each output channel of the filter; 0 for others.
        matrices: See :func:`matrices_in`.
    """

    name: str
    start: int
    stop: int
    features: tuple[float, ...] = ()
    num_rows: int = 0
    num_columns: int = 0
    matrices: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and groups of the tensors that the N coordinates of θ stand for.

    The tensors lie one behind the other, tensors of one group next to each other.

    Attributes:
        names: Name of each tensor.
        shapes: Shape of each tensor, for one problem.
        groups: Group of each tensor; equal groups are adjacent.
        depths: Place of each tensor among the parameters of the network, from 0, the first, to 1, the last; by default
            as they lie here.
        num_matrices: How many matrices and filters the network has that are trained; -1, as many as here.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    groups: tuple[str, ...]
    depths: tuple[float, ...] = ()
    num_matrices: int = -1
    sizes: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.depths:
            object.__setattr__(self, "depths", depths_of(len(self.names)))
        if self.num_matrices < 0:
            object.__setattr__(self, "num_matrices", sum(matrices_in(shape)[0] > 0 for shape in self.shapes))
        object.__setattr__(self, "sizes", tuple(math.prod(shape) for shape in self.shapes))

    @classmethod
    def of(cls, params: Mapping[str, Tensor], groups: Mapping[str, str] | None = None) -> Layout:
        """The layout of one problem's parameters.

        Args:
            params: Named tensors of one problem.
            groups: Group name of each tensor; a tensor that is not named belongs to the group ``"all"``.

        Raises:
            ValueError: If there are no parameters, or ``groups`` names a tensor that does not exist.
        """
        groups = groups or {}
        if not params:
            raise ValueError("an optimizee needs at least one parameter, found none")
        if unknown := sorted(set(groups) - set(params)):
            raise ValueError(f"groups names {', '.join(unknown)}, but the parameters are {', '.join(params)}")
        group_of = {name: groups.get(name, "all") for name in params}
        order = list(dict.fromkeys(group_of.values()))
        names = tuple(sorted(params, key=lambda name: order.index(group_of[name])))
        depths = dict(zip(params, depths_of(len(params)), strict=True))
        return cls(
            names,
            tuple(params[name].shape for name in names),
            tuple(group_of[name] for name in names),
            tuple(depths[name] for name in names),
        )

    def to_plain(self) -> dict[str, list[Any]]:
        """As plain values, for a checkpoint."""
        return {
            "names": [*self.names],
            "shapes": [[*shape] for shape in self.shapes],
            "groups": [*self.groups],
            "depths": [*self.depths],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Sequence[Any]]) -> Layout:
        """What :meth:`to_plain` was called on."""
        shapes = tuple(map(torch.Size, plain["shapes"]))
        return cls(tuple(plain["names"]), shapes, tuple(plain["groups"]), tuple(plain["depths"]))

    @property
    def num_coordinates(self) -> int:
        """N, the number of coordinates of one problem."""
        return sum(self.sizes)

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """Named tensors, each [..., *shape], as one tensor [..., N]."""
        parts = []
        for name, shape, size in zip(self.names, self.shapes, self.sizes, strict=True):
            tensor = params[name]
            parts.append(tensor.reshape(*tensor.shape[: tensor.dim() - len(shape)], size))
        return torch.cat(parts, dim=-1)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A tensor [..., N] as named tensors, each [..., *shape]; views of the same memory where possible."""
        parts = vector.split(self.sizes, dim=-1)
        return {
            name: part.reshape(vector.shape[:-1] + shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def segments(self, by: Sharing, *, tensors: bool = False, features: bool = False) -> tuple[Segment, ...]:
        """The coordinates cut into adjacent named ranges: one in all, or one per group, per tensor, or per kind.

        Kinds are told by the number of dimensions, see :func:`kind_of`; ranges of one kind need not be neighbours.

        Args:
            by: What to name and to cut by.
            tensors: Whether to cut between all tensors.
            features: Whether to note the features of each tensor; cuts between all.
        """
        kinds = tuple(map(kind_of, self.shapes))
        keys = {"all": ("all",) * len(self.names), "kind": kinds, "group": self.groups, "tensor": self.names}[by]
        segments: list[Segment] = []
        start = 0
        for index, (key, size) in enumerate(zip(keys, self.sizes, strict=True)):
            if tensors or features:
                shape = self.shapes[index]
                of_tensor = features_of(shape, self.depths[index]) if features else ()
                num_rows = shape[0] if size and kind_of(shape) == "matrix" else 0
                num_columns = size // num_rows if num_rows else 0
                held = matrices_in(shape)
                segments.append(Segment(key, start, start + size, of_tensor, num_rows, num_columns, held))
            elif segments and segments[-1].name == key:
                segments[-1] = Segment(key, segments[-1].start, start + size)
            else:
                segments.append(Segment(key, start, start + size))
            start += size
        return tuple(segments)


def depths_of(count: int) -> tuple[float, ...]:
    """The places of ``count`` tensors, evenly from 0 to 1."""
    return tuple(index / max(count - 1, 1) for index in range(count))
