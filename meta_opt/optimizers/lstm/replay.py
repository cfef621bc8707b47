"""Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ of the coordinatewise LSTM over recorded gradients: natively, by a graph, or fused.

Given recorded gradients, coordinates are independent, so PyTorch goes through them block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.fused_replay import coordinates_at_once, lstm_grads
from meta_opt.optimizers.lstm.inputs import read_inputs
from meta_opt.optimizers.lstm.network import LSTMNetwork, bias_grads
from meta_opt.optimizers.lstm.preprocessing import Moments
from meta_opt.optimizers.lstm.settings import NetworkSettings
from meta_opt.optimizers.lstm.state import LSTMState
from meta_opt.optimizers.lstm.step import lstm_step, update_of

Grads = tuple[Tensor, ...]  # of the parameters of one network, in their order; of frozen ones anything
_BLOCK = 4096  # coordinates that a graph replays at once: what it keeps for the way back stays in the cache


@dataclass(frozen=True)
class Recording:
    """T recorded steps of some coordinates.

    Attributes:
        grads: ∇_τ as the networks read them, each [B, N].
        coefficients: c_τ = ∂L/∂g_τ, each [B, N].
        read: What is read of the scales of each segment, each [S, B, 3]; none where they are not read.
        of_matrices: The orthogonalized directions of matrices, each [B, N]; none where they are not read.
        state: The state before the first step.
    """

    grads: Sequence[Tensor]
    coefficients: Sequence[Tensor]
    read: Sequence[Tensor]
    of_matrices: Sequence[Tensor]
    state: LSTMState

    def block(self, index: int, start: int, stop: int) -> Recording:
        """That of coordinates ``start:stop``, which are all in segment ``index``."""
        return Recording(
            [grad[:, start:stop] for grad in self.grads],
            [coefficient[:, start:stop] for coefficient in self.coefficients],
            [scales[index : index + 1] for scales in self.read],
            [each[:, start:stop] for each in self.of_matrices],
            self.state.block(index, start, stop),
        )

    def steps(self) -> zip[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
        """Gradient, coefficient, scales and directions of one step after the other."""
        none = [None] * len(self.grads)
        return zip(self.grads, self.coefficients, self.read or none, self.of_matrices or none, strict=True)


def replay_natively(
    kernel: native.Kernel, settings: NetworkSettings, networks: Sequence[LSTMNetwork], recorded: Recording
) -> list[Grads]:
    """The gradient of the network of each segment, in native code."""
    state = recorded.state
    results = kernel.replay(
        settings,
        [net.for_kernel(segment.features) for net, segment in zip(networks, state.segments, strict=True)],
        state.segments,
        recorded.grads,
        recorded.coefficients,
        state.hidden,
        state.cell,
        state.moments,
        recorded.read,
        recorded.of_matrices,
    )
    return [
        (grad.output_weight, grad.output_bias, *grad.weights, *bias_grads(grad.biases, segment.features))
        for grad, segment in zip(results, state.segments, strict=True)
    ]


def replay_by_graph(settings: NetworkSettings, networks: Sequence[LSTMNetwork], recorded: Recording) -> list[Grads]:
    """The gradient of the network of each segment, by a graph of the steps of each block."""

    def of_block(network: LSTMNetwork, block: Recording) -> Grads:
        inner, state = torch.zeros_like(block.coefficients[0][0, 0]), block.state
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        with torch.enable_grad():
            for grad, coefficient, read, direction in block.steps():
                update, state = lstm_step(settings, [network], grad, state, read, direction)
                inner = inner + torch.dot(coefficient.flatten(), update.flatten())
            grads = iter(torch.autograd.grad(inner, trained, materialize_grads=True) if trained else ())
        return tuple(next(grads) if each.requires_grad else torch.zeros_like(each) for each in network.parameters())

    return _summed(networks, recorded, _BLOCK, of_block)


def replay_fused(settings: NetworkSettings, networks: Sequence[LSTMNetwork], recorded: Recording) -> list[Grads]:
    """The gradient of the network of each segment, which has to have a layer, in few large operations."""

    def of_block(network: LSTMNetwork, block: Recording) -> Grads:
        (segment,), num_steps = block.state.segments, len(block.grads)
        grad = torch.cat([*block.grads])  # [T·B, n]: for what is read, steps are as problems
        moments = _moments_after(block)
        inputs, base = read_inputs(
            settings.reads,
            segment,
            grad,
            moments,
            torch.cat([each[0] for each in block.read]) if block.read else None,
            torch.cat([*block.of_matrices]) if block.of_matrices else None,
        )
        coefficients = torch.cat([*block.coefficients])
        if moments is not None:
            coefficients = moments.faded(coefficients, grad)
        base = base.reshape(num_steps, -1)
        weights, biases, *output = lstm_grads(
            tuple(network.weights),
            network.biases_for(segment.features),
            network.output_weight,
            network.output_bias,
            inputs.reshape(len(inputs), num_steps, -1).movedim(0, -1),
            block.state.hidden[0],
            block.state.cell[0],
            coefficients.reshape(num_steps, -1),
            lambda outputs: update_of(settings.of(segment), outputs, base),
        )
        return (*output, *weights, *bias_grads(biases, segment.features))

    network, num_bytes = networks[0], _fused_bytes(recorded.coefficients[0].device)
    at_once = coordinates_at_once(len(recorded.grads), len(network.weights), network.size, num_bytes)
    return _summed(networks, recorded, at_once, of_block)


def _fused_bytes(device: torch.device) -> int:
    """How much may be kept for the way back: an eighth of what a GPU has, so that equal GPUs sum in equal order."""
    return torch.cuda.get_device_properties(device).total_memory // 8 if device.type == "cuda" else 1 << 30


def _moments_after(block: Recording) -> Moments | None:
    """The moments after each of T steps, as if these were problems: [T·B, n]; none where none are kept."""
    moments, after = block.state.moments, []
    if moments is None:
        return None
    for grad in block.grads:
        moments = moments.updated(grad)
        after.append(moments)
    decays = [each.decay.expand(len(each.mean), 1) for each in after]
    return Moments(
        torch.cat([each.mean for each in after]), torch.cat([each.square for each in after]), torch.cat(decays)
    )


def _summed(
    networks: Sequence[LSTMNetwork],
    recorded: Recording,
    at_once: int,
    of_block: Callable[[LSTMNetwork, Recording], Grads],
) -> list[Grads]:
    """The sum over the blocks of each segment; ``at_once`` coordinates of all problems are a block."""
    width = max(1, at_once // len(recorded.grads[0]))
    totals = []
    for index, (segment, network) in enumerate(zip(recorded.state.segments, networks, strict=True)):
        total = [torch.zeros_like(parameter) for parameter in network.parameters()]
        for start in range(segment.start, segment.stop, width):
            block = recorded.block(index, start, min(start + width, segment.stop))
            torch._foreach_add_(total, of_block(network, block))
        totals.append(tuple(total))
    return totals
