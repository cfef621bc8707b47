"""Updates are longer where the gradients of a tensor agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm.agreement import agreement, factors
from meta_opt.optimizers.lstm.preprocessing import Moments

SIZES = 2000, 1000


def agreed(grads: list[Tensor]) -> list[float]:
    """Of both tensors after these gradients, [1, 3000]."""
    moments = Moments.zeros(torch.empty(0, dtype=torch.float64), 1, sum(SIZES))
    for grad in grads:
        moments = moments.updated(grad)
    return agreement(moments, SIZES)[0].tolist()


def noise(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, sum(SIZES), generator=generator, dtype=torch.float64) for _ in range(count)]


def test_one_gradient_says_nothing() -> None:
    assert agreed(noise(1)) == pytest.approx([1, 1])


@pytest.mark.parametrize("count", [2, 5, 100])
def test_noise_does_not_agree(count: int) -> None:
    assert agreed(noise(count)) == pytest.approx([1, 1], rel=0.15)


def test_gradients_that_are_all_alike_agree_as_far_as_can_be() -> None:
    (grad,) = noise(1)
    assert agreed([grad] * 300) == pytest.approx([39, 39], rel=1e-4)


def test_each_tensor_has_its_own() -> None:
    (grad,) = noise(1)
    steady = [torch.cat([grad[:, :2000], each[:, 2000:]], dim=1) for each in noise(100)]
    first, second = agreed(steady)
    assert first > 30
    assert second < 1.2


def test_gradients_that_contradict_each_other_shorten_nothing() -> None:
    (grad,) = noise(1)
    moments = Moments.zeros(grad, 1, grad.shape[1])
    for step in range(100):
        moments = moments.updated(grad * (-1) ** step)
    assert float(agreement(moments, SIZES).max()) < 0.1
    assert factors(moments, SIZES, 0.5).tolist() == [[1, 1]]


def test_a_base_step_is_longer_by_the_power() -> None:
    layout = Layout.of({"first": torch.zeros(3, 2), "second": torch.zeros(4)})
    updates = []
    for exponent in (0.0, 0.5):
        optimizer = CoordinatewiseLSTM(base_step=0.1, output_scale=0.0, agreement=exponent)
        optimizer.build(layout, torch.Generator().manual_seed(0))
        state = optimizer.init_state(layout, 1)
        with torch.no_grad():
            rollout = optimizer.rollout(state)
            update = torch.zeros(1)
            for _ in range(200):
                update = rollout.step(Evaluation.of(grad=torch.ones(1, 10)))
        updates.append(update)
    torch.testing.assert_close(updates[1], updates[0] * 39**0.5, rtol=1e-3, atol=0)


def test_moments_are_needed() -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.agreement needs moments"):
        CoordinatewiseLSTM(agreement=0.5)


@pytest.mark.parametrize("exponent", [-0.5, float("nan")])
def test_an_exponent_that_would_shorten_is_refused(exponent: float) -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.agreement must be 0 or more, not"):
        CoordinatewiseLSTM(base_step=0.1, agreement=exponent)
