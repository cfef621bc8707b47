"""Loss curves on fixed problems, and baselines behind the learned optimizer's contract."""

import pytest
import torch
from problems_for_tests import Regression, Square

from meta_opt.inner_loop import episodes
from meta_opt.inner_loop.episodes import Curves, final_loss, mean_of_problems, run_episodes, unroll_lengths
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import BASELINES, adam, sgd
from meta_opt_optimizees.mixture import Mixture


def test_unroll_lengths() -> None:
    assert unroll_lengths(100, 20) == [20] * 5
    assert unroll_lengths(7, 3) == [3, 3, 1]
    assert unroll_lengths(2, 5) == [2]


def test_final_loss() -> None:
    losses = torch.arange(20.0).unsqueeze(1)
    assert final_loss(losses, stochastic=False).tolist() == [19.0]
    assert final_loss(losses, stochastic=True).tolist() == [18.5]  # a tenth
    assert final_loss(losses[:5], stochastic=True).tolist() == [4.0]
    assert final_loss(torch.arange(300.0).unsqueeze(1), stochastic=True).tolist() == [294.5]  # at most ten


@pytest.mark.parametrize(
    ("num_steps", "averaged"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (90, 9), (100, 10), (300, 10)]
)
def test_the_final_loss_is_that_of_the_last_tenth_of_the_steps(num_steps: int, averaged: int) -> None:
    """The loss before the first step is of no step."""
    losses = torch.arange(num_steps + 1.0).unsqueeze(1)
    curves = Curves(losses, {}, torch.tensor([True]))
    assert curves.final.tolist() == [losses[-averaged:].mean().item()]


def test_gradient_descent_on_a_square() -> None:
    """x ← (1 - 2 lr) x, 25 steps: more than are taken at once."""
    curves = run_episodes(Square(), sgd(0.1), "test", 3, 25, seed=0, dtype=torch.float64)
    expected = (0.8 ** torch.arange(26, dtype=torch.float64)) ** 2
    torch.testing.assert_close(curves.losses, expected.unsqueeze(1).expand(26, 3), rtol=1e-12, atol=0)
    assert curves.final.tolist() == pytest.approx([0.8**50] * 3)
    assert curves.sum[0].item() == pytest.approx(float(expected[1:].sum()))
    assert curves.stochastic.tolist() == [False] * 3


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_torch_optim(name: str) -> None:
    """On each problem alone, in an ordinary training loop, the losses are the same."""
    makers = {
        "SGD": lambda p: torch.optim.SGD(p, lr=0.02),
        "Nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
        "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.02),
        "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
    }
    curves = run_episodes(Regression(), BASELINES[name](0.02), "validation", 2, 12, seed=5, dtype=torch.float64)
    for index in range(2):
        problems = Problems(Regression(), "validation", [index], seed=5, dtype=torch.float64)
        theta = problems.initial_params.clone().requires_grad_()
        optimizer = makers[name]([theta])
        losses = []
        for _ in range(13):
            evaluation = problems.evaluate(theta)
            losses.append(evaluation.loss.item())
            theta.grad = evaluation.grad
            optimizer.step()
        assert curves.losses[:, index].tolist() == pytest.approx(losses, rel=1e-10)


def test_final_losses_of_each_problem_of_a_family_are_taken_as_it_needs() -> None:
    """Those of mini-batches as a mean, others as they are, whichever is first."""
    finals = {}
    for seed in range(8):
        curves = run_episodes(Mixture([Regression(), Square()]), adam(0.05), "test", 4, 30, seed=seed)
        for index, noisy in enumerate(curves.stochastic.tolist()):
            expected = curves.losses[-3:, index].mean() if noisy else curves.losses[-1, index]
            assert curves.final[index].item() == pytest.approx(expected.item())
        finals[seed] = curves.stochastic.tolist()
    assert {first for first, *_ in finals.values()} == {True, False}
    assert any(len(set(noisy)) == 2 for noisy in finals.values())


def test_problems_run_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_episodes(Regression(), adam(0.05), "test", 5, 8, seed=0, dtype=torch.float64)
    monkeypatch.setattr(episodes, "_COORDINATES_AT_ONCE", 50)  # two problems of 21 coordinates
    parts = run_episodes(Regression(), adam(0.05), "test", 5, 8, seed=0, dtype=torch.float64)
    torch.testing.assert_close(whole.losses, parts.losses, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(whole.metrics["root"], parts.metrics["root"], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(whole.metrics["root"], whole.losses[-1].sqrt(), rtol=1e-10, atol=0)
    assert whole.stochastic.tolist() == [True] * 5


def test_means_of_problems_keep_precision_and_nan() -> None:
    values = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert mean_of_problems(values).item() == pytest.approx(values.mean().item(), rel=1e-15)
    assert mean_of_problems(torch.tensor([1.0, torch.nan])).isnan()
