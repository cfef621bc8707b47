"""The replay of a coordinatewise LSTM on a GPU: few large operations, and PyTorch's fused cell for what is in between.

Layer by layer, so that the products with all that a layer reads are one, for all T steps; and so is, on the way back,
the gradient of its weights. A graph of autograd would take four times as many launches, and cuDNN's own backward pass
takes several times as long for so few units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.fused_cell import backward, forward, order_of_gates

_NUM_KEPT = 20  # numbers that the way back needs per coordinate, step, layer and unit, roughly


def coordinates_at_once(num_steps: int, num_layers: int, hidden_size: int, num_bytes: int) -> int:
    """How many coordinates can be replayed at once with ``num_bytes`` for what the way back needs."""
    return max(1, num_bytes // (4 * _NUM_KEPT * num_steps * num_layers * hidden_size))


@torch.no_grad()
def lstm_grads(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output_weight: Tensor,
    output_bias: Tensor,
    inputs: Tensor,
    hidden: Sequence[Tensor],
    cell: Sequence[Tensor],
    coefficients: Tensor,
    update: Callable[[Tensor], Tensor],
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Gradients of Σ_τ ⟨c_τ, g_τ⟩, where g_τ is the update at step τ.

    Args:
        weights: Per layer [4H, width + H]; rows: input, forget and output gate, candidate.
        biases: Per layer [4H, 1].
        output_weight: [R, H].
        output_bias: [R, 1].
        inputs: [T, n, F].
        hidden: h_0 per layer, [H, n].
        cell: c_0 per layer, [H, n].
        coefficients: c_τ, [T, n].
        update: Makes the updates, [T, n], of the outputs, [R, T, n].

    Returns:
        Gradients of weights, biases, output weight and output bias.
    """
    size = output_weight.shape[1]
    theirs = order_of_gates(size, inputs.device)
    layers, below = [], inputs
    for weight, bias, h, c in zip(weights, biases, hidden, cell, strict=True):
        layers.append(_Layer.run(weight[theirs], bias[theirs, 0], below, h.T.contiguous(), c.T.contiguous()))
        below = layers[-1].hidden[1:]
    outputs = torch.nn.functional.linear(below, output_weight, output_bias[:, 0]).requires_grad_()  # [T, n, R]
    with torch.enable_grad():
        (of_outputs,) = torch.autograd.grad((update(outputs.movedim(-1, 0)) * coefficients).sum(), outputs)
    of_rows = of_outputs.flatten(0, 1)
    of_head = of_rows.T @ below.flatten(0, 1), of_rows.sum(0).unsqueeze(1)
    of_weights, of_biases, of_hidden = [], [], of_outputs @ output_weight
    for layer in reversed(layers):
        of_weight, of_bias, of_hidden = layer.grads(of_hidden)
        of_weights.append(of_weight[theirs])
        of_biases.append(of_bias[theirs])
    return of_weights[::-1], of_biases[::-1], *of_head


@dataclass(frozen=True)
class _Layer:
    """One layer over T steps.

    Attributes:
        weight: [4H, width + H], in PyTorch's order of the gates: input, forget, candidate, output.
        below: What it read, [T, n, width].
        hidden: h_0 ... h_T, [T + 1, n, H].
        cell: c_0 ... c_T, each [n, H].
        gates: Of each step, after their sigmoids and tangents, [n, 4H].
    """

    weight: Tensor
    below: Tensor
    hidden: Tensor
    cell: list[Tensor]
    gates: list[Tensor]

    @classmethod
    def run(cls, weight: Tensor, bias: Tensor, below: Tensor, h: Tensor, c: Tensor) -> _Layer:
        """Forward: T steps from h_0 and c_0, [n, H]."""
        size = h.shape[1]
        reads = torch.addmm(bias, below.flatten(0, 1), weight[:, :-size].T).unflatten(0, below.shape[:2])
        recurrent = weight[:, -size:].T
        hidden, cell, gates = [h], [c], []
        for read in reads:
            h, c, activated = forward(read, h @ recurrent, c)
            hidden.append(h)
            cell.append(c)
            gates.append(activated)
        return cls(weight, below, torch.stack(hidden), cell, gates)

    def grads(self, of_hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Backward.

        Args:
            of_hidden: Gradients of h_1 ... h_T, [T, n, H], which are overwritten.

        Returns:
            Gradients of the weight, of the bias, [4H, 1], and of what was read.
        """
        size = of_hidden.shape[-1]
        reading, recurrent = self.weight[:, :-size], self.weight[:, -size:]
        of_gates: list[Tensor] = []  # from the last step to the first
        of_cell = torch.zeros_like(self.cell[0])
        for step in reversed(range(len(of_hidden))):
            of_h = of_hidden[step].addmm_(of_gates[-1], recurrent) if of_gates else of_hidden[step]
            of_gate, of_cell = backward(of_h, of_cell, self.cell[step], self.cell[step + 1], self.gates[step])
            of_gates.append(of_gate)
        rows = torch.cat(of_gates[::-1])  # [T n, 4H]
        of_weight = torch.cat([rows.T @ self.below.flatten(0, 1), rows.T @ self.hidden[:-1].flatten(0, 1)], dim=1)
        return of_weight, rows.sum(0).unsqueeze(1), (rows @ reading).view_as(self.below)
