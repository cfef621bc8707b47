"""Figures of comparisons."""

from __future__ import annotations

import pytest
import torch

from meta_opt.evaluation.compare import Comparison, Entry, Mean, Outcome
from meta_opt.evaluation.figures import comparison_figure


def entry(name: str, final: float, *, rate: float | None = None, tuned: bool = True) -> Entry:
    losses = torch.logspace(0, torch.tensor(final).log10().item(), 11, dtype=torch.float64)
    merits = {"sum": Mean(1.0, 0.1), "final": Mean(final, 0.1)}
    run = Outcome(rate, losses, losses / 10, losses, merits, 1e-3)  # type: ignore[arg-type]
    return Entry(name, "learned" if rate is None else "baseline", {"sum": run, "final": run}, tuned=tuned)


@pytest.mark.parametrize("count", [1, 2])
def test_one_legend_learned_ones_first(count: int) -> None:
    entries = [entry("mine", 0.01), entry("Adam", 0.1, rate=0.03), entry("SGD:lr=1", 0.5, rate=1.0, tuned=False)]
    comparisons = [Comparison(10 * (number + 1), entries) for number in range(count)]
    figure = comparison_figure(comparisons, title="bowl", num_problems=3, command="meta-opt compare")
    legends = [legend for axes in figure.axes if (legend := axes.get_legend()) is not None]
    assert len(legends) == 1
    names = [text.get_text() for text in legends[0].get_texts()]
    assert names == ["mine", "SGD:lr=1", "Adam (0.03)" if count == 1 else "Adam"]


def test_ticks_are_plain_numbers() -> None:
    entries = [entry("mine", 0.2), entry("Adam", 0.3, rate=0.03)]
    figure = comparison_figure([Comparison(10, entries)], title="bowl", num_problems=3, command="meta-opt compare")
    figure.draw_without_rendering()
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert {"0.2", "0.3", "0.5", "1"} <= labels
