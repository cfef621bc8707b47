"""The exact meta-gradient of an unroll: backpropagation through every step, second derivatives of f included."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from meta_opt.inner_loop.unroll import Trajectory, begin, unroll, unroll_lengths
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizers.contract import OptimizerNetwork


class SecondOrder(Estimator):
    """Backpropagation through the whole graph of each unroll, the optimizee's gradients included."""

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """See :meth:`Estimator.estimates`."""
        position = begin(episode.problems, episode.network, num_steps=episode.num_steps)
        for length in unroll_lengths(episode.num_steps, episode.unroll_length):
            trajectory = unroll(episode.problems, episode.network, position, length, keep_graph=True)
            position = trajectory.end.detach()
            yield second_order(trajectory, episode.network, episode.meta_loss)


def second_order(trajectory: Trajectory, network: OptimizerNetwork, meta_loss: MetaLoss) -> MetaGradient:
    """L and ∂L/∂φ of ``trajectory``, which has kept its whole graph."""
    loss = meta_loss.value(trajectory.losses)
    grads = torch.autograd.grad(loss, network.trained_parameters(), materialize_grads=True)
    return MetaGradient(loss.detach(), grads, trajectory.losses.detach())
