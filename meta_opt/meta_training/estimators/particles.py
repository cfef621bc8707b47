"""Particles: copies of a learned optimizer with perturbed weights, which optimize copies of the same problems at once.

To the inner loop P particles of B problems are one optimizer of P·B problems. An architecture that knows a rollout
faster than its steps (native code, a CUDA graph) has one for each particle. Others step all particles under
``torch.vmap``, which saves two thirds of the time of small operations, or where that has no rule for something, one
after the other.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import functional_call

from meta_opt.inner_loop.unroll import Position
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork, Rollout, Step
from meta_opt.optimizers.state import map_state, named_tensors


class Particles(InnerOptimizer):
    """P copies of a network, of which each steps the B problems of its own; rows are particle by particle.

    Attributes:
        vmaps: Whether particles step under ``torch.vmap``.
    """

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
        self.horizon = network.horizon
        self.vmaps = type(network).rollout is InnerOptimizer.rollout and count > 1

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

    def expect(self, state: tuple[Any, ...], num_steps: int) -> tuple[Any, ...]:
        """See :meth:`InnerOptimizer.expect`."""
        with torch.no_grad():
            return tuple(twin.expect(own, num_steps) for twin, own in zip(self._copies, state, strict=True))

    def step(self, evaluation: Evaluation, state: tuple[Any, ...], noise: Generator | None = None) -> Step:
        """One step of every particle."""
        rollout = self.rollout(state, noise)
        return Step(rollout.step(evaluation), rollout.state)

    def rollout(self, state: tuple[Any, ...], noise: Generator | None = None) -> Rollout:
        """See :meth:`InnerOptimizer.rollout`; the noise of a policy is drawn particle by particle."""
        if self.vmaps and noise is None:
            return _Together(self, self._copies, state)
        return self.one_by_one(state, noise)

    def one_by_one(self, state: tuple[Any, ...], noise: Generator | None = None) -> Rollout:
        """A rollout for each particle."""
        return _OneByOne([twin.rollout(own, noise) for twin, own in zip(self._copies, state, strict=True)])

    def give_up_vmap(self) -> None:
        """Step particles one by one from now on."""
        self.vmaps = False


class _OneByOne(Rollout):
    """The rollouts of all particles as one."""

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        self._rollouts = rollouts
        self.record = None

    @property
    def state(self) -> tuple[Any, ...]:
        return tuple(rollout.state for rollout in self._rollouts)

    def step(self, evaluation: Evaluation) -> Tensor:
        """The updates, [P·B, N]."""
        known = {name: tensor.chunk(len(self._rollouts)) for name, tensor in vars(evaluation).items()}
        updates = [
            rollout.step(Evaluation.of(**{name: parts[number] for name, parts in known.items()}))
            for number, rollout in enumerate(self._rollouts)
        ]
        return torch.cat(updates)


class _Together(Rollout):
    """Steps of all particles under ``torch.vmap``; one by one, as soon as that fails."""

    def __init__(self, particles: Particles, copies: Sequence[OptimizerNetwork], state: tuple[Any, ...]) -> None:
        self._particles = particles
        self._network = copies[0]
        self._weights = {
            name: torch.stack([dict(twin.named_parameters())[name] for twin in copies])
            for name, _ in self._network.named_parameters()
        }
        tensors = zip(*([each.tensor for each in named_tensors(own)] for own in state), strict=True)
        stacked = iter([torch.stack(rows) for rows in tensors])
        self._stacked = map_state(lambda _: next(stacked), state[0])  # with one more axis, the first
        self._instead: Rollout | None = None
        self.record = None

    @property
    def state(self) -> tuple[Any, ...]:
        if self._instead is not None:
            return self._instead.state
        return tuple(map_state(itemgetter(at), self._stacked) for at in range(len(self._particles)))

    def step(self, evaluation: Evaluation) -> Tensor:
        """The updates, [P·B, N]."""
        if self._instead is None:
            try:
                return self._step(evaluation)
            except Exception as error:  # whatever vmap has no rule for; errors of the architecture's own come again
                warnings.warn(
                    f"particles of {type(self._network).__name__} step one by one, more slowly: torch.vmap failed "
                    f"with {type(error).__name__}",
                    stacklevel=2,
                )
                self._instead = self._particles.one_by_one(self.state)
                self._particles.give_up_vmap()
        return self._instead.step(evaluation)

    def _step(self, evaluation: Evaluation) -> Tensor:
        form = self._stacked

        def of_one(
            weights: dict[str, Tensor], known: dict[str, Tensor], state: list[Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            nonlocal form
            tensors = iter(state)
            own = map_state(lambda _: next(tensors), form)
            update, form, _ = functional_call(self._network, weights, (Evaluation.of(**known), own))
            return update, [each.tensor for each in named_tensors(form)]

        known = {name: tensor.unflatten(0, (len(self._particles), -1)) for name, tensor in vars(evaluation).items()}
        state = [each.tensor for each in named_tensors(self._stacked)]
        updates, state = torch.vmap(of_one)(self._weights, known, state)
        tensors = iter(state)
        self._stacked = map_state(lambda _: next(tensors), form)
        return updates.flatten(0, 1)


def all_at(position: Position, count: int) -> Position:
    """Each of ``count`` particles where an optimizer is."""

    def repeated(evaluation: Evaluation) -> Evaluation:
        known = {name: tensor.expand(count, *tensor.shape).flatten(0, 1) for name, tensor in vars(evaluation).items()}
        return Evaluation.of(**known)

    evaluation = repeated(position.evaluation)
    judged = evaluation if position.judged is position.evaluation else repeated(position.judged)
    return Position(evaluation, (position.state,) * count, judged)
