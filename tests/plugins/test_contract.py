"""What every optimizee and optimizer that ships with meta-opt has to fulfil; an exception is a field of the table."""

import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Generator, Tensor

import meta_opt_optimizees
from meta_opt.api import Optimizee, OptimizerNetwork, Split, TensorDict
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.hierarchical_rnn import HierarchicalRNN
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM
from meta_opt.testing import optimizee_checks, optimizer_checks
from meta_opt_optimizees.cifar_cnn import CifarCnn
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.digits_tuning import DigitsTuning
from meta_opt_optimizees.gp_functions import GPFunctions
from meta_opt_optimizees.landscape import Landscape
from meta_opt_optimizees.mixture import Mixture
from meta_opt_optimizees.mnist_cnn import MnistCnn
from meta_opt_optimizees.mnist_mlp import MnistMlp
from meta_opt_optimizees.networks_at_large import NetworksAtLarge
from meta_opt_optimizees.omniglot import Omniglot
from meta_opt_optimizees.quadratic import Quadratic
from meta_opt_optimizees.small_mlps import SmallMlps
from meta_opt_optimizees.subsets import Subsets

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Case:
    optimizee: Callable[[], Optimizee]
    num_coordinates: int
    metrics: frozenset[str] = frozenset()
    needs_files: bool = False
    step: float = 1e-6  # of finite differences; shorter where many ReLUs have their kinks


CLASSES = frozenset({"accuracy"})
CASES = {
    "quadratic": Case(Quadratic, 10),
    "quadratic, uniform": Case(lambda: Quadratic(convention="uniform"), 10),
    "digits_mlp": Case(DigitsMlp, 64 * 20 + 20 + 20 * 10 + 10, CLASSES),
    "digits_mlp, two layers": Case(
        lambda: DigitsMlp([7, 5], "leaky_relu", init_std=None), 64 * 7 + 7 + 7 * 5 + 5 + 5 * 10 + 10, CLASSES
    ),
    "mnist_mlp": Case(MnistMlp, 784 * 20 + 20 + 20 * 10 + 10, CLASSES, needs_files=True),
    "gp_functions": Case(lambda: GPFunctions(3), 3),
    "digits_tuning": Case(DigitsTuning, 2),
    "landscape": Case(Landscape, 2, frozenset({"found"})),
    "mnist_cnn": Case(
        lambda: MnistCnn([4, 3], 3, [5], batch_size=16),
        4 * 9 + 4 + 3 * 4 * 9 + 3 + 3 * 7 * 7 * 5 + 5 + 5 * 10 + 10, CLASSES, needs_files=True, step=1e-9,
    ),
    "cifar_cnn": Case(
        lambda: CifarCnn([4, 3], 3, [5], batch_size=16),
        4 * 3 * 9 + 4 + 3 * 4 * 9 + 3 + 3 * 8 * 8 * 5 + 5 + 5 * 10 + 10, CLASSES, needs_files=True, step=1e-9,
    ),
    "cifar_cnn, plain": Case(
        lambda: CifarCnn([4], 5, [], normalize=False, labels=[3, 5], batch_size=16, init_std=None),
        4 * 3 * 25 + 4 + 4 * 16 * 16 * 2 + 2, CLASSES, needs_files=True, step=1e-9,
    ),
    "omniglot": Case(
        lambda: Omniglot(num_channels=4), 4 * 9 + 3 * 4 * 4 * 9 + 4 * 4 + 4 * 10 + 10,
        frozenset({"accuracy", "new_accuracy"}), needs_files=True, step=1e-9,
    ),
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Optimizee]] = {
    "networks_at_large": NetworksAtLarge,
    "mixture": lambda: Mixture([Quadratic(3), DigitsMlp()]),
    "small_mlps": lambda: SmallMlps(batch_size=16),
    "subsets": lambda: Subsets(DigitsMlp(), (50, 1000)),
}
NEEDS_FILES = {"small_mlps", *(name for name, case in CASES.items() if case.needs_files)}
OPTIMIZERS: dict[str, Callable[[], OptimizerNetwork]] = {
    "paper": CoordinatewiseLSTM,
    "gradients": partial(CoordinatewiseLSTM, 1, 5, inputs="none", share="tensor"),
    "moments": partial(CoordinatewiseLSTM, 1, 5, inputs="moments", output="tanh", share="group"),
    "base step": partial(CoordinatewiseLSTM, 2, 4, inputs="log_sign+moments", base_step=0.03, initial_output=0.0),
    "no layers": partial(CoordinatewiseLSTM, 0, inputs="moments"),
    "tensor features": partial(CoordinatewiseLSTM, 1, 5, share="kind", tensor_features=True),
    "scales": partial(CoordinatewiseLSTM, 1, 5, inputs="log_sign+moments+scales", output="magnitude", base_step=0.03),
    "orthogonal": partial(CoordinatewiseLSTM, 1, 5, inputs="log_sign+moments+scales+orthogonal", base_step=0.03),
    "soap": partial(LearnedSOAP, hidden_size=4, initial_output=1.0),
    "subspace": partial(SubspaceLSTM, 2, 5),
    "transfers": partial(
        CoordinatewiseLSTM,
        1,
        4,
        inputs="log_sign+moments+scales+orthogonal",
        base_step=0.06,
        anneal_after=3,
        spectral=True,
        horizon=True,
    ),
    "averages": partial(LSTMGAC, 2, 5),
    "hierarchy": partial(HierarchicalRNN, 4, 5, 6),
    "memory": partial(NTMBFGS, 1, 5),
    "memory of the last writes": partial(NTMBFGS, 1, 5, num_writes=2, rank=2, base_write=0.0),
    "averages in tensors": partial(LSTMGAC, 1, 4, 1, "tensor", inputs="none", output="linear", base_step=0.0),
}

