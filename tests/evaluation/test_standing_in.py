"""Networks that work on parameters that a learned optimizer has no network for."""

from __future__ import annotations

import pytest
from problems_for_tests import Square

from meta_opt import MetaLearner, MetaOptError, compare
from meta_opt.evaluation.standing_in import let_stand_in
from meta_opt.optimizees.problems import layout_of
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt_optimizees.digits_mlp import DigitsMlp


def test_networks_of_tensors_have_slashes_for_dots() -> None:
    optimizee = DigitsMlp(hidden_sizes=[3, 3])
    optimizer = CoordinatewiseLSTM(share="tensor")
    made = [(optimizer, layout_of(DigitsMlp()))]
    let_stand_in({"hidden2/weight": "hidden1/weight"}, optimizee, made, option="--network_for")
    assert optimizer.network_for == {"hidden2/weight": "hidden1/weight"}
    with pytest.raises(
        MetaOptError, match=r"--network_for\.hidden2\.weight: .* no hidden2\.weight; it has hidden1/wei"
    ):
        let_stand_in({"hidden2.weight": "hidden1/weight"}, optimizee, made, option="--network_for")
    with pytest.raises(
        MetaOptError, match=r"^--network_for\.output/weight: output/weight has a network of its own, whi"
    ):
        let_stand_in({"output/weight": "hidden1/weight"}, optimizee, made, option="--network_for")


def test_in_python() -> None:
    """A learned optimizer with a network for vectors, on an optimizee that has matrices too."""
    few = {"num_steps": 2, "num_problems": 2, "num_validation_problems": 1, "baselines": ["SGD:lr=0.1"]}
    learner = MetaLearner(Square(), CoordinatewiseLSTM(share="kind"))
    for trained in (learner, learner.trained):
        with pytest.raises(MetaOptError, match="has no network for matrix; it has vector"):
            compare([trained], "digits_mlp", **few)
        result = compare([trained], "digits_mlp", network_for={"matrix": "vector"}, **few)
        assert result.rows()[0]["final"] > 0
        assert not learner.trained.network_for  # that of a copy
    with pytest.raises(MetaOptError, match=r"^network_for\.matrix matrix: there is no such network, but vector$"):
        compare([learner], "digits_mlp", network_for={"matrix": "matrix"}, **few)
    with pytest.raises(MetaOptError, match="has no network for matrix"):
        compare([learner.trained], "digits_mlp", network_for={"matrix": "matrix"}, **few)
