"""Rewards, advantages and objectives of policy gradients, as functions of tensors [T, B] and [T, B, A].

Step t draws the action a_t at losses up to f_t, and is rewarded by what f_{t+1} is then.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reward = Literal["decrease", "area"]
_SOLVED = 1e-12  # part of the first loss below which there is nothing to gain


def rewards_of(losses: Tensor, reward: Reward) -> Tensor:
    """r_t, [T, B], of f_0 ... f_T (or their logarithms), [T + 1, B].

    ``decrease``: f_t - f_{t+1}, whose sum is what the loss fell by. ``area``: -f_{t+1}, whose sum is the area under
    the curve (Li and Malik 2016, arXiv:1606.01885, section 3.2).
    """
    return losses[:-1] - losses[1:] if reward == "decrease" else -losses[1:]


def logs_of(losses: Tensor, first: Tensor) -> Tensor:
    """Logarithms of losses [T + 1, B], none below a trillionth of f_0 [B]; of a negative loss not-a-number.

    A problem that is solved to the last bit has a loss of exactly zero, and what is gained by that is not infinite.
    """
    least = (_SOLVED * first).clamp_min(torch.finfo(losses.dtype).tiny)
    return torch.where(losses >= 0.0, torch.maximum(losses, least), torch.nan).log()


def advantages_of(rewards: Tensor, values: Tensor, discount: float, smoothing: float) -> Tensor:
    """Generalized advantage estimates (Schulman et al. 2016, arXiv:1506.02438, equation 16).

        δ_t = r_t + γ V_{t+1} - V_t        A_t = Σ_k (γλ)^k δ_{t+k}

    Args:
        rewards: r_t, [T, B].
        values: V_0 ... V_T, [T + 1, B]; the last is 0 where the episode ends there.
        discount: γ.
        smoothing: λ.

    Returns:
        A_t, [T, B].
    """
    differences = rewards + discount * values[1:] - values[:-1]
    total, advantages = torch.zeros_like(rewards[0]), []
    for difference in differences.flip(0):
        total = difference + discount * smoothing * total
        advantages.append(total)
    return torch.stack(advantages[::-1])


def normalized(advantages: Tensor) -> Tensor:
    """Advantages [T, B] less their mean over the steps of each problem, over their standard deviation there.

    Of a single step, which says nothing of what others would have brought, the advantage stays as it is.
    """
    if len(advantages) == 1:
        return advantages
    centred = advantages - advantages.mean(0)
    return centred / (centred.square().mean(0).sqrt() + 1e-8)


def score(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Σ_t Σ_a A_t ln p(a_t), a mean over problems: its gradient is REINFORCE's (Williams 1992), [].

    Args:
        log_probs: [T, B, A].
        advantages: [T, B].
    """
    return (log_probs.sum(2) * advantages).sum(0).mean()


def clipped_surrogate(log_probs: Tensor, before: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's objective (Schulman et al. 2017, arXiv:1707.06347, equation 7), with a ratio for each action, [].

        Σ_t Σ_a min(ρ A_t, clip(ρ, 1 - ε, 1 + ε) A_t)        ρ = p(a_t)/p_before(a_t)

    A mean over problems. The ratio of all actions of a step together would be far from one after any change of a policy
    that many actions share.

    Args:
        log_probs: [T, B, A].
        before: Those of the policy that drew the actions.
        advantages: [T, B].
        clip: ε.
    """
    ratio = (log_probs - before).exp()
    advantages = advantages.unsqueeze(2)
    least = torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)
    return least.sum(2).sum(0).mean()
