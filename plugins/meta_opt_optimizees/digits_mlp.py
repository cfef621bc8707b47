"""A small network on 8x8 handwritten digits that ship with this package.

The 1,797 images are the test part of E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998, doi 10.24432/C50P49, under CC BY 4.0; see DIGITS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meta_opt.api import ModuleOptimizee
from meta_opt_optimizees.mlp import RECOMMENDED_SETTINGS, Activation, mlp


class DigitsMlp(ModuleOptimizee):
    """A small network (64-20-10) that learns 8x8 handwritten digits; needs no download."""

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (20,),
        activation: Activation = "sigmoid",
        batch_size: int = 128,
        init_std: float | None = 0.01,
    ) -> None:
        """Read the images.

        Args:
            hidden_sizes: Number of units of each hidden layer.
            activation: What follows each hidden layer.
            batch_size: Images in a mini-batch.
            init_std: Standard deviation of θ_0, weights and biases alike; null for PyTorch's own initialization.
        """
        images, labels = read_digits()
        super().__init__(
            partial(mlp, 64, hidden_sizes, 10, activation),
            train=(images[:1197], labels[:1197]),
            validation=(images[1197:1497], labels[1197:1497]),
            test=(images[1497:], labels[1497:]),
            batch_size=batch_size,
            init_std=init_std,
        )

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small classifiers, and how long to meta-train."""
        return {
            **RECOMMENDED_SETTINGS,
            "model.lr": 0.001,
            "model.normalize_gradient": True,
            "optimizer.tensor_features": True,
            "trainer.max_epochs": 16,
        }


def read_digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 64] in 0..1 and labels [1797], in the order of the original file."""
    with (files("meta_opt_optimizees") / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    return images.flatten(1).float() / 16, labels.long()
