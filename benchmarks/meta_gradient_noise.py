"""How noisy is a meta-gradient by policy gradient, and by backpropagation, of the same policy?

    python benchmarks/meta_gradient_noise.py

Of alpha_opt before meta-training, and the logarithm of the loss after 20 steps: REINFORCE, with and without a baseline
(advantages centred and scaled over the steps of each problem), PPO's first pass with its critic as meta-training begins
with, and first_order. Each estimate is of its own problems and actions. The noise is the root of the trace of the
covariance of estimates, over the norm of their mean: as many problems as its square times the problems of one estimate
are needed until both are equal.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Generator, Tensor

from meta_opt import registry
from meta_opt.meta_training.estimators.contract import Episode, Estimator
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.alpha_opt import AlphaOpt

STEPS = 20
ESTIMATORS: dict[str, Estimator] = {
    "first_order": FirstOrder(),
    "REINFORCE": PolicyGradient("reinforce", discount=1.0, smoothing=1.0, normalize_advantages=False, critic_size=0),
    "REINFORCE, normalized": PolicyGradient("reinforce", discount=1.0, smoothing=1.0, critic_size=0),
    "PPO, as is default": PolicyGradient(),
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizees", nargs="+", default=["landscape", "quadratic", "digits_mlp"])
    parser.add_argument("--actions", nargs="+", default=["problem", "tensor", "coordinate"])
    parser.add_argument("--num_estimates", type=int, default=100)
    parser.add_argument("--num_problems", type=int, default=8)
    arguments = parser.parse_args()
    print(f"| optimizee | an action for each | {' | '.join(ESTIMATORS)} |\n|{' --- |' * (2 + len(ESTIMATORS))}")
    for optimizee in arguments.optimizees:
        for action in arguments.actions:
            found = [
                noise(estimates(optimizee, action, estimator, arguments.num_estimates, arguments.num_problems))
                for estimator in ESTIMATORS.values()
            ]
            print(f"| {optimizee} | {action} | {' | '.join(f'{each:.2g}' for each in found)} |", flush=True)


def noise(gradients: Tensor) -> float:
    """√(trace of the covariance) / |mean| of estimates [K, P], the square of the mean being estimated without bias."""
    count = len(gradients)
    trace = gradients.var(0).sum()
    square = (gradients.mean(0).square().sum() - trace / count).clamp_min(0.0)
    return float((trace / square).sqrt())


def estimates(optimizee: str, action: str, estimator: Estimator, count: int, num_problems: int) -> Tensor:
    """So many meta-gradients of φ as it is drawn, [count, P], of unrolls from θ_0."""
    source = registry.load("optimizee", optimizee)()
    rows = []
    network = AlphaOpt(action, base_rate=0.1)  # type: ignore[arg-type]
    for number in range(count):
        indices = range(number * num_problems, (number + 1) * num_problems)
        problems = Problems(source, "train", indices, seed=0)
        if not number:
            network.build(problems.layout, Generator().manual_seed(0))
            names = [name for name, _ in network.named_parameters()]
        streams = partial(problem_generator, number, "actions")
        episode = Episode(problems, network, MetaLoss("log_sum", "last"), STEPS, STEPS, streams)
        grads = next(iter(estimator.estimates(episode))).grads
        # first_order gives no gradient of σ, which deterministic steps do not depend on
        rows.append(torch.cat([grad.flatten() for name, grad in zip(names, grads, strict=True) if name != "log_std"]))
    return torch.stack(rows)


if __name__ == "__main__":
    main()
