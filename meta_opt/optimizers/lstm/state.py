"""What the coordinatewise LSTM remembers, and the parts of it that belong to some coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.agreement import factors, lengthened
from meta_opt.optimizers.lstm.inputs import Reads
from meta_opt.optimizers.lstm.orthogonal import directions
from meta_opt.optimizers.lstm.preprocessing import Moments, Scales, bounded, log_odds
from meta_opt.optimizers.state import axis

_LEAST_FACTOR = 0.001  # of updates that fall: those of a run that goes on longer than was said do not vanish


@dataclass(frozen=True)
class LSTMState:
    """h_t of all coordinates.

    Coordinates come last, so that the gates of a layer are one matrix product with contiguous parts.
    """

    segments: tuple[Segment, ...]  # which coordinates each network works on, n of them
    hidden: tuple[tuple[Tensor, ...], ...] = axis("coordinate")  # per network, per layer: [H, B·n]
    cell: tuple[tuple[Tensor, ...], ...] = axis("coordinate")  # per network, per layer: [H, B·n]
    moments: Moments | None = axis(None)  # only where inputs or base step need them
    scales: Scales | None = axis(None)  # only where inputs need them; then there is a segment for each tensor
    steps: Tensor | None = axis("problem")  # t, [], only with scales or where updates are annealed
    horizon: Tensor | None = axis("problem")  # [], how many steps there will be, 0 if unknown; only where used

    @property
    def sizes(self) -> list[int]:
        """The number of coordinates of each segment."""
        return [segment.stop - segment.start for segment in self.segments]

    def read_gradients(
        self, grads: Sequence[Tensor], kernel: native.Kernel | None = None
    ) -> tuple[LSTMState, Sequence[Tensor], list[Tensor]]:
        """Go on with the scales and the count of steps, if there are any, but with nothing else.

        Here gradients are bounded and shortened (see ``bounded`` and :class:`Scales`). The native kernel bounds them
        where it reads them, and only tells where one is to be shortened: with it, and without a jump, they are returned
        as they are.

        Args:
            grads: The next T gradients, each [B, N].
            kernel: What computes it; None for PyTorch, with a graph.

        Returns:
            The state with the scales and steps after them; the gradients as they are read; and what is read of the
            scales after each, [S, B, 3].
        """
        steps, scales = self.steps, self.scales
        after = self if steps is None else replace(self, steps=steps + len(grads))
        if kernel is not None:
            if scales is None or steps is None:
                return after, grads, []
            if (found := kernel.read_scales(grads, scales, steps, self.sizes)) is not None:
                return replace(after, scales=found[0]), grads, self._timed(found[1])
        grads = [bounded(grad) for grad in grads]
        if scales is None or steps is None:
            return after, grads, []
        as_read, read = [], []
        for grad in grads:
            scales, grad = scales.updated(grad, self.sizes, steps)
            steps = steps + 1.0
            as_read.append(grad)
            read.append(scales.read(steps))
        return replace(after, scales=scales), as_read, self._timed(read)

    def _timed(self, read: list[Tensor]) -> list[Tensor]:
        """What is read of the scales after this state, but with how far the run is in place of the time, if it is."""
        if self.horizon is None or self.steps is None:
            return read
        timed = []
        for ahead, each in enumerate(read, start=1):
            far = log_odds(self.steps + ahead, self.horizon).expand_as(each[..., :1])
            timed.append(torch.cat([far, each[..., 1:]], dim=-1))
        return timed

    def read_directions(self, reads: Reads, grads: Sequence[Tensor]) -> list[Tensor]:
        """After each gradient, [B, N], the orthogonalized directions of matrices, [B, N], if they are read."""
        if not reads.directions or self.moments is None:
            return []
        return directions([bounded(grad) for grad in grads], self.moments, self.segments)

    def read_agreement(self, exponent: float, grads: Sequence[Tensor]) -> list[Tensor]:
        """After each gradient, [B, N], what updates of each tensor are multiplied with, [B, S], if it is not one."""
        if exponent == 0.0 or self.moments is None:
            return []
        moments, each = self.moments, []
        for grad in grads:
            moments = moments.updated(bounded(grad))
            each.append(factors(moments, self.sizes, exponent))
        return each

    def lengthened(self, update: Tensor, exponent: float) -> Tensor:
        """The update that led to this state, longer where gradients of a tensor agree."""
        if exponent == 0.0 or self.moments is None:
            return update
        return lengthened(update, factors(self.moments, self.sizes, exponent), self.sizes)

    def annealed(self, update: Tensor, anneal_after: int | None, ahead: int = 0) -> Tensor:
        """The update, or what it is multiplied with, times what is left of updates ``ahead`` steps after this state.

        That is (1 - (t - 1) / T)² over the T steps where they are known, which a run that goes on longer stays at the
        end of, or else √(anneal_after / t). The square goes through rates of many sizes: networks differ in which of
        them suits them, and less in how many steps of it they need.
        """
        if self.steps is None:
            return update
        steps, factor = self.steps + ahead, None
        if anneal_after is not None:
            factor = (anneal_after / steps).clamp_max(1.0).sqrt()
        if self.horizon is not None:
            known = self.horizon > 0.0
            part = torch.where(known, (steps - 1.0) / self.horizon.clamp_min(1.0), 0.0).clamp_max(1.0)
            falling = (1.0 - part).square().clamp_min(_LEAST_FACTOR)
            factor = falling if factor is None else torch.where(known, falling, factor)
        return update if factor is None else update * factor

    def block(self, index: int, start: int, stop: int) -> LSTMState:
        """The state of coordinates ``start:stop``, which network ``index`` works on; without scales and steps."""
        segment = self.segments[index]

        def cut(tensor: Tensor) -> Tensor:
            size = segment.stop - segment.start
            rows = tensor.view(len(tensor), -1, size)[..., start - segment.start : stop - segment.start]
            return rows.reshape(len(tensor), -1)

        return LSTMState(
            (replace(segment, start=0, stop=stop - start),),
            (tuple(map(cut, self.hidden[index])),),
            (tuple(map(cut, self.cell[index])),),
            None if self.moments is None else self.moments.part(start, stop),
            None,
            None,
            None,
        )

    def columns(self, columns: Tensor) -> LSTMState:
        """The state of some coordinates, [n], ascending; without scales and steps."""
        segments, hidden, cell, stop = [], [], [], 0
        for index, segment in enumerate(self.segments):
            size = segment.stop - segment.start
            chosen = columns[(columns >= segment.start) & (columns < segment.stop)] - segment.start

            def cut(tensor: Tensor, size: int = size, chosen: Tensor = chosen) -> Tensor:
                num_problems = tensor.shape[1] // max(size, 1)
                return tensor.view(len(tensor), num_problems, size).index_select(2, chosen).flatten(1)

            start, stop = stop, stop + len(chosen)
            segments.append(replace(segment, start=start, stop=stop))
            hidden.append(tuple(map(cut, self.hidden[index])))
            cell.append(tuple(map(cut, self.cell[index])))
        moments = self.moments
        if moments is not None:
            moments = Moments(
                moments.mean.index_select(1, columns), moments.square.index_select(1, columns), moments.decay
            )
        return LSTMState(tuple(segments), tuple(hidden), tuple(cell), moments, None, None, None)


@dataclass(frozen=True)
class TensorwiseState(LSTMState):
    """h_t where there is a segment for each tensor."""

    hidden: tuple[tuple[Tensor, ...], ...] = axis("each")
    cell: tuple[tuple[Tensor, ...], ...] = axis("each")
