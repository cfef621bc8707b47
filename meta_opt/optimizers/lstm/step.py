"""One step of the coordinatewise LSTM in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from meta_opt.optimizers.lstm.inputs import read_inputs
from meta_opt.optimizers.lstm.network import LSTMNetwork
from meta_opt.optimizers.lstm.settings import NetworkSettings
from meta_opt.optimizers.lstm.state import LSTMState

LARGEST_EXPONENT = 10.0  # of the magnitude; the shipped networks write -6 to 5 on their own optimizees


def lstm_step(
    settings: NetworkSettings,
    networks: Sequence[LSTMNetwork],
    grad: Tensor,
    state: LSTMState,
    read: Tensor | None,
    of_matrices: Tensor | None,
) -> tuple[Tensor, LSTMState]:
    """One update before annealing.

    Args:
        settings: What surrounds the networks.
        networks: That of each segment of the state.
        grad: ∇, [B, N], as :meth:`LSTMState.read_gradients` gave it.
        state: The state before the step, but with the scales and steps after it.
        read: What is read of the scales, [S, B, 3], if it is.
        of_matrices: The orthogonalized directions of matrices, [B, N], if they are read.

    Returns:
        The update, [B, N], and the state after it.
    """
    moments = None if state.moments is None else state.moments.updated(grad)
    updates, hidden, cell = [], [], []
    for index, (segment, network) in enumerate(zip(state.segments, networks, strict=True)):
        start, stop = segment.start, segment.stop
        inputs, direction = read_inputs(
            settings.reads,
            segment,
            grad[:, start:stop],
            None if moments is None else moments.part(start, stop),
            None if read is None else read[index],
            None if of_matrices is None else of_matrices[:, start:stop],
        )
        outputs, new_hidden, new_cell = network(
            inputs.flatten(1), state.hidden[index], state.cell[index], segment.features
        )
        updates.append(update_of(settings.of(segment), outputs.view(len(outputs), *direction.shape), direction))
        hidden.append(new_hidden)
        cell.append(new_cell)
    update = updates[0] if len(updates) == 1 else torch.cat(updates, dim=-1)
    if moments is not None:
        update = moments.faded(update, grad)
    return update, replace(state, hidden=tuple(hidden), cell=tuple(cell), moments=moments)


def update_of(settings: NetworkSettings, outputs: Tensor, direction: Tensor) -> Tensor:
    """The update from a network's outputs, [R, ...], and the direction of the base step, [...]."""
    update = torch.tanh(outputs[0]) if settings.bounded else outputs[0]
    update = settings.output_scale * update
    if settings.base_step != 0.0:
        update = update - settings.base_step * direction
    if settings.magnitude:
        update = update * outputs[1].clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
    return update
