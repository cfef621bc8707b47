"""Hand-made inner optimizers: ``torch.optim`` itself, applied to θ of B problems.

Most work coordinate by coordinate, so that the tensor [B, N] is one parameter to them. The others get the tensors of
each problem in their shapes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, Scope, Step
from meta_opt.optimizers.schedules import Factor


@dataclass
class Running:
    """``torch.optim`` optimizers at work, a state that changes in place.

    Attributes:
        params: θ, [B, N], on views of which they work.
        grads: [B, N], views of which are the ``.grad`` of these.
        optimizers: They.
        rates: The learning rates of each, of its groups, before the schedule.
        time: How many steps they have taken.
    """

    params: Tensor
    grads: Tensor
    optimizers: Sequence[torch.optim.Optimizer]
    rates: Sequence[list[float]]
    time: int = 0


class TorchOptimizer(InnerOptimizer):
    """Optimizers of ``torch.optim`` on θ. Their state is the layout, and after the first step :class:`Running`."""

    reads = frozenset({"grad", "params"})

    def __init__(self, factor: Factor | None = None) -> None:
        """Choose the schedule.

        Args:
            factor: What learning rates are multiplied by in step t; None for constant ones.
        """
        self.factor = factor

    def init_state(self, layout: Layout, num_problems: int) -> Layout | Running:
        """The layout: ``torch.optim`` wants the parameters before there is more."""
        return layout

    def step(self, evaluation: Evaluation, state: Layout | Running, noise: Generator | None = None) -> Step:
        """One step; unlike a learned optimizer's, the state changes in place."""
        if isinstance(state, Layout):
            params, grads = (torch.empty_like(evaluation.params) for _ in range(2))
            optimizers = self.make(state, params, grads)
            state = Running(params, grads, optimizers, [self._rates(each) for each in optimizers])
        state.params.copy_(evaluation.params)
        state.grads.copy_(evaluation.grad)
        for optimizer, rates in zip(state.optimizers, state.rates, strict=True):
            if self.factor is not None:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * self.factor(state.time)
            optimizer.step()
        state.time += 1
        return Step(state.params - evaluation.params, state)

    def _rates(self, optimizer: torch.optim.Optimizer) -> list[float]:
        """The learning rate of each group, where there is a schedule to scale it."""
        if self.factor is None:
            return []
        groups = optimizer.param_groups
        if any("lr" not in group for group in groups):
            raise MetaOptError(f"{type(optimizer).__name__} takes no schedule: its groups have no lr")
        return [group["lr"] for group in groups]

    @abstractmethod
    def make(self, layout: Layout, params: Tensor, grads: Tensor) -> list[torch.optim.Optimizer]:
        """Optimizers, with one group of parameters each, of views of ``params`` whose gradients are of ``grads``.

        Args:
            layout: The layout of the N coordinates.
            params: [B, N].
            grads: [B, N].
        """


class Baseline(TorchOptimizer):
    """An optimizer that works coordinate by coordinate: all of θ is one parameter."""

    scope: Scope = "coordinate"

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer],
        lr: float,
        *,
        factor: Factor | None = None,
        **options: Any,
    ) -> None:
        """Choose ``optimizer_class(params, lr=lr, **options)``, and the factor of ``lr``."""
        super().__init__(factor)
        self.optimizer_class = optimizer_class
        self.options = {"lr": lr, **options}

    def make(self, layout: Layout, params: Tensor, grads: Tensor) -> list[torch.optim.Optimizer]:
        """See :meth:`TorchOptimizer.make`."""
        params.grad = grads
        return [self.optimizer_class([params], **self.options)]


class BaselineOfTensors(Baseline):
    """An optimizer that looks at whole tensors, or at all of them: one for each problem."""

    scope: Scope = "problem"

    def make(self, layout: Layout, params: Tensor, grads: Tensor) -> list[torch.optim.Optimizer]:
        """See :meth:`TorchOptimizer.make`."""
        made = []
        for row, grad_row in zip(params, grads, strict=True):
            tensors = layout.unflatten(row)
            for tensor, grad in zip(tensors.values(), layout.unflatten(grad_row).values(), strict=True):
                tensor.grad = grad
            made.append(self.optimizer_class([*tensors.values()], **self.options))
        return made


class Muon(TorchOptimizer):
    """``torch.optim.Muon`` for matrices and filters (rows are output channels), ``torch.optim.AdamW`` for the rest.

    One learning rate for both, as steps of Muon are scaled to the size of Adam's (``adjust_lr_fn="match_rms_adamw"``).
    """

    scope: Scope = "tensor"
    adjust = "match_rms_adamw"
    rate_of_others = 1.0
    filters = True

    def __init__(self, lr: float, *, factor: Factor | None = None, weight_decay: float = 0.0) -> None:
        """Choose the learning rate, its factor, and the decay that it is multiplied by."""
        super().__init__(factor)
        self.lr = lr
        self.weight_decay = weight_decay

    def make(self, layout: Layout, params: Tensor, grads: Tensor) -> list[torch.optim.Optimizer]:
        """See :meth:`TorchOptimizer.make`."""
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        segments = layout.segments("tensor", tensors=True)
        for segment, shape in zip(segments, layout.shapes, strict=True):
            is_matrix = bool(segment.num_rows) and (self.filters or len(shape) == 2)
            columns = slice(segment.start, segment.stop)
            for tensor, grad in zip(params[:, columns], grads[:, columns], strict=True):
                if is_matrix:
                    tensor, grad = (each.view(segment.num_rows, -1) for each in (tensor, grad))
                tensor.grad = grad
                (matrices if is_matrix else others).append(tensor)
        decay = self.weight_decay
        made: list[torch.optim.Optimizer] = []
        if matrices:
            made.append(torch.optim.Muon(matrices, self.lr, weight_decay=decay, adjust_lr_fn=self.adjust))
        if others:
            made.append(torch.optim.AdamW(others, self.rate_of_others * self.lr, weight_decay=decay))
        return made


class SpectralMuon(Muon):
    """``torch.optim.Muon`` for matrices only, ``torch.optim.AdamW`` at 0.15 of its learning rate for the rest.

    Steps of a matrix [r, c] have the spectral norm lr · √max(1, r/c) (``adjust_lr_fn="original"``), which means the
    same at any width. So one learning rate, 0.06 under a cosine, does for many networks without any tuning.
    """

    adjust = "original"
    rate_of_others = 0.15
    filters = False
