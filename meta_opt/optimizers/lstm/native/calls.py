"""What a step and the replay hand over to native code, checked."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.native.memory import Table, check
from meta_opt.optimizers.lstm.native.weights import Weights
from meta_opt.optimizers.lstm.preprocessing import Moments
from meta_opt.optimizers.lstm.settings import NetworkSettings

LayerStates = tuple[tuple[Tensor, ...], ...]  # per network, per layer: [H, B·n]


class Call(ctypes.Structure):
    """``struct Call`` of call.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("is_double", "num_layers", "hidden_size", "num_inputs")),
        *((name, ctypes.c_int64) for name in ("reads_log_sign", "reads_moments", "reads_scales")),
        *((name, ctypes.c_int64) for name in ("reads_directions", "is_matrix", "reads_log_times_sign")),
        *((name, ctypes.c_int64) for name in ("bounds_output", "has_magnitude", "segment")),
        *((name, ctypes.c_double) for name in ("p", "output_scale", "base_step")),
        *((name, ctypes.c_int64) for name in ("num_problems", "num_coordinates", "start", "stop")),
        *((name, ctypes.c_int64) for name in ("num_steps", "num_threads")),
        *((name, ctypes.c_void_p) for name in ("weights", "biases", "output_weight", "output_bias")),
        *((name, ctypes.c_void_p) for name in ("hidden", "cell", "mean", "square", "decay")),
        *((name, ctypes.c_void_p) for name in ("grads", "scales", "directions", "update")),
        *((name, ctypes.c_void_p) for name in ("coefficients", "weight_grads", "bias_grads")),
        *((name, ctypes.c_void_p) for name in ("output_weight_grad", "output_bias_grad")),
    )


class Calls:
    """What a step and the replay have in common, checked; one call for each segment."""

    def __init__(
        self,
        settings: NetworkSettings,
        networks: Sequence[Weights],
        segments: Sequence[Segment],
        dtype: torch.dtype,
        shape: torch.Size,
        hidden: LayerStates,
        cell: LayerStates,
        moments: Moments | None,
    ) -> None:
        layers, size = len(networks[0].weights), networks[0].hidden_size
        self.array = (Call * len(segments))()
        self._kept: list[object] = [networks, hidden, cell, moments]  # what the pointers point to, and their tables
        reads = settings.reads
        if (reads.scales or reads.directions) and not reads.moments:
            raise ValueError("scales and directions are read together with moments only")
        for index, (weights, segment, h, c) in enumerate(zip(networks, segments, hidden, cell, strict=True)):
            call = self.array[index]
            if len(shape) != 2 or not 0 <= segment.start <= segment.stop <= shape[1]:
                raise ValueError(
                    f"coordinates {segment.start}:{segment.stop} are not columns of a gradient {tuple(shape)}"
                )
            if weights.num_inputs != reads.num_inputs:
                raise ValueError(
                    f"the network reads {weights.num_inputs} inputs, but the settings give {reads.num_inputs}"
                )
            if weights.num_outputs != settings.num_outputs:
                raise ValueError(
                    f"the network has {weights.num_outputs} outputs, but the settings want {settings.num_outputs}"
                )
            if weights.hidden_size != size or weights.output_weight.dtype != dtype:
                raise ValueError("the networks differ in their size or type")
            if not len(weights.weights) == len(h) == len(c) == layers:
                raise ValueError(f"{layers} layers need as many states, not {len(h)} and {len(c)}")
            for state in (*h, *c):
                check(state, dtype, (size, shape[0] * (segment.stop - segment.start)), "a state")
            tables = Table(h), Table(c)
            self._kept += tables
            call.is_double, call.num_layers, call.hidden_size = dtype == torch.float64, layers, size
            call.num_inputs = reads.num_inputs
            call.reads_log_sign, call.reads_moments = reads.log_sign, reads.moments
            call.reads_log_times_sign, call.p = reads.log_times_sign, reads.p
            call.reads_scales, call.segment = reads.scales, index
            call.reads_directions, call.is_matrix = reads.directions, segment.num_rows > 0
            call.bounds_output, call.has_magnitude = settings.bounded, settings.magnitude
            of_tensor = settings.of(segment)
            call.output_scale, call.base_step = of_tensor.output_scale, of_tensor.base_step
            call.num_problems, call.num_coordinates = shape
            call.start, call.stop, call.num_steps = segment.start, segment.stop, 1
            call.weights, call.biases, call.output_weight, call.output_bias = weights.pointers
            call.hidden, call.cell = (table.address for table in tables)
        if settings.tracks_moments:
            if moments is None:
                raise ValueError("moments as inputs or a base step need a state of moments, found none")
            check(moments.mean, dtype, shape, "the mean")
            check(moments.square, dtype, shape, "the square")
            check(moments.decay, dtype, (), "the decay")
            for call in self.array:
                call.mean, call.square = moments.mean.data_ptr(), moments.square.data_ptr()
                call.decay = moments.decay.data_ptr()

    def run(self, function: ctypes._FuncPointer) -> None:
        """Let the native code do it."""
        self.array[0].num_threads = torch.get_num_threads()
        if function(self.array, len(self.array)):
            raise MemoryError("the native kernel could not get the memory for its activations")
