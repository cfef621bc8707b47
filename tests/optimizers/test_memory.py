"""Memories that are matrices, driven by BFGS's own vectors."""

import pytest
import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizers.memory import DenseMemory, LowRankMemory, bfgs_writes

LIKE = torch.zeros((), dtype=torch.float64)
SCALE = torch.tensor(0.02, dtype=torch.float64)


def draw(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def minimized(
    memory: DenseMemory | LowRankMemory, num_steps: int
) -> tuple[Tensor, Tensor, DenseMemory | LowRankMemory]:
    """Steps s and changes y, [T, B, N], of BFGS on a convex function, no quadratic, and the memory at the end."""
    w, theta = draw(2, 12, 12), draw(3, 2, 12)[2]

    def gradient(theta: Tensor) -> Tensor:
        residual = (w @ theta.unsqueeze(2)).squeeze(2)
        return (w.mT @ (residual + 0.1 * residual**3).unsqueeze(2)).squeeze(2)

    grad, steps, changes = gradient(theta), [], []
    for _ in range(num_steps):
        step = memory.read(-grad, SCALE)
        step = step * (1.0 / step.norm(dim=1, keepdim=True)).clamp_max(1.0)
        theta = theta + step
        change = gradient(theta) - grad
        grad = grad + change
        memory = memory.write(*bfgs_writes(step, change, memory.read(change, SCALE)))
        steps.append(step)
        changes.append(change)
    return torch.stack(steps), torch.stack(changes), memory


def bfgs(steps: Tensor, changes: Tensor) -> Tensor:
    """The inverse Hessian, [B, N, N], as scipy.optimize.minimize(method="BFGS") computes it.

    H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ,   ρ = 1 / yᵀs
    """
    eye = torch.eye(steps.shape[2], dtype=torch.float64)
    found = []
    for problem in range(steps.shape[1]):
        inverse = 0.02 * eye
        for s, y in zip(steps[:, problem], changes[:, problem], strict=True):
            if y @ s <= 1e-3 * y.norm() * s.norm():
                continue
            rho = 1.0 / (y @ s)
            left = eye - rho * torch.outer(s, y)
            inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
        found.append(inverse)
    return torch.stack(found)


def test_one_read_and_three_writes_are_bfgs() -> None:
    steps, changes, memory = minimized(DenseMemory.empty(LIKE, 2, 12), 20)
    assert isinstance(memory, DenseMemory)
    matrix = SCALE * torch.eye(12, dtype=torch.float64) + memory.written
    torch.testing.assert_close(matrix, bfgs(steps, changes), rtol=0, atol=1e-8)
    assert (matrix - SCALE * torch.eye(12, dtype=torch.float64)).abs().max() > 0.01
    torch.testing.assert_close(memory.read(changes[-1], SCALE), steps[-1], rtol=0, atol=1e-8)  # the secant equation


def test_the_last_writes_are_all_as_long_as_there_are_no_more() -> None:
    *_, dense = minimized(DenseMemory.empty(LIKE, 2, 12), 6)
    *_, kept = minimized(LowRankMemory.empty(LIKE, 2, 12, 6 * 3), 6)
    *_, forgetful = minimized(LowRankMemory.empty(LIKE, 2, 12, 5 * 3), 6)
    asked = draw(2, 12)
    torch.testing.assert_close(kept.read(asked, SCALE), dense.read(asked, SCALE), rtol=1e-10, atol=1e-10)
    assert (forgetful.read(asked, SCALE) - dense.read(asked, SCALE)).abs().max() > 1e-3


def test_a_step_of_negative_curvature_is_not_written() -> None:
    step = draw(1, 5)
    lefts, _ = bfgs_writes(step, -step, 0.5 * step)
    assert not lefts.any()


def test_a_step_too_short_for_its_curvature_to_be_divided_by_is_not_written() -> None:
    step = 1e-160 * draw(1, 5)
    lefts, rights = bfgs_writes(step, step, step)
    assert not lefts.any()
    assert rights.isfinite().all()


def test_a_dense_memory_of_many_coordinates_is_refused() -> None:
    assert DenseMemory.empty(torch.zeros((), device="meta"), 1, 2000).written.shape == (1, 2000, 2000)
    with pytest.raises(MetaOptError, match=r"at most 2,000 coordinates, and here are 2,001: set optimizer\.rank"):
        DenseMemory.empty(LIKE, 1, 2001)
