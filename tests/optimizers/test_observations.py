"""What a policy observes, by hand, and what it must not depend on."""

import math

import pytest
import torch
from torch import Tensor

from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.observations import PARTS, Observed, num_features, observe

SIZES = (2, 1, 0)


def evaluations(num_steps: int = 4, scale: float = 1.0) -> list[Evaluation]:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(num_steps, 2, 2, 3, generator=generator, dtype=torch.float64)
    return [Evaluation(scale * (3.0 + grad.sum(1).tanh()), scale * grad, params) for grad, params in draws]


def observed(
    parts: tuple[str, ...], sizes: tuple[int, ...] | None, steps: list[Evaluation], memory: int = 3
) -> list[Tensor]:
    seen = Observed.nothing(torch.zeros((), dtype=torch.float64), (2, 3), parts, memory)
    found = []
    for evaluation in steps:
        observation, seen = observe(evaluation, seen, parts, sizes)
        found.append(observation)
    return found


@pytest.mark.parametrize("sizes", [None, SIZES, (3,)])
@pytest.mark.parametrize("memory", [1, 3])
def test_one_row_an_action(sizes: tuple[int, ...] | None, memory: int) -> None:
    found = observed(PARTS, sizes, evaluations(), memory)
    for each in found:
        assert each.shape == (2, 3 if sizes is None else len(sizes), num_features(PARTS, memory))
        assert each.isfinite().all()


def test_gradients_by_hand() -> None:
    """g = 1, then -2, in one coordinate: v̂ = (0.999 + 4)/(1.999), ⟨∇_1 ∇_0⟩/v̂ = -2/v̂; before the first step 0."""
    steps = [Evaluation(torch.ones(1), torch.tensor([[g]]), torch.zeros(1, 1)) for g in (1.0, -2.0)]
    seen = Observed.nothing(torch.zeros(()), (1, 1), ("gradients",), 2)
    first, seen = observe(steps[0], seen, ("gradients",), None)
    second, seen = observe(steps[1], seen, ("gradients",), None)
    assert first.flatten().tolist() == [0.0, 0.0]
    square = (0.001 * 0.999 + 0.001 * 4.0) / (1.0 - 0.999**2)
    assert second.flatten().tolist() == [pytest.approx(-2.0 / square, rel=1e-3), 0.0]


def test_losses_by_hand() -> None:
    """From 3 to 1 a loss changed by (1 - 3)/(1 + 3); what was before the first step is no change."""
    steps = [Evaluation(torch.tensor([f]), torch.ones(1, 1), torch.zeros(1, 1)) for f in (3.0, 1.0)]
    seen = Observed.nothing(torch.zeros(()), (1, 1), ("losses",), 2)
    first, seen = observe(steps[0], seen, ("losses",), None)
    second, seen = observe(steps[1], seen, ("losses",), None)
    assert first.flatten().tolist() == [0.0, 0.0]
    assert second.flatten().tolist() == [-0.5, 0.0]
    assert seen.losses.flatten().tolist() == [1.0, 3.0]


def test_parameters_and_size_by_hand() -> None:
    """Two coordinates pooled: ⟨θ²⟩ = 2.5, ⟨θ∇⟩ = (1·2 + 2·0)/2, v̂ = ⟨∇²⟩ = 2 after one step."""
    step = Evaluation(torch.ones(1), torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 2.0]]))
    seen = Observed.nothing(torch.zeros(()), (1, 2), ("sizes", "params"), 1)
    found, _ = observe(step, seen, ("sizes", "params"), (2,))
    expected = [math.log(2.0) / 20, math.log(2.5) / 20, 1.0 / math.sqrt(2.5 * 2.0)]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("sizes", [None, SIZES])
def test_scale_of_the_loss_is_seen_in_sizes_alone(sizes: tuple[int, ...] | None) -> None:
    parts = ("moments", "gradients", "losses", "time")
    for one, other in zip(
        observed(parts, sizes, evaluations()), observed(parts, sizes, evaluations(scale=1e4)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    differ = zip(
        observed(("sizes",), sizes, evaluations()), observed(("sizes",), sizes, evaluations(scale=1e4)), strict=True
    )
    assert all(not torch.allclose(one[:, :2], other[:, :2]) for one, other in differ)


def test_signs_are_not_seen() -> None:
    """The negative of a coordinate, of gradient and parameter alike, is the same coordinate."""
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    flipped = [Evaluation(step.loss, step.grad * flip, step.params * flip) for step in evaluations()]
    for one, other in zip(observed(PARTS, None, evaluations()), observed(PARTS, None, flipped), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_huge_gradients_are_bounded() -> None:
    steps = [Evaluation(torch.ones(1) * g, torch.full((1, 3), g), torch.ones(1, 3)) for g in (1.0, 1e30, 0.0, 1.0)]
    seen = Observed.nothing(torch.zeros(()), (1, 3), PARTS, 3)
    for step in steps:
        found, seen = observe(step, seen, PARTS, SIZES)
        assert found.isfinite().all()
        assert found.abs().max() <= 10.0
