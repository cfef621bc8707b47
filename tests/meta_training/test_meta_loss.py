"""Meta-losses and step weights."""

import math

import pytest
import torch

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.meta_loss import MetaLoss, MetaLossName, parse_step_weights


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [1, 1, 1]),
        ("linear:0.5", [1, 1.5, 2]),
        ("exponential:0.5", [0.25, 0.5, 1]),
        ("last", [0, 0, 1]),
    ],
)
def test_step_weights(text: str, expected: list[float]) -> None:
    assert parse_step_weights(text)(3).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "constant:1",
        "linear",
        "linear:x",
        "exponential:",
        "first",
        "last:3",
        "exponential:-1",
        "linear:nan",
        "linear:inf",
    ],
)
def test_step_weights_not_understood(text: str) -> None:
    with pytest.raises(MetaOptError, match="model.step_weights must be constant, linear:BETA"):
        parse_step_weights(text)


def test_values() -> None:
    losses = torch.tensor([[1.0, 2.0], [math.e, 4.0]])
    assert MetaLoss("sum", "constant").value(losses).item() == pytest.approx((3 + math.e + 4) / 2)
    assert MetaLoss("log_sum", "last").value(losses).item() == pytest.approx((1 + math.log(4)) / 2)
    means = math.log((1 + math.e) / 2), math.log(3)
    assert MetaLoss("log_mean", "constant").value(losses).item() == pytest.approx(2 * sum(means) / 2)
    means = math.log((1 + 3 * math.e) / 4), math.log(14 / 4)
    assert MetaLoss("log_mean", "linear:2").value(losses).item() == pytest.approx(4 * sum(means) / 2)


def test_the_lowest_loss_so_far() -> None:
    losses, meta_loss = torch.tensor([[3.0], [1.0], [2.0], [0.5]]), MetaLoss("best", "linear:1")
    assert meta_loss.value(losses).item() == 3 * 1 + 1 * 2 + 1 * 3 + 0.5 * 4
    assert meta_loss.slopes(losses).tolist() == [[1.0], [5.0], [0.0], [4.0]]
    assert meta_loss.of_episodes(losses).item() == 5.5
    assert meta_loss.ratio(2.0 * losses, losses).item() == 2.0


@pytest.mark.parametrize("name", ["sum", "log_sum", "log_mean", "best"])
@pytest.mark.parametrize("weights", ["constant", "linear:2", "exponential:0.9", "last"])
def test_slopes_are_the_derivative_of_the_value(name: MetaLossName, weights: str) -> None:
    losses = (
        torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).add_(0.1).requires_grad_()
    )
    meta_loss = MetaLoss(name, weights)
    (expected,) = torch.autograd.grad(meta_loss.value(losses), losses)
    torch.testing.assert_close(meta_loss.slopes(losses.detach()), expected, rtol=1e-12, atol=0)


def test_logarithm_of_a_loss_that_is_rounded_to_zero() -> None:
    losses, meta_loss = torch.tensor([[1.0], [0.0]]), MetaLoss("log_sum", "constant")
    assert meta_loss.value(losses).item() == pytest.approx(math.log(1e-12))
    assert meta_loss.slopes(losses).tolist() == [[1.0], [0.0]]


def test_logarithm_of_a_mean_that_is_rounded_to_zero() -> None:
    losses, meta_loss = torch.zeros(2, 1), MetaLoss("log_mean", "constant")
    assert meta_loss.value(losses).item() == pytest.approx(2 * math.log(1e-12))
    assert meta_loss.slopes(losses).tolist() == [[0.0], [0.0]]
    losses[0] = 1.0  # one step that is not carries the others
    assert meta_loss.slopes(losses).tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("name", ["log_sum", "log_mean"])
@pytest.mark.parametrize("wrong", [-1.0, math.nan])
def test_logarithm_of_no_positive_number(name: MetaLossName, wrong: float) -> None:
    assert not MetaLoss(name, "constant").value(torch.tensor([[3.0], [wrong]])).isfinite()
