"""Tuning and comparison."""

import math

import pytest
from problems_for_tests import Regression

from meta_opt.compare import compare, tune
from meta_opt.meta_learner import MetaLearner
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


@pytest.mark.parametrize("best", [1e-6, 3e-3, 0.1, 40.0])
def test_tune_widens_until_the_best_is_not_at_an_edge(best: float) -> None:
    asked = []

    def score(lr: float) -> float:
        asked.append(lr)
        return math.nan if lr > 30 * best else abs(math.log(lr / best))

    found = tune(score, start=0.03)
    assert abs(math.log10(found / best)) <= 0.125 + 1e-9  # half a step of the grid
    assert min(asked) < found < max(asked)
    assert len(asked) == len(set(asked))


def test_tune_gives_up() -> None:
    with pytest.raises(ValueError, match="no best learning rate"):
        tune(lambda lr: lr, start=1.0)


def test_compare() -> None:
    module = MetaLearner(
        Regression(),
        CoordinatewiseLSTM(num_layers=0, inputs="moments", output_scale=1.0, initial_output=0.0),
        num_steps=20,
        num_validation_problems=8,
        num_test_problems=16,
    )
    results = {result.name: result for result in compare(module, "sum")}
    assert list(results) == ["learned", "SGD", "Nesterov", "RMSprop", "Adam"]
    # the learned optimizer does nothing yet, the others do
    standing = module.curves(module.trained, "test", 16).losses
    assert results["learned"].value == pytest.approx(float(standing[1:].sum(0).mean()))
    assert results["learned"].learning_rate is None
    for name in ("SGD", "Nesterov", "RMSprop", "Adam"):
        assert results[name].value < 0.9 * results["learned"].value
        assert results[name].standard_error > 0
