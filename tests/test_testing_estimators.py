"""The kit for estimators, the estimators that ship and that of the template; values worked out by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from meta_opt.api import (
    Episode,
    Estimator,
    Evaluation,
    Layout,
    MetaGradient,
    Optimizee,
    OptimizerNetwork,
    Step,
    TensorDict,
    axis,
)
from meta_opt.meta_training.estimators.es import ES
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM
from meta_opt.testing import check_estimator, check_meta_gradient, estimator_checks
from meta_opt.testing.episodes import built, episode_of

sys.path.append(str(Path(__file__).parents[1] / "plugins" / "template"))
from meta_opt_example.balanced import Balanced
from meta_opt_example.momentum_mlp import MomentumMlp
from meta_opt_example.polyak_decay import PolyakDecay
from meta_opt_example.shrink import Shrink
from meta_opt_example.two_points import TwoPoints

ESTIMATORS = {
    "first_order": FirstOrder(),
    "a window": FirstOrder(update_every=2),
    "a part": FirstOrder(update_every=2, replay_fraction=0.5),
    "second_order": SecondOrder(),
    "es": ES(),
    "pes": PES(pairs=2),
    "pes, one at the end": PES(pairs=1, objective="final_loss"),
    "nres": NRES(max_difference=1.0),
    "two_points": TwoPoints(),
}
NETWORKS: dict[str, Callable[[], OptimizerNetwork]] = {
    "grad, coordinate": partial(CoordinatewiseLSTM, 1, 3),
    "grad, coordinate, moments": MomentumMlp,
    "grad, tensor": partial(CoordinatewiseLSTM, 1, 3, inputs="log_sign+moments+scales"),
    "grad, problem": Balanced,
    "grad, problem, vectors": partial(SubspaceLSTM, 2, 5),
    "loss, grad, params": PolyakDecay,
    "loss, params": Shrink,
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("check", estimator_checks())
def test_estimators(check: Callable[[Estimator], None], name: str) -> None:
    check(ESTIMATORS[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_first_order(name: str) -> None:
    check_meta_gradient(FirstOrder(), NETWORKS[name](), "gradients held constant")


@pytest.mark.parametrize("name", NETWORKS)
def test_second_order(name: str) -> None:
    check_meta_gradient(SecondOrder(), NETWORKS[name](), "finite differences")


class Half(Optimizee):
    """f = θ²/2, θ_0 = 1."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"theta": torch.ones(1)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return params["theta"].square().sum() / 2


def of_half(estimator: Estimator, decay: float, step_size: float) -> MetaGradient:
    network = Shrink(decay, step_size)
    problems = Problems(Half(), "train", [0], seed=0, dtype=torch.float64)
    network.build(problems.layout, Generator())
    with torch.no_grad():
        for weight, value in zip(network.double().parameters(), (decay, step_size), strict=True):
            weight.fill_(value)
    streams = partial(problem_generator, 0)
    (estimate,) = estimator.estimates(Episode(problems, network, MetaLoss("sum", "constant"), 3, 3, streams))
    return estimate


@pytest.mark.parametrize("estimator", [FirstOrder(), SecondOrder()])
def test_an_update_of_theta(estimator: Estimator) -> None:
    """θ_t = (1-a)^t: dL/da = -Σ t (1-a)^(2t-1) = -(0.7 + 2·0.7³ + 3·0.7⁵) at a = 0.3."""
    assert of_half(estimator, 0.3, 0.0).grads[0].item() == pytest.approx(-1.89021, abs=1e-9)


@pytest.mark.parametrize("estimator", [FirstOrder(), SecondOrder()])
def test_an_update_of_the_loss(estimator: Estimator) -> None:
    above, below = (of_half(FirstOrder(), 0.0, 0.3 + side).loss.item() for side in (1e-5, -1e-5))
    assert of_half(estimator, 0.0, 0.3).grads[1].item() == pytest.approx((above - below) / 2e-5, rel=1e-8)


@dataclass(frozen=True)
class Start:
    mean: Tensor = axis("coordinate")  # [B, N]


