"""Two-dimensional test functions, whose paths one can see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.api import Optimizee, OptimizeeError, Split, TensorDict

ALL = "all"
_SPREAD = 1.4  # θ is stretched or shrunk by up to this
_REACHED = 1e-3  # what a loss must fall below to count as a minimum found


@dataclass(frozen=True)
class Landscape2D:
    """A function of the plane whose least value is 0.

    Attributes:
        function: f(x, y).
        centre: Where the square of starts lies.
        radius: Half the side of that square.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    centre: tuple[float, float]
    radius: float

    def at(self, plane: Tensor) -> Tensor:
        """F at [..., 2], where the square of starts is -1 to 1."""
        x, y = (plane[..., axis] * self.radius + self.centre[axis] for axis in range(2))
        return self.function(x, y)

    def mean(self) -> float:
        """The mean of f over the square."""
        side = torch.linspace(-1.0, 1.0, 101, dtype=torch.float64)
        return float(self.at(torch.cartesian_prod(side, side)).mean())


def _rastrigin(x: Tensor, y: Tensor) -> Tensor:
    waves = torch.cos(2.0 * math.pi * x) + torch.cos(2.0 * math.pi * y)
    return 20.0 + x.square() + y.square() - 10.0 * waves


def _ackley(x: Tensor, y: Tensor) -> Tensor:
    """Ackley's function; 1e-12 under the root keeps it differentiable at its minimum."""
    distance = (0.5 * (x.square() + y.square()) + 1e-12).sqrt()
    waves = 0.5 * (torch.cos(2.0 * math.pi * x) + torch.cos(2.0 * math.pi * y))
    return 20.0 - 20.0 * torch.exp(-0.2 * distance) + math.e - waves.exp()


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return sum((c - x + x * y**power).square() for c, power in ((1.5, 1), (2.25, 2), (2.625, 3)))  # type: ignore[return-value]


def _styblinski_tang(x: Tensor, y: Tensor) -> Tensor:
    """The function of Styblinski and Tang, from its least value up."""
    return sum(0.5 * (each**4 - 16.0 * each**2 + 5.0 * each) + 39.16616570377142 for each in (x, y))  # type: ignore[return-value]


LANDSCAPES: Mapping[str, Landscape2D] = {
    "convex_bowl": Landscape2D(lambda x, y: x.square() + y.square(), (0.3, -0.2), 1.0),
    "elongated_bowl": Landscape2D(lambda x, y: x.square() + 100.0 * y.square(), (0.3, -0.2), 1.0),
    "rosenbrock": Landscape2D(lambda x, y: (1.0 - x).square() + 100.0 * (y - x * x).square(), (0.0, 1.0), 2.0),
    "himmelblau": Landscape2D(lambda x, y: (x * x + y - 11.0).square() + (x + y * y - 7.0).square(), (0.0, 0.0), 5.0),
    "beale": Landscape2D(_beale, (1.0, 0.0), 2.5),
    "saddle": Landscape2D(lambda x, y: 0.5 * x * x + 0.25 * (y * y - 1.0).square(), (0.0, 0.0), 1.5),
    "rastrigin": Landscape2D(_rastrigin, (0.0, 0.0), 4.0),
    "ackley": Landscape2D(_ackley, (0.0, 0.0), 4.0),
    "styblinski_tang": Landscape2D(_styblinski_tang, (0.0, 0.0), 4.0),
}


class Landscape(Optimizee):
    """Nine classical functions of the plane, randomly turned, stretched and started; ``meta-opt landscape`` draws them.

    convex_bowl, elongated_bowl (condition number 100), rosenbrock, himmelblau, beale, saddle (two minima beside a
    saddle point), rastrigin, ackley and styblinski_tang. The start is uniform in a square, -1 to 1 in θ, which is
    turned by a random angle and stretched by a factor between 1/1.4 and 1.4. Losses are divided by their mean over
    the square; the least is 0.
    """

    def __init__(self, name: str = ALL) -> None:
        """Choose the functions.

        Args:
            name: One of them, or all: each problem one at random.

        Raises:
            OptimizeeError: If there is no such function.
        """
        if name != ALL and name not in LANDSCAPES:
            raise OptimizeeError(f"optimizee.name must be {ALL} or one of {', '.join(LANDSCAPES)}, not {name!r}")
        self._names = list(LANDSCAPES) if name == ALL else [name]
        self._means = [LANDSCAPES[each].mean() for each in self._names]

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0, uniform in the square."""
        return {"theta": 2.0 * torch.rand(2, generator=generator) - 1.0}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """Which function, turned how, stretched how far."""
        index = torch.randint(len(self._names), (), generator=generator)
        angle = 2.0 * math.pi * torch.rand((), generator=generator)
        stretch = _SPREAD ** (2.0 * torch.rand((), generator=generator) - 1.0)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        return {"index": index, "matrix": stretch * turn}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """F at the place in the plane."""
        plane = problem["matrix"] @ params["theta"]
        total = plane.new_zeros(())
        for index, (name, mean) in enumerate(zip(self._names, self._means, strict=True)):
            mine = problem["index"] == index
            # Functions that are not the problem's are evaluated at the centre, where they are finite.
            value = LANDSCAPES[name].at(torch.where(mine, plane, 0.0)) / mean
            total = total + torch.where(mine, value, 0.0)
        return total.clamp_min(0.0)  # which rounding may miss

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        """Whether the loss is below 1e-3: a global minimum was found."""
        return {"found": (self.loss(params, problem, batch) < _REACHED).to(params["theta"].dtype)}

    def panels(self) -> Mapping[str, Optimizee]:
        """A picture of each function."""
        return {name: Landscape(name) for name in self._names}

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Many problems at once, which cost little, and logarithms, since functions differ in how low one gets."""
        return {
            "model.num_steps": 100,
            "model.unroll_length": 20,
            "model.num_problems": 64,
            "model.num_validation_problems": 180,
            "model.num_test_problems": 900,
            "model.meta_loss": "log_mean",
            "model.lr": 0.003,
            "model.lr_schedule": "cosine",
            "model.normalize_gradient": True,
            "model.average_decay": 0.98,
            "model.reference_lr": 0.1,
            "optimizer.inputs": "moments",
            "trainer.max_epochs": 12,
            "alpha_opt:optimizer.direction": "gradient",
            "alpha_opt:optimizer.unit": "secant",  # there is no noise
            "alpha_opt:optimizer.base_rate": 0.1,
            "alpha_opt:optimizer.decades": 0.7,
            "alpha_opt:optimizer.initial_std": 0.2,
            "alpha_opt:model.unroll_length": 100,  # an advantage looks at the whole episode
            "alpha_opt:model.num_problems": 128,
            "alpha_opt:model.lr": 0.01,
            "alpha_opt:model.monitor": "final_loss",
            "alpha_opt:model.estimator.discount": 1.0,
            "alpha_opt:model.estimator.smoothing": 0.98,
            "alpha_opt:trainer.max_epochs": 4,
        }
