"""PyTorch's fused cell of an LSTM, ``nn.LSTMCell``'s on a GPU: all between the products with the weights in one launch.

Coordinates come first here, and gates in PyTorch's order. Elsewhere than on a GPU the same is computed operation by
operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def order_of_gates(size: int, device: torch.device) -> Tensor:
    """Where PyTorch's rows are in ours, [4H]: input, forget, candidate, output. Their swap is its own inverse."""
    input_gate, forget, output, candidate = torch.arange(4 * size, device=device).split(size)
    return torch.cat([input_gate, forget, candidate, output])


def fused_layer(weight: Tensor, bias: Tensor, inputs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """h, c [H, n] of a layer that reads [F, n], as views of tensors with coordinates first.

    At the next step these views cost no copy.

    Args:
        weight: [4H, F + H], its rows in our order.
        bias: [4H, 1].
        inputs: [F, n].
        h: [H, n].
        c: [H, n].
    """
    order, width = order_of_gates(len(h), weight.device), len(inputs)
    weight, bias = weight[order], bias[order, 0]
    read, recurrent = inputs.T @ weight[:, :width].T, h.T @ weight[:, width:].T
    h, c, _ = forward(read, recurrent, c.T, (bias, torch.zeros_like(bias)))
    return h.T, c.T


def forward(read: Tensor, recurrent: Tensor, c: Tensor, biases: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a layer.

    Args:
        read: What goes into the gates from what the layer reads, [n, 4H].
        recurrent: The same from h before, [n, 4H].
        c: c before, [n, H].
        biases: What is added to either, both [4H], or nothing.

    Returns:
        h and c, [n, H], and the gates, [n, 4H].
    """
    if read.is_cuda:
        return torch.ops.aten._thnn_fused_lstm_cell(read, recurrent, c, *biases)
    input_gate, forget, candidate, output = sum(biases, read + recurrent).chunk(4, dim=1)
    gates = [input_gate.sigmoid(), forget.sigmoid(), candidate.tanh(), output.sigmoid()]
    c = gates[1] * c + gates[0] * gates[2]
    return gates[3] * c.tanh(), c, torch.cat(gates, dim=1)


def backward(of_h: Tensor, of_c: Tensor, before: Tensor, after: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the gates before their sigmoids and tangents, [n, 4H], and of c before, [n, H].

    Args:
        of_h: Gradient of h after the step.
        of_c: Gradient of c after the step, but for what comes through h.
        before: c before the step.
        after: c after it.
        gates: As :func:`forward` gave them.
    """
    if gates.is_cuda:
        return torch.ops.aten._thnn_fused_lstm_cell_backward_impl(of_h, of_c, before, after, gates, False)[:2]
    input_gate, forget, candidate, output = gates.chunk(4, dim=1)
    tanh = after.tanh()
    of_c = of_c + of_h * output * (1 - tanh * tanh)
    of_gates = [
        of_c * candidate * input_gate * (1 - input_gate),
        of_c * before * forget * (1 - forget),
        of_c * input_gate * (1 - candidate * candidate),
        of_h * tanh * output * (1 - output),
    ]
    return torch.cat(of_gates, dim=1), of_c * forget
