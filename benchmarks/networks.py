"""Architectures that couple coordinates, and the coordinatewise LSTM, on small networks; several seeds each.

    python benchmarks/networks.py --folder networks --out docs/pictures/networks.png

Short meta-trainings by `meta-opt fit`: 40 episodes of 50 steps for all, with a meta-update after every ten steps,
and, since a step of the coordinatewise LSTM takes about a sixth of the time, that one once more with six times as many.
All read gradients in the same way (log_sign+moments), without orthogonalized directions, and are tested on the same
problems. mnist_mlp has 5 hidden units instead of 20. What there is in the folder is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
import torch

from collecting import Line, Lines, meta_train
from meta_opt import registry
from meta_opt.evaluation.compare import Contestant, compare
from meta_opt.evaluation.setting import Setting
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.saved.recipes import load_optimizer

mpl.use("Agg")

from matplotlib import pyplot as plt

OPTIMIZEES: dict[str, dict[str, Any]] = {"mnist_mlp": {"hidden_sizes": [5]}, "small_mlps": {}}
NUM_STEPS = 50
_LSTM = ("coordinatewise_lstm", "--optimizer.share", "all", "--optimizer.tensor_features", "false")
_INPUTS = ("--optimizer.inputs", "log_sign+moments")
_NTM = ("--optimizer.first_step", "0.01", "--model.lr", "0.003")
# Optimizer and its options, and times as many episodes.
SIDES: dict[str, tuple[tuple[str, ...], int]] = {
    "coordinatewise_lstm": ((*_LSTM, *_INPUTS), 1),
    "coordinatewise_lstm, as long": ((*_LSTM, *_INPUTS), 6),
    "lstm_gac": (("lstm_gac", *_INPUTS), 1),
    "hierarchical_rnn": (("hierarchical_rnn",), 1),
    "ntm_bfgs, rank 5": (("ntm_bfgs", "--optimizer.rank", "5", *_NTM), 1),
}
BASELINE = "Adam"
_EPISODES = 40


def main() -> None:
    """Do what is not there yet, print means and spread over seeds, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of meta-trainings and results")
    parser.add_argument("--out", type=Path, help="picture to draw")
    parser.add_argument("--optimizees", nargs="+", choices=OPTIMIZEES, default=[*OPTIMIZEES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    parser.add_argument("--num_problems", type=int, default=6, help="test problems")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    lines = Lines(arguments.folder / "results.jsonl")
    for seed in arguments.seeds:
        for optimizee in arguments.optimizees:
            for name in (*SIDES, BASELINE) if seed == 0 else SIDES:
                key: Line = {"optimizee": optimizee, "optimizer": name, "seed": seed}
                if lines.find(**key) is None:
                    lines.add({**key, **run(arguments.folder, optimizee, name, seed, arguments.num_problems)})
    for optimizee in arguments.optimizees:
        for name in (*SIDES, BASELINE):
            totals, finals = ([line[merit] for line in of(lines, optimizee, name)] for merit in ("sum", "final"))
            if totals:
                print(f"| {optimizee} | {name} | {shown(totals)} | {shown(finals)} | {len(totals)} |")
    if arguments.out:
        draw(lines, arguments.out)


def run(folder: Path, optimizee: str, name: str, seed: int, num_problems: int) -> dict[str, float]:
    """Meta-train and test one optimizer, or tune and test the baseline."""
    problems = registry.load("optimizee", optimizee)(**OPTIMIZEES[optimizee])
    setting = Setting(problems, [NUM_STEPS], num_problems, num_validation_problems=4)
    if name == BASELINE:
        (comparison,) = compare(setting, {}, {name: baseline(name)})
    else:
        checkpoint = meta_train(folder, f"{optimizee}, {name}, {seed}", *options(optimizee, name, seed))
        (comparison,) = compare(setting, {name: Contestant(load_optimizer(checkpoint))}, {})
    (entry,) = comparison.entries
    return {"sum": entry.merit("sum").value, "final": entry.merit("final").value}


def shown(values: list[float]) -> str:
    """Mean and, over several seeds, standard deviation."""
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def options(optimizee: str, name: str, seed: int) -> list[str]:
    """Of ``meta-opt fit``."""
    optimizer, times = SIDES[name]
    settings = {
        "optimizee": optimizee,
        **{f"optimizee.{argument}": value for argument, value in OPTIMIZEES[optimizee].items()},
        "seed_everything": seed,
        "model.num_steps": NUM_STEPS,
        "model.max_num_steps": "null",
        "model.unroll_length": 10,
        "model.lr": 0.01,
        "model.normalize_gradient": "true",
        "model.clip_relative": "null",
        "model.average_decay": 0.9,
        "model.estimator.replay_fraction": 1.0,
        "model.episodes_per_epoch": _EPISODES * times,
        "model.num_validation_problems": 2,
        "model.num_test_problems": 1,
        "trainer.max_epochs": 1,
    }
    first, *rest = optimizer
    return [text for key, value in settings.items() for text in (f"--{key}", str(value))] + [
        "--optimizer",
        first,
        *rest,
    ]


def of(lines: Lines, optimizee: str, name: str) -> list[Line]:
    """All seeds."""
    return [line for line in lines.all if line["optimizee"] == optimizee and line["optimizer"] == name]


def draw(lines: Lines, out: Path) -> None:
    """A point for every seed, a dash for their mean; an arrow for a seed at more than three times the lowest sum."""
    figure, axes = plt.subplots(1, len(OPTIMIZEES), figsize=(10, 3.2), layout="constrained")
    for axis, optimizee in zip(axes, OPTIMIZEES, strict=True):
        limit = 3.0 * min(line["sum"] for line in lines.all if line["optimizee"] == optimizee)
        for row, name in enumerate(SIDES):
            values = [min(line["sum"], limit) for line in of(lines, optimizee, name)]
            if not values:
                continue
            color = "#4d5d6c" if "coordinatewise" in name else "#b00020"
            inside = [value for value in values if value < limit]
            axis.plot(inside, [row] * len(inside), "o", color=color, alpha=0.6, ms=6)
            if len(inside) == len(values):
                axis.plot(mean(values), row, "|", color=color, ms=22, mew=2)
            else:
                axis.plot(limit, row, ">", color=color, ms=9)
        for tuned in of(lines, optimizee, BASELINE):
            axis.axvline(tuned["sum"], color="0.6", ls="--", lw=1)
            axis.annotate(f"{BASELINE}, tuned", (tuned["sum"], -0.45), color="0.4", fontsize=8, ha="center")
        axis.set(yticks=range(len(SIDES)), yticklabels=list(SIDES), ylim=(len(SIDES) - 0.4, -0.7))
        axis.set(title=optimizee, xlabel=f"sum of test losses over {NUM_STEPS} steps")
    axes[1].set_yticklabels([])
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
