"""What a meta-training costs, counted over runs and shown by comparisons."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from meta_opt.cli import main
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.saved.costs import Cost, read_cost
from meta_opt.saved.recipes import read_recipe

FIT = ("--optimizee=quadratic", "--optimizee.dimension=2", "--optimizer.hidden_size=4", "--model.num_problems=3")
SHORT = ("--model.num_steps=10", "--model.episodes_per_epoch=2", "--trainer.enable_progress_bar=false")


def test_counted_on_after_resuming_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    last = tmp_path / "checkpoints" / "quadratic" / "run_0" / "last.ckpt"
    assert main(["fit", *FIT, *SHORT, "--trainer.max_epochs=2"]) == 0
    first = read_recipe(last).cost
    assert first is not None
    assert first.optimizee_steps == 2 * 2 * 10 * 3
    assert main(["fit", "--ckpt_path", "last", "--trainer.max_epochs=3", "--trainer.enable_progress_bar=false"]) == 0
    second = read_recipe(last).cost
    assert second is not None
    assert second.optimizee_steps == 3 * 2 * 10 * 3
    assert second.seconds > first.seconds > 0.0
    capsys.readouterr()
    few = ("--num_problems=2", "--num_validation_problems=2", "--baselines=SGD", "--num_steps=5")
    assert main(["compare", "--ckpt_path", "last", *few]) == 0
    assert f"{second.optimizee_steps:>31,}  {second.seconds:>9,.0f}" in capsys.readouterr().out
    results = json.loads((tmp_path / "comparisons" / "quadratic" / "0" / "results.json").read_text())
    learned = [each for each in results["optimizers"].values() if each["kind"] == "learned"]
    assert learned[0]["meta_training"] == {"optimizee_steps": second.optimizee_steps, "seconds": second.seconds}
    assert "meta_training" not in results["optimizers"]["SGD"]


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (["--model.estimator=pes"], 5),  # two pairs, and φ itself for the control variate
        (["--model.estimator=pes", "--model.estimator.control_variate=false", "--model.estimator.pairs=3"], 6),
        (["--model.estimator=es", "--model.estimator.control_variate=false"], 5),  # which starts where φ has come to
    ],
)
def test_every_particle_counts(options: list[str], runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *FIT, *SHORT, *options, "--trainer.max_epochs=1"]) == 0
    cost = read_recipe(tmp_path / "checkpoints" / "quadratic" / "run_0" / "last.ckpt").cost
    assert cost is not None
    assert cost.optimizee_steps == 2 * 10 * 3 * runs


def test_pairs_are_divided_among_processes_or_not() -> None:
    network = CoordinatewiseLSTM()
    assert PES(pairs=4, split_pairs=True).num_runs(network, 2) == 8 + 2
    assert PES(pairs=4).num_runs(network, 2) == 2 * (8 + 1)


def test_checkpoints_of_before_say_none() -> None:
    assert read_cost({}) is None


@pytest.mark.parametrize(
    "cost",
    [
        3,
        {},
        {"optimizee_steps": 3},
        {"optimizee_steps": -1, "seconds": 1.0},
        {"optimizee_steps": True, "seconds": 1.0},
        {"optimizee_steps": 1, "seconds": math.inf},
        {"optimizee_steps": 1, "seconds": math.nan},
        {"optimizee_steps": 1, "seconds": "1"},
    ],
    ids=str,
)
def test_what_is_no_cost_is_refused(cost: Any) -> None:
    with pytest.raises(ValueError, match="its cost is"):
        read_cost({"cost": cost})


def test_sums() -> None:
    assert Cost().more(10, 0.5).more(5, 0.25) == Cost(15, 0.75)
