"""The YAML file of a study, checked. This module imports no torch.

``docs/studies.md`` describes the file. Every error is one line that names the entry.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from meta_opt.errors import MetaOptError, shown
from meta_opt.studies.study import STATISTICS, Draw, Figure, Of, Options, Share, Study, Test

_LABEL = re.compile(r"[\w.+\-]+")
_ENTRIES = {
    *("title", "question", "base", "axes", "also", "runs", "checkpoint", "tests", "baselines", "shares"),
    *("training_curves", "meta_gradient_norms", "figures", "text", "quick"),
}
_OF_QUICK = {"base", "axes", "also", "runs", "tests"}
_KEPT = {  # a study says these
    *("seed_everything", "ckpt_path", "config", "trainer.default_root_dir", "trainer.logger", "trainer.devices"),
    *("trainer.num_nodes", "trainer.strategy", "trainer.enable_checkpointing", "trainer.limit_val_batches"),
    *("trainer.fast_dev_run", "trainer.log_every_n_steps"),
}
_GROUPS = {"model", "optimizee", "optimizer", "trainer", "early_stopping"}
_CLASSES = {"optimizee", "optimizer", "model.estimator"}
_MOST_RUNS = 1_000_000  # of all points together
_WITHOUT: Mapping[Draw, set[str]] = {  # entries that a kind of figure has no use for
    "bars": {"x"},
    "histograms": {"x"},
    "curves": {"x", "of"},
    "training": {"x", "panels"},
    "norms": {"x", "of", "log"},
}
_PLAIN = (bool, int, float, str, type(None))


def read_study(name: str, content: Any) -> Study:
    """A study from the plain values that its file holds.

    Raises:
        MetaOptError: If an entry is missing, unknown or not what it must be.
    """
    content = _mapping(content, "the file")
    _known(content, _ENTRIES, "")
    for entry in ("title", "base"):
        if entry not in content:
            raise MetaOptError(f"it lacks the entry {entry}")
    base = _options(content["base"], "base")
    if not isinstance(base.get("optimizee"), str):
        raise MetaOptError("base.optimizee must be the name of an optimizee")
    axes = {}
    for axis, labels in _mapping(content.get("axes", {}), "axes").items():
        _label(axis, "axes")
        if axis == "test":
            raise MetaOptError("axes.test: an axis may not be called test")
        entries = _mapping(labels, f"axes.{axis}")
        if not entries:
            raise MetaOptError(f"axes.{axis} must have a label at least")
        axes[axis] = {
            _label(label, f"axes.{axis}"): _options(options, f"axes.{axis}.{label}")
            for label, options in entries.items()
        }
    also = {
        _label(label, "also"): _options(options, f"also.{label}")
        for label, options in _mapping(content.get("also", {}), "also").items()
    }
    tests = {
        _label(test, "tests"): _test(value, f"tests.{test}")
        for test, value in _mapping(content.get("tests", {"test": {}}), "tests").items()
    }
    if not tests:
        raise MetaOptError("tests must have an entry at least")
    shares = {
        _name_of_share(name): _share(value, f"shares.{name}")
        for name, value in _mapping(content.get("shares", {}), "shares").items()
    }
    study = Study(
        name,
        _text(content["title"], "title"),
        _text(content.get("question", ""), "question"),
        base,
        axes,
        also,
        _count(content.get("runs", 1), "runs"),
        _one_of(content.get("checkpoint", "best"), ("best", "last"), "checkpoint"),
        tests,
        tuple(_texts(content.get("baselines", []), "baselines")),
        shares,
        _flag(content.get("training_curves", False), "training_curves"),
        _flag(content.get("meta_gradient_norms", False), "meta_gradient_norms"),
        tuple(
            _figure(value, f"figures.{index}", axes)
            for index, value in enumerate(_list(content.get("figures", []), "figures"))
        ),
        _text(content.get("text", ""), "text"),
        _quick(content.get("quick", {}), axes, also),
    )
    for index, figure in enumerate(study.figures):
        if figure.draw == "training" and not study.training_curves:
            raise MetaOptError(f"figures.{index}.draw training needs training_curves: true")
        if figure.draw == "norms" and not study.meta_gradient_norms:
            raise MetaOptError(f"figures.{index}.draw norms needs meta_gradient_norms: true")
    count, runs = math.prod(map(len, axes.values())) + len(also), max(study.runs, study.quick.get("runs", 1))
    if count * runs > _MOST_RUNS:
        raise MetaOptError(
            f"there may be at most {_MOST_RUNS} runs, not {shown(count)} x {shown(runs)} (points x runs)"
        )
    points = [point for point, _ in study.points()]
    known = {label for point in points for label in point}
    for test_name, test in tests.items():
        if unknown := [label for label in test.only if label not in known]:
            raise MetaOptError(f"tests.{test_name}.only: there is no label {unknown[0]}")
    labels = Counter(map(" ".join, points))
    if twice := next((label for label, times in labels.items() if times > 1), None):
        raise MetaOptError(f"two points are called {twice}")
    _check_differences(study)
    return study


def _check_differences(study: Study) -> None:
    """See that every label of an axis changes something, whatever those of the others are."""
    points: dict[str, str] = {}
    for labels, options in replace(study, also={}).points():
        tests = [name for name, test in study.tests.items() if test.of(labels)]
        point = " ".join(labels)
        other = points.setdefault(json.dumps([options, tests], sort_keys=True), point)
        if other != point:
            raise MetaOptError(f"axes: {other} and {point} are two points with the same options")


# -------------------------------------------------------------------------------------------------------------- parts


def _quick(value: Any, axes: Mapping[str, Mapping[str, Options]], also: Mapping[str, Options]) -> dict[str, Any]:
    quick = dict(_mapping(value, "quick"))
    _known(quick, _OF_QUICK, "quick.")
    if "base" in quick:
        quick["base"] = _options(quick["base"], "quick.base")
    if "runs" in quick:
        quick["runs"] = _count(quick["runs"], "quick.runs")
    if "tests" in quick:
        tests = _mapping(quick["tests"], "quick.tests")
        _known(tests, {"num_problems", "num_validation_problems"}, "quick.tests.")
        quick["tests"] = {key: _count(number, f"quick.tests.{key}", 2) for key, number in tests.items()}
    if "also" in quick:
        quick["also"] = _texts(quick["also"], "quick.also")
        if unknown := [label for label in quick["also"] if label not in also]:
            raise MetaOptError(f"quick.also: there is no label {shown(unknown[0])}")
    chosen = _mapping(quick.get("axes", {}), "quick.axes")
    for axis, labels in chosen.items():
        if axis not in axes:
            raise MetaOptError(f"quick.axes.{shown(axis)}: there is no such axis")
        if not labels:
            raise MetaOptError(f"quick.axes.{axis} must have a label at least")
        for label in _texts(labels, f"quick.axes.{axis}"):
            if label not in axes[axis]:
                raise MetaOptError(f"quick.axes.{axis}: there is no label {shown(label)}")
    quick["axes"] = {axis: [str(label) for label in labels] for axis, labels in chosen.items()}
    return quick if value else {}


def _test(value: Any, where: str) -> Test:
    test = _mapping(value if value is not None else {}, where)
    _known(test, {"num_steps", "num_problems", "num_validation_problems", "optimizee", "options", "only"}, f"{where}.")
    optimizee = test.get("optimizee")
    tuned_on = test.get("num_validation_problems")
    return Test(
        None if test.get("num_steps") is None else _count(test["num_steps"], f"{where}.num_steps"),
        _count(test.get("num_problems", 16), f"{where}.num_problems", 2),
        None if tuned_on is None else _count(tuned_on, f"{where}.num_validation_problems", 2),
        None if optimizee is None else _text(optimizee, f"{where}.optimizee"),
        _options(test.get("options", {}), f"{where}.options"),
        tuple(map(str, _texts(test.get("only", []), f"{where}.only"))),
    )


def _share(value: Any, where: str) -> Share:
    share = _mapping(value, where)
    _known(share, {"below", "above"}, f"{where}.")
    if len(share) != 1:
        raise MetaOptError(f"{where} must have one entry, below or above")
    (number,) = share.values()
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise MetaOptError(f"{where} must be a number, not {shown(number)}")
    return Share(**share)


def _figure(value: Any, where: str, axes: Mapping[str, Any]) -> Figure:
    figure = _mapping(value, where)
    _known(figure, {"draw", "of", "x", "panels", "log"}, f"{where}.")
    draw = _one_of(figure.get("draw"), get_args(Draw), f"{where}.draw")
    if unused := [entry for entry in figure if entry in _WITHOUT.get(draw, ())]:
        raise MetaOptError(f"{where}.{unused[0]}: draw {draw} has no use for it")
    x, panels = figure.get("x"), figure.get("panels")
    if draw == "lines" and x is None:
        raise MetaOptError(f"{where}.x must be the axis that lines go along")
    for entry, axis, more in (("x", x, []), ("panels", panels, ["test"])):
        if axis is not None and axis not in [*axes, *more]:
            raise MetaOptError(f"{where}.{entry} must be one of {', '.join([*axes, *more])}, not {shown(axis)}")
    of = _one_of(figure.get("of", "final"), get_args(Of), f"{where}.of")
    return Figure(draw, of, x, panels, _flag(figure.get("log", True), f"{where}.log"))


def _options(value: Any, where: str) -> dict[str, Any]:
    options = _mapping(value if value is not None else {}, where)
    for name, content in options.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.]*", name):
            raise MetaOptError(f"{where} must be options by name, and {shown(name)} is none")
        if name in _KEPT:
            raise MetaOptError(f"{where}.{name}: a study says this itself, leave it out")
        described = isinstance(content, dict) and "class_path" in content
        if name in _CLASSES and (described or str(content).endswith((".yaml", ".yml", ".json"))):
            raise MetaOptError(f"{where}.{name} must be a name or FILE.py:CLASS, not {shown(content)}")
        if name in _GROUPS and isinstance(content, dict):
            raise MetaOptError(f"{where}.{name}: write its options one by one, as {name}.{next(iter(content), 'NAME')}")
        _check_plain(content, f"{where}.{name}")
    return dict(options)


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}.{index}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_plain(item, f"{where}.{_text(name, f'{where}: a name in it')}")
    elif not isinstance(value, _PLAIN):
        raise MetaOptError(f"{where} must be a plain value, not {shown(value)}")


def _known(given: Mapping[Any, Any], known: set[str], where: str) -> None:
    for entry in given:
        if entry not in known:
            raise MetaOptError(f"{where}{entry}: there is no such entry, but {', '.join(sorted(known))}")


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise MetaOptError(f"{where} must be entries by name, not {shown(value)}")
    return {str(key) if isinstance(key, int | float) else key: entry for key, entry in value.items()}


def _label(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        raise MetaOptError(f"{where}: a label must be one word of letters, digits and . + -, not {shown(value)}")
    return value


def _name_of_share(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\w+", value):
        raise MetaOptError(f"shares: a name must be one word of letters, digits and _, not {shown(value)}")
    if value in STATISTICS:
        raise MetaOptError(f"shares.{value}: {value} means something else in a text; choose another name")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise MetaOptError(f"{where} must be a list, not {shown(value)}")
    return value


def _texts(value: Any, where: str) -> list[str]:
    return [_text(str(item) if isinstance(item, int | float) else item, where) for item in _list(value, where)]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise MetaOptError(f"{where} must be text, not {shown(value)}")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise MetaOptError(f"{where} must be true or false, not {shown(value)}")
    return value


def _count(value: Any, where: str, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise MetaOptError(f"{where} must be a whole number, at least {least}, not {shown(value)}")
    return value


def _one_of(value: Any, allowed: tuple[str, ...], where: str) -> Any:
    if value not in allowed:
        raise MetaOptError(f"{where} must be one of {', '.join(allowed)}, not {shown(value)}")
    return value
