"""What estimators by evolution strategies share: antithetic particles, what they cost, and the estimate.

A pair k are two particles with weights φ ± σ ε_k, ε_k ~ N(0, I), which optimize the same problems from the same θ_0
on the same mini-batches (common random numbers). With L_k± what they cost, and with a direction ξ_k,

    ĝ = 1/K Σ_k ξ_k (L_k+ - L_k-) / 2σ

is, for ξ_k = ε_k, on average the gradient at φ of L smoothed by a Gaussian of width σ (Salimans et al. 2017,
arXiv:1703.03864). Nothing is differentiated: L may be anything that can be computed.

In D dimensions its variance is about D/K times the square of the gradient. Where there is a gradient of first order g
as well, it tells most of each difference beforehand, and the estimate

    ĝ = g + 1/K Σ_k ξ_k ((L_k+ - L_k-) / 2σ - ⟨g, ε_k⟩)

has the same mean whatever g is, since E[ξ εᵀ] = 1, and the variance of what g does not tell only (a control variate).
Of thousands of weights even that is mostly noise, and less of the sum may be added: first order and evolution are then
mixed, as by inverse variance in Metz et al. (2019, arXiv:1810.10180, section 4).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import Position, begin, unroll, unroll_lengths
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.estimators.particles import Particles, all_at
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.contract import OptimizerNetwork

_LOSSES = ("meta_loss", "final_loss")  # objectives; others are metrics
_NUM_AVERAGED = 100  # meta-updates; see correction


class Evolution(Estimator):
    """Meta-gradients from the losses of K antithetic pairs of particles.

    Memory is that of 2K optimizers and their problems, and with a control variate that of the gradients of an unroll.

    Attributes:
        restarts: Whether particles start each unroll where the optimizer with weights φ has come to.
    """

    restarts: bool = False

    def __init__(
        self,
        pairs: int = 2,
        sigma: float = 0.01,
        objective: str = "meta_loss",
        control_variate: bool = True,
        correction: float | None = None,
        max_difference: float | None = None,
        split_pairs: bool = False,
    ) -> None:
        """Choose how many particles there are, how far from φ, and what they are judged by.

        Args:
            pairs: K, antithetic pairs of particles; each particle optimizes all problems.
            sigma: σ, how far particles are from φ in each weight, as a standard deviation.
            objective: What a particle costs: the meta-loss of each unroll (meta_loss); or the loss at the end of the
                episode (final_loss) or a metric of the optimizee there, with a minus where more is better, such as
                -accuracy: then there is one meta-gradient an episode.
            control_variate: Let the meta-gradient of first order tell most of what pairs differ by, so that they need
                only tell the rest: the same on average, with less variance. Of the objective meta_loss, for optimizers
                that read gradients; others do without.
            correction: How much of what pairs tell beyond the control variate is added to it: 1 for all, which keeps
                the estimate unbiased; 0 for none, first order. Null: 100 K/D for D weights of φ, at most 1, so that the
                mean of 100 meta-updates has about as much signal as noise.
            max_difference: Within a pair, a difference counts as at most this, so that a particle that diverges does
                not spoil an episode. Null: all differences count in full.
            split_pairs: Divide the pairs of an episode among processes, all on the same problems; else each process has
                problems and pairs of its own.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        if pairs < 1:
            raise MetaOptError(f"model.estimator.pairs must be at least 1, not {pairs}")
        for name, value in {"sigma": sigma, "max_difference": max_difference}.items():
            if value is not None and not 0.0 < value < float("inf"):
                raise MetaOptError(f"model.estimator.{name} must be a number of more than 0, not {value}")
        if correction is not None and not 0.0 <= correction <= 1.0:
            raise MetaOptError(f"model.estimator.correction must be from 0 to 1, not {correction}")
        self.pairs = pairs
        self.sigma = sigma
        self.objective = objective
        self.control_variate = control_variate
        self.correction = correction
        self.max_difference = max_difference
        self.split_pairs = split_pairs

    @property
    def shares_problems(self) -> bool:  # type: ignore[override]
        """See :class:`Estimator`."""
        return self.split_pairs

    @abstractmethod
    def directions(self, draw: Callable[[], Tensor], before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where particles are in an unroll, and what their losses are multiplied by, both in units of σ.

        Args:
            draw: Gives ε, [K, D], new in each unroll.
            before: What this method gave as the second in the unroll before; None in the first of an episode.

        Returns:
            The positions of the first particles of each pair, and ξ; each [K, D].
        """

    def num_runs(self, network: OptimizerNetwork, num_processes: int) -> int:
        """See :meth:`Estimator.num_runs`: one for each particle, and one without a perturbation if that is needed."""
        particles = 2 * self.pairs * (1 if self.split_pairs else num_processes)
        return particles + num_processes * (self._is_controlled(network) or self.restarts)

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """See :meth:`Estimator.estimates`."""
        numbers, network = self._numbers(episode), episode.network
        if self.objective not in _LOSSES:
            self._check_metric(episode.problems.twin())
        controlled = self._is_controlled(network)
        particles = Particles(network, 2 * len(numbers))
        problems = episode.problems.repeated(len(particles))
        alone = episode.problems.twin()  # what φ itself, without a perturbation, optimizes
        center: Position | None = None
        if controlled or self.restarts:  # with the graph of a first state that is made of φ
            center = begin(alone, network, num_steps=episode.num_steps, grads=controlled)
        position: Position | None = None
        xi: Tensor | None = None
        lengths, recorded = unroll_lengths(episode.num_steps, episode.unroll_length), []
        for number, length in enumerate(lengths):
            places, xi = self.directions(partial(self._drawn, episode, numbers, number), xi)
            particles.move_to(self.sigma * torch.cat([places, -places]))
            if position is None:
                position = begin(problems, particles, num_steps=episode.num_steps)
            elif self.restarts and center is not None:
                position = all_at(center.detach(), len(particles))
            trajectory = unroll(problems, particles, position, length, losses_only=True)
            position = trajectory.end.detach()
            losses = trajectory.losses.unflatten(1, (len(particles), -1))  # [T, P, B]
            control = None
            if center is None:
                recorded.append(self._mean_losses(losses))
            else:
                of_center = unroll(alone, network, center, length, grads=controlled, losses_only=not controlled)
                center = of_center.end.detach()
                control = first_order(of_center, network, episode.meta_loss) if controlled else None
                recorded.append(of_center.losses)
            if self.objective == "meta_loss" or number == len(lengths) - 1:
                costs = self._costs(episode, problems, position, losses)
                loss, differences = self._differences(costs)
                loss = loss if control is None else control.loss
                estimate = self._estimate(differences / (2 * self.sigma), places, xi, control)
                weights = network.trained_parameters()
                parts = estimate.split([weight.numel() for weight in weights])
                grads = tuple(part.view_as(weight) for part, weight in zip(parts, weights, strict=True))
                yield MetaGradient(loss, grads, torch.cat(recorded))
                recorded = []

    def _estimate(self, slopes: Tensor, places: Tensor, xi: Tensor, control: MetaGradient | None) -> Tensor:
        """ĝ, [D], of the slopes along each ε [K]."""
        if control is None:
            return slopes @ xi / len(xi)
        known = torch.cat([grad.flatten() for grad in control.grads])
        weight = self.correction
        if weight is None:
            weight = min(1.0, _NUM_AVERAGED * self.pairs / len(known))
        return known + weight * (slopes - places @ known) @ xi / len(xi)

    def _numbers(self, episode: Episode) -> range:
        """Which of the K pairs this process has."""
        if not self.split_pairs:
            return range(self.pairs)
        own, rest = divmod(self.pairs, episode.num_processes)
        if rest:
            raise MetaOptError(
                f"model.estimator.pairs must be a multiple of the number of processes, {episode.num_processes}, with "
                f"split_pairs, and {self.pairs} is not"
            )
        return range(episode.rank * own, (episode.rank + 1) * own)

    @staticmethod
    def _drawn(episode: Episode, pairs: range, unroll: int) -> Tensor:
        """ε, [K, D], each pair's from a stream of its own; in float32 first, so that any precision draws the same."""
        weights = episode.network.trained_parameters()
        size = sum(weight.numel() for weight in weights)
        rows = [
            torch.randn(size, generator=episode.generator("perturbation", unroll, pair), dtype=torch.float32)
            for pair in pairs
        ]
        return torch.stack(rows).to(weights[0])

    def _is_controlled(self, network: OptimizerNetwork) -> bool:
        return self.control_variate and self.objective == "meta_loss" and "grad" in network.reads

    def _costs(self, episode: Episode, problems: Problems, end: Position, losses: Tensor) -> Tensor:
        """What each particle costs, [P], of the losses [T, P, B] of this unroll, or of where it ends.

        Raises:
            MetaOptError: If the meta-loss takes logarithms, and a loss is negative: it is low, and no divergence.
        """
        if self.objective == "meta_loss":
            if problem := episode.meta_loss.problem(losses):
                raise MetaOptError(problem)
            return torch.stack([episode.meta_loss.value(own) for own in losses.unbind(1)])
        if self.objective == "final_loss":
            return losses[-1].mean(1)
        values = problems.metrics(end.evaluation.params)[self.objective.removeprefix("-")]
        values = values.to(losses).unflatten(0, (losses.shape[1], -1)).mean(1)
        return -values if self.objective.startswith("-") else values

    def _check_metric(self, problems: Problems) -> None:
        draw = problems.draw_held_back if problems.held_back else problems.draw_batch
        draw()  # what metrics are of
        metrics = problems.metrics(problems.initial_params)
        if self.objective.removeprefix("-") not in metrics:
            known = ", ".join([*_LOSSES, *metrics])
            raise MetaOptError(
                f"model.estimator.objective must be one of {known}, metrics with a minus where more is better, not "
                f"{self.objective}"
            )

    def _mean_losses(self, losses: Tensor) -> Tensor:
        """The mean over particles, [T, B], of losses [T, P, B]; where one may diverge, over those that are finite."""
        if self.max_difference is None:
            return losses.mean(1)
        return torch.where(losses.isfinite(), losses, torch.nan).nanmean(1)

    def _differences(self, costs: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of what particles cost, [], and what the two of each pair differ by, [K]; of costs [P]."""
        if self.max_difference is None:
            first, second = costs.chunk(2)
            return costs.mean(), first - second
        finite = costs.isfinite()
        worst = torch.finfo(costs.dtype).max / 4
        first, second = torch.where(finite, costs, worst).chunk(2)
        differences = (first - second).clamp(-self.max_difference, self.max_difference)
        return costs[finite].mean(), differences  # a mean of none is not finite, and the episode is skipped
