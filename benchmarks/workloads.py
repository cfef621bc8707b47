"""What the engine is measured on: optimizees, and the same losses written by hand for the plain-PyTorch reference."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

import plain_pytorch as plain
from meta_opt.api import ModuleOptimizee, Optimizee, TensorDict
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt_optimizees.mlp import mlp
from meta_opt_optimizees.mnist_mlp import MnistMlp
from meta_opt_optimizees.quadratic import Quadratic

IMAGES = 2048  # how many images random data has


@dataclass(frozen=True)
class Workload:
    """B problems of an optimizee and unrolls of T steps; can be sent to a fresh process.

    Attributes:
        name: What it is called in the results.
        make: Makes the optimizee.
        plain_loss: The same loss by hand, of parameters, problem and batch, all three of B problems at once if B > 1;
            None where the reference cannot run.
        num_problems: B.
        num_steps: T.
        preprocess: Whether the learned optimizer reads logarithm and sign of the gradient, or the gradient itself.
        by_group: Whether every group of parameters has a network of its own.
        data: What the optimizee's data is.
    """

    name: str
    make: Callable[[], Optimizee]
    plain_loss: Callable[[TensorDict, TensorDict, TensorDict], Tensor] | None
    num_problems: int = 1
    num_steps: int = 20
    preprocess: bool = True
    by_group: bool = False
    data: str = "random"

    def make_optimizer(self) -> CoordinatewiseLSTM:
        """The paper's learned optimizer, two layers of 20, before its weights are made."""
        return CoordinatewiseLSTM(
            inputs="log_sign" if self.preprocess else "none", share="group" if self.by_group else "all"
        )


class Bowl(Optimizee):
    """Half the squared length of θ: next to no work, so that the learned optimizer's can be seen at any N."""

    def __init__(self, num_coordinates: int) -> None:
        """Choose N."""
        self._num_coordinates = num_coordinates

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0, standard normal."""
        return {"theta": torch.randn(self._num_coordinates, generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """½ ‖θ‖²."""
        return 0.5 * params["theta"].square().sum()


class Cnn(ModuleOptimizee):
    """Three 5×5 convolutions of 16 channels and a hidden layer of 32, on CIFAR-shaped random images."""

    def __init__(self) -> None:
        """Draw the images."""
        data = _random_examples(3, 32, 32)
        super().__init__(_cnn, train=data, validation=data, test=data, batch_size=128)

    def groups(self) -> Mapping[str, str]:
        """Convolutions, and fully connected layers."""
        return {name: "conv" if name.startswith("conv") else "fc" for name, _ in _cnn().named_parameters()}


def _cnn() -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, channels in enumerate((3, 16, 16), start=1):
        layers[f"conv{number}"] = nn.Conv2d(channels, 16, 5, padding="same", bias=False)
        layers[f"conv{number}_norm"] = nn.BatchNorm2d(16, track_running_stats=False)
        layers[f"conv{number}_relu"] = nn.ReLU()
        layers[f"conv{number}_pool"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(16 * 4 * 4, 32, bias=False)
    layers["fc_norm"] = nn.BatchNorm1d(32, track_running_stats=False)
    layers["fc_relu"] = nn.ReLU()
    layers["output"] = nn.Linear(32, 10)
    return nn.Sequential(layers)


class ResNet(ModuleOptimizee):
    """ResNet-18 as it is used on CIFAR (3×3 stem, no pooling), 11 million coordinates, on random images."""

    def __init__(self) -> None:
        """Draw the images."""
        data = _random_examples(3, 32, 32)
        super().__init__(_resnet, train=data, validation=data, test=data, batch_size=8)


def _resnet() -> nn.Module:
    from torchvision.models import resnet18  # importing torchvision takes a second

    module = resnet18(num_classes=10, norm_layer=partial(nn.BatchNorm2d, track_running_stats=False))
    module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    module.maxpool = nn.Identity()
    return module


def _mnist_mlp() -> Optimizee:
    if has_mnist():
        return MnistMlp()
    data = _random_examples(784)
    return ModuleOptimizee(
        partial(mlp, 784, (20,), 10, "sigmoid"), train=data, validation=data, test=data, init_std=0.01
    )


def has_mnist() -> bool:
    """Whether META_OPT_DATA_DIR names a folder with MNIST."""
    folder = os.environ.get("META_OPT_DATA_DIR")
    return folder is not None and (Path(folder) / "MNIST" / "raw").is_dir()


def _random_examples(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(IMAGES, *shape, generator=generator)
    return inputs, torch.randint(10, (IMAGES,), generator=generator)


def quadratic(num_problems: int = 128) -> Workload:
    """Quadratics of dimension 10, the gradient itself as input."""
    return Workload("quadratic", Quadratic, plain.quadratic_losses, num_problems, preprocess=False)


def mnist_mlp(num_problems: int = 1, num_steps: int = 20) -> Workload:
    """784-20-10, batch 128: 15,910 coordinates; on MNIST if it is there, otherwise on random images."""
    loss = plain.mlp_loss if num_problems == 1 else plain.mlp_losses
    data = "MNIST" if has_mnist() else "random"
    return Workload("mnist_mlp", _mnist_mlp, loss, num_problems, num_steps, data=data)


def cnn() -> Workload:
    """CIFAR-shaped images, batch 128, and two learned LSTMs: one for the convolutions, one for the rest."""
    return Workload("cnn", Cnn, plain.cnn_loss, by_group=True)


def bowl(num_coordinates: int) -> Workload:
    """N coordinates that cost nearly nothing to evaluate."""
    return Workload("bowl", partial(Bowl, num_coordinates), plain.bowl_loss)


def resnet() -> Workload:
    """11 million coordinates; there is no reference, which would need hundreds of gigabytes."""
    return Workload("resnet", ResNet, None)
