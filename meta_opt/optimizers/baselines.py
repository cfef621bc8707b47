"""Hand-made inner optimizers: ``torch.optim`` itself, applied to θ of B problems.

SGD, momentum, RMSprop and Adam work coordinate by coordinate, so the tensor [B, N] is one parameter to them. Muon works
on the matrices of each problem.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, Scope, Step
from meta_opt.optimizers.quasi_newton import BFGS, LBFGS, Newton


class Baseline(InnerOptimizer):
    """A ``torch.optim`` optimizer with fixed hyperparameters. Its state is the optimizer object itself."""

    reads = frozenset({"grad", "params"})
    scope: Scope = "coordinate"

    def __init__(self, optimizer_class: type[torch.optim.Optimizer], lr: float, **options: Any) -> None:
        """Choose ``optimizer_class(params, lr=lr, **options)``."""
        self.optimizer_class = optimizer_class
        self.options = {"lr": lr, **options}

    def init_state(self, layout: Layout, num_problems: int) -> None:
        """Nothing yet: ``torch.optim`` wants the parameters first."""
        return

    def step(self, evaluation: Evaluation, state: torch.optim.Optimizer | None, noise: Generator | None = None) -> Step:
        """One step of the ``torch.optim`` optimizer; unlike a learned optimizer's, the state changes in place."""
        if state is None:
            state = self.optimizer_class([torch.empty_like(evaluation.params)], **self.options)
        param = state.param_groups[0]["params"][0]
        param.copy_(evaluation.params)
        param.grad = evaluation.grad
        state.step()
        return Step(param - evaluation.params, state)


class Muon(InnerOptimizer):
    """``torch.optim.Muon`` for matrices and filters (a row for each output channel), ``torch.optim.Adam`` for the rest.

    One learning rate for both, as steps of Muon are scaled to the size of Adam's (``adjust_lr_fn="match_rms_adamw"``).
    No weight decay. The state is the layout, then θ [B, N] with the optimizers that work on views of it.
    """

    reads = frozenset({"grad", "params"})
    scope: Scope = "tensor"

    def __init__(self, lr: float) -> None:
        """Choose the learning rate."""
        self.lr = lr

    def init_state(self, layout: Layout, num_problems: int) -> Layout | _MuonState:
        """The layout: ``torch.optim`` wants the parameters before there is more."""
        return layout

    def step(self, evaluation: Evaluation, state: Layout | _MuonState, noise: Generator | None = None) -> Step:
        """One step of both; the state changes in place."""
        if isinstance(state, Layout):
            state = _MuonState.of(state, evaluation.params, self.lr)
        state.params.copy_(evaluation.params)
        state.grads.copy_(evaluation.grad)
        for optimizer in state.optimizers:
            optimizer.step()
        return Step(state.params - evaluation.params, state)


@dataclass(frozen=True)
class _MuonState:
    params: Tensor  # [B, N]
    grads: Tensor  # [B, N], views of which are the .grad of views of params
    optimizers: tuple[torch.optim.Optimizer, ...]

    @classmethod
    def of(cls, layout: Layout, like: Tensor, lr: float) -> _MuonState:
        params, grads = torch.empty_like(like), torch.empty_like(like)
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for segment in layout.segments("tensor", tensors=True):
            columns = slice(segment.start, segment.stop)
            for tensor, grad in zip(params[:, columns], grads[:, columns], strict=True):
                if segment.num_rows:
                    tensor, grad = (each.view(segment.num_rows, -1) for each in (tensor, grad))
                tensor.grad = grad
                (matrices if segment.num_rows else others).append(tensor)
        optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            optimizers.append(torch.optim.Muon(matrices, lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
        if others:
            optimizers.append(torch.optim.Adam(others, lr))
        return cls(params, grads, tuple(optimizers))


def sgd(lr: float) -> Baseline:
    """Plain gradient descent."""
    return Baseline(torch.optim.SGD, lr)


def nesterov(lr: float) -> Baseline:
    """Gradient descent with Nesterov momentum 0.9."""
    return Baseline(torch.optim.SGD, lr, momentum=0.9, nesterov=True)


def rmsprop(lr: float) -> Baseline:
    """RMSprop with PyTorch's defaults."""
    return Baseline(torch.optim.RMSprop, lr)


def adam(lr: float) -> Baseline:
    """Adam with PyTorch's defaults."""
    return Baseline(torch.optim.Adam, lr)


MakeBaseline = Callable[[float], InnerOptimizer]  # from its learning rate
BASELINES: dict[str, MakeBaseline] = {"SGD": sgd, "Nesterov": nesterov, "RMSprop": rmsprop, "Adam": adam}
OF_WHOLE_TENSORS: dict[str, MakeBaseline] = {"Muon": Muon, "LBFGS": LBFGS, "BFGS": BFGS, "Newton": Newton}


def baseline(name: str) -> MakeBaseline:
    """One of :data:`BASELINES` or :data:`OF_WHOLE_TENSORS`, or the class of ``torch.optim`` of that name.

    Classes of ``torch.optim`` have PyTorch's defaults.

    Raises:
        MetaOptError: If there is none, or a class of ``torch.optim`` does not work coordinate by coordinate, on
            gradients alone.
    """
    if name in BASELINES:
        return BASELINES[name]
    if name in OF_WHOLE_TENSORS:
        return OF_WHOLE_TENSORS[name]
    classes = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if name not in classes:
        near = {key.lower(): key for key in [*classes, *BASELINES, *OF_WHOLE_TENSORS]}
        nearest = difflib.get_close_matches(name.lower(), near, n=1)
        hint = f"did you mean {near[nearest[0]]!r}? " if nearest else ""
        raise MetaOptError(
            f"no baseline is called {name!r}; {hint}There are {', '.join(BASELINES)}, BFGS, Newton and the classes of "
            "torch.optim"
        )
    optimizer_class = classes[name]
    if problem := _problem(optimizer_class):
        raise MetaOptError(f"{name} cannot be a baseline: {problem}")
    return lambda lr: Baseline(optimizer_class, lr)


def _problem(optimizer_class: type[torch.optim.Optimizer]) -> str | None:
    """Why a class can't be applied to θ of B problems as it is, if it can't: found by trying."""
    grads = [torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.3, 1.0], [-2.0, 0.1]])]

    def run(rows: slice, columns: slice) -> Tensor:
        param = torch.zeros_like(grads[0][rows, columns])
        optimizer = optimizer_class([param], lr=0.1)  # type: ignore[call-arg]
        for grad in grads:
            param.grad = grad[rows, columns].clone()
            optimizer.step()
        return param

    try:
        together = run(slice(None), slice(None))
        alone = [[run(slice(i, i + 1), slice(j, j + 1)).item() for j in range(2)] for i in range(2)]
    except (TypeError, RuntimeError) as error:
        if "closure" in str(error):
            return "it evaluates the loss itself, through a closure"
        if "dense gradients" in str(error):
            return "it is for sparse gradients"
        return " ".join(str(error).split())
    if not torch.allclose(together, torch.tensor(alone)):
        return "it does not work coordinate by coordinate, so that problems side by side would mix"
    return None
