"""The coordinatewise LSTM in native code: tensors in, tensors out.

Same mathematics as :mod:`meta_opt.optimizers.coordinatewise_lstm`, without a graph; `lstm.cpp` says how it works.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.inputs import Reads
from meta_opt.optimizers.lstm.native.memory import DTYPES, Table, check
from meta_opt.optimizers.lstm.native.scales import ReadScales
from meta_opt.optimizers.lstm.preprocessing import NUM_SCALES, Moments

_GATES = 4
LayerStates = tuple[tuple[Tensor, ...], ...]  # per network, per layer: [H, B·n]


@dataclass(frozen=True)
class Settings:
    """What a learned optimizer does around its networks; see ``CoordinatewiseLSTM``.

    Attributes:
        reads: What the networks read.
        bounded: Whether the output goes through tanh.
        magnitude: Whether the update is multiplied by e to the power of a second output.
        output_scale: Factor of the output.
        base_step: α of the step -α·d that the output is added to, where the direction d is m̂/√v̂, but for matrices where
            directions are read.
    """

    reads: Reads
    bounded: bool
    magnitude: bool
    output_scale: float
    base_step: float

    @property
    def num_outputs(self) -> int:
        """R, what a network gives."""
        return 1 + self.magnitude

    @property
    def tracks_moments(self) -> bool:
        """Whether there is a state of moments."""
        return self.reads.moments or self.base_step != 0.0


@dataclass(frozen=True)
class Weights:
    """The weights of one network, or their gradients.

    Contiguous, on the CPU, all float32 or all float64. Changes in place are seen; after weights were moved or replaced
    make this anew.

    Attributes:
        weights: Per layer [4H, width + H]; rows: input, forget and output gate, candidate; columns: what the layer
            reads, then its hidden state.
        biases: Per layer [4H, 1].
        output_weight: [R, width].
        output_bias: [R, 1].
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    output_weight: Tensor
    output_bias: Tensor
    _tables: tuple[Table, Table] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        dtype = self.output_weight.dtype
        if dtype not in DTYPES:
            raise ValueError(f"the native kernel works in float32 and float64, not in {dtype}")
        if len(self.weights) != len(self.biases):
            raise ValueError(f"{len(self.weights)} weights need as many biases, not {len(self.biases)}")
        size = self.hidden_size
        for weight, bias in zip(self.weights, self.biases, strict=True):
            check(weight, dtype, (_GATES * size, weight.shape[-1]), "a weight")
            check(bias, dtype, (_GATES * size, 1), "a bias")
        for above, below in zip(self.weights[1:], self.weights[:-1], strict=True):
            if above.shape[1] != 2 * size:
                raise ValueError(f"a layer above one of {tuple(below.shape)} cannot be {tuple(above.shape)}")
        width = size if self.weights else self.output_weight.shape[-1]
        check(self.output_weight, dtype, (self.num_outputs, width), "the output weight")
        check(self.output_bias, dtype, (self.num_outputs, 1), "the output bias")
        object.__setattr__(self, "_tables", (Table(self.weights), Table(self.biases)))

    @property
    def pointers(self) -> tuple[int, int, int, int]:
        """Addresses of the tables of weights and biases, of the output weight and the output bias."""
        weights, biases = self._tables
        return weights.address, biases.address, self.output_weight.data_ptr(), self.output_bias.data_ptr()

    @property
    def hidden_size(self) -> int:
        """H, or 0 without a layer."""
        return self.weights[0].shape[0] // _GATES if self.weights else 0

    @property
    def num_inputs(self) -> int:
        """F, what the lowest layer reads."""
        return (self.weights[0].shape[1] - self.hidden_size) if self.weights else self.output_weight.shape[1]

    @property
    def num_outputs(self) -> int:
        """R, the rows of the output layer."""
        return len(self.output_weight)

    def like(self) -> Weights:
        """Uninitialized weights of the same shapes."""
        return Weights(
            tuple(map(torch.empty_like, self.weights)),
            tuple(map(torch.empty_like, self.biases)),
            torch.empty_like(self.output_weight),
            torch.empty_like(self.output_bias),
        )


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
        if library.meta_opt_call_size() != ctypes.sizeof(_Call):
            raise ValueError("lstm.cpp and lstm.py differ in the fields of Call")
        self._step = library.meta_opt_step
        self._replay = library.meta_opt_replay
        for function in (self._step, self._replay):
            function.argtypes = [ctypes.POINTER(_Call), ctypes.c_int64]
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
        settings: Settings,
        networks: Sequence[Weights],
        segments: Sequence[Segment],
        shape: torch.Size,
        hidden: LayerStates,
        cell: LayerStates,
        moments: Moments | None,
    ) -> Rollout:
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
        calls = _Calls(settings, networks, segments, dtype, shape, hidden, cell, moments)
        return Rollout(self._step, calls, dtype, shape, len(segments) * reads.scales, reads.directions)

    def replay(
        self,
        settings: Settings,
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
        calls = _Calls(settings, networks, segments, dtype, shape, hidden, cell, moments)
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


class _Call(ctypes.Structure):
    """``struct Call`` of lstm.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("is_double", "num_layers", "hidden_size", "num_inputs")),
        *((name, ctypes.c_int64) for name in ("reads_log_sign", "reads_moments", "reads_scales")),
        *((name, ctypes.c_int64) for name in ("reads_directions", "is_matrix")),
        *((name, ctypes.c_int64) for name in ("bounds_output", "has_magnitude", "segment")),
        *((name, ctypes.c_double) for name in ("output_scale", "base_step")),
        *((name, ctypes.c_int64) for name in ("num_problems", "num_coordinates", "start", "stop")),
        *((name, ctypes.c_int64) for name in ("num_steps", "num_threads")),
        *((name, ctypes.c_void_p) for name in ("weights", "biases", "output_weight", "output_bias")),
        *((name, ctypes.c_void_p) for name in ("hidden", "cell", "mean", "square", "decay")),
        *((name, ctypes.c_void_p) for name in ("grads", "scales", "directions", "update")),
        *((name, ctypes.c_void_p) for name in ("coefficients", "weight_grads", "bias_grads")),
        *((name, ctypes.c_void_p) for name in ("output_weight_grad", "output_bias_grad")),
    )


class _Calls:
    """What a step and the replay have in common, checked; one call for each segment."""

    def __init__(
        self,
        settings: Settings,
        networks: Sequence[Weights],
        segments: Sequence[Segment],
        dtype: torch.dtype,
        shape: torch.Size,
        hidden: LayerStates,
        cell: LayerStates,
        moments: Moments | None,
    ) -> None:
        layers, size = len(networks[0].weights), networks[0].hidden_size
        self.array = (_Call * len(segments))()
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
            call.reads_scales, call.segment = reads.scales, index
            call.reads_directions, call.is_matrix = reads.directions, segment.num_rows > 0
            call.bounds_output, call.has_magnitude = settings.bounded, settings.magnitude
            call.output_scale = settings.output_scale
            call.base_step = settings.base_step
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


class Rollout:
    """Steps one after the other, each of which overwrites the state; :meth:`Kernel.rollout` gives it."""

    def __init__(
        self,
        step: ctypes._FuncPointer,
        calls: _Calls,
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
