"""Lengths of steps from the last step, by hand."""

import math

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.secants import LONGER, LastStep, secant_lengths


def of_all(rows: Tensor) -> Tensor:
    return rows.mean(1, keepdim=True)


def lengths(update: list[float], before: list[float], grad: list[float]) -> tuple[float, float, list[float]]:
    last = LastStep(torch.tensor([update]), torch.tensor([before]))
    length, limit, told = secant_lengths(last, torch.tensor([grad]), 0.1, 5.0, of_all)
    return length.item(), limit.item(), told[0, 0].tolist()


def test_by_hand() -> None:
    """s = (-1, 0), ∇ from (4, 0) to (2, 0): y = (-2, 0), |s|/|y| = 1/2, and |∇| 1/2 is a step of (-1, 0)."""
    length, limit, told = lengths([-1.0, 0.0], [4.0, 0.0], [2.0, 0.0])
    root = math.sqrt(0.5)
    assert length == pytest.approx(root)
    assert limit == pytest.approx(LONGER * root)
    assert told == pytest.approx([1.0, 0.0, math.log10(root / 0.1) / 4.0], abs=1e-6)


def test_negative_curvature_is_told() -> None:
    _, _, told = lengths([-1.0, 0.0], [1.0, 0.0], [2.0, 0.0])
    assert told[0] == pytest.approx(-1.0)


def test_before_the_first_step() -> None:
    length, limit, told = lengths([0.0, 0.0], [0.0, 0.0], [3.0, 1.0])
    assert (length, limit) == pytest.approx((0.1, 0.1))
    assert told == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("update", "before", "grad", "expected"),
    [
        ([1.0, 1.0], [1.0, 1.0], [1.001, 1.001], 3.0),  # three times as long as the last
        ([4.0, 4.0], [1.0, 1.0], [1.001, 1.001], 5.0),  # the longest there is
        ([1.0, 1.0], [2.0, 2.0], [2.0, 2.0], 1.0),  # a step that changed nothing says nothing
    ],
)
def test_limits(update: list[float], before: list[float], grad: list[float], expected: float) -> None:
    assert lengths(update, before, grad)[0] == pytest.approx(expected)


@pytest.mark.parametrize(("action", "direction"), [("tensor", "gradient"), ("coordinate", "gradient")])
def test_untrained_policy_finds_the_minimum_of_a_bowl(action: str, direction: str) -> None:
    """3|θ|²/2: a first step of length 0.1 tells the curvature; while steps may grow threefold it gets there."""
    layout = Layout.of({"theta": torch.zeros(2)})
    network = AlphaOpt(action=action, direction=direction, unit="secant", base_rate=0.1, decades=1.0, hidden_size=4)  # type: ignore[arg-type]
    network.build(layout, Generator().manual_seed(0))
    torch.nn.init.zeros_(network.output_weight)
    params, state = torch.tensor([[2.0, -1.0]]), network.init_state(layout, 1)
    for _ in range(6):
        grad = 3.0 * params
        update, state, _ = network.step(Evaluation(1.5 * params.square().sum(1), grad, params), state)
        params = (params + update).detach()
    assert float(params.abs().max()) < 1e-5
