"""Meta-losses of batches that the optimizee holds back."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from networks_for_tests import Coupled
from problems_for_tests import HoldsBack, Regression
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.inner_loop.unroll import begin, joined, unroll
from meta_opt.meta_training.estimators.contract import Episode, MetaGradient
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizees.held_back import check_held_back
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.baseline_names import adam
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

T = 5


def problems(*, held_back: bool = True) -> Problems:
    return Problems(HoldsBack(), "train", range(3), seed=0, dtype=torch.float64, held_back=held_back)


def built(network: OptimizerNetwork) -> OptimizerNetwork:
    network.build(problems().layout, Generator().manual_seed(0))
    return network.double()


def meta_loss(network: OptimizerNetwork, *, detach: bool) -> Tensor:
    """L by a loop from the definition, with a graph; on request with gradients held constant."""
    run = problems()
    theta, state = run.initial_params.clone().requires_grad_(), network.init_state(run.layout, 3)
    total = torch.zeros((), dtype=torch.float64)
    evaluation = run.evaluate(theta, graph="second")
    run.judge(theta)
    for _ in range(T):
        grad = evaluation.grad.detach() if detach else evaluation.grad
        update, state, _ = network.step(Evaluation(evaluation.loss, grad, theta).only(network.reads), state)
        theta = theta + update
        evaluation = run.evaluate(theta, graph="second")
        total = total + run.judge(theta, graph="second").loss.mean()
    return total


@pytest.mark.parametrize("kind", [partial(CoordinatewiseLSTM, 1, 4, engine="torch"), Coupled])
@pytest.mark.parametrize("second", [False, True])
def test_meta_gradient_is_that_of_the_held_back_losses(kind, second: bool) -> None:
    network = built(kind())
    loss = meta_loss(network, detach=not second)
    expected = torch.autograd.grad(loss, network.trained_parameters(), materialize_grads=True)
    streams = partial(problem_generator, 0, "episode")
    episode = Episode(problems(), network, MetaLoss("sum", "constant"), T, T, streams)
    (estimate,) = (SecondOrder() if second else FirstOrder()).estimates(episode)
    torch.testing.assert_close(estimate.loss, loss.detach(), rtol=1e-10, atol=0)
    for one, other in zip(estimate.grads, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_steps_are_the_same_whoever_judges() -> None:
    ends = []
    for held_back in (False, True):
        run = problems(held_back=held_back)
        trajectory = unroll(run, adam(0.1), begin(run, adam(0.1)), T)
        ends.append(trajectory.end.evaluation.params)
        losses = torch.stack([evaluation.loss for evaluation in trajectory.evaluations[1:]])
        assert torch.equal(trajectory.losses, losses) is not held_back
    assert torch.equal(*ends)


def test_pieces_judge_as_the_whole() -> None:
    whole_run, run = problems(), problems()
    whole = unroll(whole_run, adam(0.1), begin(whole_run, adam(0.1)), 6)
    first = unroll(run, adam(0.1), begin(run, adam(0.1)), 2)
    second = unroll(run, adam(0.1), first.end.detach(), 4)
    assert torch.equal(joined([first, second]).losses, whole.losses)


def test_curves_are_of_held_back_losses() -> None:
    curves = run_episodes(HoldsBack(), adam(0.1), "test", 3, 4, seed=0, held_back=True)
    run = Problems(HoldsBack(), "test", range(3), seed=0, held_back=True)
    first = run.judge(run.initial_params).loss
    torch.testing.assert_close(curves.losses[0], first)
    fitted = run_episodes(HoldsBack(), adam(0.1), "test", 3, 4, seed=0)
    assert not torch.allclose(curves.losses, fitted.losses)


def test_metrics_are_of_the_batch_that_judges() -> None:
    """The last batch is that of θ_4; the root of the loss on it is the metric."""
    for held_back in (False, True):
        curves = run_episodes(HoldsBack(), adam(0.1), "test", 3, 4, seed=0, held_back=held_back)
        torch.testing.assert_close(curves.metrics["root"], curves.losses[-1].sqrt())


def test_a_metric_as_the_objective_is_of_held_back_batches() -> None:
    """And to look at its name takes none of them from the episode."""
    network, streams = built(Coupled()), partial(problem_generator, 0, "episode")

    def of(objective: str, *, held_back: bool) -> MetaGradient:
        run = problems(held_back=held_back)
        episode = Episode(run, network, MetaLoss("sum", "constant"), T, T, streams)
        return next(NRES(2, 0.1, objective=objective).estimates(episode))

    one, other = (of("root", held_back=held_back) for held_back in (False, True))
    assert not torch.allclose(one.grads[0], other.grads[0])
    assert torch.equal(other.losses, of("final_loss", held_back=True).losses)
    squares = [
        each.losses[-1].mean() / each.loss.square() for each in (one, other)
    ]  # a mean of squares over their root
    assert all(0.99 < float(each) < 3.0 for each in squares)


class JudgesOtherwise(HoldsBack):
    """Where twice the loss counts, and one more."""

    def held_back_loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return 2.0 * self.loss(params, problem, batch) + 1.0


@pytest.mark.parametrize("number", [1, 3])
def test_what_counts_on_held_back_batches_may_be_another_loss(number: int) -> None:
    both = [Problems(kind(), "train", range(number), seed=0, held_back=True) for kind in (HoldsBack, JudgesOtherwise)]
    for _ in range(3):  # the third may be traced
        fitted = [run.evaluate(run.initial_params) for run in both]
        assert torch.equal(fitted[0].loss, fitted[1].loss)
        plain, other = (run.judge(run.initial_params, grad=True) for run in both)
        torch.testing.assert_close(other.loss, 2.0 * plain.loss + 1.0)
        torch.testing.assert_close(other.grad, 2.0 * plain.grad)


def test_rewards_are_of_held_back_losses() -> None:
    network = built(AlphaOpt(hidden_size=4))
    streams = partial(problem_generator, 0, "episode")
    estimates = [
        next(PolicyGradient().double().estimates(Episode(each, network, MetaLoss("sum", "constant"), T, T, streams)))
        for each in (problems(), problems(held_back=False))
    ]
    assert not torch.allclose(estimates[0].losses, estimates[1].losses)
    assert not torch.allclose(estimates[0].grads[0], estimates[1].grads[0])


def test_optimizees_that_hold_nothing_back() -> None:
    with pytest.raises(OptimizeeError, match="held_back needs batches .* Regression.sample_held_back gives none"):
        MetaLearner(Regression(), CoordinatewiseLSTM(hidden_size=4), held_back=True)


class Mixed(OptimizeeFamily):
    """Mostly problems that hold batches back."""

    def __init__(self) -> None:
        self.parts = [HoldsBack(), Regression()]

    def variant(self, generator: Generator) -> Optimizee:
        return self.parts[int(torch.rand((), generator=generator) < 0.3)]

    def to(self, device: torch.device | str) -> Optimizee:
        return self


@pytest.mark.parametrize("seed", range(5))
def test_all_parts_of_a_mixture_must_hold_batches_back(seed: int) -> None:
    with pytest.raises(OptimizeeError, match="held_back needs batches .* Regression.sample_held_back gives none"):
        check_held_back(Mixed(), Generator().manual_seed(seed))
    drawn = Problems(Regression(), "train", [seed], seed=0, held_back=True)
    with pytest.raises(OptimizeeError, match="held_back needs batches .* Regression.sample_held_back gives none"):
        drawn.judge(drawn.initial_params)


class HoldsBackBadly(Regression):
    def __init__(self, what: object) -> None:
        super().__init__()
        self.what = what

    def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
        if isinstance(self.what, Exception):
            raise self.what
        return self.what  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (None, "sample_held_back must return named tensors, a dict, found None"),
        ({"x": 3}, "sample_held_back must return named tensors, a dict, but 'x' is int"),
        (ValueError("no"), "sample_held_back fails with ValueError: no"),
        ({"y": torch.ones(2)}, "held_back_loss fails on a held-back batch with KeyError"),
        ({"x": torch.full((2, 3), torch.nan)}, "held_back_loss is not finite"),
    ],
)
def test_what_is_wrong_is_said(what: object, message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        check_held_back(HoldsBackBadly(what), Generator().manual_seed(0))


class JudgesBadly(HoldsBack):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def held_back_loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        loss = self.loss(params, problem, batch)
        return {"vector": loss.expand(3), "count": (loss.detach() > 0).float(), "text": "low"}[self.kind]  # type: ignore[return-value]


class MeasuresOnlyTheFirstRows(HoldsBack):
    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"first": (batch["x"] - torch.zeros(6, 3)).mean()}


def test_metrics_must_have_a_value_on_held_back_batches() -> None:
    with pytest.raises(OptimizeeError, match="metrics fails on a held-back batch with RuntimeError"):
        check_held_back(MeasuresOnlyTheFirstRows(), Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vector", r"held_back_loss must return a scalar tensor \(shape \[\]\), found shape \[3\]"),
        ("count", "held_back_loss does not depend on params through autograd"),
        ("text", r"held_back_loss must return a scalar tensor \(shape \[\]\), found str"),
    ],
)
def test_what_is_wrong_with_what_counts_is_said(kind: str, message: str) -> None:
    with pytest.raises(OptimizeeError, match=message):
        check_held_back(JudgesBadly(kind), Generator().manual_seed(0))
