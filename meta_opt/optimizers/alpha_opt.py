"""A policy that chooses learning rates (after Li and Malik 2016, arXiv:1606.01885, whose actions are the steps)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import Scope, Step
from meta_opt.optimizers.lstm.preprocessing import bounded
from meta_opt.optimizers.observations import PARTS, Observed, num_features, observe
from meta_opt.optimizers.policies import Decision, Gaussian, Policy, drawn
from meta_opt.optimizers.pooling import pooled, spread
from meta_opt.optimizers.secants import NUM_FEATURES, LastStep, divisor, root_mean_square, secant_lengths
from meta_opt.optimizers.state import axis
from meta_opt.optimizers.weights import uniform

_EPSILON = 1e-8  # as in Adam


@dataclass(frozen=True)
class OfCoordinates:
    """Hidden units where each coordinate has an action."""

    units: Tensor = axis("coordinate")  # [H, B, N]


@dataclass(frozen=True)
class OfTensors:
    """Hidden units where each tensor has an action."""

    units: Tensor = axis("tensor")  # [H, B, S]


@dataclass(frozen=True)
class OfProblem:
    """Hidden units where the problem has one action."""

    units: Tensor = axis("problem")  # [H, B, 1]


_HIDDEN: dict[Scope, type[OfCoordinates | OfTensors | OfProblem]] = {
    "coordinate": OfCoordinates,
    "tensor": OfTensors,
    "problem": OfProblem,
}


@dataclass(frozen=True)
class AlphaState:
    """What the policy remembers."""

    sizes: tuple[int, ...] | None  # of the parts of θ with an action of their own; None if each coordinate has one
    seen: Observed = axis(None)
    last: LastStep | None = axis(None)  # where lengths are those of the secant
    hidden: OfCoordinates | OfTensors | OfProblem = axis(None)  # of no units without a GRU

    def mean_of(self, rows: Tensor) -> Tensor:
        """Means over the coordinates of each action, [B, N] to [B, A]."""
        return rows if self.sizes is None else pooled(rows, self.sizes)

    def spread(self, rows: Tensor) -> Tensor:
        """What actions have, for each of their coordinates, [B, A] to [B, N]."""
        return rows if self.sizes is None else spread(rows, self.sizes)


class AlphaOpt(Policy):
    """An agent whose action is the learning rate of each coordinate, of each tensor, or of all.

        a_t ~ N(μ_φ(o_t), σ_φ²)        rate = base_rate · 10^(decades · tanh a_t)        θ ← θ - rate · direction

    One network, shared by all actions, says μ. The direction is ∇, or m̂/(√v̂ + 1e-8) as in Adam. Without noise the
    action is μ. What is observed (:mod:`meta_opt.optimizers.observations`) has the sign of no coordinate: a rate is
    the same for a gradient and its negative.

    It is trained by ``policy_gradient``, or, as any network, by ``first_order``, which leaves σ as it is.
    """

    def __init__(
        self,
        action: Scope = "tensor",
        direction: Literal["gradient", "adam"] = "adam",
        unit: Literal["base", "secant"] = "base",
        observes: Sequence[str] = PARTS,
        memory: int = 5,
        network: Literal["mlp", "gru"] = "mlp",
        hidden_size: int = 32,
        base_rate: float = 0.01,
        decades: float = 2.0,
        initial_std: float = 0.15,
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            action: What has a learning rate of its own: each coordinate, each tensor, or the whole problem.
            direction: What learning rates multiply: the gradient, or the direction of Adam.
            unit: What learning rates are multiples of: base_rate, or where gradients have no noise the rate that the
                last step tells of (:mod:`meta_opt.optimizers.secants`), the first step having the length base_rate.
            observes: What the policy sees: some of moments, gradients, losses, sizes, params and time.
            memory: H, how many gradients and losses are remembered where they are observed (25 in Li and Malik).
            network: Two layers of hidden units (mlp), or one between gated recurrent units that remember (gru).
            hidden_size: Units of each layer.
            base_rate: Learning rate before anything is learned.
            decades: How far learning rates reach, as powers of ten above and below base_rate.
            initial_std: σ before anything is learned.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        unknown = [part for part in observes if part not in PARTS]
        if unknown or not observes or len(set(observes)) < len(observes):
            raise MetaOptError(f"optimizer.observes must name some of {', '.join(PARTS)}, each once, not {observes}")
        for name, number in {"memory": memory, "hidden_size": hidden_size}.items():
            if number < 1:
                raise MetaOptError(f"optimizer.{name} must be 1 or more, not {number}")
        for name, value in {"base_rate": base_rate, "decades": decades, "initial_std": initial_std}.items():
            if not 0.0 < value < math.inf:
                raise MetaOptError(f"optimizer.{name} must be more than 0, not {value}")
        self.action = action
        self.direction = direction
        self.unit = unit
        self.observes = tuple(observes)
        self.memory = memory
        self.network = network
        self.hidden_size = hidden_size
        self.base_rate = base_rate
        self.decades = decades
        self.initial_std = initial_std
        self.scope = action
        self.rests = True
        read = {"grad", *(("loss",) if "losses" in observes else ()), *(("params",) if "params" in observes else ())}
        self.reads = frozenset(read)

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network, whatever the layout, and σ."""
        size, inputs = self.hidden_size, num_features(self.observes, self.memory)
        inputs += NUM_FEATURES if self.unit == "secant" else 0

        def draw(rows: int, columns: int) -> nn.Parameter:
            bound = 1.0 / math.sqrt(columns)
            return nn.Parameter(uniform((rows, columns), bound, generator))

        self.input_weight = draw(size, inputs)
        self.input_bias = nn.Parameter(torch.zeros(size))
        gates = 3 if self.network == "gru" else 1  # reset gate, update gate and candidate, or the second layer
        self.middle_weight = draw(gates * size, size)
        self.middle_bias = nn.Parameter(torch.zeros(gates * size))
        if self.network == "gru":
            self.recurrent_weight = draw(gates * size, size)
        self.output_weight = nn.Parameter(draw(1, size).data * 0.01)
        self.output_bias = nn.Parameter(torch.zeros(1))
        self.log_std = nn.Parameter(torch.tensor(math.log(self.initial_std)))

    def init_state(self, layout: Layout, num_problems: int) -> AlphaState:
        """Nothing seen, all units zero."""
        size = layout.num_coordinates
        all_sizes: dict[Scope, tuple[int, ...] | None] = {
            "coordinate": None,
            "tensor": layout.sizes,
            "problem": (size,),
        }
        sizes = all_sizes[self.action]
        units = self.hidden_size if self.network == "gru" else 0
        hidden = self.log_std.new_zeros(units, num_problems, size if sizes is None else len(sizes))
        zeros = self.log_std.new_zeros(num_problems, size)
        return AlphaState(
            sizes,
            Observed.nothing(self.log_std, (num_problems, size), self.observes, self.memory),
            LastStep(zeros, zeros) if self.unit == "secant" else None,
            _HIDDEN[self.action](hidden),
        )

    def step(self, evaluation: Evaluation, state: AlphaState, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        observation, seen = observe(evaluation, state.seen, self.observes, state.sizes)
        grad, last = bounded(evaluation.grad), state.last
        if last is not None:
            longest = self.base_rate * 10.0**self.decades
            length, limit, told = secant_lengths(last, grad, self.base_rate, longest, state.mean_of)
            observation = torch.cat([observation, told], dim=-1)
        mean, units = self._mean(observation, state.hidden.units)
        action, record = mean, None
        if noise is not None:
            action = drawn(Gaussian(mean, self.log_std), noise)
            record = Decision(observation.detach(), action.detach())
        factor = (math.log(10.0) * self.decades * torch.tanh(action)).exp()  # [B, A]
        direction = grad
        if self.direction == "adam":
            mean_grad, square = seen.corrected()
            direction = mean_grad / ((square + 1e-30).sqrt() + _EPSILON)
        if last is None:
            update = -state.spread(self.base_rate * factor) * direction
        else:
            size = divisor(root_mean_square(direction, state.mean_of))
            update = -state.spread(torch.minimum(factor * length, limit) / size) * direction
            last = last.followed_by(LastStep(update, grad), state.mean_of, state.spread)
        return Step(update, AlphaState(state.sizes, seen, last, type(state.hidden)(units)), record)

    def distributions(self, observations: Tensor, state: AlphaState) -> Gaussian:
        """See :meth:`Policy.distributions`."""
        if self.network == "mlp":
            return Gaussian(self._mean(observations, state.hidden.units)[0], self.log_std)
        units, means = state.hidden.units, []
        for observation in observations:
            mean, units = self._mean(observation, units)
            means.append(mean)
        return Gaussian(torch.stack(means), self.log_std)

    def _mean(self, observation: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
        """μ [..., B, A] of observations [..., B, A, F], and the units [H, B, A] after it."""
        seen = torch.tanh(nn.functional.linear(observation, self.input_weight, self.input_bias))
        read = nn.functional.linear(seen, self.middle_weight, self.middle_bias)
        if self.network == "mlp":
            found = torch.tanh(read)
        else:
            before = units.movedim(0, -1)  # [B, A, H]
            kept = nn.functional.linear(before, self.recurrent_weight)
            (reset, keep, fresh), (kept_reset, kept_keep, kept_fresh) = read.chunk(3, -1), kept.chunk(3, -1)
            reset, keep = torch.sigmoid(reset + kept_reset), torch.sigmoid(keep + kept_keep)
            found = torch.lerp(torch.tanh(fresh + reset * kept_fresh), before, keep)
            units = found.movedim(-1, 0)
        return nn.functional.linear(found, self.output_weight, self.output_bias).squeeze(-1), units

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """A policy gradient, whose steps are of one size whatever losses are; with first_order, all of the replay."""
        return {
            "model.estimator": "policy_gradient",
            "model.estimator.replay_fraction": 1.0,
            "model.lr": 0.003,
            "model.normalize_gradient": False,
        }
