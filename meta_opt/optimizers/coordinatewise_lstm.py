"""A small LSTM applied to every coordinate on its own (Andrychowicz et al. 2016, section 2.1, arXiv:1606.04474)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from meta_opt import kernels
from meta_opt.errors import MetaOptError
from meta_opt.optimizers.base import LearnedOptimizer, Rollout, map_state
from meta_opt.optimizers.captured import NUM_WORTHWHILE, CapturedRollout
from meta_opt.optimizers.fused_replay import coordinates_at_once, lstm_grads
from meta_opt.optimizers.lstm_network import LSTMNetwork, bias_grads
from meta_opt.params import NUM_FEATURES, Layout, Segment, Sharing
from meta_opt.preprocessing import Moments, log_sign
from meta_opt.problems import Evaluation

Inputs = Literal["none", "log_sign", "moments", "log_sign+moments"]
_FUSED_BYTES = 1 << 30  # what a GPU may keep for the way back
_BLOCK = 4096  # coordinates that PyTorch replays at once: what it keeps for the way back stays in the cache
_NUM_INPUTS = {"none": 1, "log_sign": 2, "moments": 2, "log_sign+moments": 4}


@dataclass(frozen=True)
class LSTMState:
    """h_t of all coordinates.

    Coordinates come last, so that the gates of a layer are one matrix product with contiguous parts.
    """

    segments: tuple[Segment, ...]  # which coordinates each network works on, n of them
    hidden: tuple[tuple[Tensor, ...], ...]  # per network, per layer: [H, B·n]
    cell: tuple[tuple[Tensor, ...], ...]  # per network, per layer: [H, B·n]
    moments: Moments | None  # only where inputs or base step need them

    def block(self, index: int, start: int, stop: int) -> LSTMState:
        """The state of coordinates ``start:stop``, which network ``index`` works on."""
        segment = self.segments[index]

        def cut(tensor: Tensor) -> Tensor:
            size = segment.stop - segment.start
            rows = tensor.view(len(tensor), -1, size)[..., start - segment.start : stop - segment.start]
            return rows.reshape(len(tensor), -1)

        moments = self.moments
        if moments is not None:
            moments = Moments(moments.mean[:, start:stop], moments.square[:, start:stop], moments.decay)
        return LSTMState(
            (replace(segment, start=0, stop=stop - start),),
            (tuple(map(cut, self.hidden[index])),),
            (tuple(map(cut, self.cell[index])),),
            moments,
        )


class CoordinatewiseLSTM(LearnedOptimizer):
    """LSTM with shared weights and a separate state for every coordinate.

    update = output_scale · out(LSTM(inputs(∇), h)) - base_step · m̂/√v̂
    """

    reads_params = False

    def __init__(
        self,
        num_layers: int = 2,
        hidden_size: int = 20,
        inputs: Inputs = "log_sign",
        output: Literal["linear", "tanh"] = "linear",
        output_scale: float = 0.1,
        initial_output: float = 1.0,
        base_step: float = 0.0,
        share: Sharing = "all",
        tensor_features: bool = False,
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            num_layers: LSTM layers; 0 leaves the output layer alone, reading the inputs.
            hidden_size: Width H of every layer.
            inputs: What the network reads: the gradient itself (none), the paper's logarithm and sign (log_sign),
                gradient and its mean over the root of its second moment (moments), or both (log_sign+moments).
            output: Whether the output is used as it is or bounded by tanh.
            output_scale: Factor of the output.
            initial_output: Factor of the output layer's initial weights; 0 makes the first update the base step alone.
            base_step: α of the step -α·m̂/√v̂ that the output is added to, so that an untrained network already
                optimizes; 0 leaves it out, as the paper does.
            share: One network for all coordinates, or one per kind of tensor (vector, matrix, filter), or one per
                group of parameters, or one per tensor.
            tensor_features: Let a network know of each coordinate what tensor it is in, by what adds to its biases:
                kind, place in the model, fan-in and fan-out (see :func:`meta_opt.params.features_of`).

        Raises:
            MetaOptError: If a size is out of range.
        """
        super().__init__()
        if num_layers < 0:
            raise MetaOptError(f"optimizer.num_layers must be 0 or more, not {num_layers}")
        if hidden_size < 1:
            raise MetaOptError(f"optimizer.hidden_size must be 1 or more, not {hidden_size}")
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self.inputs = inputs
        self.output = output
        self.output_scale = output_scale
        self.initial_output = initial_output
        self.base_step = base_step
        self.share: Sharing = share
        self.tensor_features = tensor_features
        self.networks = nn.ModuleDict()
        self._uses_moments = "moments" in inputs or base_step != 0.0

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network per segment of ``layout``, with weights drawn from ``generator``."""
        for segment in self._segments(layout):
            if _key(segment.name) in self.networks:
                continue
            self.networks[_key(segment.name)] = LSTMNetwork(
                _NUM_INPUTS[self.inputs],
                self.num_layers,
                self.hidden_size,
                self.initial_output,
                NUM_FEATURES * self.tensor_features,
                generator,
            )

    def start_from(self, other: LearnedOptimizer) -> None:
        """See :meth:`LearnedOptimizer.start_from`; networks of the same name, or all from the only one of ``other``."""
        if not isinstance(other, CoordinatewiseLSTM) or other.inputs != self.inputs:
            raise MetaOptError("the two learned optimizers do not read the same inputs")
        sources = dict(other.networks)
        if len(sources) == 1:
            sources = dict.fromkeys(self.networks, *sources.values())
        if missing := [key for key in self.networks if key not in sources]:
            raise MetaOptError(f"there is no network {', '.join(missing)} to start from, only {', '.join(sources)}")
        try:
            for key, network in self.networks.items():
                network.load_state_dict(sources[key].state_dict())
        except RuntimeError as error:
            raise MetaOptError(
                "the two learned optimizers differ in num_layers, hidden_size or tensor_features"
            ) from error

    def _segments(self, layout: Layout) -> tuple[Segment, ...]:
        return layout.segments(self.share, features=self.tensor_features)

    def init_state(self, layout: Layout, num_problems: int) -> LSTMState:
        """All zeros.

        Raises:
            MetaOptError: If the layout has a group or tensor that there is no network for.
        """
        segments = self._segments(layout)
        keys = dict.fromkeys(self._key(segment.name) for segment in segments)
        if missing := [key for key in keys if key not in self.networks]:
            raise MetaOptError(
                f"the learned optimizer has no network for {', '.join(missing)}; it has "
                f"{', '.join(self.networks)}; --network_for can say which of them to use"
            )
        like = next(self.networks.parameters())

        def zeros(segment: Segment) -> tuple[Tensor, ...]:
            size = num_problems * (segment.stop - segment.start)
            return tuple(like.new_zeros(self.hidden_size, size) for _ in range(self.num_layers))

        hidden, cell = (tuple(map(zeros, segments)) for _ in range(2))
        moments = Moments.zeros(like, num_problems, layout.num_coordinates) if self._uses_moments else None
        return LSTMState(segments, hidden, cell, moments)

    def step(self, evaluation: Evaluation, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """One update, see :meth:`LearnedOptimizer.step`."""
        grad = evaluation.grad
        if not torch.is_grad_enabled() and (kernel := self._kernel(grad)):
            rollout = _NativeRollout(self, kernel, state)
            return rollout.step(evaluation), rollout.state
        inputs, base, moments = self._read(grad, state.moments)
        outputs, hidden, cell = [], [], []
        for index, segment in enumerate(state.segments):
            rows = inputs[..., segment.start : segment.stop].reshape(len(inputs), -1)  # [F, B·n]
            out, new_hidden, new_cell = self._network(segment)(
                rows, state.hidden[index], state.cell[index], segment.features
            )
            outputs.append(out.view(len(grad), -1))
            hidden.append(new_hidden)
            cell.append(new_cell)
        update = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        if self.output == "tanh":
            update = torch.tanh(update)
        update = self.output_scale * update
        if self.base_step != 0.0:
            update = update - self.base_step * base
        return update, LSTMState(state.segments, tuple(hidden), tuple(cell), moments)

    def rollout(self, state: LSTMState) -> Rollout:
        """See :meth:`LearnedOptimizer.rollout`; native code and CUDA graphs work on a copy of the state."""
        if torch.is_grad_enabled():
            return super().rollout(state)
        if kernel := self._kernel(next(self.parameters())):
            return _NativeRollout(self, kernel, state)
        return CapturedRollout(self, state) if self._captures(state) else super().rollout(state)

    def prepare(self, kernel: kernels.Kernel, state: LSTMState, shape: torch.Size) -> kernels.Rollout:
        """Native steps that overwrite ``state``, for gradients [B, N] of this shape."""
        return kernel.rollout(
            self._settings, self._weights(state), state.segments, shape, state.hidden, state.cell, state.moments
        )

    def replay(
        self, evaluations: Sequence[Evaluation], state: LSTMState, coefficients: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """See :meth:`LearnedOptimizer.replay`; coordinates are independent, so it goes through them block by block."""
        if kernel := self._kernel(coefficients[0]):
            results = kernel.replay(
                self._settings,
                self._weights(state),
                state.segments,
                [evaluation.grad for evaluation in evaluations],
                coefficients,
                state.hidden,
                state.cell,
                state.moments,
            )
            return self._in_order(
                state,
                [
                    (grad.output_weight, grad.output_bias, *grad.weights, *bias_grads(grad.biases, segment.features))
                    for grad, segment in zip(results, state.segments, strict=True)
                ],
            )
        if self._fuses(coefficients[0]):
            return self._in_order(state, self._fused_replay(evaluations, state, coefficients))
        total = [torch.zeros_like(parameter) for parameter in self.trained_parameters()]
        for index, segment in enumerate(state.segments):
            for start in range(segment.start, segment.stop, _BLOCK):
                stop = min(start + _BLOCK, segment.stop)
                grads = super().replay(
                    [_columns(evaluation, start, stop) for evaluation in evaluations],
                    state.block(index, start, stop),
                    [coefficient[:, start:stop] for coefficient in coefficients],
                )
                torch._foreach_add_(total, grads)
        return tuple(total)

    def _read(self, grad: Tensor, moments: Moments | None) -> tuple[Tensor, Tensor, Moments | None]:
        """∇ [B, N] to the networks' inputs [F, B, N], m̂/√v̂ [B, N] (or ∇, without moments) and the moments after it."""
        parts, base = [], grad
        if "log_sign" in self.inputs:
            parts.append(log_sign(grad))
        if moments is not None:
            moments = moments.updated(grad)
            normalized = moments.normalized(grad)
            base = normalized[0]
            if "moments" in self.inputs:
                parts.append(normalized)
        return torch.cat(parts) if parts else grad.unsqueeze(0), base, moments

    def _fuses(self, tensor: Tensor) -> bool:
        """Whether replays go through ``nn.LSTM``: on GPUs, where it is one call instead of hundreds."""
        return tensor.is_cuda and self.num_layers > 0

    def _captures(self, state: LSTMState) -> bool:
        """Whether steps go through a CUDA graph: on a GPU, where launches take longer than small operations."""
        if self.num_layers == 0:
            return False
        return state.hidden[0][0].is_cuda and sum(hidden[0].shape[1] for hidden in state.hidden) <= NUM_WORTHWHILE

    def _fused_replay(
        self, evaluations: Sequence[Evaluation], state: LSTMState, coefficients: Sequence[Tensor]
    ) -> list[tuple[Tensor, ...]]:
        """Per network the gradients of its parameters, in their order."""
        num_problems = len(coefficients[0])
        at_once = coordinates_at_once(len(evaluations), self.num_layers, self.hidden_size, _FUSED_BYTES)
        results = []
        for index, segment in enumerate(state.segments):
            network = self._network(segment)
            total = [torch.zeros_like(parameter) for parameter in network.parameters()]
            columns = max(1, at_once // num_problems)
            for start in range(segment.start, segment.stop, columns):
                stop = min(start + columns, segment.stop)
                block = state.block(index, start, stop)
                moments, rows = block.moments, []
                for evaluation in evaluations:
                    inputs, _, moments = self._read(evaluation.grad[:, start:stop], moments)
                    rows.append(inputs.flatten(1).T)
                weights, biases, *output = lstm_grads(
                    tuple(network.weights),
                    network.biases_for(segment.features),
                    network.output_weight,
                    network.output_bias,
                    torch.stack(rows),
                    block.hidden[0],
                    block.cell[0],
                    self.output_scale * torch.stack([part[:, start:stop].flatten() for part in coefficients]),
                    bounded=self.output == "tanh",
                )
                torch._foreach_add_(total, [*output, *weights, *bias_grads(biases, segment.features)])
            results.append(tuple(total))
        return results

    def _in_order(self, state: LSTMState, of_segments: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The sums over each network's segments, in the order of the parameters; zero where it has none."""
        total = {key: [torch.zeros_like(weight) for weight in net.parameters()] for key, net in self.networks.items()}
        for segment, grads in zip(state.segments, of_segments, strict=True):
            torch._foreach_add_(total[self._key(segment.name)], grads)
        return tuple(grad for grads in total.values() for grad in grads)

    def of_coordinates(self, state: LSTMState, columns: Tensor) -> LSTMState:
        """See :meth:`LearnedOptimizer.of_coordinates`."""
        segments, hidden, cell, stop = [], [], [], 0
        for index, segment in enumerate(state.segments):
            size = segment.stop - segment.start
            chosen = columns[(columns >= segment.start) & (columns < segment.stop)] - segment.start

            def cut(tensor: Tensor, size: int = size, chosen: Tensor = chosen) -> Tensor:
                return tensor.view(len(tensor), -1, size).index_select(2, chosen).view(len(tensor), -1)

            start, stop = stop, stop + len(chosen)
            segments.append(replace(segment, start=start, stop=stop))
            hidden.append(tuple(map(cut, state.hidden[index])))
            cell.append(tuple(map(cut, state.cell[index])))
        moments = state.moments
        if moments is not None:
            moments = Moments(
                moments.mean.index_select(1, columns), moments.square.index_select(1, columns), moments.decay
            )
        return LSTMState(tuple(segments), tuple(hidden), tuple(cell), moments)

    def _kernel(self, tensor: Tensor) -> kernels.Kernel | None:
        """The native kernel, if it is to be used and can work on such tensors."""
        if self.engine == "torch" or not kernels.Kernel.supports(tensor):
            return None
        kernel = kernels.load()
        if kernel is None and self.engine == "native":
            raise MetaOptError("model.engine native needs a C++ compiler; auto falls back to torch")
        return kernel

    @property
    def _settings(self) -> kernels.Settings:
        return kernels.Settings(
            "log_sign" in self.inputs,
            "moments" in self.inputs,
            self.output == "tanh",
            self.output_scale,
            self.base_step,
        )

    def _network(self, segment: Segment) -> LSTMNetwork:
        return self.networks[self._key(segment.name)]  # type: ignore[return-value]

    def _key(self, name: str) -> str:
        """Under what key the network of a group, kind or tensor of this name is found, or that which stands in."""
        key = _key(name)
        return key if key in self.networks else self.network_for.get(key, key)

    def _weights(self, state: LSTMState) -> list[kernels.Weights]:
        networks = [(self._network(segment), segment.features) for segment in state.segments]
        with torch.no_grad():
            return [
                kernels.Weights(tuple(net.weights), net.biases_for(features), net.output_weight, net.output_bias)
                for net, features in networks
            ]


class _NativeRollout(Rollout):
    """Steps in native code."""

    def __init__(self, optimizer: CoordinatewiseLSTM, kernel: kernels.Kernel, state: LSTMState) -> None:
        super().__init__(optimizer, map_state(torch.clone, state))
        self._lstm = optimizer
        self._kernel = kernel
        self._native: kernels.Rollout | None = None

    def step(self, evaluation: Evaluation) -> Tensor:
        if self._native is None:  # now the number of problems is known
            self._native = self._lstm.prepare(self._kernel, self.state, evaluation.grad.shape)
        return self._native.step(evaluation.grad)


def _columns(evaluation: Evaluation, start: int, stop: int) -> Evaluation:
    return Evaluation(evaluation.loss, evaluation.grad[:, start:stop], evaluation.params[:, start:stop])


def _key(name: str) -> str:
    return name.replace(".", "/")  # module names may not hold dots
