"""What the figures of studies have in common: colours, scales, ticks, legends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

LOSS = {"final": "final loss", "sum": "sum of losses"}
COLORS = ("#b00020", "#2f6fb0", "#2e8b57", "#bf7a00", "#7b1fa2", "#5b6770", "#0f9ba8", "#8c4a2f", "#c2185b", "#6b8e23")


def places(labels: Sequence[str]) -> list[float]:
    """Where labels are on an axis: at their value if all are finite numbers, else one after the other."""
    try:
        values = [float(label) for label in labels]
    except ValueError:
        values = [math.nan]
    return values if all(map(math.isfinite, values)) else [float(index) for index in range(len(labels))]


def cycle(count: int) -> list[str]:
    """As many colours, from the first on."""
    return [COLORS[index % len(COLORS)] for index in range(count)]


def drawable(value: float) -> float:
    """The value, or not-a-number where no axis could show it."""
    return value if math.isfinite(value) and abs(value) < 1e30 else math.nan


def or_infinite(value: float | None) -> float:
    """A number of a result, where None stands for one that is not finite."""
    return math.inf if value is None else value


def loss_axis(axes: Axes, label: str, *, log: bool) -> None:
    """The vertical axis of losses, or of those that share it; a logarithmic one is for what is positive."""
    limits = [each.dataLim for each in axes.get_shared_y_axes().get_siblings(axes)]
    positive = any(each.minposy < math.inf for each in limits) and not any(each.y0 < 0.0 for each in limits)
    axes.set_yscale("log" if log and positive else "linear")
    axes.set_ylabel(label, fontsize=8)


def legend(axes: Any) -> None:
    """A legend, if anything has a name."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, frameon=False)


def tidy(axes: Axes) -> None:
    """What all panels have."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            _plain_ticks(axis)


def _plain_ticks(axis: Axis) -> None:
    """Numbers as one writes them, and not too many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 9.0
    subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    few = low > 0.0 and high < 2.5**2 * low  # of 1, 2, 5, 10, ...
    axis.set_major_locator(MaxNLocator(4) if few else LogLocator(base=10.0, subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
