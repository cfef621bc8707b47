"""Figures of loss curves, with matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meta_opt.evaluation.compare import Comparison
from meta_opt.inner_loop.episodes import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEARNED = "#c0392b"
_REFERENCE = "#4d5d6c"
# Learned optimizers are thick, dark and warm; baselines thin and lighter, told apart by their dashes also in grey.
_LEARNED_COLORS = ("#b00020", "#7b1fa2", "#bf5600", "#6d4c00")
_BASELINE_STYLES: tuple[tuple[str, tuple[int, tuple[float, ...]]], ...] = (
    ("#4a7fb5", (0, ())),
    ("#3f9b63", (0, (6, 1.5))),
    ("#8a8a8a", (0, (3, 1.2, 1, 1.2))),
    ("#2f9aa0", (0, (1.2, 1.2))),
    ("#a08a3c", (0, (8, 2, 1, 2, 1, 2))),
    ("#7f7fc4", (0, (3, 3))),
)
# What tells apart those that share a style, where there are more than styles.
_MARKERS: tuple[dict[str, Any], ...] = (
    {},
    *({"marker": marker, "markevery": 0.1, "markersize": 4} for marker in "osd^v*"),
)


def loss_figure(
    means: Mapping[int, Tensor], reference: Curves | None, title: str, reference_label: str, *, shown: int = 12
) -> Figure:
    """Mean loss over optimizee steps at each validation, from pale to dark, and of a reference.

    Args:
        means: By the number of episodes of meta-training, [steps + 1]; the last one is drawn thick.
        reference: Dashed, with a band from the 10th to the 90th percentile of problems.
        title: Of the figure.
        reference_label: In the legend.
        shown: At most so many validations are drawn, evenly spread.
    """
    from matplotlib import colormaps

    from meta_opt.evaluation.pictures import Picture

    figure = Picture(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    episodes = sorted(means)
    every = -(-len(episodes) // shown)
    drawn = episodes[::-1][::every][::-1]
    lowest = [float(means[episode].nan_to_num(1.0).min()) for episode in drawn]
    for index, episode in enumerate(drawn):
        last = episode == drawn[-1]
        axes.plot(
            means[episode].double().numpy(),
            color=_LEARNED if last else colormaps["Reds"](0.2 + 0.5 * index / len(drawn)),
            linewidth=2.2 if last else 1.0,
            label=f"learned, {episode} episodes" if last or index == 0 else None,
            zorder=4 if last else 3,
        )
    if reference is not None:
        losses = reference.losses.detach().cpu().double()
        low, high = torch.quantile(losses, torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
        mean = losses.mean(1)
        lowest.append(float(mean.nan_to_num(1.0).min()))
        floor = low.clamp_min(1e-3 * mean.abs().min())  # a band that reaches zero has no end on a log scale
        axes.plot(mean, color=_REFERENCE, linestyle="--", linewidth=2, label=reference_label, zorder=2)
        axes.fill_between(
            range(len(losses)), floor, high, color=_REFERENCE, alpha=0.15, linewidth=0, zorder=1,
            label="its 10th to 90th percentile",
        )  # fmt: skip
    if min(lowest) > 0.0:
        axes.set_yscale("log")
        _plain_ticks(axes)
    axes.set_xlim(0, max(len(means[episodes[-1]]) - 1, 1))
    axes.set_xlabel("optimizee step")
    axes.set_ylabel("mean loss on validation problems")
    axes.set_title(title, fontsize="medium", loc="left")
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _plain_ticks(axes: Axes) -> None:
    """Ticks such as 0.3 on a logarithmic axis, as powers only where there would be many zeros."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    low, high = axes.get_ylim()
    many = math.log10(high / low) > 2.5
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if many else (1.0, 2.0, 3.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter("")


def comparison_figure(
    comparisons: Sequence[Comparison], *, title: str, num_problems: int, command: str, loss: str = "loss"
) -> Figure:
    """Mean loss over optimizee steps with a band of 1.96 standard errors; a panel per horizon.

    The scale is logarithmic, unless a loss is negative or the first is zero.

    Baselines are shown with the learning rate that was tuned for their final loss. The command stands underneath.
    ``loss`` says what the losses are.
    """
    from meta_opt.evaluation.pictures import Picture

    count = len(comparisons)
    figure = Picture(figsize=(8.0 if count == 1 else 7.0 * count, 4.6), dpi=200, layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    log = _have_logs(comparisons)
    for axes, comparison in zip(panels, comparisons, strict=True):
        _draw(axes, comparison, rates=count == 1, log=log)
        axes.set_title(f"{title}, {comparison.num_steps} steps", loc="left", fontweight="bold")
    panels[0].set_ylim(*_limits(comparisons, log=log))
    if log:
        _plain_ticks(panels[0])
    panels[0].set_ylabel(f"mean {loss} on test problems")
    _legend(panels[-1], comparisons[-1])
    caption = f"Bands: ±1.96 standard errors of the mean over {num_problems} problems."
    if count == 1:
        caption += " In brackets: learning rate, tuned for the final loss."
    width = int(19 * figure.get_figwidth())  # letters
    lines = [*textwrap.wrap(caption, width), *textwrap.wrap(command, width)]
    figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=6.5, color="0.4")
    return figure


def _draw(axes: Axes, comparison: Comparison, *, rates: bool, log: bool) -> None:
    counts = {"learned": 0, "baseline": 0}
    for entry in comparison.entries:
        number = counts[entry.kind]
        counts[entry.kind] += 1
        run = entry.runs["final"]
        mean, half = run.loss_mean.numpy(), 1.96 * run.loss_sem.numpy()
        if entry.kind == "learned":
            color, width, order = _LEARNED_COLORS[number % len(_LEARNED_COLORS)], 3.0, 4
            dashes: tuple[int, tuple[float, ...]] = (0, ()) if number == 0 else (0, (5.0 / number, 1.0))
            label = entry.name
        else:
            (color, dashes), width, order = _BASELINE_STYLES[number % len(_BASELINE_STYLES)], 1.5, 3
            label = f"{entry.name} ({run.learning_rate:.2g})" if rates and entry.tuned else entry.name
        styles = len(_LEARNED_COLORS) if entry.kind == "learned" else len(_BASELINE_STYLES)
        marker = _MARKERS[number // styles % len(_MARKERS)]
        steps = range(len(mean))
        lower = mean - half
        if log:
            lower = lower.clip(min=1e-3 * abs(mean))  # what is not positive has no place on the axis
        axes.fill_between(steps, lower, mean + half, color=color, alpha=0.16, linewidth=0, zorder=order - 2)
        axes.plot(steps, mean, color=color, linestyle=dashes, linewidth=width, label=label, zorder=order, **marker)
    axes.set_yscale("log" if log else "linear")
    axes.set_xlim(0, comparison.num_steps)
    axes.set_xlabel("optimizee step")
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes, comparison: Comparison) -> None:
    """Learned ones first, each kind in the order in which its lines arrive."""
    ends = [float(entry.runs["final"].finals[-1].nan_to_num(math.inf)) for entry in comparison.entries]
    learned = [entry.kind == "learned" for entry in comparison.entries]
    indices = sorted(range(len(ends)), key=lambda index: (not learned[index], -ends[index]))
    handles = [axes.lines[index] for index in indices]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.2)


