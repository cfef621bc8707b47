"""What the checks of optimizers give them: problems of all kinds of tensors, and evaluations that are drawn."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Generator, Tensor

from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork
from meta_opt.optimizers.state import named_tensors

NUM_STEPS = 6


class Valleys(Optimizee):
    """Random valleys whose parameters are tensors of all kinds, in two groups."""

    def init_params(self, generator: Generator) -> TensorDict:
        """See :meth:`Optimizee.init_params`."""
        sizes = {"filters": (2, 1, 2, 2), "matrix": (2, 3), "vector": (3,)}
        return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """See :meth:`Optimizee.sample_problem`."""
        return {"steepness": torch.rand(2, generator=generator) + 0.5}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """See :meth:`Optimizee.sample_batch`."""
        return {"noise": 0.1 * torch.randn((), generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """See :meth:`Optimizee.loss`."""
        first, second = problem["steepness"]
        squares = {name: (value - batch["noise"]).square().sum() for name, value in params.items()}
        return first * squares["filters"] + second * (squares["matrix"] + squares["vector"]).cosh().log()

    def groups(self) -> dict[str, str]:
        """See :meth:`Optimizee.groups`."""
        return {"filters": "conv", "matrix": "fc", "vector": "fc"}


def valleys(num_problems: int, dtype: torch.dtype = torch.float64) -> Problems:
    """B problems, whose parameters have the layout :data:`LAYOUT`."""
    return Problems(Valleys(), "train", range(num_problems), seed=0, dtype=dtype)


LAYOUT = valleys(1).layout


def seeded(seed: int) -> Generator:
    """A generator."""
    return Generator().manual_seed(seed)


Optimizer = TypeVar("Optimizer", bound=InnerOptimizer)


def built(
    optimizer: Optimizer,
    layout: Layout = LAYOUT,
    *,
    seed: int = 0,
    noise: float = 0.03,
    dtype: torch.dtype = torch.float64,
) -> Optimizer:
    """A copy, with weights if it is a network; noise is added to them, as some may be zero at first."""
    optimizer = copy.deepcopy(optimizer)
    if not isinstance(optimizer, OptimizerNetwork):
        return optimizer
    assert not any(True for _ in optimizer.parameters()), "check_optimizer wants a learned optimizer before its build"
    optimizer.build(layout, seeded(seed))
    add_noise(optimizer, seed, noise)
    return optimizer.to(dtype)


def add_noise(optimizer: OptimizerNetwork, seed: int = 0, noise: float = 0.03) -> None:
    """Change all weights a little."""
    generator = seeded(seed + 1)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))


def draw_evaluations(num_problems: int, layout: Layout = LAYOUT) -> list[Evaluation]:
    """Losses [B], gradients [B, N] and parameters [B, N] of :data:`NUM_STEPS` steps, at random."""
    generator = seeded(2)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    shape = (num_problems, layout.num_coordinates)
    return [Evaluation(draw(num_problems).exp(), draw(*shape), draw(*shape)) for _ in range(NUM_STEPS)]


def of_rows(evaluation: Evaluation, rows: slice) -> Evaluation:
    """That of some problems."""
    return Evaluation(evaluation.loss[rows], evaluation.grad[rows], evaluation.params[rows])


def updates_of(optimizer: InnerOptimizer, evaluations: list[Evaluation], layout: Layout = LAYOUT) -> Tensor:
    """The updates at a given sequence of evaluations, [T, B, N]."""
    state = optimizer.init_state(layout, len(next(iter(vars(evaluations[0]).values()))))
    updates = []
    with torch.no_grad():
        for evaluation in evaluations:
            update, state, _ = optimizer.step(evaluation, state)
            updates.append(update)
    return torch.stack(updates)


def close(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal but for rounding in float64."""
    return one.shape == other.shape and bool((one - other).norm() <= 1e-8 * other.norm() + 1e-12)


def tensors_of(state: Any) -> dict[str, Tensor]:
    """The tensors of a state by their names."""
    return {f"state.{named.name}": named.tensor for named in named_tensors(state)}
