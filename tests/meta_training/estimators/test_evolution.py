"""Evolution strategies against exact gradients: what is unbiased, and over what."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.contract import Episode, MetaGradient
from meta_opt.meta_training.estimators.es import ES
from meta_opt.meta_training.estimators.evolution import Evolution
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.estimators.particles import Particles
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.state import axis
from meta_opt.testing.episodes import bowls, built, episode_of, momentum

sys.path.append(str(Path(__file__).parents[3] / "plugins" / "template"))
from meta_opt_example.momentum_mlp import MomentumMlp
from meta_opt_optimizees.digits_mlp import DigitsMlp

SUM = MetaLoss("sum", "constant")


def an_episode(
    optimizee: Optimizee,
    network: OptimizerNetwork,
    num_steps: int,
    unroll_length: int,
    *,
    seed: int = 0,
    count: int = 1,
) -> Episode:
    problems = Problems(optimizee, "train", range(count), seed=0, dtype=torch.float64)
    if not list(network.parameters()):
        network.build(problems.layout, Generator().manual_seed(0))
    return Episode(problems, network.double(), SUM, num_steps, unroll_length, partial(problem_generator, seed))


def total(estimates: list[MetaGradient]) -> Tensor:
    """The sum of an episode's meta-gradients, [D]."""
    return torch.stack([torch.cat([grad.flatten() for grad in each.grads]) for each in estimates]).sum(0)


class Parabola(Optimizee):
    """f = Σ c_i (θ_i - b)² / 2, θ_0 = 0; b is another in each mini-batch."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"theta": torch.zeros(3)}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {"b": torch.randn((), generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        curvature = torch.tensor([1.0, 2.0, 3.0], dtype=params["theta"].dtype)
        return (curvature * (params["theta"] - batch["b"]).square()).sum() / 2

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"above": (params["theta"] > 0.5).double().mean()}


class Constant(OptimizerNetwork):
    """The update is φ, so that the meta-loss is a quadratic in φ."""

    reads = frozenset({"params"})

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def init_state(self, layout: Layout, num_problems: int) -> tuple[()]:
        return ()

    def step(self, evaluation: Evaluation, state: tuple[()], noise: Generator | None = None) -> Step:
        return Step(self.weights.expand_as(evaluation.params), ())


@pytest.mark.parametrize("estimator", [ES(50, 0.3), PES(50, 0.3), NRES(50, 0.3)])
def test_the_mean_is_the_gradient_of_a_quadratic_meta_loss(estimator: Evolution) -> None:
    """Antithetic differences of a quadratic know no smoothing: (L+ - L-) / 2σ = ∇L·ε, and E[ε εᵀ] = 1."""
    make = partial(an_episode, Parabola(), Constant(), 2, 2)
    exact = total(list(SecondOrder().estimates(make())))
    drawn = torch.stack([total(list(estimator.estimates(make(seed=seed)))) for seed in range(40)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - exact).abs() < 3.5 * error).all()
    assert (error < 0.06 * exact.norm()).all()  # so that a wrong factor would be seen


@dataclass(frozen=True)
class Steps:
    taken: Tensor = axis("problem")  # []


class LinearSchedule(OptimizerNetwork):
    """SGD whose learning rate goes from e^φ_0 to e^φ_1 in 100 steps."""

    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.full((2,), math.log(0.01)))

    def init_state(self, layout: Layout, num_problems: int) -> Steps:
        return Steps(self.weights.new_zeros(()))

    def step(self, evaluation: Evaluation, state: Steps, noise: Generator | None = None) -> Step:
        first, last = self.weights.exp()
        rate = torch.lerp(first, last, state.taken / 100)
        return Step(-rate * evaluation.grad, Steps(state.taken + 1))


class ToyRegression(Optimizee):
    """The toy problem of Vicol et al. (2021, arXiv:2112.13835, section 5): greedy learning rates are far too small."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"x": torch.ones(2)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        first, second = params["x"]
        bowl = (first.square() + 5).sqrt() - math.sqrt(5)
        return bowl + second.sin().square() * (-5 * first.square()).exp() + 0.25 * (second - 100).abs()


