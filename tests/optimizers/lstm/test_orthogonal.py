"""Orthogonalized matrices against their singular value decomposition and Muon's own iteration."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.lstm.orthogonal import directions, orthogonalized
from meta_opt.optimizers.lstm.preprocessing import Moments
from tests.reference import muon


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (1, 6), (6, 1), (1, 1)])
def test_singular_values_are_brought_together(shape: tuple[int, int]) -> None:
    matrix = random(*shape)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    assert sizes.min() > 0.01 * sizes.max()
    result = orthogonalized(matrix) / math.sqrt(max(shape))
    turned = left.T @ result @ right.T
    torch.testing.assert_close(turned, turned.diagonal().diag(), rtol=0, atol=1e-12)  # U and V stay
    assert turned.diagonal().min() > 0.6
    assert turned.diagonal().max() < 1.25


def test_the_root_mean_square_is_about_one() -> None:
    assert 0.7 < float(orthogonalized(random(20, 300)).square().mean().sqrt()) < 1.2


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_as_muon_does_it(shape: tuple[int, int]) -> None:
    matrices = random(2, 3, *shape)
    for result, matrix in zip(orthogonalized(matrices).flatten(0, 1), matrices.flatten(0, 1), strict=True):
        torch.testing.assert_close(result, muon(matrix), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_knows_no_scale_and_turns_with_the_axes(scale: float) -> None:
    matrix, turn = random(6, 8), torch.linalg.qr(random(6, 6, seed=1)).Q
    expected = orthogonalized(matrix)
    torch.testing.assert_close(orthogonalized(matrix * scale), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(orthogonalized(turn @ matrix), turn @ expected, rtol=1e-9, atol=1e-9)


def test_half_as_many_digits_are_enough() -> None:
    """Eigenvalues of M Mᵀ are squares: what is lost among them stays small."""
    matrix = random(20, 50) * torch.logspace(0, -6, 20, dtype=torch.float64).unsqueeze(1)
    result = orthogonalized(matrix.float())
    assert result.isfinite().all()
    torch.testing.assert_close(result.double(), orthogonalized(matrix), rtol=0, atol=0.02)


def test_zero_stays_zero_and_has_a_slope() -> None:
    matrix = torch.zeros(3, 4, requires_grad=True)
    result = orthogonalized(matrix)
    result.sum().backward()
    assert result.eq(0).all()
    assert matrix.grad is not None
    assert matrix.grad.isfinite().all()


def test_directions_of_matrices() -> None:
    layout = Layout.of({"weight": torch.zeros(4, 6), "bias": torch.zeros(4), "filter": torch.zeros(3, 2, 2, 2)})
    segments = layout.segments("all", tensors=True)
    grads = list(random(5, 2, 52))
    moments = Moments.zeros(grads[0], 2, 52).updated(random(2, 52, seed=1))
    found = directions(grads, moments, segments)
    for grad, direction in zip(grads, found, strict=True):
        moments = moments.updated(grad)
        for problem, total in enumerate(moments.corrected() + grad):
            torch.testing.assert_close(direction[problem, :24], muon(total[:24].view(4, 6)).flatten())
            assert direction[problem, 24:28].eq(0).all()
            torch.testing.assert_close(direction[problem, 28:], muon(total[28:].view(3, 8)).flatten())


@pytest.mark.parametrize("shape", [(2, 0, 3), (2, 3, 0), (2, 0, 0)])
def test_of_nothing(shape: tuple[int, ...]) -> None:
    assert orthogonalized(torch.zeros(shape)).shape == shape
