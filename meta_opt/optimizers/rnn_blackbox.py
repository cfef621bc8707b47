"""An LSTM that minimizes a function from its values alone (Chen et al. 2017, arXiv:1611.03824)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.state import axis
from meta_opt.optimizers.weights import uniform

_NUM_LOSSES = 3  # what is read of a loss
_EDGE = 0.999  # as near to the bound as the best place counts, where the inverse of tanh is finite


@dataclass(frozen=True)
class SearchState:
    """What is remembered of B problems.

    Attributes:
        hidden: Of the LSTM, [B, H].
        cell: Of the LSTM, [B, H].
        best_loss: The lowest loss so far, [B]; infinite before the first.
        best: Where that was, [B, N].
        queue: Proposals that come next, [M, B, N]; the first ``left`` of them count.
        tried: The last M places, [M, B, N].
        losses: The losses there, [M, B]; infinite where there was none.
        left: How many proposals have not been evaluated yet, [].
    """

    hidden: Tensor = axis("problem")
    cell: Tensor = axis("problem")
    best_loss: Tensor = axis("problem")
    best: Tensor = axis("coordinate")
    queue: Tensor = axis("coordinate")
    tried: Tensor = axis("coordinate")
    losses: Tensor = axis("problem")
    left: Tensor = axis("problem")


class RNNBlackBox(OptimizerNetwork):
    """One LSTM per problem reads where it was and the loss there, and proposes where to go next.

        h = LSTM(θ, f, f - f*, h)        θ_next = b tanh(artanh(θ*/b) + W h)

    f* is the lowest loss so far, and θ* where it was: unlike the paper's, proposals are made from there. Losses are
    read as asinh(f), so that large ones do not drown small differences.

    No gradient is read. Meta-training may use f's: to first order is then exact, as f_t depends on φ through θ_t alone.
    """

    reads = frozenset({"loss", "params"})
    any_layout = False

    def __init__(self, hidden_size: int = 64, proposals: int = 1, bound: float = 1.5) -> None:
        """Choose the architecture.

        Args:
            hidden_size: Units of the LSTM.
            proposals: How many places are proposed at once, before any of their losses is known, so that they can be
                evaluated side by side; one a step here.
            bound: b: all proposals have |θ_i| < b.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        for name, value in {"hidden_size": hidden_size, "proposals": proposals}.items():
            if value < 1:
                raise MetaOptError(f"optimizer.{name} must be 1 or more, not {value}")
        if not 0.0 < bound < math.inf:
            raise MetaOptError(f"optimizer.bound must be a number of more than 0, not {bound}")
        self.hidden_size = hidden_size
        self.proposals = proposals
        self.bound = bound

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make an LSTM for the number of coordinates that the layout has."""
        size, reads = self.hidden_size, self.proposals * (layout.num_coordinates + _NUM_LOSSES)

        def drawn(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(uniform((rows, columns), 1.0 / math.sqrt(size), generator))

        self.gates = drawn(4 * size, reads + size)  # rows: input, forget and output gate, candidate
        bias = torch.zeros(4 * size)
        bias[size : 2 * size] = 1.0  # remember at first
        self.gate_biases = nn.Parameter(bias)
        self.output = drawn(self.proposals * layout.num_coordinates, size)
        self.output_biases = nn.Parameter(0.3 * torch.randn(len(self.output), generator=generator))

    def init_state(self, layout: Layout, num_problems: int) -> SearchState:
        """Nothing is known.

        Raises:
            MetaOptError: If the problem has another number of coordinates than those of meta-training.
        """
        known = len(self.output) // self.proposals
        if layout.num_coordinates != known:
            raise MetaOptError(
                f"this rnn_blackbox was made for {known} coordinates, and the problem has {layout.num_coordinates}"
            )
        zeros, size = self.output.new_zeros, (self.proposals, num_problems)
        return SearchState(
            zeros(num_problems, self.hidden_size),
            zeros(num_problems, self.hidden_size),
            self.output.new_full((num_problems,), math.inf),
            zeros(num_problems, known),
            zeros(*size, known),
            zeros(*size, known),
            self.output.new_full(size, math.inf),
            zeros(()),
        )

    def step(self, evaluation: Evaluation, state: SearchState, noise: Generator | None = None) -> Step:
        """Go to the next of the proposals; where none is left, make new ones."""
        losses = torch.cat([state.losses[1:], evaluation.loss.unsqueeze(0)])
        tried = torch.cat([state.tried[1:], evaluation.params.unsqueeze(0)])
        # At first one place is known, which counts as all.
        unknown = losses.isinf()
        losses = torch.where(unknown, evaluation.loss, losses)
        tried = torch.where(unknown.unsqueeze(2), evaluation.params, tried)
        due = state.left == 0
        found = self._proposed(tried, losses, state)
        hidden, cell, best_loss, best, queue = (
            torch.where(due, new, old)
            for new, old in zip(
                found, (state.hidden, state.cell, state.best_loss, state.best, state.queue), strict=True
            )
        )
        left = torch.where(due, self.proposals, state.left) - 1
        following = SearchState(hidden, cell, best_loss, best, queue.roll(-1, 0), tried, losses, left)
        return Step(queue[0] - evaluation.params, following)

    def _proposed(self, tried: Tensor, losses: Tensor, state: SearchState) -> tuple[Tensor, ...]:
        """What hidden state, cell, lowest loss, best place and queue become after M losses."""
        best_loss, best, reads = state.best_loss, state.best, []
        for place, loss in zip(tried, losses, strict=True):
            better, known = loss < best_loss, best_loss.isfinite()
            gain = torch.where(known, loss.asinh() - torch.where(known, best_loss, 0.0).asinh(), 0.0)
            reads += [place / self.bound, torch.stack([loss.asinh(), gain, better.to(gain)], 1)]
            best_loss = torch.where(better, loss, best_loss)
            best = torch.where(better.unsqueeze(1), place, best)
        hidden, cell = self._lstm(torch.cat([*reads, state.hidden], 1), state.cell)
        offsets = torch.addmm(self.output_biases, hidden, self.output.T).unflatten(1, (self.proposals, -1))
        middle = (best / self.bound).clamp(-_EDGE, _EDGE).atanh()
        return hidden, cell, best_loss, best, self.bound * torch.tanh(middle + offsets.movedim(1, 0))

    def _lstm(self, inputs: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs with the hidden state behind them, [B, F + H]; the new hidden state and cell, [B, H]."""
        gates = torch.addmm(self.gate_biases, inputs, self.gates.T)
        sigmoids = gates[:, : 3 * self.hidden_size].sigmoid()
        input_gate, forget_gate, output_gate = sigmoids.chunk(3, 1)
        cell = forget_gate * cell + input_gate * gates[:, 3 * self.hidden_size :].tanh()
        return output_gate * cell.tanh(), cell

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """What counts is the best place found so far, over the whole horizon."""
        return {"model.meta_loss": "best", "model.lr": 0.003, "model.num_steps": 30, "model.unroll_length": 30}
