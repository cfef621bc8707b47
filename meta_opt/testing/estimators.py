"""What every estimator of the meta-gradient has to fulfil, one check a function, and two references for its values.

Whether an estimate is right depends on what it estimates: :func:`check_meta_gradient` compares it with finite
differences of the meta-loss, or, where gradients of f are held constant, with a graph of the unroll.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from meta_opt import registry
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.state import axis

EstimatorCheck = Callable[[Estimator], None]
Reference = Literal["finite differences", "gradients held constant"]

_NUM_STEPS, _UNROLL_LENGTH, _NUM_PROBLEMS = 10, 4, 2


def check_estimator(estimator: Estimator) -> None:
    """Run every check.

    Args:
        estimator: What to check; it is left as it is. An unroll of 4 steps must be possible.

    Raises:
        AssertionError: If the estimator breaks its contract; the message says how.
    """
    for check in estimator_checks():
        check(estimator)


def estimator_checks() -> tuple[EstimatorCheck, ...]:
    """All checks, for ``pytest.mark.parametrize``, which calls each by its name."""
    return (
        shapes,
        losses_of_every_step_once,
        as_many_whatever_the_values,
        phi_is_left_alone,
        phi_of_the_moment,
        equal_generators,
        pickling,
        reloading,
        plain_arguments,
    )


def shapes(estimator: Estimator) -> None:
    """There is a finite gradient, without a graph, for each weight of φ and of the estimator, and a scalar loss."""
    name, network = type(estimator).__name__, _network()
    estimates = _run(estimator, network)
    assert estimates, f"{name}.estimates gives no meta-gradient"
    for estimate in estimates:
        assert estimate.loss.shape == (), f"{name}: a meta-gradient's loss must be a scalar, not {estimate.loss.shape}"
        for what, grads, parameters in (
            ("grads", estimate.grads, network.trained_parameters()),
            ("own_grads", estimate.own_grads, list(estimator.parameters())),
        ):
            found, expected = ([list(each.shape) for each in some] for some in (grads, parameters))
            assert found == expected, f"{name}: {what} must have the shapes {expected}, not {found}"
            assert all(grad.isfinite().all() for grad in grads), f"{name}: {what} are not finite"
            assert not any(grad.requires_grad for grad in grads), f"{name}: {what} hold a graph: detach them"


def losses_of_every_step_once(estimator: Estimator) -> None:
    """The losses of all estimates together are those of the episode's steps, [steps, B]."""
    name = type(estimator).__name__
    for num_steps in (1, _UNROLL_LENGTH, _NUM_STEPS):
        losses = torch.cat([each.losses for each in _run(estimator, _network(), num_steps=num_steps)])
        found, expected = list(losses.shape), [num_steps, _NUM_PROBLEMS]
        assert found == expected, (
            f"{name}: the losses of an episode of {num_steps} steps of {_NUM_PROBLEMS} problems must have the shape "
            f"{expected} together, not {found}"
        )


def as_many_whatever_the_values(estimator: Estimator) -> None:
    """The number of estimates depends on lengths alone: processes that average them would wait for each other."""
    counts = [len(_run(estimator, _network(rate), factor=factor)) for rate, factor in ((0.1, 1.0), (0.0, 1e3))]
    assert counts[0] == counts[1], (
        f"{type(estimator).__name__} gives {counts[0]} meta-gradients of one episode and {counts[1]} of another of "
        "the same length"
    )


def phi_is_left_alone(estimator: Estimator) -> None:
    """φ is what it was, whenever an estimate is given: the meta-learner alone steps it."""
    network = _network()
    before = [weight.detach().clone() for weight in network.parameters()]
    for _ in copy.deepcopy(estimator).estimates(_episode(network)):
        same = all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))
        assert same, f"{type(estimator).__name__}.estimates changes φ"


