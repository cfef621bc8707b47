"""Hand-made optimizers that know, or learn, the curvature: for second-order claims to be measured by.

All take one gradient a step, and no line search; their learning rates are tuned as those of other baselines are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, Step
from meta_opt.optimizers.memory import MAX_DENSE, DenseMemory, bfgs_writes


class LBFGS(InnerOptimizer):
    """``torch.optim.LBFGS`` on each problem: one evaluation a step, no line search, the last 100 steps in memory.

    The state is one optimizer per problem, which changes in place.
    """

    reads = frozenset({"loss", "grad", "params"})

    def __init__(self, lr: float) -> None:
        """Choose the learning rate: of a first step lr · min(1, 1/‖∇‖_1) · ∇, then of the direction of L-BFGS."""
        self.lr = lr

    def init_state(self, layout: Layout, num_problems: int) -> list[torch.optim.LBFGS]:
        """Nothing yet: ``torch.optim`` wants the parameters first."""
        return []

    def step(self, evaluation: Evaluation, state: list[torch.optim.LBFGS], noise: Generator | None = None) -> Step:
        """One step of each problem's optimizer, whose closure returns what was evaluated."""
        state = state or [
            torch.optim.LBFGS([torch.empty_like(params)], self.lr, max_iter=1, tolerance_grad=0.0, tolerance_change=0.0)
            for params in evaluation.params
        ]
        updates = []
        rows = zip(state, evaluation.loss, evaluation.grad, evaluation.params, strict=True)
        for optimizer, loss, grad, params in rows:
            param = optimizer.param_groups[0]["params"][0]
            param.copy_(params)
            param.grad = grad
            optimizer.step(lambda loss=loss: loss)
            updates.append(param - params)
        return Step(torch.stack(updates), state)


@dataclass(frozen=True)
class BFGSState:
    """The last step and gradient, and what has been written to M, the inverse Hessian."""

    memory: DenseMemory
    scale: Tensor  # [B, 1], M_0 over the identity; 0 before the first step
    grad: Tensor  # [B, N]
    update: Tensor  # [B, N]


class BFGS(InnerOptimizer):
    """BFGS with a dense inverse Hessian M (Nocedal and Wright 2006, algorithm 6.1), without a line search.

    The first step is that of ``torch.optim.LBFGS``, lr · min(1, 1/‖∇‖_1) · ∇; all others are lr · M∇, where M_0 is
    sᵀy/yᵀy of the first pair, times the identity. For problems of at most 2,000 coordinates without noise.
    """

    reads = frozenset({"grad"})

    def __init__(self, lr: float) -> None:
        """Choose the learning rate."""
        self.lr = lr

    def init_state(self, layout: Layout, num_problems: int) -> BFGSState | int:
        """How many coordinates there are; what type and device they have, the first gradient says.

        Raises:
            MetaOptError: If there are too many coordinates.
        """
        return _few("BFGS", layout)

    def step(self, evaluation: Evaluation, state: BFGSState | int, noise: Generator | None = None) -> Step:
        """One step."""
        grad = evaluation.grad
        if isinstance(state, int):
            update = -self.lr * (1.0 / grad.abs().sum(1, keepdim=True)).clamp_max(1.0) * grad
            memory = DenseMemory.empty(grad, *grad.shape)
            return Step(update, BFGSState(memory, torch.zeros_like(grad[:, :1]), grad, update))
        step, change = state.update, grad - state.grad
        secant = (step * change).sum(1, keepdim=True) / change.square().sum(1, keepdim=True)
        scale = torch.where((state.scale == 0.0) & (secant > 0.0), secant, state.scale)
        memory = state.memory.write(*bfgs_writes(step, change, state.memory.read(change, scale)))
        update = -self.lr * memory.read(grad, torch.where(scale == 0.0, 1.0, scale))
        return Step(update, BFGSState(memory, scale, grad, update))


@dataclass(frozen=True)
class NewtonState:
    """Gradients at the points of a walk along the axes, and then what they say."""

    grads: tuple[Tensor, ...]  # up to N + 1, each [B, N]
    inverse: Tensor | None = None  # [B, N, N]


class Newton(InnerOptimizer):
    """Newton's method for quadratic functions, which finds the Hessian by gradients at N + 1 points.

    A contract of gradients tells no second derivatives, and nobody gets them for nothing: the first N steps go ``lr``
    along one axis after another, and from how they change the gradient the Hessian of a quadratic function is known.
    Step N + 1 goes to the minimum; those after it correct rounding. On functions that are no quadratic the Hessian
    stays that of the beginning. For problems of at most 2,000 coordinates without noise.
    """

    reads = frozenset({"grad"})

    def __init__(self, lr: float) -> None:
        """Choose the length of the first N steps."""
        self.lr = lr

    def init_state(self, layout: Layout, num_problems: int) -> NewtonState:
        """Nothing known.

        Raises:
            MetaOptError: If there are too many coordinates.
        """
        _few("Newton", layout)
        return NewtonState(())

    def step(self, evaluation: Evaluation, state: NewtonState, noise: Generator | None = None) -> Step:
        """One step: along an axis, or to where the gradient would be zero."""
        grad, inverse = evaluation.grad, state.inverse
        if inverse is None:
            grads = (*state.grads, grad)
            known = len(grads) - 1
            if known < grad.shape[1]:
                update = torch.zeros_like(grad)
                update[:, known] = self.lr
                return Step(update, NewtonState(grads))
            hessian = torch.stack(grads, dim=1).diff(dim=1).double() / self.lr  # [B, N, N], symmetric but for rounding
            inverse = torch.linalg.pinv(0.5 * (hessian + hessian.mT), hermitian=True).to(grad.dtype)
        return Step(-(inverse @ grad.unsqueeze(2)).squeeze(2), NewtonState((), inverse))


def _few(name: str, layout: Layout) -> int:
    """N, if a matrix over the coordinates can be had."""
    if layout.num_coordinates > MAX_DENSE:
        raise MetaOptError(
            f"{name} keeps a matrix, for at most {MAX_DENSE:,} coordinates, and here are "
            f"{layout.num_coordinates:,}; the baseline LBFGS does without"
        )
    return layout.num_coordinates
