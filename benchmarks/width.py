"""What happens in layers that are wider than any in meta-training?

    META_OPT_DATA_DIR=... python benchmarks/width.py --widths 64 128 256 512

Mean training loss of the last 20 of 300 steps of a network with hidden layers of ReLU on MNIST, mini-batches of 128, in
a loop of plain PyTorch: general_mlp, which has seen up to two of 64 units; the same without ``largest_width``, which
shortens its updates in wider ones; general, whose steps are in units of the matrix; and Adam at the best of three
learning rates.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional

from meta_opt import LearnedOptimizer
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt_optimizees.mnist_mlp import MnistMlp

STEPS, LAST = 300, 20
RATES = (3e-4, 1e-3, 3e-3)
Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--depth", type=int, default=2)
    arguments = parser.parse_args()
    data = MnistMlp()
    print("| units | general_mlp | without `largest_width` | general | Adam, best of three |")
    print("| --- | --- | --- | --- | --- |")
    for width in arguments.widths:
        losses = [final_loss(data, width, arguments.depth, make) for make in (learned, unlimited, general)]
        losses.append(min(final_loss(data, width, arguments.depth, adam(rate)) for rate in RATES))
        print(f"| {width} | {' | '.join(f'{loss:.4f}' for loss in losses)} |", flush=True)


def learned(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """As a user has it."""
    return LearnedOptimizer(params, pretrained="general_mlp")


def unlimited(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Without what is measured here."""
    optimizer = LearnedOptimizer(params, pretrained="general_mlp")
    network = optimizer._network
    assert isinstance(network, CoordinatewiseLSTM)
    network.largest_width = None
    return optimizer


def general(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """It knows the number of steps."""
    return LearnedOptimizer(params, pretrained="general", num_steps=STEPS)


def adam(rate: float) -> Make:
    """Adam with a learning rate."""
    return lambda params: torch.optim.Adam(params, rate)


def final_loss(data: MnistMlp, width: int, depth: int, make: Make) -> float:
    """Train one network; the mean of its last losses."""
    torch.manual_seed(0)
    sizes = [784, *[width] * depth]
    hidden = [layer for pair in itertools.pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(width, 10))
    optimizer, losses = make(model.parameters()), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = data.sample_batch("train", generator)
        loss = functional.cross_entropy(model(batch["inputs"]), batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-LAST:]) / LAST


if __name__ == "__main__":
    main()
