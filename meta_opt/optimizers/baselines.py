"""Hand-made inner optimizers: ``torch.optim`` itself, applied to θ of B problems.

Most work coordinate by coordinate, so that the tensor [B, N] is one parameter to them. The others get the tensors of
each problem in their shapes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, Scope, Step
from meta_opt.optimizers.schedules import Factor


@dataclass
class Running:
    """``torch.optim`` optimizers at work, a state that changes in place.

    Attributes:
        params: θ, [B, N], contiguous, on views of which they work.
        optimizers: They.
        rates: The learning rates of each, of its groups, before the schedule.
        places: The view of ``params`` that each of their tensors is.
        time: How many steps they have taken.
    """

    params: Tensor
    optimizers: Sequence[torch.optim.Optimizer]
    rates: Sequence[list[float]]
    places: list[Tensor] = field(init=False)
    time: int = 0

    def __post_init__(self) -> None:
        self.places = [tensor.detach() for tensor in self._tensors()]
        memory = self.params.untyped_storage().data_ptr()
        if any(place.untyped_storage().data_ptr() != memory for place in self.places):
            name = type(self.optimizers[0]).__name__
            raise MetaOptError(f"{name} cannot be a baseline: it moves the parameters that it is given")

    def _tensors(self) -> list[Tensor]:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return [tensor for group in groups for tensor in group["params"]]

    def give(self, grad: Tensor) -> None:
        """Set the ``.grad`` of each tensor to its part of ``grad``, [B, N].

        It is a new tensor at each step, as in a training loop: classes may clear, change or keep it.
        """
        grads = torch.empty_like(self.params).copy_(grad)
        for tensor, place in zip(self._tensors(), self.places, strict=True):
            tensor.grad = grads.as_strided(place.shape, place.stride(), place.storage_offset())

    def gather(self) -> None:
        """Bring back into ``params`` what a class has put elsewhere, as ``p.data = p.data - lr * p.grad`` does."""
        for tensor, place in zip(self._tensors(), self.places, strict=True):
            if tensor.data_ptr() != place.data_ptr():
                place.copy_(tensor)
                tensor.data = place


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
            params = evaluation.params.detach().clone(memory_format=torch.contiguous_format)
            optimizers = self.make(state, params)
            state = Running(params, optimizers, [self._rates(each) for each in optimizers])
        state.params.copy_(evaluation.params)
        state.give(evaluation.grad)
        for optimizer, rates in zip(state.optimizers, state.rates, strict=True):
            if self.factor is not None:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * self.factor(state.time)
            with _named_in_errors(type(optimizer)):
                optimizer.step()
        state.gather()
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
    def make(self, layout: Layout, params: Tensor) -> list[torch.optim.Optimizer]:
        """Optimizers of views of ``params``.

        Args:
            layout: The layout of the N coordinates.
            params: θ_0, [B, N].
        """


@contextmanager
def _named_in_errors(optimizer_class: type[torch.optim.Optimizer]) -> Iterator[None]:
    """Say whose error it is: what a class of another package cannot do is found where it has real tensors."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {clipped(error, 200)}"
        raise MetaOptError(f"{optimizer_class.__name__} cannot be a baseline here: {said}") from error


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

    def make(self, layout: Layout, params: Tensor) -> list[torch.optim.Optimizer]:
        """See :meth:`TorchOptimizer.make`."""
        return [self._made([params])]

    def _made(self, tensors: list[Tensor]) -> torch.optim.Optimizer:
        with _named_in_errors(self.optimizer_class):
            return self.optimizer_class(tensors, **self.options)


class BaselineOfTensors(Baseline):
    """An optimizer that looks at whole tensors, or at all of them: one for each problem.

    Its tensors require gradients, as those of a module do: some classes pass over others.
    """

    scope: Scope = "problem"

    def make(self, layout: Layout, params: Tensor) -> list[torch.optim.Optimizer]:
        """See :meth:`TorchOptimizer.make`."""
        made = []
        for row in params:
            tensors = [tensor.detach().requires_grad_() for tensor in layout.unflatten(row).values()]
            made.append(self._made(tensors))
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
        """Choose the learning rate, its factor, and the decay that it is multiplied by.

        Raises:
            ValueError: If the decay is negative, or no number.
        """
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay must be at least 0, not {weight_decay:g}")
        super().__init__(factor)
        self.lr = lr
        self.weight_decay = weight_decay

    def make(self, layout: Layout, params: Tensor) -> list[torch.optim.Optimizer]:
        """See :meth:`TorchOptimizer.make`."""
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        segments = layout.segments("tensor", tensors=True)
        for segment, shape in zip(segments, layout.shapes, strict=True):
            is_matrix = bool(segment.num_rows) and (self.filters or len(shape) == 2)
            columns = slice(segment.start, segment.stop)
            for tensor in params[:, columns]:
                if is_matrix:
                    matrices.append(tensor.view(segment.num_rows, -1))
                else:
                    others.append(tensor)
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
