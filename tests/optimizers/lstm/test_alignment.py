"""Updates of a tensor are longer as long as its gradients point where those before pointed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm.alignment import aligned

LAYOUT = Layout.of({"first": torch.zeros(3, 2), "second": torch.zeros(4)})


def updates(grads: list[Tensor], engine: str = "auto", **options: float) -> list[Tensor]:
    optimizer = CoordinatewiseLSTM(base_step=0.1, output_scale=0.0, engine=engine, **options)
    optimizer.build(LAYOUT, torch.Generator().manual_seed(0))
    with torch.no_grad():
        rollout = optimizer.rollout(optimizer.init_state(LAYOUT, 1))
        return [rollout.step(Evaluation.of(grad=grad)) for grad in grads]


def test_by_hand() -> None:
    grad, mean = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert float(aligned(torch.zeros(1, 1), grad, mean)) == pytest.approx(0.05 * 24 / 25)
    assert float(aligned(torch.full((1, 1), 0.5), -0.1 * grad, mean)) == pytest.approx(0.475 - 0.05 * 24 / 25)


def test_the_first_gradient_says_nothing() -> None:
    assert float(aligned(torch.zeros(1, 1), torch.ones(1, 3), torch.zeros(1, 3))) == 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_comes_to_one(sign: float) -> None:
    alignment, grad = torch.zeros(1, 1), torch.ones(1, 3)
    for _ in range(300):
        alignment = aligned(alignment, sign * grad, grad)
    assert float(alignment) == pytest.approx(sign, abs=1e-5)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_each_tensor_has_its_own(engine: str) -> None:
    turning = [torch.cat([torch.ones(1, 6), torch.full((1, 4), (-1.0) ** step)], dim=1) for step in range(12)]
    as_they_are, longer = updates(turning, engine)[-1], updates(turning, engine, alignment=2.0)[-1]
    alignment = 1.0 - 0.95**11  # of the first tensor, and minus that of the second
    torch.testing.assert_close(longer[:, :6], as_they_are[:, :6] * math.exp(2.0 * alignment), rtol=1e-4, atol=0)
    torch.testing.assert_close(longer[:, 6:], as_they_are[:, 6:] * math.exp(-2.0 * alignment), rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [1e-12, 1e12, 1e30])
def test_the_size_of_gradients_says_nothing(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(1, 10, generator=generator) + 1.0 for _ in range(20)]
    one, other = (
        updates([factor * grad for grad in grads], alignment=2.0)[-1] / updates([factor * grad for grad in grads])[-1]
        for factor in (1.0, scale)
    )
    if scale < 1e15:
        torch.testing.assert_close(other, one)
    assert bool(other.isfinite().all())


@pytest.mark.parametrize("alignment", [-0.1, 11.0, float("nan")])
def test_out_of_range(alignment: float) -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.alignment must be from 0 to 10, not"):
        CoordinatewiseLSTM(base_step=0.1, alignment=alignment)


def test_moments_are_needed() -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.alignment needs moments"):
        CoordinatewiseLSTM(alignment=0.1)
