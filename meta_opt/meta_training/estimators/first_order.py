"""The meta-gradient with ∂∇_t/∂φ := 0 (Andrychowicz et al. 2016, section 2.1), without a graph of the optimizee.

With gradients held constant, θ_t depends on φ only through the sum of updates before it, so for networks that read
nothing but gradients

    ∂L/∂g_τ = Σ_{t=τ+1..T} (∂L/∂f_t) ∇f_t(θ_t) =: c_τ

and every term is a gradient that the rollout computed anyway. The meta-gradient Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ is then plain
backpropagation through the network over recorded inputs: the replay, :meth:`OptimizerNetwork.replay`.

Networks that read θ_t or f_t have another path from φ to their inputs. The same recorded gradients tell it: to first
order f_t(θ_t + δ) = f_t + ⟨∇f_t, δ⟩. So the network steps through the recorded inputs once more, where θ_t and f_t,
with their recorded values, are functions of the updates before them (:func:`through_inputs`): in one graph or, where
that would be large, step by step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import Trajectory, begin, joined, unroll, unroll_lengths
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.estimators.subset import Subset, draw_subset
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.replaying import LARGE, by_weights, moving, replay_by_step


class FirstOrder(Estimator):
    """Backpropagation through the network over recorded steps, gradients held constant; a window that may slide."""

    def __init__(self, update_every: int | None = None, replay_fraction: float = 1.0) -> None:
        """Choose how often, and from how much, meta-gradients are made.

        Args:
            update_every: Optimizee steps between two meta-updates, a divisor of T. Less than T, each of them looks at
                the last T losses, a window that slides (the last of an episode at fewer, where update_every does not
                divide its length); train/meta_loss, the sum over windows, then counts a loss in each of them. Null for
                T, one unroll after the other.
            replay_fraction: Part of the coordinates of each large tensor, drawn anew for each meta-update, that the
                meta-gradient is computed from; weighted, so that it is right on average. Less is faster and noisier.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        if update_every is not None and update_every < 1:
            raise MetaOptError(f"model.estimator.update_every must be at least 1, not {update_every}")
        if not 0.0 < replay_fraction <= 1.0:
            raise MetaOptError(
                f"model.estimator.replay_fraction must be more than 0 and at most 1, not {replay_fraction}"
            )
        self.update_every = update_every
        self.replay_fraction = replay_fraction

    def check(self, network: OptimizerNetwork, unroll_length: int) -> None:
        """See :meth:`Estimator.check`."""
        if self.update_every is not None and unroll_length % self.update_every:
            raise MetaOptError(
                f"model.estimator.update_every must divide model.unroll_length, {unroll_length}, and "
                f"{self.update_every} does not"
            )
        if self.replay_fraction < 1.0 and not (network.replays_columns and network.reads == {"grad"}):
            raise MetaOptError(
                f"model.estimator.replay_fraction must be 1 with {type(network).__name__}, which replays all "
                "coordinates or none"
            )

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """See :meth:`Estimator.estimates`."""
        every = self.update_every or episode.unroll_length
        window: deque[Trajectory] = deque()
        position = begin(episode.problems, episode.network, num_steps=episode.num_steps, grads=True)
        for number, length in enumerate(unroll_lengths(episode.num_steps, every)):
            if len(window) == episode.unroll_length // every:
                window.popleft()  # before the next is made, for the sake of memory
            window.append(unroll(episode.problems, episode.network, position, length, grads=True))
            position = window[-1].end.detach()
            subset = None
            if self.replay_fraction < 1.0:
                generator = episode.generator("replay", number)
                subset = draw_subset(episode.problems.layout, self.replay_fraction, generator)
            estimate = first_order(joined(window), episode.network, episode.meta_loss, subset)
            window[0] = replace(window[0], start=window[0].start.detach())  # a state made of φ has its graph once
            yield replace(estimate, losses=window[-1].losses)


def first_order(
    trajectory: Trajectory, network: OptimizerNetwork, meta_loss: MetaLoss, subset: Subset | None = None
) -> MetaGradient:
    """L and ∂L/∂φ of ``trajectory`` to first order, at the φ that ``network`` has now.

    Args:
        trajectory: What was recorded.
        network: m_φ.
        meta_loss: L.
        subset: Replay these coordinates only, weighted; for networks that read gradients only.
    """
    losses = trajectory.losses
    if network.reads != {"grad"}:
        return MetaGradient(meta_loss.value(losses), through_inputs(trajectory, network, meta_loss), losses)
    coefficients = update_gradients(trajectory, meta_loss.slopes(losses))
    recorded = trajectory.evaluations[:-1], trajectory.start.state
    if subset is None:
        return MetaGradient(meta_loss.value(losses), network.replay(*recorded, coefficients), losses)
    columns, weights = subset.columns.to(losses.device), subset.weights.to(losses)
    coefficients = [item.index_select(1, columns) * weights for item in coefficients]
    return MetaGradient(meta_loss.value(losses), network.replay(*recorded, coefficients, columns), losses)


def update_gradients(trajectory: Trajectory, slopes: Tensor) -> list[Tensor]:
    """c_τ = ∂L/∂g_τ for τ = 0..T-1, each [B, N], from the slopes ∂L/∂f_t [T, B]."""
    total = torch.zeros_like(trajectory.start.evaluation.grad)
    coefficients = []
    for slope, evaluation in zip(slopes.flip(0).unsqueeze(2), reversed(trajectory.judged[1:]), strict=True):
        total = torch.addcmul(total, evaluation.grad, slope)
        coefficients.append(total)
    return coefficients[::-1]


def through_inputs(trajectory: Trajectory, network: OptimizerNetwork, meta_loss: MetaLoss) -> tuple[Tensor, ...]:
    """∂L/∂φ where the network reads θ_t or f_t: they change with the updates before them, gradients do not."""
    state, losses = trajectory.start.state, []
    recorded = trajectory.evaluations[:-1]
    if recorded[0].grad.numel() * len(recorded) > LARGE:
        coefficients = update_gradients(trajectory, meta_loss.slopes(trajectory.losses))
        return replay_by_step(network, recorded, state, coefficients)
    with torch.enable_grad():
        moved = torch.zeros_like(trajectory.start.evaluation.grad)  # δ_t, zero in value: Σ_{τ<t} g_τ minus itself
        for evaluation, following in zip(recorded, trajectory.judged[1:], strict=True):
            update, state, _ = network.step(moving(evaluation, moved, network.reads), state)
            moved = moved + update - update.detach()
            losses.append(moving(following, moved, frozenset({"loss"})).loss)
        loss = meta_loss.value(torch.stack(losses))
        return by_weights(loss, network)