class LearnedStart(OptimizerNetwork):
    """g = h, and h decays: the first state is a weight."""

    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.tensor([-0.1, 0.5]))

    def init_state(self, layout: Layout, num_problems: int) -> Start:
        return Start(self.weights[:1].square().neg().expand(num_problems, layout.num_coordinates))

    def step(self, evaluation: Evaluation, state: Start, noise: Generator | None = None) -> Step:
        mean = self.weights[1] * state.mean
        return Step(mean - 0.1 * evaluation.grad, Start(mean))


def test_a_first_state_that_is_learned() -> None:
    check_meta_gradient(FirstOrder(), LearnedStart(), "gradients held constant")
    check_meta_gradient(SecondOrder(), LearnedStart(), "finite differences")


def test_a_first_state_that_is_learned_under_a_window_that_slides() -> None:
    network = built(LearnedStart())
    estimates = []
    for estimate in FirstOrder(update_every=2).estimates(episode_of(network)):
        estimates.append(estimate)
        for weight, grad in zip(network.trained_parameters(), estimate.grads, strict=True):
            weight.data.sub_(1e-3 * grad)
    assert [bool(estimate.grads[0][0]) for estimate in estimates] == [True, False, False, False, False]
    assert all(estimate.grads[0][1] for estimate in estimates)


def test_a_wrong_gradient_is_seen() -> None:
    with pytest.raises(AssertionError, match="FirstOrder with MomentumMlp: the meta-gradient of .* is off by"):
        check_meta_gradient(FirstOrder(), MomentumMlp(), "finite differences")


