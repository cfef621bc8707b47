"""What every optimizee that ships with meta-opt has to fulfil; an exception is a field of the table."""

import ast
import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

import meta_opt_optimizees
from meta_opt.api import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizee import check_loss
from meta_opt.problems import Problems
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.mnist_mlp import MnistMlp
from meta_opt_optimizees.quadratic import Quadratic

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Case:
    optimizee: Callable[[], Optimizee]
    num_coordinates: int
    metrics: frozenset[str] = frozenset()
    has_data: bool = False
    needs_files: bool = False


CASES = {
    "quadratic": Case(Quadratic, 10),
    "quadratic, uniform": Case(lambda: Quadratic(convention="uniform"), 10),
    "digits_mlp": Case(DigitsMlp, 64 * 20 + 20 + 20 * 10 + 10, frozenset({"accuracy"}), has_data=True),
    "digits_mlp, two layers": Case(
        lambda: DigitsMlp([7, 5], "leaky_relu", init_std=None), 64 * 7 + 7 + 7 * 5 + 5 + 5 * 10 + 10,
        frozenset({"accuracy"}), has_data=True,
    ),
    "mnist_mlp": Case(
        MnistMlp, 784 * 20 + 20 + 20 * 10 + 10, frozenset({"accuracy"}), has_data=True, needs_files=True
    ),
}  # fmt: skip

made = functools.cache(lambda name: CASES[name].optimizee())


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    if CASES[request.param].needs_files and "META_OPT_DATA_DIR" not in os.environ:
        pytest.skip("META_OPT_DATA_DIR, the folder that holds the data sets, is not set")
    return request.param


@pytest.fixture
def optimizee(name: str) -> Optimizee:
    return made(name)


