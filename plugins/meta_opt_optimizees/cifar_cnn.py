"""The convolutional network on CIFAR-10 of Andrychowicz et al. 2016 (arXiv:1606.04474, section 3.3).

Sizes, normalization, θ_0 and groups are those of DeepMind's published code, but for the biases before a batch
normalization: they have no effect.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.api import ModuleOptimizee, OptimizeeError, Split, TensorDict
from meta_opt_optimizees.conv_net import conv_and_fc, conv_net
from meta_opt_optimizees.data_folder import damaged, data_folder, download, lacks
from meta_opt_optimizees.mlp import RECOMMENDED_SETTINGS

_FOLDER = "cifar-10-batches-py"
_MOST = 32_000_000  # bytes of a file
_NUM_HELD_BACK = 5_000  # the last of the 50,000 training images, for validation problems


class CifarCnn(ModuleOptimizee):
    """A convolutional network that learns CIFAR-10, tiny photographs; downloads them where it finds none.

    Images lie in memory as bytes; mini-batches are standardized by channel.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 16, 16),
        kernel_size: int = 5,
        hidden_sizes: Sequence[int] = (32,),
        normalize: bool = True,
        labels: Sequence[int] | None = None,
        batch_size: int = 128,
        init_std: float | None = 0.01,
        data_dir: str | None = None,
    ) -> None:
        """Read the images.

        Args:
            channels: Number of channels of each convolution.
            kernel_size: Height and width of the filters.
            hidden_sizes: Number of units of each linear layer before the output.
            normalize: Whether to normalize, by the statistics of the mini-batch, what goes into each ReLU.
            labels: The classes to tell apart, out of 0 to 9 (airplane, automobile, bird, cat, deer, dog, frog, horse,
                ship, truck), for problems on part of the images; null for all.
            batch_size: Images in a mini-batch.
            init_std: Standard deviation of θ_0, weights and biases alike; null for PyTorch's own initialization.
            data_dir: Folder that holds cifar-10-batches-py, or where to put it; by default that of the environment
                variable META_OPT_DATA_DIR, or else data.

        Raises:
            OptimizeeError: If an argument is out of range, or the data cannot be had.
        """
        classes = list(range(10)) if labels is None else list(labels)
        if len(classes) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
            raise OptimizeeError(f"optimizee.labels must be different numbers of 0 to 9, two at least, not {classes}")
        train, test = read_cifar(data_folder(data_dir))
        held_back = slice(len(train[0]) - _NUM_HELD_BACK, None)
        rest = slice(0, len(train[0]) - _NUM_HELD_BACK)
        network = partial(conv_net, (3, 32, 32), channels, kernel_size, hidden_sizes, len(classes), normalize=normalize)
        super().__init__(
            network,
            train=_only(classes, train[0][rest], train[1][rest]),
            validation=_only(classes, train[0][held_back], train[1][held_back]),
            test=_only(classes, *test),
            batch_size=batch_size,
            init_std=init_std,
        )
        self.vmappable = False  # it would be slower: many small convolutions, with filters for each problem
        with torch.device("meta"):  # without weights
            self._groups = conv_and_fc(network())
        # Of the 50,000 training images.
        self.mean = 255 * torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
        self.std = 255 * torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """A mini-batch of ``split``, drawn with replacement, standardized."""
        batch = super().sample_batch(split, generator)
        inputs = (batch["inputs"].float() - self.mean) / self.std
        return {**batch, "inputs": inputs.contiguous(memory_format=torch.channels_last)}  # twice as fast on CPUs

    def groups(self) -> Mapping[str, str]:
        """``conv``, the filters, and ``fc``, all other parameters."""
        return self._groups

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small classifiers, a network for each group, and general_mlp to start from: episodes are slow."""
        return {
            **RECOMMENDED_SETTINGS,
            "model.warm_start": "general_mlp",
            "model.meta_loss": "log_sum",
            "model.max_num_steps": 1000,
            "model.lr": 0.002,
            "model.normalize_gradient": True,
            "model.estimator.replay_fraction": 0.25,
            "model.reference_lr": 0.01,
            "model.episodes_per_epoch": 20,
            "model.num_validation_problems": 3,
            "optimizer.share": "group",
            "optimizer.tensor_features": True,
            "trainer.max_epochs": 6,
        }


def read_cifar(folder: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training images [50000, 3, 32, 32] in 0..255 and labels [50000], and so the 10,000 test images.

    Args:
        folder: The folder that holds ``cifar-10-batches-py``. Where it lacks a file, CIFAR-10 is downloaded.

    Raises:
        OptimizeeError: If the files are neither there nor to be downloaded, or are damaged.
    """
    from torchvision.datasets import CIFAR10  # importing torchvision takes a second

    lists = (CIFAR10.train_list, CIFAR10.test_list)
    if lacks(folder / _FOLDER, (name for files in lists for name, _ in files)):
        download("CIFAR-10", folder, _FOLDER, _download)
    train, test = ([_read(folder / _FOLDER / name, md5) for name, md5 in files] for files in lists)
    return _joined(train), _joined(test)


def _read(path: Path, md5: str) -> tuple[Tensor, Tensor]:
    """Images and labels in one of CIFAR-10's files: a pickle, read only if it is the original."""
    try:
        with path.open("rb") as file:
            original = file.read(_MOST)
    except OSError as error:
        raise damaged("CIFAR-10", path, error) from error
    if hashlib.md5(original, usedforsecurity=False).hexdigest() != md5:
        raise damaged("CIFAR-10", path, f"its md5 is not {md5}")
    content = pickle.loads(original, encoding="latin1")  # noqa: S301 its md5 says that it is harmless
    return torch.from_numpy(content["data"]).view(-1, 3, 32, 32), torch.tensor(content["labels"])


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(labels)


def _only(classes: Sequence[int], images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The images of some classes, which are numbered in this order."""
    number = torch.full((10,), -1)
    number[list(classes)] = torch.arange(len(classes))
    wanted = number[labels] >= 0
    return images[wanted], number[labels[wanted]]


def _download(temporary: Path) -> Iterator[Path]:
    from torchvision.datasets import CIFAR10  # importing torchvision takes a second

    CIFAR10(temporary, download=True)
    yield from (temporary / _FOLDER).iterdir()
