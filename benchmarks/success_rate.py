"""How often does meta-training succeed? Many short runs from different seeds, on each activation.

    python benchmarks/success_rate.py --out success_rate.png > success_rate.jsonl

Each run meta-trains with the settings that are recommended for the optimizee, for fewer episodes, and is tested on the
same test problems. A run succeeds if the final loss on every one of them is finite and below that of a random guess,
ln 10. Prints a JSON line per run and one per activation; draws the final losses.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import torch
from lightning.pytorch import Trainer

from meta_opt import registry
from meta_opt.errors import DivergedError
from meta_opt.meta_training.meta_learner import MetaLearner

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
RANDOM_GUESS = math.log(10)


def main() -> None:
    """Run, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizee", default="digits_mlp", help="one with the option activation, and ten classes")
    parser.add_argument("--num_runs", type=int, default=20, help="runs per activation")
    parser.add_argument("--num_episodes", type=int, default=100, help="episodes per run")
    parser.add_argument("--num_problems", type=int, default=16, help="test problems")
    parser.add_argument("--out", type=Path, help="where to draw the figure")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    finals: dict[str, list[float]] = {}
    for activation in ACTIVATIONS:
        lines = list(runs(arguments, activation))
        finals[activation] = [line["final"] for line in lines]
        succeeded = sum(line["succeeded"] for line in lines)
        print(json.dumps({"activation": activation, "runs": len(lines), "succeeded": succeeded}), flush=True)
    if arguments.out:
        draw(finals, arguments.out)


def runs(arguments: argparse.Namespace, activation: str) -> Iterator[dict[str, Any]]:
    """Each run's result, printed as it comes."""
    for seed in range(arguments.num_runs):
        module = trained(arguments.optimizee, activation, arguments.num_episodes, seed)
        module.seed = 0  # the same test problems for all
        losses = module.curves(module.trained, "test", arguments.num_problems).final
        line = {
            "activation": activation,
            "seed": seed,
            "final": float(losses.mean()),
            "worst": float(losses.max()),
            "succeeded": bool((losses.isfinite() & (losses < RANDOM_GUESS)).all()),
        }
        print(json.dumps(line), flush=True)
        yield line


def trained(name: str, activation: str, num_episodes: int, seed: int) -> MetaLearner:
    """A module that has been meta-trained, or what is left of it where that failed."""
    optimizee = registry.load("optimizee", name)
    settings = optimizee.recommended_settings()
    options = {
        kind: {key.removeprefix(f"{kind}."): value for key, value in settings.items() if key.startswith(f"{kind}.")}
        for kind in ("model", "optimizer")
    }
    optimizer = registry.load("optimizer", "coordinatewise_lstm")(**options["optimizer"])
    options["model"]["episodes_per_epoch"] = num_episodes
    module = MetaLearner(optimizee(activation=activation), optimizer, **options["model"], seed=seed)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(module)
    except DivergedError as error:
        print(json.dumps({"activation": activation, "seed": seed, "error": str(error)}), flush=True)
    return module


def draw(finals: dict[str, list[float]], path: Path) -> None:
    """The final losses of all runs, a column per activation."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for column, values in enumerate(finals.values()):
        shown = [min(value, 10.0) if math.isfinite(value) else 10.0 for value in values]
        places = [column + 0.3 * (index / max(len(values) - 1, 1) - 0.5) for index in range(len(values))]
        axes.scatter(places, shown, s=14, color="0.2", alpha=0.7, linewidths=0)
    axes.axhline(RANDOM_GUESS, color="0.5", linewidth=1, linestyle="--")
    axes.text(len(finals) - 0.6, RANDOM_GUESS, "random guess", ha="right", va="bottom", color="0.4", fontsize=8)
    axes.set(yscale="log", ylabel="final loss, mean over test problems", xlim=(-0.5, len(finals) - 0.5))
    axes.set_xticks(range(len(finals)), list(finals))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
