"""Baselines that are entitled to curvature."""

import pytest
import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.compare import compare
from meta_opt.evaluation.setting import Setting
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.optimizers.quasi_newton import BFGS, LBFGS, Newton
from meta_opt_optimizees.quadratic import Quadratic


def losses(optimizer: InnerOptimizer, num_steps: int, num_problems: int = 3) -> Tensor:
    """[T, B], in float64."""
    problems = Problems(Quadratic(6, condition=30.0), "test", range(num_problems), seed=0, dtype=torch.float64)
    return unroll(problems, optimizer, begin(problems, optimizer), num_steps).losses


def test_newton_is_at_the_minimum_after_one_step_more_than_coordinates() -> None:
    found = losses(Newton(0.01), 8)
    assert (found[5] > 1.0).all(), "the sixth step is along the last axis"
    assert (found[6] < 1e-18).all()


def test_newton_walks_along_the_axes_first() -> None:
    problems = Problems(Quadratic(6), "test", range(2), seed=0, dtype=torch.float64)
    newton = Newton(0.1)
    end = unroll(problems, newton, begin(problems, newton), 6).end.evaluation.params
    torch.testing.assert_close(end, problems.initial_params + 0.1)


def test_bfgs_with_steps_of_one_is_bfgs_by_hand() -> None:
    problems = Problems(Quadratic(6, condition=30.0), "test", [0], seed=0, dtype=torch.float64)
    theta, eye = problems.initial_params[0], torch.eye(6, dtype=torch.float64)
    grad = problems.evaluate(theta.unsqueeze(0)).grad[0]
    step, inverse, expected = -0.7 * grad / grad.abs().sum().clamp_min(1.0), None, []
    for _ in range(12):
        theta = theta + step
        evaluation = problems.evaluate(theta.unsqueeze(0))
        expected.append(evaluation.loss[0])
        change, grad = evaluation.grad[0] - grad, evaluation.grad[0]
        if inverse is None:
            inverse = (step @ change) / (change @ change) * eye
        left = eye - torch.outer(step, change) / (step @ change)
        inverse = left @ inverse @ left.T + torch.outer(step, step) / (step @ change)
        step = -0.7 * inverse @ grad
    torch.testing.assert_close(losses(BFGS(0.7), 12)[:, 0], torch.stack(expected), rtol=1e-8, atol=1e-12)
    assert expected[-1] < 1e-2 * expected[0]


def test_lbfgs_is_that_of_pytorch_on_each_problem() -> None:
    problems = Problems(Quadratic(6, condition=30.0), "test", [1], seed=0, dtype=torch.float64)
    param = torch.nn.Parameter(problems.initial_params.clone())
    optimizer = torch.optim.LBFGS([param], lr=0.8, max_iter=1, tolerance_grad=0.0, tolerance_change=0.0)
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        evaluation = problems.evaluate(param)
        param.grad = evaluation.grad
        return evaluation.loss[0]

    expected = []
    for _ in range(15):
        optimizer.step(closure)
        expected.append(problems.evaluate(param).loss[0])
    assert evaluations == 15, "one evaluation a step"
    torch.testing.assert_close(losses(LBFGS(0.8), 15)[:, 1], torch.stack(expected), rtol=1e-9, atol=1e-14)
    assert expected[-1] < 1e-3 * expected[0]


@pytest.mark.parametrize("name", ["LBFGS", "BFGS", "Newton"])
def test_problems_do_not_mix(name: str) -> None:
    together, alone = (losses(baseline(name)(0.3), 8, number) for number in (3, 1))
    torch.testing.assert_close(together[:, :1], alone, rtol=1e-9, atol=1e-14)


def test_they_are_tuned_and_compared() -> None:
    setting = Setting(Quadratic(4, condition=100.0), [20], num_problems=4, num_validation_problems=4)
    names = ["Adam", "LBFGS", "BFGS", "Newton"]
    (comparison,) = compare(setting, {}, {name: baseline(name) for name in names})
    finals = {entry.name: entry.merit("final").value for entry in comparison.entries}
    assert max(finals[name] for name in names[1:]) < 1e-2 * finals["Adam"]


@pytest.mark.parametrize("make", [BFGS, Newton])
def test_too_many_coordinates_are_refused(make: type[BFGS] | type[Newton]) -> None:
    layout = Layout.of({"theta": torch.zeros(2001)})
    with pytest.raises(
        MetaOptError, match=f"{make.__name__} keeps a matrix, for at most 2,000 coordinates, and here are"
    ):
        make(0.1).init_state(layout, 1)
