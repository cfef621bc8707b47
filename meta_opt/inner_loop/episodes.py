"""Loss curves of an optimizer on fixed problems, without meta-training: for validation, test and comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from meta_opt.inner_loop.unroll import begin, unroll, unroll_lengths
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizees.problems import Problems, layout_of
from meta_opt.optimizers.contract import InnerOptimizer

_STEPS_AT_ONCE = 20  # how many steps' gradients are held before their losses are read off
_COORDINATES_AT_ONCE = 1 << 18  # how many problems run side by side is chosen to stay below this, for the cache


@dataclass(frozen=True)
class Curves:
    """Loss curves of one optimizer on V problems."""

    losses: Tensor  # [num_steps + 1, V], f_t(θ_t) for t = 0..num_steps
    metrics: TensorDict  # the optimizee's metrics at the last θ, each [V]
    stochastic: Tensor  # whether the losses of each problem carry the noise of mini-batches, [V]

    @property
    def final(self) -> Tensor:
        """Final loss of each problem, [V]."""
        return final_loss(self.losses[1:], stochastic=self.stochastic)

    @property
    def sum(self) -> Tensor:
        """Σ_{t=1..num_steps} f_t(θ_t) of each problem, [V]."""
        return self.losses[1:].sum(0)

    @property
    def not_finite(self) -> int:
        """On how many problems a loss was not finite."""
        return int((~self.losses.isfinite()).any(0).sum())

    def until(self, num_steps: int) -> Curves:
        """The first ``num_steps`` steps of the same episodes; without metrics, which are those of the end, if cut."""
        if num_steps == len(self.losses) - 1:
            return self
        return replace(self, losses=self.losses[: num_steps + 1], metrics={})

    def cpu(self) -> Curves:
        """The same on the CPU."""
        metrics = {name: value.cpu() for name, value in self.metrics.items()}
        return Curves(self.losses.cpu(), metrics, self.stochastic.cpu())


def final_loss(losses: Tensor, *, stochastic: Tensor | bool) -> Tensor:
    """The last loss of each problem, or where mini-batches make it noisy the mean of the last tenth, at most ten.

    Args:
        losses: After each step, [steps, B].
        stochastic: Whether to average, [B] or for all.
    """
    mean = losses[-min(10, -(-len(losses) // 10)) :].mean(0)
    return torch.where(torch.as_tensor(stochastic, device=losses.device), mean, losses[-1])


def mean_of_problems(values: Tensor) -> Tensor:
    """The mean of a figure, [], over problems, and where there are several processes over these.

    Args:
        values: One of each problem, [V].
    """
    metric = MeanMetric(nan_strategy="disable").to(values.device).set_dtype(values.dtype)
    metric.update(values)
    mean: Tensor = metric.compute()
    return mean


@torch.inference_mode(False)
def run_episodes(
    optimizee: Optimizee,
    optimizer: InnerOptimizer,
    split: Split,
    num_problems: int,
    num_steps: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    held_back: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Curves:
    """Optimize the first ``num_problems`` problems of ``split``, the same at every call, for ``num_steps`` steps.

    Args:
        optimizee: Where the problems come from; its data is expected on ``device``.
        optimizer: What optimizes them.
        split: Which stream, and on data sets which data, the problems come from.
        num_problems: V.
        num_steps: Steps of every episode.
        seed: The seed of all streams.
        device: Where to compute.
        dtype: Floating-point type of θ.
        autocast: See :class:`Problems`.
        held_back: Whether losses and metrics are those on held-back batches.
        progress: Is told how many steps have been taken, counted over all problems, since it was last told.
    """
    at_once = max(1, _COORDINATES_AT_ONCE // layout_of(optimizee).num_coordinates)
    if isinstance(optimizee, OptimizeeFamily):
        at_once = 1
    parts = []
    for first in range(0, num_problems, at_once):
        indices = range(first, min(first + at_once, num_problems))
        problems = Problems(
            optimizee, split, indices, seed=seed, device=device, dtype=dtype, autocast=autocast, held_back=held_back
        )
        position = begin(problems, optimizer, num_steps=num_steps)
        losses = [position.judged.loss.unsqueeze(0)]
        for steps in unroll_lengths(num_steps, _STEPS_AT_ONCE):
            trajectory = unroll(problems, optimizer, position, steps)
            losses.append(trajectory.losses)
            position = trajectory.end
            if progress is not None:
                progress(steps * len(indices))
        noisy = torch.full((len(indices),), problems.stochastic, device=problems.initial_params.device)
        parts.append(Curves(torch.cat(losses), problems.metrics(position.evaluation.params), noisy))
    shared = set.intersection(*(set(part.metrics) for part in parts))  # variants may differ
    return Curves(
        torch.cat([part.losses for part in parts], dim=1),
        {name: torch.cat([part.metrics[name] for part in parts]) for name in sorted(shared)},
        torch.cat([part.stochastic for part in parts]),
    )
