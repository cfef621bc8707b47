"""Tasks to choose an optimizer by, so that those of ``general_tasks`` need not be looked at: other data and networks.

Digits and text ship with the package, and the rest is made here: nothing is read from elsewhere.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from general_tasks import NUM_CHARACTERS, Examples, Recurrent, Residual, Task, Transformer, conv_net, mlp
from meta_opt_optimizees import drawn_data
from meta_opt_optimizees.digits_mlp import read_digits

Parts = tuple[Examples, Examples | None]


def _cut(inputs: Tensor, targets: Tensor) -> tuple[Examples, Examples]:
    """Nine tenths for training, the rest for test."""
    first = len(inputs) * 9 // 10
    return (inputs[:first], targets[:first]), (inputs[first:], targets[first:])


@cache
def digits(size: int, count: int, noise: float = 0.0) -> Parts:
    """Handwritten digits, [n, 1, size, size], drawn from those that ship, each moved by up to two pixels.

    Nine tenths, for training; none for test, as the same digits are among the others.
    """
    generator = Generator().manual_seed(size)
    images, labels = read_digits()
    chosen = torch.randint(len(images), (count,), generator=generator)
    large = functional.interpolate(images[chosen].view(-1, 1, 8, 8), size=size, mode="bilinear")
    moves = torch.randint(-2, 3, (count, 2), generator=generator).tolist()
    moved = torch.stack([image.roll(tuple(move), (1, 2)) for image, move in zip(large, moves, strict=True)])
    moved = moved + noise * moved.std() * torch.randn(moved.shape, generator=generator)
    return _cut((moved - moved.mean()) / moved.std(), labels[chosen])[0], None


@cache
def themselves() -> Parts:
    """Digits of 16x16, [n, 1, 16, 16], to be given back, with pixels of 0 to 1."""
    images = functional.interpolate(read_digits()[0].view(-1, 1, 8, 8), size=16, mode="bilinear")
    return _cut(images, images.flatten(1))


@cache
def sines(num_inputs: int, num_units: int) -> Parts:
    """A sum of sines of a few numbers in random directions."""
    generator = Generator().manual_seed(num_inputs)
    x = torch.rand(6000, num_inputs, generator=generator) * 2 - 1
    angles = x @ torch.randn(num_inputs, num_units, generator=generator) * 2.5 / num_inputs**0.5
    angles = angles + torch.randn(num_units, generator=generator)
    y = angles.sin() @ torch.randn(num_units, 1, generator=generator)
    return _cut(x, (y - y.mean()) / y.std())


@cache
def collage() -> Parts:
    """Places in a picture of five by five digits, as sines and cosines, [1600, 48], and how dark it is there."""
    generator = Generator().manual_seed(4)
    images = read_digits()[0].view(-1, 8, 8)
    rows = [torch.cat([*images[torch.randint(len(images), (5,), generator=generator)]], dim=1) for _ in range(5)]
    picture = torch.cat(rows)
    across = torch.linspace(-1, 1, len(picture))
    places = torch.stack(torch.meshgrid(across, across, indexing="ij"), dim=-1).view(-1, 2)
    angles = 3.0 * places @ torch.randn(2, 24, generator=generator)
    both = torch.cat([angles.sin(), angles.cos()], dim=1), ((picture - picture.mean()) / picture.std()).view(-1, 1)
    return both, both


@cache
def shapes() -> Parts:
    """Noisy lines, [n, 1, 80], of one of six smooth shapes, shifted at random."""
    generator = Generator().manual_seed(3)
    smooth = functional.interpolate(torch.randn(6, 1, 12, generator=generator), size=80, mode="linear").squeeze(1)
    labels = torch.randint(6, (5000,), generator=generator)
    moves = torch.randint(80, (5000,), generator=generator).tolist()
    lines = torch.stack([smooth[label].roll(move) for label, move in zip(labels.tolist(), moves, strict=True)])
    return _cut((lines + 0.7 * torch.randn(lines.shape, generator=generator)).unsqueeze(1), labels)


@cache
def drawn(kind: str) -> Parts:
    """What ``networks_at_large`` draws, once; of text none for test, as windows of it overlap."""
    generator = Generator().manual_seed(5)
    data = {
        "clusters": lambda: drawn_data.clusters(64, 10, generator),
        "patterns": lambda: _noisier(drawn_data.patterns(3, 10, 8, generator), generator),
        "text": lambda: drawn_data.text(32, generator),
        "ratings": lambda: drawn_data.ratings(200, 100, generator),
    }[kind]()
    training, test = _cut(data.inputs, data.targets)
    return training, None if kind == "text" else test


def _noisier(data: drawn_data.Data, generator: Generator) -> drawn_data.Data:
    """With two parts of noise to one of what there is, so that the examples are not learned by heart at once."""
    return data._replace(inputs=(data.inputs + 2.0 * torch.randn(data.inputs.shape, generator=generator)) / 5.0**0.5)


def line() -> nn.Module:
    """Convolutions along a line, and their mean: [n, 1, 80] to [n, 6]."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 7, stride=2, padding=3), nn.ReLU(), nn.Conv1d(16, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 6),
    )  # fmt: skip


