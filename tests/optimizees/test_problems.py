from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import OptimizeeError
from meta_opt.optimizees import tracing
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.module import ModuleOptimizee
from meta_opt.optimizees.problems import Problems, problem_generator


class NoisyQuadratic(Optimizee):
    """‖W(θ_1 + θ_2) - y‖², with a new y at every step, and θ in two tensors."""

    def __init__(self, vmappable: bool = True) -> None:
        self.vmappable = vmappable

    def init_params(self, generator: Generator) -> TensorDict:
        return {"one": torch.randn(3, generator=generator), "two": torch.randn(3, 1, generator=generator)}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"w": torch.randn(4, 3, generator=generator)}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {"y": torch.randn(4, generator=generator), "count": torch.randint(9, (2,), generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return self._residual(params, problem, batch).square().sum()

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"worst": self._residual(params, problem, batch).abs().max()}

    @staticmethod
    def _residual(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return problem["w"] @ (params["one"] + params["two"].squeeze(1)) - batch["y"]


class Still(NoisyQuadratic):
    """The same without noise."""

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {}

    @staticmethod
    def _residual(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return problem["w"] @ (params["one"] + params["two"].squeeze(1))


def draw(indices: list[int], optimizee: Optimizee | None = None, split: Split = "train", seed: int = 1) -> Problems:
    return Problems(optimizee or NoisyQuadratic(), split, indices, seed=seed, dtype=torch.float64)


def losses(problems: Problems, num_steps: int = 3) -> Tensor:
    """A fixed walk through θ: the losses on the way, [num_steps, B]."""
    thetas = [problems.initial_params * (1 - 0.1 * t) for t in range(num_steps)]
    return torch.stack([problems.evaluate(theta).loss for theta in thetas])


def test_shapes() -> None:
    problems = draw([0, 1, 2, 3, 4])
    evaluation = problems.evaluate(problems.initial_params)
    assert len(problems) == 5
    assert problems.layout.names == ("one", "two")
    assert problems.initial_params.shape == evaluation.grad.shape == evaluation.params.shape == (5, 6)
    assert evaluation.loss.shape == (5,)


class Changes(NoisyQuadratic):
    """Keeps its contract for some draws of mini-batches, and breaks it at the last."""

    def __init__(self, breach: str) -> None:
        super().__init__()
        self.breach = breach
        self.left = 4

    @property
    def late(self) -> bool:
        return self.left <= 0

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        self.left -= 1
        batch = super().sample_batch(split, generator)
        late: dict[str, Any] = {
            "shapes": {**batch, "y": torch.zeros(5 + self.left % 2)},
            "names": {"z": batch["y"]},
            "nothing": None,
            "list": [batch],
            "number": {**batch, "count": 3},
        }
        return late.get(self.breach, batch) if self.late else batch

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Any:
        loss = super().loss(params, problem, batch)
        late: dict[str, Any] = {"vector": loss.expand(3), "float": 1.5, "detached": loss.detach()}
        return late.get(self.breach, loss) if self.late else loss


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("breach", "message"),
    [
        ("shapes", r"Changes.sample_batch must return the same shapes every time, but 'y' has shape \[\d\] once"),
        ("names", "Changes.sample_batch must return the same names every time, found y, count and z"),
        ("nothing", "Changes.sample_batch must return named tensors, a dict, found None"),
        ("list", "Changes.sample_batch must return named tensors, a dict, found list"),
        ("number", "Changes.sample_batch must return named tensors, a dict, but 'count' is int"),
        ("vector", r"Changes.loss must return a scalar tensor \(shape \[\]\), found shape \[3\]"),
        ("float", r"Changes.loss must return a scalar tensor \(shape \[\]\), found float"),
        ("detached", "Changes.loss does not depend on params through autograd"),
    ],
)
def test_late_breaches_of_the_contract(breach: str, message: str, count: int) -> None:
    if count == 1 and breach in ("shapes", "names"):
        pytest.skip("what one problem draws need not be alike")
    problems = Problems(Changes(breach), "train", range(count), seed=1)
    for _ in range(4 // count - 1):
        problems.evaluate(problems.initial_params)
    with pytest.raises(OptimizeeError, match=message):
        problems.evaluate(problems.initial_params)


def test_everything_is_of_the_type_asked_for() -> None:
    problems = Problems(NoisyQuadratic(), "train", [0, 1], seed=1, dtype=torch.float32)
    evaluation = problems.evaluate(problems.initial_params)
    assert {problems.initial_params.dtype, evaluation.loss.dtype, evaluation.grad.dtype} == {torch.float32}


@pytest.mark.parametrize("vmappable", [True, False])
def test_one_at_a_time_equals_all_at_once(vmappable: bool) -> None:
    optimizee = NoisyQuadratic(vmappable)
    together = draw([0, 1, 2, 3], optimizee)
    for t in range(3):
        theta = together.initial_params * (1 - 0.1 * t)
        at_once = together.evaluate(theta)
        for index in range(4):
            alone = draw([index], optimizee)
            for _ in range(t + 1):
                evaluation = alone.evaluate(theta[index : index + 1])
            torch.testing.assert_close(evaluation.loss, at_once.loss[index : index + 1], rtol=1e-12, atol=0)
            torch.testing.assert_close(evaluation.grad, at_once.grad[index : index + 1], rtol=1e-12, atol=1e-12)


def test_a_problem_is_the_same_whatever_stands_beside_it() -> None:
    # Index 7 alone, in other company and in another place.
    expected = losses(draw([7]))[:, 0]
    torch.testing.assert_close(losses(draw([3, 7]))[:, 1], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses(draw([7, 0, 1]))[:, 0], expected, rtol=1e-12, atol=0)


def test_a_problem_is_another_one_for_another_index_split_or_seed() -> None:
    others = [draw([8]), draw([7], split="validation"), draw([7], seed=2)]
    assert all((problems.initial_params != draw([7]).initial_params).all() for problems in others)


def test_gradient_is_that_of_hand_algebra() -> None:
    problems = draw([0, 1, 2], Still())
    theta = problems.initial_params
    evaluation = problems.evaluate(theta)
    for index in range(3):
        generator = problem_generator(1, "train", index)
        w = Still().sample_problem("train", generator)["w"].double()
        total = theta[index, :3] + theta[index, 3:]
        torch.testing.assert_close(evaluation.loss[index], (w @ total).square().sum(), rtol=1e-12, atol=0)
        torch.testing.assert_close(evaluation.grad[index], (2 * w.T @ w @ total).repeat(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_problems", [1, 3])
def test_second_derivatives(num_problems: int) -> None:
    problems = draw(list(range(num_problems)), Still())
    theta = problems.initial_params.clone().requires_grad_()
    evaluation = problems.evaluate(theta, graph="second")
    (product,) = torch.autograd.grad(evaluation.grad.sum(), theta)
    for index in range(num_problems):
        w = Still().sample_problem("train", problem_generator(1, "train", index))["w"].double()
        # The Hessian is 2WᵀW in each of its four blocks; here it is multiplied by a vector of ones.
        torch.testing.assert_close(product[index], (4 * w.T @ w).sum(1).repeat(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_problems", [1, 3])
def test_evaluating_keeps_no_graph_and_changes_nothing(num_problems: int) -> None:
    problems = draw(list(range(num_problems)))
    before = problems.initial_params.clone()
    theta = problems.initial_params
    evaluation = problems.evaluate(theta)
    assert not any(tensor.requires_grad for tensor in (theta, evaluation.loss, evaluation.grad, evaluation.params))
    assert torch.equal(theta, before)
    assert torch.equal(evaluation.params, before)


def test_evaluating_works_without_grad_mode() -> None:
    with torch.no_grad():
        problems = draw([0, 1])
        assert problems.evaluate(problems.initial_params).grad.abs().min() > 0


@pytest.mark.parametrize(("optimizee", "stochastic"), [(NoisyQuadratic(), True), (Still(), False)])
def test_stochastic_losses_differ_from_step_to_step(optimizee: Optimizee, stochastic: bool) -> None:
    problems = draw([0, 1], optimizee)
    assert problems.repeated(2).stochastic is stochastic
    first, second = (problems.evaluate(problems.initial_params).loss for _ in range(2))
    assert problems.stochastic is stochastic
    assert (first != second).tolist() == [stochastic] * 2


@pytest.mark.parametrize("vmappable", [True, False])
@pytest.mark.parametrize("graph", ["none", "second"])
@pytest.mark.parametrize("count", [1, 2])
def test_losses_are_of_the_type_of_the_parameters(vmappable: bool, graph: Any, count: int) -> None:
    class Precise(NoisyQuadratic):
        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return super().loss(params, problem, batch).double() + torch.zeros((), dtype=torch.float64)

    problems = Problems(Precise(vmappable), "train", range(count), seed=1)
    for evaluation in (
        problems.evaluate(problems.initial_params, graph=graph),
        problems.evaluate(problems.initial_params, grad=False, graph=graph),
    ):
        assert evaluation.loss.dtype == torch.float32
    assert problems.evaluate(problems.initial_params, graph=graph).grad.dtype == torch.float32


def test_losses_on_held_back_batches_that_are_drawn_are_stochastic() -> None:
    class HoldsBack(Still):
        def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
            return {"x": torch.randn(2, generator=generator)}

    class HoldsTheSameBack(Still):
        def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
            return {"x": torch.ones(2)}

    def drawn(optimizee: Optimizee) -> Problems:
        return Problems(optimizee, "train", [0], seed=1, held_back=True)

    assert drawn(HoldsBack()).stochastic
    assert not drawn(HoldsTheSameBack()).stochastic
    first, second = drawn(HoldsBack()), drawn(HoldsBack())
    assert first.stochastic
    ahead = [each.judge(each.initial_params).loss for each in (first, second)]  # what was drawn for this is not missed
    assert torch.equal(*ahead)


@pytest.mark.parametrize("num_problems", [1, 3])
def test_metrics_are_of_the_batch_evaluated_last(num_problems: int) -> None:
    problems = draw(list(range(num_problems)))
    problems.evaluate(problems.initial_params)
    problems.evaluate(problems.initial_params)
    worst = problems.metrics(problems.initial_params)["worst"]
    for index in range(num_problems):
        optimizee, generator = NoisyQuadratic(), problem_generator(1, "train", index)
        problem, params = optimizee.sample_problem("train", generator), optimizee.init_params(generator)
        optimizee.sample_batch("train", generator)
        expected = optimizee.metrics(params, problem, optimizee.sample_batch("train", generator))["worst"]
        torch.testing.assert_close(worst[index].float(), expected, rtol=1e-5, atol=0)


def test_no_metrics() -> None:
    class Mute(Still):
        def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
            return {}

    problems = draw([0, 1], Mute())
    problems.evaluate(problems.initial_params)
    assert problems.metrics(problems.initial_params) == {}


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Module(ModuleOptimizee):
    """A network on data that is drawn, with PyTorch's own initialization."""

    def __init__(self) -> None:
        data = (torch.arange(24.0, dtype=torch.float32).view(8, 3) / 24, torch.arange(8) % 2)
        super().__init__(partial(nn.Linear, 3, 2), train=data, validation=data, test=data, batch_size=4)


@pytest.mark.parametrize("make", [NoisyQuadratic, Still, Module])
def test_problems_in_float64_are_those_in_float32(make: type[Optimizee], request: pytest.FixtureRequest) -> None:
    def walk(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        problems = Problems(make(), "train", range(3), seed=1, dtype=dtype)
        return problems.initial_params, losses(problems)

    params, single = walk(torch.float32)
    request.getfixturevalue("float64_by_default")
    for found in (walk(torch.float64), walk(torch.float32)):
        assert torch.equal(found[0].double(), params.double())  # drawn alike, to the last bit
        torch.testing.assert_close(found[1].double(), single.double(), rtol=1e-5, atol=1e-6)
    assert torch.get_default_dtype() == torch.float64


class Odd(Optimizee):
    """Tensors of every size: none, a scalar, one, many."""

    def init_params(self, generator: Generator) -> TensorDict:
        shapes = {"none": (0,), "rows": (0, 3), "scalar": (), "one": (1,), "many": (2, 3), "columns": (3, 0)}
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return torch.stack([value.square().sum() for value in params.values()]).sum()


@pytest.mark.parametrize("num_problems", [1, 3])
def test_tensors_of_every_size(num_problems: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EAGER_FIRST", 3)
    problems = draw(list(range(num_problems)), Odd())
    theta = problems.initial_params
    assert theta.shape == (num_problems, 8)
    for _ in range(12):  # traced in the end
        evaluation = problems.evaluate(theta)
    torch.testing.assert_close(evaluation.loss, theta.square().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(evaluation.grad, 2 * theta, rtol=1e-12, atol=0)
    assert {name: tuple(value.shape[1:]) for name, value in problems.layout.unflatten(theta).items()}["rows"] == (0, 3)
