"""The policy of learning rates."""

import math
from typing import Any

import pytest
import torch
from torch import Generator

from meta_opt import LearnedOptimizer
from meta_opt.errors import MetaOptError
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.baseline_names import adam
from meta_opt.testing import check_meta_gradient, optimizer_checks

LAYOUT = Layout.of({"weight": torch.zeros(3, 2), "bias": torch.zeros(2), "empty": torch.zeros(0)})
KINDS = [
    {"action": "coordinate"},
    {"action": "tensor"},
    {"action": "problem", "network": "gru"},
    {"action": "coordinate", "network": "gru", "direction": "gradient"},
    {"action": "tensor", "observes": ["moments"]},
    {"action": "tensor", "direction": "gradient", "unit": "secant"},
    {"action": "coordinate", "unit": "secant"},
]


def built(**arguments: Any) -> AlphaOpt:
    network = AlphaOpt(hidden_size=4, **arguments)
    network.build(LAYOUT, Generator().manual_seed(0))
    return network


def evaluation(seed: int = 0, num_problems: int = 2) -> Evaluation:
    grad = torch.randn(num_problems, LAYOUT.num_coordinates, generator=Generator().manual_seed(seed))
    return Evaluation(grad.square().sum(1), grad, grad + 1.0)


@pytest.mark.parametrize("check", optimizer_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("arguments", KINDS, ids=str)
def test_contract(arguments: dict[str, Any], check: Any) -> None:
    check(AlphaOpt(hidden_size=4, **arguments))


@pytest.mark.parametrize("arguments", KINDS, ids=str)
def test_trained_by_first_order_too(arguments: dict[str, Any]) -> None:
    """The same policy network by its deterministic steps, exactly."""
    check_meta_gradient(FirstOrder(), AlphaOpt(hidden_size=4, **arguments), "gradients held constant")


def test_untrained_it_is_adam() -> None:
    """With its last layer at zero every rate is base_rate."""
    network = built(action="coordinate", base_rate=0.02)
    torch.nn.init.zeros_(network.output_weight)
    state, reference = network.init_state(LAYOUT, 2), adam(0.02)
    other = reference.init_state(LAYOUT, 2)
    for seed in range(4):
        update, state, _ = network.step(evaluation(seed), state)
        expected, other, _ = reference.step(evaluation(seed), other)
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("action", "number"), [("coordinate", 8), ("tensor", 2), ("problem", 1)])
def test_as_many_rates_as_actions(action: Any, number: int) -> None:
    """Draws differ from one action to the next, and are the same within what an action is of."""
    network = built(action=action, direction="gradient")
    step = evaluation()
    update, _, record = network.step(step, network.init_state(LAYOUT, 2), Generator().manual_seed(1))
    rates = (-update / step.grad)[0].detach()
    assert len({round(float(rate), 7) for rate in rates}) == number
    assert record.action.shape == (2, {"coordinate": 8, "tensor": 3, "problem": 1}[action])


def test_rates_stay_in_their_range() -> None:
    network = built(action="problem", direction="gradient", base_rate=0.1, decades=1.0)
    with torch.no_grad():
        for bias, rate in ((50.0, 1.0), (-50.0, 0.01), (0.0, 0.1)):
            network.output_weight.zero_()
            network.output_bias.fill_(bias)
            step = evaluation()
            update, *_ = network.step(step, network.init_state(LAYOUT, 2))
            torch.testing.assert_close(update, -rate * step.grad)


def test_spread_of_draws() -> None:
    """ln(rate/base_rate) has the standard deviation initial_std · decades · ln 10 where tanh is about straight."""
    network = built(action="coordinate", direction="gradient", initial_std=0.05, decades=1.0)
    torch.nn.init.zeros_(network.output_weight)
    step = evaluation(num_problems=2000)
    update, *_ = network.step(step, network.init_state(LAYOUT, 2000), Generator().manual_seed(1))
    logs = (-update / step.grad / 0.01).log().detach()
    assert float(logs.std()) == pytest.approx(0.05 * math.log(10.0), rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observes": ["gradient"]}, "observes must name some of moments, gradients"),
        ({"observes": []}, "observes must name some"),
        ({"observes": ["time", "time"]}, "each once"),
        ({"memory": 0}, "memory must be 1 or more, not 0"),
        ({"hidden_size": 0}, "hidden_size must be 1 or more"),
        ({"base_rate": 0.0}, "base_rate must be more than 0"),
        ({"decades": math.inf}, "decades must be more than 0"),
        ({"initial_std": -1.0}, "initial_std must be more than 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        AlphaOpt(**arguments)


def test_is_trained_by_policy_gradient_by_default() -> None:
    assert AlphaOpt.recommended_settings()["model.estimator"] == "policy_gradient"
    PolicyGradient().check(built(), 20)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-24])
def test_stays_where_gradients_have_vanished(scale: float) -> None:
    """Squares of what is left underflow, and steps must not become long by that."""
    theta = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = LearnedOptimizer([theta], pretrained="alpha_opt")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = scale * theta.square().sum()
        loss.backward()
        return loss

    for step in range(60):
        optimizer.step(closure)
        assert theta.detach().abs().max() < (5.0 if step < 15 else 0.2)
