"""Figures of comparisons."""

from __future__ import annotations

from pathlib import Path

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


@pytest.mark.parametrize(
    ("mine", "other", "log"),
    [
        ((-3.0, -4.0, -5.0), (-3.0, -3.5, -3.6), False),
        ((-3.0, -4.0, -5.0), (-3.0, 100.0, 1e6), False),
        ((0.0, -1.0, -2.0), (0.0, 2.0, 9.0), False),
        ((0.0, 1.0, 2.0), (0.0, 2.0, 9.0), False),
        ((2.0, 1.0, 0.0), (2.0, 50.0, 1e6), True),
        ((2.0, 1.0, -0.1), (2.0, 1.0, 0.5), False),
        ((2.0, float("nan"), float("nan")), (2.0, float("inf"), 1.0), True),
    ],
)
def test_losses_that_are_not_positive_are_drawn_as_they_are(
    mine: tuple[float, ...], other: tuple[float, ...], log: bool, tmp_path: Path
) -> None:
    entries = []
    for name, losses in (("mine", mine), ("other", other)):
        curve = torch.tensor(losses, dtype=torch.float64)
        merits = {"sum": Mean(1.0, 0.1), "final": Mean(losses[-1], 0.1)}
        run = Outcome(None, curve, torch.full_like(curve, 0.1), curve, merits, 1e-3)  # type: ignore[arg-type]
        entries.append(Entry(name, "learned", {"sum": run, "final": run}))
    figure = comparison_figure([Comparison(2, entries)], title="x", num_problems=3, command="meta-opt compare")
    figure.savefig(tmp_path / "figure.png")
    (axes,) = figure.axes
    assert axes.get_yscale() == ("log" if log else "linear")
    low, high = axes.get_ylim()
    assert all(low < loss < high for loss in mine if loss == loss and (loss > 0 or not log))
    assert high < 1e5
