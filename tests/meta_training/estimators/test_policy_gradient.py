"""Policy gradients: right on a problem of one step, and the same whatever is observed beside."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.estimators.contract import Episode, MetaGradient
from meta_opt.meta_training.estimators.critic import Critic, inputs_of
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee, TensorDict
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.policies import Decision, Gaussian, Policy, drawn
from meta_opt.testing import estimator_checks


class Bowl(Optimizee):
    """f = (θ - 1)² + 1 in two coordinates, from zero."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {"theta": torch.zeros(2)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return (params["theta"] - 1.0).square().sum() + 1.0


class Bandit(Policy):
    """The action is the update; the policy is its mean and its spread."""

    reads = frozenset({"grad"})
    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.mean = nn.Parameter(torch.tensor(0.3))
        self.log_std = nn.Parameter(torch.tensor(-0.7))

    def init_state(self, layout: Layout, num_problems: int) -> Tensor:
        return self.mean.new_zeros(())

    def step(self, evaluation: Evaluation, state: Tensor, noise: Generator | None = None) -> Step:
        mean = self.mean.expand_as(evaluation.grad)
        if noise is None:
            return Step(mean, state)
        action = drawn(Gaussian(mean, self.log_std), noise)
        return Step(action, state, Decision(torch.zeros(*action.shape, 0), action.detach()))

    def distributions(self, observations: Tensor, state: Any) -> Gaussian:
        return Gaussian(self.mean.expand(observations.shape[:-1]), self.log_std)


def episode_of(
    network: OptimizerNetwork, *, num_problems: int = 4, num_steps: int = 6, unroll_length: int = 3, key: int = 0
) -> Episode:
    problems = Problems(Bowl(), "train", range(num_problems), seed=0, dtype=torch.float64)
    network.build(problems.layout, Generator().manual_seed(0))
    streams = partial(problem_generator, key, "episode")
    return Episode(problems, network.double(), MetaLoss("sum", "constant"), num_steps, unroll_length, streams)


def estimates_of(estimator: PolicyGradient, episode: Episode) -> Iterator[MetaGradient]:
    return estimator.double().estimates(episode)


