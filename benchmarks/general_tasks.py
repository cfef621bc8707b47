"""Tasks of many kinds on data at hand, in plain PyTorch, none of which a shipped optimizer was meta-trained on.

MNIST, CIFAR-10 and Omniglot come from META_OPT_DATA_DIR, text is the source of modules of Python's own library, and the
rest is made here.
"""

from __future__ import annotations

import inspect
import math
import os
import textwrap
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

Examples = tuple[Tensor, Tensor]


class Task(NamedTuple):
    """A network to be trained.

    Attributes:
        kind: What kind of network it is.
        data: Gives the examples of training, and those of test where there are any that training does not see.
        module: Makes the network, from the global generator.
        criterion: Loss of its outputs and the targets.
        batch_size: Examples in a mini-batch.
    """

    kind: str
    data: Callable[[], tuple[Examples, Examples | None]]
    module: Callable[[], nn.Module]
    criterion: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    batch_size: int = 64


# ---------------------------------------------------------------------------------------------------------------- data


def _read(name: str, train: bool) -> Examples:
    from torchvision import datasets

    folder = os.environ["META_OPT_DATA_DIR"]
    if name == "omniglot":
        return _omniglot(Path(folder) / "omniglot-py" / "images_background.zip", train)
    if name == "mnist":
        data = datasets.MNIST(folder, train=train)
        return _standardized(data.data[:10000].float().unsqueeze(1)), data.targets[:10000]
    data = datasets.CIFAR10(folder, train=train)
    images = torch.from_numpy(data.data[:10000]).float().permute(0, 3, 1, 2)
    return _standardized(images), torch.tensor(data.targets[:10000])


def _omniglot(archive: Path, train: bool) -> Examples:
    """The first 50 characters; 15 drawings of each for training and 5 for test."""
    from PIL import Image

    drawings = []
    with ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".png"))[: 50 * 20]
        for name in names:
            with file.open(name) as one, Image.open(one) as image:
                drawings.append(torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255.0))
    ink = functional.adaptive_avg_pool2d(1.0 - torch.stack(drawings).unsqueeze(1), 28)
    chosen = (torch.arange(len(ink)) % 20 < 15) == train
    return _standardized(ink[chosen]), torch.arange(len(ink))[chosen] // 20


def _standardized(images: Tensor) -> Tensor:
    return (images - images.mean()) / images.std()


@cache
def images(name: str, size: int = 28) -> tuple[Examples, Examples]:
    """Images of this height and width, with classes."""
    parts = []
    for inputs, labels in (_read(name, True), _read(name, False)):
        parts.append((functional.adaptive_avg_pool2d(inputs, size) if inputs.shape[-1] != size else inputs, labels))
    return parts[0], parts[1]


@cache
def themselves(name: str, size: int) -> tuple[Examples, Examples]:
    """Images, to be given back, with pixels of 0 to 1."""
    first, second = ((x - x.min()) / (x.max() - x.min()) for x, _ in images(name, size))
    return (first, first.flatten(1)), (second, second.flatten(1))


