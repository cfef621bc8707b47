"""One run of a study: the ordinary ``meta-opt fit`` in a temporary folder, and what it reached on test problems."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from meta_opt import registry
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.compare import compare
from meta_opt.evaluation.setting import Setting
from meta_opt.evaluation.tuning import TuningError
from meta_opt.inner_loop.episodes import Curves, run_episodes
from meta_opt.messages import clipped
from meta_opt.meta_training.estimators.contract import Episode
from meta_opt.meta_training.loading import load_learner
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.saved.recipes import load_optimizer, read_recipe
from meta_opt.studies.tasks import changed

Command = Callable[[list[str]], int]
Maker = Callable[[list[str]], Optimizee]
TEST_SEED = 0  # the same test problems for all runs
_POINTS = 40  # of a loss curve that is kept
_SETTINGS = {
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.enable_progress_bar": False,
    "trainer.log_every_n_steps": 1,
}


class StoppedError(Exception):
    """A signal ended the run: it is neither done nor failed."""


def perform(work: Mapping[str, Any], run: int, main: Command, maker: Maker) -> dict[str, Any]:
    """Do one run.

    Args:
        work: Either options, tests, checkpoint, training_curves and meta_gradient_norms, or baselines and a test
            (and hashes of the files that it depends on); or
            options, tests, baselines and checkpoint to check only, options and tests by name.
        run: Its number; all randomness of meta-training comes from it.
        main: The command line.
        maker: Makes an optimizee of options, as the command line does.

    Returns:
        ``results``, which depend on ``work`` and ``run`` alone, or ``error``, a line; or, as it could not be done here,
        a line ``no_room``, where the disk is full, or ``unfit``, where a file differs; and ``seconds``, which depend on
        the machine.

    Raises:
        StoppedError: If a signal ended it.
    """
    started = time.perf_counter()
    seconds: dict[str, Any] = {}
    try:
        made: dict[str, Any]
        if (file := changed(work)) is not None:
            it_is = "another file than here" if Path(file).exists() else "missing"
            made = {"unfit": f"on {socket.gethostname()}, in the folder {Path.cwd()}, {file} is {it_is}"}
        elif "check" in work:
            made = {"results": _refused(work, main, maker)}
        elif "baselines" in work:
            made = {"results": _baselines(work, maker)}
        else:
            made = {"results": _trained(work, run, main, maker, seconds)}
    except (StoppedError, KeyboardInterrupt):
        raise
    except MetaOptError as error:
        made = {_kind(error): clipped(error, 400)}
    except Exception as error:  # whatever a plugin raises; the study goes on
        made = {_kind(error): clipped(f"{type(error).__name__}: {error}", 400)}
    return {**made, "seconds": {"total": time.perf_counter() - started, **seconds}}


def _kind(error: Exception) -> str:
    full = any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT))
    return "no_room" if full else "error"


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return [f"--{name}={text}" for name, text in texts.items()]


def _trained(work: Mapping[str, Any], run: int, main: Command, maker: Maker, seconds: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="meta-opt-study-") as name:
        root = Path(name)
        options = {**_SETTINGS, **work["options"], "seed_everything": run, "trainer.default_root_dir": name}
        logged = ["--trainer.logger", "false"]
        if work["training_curves"]:
            logged = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir", name]
        started = time.perf_counter()
        _fit([*arguments(options), *logged], main)
        seconds["fit"] = time.perf_counter() - started
        path = next(root.glob(f"checkpoints/*/*/{work['checkpoint']}.ckpt"), None)
        if path is None:
            raise MetaOptError(
                f"there is no {work['checkpoint']} checkpoint: the run ended before its first validation "
                "(trainer.check_val_every_n_epoch); checkpoint: last needs none"
            )
        asked = registry.resolve("optimizer", options["optimizer"]) if "optimizer" in options else None
        optimizer = load_optimizer(path, asked)
        num_steps = read_recipe(path).model["num_steps"]
        results: dict[str, Any] = {
            "tests": {name: _tested(test, optimizer, num_steps, maker) for name, test in work["tests"].items()}
        }
        if work["training_curves"]:
            (log,) = root.glob("lightning_logs/*/metrics.csv")
            results["training"], seconds["training"] = _training(log)
        if work["meta_gradient_norms"]:
            results["meta_gradient_norms"] = _norms(path, options)
        return results


def _fit(options: list[str], main: Command) -> str:
    """What it prints."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        status = main(["fit", *options])
    if status >= 128:
        raise StoppedError(f"a signal ended it ({status})")
    if status:
        lines = said.getvalue().strip().splitlines() or ["nothing was learned: no episode was finite"]
        raise MetaOptError(lines[-1].removeprefix("meta-opt: error: "))
    return printed.getvalue()


def _refused(work: Mapping[str, Any], main: Command, maker: Maker) -> dict[str, str]:
    """What there is to say to options that ``fit`` does not take, and to tests and baselines that cannot be made."""
    refused = {}
    tried: dict[str, Callable[[], object]] = {
        name: partial(_check_options, options, work.get("checkpoint"), main) for name, options in work["check"].items()
    }
    tried |= {f"tests.{name}": partial(_optimizee, test, maker) for name, test in work.get("tests", {}).items()}
    tried |= {"baselines": partial(list, map(baseline, work.get("baselines", ())))}
    for name, attempt in tried.items():
        try:
            attempt()
        except MetaOptError as error:
            refused[name] = clipped(error, 400)
    return refused


