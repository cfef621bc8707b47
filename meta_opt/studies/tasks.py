"""The single runs of a study, as plain values that go to another process or machine. This module imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meta_opt.errors import MetaOptError
from meta_opt.studies.study import Study, Test

BASELINES = "baselines"  # the label of the runs of hand-made optimizers


@dataclass(frozen=True)
class Task:
    """One run.

    Attributes:
        point: The labels of its combination; ``baselines`` and the name of a test for hand-made optimizers.
        run: Its number at this point.
        work: What is to be done, see :func:`meta_opt.studies.running.perform`; plain values.
    """

    point: tuple[str, ...]
    run: int
    work: Mapping[str, Any]

    @property
    def key(self) -> str:
        """What tells it apart: the beginning of a hash of all that its result depends on."""
        text = json.dumps({"run": self.run, **self.work}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def tasks_of(study: Study, runs: int | None = None) -> list[Task]:
    """All runs of a study: the first of every point, then the second of every point, and so on.

    Args:
        study: The study.
        runs: How many runs of every point; by default as many as the study says.
    """
    tasks = []
    baselines: dict[str, Task] = {}
    for run in range(study.runs if runs is None else runs):
        for labels, options in study.points():
            tests = {name: _placed(test, options) for name, test in study.tests.items() if test.of(labels)}
            work = {
                "options": options,
                "tests": tests,
                "checkpoint": study.checkpoint,
                "training_curves": study.training_curves,
                "meta_gradient_norms": study.meta_gradient_norms,
                **_files(options, tests),
            }
            tasks.append(Task(labels, run, work))
            if study.baselines and run == 0:
                for task in _baselines(study, tests):
                    baselines.setdefault(task.key, task)
    return [*tasks, *baselines.values()]


def tests_of(study: Study) -> dict[str, dict[str, Any]]:
    """Each test as it is made at the first point that it applies to."""
    tests: dict[str, dict[str, Any]] = {}
    for labels, options in study.points():
        for name, test in study.tests.items():
            if name not in tests and test.of(labels):
                tests[name] = _placed(test, options)
    return tests


def baselines_for(study: Study, options: Mapping[str, Any], test: str) -> Task:
    """The run of hand-made optimizers on a test of optimizers that were trained with these options."""
    (task,) = _baselines(study, {test: _placed(study.tests[test], options)})
    return task


def _baselines(study: Study, tests: Mapping[str, Any]) -> Iterator[Task]:
    for name, test in tests.items():
        if test["num_steps"] is None:
            raise MetaOptError(f"study {study.name}: baselines need model.num_steps, or num_steps of test {name}")
        test = {**test, "num_validation_problems": study.tests[name].tuned_on}
        yield Task((BASELINES, name), 0, {"baselines": list(study.baselines), "test": test, **_files(test)})


def changed(work: Mapping[str, Any]) -> str | None:
    """A file that a run depends on and that is not here as it was when the study was begun, if there is one."""
    files: Mapping[str, str] = work.get("files", {})
    return next((name for name, before in files.items() if _hash(Path(name)) != before), None)


def _files(*values: Any) -> dict[str, dict[str, str]]:
    """Hashes of the files that classes (``FILE.py:CLASS``) and weights are in: with others, results are others."""
    found = {}
    for text in _texts(values):
        path = Path(text if text.endswith(".ckpt") else text.rpartition(":")[0]).expanduser()
        if path.suffix in (".py", ".ckpt") and path.is_file():
            found[str(path)] = _hash(path)
    return {"files": dict(sorted(found.items()))} if found else {}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _placed(test: Test, options: Mapping[str, Any]) -> dict[str, Any]:
    """A test with its optimizee: that of meta-training with its options, and above them the test's own.

    Where meta-training was for held-back batches, losses on the same optimizee are of these too.
    """
    same = test.optimizee is None or test.optimizee == options["optimizee"]
    prefix = "optimizee."
    trained_on = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    return {
        "optimizee": options["optimizee"] if same else test.optimizee,
        "options": {**(trained_on if same else {}), **test.options},
        "num_steps": test.num_steps or options.get("model.num_steps"),
        "num_problems": test.num_problems,
        **({"held_back": True} if same and options.get("model.held_back") else {}),
    }
