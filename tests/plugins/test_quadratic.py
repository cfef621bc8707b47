import pytest
import torch
from torch import Generator

from meta_opt.api import MetaOptError
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.quadratic import Quadratic


def test_loss_and_gradient_are_those_of_hand_algebra() -> None:
    optimizee = Quadratic()
    problems = Problems(optimizee, "train", [0], seed=0, dtype=torch.float64)
    theta = problems.initial_params
    w, y = (problems._problem[name][0] for name in ("w", "y"))
    residual = w @ theta[0] - y
    evaluation = problems.evaluate(theta)
    torch.testing.assert_close(evaluation.loss[0], residual @ residual, rtol=1e-12, atol=0)
    torch.testing.assert_close(evaluation.grad[0], 2 * w.T @ residual, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        # Each row of Wθ - y has variance d + 1: E f = d(d + 1).
        ("gaussian", 10 * 11),
        # E y² = 1/3 per row; E (Wθ)² = d · 1/3 · 0.01² is nothing beside it.
        ("uniform", 10 / 3),
    ],
)
def test_mean_loss_at_the_start(convention: str, expected: float) -> None:
    problems = Problems(Quadratic(convention=convention), "train", range(2000), seed=0)  # type: ignore[arg-type]
    assert problems.evaluate(problems.initial_params).loss.mean().item() == pytest.approx(expected, rel=0.05)


def test_ranges_of_the_conventions() -> None:
    generator = Generator().manual_seed(0)
    uniform = Quadratic(200, "uniform")
    w = uniform.sample_problem("train", generator)["w"]
    assert w.shape == (200, 200)
    assert 0 <= w.min() < 0.001
    assert 0.999 < w.max() < 1
    assert uniform.init_params(generator)["theta"].std().item() == pytest.approx(0.01, rel=0.15)
    gaussian = Quadratic(200)
    assert gaussian.sample_problem("train", generator)["w"].std().item() == pytest.approx(1.0, rel=0.02)
    assert gaussian.init_params(generator)["theta"].std().item() == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("condition", [1.0, 1000.0])
def test_condition_number(condition: float) -> None:
    w = Quadratic(7, condition=condition).sample_problem("train", Generator().manual_seed(0))["w"].double()
    eigenvalues = torch.linalg.eigvalsh(w.T @ w)
    expected = torch.logspace(0.0, float(torch.tensor(condition).log10()), 7, dtype=torch.float64)
    torch.testing.assert_close(eigenvalues / eigenvalues[0], expected, rtol=1e-4, atol=0)
    assert eigenvalues.mean().item() == pytest.approx(7.0)  # E tr WᵀW / N of a Gaussian W


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 0}, r"^optimizee\.dimension must be at least 1, not 0$"),
        ({"condition": 0.5}, r"^optimizee\.condition must be at least 1, not 0\.5$"),
        ({"condition": 9.0, "convention": "uniform"}, r"^optimizee\.condition is for the convention gaussian, not uni"),
        ({"convention": "gausian"}, r"^optimizee\.convention must be gaussian or uniform, not 'gausian'$"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        Quadratic(**options)  # type: ignore[arg-type]