def toy(unroll_length: int, seed: int = 0) -> Episode:
    return an_episode(ToyRegression(), LinearSchedule(), 100, unroll_length, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "controlled"), [(PES, False), (PES, True), (NRES, False), (ES, False)])
def test_over_truncations_pes_and_nres_are_unbiased_and_es_is_not(
    kind: Callable[..., Evolution], controlled: bool
) -> None:
    exact = total(list(SecondOrder().estimates(toy(100))))
    truncated = total(list(SecondOrder().estimates(toy(10))))
    estimator = kind(20, 0.1, control_variate=controlled)
    drawn = torch.stack([total(list(estimator.estimates(toy(10, seed)))) for seed in range(30)])
    error = drawn.std(0) / math.sqrt(len(drawn))
    right, greedy = (((drawn.mean(0) - each).abs() / error).max() for each in (exact, truncated))
    if kind is ES:
        assert greedy < 4.0 < right
    else:
        assert right < 4.0 < greedy


def test_particles_under_vmap_and_one_by_one_are_the_same() -> None:
    runs = []
    for vmaps in (True, False):
        network = momentum()
        particles = Particles(network, 3)
        particles.move_to(torch.linspace(-0.1, 0.1, 6, dtype=torch.float64).view(3, 2))
        problems = bowls().repeated(3)
        if not vmaps:
            particles.give_up_vmap()
        trajectory = unroll(problems, particles, begin(problems, particles), 5, losses_only=True)
        assert particles.vmaps is vmaps
        runs.append(
            (trajectory.losses, trajectory.end.evaluation.params, *(each.mean for each in trajectory.end.state))
        )
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_what_vmap_has_no_rule_for_is_stepped_one_by_one() -> None:
    class Branches(Constant):
        def step(self, evaluation: Evaluation, state: tuple[()], noise: Generator | None = None) -> Step:
            return Step((1.0 if evaluation.params.sum() > 100 else 0.1) * self.weights.expand_as(evaluation.params), ())

    ep = an_episode(Parabola(), Branches(), 4, 2)
    particles = Particles(ep.network, 3)
    assert particles.vmaps
    problems = ep.problems.repeated(3)
    with pytest.warns(UserWarning, match="particles of Branches step one by one, more slowly: torch.vmap failed"):
        end = unroll(problems, particles, begin(problems, particles), 4, losses_only=True).end
    assert not particles.vmaps
    torch.testing.assert_close(end.evaluation.params, 0.4 * ep.network.weights.detach().expand(3, 3))


def test_a_non_differentiable_metric_at_the_end_of_the_episode() -> None:
    """Coordinates of θ_2 = 2 φ above a half, of which φ = 0.25 ± 0.1 ε are one or none: more is better with a minus."""
    episode = an_episode(Parabola(), Constant(), 2, 1)
    with torch.no_grad():
        episode.network.weights.copy_(torch.tensor([0.25, -9.0, -9.0]))
    for objective, sign in (("above", 1), ("-above", -1)):
        (estimate,) = NRES(200, 0.1, objective=objective).estimates(episode)
        # E[ΔL ε] / 2σ: one of the pair is above, (1/3) E|ε| / 2σ = (1/3) 0.798 / 0.2
        assert estimate.grads[0][0].item() == pytest.approx(sign * 1.33, abs=0.15)
        assert estimate.loss.item() == pytest.approx(sign / 6, abs=1e-12)
        assert estimate.losses.shape == (2, 1)


def test_objectives_that_there_are_not_are_named() -> None:
    with pytest.raises(MetaOptError, match="must be one of meta_loss, final_loss, above, .* not accuracy"):
        list(PES(objective="accuracy").estimates(an_episode(Parabola(), Constant(), 2, 1)))


def test_a_metric_of_mini_batches_is_an_objective() -> None:
    """And to look at its name takes no mini-batch from the episode."""
    losses = []
    for objective in ("-accuracy", "final_loss"):
        episode = an_episode(DigitsMlp((2,)), CoordinatewiseLSTM(hidden_size=2), 3, 3)
        (estimate,) = NRES(2, 0.1, objective=objective).estimates(episode)
        losses.append(estimate.losses)
        if objective == "-accuracy":
            assert -1.0 <= estimate.loss.item() <= 0.0
    assert torch.equal(*losses)


