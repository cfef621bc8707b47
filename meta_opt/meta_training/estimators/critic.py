"""A critic: what return is still to come, guessed from the losses so far."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

NUM_INPUTS = 5
_LEAST = 1e-12  # loss that the logarithm is taken of


class Critic(nn.Module):
    """V_t of each problem, by one network with a layer of hidden units; zero before anything is learned."""

    def __init__(self, size: int) -> None:
        """Draw the weights, always the same.

        Args:
            size: Hidden units.
        """
        super().__init__()
        weight = torch.randn(size, NUM_INPUTS, generator=Generator().manual_seed(0)) / NUM_INPUTS**0.5
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(size))
        self.output_weight = nn.Parameter(torch.zeros(1, size))
        self.output_bias = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Values [..., B] of inputs [..., B, 5]."""
        hidden = torch.tanh(nn.functional.linear(inputs, self.weight, self.bias))
        return nn.functional.linear(hidden, self.output_weight, self.output_bias).squeeze(-1)


def inputs_of(losses: Tensor, first: Tensor, previous: Tensor, start: int, num_steps: int) -> Tensor:
    """What the critic reads at steps ``start`` ... ``start`` + T of an episode.

    The logarithm of the size of the loss; its change, between -1 and 1, since the episode's beginning and since the
    step before; the time that has passed, by its logarithm; and the part of the episode that is left.

    Args:
        losses: f, [T + 1, B].
        first: f_0 of the episode, [B].
        previous: That of the step before they begin, [B]; f_0 itself where there is none.
        start: Where in the episode they begin.
        num_steps: Length of the episode.

    Returns:
        [T + 1, B, 5].
    """
    times = torch.arange(start, start + len(losses), dtype=losses.dtype, device=losses.device)
    before = torch.cat([previous.unsqueeze(0), losses[:-1]])
    columns = [
        losses.abs().clamp_min(_LEAST).log() / 10.0,
        (losses - first) / (losses.abs() + first.abs() + _LEAST),
        (losses - before) / (losses.abs() + before.abs() + _LEAST),
        (times.log1p() / 10.0).unsqueeze(1).expand_as(losses),
        (1.0 - times / num_steps).unsqueeze(1).expand_as(losses),
    ]
    return torch.stack(columns, dim=-1)