class GradientsOfOneWeight(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            yield replace(estimate, grads=estimate.grads[:1])


class LossOfEachProblem(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            yield replace(estimate, loss=estimate.losses[-1])


class HoldsTheGraph(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            weights = episode.network.trained_parameters()
            yield replace(estimate, grads=tuple(map(torch.add, estimate.grads, weights)))


class GivesNothing(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        yield from ()


class CriticWithoutGradients(FirstOrder):
    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Parameter(torch.zeros(3))


class OneUnrollOnly(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        yield next(iter(super().estimates(episode)))


class StopsWhenLossesAreHigh(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            yield estimate
            if estimate.loss > 1000:
                return


class StepsItself(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            with torch.no_grad():
                for weight, grad in zip(episode.network.trained_parameters(), estimate.grads, strict=True):
                    weight.sub_(0.01 * grad)
            yield estimate


class PlansAhead(FirstOrder):
    """All estimates are made before the first is given."""

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        yield from list(super().estimates(episode))


class DrawsFromAnywhere(FirstOrder):
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            yield replace(estimate, grads=tuple(grad + torch.rand(()) for grad in estimate.grads))


class HoldsALambda(FirstOrder):
    def __init__(self) -> None:
        super().__init__()
        self.twice = lambda grad: 2 * grad


class ForgetsWhenPickled(FirstOrder):
    factor = 1.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.factor = 2.0

    def __deepcopy__(self, memo: dict[int, Any]) -> ForgetsWhenPickled:
        new = type(self)()
        new.factor = self.factor
        return new

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        for estimate in super().estimates(episode):
            yield replace(estimate, loss=self.factor * estimate.loss)


class RemembersEpisodes(FirstOrder):
    """The mean of all losses, which is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        self.seen += 1
        for estimate in super().estimates(episode):
            yield replace(estimate, loss=estimate.loss / self.seen)


class ArgumentThatIsAnObject(FirstOrder):
    def __init__(self, critic: Any) -> None:
        super().__init__()


BROKEN: list[tuple[Callable[[], Estimator], str, str]] = [
    (GivesNothing, "shapes", "GivesNothing.estimates gives no meta-gradient"),
    (LossOfEachProblem, "shapes", "LossOfEachProblem: a meta-gradient's loss must be a scalar, not torch.Size([2])"),
    (GradientsOfOneWeight, "shapes", "GradientsOfOneWeight: grads must have the shapes [[1], []], not [[1]]"),
    (CriticWithoutGradients, "shapes", "CriticWithoutGradients: own_grads must have the shapes [[3]], not []"),
    (HoldsTheGraph, "shapes", "HoldsTheGraph: grads hold a graph: detach them"),
    (OneUnrollOnly, "losses_of_every_step_once", "must have the shape [10, 2] together, not [4, 2]"),
    (StopsWhenLossesAreHigh, "as_many_whatever_the_values", "gives 3 meta-gradients of one episode and 1 of another"),
    (StepsItself, "phi_is_left_alone", "StepsItself.estimates changes φ"),
    (PlansAhead, "phi_of_the_moment", "PlansAhead goes on with the φ of the episode's beginning after φ has changed"),
    (DrawsFromAnywhere, "equal_generators", "DrawsFromAnywhere gives other estimates of the same episode: draw from"),
    (HoldsALambda, "pickling", "HoldsALambda cannot be pickled"),
    (ForgetsWhenPickled, "pickling", "ForgetsWhenPickled is another once it is pickled and back"),
    (RemembersEpisodes, "reloading", "RemembersEpisodes gives other estimates once its state_dict is loaded into a"),
    (lambda: ArgumentThatIsAnObject(object()), "plain_arguments", "an argument that is no plain value"),
]


@pytest.mark.parametrize(("make", "name", "message"), BROKEN)
def test_broken_estimators(make: Callable[[], Estimator], name: str, message: str) -> None:
    failed = {}
    for check in estimator_checks():
        try:
            check(make())
        except AssertionError as error:
            failed[check.__name__] = str(error)
    assert message in failed.pop(name, "")
    # What is of the wrong form, or random, passes no other check for certain.
    assert name in ("shapes", "equal_generators") or not failed


def test_every_check_has_something_that_it_fails_on() -> None:
    assert {name for _, name, _ in BROKEN} == {check.__name__ for check in estimator_checks()}


def test_all_checks_are_run_to_the_last() -> None:
    check_estimator(FirstOrder())
    with pytest.raises(AssertionError, match="no plain value"):
        check_estimator(ArgumentThatIsAnObject(object()))


def test_two_points_is_half_of_the_difference_along_the_signs() -> None:
    """With θ_t = (1-a)^t, L(a) = ½ Σ_{t=1..3} (1-a)^2t; the second weight, of the loss, changes L as well."""
    estimate = of_half(TwoPoints(0.01), 0.3, 0.0)
    signs = [float(grad.sign()) for grad in estimate.grads]

    def loss(side: float) -> float:
        theta, total = 1.0, 0.0
        for _ in range(3):
            theta -= (0.3 + side * signs[0]) * theta + side * signs[1] * theta**2 / 2
            total += theta**2 / 2
        return total

    above, below = loss(0.01), loss(-0.01)
    slope = (above - below) / 0.02
    found = [float(grad) for grad in estimate.grads]
    assert slope > 0.1  # the signs are those of ε times its slope
    assert found == [pytest.approx(slope * sign, rel=1e-9) for sign in signs]
    assert estimate.loss.item() == pytest.approx((above + below) / 2, rel=1e-12)


def test_two_points_is_the_derivative_on_average() -> None:
    """The mean of ε (ε·∇L) over many draws of the signs is ∇L: E[ε_i ε_j] = δ_ij."""
    network = built(PolyakDecay())
    exact = next(iter(SecondOrder().estimates(episode_of(network, 4))))
    mean = [torch.zeros_like(grad) for grad in exact.grads]
    for seed in range(100):
        episode = replace(episode_of(network, 4), generator=partial(problem_generator, seed, "signs"))
        (estimate,) = TwoPoints(1e-4).estimates(episode)
        torch._foreach_add_(mean, list(estimate.grads), alpha=1 / 100)
    length = torch.stack([grad.norm() for grad in exact.grads]).norm()
    error = torch.stack([(one - other).norm() for one, other in zip(mean, exact.grads, strict=True)]).norm()
    assert error < 0.3 * length  # √(2/100) of it is expected