class Ratings(nn.Module):
    """What a user thinks of an item: an inner product of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 8)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 2] to [n, 1]."""
        return self.embedding(x).prod(1).sum(1, keepdim=True)


class ResidualPerceptron(nn.Module):
    """Blocks of layer normalization and two linear layers, with skips."""

    def __init__(self, num_inputs: int, width: int, num_blocks: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(num_inputs, width), nn.Linear(width, 10)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(num_blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] to [n, 10]."""
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)  # type: ignore[no-any-return]


VALIDATION_TASKS: dict[str, Task] = {
    "digits 256-160-160-10 ReLU": Task("perceptron", lambda: digits(16, 10000, 0.3), lambda: mlp(256, 160, 160, 10)),
    "digits by heart": Task("perceptron", lambda: digits(8, 1000), lambda: mlp(64, 192, 192, 10)),
    "clusters, LayerNorm, GELU": Task(
        "deep perceptron",
        lambda: drawn("clusters"),
        lambda: mlp(64, 128, 128, 128, 10, activation=nn.GELU, norm=True),
    ),
    "digits CNN": Task("convolution net", lambda: digits(24, 8000, 0.4), lambda: conv_net(1, 12, 24, size=24)),
    "digits CNN by heart": Task(
        "convolution net", lambda: digits(24, 750), lambda: conv_net(1, 16, 32, size=24), batch_size=32
    ),
    "noisy patterns CNN, BatchNorm": Task(
        "convolution net", lambda: drawn("patterns"), lambda: conv_net(3, 12, 24, size=10, num_classes=8, norm=True)
    ),
    "shapes CNN": Task("line convolution net", shapes, line),
    "digits autoencoder": Task("autoencoder", themselves, lambda: mlp(256, 128, 16, 128, 256), functional.mse_loss),
    "sines, tanh": Task(
        "regression", lambda: sines(5, 12), lambda: mlp(5, 64, 64, 1, activation=nn.Tanh), functional.mse_loss
    ),
    "sines, ReLU": Task("regression", lambda: sines(12, 8), lambda: mlp(12, 96, 96, 1), functional.mse_loss, 128),
    "collage": Task("field", collage, lambda: mlp(48, 64, 64, 64, 1), functional.mse_loss, 128),
    "collage, GELU": Task("field", collage, lambda: mlp(48, 96, 96, 1, activation=nn.GELU), functional.mse_loss, 256),
    "text GRU": Task(
        "recurrent text", lambda: drawn("text"), lambda: Recurrent(nn.GRU, 24, 64, NUM_CHARACTERS, True), batch_size=16
    ),
    "text transformer": Task(
        "transformer", lambda: drawn("text"), lambda: Transformer(48, 32, NUM_CHARACTERS, None), batch_size=16
    ),
    "digits rows LSTM": Task(
        "recurrent images", lambda: digits(16, 10000, 0.3), lambda: Recurrent(nn.LSTM, 16, 48, 10, False)
    ),
    "ratings": Task("embeddings", lambda: drawn("ratings"), Ratings, functional.mse_loss),
    "digits linear": Task("linear", lambda: digits(16, 10000, 0.3), lambda: mlp(256, 10)),
    "digits linear by heart": Task("linear", lambda: digits(16, 1000, 0.3), lambda: mlp(256, 10)),
    "digits, 7 layers": Task("deep perceptron", lambda: digits(16, 10000, 0.3), lambda: mlp(256, *[64] * 6, 10)),
    "digits, 17 layers, LayerNorm": Task(
        "deep perceptron", lambda: digits(16, 10000, 0.3), lambda: mlp(256, *[64] * 16, 10, norm=True)
    ),
    "digits, 14 layers, residual": Task(
        "residual net", lambda: digits(16, 10000, 0.3), lambda: ResidualPerceptron(256, 48, 6)
    ),
    "digits residual CNN, 10 layers": Task(
        "residual net", lambda: digits(16, 10000, 0.3), lambda: Residual(12, 4, 1), batch_size=32
    ),
    "text transformer, 5 layers": Task(
        "transformer", lambda: drawn("text"), lambda: Transformer(32, 32, NUM_CHARACTERS, None, 5), batch_size=16
    ),
}
