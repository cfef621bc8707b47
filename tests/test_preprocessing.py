"""Preprocessing against its definition."""

import math

import pytest
import torch

from meta_opt.preprocessing import Moments, log_sign


@pytest.mark.parametrize(
    ("grad", "expected"),
    [
        (1.0, (0.0, 1.0)),
        (-math.e, (0.1, -1.0)),
        (math.exp(-5.0), (-0.5, 1.0)),
        (-math.exp(-9.999), (-0.9999, -1.0)),
        (0.5 * math.exp(-10.0), (-1.0, 0.5)),
        (-0.25 * math.exp(-10.0), (-1.0, -0.25)),
        (0.0, (-1.0, 0.0)),
        (1e-300, (-1.0, 1e-300 * math.exp(10.0))),
    ],
)
def test_log_sign(grad: float, expected: tuple[float, float]) -> None:
    result = log_sign(torch.tensor(grad, dtype=torch.float64))
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_log_sign_is_differentiable_at_zero() -> None:
    grad = torch.zeros(3, requires_grad=True)
    log_sign(grad).sum().backward()
    assert grad.grad is not None
    assert torch.allclose(grad.grad, torch.full((3,), math.exp(10.0)))


def test_moments() -> None:
    grads = torch.tensor([[2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    moments = Moments.zeros(grads, 1, 2)
    for grad in grads:
        moments = moments.updated(grad.unsqueeze(0))
    mean = (0.95 * 0.05 * 2.0 - 0.05 * 1.0) / (1 - 0.95**2)
    square = (0.95 * 0.05 * 4.0 + 0.05 * 1.0) / (1 - 0.95**2)
    result = moments.normalized(grads[1:])
    expected = torch.tensor([[[mean / math.sqrt(square), 0.0]], [[-1.0 / math.sqrt(square), 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-12)


def test_first_direction_is_the_sign() -> None:
    grad = torch.tensor([[3.0, -1e-3, 0.0]], dtype=torch.float64)
    result = Moments.zeros(grad, 1, 3).updated(grad).normalized(grad)
    torch.testing.assert_close(result[0], torch.sign(grad), rtol=1e-4, atol=0)
    torch.testing.assert_close(result[1], torch.sign(grad), rtol=1e-4, atol=0)


def test_moments_are_differentiable_at_zero() -> None:
    grad = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    Moments.zeros(grad, 1, 2).updated(grad).normalized(grad).sum().backward()
    assert grad.grad is not None
    assert grad.grad.isfinite().all()
