"""Does a step mean the same at any width and depth?

    META_OPT_DATA_DIR=... python benchmarks/width.py widths.png

Perceptrons of ReLU on MNIST in a loop of plain PyTorch, mini-batches of 64; mean training loss of the last 20 of 200
steps: two hidden layers of 16 to 1,024 units, and one to eight of 64. general, the same in half of its steps, and
general_mlp, whose meta-training had up to two layers of 64; the same without ``largest_width``, which shortens its
updates in wider ones; the best of AdamW, Nesterov momentum and Muon under a cosine, tuned for each network; and AdamW
at the rate that is best for two layers of 64. Results in the folder are not computed again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from general_suite import RATES, Make, Results, lowest, makers, train
from general_tasks import Task, images, mlp
from meta_opt import LearnedOptimizer
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

STEPS, SEED = 200, 0
SHAPES = {
    "units in each of two hidden layers": {width: (width, width) for width in (16, 32, 64, 128, 256, 512, 1024)},
    "hidden layers of 64 units": {depth: (64,) * depth for depth in (1, 2, 3, 4, 6, 8)},
}
NARROW = (64, 64)
LINES = {  # color, width and dashes
    "general": ("#b00020", 2.4, "-"),
    "general, lr=0.5": ("#b00020", 1.2, ":"),
    "general_mlp": ("#7b1fa2", 2.4, "-"),
    "without largest_width": ("#7b1fa2", 1.2, ":"),
    "best tuned baseline": ("#4a7fb5", 1.2, "-"),
    "AdamW of two layers of 64": ("#3f9b63", 1.2, "--"),
}


def main() -> None:
    """Print tables, draw a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="image to write")
    parser.add_argument("--folder", type=Path, help="of results, which are not computed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        results = Results(folder / "results.json")
        tables = {of_what: table(results, of_what, shapes) for of_what, shapes in SHAPES.items()}
    if options.out is not None:
        draw(tables, options.out)


def table(results: Results, of_what: str, shapes: dict[int, tuple[int, ...]]) -> dict[int, dict[str, float]]:
    """Losses by network and optimizer, which are printed as they come."""
    made: dict[str, Make] = {
        **makers("general", Path()),
        "general, lr=0.5": lambda params, num_steps: (
            LearnedOptimizer(params, pretrained="general", num_steps=num_steps, lr=0.5),
            False,
        ),
        "general_mlp": lambda params, num_steps: (LearnedOptimizer(params, pretrained="general_mlp"), False),
        "without largest_width": without_largest_width,
    }
    rates = {kind: [f"{kind} {rate:g}" for rate in rates] for kind, rates in RATES.items()}
    print(f"\n| {of_what} | {' | '.join(LINES)} |\n|{' --- |' * (1 + len(LINES))}")

    def final(hidden: tuple[int, ...], optimizer: str) -> float:
        return results.get(f"{hidden}/{optimizer}", lambda: train(task(hidden), made[optimizer], STEPS, SEED))["final"]

    def best(hidden: tuple[int, ...], kinds: list[str]) -> str:
        chosen = [lowest(rates[kind], lambda optimizer: final(hidden, optimizer)) for kind in kinds]
        return min(chosen, key=lambda optimizer: final(hidden, optimizer))

    losses: dict[int, dict[str, float]] = {}
    for number, hidden in shapes.items():
        stand_ins = {
            "best tuned baseline": best(hidden, [*RATES]),
            "AdamW of two layers of 64": best(NARROW, ["AdamW"]),
        }
        losses[number] = {line: final(hidden, stand_ins.get(line, line)) for line in LINES}
        cells = [f"{loss:.3g}" for loss in losses[number].values()]
        print(f"| {number} ({stand_ins['best tuned baseline']}) | {' | '.join(cells)} |", flush=True)
    return losses


def task(hidden: tuple[int, ...]) -> Task:
    """A perceptron on MNIST."""
    return Task("perceptron", lambda: images("mnist"), lambda: mlp(784, *hidden, 10))


def without_largest_width(params: list[nn.Parameter], num_steps: int) -> tuple[torch.optim.Optimizer, bool]:
    """Makes general_mlp as its meta-training left it; see :data:`general_suite.Make`."""
    optimizer = LearnedOptimizer(params, pretrained="general_mlp")
    network = optimizer._network
    assert isinstance(network, CoordinatewiseLSTM)
    network.largest_width = None
    return optimizer, False


def draw(tables: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """One panel a table."""
    figure = Figure(figsize=(9.0, 4.2), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True)
    for axes, (of_what, losses) in zip(panels, tables.items(), strict=True):
        for line, (color, width, dashes) in LINES.items():
            heights = [each[line] for each in losses.values()]
            axes.plot([*losses], heights, color=color, linewidth=width, linestyle=dashes, label=line)
        axes.set(xlabel=of_what, xscale="log", yscale="log")
        axes.set_xticks([*losses], labels=[f"{number:,}" for number in losses])
        axes.minorticks_off()
    panels[0].set_ylabel(f"training loss after {STEPS} steps")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
