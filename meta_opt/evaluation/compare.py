"""Learned optimizers against tuned baselines, by the protocol that ``docs/compare.md`` describes.

Learning rates of the baselines are tuned on validation problems, separately for each figure of merit and each number of
steps. Then every optimizer runs on the same test problems, from the same θ_0 and with the same mini-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from meta_opt import memory
from meta_opt.evaluation.setting import MERITS, Merit, Progress, Setting, of_problems
from meta_opt.evaluation.tuning import FEWEST_RUNS, TuningError, tuned_rates
from meta_opt.inner_loop.episodes import Curves, final_loss, mean_of_problems
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.held_back import check_held_back
from meta_opt.optimizees.problems import problem_generator
from meta_opt.optimizers.baseline_names import HandMade
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork


@dataclass(frozen=True)
class Validation:
    """The problems that a learned optimizer was validated on in its meta-training."""

    num_steps: int
    num_problems: int
    seed: int
    held_back: bool = False


@dataclass(frozen=True)
class Contestant:
    """A learned optimizer, frozen and on the device; how it was validated, if that was on the same optimizee."""

    optimizer: OptimizerNetwork
    validation: Validation | None = None


class Mean(NamedTuple):
    """A mean over problems and its standard error."""

    value: float
    sem: float


@dataclass(frozen=True)
class Outcome:
    """One optimizer on the test problems."""

    learning_rate: float | None  # of a baseline
    loss_mean: Tensor  # [num_steps + 1], float64, mean over problems of f_t(θ_t) for t = 0..num_steps
    loss_sem: Tensor  # [num_steps + 1], standard error of that
    finals: Tensor  # [num_steps + 1], what the mean final loss would be, had the episodes ended there
    merits: Mapping[Merit, Mean]
    seconds_per_step: float  # of one problem, the evaluation of its loss included
    # The optimizee's at the end of the run; none where it went on after this horizon.
    metrics: Mapping[str, Mean] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One optimizer in a comparison."""

    name: str
    kind: Literal["learned", "baseline"]
    runs: Mapping[
        Merit, Outcome
    ]  # with the learning rate tuned for that figure; of a learned optimizer the same run twice
    validation: Mapping[Merit, float] | None = None  # what meta-training logs of a learned optimizer
    tuned: bool = True  # whether the learning rate of a baseline was

    def merit(self, merit: Merit) -> Mean:
        """A figure of merit, with the learning rate that was tuned for it."""
        return self.runs[merit].merits[merit]


@dataclass(frozen=True)
class Comparison:
    """All optimizers, learned ones first, over the steps of one horizon."""

    num_steps: int
    entries: Sequence[Entry]
    not_tuned: Mapping[str, str] = field(default_factory=dict)  # baselines that have no entry, and why

    @property
    def tuned(self) -> list[Entry]:
        """The baselines that others are measured by: those whose learning rates are tuned, or all if none is."""
        baselines = [entry for entry in self.entries if entry.kind == "baseline"]
        return [entry for entry in baselines if entry.tuned] or baselines

    def ratio(self, entry: Entry, merit: Merit) -> float:
        """A figure of merit divided by that of the best tuned baseline; nan if that is not positive."""
        values = [other.merit(merit).value for other in self.tuned]
        best = min((value for value in values if math.isfinite(value)), default=math.nan)
        return entry.merit(merit).value / best if best > 0 else math.nan

    def steps_to_best_baseline_final(self, entry: Entry) -> int | None:
        """After how many steps the final loss would first have been as low as the best baseline's is in the end."""
        finals = [float(other.runs["final"].finals[-1]) for other in self.tuned]
        best = min((value for value in finals if math.isfinite(value)), default=-math.inf)
        reached = (entry.runs["final"].finals <= best).nonzero()
        return int(reached[0]) if len(reached) else None


