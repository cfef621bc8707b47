"""An optimizer that ignores gradients: it moves every coordinate towards zero, faster while the loss is high."""

from __future__ import annotations

import torch
from torch import Generator, nn

from meta_opt.api import Evaluation, Layout, OptimizerNetwork, Step


class Shrink(OptimizerNetwork):
    """update = -decay · θ - step · f; no backward pass is made for it while it optimizes."""

    api_version = 2
    reads = frozenset({"loss", "params"})
    scope = "coordinate"

    def __init__(self, decay: float = 0.01, step_size: float = 0.0) -> None:
        """Choose where meta-training begins.

        Args:
            decay: Part of θ that is subtracted.
            step_size: Multiple of the loss that is subtracted.
        """
        super().__init__()
        self.initial = (decay, step_size)

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the two weights φ."""
        self.decay = nn.Parameter(torch.tensor(self.initial[0]))
        self.step_size = nn.Parameter(torch.tensor(self.initial[1]))

    def init_state(self, layout: Layout, num_problems: int) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def step(self, evaluation: Evaluation, state: tuple[()], noise: Generator | None = None) -> Step:
        """One update, [B, N]."""
        return Step(-self.decay * evaluation.params - self.step_size * evaluation.loss.unsqueeze(1), ())
