"""All architectures on quadratics of several dimensions and condition numbers.

    python benchmarks/conditioning.py --folder conditioning --out docs/pictures/conditioning.png

Meta-trainings are those of `meta-opt fit` with the settings recommended for the architecture and quadratic (Gaussian
quadratics, whose condition numbers are of all sizes), but for 5 epochs instead of 12 (ntm_bfgs, whose steps cost most,
for 4). What reads gradients as they are, coordinatewise_lstm and lstm_gac, is trained in every dimension it is tested
in, with fewer problems at once in more dimensions; the others in dimension 10 only. Then all of them, and baselines
whose learning rates are tuned for the figure, dimension and condition number, run for 100 steps on the same test
problems. What there is in the folder is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch

from collecting import Lines, meta_train
from meta_opt import registry
from meta_opt.evaluation.compare import Contestant, compare
from meta_opt.evaluation.setting import Setting
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer

mpl.use("Agg")

from matplotlib import pyplot as plt

DIMENSIONS = (10, 30, 50)
CONDITIONS = (1.0, 10.0, 100.0, 1000.0)
LEARNED = ("coordinatewise_lstm", "lstm_gac", "hierarchical_rnn", "subspace_lstm", "ntm_bfgs")
TRAINED_EVERYWHERE = ("coordinatewise_lstm", "lstm_gac")
EPOCHS = {"ntm_bfgs": "4"}
BASELINES = ("Nesterov", "Adam", "LBFGS", "BFGS", "Newton")
NUM_STEPS = 100
# Learned optimizers are thick and warm, baselines thin and cold.
STYLES = {
    "coordinatewise_lstm": ("#6d4c00", "-", 2.2),
    "lstm_gac": ("#bf5600", "-", 2.2),
    "hierarchical_rnn": ("#7b1fa2", "--", 2.2),
    "subspace_lstm": ("#d65f9c", "--", 2.2),
    "ntm_bfgs": ("#b00020", "-", 3.0),
    "Nesterov": ("#4a7fb5", "-", 1.2),
    "Adam": ("#3f9b63", "-", 1.2),
    "LBFGS": ("#2f9aa0", ":", 1.6),
    "BFGS": ("#555555", "-.", 1.2),
    "Newton": ("#8a8a8a", ":", 1.2),
}


def main() -> None:
    """Do what is not there yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of meta-trainings and results")
    parser.add_argument("--out", type=Path, help="picture to draw")
    parser.add_argument("--num_problems", type=int, default=64, help="test problems of each kind")
    parser.add_argument("--optimizers", nargs="+", choices=STYLES, default=[*STYLES])
    parser.add_argument("--table", action="store_true", help="print all results as a table in Markdown")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    lines = Lines(arguments.folder / "results.jsonl")
    for name in arguments.optimizers:
        for dimension in DIMENSIONS:
            for condition in CONDITIONS:
                key = {"optimizer": name, "dimension": dimension, "condition": condition}
                if lines.find(**key) is None:
                    lines.add({**key, **run(arguments.folder, name, dimension, condition, arguments.num_problems)})
    if arguments.table:
        print(table(lines))
    if arguments.out:
        draw(lines, arguments.out)


def run(folder: Path, name: str, dimension: int, condition: float, num_problems: int) -> dict[str, float]:
    """Sum and final loss of one optimizer, each with its standard error."""
    optimizee = registry.load("optimizee", "quadratic")(dimension=dimension, condition=condition)
    setting = Setting(optimizee, [NUM_STEPS], num_problems, num_validation_problems=32)
    if name in LEARNED:
        contestant = Contestant(load_optimizer(checkpoint(folder, name, dimension)))
        (comparison,) = compare(setting, {name: contestant}, {})
    else:
        (comparison,) = compare(setting, {}, {name: baseline(name)})
    (entry,) = comparison.entries
    total, final = entry.merit("sum"), entry.merit("final")
    return {"sum": total.value, "sum_sem": total.sem, "final": final.value, "final_sem": final.sem}


def checkpoint(folder: Path, name: str, dimension: int) -> Path:
    """What is tested in this dimension."""
    if name == "subspace_lstm":
        return pretrained_path("quadratic")
    options = ["--optimizee", "quadratic", "--optimizer", name, "--trainer.max_epochs", EPOCHS.get(name, "5")]
    if name not in TRAINED_EVERYWHERE:
        return meta_train(folder, name, *options)
    size = ["--optimizee.dimension", str(dimension), "--model.num_problems", str(640 // dimension)]
    return meta_train(folder, f"{name}_{dimension}", *options, *size)


def table(lines: Lines) -> str:
    """Sum and final loss, a row for every optimizer and dimension."""
    head = "".join(f" κ = {condition:g} |" for condition in CONDITIONS)
    rows = [f"| dimension | optimizer |{head}", "| --- | --- |" + " --- |" * len(CONDITIONS)]
    for dimension in DIMENSIONS:
        for name in STYLES:
            found = [lines.find(optimizer=name, dimension=dimension, condition=condition) for condition in CONDITIONS]
            cells = "".join(f" {line['sum']:.3g}, {line['final']:.1e} |" if line else " |" for line in found)
            rows.append(f"| {dimension} | {name} |{cells}")
    return "\n".join(rows)


def draw(lines: Lines, out: Path) -> None:
    """Sum and final loss over the condition number, a column for every dimension."""
    figure, axes = plt.subplots(2, len(DIMENSIONS), figsize=(10, 6.4), sharex=True, sharey="row", layout="constrained")
    for column, dimension in enumerate(DIMENSIONS):
        for name, (color, dashes, width) in STYLES.items():
            found = [lines.find(optimizer=name, dimension=dimension, condition=condition) for condition in CONDITIONS]
            for row, figure_of_merit in enumerate(("sum", "final")):
                points = [(line["condition"], line[figure_of_merit]) for line in found if line]
                axes[row, column].plot(*zip(*points, strict=True), color=color, ls=dashes, lw=width, label=name)
        axes[0, column].set_title(f"{dimension} dimensions")
        axes[1, column].set_xlabel("condition number κ")
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log")
        axis.grid(visible=True, color="0.92")
    axes[0, 0].set_ylabel("sum of losses over 100 steps")
    axes[1, 0].set_ylabel("loss after 100 steps")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
