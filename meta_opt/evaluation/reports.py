"""What a comparison leaves behind: results.json, curves.csv, curves.png and TensorBoard runs in one folder; a table."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from meta_opt import __version__, registry
from meta_opt.errors import MetaOptError, StorageError
from meta_opt.evaluation.compare import Comparison, Entry, Mean, Outcome
from meta_opt.evaluation.figures import comparison_figure
from meta_opt.evaluation.setting import MERITS, Setting
from meta_opt.locks import BusyError, acquire, locked
from meta_opt.saved.costs import Cost
from meta_opt.saved.precisions import name_of_precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
_UNFINISHED = ".unfinished."
_NAME = 17  # letters of a name in a table, where that is enough


@dataclass(frozen=True)
class Report:
    """Comparisons on the same problems, one per horizon, and what they were made with.

    Attributes:
        optimizee: Name of the optimizee.
        num_problems: How many test problems.
        comparisons: One per horizon.
        about: What else ``results.json`` says, in plain values; see :func:`about`.
        checkpoints: Where the learned optimizers come from, by name.
        costs: What their meta-training has cost, by name, as far as it is known.
        command: The command that makes this report.
    """

    optimizee: str
    num_problems: int
    comparisons: Sequence[Comparison]
    about: dict[str, Any]
    checkpoints: dict[str, str]
    command: str
    costs: Mapping[str, Cost | None] = field(default_factory=dict)

    @property
    def loss(self) -> str:
        """What losses are: ``loss`` or ``held-back loss``; with regret ``lowest ... so far``."""
        loss = "held-back loss" if self.about.get("held_back") else "loss"
        return f"lowest {loss} so far" if self.about.get("regret") else loss

    def results(self) -> dict[str, Any]:
        """The content of ``results.json``, as ``docs/compare.md`` describes it."""
        first, *others = [self._comparison(comparison) for comparison in self.comparisons]
        return {
            "format": FORMAT,
            "optimizee": self.optimizee,
            "num_steps": first["num_steps"],
            "num_problems": self.num_problems,
            **self.about,
            "command": self.command,
            "optimizers": first["optimizers"],
            "not_tuned": first["not_tuned"],
            "other_horizons": others,
        }

    def _comparison(self, comparison: Comparison) -> dict[str, Any]:
        entries = {entry.name: self._entry(comparison, entry) for entry in comparison.entries}
        return {
            "num_steps": comparison.num_steps,
            "optimizers": entries,
            "not_tuned": dict(comparison.not_tuned),
        }

    def _entry(self, comparison: Comparison, entry: Entry) -> dict[str, Any]:
        run = entry.runs["final"]
        plain: dict[str, Any] = {"kind": entry.kind, "learning_rate": run.learning_rate}
        for merit in MERITS:
            value, sem = entry.merit(merit)
            plain |= {merit: _finite(value), f"{merit}_sem": _finite(sem)}
            plain[f"{merit}_ratio"] = _finite(comparison.ratio(entry, merit))
        plain["steps_to_best_baseline_final"] = comparison.steps_to_best_baseline_final(entry)
        plain["seconds_per_step"] = run.seconds_per_step
        plain["metrics"] = {name: _finite(value) for name, (value, _) in run.metrics.items()}
        if entry.kind == "learned":
            plain["checkpoint"] = self.checkpoints[entry.name]
            cost = self.costs.get(entry.name)
            plain["meta_training"] = cost and cost._asdict()
            known = entry.validation
            plain["validation"] = known and {merit: _finite(value) for merit, value in known.items()}
        else:
            plain["tuned"] = entry.tuned
            plain["tuned_for"] = {merit: _merits(entry.runs[merit]) for merit in MERITS}
        plain["loss_mean"] = [_finite(value) for value in run.loss_mean.tolist()]
        plain["loss_sem"] = [_finite(value) for value in run.loss_sem.tolist()]
        return plain

    def table(self) -> str:
        """One line per optimizer, at most 100 columns unless names need more to differ; a part per horizon."""
        return "\n\n".join(self._table(comparison) for comparison in self.comparisons)

    def _table(self, comparison: Comparison) -> str:
        labels = _labels(comparison.entries)
        width = max(len("optimizer"), *map(len, labels))
        group = f"{'mean ± std. error':<19} {'rate':>8} {'ratio':>7}"
        measured = "" if self.loss == "loss" else f"; each loss is the {self.loss}"
        lines = [
            f"{self.optimizee}, {comparison.num_steps} steps, {self.num_problems} test problems{measured}",
            "",
            f"{'':{width}}  {'sum of losses':36}  {'final loss':36}".rstrip(),
            f"{'optimizer':{width}}  {group}  {group} {'steps':>6}",
            "-" * (width + 83),
        ]
        for entry, label in zip(comparison.entries, labels, strict=True):
            groups = []
            for merit in MERITS:
                rate = entry.runs[merit].learning_rate
                rate_text = "" if rate is None else f"{rate:.2g}"
                ratio = comparison.ratio(entry, merit)
                ratio_text = f"{ratio:.3f}" if 0.01 <= ratio < 999 else f"{ratio:.1g}"
                groups.append(f"{_shown(entry.merit(merit)):<19} {rate_text:>8} {ratio_text:>7}")
            steps = comparison.steps_to_best_baseline_final(entry)
            lines.append(f"{label:{width}}  {'  '.join(groups)} {'never' if steps is None else steps:>6}")
        lines += [f"{name}: not tuned; {reason}" for name, reason in comparison.not_tuned.items()]
        return "\n".join(lines)

    def time_table(self) -> str:
        """What a step takes, and what meta-training has cost; one line per optimizer."""
        entries = self.comparisons[0].entries
        labels = _labels(entries)
        width = max(len("optimizer"), *map(len, labels))
        lines = [f"{'optimizer':{width}}  {'µs per step':>12}  {'meta-training: optimizee steps':>31}  {'seconds':>9}"]
        for entry, label in zip(entries, labels, strict=True):
            line = f"{label:{width}}  {1e6 * entry.runs['final'].seconds_per_step:>12.1f}"
            if cost := self.costs.get(entry.name):
                line += f"  {cost.optimizee_steps:>31,}  {cost.seconds:>9,.0f}"
            lines.append(line)
        return "\n".join(lines)

    def figure(self) -> Figure:
        """The loss curves."""
        return comparison_figure(
            self.comparisons,
            title=self.optimizee,
            num_problems=self.num_problems,
            command=self.command,
            loss=self.loss,
        )

    def save(self, out: Path | None, default: Path) -> Path:
        """Write all files into a new folder; see :func:`new_folder`."""
        return new_folder(self._write, out, default)

    def _write(self, folder: Path) -> None:
        text = json.dumps(self.results(), indent=1, allow_nan=False, ensure_ascii=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        self._write_curves(folder / "curves.csv")
        self.figure().savefig(folder / "curves.png")
        self._write_tensorboard(folder / "tensorboard")

    def _write_curves(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("num_steps", "optimizer", "tuned_for", "learning_rate", "step", "loss_mean", "loss_sem"))
            for comparison in self.comparisons:
                for entry in comparison.entries:
                    for merit in MERITS if entry.kind == "baseline" else ("final",):
                        run = entry.runs[merit]
                        head = (comparison.num_steps, entry.name, merit if entry.kind == "baseline" else "")
                        losses = zip(run.loss_mean.tolist(), run.loss_sem.tolist(), strict=True)
                        for step, (mean, sem) in enumerate(losses):
                            rows.writerow((*head, run.learning_rate, step, mean, sem))

    def _write_tensorboard(self, folder: Path) -> None:
        """One run per optimizer, whose curves have the same tag, so that TensorBoard lays them over each other.

        Logarithms, unless a loss is negative: on TensorBoard's linear axis those of the best would lie on zero. A loss
        of zero counts as the smallest that is not.
        """
        from torch.utils.tensorboard import SummaryWriter

        all_losses = torch.cat([entry.runs["final"].loss_mean for each in self.comparisons for entry in each.entries])
        positive = all_losses[all_losses > 0]
        has_logs = bool(len(positive)) and not bool((all_losses < 0).any())
        tag = f"log10 of the {self.loss}" if has_logs else self.loss
        for index, entry in enumerate(self.comparisons[0].entries):
            with SummaryWriter(str(folder / entry.name.lstrip("/"))) as writer:
                for comparison in self.comparisons:
                    curve = comparison.entries[index].runs["final"].loss_mean
                    for step, loss in enumerate(
                        (curve.clamp_min(positive.min()).log10() if has_logs else curve).tolist()
                    ):
                        writer.add_scalar(f"{tag}/{comparison.num_steps}_steps", loss, step)


def about(setting: Setting) -> dict[str, Any]:
    """What ``results.json`` says of how comparisons were made."""
    return {
        "meta_opt": __version__,
        "optimizee_options": setting.optimizee.plain_init_args(registry.name_of),
        "num_validation_problems": setting.num_validation_problems,
        "held_back": setting.held_back,
        "regret": setting.regret,
        "seed": setting.seed,
        "device": str(setting.device),
        "precision": name_of_precision((setting.dtype, setting.autocast)),
    }


def _remove_leftovers(parent: Path) -> None:
    """Remove what killed processes were writing: those that live hold the locks of their folders."""
    for path in parent.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(BusyError, OSError), locked(path):
            shutil.rmtree(path, ignore_errors=True)


def new_folder(write: Callable[[Path], None], out: Path | None, default: Path) -> Path:
    """Let ``write`` fill a new folder, which gets its name when everything in it is written.

    Args:
        write: Writes all files into the folder that it is given.
        out: Its name.
        default: Without ``out``, it is the next of ``default/0``, ``default/1``, ...

    Returns:
        The folder.

    Raises:
        MetaOptError: If it cannot be made, or there is something of that name.
    """
    parent = default if out is None else out.absolute().parent
    unfinished = parent / f"{_UNFINISHED}{uuid.uuid4().hex}"
    lock: int | None = None
    try:
        unfinished.mkdir(parents=True)
        with contextlib.suppress(OSError, BusyError):  # without locks nothing is cleaned, either
            lock = acquire(unfinished)
            _remove_leftovers(parent)
        write(unfinished)
        if out is not None:
            check_place(out, default)
            return unfinished.rename(out)
        numbers = (int(path.name) for path in default.iterdir() if path.name.isdecimal())
        return _rename_to_next(unfinished, default, max(numbers, default=-1) + 1)
    except OSError as error:
        raise StorageError(f"cannot write to {parent}: {error.strerror or error}") from error
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(unfinished, ignore_errors=True)


def check_place(out: Path | None, default: Path) -> None:
    """See, before anything is computed, that :func:`new_folder` will find a place.

    Raises:
        MetaOptError: If there is something of that name (but for an empty folder), or no folder can be made there.
    """
    try:
        taken = out is not None and (out.is_symlink() or (out.exists() and not _is_empty_folder(out)))
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise MetaOptError(f"cannot write to {out}: {reason}; give another folder as --out") from error
    if taken:
        raise MetaOptError(f"{out} exists, and nothing is overwritten; give another folder as --out")
    parent = default.absolute() if out is None else out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        tempfile.TemporaryDirectory(prefix=".meta-opt-", dir=parent).cleanup()
    except OSError as error:
        raise MetaOptError(f"cannot write to {parent}; give another folder as --out") from error


def _rename_to_next(folder: Path, parent: Path, number: int) -> Path:
    """Give ``folder`` the first free name from ``number`` on; renaming is what claims it."""
    while True:
        path = parent / str(number)
        try:
            return folder.rename(path)
        except OSError:
            if not path.exists():
                raise
        number += 1


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _merits(run: Outcome) -> dict[str, Any]:
    plain: dict[str, Any] = {"learning_rate": run.learning_rate}
    for merit in MERITS:
        value, sem = run.merits[merit]
        plain |= {merit: _finite(value), f"{merit}_sem": _finite(sem)}
    return plain


def _labels(entries: Sequence[Entry]) -> list[str]:
    """Names for a table, cut where they are long, but never so that two look alike.

    Of a learned optimizer's path the end is kept, of a baseline the class and both ends of what follows.
    """
    bare = [entry.name if entry.kind == "learned" else re.sub(r"^[^:]*\.", "", entry.name) for entry in entries]
    names = [name if bare.count(name) == 1 else entry.name for entry, name in zip(entries, bare, strict=True)]

    def cut(width: int) -> list[str]:
        heads = [0 if entry.kind == "learned" else width // 2 for entry in entries]
        return [
            name if len(name) <= width else f"{name[:head]}…{name[len(name) - (width - head - 1) :]}"
            for name, head in zip(names, heads, strict=True)
        ]

    longest = max(map(len, names))
    return next((cut(width) for width in range(_NAME, longest) if len(set(cut(width))) == len(names)), names)


def _finite(value: float) -> float | None:
    """JSON has no numbers for what is not finite."""
    return value if math.isfinite(value) else None


def _shown(mean: Mean) -> str:
    if not math.isfinite(mean.value):
        return "diverged"
    return f"{mean.value:.4g} ± {mean.sem:.2g}"
