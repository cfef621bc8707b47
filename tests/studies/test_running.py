"""One run of a study."""

import errno
import math
import os
import sys

import pytest
import torch
from problems_for_tests import HoldsBack

from meta_opt.cli import main, study_worker
from meta_opt.cli.asked import optimizee_of
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.compare import compare
from meta_opt.evaluation.setting import Setting
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.loading import load_learner
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.saved.recipes import load_optimizer
from meta_opt.studies import running
from meta_opt.studies.reading import read_study
from meta_opt.studies.running import StoppedError, arguments, perform
from meta_opt.studies.tasks import tasks_of
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.quadratic import Quadratic

OPTIONS = {
    "optimizee": "quadratic",
    "optimizee.dimension": 3,
    "optimizer.hidden_size": 4,
    "model.num_steps": 8,
    "model.unroll_length": 4,
    "model.num_problems": 2,
    "model.num_validation_problems": 2,
    "model.episodes_per_epoch": 2,
    "trainer.max_epochs": 2,
}
QUADRATIC = {"optimizee": "quadratic", "options": {"dimension": 3}, "num_steps": None, "num_problems": 3}
DIGITS = {"optimizee": "digits_mlp", "options": {"hidden_sizes": [2]}, "num_steps": 5, "num_problems": 2}
WORK = {
    "options": OPTIONS,
    "tests": {"same": QUADRATIC, "digits": DIGITS},
    "checkpoint": "last",
    "training_curves": True,
    "meta_gradient_norms": True,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same meta-training by hand, and its checkpoint."""
    folder = tmp_path_factory.mktemp("fit")
    more = {"seed_everything": 5, "trainer.default_root_dir": str(folder), "trainer.enable_progress_bar": False}
    assert main(["fit", *arguments({**OPTIONS, **more, "trainer.logger": False, "trainer.accelerator": "cpu"})]) == 0
    return folder / "checkpoints" / "quadratic" / "run_0" / "last.ckpt"


@pytest.fixture(scope="module")
def made():
    return perform(WORK, 5, main, optimizee_of)


def test_what_is_reached_is_what_the_checkpoint_reaches(trained, made):
    optimizer = load_optimizer(trained)
    same = run_episodes(Quadratic(3), optimizer, "test", 3, 8, seed=0)
    found = made["results"]["tests"]["same"]
    assert found["final"] == same.final.mean().item()
    assert found["sum"] == same.sum.mean().item()
    assert found["not_finite"] == 0
    assert found["curve"] == [(step, same.losses[step].double().mean().item()) for step in range(9)]
    digits = run_episodes(DigitsMlp([2]), optimizer, "test", 2, 5, seed=0)
    assert made["results"]["tests"]["digits"]["final"] == digits.final.mean().item()
    assert made["results"]["tests"]["digits"]["accuracy"] == digits.metrics["accuracy"].mean().item()


def test_validation_losses_come_with_meta_updates_and_seconds(made):
    training, seconds = made["results"]["training"], made["seconds"]["training"]
    assert training["updates"] == [4, 8]  # two epochs of two episodes of two unrolls
    assert len(training["final_loss"]) == len(training["loss_sum"]) == 2
    assert 0.0 < seconds[0] < seconds[1] < made["seconds"]["fit"] < made["seconds"]["total"]


def test_meta_updates_are_counted_where_an_unroll_has_several_or_lengths_are_drawn():
    options = {**OPTIONS, "optimizer": "alpha_opt", "model.estimator": "policy_gradient", "model.estimator.passes": 3}
    options = {name: value for name, value in options.items() if not name.startswith("optimizer.")}
    made = perform({**WORK, "options": options, "tests": {}, "meta_gradient_norms": False}, 5, main, optimizee_of)
    assert made["results"]["training"]["updates"] == [12, 24]
    drawn = {**OPTIONS, "model.max_num_steps": 40}
    made = perform({**WORK, "options": drawn, "tests": {}, "meta_gradient_norms": False}, 5, main, optimizee_of)
    assert made["results"]["training"]["updates"][0] > 4
    assert len(made["seconds"]["training"]) == 2


def test_norms_are_of_the_meta_gradients_of_an_episode(trained, made):
    learner = load_learner(trained)
    problems = Problems(Quadratic(3), "train", range(2), seed=5)
    position, norms = begin(problems, learner.optimizer, grads=True), []
    for _ in range(2):
        trajectory = unroll(problems, learner.optimizer, position, 4, grads=True)
        grads = first_order(trajectory, learner.optimizer, MetaLoss("sum", "constant")).grads
        norms.append(torch.cat([grad.flatten() for grad in grads]).norm().item())
        position = trajectory.end.detach()
    expected = math.sqrt(sum(norm**2 for norm in norms) / 2)
    assert made["results"]["meta_gradient_norms"] == {"all": pytest.approx(expected, rel=1e-4)}


def test_norms_are_of_held_back_losses_where_meta_training_is():
    options = {**OPTIONS, "optimizee": "problems_for_tests.HoldsBack"}
    del options["optimizee.dimension"]
    norms = []
    for held_back in (False, True):
        work = {**WORK, "options": {**options, "model.held_back": held_back, "model.lr": 0.0}, "tests": {}}
        made = perform({**work, "training_curves": False}, 5, main, optimizee_of)
        norms.append(made["results"]["meta_gradient_norms"]["all"])
    assert norms[0] != pytest.approx(norms[1], rel=1e-3)


def test_norms_of_classes_that_are_not_installed():
    options = {name: value for name, value in OPTIONS.items() if not name.startswith("optimizee")}
    work = {**WORK, "options": {**options, "optimizee": "problems_for_tests.Square"}, "tests": {}}
    assert perform(work, 5, main, optimizee_of)["results"]["meta_gradient_norms"]["all"] > 0.0


def test_another_seed_is_another_run(made):
    other = perform(WORK, 6, main, optimizee_of)["results"]["tests"]
    assert other["same"]["final"] != made["results"]["tests"]["same"]["final"]
    assert other["same"]["curve"][0] == made["results"]["tests"]["same"]["curve"][0]  # the same test problems
    assert perform(WORK, 5, main, optimizee_of)["results"] == made["results"]  # whatever ran before


def test_hand_made_optimizers_are_those_of_compare():
    test = {**QUADRATIC, "num_steps": 6, "num_validation_problems": 5}
    made = perform({"baselines": ["Adam"], "test": test}, 0, main, optimizee_of)["results"]["baselines"]["Adam"]
    (comparison,) = compare(Setting(Quadratic(3), [6], 3, 5), {}, {"Adam": baseline("Adam")})
    (entry,) = comparison.entries
    assert made["final"] == {
        "value": entry.merit("final").value,
        "learning_rate": entry.runs["final"].learning_rate,
    }
    assert made["sum"]["value"] == entry.merit("sum").value


def test_what_fit_says_is_the_error():
    made = perform({**WORK, "options": {**OPTIONS, "model.num_steps": 0}}, 0, main, optimizee_of)
    assert made["error"] == "model.num_steps must be at least 1, not 0"
    assert made["seconds"]["total"] > 0.0
    made = perform({**WORK, "tests": {"other": {**QUADRATIC, "options": {"dimension": 0}}}}, 0, main, optimizee_of)
    assert "optimizee.dimension must be at least 1, not 0" in made["error"]


def test_any_exception_is_an_error():
    def fails(options):
        raise ZeroDivisionError("by\nnothing")

    assert perform(WORK, 0, fails, optimizee_of)["error"] == "ZeroDivisionError: by nothing"
    assert perform(WORK, 0, lambda options: 1, optimizee_of)["error"] == "nothing was learned: no episode was finite"


def test_a_full_disk_is_no_error_of_the_run():
    """An error is kept for good."""

    def full(options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "best.ckpt")

    def says_so(options):
        print("meta-opt: error: cannot write best.ckpt: No space left on device", file=sys.stderr)
        return 1

    for main_of_it in (full, says_so):
        made = perform(WORK, 0, main_of_it, optimizee_of)
        assert set(made) == {"no_room", "seconds"}
        assert "best.ckpt" in made["no_room"]


def test_files_that_are_others_here_are_no_error_of_the_run(tmp_path, monkeypatch):
    """On a cluster; results would be of another file than the study names."""
    monkeypatch.chdir(tmp_path)
    base = {"optimizee": "mine.py:Mine", "model.num_steps": 3}
    (tmp_path / "mine.py").write_text("first = 1")
    (task,) = tasks_of(read_study("small", {"title": "", "base": base}))
    (tmp_path / "mine.py").write_text("first = 2")
    said = f"in the folder {tmp_path}, mine.py is"
    made = perform(task.work, 0, main, optimizee_of)
    assert set(made) == {"unfit", "seconds"}
    assert made["unfit"].endswith(f"{said} another file than here")
    (tmp_path / "mine.py").unlink()
    assert perform(task.work, 0, main, optimizee_of)["unfit"].endswith(f"{said} missing")


def test_a_process_that_has_imported_a_file_as_it_was_before_ends(monkeypatch):
    monkeypatch.setattr(study_worker, "_imported", {})
    monkeypatch.setattr(study_worker, "perform", lambda work, *_: work["files"])
    for files in ({"a.py": "1"}, {"b.py": "2"}, {"a.py": "1", "b.py": "2"}):
        assert study_worker._perform({"files": files}, 0) == files
    with pytest.raises(SystemExit):  # another process takes its place
        study_worker._perform({"files": {"a.py": "2"}}, 0)


@pytest.mark.parametrize("status", [130, 143])
def test_a_signal_is_neither_a_result_nor_an_error(status):
    with pytest.raises(StoppedError):
        perform(WORK, 0, lambda options: status, optimizee_of)


def test_options_are_checked_without_a_run():
    check = {"right": OPTIONS, "wrong": {**OPTIONS, "model.lrr": 3}}
    tests = {
        name: {"optimizee": "digits_mlp", "options": options, "num_steps": 2, "num_problems": 2}
        for name, options in {"narrow": {"hidden_sizes": [2]}, "misspelt": {"hiddn_sizes": [2]}}.items()
    }
    work = {"check": check, "tests": tests, "baselines": ["SGD", "Adamm"]}
    refused = perform(work, 0, main, optimizee_of)["results"]
    assert list(refused) == ["wrong", "tests.misspelt", "baselines"]
    assert "model.lrr" in refused["wrong"]
    assert refused["tests.misspelt"] == "unknown option --optimizee.hiddn_sizes; did you mean --optimizee.hidden_sizes?"
    assert "Adamm" in refused["baselines"]


def test_a_best_checkpoint_needs_a_validation():
    """Which is seen before the first run, where epochs say it."""
    late = {**OPTIONS, "trainer.check_val_every_n_epoch": 3}
    checked = {"check": {"late": late, "right": {**late, "trainer.max_epochs": 3}}, "checkpoint": "best"}
    refused = perform(checked, 0, main, optimizee_of)["results"]
    assert list(refused) == ["late"]
    assert refused["late"].endswith("trainer.check_val_every_n_epoch is 3; lower it, or set checkpoint: last")
    assert perform({**checked, "checkpoint": "last"}, 0, main, optimizee_of)["results"] == {}
    cut = {**OPTIONS, "trainer.max_steps": 1, "trainer.check_val_every_n_epoch": 2}
    made = perform({**WORK, "options": cut, "checkpoint": "best"}, 0, main, optimizee_of)
    assert made["error"].startswith("there is no best checkpoint: the run ended before its first validation")


def test_options_of_tests_are_those_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "bowl_for_a_study", raising=False)
    path = tmp_path / "bowl_for_a_study.py"
    path.write_text(
        "from meta_opt_optimizees.quadratic import Quadratic\n"
        "class Bowl(Quadratic):\n"
        "    def __init__(self, size: int = 3, limit: float = 1.0) -> None:\n"
        "        super().__init__(size)\n"
        "        self.limit = limit\n"
    )
    test = {"optimizee": f"{path}:Bowl", "num_steps": 2, "num_problems": 2}
    made = running._optimizee({**test, "options": {"size": 2, "limit": "1e2"}}, optimizee_of)  # a text in YAML
    assert (made.init_params(torch.Generator())["theta"].shape, made.limit) == ((2,), 100.0)
    options = {"wrong": {"size": "two"}, "misspelt": {"sise": 2}}
    tests = {name: {**test, "options": each} for name, each in options.items()}
    assert perform({"check": {}, "tests": tests}, 0, main, optimizee_of)["results"] == {
        "tests.wrong": "--optimizee.size must be int, not two",
        "tests.misspelt": "unknown option --optimizee.sise; did you mean --optimizee.size?",
    }


def test_arguments():
    options = {"a": "text", "b": 1, "c": 0.5, "d": None, "e": True, "f": [1, "x"]}
    values = ["text", "1", "0.5", "null", "true", '[1, "x"]']
    assert arguments(options) == [f"--{name}={value}" for name, value in zip(options, values, strict=True)]


def test_names_of_networks():
    assert [running._network(name.split(".")) for name in ("networks.conv.weights.0", "cell.weight")] == ["conv", "all"]
    with pytest.raises(MetaOptError):
        running._fit([], lambda options: 2)


def test_losses_are_of_held_back_batches_where_meta_training_was(trained):
    optimizer = load_optimizer(trained)
    test = {"optimizee": "problems_for_tests.HoldsBack", "options": {}, "num_steps": 3, "num_problems": 2}
    ordinary, held_back = (
        running._tested({**test, **more}, optimizer, 3, optimizee_of) for more in ({}, {"held_back": True})
    )
    assert ordinary["final"] == run_episodes(HoldsBack(), optimizer, "test", 2, 3, seed=0).final.mean().item()
    expected = run_episodes(HoldsBack(), optimizer, "test", 2, 3, seed=0, held_back=True).final.mean().item()
    assert held_back["final"] == expected != ordinary["final"]
    tuned = {**test, "held_back": True, "num_validation_problems": 4}
    made = perform({"baselines": ["SGD"], "test": tuned}, 0, main, optimizee_of)
    found = made["results"]["baselines"]["SGD"]
    setting = Setting(HoldsBack(), [3], 2, num_validation_problems=4, seed=0, held_back=True)
    (comparison,) = compare(setting, {}, {"SGD": baseline("SGD")})
    assert found["final"]["value"] == comparison.entries[0].merit("final").value
