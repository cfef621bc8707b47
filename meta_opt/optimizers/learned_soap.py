"""SOAP, Adam in the eigenbases of gradients (Vyas et al. 2024), with step lengths that a network chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import NUM_FEATURES, Layout, Segment
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.captured import CapturedRollout, StepFunction
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout, Step
from meta_opt.optimizers.eigenbases import (
    BETA,
    SMALLEST_SQUARE,
    Eigenbases,
    mean_of,
    normalized,
    smallest_square,
    turns,
    used_rows,
)
from meta_opt.optimizers.lstm.preprocessing import Scales, bounded, log_odds
from meta_opt.optimizers.lstm.settings import unit_of
from meta_opt.optimizers.pooling import spread
from meta_opt.optimizers.state import axis

_BASE_STEP = 0.16
_LAST_GRADIENT = 0.2
_HIDDEN_SIZE = 16
_LEAST_LEFT = 0.001  # of a run: the updates of one that goes on longer than was said do not vanish
_USUAL_STEPS = 1000.0  # of a run
_FEWEST_STEPS = 300.0  # for which steps are longer than for more
_POWER = 1.25  # of what is left of a run, by which updates fall
_OF_ONE = 2.0  # what a lone matrix bears of the steps of others
_NUM_WORTHWHILE = 1 << 25  # coordinates, that CUDA graphs of steps are worth it for
_AGREEING_VECTOR = 0.5  # mean square of a direction, from which on a vector has far to go,
_AGREEING_MATRIX = 0.7  # or a matrix,
_FIRST_STEPS = 5.0  # but for so many first steps, which always have it
_LONGER, _SHORTER = 1.2, 0.8  # what then becomes of its steps, and else
_LONGEST_STRETCH = 100.0
_LEAST_SQUARE = 1e-6  # of a direction, whose logarithm is read


@dataclass(frozen=True)
class SOAPState:
    """What is remembered of gradients."""

    segments: tuple[Segment, ...]
    features: Tensor = axis("tensor")  # [F - 2, B, S], of tensors, see features_of
    shares: Tensor = axis("tensor")  # [B, S], see share_of
    stretches: Tensor = axis("tensor")  # [B, S], see _stretched
    mean: Tensor = axis("coordinate")  # [B, N], average of gradients
    square: Tensor = axis("coordinate")  # [B, N], of squares of gradients, in the bases
    bases: tuple[Eigenbases, ...] = axis("each")
    scales: Scales = axis(None)
    steps: Tensor = axis("problem")  # t, []
    horizon: Tensor = axis("problem")  # [], how many steps there will be, 0 if unknown

    @property
    def sizes(self) -> list[int]:
        """The number of coordinates of each tensor."""
        return [segment.stop - segment.start for segment in self.segments]


class LearnedSOAP(OptimizerNetwork):
    """SOAP (Vyas et al. 2024, arXiv:2409.11321) whose steps have the length that a network chooses for each tensor.

        θ ← θ - base_step · min(√(1000/T), s √(1000/300)) · (1 - (t-1)/T)^1.25
                · b · unit · stretch · e^(net_φ(features)) · d

    The direction d is m̂/√v̂ of gradients, for matrices and filters read in bases in which they are as good as
    uncorrelated, and turned back. In m̂ the last gradient weighs more than in an average, as in Nesterov's momentum
    (quasi-hyperbolic momentum: Ma and Yarats 2018, arXiv:1810.06801). The unit is what makes a step mean the same at
    any width and shape (:func:`meta_opt.optimizers.lstm.settings.unit_of`). Over T steps updates fall to zero; the more
    steps there are, the shorter they are, from T = 300 on, or later in deep networks, which bear only a share s of the
    longest steps (:func:`share_of`). A single matrix and an embedding bear more of all, b (:func:`_borne`). Steps are
    stretched where gradients go on agreeing (:func:`_stretched`). Where T is not known, steps are those of the middle
    of a run: at step t of one of 2t steps, but at least of 300. One network, a hidden layer of tanh, for all tensors;
    at first it says nothing. It reads what kind of tensor there is, its place and size, how far the run is, and the
    size of d, which is 1 where all gradients agree, and small where they are noise.

    The bases are those of gradients as they are, also where second derivatives are taken.
    """

    scope = "tensor"
    horizon = True

    def __init__(
        self,
        base_step: float = _BASE_STEP,
        momentum: float = 0.9,
        last_gradient: float = 0.0,
        hidden_size: int = _HIDDEN_SIZE,
        initial_output: float = 0.0,
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            base_step: Length of the first steps of a run of 1,000, in units of the tensor, where all gradients agree.
            momentum: β of the average of gradients.
            last_gradient: ν, the weight of the last gradient beside that average; 0 as in SOAP, 1 - β as in Nesterov's
                momentum.
            hidden_size: Units of the network.
            initial_output: Factor of the output layer's initial weights; with 0 the network says nothing at first.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        if not 0.0 < base_step < math.inf:
            raise MetaOptError(f"optimizer.base_step must be more than 0, not {base_step}")
        if not 0.0 <= momentum < 1.0:
            raise MetaOptError(f"optimizer.momentum must be at least 0 and less than 1, not {momentum}")
        if not 0.0 <= last_gradient <= 1.0:
            raise MetaOptError(f"optimizer.last_gradient must be at least 0 and at most 1, not {last_gradient}")
        if not 0.0 <= initial_output < math.inf:
            raise MetaOptError(f"optimizer.initial_output must be 0 or more, not {initial_output}")
        if hidden_size < 1:
            raise MetaOptError(f"optimizer.hidden_size must be 1 or more, not {hidden_size}")
        self.base_step = base_step
        self.momentum = momentum
        self.last_gradient = last_gradient
        self.hidden_size = hidden_size
        self.initial_output = initial_output

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network, whatever the layout."""

        def draw(rows: int, columns: int, factor: float = 1.0) -> nn.Parameter:
            drawn = torch.rand(rows, columns, generator=generator) * 2.0 - 1.0
            return nn.Parameter(drawn * factor / math.sqrt(columns))

        self.input_weight = draw(self.hidden_size, NUM_FEATURES + 2)
        self.input_bias = nn.Parameter(torch.zeros(self.hidden_size))
        self.output_weight = draw(1, self.hidden_size, self.initial_output)
        self.output_bias = nn.Parameter(torch.zeros(1))

    def init_state(self, layout: Layout, num_problems: int) -> SOAPState:
        """Nothing seen."""
        like = self.output_bias
        segments = layout.segments("tensor", features=True)
        mean, square = (like.new_zeros(num_problems, layout.num_coordinates) for _ in range(2))
        bases = tuple(Eigenbases.first(like, num_problems, segment) for segment in segments)
        scales = Scales.zeros(like, num_problems, len(segments))
        features = like.new_tensor([segment.features for segment in segments]).T  # [F - 2, S]
        features = features.unsqueeze(1).repeat(1, num_problems, 1)
        shares = torch.full_like(features[0], share_of(layout.num_matrices))
        stretches, zero = torch.ones_like(shares), like.new_zeros(())
        return SOAPState(segments, features, shares, stretches, mean, square, bases, scales, zero, zero)

    def expect(self, state: SOAPState, num_steps: int) -> SOAPState:
        """See :meth:`InnerOptimizer.expect`."""
        return replace(state, horizon=torch.full_like(state.horizon, num_steps))

    def step(self, evaluation: Evaluation, state: SOAPState, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        return self._step(evaluation, state, turn=turns(int(state.steps)))

    def rollout(self, state: SOAPState, noise: Generator | None = None) -> Rollout:
        """See :meth:`OptimizerNetwork.rollout`; this one counts steps itself instead of asking the device."""
        if self._steps_otherwise:
            return super().rollout(state, noise)
        captures = state.mean.is_cuda and not torch.is_grad_enabled()
        return CapturedRollout(self, state, _function_after, _NUM_WORTHWHILE if captures else 0, int(state.steps))

    def replay(
        self,
        evaluations: Sequence[Evaluation],
        state: SOAPState,
        coefficients: Sequence[Tensor],
        columns: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :meth:`OptimizerNetwork.replay`: neither directions nor features depend on φ."""
        known = columns is None and not self._steps_otherwise
        if not known or any(evaluation.grad.requires_grad for evaluation in evaluations):
            return super().replay(evaluations, state, coefficients, columns)
        gains, features = [], []
        with torch.no_grad():
            pairs = zip(evaluations, coefficients, strict=True)
            for past, (evaluation, coefficient) in enumerate(pairs, int(state.steps)):
                direction, length, read, state = self._direction(evaluation, state, turn=turns(past))
                parts = (coefficient * direction).split(state.sizes, dim=1)
                gains.append(length * torch.stack([part.sum(1) for part in parts], dim=1))
                features.append(read)
        with torch.enable_grad():
            inner = torch.stack(gains) * self._factor(torch.stack(features))
            return torch.autograd.grad(inner.sum(), self.trained_parameters(), materialize_grads=True)

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """All of the replay, which costs little here, and a base step, ν and a network that are its own."""
        return {
            "model.estimator.replay_fraction": 1.0,
            "optimizer.base_step": _BASE_STEP,
            "optimizer.last_gradient": _LAST_GRADIENT,
            "optimizer.hidden_size": _HIDDEN_SIZE,
            "optimizer.initial_output": 0.0,
        }

    @property
    def _steps_otherwise(self) -> bool:
        """Whether a class derived from this one has a step of its own."""
        return type(self).step is not LearnedSOAP.step

    def _step(self, evaluation: Evaluation, state: SOAPState, *, turn: bool) -> Step:
        direction, length, features, state = self._direction(evaluation, state, turn=turn)
        return Step(direction * spread(length * self._factor(features), state.sizes), state)

    def _factor(self, features: Tensor) -> Tensor:
        """What the network says, [..., S, F] to [..., S]."""
        hidden = torch.tanh(nn.functional.linear(features, self.input_weight, self.input_bias))
        return nn.functional.linear(hidden, self.output_weight, self.output_bias).squeeze(-1).exp()

    def _direction(
        self, evaluation: Evaluation, state: SOAPState, *, turn: bool
    ) -> tuple[Tensor, Tensor, Tensor, SOAPState]:
        """Directions, [B, N]; how far to go where the network says nothing, [B, S]; what it reads, [B, S, F]; state."""
        scales, grad = state.scales.updated(bounded(evaluation.grad), state.sizes, state.steps)
        steps = state.steps + 1.0
        mean = torch.lerp(state.mean, grad, 1.0 - self.momentum)
        of_mean, of_square = 1.0 - (1.0 - self.last_gradient) * self.momentum**steps, 1.0 - BETA**steps
        hat = torch.lerp(mean, grad, self.last_gradient) / of_mean
        grads, hats, before = (each.split(state.sizes, dim=1) for each in (grad, hat, state.square))
        stepped: dict[int, tuple[Tensor, Tensor, Tensor, Tensor, Eigenbases]] = {}
        for group in _alike(state.segments):
            part, hat, square = (_together([each[index] for index in group]) for each in (grads, hats, before))
            bases = Eigenbases.joined([state.bases[index] for index in group])
            made, bases = _in_bases(state.segments[group[0]], part, hat, square, bases, of_square, turn=turn)
            parts = (*(each.chunk(len(group)) for each in made), bases.parted(len(group)))
            stepped |= zip(group, zip(*parts, strict=True), strict=True)
        in_order = (stepped[index] for index in range(len(stepped)))
        directions, lengths, used, squares, all_bases = zip(*in_order, strict=True)
        stretches = _stretched(state, torch.stack(lengths, 1), steps)
        after = replace(
            state,
            mean=mean,
            square=torch.cat(squares, 1),
            bases=all_bases,
            scales=scales,
            steps=steps,
            stretches=stretches,
        )
        horizon = torch.where(state.horizon > 0.0, state.horizon, (2.0 * steps).clamp_min(_FEWEST_STEPS))
        left = (1.0 - (steps - 1.0) / horizon).clamp_min(_LEAST_LEFT)
        longest = state.shares.clamp_max(1.0) * math.sqrt(_USUAL_STEPS / _FEWEST_STEPS)
        borne = torch.minimum((_USUAL_STEPS / horizon).sqrt(), longest) * _borne(state, torch.stack(used, 1))
        length = -self.base_step * left**_POWER * borne * stretches
        features = _features(after, torch.stack(lengths, 1), log_odds(steps, horizon))
        return torch.cat(directions, 1) * (mean != 0.0), length, features, after


def share_of(num_matrices: int) -> float:
    """What a network of L matrices and filters bears of the longest steps: 4/L from four to sixteen, then a quarter.

    What they change adds up where they follow each other (as the masses of Large et al. 2024, arXiv:2405.14813). More
    than sixteen are rarely trained without skips, and branches of a residual network want hardly less, the more there
    are. Of a single one, with nothing before or behind it, it is what it bears of all steps, twice.
    """
    return _OF_ONE if num_matrices == 1 else min(1.0, max(4.0 / max(num_matrices, 1), 0.25))


def _borne(state: SOAPState, used: Tensor) -> Tensor:
    """What tensors bear of the steps of others, [B, S]: a lone matrix twice, embeddings as far as rows are used.

    Args:
        state: That before the step.
        used: See :func:`used_rows`, [B, S]; where it is less than 1 there is an embedding.
    """
    return torch.where(used < 1.0, 1.0 + used, state.shares.clamp_min(1.0))


def _stretched(state: SOAPState, lengths: Tensor, steps: Tensor) -> Tensor:
    """How much longer than others the steps of each tensor are, [B, S]: from 1 to 100.

    By a fifth more at each step at which most of the direction is the same as before, as in Rprop (Riedmiller and Braun
    1993), and by a fifth less at others: so a bias comes to a target of 200.

    Args:
        state: That before the step.
        lengths: Mean squares of directions, [B, S], 1 where all gradients agree.
        steps: t, []; of the first few gradients all agree.
    """
    agreeing = torch.where(state.features[0] > 0.0, _AGREEING_VECTOR, _AGREEING_MATRIX)
    longer = (lengths > agreeing) & (steps > _FIRST_STEPS)
    return torch.where(longer, state.stretches * _LONGER, state.stretches * _SHORTER).clamp(1.0, _LONGEST_STRETCH)


def _features(state: SOAPState, lengths: Tensor, far: Tensor) -> Tensor:
    """Of each tensor, [B, S, F], by mean squares of directions, [B, S], and how far the run is, []."""
    sizes = (lengths + _LEAST_SQUARE).log() / 5.0
    return torch.cat([state.features, torch.stack([far.expand_as(sizes), sizes])]).movedim(0, -1)


def _in_bases(
    segment: Segment, grad: Tensor, hat: Tensor, square: Tensor, bases: Eigenbases, of_square: Tensor, *, turn: bool
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Eigenbases]:
    """One step of tensors of one shape, with n coordinates, as of B problems.

    Args:
        segment: One of the tensors.
        grad: The gradient, [B, n].
        hat: m̂, [B, n].
        square: Average of squares in the bases, [B, n].
        bases: Those of the last step.
        of_square: What makes v̂ of that average, [].
        turn: Whether to turn the bases.

    Returns:
        The direction in units of the tensor, [B, n], its mean square before that, [B], how far rows are used, [B], and
        the average of squares, [B, n]; and the bases.
    """
    if not bases:
        square = torch.lerp(square, grad.square(), 1.0 - BETA)
        direction = normalized(hat, square / of_square, SMALLEST_SQUARE)
        return (_unit_of(segment) * direction, mean_of(direction.square()), grad.new_ones(len(grad)), square), bases
    grad, hat, square = (each.unflatten(1, segment.matrices) for each in (grad, hat, square))
    used = used_rows(grad)
    bases = bases.after(grad.detach(), turn=turn)
    square = torch.lerp(square, bases.read(grad).square(), 1.0 - BETA)
    hat, hat_square = (each.flatten(0, 1) for each in (bases.read(hat), square / of_square))  # one matrix, one problem
    direction = normalized(hat, hat_square, smallest_square(used).flatten()).view_as(square)
    length, direction = mean_of(direction.square()), bases.back(direction).flatten(1)
    return (_unit_of(segment) * direction, length, used.mean(1), square.flatten(1)), bases


def _unit_of(segment: Segment) -> float:
    """That of a matrix or vector; where matrices lie side by side, which side the inputs come from is not known."""
    count, rows, columns = segment.matrices
    if count > 1:
        return 1.0 / math.sqrt(max(rows, columns))
    return unit_of(replace(segment, num_rows=rows, num_columns=columns))


def _alike(segments: tuple[Segment, ...]) -> tuple[tuple[int, ...], ...]:
    """Which tensors have the same shape, and so are stepped as one batch, as if they were of several problems."""
    groups: dict[object, list[int]] = {}
    for index, segment in enumerate(segments):
        key = segment.stop - segment.start, segment.matrices
        groups.setdefault(key, []).append(index)
    return tuple(map(tuple, groups.values()))


def _together(parts: Sequence[Tensor]) -> Tensor:
    """Along B; without a copy where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _turning(optimizer: LearnedSOAP, evaluation: Evaluation, state: SOAPState) -> Step:
    return optimizer._step(evaluation, state, turn=True)


def _resting(optimizer: LearnedSOAP, evaluation: Evaluation, state: SOAPState) -> Step:
    return optimizer._step(evaluation, state, turn=False)


def _function_after(num_steps: int) -> StepFunction:
    return _turning if turns(num_steps) else _resting
