"""Policy gradients: the meta-gradient of stochastic policies without a derivative of what their actions do.

After Li and Malik (2016, arXiv:1606.01885) the learned optimizer is an agent: losses and gradients are what it
observes, a step of θ is its action, and the return is how far, or how fast, the loss falls. The optimizee's gradient is
an observation and never differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, cast

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import Trajectory, begin, first_state, unroll, unroll_lengths
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.estimators.critic import Critic, inputs_of
from meta_opt.meta_training.estimators.returns import (
    Reward,
    advantages_of,
    clipped_surrogate,
    logs_of,
    normalized,
    rewards_of,
    score,
)
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.policies import Policy
from meta_opt.optimizers.replaying import by_weights


class PolicyGradient(Estimator):
    """REINFORCE (Williams 1992) or PPO (Schulman et al. 2017) over the steps of each unroll, with a critic.

    What counts is the return, as the arguments say: model.meta_loss and model.step_weights do not.
    Every unroll of T steps gives one meta-gradient, or with PPO one for each pass over it, of the probabilities that
    its actions have at the φ of the pass: a first state that is made of φ is made anew, and the states that later
    unrolls begin with stay what they are. The critic is trained beside φ by the meta-optimizer, to the squared error of
    what it said the return would be.
    """

    def __init__(
        self,
        algorithm: Literal["reinforce", "ppo"] = "ppo",
        passes: int = 4,
        clip: float = 0.2,
        reward: Reward = "decrease",
        log_losses: bool = True,
        discount: float = 0.99,
        smoothing: float = 0.95,
        entropy_bonus: float = 0.0,
        normalize_advantages: bool = True,
        critic_size: int = 32,
    ) -> None:
        """Choose the algorithm and what it is rewarded for.

        Args:
            algorithm: REINFORCE, or PPO with its clipped objective.
            passes: Meta-updates that PPO makes of one unroll; REINFORCE makes one.
            clip: ε of PPO: how far from one the ratio of probabilities counts.
            reward: What a step earns: by how much the loss fell (decrease), or the negative loss (area).
            log_losses: Whether rewards are of the logarithms of losses, which must not be negative then.
            discount: γ, from 0 to 1.
            smoothing: λ of the generalized advantage estimates, from 0 to 1; 1 for whole returns.
            entropy_bonus: Weight of the entropy of actions in what is maximized.
            normalize_advantages: Whether advantages are centred and scaled over the steps of each problem.
            critic_size: Hidden units of the critic; 0 for none.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        for name, value in {"discount": discount, "smoothing": smoothing}.items():
            if not 0.0 <= value <= 1.0:
                raise MetaOptError(f"model.estimator.{name} must be from 0 to 1, not {value}")
        for name, value in {"clip": clip, "passes": passes}.items():
            if not value > 0:
                raise MetaOptError(f"model.estimator.{name} must be more than 0, not {value}")
        if not entropy_bonus >= 0.0:
            raise MetaOptError(f"model.estimator.entropy_bonus must not be negative, not {entropy_bonus}")
        if critic_size < 0:
            raise MetaOptError(f"model.estimator.critic_size must not be negative, not {critic_size}")
        self.algorithm = algorithm
        self.passes = passes if algorithm == "ppo" else 1
        self.clip = clip
        self.reward: Reward = reward
        self.log_losses = log_losses
        self.discount = discount
        self.smoothing = smoothing
        self.entropy_bonus = entropy_bonus
        self.normalize_advantages = normalize_advantages
        self.critic = Critic(critic_size) if critic_size else None

    def check(self, network: OptimizerNetwork, unroll_length: int) -> None:
        """See :meth:`Estimator.check`."""
        if not isinstance(network, Policy):
            raise MetaOptError(
                f"{type(network).__name__} draws no actions, as model.estimator policy_gradient needs: take optimizer "
                "alpha_opt, or another policy, or the estimator first_order"
            )

    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """See :meth:`Estimator.estimates`."""
        position = begin(episode.problems, episode.network, num_steps=episode.num_steps)
        first = previous = position.judged.loss
        start = 0
        for number, length in enumerate(unroll_lengths(episode.num_steps, episode.unroll_length)):
            noise = episode.generator("actions", number)
            trajectory = unroll(episode.problems, episode.network, position, length, noise=noise)
            position = trajectory.end.detach()
            losses = torch.stack([evaluation.loss for evaluation in trajectory.judged])  # [T + 1, B]
            inputs = inputs_of(losses, first, previous, start, episode.num_steps)
            start, previous = start + length, losses[-2]
            ends = start == episode.num_steps
            yield from self._passes(episode, trajectory, losses, inputs, first, begins=number == 0, ends=ends)

    def _passes(
        self,
        episode: Episode,
        trajectory: Trajectory,
        losses: Tensor,
        inputs: Tensor,
        first: Tensor,
        *,
        begins: bool,
        ends: bool,
    ) -> Iterator[MetaGradient]:
        """Meta-gradients of one unroll with losses [T + 1, B] and what the critic reads of them, [T + 1, B, 5]."""
        policy = cast(Policy, episode.network)
        advantages, targets = self._advantages(losses, first, inputs, ends=ends)
        observations = torch.stack([record.observation for record in trajectory.records])
        actions = torch.stack([record.action for record in trajectory.records])
        meta_loss, before = episode.meta_loss.value(losses[1:]), None
        for number in range(self.passes):
            with torch.enable_grad():
                state = trajectory.start.state
                if begins:  # it may be made of φ
                    state = first_state(episode.problems, policy, episode.num_steps)
                distributions = policy.distributions(observations, state)
                log_probs = distributions.log_prob(actions)
                if before is None:
                    before = log_probs.detach()
                if self.algorithm == "ppo":
                    objective = clipped_surrogate(log_probs, before, advantages, self.clip)
                else:
                    objective = score(log_probs, advantages)
                entropy = distributions.entropy.expand_as(log_probs).sum(2).sum(0).mean()
                objective = objective + self.entropy_bonus * entropy
                grads = by_weights(-objective, policy)
                own: tuple[Tensor, ...] = ()
                if self.critic is not None:
                    error = (self.critic(inputs[:-1]) - targets).square().mean()
                    own = torch.autograd.grad(error, list(self.critic.parameters()), materialize_grads=True)
            if number == 0:
                yield MetaGradient(meta_loss, grads, losses[1:], own)
            else:  # the same steps once more
                yield MetaGradient(torch.zeros_like(meta_loss), grads, losses[:0], own)

    def _advantages(self, losses: Tensor, first: Tensor, inputs: Tensor, *, ends: bool) -> tuple[Tensor, Tensor]:
        """Advantages, and the returns that the critic should have said, [T, B] each; without a graph."""
        with torch.no_grad():
            earned = logs_of(losses, first) if self.log_losses else losses
            rewards = rewards_of(earned, self.reward)
            values = torch.zeros_like(losses) if self.critic is None else self.critic(inputs)
            if ends:
                values = torch.cat([values[:-1], torch.zeros_like(values[:1])])
            advantages = advantages_of(rewards, values, self.discount, self.smoothing)
            targets = advantages + values[:-1]
            return normalized(advantages) if self.normalize_advantages else advantages, targets
