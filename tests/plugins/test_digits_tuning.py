"""The table of what networks on digits reach, between its points and outside of it."""

import pytest
import torch

from meta_opt_optimizees.digits_tuning import DigitsTuning


def test_points_of_the_table_and_between_them() -> None:
    optimizee = DigitsTuning()
    problem = optimizee.sample_problem("test", torch.Generator().manual_seed(0))
    table = problem["table"]
    assert table.shape == (13, 7)
    assert table.min() == 0.0

    def at(rate: float, width: float) -> float:
        theta = torch.tensor([rate / 12, width / 6]) * 3 - 1.5
        return optimizee.loss({"theta": theta}, problem, {}).item()

    assert at(4, 2) == pytest.approx(table[4, 2].item(), abs=1e-5)
    assert at(12, 6) == pytest.approx(table[12, 6].item(), abs=1e-5)
    assert at(4.5, 2) == pytest.approx(table[4:6, 2].mean().item(), abs=1e-5)
    assert at(4, 2.25) == pytest.approx((0.75 * table[4, 2] + 0.25 * table[4, 3]).item(), abs=1e-5)
    assert at(12 + 4, 6) == pytest.approx(table[12, 6].item() + 1.0, abs=1e-5)  # 4 points are 1 in θ


def test_small_rates_learn_nothing_and_the_largest_diverge() -> None:
    """A cross entropy of ln 10 is that of a guess; the best is in between."""
    tables = DigitsTuning()._tables["train"]
    assert tables.shape == (64, 13, 7)
    best = tables.flatten(1).min(1).values
    assert best.mean() < 0.7
    assert (tables[:, 0].min(1).values > best + 0.3).float().mean() > 0.9
    assert (tables[:, -1].min(1).values > best + 0.3).float().mean() > 0.7
