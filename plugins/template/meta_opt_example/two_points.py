"""The meta-gradient without backpropagation: losses at two points on opposite sides of φ.

J. C. Spall, Multivariate stochastic approximation using a simultaneous perturbation gradient approximation, 1992.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from meta_opt.api import Episode, Estimator, MetaGradient, MetaOptError, begin, unroll, unroll_lengths


class TwoPoints(Estimator):
    """∂L/∂φ ≈ ε · (L(φ + σε) - L(φ - σε)) / 2σ with random signs ε; the episode goes on from φ + σε."""

    api_version = 2

    def __init__(self, sigma: float = 0.01) -> None:
        """Choose the distance.

        Args:
            sigma: σ, how far the two points are from φ, in each weight.

        Raises:
            MetaOptError: If it is not more than 0.
        """
        super().__init__()
        if not sigma > 0.0:
            raise MetaOptError(f"model.estimator.sigma must be more than 0, not {sigma}")
        self.sigma = sigma

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """One meta-gradient after every unroll."""
        problems, network = episode.problems, episode.network
        position = begin(problems, network, num_steps=episode.num_steps)
        for number, length in enumerate(unroll_lengths(episode.num_steps, episode.unroll_length)):
            phi, generator = network.trained_parameters(), episode.generator("signs", number)
            center = [weight.detach().clone() for weight in phi]
            signs = [(torch.randint(2, each.shape, generator=generator) * 2.0 - 1.0).to(each) for each in center]
            trajectories = []
            for side in (self.sigma, -self.sigma):
                torch._foreach_copy_([weight.data for weight in phi], torch._foreach_add(center, signs, alpha=side))
                trajectories.append(unroll(problems, network, position, length))
            torch._foreach_copy_([weight.data for weight in phi], center)
            above, below = (episode.meta_loss.value(each.losses) for each in trajectories)
            slope = (above - below) / (2 * self.sigma)
            position = trajectories[0].end.detach()
            yield MetaGradient((above + below) / 2, tuple(slope * sign for sign in signs), trajectories[0].losses)