@cache
def source(length: int) -> tuple[Examples, Examples]:
    """Characters of Python source, and what follows each."""
    code = inspect.getsource(textwrap) + inspect.getsource(inspect)
    known = {character: index for index, character in enumerate(sorted(set(code)))}
    indices = torch.tensor([known[character] for character in code])
    windows = indices[: (len(indices) - 1) // length * length].view(-1, length)
    after = indices[1 : windows.numel() + 1].view(-1, length)
    cut = len(windows) * 9 // 10
    return (windows[:cut], after[:cut]), (windows[cut:], after[cut:])


NUM_CHARACTERS = 100


@cache
def waves(num_inputs: int) -> tuple[Examples, Examples]:
    """A smooth function of a few numbers."""
    x = torch.rand(6000, num_inputs, generator=Generator().manual_seed(1)) * 2 - 1
    y = torch.sin(3 * x[:, 0]) * x[:, 1] + (x[:, 2:5] ** 2).sum(1) - torch.cos(4 * x[:, 5] * x[:, 6]) + x[:, 7:].prod(1)
    y = ((y - y.mean()) / y.std()).unsqueeze(1)
    return (x[:5000], y[:5000]), (x[5000:], y[5000:])


@cache
def picture() -> tuple[Examples, Examples]:
    """Places in one photograph, and the colours there."""
    (photographs, _), _ = images("cifar", 32)
    across = torch.linspace(-1, 1, 32)
    places = torch.stack(torch.meshgrid(across, across, indexing="ij"), dim=-1).view(-1, 2)
    colours = photographs[7].permute(1, 2, 0).reshape(-1, 3)
    return (places, colours), (places, colours)


@cache
def signals() -> tuple[Examples, Examples]:
    """Noisy waves of four shapes, of any phase and frequency."""
    draw = Generator().manual_seed(2)
    labels = torch.randint(4, (5000,), generator=draw)
    rate, phase = (torch.rand(2, 5000, 1, generator=draw) + 0.3) * torch.tensor([[[12.0]], [[6.0]]])
    angle = rate * torch.linspace(0, 1, 64) + phase
    shapes = torch.stack([angle.sin(), angle.sin().sign(), angle.sin().asin(), angle.sin() * angle.cos().abs()])
    x = shapes[labels, torch.arange(5000)] + 0.4 * torch.randn(5000, 64, generator=draw)
    x = x.unsqueeze(1)
    return (x[:4000], labels[:4000]), (x[4000:], labels[4000:])


@cache
def neighbours() -> tuple[Examples, Examples]:
    """Words of Python source with words near them (1), and with others (0)."""
    words = "".join(c if c.isalnum() else " " for c in inspect.getsource(inspect)).split()
    known = {word: index for index, word in enumerate(sorted(set(words)))}
    indices = torch.tensor([known[word] % 800 for word in words])
    draw = Generator().manual_seed(3)
    near = torch.cat([torch.stack([indices[:-gap], indices[gap:]], 1) for gap in (1, 2, 3)])
    others = torch.stack([near[:, 0], indices[torch.randint(len(indices), (len(near),), generator=draw)]], 1)
    pairs = torch.cat([near, others])
    told = torch.cat([torch.ones(len(near)), torch.zeros(len(near))])
    order = torch.randperm(len(pairs), generator=draw)
    pairs, told = pairs[order], told[order]
    cut = len(pairs) * 9 // 10
    return (pairs[:cut], told[:cut]), (pairs[cut:], told[cut:])


@cache
def odd() -> tuple[Examples, Examples]:
    """MNIST, and whether a number is odd."""
    first, second = ((x.flatten(1), (y % 2).float()) for x, y in images("mnist", 14))
    return first, second


# ------------------------------------------------------------------------------------------------------------- networks


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Module:
    """Linear layers, with layer normalization if asked for."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after), *([nn.LayerNorm(after)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def conv_net(depth: int, *channels: int, size: int, num_classes: int = 10, norm: bool = False) -> nn.Module:
    """3x3 convolutions with max-pooling, with batch normalization if asked for."""
    layers: list[nn.Module] = []
    for number in channels:
        layers += [nn.Conv2d(depth, number, 3, padding=1), *([nn.BatchNorm2d(number)] if norm else [])]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        depth, size = number, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(depth * size * size, num_classes))


class Residual(nn.Module):
    """A residual network with group normalization."""

    def __init__(self, width: int = 16, num_blocks: int = 3, num_channels: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(num_channels, width, 3, stride=2, padding=1), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.GroupNorm(4, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1, bias=False),
            )
            for _ in range(num_blocks)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, 16, 16] to [n, 10]."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x.mean((2, 3)))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent layer over characters or rows."""

    def __init__(self, layer: type[nn.RNNBase], width: int, size: int, num_outputs: int, characters: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_CHARACTERS, width) if characters else nn.Identity()
        self.layer, self.last, self.all = layer(width, size, batch_first=True), nn.Linear(size, num_outputs), characters

    def forward(self, x: Tensor) -> Tensor:
        """[n, L] to [n, outputs, L], or [n, 1, rows, width] to [n, outputs]."""
        hidden = self.layer(self.embedding(x if self.all else x.squeeze(1)))[0]
        return self.last(hidden).transpose(1, 2) if self.all else self.last(hidden[:, -1])  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """PyTorch's own transformer layers over characters or patches of an image."""

    def __init__(self, width: int, length: int, num_outputs: int, patch: int | None, num_layers: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = nn.Embedding(NUM_CHARACTERS, width) if patch is None else nn.Linear(3 * patch**2, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers, self.last = (
            nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False),
            nn.Linear(width, num_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, L] to [n, outputs, L], or [n, 3, h, w] to [n, outputs]."""
        if self.patch is not None:
            hidden = self.layers(self.embedding(functional.unfold(x, self.patch, stride=self.patch).mT) + self.places)
            return self.last(hidden.mean(1))  # type: ignore[no-any-return]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.last(self.layers(self.embedding(x) + self.places, mask, is_causal=True)).transpose(1, 2)  # type: ignore[no-any-return]


class Variational(nn.Module):
    """A variational autoencoder; gives logits of pixels, means and logarithms of variances behind each other."""

    def __init__(self, num_pixels: int, size: int, code: int) -> None:
        super().__init__()
        self.code, self.encoder = code, mlp(num_pixels, size, 2 * code, activation=nn.Tanh)
        self.decoder = mlp(code, size, num_pixels, activation=nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] to [n, pixels + 2 code]."""
        mean, logarithm = self.encoder(x).split(self.code, dim=1)
        drawn = mean + torch.randn_like(mean) * (0.5 * logarithm).exp()
        return torch.cat([self.decoder(drawn), mean, logarithm], dim=1)


def evidence(outputs: Tensor, pixels: Tensor) -> Tensor:
    """The negative lower bound of the evidence, by pixel."""
    logits, rest = outputs[:, : pixels.shape[1]], outputs[:, pixels.shape[1] :]
    mean, logarithm = rest.chunk(2, dim=1)
    distance = 0.5 * (mean.square() + logarithm.exp() - 1 - logarithm).sum(1).mean() / pixels.shape[1]
    return functional.binary_cross_entropy_with_logits(logits, pixels) + distance


class Waves(nn.Module):
    """Sines and cosines of places, then a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp(32, 64, 64, 3, activation=nn.GELU)
        self.rates = (4 * torch.randn(2, 16, generator=Generator().manual_seed(4))) * math.pi

    def forward(self, x: Tensor) -> Tensor:
        """[n, 2] to [n, 3]."""
        angles = x @ self.rates
        return self.network(torch.cat([angles.sin(), angles.cos()], dim=1))  # type: ignore[no-any-return]


class Signals(nn.Module):
    """Convolutions along a line."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv1d(1, 16, 7, stride=2, padding=3), nn.ReLU(), nn.Conv1d(16, 24, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 16, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 64] to [n, 4]."""
        return self.network(x)  # type: ignore[no-any-return]


class Pairs(nn.Module):
    """The score of two words: an inner product of embeddings, one for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Embedding(800, 24) for _ in range(2))
        with torch.no_grad():
            for side in self.sides:
                side.weight.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 2] to [n]."""
        return (self.sides[0](x[:, 0]) * self.sides[1](x[:, 1])).sum(1)  # type: ignore[no-any-return]


class Lone(nn.Module):
    """One vector and one scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.zeros(196)), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 196] to [n]."""
        return x @ self.weight + self.offset


TASKS: dict[str, Task] = {
    "mnist 784-64-10 ReLU": Task("perceptron", lambda: images("mnist"), lambda: mlp(784, 64, 10)),
    "mnist 196-192-192-10 ReLU": Task("perceptron", lambda: images("mnist", 14), lambda: mlp(196, 192, 192, 10)),
    "cifar deep, LayerNorm, GELU": Task(
        "deep perceptron",
        lambda: images("cifar", 16),
        lambda: mlp(768, 96, 96, 96, 96, 10, activation=nn.GELU, norm=True),
    ),
    "mnist CNN": Task("convolution net", lambda: images("mnist", 14), lambda: conv_net(1, 12, 24, size=14)),
    "cifar CNN, BatchNorm": Task(
        "convolution net", lambda: images("cifar", 16), lambda: conv_net(3, 16, 32, size=16, norm=True), batch_size=32
    ),
    "omniglot CNN, 50 classes": Task(
        "convolution net",
        lambda: images("omniglot", 14),
        lambda: conv_net(1, 12, 24, size=14, num_classes=50),
        batch_size=32,
    ),
    "cifar residual, GroupNorm": Task(
        "residual net", lambda: images("cifar", 16), lambda: Residual(12, 2), batch_size=32
    ),
    "mnist autoencoder": Task(
        "autoencoder",
        lambda: themselves("mnist", 14),
        lambda: mlp(196, 96, 12, 96, 196, activation=nn.Tanh),
        functional.mse_loss,
    ),
    "omniglot VAE": Task(
        "variational autoencoder", lambda: themselves("omniglot", 14), lambda: Variational(196, 96, 8), evidence
    ),
    "tanh regression": Task(
        "regression", lambda: waves(10), lambda: mlp(10, 48, 48, 1, activation=nn.Tanh), functional.mse_loss
    ),
    "one picture": Task("field", picture, Waves, functional.mse_loss, 128),
    "source GRU": Task(
        "recurrent text", lambda: source(20), lambda: Recurrent(nn.GRU, 24, 64, NUM_CHARACTERS, True), batch_size=32
    ),
    "source transformer": Task(
        "transformer", lambda: source(24), lambda: Transformer(48, 24, NUM_CHARACTERS, None), batch_size=32
    ),
    "cifar patches transformer": Task(
        "vision transformer", lambda: images("cifar", 16), lambda: Transformer(48, 16, 10, 4), batch_size=32
    ),
    "mnist rows LSTM": Task(
        "recurrent images", lambda: images("mnist", 14), lambda: Recurrent(nn.LSTM, 14, 32, 10, False), batch_size=32
    ),
    "signals CNN": Task("line convolution net", signals, Signals),
    "word pairs": Task("embeddings", neighbours, Pairs, functional.binary_cross_entropy_with_logits, 256),
    "mnist linear": Task("linear", lambda: images("mnist"), lambda: mlp(784, 10)),
    "odd or even, one vector": Task("lone vector", odd, Lone, functional.binary_cross_entropy_with_logits),
}
