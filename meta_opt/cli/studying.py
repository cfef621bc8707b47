"""``meta-opt study``: reads the options, has :mod:`meta_opt.studies` do the runs, and says how far they are.

This module imports no torch; the processes that do the runs do.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from meta_opt.cli import configs
from meta_opt.errors import MetaOptError, StorageError
from meta_opt.messages import clipped, printable
from meta_opt.storage import expanded
from meta_opt.studies import library
from meta_opt.studies.reading import read_study
from meta_opt.studies.report import FIGURE, REPORT, write_report
from meta_opt.studies.results import Results, opened, read
from meta_opt.studies.study import Study, merged
from meta_opt.studies.summaries import Summary, check_text, number
from meta_opt.studies.tasks import Task, changed, tasks_of, tests_of
from meta_opt.studies.workers import Worker, here, on_cluster

WORKER = "meta_opt.cli.study_worker"
_MAX_WORKERS = 1024


def run(options: list[str]) -> int:
    """Do a study; returns the exit status: 1 if every meta-training failed."""
    asked = _parse(options)
    if asked.list:
        for name, path in library.paths().items():
            print(f"{name:18} {_read(name, path).title}")
        return 0
    study = _study(asked.study)
    study = study.quickly() if asked.quick else study
    folder = expanded(asked.out or f"studies/{study.name}{'_quick' * asked.quick}")
    if asked.report:
        if not folder.exists():
            raise MetaOptError(f"there is no {folder} to report on; leave --report out to do the study")
        known = read(folder)
        summary = Summary(study, known, asked.runs)
        if known and not summary.found:
            raise MetaOptError(
                f"no run in {folder} is of this study as it is now; files that it names are looked for from the "
                "current folder"
            )
    else:
        with opened(folder) as results:
            _do(study, results, asked)
            summary = Summary(study, results.lines, asked.runs)
    print(*map(printable, write_report(summary, folder).split("\n")), sep="\n")
    print(f"{REPORT} and {FIGURE} are in {folder}" if (folder / FIGURE).exists() else f"{REPORT} is in {folder}")
    runs = sum(len(point.lines) for point in summary.points)
    return 1 if runs and runs == sum(point.failed for point in summary.points) else 0


def _do(study: Study, results: Results, asked: argparse.Namespace) -> None:
    """Do the runs that are not there."""
    tasks = tasks_of(study, asked.runs)
    times = Counter(task.key for task in tasks)  # a point of ``also`` may have the options of a combination
    first = {task.key: task for task in reversed(tasks)}
    missing = [first[key] for key in times if key not in results.lines]
    there = len(tasks) - sum(times[task.key] for task in missing)
    print(f"{study.name}: {len(tasks)} runs, {there} of them are there", flush=True)
    if not missing:
        return
    _check(study)
    started, workers = time.monotonic(), asked.workers or _processors()
    done = on_cluster(missing, asked.cluster, WORKER) if asked.cluster else here(missing, workers, WORKER)
    with closing(done) as ending:
        for count, (task, made) in enumerate(ending, start=1):
            if file := changed(task.work):  # the process may have read either
                raise MetaOptError(
                    f"{file} was changed while the study ran: start it again, with the file as it is now"
                )
            if "unfit" in made:
                raise MetaOptError(f"{made['unfit']}; when that is mended, the same command goes on")
            if "no_start" in made:
                raise MetaOptError(f"no process can be started that does runs ({made['no_start']}): it says why above")
            if "no_room" in made:
                raise StorageError(
                    f"no room for a run in the temporary folder, which TMPDIR names ({made['no_room']}): start the "
                    "study again when there is"
                )
            results.add({"key": task.key, "point": list(task.point), "run": task.run, **made})
            left = (time.monotonic() - started) / count * (len(missing) - count)
            there += times[task.key]
            print(f"{there}/{len(tasks)}  {_said(task, made)}  ({_time(left)} left)", flush=True)


def _processors() -> int:
    """How many processors this process may use; where the system does not say, those that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(study: Study) -> None:
    """See that ``fit`` takes the options of every label, and that tests and baselines can be made.

    Raises:
        MetaOptError: If it does not.
    """
    first = {axis: next(iter(labels)) for axis, labels in study.axes.items()}
    checked = {"base": next(study.points())[1]}
    for axis, labels in study.axes.items():
        for label in labels:
            chosen = (study.axes[each][name] for each, name in {**first, axis: label}.items())
            checked[f"axes.{axis}.{label}"] = merged(study.base, *chosen)
    checked |= {f"also.{label}": merged(study.base, options) for label, options in study.also.items()}
    worker = Worker(WORKER)
    work = {"check": checked, "checkpoint": study.checkpoint, "tests": tests_of(study)}
    answer = worker.perform({**work, "baselines": list(study.baselines)}, 0) or {}
    worker.stop()
    refused: dict[str, str] = answer.get("results", {})
    for where, error in refused.items():
        raise MetaOptError(f"study {study.name}: {_cause(study, refused) if where == 'base' else where}: {error}")


def _cause(study: Study, refused: Mapping[str, str]) -> str:
    """Where an error of the first point is: in the first label of an axis, if another label in its place mends it."""
    for axis, labels in study.axes.items():
        first, *others = (f"axes.{axis}.{label}" for label in labels)
        if any(refused.get(other) != refused["base"] for other in others):
            return first
    return "base"


def _study(name: str) -> Study:
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name).stem, Path(name))
    return _read(name, library.path(name))


def _read(name: str, path: Path) -> Study:
    _, content = configs.read(str(path), "")
    try:
        study = read_study(name, content)
        check_text(study)
    except MetaOptError as error:
        raise MetaOptError(f"{clipped(path)}: {error}") from error
    return study


# ------------------------------------------------------------------------------------------------------------ options


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line."""
        raise MetaOptError(f"{message} (meta-opt study --help tells more)")


def _parse(options: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="meta-opt study", add_help=False, allow_abbrev=False)
    parser.add_argument("study", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--cluster")
    parser.add_argument("--out")
    asked = parser.parse_args(options)
    if asked.study is None and not asked.list:
        raise MetaOptError(
            f"say which study: {', '.join(library.paths())}, or a file (meta-opt study --help tells more)"
        )
    for name, most in (("runs", 1_000_000), ("workers", _MAX_WORKERS)):
        value = getattr(asked, name)
        if value is not None and not 1 <= value <= most:
            raise MetaOptError(f"--{name} must be from 1 to {most}, not {value}")
    for name in ("cluster", "out"):
        if getattr(asked, name) == "":
            raise MetaOptError(f"--{name} is empty; leave it out, or say what it is (meta-opt study --help tells more)")
    if asked.cluster and asked.workers:
        raise MetaOptError("--workers is for this machine; how many a cluster has, its scheduler knows")
    return asked


# ----------------------------------------------------------------------------------------------------------- progress


def _said(task: Task, made: Mapping[str, Any]) -> str:
    name = " ".join([*task.point, f"run {task.run}"])
    if "error" in made:
        return f"{name}: {made['error']}"
    tests = made["results"].get("tests", {})
    finals = ", ".join(number(test["final"]) for test in tests.values())
    return f"{name}: final loss {finals}" if finals else name


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
