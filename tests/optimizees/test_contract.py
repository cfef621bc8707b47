import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.configurable import Configurable
from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.optimizees.contract import Optimizee, TensorDict, check_loss


class Toy(Optimizee):
    """A loss of one's choice of two parameters."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Any], theta: Tensor | None = None) -> None:
        self._loss = loss
        self._theta = torch.tensor([1.0, 2.0]) if theta is None else theta

    def init_params(self, generator: Generator) -> TensorDict:
        return {"a": self._theta, "b": torch.ones(3)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return self._loss(params["a"], params["b"])


def check(toy: Optimizee) -> None:
    check_loss(toy, Generator().manual_seed(0))


def test_a_good_loss_passes_and_changes_nothing() -> None:
    toy = Toy(lambda a, b: a.square().sum() + b.sum())
    check(toy)
    theta = toy.init_params(Generator())["a"]
    assert theta.tolist() == [1.0, 2.0]
    assert not theta.requires_grad


def test_a_parameter_may_go_unused() -> None:
    check(Toy(lambda a, b: a.square().sum()))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda a, b: a, "Toy.loss must return a scalar tensor (shape []), found shape [2]"),
        (lambda a, b: 1.5, "Toy.loss must return a scalar tensor (shape []), found float"),
        (lambda a, b: a.sum() / 0, "Toy.loss is not finite at θ_0: inf"),
        (lambda a, b: (-a).sqrt().sum(), "Toy.loss is not finite at θ_0: nan"),
        (
            lambda a, b: a.detach().sum(),
            "Toy.loss is not differentiable: it does not depend on params through autograd",
        ),
        (
            lambda a, b: a.sum() + (b - 1).norm().sqrt(),
            "Toy.loss has a gradient that is not finite at θ_0, in parameter 'b'",
        ),
    ],
)
def test_what_is_wrong_with_a_loss(loss: Callable[[Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(OptimizeeError, match=f"^{re.escape(message)}$"):
        check(Toy(loss))


def test_parameters_must_be_floating_point() -> None:
    with pytest.raises(OptimizeeError, match=r"^Toy\.init_params must return floating-point tensors, but 'a' is torch"):
        check(Toy(lambda a, b: b.sum(), theta=torch.tensor([1, 2])))


def test_optimizee_errors_are_the_users_to_mend() -> None:
    assert issubclass(OptimizeeError, MetaOptError)


def test_defaults_of_the_contract() -> None:
    toy, generator = Toy(lambda a, b: a.sum()), Generator()
    assert toy.sample_problem("train", generator) == {}
    assert toy.sample_batch("train", generator) == {}
    assert toy.metrics({}, {}, {}) == {}
    assert toy.groups() == {}
    assert toy.recommended_settings() == {}
    assert toy.vmappable


def test_to_moves_every_tensor() -> None:
    toy = Toy(lambda a, b: a.sum())
    assert toy.to("meta") is toy
    assert toy.init_params(Generator())["a"].device == torch.device("meta")


class Base(Configurable):
    """Hands its arguments on."""

    def __init__(self, size: int, name: str = "base", sizes: tuple[int, ...] = (1, 2)) -> None:
        self.size = size


class Derived(Base):
    """Has arguments of its own."""

    def __init__(self, width: int = 3, extra: object = None) -> None:
        super().__init__(width * 2)


def test_init_args_are_the_arguments_with_defaults() -> None:
    assert Base(4).init_args == {"size": 4, "name": "base", "sizes": (1, 2)}
    assert Base(size=5, name="x").init_args == {"size": 5, "name": "x", "sizes": (1, 2)}


def test_init_args_are_those_of_the_class_that_was_made() -> None:
    derived = Derived(width=7)
    assert derived.init_args == {"width": 7, "extra": None}
    assert derived.size == 14


def test_plain_init_args() -> None:
    assert Base(4).plain_init_args(str) == {"size": 4, "name": "base", "sizes": [1, 2]}
    assert Derived(extra={1: (2.0, None)}).plain_init_args(str) == {"width": 3, "extra": {"1": [2.0, None]}}
    assert Derived(extra=object()).plain_init_args(str) is None


def test_wrong_arguments_are_a_type_error() -> None:
    with pytest.raises(TypeError, match="wdith"):
        Derived(wdith=7)  # type: ignore[call-arg]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_init_args_survive_copying(duplicate: Callable[[Base], Base]) -> None:
    twin = duplicate(Base(4, sizes=(9,)))
    assert twin.init_args == {"size": 4, "name": "base", "sizes": (9,)}
    assert twin.size == 4