def phi_of_the_moment(estimator: Estimator) -> None:
    """What follows an estimate is made with the φ that the meta-learner then has."""
    runs = []
    for change in (0.0, 0.05):
        network, losses = _network(), []
        for estimate in copy.deepcopy(estimator).estimates(_episode(network)):
            losses.append(estimate.losses)
            with torch.no_grad():
                for weight in network.trained_parameters():
                    weight.add_(change)
        runs.append(losses)
    name = type(estimator).__name__
    assert torch.equal(runs[0][0], runs[1][0]), f"{name}: a step of φ changes the losses before it"
    if len(runs[0]) > 1:
        differ = not torch.equal(runs[0][1], runs[1][1])
        assert differ, f"{name} goes on with the φ of the episode's beginning after φ has changed"


def equal_generators(estimator: Estimator) -> None:
    """The same episode with the same streams of randomness gives the same estimates, and no other is used."""
    state, runs = torch.get_rng_state(), []
    try:
        for seed in range(2):
            torch.manual_seed(seed)
            runs.append(_run(estimator, _network()))
    finally:
        torch.set_rng_state(state)
    assert _same(*runs), (
        f"{type(estimator).__name__} gives other estimates of the same episode: draw from episode.generator only"
    )


def pickling(estimator: Estimator) -> None:
    """A pickled copy gives the same estimates."""
    name = type(estimator).__name__
    try:
        twin = pickle.loads(pickle.dumps(estimator))  # noqa: S301 its own
    except Exception as error:
        raise AssertionError(f"{name} cannot be pickled: {error}") from error
    assert _same(_run(estimator, _network()), _run(twin, _network())), f"{name} is another once it is pickled and back"


def reloading(estimator: Estimator) -> None:
    """After an episode, ``state_dict`` holds all that the next depends on: parameters and buffers."""
    used, fresh = copy.deepcopy(estimator).double(), copy.deepcopy(estimator).double()
    list(used.estimates(_episode(_network())))
    fresh.load_state_dict(used.state_dict())
    one, other = (list(each.estimates(_episode(_network()))) for each in (used, fresh))
    assert _same(one, other), (
        f"{type(estimator).__name__} gives other estimates once its state_dict is loaded into a new one: keep what "
        "lasts longer than an episode in buffers"
    )


def plain_arguments(estimator: Estimator) -> None:
    """The constructor's arguments are plain values, from which a checkpoint can make the estimator again."""
    assert estimator.plain_init_args(registry.name_of) is not None, (
        f"{type(estimator).__name__} was made from an argument that is no plain value (number, string, list or dict), "
        "so that no checkpoint could make it again"
    )


def check_meta_gradient(
    estimator: Estimator, network: OptimizerNetwork, reference: Reference, *, num_steps: int = 4
) -> None:
    """The first meta-gradient of an episode is right, in float64.

    Args:
        estimator: Of which the first estimate looks at ``num_steps`` steps.
        network: Not built yet; left as it is.
        reference: What to compare with: finite differences of the meta-loss in every weight, or backpropagation
            through the unroll with ∂∇/∂φ := 0.
        num_steps: T, the length of the episode.

    Raises:
        AssertionError: If it differs by more than 1e-5 of the longest gradient (finite differences) or 1e-8.
    """
    network = _built(network)
    (estimate,) = _run(estimator, network, num_steps=num_steps, unroll_length=num_steps)
    exact = reference == "gradients held constant"
    expected = _with_graph(network, num_steps) if exact else _by_differences(network, num_steps)
    largest = max(float(grad.abs().max()) for grad in expected)
    names = [key for key, weight in network.named_parameters() if weight.requires_grad]
    for name, one, other in zip(names, estimate.grads, expected, strict=True):
        error = float((one - other).abs().max())
        assert error <= (1e-8 if exact else 1e-5) * largest, (
            f"{type(estimator).__name__} with {type(network).__name__}: the meta-gradient of {name} is off by "
            f"{error:.3g} of {float(other.abs().max()):.3g} ({reference})"
        )


