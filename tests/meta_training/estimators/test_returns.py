"""Advantages and objectives against values computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from meta_opt.meta_training.estimators.returns import (
    advantages_of,
    clipped_surrogate,
    logs_of,
    normalized,
    rewards_of,
    score,
)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_rewards_are_what_the_loss_fell_by_or_the_area() -> None:
    losses = column(5.0, 3.0, 4.0)
    assert rewards_of(losses, "decrease").flatten().tolist() == [2.0, -1.0]
    assert rewards_of(losses, "area").flatten().tolist() == [-3.0, -4.0]


def test_logarithms_stop_where_a_problem_is_solved() -> None:
    """From f_0 = 2 nothing is gained below 2e-12, and a loss of zero is no infinite reward."""
    found = logs_of(column(2.0, 1e-5, 1e-20, 0.0), torch.tensor([2.0], dtype=torch.float64))
    expected = [math.log(2.0), math.log(1e-5), math.log(2e-12), math.log(2e-12)]
    assert found.flatten().tolist() == pytest.approx(expected)
    assert logs_of(column(1.0, -1.0), torch.ones(1, dtype=torch.float64))[1].isnan()


def test_advantages_by_hand() -> None:
    """γ = 0.5, λ = 0.5, r = 1, 2, V = 1, 3, 4: δ_1 = 2 + 2 - 3 = 1, δ_0 = 1 + 1.5 - 1 = 1.5, A_0 = 1.5 + 1/4."""
    found = advantages_of(column(1.0, 2.0), column(1.0, 3.0, 4.0), 0.5, 0.5)
    assert found.flatten().tolist() == [1.75, 1.0]


def test_without_a_critic_advantages_are_the_rewards_to_come() -> None:
    found = advantages_of(column(1.0, 2.0, 4.0), torch.zeros(4, 1, dtype=torch.float64), 0.5, 1.0)
    assert found.flatten().tolist() == [1.0 + 1.0 + 1.0, 2.0 + 2.0, 4.0]


def test_advantages_telescope_where_the_critic_is_all_that_counts() -> None:
    """With λ = 0 an advantage is one difference, with λ = 1 and γ = 1 the return less what was said of it."""
    rewards, values = torch.randn(5, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(advantages_of(rewards, values, 0.9, 0.0), rewards + 0.9 * values[1:] - values[:-1])
    returns = rewards.flip(0).cumsum(0).flip(0) + values[-1]
    torch.testing.assert_close(advantages_of(rewards, values, 1.0, 1.0), returns - values[:-1])


def test_the_advantage_of_a_single_step_is_not_taken_from_itself() -> None:
    assert normalized(torch.tensor([[1.0, -2.0]])).tolist() == [[1.0, -2.0]]


def test_normalized_advantages_of_each_problem() -> None:
    found = normalized(torch.tensor([[1.0, 100.0], [3.0, 500.0]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64))


def test_score_by_hand() -> None:
    """Two steps, two problems, two actions: Σ_t A_t Σ_a ln p, a mean over problems."""
    log_probs = torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]], [[-1.0, -1.0], [-2.0, -2.0]]])
    advantages = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    assert float(score(log_probs, advantages)) == pytest.approx((-3.0 - 4.0 + 7.0 - 12.0) / 2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.0, 2.0, 2.0), (1.1, 2.0, 2.2), (1.5, 2.0, 2.4), (0.5, 2.0, 1.0), (0.5, -2.0, -1.6), (1.5, -2.0, -3.0)],
)
def test_surrogate_by_hand(ratio: float, advantage: float, expected: float) -> None:
    """ε = 0.2. What makes the objective larger is cut, what makes it smaller is not."""
    log_probs = torch.tensor([[[math.log(ratio)]]], dtype=torch.float64)
    before = torch.zeros_like(log_probs)
    found = clipped_surrogate(log_probs, before, torch.tensor([[advantage]], dtype=torch.float64), 0.2)
    assert float(found) == pytest.approx(expected)


def test_surrogate_stops_where_it_is_cut() -> None:
    log_probs = torch.tensor([[[math.log(1.5), math.log(1.1)]]], dtype=torch.float64, requires_grad=True)
    objective = clipped_surrogate(log_probs, torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.float64), 0.2)
    (grad,) = torch.autograd.grad(objective, log_probs)
    assert grad.flatten().tolist() == [0.0, pytest.approx(1.1)]
