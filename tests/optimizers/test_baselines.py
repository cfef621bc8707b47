"""Hand-made optimizers go through the checks of learned ones, as far as these ask for no weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meta_opt.optimizers.baseline_names import BASELINES, OF_CURVATURE, OF_MATRICES, baseline
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.testing.optimizers import inner_optimizer_checks

# What each does not fulfil.
EXCEPTIONS: dict[str, frozenset[str]] = {
    **{name: frozenset() for name in [*BASELINES, *OF_MATRICES, *OF_CURVATURE, "AdamW", "Adagrad", "NAdam"]},
    "Newton": frozenset({"permuted_coordinates"}),  # it steps along one coordinate after the other
}


@pytest.mark.parametrize("name", EXCEPTIONS)
@pytest.mark.parametrize("check", inner_optimizer_checks())
def test_baselines(check: Callable[[InnerOptimizer], None], name: str) -> None:
    if check.__name__ not in EXCEPTIONS[name]:
        check(baseline(name)(0.05))
        return
    with pytest.raises(AssertionError, match="in another order"):
        check(baseline(name)(0.05))
