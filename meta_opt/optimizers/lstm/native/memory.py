"""How tensors are handed over to native code."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)


class Table:
    """The addresses of tensors, in memory that lives as long as this object."""

    __slots__ = ("_table", "address")

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._table = array("Q", [tensor.data_ptr() for tensor in tensors])
        self.address, _ = self._table.buffer_info()


def check(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], what: str) -> None:
    """See that native code can read a tensor.

    Raises:
        ValueError: If its type, device, shape or strides are others.
    """
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_cpu or not tensor.is_contiguous():
        raise ValueError(
            f"the native kernel needs {what} {tuple(shape)}, {dtype}, contiguous and on the CPU, found "
            f"{tuple(tensor.shape)}, {tensor.dtype}, strides {tensor.stride()} on {tensor.device}"
        )
