"""Figures of loss curves, with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from meta_opt.episodes import Curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEARNED = "#c0392b"
_REFERENCE = "#4d5d6c"


def loss_figure(learned: Curves, reference: Curves, *, title: str, reference_label: str) -> Figure:
    """Loss over optimizee steps of the learned optimizer beside a reference, on a logarithmic scale.

    Lines are means over problems, bands reach from the 10th to the 90th percentile.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for curves, label, color, style, order in (
        (learned, "learned optimizer", _LEARNED, "-", 3),
        (reference, reference_label, _REFERENCE, "--", 2),
    ):
        losses = curves.losses.detach().cpu().double()
        steps = range(len(losses))
        low, high = torch.quantile(losses, torch.tensor([0.1, 0.9], dtype=torch.float64), dim=1)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0, zorder=order)
        axes.plot(steps, losses.mean(1), color=color, linestyle=style, linewidth=2, label=label, zorder=order)
    axes.set_yscale("log")
    axes.set_xlim(0, len(learned.losses) - 1)
    axes.set_xlabel("optimizee step")
    axes.set_ylabel("loss")
    num_problems = learned.losses.shape[1]
    axes.set_title(f"{title} (mean of {num_problems} problems, 10 % to 90 %)", fontsize="medium", loc="left")
    axes.grid(True, which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
