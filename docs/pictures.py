"""Draws the pictures of the documentation: ``python docs/pictures.py`` writes docs/pictures/*.svg."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).parent / "pictures"
INK, GREY = "#222222", "#777777"
OPTIMIZEE, OPTIMIZER, BACK = "#dbe7f3", "#fde3c0", "#b3261e"  # BACK: where backpropagation goes
LANES = (
    (6.3, "rollout", "$T$ steps, no graph.\nEach step records\nits gradient $\\nabla_t$."),
    (4.35, "add up", "the gradients, from the\nend: $c_\\tau = \\partial L/\\partial g_\\tau$\n(here with $w_t = 1$)."),
    (
        2.45,
        "replay",
        "The network alone\nreads what was recorded;\nbackpropagation (red)\nstarts from $c_\\tau$ at $g_\\tau$.",
    ),
)
SOLID = (0, ())
STOPPED = (0, (4, 3))

mpl.use("svg")
mpl.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 12,
        "mathtext.fontset": "dejavusans",
        "svg.fonttype": "path",  # the same on every machine
        "svg.hashsalt": "meta-opt",  # the same every time
    }
)


def canvas(width: float, height: float) -> Axes:
    """An empty page, white, with one unit to 0.8 inches."""
    _, axes = plt.subplots(figsize=(0.8 * width, 0.8 * height))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    axes.set_position((0, 0, 1, 1))
    return axes


def box(axes: Axes, x: float, y: float, text: str, color: str, width: float = 1.1, height: float = 0.62) -> None:
    """A box around (x, y)."""
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12", fc=color, ec=INK, lw=1.2)
    )
    axes.text(x, y, text, ha="center", va="center", color=INK)


def plus(axes: Axes, x: float, y: float) -> None:
    """A sum."""
    axes.add_patch(Circle((x, y), 0.16, fc="white", ec=INK, lw=1.2))
    axes.text(x, y, "+", ha="center", va="center_baseline", color=INK)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    label: str = "",
    at: tuple[float, float] = (0, 0),
    *,
    color: str = INK,
    style: tuple[int, tuple[int, ...]] = SOLID,
) -> None:
    """An arrow, with a label that lies ``at`` so far from its middle."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=13,
            shrinkA=0,
            shrinkB=0,
            color=color,
            linestyle=style,
            lw=1.4,
        )
    )
    if label:
        x, y = (start[0] + end[0]) / 2 + at[0], (start[1] + end[1]) / 2 + at[1]
        axes.text(x, y, label, ha="center", va="center", color=color)


def unroll() -> Axes:
    """Three steps of an unroll, after figure 2 of Andrychowicz et al. 2016."""
    axes = canvas(13.4, 5.3)
    left, pitch, last = 2.6, 3.25, 3
    loss_y, f_y, theta_y, m_y = 4.75, 3.6, 2.35, 0.85
    for t in range(last + 1):
        x = left + t * pitch
        box(axes, x, f_y, f"$f_{t}$", OPTIMIZEE)
        axes.text(x, theta_y, rf"$\theta_{t}$", ha="center", va="center", fontsize=14)
        arrow(axes, (x, theta_y + 0.25), (x, f_y - 0.31))
        if t:
            arrow(axes, (x, f_y + 0.31), (x, loss_y - 0.2))
        if t == last:
            continue
        box(axes, x + 1.05, m_y, "$m$", OPTIMIZER)
        # The gradient: an input that is held constant.
        arrow(axes, (x + 0.56, f_y - 0.31), (x + 0.98, m_y + 0.33), rf"$\nabla_{t}$", (-0.3, -0.55), style=STOPPED)
        plus(axes, x + 2.15, theta_y)
        arrow(axes, (x + 0.28, theta_y), (x + 1.99, theta_y))
        arrow(axes, (x + 1.5, m_y + 0.33), (x + 2.08, theta_y - 0.16), f"$g_{t}$", (0.3, -0.1))
        arrow(axes, (x + 2.31, theta_y), (x + pitch - 0.25, theta_y))
        start = x + 1.05 - pitch + 0.55 if t else x - 1.2
        arrow(axes, (start, m_y), (x + 0.5, m_y), f"$h_{t}$", (0, -0.25))
    x = left + (last - 1) * pitch + 1.05
    arrow(axes, (x + 0.55, m_y), (x + 2.0, m_y), f"$h_{last}$", (0, -0.25))
    arrow(axes, (left - 1.2, theta_y), (left - 0.25, theta_y))
    axes.text(left + pitch - 0.8, loss_y + 0.14, r"meta-loss  $L(\varphi)\ =$", ha="right", va="center", fontsize=13)
    for t in range(1, last + 1):
        x = left + t * pitch
        axes.text(x, loss_y + 0.14, rf"$w_{t}\, f_{t}(\theta_{t})$", ha="center", va="center", fontsize=13)
        if t < last:
            axes.text(x + pitch / 2, loss_y + 0.14, "+", ha="center", va="center", fontsize=13)
    axes.text(0.1, f_y, "problem", va="center", color=GREY)
    axes.text(0.1, theta_y, "parameters", va="center", color=GREY)
    axes.text(0.1, m_y + 0.42, "learned", va="center", color=GREY)
    axes.text(0.1, m_y + 0.08, "optimizer", va="center", color=GREY)
    return axes