def _check_options(options: Mapping[str, Any], checkpoint: str | None, main: Command) -> None:
    trainer = yaml.safe_load(_fit([*arguments({**_SETTINGS, **options}), "--print_config"], main))["trainer"]
    epochs, between = trainer["max_epochs"], trainer["check_val_every_n_epoch"]
    if checkpoint == "best" and epochs is not None and between is not None and 0 < epochs < between:
        raise MetaOptError(
            f"no best checkpoint is saved, as there is no validation in {epochs} epochs: "
            f"trainer.check_val_every_n_epoch is {between}; lower it, or set checkpoint: last"
        )


def _optimizee(test: Mapping[str, Any], maker: Maker) -> Optimizee:
    options = {f"optimizee.{name}": value for name, value in test["options"].items()}
    return maker(arguments({"optimizee": test["optimizee"], **options}))


def _tested(test: Mapping[str, Any], optimizer: InnerOptimizer, num_steps: int, maker: Maker) -> dict[str, Any]:
    curves = run_episodes(
        _optimizee(test, maker),
        optimizer,
        "test",
        test["num_problems"],
        test["num_steps"] or num_steps,
        seed=TEST_SEED,
        held_back=test.get("held_back", False),
    )
    return {
        "final": curves.final.mean().item(),
        "sum": curves.sum.mean().item(),
        "not_finite": curves.not_finite,
        "curve": _curve(curves),
        **{name: value.mean().item() for name, value in curves.metrics.items()},
    }


def _curve(curves: Curves) -> list[tuple[int, float]]:
    """Steps, and the mean loss from the step after the one before to this one."""
    losses = curves.losses.double().mean(1)
    last = len(losses) - 1
    ends = sorted({round(last * index / _POINTS) for index in range(_POINTS + 1)})
    begins = [0, *(end + 1 for end in ends)]
    return [(end, losses[begin : end + 1].mean().item()) for begin, end in zip(begins, ends, strict=False)]


def _baselines(work: Mapping[str, Any], maker: Maker) -> dict[str, Any]:
    test = work["test"]
    setting = Setting(
        _optimizee(test, maker),
        [test["num_steps"]],
        test["num_problems"],
        num_validation_problems=test["num_validation_problems"],
        seed=TEST_SEED,
        held_back=test.get("held_back", False),
    )
    (comparison,) = compare(setting, {}, {name: baseline(name) for name in work["baselines"]})
    for name, reason in comparison.not_tuned.items():
        raise TuningError(name, reason)
    return {
        "baselines": {
            entry.name: {
                merit: {"value": entry.merit(merit).value, "learning_rate": entry.runs[merit].learning_rate}
                for merit in entry.runs
            }
            for entry in comparison.entries
        }
    }


def _training(log: Path) -> tuple[dict[str, list[float]], list[float]]:
    """Validation losses after so many meta-updates, and after how many seconds of meta-training they were."""
    kept: dict[str, list[float]] = {"updates": [], "final_loss": [], "loss_sum": []}
    seconds, spent, updates = [], 0.0, 0
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            if row.get("train/meta_updates"):
                spent, updates = float(row["train/seconds"]), int(float(row["train/meta_updates"]))
            if row.get("val/final_loss"):
                kept["updates"].append(updates)
                kept["final_loss"].append(float(row["val/final_loss"]))
                kept["loss_sum"].append(float(row["val/loss_sum"]))
                seconds.append(spent)
    return kept, seconds


def _norms(path: Path, options: Mapping[str, Any]) -> dict[str, float]:
    """The root mean square over the unrolls of an episode of the norm of each network's meta-gradient, φ at rest."""
    said = {kind: name for kind in registry.KINDS if (name := options.get(registry.OPTIONS[kind])) is not None}
    learner = load_learner(path, {kind: registry.resolve(kind, name) for kind, name in said.items()})
    model = read_recipe(path).model
    problems = Problems(
        learner.optimizee,
        "train",
        range(model["num_problems"]),
        seed=model["seed"],
        held_back=model.get("held_back", False),
    )
    episode = Episode(
        problems,
        learner.optimizer,
        MetaLoss(model["meta_loss"], model["step_weights"]),
        model["num_steps"],
        model["unroll_length"],
        partial(problem_generator, model["seed"], "episode", 0, 0),
    )
    trained = {id(parameter) for parameter in learner.optimizer.trained_parameters()}
    names = [name for name, parameter in learner.optimizer.named_parameters() if id(parameter) in trained]
    squares: dict[str, list[float]] = defaultdict(list)
    for estimate in learner.estimator.estimates(episode):
        of_network: dict[str, float] = defaultdict(float)
        for name, grad in zip(names, estimate.grads, strict=True):
            of_network[_network(name.split("."))] += grad.double().square().sum().item()
        for name, square in of_network.items():
            squares[name].append(square)
    return {name: math.sqrt(sum(values) / len(values)) for name, values in squares.items()}


def _network(parts: Sequence[str]) -> str:
    return parts[1] if parts[0] == "networks" and len(parts) > 1 else "all"
