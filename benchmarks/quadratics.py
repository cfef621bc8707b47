"""How far could one get on the quadratics? Methods that `meta-opt compare` cannot run, on its test problems.

    python benchmarks/quadratics.py

The Chebyshev iteration, told the largest eigenvalue of each problem: no method whose steps are fixed combinations of
the gradients so far does better on every quadratic with eigenvalues in an interval than the Chebyshev iteration for
that interval. Here it is [κ λ_max, λ_max], with each problem's own λ_max, which no optimizer is told, and κ, for all
problems, tuned on validation problems for each figure.

PyTorch's limited-memory BFGS, one gradient a step and no line search, its learning rate tuned in the same way.

And subspace_lstm before meta-training, which takes very nearly the steps of L-BFGS, no longer than twice the last ones.

The test problems are those of `meta-opt compare --pretrained quadratic --num_problems 256`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from meta_opt import registry
from meta_opt.inner_loop.episodes import Curves, run_episodes
from meta_opt.optimizees.contract import Split
from meta_opt.optimizees.problems import Problems, layout_of, problem_generator
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM


def main() -> None:
    """Tune what there is to tune, and print what they give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--num_problems", type=int, default=256)
    parser.add_argument("--num_validation_problems", type=int, default=128)
    arguments = parser.parse_args()
    sizes: dict[Split, int] = {"validation": arguments.num_validation_problems, "test": arguments.num_problems}
    spectra = {split: decompose(split, number) for split, number in sizes.items()}
    tune(
        "Chebyshev, κ",
        torch.logspace(-5, -0.1, 99, dtype=torch.float64),
        lambda split, kappa: chebyshev(*spectra[split], kappa, arguments.num_steps),
    )
    tune(
        "L-BFGS, learning rate",
        torch.logspace(-1, 0.5, 7, dtype=torch.float64),
        lambda split, lr: lbfgs(split, sizes[split], float(lr), arguments.num_steps),
    )
    curves = untrained(arguments.num_problems, arguments.num_steps)
    for figure, values in (("sum", curves.sum), ("final", curves.final)):
        print(f"subspace_lstm, untrained: {show(figure, values)}")


def tune(name: str, candidates: Tensor, losses: Callable[[Split, Tensor], Tensor]) -> None:
    """Print sum and final loss on test problems, each with the candidate that is best for it on validation problems."""
    tried = [losses("validation", candidate) for candidate in candidates]
    for figure, read in (("sum", lambda curves: curves[1:].sum(0)), ("final", lambda curves: curves[-1])):
        best = candidates[torch.stack([read(curves).mean() for curves in tried]).nan_to_num(torch.inf).argmin()]
        values = read(losses("test", best))
        print(f"{name} {best:.2g}: {show(figure, values)}")


def show(figure: str, values: Tensor) -> str:
    """Mean and standard error."""
    return f"{figure} {values.mean():.4g} ± {values.std() / len(values) ** 0.5:.2g}"


def decompose(split: Split, num_problems: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the Hessian, [B, N], and θ_0 less the minimum along its eigenvectors, [B, N]."""
    optimizee = registry.load("optimizee", "quadratic")()
    problems = Problems(optimizee, split, range(num_problems), seed=0, dtype=torch.float64)
    start = problems.initial_params
    at_zero = problems.evaluate(torch.zeros_like(start)).grad
    columns = [problems.evaluate(unit.expand_as(start)).grad - at_zero for unit in torch.eye(start.shape[1]).double()]
    eigenvalues, vectors = torch.linalg.eigh(torch.stack(columns, dim=-1))
    minimum = torch.linalg.solve(torch.stack(columns, dim=-1), -at_zero.unsqueeze(-1))
    return eigenvalues, (vectors.mT @ (start.unsqueeze(-1) - minimum)).squeeze(-1)


def chebyshev(eigenvalues: Tensor, errors: Tensor, kappa: Tensor, num_steps: int) -> Tensor:
    """The losses after 0..num_steps steps, [num_steps + 1, B]: step t leaves T_t(z) / T_t(z_0) of each error."""
    largest = eigenvalues[:, -1:]
    z = (largest + kappa * largest - 2.0 * eigenvalues) / (largest - kappa * largest)
    z_0 = (1.0 + kappa) / (1.0 - kappa)
    before, now = torch.ones_like(z), z / z_0
    losses = [eigenvalues * errors**2 / 2, eigenvalues * (now * errors) ** 2 / 2]
    ratio = z_0  # T_t(z_0) / T_{t-1}(z_0), which T_t itself would overflow
    for _ in range(num_steps - 1):
        following = 2.0 * z_0 - 1.0 / ratio
        before, now = now, 2.0 * z * now / following - before / (following * ratio)
        ratio = following
        losses.append(eigenvalues * (now * errors) ** 2 / 2)
    return torch.stack(losses).sum(-1)


def lbfgs(split: Split, num_problems: int, lr: float, num_steps: int) -> Tensor:
    """The losses after 0..num_steps steps, [num_steps + 1, B]."""
    problems = Problems(
        registry.load("optimizee", "quadratic")(), split, range(num_problems), seed=0, dtype=torch.float64
    )
    starts = problems.initial_params
    params = [torch.nn.Parameter(start.clone()) for start in starts]
    options = {"max_iter": 1, "max_eval": 1, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizers = [torch.optim.LBFGS([param], lr, **options) for param in params]
    losses = []
    for _ in range(num_steps + 1):
        evaluation = problems.evaluate(torch.stack([param.detach() for param in params]))
        losses.append(evaluation.loss)
        for param, grad, loss, optimizer in zip(params, evaluation.grad, evaluation.loss, optimizers, strict=True):
            param.grad = grad
            optimizer.step(lambda loss=loss: loss)
    return torch.stack(losses)


def untrained(num_problems: int, num_steps: int) -> Curves:
    """Loss curves of the learned optimizer as it is built."""
    optimizee = registry.load("optimizee", "quadratic")()
    optimizer = SubspaceLSTM()
    optimizer.build(layout_of(optimizee), problem_generator(0, "phi"))
    return run_episodes(optimizee, optimizer.requires_grad_(False), "test", num_problems, num_steps, seed=0)


if __name__ == "__main__":
    main()
