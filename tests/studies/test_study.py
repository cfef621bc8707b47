"""The file of a study."""

from datetime import date

import pytest

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.recommended import DEFAULT_ESTIMATOR, DEFAULT_OPTIMIZER
from meta_opt.studies.reading import read_study
from meta_opt.studies.study import merged

SMALL = {"title": "Small", "base": {"optimizee": "quadratic", "optimizee.dimension": 3}}
AXES = {
    "lr": {"0.1": {"model.lr": 0.1}, "0.2": {"model.lr": 0.2}},
    "on": {"same": None, "digits": {"optimizee": "digits_mlp"}},
}


def test_points_are_all_combinations_and_those_beside_them():
    study = read_study("small", {**SMALL, "axes": AXES, "also": {"ours": {"model.lr": 0.3}}})
    assert dict(study.points()) == {
        ("0.1", "same"): {**SMALL["base"], "model.lr": 0.1},
        ("0.1", "digits"): {"optimizee": "digits_mlp", "model.lr": 0.1},
        ("0.2", "same"): {**SMALL["base"], "model.lr": 0.2},
        ("0.2", "digits"): {"optimizee": "digits_mlp", "model.lr": 0.2},
        ("ours",): {**SMALL["base"], "model.lr": 0.3},
    }


def test_another_class_begins_without_the_options_of_the_first():
    base = {"optimizee": "a", "optimizee.x": 1, "optimizer.y": 2}
    assert merged(base, {"optimizee": "a", "optimizee.z": 3}) == {**base, "optimizee.z": 3}
    assert merged(base, {"optimizee": "b", "optimizee.z": 3}) == {"optimizee": "b", "optimizer.y": 2, "optimizee.z": 3}
    assert merged(base, {"optimizer": "c"}) == {"optimizee": "a", "optimizee.x": 1, "optimizer": "c"}


def test_options_of_an_axis_hold_for_the_class_that_another_names():
    size, other = {"optimizer.hidden_size": 3}, {"optimizer": "lstm_gac"}
    for labels in ((size, other), (other, size)):
        assert merged({"optimizee": "a", "optimizer.hidden_size": 4}, *labels) == {"optimizee": "a", **other, **size}
    own = {"optimizer": "ntm_bfgs", "optimizer.rank": 10}
    assert merged({"optimizee": "a"}, own, other) == {"optimizee": "a", **other}
    assert merged({"optimizee": "a"}, other, own) == {"optimizee": "a", **own}


def test_to_name_the_usual_class_keeps_its_options():
    base = {"optimizee": "a", "optimizer.hidden_size": 4, "model.estimator.replay_fraction": 0.5}
    usual = {"optimizer": DEFAULT_OPTIMIZER, "model.estimator": DEFAULT_ESTIMATOR}
    assert merged(base, usual) == {**base, **usual}


def test_quickly_takes_what_the_file_says():
    tests = {"num_problems": 3, "num_validation_problems": 4}
    quick = {"runs": 1, "axes": {"lr": [0.1]}, "base": {"model.num_steps": 5}, "tests": tests, "also": []}
    content = {**SMALL, "axes": AXES, "also": {"ours": {}}, "runs": 9, "quick": quick}
    study = read_study("small", content).quickly()
    assert [labels for labels, _ in study.points()] == [("0.1", "same"), ("0.1", "digits")]
    assert (study.runs, study.base["model.num_steps"], study.tests["test"].num_problems) == (1, 5, 3)
    assert study.tests["test"].tuned_on == 4
    with pytest.raises(MetaOptError, match="study small has no entry quick"):
        read_study("small", SMALL).quickly()


