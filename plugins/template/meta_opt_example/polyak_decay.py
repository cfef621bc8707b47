"""A learned rate, weight decay and Polyak step: three numbers that read θ and the loss beside the gradient.

B. T. Polyak, Introduction to Optimization, 1987, section 5.3: where the least loss is 0, f/‖∇‖² is a good rate.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from meta_opt.api import Evaluation, Layout, OptimizerNetwork, Step


class PolyakDecay(OptimizerNetwork):
    """Gradient descent with weight decay, whose rate depends on the loss.

    update = -(rate + polyak · f/‖∇‖²) · ∇ - decay · θ
    """

    api_version = 2
    reads = frozenset({"loss", "grad", "params"})
    scope = "problem"  # the norm of the gradient is that of the whole problem

    def __init__(self, rate: float = 0.01) -> None:
        """Choose where meta-training begins.

        Args:
            rate: Learning rate at first.
        """
        super().__init__()
        self.initial_rate = rate

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the three weights φ."""
        self.rate = nn.Parameter(torch.tensor(self.initial_rate))
        self.polyak = nn.Parameter(torch.tensor(0.01))
        self.decay = nn.Parameter(torch.tensor(0.0))

    def init_state(self, layout: Layout, num_problems: int) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def step(self, evaluation: Evaluation, state: tuple[()], noise: Generator | None = None) -> Step:
        """One update, [B, N]."""
        largest = evaluation.grad.detach().abs().amax(1, keepdim=True).clamp_min(1e-12)  # squares must not overflow
        scaled = evaluation.grad / largest
        length = scaled.square().sum(1, keepdim=True).clamp_min(1e-12)
        polyak: Tensor = evaluation.loss.unsqueeze(1) / largest * scaled / length  # f∇/‖∇‖²
        return Step(-self.rate * evaluation.grad - self.polyak * polyak - self.decay * evaluation.params, ())