@pytest.mark.parametrize("check", estimator_checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_contract(check: Any, algorithm: Any) -> None:
    check(PolicyGradient(algorithm))


PLAIN: dict[str, Any] = {
    "log_losses": False,
    "normalize_advantages": False,
    "critic_size": 0,
    "discount": 1.0,
    "smoothing": 1.0,
}


@pytest.mark.parametrize("reward", ["area", "decrease"])
def test_one_step_bandit_against_the_exact_gradient(reward: Any) -> None:
    """E f = 2 ((μ - 1)² + σ²) + 1: ∂/∂μ = 4 (μ - 1), ∂/∂ln σ = 4 σ². Within three standard errors of 400 estimates."""
    estimator = PolicyGradient("reinforce", reward=reward, **PLAIN)
    found = []
    for key in range(400):
        episode = episode_of(Bandit(), num_steps=1, num_problems=16, key=key)
        (estimate,) = estimates_of(estimator, episode)
        found.append(torch.stack(estimate.grads))
    grads = torch.stack(found)
    mean, error = grads.mean(0), grads.std(0) / len(grads) ** 0.5
    exact = torch.tensor([4.0 * (0.3 - 1.0), 4.0 * torch.tensor(-0.7).exp().item() ** 2], dtype=torch.float64)
    assert (error < 0.3 * exact.abs()).all(), "too noisy to say anything"
    assert ((mean - exact).abs() < 3.0 * error).all(), f"{mean} is not {exact} ± {error}"


@pytest.mark.parametrize("network", ["mlp", "gru"])
@pytest.mark.parametrize("action", ["coordinate", "tensor", "problem"])
def test_the_first_pass_of_ppo_is_reinforce(action: Any, network: Any) -> None:
    """The ratio is exactly one there, and its gradient that of the logarithm."""
    policy = partial(AlphaOpt, action=action, network=network, hidden_size=4)
    one = next(estimates_of(PolicyGradient("reinforce", critic_size=0), episode_of(policy())))
    other = next(estimates_of(PolicyGradient("ppo", critic_size=0), episode_of(policy())))
    for first, second in zip(one.grads, other.grads, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_probabilities_are_of_what_was_drawn(network: Any) -> None:
    """The distributions of a whole rollout have the means that its steps acted around, one after the other."""
    policy = AlphaOpt("coordinate", network=network, hidden_size=4)
    episode = episode_of(policy)
    state = policy.init_state(episode.problems.layout, 4)
    begin, records, means = state, [], []
    params = episode.problems.initial_params
    for step in range(5):
        evaluation = episode.problems.evaluate(params)
        update, after, record = policy.step(evaluation, state, Generator().manual_seed(step))
        means.append((policy.step(evaluation, state).update, update))
        records.append(record)
        params, state = params + update.detach(), after
    found = policy.distributions(torch.stack([record.observation for record in records]), begin)
    actions = torch.stack([record.action for record in records])
    for mean, action, (deterministic, noisy) in zip(found.mean, actions, means, strict=True):
        ratio = (torch.tanh(action) - torch.tanh(mean)) * policy.decades * torch.log(torch.tensor(10.0))
        torch.testing.assert_close(noisy, deterministic * ratio.exp(), rtol=1e-6, atol=1e-12)


def test_as_many_passes_as_asked_for_and_the_losses_once() -> None:
    estimates = list(estimates_of(PolicyGradient(passes=3), episode_of(AlphaOpt())))
    assert [len(each.losses) for each in estimates] == [3, 0, 0, 3, 0, 0]
    assert [float(each.loss) > 0.0 for each in estimates] == [True, False, False] * 2
    assert all(len(each.own_grads) == 4 for each in estimates)


class LearnedFirstState(Bandit):
    """The same policy, whose mean is its state."""

    def init_state(self, layout: Layout, num_problems: int) -> Tensor:
        return self.mean.exp().log().expand(num_problems, layout.num_coordinates)

    def step(self, evaluation: Evaluation, state: Tensor, noise: Generator | None = None) -> Step:
        action = state if noise is None else drawn(Gaussian(state, self.log_std), noise)
        return Step(action, state, Decision(torch.zeros(*action.shape, 0), action.detach()))

    def distributions(self, observations: Tensor, state: Tensor) -> Gaussian:
        return Gaussian(state.expand(observations.shape[:-1]), self.log_std)


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo"])
def test_a_first_state_that_is_made_of_phi_is_that_of_each_pass(algorithm: Any) -> None:
    runs = []
    for policy in (Bandit(), LearnedFirstState()):
        episode, grads = episode_of(policy, num_steps=4, unroll_length=4), []
        for estimate in estimates_of(PolicyGradient(algorithm, passes=3, critic_size=0), episode):
            grads.append(torch.stack(estimate.grads))
            with torch.no_grad():
                policy.mean += 0.05
        runs.append(torch.stack(grads))
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-12)


def test_the_critic_learns_the_returns() -> None:
    """Trained on its own gradients alone, it comes to tell the return of the losses it has seen."""
    estimator = PolicyGradient("reinforce", critic_size=16).double()
    assert estimator.critic is not None
    optimizer = torch.optim.Adam(estimator.critic.parameters(), lr=0.01)
    errors = []
    for key in range(150):
        (estimate,) = estimates_of(estimator, episode_of(AlphaOpt(), unroll_length=6, key=key % 5))
        for parameter, grad in zip(estimator.critic.parameters(), estimate.own_grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        errors.append(float(sum(grad.abs().sum() for grad in estimate.own_grads)))
    assert sum(errors[-5:]) < 0.2 * sum(errors[:5])


def test_the_critic_reads_a_state_alike_at_the_end_of_an_unroll_and_at_the_beginning_of_the_next() -> None:
    losses = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    whole = inputs_of(losses, losses[0], losses[0], 0, 8)
    torch.testing.assert_close(inputs_of(losses[3:], losses[0], losses[2], 3, 8), whole[3:])


def test_the_last_state_of_an_unroll_is_the_first_of_the_next_to_the_critic(monkeypatch: Any) -> None:
    seen: list[Tensor] = []
    forward = Critic.forward

    def watching(self: Critic, inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return forward(self, inputs)

    monkeypatch.setattr(Critic, "forward", watching)
    list(estimates_of(PolicyGradient("reinforce", critic_size=4), episode_of(AlphaOpt(), unroll_length=3)))
    first, second = (inputs for inputs in seen if len(inputs) == 4)  # others are without the last
    torch.testing.assert_close(first[-1], second[0])


def test_learns_the_rate_of_a_bowl() -> None:
    """From a rate that is far too small, the policy finds one that ends lower, by its own draws alone."""
    policy = AlphaOpt("problem", direction="gradient", base_rate=0.003, hidden_size=8, initial_std=0.3)
    episode = episode_of(policy, num_problems=32, num_steps=20, unroll_length=20)
    estimator = PolicyGradient().double()
    optimizer = torch.optim.Adam([*policy.trained_parameters(), *estimator.parameters()], lr=0.02)
    finals = []
    for key in range(30):
        streams = partial(problem_generator, key, "episode")
        for estimate in estimator.estimates(replace(episode, generator=streams)):
            grads = (*estimate.grads, *estimate.own_grads)
            for parameter, grad in zip([*policy.trained_parameters(), *estimator.parameters()], grads, strict=True):
                parameter.grad = grad
            optimizer.step()
            if len(estimate.losses):
                finals.append(float(estimate.losses[-1].mean()))
    assert finals[0] > 2.0
    assert finals[-1] < 1.1


def test_negative_losses_have_no_logarithm() -> None:
    class Below(Bowl):
        def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
            return super().loss(params, problem, batch) - 10.0

    network = AlphaOpt()
    problems = Problems(Below(), "train", range(2), seed=0)
    network.build(problems.layout, Generator().manual_seed(0))
    episode = Episode(problems, network, MetaLoss("sum", "constant"), 4, 4, partial(problem_generator, 0))
    found = {
        log: next(PolicyGradient(log_losses=log).estimates(episode)).grads[0].isfinite().all().item()
        for log in (True, False)
    }
    assert found == {True: False, False: True}


def test_refuses_what_draws_no_actions() -> None:
    with pytest.raises(MetaOptError, match="CoordinatewiseLSTM draws no actions"):
        PolicyGradient().check(CoordinatewiseLSTM(), 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 1.5}, "discount must be from 0 to 1, not 1.5"),
        ({"smoothing": -0.1}, "smoothing must be from 0 to 1"),
        ({"passes": 0}, "passes must be more than 0, not 0"),
        ({"clip": 0.0}, "clip must be more than 0"),
        ({"entropy_bonus": -1.0}, "entropy_bonus must not be negative"),
        ({"critic_size": -1}, "critic_size must not be negative"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        PolicyGradient(**arguments)
