import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.configurable import Configurable
from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.optimizees.contract import Optimizee, TensorDict


class Toy(Optimizee):
    """A loss of one's choice of two parameters."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Any], theta: Tensor | None = None) -> None:
        self._loss = loss
        self._theta = torch.tensor([1.0, 2.0]) if theta is None else theta

    def init_params(self, generator: Generator) -> TensorDict:
        return {"a": self._theta, "b": torch.ones(3)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return self._loss(params["a"], params["b"])


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


def test_init_args_are_as_handed_in_whatever_the_constructor_does_with_them() -> None:
    class Greedy(Base):
        def __init__(self, widths: list[int], options: dict[str, list[int]]) -> None:
            widths.insert(0, 2)
            options["more"] = [1]
            options["some"].append(3)

    sizes = Greedy([4], {"some": [1]}).init_args
    assert sizes == {"widths": [4], "options": {"some": [1]}}


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