def _by_differences(network: OptimizerNetwork, num_steps: int) -> list[Tensor]:
    """∂L/∂φ by central differences, one weight after the other."""
    grads = []
    for weight in network.trained_parameters():
        flat, grad = weight.data.view(-1), torch.zeros_like(weight)
        for index in range(flat.numel()):
            values, middle, width = [], flat[index].item(), 1e-5
            for side in (width, -width):
                flat[index] = middle + side
                problems = _problems()
                losses = unroll(problems, network, begin(problems, network), num_steps).losses
                values.append(_LOSS.value(losses).item())
            flat[index] = middle
            grad.view(-1)[index] = (values[0] - values[1]) / (2 * width)
        grads.append(grad)
    return grads


def _with_graph(network: OptimizerNetwork, num_steps: int) -> list[Tensor]:
    """∂L/∂φ by the graph of the unroll itself, where the optimizer is given gradients without one."""
    problems = _problems()
    params, losses = problems.initial_params, []
    state = network.init_state(problems.layout, len(problems))
    for number in range(num_steps + 1):
        leaf = params if params.requires_grad else params.clone().requires_grad_()
        with torch.enable_grad():
            evaluation = problems.evaluate(leaf, graph="second")
            if number:
                losses.append(evaluation.loss)
            known = Evaluation(evaluation.loss, evaluation.grad.detach(), leaf)
            update, state, _ = network.step(known.only(network.reads), state)
            params = leaf + update
    return list(torch.autograd.grad(_LOSS.value(torch.stack(losses)), network.trained_parameters()))


class _Bowls(Optimizee):
    """Two tensors in a bowl that is not quadratic; nothing is drawn from step to step."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def init_params(self, generator: Generator) -> TensorDict:
        return {"matrix": torch.randn(2, 2, generator=generator), "vector": torch.randn(3, generator=generator)}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"curvature": 0.5 + torch.rand(7, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        theta = torch.cat([params["matrix"].flatten(), params["vector"]])
        coupled = (theta[:-1] * theta[1:]).sin().sum()
        return self.factor * ((problem["curvature"] * theta.square()).sum() + 0.3 * coupled + 8.0)


@dataclass(frozen=True)
class _Mean:
    mean: Tensor = axis("coordinate")  # [B, N]


class _Momentum(OptimizerNetwork):
    """Two weights, a rate and a decay."""

    scope = "coordinate"

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = rate

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.tensor([self.rate, 0.5]))

    def init_state(self, layout: Layout, num_problems: int) -> _Mean:
        return _Mean(self.weights.new_zeros(num_problems, layout.num_coordinates))

    def step(self, evaluation: Evaluation, state: _Mean, noise: Generator | None = None) -> Step:
        mean = self.weights[1] * state.mean + torch.tanh(evaluation.grad)
        return Step(-self.weights[0] * mean, _Mean(mean))


_LOSS = MetaLoss("sum", "linear:0.3")


def _problems(factor: float = 1.0) -> Problems:
    return Problems(_Bowls(factor), "train", range(_NUM_PROBLEMS), seed=0, dtype=torch.float64)


def _built(network: OptimizerNetwork) -> OptimizerNetwork:
    network = copy.deepcopy(network)
    network.build(_problems().layout, Generator().manual_seed(0))
    return network.double()


def _network(rate: float = 0.1) -> OptimizerNetwork:
    return _built(_Momentum(rate))


def _episode(
    network: OptimizerNetwork,
    num_steps: int = _NUM_STEPS,
    unroll_length: int = _UNROLL_LENGTH,
    factor: float = 1.0,
) -> Episode:
    streams = partial(problem_generator, 0, "episode")
    return Episode(_problems(factor), network, _LOSS, num_steps, unroll_length, streams)


def _run(estimator: Estimator, network: OptimizerNetwork, **options: Any) -> list[MetaGradient]:
    return list(copy.deepcopy(estimator).double().estimates(_episode(network, **options)))


def _same(one: list[MetaGradient], other: list[MetaGradient]) -> bool:
    def tensors(estimates: list[MetaGradient]) -> list[Tensor]:
        return [tensor for each in estimates for tensor in (each.loss, *each.grads, *each.own_grads, each.losses)]

    first, second = tensors(one), tensors(other)
    return len(first) == len(second) and all(map(torch.equal, first, second))
