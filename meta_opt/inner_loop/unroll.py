"""The inner loop: an optimizer optimizes B problems for T steps. There is no other loop in this package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from meta_opt.inner_loop.autocast import no_autocast
from meta_opt.optimizees.problems import Evaluation, Problems
from meta_opt.optimizers.checking import check_update
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.optimizers.state import map_state


@dataclass(frozen=True)
class Position:
    """Where an episode stands between two unrolls.

    Attributes:
        evaluation: The problems at θ_t.
        state: The optimizer's state h_t.
        judged: What the meta-loss is taken of: the problems at θ_t on held-back batches, where there are such, or else
            ``evaluation``.
    """

    evaluation: Evaluation
    state: Any
    judged: Evaluation

    def detach(self) -> Position:
        """The same place without a graph behind it."""
        evaluation = self.evaluation.detach()
        judged = evaluation if self.judged is self.evaluation else self.judged.detach()
        return Position(evaluation, map_state(torch.Tensor.detach, self.state), judged)


@dataclass(frozen=True)
class Trajectory:
    """T steps of B problems: what was evaluated, and where it ends.

    f at θ_T is both the last term of this unroll's meta-loss and what the next unroll starts from: nothing is
    evaluated twice.
    """

    start: Position
    evaluations: tuple[Evaluation, ...]  # T + 1 of them, at θ_0 ... θ_T; the first is the start's. See unroll().
    records: tuple[Any, ...]  # T of them, see Step
    judged: tuple[Evaluation, ...]  # T + 1 of them, see Position; without held-back batches the evaluations
    end: Position

    @property
    def losses(self) -> Tensor:
        """What the meta-loss is taken of, f_t(θ_t) for t = 1..T, [T, B]."""
        return torch.stack([evaluation.loss for evaluation in self.judged[1:]])


def joined(trajectories: Sequence[Trajectory]) -> Trajectory:
    """Trajectories that follow each other as one."""
    first, *rest = trajectories
    evaluations = first.evaluations + tuple(evaluation for part in rest for evaluation in part.evaluations[1:])
    records = tuple(record for part in trajectories for record in part.records)
    judged = first.judged + tuple(evaluation for part in rest for evaluation in part.judged[1:])
    return Trajectory(first.start, evaluations, records, judged, trajectories[-1].end)


def begin(
    problems: Problems, optimizer: InnerOptimizer, *, num_steps: int | None = None, grads: bool = False
) -> Position:
    """The position at θ_0.

    Args:
        problems: The B problems.
        optimizer: What is to step them.
        num_steps: How many steps there will be, where that is known.
        grads: Whether gradients are wanted also where the optimizer does not read them.
    """
    with no_autocast(problems.initial_params.device):
        evaluation = problems.evaluate(problems.initial_params, grad=grads or "grad" in optimizer.reads)
        judged = problems.judge(problems.initial_params, grad=grads) if problems.held_back else evaluation
        return Position(evaluation, first_state(problems, optimizer, num_steps), judged)


def first_state(problems: Problems, optimizer: InnerOptimizer, num_steps: int | None) -> Any:
    """h_0, with a graph where it is made of φ; see :func:`begin`."""
    state = optimizer.init_state(problems.layout, len(problems))
    state = optimizer.numbered(state, problems.layout, problems.numbers)
    return state if num_steps is None else optimizer.expect(state, num_steps)


def unroll(
    problems: Problems,
    optimizer: InnerOptimizer,
    start: Position,
    num_steps: int,
    *,
    grads: bool = False,
    keep_graph: bool = False,
    losses_only: bool = False,
    noise: Generator | None = None,
) -> Trajectory:
    """Take ``num_steps`` steps from ``start``.

        g_t, h_{t+1} = m_φ(f_t, ∇_t, θ_t, h_t)        θ_{t+1} = θ_t + g_t

    Of each evaluation the loss is recorded, the gradient where there is one, and θ_t where the optimizer reads it.
    ``torch.autocast`` around it changes nothing: mixed precision is an option of the problems.

    Args:
        problems: The B problems; each evaluation draws the next mini-batch.
        optimizer: m_φ.
        start: A detached position.
        num_steps: T.
        grads: Whether gradients are wanted also where the optimizer does not read them, and of held-back batches.
        keep_graph: Whether losses and gradients stay differentiable in φ through all steps (second derivatives).
        losses_only: Whether nothing but losses is recorded of evaluations after the first: memory for one step.
        noise: See :meth:`InnerOptimizer.step`.
    """
    reads = optimizer.reads
    read = grads or "grad" in reads
    recorded = frozenset({"loss"}) if losses_only else frozenset({"loss", "grad"}) | reads
    graph: Literal["none", "second"] = "second" if keep_graph else "none"
    evaluation, judgement = start.evaluation, start.judged
    evaluations, records, judged = [evaluation], [], [judgement]
    with torch.set_grad_enabled(keep_graph), no_autocast(evaluation.loss.device):
        rollout = optimizer.rollout(start.state, noise)
        for _ in range(num_steps):
            update = rollout.step(evaluation.only(reads))
            check_update(optimizer, update, evaluation.params)
            params = evaluation.params + update
            evaluation = judgement = problems.evaluate(params, grad=read, graph=graph)
            if problems.held_back:
                judgement = problems.judge(params, grad=grads, graph=graph)
            evaluations.append(evaluation.only(recorded))
            judged.append(judgement.only(recorded) if problems.held_back else evaluations[-1])
            records.append(rollout.record)
    end = Position(evaluation, rollout.state, judgement)
    return Trajectory(start, tuple(evaluations), tuple(records), tuple(judged), end)


def unroll_lengths(num_steps: int, unroll_length: int) -> list[int]:
    """An episode of ``num_steps`` cut into unrolls; the last may be shorter."""
    whole, rest = divmod(num_steps, unroll_length)
    return [unroll_length] * whole + [rest] * (rest > 0)
