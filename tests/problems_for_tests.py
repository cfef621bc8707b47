"""Small optimizees that the tests share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizees.problems import problem_generator


class Square(Optimizee):
    """f(x) = x², x_0 = 1."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"x": torch.ones(1)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return (params["x"] ** 2).sum()


class Regression(Optimizee):
    """A tanh network with mini-batches, two groups whose tensors are not neighbours, and a problem of its own."""

    def __init__(self, scale: float = 0.5) -> None:
        self.scale = scale

    def init_params(self, generator: Generator) -> TensorDict:
        shapes = {"first.weight": (3, 4), "second.weight": (4, 1), "first.bias": (4,), "second.bias": (1,)}
        return {name: self.scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"slope": torch.randn(3, 1, generator=generator)}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {"x": torch.randn(6, 3, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        hidden = torch.tanh(batch["x"] @ params["first.weight"] + params["first.bias"])
        output = hidden @ params["second.weight"] + params["second.bias"]
        return ((output - torch.sin(batch["x"] @ problem["slope"])) ** 2).mean()

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"root": self.loss(params, problem, batch).sqrt()}

    def groups(self) -> Mapping[str, str]:
        return {name: name.split(".")[0] for name in ("first.weight", "first.bias", "second.weight", "second.bias")}


class HoldsBack(Regression):
    """Holds back batches of more inputs, on the other side."""

    def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
        return {"x": 3.0 + torch.randn(9, 3, generator=generator)}


class Sometimes(Square):
    """x² whose loss is not finite in the training problems named, of seed 0."""

    def __init__(self, bad: list[int]) -> None:
        self.bad = bad
        self.seeds = [problem_generator(0, "train", index).initial_seed() for index in bad]

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"factor": torch.tensor(float("nan") if generator.initial_seed() in self.seeds else 1.0)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return (params["x"] ** 2).sum() * problem["factor"]


class Polynomials(OptimizeeFamily):
    """Fits of one to three coefficients."""

    def __init__(self) -> None:
        self.parts = [Polynomial(size) for size in (1, 2, 3)]

    def variant(self, generator: Generator) -> Optimizee:
        return self.parts[int(torch.randint(3, (), generator=generator))]

    def to(self, device: torch.device | str) -> Optimizee:
        return self


class Polynomial(Optimizee):
    def __init__(self, size: int) -> None:
        self.size = size

    def init_params(self, generator: Generator) -> TensorDict:
        return {"coefficients": torch.randn(self.size, generator=generator)}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"x": torch.randn(5, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        powers = torch.stack([problem["x"] ** power for power in range(self.size)])
        return (params["coefficients"] @ powers - torch.cos(problem["x"])).square().mean()

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"root": self.loss(params, problem, batch).sqrt(), f"only{self.size}": torch.zeros(())}
