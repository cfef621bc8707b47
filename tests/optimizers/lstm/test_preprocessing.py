"""Preprocessing against its definition."""

import math

import pytest
import torch

from meta_opt.optimizers.lstm.preprocessing import (
    Moments,
    Scales,
    bounded,
    log_odds,
    log_sign,
    log_times_sign,
    relative,
)


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


@pytest.mark.parametrize(
    ("grad", "p", "expected"),
    [
        (1.0, 10.0, 0.0),
        (-math.e, 10.0, -0.1),  # ln e / 10 · (-1)
        (math.exp(-5.0), 10.0, -0.5),
        (-math.exp(-5.0), 10.0, 0.5),
        (math.exp(-5.0), 20.0, -0.25),
        (0.5 * math.exp(-10.0), 10.0, -0.5),  # -e^10 ∇
        (-0.25 * math.exp(-2.0), 2.0, 0.25),
        (0.0, 10.0, 0.0),
    ],
)
def test_log_times_sign(grad: float, p: float, expected: float) -> None:
    result = log_times_sign(torch.tensor([grad], dtype=torch.float64), p)
    torch.testing.assert_close(result, torch.tensor([[expected]], dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_a_larger_p_takes_in_smaller_gradients() -> None:
    grad = torch.tensor(math.exp(-15.0), dtype=torch.float64)
    assert log_sign(grad, 20.0).tolist() == pytest.approx([-0.75, 1.0])
    assert log_sign(grad, 10.0).tolist() == pytest.approx([-1.0, math.exp(-5.0)])


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


def test_time_stands_still_after_a_thousand_steps() -> None:
    def time(steps: float) -> float:
        return float(Scales(torch.ones(1, 2, dtype=torch.float64)).read(torch.tensor(steps).double())[1, 0, 0])

    assert time(1.0) == -1.0
    assert time(500.0) == pytest.approx(math.log(500) / 4 - 1)
    assert time(1000.0) == time(20_000.0) == pytest.approx(math.log(1000) / 4 - 1)


def test_scales_are_running_means_of_each_tensor() -> None:
    grads = torch.randn(3, 2, 5, dtype=torch.float64)
    scales = Scales.zeros(grads, 2, 2)
    for count, grad in enumerate(grads):
        scales, as_read = scales.updated(grad, [2, 3], torch.tensor(float(count)).double())
        assert torch.equal(as_read, grad)
    read = scales.read(torch.tensor(3.0).double())
    weights = torch.tensor([0.95**2, 0.95, 1.0], dtype=torch.float64)
    weights /= weights.sum()
    for index, part in enumerate(grads.split([2, 3], dim=2)):
        root = (weights[:, None] * part.square().mean(2)).sum(0).sqrt()
        torch.testing.assert_close(read[index, :, 2], 1 / root)
        torch.testing.assert_close(read[index, :, 1], root.log() / 5 + 1)


def test_relative_has_a_derivative_at_zero() -> None:
    grad = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    relative(grad, grad, torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float64)).sum().backward()
    assert grad.grad is not None
    assert grad.grad.tolist() == [[6.0] * 4]  # of gradient and mean


def test_bounded() -> None:
    grad = torch.tensor([3.0, -1e30, torch.inf, torch.nan, 0.0])
    assert torch.equal(bounded(grad)[[0, 1, 2, 4]], torch.tensor([3.0, -1e15, 1e15, 0.0]))
    assert bounded(grad)[3].isnan()


def test_a_tensor_whose_gradient_jumps_is_shortened() -> None:
    """To 1,000 times the root mean square of those before; other tensors, problems, and the first gradient are not."""
    grads = torch.ones(2, 2, 5, dtype=torch.float64)
    grads[1, 0, :2] = torch.tensor([3e9, 4e9])
    scales = Scales.zeros(grads, 2, 3)
    scales, first = scales.updated(grads[0] * 1e9, [2, 3, 0], torch.tensor(0.0).double())
    assert torch.equal(first, grads[0] * 1e9)
    scales = Scales(scales.square / 1e18)
    scales, second = scales.updated(grads[1], [2, 3, 0], torch.tensor(1.0).double())
    expected = grads[1].clone()
    expected[0, :2] = torch.tensor([600.0, 800.0]) * math.sqrt(2.0)
    torch.testing.assert_close(second, expected)
    torch.testing.assert_close(scales.square[0, 0], torch.tensor(0.95 * 0.05 + 0.05 * 1e6).double())
    assert scales.square[:, 2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("step", "horizon", "expected"),
    [
        (1, 1000, math.log(1 / 1000) / 4),
        (50, 99, 0.0),  # 49 before it, 49 after it
        (99, 99, math.log(99) / 4),
        (200, 99, math.log(200) / 4),  # longer than was said: as if each step were the last
        (1000, 0.0, 0.0),  # 1,000 to come, for all that is known
    ],
)
def test_how_far_a_run_is(step: int, horizon: float, expected: float) -> None:
    found = log_odds(torch.tensor(float(step), dtype=torch.float64), torch.tensor(horizon, dtype=torch.float64))
    assert float(found) == pytest.approx(expected, abs=1e-12)
