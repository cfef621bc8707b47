"""Make the table of the optimizee digits_tuning: what networks on digits reach with 13 learning rates and 7 widths.

    python benchmarks/digits_tuning.py

Writes plugins/meta_opt_optimizees/digits_tuning.npz: for each split losses [problems, learning rates, widths].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from meta_opt_optimizees.digits_mlp import read_digits

RATES = torch.logspace(-3, 1, 13)
WIDTHS = (2, 4, 8, 16, 32, 64, 128)
COUNTS = {"train": 64, "validation": 16, "test": 32}
RANGES = {"train": (0, 1197), "validation": (0, 1197), "test": (1197, 1797)}  # two thirds to train on, a third to judge
WORST = 5.0  # what a loss counts as that is higher or not finite
OUT = Path(__file__).parent.parent / "plugins" / "meta_opt_optimizees" / "digits_tuning.npz"


def row(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """One problem: the losses with each learning rate and width, [13, 7]."""
    cut = len(images) * 2 // 3
    order = torch.randperm(len(images), generator=generator)
    size = min(cut, int(50 * 12 ** torch.rand((), generator=generator)))
    seen, unseen = order[:size], order[cut:]
    batch_size = int(torch.tensor([8, 16, 32, 64])[torch.randint(4, (), generator=generator)])
    steps = int(50 * 6 ** torch.rand((), generator=generator))
    activation = (torch.tanh, torch.relu, torch.sigmoid)[int(torch.randint(3, (), generator=generator))]
    batches = seen[torch.randint(size, (steps, batch_size), generator=generator)]
    columns = []
    for width in WIDTHS:
        shapes = ((64, width), (1, width), (width, 10), (1, 10))
        start = [torch.randn(shape, generator=generator) / shape[0] ** 0.5 * (shape[0] > 1) for shape in shapes]
        theta = [each.repeat(len(RATES), 1, 1).requires_grad_() for each in start]

        def losses(of: Tensor, theta: list[Tensor] = theta) -> Tensor:
            hidden = activation(images[of] @ theta[0] + theta[1])
            scores = (hidden @ theta[2] + theta[3]).log_softmax(2)
            return -scores[:, torch.arange(len(of)), labels[of]].mean(1)

        for batch in batches:
            grads = torch.autograd.grad(losses(batch).sum(), theta)
            with torch.no_grad():
                for each, grad in zip(theta, grads, strict=True):
                    each -= RATES.view(-1, 1, 1) * grad
        with torch.no_grad():
            columns.append(losses(unseen).nan_to_num(WORST, WORST).clamp_max(WORST))
    return torch.stack(columns, 1)


def main() -> None:
    """Train all networks."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    images, labels = read_digits()
    tables = {}
    for number, (split, count) in enumerate(COUNTS.items()):
        part = slice(*RANGES[split])
        generator = Generator().manual_seed(number)
        tables[split] = torch.stack([row(images[part], labels[part], generator) for _ in range(count)]).numpy()
    np.savez_compressed(OUT, **{split: table.astype(np.float16) for split, table in tables.items()})


if __name__ == "__main__":
    main()
