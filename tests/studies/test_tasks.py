"""The runs of a study, and their keys."""

import pytest

from meta_opt.errors import MetaOptError
from meta_opt.studies.reading import read_study
from meta_opt.studies.tasks import baselines_for, changed, tasks_of

BASE = {"optimizee": "quadratic", "optimizee.dimension": 3, "model.num_steps": 7}
CONTENT = {
    "title": "Small",
    "base": BASE,
    "axes": {"lr": {"low": {"model.lr": 0.1}, "high": {"model.lr": 0.2}}},
    "runs": 2,
    "tests": {
        "same": {"options": {"condition": 2.0}},
        "digits": {"optimizee": "digits_mlp", "num_steps": 9, "only": ["high"]},
    },
    "baselines": ["SGD"],
}


def test_first_runs_of_all_points_come_first():
    tasks = tasks_of(read_study("small", CONTENT))
    assert [(task.point, task.run) for task in tasks] == [
        (("low",), 0),
        (("high",), 0),
        (("low",), 1),
        (("high",), 1),
        (("baselines", "same"), 0),
        (("baselines", "digits"), 0),
    ]
    assert len({task.key for task in tasks}) == 6
    assert len(tasks_of(read_study("small", CONTENT), 5)) == 12


def test_a_test_is_of_what_was_trained_on_or_of_another_optimizee():
    low, high = (task.work["tests"] for task in tasks_of(read_study("small", CONTENT), 1)[:2])
    same = {"optimizee": "quadratic", "options": {"dimension": 3, "condition": 2.0}, "num_steps": 7, "num_problems": 16}
    assert low == {"same": same}
    assert high["digits"] == {"optimizee": "digits_mlp", "options": {}, "num_steps": 9, "num_problems": 16}


def test_a_test_that_names_what_was_trained_on_has_its_options_too():
    named = {"named": {"optimizee": "quadratic", "options": {"condition": 2.0}}}
    (task, *_) = tasks_of(read_study("small", {**CONTENT, "tests": named}), 1)
    assert task.work["tests"]["named"]["options"] == {"dimension": 3, "condition": 2.0}


def test_baselines_are_tuned_on_as_many_problems_as_tell_a_good_rate():
    tests = {"few": {"num_problems": 2}, "many": {"num_problems": 40}, "said": {"num_validation_problems": 8}}
    tasks = tasks_of(read_study("small", {**CONTENT, "tests": tests}), 1)
    tuned_on = {task.point[1]: task.work["test"]["num_validation_problems"] for task in tasks[2:]}
    assert tuned_on == {"few": 32, "many": 40, "said": 8}
    assert len({task.key for task in tasks}) == 5
    assert "num_validation_problems" not in tasks[0].work["tests"]["said"]  # what was trained does not depend on it


def test_held_back_batches_are_tested_on_where_meta_training_was_for_them():
    content = {**CONTENT, "base": {**BASE, "model.held_back": True}}
    _, high = (task.work["tests"] for task in tasks_of(read_study("small", content), 1)[:2])
    assert high["same"]["held_back"] is True
    assert "held_back" not in high["digits"]


def test_keys_depend_on_what_is_done_not_on_names_or_order():
    study = read_study("small", CONTENT)
    renamed = {**CONTENT, "axes": {"rate": {"a": {"model.lr": 0.1}, "high": {"model.lr": 0.3}}}}
    one, other = tasks_of(study), tasks_of(read_study("other", renamed))
    assert one[0].key == other[0].key
    assert one[1].key != other[1].key
    assert one[0].key != one[2].key  # another seed
    backwards = {**CONTENT, "base": dict(reversed(BASE.items()))}
    assert [task.key for task in tasks_of(read_study("small", backwards))] == [task.key for task in one]


def test_baselines_are_run_once_for_equal_tests():
    study = read_study("small", CONTENT)
    assert baselines_for(study, {**BASE, "model.lr": 0.1}, "same").key == tasks_of(study)[-2].key
    with pytest.raises(MetaOptError, match="baselines need model.num_steps, or num_steps of test test"):
        tasks_of(read_study("small", {"title": "", "base": {"optimizee": "quadratic"}, "baselines": ["SGD"]}))


def test_keys_depend_on_the_files_that_classes_are_in(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("first = 1")
    content = {"title": "", "base": {"optimizee": f"{path}:Mine", "model.num_steps": 3}, "baselines": ["SGD"]}
    study = read_study("small", content)
    before = [task.key for task in tasks_of(study)]
    assert [task.key for task in tasks_of(study)] == before
    path.write_text("first = 2")
    assert not {*before} & {task.key for task in tasks_of(study)}


def test_a_file_that_changes_while_a_study_runs_is_noticed(tmp_path):
    path = tmp_path / "first.ckpt"
    path.write_bytes(b"weights")
    base = {"optimizee": "quadratic", "model.num_steps": 3, "model.warm_start": str(path)}
    (task,) = tasks_of(read_study("small", {"title": "", "base": base}))
    assert changed(task.work) is None
    path.write_bytes(b"others")
    assert changed(task.work) == str(path)
    path.unlink()
    assert changed(task.work) == str(path)
