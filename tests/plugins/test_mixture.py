"""Several optimizees in one meta-training."""

from collections import Counter
from pathlib import Path

import pytest

from meta_opt.api import OptimizeeError
from meta_opt.meta_training.loading import load_learner
from meta_opt.optimizees.problems import problem_generator
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.mixture import Mixture
from meta_opt_optimizees.quadratic import Quadratic


def test_parts_are_drawn_by_weight() -> None:
    parts = [Quadratic(3), DigitsMlp([4]), Quadratic(5)]
    mixture = Mixture(parts, [3.0, 1.0, 0.0])  # type: ignore[arg-type]
    drawn = Counter(parts.index(mixture.variant(problem_generator(0, index))) for index in range(400))
    assert 260 <= drawn[0] <= 340
    assert drawn[0] + drawn[1] == 400


def test_mixtures_can_hold_mixtures() -> None:
    inner = Quadratic(3)
    assert Mixture([Mixture([inner])]).variant(problem_generator(0)) is inner


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_weights_that_do_not_suit(weights: list[float]) -> None:
    with pytest.raises(OptimizeeError, match="optimizee.weights must be 2 numbers"):
        Mixture([Quadratic(), Quadratic(3)], weights)


def test_no_parts() -> None:
    with pytest.raises(OptimizeeError, match="optimizee.parts must name at least one"):
        Mixture([])


def test_from_the_command_line_and_back_from_its_checkpoint(meta_opt, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    parts = "[{class_path: quadratic, init_args: {dimension: 3}}, quadratic]"
    options = ["--optimizee.parts", parts, "--optimizee.weights", "[2, 1]", "--model.num_steps", "4"]
    few = ["--model.episodes_per_epoch", "3", "--trainer.max_epochs", "1", "--model.num_test_problems", "3"]
    status, _, errors = meta_opt("fit", "--optimizee", "mixture", *options, *few)
    assert status == 0, errors
    path = tmp_path / "checkpoints" / "mixture" / "run_0" / "last.ckpt"
    module = load_learner(path)
    first, second = module.optimizee.init_args["parts"]
    assert (first.init_args["dimension"], second.init_args["dimension"]) == (3, 10)
    assert module.optimizee.init_args["weights"] == [2.0, 1.0]
    status, _, errors = meta_opt("test", "--ckpt_path", path)
    assert status == 0, errors