def draw(optimizee: Optimizee, seed: int, split: Split = "train") -> tuple[TensorDict, TensorDict, TensorDict]:
    """θ_0, problem and mini-batch, in float64."""
    generator = Generator().manual_seed(seed)
    drawn = (
        optimizee.init_params(generator),
        optimizee.sample_problem(generator),
        optimizee.sample_batch(split, generator),
    )
    params, problem, batch = (
        {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
        for tensors in drawn
    )
    return params, problem, batch


def same(one: TensorDict, other: TensorDict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def classes() -> set[type]:
    """All optimizees of the package but families, whose variants are built from these."""
    modules = [
        importlib.import_module(f"meta_opt_optimizees.{info.name}")
        for info in pkgutil.iter_modules(meta_opt_optimizees.__path__)
    ]
    return {
        member
        for module in modules
        for member in vars(module).values()
        if inspect.isclass(member)
        and issubclass(member, Optimizee)
        and member.__module__ == module.__name__
        and not issubclass(member, OptimizeeFamily)
    }


def test_the_table_holds_every_optimizee() -> None:
    assert classes() == {Quadratic, MnistMlp, DigitsMlp}


def test_plugins_import_only_the_api() -> None:
    imported = set()
    for path in Path(meta_opt_optimizees.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    assert {module for module in imported if module.split(".")[0] == "meta_opt"} == {"meta_opt.api"}


def test_loss_is_a_finite_differentiable_scalar(optimizee: Optimizee) -> None:
    check_loss(optimizee, Generator().manual_seed(0))
    for split in SPLITS:
        loss = optimizee.loss(*draw(optimizee, 0, split))
        assert loss.shape == ()
        assert 0 < loss.item() < 1e4


def test_number_of_coordinates(name: str, optimizee: Optimizee) -> None:
    params, _, _ = draw(optimizee, 0)
    assert sum(value.numel() for value in params.values()) == CASES[name].num_coordinates


def test_draws_depend_on_the_generator_alone(optimizee: Optimizee) -> None:
    torch.manual_seed(1)
    first = draw(optimizee, 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again, other = draw(optimizee, 0), draw(optimizee, 1)
    assert torch.equal(torch.get_rng_state(), state)
    for one, two, three in zip(first, again, other, strict=True):
        assert same(one, two)
        assert not one or not same(one, three)


def test_loss_and_metrics_are_pure(optimizee: Optimizee) -> None:
    arguments, untouched = draw(optimizee, 0), draw(optimizee, 0)
    results = [(optimizee.loss(*arguments), optimizee.metrics(*arguments)) for _ in range(2)]
    assert torch.equal(results[0][0], results[1][0])
    assert same(results[0][1], results[1][1])
    assert all(same(one, two) for one, two in zip(arguments, untouched, strict=True))


def test_vmap_equals_one_by_one(optimizee: Optimizee) -> None:
    drawn = [draw(optimizee, seed) for seed in range(3)]
    stacked = [
        {key: torch.stack([tensors[key] for tensors in column]) for key in column[0]}
        for column in zip(*drawn, strict=True)
    ]
    expected = torch.stack([optimizee.loss(*arguments) for arguments in drawn])
    torch.testing.assert_close(torch.vmap(optimizee.loss)(*stacked), expected, rtol=1e-12, atol=0)


def test_gradient_equals_finite_differences(optimizee: Optimizee) -> None:
    problems = Problems(optimizee, "train", [0], seed=0, dtype=torch.float64)
    theta, step = problems.initial_params, 1e-6
    gradient = problems.evaluate(theta).grad
    direction = torch.randn(theta.shape, dtype=torch.float64, generator=Generator().manual_seed(0))

    def loss(theta: Tensor) -> float:  # of the first mini-batch
        return Problems(optimizee, "train", [0], seed=0, dtype=torch.float64).evaluate(theta).loss.item()

    slope = (loss(theta + step * direction) - loss(theta - step * direction)) / (2 * step)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_metrics(name: str, optimizee: Optimizee) -> None:
    metrics = optimizee.metrics(*draw(optimizee, 0))
    assert metrics.keys() == CASES[name].metrics
    assert all(value.shape == () and 0 <= value <= 1 for value in metrics.values())


def test_splits_draw_different_examples(name: str, optimizee: Optimizee) -> None:
    batches = [optimizee.sample_batch(split, Generator().manual_seed(0)) for split in SPLITS]
    assert all(bool(batch) is CASES[name].has_data for batch in batches)
    if CASES[name].has_data:
        rows = torch.cat([batch["inputs"].unique(dim=0) for batch in batches])
        assert len(rows.unique(dim=0)) == len(rows)


def test_to_moves_what_batches_are_made_of(name: str) -> None:
    optimizee = CASES[name].optimizee()
    assert optimizee.to("meta") is optimizee
    batch = optimizee.sample_batch("train", Generator().manual_seed(0))
    assert {value.device.type for value in batch.values()} == ({"meta"} if CASES[name].has_data else set())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_loss(name: str) -> None:
    optimizee = CASES[name].optimizee().to("cuda")
    on_gpu = Problems(optimizee, "train", [0, 1], seed=0, device="cuda", dtype=torch.float64)
    on_cpu = Problems(made(name), "train", [0, 1], seed=0, dtype=torch.float64)
    evaluation, expected = (problems.evaluate(problems.initial_params) for problems in (on_gpu, on_cpu))
    torch.testing.assert_close(evaluation.loss.cpu(), expected.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(evaluation.grad.cpu(), expected.grad, rtol=1e-8, atol=1e-12)


def test_recommended_settings_are_options(optimizee: Optimizee) -> None:
    settings = optimizee.recommended_settings()
    assert settings["model.num_steps"] >= settings["model.unroll_length"] > 0
    assert {key.split(".")[0] for key in settings} <= {"model", "optimizer", "trainer"}


def test_constructor_arguments_are_plain(optimizee: Optimizee) -> None:
    arguments = optimizee.plain_init_args(str)
    assert arguments is not None
    assert arguments.keys() == inspect.signature(type(optimizee)).parameters.keys()


@pytest.mark.parametrize("kind", classes())
def test_every_option_is_documented(kind: type) -> None:
    assert kind.__doc__
    assert kind.__doc__.splitlines()[0].endswith(".")
    for argument in inspect.signature(kind).parameters:
        assert f"    {argument}: " in str(inspect.getdoc(kind.__init__))
