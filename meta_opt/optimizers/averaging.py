"""Global averaging cells: cells of an LSTM whose outgoing activations all coordinates share.

Andrychowicz et al. 2016, first arXiv version (arXiv:1606.04474v1), the appendix on coupling coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.network import LSTMNetwork, lstm_layer

Average = Callable[[Tensor], Tensor]


def average_over(num_problems: int, sizes: Sequence[int]) -> Average:
    """What puts the mean over coordinates in the place of each.

    Args:
        num_problems: B.
        sizes: How many coordinates each range to average over has, N in all.

    Returns:
        A function of rows [G, B·N], which gives the means of each problem and range in the same shape.
    """

    def average(rows: Tensor) -> Tensor:
        parts = rows.view(len(rows), num_problems, -1).split(list(sizes), dim=2)
        means = [part.mean(2, keepdim=True).expand_as(part) for part in parts if part.shape[2]]
        return (means[0] if len(means) == 1 else torch.cat(means, dim=2)).reshape(rows.shape)

    return average


def averaging_lstm(
    network: LSTMNetwork,
    inputs: Tensor,
    hidden: tuple[Tensor, ...],
    cell: tuple[Tensor, ...],
    num_averaging: int,
    average: Average,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A step of a network whose first cells of each layer are averaged.

    The averages take the place of the activations in what the next layer, the next step and the output layer read. The
    cell states stay each coordinate's own.

    Args:
        network: The weights, for H cells per layer.
        inputs: [F, B·N].
        hidden: Per layer [H, B·N].
        cell: Per layer [H, B·N].
        num_averaging: G, how many cells of each layer are averaged; at most H.
        average: See :func:`average_over`.

    Returns:
        Outputs [R, B·N], and the new hidden and cell, as they were given.
    """
    new_hidden, new_cell = [], []
    for weight, bias, h, c in zip(network.weights, network.biases, hidden, cell, strict=True):
        inputs, c = lstm_layer(weight, bias, inputs, h, c)
        if num_averaging:
            inputs = torch.cat([average(inputs[:num_averaging]), inputs[num_averaging:]])
        new_hidden.append(inputs)
        new_cell.append(c)
    return torch.addmm(network.output_bias, network.output_weight, inputs), tuple(new_hidden), tuple(new_cell)
