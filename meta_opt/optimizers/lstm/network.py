"""The network of the coordinatewise LSTM: stacked layers and a linear output, for coordinates in columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from meta_opt import memory
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.fused_cell import fused_layer
from meta_opt.optimizers.weights import uniform


class LSTMNetwork(nn.Module):
    """Stacked LSTM layers and a linear output, for coordinates in columns.

    Attributes:
        weights: Per layer [4H, width + H]; rows: input, forget and output gate, candidate; columns: what the layer
            reads, then its hidden state.
        biases: Per layer [4H, 1].
        feature_weights: Per layer [4H, K], what K features of a tensor add to the biases; none where it has none.
        output_weight: [R, H].
        output_bias: [R, 1].
    """

    def __init__(
        self,
        num_inputs: int,
        num_layers: int,
        size: int,
        num_outputs: int,
        initial_output: float,
        num_features: int,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.size = size
        drawn = 2 * 4 * num_layers * 4 * size * size  # bytes of weights, and of the numbers that they are made from
        memory.check(drawn, f"{num_layers} layers of {size} units, see optimizer.hidden_size")
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        width = num_inputs
        for _ in range(num_layers):
            bound = 1.0 / math.sqrt(size)
            # Rows: input, forget and output gate, candidate. Columns: the layer's input, then its hidden state.
            self.weights.append(uniform((4 * size, width + size), bound, generator))
            bias = torch.zeros(4 * size, 1)
            bias[size : 2 * size] = 1.0  # remember at first (Jozefowicz et al. 2015)
            self.biases.append(bias)
            width = size
        # What features of the tensor add to the biases.
        self.feature_weights = nn.ParameterList(
            uniform((4 * size, num_features), 1.0, generator) for _ in range(num_layers if num_features else 0)
        )
        self.output_weight = nn.Parameter(uniform((num_outputs, width), initial_output / math.sqrt(width), generator))
        self.output_bias = nn.Parameter(torch.zeros(num_outputs, 1))

    def biases_for(self, features: tuple[float, ...]) -> tuple[Tensor, ...]:
        """The biases of each layer, [4H, 1], in a tensor with these features."""
        if not features:
            return tuple(self.biases)
        column = _column(features, self.output_bias.dtype, self.output_bias.device)
        return tuple(
            torch.addmm(bias, weight, column) for bias, weight in zip(self.biases, self.feature_weights, strict=True)
        )

    @torch.no_grad()
    def for_kernel(self, features: tuple[float, ...]) -> native.Weights:
        """The weights as native code reads them, in a tensor with these features."""
        return native.Weights(tuple(self.weights), self.biases_for(features), self.output_weight, self.output_bias)

    def forward(
        self,
        inputs: Tensor,
        hidden: tuple[Tensor, ...],
        cell: tuple[Tensor, ...],
        features: tuple[float, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs [F, n] and per layer h, c [H, n] to outputs [R, n] and the new h, c."""
        layer = fused_layer if inputs.is_cuda and not torch.is_grad_enabled() else lstm_layer
        new_hidden, new_cell = [], []
        for weight, bias, h, c in zip(self.weights, self.biases_for(features), hidden, cell, strict=True):
            inputs, c = layer(weight, bias, inputs, h, c)
            new_hidden.append(inputs)
            new_cell.append(c)
        return torch.addmm(self.output_bias, self.output_weight, inputs), tuple(new_hidden), tuple(new_cell)


def lstm_layer(weight: Tensor, bias: Tensor, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h, c [H, n] of a layer that reads [F, n]."""
    size = len(h)
    gates = torch.addmm(bias, weight, torch.cat([inputs, h]))  # [4H, n]
    input_gate, forget_gate, output_gate = torch.sigmoid(gates[: 3 * size]).split(size)
    c = forget_gate * c + input_gate * torch.tanh(gates[3 * size :])
    return output_gate * torch.tanh(c), c


def bias_grads(biases: Sequence[Tensor], features: tuple[float, ...]) -> list[Tensor]:
    """Gradients of the biases and of the feature weights, from those of what :meth:`LSTMNetwork.biases_for` gave."""
    if not features:
        return [*biases]
    return [*biases, *(bias @ _column(features, bias.dtype, bias.device).T for bias in biases)]


@functools.cache  # copying numbers to the GPU synchronizes, which must not happen while a CUDA graph is captured
def _column(features: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Features as [K, 1]."""
    with torch.inference_mode(False):  # it is used in training too
        return torch.tensor(features, dtype=dtype, device=device).unsqueeze(1)
