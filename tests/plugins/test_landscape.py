"""Nine functions of the plane: where their minima are, how they are turned, and what is drawn of them."""

import math

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.api import OptimizeeError
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.landscape import LANDSCAPES, Landscape

MINIMA = {
    "convex_bowl": [(0.0, 0.0)],
    "elongated_bowl": [(0.0, 0.0)],
    "rosenbrock": [(1.0, 1.0)],
    "himmelblau": [(3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)],
    "beale": [(3.0, 0.5)],
    "saddle": [(0.0, 1.0), (0.0, -1.0)],
    "rastrigin": [(0.0, 0.0)],
    "ackley": [(0.0, 0.0)],
    "styblinski_tang": [(-2.903534, -2.903534)],
}


def double(x: float, y: float) -> tuple[Tensor, Tensor]:
    return torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_minima_are_where_the_literature_has_them(name: str) -> None:
    landscape = LANDSCAPES[name]
    for place in MINIMA[name]:
        point = torch.stack(double(*place)).requires_grad_()
        value = landscape.function(*point)
        (slope,) = torch.autograd.grad(value, point)
        assert abs(float(value.detach())) < 1e-5
        assert float(slope.norm()) < 1e-3
    side = torch.linspace(-1.6, 1.6, 321, dtype=torch.float64)
    assert float(landscape.at(torch.cartesian_prod(side, side)).min()) >= -1e-9


def test_values_by_hand() -> None:
    assert float(LANDSCAPES["rosenbrock"].function(*double(-1.2, 1.0))) == pytest.approx(24.2)
    assert float(LANDSCAPES["himmelblau"].function(*double(0.0, 0.0))) == 170.0
    assert float(LANDSCAPES["beale"].function(*double(0.0, 0.0))) == pytest.approx(14.203125)
    assert float(LANDSCAPES["rastrigin"].function(*double(0.5, 0.0))) == pytest.approx(20.25)
    assert float(LANDSCAPES["ackley"].function(*double(1.0, 0.0))) == pytest.approx(
        20.0 - 20.0 * math.exp(-0.2 * math.sqrt(0.5)) + math.e - math.e, abs=1e-9
    )


def test_a_saddle_point_between_two_minima() -> None:
    point = torch.zeros(2, dtype=torch.float64)
    curvature = torch.autograd.functional.hessian(lambda at: LANDSCAPES["saddle"].function(*at), point)
    assert curvature.tolist() == [[1.0, 0.0], [0.0, -1.0]]


@pytest.mark.parametrize("name", LANDSCAPES)
def test_losses_are_about_one_on_average_where_problems_start(name: str) -> None:
    problems = Problems(Landscape(name), "train", range(400), seed=0)
    mean = float(problems.evaluate(problems.initial_params, grad=False).loss.mean())
    assert 0.5 < mean < 2.5


def test_all_of_them_in_equal_parts_and_each_as_alone() -> None:
    optimizee = Landscape()
    counts = [0] * len(LANDSCAPES)
    for seed in range(450):
        problem = optimizee.sample_problem("train", Generator().manual_seed(seed))
        counts[int(problem["index"])] += 1
        params = optimizee.init_params(Generator().manual_seed(seed))
        alone = Landscape(list(LANDSCAPES)[int(problem["index"])])
        expected = alone.loss(params, {**problem, "index": torch.tensor(0)}, {})
        torch.testing.assert_close(optimizee.loss(params, problem, {}), expected)
    assert min(counts) > 30


def test_turned_and_stretched() -> None:
    matrices = torch.stack(
        [Landscape().sample_problem("train", Generator().manual_seed(s))["matrix"] for s in range(200)]
    )
    stretches = matrices.det().sqrt()
    torch.testing.assert_close(
        matrices @ matrices.mT, stretches.square().view(-1, 1, 1) * torch.eye(2).expand(200, 2, 2)
    )
    assert 1 / 1.4 <= float(stretches.min()) < 0.75
    assert 1.3 < float(stretches.max()) <= 1.4
    angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0])
    assert float(angles.max()) - float(angles.min()) > 6.0


@pytest.mark.parametrize("name", LANDSCAPES)
def test_no_loss_is_negative_in_float32(name: str) -> None:
    optimizee = Landscape(name)
    problem = {"index": torch.tensor(0), "matrix": torch.eye(2)}
    landscape = LANDSCAPES[name]
    for place in MINIMA[name]:
        theta = (torch.tensor(place) - torch.tensor(landscape.centre)) / landscape.radius
        near = theta + 1e-4 * torch.randn(200, 2, generator=Generator().manual_seed(0))
        losses = torch.stack([optimizee.loss({"theta": each}, problem, {}) for each in near])
        assert 0.0 <= float(losses.min()) < 1e-4


def test_far_away_other_functions_do_no_harm() -> None:
    """Only the problem's own function is evaluated out there, where others are infinite."""
    optimizee = Landscape()
    problem = {"index": torch.tensor(0), "matrix": torch.eye(2)}
    theta = torch.full((2,), 1e15, requires_grad=True)
    loss = optimizee.loss({"theta": theta}, problem, {})
    (slope,) = torch.autograd.grad(loss, theta)
    assert loss.isfinite()
    assert slope.isfinite().all()


def test_a_panel_for_each() -> None:
    assert list(Landscape().panels()) == list(LANDSCAPES)
    assert list(Landscape("beale").panels()) == ["beale"]


def test_unknown_name() -> None:
    with pytest.raises(OptimizeeError, match="name must be all or one of convex_bowl, .* not 'hill'"):
        Landscape("hill")
