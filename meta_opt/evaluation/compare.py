"""Learned optimizers against tuned baselines, by the protocol that ``docs/compare.md`` describes.

Learning rates of the baselines are tuned on validation problems, separately for each figure of merit and each number of
steps. Then every optimizer runs on the same test problems, from the same θ_0 and with the same mini-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from meta_opt import memory
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.episodes import Curves, final_loss, mean_of_problems, run_episodes
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.contract import Optimizee, Split
from meta_opt.optimizees.held_back import check_held_back
from meta_opt.optimizees.problems import problem_generator
from meta_opt.optimizers.baseline_names import HandMade
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork

Merit = Literal["sum", "final"]  # figure of merit: Σ_{t=1..num_steps} f_t(θ_t), or the final loss
MERITS: tuple[Merit, ...] = ("sum", "final")
_START = 0.03  # learning rate in the middle of the first grid
_FINE = 4  # points per decade of the grid around the best learning rate
_COARSE = 2  # on the coarse grid every second rate is tried
_REACH = 10  # how far the first grid reaches to each side: 2.5 decades
_LIMIT = 8 * _FINE  # where widening ends
_FEWEST_RUNS = 2 * (_REACH // _COARSE) + 1 + 2


class Progress:
    """Progress callback that does nothing. Steps are counted over all problems."""

    def expect(self, steps: int) -> None:
        """So many more steps will be taken."""

    def begin(self, what: str) -> None:
        """What the next steps are for."""

    def advance(self, steps: int) -> None:
        """So many steps have been taken."""


@dataclass(frozen=True)
class Setting:
    """What optimizers are compared on.

    Attributes:
        optimizee: Where the problems come from; its data is on the device.
        horizons: Numbers of steps, each a comparison of its own.
        num_problems: How many test problems.
        num_validation_problems: How many problems learning rates are tuned on.
        seed: All randomness comes from it.
        device: Where to compute.
        dtype: Floating-point type of θ.
        autocast: The type in which ``torch.autocast`` lets losses compute what they may; None for none.
        held_back: Whether losses are those on batches that the optimizee holds back.
        regret: Whether the loss after a step is the lowest so far.
        progress: Is told what is being done.
    """

    optimizee: Optimizee
    horizons: Sequence[int]
    num_problems: int = 100
    num_validation_problems: int = 32
    seed: int = 0
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    held_back: bool = False
    regret: bool = False
    progress: Progress = field(default_factory=Progress)

    def curves(self, optimizer: InnerOptimizer, split: Split, num_steps: int | None = None) -> Curves:
        """Curves over so many steps, by default those of the longest horizon."""
        steps = num_steps or max(self.horizons)
        return self.run(optimizer, split, self.count(split), steps, self.seed, held_back=self.held_back)

    def run(
        self,
        optimizer: InnerOptimizer,
        split: Split,
        num_problems: int,
        num_steps: int,
        seed: int,
        *,
        held_back: bool,
    ) -> Curves:
        """Curves on so many problems of ``split``, over so many steps."""
        curves = run_episodes(
            self.optimizee,
            optimizer,
            split,
            num_problems,
            num_steps,
            seed=seed,
            device=self.device,
            dtype=self.dtype,
            autocast=self.autocast,
            held_back=held_back,
            progress=self.progress.advance,
        )
        return replace(curves, losses=curves.losses.cummin(0).values) if self.regret else curves

    def count(self, split: Split) -> int:
        """How many problems of ``split`` there are."""
        return self.num_problems if split == "test" else self.num_validation_problems

    def expect(self, runs: int, split: Split, num_steps: int | None = None) -> None:
        """Tell how many runs on ``split`` are to come."""
        self.progress.expect(runs * self.count(split) * (num_steps or max(self.horizons)))

    def spans(self, of: HandMade | InnerOptimizer) -> dict[int, Sequence[int]]:
        """By how many steps there are runs: the horizons that each serves. What has a schedule runs for each."""
        if of.horizon if isinstance(of, InnerOptimizer) else not of.schedule.is_constant:
            return {horizon: [horizon] for horizon in self.horizons}
        return {max(self.horizons): self.horizons}


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
    # The optimizee's at the end; for the longest horizon only.
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


class TuningError(MetaOptError):
    """A baseline has no best learning rate.

    Attributes:
        reason: What it is missing.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be tuned: {reason}; choose other baselines")
        self.reason = reason


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
            setting.expect(0 if make.lr else _FEWEST_RUNS, "validation", span)
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
        curves = setting.run(
            contestant.optimizer,
            "validation",
            known.num_problems,
            known.num_steps,
            known.seed,
            held_back=known.held_back,
        )
        validation = {merit: mean_of_problems(_of_problems(curves, merit)).item() for merit in MERITS}
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