def replay() -> Axes:
    """The first-order identity: roll out, add up from the end, replay."""
    axes = canvas(13.4, 7.0)
    left, pitch, last = 4.3, 2.55, 3
    record_y, c_y, g_y, m_y = 5.75, 3.75, 2.2, 0.9
    for y in (4.75, 2.85):
        axes.plot([0.1, 13.3], [y, y], color="#cccccc", lw=0.8)
    for number, (y, title, text) in enumerate(LANES, start=1):
        axes.text(0.1, y, f"{number}  {title}", va="center", weight="bold", color=INK)
        axes.text(0.42, y - 0.25, text, va="top", color=GREY, fontsize=11, linespacing=1.4)
    for t in range(last + 1):
        x = left + t * pitch
        box(axes, x, record_y + 0.45, rf"$f_{t}(\theta_{t})$", OPTIMIZEE, 1.2)
        arrow(axes, (x, record_y + 0.14), (x, record_y - 0.22))
        axes.text(x, record_y - 0.45, rf"$\nabla_{t}$", ha="center", va="center", fontsize=14)
        if t < last:
            arrow(axes, (x + 0.6, record_y + 0.45), (x + pitch - 0.6, record_y + 0.45), f"$+\\,g_{t}$", (0, 0.22))
    for tau in range(last):
        x = left + tau * pitch
        after = range(tau + 1, last + 1)
        terms = "+".join(rf"\nabla_{t}" for t in after)
        box(axes, x, c_y, rf"$c_{tau}$", "white", 0.7, 0.5)
        axes.text(x, c_y - 0.5, rf"$={terms}$", ha="center", va="center", fontsize=11)
        entry = left + (tau + 1) * pitch
        arrow(axes, (entry - 0.12, record_y - 0.7), (x + 0.36, c_y + 0.15), color=GREY)
        if tau < last - 1:
            arrow(axes, (x + pitch - 0.36, c_y), (x + 0.36, c_y))
        box(axes, x, m_y, "$m$", OPTIMIZER)
        axes.text(x, g_y, f"$g_{tau}$", ha="center", va="center", fontsize=14)
        arrow(axes, (x - 0.12, m_y + 0.33), (x - 0.12, g_y - 0.22))
        arrow(axes, (x + 0.12, g_y - 0.22), (x + 0.12, m_y + 0.33), color=BACK)
        arrow(axes, (x, c_y - 0.72), (x, g_y + 0.22), color=BACK)
        axes.text(x - 0.95, m_y + 0.62, rf"$\nabla_{tau}$", ha="center", va="center", fontsize=14)
        arrow(axes, (x - 0.78, m_y + 0.45), (x - 0.5, m_y + 0.27), style=STOPPED)
        if tau:
            arrow(axes, (x - pitch + 0.55, m_y + 0.1), (x - 0.55, m_y + 0.1))
            arrow(axes, (x - 0.55, m_y - 0.12), (x - pitch + 0.55, m_y - 0.12), color=BACK)
        arrow(axes, (x, m_y - 0.31), (x, 0.28), color=BACK)
    axes.plot([left, left + 3.02 * pitch], [0.26, 0.26], color=BACK, lw=1.4)
    axes.text(left + 3.06 * pitch, 0.26, r"$\partial L/\partial\varphi$", color=BACK, va="center", fontsize=14)
    return axes


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(exist_ok=True)
    for draw in (unroll, replay):
        axes = draw()
        axes.figure.savefig(FOLDER / f"{draw.__name__}.svg", metadata={"Date": None}, facecolor="white")
        plt.close()


if __name__ == "__main__":
    main()
