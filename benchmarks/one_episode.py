"""An agent that learns while its task is trained: one episode as long as the task, many meta-updates within it.

    python benchmarks/one_episode.py one_episode.png

alpha_opt starts untrained on one problem, and policy_gradient changes it after every unroll, as in

    meta-opt fit --optimizer alpha_opt --optimizee mnist_cnn --model.num_steps 2000 --model.max_num_steps null \
        --model.unroll_length 50 --model.num_problems 1 --model.episodes_per_epoch 1 --trainer.max_epochs 1

Beside it the same agent on the same problem that learns nothing. Drawn are the losses, with mini-batches their running
mean, of three problems, each a task of its own.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot
from torch import Generator, Tensor

from meta_opt import registry
from meta_opt.meta_training.estimators.contract import Episode
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.alpha_opt import AlphaOpt

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "rosenbrock": ("landscape", {"name": "rosenbrock"}),
    "mnist_cnn": ("mnist_cnn", {}),
}
UNROLL = 50
RUNNING = 50  # steps that the mean of noisy losses runs over


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="image to write")
    parser.add_argument("--num_steps", type=int, default=2000)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--lr", type=float, default=0.003, help="of the meta-optimizer")
    parser.add_argument("--base_rate", type=float, default=0.001, help="learning rate before anything is learned")
    parser.add_argument("--runs", type=int, default=3, help="problems, one after the other, each a task of its own")
    arguments = parser.parse_args()
    figure, axes = pyplot.subplots(1, len(arguments.tasks), figsize=(5 * len(arguments.tasks), 3.6), squeeze=False)
    for axis, task in zip(axes[0], arguments.tasks, strict=True):
        for label, lr, color in (("learns nothing", 0.0, "0.6"), ("learns", arguments.lr, "0.0")):
            runs = [
                losses_of(task, lr, arguments.base_rate, arguments.num_steps, number)
                for number in range(arguments.runs)
            ]
            for number, losses in enumerate(runs):
                smooth = losses.unfold(0, RUNNING, 1).mean(1)
                axis.plot(smooth, color=color, linewidth=1, label=None if number else label)
            ends = [float(losses[-RUNNING:].mean()) for losses in runs]
            print(f"{task}, {label}: mean of the last {RUNNING} losses {', '.join(f'{end:.3g}' for end in ends)}")
        axis.set(title=task, xlabel="step", ylabel="loss", yscale="log")
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=120)


def losses_of(task: str, lr: float, base_rate: float, num_steps: int, number: int) -> Tensor:
    """Losses of one episode of problem ``number``, [num_steps], φ moving by steps of size ``lr``."""
    name, options = TASKS[task]
    problems = Problems(registry.load("optimizee", name)(**options), "train", [number], seed=0)
    network, estimator = AlphaOpt(base_rate=base_rate), PolicyGradient()
    network.build(problems.layout, Generator().manual_seed(number))
    parameters = [*network.trained_parameters(), *estimator.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    streams = partial(problem_generator, number, "one episode")
    episode = Episode(problems, network, MetaLoss("sum", "constant"), num_steps, UNROLL, streams)
    losses = []
    for estimate in estimator.estimates(episode):
        losses.append(estimate.losses[:, 0])
        for parameter, grad in zip(parameters, (*estimate.grads, *estimate.own_grads), strict=True):
            parameter.grad = grad
        optimizer.step()
    return torch.cat(losses)


if __name__ == "__main__":
    main()
