"""Particles: copies of a learned optimizer with perturbed weights, which optimize copies of the same problems at once.

To the inner loop P particles of B problems are one optimizer of P·B problems. Each particle has a rollout of its own, so
that an architecture steps as fast as it knows: native code, a CUDA graph, or PyTorch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.inner_loop.unroll import Position
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork, Rollout, Step


class Particles(InnerOptimizer):
    """P copies of a network, of which each steps the B problems of its own; rows are particle by particle."""

    def __init__(self, network: OptimizerNetwork, count: int) -> None:
        """Copy ``network`` ``count`` times."""
        self._network = network
        self._copies = [copy.deepcopy(network).requires_grad_(False) for _ in range(count)]
        self._weights = [
            [own for own, theirs in zip(twin.parameters(), network.parameters(), strict=True) if theirs.requires_grad]
            for twin in self._copies
        ]
        self.reads = network.reads
        self.scope = network.scope

    def __len__(self) -> int:
        """P."""
        return len(self._copies)

    @torch.no_grad()
    def move_to(self, offsets: Tensor) -> None:
        """Give particle p the weights φ + ``offsets[p]``, at the φ that the network has now.

        Args:
            offsets: [P, D], in the order of the network's trained parameters, one behind the other.
        """
        center = self._network.trained_parameters()
        for weights, offset in zip(self._weights, offsets, strict=True):
            parts = offset.split([weight.numel() for weight in center])
            for weight, middle, part in zip(weights, center, parts, strict=True):
                torch.add(middle, part.view_as(middle), out=weight)

    def init_state(self, layout: Layout, num_problems: int) -> tuple[Any, ...]:
        """A state of each particle; a network may make it of φ."""
        with torch.no_grad():
            return tuple(twin.init_state(layout, num_problems // len(self)) for twin in self._copies)

    def step(self, evaluation: Evaluation, state: tuple[Any, ...], noise: Generator | None = None) -> Step:
        """One step of every particle."""
        rollout = self.rollout(state, noise)
        return Step(rollout.step(evaluation), rollout.state)

    def rollout(self, state: tuple[Any, ...], noise: Generator | None = None) -> Rollout:
        """See :meth:`InnerOptimizer.rollout`; the noise of a policy is drawn particle by particle."""
        return _Rollout([twin.rollout(own, noise) for twin, own in zip(self._copies, state, strict=True)])


class _Rollout(Rollout):
    """The rollouts of all particles as one."""

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        self._rollouts = rollouts
        self.record = None

    @property
    def state(self) -> tuple[Any, ...]:  # type: ignore[override]
        return tuple(rollout.state for rollout in self._rollouts)

    def step(self, evaluation: Evaluation) -> Tensor:
        """The updates, [P·B, N]."""
        known = {name: tensor.chunk(len(self._rollouts)) for name, tensor in vars(evaluation).items()}
        updates = [
            rollout.step(Evaluation.of(**{name: parts[number] for name, parts in known.items()}))
            for number, rollout in enumerate(self._rollouts)
        ]
        return torch.cat(updates)


def all_at_first(position: Position, count: int) -> Position:
    """Every one of ``count`` particles where the first one is."""

    def repeated(evaluation: Evaluation) -> Evaluation:
        rows = {name: tensor.chunk(count)[0] for name, tensor in vars(evaluation).items()}
        return Evaluation.of(**{name: row.repeat(count, *[1] * (row.dim() - 1)) for name, row in rows.items()})

    evaluation = repeated(position.evaluation)
    judged = evaluation if position.judged is position.evaluation else repeated(position.judged)
    return Position(evaluation, (position.state[0],) * count, judged)
