"""Estimators of the meta-gradient where truncation misleads: bias, variance, time, and what they lead to in equal time.

    python benchmarks/estimators.py schedule --seconds 20
    python benchmarks/estimators.py mnist --seconds 15
    python benchmarks/estimators.py figure --figure docs/pictures/estimators.png

schedule: two weights, learning rate and decay of SGD, α_t = e^φ_0 / (1 + t/500)^φ_1 (Wu et al. 2018,
arXiv:1803.02021; Vicol et al. 2021, arXiv:2112.13835, section 5), for digits_mlp in batches of 8 over 2,000 steps.
mnist: a coordinatewise LSTM of one layer of 8 units for mnist_mlp over 1,000 steps.

Bias and variance are those of the sum of an episode's estimates at the φ of the beginning, against the exact gradient
of whole episodes, whose graph is made in pieces. Meta-training is a loop of its own, without validation, that stops
after so many seconds of processor time, wherever it is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meta_opt import registry
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.meta_training.clipping import GradientClipper
from meta_opt.meta_training.estimators.contract import Episode, Estimator
from meta_opt.meta_training.estimators.es import ES
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.state import axis

LOSS = MetaLoss("sum", "constant")


@dataclass(frozen=True)
class Steps:
    """How many steps have been taken, []."""

    taken: Tensor = axis("problem")


class Schedule(OptimizerNetwork):
    """SGD whose learning rate decays with inverse time: two weights."""

    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        """Start where the paper's experiments do not diverge: a rate of 0.1 and no decay to speak of."""
        self.weights = nn.Parameter(torch.tensor([math.log(0.1), 0.1]))

    def init_state(self, layout: Layout, num_problems: int) -> Steps:
        """No steps."""
        return Steps(self.weights.new_zeros(()))

    def step(self, evaluation: Evaluation, state: Steps, noise: Generator | None = None) -> Step:
        """One step of SGD."""
        rate = self.weights[0].exp() / (1 + state.taken / 500) ** self.weights[1]
        return Step(-rate * evaluation.grad, Steps(state.taken + 1))


@dataclass(frozen=True)
class Workload:
    """What is meta-trained on what, and how."""

    optimizee: Callable[[], Optimizee]
    optimizer: Callable[[], OptimizerNetwork]
    num_steps: int
    lr: float
    num_measured: int  # episodes that bias and variance are of


WORKLOADS = {
    "schedule": Workload(
        lambda: registry.load("optimizee", "digits_mlp")(batch_size=8, init_std=None), Schedule, 2000, 0.03, 3
    ),
    "mnist": Workload(
        lambda: registry.load("optimizee", "mnist_mlp")(),
        partial(CoordinatewiseLSTM, 1, 8, inputs="log_sign+moments", base_step=0.01, initial_output=0.1),
        1000,
        0.003,
        2,
    ),
}
UNROLL = 50
METHODS: dict[str, tuple[Callable[[], Estimator], bool]] = {  # and whether an unroll is a whole episode
    "first_order": (FirstOrder, False),
    "second_order": (SecondOrder, False),
    "second_order, whole": (partial(SecondOrder, UNROLL), True),
    "es": (partial(ES, pairs=4), False),
    "pes": (partial(PES, pairs=4), False),
    "nres": (partial(NRES, pairs=4), False),
}


