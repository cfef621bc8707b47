"""What no gradient may do to parameters: move them where it is zero, or make them infinite by being huge, once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from meta_opt import LearnedOptimizer
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.preprocessing import Moments
from meta_opt.saved.pretrained import pretrained, pretrained_path
from meta_opt.saved.recipes import load_optimizer

ENGINES = ["torch", *(["native"] if native.available() else [])]
ORTHOGONAL = "log_sign+moments+scales+orthogonal"
LAYOUT = Layout.of({"weight": torch.zeros(4, 6), "bias": torch.zeros(4)})
STILL = torch.zeros(LAYOUT.num_coordinates, dtype=torch.bool)
STILL[[2, 9, 25]] = True  # pruned
STILL[6:12] = True  # a padding row


def built(engine: str = "torch", **options: object) -> CoordinatewiseLSTM:
    optimizer = CoordinatewiseLSTM(**{"hidden_size": 5, "base_step": 0.03, **options})  # type: ignore[arg-type]
    optimizer.build(LAYOUT, problem_generator(0, "phi"))
    optimizer.engine = engine  # type: ignore[assignment]
    return optimizer.double()


def gradients(num_steps: int, still: Tensor = STILL) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(num_steps, 2, LAYOUT.num_coordinates, generator=generator, dtype=torch.float64)
    return list(grads.masked_fill(still, 0.0))


def evaluations(grads: list[Tensor]) -> list[Evaluation]:
    return [Evaluation(grad.sum(1), grad, grad) for grad in grads]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("inputs", ["log_sign", "moments", "log_sign+moments+scales", ORTHOGONAL])
@pytest.mark.parametrize("output", ["linear", "tanh", "magnitude"])
def test_without_a_gradient_nothing_moves(engine: str, inputs: str, output: str) -> None:
    optimizer = built(engine, inputs=inputs, output=output)
    with torch.no_grad():
        rollout = optimizer.rollout(optimizer.init_state(LAYOUT, 2))
        updates = torch.stack([rollout.step(evaluation) for evaluation in evaluations(gradients(4))])
    assert torch.equal(updates[..., STILL], torch.zeros_like(updates[..., STILL]))
    assert updates[..., ~STILL].abs().min() > 0.0


def test_the_papers_own_networks_may_move_everything() -> None:
    optimizer = built(inputs="log_sign", base_step=0.0)
    update, _, _ = optimizer.step(evaluations(gradients(1))[0], optimizer.init_state(LAYOUT, 2))
    assert update[:, STILL].abs().min() > 0.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("output", ["linear", "magnitude"])
def test_where_gradients_have_ended_an_update_fades_as_adams_does(
    engine: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def updates() -> Tensor:
        optimizer = built(engine, inputs="moments", output=output)
        grads = [*gradients(2), *[grad.masked_fill(ended, 0.0) for grad in gradients(300)]]
        with torch.no_grad():
            rollout = optimizer.rollout(optimizer.init_state(LAYOUT, 2))
            return torch.stack([rollout.step(evaluation) for evaluation in evaluations(grads)])

    ended = torch.arange(LAYOUT.num_coordinates) == 0
    found = updates()
    assert found[100:, :, 0].abs().max() < 0.1 * found[:2, :, 0].abs().max()
    assert found[:, :, 0].sum(0).abs().max() < 30.0 * found[:2, :, 0].abs().max()
    monkeypatch.setattr(Moments, "faded", lambda moments, update, grad: update)
    engine = "torch"
    driven = updates()
    torch.testing.assert_close(found[..., ~(STILL | ended)], driven[..., ~(STILL | ended)])
    mean, square = Tensor.new_zeros(found[0], 2), Tensor.new_zeros(found[0], 2)
    for step, grad in enumerate([*gradients(2), *[torch.zeros(2, 1)] * 300], 1):
        mean = 0.95 * mean + 0.05 * grad[:, 0]
        square = 0.95 * square + 0.05 * grad[:, 0] ** 2
        of_adam = mean.abs() / (square * (1.0 - 0.95**step)).sqrt() if step > 2 else torch.ones(2)
        torch.testing.assert_close(found[step - 1, :, 0], driven[step - 1, :, 0] * of_adam, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("way", [*ENGINES, "fused"])
@pytest.mark.parametrize("inputs", ["moments", ORTHOGONAL])
def test_replays_of_gradients_that_end_agree_with_the_contract(
    way: str, inputs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = built(way if way in ENGINES else "torch", inputs=inputs, output="magnitude")
    if way == "fused":
        monkeypatch.setattr(CoordinatewiseLSTM, "_fuses", lambda *_: True)
    generator = torch.Generator().manual_seed(1)
    grads = [grad.masked_fill(torch.rand(grad.shape, generator=generator) < 0.4, 0.0) for grad in gradients(6)]
    coefficients, state = gradients(6)[::-1], optimizer.init_state(LAYOUT, 2)
    found = optimizer.replay(evaluations(grads), state, coefficients)
    expected = super(CoordinatewiseLSTM, optimizer).replay(evaluations(grads), state, coefficients)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", [*ENGINES, "fused", "contract"])
def test_a_still_coordinate_adds_nothing_to_the_meta_gradient(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = built(way if way in ENGINES else "torch", inputs=ORTHOGONAL, output="magnitude")
    if way == "fused":
        monkeypatch.setattr(CoordinatewiseLSTM, "_fuses", lambda *_: True)
    replay = super(CoordinatewiseLSTM, optimizer).replay if way == "contract" else optimizer.replay
    grads, state = gradients(3), optimizer.init_state(LAYOUT, 2)
    ones = [torch.ones_like(grad) for grad in grads]
    whole = replay(evaluations(grads), state, ones)
    without = replay(evaluations(grads), state, [one.masked_fill(STILL, 0.0) for one in ones])
    for one, other in zip(whole, without, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    only = replay(evaluations(grads), state, [one.masked_fill(~STILL, 0.0) for one in ones])
    assert not any(grad.any() for grad in only)
    assert any(grad.any() for grad in whole)


def test_second_derivatives_where_nothing_moves_are_zero() -> None:
    optimizer = built(inputs=ORTHOGONAL, output="magnitude")
    grad = gradients(1)[0].requires_grad_()
    update, _, _ = optimizer.step(Evaluation(grad.sum(1), grad, grad), optimizer.init_state(LAYOUT, 2))
    (slope,) = torch.autograd.grad(update[:, STILL].sum(), grad, retain_graph=True)
    assert not slope.any()
    (slope,) = torch.autograd.grad(update.sum(), grad)
    assert slope.isfinite().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_magnitude_is_bounded(engine: str) -> None:
    """By e^±10, and where it is, its output has no influence."""
    for bias, factor in ((9.0, 9.0), (40.0, 10.0), (-1e6, -10.0)):
        optimizer = built(engine, inputs="moments", output="magnitude", base_step=0.5, output_scale=0.0)
        with torch.no_grad():
            optimizer.networks["all"].output_weight.zero_()
            optimizer.networks["all"].output_bias[1] = bias
        grads, state = gradients(1, STILL & False), optimizer.init_state(LAYOUT, 2)
        with torch.no_grad():
            update, _, _ = optimizer.step(evaluations(grads)[0], state)
        expected = -0.5 * grads[0].sign() * torch.tensor(factor).double().exp()
        torch.testing.assert_close(update, expected, rtol=1e-4, atol=0.0)
        slopes = optimizer.replay(evaluations(grads), state, [torch.ones_like(grads[0])])
        of_bias = slopes[1][1, 0]
        expected_slope = float(update.sum()) if bias == factor else 0.0
        assert float(of_bias) == pytest.approx(expected_slope, rel=1e-9)


def train(name: str, dtype: torch.dtype, engine: str, size: float, where: str, steps: int) -> Tensor:
    """The losses of a regression, in which gradients are multiplied by ``size`` at step 20."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 8, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.tanh(inputs @ torch.randn(8, 3, generator=generator, dtype=torch.float64).to(dtype))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    groups = getattr(load_optimizer(pretrained_path(name)), "networks", {})
    network = {"network": "fc"} if "fc" in groups else {}
    optimizer = LearnedOptimizer([{"params": model.parameters(), **network}], pretrained=name, engine=engine)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        losses.append(loss.detach())
        if step == 20:
            for index, parameter in enumerate(model.parameters()):
                if where == "all" or index == 0:
                    assert parameter.grad is not None
                    parameter.grad.mul_(size)
        optimizer.step(loss.detach)  # which alpha_opt reads
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    return torch.stack(losses)


@pytest.mark.parametrize("name", [*pretrained()])
@pytest.mark.parametrize(("size", "where"), [(1e20, "first"), (1e30, "all")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_huge_gradient_leaves_parameters_finite(name: str, size: float, where: str, dtype: torch.dtype) -> None:
    engines = ENGINES if isinstance(load_optimizer(pretrained_path(name)), CoordinatewiseLSTM) else ["auto"]
    for engine in engines:
        assert train(name, dtype, engine, size, where, 60).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["all", "first"])
@pytest.mark.parametrize("name", ["general_mlp", "quadratic"])
def test_after_a_huge_gradient_training_goes_on(name: str, where: str) -> None:
    """Adam's second moment does not forget such a gradient in thousands of steps; its loss stays where it is."""
    losses = train(name, torch.float32, "auto", 1e25, where, 400)
    assert losses[300:].mean() < 0.3 * losses[20]
