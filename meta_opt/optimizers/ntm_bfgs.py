"""An LSTM with a matrix for a memory, after BFGS (Andrychowicz et al. 2016, arXiv:1606.04474v1, appendix)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.averaging import average_over, averaging_lstm
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.lstm.network import LSTMNetwork
from meta_opt.optimizers.lstm.preprocessing import bounded
from meta_opt.optimizers.memory import DenseMemory, LowRankMemory, bfgs_writes
from meta_opt.optimizers.state import axis

_NUM_INPUTS = 3
_TINY = 1e-30  # a vector whose root mean square is not larger counts as zero
_LEAST_COSINE = 1e-3  # between a read and what was asked, which it is a positive definite matrix times
_MAX_GROWTH = 4.0  # of an update, times the last: what keeps quasi-Newton steps without a line search from going astray


@dataclass(frozen=True)
class NTMState:
    """What controller and memory remember."""

    memory: DenseMemory | LowRankMemory = axis(None)
    hidden: tuple[Tensor, ...] = axis("coordinate")  # per layer [H, B·N], averages in their place
    cell: tuple[Tensor, ...] = axis("coordinate")  # per layer [H, B·N]
    asked: Tensor = axis("coordinate")  # [B, N], r of the last step
    read: Tensor = axis("coordinate")  # [B, N], M r with the last step's writes, before any was forgotten
    update: Tensor = axis("coordinate")  # [B, N], that of the last step
    size: Tensor = axis("problem")  # [B, 1], root mean square of the last gradient; 0 before the first
    first: Tensor = axis("problem")  # [B, 1], root mean square of the first gradient that is not zero; 0 before it


class NTMBFGS(OptimizerNetwork):
    """A coordinatewise LSTM with averaging cells that reads from, and writes to, a matrix M over all coordinates.

        out, r, a_1..a_W, b_1..b_W = controller(∇, i)       one number of each per coordinate
        M ← M + Σ_k a_k b_kᵀ,    i = M r,    update = (i + output_scale · ‖i‖ · out) · e^out'

    M is s/‖∇_0‖ · I at first, so that the first update has a root mean square of s, which is learned, whatever the
    scale of the loss and the dimension. The read i goes into the update, and is an input of the controller at the next
    step. As in BFGS the step goes along the read, r = -∇ + output_scale · ‖∇‖ · out_r, and to the written vectors those
    of BFGS are added, times ``base_write``. So before meta-training, when outputs are small, this is BFGS with steps of
    one; what is learned is s, how far to trust the memory, and what else to write. Vectors are measured by their root
    mean squares ‖·‖; a_k is written in units of the read, b_k in those of 1/(N ‖∇‖).

    Departures from the paper: the read sees the writes of its own step, so that one read head is enough for the step of
    BFGS; base write, r = -∇, and the read in the update make a working optimizer of an untrained one (with
    ``base_write`` of 0 that is gradient descent); an update is at most 4 times as long as the last; where the read
    is at a right angle to r or worse, M is no inverse Hessian any more and goes back to M_0; inputs are divided by
    their root mean square. To first order the vectors of BFGS are held constant, as gradients are.
    """

    scope = "problem"

    def __init__(
        self,
        num_layers: int = 2,
        hidden_size: int = 20,
        num_averaging: int = 2,
        num_writes: int = 3,
        rank: int | None = None,
        first_step: float = 0.3,
        base_write: float = 1.0,
        output_scale: float = 0.1,
        initial_output: float = 0.01,
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            num_layers: LSTM layers of the controller.
            hidden_size: Width H of every layer, averaging cells included.
            num_averaging: How many cells of every layer are averaged over all coordinates.
            num_writes: W, write heads.
            rank: K, how many of the last writes of each head are kept, for O(N K W) numbers; null keeps all of them, in
                a matrix of N² numbers. A step reads these K and its own.
            first_step: s, root mean square of the first update before anything is learned; learned from there.
            base_write: Factor of the vectors of BFGS in what is written; 0 leaves them out.
            output_scale: Factor of what the controller adds to r, to the vectors that are written, and to the update.
            initial_output: Factor of the output layer's initial weights.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        sizes = {"num_layers": num_layers, "hidden_size": hidden_size, "num_writes": num_writes, "rank": rank}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise MetaOptError(f"optimizer.{name} must be 1 or more, not {value}")
        if not 0 <= num_averaging <= hidden_size:
            raise MetaOptError(
                f"optimizer.num_averaging must be from 0 to optimizer.hidden_size, {hidden_size}, not {num_averaging}"
            )
        if base_write != 0.0 and num_writes < 3:
            raise MetaOptError(
                f"optimizer.base_write needs optimizer.num_writes of 3 or more, not {num_writes}; 0 leaves it out"
            )
        if not first_step > 0.0:
            raise MetaOptError(f"optimizer.first_step must be more than 0, not {first_step}")
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self.num_averaging = num_averaging
        self.num_writes = num_writes
        self.rank = rank
        self.first_step = first_step
        self.base_write = base_write
        self.output_scale = output_scale
        self.initial_output = initial_output

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network, whatever the layout."""
        num_outputs = 3 + 2 * self.num_writes
        self.controller = LSTMNetwork(
            _NUM_INPUTS, self.num_layers, self.hidden_size, num_outputs, self.initial_output, 0, generator
        )
        self.log_first = nn.Parameter(torch.tensor(math.log(self.first_step)))

    def init_state(self, layout: Layout, num_problems: int) -> NTMState:
        """Nothing written, and all zeros.

        Raises:
            MetaOptError: If there are too many coordinates for a dense memory.
        """
        like, size = self.log_first, layout.num_coordinates

        def cells() -> tuple[Tensor, ...]:
            return tuple(like.new_zeros(self.hidden_size, num_problems * size) for _ in range(self.num_layers))

        memory: DenseMemory | LowRankMemory
        if self.rank is None:
            memory = DenseMemory.empty(like, num_problems, size)
        else:
            memory = LowRankMemory.empty(like, num_problems, size, self.rank * self.num_writes)
        asked, read, update = (like.new_zeros(num_problems, size) for _ in range(3))
        sizes = (like.new_zeros(num_problems, 1) for _ in range(2))
        return NTMState(memory, cells(), cells(), asked, read, update, *sizes)

    def step(self, evaluation: Evaluation, state: NTMState, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        grad = bounded(evaluation.grad)
        size = _size(grad)
        first = torch.where(state.first > _TINY, state.first, size)
        scale = self.log_first.exp() / torch.where(first > _TINY, first, 1.0)  # M_0 over the identity
        inputs = torch.stack([_relative(grad, size), _relative(state.read, _size(state.read)), _growth(size, state)])
        outputs, hidden, cell = averaging_lstm(
            self.controller,
            inputs.flatten(1),
            state.hidden,
            state.cell,
            self.num_averaging,
            average_over(len(grad), (grad.shape[1],)),
        )
        added, magnitude, *vectors = outputs.view(len(outputs), *grad.shape).unbind()
        added_to_asked, *written = vectors
        asked = self.output_scale * size * added_to_asked - grad
        before = state.memory.read(asked, scale)  # M_t r
        lefts, rights = self._writes(written, before, size)
        if self.base_write != 0.0:
            change = state.asked - asked
            # M_t y; a dense memory forgets nothing, so that the last read still holds
            read_change = state.read - before if self.rank is None else state.memory.read(change, scale)
            base = [state.update, change, read_change]  # s, y, M_t y
            if not grad.requires_grad:
                base = [each.detach() for each in base]
            known = bfgs_writes(*base)
            lefts = torch.cat([lefts[:, :3] + self.base_write * known[0], lefts[:, 3:]], dim=1)
            rights = torch.cat([rights[:, :3] + known[1], rights[:, 3:]], dim=1)
        # M_{t+1} r, without going through the whole memory once more
        read = before + (lefts.mT @ (rights @ asked.unsqueeze(2))).squeeze(2)
        memory = state.memory.write(lefts, rights)
        lost = ~(_cosine(read, asked) > _LEAST_COSINE) & (_size(asked) > _TINY)  # also where it is not a number
        memory, read = memory.cleared(lost), torch.where(lost, scale * asked, read)
        update = (read + self.output_scale * _size(read) * added) * magnitude.exp()
        update = _shortened(update, _MAX_GROWTH * torch.linalg.vector_norm(state.update, dim=1, keepdim=True))
        return Step(update, NTMState(memory, hidden, cell, asked, read, update, size, first))

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Small steps and small outputs at first: errors in what is written spoil what BFGS does well."""
        return {
            "model.lr": 0.001,
            "model.meta_loss": "log_mean",
            "model.estimator.replay_fraction": 1.0,
            "optimizer.initial_output": 0.01,
        }

    def _writes(self, written: list[Tensor], read: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Left and right vectors of the controller, each [B, W, N], from its outputs, each [B, N]."""
        lefts, rights = torch.stack(written, dim=1).split(self.num_writes, dim=1)
        usable = size > _TINY
        per_grad = torch.where(usable, 1.0 / torch.where(usable, size * read.shape[1], 1.0), 0.0)
        return self.output_scale * _size(read).unsqueeze(1) * lefts, self.output_scale * per_grad.unsqueeze(1) * rights


def _size(vectors: Tensor) -> Tensor:
    """Root mean square over coordinates, [B, 1]; its derivative is zero where the vectors are."""
    largest = vectors.detach().abs().amax(1, keepdim=True)
    usable = largest > _TINY
    scaled = torch.where(usable, vectors / largest.clamp_min(_TINY), 1.0)  # squares neither overflow nor vanish
    return torch.where(usable, largest * scaled.square().mean(1, keepdim=True).sqrt(), 0.0)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """Between vectors, [B, 1]; 0 where one of them is."""
    units = [each.detach() / _size(each.detach()).clamp_min(_TINY) for each in (one, other)]
    return (units[0] * units[1]).mean(1, keepdim=True)


def _relative(vectors: Tensor, size: Tensor) -> Tensor:
    """sgn(x) ln(1 + |x|) of what the coordinates are relative to the size."""
    ratio = torch.where(size > _TINY, vectors / size.clamp_min(_TINY), 0.0)
    logs = torch.where(ratio < 0.0, -ratio, ratio).log1p()
    return torch.where(ratio < 0.0, -logs, logs)


def _growth(size: Tensor, state: NTMState) -> Tensor:
    """A third of the logarithm of how much the gradient has grown, within ±3, for every coordinate, [B, N]."""
    known = (size > _TINY) & (state.size > _TINY)
    ratio = torch.where(known, size, 1.0) / torch.where(known, state.size, 1.0)
    return ratio.log().div(3.0).clamp(-3.0, 3.0).expand_as(state.asked)


def _shortened(update: Tensor, limit: Tensor) -> Tensor:
    """The update made no longer than the limit, [B, 1], where that is not zero."""
    length = torch.linalg.vector_norm(update, dim=1, keepdim=True)
    long = (length > limit) & (limit > 0.0)
    return update * torch.where(long, limit / torch.where(long, length, 1.0), 1.0)
