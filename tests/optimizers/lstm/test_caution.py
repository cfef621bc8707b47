"""Updates that the last gradient speaks against are held back."""

from __future__ import annotations

import pytest
import torch

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm.caution import factors


def test_what_is_held_back_goes_to_the_others() -> None:
    direction = torch.tensor([[1.0, -1.0, 2.0, 3.0]])
    grad = torch.tensor([[0.5, 1.0, 1e-9, 0.0]])  # against in one of four
    assert factors(direction, grad, 0.6).tolist() == [pytest.approx([1 / 0.85, 0.4 / 0.85, 1 / 0.85, 1 / 0.85])]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nothing_changes_where_all_speak_alike(sign: float) -> None:
    grad = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    assert factors(sign * grad.square() * grad, grad, 0.9).flatten().tolist() == pytest.approx([1.0] * 60)


def test_problems_are_on_their_own() -> None:
    direction, grad = torch.ones(2, 2), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert factors(direction, grad, 0.5).tolist() == [[1.0, 1.0], pytest.approx([4 / 3, 2 / 3])]


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_base_step_is_shortened_where_the_gradient_turns(engine: str) -> None:
    layout = Layout.of({"one": torch.zeros(4)})
    optimizer = CoordinatewiseLSTM(base_step=0.1, output_scale=0.0, caution=0.6, engine=engine)
    optimizer.build(layout, torch.Generator().manual_seed(0))
    first = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    second = torch.tensor([[-0.1, 1.0, 1.0, 1.0]])  # its mean is still above zero
    with torch.no_grad():
        rollout = optimizer.rollout(optimizer.init_state(layout, 1))
        rollout.step(Evaluation.of(grad=first))
        update = rollout.step(Evaluation.of(grad=second))
    torch.testing.assert_close(update[0, 1:], torch.full((3,), -0.1 / 0.85))
    adam = (0.95 * 0.05 - 0.05 * 0.1) / (1 - 0.95**2) / ((0.95 * 0.05 + 0.05 * 0.01) / (1 - 0.95**2)) ** 0.5
    assert float(update[0, 0]) == pytest.approx(-0.1 * adam * 0.4 / 0.85, rel=1e-5)


@pytest.mark.parametrize("caution", [-0.1, 1.0, float("nan")])
def test_caution_out_of_range(caution: float) -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.caution must be 0 or more and less than 1, not"):
        CoordinatewiseLSTM(base_step=0.1, caution=caution)


def test_moments_are_needed() -> None:
    with pytest.raises(MetaOptError, match=r"optimizer\.caution needs moments"):
        CoordinatewiseLSTM(caution=0.5)
