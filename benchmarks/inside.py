"""What goes on inside of two trained optimizers: the averages of lstm_gac, and the memory of ntm_bfgs.

    python benchmarks/inside.py --folder docs/pictures

On test problems of 10 dimensions and condition number 100, with the pretrained optimizers. Writes averages.png and
memory.png, and prints how far the memory is from the inverse Hessian.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.lstm_gac import GACState
from meta_opt.optimizers.memory import DenseMemory
from meta_opt.optimizers.ntm_bfgs import NTMBFGS, NTMState
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.quadratic import Quadratic

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

COLORS = ("#b00020", "#4a7fb5", "#bf5600", "#3f9b63")
DASHES = ("-", "--", ":", "-.")


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the pictures go")
    arguments = parser.parse_args()
    pictures = {
        "averages": averages_over_an_episode(load_optimizer(pretrained_path("lstm_gac")), 60),
        "memory": memory_over_an_episode(load_optimizer(pretrained_path("ntm_bfgs")), 40),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.folder / f"{name}.png", dpi=110)


@torch.no_grad()
def states(optimizer: OptimizerNetwork, problems: Problems, num_steps: int) -> tuple[list[object], Tensor, Tensor]:
    """The states after each step, losses before each [T, B], and norms of gradients [T, B]."""
    theta, found, losses, norms = problems.initial_params, [], [], []
    state = optimizer.init_state(problems.layout, len(theta))
    for _ in range(num_steps):
        evaluation = problems.evaluate(theta)
        losses.append(evaluation.loss)
        norms.append(evaluation.grad.norm(dim=1))
        update, state, _ = optimizer.step(evaluation, state)
        theta = theta + update
        found.append(state)
    return found, torch.stack(losses), torch.stack(norms)


def averages_over_an_episode(optimizer: OptimizerNetwork, num_steps: int) -> Figure:
    """Averages of lstm_gac over one episode, and against the norm of the gradient over 32 of them."""
    problems = Problems(Quadratic(condition=100.0), "test", range(32), seed=0)
    found, _, norms = states(optimizer, problems, num_steps)
    averages = averages_in(found, optimizer.num_averaging, len(norms[0]))  # type: ignore[arg-type]
    figure, (size, over_steps, over_size) = plt.subplots(1, 3, figsize=(11, 3.8), layout="constrained")
    size.plot(norms[:, 0], color="black")
    size.set(yscale="log", xlabel="step", title="norm of the gradient")
    for index in range(averages.shape[1]):
        layer, cell = divmod(index, optimizer.num_averaging)  # type: ignore[arg-type]
        color, label = COLORS[index % 4], f"layer {layer + 1}, cell {cell + 1}"
        over_steps.plot(averages[:, index, 0], color=color, ls=DASHES[index % 4], label=label)
        over_size.scatter(norms, averages[:, index], s=2, color=color, alpha=0.35, lw=0)
    over_steps.set(xlabel="step", title="the averages in the same episode")
    figure.legend(*over_steps.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    over_size.set(xscale="log", xlabel="norm of the gradient", title="the same in 32 episodes, all steps")
    return figure


def averages_in(found: list[GACState], num_averaging: int, num_problems: int) -> Tensor:
    """The averages, [T, layers · G, B]."""
    steps = [
        torch.cat([rows[:num_averaging].view(num_averaging, num_problems, -1)[:, :, 0] for rows in state.hidden])
        for state in found
    ]
    return torch.stack(steps)


def memory_over_an_episode(optimizer: OptimizerNetwork, num_steps: int) -> Figure:
    """Eigenvalues of M of ntm_bfgs and of the inverse Hessian over one episode, and the loss."""
    assert isinstance(optimizer, NTMBFGS)
    problems = Problems(Quadratic(condition=100.0), "test", range(32), seed=0, dtype=torch.float64)
    found, losses, _ = states(optimizer.double(), problems, num_steps)
    inverse = torch.linalg.inv(hessians(problems))
    matrices = [memory_of(optimizer, state) for state in found]  # type: ignore[arg-type]
    for step in (1, 5, 10, 20, 40):
        off = [(m - h).norm() / h.norm() for m, h in zip(matrices[step - 1], inverse, strict=True)]
        print(f"after {step} steps M is off by {torch.stack(off).median():.3g} of the norm of the inverse Hessian")
    shown = torch.stack([torch.linalg.eigvalsh((m[0] + m[0].mT) / 2) for m in matrices])
    figure, (values, loss) = plt.subplots(
        2, 1, figsize=(7, 5.6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    steps = range(1, num_steps + 1)
    for index, value in enumerate(torch.linalg.eigvalsh(inverse[0])):
        label = "inverse Hessian" if index == 0 else None
        values.axhline(float(value), color="#4a7fb5", ls="--", lw=1, label=label)
    values.plot(steps, shown.where(shown > 0, torch.nan), color="#b00020", lw=1.4, label=["M", *[None] * 9])
    values.set(yscale="log", ylabel="eigenvalues")
    figure.legend(*values.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    loss.plot(steps, losses[:, 0], color="black")
    loss.set(yscale="log", ylabel="loss", xlabel="step")
    return figure


def memory_of(optimizer: NTMBFGS, state: NTMState) -> Tensor:
    """M, [B, N, N]."""
    assert isinstance(state.memory, DenseMemory)
    scale = optimizer.log_first.exp() / state.first  # [B, 1]
    return torch.diag_embed(scale.expand(-1, state.memory.written.shape[1])) + state.memory.written


def hessians(problems: Problems) -> Tensor:
    """Of quadratic functions, [B, N, N], from gradients along the axes."""
    start = problems.initial_params
    at_zero = problems.evaluate(torch.zeros_like(start)).grad
    units = torch.eye(start.shape[1], dtype=start.dtype)
    return torch.stack([problems.evaluate(unit.expand_as(start)).grad - at_zero for unit in units], dim=-1)


if __name__ == "__main__":
    main()
