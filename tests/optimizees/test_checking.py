"""Each way to break the contract is said in one line that names the method."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from problems_for_tests import Polynomials
from torch import Tensor, nn

from meta_opt.errors import OptimizeeError
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily, TensorDict
from meta_opt.testing.optimizees import pure_loss


class Bowl(Optimizee):
    """The squared distance to a random point, seen with noise."""

    def init_params(self, generator: Any) -> Any:
        return {"a": torch.ones(2), "b": torch.ones(3)}

    def sample_problem(self, split: Any, generator: Any) -> Any:
        return {"center": torch.randn(3, generator=generator)}

    def sample_batch(self, split: Any, generator: Any) -> Any:
        return {"noise": torch.randn(3, generator=generator)}

    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        return (params["b"] - problem["center"] - 0.1 * batch["noise"]).square().sum() + params["a"].sum()


def bowl(**methods: Any) -> Callable[[], Optimizee]:
    """A bowl with these methods instead of its own."""
    return type("Mine", (Bowl,), methods)


def returns(value: Any) -> Callable[..., Any]:
    return lambda self, *arguments: value


def check(optimizee: Optimizee) -> None:
    check_loss(optimizee, torch.Generator().manual_seed(0))


def message_of(optimizee: Optimizee) -> str:
    with pytest.raises(OptimizeeError) as caught:
        check(optimizee)
    message = str(caught.value)
    assert "\n" not in message
    return message


def base(params: Any, problem: Any, batch: Any) -> Any:
    return Bowl().loss(params, problem, batch)


def looks_at_values(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    loss = base(params, problem, batch)
    return loss if loss > 0 else -loss


def with_item(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    return base(params, problem, batch) * problem["center"].sum().item()


def with_numpy(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    return base(params, problem, batch) * float(problem["center"].numpy().sum())


def of_dynamic_shape(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    return params["b"][problem["center"] > -9].square().sum()


def without_a_rule(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    return Doubled.apply(base(params, problem, batch))


class Stubborn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise ValueError("no gradient")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return 2 * grads[0]


def knows_the_crowd(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    return base(params, problem, batch) * (2 if "Batched" in repr(params["b"]) else 1)


def changes(what: str, change: Callable[[TensorDict], Any]) -> Callable[..., Any]:
    def loss(self: Any, params: Any, problem: Any, batch: Any) -> Any:
        value = base(params, problem, batch)
        change({"params": params, "problem": problem, "batch": batch}[what])
        return value

    return loss


def raises(error: BaseException) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any) -> Any:
        raise error

    return method


def seeds_torch(self: Any, generator: Any) -> Any:
    torch.manual_seed(1)
    return {"b": torch.ones(3), "a": torch.randn(2)}


def counts(self: Any, params: Any, problem: Any, batch: Any) -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    return base(params, problem, batch) * self.calls


def of_any_size(self: Any, split: Any, generator: Any) -> Any:
    return {
        "center": torch.randn(3, generator=generator),
        "x": torch.ones(int(100 * torch.rand((), generator=generator))),
    }


def of_any_type(self: Any, split: Any, generator: Any) -> Any:
    flag = bool(torch.rand((), generator=generator) < 0.5)
    return {"center": torch.ones(3), "x": torch.ones(2, dtype=torch.float64 if flag else torch.int64)}


def of_any_name(self: Any, split: Any, generator: Any) -> Any:
    return {"center": torch.ones(3), str(float(torch.rand((), generator=generator))): torch.ones(1)}


def longer_in_validation(self: Any, split: Any, generator: Any) -> Any:
    return {"noise": torch.zeros(5 if split == "validation" else 3)}


def fails_in_test(self: Any, split: Any, generator: Any) -> Any:
    if split == "test":
        raise KeyError("no test data")
    return {"noise": torch.zeros(3)}


def infinite_in_test(self: Any, split: Any, generator: Any) -> Any:
    return {"noise": torch.full((3,), torch.inf if split == "test" else 0.0)}


def last_batch_shorter(self: Any, split: Any, generator: Any) -> Any:
    self.drawn = getattr(self, "drawn", 0) + 1
    return {"noise": torch.zeros(3 if self.drawn % 2 else 1)}


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    # signatures
    "init_params takes nothing": (
        bowl(init_params=lambda self: {}),
        "Mine.init_params must take (generator), it takes ()",
    ),
    "sample_problem without split": (
        bowl(sample_problem=lambda self, generator: {}),
        "Mine.sample_problem must take (split, generator), it takes (generator)",
    ),
    "sample_batch in another order": (
        bowl(sample_batch=lambda self, generator, split: {}),
        "Mine.sample_batch must take (split, generator) in this order, it takes (generator, split)",
    ),
    "loss without batch": (
        bowl(loss=lambda self, params, problem: params["a"].sum()),
        "Mine.loss must take (params, problem, batch), it takes (params, problem)",
    ),
    "loss wants more": (bowl(loss=lambda self, p, q, b, more: 0), "Mine.loss must take (params, problem, batch), it"),
    "loss by keyword": (
        bowl(loss=lambda self, *, params, problem, batch: 0),
        "Mine.loss must take (params, problem, batch), it takes (*, params, problem, batch)",
    ),
    "loss is a number": (bowl(loss=3), "Mine.loss must be a method that takes (params, problem, batch), found int"),
    "metrics": (bowl(metrics=lambda self, params: {}), "Mine.metrics must take (params, problem, batch)"),
    "groups is a dict": (bowl(groups={"a": "x"}), "Mine.groups must be a method that takes (), found dict"),
    "groups takes params": (bowl(groups=lambda self, params: {}), "Mine.groups must take (), it takes (params)"),
    "variant": (bowl(variant=lambda self: self), "Mine.variant must take (generator), it takes ()"),
    "to": (bowl(to=lambda self: self), "Mine.to must take (device), it takes ()"),
    "recommended_settings": (
        bowl(recommended_settings=lambda self: {}),
        "Mine.recommended_settings must be a classmethod",
    ),
    "vmappable": (bowl(vmappable="no"), "Mine.vmappable must be True or False, not no"),
    # draws
    "init_params returns None": (
        bowl(init_params=returns(None)),
        "Mine.init_params must return named tensors, a dict,",
    ),
    "init_params returns a list": (
        bowl(init_params=returns([torch.ones(2)])),
        "Mine.init_params must return named tensors, a dict, found list",
    ),
    "init_params returns numbers": (
        bowl(init_params=returns({"a": 1.0})),
        "Mine.init_params must return named tensors, a dict, but 'a' is float",
    ),
    "init_params returns arrays": (bowl(init_params=returns({"a": np.ones(2)})), "a dict, but 'a' is ndarray"),
    "init_params returns integers": (
        bowl(init_params=returns({"a": torch.ones(2, dtype=torch.int64)})),
        "Mine.init_params must return floating-point tensors, but 'a' is torch.int64",
    ),
    "init_params returns nothing": (bowl(init_params=returns({})), "Mine.init_params must return at least one"),
    "init_params returns no number": (
        bowl(init_params=returns({"a": torch.zeros(0)})),
        "Mine.init_params must return at least one parameter, found parameters without a number",
    ),
    "init_params returns nan": (
        bowl(init_params=returns({"a": torch.tensor([1.0, float("nan")])})),
        "Mine.init_params must be finite, but 'a' is not",
    ),
    "names that are numbers": (bowl(init_params=returns({3: torch.ones(2)})), "with names as keys, found the key 3"),
    "sparse": (bowl(sample_problem=returns({"c": torch.eye(3).to_sparse()})), "of dense tensors, but 'c' is torch.sp"),
    "without values": (bowl(init_params=returns({"a": torch.ones(2, device="meta")})), "but 'a' is on the meta device"),
    "sample_problem returns None": (
        bowl(sample_problem=returns(None)),
        "Mine.sample_problem must return named tensors, a dict, found None",
    ),
    "sample_batch returns a pair": (
        bowl(sample_batch=returns((torch.ones(2), torch.ones(2)))),
        "Mine.sample_batch must return named tensors, a dict, found tuple",
    ),
    "sample_batch is a coroutine": (bowl(sample_batch=returns(iter([]))), "a dict, found list_iterator"),
    "shapes of problems": (bowl(sample_problem=of_any_size), "Mine.sample_problem must return the same shapes every"),
    "types of problems": (bowl(sample_problem=of_any_type), "Mine.sample_problem must return the same types every"),
    "names of problems": (bowl(sample_problem=of_any_name), "Mine.sample_problem must return the same names every"),
    "shapes of batches": (bowl(sample_batch=last_batch_shorter), "Mine.sample_batch must return the same shapes"),
    "shapes of parameters": (
        bowl(init_params=lambda self, generator: {"a": torch.ones(int(100 * torch.rand((), generator=generator)))}),
        "Mine.init_params must return the same shapes every time",
    ),
    "in validation only": (bowl(sample_batch=longer_in_validation), "Mine.loss fails with RuntimeError: The size of"),
    "of the same shape, in test only": (
        bowl(sample_batch=infinite_in_test),
        "Mine.loss is not finite at θ_0: inf on the test split",
    ),
    "in test only": (bowl(sample_batch=fails_in_test), "Mine.sample_batch fails with KeyError: 'no test data'"),
    # randomness
    "torch": (
        bowl(init_params=lambda self, generator: {"a": torch.randn(2), "b": torch.ones(3)}),
        "Mine.init_params uses the global random state of torch",
    ),
    "seeds torch": (bowl(init_params=seeds_torch), "Mine.init_params uses the global random state of torch"),
    "numpy": (
        bowl(sample_problem=lambda self, split, generator: {"center": torch.tensor(np.random.rand(3))}),
        "Mine.sample_problem uses the global random state of numpy",
    ),
    "Python": (
        bowl(sample_batch=lambda self, split, generator: {"noise": torch.full((3,), random.random())}),
        "Mine.sample_batch uses the global random state of Python",
    ),
    "in the loss": (
        bowl(loss=lambda self, params, problem, batch: base(params, problem, batch) + torch.rand(())),
        "Mine.loss uses the global random state of torch",
    ),
    "entropy of the system": (
        bowl(sample_batch=lambda self, *_: {"noise": torch.tensor(np.random.default_rng().random(3))}),
        "Mine.sample_batch gives another result with the same generator",
    ),
    "a state of its own": (bowl(loss=counts), "Mine.loss gives another result when it is called again with the same"),
    # changes in place
    "changes params": (
        bowl(loss=changes("params", lambda params: params["a"].detach().mul_(0.9))),
        "Mine.loss changes its argument params in place, in 'a'",
    ),
    "changes params under autograd": (
        bowl(loss=changes("params", lambda params: params["a"].clamp_(-9, 9))),
        "Mine.loss changes its argument params in place, in 'a'",
    ),
    "changes params by data": (
        bowl(loss=changes("params", lambda params: params["a"].data.add_(1))),
        "Mine.loss changes its argument params in place, in 'a'",
    ),
    "changes its problem": (
        bowl(loss=changes("problem", lambda problem: problem["center"].mul_(0.9))),
        "Mine.loss changes its argument problem in place, in 'center'",
    ),
    "replaces in its batch": (
        bowl(loss=changes("batch", lambda batch: batch.update(noise=torch.zeros(3)))),
        "Mine.loss changes its argument batch in place, in 'noise'",
    ),
    "takes from its batch": (
        bowl(loss=changes("batch", lambda batch: batch.pop("noise"))),
        "Mine.loss changes its argument batch in place, in 'noise'",
    ),
    "adds to its problem": (
        bowl(loss=changes("problem", lambda problem: problem.update(more=1))),
        "Mine.loss changes its argument problem in place, in 'more'",
    ),
    "metrics change params": (
        bowl(metrics=lambda self, params, problem, batch: {"m": params["a"].zero_().sum()}),
        "Mine.metrics changes its argument params in place, in 'a'",
    ),
    # the loss
    "loss returns a vector": (
        bowl(loss=lambda self, params, *_: params["a"]),
        "Mine.loss must return a scalar tensor (shape []), found shape [2]",
    ),
    "loss returns None": (bowl(loss=returns(None)), "Mine.loss must return a scalar tensor (shape []), found None"),
    "loss returns a number": (bowl(loss=returns(1.5)), "Mine.loss must return a scalar tensor (shape []), found float"),
    "loss returns a pair": (bowl(loss=lambda self, p, *_: (p["a"].sum(), {})), "a scalar tensor (shape []), found tup"),
    "loss is complex": (bowl(loss=lambda self, p, *_: p["a"].sum() * 1j), "Mine.loss must return a real number, found"),
    "loss is infinite": (bowl(loss=lambda self, p, *_: p["a"].sum() / 0), "Mine.loss is not finite at θ_0: inf"),
    "loss is nan": (bowl(loss=lambda self, p, *_: (-p["a"]).sqrt().sum()), "Mine.loss is not finite at θ_0: nan"),
    "loss is constant": (
        bowl(loss=lambda self, p, *_: p["a"].detach().sum()),
        "Mine.loss is not differentiable: it does not depend on params through autograd",
    ),
    "loss of something else": (
        bowl(loss=lambda self, p, *_: torch.ones((), requires_grad=True) * 2),
        "Mine.loss is not differentiable: it does not depend on params through autograd",
    ),
    "loss is differentiated": (
        bowl(loss=lambda self, p, *_: Stubborn.apply(p["a"].sum())),
        "Mine.loss cannot be differentiated: ValueError: no gradient (tests",
    ),
    "loss has an infinite gradient": (
        bowl(loss=lambda self, p, *_: p["a"].sum() + (p["b"] - 1).norm().sqrt()),
        "Mine.loss has a gradient that is not finite at θ_0, in parameter 'b'",
    ),
    "loss raises": (bowl(loss=raises(ValueError("a\nb"))), "Mine.loss fails with ValueError: a (tests"),
    "loss ends the process": (bowl(loss=raises(SystemExit(0))), "Mine.loss fails with SystemExit: 0 (tests"),
    "loss interrupts": (bowl(loss=raises(KeyboardInterrupt())), "Mine.loss fails with KeyboardInterrupt (tests"),
    "loss says what is wrong": (bowl(loss=raises(OptimizeeError("no data in x"))), "no data in x"),
    # several problems at once
    "branch": (bowl(loss=looks_at_values), "or set vmappable = False in the class)"),
    "item": (bowl(loss=with_item), "Mine.loss works for one problem, but not for several at once"),
    "numpy in the loss": (bowl(loss=with_numpy), "or set vmappable = False in the class)"),
    "dynamic shape": (bowl(loss=of_dynamic_shape), "or set vmappable = False in the class)"),
    "no rule": (bowl(loss=without_a_rule), "or set vmappable = False in the class)"),
    "another result": (bowl(loss=knows_the_crowd), "beside others, under torch.vmap"),
    # metrics and groups
    "metrics return None": (
        bowl(metrics=returns(None)),
        "Mine.metrics must return named scalar tensors, a dict, found None",
    ),
    "metrics return numbers": (bowl(metrics=returns({"m": 1.0})), "a dict, but 'm' is float"),
    "metrics return vectors": (
        bowl(metrics=returns({"m": torch.ones(2)})),
        "Mine.metrics must return named floating-point scalars (shape []), but 'm' is torch.float32 with shape [2]",
    ),
    "metrics return truth": (bowl(metrics=returns({"m": torch.tensor(True)})), "but 'm' is torch.bool with shape []"),
    "metrics of a taken name": (
        bowl(metrics=returns({"final_loss": torch.ones(())})),
        "Mine.metrics must not use the name 'final_loss'",
    ),
    "metrics raise": (bowl(metrics=raises(KeyError("x"))), "Mine.metrics fails with KeyError: 'x' (tests"),
    "groups return a list": (bowl(groups=returns(["a"])), "names by names, found list"),
    "groups of what there is not": (
        bowl(groups=returns({"c": "x"})),
        "Mine.groups names c, but the parameters are a, b",
    ),
    "groups that are numbers": (bowl(groups=returns({"a": 3})), "Mine.groups must return the group of each parameter"),
    # moving, families
    "to returns None": (bowl(to=returns(None)), "Mine.to must return the object itself, found None"),
    "to returns another": (bowl(to=lambda self, device: type(self)()), "Mine.to must return the object itself, found"),
    "variant returns None": (
        bowl(variant=returns(None)),
        "Mine.variant must return an Optimizee that has a loss, found None",
    ),
    "variant returns a class": (bowl(variant=returns(Bowl)), "that has a loss, found ABCMeta"),
    "variant is a family": (bowl(variant=returns(Polynomials())), "that has a loss, found the family Polynomials"),
    "one variant is broken": (
        lambda: Pair(bowl(loss=returns(None))()),
        "Mine.loss must return a scalar tensor (shape []), found None",
    ),
}


class Pair(OptimizeeFamily):
    """A bowl or another."""

    def __init__(self, other: Optimizee) -> None:
        self.parts = [Bowl(), other]

    def variant(self, generator: Any) -> Optimizee:
        return self.parts[int(torch.randint(2, (), generator=generator))]

    def to(self, device: Any) -> Optimizee:
        return self


class Linear(Bowl):
    """Has a module of torch inside."""

    def __init__(self) -> None:
        self.module = nn.Linear(3, 1)

    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        return self.module(torch.ones(4)).sum()


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said(case: str) -> None:
    make, message = BROKEN[case]
    assert message in message_of(make())


@pytest.mark.parametrize(
    "make",
    [
        Bowl,
        Polynomials,
        lambda: Pair(Bowl()),
        bowl(loss=lambda self, params, problem, batch: params["a"].square().sum()),  # a parameter may go unused
        bowl(vmappable=False, loss=looks_at_values),
        bowl(loss=staticmethod(base), metrics=lambda self, *_: {"m": torch.zeros(())}, groups=returns({"a": "x"})),
        bowl(
            sample_problem=returns({"center": torch.tensor([float("nan"), 1.0, 1.0])}),
            loss=lambda s, p, q, b: p["a"].sum(),
        ),
    ],
)
def test_what_is_right_passes_and_nothing_changes(make: Callable[[], Optimizee]) -> None:
    optimizee = make()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index,union-attr]
    check(optimizee)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # type: ignore[index,arg-type]
    assert states[2] == random.getstate()


def test_of_a_long_trace_the_frames_of_the_plugin_are_said() -> None:
    message = message_of(Linear())
    assert message.startswith("Linear.loss fails with RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert message.count(".py:") == 1
    assert "test_checking.py:" in message


def test_long_values_are_cut() -> None:
    message = message_of(bowl(groups=returns({"c" * 9999: "x"}))())
    assert len(message) < 300


def test_control_characters_are_not_printed() -> None:
    assert "\x1b" not in message_of(bowl(loss=raises(ValueError("\x1b[31mred")))())


class Norm(Bowl):
    """Keeps running statistics, in a module, and in a tensor of a list where ``listed``."""

    vmappable = False

    def __init__(self, where: str = "module") -> None:
        self.where = where
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.means = [torch.zeros(3)]

    def _note(self, batch: Any) -> None:
        if self.where == "list":
            self.means[0].lerp_(batch["noise"], 0.1)
        else:
            self.norm(batch["noise"].expand(2, 3))

    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        if self.where != "metrics":
            self._note(batch)
        return super().loss(params, problem, batch)

    def metrics(self, params: Any, problem: Any, batch: Any) -> Any:
        if self.where == "metrics":
            self._note(batch)
        return {}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("module", "Norm.loss changes norm.num_batches_tracked in place"),
        ("list", "Norm.loss changes means[0] in place"),
        ("metrics", "Norm.metrics changes norm.num_batches_tracked in place"),
    ],
)
def test_an_optimizee_keeps_no_state(where: str, message: str) -> None:
    told = f"{message}: it must keep no state (batch normalization: track_running_stats=False)"
    assert message_of(Norm(where)) == told
    with pytest.raises(AssertionError, match=re.escape(told)):
        pure_loss(Norm(where))


def test_modules_are_moved_with_the_object() -> None:
    moved = Norm().to("meta")
    assert all(buffer.is_meta for buffer in moved.norm.buffers())  # type: ignore[attr-defined]
