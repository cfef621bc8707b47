"""``meta_opt.compare``: what is compared with what, on what, and what comes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from problems_for_tests import HoldsBack, Square
from trainers_for_tests import trainer

import meta_opt
from meta_opt import LearnedOptimizer, MetaLearner, MetaOptError, compare
from meta_opt.errors import CheckpointError
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.saved.pretrained import pretrained_path
from meta_opt_optimizees.quadratic import Quadratic

FEW = {"num_problems": 3, "num_validation_problems": 2, "baselines": ["Adam"]}


@pytest.fixture(scope="module")
def learner() -> MetaLearner:
    return MetaLearner("quadratic", num_steps=7, num_problems=2, num_validation_problems=2)


def test_names_and_what_has_been_trained(learner: MetaLearner) -> None:
    result = compare(["quadratic", learner], num_steps=[5, 8], optimizee="quadratic", **FEW)
    rows = result.rows()
    assert [(row["num_steps"], row["optimizer"], row["kind"]) for row in rows] == [
        (steps, name, kind)
        for steps in (5, 8)
        for name, kind in (("quadratic", "learned"), ("CoordinatewiseLSTM", "learned"), ("Adam", "baseline"))
    ]
    assert rows[2]["sum_ratio"] == rows[2]["final_ratio"] == 1.0
    assert rows[0]["sum_ratio"] == pytest.approx(rows[0]["sum"] / rows[2]["sum"])
    assert rows[2]["final_learning_rate"] > 0
    assert rows[0]["final_learning_rate"] is None
    assert "quadratic, 5 steps, 3 test problems" in result.table()
    assert str(result) == repr(result) == result.table()


def test_it_is_what_the_command_line_compares(learner: MetaLearner) -> None:
    (first,) = compare(["quadratic"], num_steps=4, num_problems=3, baselines=["Adam:lr=0.1"]).comparisons
    (second,) = compare(
        {"mine": pretrained_path("quadratic")}, Quadratic(), 4, num_problems=3, baselines=["Adam:lr=0.1"]
    ).comparisons
    assert [entry.name for entry in second.entries] == ["mine", "Adam:lr=0.1"]
    assert torch.equal(first.entries[0].runs["sum"].loss_mean, second.entries[0].runs["sum"].loss_mean)


def test_losses_are_those_of_training() -> None:
    few = {"num_steps": 1, "num_problems": 2, "num_validation_problems": 1, "baselines": ["SGD:lr=0.1"]}
    trained, asked = MetaLearner(HoldsBack(), num_steps=2, held_back=True), {}
    for held_back in (None, True, False):
        (comparison,) = compare([trained], held_back=held_back, **few).comparisons
        asked[held_back] = comparison.entries[0].merit("sum").value
    assert asked[None] == asked[True] != asked[False]


def test_what_was_compared_is_said_as_on_the_command_line() -> None:
    result = compare([MetaLearner(HoldsBack(), num_steps=2, held_back=True)], num_steps=1, seed=4, **FEW)
    found = result.report.results()
    assert (found["held_back"], found["num_validation_problems"], found["seed"]) == (True, 2, 4)
    assert (found["device"], found["precision"], found["optimizee_options"]) == ("cpu", "32-true", {"scale": 0.5})
    assert result.plot().axes[0].get_ylabel() == "mean held-back loss on test problems"


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_precision_is_that_of_training(precision: str, tmp_path: Path) -> None:
    module = MetaLearner(Square(), CoordinatewiseLSTM(), num_steps=3, unroll_length=3, num_validation_problems=2)
    run = trainer(max_epochs=1, limit_train_batches=1, precision=precision)
    run.fit(module)
    run.save_checkpoint(tmp_path / "best.ckpt")

    def compared(*optimizers: Any) -> Any:
        return compare(optimizers, Square(), 3, **FEW)

    mine = compared(module)
    assert mine.comparisons[0].entries[0].validation["sum"] == float(run.callback_metrics["val/loss_sum"])
    for optimizers in ([module], [tmp_path / "best.ckpt"], ["quadratic", module]):  # on Square only one was trained
        assert compared(*optimizers).report.results()["precision"] == precision
    assert compared("quadratic").report.results()["precision"] == "32-true"


def test_what_it_is_compared_on(learner: MetaLearner) -> None:
    (own,) = compare([learner], **FEW).comparisons
    assert own.num_steps == 7  # as in training
    assert own.entries[0].validation is not None
    (elsewhere,) = compare([learner.trained], Square(), num_steps=None, **FEW).comparisons
    assert elsewhere.num_steps == 100
    with pytest.raises(MetaOptError, match="say what to compare on, with optimizee"):
        compare([learner.trained], **FEW)


def test_steps_are_those_of_training_where_validation_has_others(tmp_path: Path) -> None:
    module = MetaLearner("quadratic", num_steps=7, num_validation_steps=3, num_validation_problems=2)
    module.episodes_per_epoch = 1
    fit = trainer(max_epochs=1)
    fit.fit(module)
    fit.save_checkpoint(tmp_path / "best.ckpt")
    for given in (module, tmp_path / "best.ckpt"):
        assert [each.num_steps for each in compare([given], **FEW).comparisons] == [7]


def test_what_is_compared_stays_as_it_is(learner: MetaLearner) -> None:
    compare([learner, learner], num_steps=3, **FEW)
    assert all(weight.requires_grad for weight in learner.optimizer.parameters())
    rows = compare([learner, learner], num_steps=3, **FEW).rows()
    assert [row["optimizer"] for row in rows] == ["CoordinatewiseLSTM", "CoordinatewiseLSTM-2", "Adam"]
    assert rows[0]["sum"] == rows[1]["sum"]


def test_figure_and_data_frame(learner: MetaLearner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = compare([learner], num_steps=3, **FEW)
    figure = result.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]  # which notebooks show
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "curves.png")
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert result.to_dataframe() == ("frame", result.rows())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MetaOptError, match=r"to_dataframe needs pandas \(pip install pandas\)"):
        result.to_dataframe()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "say what to compare: one learned optimizer at least"),
        ((["quadratics"],), "no pretrained optimizer is called 'quadratics'; did you mean 'quadratic'?"),
        ((["quadratic"], "quadratc"), "no optimizee is called 'quadratc'"),
        ((["quadratic"], None, 0), "num_steps must be a whole number of at least 1, not 0"),
        ((["quadratic"], None, 1e4), "num_steps must be a whole number of at least 1, not 10000.0"),
        ((["quadratic"], None, (10, "9")), "num_steps must be a whole number of at least 1, not '9'"),
        ((["quadratic"], None, []), "num_steps must be a whole number of at least 1, not a list of 0"),
        (([3], "quadratic", 3), "int cannot be compared"),
        (([AlphaOpt()], "quadratic", 3), "AlphaOpt has no weights yet: build or train it, or give a checkpoint"),
        ((["quadratic"], Quadratic), "optimizee must be a name or an optimizee that is made, not "),
        ((["quadratic"], Path("my.py:Mine")), "optimizee must be a name or an optimizee that is made, not "),
        ((["quadratic", "digits_mlp"],), "quadratic and digits_mlp were trained on different problems; name those to"),
        ((["quadratic"], None, True), "num_steps must be a whole number of at least 1, not True"),
        (({"Adam": "quadratic"}, None, 300), "Adam is a baseline; give the learned optimizer another name"),
        ((["nowhere/best.ckpt"], "quadratic"), "nowhere/best.ckpt"),
    ],
)
def test_what_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(MetaOptError) as raised:
        compare(*arguments)
    assert message in str(raised.value)


@pytest.mark.parametrize("baselines", ["SGD", [torch.optim.SGD]])
def test_baselines_are_names(baselines: Any) -> None:
    with pytest.raises(MetaOptError, match="baselines must be a sequence of names, not"):
        compare(["quadratic"], num_steps=2, baselines=baselines)


def test_checkpoints_are_named_after_their_runs(tmp_path: Path) -> None:
    paths = [tmp_path / f"checkpoints/some_long_name_{name}/run_0/best.ckpt" for name in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(pretrained_path("quadratic").read_bytes())
    result = compare([*paths, str(paths[0])], num_steps=2, **FEW)
    names = [row["optimizer"] for row in result.rows()]
    assert names == [*(f"some_long_name_{name}/run_0" for name in "ab"), "some_long_name_a/run_0-2", "Adam"]
    shown = [line.split()[0] for line in result.table().splitlines() if "run_0" in line]
    assert len(set(shown)) == 3


def test_too_few_problems() -> None:
    with pytest.raises(MetaOptError, match="num_problems must be a whole number of at least 2, not 1"):
        compare(["quadratic"], num_problems=1)
    with pytest.raises(MetaOptError, match="num_validation_problems must be a whole number of at least 1, not 0"):
        compare(["quadratic"], num_validation_problems=0)


def test_where_and_with_what_seed() -> None:
    with pytest.raises(MetaOptError, match="device nowhere cannot be used: "):
        compare(["quadratic"], device="nowhere")
    with pytest.raises(MetaOptError, match="seed must be a whole number of at least 0, not 'x'"):
        compare(["quadratic"], seed="x")  # type: ignore[arg-type]


def test_it_is_exported() -> None:
    assert meta_opt.compare is compare
    assert isinstance(compare([CoordinatewiseLSTM_built()], "quadratic", 2, **FEW), meta_opt.Compared)


def CoordinatewiseLSTM_built() -> CoordinatewiseLSTM:  # noqa: N802
    return MetaLearner(Quadratic(), CoordinatewiseLSTM(), num_steps=2).optimizer


class Mine(CoordinatewiseLSTM):
    """Not installed."""


def test_the_class_of_a_checkpoint_that_may_not_name_it(tmp_path: Path) -> None:
    module = MetaLearner(Square(), Mine(), num_steps=3, unroll_length=3, num_validation_problems=2)
    run = trainer(max_epochs=1, limit_train_batches=1, default_root_dir=tmp_path)
    run.fit(module)
    path = tmp_path / "mine.ckpt"
    run.save_checkpoint(path)
    few: dict[str, Any] = {"num_problems": 2, "num_validation_problems": 2, "baselines": ["SGD"]}
    with pytest.raises(CheckpointError, match="a checkpoint may not say what to import"):
        compare([path], Square(), 3, **few)
    result = compare([path, "quadratic"], Square(), 3, optimizer_class=Mine, **few)
    assert [row["kind"] for row in result.rows()] == ["learned", "learned", "baseline"]
    for named, message in (
        (CoordinatewiseLSTM, "optimizer_class coordinatewise_lstm: no checkpoint holds one, they hold .*Mine"),
        (int, "optimizer_class must be a subclass of OptimizerNetwork, not a type"),
        ("Mine", "optimizer_class must be a subclass of OptimizerNetwork, not 'Mine'"),
    ):
        wrong: dict[str, Any] = {"optimizer_class": named}
        with pytest.raises(MetaOptError, match=message):
            compare([path], Square(), 3, **few, **wrong)
        with pytest.raises(MetaOptError, match=message):
            LearnedOptimizer([torch.ones(2, requires_grad=True)], checkpoint=path, **wrong)
