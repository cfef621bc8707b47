"""The coordinatewise LSTM in native code: tensors in, tensors out.

Same mathematics as :mod:`meta_opt.optimizers.coordinatewise_lstm`, without a graph; `cpp/lstm.cpp` says how it works.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.native.calls import Call, Calls, LayerStates
from meta_opt.optimizers.lstm.native.memory import DTYPES, Table, check
from meta_opt.optimizers.lstm.native.scales import ReadScales
from meta_opt.optimizers.lstm.native.steps import NativeSteps
from meta_opt.optimizers.lstm.native.weights import Weights
from meta_opt.optimizers.lstm.preprocessing import NUM_SCALES, Moments
from meta_opt.optimizers.lstm.settings import NetworkSettings


class Kernel:
    """The compiled library; :func:`meta_opt.optimizers.lstm.native.load` gives it.

    Threads are ``torch.get_num_threads()``; results are the same whenever that number is.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        """Bind the functions of ``library``.

        Raises:
            ValueError: If it is another version of the kernel than this file.
        """
        library.meta_opt_call_size.restype = ctypes.c_int64
        if library.meta_opt_call_size() != ctypes.sizeof(Call):
            raise ValueError("call.h and calls.py differ in the fields of Call")
        self._step = library.meta_opt_step
        self._replay = library.meta_opt_replay
        for function in (self._step, self._replay):
            function.argtypes = [ctypes.POINTER(Call), ctypes.c_int64]
            function.restype = ctypes.c_int
        self.read_scales = ReadScales(library)
        self._evaluate = library.meta_opt_evaluate
        self._evaluate.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 2
        self._evaluate.restype = None

    @staticmethod
    def supports(tensor: Tensor) -> bool:
        """Whether tensors of this type and on this device can be handed over."""
        return tensor.dtype in DTYPES and tensor.device.type == "cpu"

    def rollout(
        self,
        settings: NetworkSettings,
        networks: Sequence[Weights],
        segments: Sequence[Segment],
        shape: torch.Size,
        hidden: LayerStates,
        cell: LayerStates,
        moments: Moments | None,
    ) -> NativeSteps:
        """Prepare for steps one after the other, without a graph.

        Args:
            settings: What surrounds the networks.
            networks: The weights of each network, of equal sizes. Changes in place are seen.
            segments: Which coordinates each network works on, n of them; together all N, none twice.
            shape: B and N.
            hidden: h, per network and layer [H, B·n]. Every step overwrites it, as the following.
            cell: c, likewise.
            moments: m and v [B, N] and β^t [], where the settings need them.

        Raises:
            ValueError: If a tensor's type, device, shape or strides are not what is asked for.
        """
        dtype, reads = networks[0].output_weight.dtype, settings.reads
        calls = Calls(settings, networks, segments, dtype, shape, hidden, cell, moments)
        return NativeSteps(self._step, calls, dtype, shape, len(segments) * reads.scales, reads.directions)

    def replay(
        self,
        settings: NetworkSettings,
        networks: Sequence[Weights],
        segments: Sequence[Segment],
        grads: Sequence[Tensor],
        coefficients: Sequence[Tensor],
        hidden: LayerStates,
        cell: LayerStates,
        moments: Moments | None,
        scales: Sequence[Tensor] = (),
        directions: Sequence[Tensor] = (),
    ) -> list[Weights]:
        """Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ over T recorded steps.

        Args:
            settings: What surrounds the networks.
            networks: The weights of each network, of equal sizes.
            segments: Which coordinates each network works on, n of them.
            grads: ∇_τ for τ = 0..T-1, each [B, N].
            coefficients: c_τ = ∂L/∂g_τ, each [B, N].
            hidden: h before the first step, per network and layer [H, B·n].
            cell: c before the first step, likewise.
            moments: m and v [B, N] and β^t [] before the first step, where the settings need them.
            scales: What is read of the scales of each segment at each step, each [S, B, 3], where the settings say so.
            directions: The orthogonalized directions of matrices at each step, each [B, N], where the settings say so.

        Returns:
            The gradient of each network's weights, as new tensors.

        Raises:
            ValueError: If a tensor's type, device, shape or strides are not what is asked for.
        """
        if len(grads) != len(coefficients):
            raise ValueError(f"{len(grads)} recorded gradients need as many coefficients, not {len(coefficients)}")
        if not grads:
            raise ValueError("the replay needs at least one recorded gradient")
        dtype, shape = networks[0].output_weight.dtype, grads[0].shape
        recorded = []
        for what, tensors in (("a gradient", grads), ("a coefficient", coefficients), ("directions", directions)):
            recorded.append([tensor.contiguous() for tensor in tensors])
            for tensor in recorded[-1]:
                check(tensor, dtype, shape, what)
        calls = Calls(settings, networks, segments, dtype, shape, hidden, cell, moments)
        of_grads, of_coefficients, of_directions = map(Table, recorded)
        for what, given, wanted in (
            ("scales", scales, settings.reads.scales),
            ("directions", directions, settings.reads.directions),
        ):
            if len(given) != len(grads) * wanted:
                raise ValueError(f"{len(grads)} recorded gradients need as many {what}, if any, not {len(given)}")
        for tensor in scales:
            check(tensor, dtype, (len(segments), shape[0], NUM_SCALES), "scales")
        of_scales = Table(scales)
        results = [weights.like() for weights in networks]
        for call, result in zip(calls.array, results, strict=True):
            call.num_steps = len(grads)
            call.scales, call.directions = of_scales.address, of_directions.address
            call.grads, call.coefficients = of_grads.address, of_coefficients.address
            call.weight_grads, call.bias_grads, call.output_weight_grad, call.output_bias_grad = result.pointers
        calls.run(self._replay)
        return results

    def evaluate(self, function: str, x: Tensor) -> Tensor:
        """The kernel's own sigmoid, tanh, log or exp of a contiguous vector [n]; for tests of their stated error."""
        result = torch.empty_like(x)
        which = ("sigmoid", "tanh", "log", "exp").index(function)
        self._evaluate(x.dtype == torch.float64, which, x.numel(), x.data_ptr(), result.data_ptr())
        return result