def test_the_final_loss_is_that_of_the_episode_whatever_the_truncations() -> None:
    """Constant steps: after two steps θ = 2φ, ∇ = 2 c (2φ - b), however the two steps are cut."""
    whole = total(list(NRES(3, 0.1, objective="final_loss").estimates(an_episode(Parabola(), Constant(), 2, 2))))
    cut = total(list(NRES(3, 0.1, objective="final_loss").estimates(an_episode(Parabola(), Constant(), 2, 1))))
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    summed = total(list(NRES(3, 0.1).estimates(an_episode(Parabola(), Constant(), 2, 1))))
    assert (summed - whole).norm() > 0.1 * whole.norm()


@pytest.mark.parametrize("kind", [ES, PES, NRES])
def test_pairs_split_over_processes_give_the_estimates_of_one(kind: Callable[..., Evolution]) -> None:
    def estimates(rank: int, processes: int) -> list[MetaGradient]:
        episode = replace(an_episode(Parabola(), Constant(), 6, 2, count=2), rank=rank, num_processes=processes)
        return list(kind(6, 0.1, split_pairs=True).estimates(episode))

    (one,) = [estimates(0, 1)]
    for processes in (2, 3):
        parts = [estimates(rank, processes) for rank in range(processes)]
        for whole, *shares in zip(one, *parts, strict=True):
            mean = torch.stack([share.grads[0] for share in shares]).mean(0)
            torch.testing.assert_close(mean, whole.grads[0], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(torch.stack([share.loss for share in shares]).mean(), whole.loss)
    with pytest.raises(MetaOptError, match="must be a multiple of the number of processes, 4, with"):
        estimates(0, 4)


def test_a_particle_that_diverges_counts_as_the_largest_difference() -> None:
    class Cliff(Parabola):
        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            theta = params["theta"]
            return torch.where(theta[0] > 0.5, torch.inf, super().loss(params, problem, batch))

    episode = partial(an_episode, Cliff(), Constant(), 1, 1)
    (spoilt,) = PES(8, 0.1).estimates(episode())
    assert not spoilt.grads[0].isfinite().all()
    (estimate,) = PES(8, 0.1, max_difference=0.5).estimates(episode())
    torch.testing.assert_close(estimate.losses.squeeze(), estimate.loss)  # both of those below the edge
    assert estimate.loss.isfinite()
    # Half of all particles are over the edge: E[0.5 |ε|] / 2σ, of eight pairs
    assert estimate.grads[0][0].item() == pytest.approx(0.5 * 0.798 / 0.2, abs=1.0)


class Plane(Parabola):
    """f = Σ θ_i, from zero; not-a-number where it is ``edge`` and more."""

    def __init__(self, edge: float) -> None:
        self.edge = edge

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        total = params["theta"].sum()
        return torch.where(total < self.edge, total, torch.nan)


@pytest.mark.parametrize("max_difference", [None, 0.5])
@pytest.mark.parametrize("meta_loss", ["log_sum", "log_mean"])
def test_particles_whose_loss_has_no_logarithm_are_said_to_be_the_cause(
    meta_loss: Any, max_difference: float | None
) -> None:
    """Of φ itself it is 1.5: with σ = 1 some particles are below zero, and others over the edge."""
    episode = replace(an_episode(Plane(2.0), Constant(), 1, 1), meta_loss=MetaLoss(meta_loss, "constant"))
    with pytest.raises(
        MetaOptError, match=rf"meta_loss {meta_loss} takes logarithms, and a loss was -\d.*: choose sum"
    ):
        list(NRES(8, 1.0, max_difference=max_difference).estimates(episode))
    assert next(NRES(8, 1.0, max_difference=0.5).estimates(replace(episode, meta_loss=SUM))).loss.isfinite()


def test_particles_that_diverge_have_no_logarithm_either_and_count_as_the_largest_difference() -> None:
    episode = replace(an_episode(Plane(1.5), Constant(), 1, 1), meta_loss=MetaLoss("log_mean", "constant"))
    (estimate,) = NRES(50, 0.05, max_difference=0.5).estimates(episode)
    assert estimate.loss.isfinite()
    # One of each pair is over the edge, and ε adds up to √3 times a normal number: E[0.5 |Σ ε|] / 2σ
    assert estimate.grads[0].sum().item() == pytest.approx(0.5 * 3**0.5 * 0.798 / 0.1, abs=2.0)


def test_memory_does_not_grow_with_the_unroll() -> None:
    episode = an_episode(Parabola(), Constant(), 50, 50)
    problems, particles = episode.problems.repeated(2), Particles(episode.network, 2)
    trajectory = unroll(problems, particles, begin(problems, particles), 50, losses_only=True)
    assert all(set(vars(each)) == {"loss"} for each in trajectory.evaluations[1:])


def test_the_native_rollouts_of_particles_are_those_of_their_weights() -> None:
    problems = bowls()
    network = CoordinatewiseLSTM(1, 4, inputs="log_sign+moments")
    network.build(problems.layout, Generator().manual_seed(0))
    particles = Particles(network.double(), 2)
    offsets = 0.1 * torch.randn(
        2, sum(each.numel() for each in network.parameters()), generator=Generator().manual_seed(1), dtype=torch.float64
    )
    particles.move_to(offsets)
    repeated = problems.repeated(2)
    losses = unroll(repeated, particles, begin(repeated, particles), 6, losses_only=True).losses
    for number, offset in enumerate(offsets):
        moved = copy.deepcopy(network)
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(network.parameters()) + offset, moved.parameters()
        )
        alone = unroll(bowls(), moved, begin(bowls(), moved), 6).losses
        torch.testing.assert_close(losses[:, 2 * number : 2 * number + 2], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("option", "value"), [("pairs", 0), ("sigma", 0.0), ("max_difference", math.inf), ("correction", 1.5)]
)
def test_values_out_of_range(option: str, value: float) -> None:
    with pytest.raises(MetaOptError, match=f"model.estimator.{option} must be"):
        PES(**{option: value})


