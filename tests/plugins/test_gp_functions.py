"""Functions drawn from a Gaussian process have its covariance, and their least value is about zero."""

import math

import pytest
import torch

from meta_opt.api import OptimizeeError
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.gp_functions import GPFunctions, _value


def test_the_covariance_is_the_squared_exponential_kernel() -> None:
    """E[f(0) f(x)] = exp(-x²/2ℓ²) over draws: 0.4111 at x = 0.8, ℓ = 0.6."""
    optimizee, generator = GPFunctions(1, 0.6), torch.Generator().manual_seed(0)
    drawn = [optimizee.sample_problem("train", generator) for _ in range(1500)]
    at = torch.stack([_value(torch.tensor([[0.0], [0.8]]), waves) for waves in drawn])
    products = torch.stack([at[:, 0] * at[:, 0], at[:, 0] * at[:, 1]], 1)
    expected = torch.tensor([1.0, math.exp(-(0.8**2) / (2 * 0.6**2))])
    assert ((products.mean(0) - expected).abs() < 3.5 * products.std(0) / math.sqrt(1500)).all()


def test_no_place_of_a_grid_is_below_zero_and_one_is_close() -> None:
    problems = Problems(GPFunctions(), "test", range(5), seed=0)
    side = torch.linspace(-1.5, 1.5, 151)
    for index in range(5):
        losses = problems.losses_around(index, torch.cartesian_prod(side, side))
        assert losses.min() < 0.01
        optimizee, problem = GPFunctions(), {name: each[index] for name, each in problems._problem.items()}
        assert (_value(torch.cartesian_prod(side, side), problem) - problem["least"]).min() > -1e-3
        outside = optimizee.loss({"theta": torch.tensor([2.5, 0.0])}, problem, {})
        assert outside.item() == pytest.approx(
            1 + optimizee.loss({"theta": torch.tensor([1.5, 0.0])}, problem, {}).item()
        )


@pytest.mark.parametrize("dimensions", [3, 6])
def test_descents_from_many_places_end_hardly_below_the_least(dimensions: int) -> None:
    problems, below = Problems(GPFunctions(dimensions), "test", range(6), seed=0), []
    for index in range(6):
        waves = {name: each[index] for name, each in problems._problem.items()}
        start = torch.rand(1000, dimensions, generator=torch.Generator().manual_seed(1))
        theta = (3.0 * start - 1.5).requires_grad_()
        optimizer = torch.optim.Adam([theta], lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            _value(theta, waves).sum().backward()
            optimizer.step()
            theta.data.clamp_(-1.5, 1.5)
        below.append(float(waves["least"] - _value(theta.detach(), waves).min()))
    assert max(below) < 0.06
    assert sum(below) < 0.1  # 1.6 with six dimensions without descents


@pytest.mark.parametrize("options", [{"dimensions": 0}, {"length_scale": 0.0}])
def test_values_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(OptimizeeError, match=f"optimizee.{next(iter(options))} must be"):
        GPFunctions(**options)
