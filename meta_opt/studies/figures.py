"""Figures of studies, with matplotlib."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from meta_opt.studies.axes import COLORS, LOSS, cycle, drawable, legend, loss_axis, or_infinite, places, tidy
from meta_opt.studies.study import Figure as Wanted
from meta_opt.studies.summaries import Point, Summary, norms, of_test, quartiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LIGHT = "#8a8a8a"
_WIDTH, _HEIGHT = 3.9, 3.1  # of a panel, in inches
_IN_A_ROW = 3  # panels at most, or a page shows letters too small to read
_BINS = 24
_HIGHEST = 1e6  # on the axis of a histogram, unless everything is higher
_RANGE = 1e6  # of a histogram; what is lower is in the first bin
Panel = tuple[str, list[tuple[Point, str]]]  # its title, and points with a test each


def draw(summary: Summary) -> Figure:
    """All figures of a study, one below the other."""
    from matplotlib.figure import Figure

    rows = [(wanted, _panels(summary, wanted)) for wanted in summary.study.figures]
    columns = max(2 if wanted.draw == "training" else _grid(panels)[1] for wanted, panels in rows)
    heights = [_height(wanted, panels) * _grid(panels)[0] for wanted, panels in rows]
    figure = Figure(figsize=(max(_WIDTH * columns, 6.0), sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)
    for part, (wanted, panels) in zip(parts[:, 0], rows, strict=True):
        if wanted.draw == "training":
            _training(part, summary, wanted)
            continue
        axes = part.subplots(*_grid(panels), squeeze=False, sharey=_share_losses(summary, wanted)).flatten()
        for each, (title, shown) in zip(axes, panels, strict=False):
            each.set_title(title, fontsize=9)
            _DRAW[wanted.draw](each, summary, wanted, shown)
            tidy(each)
        for each in axes[len(panels) :]:
            each.remove()
    return figure


def _grid(panels: Sequence[Panel]) -> tuple[int, int]:
    """In how many rows panels are, and in how many columns."""
    rows = -(-len(panels) // _IN_A_ROW)
    return rows, -(-len(panels) // rows)


def _share_losses(summary: Summary, wanted: Wanted) -> bool:
    """Whether panels have one vertical axis: not those of several optimizees, whose losses are of different sizes."""
    study = summary.study
    if wanted.draw in ("bars", "norms"):
        return False
    if wanted.panels == "test":
        return not any(test.optimizee for test in study.tests.values())
    return wanted.panels is None or not any("optimizee" in options for options in study.axes[wanted.panels].values())


def _height(wanted: Wanted, panels: Sequence[Panel]) -> float:
    if wanted.draw in ("bars", "norms"):
        rows = [{id(point) for point, _ in shown} if wanted.draw == "norms" else shown for _, shown in panels]
        most = max(map(len, rows))
        return max(1.6, 0.8 + (0.22 if wanted.draw == "bars" else 0.6) * most)
    return _HEIGHT


def _panels(summary: Summary, wanted: Wanted) -> list[Panel]:
    """Points and tests of each panel."""
    study = summary.study
    everything = [
        (point, name) for point in summary.points for name, test in study.tests.items() if test.of(point.labels)
    ]
    if wanted.panels is None:
        return [("", everything)]
    if wanted.panels == "test":
        return [(test, [pair for pair in everything if pair[1] == test]) for test in study.tests]
    place = list(study.axes).index(wanted.panels)

    def belongs(point: Point, label: str) -> bool:
        if not point.beside:
            return point.labels[place] == label
        others = [each for each in study.axes[wanted.panels or ""] if point.name.startswith(f"{each}-")]
        return not others or label in others

    return [(label, [pair for pair in everything if belongs(pair[0], label)]) for label in study.axes[wanted.panels]]


def _name(summary: Summary, wanted: Wanted, point: Point, test: str, *, without: str | None = None) -> str:
    """What tells a point and test from others in its panel."""
    study = summary.study
    hidden = {wanted.panels, without}
    if not point.beside:
        labels = [label for axis, label in zip(study.axes, point.labels, strict=True) if axis not in hidden]
    else:
        labels = [*point.labels]
    if len(study.tests) > 1 and "test" not in hidden:
        labels.append(test if test.startswith("on-") else f"on {test}")
    return " ".join(labels)


def _failed(point: Point) -> str:
    return f" ({point.failed} of {len(point.lines)} failed)" if point.failed else ""


def _lines(axes: Axes, summary: Summary, wanted: Wanted, shown: list[tuple[Point, str]]) -> None:
    """Medians over an axis; points beside the axes as horizontal lines."""
    study = summary.study
    assert wanted.x is not None
    place, labels = list(study.axes).index(wanted.x), list(study.axes[wanted.x])
    at = places(labels)
    series: dict[str, dict[float, tuple[float, float, float]]] = {}
    flat: dict[str, float] = {}
    for point, test in shown:
        if (found := point.quartiles(test, wanted.of)) is None:
            continue
        name = _name(summary, wanted, point, test, without=wanted.x)
        if not point.beside:
            series.setdefault(name, {})[at[labels.index(point.labels[place])]] = found
        else:
            flat[name] = found[1]
    for color, (name, values) in zip(cycle(len(series)), series.items(), strict=True):
        x = sorted(values)
        low, middle, high = zip(*(map(drawable, values[each]) for each in x), strict=True)
        axes.plot(x, middle, color=color, marker="o", markersize=3, label=name or None)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    for index, (name, value) in enumerate(flat.items()):
        axes.axhline(drawable(value), color=_LIGHT, linestyle=(0, (3 + 3 * index, 2)), linewidth=1.2, label=name)
    if at == list(range(len(labels))):
        axes.set_xticks(at, labels, fontsize=8)
    axes.set_xlabel(wanted.x.replace("_", " "), fontsize=8)
    loss_axis(axes, LOSS[wanted.of], log=wanted.log)
    legend(axes)


def _bars(axes: Axes, summary: Summary, wanted: Wanted, shown: list[tuple[Point, str]]) -> None:
    """Medians with quartiles, and the best baseline of each."""
    names, at, least = [], 0, math.inf
    for point, test in shown:
        if (found := point.quartiles(test, wanted.of)) is None:
            continue
        low, middle, high = map(drawable, found)
        color = COLORS[list(summary.study.tests).index(test) % len(COLORS)]
        finite = math.isfinite(middle)
        least = min(least, low) if math.isfinite(low) else least
        axes.plot([low, high], [at, at], color=color, linewidth=5, alpha=0.25, solid_capstyle="round")
        if finite:
            axes.plot([middle], [at], color=color, marker="o", markersize=6)
        best = summary.best_baseline(point, test, wanted.of)
        if best is not None:
            axes.plot([best[1]], [at], color="black", marker="|", markersize=12, markeredgewidth=1.5)
        names.append(_name(summary, wanted, point, test) + ("" if finite else " (not finite)"))
        at += 1
    axes.set_yticks(range(at), names, fontsize=8)
    axes.set_ylim(at - 0.4, -0.6)  # the first above
    if wanted.log and 0.0 < least < math.inf:
        axes.set_xscale("log")
    axes.set_xlabel(LOSS[wanted.of] + (", | best baseline" if summary.study.baselines else ""), fontsize=8)


def _histograms(axes: Axes, summary: Summary, wanted: Wanted, shown: list[tuple[Point, str]]) -> None:
    """How many runs reached what; the last bin holds what failed."""
    from matplotlib.ticker import MaxNLocator

    every = [
        value
        for _, pairs in _panels(summary, wanted)
        for point, test in pairs
        for value in point.reached(test, wanted.of)
    ]
    finite = [value for value in every if math.isfinite(value)] or [1.0]
    shares = summary.study.shares.values() if wanted.of == "final" else ()  # which are of final losses
    limits = [limit for share in shares for limit in (share.below, share.above) if limit]
    log = wanted.log and min(finite) >= 0.0 and max(finite) > 0.0
    if log:
        top = max([*finite, *limits]) * 1.1
        high = top if min(finite) >= _HIGHEST else min(top, _HIGHEST)
        low = max(min([*finite, *limits]) / 1.1, high / _RANGE)
        edges = [low * (high / low) ** (index / _BINS) for index in range(_BINS + 4)]
    else:
        low, high = min([*finite, *limits]), max([*finite, *limits])
        margin = 0.05 * max(high - low, 0.1 * abs(high), 1e-12)
        low, high = low - margin, high + margin
        top = high
        edges = [low + (high - low) * index / _BINS for index in range(_BINS + 4)]
    rest = edges[-2]  # in the last bin, with an empty one before it
    for color, (point, test) in zip(cycle(len(shown)), shown, strict=True):
        values = [max(value, low) if value < high else rest for value in point.reached(test, wanted.of)]
        name = _name(summary, wanted, point, test)
        axes.hist(values, edges, color=color, alpha=0.55, label=name or None)
    for limit in sorted(set(limits)):
        axes.axvline(limit, color="0.35", linestyle="--", linewidth=1)
    axes.set_xscale("log" if log else "linear")
    beyond = "not finite" if top <= high else f"more than {high:g}, or not finite"
    axes.set_xlabel(f"{LOSS[wanted.of]} (far right: {beyond})", fontsize=8)
    axes.set_ylabel("runs", fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes)


def _curves(axes: Axes, summary: Summary, wanted: Wanted, shown: list[tuple[Point, str]]) -> None:
    """The median over runs of the mean loss on test problems."""
    for color, (point, test) in zip(cycle(len(shown)), shown, strict=True):
        curves = [curve for line in point.lines if (curve := of_test(line, test).get("curve"))]
        if not curves:
            continue
        steps = [step for step, _ in min(curves, key=len)]
        failed = [math.inf] * point.failed
        values = [
            quartiles([*(or_infinite(curve[index][1]) for curve in curves), *failed]) for index in range(len(steps))
        ]
        middle = [drawable(each[1]) if each else math.nan for each in values]
        name = _name(summary, wanted, point, test) + _failed(point)
        axes.plot(steps, middle, color=color, linewidth=1.3, label=name or None)
    axes.set_xlabel("step", fontsize=8)
    loss_axis(axes, "loss", log=wanted.log)
    legend(axes)


def _norms(axes: Axes, summary: Summary, wanted: Wanted, shown: list[tuple[Point, str]]) -> None:
    """The norm of the meta-gradient of each network."""
    names, at = [], 0
    chosen = list(dict.fromkeys(id(point) for point, _ in shown))
    for point, found in norms([point for point in summary.points if id(point) in chosen]):
        for network, value in found.items():
            axes.plot([max(value, 1e-30)], [at], color=COLORS[1], marker="o")
            names.append(f"{_name(summary, wanted, point, '', without='test')}: {network}")
            at += 1
    axes.set_yticks(range(at), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("norm of the meta-gradient", fontsize=8)


def _training(part: SubFigure, summary: Summary, wanted: Wanted) -> None:
    """Validation loss over meta-updates, and over seconds: the median over runs."""
    left, right = part.subplots(1, 2, sharey=True)
    for color, point in zip(cycle(len(summary.points)), summary.points, strict=True):
        lines = [line for line in point.lines if line.get("results", {}).get("training")]
        if not lines:
            continue
        count = min(len(line["results"]["training"]["updates"]) for line in lines)
        kept = {"final": "final_loss", "sum": "loss_sum"}[wanted.of]
        reached = [[or_infinite(value) for value in line["results"]["training"][kept]] for line in lines]
        failed = [math.inf] * point.failed
        losses = [quartiles([*(each[index] for each in reached), *failed]) for index in range(count)]
        middle = [drawable(each[1]) if each else math.nan for each in losses]
        left.plot(
            lines[0]["results"]["training"]["updates"][:count],
            middle,
            color=color,
            marker="o",
            markersize=2.5,
            label=point.name + _failed(point),
        )
        timed = [line["seconds"]["training"] for line in lines if len(line["seconds"].get("training", [])) >= count]
        if timed:
            seconds = [statistics.median(each[index] for each in timed) for index in range(count)]
            right.plot(seconds, middle, color=color, marker="o", markersize=2.5)
    for axes, label in ((left, "meta-updates"), (right, "seconds of meta-training")):
        axes.set_xscale("log")
        loss_axis(axes, f"{LOSS[wanted.of]}, validation" if axes is left else "", log=wanted.log)
        axes.set_xlabel(label, fontsize=8)
        tidy(axes)
    legend(left)


_DRAW: dict[str, Callable[[Axes, Summary, Wanted, list[tuple[Point, str]]], None]] = {
    "lines": _lines,
    "bars": _bars,
    "histograms": _histograms,
    "curves": _curves,
    "norms": _norms,
}
