"""Short trials on an optimizee that nobody has tuned anything for, and the settings that follow from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.reference import climb
from meta_opt.inner_loop.episodes import Curves, run_episodes
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily
from meta_opt.optimizees.layout import Layout, kind_of
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import adam

_START = 0.03  # learning rate of Adam
_NUM_PROBLEMS = 4
_NUM_BATCHES = 8
_TINY = 1_000  # coordinates of problems of which several fit beside each other
_SMALL = 2_000  # coordinates up to which whole gradients can be combined


@dataclass(frozen=True)
class Findings:
    """What trials on a few validation problems say.

    Attributes:
        layouts: Of a problem's parameters; of a family those of each problem.
        stochastic: Whether the loss differs from step to step at the same θ; of a family whether any does.
        noise: Variance of a gradient at θ_0 over mini-batches, summed over coordinates, in squared lengths of its mean.
        first: Mean loss at θ_0.
        lr: Adam's best learning rate, or the last that was tried.
        lr_is_best: Whether it is the best; if not, the loss still fell at the last.
        final: Mean final loss with it.
        positive: Whether no loss was negative.
        num_steps: Steps of a run.
        seconds_per_step: Of one problem.
    """

    layouts: tuple[Layout, ...]
    stochastic: bool
    noise: float
    first: float
    lr: float
    lr_is_best: bool
    final: float
    positive: bool
    num_steps: int
    seconds_per_step: float

    @property
    def most_coordinates(self) -> int:
        """Of a problem."""
        return max(layout.num_coordinates for layout in self.layouts)


def try_out(
    optimizee: Optimizee, num_steps: int, *, seed: int, say: Callable[[str], None] = lambda text: None
) -> Findings:
    """Run Adam with several learning rates, and look at gradients.

    Args:
        optimizee: What to try; its data is on the CPU.
        num_steps: Steps of each run.
        seed: All randomness comes from it.
        say: Is told of each run.

    Raises:
        MetaOptError: If Adam diverges whatever its learning rate.
    """
    stacks: list[Sequence[int]] = [range(_NUM_PROBLEMS)]
    if isinstance(optimizee, OptimizeeFamily):
        stacks = [[index] for index in range(_NUM_PROBLEMS)]
    drawn = [Problems(optimizee, "validation", indices, seed=seed) for indices in stacks]
    noise = sum(_noise(problems) for problems in drawn) / len(drawn)
    runs: dict[float, Curves] = {}
    started = time.perf_counter()

    def score(lr: float) -> float:
        runs[lr] = run_episodes(optimizee, adam(lr), "validation", _NUM_PROBLEMS, num_steps, seed=seed)
        value = runs[lr].sum.mean().item()
        say(f"Adam, learning rate {lr:.2g}: mean loss {value / num_steps:.4g}, at the end {_mean(runs[lr].final):.4g}")
        return value

    climbed = climb(score, _START)
    if climbed is None:
        raise MetaOptError("Adam diverges with every learning rate that was tried: is the loss scaled as it should be?")
    seconds = (time.perf_counter() - started) / (len(runs) * _NUM_PROBLEMS * num_steps)
    best = runs[climbed.rate]
    first, final = _mean(best.losses[0]), _mean(best.final)
    return Findings(
        tuple(problems.layout for problems in drawn), any(problems.stochastic for problems in drawn), noise,
        first, *climbed, final,
        not bool((best.losses < 0).any()), num_steps, seconds,
    )  # fmt: skip


def _mean(values: Tensor) -> float:
    return values.mean().item()


def _noise(problems: Problems) -> float:
    """Of gradients at θ_0, mean over problems."""
    grads = torch.stack([problems.evaluate(problems.initial_params).grad.double() for _ in range(_NUM_BATCHES)])
    means = grads.mean(0)
    variances = grads.var(0).sum(1)
    return (variances / means.square().sum(1).clamp_min(1e-300)).mean().item()


def settings_for(found: Findings) -> dict[str, Any]:
    """Options of ``meta-opt fit`` by name, as an optimizee would recommend them."""
    matrices = any(kind_of(shape) == "matrix" for layout in found.layouts for shape in layout.shapes)
    settings: dict[str, Any] = {
        "model.num_steps": found.num_steps,
        "model.unroll_length": max(found.num_steps // 2, 1),
        "model.lr_schedule": "cosine",
        "model.average_decay": 0.98,
        "model.reference_lr": found.lr,
        "optimizer.inputs": f"log_sign+moments+scales{'+orthogonal' if matrices else ''}",
        "optimizer.output": "magnitude",
        "optimizer.base_step": found.lr,
        "optimizer.output_scale": 3.0 * found.lr,
        "optimizer.initial_output": 0.1,
        "optimizer.anneal_after": 10 * found.num_steps if found.stochastic else None,
    }
    if found.positive and found.final < 0.5 * found.first:
        settings["model.meta_loss"] = "log_mean"
    if any(len(layout.names) > 1 for layout in found.layouts):
        settings["optimizer.tensor_features"] = True
    if found.most_coordinates <= _TINY:
        settings["model.num_problems"] = 8
    return {name: _rounded(value) for name, value in sorted(settings.items())}


def suits_whole_gradients(found: Findings) -> bool:
    """Whether architectures that combine whole gradients are worth a try: on small problems without noise."""
    return not found.stochastic and found.most_coordinates <= _SMALL


def _rounded(value: Any) -> Any:
    return float(f"{value:.2g}") if isinstance(value, float) else value
