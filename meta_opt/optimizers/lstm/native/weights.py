"""The weights of a network as native code reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.native.memory import DTYPES, Table, check

_GATES = 4


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
