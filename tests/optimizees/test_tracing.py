"""A traced evaluation is the eager one, and whatever cannot be traced is evaluated as it stands."""

import copy
import gc
import itertools
import pickle
import random
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from meta_opt.optimizees import tracing
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.module import ModuleOptimizee
from meta_opt.optimizees.problems import Evaluation, Problems
from meta_opt.optimizees.tracing import Traces

STEPS = 3  # how many evaluations come before tracing, in these tests

scale = 1.0  # a global variable that a loss reads
calls = 0


@pytest.fixture(autouse=True)
def trace_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EAGER_FIRST", STEPS)


class Base(Optimizee):
    """‖W θ - y‖², with a new y at every step."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"theta": torch.randn(3, generator=generator), "unused": torch.randn(2, generator=generator)}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"w": torch.randn(4, 3, generator=generator)}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {"y": torch.randn(4, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return (problem["w"] @ params["theta"] - batch["y"]).square().sum()


def draw(optimizee: Optimizee, num_problems: int = 1, dtype: torch.dtype = torch.float32) -> Problems:
    return Problems(optimizee, "train", range(num_problems), seed=1, dtype=dtype)


def eager(problems: Problems) -> Problems:
    """The same problems, never traced."""
    problems.trace = False
    return problems


def traces(problems: Problems) -> Traces:
    return problems._traces


def assert_equal(one: Evaluation, other: Evaluation) -> None:
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(one.grad, other.grad)


def both(make: Callable[[], Optimizee], num_problems: int = 1, steps: int = 12, between: Any = None) -> Problems:
    """Traced and eager evaluations along a walk, each of its own optimizee; equal at every step."""
    optimizees = [make(), make()]
    traced, plain = draw(optimizees[0], num_problems), eager(draw(optimizees[1], num_problems))
    for step in range(steps):
        if between is not None:
            for optimizee in optimizees:
                between(optimizee, step)
        theta = traced.initial_params * (1 - 0.1 * step)
        assert_equal(traced.evaluate(theta), plain.evaluate(theta))
    return traced


# ------------------------------------------------------------------------------------------------------- what is traced
@pytest.mark.parametrize("num_problems", [1, 3])
def test_a_trace_takes_over_and_gives_the_same(num_problems: int) -> None:
    problems = both(Base, num_problems)
    assert traces(problems).num_in_use == 1
    assert traces(problems).reasons() == [""]


@pytest.mark.parametrize("num_problems", [1, 3])
def test_a_trace_does_not_call_the_loss(num_problems: int) -> None:
    problems = both(Base, num_problems)
    problems._optimizee.loss = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):  # which the trace noticed: it depends on it
        problems.evaluate(problems.initial_params)


@pytest.mark.parametrize("num_problems", [1, 3])
def test_the_loss_alone(num_problems: int) -> None:
    traced, plain = draw(Base(), num_problems), eager(draw(Base(), num_problems))
    for step in range(12):
        theta = traced.initial_params * (1 - 0.1 * step)
        found, expected = traced.evaluate(theta, grad=False), plain.evaluate(theta)
        assert torch.equal(found.loss, expected.loss)
        assert "grad" not in vars(found)
    assert traces(traced).num_in_use == 1


def test_without_gradient_there_is_no_backward_pass() -> None:
    class OneWay(Base):
        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return NoBackward.apply(params["theta"]).sum()

    class NoBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            raise AssertionError("a backward pass")

    problems = draw(OneWay())
    for _ in range(10):
        evaluation = problems.evaluate(problems.initial_params, grad=False)
        assert evaluation.loss.item() == pytest.approx(2 * problems.initial_params[0, :3].sum().item(), rel=1e-6)
    with pytest.raises(AssertionError, match="a backward pass"):
        problems.evaluate(problems.initial_params)


def test_results_keep_no_graph_and_arguments_stay() -> None:
    problems = both(Base)
    theta = problems.initial_params.clone().requires_grad_()
    evaluation = problems.evaluate(theta)
    assert not any(tensor.requires_grad for tensor in (evaluation.loss, evaluation.grad, evaluation.params))
    assert torch.equal(theta, problems.initial_params)


def test_other_shapes_have_other_traces_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_MOST_TRACES", 3)

    class Ragged(Base):
        length = 1

        def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
            self.length = self.length % 6 + 1
            return {"y": torch.randn(self.length, generator=generator)}

        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return params["theta"].square().sum() * batch["y"].mean()

    problems = both(Ragged, steps=60)
    assert len(traces(problems)._traces) == 3


@pytest.mark.parametrize("seed", range(3))
def test_ragged_batches_within_the_bound_are_traced(seed: int) -> None:
    class Ragged(Base):
        def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
            length = int(torch.randint(1, 4, (), generator=generator))
            return {"y": torch.randn(length, generator=generator)}

        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return params["theta"].square().sum() * batch["y"].mean() / len(batch["y"])

    assert traces(both(Ragged, steps=60)).num_in_use == 3


def test_a_shallow_copy_shares_the_traces_of_what_it_shares() -> None:
    data = (torch.randn(9, 4, generator=Generator().manual_seed(0)), torch.arange(9) % 3)
    optimizee = ModuleOptimizee(Linear, train=data, validation=data, test=data, batch_size=5)
    problems = draw(optimizee)
    for _ in range(10):
        problems.evaluate(problems.initial_params)
    part = draw(optimizee.with_examples(4, Generator().manual_seed(1)))
    assert traces(part) is traces(problems)
    assert_equal(
        part.evaluate(part.initial_params),
        eager(draw(optimizee.with_examples(4, Generator().manual_seed(1)))).evaluate(part.initial_params),
    )
    assert traces(part).num_in_use == 1
    assert traces(part).reasons() == [""]


class Linear(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 3), factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) * self.factor


def test_another_module_is_another_loss() -> None:
    data = (torch.randn(9, 4, generator=Generator().manual_seed(0)), torch.arange(9) % 3)
    first = ModuleOptimizee(Linear, train=data, validation=data, test=data, batch_size=5)
    problems = draw(first)
    for _ in range(10):
        problems.evaluate(problems.initial_params)
    assert traces(problems).num_in_use == 1
    second = first.with_module(partial(Linear, 3.0), None)
    assert traces(draw(second)) is traces(problems)
    for optimizee in (first, second, first, second):
        traced, plain = draw(optimizee), eager(draw(optimizee))
        for _ in range(8):
            assert_equal(traced.evaluate(traced.initial_params), plain.evaluate(traced.initial_params))


# -------------------------------------------------------------------------------------------- what a trace depends on
class Scaled(Base):
    """A loss that reads an attribute of every sort."""

    by_class = 1.0

    def __init__(self) -> None:
        self.number, self.tensor, self.numbers, self.table = 1.0, torch.ones(3), [1.0], {"one": 1.0}
        self.module, self.other, self.criterion = Linear(), Inner(), mse_loss

    @property
    def twice(self) -> float:
        return 2 * self.number

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        factor = self.number * self.numbers[0] * self.table["one"] * self.module.factor * self.by_class * self.twice
        theta = params["theta"] * self.tensor * factor * self.other.value * scale
        return self.criterion(problem["w"] @ theta, batch["y"])


class Inner:
    """Any object."""

    value = 1.0


def set_global(value: float) -> None:
    global scale
    scale = value


CHANGES: dict[str, Callable[[Scaled], Any]] = {
    "number": lambda optimizee: setattr(optimizee, "number", 2.0),
    "tensor": lambda optimizee: setattr(optimizee, "tensor", torch.full((3,), 2.0)),
    "in place": lambda optimizee: optimizee.tensor.mul_(2.0),
    "data": lambda optimizee: setattr(optimizee.tensor, "data", torch.full((3,), 2.0)),
    "list": lambda optimizee: optimizee.numbers.__setitem__(0, 2.0),
    "dict": lambda optimizee: optimizee.table.update(one=2.0),
    "module": lambda optimizee: setattr(optimizee.module, "factor", 2.0),
    "other object": lambda optimizee: setattr(optimizee.other, "value", 2.0),
    "function": lambda optimizee: setattr(optimizee, "criterion", nn.functional.l1_loss),
    "hides the class's": lambda optimizee: setattr(optimizee, "by_class", 2.0),
    "global": lambda optimizee: set_global(2.0),
    "method": lambda optimizee: setattr(optimizee, "loss", lambda params, problem, batch: params["theta"].sum()),
}


@pytest.fixture
def global_back() -> Iterator[None]:
    yield
    set_global(1.0)


@pytest.mark.usefixtures("global_back")
@pytest.mark.parametrize("num_problems", [1, 2])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_the_loss_reads_is_seen(name: str, num_problems: int) -> None:
    before = both(Scaled, num_problems)
    assert traces(before).num_in_use == 1
    unchanged = before.evaluate(before.initial_params).loss

    def between(optimizee: Any, step: int) -> None:
        if step == 8:
            CHANGES[name](optimizee)

    problems = both(Scaled, num_problems, steps=20, between=between)
    assert traces(problems).num_in_use == 1
    assert not torch.equal(problems.evaluate(problems.initial_params).loss, unchanged)


def test_a_change_of_a_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class ByType(Base):
        factor = 1.0

        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return params["theta"].sum() * type(self).factor

    problems = draw(ByType())
    for _ in range(10):
        loss = problems.evaluate(problems.initial_params).loss.item()
    assert traces(problems).num_in_use == 1
    monkeypatch.setattr(ByType, "factor", 3.0)
    assert problems.evaluate(problems.initial_params).loss.item() == pytest.approx(3 * loss, rel=1e-6)


def test_an_attribute_may_lead_back_to_the_optimizee() -> None:
    class Bound(Base):
        def __init__(self) -> None:
            self.number, self.function = 1.0, self.residual

        def residual(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return (problem["w"] @ params["theta"] - batch["y"]) * self.number

        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return self.function(params, problem, batch).square().sum()

    def between(optimizee: Any, step: int) -> None:
        if step == 8:
            optimizee.number = 2.0

    assert traces(both(Bound, steps=20, between=between)).num_in_use == 1


def test_the_order_of_a_mini_batch_s_tensors_does_not_matter() -> None:
    class Unordered(Base):
        turn = False

        def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
            self.turn = not self.turn
            batch = {"y": torch.randn(4, generator=generator), "x": torch.randn(4, generator=generator)}
            return dict(reversed(batch.items())) if self.turn else batch

        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return (problem["w"] @ params["theta"] - batch["y"] + 3 * batch["x"]).square().sum()

    assert traces(both(Unordered, steps=30)).num_in_use == 2


def test_what_changes_all_the_time_is_not_traced() -> None:
    problems = both(Scaled, steps=60, between=lambda optimizee, step: setattr(optimizee, "number", float(step)))
    assert traces(problems).num_in_use == 0


def test_moving_the_data_is_seen() -> None:
    optimizee = Scaled()
    problems = draw(optimizee)
    for _ in range(10):
        problems.evaluate(problems.initial_params)
    assert traces(problems).num_in_use == 1
    optimizee.to("meta")
    with pytest.raises(RuntimeError):  # as without a trace: data and θ on different devices
        problems.evaluate(problems.initial_params)


# ------------------------------------------------------------------------------------------------ what is not traced
class Branches(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        loss = super().loss(params, problem, batch)
        return loss if batch["y"].sum() > 0 else 3 * loss


class Items(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, batch) * batch["y"][0].item()


class Lists(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, batch) * sum(batch["y"].tolist())


class Arrays(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, batch) * float(batch["y"].numpy().sum())


class Masks(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return (params["theta"].sum() * batch["y"][batch["y"] > -0.5]).sum()


class Counts(Base):
    def __init__(self) -> None:
        self.calls = 0

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.calls += 1
        return super().loss(params, problem, batch) * (1 if self.calls < 9 else 2)


class CountsInside(Base):
    def __init__(self) -> None:
        self.table = {"calls": 0}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.table["calls"] += 1
        return super().loss(params, problem, batch) * (1 if self.table["calls"] < 9 else 2)


class CountsInClosure(Base):
    def __init__(self) -> None:
        count = 0

        def factor() -> int:
            nonlocal count
            count += 1
            return 1 if count < 9 else 2

        self.factor = factor

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, batch) * self.factor()


class CountsByNumPy(Base):
    def __init__(self) -> None:
        self.calls = np.zeros(1)

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.calls[0] += 1
        return super().loss(params, problem, batch) * (1 if self.calls[0] < 9 else 2)


class CountsInTensor(Base):
    def __init__(self) -> None:
        self.calls = torch.zeros(())

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.calls.add_(1)
        return super().loss(params, problem, batch) * self.calls


class CountsInModule(Base):
    def __init__(self) -> None:
        self.module = Linear()

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.module.factor += 1
        return super().loss(params, problem, batch) * (1 if self.module.factor < 9 else 2)


class CountsInClass(Base):
    calls = 0

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        type(self).calls += 1
        return super().loss(params, problem, batch) * (1 if type(self).calls < 9 else 2)


class CountsInDict(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return super().loss(params, problem, batch) * (1 if self.__dict__["calls"] < 9 else 2)


class ChangesBatch(Base):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, {"w": problem["w"].add_(0.1)}, {"y": batch["y"].mul_(2)})


class Seeded(Base):
    def __init__(self) -> None:
        self.generator = Generator().manual_seed(0)

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, batch) * torch.rand((), generator=self.generator)


class PythonRandom(Base):
    def __init__(self) -> None:
        self.random = random.Random(0)

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, batch) * self.random.random()


UNTRACEABLE = {
    Branches: "DataDependent",
    Items: "looks at the value of a tensor",
    Lists: "looks at the value of a tensor",
    Arrays: "numpy",
    Masks: "shape that depends on values",
    ChangesBatch: "changes a tensor in place",
    Counts: "sets the attribute calls",
    CountsInside: "changes something",
    CountsInClosure: "changes something",
    CountsByNumPy: "ndarray",
    CountsInTensor: "changes",
    CountsInModule: "changes something",
    CountsInClass: "attribute of its class",
    CountsInDict: "reads all attributes",
}


@pytest.mark.parametrize("make", UNTRACEABLE)
def test_what_cannot_be_traced_runs_as_it_stands(make: type[Base]) -> None:
    problems, plain = draw(make()), eager(draw(make()))
    for step in range(14):
        theta = problems.initial_params * (1 - 0.1 * step)
        found, expected = problems.evaluate(theta), plain.evaluate(theta)
        # The attempt to trace calls the loss too, so that what counts its calls may have counted further.
        if "Counts" not in make.__name__ or step < STEPS:
            assert_equal(found, expected)
    assert traces(problems).num_in_use == 0
    assert UNTRACEABLE[make] in traces(problems).reasons()[0]


@pytest.mark.parametrize("make", [Seeded, PythonRandom])
def test_random_losses_stay_random(make: type[Base]) -> None:
    problems = draw(make())
    problems.draw_batch = lambda: {"y": torch.zeros(1, 4)}  # type: ignore[method-assign]
    losses = [problems.evaluate(problems.initial_params).loss.item() for _ in range(14)]
    assert len(set(losses)) == 14
    assert traces(problems).num_in_use == 0


def test_dropout_like_randomness_stays_random() -> None:
    class Drops(Base):
        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return nn.functional.dropout(params["theta"].repeat(99)).sum()

    problems = draw(Drops())
    assert len({problems.evaluate(problems.initial_params).loss.item() for _ in range(14)}) == 14
    assert "random" in traces(problems).reasons()[0]


def test_an_error_of_the_loss_is_raised_as_it_is() -> None:
    class Fails(Base):
        def __init__(self) -> None:
            self.fails = False

        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            if self.fails:
                raise ValueError("no more")
            return super().loss(params, problem, batch)

    optimizee = Fails()
    problems = draw(optimizee)
    for _ in range(10):
        problems.evaluate(problems.initial_params)
    assert traces(problems).num_in_use == 1
    optimizee.fails = True
    with pytest.raises(ValueError, match="no more"):
        problems.evaluate(problems.initial_params)


def test_autocast_is_not_traced_and_seen() -> None:
    def precise() -> Problems:
        return draw(Base(), 2)

    traced, plain = precise(), eager(precise())
    for _ in range(8):
        assert_equal(traced.evaluate(traced.initial_params), plain.evaluate(traced.initial_params))
    assert traces(traced).num_in_use == 1
    with torch.autocast("cpu", torch.bfloat16):
        rounded = traced.evaluate(traced.initial_params)
        assert_equal(rounded, plain.evaluate(traced.initial_params))
    assert not torch.equal(rounded.loss.float(), precise().evaluate(traced.initial_params).loss)


def test_second_derivatives_are_eager_beside_a_trace() -> None:
    problems = both(Base)
    theta = problems.initial_params.clone().requires_grad_()
    evaluation = problems.evaluate(theta, graph="second")
    (product,) = torch.autograd.grad(evaluation.grad.sum(), theta)
    w = problems._problem["w"][0]
    torch.testing.assert_close(product[0, :3], (2 * w.T @ w).sum(1))


# ----------------------------------------------------------------------------------------------------- copies and ends
def test_copies_and_pickles_begin_anew() -> None:
    problems = both(Base)
    for twin in (copy.deepcopy(problems), pickle.loads(pickle.dumps(problems._traces))):
        other = twin if isinstance(twin, Traces) else traces(twin)
        assert other.reasons() == []
    twin = copy.deepcopy(problems)
    assert_equal(twin.evaluate(twin.initial_params), problems.evaluate(problems.initial_params))
    optimizee = pickle.loads(pickle.dumps(problems._optimizee))
    again, plain = draw(optimizee), eager(draw(Base()))
    for _ in range(10):
        assert_equal(again.evaluate(again.initial_params), plain.evaluate(again.initial_params))
    assert traces(again).num_in_use == 1


def test_a_trace_keeps_nothing_alive() -> None:
    problems = both(Base)
    optimizee = weakref.ref(problems._optimizee)
    del problems
    gc.collect()
    assert optimizee() is None


# ---------------------------------------------------------------------------------------------------- random optimizees
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "none": nn.Identity}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    num_problems=st.integers(1, 4),
    batch_size=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    normalize=st.booleans(),
    bias=st.booleans(),
    regression=st.booleans(),
)
def test_traced_equals_eager(
    sizes: list[int],
    activation: str,
    num_problems: int,
    batch_size: int,
    dtype: torch.dtype,
    normalize: bool,
    bias: bool,
    regression: bool,
) -> None:
    def network() -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=bias), ACTIVATIONS[activation]()]
            layers += [nn.LayerNorm(outputs)] if normalize else []
        return nn.Sequential(*layers)

    generator = Generator().manual_seed(sum(sizes))
    inputs = torch.randn(7, sizes[0], generator=generator)
    classes = torch.randint(sizes[-1], (7,), generator=generator)
    targets = torch.randn(7, sizes[-1], generator=generator) if regression else classes
    options: dict[str, Any] = {"criterion": mse_loss} if regression else {}
    data = (inputs, targets)
    optimizee = ModuleOptimizee(network, train=data, validation=data, test=data, batch_size=batch_size, **options)
    traced, plain = draw(optimizee, num_problems, dtype), eager(draw(optimizee, num_problems, dtype))
    for step in range(STEPS + tracing.CHECKED + 3):
        theta = traced.initial_params * (1 - 0.1 * step)
        found, expected = traced.evaluate(theta), plain.evaluate(theta)
        tolerance = 32 * torch.finfo(dtype).eps
        for one, other in ((found.loss, expected.loss), (found.grad, expected.grad)):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * other.abs().max().item())
    assert traces(traced).reasons() == [""]
    assert traces(traced).num_in_use == 1
