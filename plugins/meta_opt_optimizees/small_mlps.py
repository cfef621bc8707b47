"""Small networks at large: what a learned optimizer for general use is trained on."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, get_args

import torch
from torch import Generator, Tensor

from meta_opt.api import ModuleOptimizee, Optimizee, OptimizeeFamily, Split
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.mlp import RECOMMENDED_SETTINGS, Activation, mlp
from meta_opt_optimizees.mnist_mlp import MnistMlp, unit

_DATA_SETS = {"mnist": 0.3, "pooled": 0.5, "digits": 0.2}  # name: probability; small images are cheap
_TWO_LAYERS = 0.3
_HIDDEN_SIZES = (10, 64)
_INIT_STD = (0.01, 0.2)
_MODULE_INIT = 0.2  # probability of PyTorch's own initialization


class SmallMlps(OptimizeeFamily):
    """Networks of one or two hidden layers of many kinds on MNIST, MNIST at half resolution, and 8x8 digits.

    Activation sigmoid, tanh, ReLU or leaky ReLU; 10 to 64 units; θ_0 normal with a standard deviation of 0.01 to 0.2
    (log-uniform), or PyTorch's own.
    """

    def __init__(self, batch_size: int = 128, data_dir: str | None = None) -> None:
        """Read the images.

        Args:
            batch_size: Images in a mini-batch.
            data_dir: Folder that holds MNIST/raw, as for mnist_mlp.
        """
        mnist = MnistMlp(batch_size=batch_size, data_dir=data_dir)
        self._members: dict[str, ModuleOptimizee] = {
            "mnist": mnist,
            "pooled": _pooled(mnist, batch_size),
            "digits": DigitsMlp(batch_size=batch_size),
        }

    def variant(self, generator: Generator) -> Optimizee:
        """Draw data set, architecture and scale of θ_0."""
        names = list(_DATA_SETS)
        index = int(torch.multinomial(torch.tensor([*_DATA_SETS.values()]), 1, generator=generator))
        activations = get_args(Activation)
        activation = activations[int(torch.randint(len(activations), (), generator=generator))]
        num_layers = 1 + int(_uniform(0.0, 1.0, generator) < _TWO_LAYERS)
        sizes = [round(log_uniform(*_HIDDEN_SIZES, generator)) for _ in range(num_layers)]
        std = log_uniform(*_INIT_STD, generator)
        init_std = None if _uniform(0.0, 1.0, generator) < _MODULE_INIT else std
        member = self._members[names[index]]
        return member.with_module(partial(mlp, member.inputs.shape[1], sizes, 10, activation), init_std)

    def to(self, device: torch.device | str) -> Optimizee:
        """Move the images to ``device``."""
        for member in self._members.values():
            member.to(device)
        return self

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small classifiers; problems differ much, so that there are many for validation."""
        return {
            **RECOMMENDED_SETTINGS,
            "model.max_num_steps": 1000,
            "model.episodes_per_epoch": 25,
            "model.lr": 0.002,
            "model.normalize_gradient": True,
            "model.estimator.replay_fraction": 0.25,
            "optimizer.share": "kind",
            "optimizer.tensor_features": True,
            "model.num_validation_problems": 24,
            "trainer.max_epochs": 20,
        }


def _pooled(optimizee: ModuleOptimizee, batch_size: int) -> ModuleOptimizee:
    """The same digits as means of 2x2 pixels, 14x14 images."""

    def examples(split: Split) -> tuple[Tensor, Tensor]:
        images, labels = optimizee.examples(split)
        return unit(images).view(-1, 14, 2, 14, 2).mean((2, 4)).flatten(1), labels

    return ModuleOptimizee(
        partial(mlp, 196, (20,), 10, "sigmoid"),
        train=examples("train"),
        validation=examples("validation"),
        test=examples("test"),
        batch_size=batch_size,
    )


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def log_uniform(low: float, high: float, generator: Generator) -> float:
    """A number between the two whose logarithm is uniform."""
    return math.exp(_uniform(math.log(low), math.log(high), generator))
