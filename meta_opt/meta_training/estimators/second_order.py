"""The exact meta-gradient of an unroll: backpropagation through every step, second derivatives of f included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import Position, Trajectory, begin, unroll, unroll_lengths
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Evaluation, Problems
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.replaying import added, by_weights, gradients_of, no_graph
from meta_opt.optimizers.state import map_state, named_tensors


class SecondOrder(Estimator):
    """Backpropagation through the whole graph of each unroll, the optimizee's gradients included."""

    def __init__(self, steps_at_once: int | None = None) -> None:
        """Choose how much of the graph there is at once.

        Args:
            steps_at_once: Steps whose graph is kept. Longer unrolls are gone through twice: forward without a graph,
                and backward piece by piece, each of which is made again (Griewank and Walther 2000). The result is the
                same; memory is least near the root of the unroll's length. Null: the graph of all steps is kept.

        Raises:
            MetaOptError: If it is less than 1.
        """
        super().__init__()
        if steps_at_once is not None and steps_at_once < 1:
            raise MetaOptError(f"model.estimator.steps_at_once must be 1 or more, not {steps_at_once}")
        self._steps_at_once = steps_at_once

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """See :meth:`Estimator.estimates`."""
        problems, network = episode.problems, episode.network
        position = begin(problems, network, num_steps=episode.num_steps)
        for length in unroll_lengths(episode.num_steps, episode.unroll_length):
            if self._steps_at_once is None or length <= self._steps_at_once:
                trajectory = unroll(problems, network, _differentiated(position), length, keep_graph=True)
                position = trajectory.end.detach()
                yield second_order(trajectory, network, episode.meta_loss)
            else:
                lengths = unroll_lengths(length, self._steps_at_once)
                position, estimate = in_pieces(problems, network, position, lengths, episode.meta_loss)
                yield estimate


def second_order(trajectory: Trajectory, network: OptimizerNetwork, meta_loss: MetaLoss) -> MetaGradient:
    """L and ∂L/∂φ of ``trajectory``, which has kept its whole graph."""
    loss = meta_loss.value(trajectory.losses)
    return MetaGradient(loss.detach(), by_weights(loss, network), trajectory.losses.detach())


def in_pieces(
    problems: Problems, network: OptimizerNetwork, start: Position, lengths: list[int], meta_loss: MetaLoss
) -> tuple[Position, MetaGradient]:
    """The same of an unroll of ``sum(lengths)`` steps from ``start``, with the graph of one piece at a time.

    With λ the gradient of L by all that one piece hands to the next (θ, f and ∇f at the last step, and the state), the
    gradients of Σ_t (∂L/∂f_t) f_t + ⟨λ, what it hands on⟩ by φ and by what it was handed are those of L.

    Returns:
        The end of the unroll, and its meta-gradient.
    """
    pieces, losses, position = [], [], start
    for length in lengths:
        pieces.append((position, problems.twin()))
        trajectory = unroll(problems, network, position, length, losses_only=True)
        position = trajectory.end.detach()
        losses.append(trajectory.losses)
    all_losses = torch.cat(losses)
    slopes = meta_loss.slopes(all_losses).split(lengths)
    parameters = network.trained_parameters()
    total = [torch.zeros_like(parameter) for parameter in parameters]
    handed_on: list[Tensor | None] = []  # λ
    reached = False
    for (begins, twin), slope in zip(reversed(pieces), reversed(slopes), strict=True):
        grads, handed_on = _of_piece(twin, network, begins, slope, handed_on)
        reached |= added(total, grads)
    # The first state may be made of φ.
    pairs = zip(_Handed.of(start).tensors, handed_on, strict=True)
    firsts = [(tensor, gradient) for tensor, gradient in pairs if gradient is not None]
    reached |= added(total, gradients_of([first for first, _ in firsts], [of for _, of in firsts], parameters))
    if not reached:
        raise no_graph(network)
    return position, MetaGradient(meta_loss.value(all_losses), tuple(total), all_losses)


def _of_piece(
    problems: Problems, network: OptimizerNetwork, start: Position, slope: Tensor, handed_on: list[Tensor | None]
) -> tuple[tuple[Tensor | None, ...], list[Tensor | None]]:
    """The gradients by φ, and by what the piece was handed; none where nothing depends on it.

    Args:
        problems: As they were at its start.
        network: m_φ.
        start: What it was handed.
        slope: ∂L/∂f_t of its steps, [T, B].
        handed_on: λ, of each tensor that it hands on; none where nothing depends on it, and at the end.
    """
    handed, parameters = _Handed.leaves(start), network.trained_parameters()
    trajectory = unroll(problems, network, handed.position, len(slope), keep_graph=True)
    with torch.enable_grad():
        objective = (slope * trajectory.losses).sum()
        for tensor, gradient in zip(_Handed.of(trajectory.end).tensors, handed_on, strict=False):
            if gradient is not None and tensor.requires_grad:
                objective = objective + (gradient * tensor).sum()
    leaves = [tensor for tensor in handed.tensors if tensor.requires_grad]
    grads = torch.autograd.grad(objective, [*parameters, *leaves], allow_unused=True)
    of_leaves = iter(grads[len(parameters) :])
    return grads[: len(parameters)], [next(of_leaves) if tensor.requires_grad else None for tensor in handed.tensors]


@dataclass(frozen=True)
class _Handed:
    """What one piece hands to the next: a position, and the tensors in it, always in the same order."""

    position: Position
    tensors: list[Tensor]

    @classmethod
    def of(cls, position: Position) -> _Handed:
        known = position.evaluation
        evaluation = [getattr(known, name) for name in ("loss", "grad", "params") if name in vars(known)]
        return cls(position, [*evaluation, *(named.tensor for named in named_tensors(position.state))])

    @classmethod
    def leaves(cls, position: Position) -> _Handed:
        """The same numbers without a graph behind them, to differentiate by."""
        evaluation = _leaves(position.evaluation)
        return cls.of(Position(evaluation, map_state(_leaf, position.state), evaluation))


def _differentiated(position: Position) -> Position:
    """The same place for an unroll that is differentiated; networks tell by the gradient that it is (``ntm_bfgs``)."""
    return Position(_leaves(position.evaluation), position.state, position.judged)


def _leaves(evaluation: Evaluation) -> Evaluation:
    return Evaluation.of(**{name: _leaf(tensor) for name, tensor in vars(evaluation).items()})


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.is_floating_point())
