"""Normalized gradients of each tensor, weighted by how much of the problem's gradient the tensor has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from meta_opt.api import Evaluation, Layout, OptimizerNetwork, Step, axis

_DECAY = 0.9


@dataclass(frozen=True)
class Squares:
    """h_t: one number for each tensor, and where tensors end."""

    squares: Tensor = axis("tensor")  # [B, S], running mean of ‖∇‖² of each tensor
    sizes: tuple[int, ...] = ()


class Balanced(OptimizerNetwork):
    """A rate for each tensor, from its share of the squared gradient.

    With v_s the running mean of ‖∇‖² of tensor s: update = -rate · ∇_s/√v_s · (v_s/Σ_r v_r)^power
    """

    api_version = 2
    scope = "problem"  # one tensor's update depends on the gradients of all

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the weights φ: the logarithm of the rate, and the power."""
        self.log_rate = nn.Parameter(torch.tensor(-3.0))
        self.power = nn.Parameter(torch.tensor(0.5))

    def init_state(self, layout: Layout, num_problems: int) -> Squares:
        """All zeros."""
        return Squares(self.power.new_zeros(num_problems, len(layout.sizes)), layout.sizes)

    def step(self, evaluation: Evaluation, state: Squares, noise: Generator | None = None) -> Step:
        """One update, [B, N]."""
        parts = evaluation.grad.split(state.sizes, dim=1)
        now = torch.stack([part.square().sum(1) for part in parts], dim=1)  # [B, S]
        squares = _DECAY * state.squares + (1 - _DECAY) * now
        share = (squares + 1e-20) / (squares + 1e-20).sum(1, keepdim=True)
        rates = self.log_rate.exp() * share**self.power / (squares.sqrt() + 1e-10)
        update = [-rates[:, index : index + 1] * part for index, part in enumerate(parts)]
        return Step(torch.cat(update, dim=1), Squares(squares, state.sizes))
