"""How well do new drawings of the characters that are being learned get told apart, after each number of steps?

    python benchmarks/few_shot.py --ckpt_path checkpoints/omniglot/run_0/best.ckpt --num_ways 5 --num_shots 1

The accuracy on all drawings that are not learned from, of learned optimizers and of baselines. Each baseline's learning
rate is tuned for each number of steps, for this accuracy, on validation problems; then all run on the same test
problems, whose alphabets meta-training has not seen.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from meta_opt.evaluation.tuning import tune
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.contract import Split
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import BASELINES, HandMade
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.omniglot import Omniglot

STEPS = (1, 5, 10, 30, 100)
START = 0.03  # learning rate that tuning begins at
AT_ONCE = 16  # problems side by side


def main() -> None:
    """Print a table of accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, nargs="*", default=[])
    parser.add_argument("--pretrained", nargs="*", default=[])
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES))
    parser.add_argument("--num_ways", type=int, default=5)
    parser.add_argument("--num_shots", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=10)
    parser.add_argument("--num_problems", type=int, default=64)
    parser.add_argument("--num_validation_problems", type=int, default=16)
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    arguments = parser.parse_args()
    optimizee = Omniglot(arguments.num_ways, arguments.num_shots, batch_size=arguments.batch_size)
    print(f"| optimizer | {' | '.join(map(str, STEPS))} |\n|{' --- |' * (1 + len(STEPS))}")

    def show(name: str, rows: list[Tensor]) -> None:
        cells = [f"{row.mean():.3f} ± {row.std() / len(row) ** 0.5:.3f}" for row in rows]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)

    paths = [*arguments.ckpt_path, *(pretrained()[name] for name in arguments.pretrained)]
    for path in paths:
        learned = accuracies(optimizee, load_optimizer(path), arguments.split, arguments.num_problems)
        show(path.stem if path.parent.name == "pretrained" else str(path), list(learned))
    for name in arguments.baselines:
        rates = tuned(optimizee, BASELINES[name], arguments.num_validation_problems)
        run = cache(
            lambda rate, make=BASELINES[name]: accuracies(
                optimizee, make(rate), arguments.split, arguments.num_problems
            )
        )
        show(name, [run(rate)[index] for index, rate in enumerate(rates)])


def tuned(optimizee: Omniglot, make: HandMade, num_problems: int) -> list[float]:
    """The learning rate with the highest accuracy on validation problems, for each of STEPS."""
    run = cache(lambda rate: accuracies(optimizee, make(rate), "validation", num_problems).mean(1))
    return [tune(lambda rate, index=index: -float(run(rate)[index]), START) for index in range(len(STEPS))]


@torch.no_grad()
def accuracies(optimizee: Omniglot, optimizer: InnerOptimizer, split: Split, num_problems: int) -> Tensor:
    """Accuracy on the drawings that are not learned from after each of STEPS, [5, num_problems]."""
    parts = []
    for first in range(0, num_problems, AT_ONCE):
        problems = Problems(optimizee, split, range(first, min(first + AT_ONCE, num_problems)), seed=0)
        position, found = begin(problems, optimizer), []
        for taken, steps in zip((0, *STEPS), STEPS, strict=False):
            position = unroll(problems, optimizer, position, steps - taken).end.detach()
            found.append(problems.metrics(position.evaluation.params)["new_accuracy"])
        parts.append(torch.stack(found))
    return torch.cat(parts, dim=1)


if __name__ == "__main__":
    main()