def tuned_rates(setting: Setting, name: str, make: HandMade) -> dict[tuple[Merit, int], float]:
    """The best learning rates on validation problems; one run of each serves all figures, and horizons if it can."""
    if make.lr is not None:
        return {(merit, horizon): make.lr for merit in MERITS for horizon in setting.horizons}
    rates = {}
    for span, horizons in setting.spans(make).items():
        scores = _Scores(setting, name, make, span, horizons)
        for merit in MERITS:
            for horizon in horizons:
                what = "sum of losses" if merit == "sum" else "final loss"
                try:
                    rates[merit, horizon] = tune(lambda rate, key=(merit, horizon): scores[rate][key], _START)  # type: ignore[misc]  # noqa: B023 called at once
                except ValueError as error:
                    raise TuningError(name, f"for its {what} over {horizon} steps {error}") from error
    return rates


class _Scores(dict[float, dict[tuple[Merit, int], float]]):
    """Means over validation problems by learning rate, for each figure and horizon; run when they are asked for."""

    def __init__(self, setting: Setting, name: str, make: HandMade, span: int, horizons: Sequence[int]) -> None:
        super().__init__()
        self._setting = setting
        self._name = name
        self._make = make
        self._span = span
        self._horizons = horizons

    def __missing__(self, rate: float) -> dict[tuple[Merit, int], float]:
        setting = self._setting
        if len(self) >= _FEWEST_RUNS:
            setting.expect(1, "validation", self._span)
        setting.progress.begin(f"{self._name}, learning rate {rate:.3g}: validation problems")
        curves = setting.curves(self._make(rate, self._span), "validation", self._span)
        self[rate] = {
            (merit, horizon): _of_problems(curves.until(horizon), merit).mean().item()
            for merit in MERITS
            for horizon in self._horizons
        }
        return self[rate]


def tune(score: Callable[[float], float], start: float) -> float:
    """The learning rate with the lowest score on a log grid that widens until its best point is not at an edge.

    The grid has two points a decade, four around the best of those. It is wide from the start, since a plateau can hide
    a better learning rate behind one that is not at the edge of a narrow grid.

    Args:
        score: Score of a learning rate; not finite where it diverges.
        start: The learning rate in the middle of the first grid, which reaches two and a half decades to each side.

    Raises:
        ValueError: If the score falls all the way to 10^-8 or 10^8 times the start.
    """
    scores: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in scores:
            value = score(start * 10 ** (index / _FINE))
            scores[index] = value if math.isfinite(value) else math.inf
        return scores[index]

    low, high = -_REACH, _REACH
    while (best := min(range(low, high + 1, _COARSE), key=at)) in (low, high):
        if max(-low, high) >= _LIMIT:
            raise ValueError(f"there is no best learning rate between {start * 1e-8:g} and {start * 1e8:g}")
        low, high = (low - _FINE, high) if best == low else (low, high + _FINE)
    best = min((best - 1, best, best + 1), key=at)
    return start * 10 ** (best / _FINE)


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
    mean = losses.mean(1)
    ends = range(1, len(mean) + 1)
    return Outcome(
        learning_rate,
        mean,
        _sem(losses),
        torch.stack([final_loss(mean[:end], stochastic=curves.stochastic) for end in ends]),
        {merit: _mean(_of_problems(curves, merit)) for merit in MERITS},
        seconds_per_step,
        {name: _mean(values) for name, values in curves.metrics.items()},
    )


def _of_problems(curves: Curves, merit: Merit) -> Tensor:
    return curves.sum if merit == "sum" else curves.final


def _mean(values: Tensor) -> Mean:
    return Mean(mean_of_problems(values).item(), _sem(values.double()).item())


def _sem(values: Tensor) -> Tensor:
    """Standard error of the mean over the last dimension."""
    return values.std(-1) / math.sqrt(values.shape[-1])
