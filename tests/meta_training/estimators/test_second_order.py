"""The exact meta-gradient against finite differences."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from networks_for_tests import Coupled
from problems_for_tests import HoldsBack, Regression
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import Trajectory, begin, unroll
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.estimators.first_order import FirstOrder, first_order
from meta_opt.meta_training.estimators.second_order import SecondOrder, second_order
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.state import map_state
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM


def setup(**options: object) -> CoordinatewiseLSTM:
    optimizer = CoordinatewiseLSTM(num_layers=1, hidden_size=3, **options)  # type: ignore[arg-type]
    optimizer.build(draw().layout, problem_generator(1, "phi"))
    return optimizer.double()


def draw() -> Problems:
    return Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)


def rollout(
    problems: Problems, optimizer: CoordinatewiseLSTM, num_steps: int, *, keep_graph: bool = False
) -> Trajectory:
    return unroll(problems, optimizer, begin(problems, optimizer), num_steps, keep_graph=keep_graph)


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": "none"},
        {},
        {"inputs": "log_sign+moments+scales", "output": "magnitude"},
        {"inputs": "log_sign+moments+scales+orthogonal", "output": "magnitude", "base_step": 0.03},
        {"inputs": "log_sign+moments", "base_step": 0.03, "anneal_after": 2},
    ],
)
@pytest.mark.parametrize(
    "meta_loss", [MetaLoss("sum", "constant"), MetaLoss("log_sum", "linear:0.3"), MetaLoss("log_mean", "constant")]
)
def test_gradcheck(options: dict[str, object], meta_loss: MetaLoss) -> None:
    check_gradient(setup(**options), draw, meta_loss)


def check_gradient(optimizer: OptimizerNetwork, draw: Callable[[], Problems], meta_loss: MetaLoss) -> None:
    parameters = optimizer.trained_parameters()

    def meta_loss_of(*values: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
        problems = draw()
        return meta_loss.value(unroll(problems, optimizer, begin(problems, optimizer), 4).losses)

    values = [parameter.detach().clone() for parameter in parameters]
    problems = draw()
    grads = second_order(rollout(problems, optimizer, 4, keep_graph=True), optimizer, meta_loss).grads

    class Exact(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, *inputs: Tensor) -> Tensor:
            return meta_loss_of(*inputs)

        @staticmethod
        def backward(ctx: object, *upstream: Tensor) -> tuple[Tensor, ...]:
            return tuple(upstream[0] * grad for grad in grads)

    assert torch.autograd.gradcheck(
        lambda *inputs: Exact.apply(*inputs), [value.requires_grad_() for value in values], atol=1e-7, rtol=1e-5
    )


class WithIdle(Regression):
    """A tensor beside the others has a gradient of zero."""

    def init_params(self, generator: torch.Generator) -> Any:
        return {**super().init_params(generator), "idle": torch.zeros(2)}

    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        return super().loss({**params}, problem, batch) + 0.0 * params["idle"].sum()


@pytest.mark.parametrize("action", ["tensor", "coordinate", "problem"])
@pytest.mark.parametrize("direction", ["gradient", "adam"])
def test_gradcheck_of_secants(action: Any, direction: Any) -> None:
    """Also where a step, a gradient and its change are zero."""

    def draw() -> Problems:
        return Problems(WithIdle(), "train", range(2), seed=3, dtype=torch.float64)

    optimizer = AlphaOpt(
        action=action, direction=direction, unit="secant", base_rate=0.03, decades=0.7, hidden_size=2, memory=1
    )
    optimizer.build(draw().layout, problem_generator(1, "phi"))
    with torch.no_grad():
        optimizer.output_weight.mul_(50.0)
    check_gradient(optimizer.double(), draw, MetaLoss("sum", "constant"))


def test_differs_from_first_order_but_not_in_value() -> None:
    optimizer = setup(inputs="none")
    one, two = draw(), draw()
    first = first_order(rollout(one, optimizer, 5), optimizer, MetaLoss("sum", "constant"))
    second = second_order(rollout(two, optimizer, 5, keep_graph=True), optimizer, MetaLoss("sum", "constant"))
    torch.testing.assert_close(first.loss, second.loss, rtol=1e-12, atol=0)
    assert not torch.allclose(first.grads[0], second.grads[0], rtol=1e-3)


def test_equals_first_order_for_one_step() -> None:
    """With a single update nothing depends on φ through a gradient."""
    optimizer = setup()
    one, two = draw(), draw()
    first = first_order(rollout(one, optimizer, 1), optimizer, MetaLoss("sum", "constant"))
    second = second_order(rollout(two, optimizer, 1, keep_graph=True), optimizer, MetaLoss("sum", "constant"))
    for ours, theirs in zip(first.grads, second.grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("held_back", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CoordinatewiseLSTM(
            num_layers=1, hidden_size=3, inputs="log_sign+moments+scales", base_step=0.03, anneal_after=4
        ),
        LSTMGAC,
        SubspaceLSTM,
        Coupled,
    ],
)
@pytest.mark.parametrize("meta_loss", [MetaLoss("sum", "constant"), MetaLoss("log_mean", "linear:0.3")])
def test_pieces_give_the_gradient_of_the_whole(
    make: Callable[[], OptimizerNetwork], meta_loss: MetaLoss, held_back: bool
) -> None:
    """Two unrolls in a row, of pieces that do not divide them."""

    def estimates(steps_at_once: int | None) -> list[MetaGradient]:
        problems = Problems(HoldsBack(), "train", range(2), seed=3, dtype=torch.float64, held_back=held_back)
        network = make()
        network.build(problems.layout, problem_generator(1, "phi"))
        episode = Episode(problems, network.double(), meta_loss, 14, 7, lambda *_: torch.Generator())
        return list(SecondOrder(steps_at_once).estimates(episode))

    whole = estimates(None)
    for steps_at_once in (1, 3, 7):
        for ours, theirs in zip(estimates(steps_at_once), whole, strict=True):
            torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-10, atol=0)
            torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-10, atol=0)
            torch.testing.assert_close(ours.grads, theirs.grads, rtol=1e-8, atol=1e-12)


def test_too_few_steps_at_once() -> None:
    with pytest.raises(MetaOptError, match="steps_at_once must be 1 or more, not 0"):
        SecondOrder(0)


class Detached(CoordinatewiseLSTM):
    """An update without a graph behind it."""

    def step(self, evaluation: Evaluation, state: Any, noise: Any = None) -> Step:
        update, after, record = super().step(evaluation, state, noise)
        return Step(update.detach(), map_state(Tensor.detach, after), record)

    replay = OptimizerNetwork.replay
    rollout = OptimizerNetwork.rollout


class DetachedReader(Detached):
    """One that reads losses too."""

    reads = frozenset({"grad", "loss"})


@pytest.mark.parametrize("network", [Detached(), DetachedReader()], ids=["gradients", "gradients and losses"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("estimator", [FirstOrder(), SecondOrder(), SecondOrder(steps_at_once=2)])
def test_a_network_without_a_graph_has_no_meta_gradient(
    monkeypatch: pytest.MonkeyPatch, estimator: Estimator, network: OptimizerNetwork, large: bool
) -> None:
    if large:
        monkeypatch.setattr("meta_opt.optimizers.contract.LARGE", 0)
        monkeypatch.setattr("meta_opt.meta_training.estimators.first_order.LARGE", 0)
    problems = Problems(Regression(), "train", range(2), seed=3)
    network = copy.deepcopy(network)
    network.build(problems.layout, problem_generator(1, "phi"))
    episode = Episode(problems, network, MetaLoss("sum", "constant"), 4, 4, partial(problem_generator, 0))
    with pytest.raises(MetaOptError, match=r"^\w+\.step must make its update of the weights of build, differentiably "):
        list(estimator.estimates(episode))


class Slopes(Regression):
    """Linear in θ: a slope of its own in every step, which does not depend on θ."""

    def loss(self, params: Any, problem: Any, batch: Any) -> Any:
        slopes = {key: torch.sin(batch["x"].sum() + torch.arange(value.numel())) for key, value in params.items()}
        return sum((params[key].flatten() * slope).sum() for key, slope in slopes.items()) + 50.0


@pytest.mark.parametrize("steps_at_once", [None, 1, 2])
@pytest.mark.parametrize("make", [SubspaceLSTM, NTMBFGS])
def test_exact_where_gradients_do_not_depend_on_parameters(
    make: Callable[[], OptimizerNetwork], steps_at_once: int | None
) -> None:
    def drawn() -> Problems:
        return Problems(Slopes(), "train", range(2), seed=3, dtype=torch.float64)

    optimizer = make()
    optimizer.build(drawn().layout, problem_generator(1, "phi"))
    optimizer.double()
    meta_loss = MetaLoss("sum", "constant")
    source = partial(problem_generator, 1)
    episode = Episode(drawn(), optimizer, meta_loss, 6, 6, source, 0, 1)
    (estimate,) = SecondOrder(steps_at_once=steps_at_once).estimates(episode)
    parameters = optimizer.trained_parameters()
    directions = [torch.randn(p.shape, dtype=p.dtype, generator=problem_generator(2, "d")) for p in parameters]
    found = sum((grad * way).sum() for grad, way in zip(estimate.grads, directions, strict=True))

    def moved(by: float) -> Tensor:
        with torch.no_grad():
            for parameter, way in zip(parameters, directions, strict=True):
                parameter += by * way
            problems = drawn()
            value = meta_loss.value(unroll(problems, optimizer, begin(problems, optimizer), 6).losses)
            for parameter, way in zip(parameters, directions, strict=True):
                parameter -= by * way
        return value

    torch.testing.assert_close(found, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [SubspaceLSTM, NTMBFGS])
def test_pieces_and_whole_are_the_same_in_every_unroll(make: Callable[[], OptimizerNetwork]) -> None:
    """Also where the network asks, by the gradient that it starts from, whether it is differentiated."""

    def estimates(steps_at_once: int | None) -> list[Tensor]:
        problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
        optimizer = make()
        optimizer.build(problems.layout, problem_generator(1, "phi"))
        optimizer.double()
        source = partial(problem_generator, 1)
        episode = Episode(problems, optimizer, MetaLoss("sum", "constant"), 9, 3, source, 0, 1)
        found = SecondOrder(steps_at_once=steps_at_once).estimates(episode)
        return [torch.cat([grad.flatten() for grad in estimate.grads]) for estimate in found]

    for whole, pieces in zip(estimates(None), estimates(1), strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-9, atol=1e-12)
