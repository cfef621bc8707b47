"""What is read of how large the gradients of each tensor are, in native code; see ``Scales`` of preprocessing."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.native.memory import Table, check
from meta_opt.optimizers.lstm.preprocessing import NUM_SCALES, Scales


class ReadScales:
    """:meth:`meta_opt.optimizers.lstm.preprocessing.Scales.updated` and ``read`` for T gradients, without a graph."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Bind the function of ``library``.

        Raises:
            ValueError: If it is another version of the kernel than this file.
        """
        library.meta_opt_scales_call_size.restype = ctypes.c_int64
        if library.meta_opt_scales_call_size() != ctypes.sizeof(_Call):
            raise ValueError("call.h and scales.py differ in the fields of ScalesCall")
        self._function = library.meta_opt_read_scales
        self._function.argtypes = [ctypes.POINTER(_Call)]
        self._function.restype = ctypes.c_int

    def __call__(
        self, grads: Sequence[Tensor], scales: Scales, steps: Tensor, sizes: Sequence[int]
    ) -> tuple[Scales, list[Tensor]] | None:
        """Go on with the scales.

        Args:
            grads: ∇, each [B, N].
            scales: Those before them.
            steps: t before them, [].
            sizes: How many of the N coordinates each of S tensors has.

        Returns:
            The scales after the last, and what is read of them after each, [S, B, 3]; or None if a gradient is to be
            shortened, which is left to PyTorch.

        Raises:
            ValueError: If a tensor's type, device, shape or strides are not what is asked for.
        """
        dtype, num_problems = scales.square.dtype, len(scales.square)
        shape = (num_problems, sum(sizes))
        grads = [grad.contiguous() for grad in grads]
        for grad in grads:
            check(grad, dtype, shape, "a gradient")
        check(scales.square, dtype, (num_problems, len(sizes)), "scales")
        check(steps, dtype, (), "the steps")
        after = Scales(scales.square.clone())
        read = [after.square.new_empty(len(sizes), num_problems, NUM_SCALES) for _ in grads]
        of_sizes, of_grads, of_read = array("q", sizes), Table(grads), Table(read)
        shortens = self._function(
            _Call(
                dtype == torch.float64,
                num_problems,
                len(sizes),
                len(grads),
                of_sizes.buffer_info()[0],
                of_grads.address,
                after.square.data_ptr(),
                steps.data_ptr(),
                of_read.address,
            )
        )
        return None if shortens else (after, read)


class _Call(ctypes.Structure):
    """``struct ScalesCall`` of call.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("is_double", "num_problems", "num_tensors", "num_steps")),
        *((name, ctypes.c_void_p) for name in ("sizes", "grads", "square", "steps", "read")),
    )
