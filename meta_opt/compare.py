"""A learned optimizer against tuned baselines, by the protocol that ``docs/design.md`` fixes.

Learning rates are tuned on validation problems. Then every optimizer runs on the same test problems, from the same
θ_0 and with the same mini-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from meta_opt.baselines import BASELINES, Baseline
from meta_opt.episodes import Curves
from meta_opt.meta_learner import MetaLearner

Figure = Literal["sum", "final"]
STEPS_PER_DECADE = 4


@dataclass(frozen=True)
class Result:
    """One optimizer on the test problems; means over problems and their standard errors."""

    name: str
    learning_rate: float | None  # of a baseline
    value: float
    standard_error: float


def figure_of(curves: Curves, figure: Figure) -> tuple[float, float]:
    """Mean over problems of the sum over steps or of the final loss, and its standard error."""
    values = curves.sum if figure == "sum" else curves.final
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def tune(score: Callable[[float], float], start: float) -> float:
    """The learning rate with the lowest score on a log grid that widens until its best point is not at an edge.

    Args:
        score: Score of a learning rate; not finite where it diverges.
        start: A learning rate to start from.

    Raises:
        ValueError: If the score falls all the way to 10^-8 or 10^8 times the start.
    """
    scores: dict[int, float] = {}

    def at(index: int) -> float:
        if index not in scores:
            value = score(start * 10 ** (index / STEPS_PER_DECADE))
            scores[index] = value if math.isfinite(value) else math.inf
        return scores[index]

    low, high = -STEPS_PER_DECADE, STEPS_PER_DECADE
    while True:
        best = min(range(low, high + 1), key=at)
        if low < best < high:
            return start * 10 ** (best / STEPS_PER_DECADE)
        if max(-low, high) > 8 * STEPS_PER_DECADE:
            raise ValueError(f"no best learning rate between 1e-8 and 1e8 times {start:g}")
        low, high = (low - STEPS_PER_DECADE, high) if best == low else (low, high + STEPS_PER_DECADE)


def compare(module: MetaLearner, figure: Figure) -> list[Result]:
    """The learned optimizer of ``module``, first, and every baseline tuned for ``figure``, on its test problems."""

    def result(name: str, optimizer: Baseline | None, learning_rate: float | None) -> Result:
        curves = module.curves(optimizer or module.trained, "test", module.num_test_problems)
        return Result(name, learning_rate, *figure_of(curves, figure))

    results = [result("learned", None, None)]
    for name, make in BASELINES.items():

        def score(learning_rate: float, make: Callable[[float], Baseline] = make) -> float:
            curves = module.curves(make(learning_rate), "validation", module.num_validation_problems)
            return figure_of(curves, figure)[0]

        best = tune(score, start=0.03)
        results.append(result(name, make(best), best))
    return results
