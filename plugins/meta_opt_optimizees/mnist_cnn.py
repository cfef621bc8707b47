"""The classical network of two convolutions on MNIST (after LeCun et al. 1998)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator

from meta_opt.api import ModuleOptimizee, Split, TensorDict
from meta_opt_optimizees.conv_net import conv_and_fc, conv_net
from meta_opt_optimizees.data_folder import data_folder
from meta_opt_optimizees.mlp import RECOMMENDED_SETTINGS
from meta_opt_optimizees.mnist_mlp import mnist_examples, unit


class MnistCnn(ModuleOptimizee):
    """Two convolutions with max-pooling and ReLU, then a linear layer; downloads MNIST where it finds none."""

    def __init__(
        self,
        channels: Sequence[int] = (8, 16),
        kernel_size: int = 5,
        hidden_sizes: Sequence[int] = (),
        normalize: bool = False,
        batch_size: int = 64,
        init_std: float | None = None,
        data_dir: str | None = None,
    ) -> None:
        """Read the images.

        Args:
            channels: Number of channels of each convolution.
            kernel_size: Height and width of the filters.
            hidden_sizes: Number of units of each linear layer before the output.
            normalize: Whether to normalize, by the statistics of the mini-batch, what goes into each ReLU.
            batch_size: Images in a mini-batch.
            init_std: Standard deviation of θ_0, weights and biases alike; null for PyTorch's own initialization.
            data_dir: Folder that holds MNIST/raw, or where to put it; by default that of the environment variable
                META_OPT_DATA_DIR, or else data.

        Raises:
            OptimizeeError: If an argument is out of range, or the data cannot be had.
        """
        train, validation, test = mnist_examples(data_folder(data_dir), (1, 28, 28))
        network = partial(conv_net, (1, 28, 28), channels, kernel_size, hidden_sizes, 10, normalize=normalize)
        super().__init__(
            network,
            train=train,
            validation=validation,
            test=test,
            batch_size=batch_size,
            init_std=init_std,
        )
        self.vmappable = False  # it would be slower: many small convolutions, with filters for each problem
        with torch.device("meta"):  # without weights
            self._groups = conv_and_fc(network())

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """A mini-batch of ``split``, drawn with replacement, in 0..1."""
        batch = super().sample_batch(split, generator)
        return {**batch, "inputs": unit(batch["inputs"])}

    def groups(self) -> Mapping[str, str]:
        """``conv``, the filters, and ``fc``, all other parameters."""
        return self._groups

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small classifiers, a network for each group."""
        return {
            **RECOMMENDED_SETTINGS,
            "model.max_num_steps": 400,
            "model.lr": 0.002,
            "model.clip_relative": 2.0,
            "model.estimator.replay_fraction": 0.25,
            "model.reference_lr": 0.01,
            "model.num_validation_problems": 4,
            "optimizer.share": "group",
            "optimizer.tensor_features": True,
            "trainer.max_epochs": 12,
        }
