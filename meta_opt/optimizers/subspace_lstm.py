"""An LSTM that combines whole gradients: coordinates are tied together by inner products.

A coordinatewise network sees one direction at a time and cannot do what conjugate gradients and quasi-Newton methods
do, which is to learn of the curvature in one direction from a step in another. Andrychowicz et al. 2016 (appendix B)
let coordinates share averages, or a memory after BFGS. Here, as in subspace optimization (Choukroun and Katz 2021,
arXiv:2110.14920), the update is a combination of a few vectors of the length of θ, and a network that reads nothing but
their inner products writes its coefficients. So it knows no axes (a rotated problem is solved by rotated steps), and no
scale of the loss; its cost per coordinate does not depend on the network's width. One of the vectors is the direction
of limited-memory BFGS, itself such a combination.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.lbfgs import lbfgs_direction
from meta_opt.optimizers.lstm.network import LSTMNetwork
from meta_opt.optimizers.state import axis

_TINY = 1e-30  # a vector whose largest entry is not larger is taken for zero
_VANISHED = 1e-10  # of the last gradient: less than it can fall by in one step is as good as zero
_LARGEST = 1e30  # entry of a gradient; larger ones, infinity too, count as that
_MAX_COEFFICIENT = 2.0
_MAX_CHANGE = 10.0  # of the unit, from one step to the next
_MAX_JUMP = 1e4  # of the gradient's length, from one step to the next; 500 is the most seen on quadratics
_MAX_STEP = 2.0  # after a jump, times the longest of the last steps
_MAX_FIRST_STEPS = 1e6  # the longest step of all, times that at the first step
_MAX_RATIO = 1e12  # between lengths that BFGS reads: its products stay far from where float32 ends


@dataclass(frozen=True)
class SubspaceState:
    """What the last k steps were, and what they did to the gradient; newest first, zeros where there is none yet."""

    grad: Tensor = axis("coordinate")  # [B, N], the last gradient
    steps: Tensor = axis("coordinate")  # [B, k, N], s_i
    changes: Tensor = axis("coordinate")  # [B, k, N], y_i, by how much s_i changed the gradient
    hidden: Tensor = axis("problem")  # [B, H]
    cell: Tensor = axis("problem")  # [B, H]
    unit: Tensor = axis("problem")  # [B, 1], η; 0 before the first gradient that is not zero


class SubspaceLSTM(OptimizerNetwork):
    """LSTM that writes how to combine the gradient, the last steps and the direction of L-BFGS; one state per problem.

    update = -a·η∇ + Σ_i b_i s_i - Σ_i c_i·η y_i - q·d        a, b, c, q = 2·tanh(out(LSTM(inputs, h)))

    of the gradient, the last k steps s_i, the changes y_i of the gradient in them, and the direction d of
    limited-memory BFGS with these k pairs. The unit of length per gradient is that of the last step, η = ‖s_1‖/‖y_1‖
    (after Barzilai and Borwein 1988), which changes by no more than a factor of 10 from step to step: where a step is
    lost in rounding it tells nothing. After a step that is as good as zero it stays what it was. Inputs are the cosines
    between all these vectors, and the logarithms of their lengths, ∇ and y times η, relative to that of the last step
    (of η∇ where there is none).

    Where the gradient is zero, or falls in one step to less than 1e-10 of the last, a problem stands still: no update,
    and the state stays what it is. A gradient more than 10,000 times as long as the last is shortened to that, and the
    step in which it is seen to twice the longest of the last k: one gradient out of all proportion does not throw θ
    away.
    """

    scope = "problem"
    rests = True

    def __init__(self, history: int = 5, hidden_size: int = 32, base_step: float = 0.3) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            history: k, how many of the last steps, and of the changes of the gradient, are kept and combined.
            hidden_size: Width H of the LSTM layer.
            base_step: Root mean square, over coordinates, of η∇ at the first step, when no curvature is known.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        for name, value in (("history", history), ("hidden_size", hidden_size)):
            if value < 1:
                raise MetaOptError(f"optimizer.{name} must be 1 or more, not {value}")
        if not base_step > 0.0:
            raise MetaOptError(f"optimizer.base_step must be more than 0, not {base_step}")
        self.history = history
        self.hidden_size = hidden_size
        self.base_step = base_step

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network, whatever the layout; at first it writes little but q = 1, the step of BFGS."""
        num_vectors = 2 * self.history + 1
        num_inputs = num_vectors * (num_vectors + 1) // 2 + num_vectors + 1
        self.network = LSTMNetwork(num_inputs, 1, self.hidden_size, num_vectors + 1, 0.01, 0, generator)
        with torch.no_grad():
            self.network.output_bias[-1] = math.atanh(1.0 / _MAX_COEFFICIENT)

    def init_state(self, layout: Layout, num_problems: int) -> SubspaceState:
        """All zeros."""
        zeros = self.network.output_bias.new_zeros
        size, history = layout.num_coordinates, self.history
        return SubspaceState(
            grad=zeros(num_problems, size),
            steps=zeros(num_problems, history, size),
            changes=zeros(num_problems, history, size),
            hidden=zeros(num_problems, self.hidden_size),
            cell=zeros(num_problems, self.hidden_size),
            unit=zeros(num_problems, 1),
        )

    def step(self, evaluation: Evaluation, state: SubspaceState, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        grad, steps, begun = evaluation.grad.clamp(-_LARGEST, _LARGEST), state.steps, state.unit > 0.0
        if not grad.shape[1]:
            return Step(torch.zeros_like(grad), state)
        last = state.grad.detach().abs().amax(1, keepdim=True)
        still = grad.detach().abs().amax(1, keepdim=True) <= (_VANISHED * last).clamp_min(_TINY)
        grad, jumped = _shortened(grad, state.grad, begun)
        newest = torch.where(begun, grad - state.grad, 0.0)
        changes = torch.cat([newest.unsqueeze(1), state.changes[:, :-1]], dim=1)
        vectors = torch.cat([grad.unsqueeze(1), steps, changes], dim=1)  # [B, V, N]
        # To first order gradients are constant, and then so is all that is read, of steps as well: that a step twice
        # as long changes the gradient twice as much would else be lost, and the derivative of their ratio wrong.
        read = vectors if grad.requires_grad else vectors.detach()
        lengths, directions = _polar(read)
        unit = self._unit(lengths, state.unit, grad.shape[1])
        scales = torch.cat([unit, steps.new_ones(steps.shape[:2]), unit.expand(steps.shape[:2])], dim=1)  # [B, V]
        lengths = lengths * scales
        longest = lengths[:, 1 : self.history + 1].amax(1, keepdim=True)
        lengths = lengths / torch.where(lengths[:, 1:2] > 0.0, lengths[:, 1:2], lengths[:, :1]).clamp_min(_TINY)
        lengths = torch.where(lengths > 0.0, lengths.clamp(1.0 / _MAX_RATIO, _MAX_RATIO), 0.0)
        cosines = directions @ directions.mT
        direction = lbfgs_direction(lengths, cosines)
        lengths = torch.cat([lengths, direction.length], dim=1)
        inputs = torch.cat([_pairs(cosines), direction.cosines, _logs(lengths)], dim=1)
        outputs, (hidden,), (cell,) = self.network(inputs.T, (state.hidden.T,), (state.cell.T,), ())
        written = _MAX_COEFFICIENT * torch.tanh(outputs.T)
        coefficients = written[:, :-1] * self._signs(grad) - written[:, -1:] * direction.coefficients
        update = ((coefficients * scales).unsqueeze(1) @ vectors).squeeze(1)
        most = _MAX_FIRST_STEPS * self._first_step(grad.shape[1])
        limit = torch.where(jumped & (longest > 0.0), _MAX_STEP * longest, most).clamp_max(most)
        update = _within(update, limit)
        steps = torch.cat([update.unsqueeze(1), steps[:, :-1]], dim=1)
        after = SubspaceState(grad, steps, changes, hidden.T, cell.T, unit)
        return Step(update.masked_fill(still, 0.0), _where(still, state, after))

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Small steps: errors in the coefficients spoil what BFGS does well."""
        return {"model.lr": 0.0005, "model.meta_loss": "log_mean", "model.estimator.replay_fraction": 1.0}

    def _unit(self, lengths: Tensor, last: Tensor, num_coordinates: int) -> Tensor:
        """η, [B, 1]."""
        grad, step, change = lengths[:, :1], lengths[:, 1:2], lengths[:, self.history + 1 : self.history + 2]
        first = self._first_step(num_coordinates) / grad.clamp_min(_TINY)
        secant = torch.where(step > 0.0, step / change.clamp_min(_TINY), last)
        unit = torch.where(last > 0.0, secant.clamp(last / _MAX_CHANGE, last * _MAX_CHANGE), first)
        # Where the gradient does not change at all the unit would grow without end.
        longest = lengths[:, self.history + 1 :].amax(1, keepdim=True).maximum(grad)
        unit = unit.minimum(_MAX_FIRST_STEPS * self._first_step(num_coordinates) / longest.clamp_min(_TINY))
        # Whatever the secants, what has begun does not begin again, which is what a unit of 0 means.
        unit = unit.clamp_min(torch.finfo(unit.dtype).tiny)
        return torch.where((last > 0.0) | (grad > 0.0), unit, 0.0)

    def _first_step(self, num_coordinates: int) -> float:
        """The length of η∇ at the first step."""
        return self.base_step * math.sqrt(num_coordinates)

    def _signs(self, like: Tensor) -> Tensor:
        """-1 for the gradient and its changes, 1 for steps, [V]."""
        signs = -torch.ones(2 * self.history + 1, dtype=like.dtype, device=like.device)
        signs[1 : self.history + 1] = 1.0
        return signs


def _shortened(grad: Tensor, last: Tensor, begun: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, [B, N], no more than ``_MAX_JUMP`` times as long as the last, and whether it was longer, [B, 1]."""
    lengths, _ = _polar(torch.stack([grad.detach(), last.detach()], dim=1))
    length, most = lengths[:, :1], _MAX_JUMP * lengths[:, 1:]
    jumped = begun & (length > most)
    return torch.where(jumped, grad * (most / length.clamp_min(_TINY)), grad), jumped


def _within(update: Tensor, limit: Tensor) -> Tensor:
    """An update, [B, N], made no longer than a limit, [B, 1]."""
    length = torch.linalg.vector_norm(update.detach(), dim=1, keepdim=True)
    return torch.where(length > limit, update * (limit / length.clamp_min(_TINY)), update)


def _where(choice: Tensor, one: SubspaceState, other: SubspaceState) -> SubspaceState:
    """One state for the problems where ``choice``, [B, 1], is true, and the other for the others."""
    return SubspaceState(
        torch.where(choice, one.grad, other.grad),
        torch.where(choice.unsqueeze(2), one.steps, other.steps),
        torch.where(choice.unsqueeze(2), one.changes, other.changes),
        torch.where(choice, one.hidden, other.hidden),
        torch.where(choice, one.cell, other.cell),
        torch.where(choice, one.unit, other.unit),
    )


def _polar(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths [B, V] and directions [B, V, N] of vectors [B, V, N]; 0 and zeros of those that are as good as zero.

    Divided by the largest entry first, squares neither overflow nor vanish.
    """
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    usable = largest > _TINY
    scaled = torch.where(usable, vectors / largest.clamp_min(_TINY), 1.0)
    lengths = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    directions = torch.where(usable, scaled / lengths, 0.0)
    return torch.where(usable, lengths * largest, 0.0).squeeze(-1), directions


def _pairs(cosines: Tensor) -> Tensor:
    """Those of [B, V, V] above the diagonal, [B, V(V-1)/2]."""
    first, second = torch.triu_indices(cosines.shape[1], cosines.shape[1], 1, device=cosines.device)
    return cosines[:, first, second]


def _logs(lengths: Tensor) -> Tensor:
    """A third of the logarithm of lengths, within ±3; 0 of those that are 0."""
    return torch.where(lengths > 0.0, lengths, 1.0).log().div(3.0).clamp(-3.0, 3.0)
