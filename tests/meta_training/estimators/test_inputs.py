"""The first-order meta-gradient of networks that read θ and f, against the graph that it is the derivative of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks_for_tests import Coupled, Decay, Fall
from problems_for_tests import Regression
from torch import Tensor

from meta_opt.inner_loop.unroll import begin, joined, unroll
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, TensorDict
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.state import map_state

SUM = MetaLoss("sum", "constant")


class Half(Optimizee):
    """f(θ) = θ²/2, θ_0 = 1."""

    def init_params(self, generator: torch.Generator) -> TensorDict:
        return {"theta": torch.ones(1)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return params["theta"].square().sum() / 2


def built(network: OptimizerNetwork, problems: Problems) -> OptimizerNetwork:
    network.build(problems.layout, problem_generator(0, "phi"))
    return network.double()


def draw(optimizee: Optimizee, num_problems: int = 2) -> Problems:
    return Problems(optimizee, "train", range(num_problems), seed=3, dtype=torch.float64)


def by_graph(problems: Problems, network: OptimizerNetwork, lengths: list[int], meta_loss: MetaLoss) -> list[Tensor]:
    """∂L/∂φ of the last unroll by one graph through θ, f and the network, gradients of f held constant."""
    evaluation = problems.evaluate(problems.initial_params)
    state = network.init_state(problems.layout, len(problems))
    for length in lengths:
        evaluation, state, losses = evaluation.detach(), map_state(Tensor.detach, state), []
        for _ in range(length):
            with torch.enable_grad():
                update, state, _ = network.step(evaluation.only(network.reads), state)
                params = evaluation.params + update
                following = problems.evaluate(params, graph="second")
            evaluation = Evaluation(following.loss, following.grad.detach(), params)
            losses.append(following.loss)
    return list(torch.autograd.grad(meta_loss.value(torch.stack(losses)), network.trained_parameters()))


def test_by_hand() -> None:
    """θ_t = (1-a)^t, L = Σ θ_t²/2, and so dL/da = -Σ_t t (1-a)^(2t-1)."""
    problems = draw(Half(), 1)
    network = built(Decay(), problems)
    trajectory = unroll(problems, network, begin(problems, network, grads=True), 3, grads=True)
    (grad,) = first_order(trajectory, network, SUM).grads
    assert grad.item() == pytest.approx(-sum(t * 0.7 ** (2 * t - 1) for t in (1, 2, 3)), rel=1e-6)
    assert grad.item() == pytest.approx(-1.89021, abs=1e-6)


@pytest.mark.parametrize("lengths", [[1], [5], [3, 4]])
@pytest.mark.parametrize("meta_loss", [SUM, MetaLoss("log_sum", "linear:0.3"), MetaLoss("log_mean", "last")])
@pytest.mark.parametrize("make", [Decay, Fall, Coupled])
def test_equals_the_graph(make: Callable[[], OptimizerNetwork], meta_loss: MetaLoss, lengths: list[int]) -> None:
    problems = draw(Regression())
    network = built(make(), problems)
    expected = by_graph(draw(Regression()), network, lengths, meta_loss)
    position = begin(problems, network, grads=True)
    for length in lengths:
        trajectory = unroll(problems, network, position, length, grads=True)
        position = trajectory.end.detach()
    for ours, theirs in zip(first_order(trajectory, network, meta_loss).grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [Decay, Fall])
def test_equals_finite_differences_where_no_gradient_is_read(make: Callable[[], OptimizerNetwork]) -> None:
    problems = draw(Regression())
    network = built(make(), problems)

    def loss(a: float) -> float:
        with torch.no_grad():
            network.a.fill_(a)  # type: ignore[union-attr,operator]
        problems = draw(Regression())
        return float(SUM.value(unroll(problems, network, begin(problems, network), 6).losses))

    expected = (loss(0.3 + 1e-6) - loss(0.3 - 1e-6)) / 2e-6
    loss(0.3)
    trajectory = unroll(problems, network, begin(problems, network, grads=True), 6, grads=True)
    assert first_order(trajectory, network, SUM).grads[0].item() == pytest.approx(expected, rel=1e-6)


def test_joined_pieces_are_one_trajectory() -> None:
    problems = draw(Regression())
    network = built(Coupled(), problems)
    first = unroll(problems, network, begin(problems, network, grads=True), 2, grads=True)
    second = unroll(problems, network, first.end.detach(), 3, grads=True)
    expected = by_graph(draw(Regression()), network, [5], SUM)
    for ours, theirs in zip(first_order(joined([first, second]), network, SUM).grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_no_backward_pass_for_networks_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = draw(Regression())
    network = built(Decay(), problems)
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("a backward pass"))
    trajectory = unroll(problems, network, begin(problems, network), 3)
    assert {frozenset(vars(each)) for each in trajectory.evaluations} == {frozenset({"loss", "params"})}


def test_what_is_not_named_cannot_be_read() -> None:
    problems = draw(Regression())
    network = built(Fall(), problems)
    network.reads = frozenset({"params"})
    with pytest.raises(Exception, match="the optimizer reads loss, which is not known here"):
        unroll(problems, network, begin(problems, network), 1)
