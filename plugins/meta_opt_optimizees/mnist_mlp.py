"""The network on MNIST of Andrychowicz et al. 2016 (arXiv:1606.04474, section 3.2).

θ_0 is drawn as in DeepMind's published code: weights and biases normal with standard deviation 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from meta_opt.api import ModuleOptimizee, Split, TensorDict
from meta_opt_optimizees.data_folder import damaged, data_folder, download, lacks
from meta_opt_optimizees.mlp import RECOMMENDED_SETTINGS, Activation, mlp

_NUM_HELD_BACK = 10_000  # the last of the 60,000 training images, for validation problems


class MnistMlp(ModuleOptimizee):
    """A small network (784-20-10) that learns MNIST digits; downloads MNIST where it finds none.

    Images lie in memory as bytes, since fetching a mini-batch of them takes as long as the network's arithmetic.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (20,),
        activation: Activation = "sigmoid",
        batch_size: int = 128,
        init_std: float | None = 0.01,
        data_dir: str | None = None,
    ) -> None:
        """Read the images.

        Args:
            hidden_sizes: Number of units of each hidden layer.
            activation: What follows each hidden layer.
            batch_size: Images in a mini-batch.
            init_std: Standard deviation of θ_0, weights and biases alike; null for PyTorch's own initialization.
            data_dir: Folder that holds MNIST/raw, or where to put it; by default that of the environment variable
                META_OPT_DATA_DIR, or else data.
        """
        train, validation, test = mnist_examples(data_folder(data_dir))
        super().__init__(
            partial(mlp, 784, hidden_sizes, 10, activation),
            train=train,
            validation=validation,
            test=test,
            batch_size=batch_size,
            init_std=init_std,
        )

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """A mini-batch of ``split``, drawn with replacement, in 0..1."""
        batch = super().sample_batch(split, generator)
        return {**batch, "inputs": unit(batch["inputs"])}

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small classifiers, and how long to meta-train."""
        return {
            **RECOMMENDED_SETTINGS,
            "model.max_num_steps": 400,
            "model.lr": 0.002,
            "model.clip_relative": 2.0,
            "model.estimator.replay_fraction": 0.25,
            "model.average_decay": 0.99,
            "optimizer.share": "kind",
            "optimizer.tensor_features": True,
            "trainer.max_epochs": 36,
        }


def mnist_examples(folder: Path, shape: tuple[int, ...] = (784,)) -> tuple[tuple[Tensor, Tensor], ...]:
    """Images [n, *shape] in 0..255 and labels [n], for training, validation (the last 10,000 training images) and test.

    Args:
        folder: See :func:`read_mnist`.
        shape: That of an image.

    Raises:
        OptimizeeError: See :func:`read_mnist`.
    """
    images, labels, test_images, test_labels = read_mnist(folder)
    images, test_images = images.view(-1, *shape), test_images.view(-1, *shape)
    return (
        (images[:-_NUM_HELD_BACK], labels[:-_NUM_HELD_BACK]),
        (images[-_NUM_HELD_BACK:], labels[-_NUM_HELD_BACK:]),
        (test_images, test_labels),
    )


def read_mnist(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images [60000, 784] in 0..255 and labels [60000], test images [10000, 784] and labels [10000].

    Args:
        folder: The folder that holds ``MNIST/raw``. Where it lacks a file, MNIST is downloaded.

    Raises:
        OptimizeeError: If the files are neither there nor to be downloaded, or are damaged.
    """
    raw = folder / "MNIST" / "raw"
    shapes = {
        "train-images-idx3-ubyte": (60_000, 28, 28),
        "train-labels-idx1-ubyte": (60_000,),
        "t10k-images-idx3-ubyte": (10_000, 28, 28),
        "t10k-labels-idx1-ubyte": (10_000,),
    }
    if lacks(raw, shapes):
        download("MNIST", folder, "MNIST/raw", _download)
    images, labels, test_images, test_labels = (_read(raw / name, shape) for name, shape in shapes.items())
    return images.flatten(1), labels, test_images.flatten(1), test_labels


def unit(images: Tensor) -> Tensor:
    """Images in 0..255 as numbers in 0..1."""
    return images.float().div_(255)


def _read(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The images, 0..255, or labels, 0..9, of one of MNIST's files."""
    from torchvision.datasets.mnist import read_image_file, read_label_file  # importing torchvision takes a second

    is_labels = len(shape) == 1
    whole = 4 + 4 * len(shape) + math.prod(shape)
    try:
        if path.stat().st_size > whole:  # before it is read
            raise ValueError(f"{path.stat().st_size} bytes instead of {whole}")
        tensor: Tensor = (read_label_file if is_labels else read_image_file)(str(path))
        if tensor.shape != shape:
            raise ValueError(f"shape {list(tensor.shape)} instead of {list(shape)}")
        if is_labels and tensor.max() > 9:
            raise ValueError("labels beyond 9")
    # What torchvision raises at a file of the wrong length or content depends on where it notices.
    except (AssertionError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise damaged("MNIST", path, error) from error
    return tensor


def _download(temporary: Path) -> list[Path]:
    from torchvision.datasets import MNIST  # importing torchvision takes a second

    return list(Path(MNIST(temporary, download=True).raw_folder).glob("*-ubyte"))
