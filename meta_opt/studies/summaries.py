"""What the runs of a study that are there say, in numbers. This module imports no torch."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meta_opt.errors import MetaOptError
from meta_opt.studies.results import Line
from meta_opt.studies.study import STATISTICS, Of, Study
from meta_opt.studies.tasks import baselines_for, tasks_of

_PLACE = re.compile(r"\{(\w+):([^{}@]*)(?:@([^{}]*))?\}")
_WITHOUT_COLON = re.compile(r"\{(\w+)\s[^{}]*\}")
NONE = "—"


@dataclass(frozen=True)
class Point:
    """One combination of labels.

    Attributes:
        labels: One per axis, or the one of a point in ``also``.
        options: Of meta-training.
        lines: The results of its runs that are there, in their order.
        wanted: How many runs there should be.
        beside: Whether it is one of ``also``, without labels of axes.
    """

    labels: tuple[str, ...]
    options: Mapping[str, object]
    lines: Sequence[Line]
    wanted: int
    beside: bool

    @property
    def name(self) -> str:
        """Its labels."""
        return " ".join(self.labels) or "all"

    @property
    def failed(self) -> int:
        """How many runs ended with an error."""
        return sum("error" in line for line in self.lines)

    def reached(self, test: str, of: Of = "final") -> list[float]:
        """What each run reached, mean over the test problems; infinite where it failed or is not finite."""
        return [_number(of_test(line, test).get(of)) for line in self.lines]

    def quartiles(self, test: str, of: Of = "final") -> tuple[float, float, float] | None:
        """Lower quartile, median and upper quartile over the runs; None without any."""
        return quartiles(self.reached(test, of))


class Summary:
    """The results of a study."""

    def __init__(self, study: Study, lines: Mapping[str, Line], runs: int | None = None) -> None:
        """Sort the lines of the file by points.

        Args:
            study: The study.
            lines: By key.
            runs: How many runs of every point are wanted; by default as many as the study says.
        """
        self.study = study
        by_point: dict[tuple[str, ...], list[Line]] = {}
        tasks = tasks_of(study, runs)
        for task in tasks:
            if line := lines.get(task.key):
                by_point.setdefault(task.point, []).append(line)
        self.wanted = len(tasks)
        self.found = sum(map(len, by_point.values()))
        self.errors = [
            (" ".join(labels) or "all", line["run"], line["error"])
            for labels, found in by_point.items()
            for line in found
            if "error" in line
        ]
        self.failed = len(self.errors)
        wanted = study.runs if runs is None else runs
        one = len(study.axes) == 1
        self.points = [
            Point(
                labels,
                options,
                by_point.get(labels, []),
                wanted,
                len(labels) != len(study.axes) or (one and labels[0] in study.also),
            )
            for labels, options in study.points()
        ]
        self._lines = lines

    def point(self, labels: Sequence[str]) -> Point | None:
        """The point of these labels."""
        return next((point for point in self.points if list(point.labels) == list(labels)), None)

    def best_baseline(self, point: Point, test: str, of: Of = "final") -> tuple[str, float] | None:
        """The best hand-made optimizer on a test, and what it reached; None if that is not known."""
        if not self.study.baselines:
            return None
        line = self._lines.get(baselines_for(self.study, point.options, test).key, {})
        reached = {
            name: _number(entry[of]["value"]) for name, entry in line.get("results", {}).get("baselines", {}).items()
        }
        return min(reached.items(), key=lambda item: item[1]) if reached else None

    def text(self) -> str:
        """The study's text with its numbers."""
        return _PLACE.sub(lambda match: self._fill(*_place(match)), self.study.text)

    def _fill(self, statistic: str, labels: list[str], test: str) -> str:
        point = self.point(labels)
        if point is None:
            return NONE  # left out by --quick
        if statistic == "runs":
            return str(len(point.lines))
        if statistic == "failed":
            return str(point.failed)
        tests = [name for name, test in self.study.tests.items() if test.of(point.labels)]
        if not tests:
            return NONE
        test = test or tests[0]
        best = self.best_baseline(point, test)
        if statistic == "best_baseline":
            return f"{number(best[1])} ({best[0]})" if best else NONE
        if not point.lines:
            return NONE
        if statistic == "seconds":
            spent = [line["seconds"]["fit"] for line in point.lines if "fit" in line.get("seconds", {})]
            return number(statistics.median(spent)) if spent else NONE
        if statistic in self.study.shares:
            share = self.study.shares[statistic]
            return f"{100 * statistics.mean(map(share.counts, point.reached(test))):.0f} %"
        if statistic == "ratio":
            return ratio(point.quartiles(test), best)
        found = point.quartiles(test, "sum" if statistic == "sum" else "final")
        return number(found[1]) if found else NONE


def check_text(study: Study) -> None:
    """See that there is everything that the text of a study names.

    Raises:
        MetaOptError: If there is not.
    """
    points = [list(labels) for labels, _ in study.points()]
    for match in _WITHOUT_COLON.finditer(_PLACE.sub("", study.text)):
        if match[1] in (*STATISTICS, *study.shares):
            raise MetaOptError(f"text: {match[0]}: after {match[1]} there must be a colon")
    for match in _PLACE.finditer(study.text):
        statistic, labels, test = _place(match)
        known = (*STATISTICS, *study.shares)
        if statistic not in known:
            raise MetaOptError(f"text: {match[0]}: there is no {statistic}, but {', '.join(known)}")
        if labels not in points:
            raise MetaOptError(f"text: {match[0]}: there is no point {' '.join(labels)!r}")
        if test and (test not in study.tests or not study.tests[test].of(tuple(labels))):
            tests = ", ".join(name for name, each in study.tests.items() if each.of(tuple(labels))) or "none"
            raise MetaOptError(f"text: {match[0]}: there is no test {test!r} of it, but {tests}")


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Lower quartile, median, upper quartile, each one of the values; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    median = statistics.median(ordered) if math.isfinite(ordered[len(ordered) // 2]) else ordered[last // 2]
    return ordered[last // 4], median, ordered[-1 - last // 4]


def ratio(reached: tuple[float, float, float] | None, best: tuple[str, float] | None) -> str:
    """The median of quartiles by what the best baseline reached, to read; none where that is nothing to divide by."""
    return number(reached[1] / best[1]) if reached and best and 0.0 < best[1] < math.inf else NONE


def number(value: float) -> str:
    """A number to read: three digits."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3g}"


def _place(match: re.Match[str]) -> tuple[str, list[str], str]:
    return match[1], match[2].split(), (match[3] or "").strip()


def of_test(line: Line, test: str) -> Mapping[str, Any]:
    """The results of a run on a test; none where it failed."""
    tests: Mapping[str, Mapping[str, Any]] = line.get("results", {}).get("tests", {})
    return tests.get(test, {})


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else math.inf


def norms(points: Sequence[Point]) -> Iterator[tuple[Point, dict[str, float]]]:
    """Of each point the median norm of the meta-gradient of each network."""
    for point in points:
        found = [line["results"].get("meta_gradient_norms", {}) for line in point.lines if "results" in line]
        names = dict.fromkeys(name for each in found for name in each)
        yield point, {name: statistics.median(_number(each.get(name)) for each in found) for name in names}
