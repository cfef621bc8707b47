"""The inner loop: a learned optimizer optimizes B problems for T steps. There is no other loop in this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from meta_opt.optimizees.problems import Evaluation, Problems
from meta_opt.optimizers.contract import LearnedOptimizer, map_state


@dataclass(frozen=True)
class Position:
    """Where an episode stands between two unrolls: the problems evaluated at θ_t, and the optimizer's state h_t."""

    evaluation: Evaluation
    state: Any

    def detach(self) -> Position:
        """The same place without a graph behind it."""
        evaluation = Evaluation(
            self.evaluation.loss.detach(), self.evaluation.grad.detach(), self.evaluation.params.detach()
        )
        return Position(evaluation, map_state(torch.Tensor.detach, self.state))


@dataclass(frozen=True)
class Trajectory:
    """T steps of B problems: what was evaluated, and where it ends.

    f at θ_T is both the last term of this unroll's meta-loss and what the next unroll starts from: nothing is
    evaluated twice.
    """

    start: Position
    evaluations: tuple[Evaluation, ...]  # T + 1 of them, at θ_0 ... θ_T; the first is the start's. See unroll().
    end: Position

    @property
    def losses(self) -> Tensor:
        """f_t(θ_t) for t = 1..T, [T, B]."""
        return torch.stack([evaluation.loss for evaluation in self.evaluations[1:]])


def joined(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Trajectories that follow each other as one."""
    first, *rest = trajectories
    evaluations = first.evaluations + tuple(evaluation for part in rest for evaluation in part.evaluations[1:])
    return Trajectory(first.start, evaluations, trajectories[-1].end)


def begin(problems: Problems, optimizer: LearnedOptimizer) -> Position:
    """The position at θ_0."""
    return Position(problems.evaluate(problems.initial_params), optimizer.init_state(problems.layout, len(problems)))


def unroll(
    problems: Problems, optimizer: LearnedOptimizer, start: Position, num_steps: int, *, keep_graph: bool = False
) -> Trajectory:
    """Take ``num_steps`` steps from ``start``.

        g_t, h_{t+1} = m_φ(∇_t, h_t)        θ_{t+1} = θ_t + g_t

    What is recorded is what the replay reads: without θ_t (``params`` is [B, 0]) unless the optimizer reads it.

    Args:
        problems: The B problems; each evaluation draws the next mini-batch.
        optimizer: m_φ.
        start: A detached position.
        num_steps: T.
        keep_graph: Whether losses and gradients stay differentiable in φ through all steps (second derivatives).
    """
    evaluation = start.evaluation
    evaluations, nothing = [evaluation], evaluation.params.new_empty(len(problems), 0)
    with torch.set_grad_enabled(keep_graph):
        rollout = optimizer.rollout(start.state)
        for _ in range(num_steps):
            update = rollout.step(evaluation)
            evaluation = problems.evaluate(evaluation.params + update, create_graph=keep_graph)
            evaluations.append(evaluation if optimizer.reads_params else replace(evaluation, params=nothing))
    return Trajectory(start, tuple(evaluations), Position(evaluation, rollout.state))
