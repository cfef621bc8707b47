"""A small network that reads the gradient of a coordinate and running means of it.

After Metz et al. 2019 (arXiv:1810.10180), without the features that tell tensors apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from meta_opt.api import Evaluation, Layout, MetaOptError, OptimizerNetwork, Step, axis

_DECAYS = (0.0, 0.5, 0.9, 0.99)  # 0: the gradient itself
_SQUARE_DECAY = 0.95


@dataclass(frozen=True)
class Means:
    """h_t: what is remembered of each coordinate."""

    gradients: Tensor = axis("coordinate")  # [decays, B, N]
    square: Tensor = axis("coordinate")  # [B, N]


class MomentumMlp(OptimizerNetwork):
    """A network of one hidden layer on the gradient and its running means.

    With m_k the means of the gradient and v that of its square: (d, s) = MLP(m_1/√v, m_2/√v, ...), and

        update = step · d · exp(s / 10)
    """

    api_version = 2
    scope = "coordinate"

    def __init__(self, hidden_size: int = 16, step_size: float = 0.01) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            hidden_size: Units of the hidden layer.
            step_size: Factor of the updates.

        Raises:
            MetaOptError: If the size is out of range.
        """
        super().__init__()
        if hidden_size < 1:
            raise MetaOptError(f"optimizer.hidden_size must be at least 1, not {hidden_size}")
        self.hidden_size = hidden_size
        self.step_size = step_size

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the weights φ. At first, d is minus the sum of what is read, plus what the hidden layer makes of it."""

        def weights(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns, generator=generator) / math.sqrt(columns))

        self.hidden = weights(self.hidden_size, len(_DECAYS))
        self.hidden_bias = nn.Parameter(torch.zeros(self.hidden_size, 1))
        self.output = nn.Parameter(0.1 * weights(2, self.hidden_size).detach())
        self.direct = nn.Parameter(-torch.ones(len(_DECAYS)) / len(_DECAYS))

    def init_state(self, layout: Layout, num_problems: int) -> Means:
        """All zeros, on the device and of the type of the weights."""
        shape = (num_problems, layout.num_coordinates)
        return Means(self.hidden.new_zeros(len(_DECAYS), *shape), self.hidden.new_zeros(shape))

    def step(self, evaluation: Evaluation, state: Means, noise: Generator | None = None) -> Step:
        """One update, [B, N]; everything that is remembered is in the state."""
        grad = evaluation.grad
        decays = grad.new_tensor(_DECAYS).view(-1, 1, 1)
        gradients = decays * state.gradients + (1 - decays) * grad
        square = _SQUARE_DECAY * state.square + (1 - _SQUARE_DECAY) * grad * grad
        inputs = (gradients / (square.sqrt() + 1e-8)).flatten(1)  # [decays, B·N]
        hidden = torch.tanh(self.hidden @ inputs + self.hidden_bias)
        direction, scale = self.output @ hidden  # [B·N] each
        update = self.step_size * (direction + self.direct @ inputs) * torch.exp(scale / 10)
        return Step(update.view(grad.shape), Means(gradients, square))
