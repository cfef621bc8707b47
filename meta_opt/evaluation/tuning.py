"""Learning rates of baselines, tuned on validation problems, separately for each figure and each number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.setting import MERITS, Merit, Setting, of_problems
from meta_opt.optimizers.baseline_names import HandMade

_START = 0.03  # learning rate in the middle of the first grid
_FINE = 4  # points per decade of the grid around the best learning rate
_COARSE = 2  # on the coarse grid every second rate is tried
_REACH = 10  # how far the first grid reaches to each side: 2.5 decades
_LIMIT = 8 * _FINE  # where widening ends
FEWEST_RUNS = 2 * (_REACH // _COARSE) + 1 + 2


class NoBestRateError(ValueError):
    """The score of learning rates falls further than anybody looks."""


class TuningError(MetaOptError):
    """A baseline has no best learning rate.

    Attributes:
        reason: What it is missing.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} cannot be tuned: {reason}; choose other baselines")
        self.reason = reason


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
                except NoBestRateError as error:
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
        if len(self) >= FEWEST_RUNS:
            setting.expect(1, "validation", self._span)
        setting.progress.begin(f"{self._name}, learning rate {rate:.3g}: validation problems")
        curves = setting.curves(self._make(rate, self._span), "validation", self._span)
        self[rate] = {
            (merit, horizon): of_problems(curves.until(horizon), merit).mean().item()
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
        NoBestRateError: If the score falls all the way to 10^-8 or 10^8 times the start.
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
            raise NoBestRateError(f"there is no best learning rate between {start * 1e-8:g} and {start * 1e8:g}")
        low, high = (low - _FINE, high) if best == low else (low, high + _FINE)
    best = min((best - 1, best, best + 1), key=at)
    return start * 10 ** (best / _FINE)