def compare(setting: Setting, learned: Mapping[str, Contestant], baselines: Mapping[str, HandMade]) -> list[Comparison]:
    """Learned optimizers and tuned baselines on the same test problems; one comparison per horizon.

    Raises:
        OptimizeeError: If the optimizee's loss is not a finite, differentiable scalar at θ_0.
        MetaOptError: If a learned optimizer does not suit the optimizee, or no baseline can be tuned.
    """
    check_loss(setting.optimizee, problem_generator(setting.seed, "check"))
    _check_memory(setting)
    if setting.held_back:
        check_held_back(setting.optimizee, problem_generator(setting.seed, "check"))
    for contestant in learned.values():
        for span in setting.spans(contestant.optimizer):
            setting.expect(1, "test", span)
    for make in baselines.values():
        for span in setting.spans(make):
            setting.expect(0 if make.lr else FEWEST_RUNS, "validation", span)
    for contestant in learned.values():
        if known := contestant.validation:
            setting.progress.expect(known.num_problems * known.num_steps)
    entries = [_learned(setting, name, contestant) for name, contestant in learned.items()]
    not_tuned: dict[str, str] = {}
    for name, make in baselines.items():
        try:
            entries.append(_baseline(setting, name, make))
        except TuningError as error:
            not_tuned[name] = error.reason
            if len(not_tuned) == len(baselines):
                raise
    return [Comparison(horizon, [entry[horizon] for entry in entries], not_tuned) for horizon in setting.horizons]


def _check_memory(setting: Setting) -> None:
    """See that the losses of all steps can be held at all."""
    steps = max(setting.horizons)
    for name, count in (("problems", setting.num_problems), ("validation_problems", setting.num_validation_problems)):
        memory.check(4.0 * count * steps, f"the losses of num_{name} {count} over num_steps {steps}")


def _learned(setting: Setting, name: str, contestant: Contestant) -> dict[int, Entry]:
    """The entry of a learned optimizer for each horizon."""
    validation = None
    if known := contestant.validation:
        setting.progress.begin(f"{name}: validation problems")
        curves = replace(setting, regret=False).run(  # as meta-training has logged them
            contestant.optimizer,
            "validation",
            known.num_problems,
            known.num_steps,
            known.seed,
            held_back=known.held_back,
        )
        validation = {merit: mean_of_problems(of_problems(curves, merit)).item() for merit in MERITS}
    setting.progress.begin(f"{name}: test problems")
    runs: dict[int, Outcome] = {}
    for span, horizons in setting.spans(contestant.optimizer).items():
        curves, seconds = _tested(setting, contestant.optimizer, span)
        runs |= {horizon: _run(curves.until(horizon), None, seconds) for horizon in horizons}
    return {horizon: Entry(name, "learned", dict.fromkeys(MERITS, run), validation) for horizon, run in runs.items()}


def _baseline(setting: Setting, name: str, make: HandMade) -> dict[int, Entry]:
    """The entry of a baseline for each horizon."""
    rates = tuned_rates(setting, name, make)
    entries = {}
    for span, horizons in setting.spans(make).items():

        @cache
        def tested(rate: float, span: int = span) -> tuple[Curves, float]:
            setting.progress.begin(f"{name}, learning rate {rate:.3g}: test problems")
            return _tested(setting, make(rate, span), span)

        setting.expect(len({rates[merit, horizon] for merit in MERITS for horizon in horizons}), "test", span)
        for horizon in horizons:
            runs: dict[Merit, Outcome] = {}
            for merit in MERITS:
                rate = rates[merit, horizon]
                curves, seconds = tested(rate)
                runs[merit] = _run(curves.until(horizon), rate, seconds)
            entries[horizon] = Entry(name, "baseline", runs, tuned=make.lr is None)
    return entries


def _tested(setting: Setting, optimizer: InnerOptimizer, steps: int) -> tuple[Curves, float]:
    """Curves on the test problems over so many steps, and seconds per step and problem."""
    replace(setting, progress=Progress()).run(
        optimizer, "test", 1, 1, setting.seed, held_back=setting.held_back
    )  # warm up
    started = time.perf_counter()
    curves = setting.curves(optimizer, "test", steps).cpu()
    return curves, (time.perf_counter() - started) / (setting.num_problems * steps)


def _run(curves: Curves, learning_rate: float | None, seconds_per_step: float) -> Outcome:
    losses = curves.losses.double()
    ends = range(1, len(losses) + 1)
    return Outcome(
        learning_rate,
        losses.mean(1),
        _sem(losses),
        torch.stack([final_loss(losses[min(1, end - 1) : end], stochastic=curves.stochastic).mean() for end in ends]),
        {merit: _mean(of_problems(curves, merit)) for merit in MERITS},
        seconds_per_step,
        {name: _mean(values) for name, values in curves.metrics.items()},
    )


def _mean(values: Tensor) -> Mean:
    return Mean(mean_of_problems(values).item(), _sem(values.double()).item())


def _sem(values: Tensor) -> Tensor:
    """Standard error of the mean over the last dimension."""
    return values.std(-1) / math.sqrt(values.shape[-1])
