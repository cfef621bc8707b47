"""A step of the drop-in optimizer on the paper's MNIST network: against plain ``nn.LSTMCell``, and against Adam.

    python benchmarks/drop_in.py
    python benchmarks/drop_in.py --hidden_sizes 256 256 --threads 1
    python benchmarks/drop_in.py --device cuda

All sides move the same parameters (784-20-10) by the same fixed gradients, in turn; figures are medians over the
repetitions. Sides: LearnedOptimizer with its native kernel (native) and in PyTorch (torch), the same network from
``nn.LSTMCell`` in a ``torch.optim.Optimizer`` (plain), LearnedOptimizer with general_mlp, which reads and writes more
(general_mlp), general, which also has a horizon, torch.optim.Muon with AdamW for vectors (muon), and torch.optim.Adam
(adam). In a line:

    ms_per_step             of optimizer.step()
    times_as_fast_as_plain  plain's over each side's
    largest_difference      between the first side's parameters and plain's after three steps
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from measuring import prepare, side_names
from meta_opt import LearnedOptimizer
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.saved.recipes import load_optimizer
from plain_pytorch import PlainLSTM
from sides import plain_lstm, wait_for

_HORIZON = 100_000  # steps that general is told of: more than are taken


class PlainOptimizer(torch.optim.Optimizer):
    """The paper's learned optimizer as one writes it without a library: one vector of all gradients."""

    def __init__(self, params: Iterable[Tensor], network: PlainLSTM) -> None:
        """Start from a state of zeros."""
        super().__init__(params, {"lr": 1.0})
        self._network, self._state = network, network.zero_state(sum(p.numel() for p in self.param_groups[0]["params"]))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step."""
        (group,) = self.param_groups
        update, self._state = self._network(torch.cat([p.grad.flatten() for p in group["params"]]), self._state)
        for p, part in zip(group["params"], update.split([p.numel() for p in group["params"]]), strict=True):
            p.add_(part.view_as(p), alpha=group["lr"])


class MuonAndAdamW:
    """Muon for matrices, and AdamW for the rest."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        """With rates of no matter."""
        self.param_groups = [{"params": params}]
        matrices, rest = ([p for p in params if (p.ndim == 2) is of_matrices] for of_matrices in (True, False))
        self._parts = torch.optim.Muon(matrices, lr=1e-3), torch.optim.AdamW(rest, lr=1e-3)

    def step(self) -> None:
        """One step."""
        for part in self._parts:
            part.step()


class _Nothing(Optimizee):
    """What the learned optimizer is built for; it is not meta-trained."""

    def init_params(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.zeros(1)}

    def loss(self, params: dict[str, Tensor], problem: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return params["x"].sum()


def make_params(hidden_sizes: list[int], device: str = "cpu") -> list[nn.Parameter]:
    """Parameters of a fully connected network with 784 inputs and 10 outputs, and gradients, always the same."""
    torch.manual_seed(0)
    sizes = [784, *hidden_sizes, 10]
    params = []
    for before, after in pairwise(sizes):
        for shape in ((after, before), (after,)):
            params.append(nn.Parameter(0.1 * torch.randn(shape).to(device)))
            params[-1].grad = 0.01 * torch.randn(shape).to(device)
    return params


def make_sides(hidden_sizes: list[int], folder: Path, device: str = "cpu") -> dict[str, Any]:
    """The optimizers that are compared, each with parameters of its own."""
    module = MetaLearner(_Nothing(), CoordinatewiseLSTM())
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    path = folder / "untrained.ckpt"
    torch.save(checkpoint, path)
    network = load_optimizer(path)
    assert isinstance(network, CoordinatewiseLSTM)
    makers: dict[str, Callable[[list[nn.Parameter]], Any]] = {
        "native": lambda params: LearnedOptimizer(params, checkpoint=path, engine="native"),
        "torch": lambda params: LearnedOptimizer(params, checkpoint=path, engine="torch"),
        "plain": lambda params: PlainOptimizer(params, plain_lstm(network, "all").to(device)),
        "general_mlp": lambda params: LearnedOptimizer(params, pretrained="general_mlp"),
        "general": lambda params: LearnedOptimizer(params, pretrained="general", num_steps=_HORIZON),
        "muon": MuonAndAdamW,
        "adam": lambda params: torch.optim.Adam(params, lr=1e-3),
    }
    sides = (name for name in side_names(device) if name in makers)
    return {
        name: makers[name](make_params(hidden_sizes, device))
        for name in [*sides, "general_mlp", "general", "muon", "adam"]
    }


def seconds(optimizer: Any, num_steps: int, device: str) -> float:
    """Per step."""
    wait_for(device)
    started = time.perf_counter()
    for _ in range(num_steps):
        optimizer.step()
    wait_for(device)
    return (time.perf_counter() - started) / num_steps


def largest_difference(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> float:
    """Between their parameters."""
    pairs = zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden_sizes", type=int, nargs="*", default=[20])
    parser.add_argument("--threads", type=int, help="threads of every side; default: all cores")
    parser.add_argument("--repeats", type=int, default=31, help="repetitions")
    parser.add_argument("--num_steps", type=int, default=10, help="steps of a side in a repetition")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    threads, device = prepare(arguments.threads), arguments.device
    with tempfile.TemporaryDirectory() as folder:
        sides = make_sides(arguments.hidden_sizes, Path(folder), device)
    for optimizer in sides.values():
        seconds(optimizer, 3, device)
    difference = largest_difference(next(iter(sides.values())), sides["plain"])
    rounds = [
        {name: seconds(optimizer, arguments.num_steps, device) for name, optimizer in sides.items()}
        for _ in range(arguments.repeats)
    ]
    times = {name: median(each[name] for each in rounds) for name in sides}
    line = {
        "coordinates": sum(param.numel() for param in sides["plain"].param_groups[0]["params"]),
        "threads": threads,
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "repeats": arguments.repeats,
        "ms_per_step": {name: round(1e3 * value, 4) for name, value in times.items()},
        "times_as_fast_as_plain": {name: round(times["plain"] / value, 2) for name, value in times.items()},
        "largest_difference": difference,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