made = functools.cache(lambda name: FAMILIES[name]() if name in FAMILIES else CASES[name].optimizee())


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS_FILES and "META_OPT_DATA_DIR" not in os.environ:
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
        optimizee.sample_problem(split, generator),
        optimizee.sample_batch(split, generator),
    )
    params, problem, batch = (
        {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
        for tensors in drawn
    )
    return params, problem, batch


def classes() -> set[type]:
    """All optimizees of the package."""
    modules = [
        importlib.import_module(f"meta_opt_optimizees.{info.name}")
        for info in pkgutil.iter_modules(meta_opt_optimizees.__path__)
    ]
    return {
        member
        for module in modules
        for member in vars(module).values()
        if issubclass(type(member), type) and issubclass(member, Optimizee) and member.__module__ == module.__name__
    }


def test_the_table_holds_every_optimizee() -> None:
    families = {Mixture, NetworksAtLarge, SmallMlps, Subsets}
    networks = {DigitsMlp, MnistMlp, MnistCnn, CifarCnn, Omniglot}
    assert classes() == families | networks | {Quadratic, Landscape, GPFunctions, DigitsTuning}


@pytest.mark.parametrize("name", [*CASES, *FAMILIES], indirect=True)
@pytest.mark.parametrize("check", optimizee_checks())
def test_optimizees(check: Callable[[Optimizee], None], optimizee: Optimizee) -> None:
    check(optimizee)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("check", optimizer_checks())
def test_optimizers(check: Callable[[OptimizerNetwork], None], name: str) -> None:
    check(OPTIMIZERS[name]())


def test_number_of_coordinates(name: str, optimizee: Optimizee) -> None:
    params, _, _ = draw(optimizee, 0)
    assert sum(value.numel() for value in params.values()) == CASES[name].num_coordinates


def test_gradient_equals_finite_differences(name: str, optimizee: Optimizee) -> None:
    problems = Problems(optimizee, "train", [0], seed=0, dtype=torch.float64)
    theta, step = problems.initial_params, CASES[name].step
    gradient = problems.evaluate(theta).grad
    direction = torch.randn(theta.shape, dtype=torch.float64, generator=Generator().manual_seed(0))

    def loss(theta: Tensor) -> float:  # of the first mini-batch
        return Problems(optimizee, "train", [0], seed=0, dtype=torch.float64).evaluate(theta).loss.item()

    slope = (loss(theta + step * direction) - loss(theta - step * direction)) / (2 * step)
    assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_metrics(name: str, optimizee: Optimizee) -> None:
    metrics = optimizee.metrics(*draw(optimizee, 0))
    assert metrics.keys() == CASES[name].metrics
    assert all(value.shape == () and 0 <= value <= 1 for value in metrics.values())


@pytest.mark.gpu
def test_a_gpu_gives_the_same_loss(name: str) -> None:
    optimizee = CASES[name].optimizee().to("cuda")
    on_gpu = Problems(optimizee, "train", [0, 1], seed=0, device="cuda", dtype=torch.float64)
    on_cpu = Problems(made(name), "train", [0, 1], seed=0, dtype=torch.float64)
    evaluation, expected = (problems.evaluate(problems.initial_params) for problems in (on_gpu, on_cpu))
    # Data is scaled in float32, where a GPU multiplies with the reciprocal of what a CPU divides by.
    torch.testing.assert_close(evaluation.loss.cpu(), expected.loss, rtol=1e-8, atol=0)
    torch.testing.assert_close(evaluation.grad.cpu(), expected.grad, rtol=1e-6, atol=1e-8)


def test_recommended_lengths(optimizee: Optimizee) -> None:
    settings = optimizee.recommended_settings()
    assert settings["model.num_steps"] >= settings["model.unroll_length"] > 0


@pytest.mark.parametrize("kind", sorted(classes(), key=lambda kind: kind.__name__))
def test_every_option_is_documented(kind: type) -> None:
    assert kind.__doc__
    assert kind.__doc__.splitlines()[0].endswith(".")
    for argument in inspect.signature(kind).parameters:
        assert f"    {argument}: " in str(inspect.getdoc(kind.__init__))
