"""Two ways to replay fewer coordinates, measured: is either worth having?

    python benchmarks/ideas.py --ckpt_path checkpoints/pretrained/mnist_mlp.ckpt

``subset`` replays a random part of the coordinates of large tensors (model.estimator.replay_fraction), weighted so that
the meta-gradient stays right on average. It adds variance to what the draw of problems brings anyway; ``cost`` is time
times variance relative to replaying everything (whole meta-steps, rollout included), so that less than 1 pays.
``equal`` is the part of the coordinates whose gradients have been the same as those of another one in the same tensor
since the episode began, and which could be computed once.
Prints JSON lines; the replay is timed with the threads that PyTorch finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

from meta_opt.inner_loop.unroll import Trajectory, begin, unroll
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.estimators.subset import draw_subset
from meta_opt.meta_training.loading import load_learner
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems

FRACTIONS = (0.5, 0.25, 0.1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, required=True)
    parser.add_argument("--num_episodes", type=int, default=16)
    arguments = parser.parse_args()
    module = load_learner(arguments.ckpt_path)
    generator = torch.Generator().manual_seed(0)
    by_unroll: dict[int, list[dict[float, tuple[Tensor, float]]]] = {}
    for episode in range(arguments.num_episodes):
        problems = Problems(module.optimizee, "train", [episode], seed=module.seed)
        position, grads = begin(problems, module.optimizer), []
        for number in range(module.num_steps // module.unroll_length):
            started = time.perf_counter()
            trajectory = unroll(problems, module.optimizer, position, module.unroll_length)
            rollout = time.perf_counter() - started
            row = {part: replayed(module, problems, trajectory, part, generator) for part in (1.0, *FRACTIONS)}
            by_unroll.setdefault(number, []).append(
                {f: (grad, rollout + seconds) for f, (grad, seconds) in row.items()}
            )
            grads += [evaluation.grad for evaluation in trajectory.evaluations[:-1]]
            position = trajectory.end.detach()
            if episode == 0:
                part = equal_part(problems, torch.cat(grads))
                print(json.dumps({"idea": "equal", "steps_since_start": len(grads), "fraction": round(part, 4)}))
    for number, rows in by_unroll.items():
        report(number, rows)


def replayed(
    module: MetaLearner, problems: Problems, trajectory: Trajectory, fraction: float, generator: torch.Generator
) -> tuple[Tensor, float]:
    """The meta-gradient [P] from a random part of the coordinates, and the seconds that it took."""
    meta_loss = MetaLoss(module.hparams["meta_loss"], module.hparams["step_weights"])
    started = time.perf_counter()
    subset = draw_subset(problems.layout, fraction, generator) if fraction < 1.0 else None
    grads = first_order(trajectory, module.optimizer, meta_loss, subset).grads
    return torch.cat([grad.flatten() for grad in grads]), time.perf_counter() - started


def equal_part(problems: Problems, grads: Tensor) -> float:
    """The part of the columns of ``grads`` [steps, N] that repeat another column of their tensor."""
    repeated = 0
    for columns in grads.split(problems.layout.sizes, dim=1):
        repeated += columns.shape[1] - torch.unique(columns, dim=1).shape[1]
    return repeated / grads.shape[1]


def report(number: int, rows: list[dict[float, tuple[Tensor, float]]]) -> None:
    """Added variance, time and their product for each fraction of the coordinates."""
    whole = torch.stack([row[1.0][0] for row in rows]).double()
    # As a meta-optimizer that normalizes sees it: each episode's gradient at the same length.
    between = (whole - whole.mean(0)).square().sum(1).median()
    seconds = statistics.median(row[1.0][1] for row in rows)
    for fraction in FRACTIONS:
        part = torch.stack([row[fraction][0] for row in rows]).double()
        added = float((part - whole).square().sum(1).median() / between)
        ratio = statistics.median(row[fraction][1] for row in rows) / seconds
        line = {"idea": "subset", "unroll": number, "fraction": fraction, "added_variance": round(added, 3)}
        print(json.dumps({**line, "time": round(ratio, 3), "cost": round(ratio * (1.0 + added), 3)}))


if __name__ == "__main__":
    main()