class Trial:
    """One method on one workload."""

    def __init__(self, work: Workload, method: str) -> None:
        self.work = work
        make, whole = METHODS[method]
        self.estimator = make()
        self.unroll_length = work.num_steps if whole else UNROLL
        self.optimizee = work.optimizee()
        self.network = work.optimizer()
        self.network.build(self.problems(0).layout, problem_generator(0, "phi"))

    def problems(self, index: int) -> Problems:
        """A problem to learn from."""
        return Problems(self.optimizee, "train", [index], seed=0)

    def episode(self, index: int) -> Episode:
        """An episode on it."""
        streams = partial(problem_generator, 0, "episode", index)
        return Episode(self.problems(index), self.network, LOSS, self.work.num_steps, self.unroll_length, streams)

    def measure(self) -> tuple[Tensor, float]:
        """The sums of the estimates of each measured episode, [M, D], and the seconds of a meta-update."""
        sums, updates, started = [], 0, time.process_time()
        for index in range(self.work.num_measured):
            total = torch.zeros(())
            for estimate in self.estimator.estimates(self.episode(index)):
                total = total + torch.cat([grad.flatten() for grad in estimate.grads])
                updates += 1
            sums.append(total)
        return torch.stack(sums), (time.process_time() - started) / updates

    def train(self, seconds: float) -> int:
        """Meta-train for so long; returns the number of meta-updates."""
        optimizer, clip = (
            torch.optim.Adam(self.network.parameters(), lr=self.work.lr),
            GradientClipper(None, 2.0, False),
        )
        ends, updates = time.process_time() + seconds, 0
        for index in itertools.count(1000):
            for estimate in self.estimator.estimates(self.episode(index)):
                flat = torch.cat([grad.flatten() for grad in estimate.grads])
                if flat.isfinite().all():
                    weights = self.network.trained_parameters()
                    parts = clip(flat).split([weight.numel() for weight in weights])
                    for weight, part in zip(weights, parts, strict=True):
                        weight.grad = part.view_as(weight)
                    optimizer.step()
                updates += 1
                if time.process_time() > ends:
                    return updates
        raise AssertionError("unreachable")

    def validate(self) -> Tensor:
        """Loss curves on validation problems, [steps + 1, V]."""
        return run_episodes(self.optimizee, self.network, "validation", 4, self.work.num_steps, seed=0).losses


def run(name: str, methods: list[str], seconds: float, folder: Path) -> None:
    """All methods on one workload; what is known is written after each."""
    work = WORKLOADS[name]
    right, _ = Trial(work, "second_order, whole").measure()
    size = right.mean(0).norm()
    for method in methods:
        trial = Trial(work, method)
        sums, per_update = trial.measure()
        bias = float((sums.mean(0) - right.mean(0)).norm() / size)
        noise = float((sums - sums.mean(0)).square().sum(1).mean().sqrt() / size) * math.sqrt(
            len(sums) / (len(sums) - 1)
        )
        updates = trial.train(seconds)
        losses = trial.validate()
        result: dict[str, Any] = {
            "bias": bias,
            "deviation": noise,
            "seconds_per_update": per_update,
            "updates": updates,
            "mean": float(losses[1:].mean()),
            "final": float(losses[-losses.shape[0] // 10 :].mean()),
            "curve": losses.mean(1).tolist(),
            "weights": trial.network.weights.tolist() if isinstance(trial.network, Schedule) else None,
        }
        (folder / f"{name}, {method}.json").write_text(json.dumps(result))
        shown = {key: value for key, value in result.items() if key not in ("curve", "weights")}
        print(f"{name:9} {method:20}", *(f"{key} {value:.4g}" for key, value in shown.items()), result["weights"] or "")


def figure(folder: Path, path: Path) -> None:
    """Loss curves after meta-training, and the learning rates of the schedules."""
    import matplotlib.pyplot as plt

    found = {tuple(file.stem.split(", ", 1)): json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    drawing, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for number, method in enumerate(METHODS):
        for axes_of, name in zip(axes, WORKLOADS, strict=False):
            if result := found.get((name, method)):
                curve = torch.tensor(result["curve"])[1:].unflatten(0, (-1, 50)).mean(1)
                axes_of.plot(torch.arange(len(curve)) * 50 + 25, curve, color=f"C{number}", label=method)
                axes_of.set(yscale="log", xlabel="step", ylabel="mean loss", title=f"{name}: after equal time")
        if result := found.get(("schedule", method)):
            first, decay = result["weights"]
            rates = math.exp(first) / (1 + torch.arange(2000) / 500) ** decay
            axes[2].plot(rates, color=f"C{number}", label=method)
    axes[2].set(yscale="log", xlabel="step", ylabel="learning rate", title="schedule: what was learned")
    axes[0].legend(fontsize=7)
    drawing.savefig(path, dpi=110)


def main() -> None:
    """Run a workload, or draw what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*WORKLOADS, "figure"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("estimators"))
    parser.add_argument("--figure", type=Path, default=Path("estimators.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(exist_ok=True)
    if arguments.what == "figure":
        figure(arguments.out, arguments.figure)
    else:
        run(arguments.what, arguments.methods, arguments.seconds, arguments.out)


if __name__ == "__main__":
    main()
