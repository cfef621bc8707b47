"""Steps that mean the same in every tensor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm.settings import shortened, unit_of

STEP = 0.08
OPTIONS: dict[str, Any] = {
    "num_layers": 1,
    "hidden_size": 4,
    "inputs": "log_sign+moments+scales+orthogonal",
    "initial_output": 0.0,
    "output": "magnitude",
}


def base_step(layout: Layout, **options: Any) -> CoordinatewiseLSTM:
    """Of a network that says nothing."""
    optimizer = CoordinatewiseLSTM(**{**OPTIONS, **options})
    optimizer.build(layout, torch.Generator().manual_seed(0))
    return optimizer


@pytest.mark.parametrize(
    ("shape", "unit"),
    [
        ((4, 100), 1 / 10),  # √max(1, 4/100) / √100
        ((100, 4), 5 / 10),  # √25 / √100
        ((8, 2, 3, 6), 1 / 6),  # 8 rows of 36
        ((7,), 0.15),
        ((), 0.15),
        ((0, 3), 0.15),
    ],
)
def test_unit_by_hand(shape: tuple[int, ...], unit: float) -> None:
    (segment,) = Layout.of({"theta": torch.zeros(shape)}).segments("all", tensors=True)
    assert unit_of(segment) == pytest.approx(unit)


@pytest.mark.parametrize("shape", [(16, 16), (256, 16), (16, 256), (1024, 8)])
def test_the_first_step_of_a_matrix_has_the_norm_that_transfers(shape: tuple[int, int]) -> None:
    layout = Layout.of({"theta": torch.zeros(shape)})
    optimizer = base_step(layout, base_step=STEP, spectral=True)
    grad = torch.randn(1, layout.num_coordinates, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        update = optimizer.step(Evaluation.of(grad=grad), optimizer.init_state(layout, 1)).update
    norm = torch.linalg.matrix_norm(update.view(shape), 2)
    # Newton-Schulz iterations bring singular values to 0.7 to 1.2.
    assert 0.7 < float(norm) / (STEP * math.sqrt(max(1, shape[0] / shape[1]))) < 1.25


def test_rows_of_an_embedding_move_by_the_base_step() -> None:
    layout = Layout.of({"theta": torch.zeros(500, 16)})
    optimizer = base_step(layout, base_step=STEP, spectral=True)
    grad = torch.randn(1, layout.num_coordinates, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        update = optimizer.step(Evaluation.of(grad=grad), optimizer.init_state(layout, 1)).update
    norm = float(update.view(500, 16).norm(dim=1).square().mean().sqrt())
    assert 0.7 < norm / STEP < 1.25


@pytest.mark.parametrize(
    ("shape", "factor"),
    [((3, 40), 1.0), ((4, 4), 1.0), ((8, 16), 0.5), ((16, 2, 2, 4), 0.25), ((64,), 1.0), ((0, 3), 1.0)],
)
def test_updates_of_wider_matrices_are_shortened(shape: tuple[int, ...], factor: float) -> None:
    (segment,) = Layout.of({"theta": torch.zeros(shape)}).segments("all", tensors=True)
    assert shortened(segment, 4) == factor


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.largest_width must be 1 or more, not 0"):
        CoordinatewiseLSTM(largest_width=0)


def final_loss(width: int, **options: Any) -> float:
    """After 200 steps on a network of this width: 20 inputs, 10 classes."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(2000, 20, generator=generator)
    labels = (
        torch.tanh(inputs @ torch.randn(20, 16, generator=generator)) @ torch.randn(16, 10, generator=generator)
    ).argmax(1)
    params = {
        "first": torch.randn(width, 20, generator=generator) / math.sqrt(20),
        "offset": torch.zeros(width),
        "second": torch.randn(10, width, generator=generator) / math.sqrt(width),
    }
    layout = Layout.of(params)
    optimizer, theta = base_step(layout, **options), layout.flatten(params)
    state = optimizer.expect(optimizer.init_state(layout, 1), 200)
    rollout, losses = optimizer.rollout(state), []

    def loss_of(theta: Tensor) -> Tensor:
        named, drawn = layout.unflatten(theta), torch.randint(2000, (64,), generator=generator)
        hidden = functional.relu(inputs[drawn] @ named["first"].T + named["offset"])
        return functional.cross_entropy(hidden @ named["second"].T, labels[drawn])

    for _ in range(200):
        theta = theta.detach().requires_grad_()
        loss = loss_of(theta)
        (grad,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta = theta + rollout.step(Evaluation.of(grad=grad.unsqueeze(0)))[0]
        losses.append(float(loss.detach()))
    return sum(losses[-20:]) / 20


def test_one_step_size_serves_all_widths() -> None:
    widths = (16, 64, 256, 1024)
    ours = [final_loss(width, base_step=STEP, spectral=True, horizon=True) for width in widths]
    before = [final_loss(width, base_step=0.06, horizon=True) for width in widths]
    assert ours == sorted(ours, reverse=True)  # wider networks are no worse
    assert ours[-1] < 0.4 * ours[0]
    assert before[-1] > 1.3 * before[-2]  # too large a step for the widest
