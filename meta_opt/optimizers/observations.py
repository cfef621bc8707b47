"""What a policy observes: numbers that do not depend on the scale of losses, and parts that say the scale.

Of each coordinate, tensor or problem, whichever has an action of its own: ⟨·⟩ is the mean over its coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.lstm.preprocessing import bounded
from meta_opt.optimizers.pooling import pooled
from meta_opt.optimizers.state import axis

PARTS = ("moments", "gradients", "losses", "sizes", "params", "time")
BETAS = (0.9, 0.999)  # of the moments, those of Adam
_LEAST = 1e-30
_LARGEST = 10.0  # that a ratio or logarithm counts as


def num_features(parts: Sequence[str], memory: int) -> int:
    """F, how many numbers are observed for an action."""
    widths = {"moments": 2, "gradients": memory, "losses": memory, "sizes": 1, "params": 2, "time": 1}
    return sum(widths[part] for part in parts)


@dataclass(frozen=True)
class Observed:
    """What has been seen so far.

    Attributes:
        mean: m, [B, N], average of the gradient.
        square: v, [B, N], average of its square.
        gradients: The last H gradients, the newest first, [H, B, N]; none where they are not observed.
        losses: The last H losses, the newest first, [H, B]; infinite before the first.
        steps: t, how many gradients were seen, [].
    """

    mean: Tensor = axis("coordinate")
    square: Tensor = axis("coordinate")
    gradients: Tensor = axis("coordinate")
    losses: Tensor = axis("problem")
    steps: Tensor = axis("problem")

    @classmethod
    def nothing(cls, like: Tensor, shape: tuple[int, int], parts: Sequence[str], memory: int) -> Observed:
        """Before the first gradient, of the type and on the device of ``like``, for a θ of ``shape`` (B, N)."""
        return cls(
            like.new_zeros(shape),
            like.new_zeros(shape),
            like.new_zeros(memory if "gradients" in parts else 0, *shape),
            like.new_full((memory if "losses" in parts else 0, shape[0]), torch.inf),
            like.new_zeros(()),
        )

    def corrected(self) -> tuple[Tensor, Tensor]:
        """m̂ and v̂, [B, N] each, without the pull to zero of the first steps, as in Adam."""
        mean, square = (1.0 - torch.pow(beta, self.steps.clamp_min(1.0)) for beta in BETAS)
        return self.mean / mean, self.square / square


def observe(
    evaluation: Evaluation, seen: Observed, parts: Sequence[str], sizes: Sequence[int] | None
) -> tuple[Tensor, Observed]:
    """The observation at one step, and what has been seen after it.

    ====================  ==================================================================
    part                  numbers
    ====================  ==================================================================
    ``moments``           ⟨m̂²⟩/⟨v̂⟩ and ⟨∇ m̂⟩/⟨v̂⟩: how sure the direction is
    ``gradients``         ⟨∇_t ∇_{t-k}⟩/⟨v̂⟩ for k = 1..H: positive along a slope, negative across a valley
    ``losses``            (f_t - f_{t-k})/(|f_t| + |f_{t-k}|) for k = 1..H
    ``sizes``             ln⟨v̂⟩/20
    ``params``            ln⟨θ²⟩/20 and ⟨θ ∇⟩/√(⟨θ²⟩⟨v̂⟩)
    ``time``              ln(1 + t)/10
    ====================  ==================================================================

    Ratios are cut at ±10.

    Args:
        evaluation: What the parts need of f_t, ∇_t and θ_t.
        seen: What was seen before.
        parts: Which of :data:`PARTS`, in this order.
        sizes: How many coordinates each of the S parts of θ with an action has; None where each coordinate has one.

    Returns:
        The observation, [B, A, F], with A = S or N, and what has been seen now.
    """
    grad = bounded(evaluation.grad)
    now = replace(
        seen,
        mean=torch.lerp(grad, seen.mean, BETAS[0]),
        square=torch.lerp(grad * grad, seen.square, BETAS[1]),
        steps=seen.steps + 1.0,
    )

    def mean_of(rows: Tensor) -> Tensor:
        return rows if sizes is None else pooled(rows, sizes)

    mean, square = now.corrected()
    size = mean_of(square) + _LEAST  # [B, A]
    features: list[Tensor] = []
    if "moments" in parts:
        features += [mean_of(mean * mean) / size, mean_of(grad * mean) / size]
    if "gradients" in parts:
        features += list(mean_of(grad * now.gradients) / size)
        now = replace(now, gradients=torch.cat([grad.unsqueeze(0), now.gradients[:-1]]))
    if "losses" in parts:
        limit = torch.finfo(evaluation.loss.dtype).max / 4  # sums of two are finite
        loss = evaluation.loss.clamp(-limit, limit)
        past = torch.where(now.losses.isfinite(), now.losses, loss)  # [H, B]
        change = ((loss - past) / (loss.abs() + past.abs() + _LEAST)).nan_to_num(0.0)
        features += [each.unsqueeze(1).expand_as(size) for each in change]
        now = replace(now, losses=torch.cat([loss.unsqueeze(0), now.losses[:-1]]))
    if "sizes" in parts:
        features.append(size.log() / 20.0)
    if "params" in parts:
        params = evaluation.params
        length = mean_of(params * params) + _LEAST
        features += [length.log() / 20.0, mean_of(params * grad) * length.rsqrt() * size.rsqrt()]
    if "time" in parts:
        features.append((now.steps.log1p() / 10.0).expand_as(size))
    return torch.stack([feature.clamp(-_LARGEST, _LARGEST) for feature in features], dim=-1), now