def test_numbers_may_be_labels():
    assert list(read_study("small", {**SMALL, "axes": {"p": {1: None, 2.5: {"model.lr": 1}}}}).axes["p"]) == [
        "1",
        "2.5",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, "title must be text, not None"),
        ({"titel": "x"}, "titel: there is no such entry, but also, axes"),
        ({"base": {}}, "base.optimizee must be the name of an optimizee"),
        ({"base": {**SMALL["base"], "seed_everything": 1}}, "base.seed_everything: a study says this itself"),
        ({"base": {**SMALL["base"], "trainer.devices": 2}}, "base.trainer.devices: a study says this itself"),
        ({"base": {**SMALL["base"], "model": {"lr": 1}}}, "base.model: write its options one by one, as model.lr"),
        ({"also": {"a": {"optimizer": {"class_path": "x"}}}}, "also.a.optimizer must be a name or FILE.py:CLASS, not"),
        ({"also": {"a": {"optimizer": "my.yaml"}}}, "also.a.optimizer must be a name or FILE.py:CLASS, not 'my.yaml'"),
        ({"axes": AXES, "quick": {"axes": {"lr": []}}}, "quick.axes.lr must have a label at least"),
        ({"base": {**SMALL["base"], "a-b": 1}}, "base must be options by name, and 'a-b' is none"),
        ({"base": {**SMALL["base"], "a.b": date(2020, 1, 1)}}, "base.a.b must be a plain value, not a date"),
        (
            {"base": {**SMALL["base"], "a": [1, {"b": date(2020, 1, 1)}]}},
            "base.a.1.b must be a plain value, not a date",
        ),
        ({"base": {**SMALL["base"], "a": [{"b": 1, 2: 3}]}}, "base.a.0: a name in it must be text, not 2"),
        ({"axes": {"lr": {}}}, "axes.lr must have a label at least"),
        ({"axes": {"lr": [1]}}, "axes.lr must be entries by name, not a list of 1"),
        ({"axes": {"lr": {"a b": {}}}}, "a label must be one word of letters, digits"),
        ({"axes": {"test": {"a": {}}}}, "axes.test: an axis may not be called test"),
        ({"axes": AXES, "also": {"a": 3}}, "also.a must be entries by name, not 3"),
        ({"runs": 0}, "runs must be a whole number, at least 1, not 0"),
        ({"runs": True}, "runs must be a whole number, at least 1, not True"),
        ({"checkpoint": "first"}, "checkpoint must be one of best, last, not 'first'"),
        ({"tests": {}}, "tests must have an entry at least"),
        ({"tests": {"a": {"steps": 3}}}, "tests.a.steps: there is no such entry, but num_problems"),
        ({"tests": {"a": {"num_problems": 1}}}, "tests.a.num_problems must be a whole number, at least 2, not 1"),
        ({"tests": {"a": {"num_validation_problems": 1}}}, "tests.a.num_validation_problems must be a whole number"),
        ({"tests": {"a": {"only": ["x"]}}}, "tests.a.only: there is no label x"),
        ({"shares": {"a": {"below": 1, "above": 2}}}, "shares.a must have one entry, below or above"),
        ({"shares": {"a": {"below": "x"}}}, "shares.a must be a number, not 'x'"),
        ({"shares": {"a b": {"below": 1}}}, "shares: a name must be one word of letters, digits and _, not 'a b'"),
        ({"shares": {"final": {"below": 1}}}, "shares.final: final means something else in a text"),
        ({"figures": [{"draw": "pies"}]}, "figures.0.draw must be one of lines, bars"),
        ({"figures": [{"draw": "lines"}]}, "figures.0.x must be the axis that lines go along"),
        ({"figures": [{"draw": "bars", "panels": "x"}]}, "figures.0.panels must be one of test, not 'x'"),
        ({"axes": AXES, "figures": [{"draw": "bars", "x": "lr"}]}, "figures.0.x: draw bars has no use for it"),
        ({"figures": [{"draw": "curves", "of": "sum"}]}, "figures.0.of: draw curves has no use for it"),
        ({"figures": [{"draw": "training", "panels": "test"}]}, "figures.0.panels: draw training has no use for it"),
        ({"figures": [{"draw": "training"}]}, "figures.0.draw training needs training_curves: true"),
        ({"figures": [{"draw": "norms"}]}, "figures.0.draw norms needs meta_gradient_norms: true"),
        ({"axes": AXES, "also": {"0.1": {}}, "figures": 1}, "figures must be a list, not 1"),
        ({"quick": {"axes": {"x": []}}}, "quick.axes.'x': there is no such axis"),
        ({"axes": AXES, "quick": {"axes": {"lr": ["1"]}}}, "quick.axes.lr: there is no label '1'"),
        ({"quick": {"also": ["x"]}}, "quick.also: there is no label 'x'"),
        ({"axes": {"a": {"one": {}}}, "also": {"one": {}}}, "two points are called one"),
        (
            {"axes": {**AXES, "late": {"1": {"model.lr": 1}, "2": {"model.lr": 2}}}},
            "axes: 0.1 same 1 and 0.2 same 1 are two points with the same options",
        ),
        ({"runs": 10**12}, r"there may be at most 1000000 runs, not 1 x 1000000000000 \(points x runs\)"),
        ({"axes": AXES, "quick": {"runs": 300_000}}, "at most 1000000 runs, not 4 x 300000"),
        (
            {"axes": {f"a{i}": dict.fromkeys(range(20)) for i in range(12)}},
            "at most 1000000 runs, not 4096000000000000 x",
        ),
    ],
)
def test_errors_name_the_entry(change, message):
    with pytest.raises(MetaOptError, match=message) as error:
        read_study("small", {**SMALL, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, [1], "text", 3])
def test_a_file_that_is_no_study(content):
    with pytest.raises(MetaOptError, match="the file must be entries by name"):
        read_study("small", content)
