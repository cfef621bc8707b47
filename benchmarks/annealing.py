"""What `optimizer.anneal_after` does to runs far beyond the episodes of meta-training.

    python benchmarks/annealing.py
    python benchmarks/annealing.py --activation relu --init_std 0.1

general_mlp on MNIST as it is shipped, and the same with updates that do not shrink, on validation problems.
"""

from __future__ import annotations

import argparse
import itertools

from meta_opt import registry
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer


def main() -> None:
    """Run both and print mean losses of every tenth of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activation", default="sigmoid")
    parser.add_argument("--hidden_sizes", type=int, nargs="+", default=[20])
    parser.add_argument("--init_std", type=float, default=0.01)
    parser.add_argument("--num_steps", type=int, default=10_000)
    parser.add_argument("--num_problems", type=int, default=2)
    arguments = parser.parse_args()
    optimizee = registry.load("optimizee", "mnist_mlp")(
        hidden_sizes=arguments.hidden_sizes, activation=arguments.activation, init_std=arguments.init_std
    )
    edges = [arguments.num_steps * tenth // 10 for tenth in range(11)]
    print(f"{'mean loss until step':>24}", *(f"{edge:>9,}" for edge in edges[1:]), f"{'final':>9}")
    for name, anneal_after in (("annealed", 1000), ("not annealed", None)):
        optimizer = load_optimizer(pretrained_path("general_mlp"))
        optimizer.anneal_after = anneal_after
        curves = run_episodes(optimizee, optimizer, "validation", arguments.num_problems, arguments.num_steps, seed=0)
        losses = curves.losses[1:].mean(1)
        means = [float(losses[start:stop].mean()) for start, stop in itertools.pairwise(edges)]
        print(f"{name:>24}", *(f"{value:9.2g}" for value in [*means, float(curves.final.mean())]), flush=True)


if __name__ == "__main__":
    main()
