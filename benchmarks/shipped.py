"""The optimizers that ship, on a few test problems each: whether a change of the code changes what they do.

    python benchmarks/shipped.py [NAME ...]

Prints the sum of losses and the final loss, mean ± standard error over problems. META_OPT_DATA_DIR names
the folder of the data sets.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from meta_opt.api import Optimizee
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.cifar_cnn import CifarCnn
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.mnist_mlp import MnistMlp
from meta_opt_optimizees.quadratic import Quadratic

ROWS: list[tuple[str, str, Callable[[], Optimizee], int, int]] = [  # pretrained, on what, on how many problems, steps
    ("quadratic", "quadratic", Quadratic, 4096, 100),
    ("digits_mlp", "digits_mlp", DigitsMlp, 64, 100),
    ("mnist_mlp", "mnist_mlp", MnistMlp, 48, 100),
    ("general_mlp", "mnist_mlp, ReLU, θ_0 0.1", lambda: MnistMlp(activation="relu", init_std=0.1), 128, 100),
    ("general_mlp", "mnist_mlp, tanh, θ_0 0.1", lambda: MnistMlp(activation="tanh", init_std=0.1), 32, 100),
    ("general_mlp", "digits_mlp", DigitsMlp, 32, 100),
    ("cifar_cnn", "cifar_cnn", CifarCnn, 3, 100),
    ("mnist_mlp", "mnist_mlp", MnistMlp, 8, 2000),
    ("general_mlp", "mnist_mlp, ReLU, θ_0 0.1", lambda: MnistMlp(activation="relu", init_std=0.1), 8, 2000),
]


def main() -> None:
    """Run all rows, or those of the pretrained optimizers that are named."""
    torch.set_flush_denormal(True)
    for name, problems, make, count, num_steps in ROWS:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        curves = run_episodes(make(), load_optimizer(pretrained_path(name)), "test", count, num_steps, seed=0)
        print(
            f"{name:12} {problems:25} {num_steps:5} steps  sum {_shown(curves.sum)}  final {_shown(curves.final)}",
            flush=True,
        )


def _shown(values: Tensor) -> str:
    return f"{values.mean().item():.4g} ± {values.std().item() / math.sqrt(len(values)):.2g}"


if __name__ == "__main__":
    main()
