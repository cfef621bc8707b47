"""The meta-loss of an unroll: how the losses along the way become the one number that φ is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError

_LEAST = 1e-12  # loss that the logarithm is taken of

MetaLossName = Literal["sum", "log_sum", "log_mean", "best"]


class MetaLoss:
    """What an unroll with losses f_t and weights w_t costs: L is the mean over problems of one of these.

        sum        Σ_t w_t f_t
        log_sum    Σ_t w_t ln f_t
        log_mean   W ln(Σ_t w_t f_t / W)        W = Σ_t w_t
        best       Σ_t w_t min_{s≤t} f_s        over the steps of the unroll

    Logarithms weigh a late, small loss as much as an early, large one (Wichrowska et al. 2017, arXiv:1703.04813,
    section 4.2). With mini-batches, the logarithm of each loss cares about the usual one more than about the mean: an
    optimizer gains by being surer of most examples, however wrong it is on a few, which most mini-batches do not hold.
    The logarithm of an unroll's mean does not, as long as the unroll meets those few.

    They need losses that are not negative: at others the meta-loss is not finite. What is below 1e-12 where the
    logarithm is taken, such as the zero that a cross entropy rounds to, counts as that, and has no slope.
    """

    def __init__(self, name: MetaLossName, step_weights: str) -> None:
        """Choose the meta-loss.

        Args:
            name: ``"sum"``, ``"log_sum"``, ``"log_mean"`` or ``"best"``.
            step_weights: See :func:`parse_step_weights`.

        Raises:
            MetaOptError: If ``step_weights`` is not understood.
        """
        self._name = name
        self._weights = parse_step_weights(step_weights)

    def problem(self, losses: Tensor) -> str | None:
        """Why the meta-loss of these losses is not finite, where it is the meta-loss that is wrong for them."""
        if self._name in ("log_sum", "log_mean") and bool((negative := losses < 0).any()):
            lowest = losses[negative].min()  # others may be nan
            return f"model.meta_loss {self._name} takes logarithms, and a loss was {lowest:.3g}: choose sum"
        return None

    def value(self, losses: Tensor) -> Tensor:
        """L, [], of losses [T, B]."""
        weights = self._weights(len(losses)).to(losses)
        if self._name == "sum":
            return (weights @ losses).mean()
        if self._name == "best":
            return (weights @ losses.cummin(0).values).mean()
        losses = torch.where(losses < 0, torch.nan, losses)
        if self._name == "log_sum":
            return (weights @ losses.clamp_min(_LEAST).log()).mean()
        total = weights.sum()
        return (total * (weights @ losses / total).clamp_min(_LEAST).log()).mean()

    def of_episodes(self, losses: Tensor) -> Tensor:
        """What meta-training wants to be low of whole episodes: the sum of losses, or the logarithm of their mean, [V].

        Args:
            losses: f_t(θ_t), [steps, V].
        """
        if self._name == "sum":
            return losses.sum(0)
        if self._name == "best":
            return losses.cummin(0).values.sum(0)
        return torch.where(losses < 0, torch.nan, losses).mean(0).clamp_min(_LEAST).log()

    def ratio(self, losses: Tensor, reference: Tensor) -> Tensor:
        """How many times as high as a reference, [], what meta-training wants to be low: sums, or geometric means.

        Args:
            losses: f_t(θ_t), [steps, V].
            reference: The same of another optimizer.

        Returns:
            nan where the sum of the reference is not positive.
        """
        mine, other = self.of_episodes(losses).mean(), self.of_episodes(reference).mean()
        if self._name not in ("sum", "best"):
            return (mine - other).exp()
        return torch.where(other > 0, mine / other, torch.nan)

    def slopes(self, losses: Tensor) -> Tensor:
        """∂L/∂f_t of every problem, [T, B]."""
        weights = (self._weights(len(losses)).to(losses) / losses.shape[1]).unsqueeze(1)
        if self._name == "sum":
            return weights.expand_as(losses)
        if self._name == "best":
            where = losses.cummin(0).indices
            return torch.zeros_like(losses).scatter_add_(0, where, weights.expand_as(losses))
        if self._name == "log_sum":
            return torch.where(losses > _LEAST, weights / losses, 0.0)
        shares = weights / weights.sum()
        mean = (shares * losses).sum(0)
        return torch.where(mean > _LEAST, weights / mean, 0.0)


def parse_step_weights(text: str) -> Callable[[int], Tensor]:
    """The weights w_1..w_T of an unroll of T steps, as a function of T.

    ``constant``: 1. ``linear:β``: 1 + β(t-1). ``exponential:γ``: γ^(T-t), the last step weighing 1. ``last``: 0
    except for w_T = 1.

    Raises:
        MetaOptError: If the text is none of these.
    """
    kind, _, number = text.partition(":")
    try:
        if kind in ("constant", "last") and not number:
            return partial(_weights, kind, 0.0)
        if kind in ("linear", "exponential"):
            return partial(_weights, kind, _at_least_zero(number))
    except ValueError:
        pass
    raise MetaOptError(
        f"model.step_weights must be constant, linear:BETA, exponential:GAMMA or last, with a number of 0 or more, not "
        f"{text!r}"
    )


def _weights(kind: str, number: float, length: int) -> Tensor:
    if kind == "linear":
        return 1.0 + number * torch.arange(length, dtype=torch.float64)
    if kind == "exponential":
        return number ** torch.arange(length - 1, -1, -1, dtype=torch.float64)
    return torch.eye(length)[-1] if kind == "last" else torch.ones(length)


def _at_least_zero(text: str) -> float:
    """The number; a ValueError where it is less, or not finite."""
    number = float(text)
    if not 0.0 <= number < math.inf:
        raise ValueError(text)
    return number
