"""Small learned optimizers that the tests share: of every scope, and reading everything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.state import axis


class Decay(OptimizerNetwork):
    """g = -a θ."""

    reads = frozenset({"params"})
    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.a = nn.Parameter(torch.tensor(0.3))

    def init_state(self, layout: Layout, num_problems: int) -> tuple[()]:
        return ()

    def step(self, evaluation: Evaluation, state: tuple[()], noise: Generator | None = None) -> Step:
        return Step(-self.a * evaluation.params, state)


class Fall(Decay):
    """g = -a f."""

    reads = frozenset({"loss"})
    scope = "problem"

    def __init__(self) -> None:
        super().__init__()
        self.num_coordinates = 0

    def init_state(self, layout: Layout, num_problems: int) -> Tensor:  # type: ignore[override]
        return self.a.new_zeros(num_problems, layout.num_coordinates)

    def step(self, evaluation: Evaluation, state: Tensor, noise: Generator | None = None) -> Step:  # type: ignore[override]
        return Step(-self.a * evaluation.loss.unsqueeze(1) + 0.0 * state, state)


@dataclass(frozen=True)
class Sizes:
    squares: Tensor = axis("tensor")  # [B, S], running mean of the square of each tensor's gradient
    mean: Tensor = axis("coordinate")  # [B, N]
    count: Tensor = axis("problem")  # [B]


class Coupled(OptimizerNetwork):
    """Momentum that reads everything, with the size of each tensor and of the whole problem as divisors."""

    reads = frozenset({"loss", "grad", "params"})
    scope = "problem"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.tensor([0.1, 0.6, 0.02, 0.05]))

    def init_state(self, layout: Layout, num_problems: int) -> Sizes:
        self.sizes = layout.sizes
        zeros = self.weights.new_zeros
        return Sizes(
            zeros(num_problems, len(layout.names)), zeros(num_problems, layout.num_coordinates), zeros(num_problems)
        )

    def step(self, evaluation: Evaluation, state: Sizes, noise: Generator | None = None) -> Step:
        lr, momentum, decay, slope = self.weights
        grad, count = evaluation.grad, state.count + 1
        squares = torch.stack([part.square().sum(1) for part in grad.split(self.sizes, 1)], 1)
        squares = state.squares + (squares - state.squares) / count.unsqueeze(1)
        mean = momentum * state.mean + grad
        scale = torch.repeat_interleave((squares + 1e-6).sqrt(), torch.tensor(self.sizes), dim=1)
        size = (squares.sum(1, keepdim=True) + 1e-6).sqrt()
        update = -lr * mean / (scale + size) - decay * evaluation.params
        update = update * (1 + slope * evaluation.loss.unsqueeze(1))
        return Step(update, Sizes(squares, mean, count))


@dataclass(frozen=True)
class Averaged:
    mean: Tensor = axis("coordinate")  # [B, N]


class LearnedFirstMean(OptimizerNetwork):
    """Momentum whose first average is learned: a first state that is made of φ."""

    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.rate = nn.Parameter(torch.tensor(-3.0))
        self.first = nn.Parameter(torch.tensor(0.2))

    def init_state(self, layout: Layout, num_problems: int) -> Averaged:
        return Averaged(self.first.expand(num_problems, layout.num_coordinates))

    def step(self, evaluation: Evaluation, state: Averaged, noise: Generator | None = None) -> Step:
        mean = 0.8 * state.mean + torch.tanh(evaluation.grad)
        return Step(-self.rate.exp() * mean, Averaged(mean))


class LearnedFirstMeanOfAll(LearnedFirstMean):
    """The same, and it reads everything."""

    reads = frozenset({"grad", "loss", "params"})
    scope = "problem"

    def step(self, evaluation: Evaluation, state: Averaged, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * evaluation.loss.abs().log1p().unsqueeze(1) - 0.01 * evaluation.params, state)