def _means(comparisons: Sequence[Comparison]) -> list[Tensor]:
    return [entry.runs["final"].loss_mean for comparison in comparisons for entry in comparison.entries]


def _have_logs(comparisons: Sequence[Comparison]) -> bool:
    """Whether mean losses can be drawn by their logarithms; a loss of zero at the end is below the axis then."""
    means = _means(comparisons)
    return float(means[0][0]) > 0.0 and not any(bool((mean < 0.0).any()) for mean in means)


def _limits(comparisons: Sequence[Comparison], *, log: bool) -> tuple[float, float]:
    """From the lowest mean loss to the highest; what diverges leaves the figure.

    On a logarithmic scale that is what is beyond ten times the first loss, else what is further above it than twice the
    way from it to the lowest.
    """
    means = _means(comparisons)
    losses = torch.cat(means)
    losses = losses[losses.isfinite() & (losses > 0)] if log else losses[losses.isfinite()]
    if not len(losses):
        return 0.1, 1.0
    first, bottom, top = float(means[0][0]), float(losses.min()), float(losses.max())
    if log:
        top = max(min(top, 10.0 * first), bottom)
        margin = max(math.log(top / bottom), 0.1) * 0.04
        return bottom * math.exp(-margin), top * math.exp(margin)
    way = max(first - bottom, 0.1 * abs(first))
    if math.isfinite(way) and way > 0.0:
        top = min(top, first + 2.0 * way)
    margin = 0.04 * max(top - bottom, 0.1 * abs(top), 1e-12)
    return bottom - margin, top + margin
