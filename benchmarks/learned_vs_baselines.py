"""A checkpoint's learned optimizer against tuned baselines, on held-back test problems.

    python benchmarks/learned_vs_baselines.py --ckpt_path checkpoints/mnist_mlp/run_0/best.ckpt

Learning rates of the baselines are tuned on the validation problems, separately for each figure, on a log grid that
widens until its best point is not at its edge. Then all run on the same test problems, θ_0 and mini-batches. Prints a
JSON line per optimizer and figure, with the ratio to the best baseline.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from meta_opt.checkpoints import load_learner
from meta_opt.compare import Figure, compare


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, required=True)
    parser.add_argument("--num_steps", type=int, help="optimizee steps; as in training by default")
    parser.add_argument("--num_problems", type=int, default=100, help="test problems")
    parser.add_argument("--num_validation_problems", type=int, default=32, help="problems to tune baselines on")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    module = load_learner(arguments.ckpt_path)
    module.num_steps = arguments.num_steps or module.num_steps
    module.num_test_problems = arguments.num_problems
    module.num_validation_problems = arguments.num_validation_problems
    figures: tuple[Figure, ...] = ("sum", "final")
    for figure in figures:
        results = compare(module, figure)
        best = min(result.value for result in results if result.learning_rate is not None)
        for result in results:
            line = {
                "figure": figure,
                "num_steps": module.num_steps,
                "num_problems": module.num_test_problems,
                "optimizer": result.name,
                "learning_rate": None if result.learning_rate is None else float(f"{result.learning_rate:.3g}"),
                "mean": round(result.value, 5),
                "standard_error": round(result.standard_error, 5),
                "ratio_to_best_baseline": round(result.value / best, 3),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
