"""Steps one after the other in native code."""

from __future__ import annotations

import ctypes
from array import array

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.native.calls import Calls
from meta_opt.optimizers.lstm.native.memory import check
from meta_opt.optimizers.lstm.preprocessing import NUM_SCALES


class NativeSteps:
    """Steps one after the other, each of which overwrites the state; :meth:`Kernel.rollout` gives it."""

    def __init__(
        self,
        step: ctypes._FuncPointer,
        calls: Calls,
        dtype: torch.dtype,
        shape: torch.Size,
        num_scales: int,
        directions: bool,
    ) -> None:
        self._step, self._calls, self._dtype, self._shape = step, calls, dtype, shape
        self._shape_of_scales = (num_scales, shape[0], NUM_SCALES)
        self._directions = directions
        self._read = array("Q", [0, 0, 0])  # where the gradient, the scales and the directions lie
        address, _ = self._read.buffer_info()
        for call in calls.array:
            call.grads, call.scales, call.directions = (address + index * self._read.itemsize for index in range(3))

    def step(self, grad: Tensor, scales: Tensor | None = None, directions: Tensor | None = None) -> Tensor:
        """The update for a gradient.

        Args:
            grad: ∇, [B, N].
            scales: What is read of the scales of each segment, [S, B, 3], where the settings say so.
            directions: The orthogonalized directions of matrices, [B, N], where the settings say so.

        Returns:
            [B, N].

        Raises:
            ValueError: If a tensor is not what was announced.
        """
        grad = grad.contiguous()
        check(grad, self._dtype, self._shape, "a gradient")
        if (scales is not None) != bool(self._shape_of_scales[0]):
            raise ValueError("scales are to be given where the settings say so, and only there")
        if scales is not None:
            check(scales, self._dtype, self._shape_of_scales, "scales")
            self._read[1] = scales.data_ptr()
        if (directions is not None) != self._directions:
            raise ValueError("directions are to be given where the settings say so, and only there")
        if directions is not None:
            check(directions, self._dtype, self._shape, "directions")
            self._read[2] = directions.data_ptr()
        update = torch.empty_like(grad)
        self._read[0], address = grad.data_ptr(), update.data_ptr()
        for call in self._calls.array:
            call.update = address
        self._calls.run(self._step)
        return update