def test_a_control_variate_leaves_the_mean_and_takes_variance() -> None:
    network = built(MomentumMlp())
    whole = partial(episode_of, network, 4)
    exact = total(list(SecondOrder().estimates(whole())))
    deviations = {}
    for controlled in (False, True):
        estimator = NRES(2, 1e-3, control_variate=controlled, correction=1.0)
        drawn = torch.stack(
            [
                total(list(estimator.estimates(replace(whole(), generator=partial(problem_generator, seed)))))
                for seed in range(60)
            ]
        )
        mean, error = drawn.mean(0), drawn.std(0).norm() / math.sqrt(60)
        assert (mean - exact).norm() < 2 * error
        deviations[controlled] = float(error)
    assert deviations[True] < 0.5 * deviations[False]


@pytest.mark.parametrize("estimator", [ES, PES, NRES])
@pytest.mark.parametrize(
    "network",
    [partial(CoordinatewiseLSTM, 1, 3, base_step=0.1, horizon=True), partial(LearnedSOAP, hidden_size=3)],
    ids=["lstm", "soap"],
)
def test_particles_know_the_length_of_the_run(
    estimator: type[Evolution], network: Callable[[], OptimizerNetwork]
) -> None:
    """They are where the network itself is, as near as they are to it."""
    episode = partial(an_episode, Parabola(), network(), 9, 3)
    expected = [each.losses for each in FirstOrder().estimates(episode())]
    for controlled in (False, True):
        found = estimator(1, 1e-9, control_variate=controlled).estimates(episode())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.losses, other, rtol=1e-6, atol=1e-9)


def test_less_correction_is_nearer_to_first_order() -> None:
    network = built(MomentumMlp())

    def of(**options: Any) -> Tensor:
        return total(list(PES(1, 1e-3, **options).estimates(episode_of(network))))

    known = total(list(FirstOrder().estimates(episode_of(network))))
    torch.testing.assert_close(of(correction=0.0), known)
    torch.testing.assert_close(of(correction=0.25) - known, 0.25 * (of(correction=1.0) - known))
    size = sum(weight.numel() for weight in network.parameters())
    torch.testing.assert_close(of(), of(correction=min(1.0, 100 / size)))
