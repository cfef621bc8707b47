"""Data that networks at large are trained on: the digits and the text that ship with this package, and drawn sets."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from meta_opt_optimizees.digits_mlp import read_digits
from meta_opt_optimizees.small_mlps import log_uniform

NUM_EXAMPLES = 500.0, 25000.0  # of a set, log-uniform: learned by heart, or never seen twice


class Data(NamedTuple):
    """Examples in random order.

    Attributes:
        inputs: [n, ...], numbers of size one, or indices of characters.
        targets: [n] or [n, L] classes, or [n, ...] numbers.
        num_outputs: How many classes or numbers there are.
    """

    inputs: Tensor
    targets: Tensor
    num_outputs: int


def digits(generator: Generator) -> Data:
    """Handwritten digits, standardized, [n, 1, size, size]; as they are, or each many times, shifted and with noise.

    Their size is 8, or in one half of the draws 16 or 24, between whose pixels they are interpolated.
    """
    images, labels = _digits()
    if (factor := int(torch.randint(0, 4, (), generator=generator))) > 1:
        images = functional.interpolate(images, scale_factor=factor, mode="bilinear")
    if float(torch.rand((), generator=generator)) < 0.5:
        order = torch.randperm(len(images), generator=generator)
        return Data(images[order], labels[order], 10)
    chosen = torch.randint(len(images), (_num_examples(generator),), generator=generator)
    shifted = _shifted(images[chosen], generator)
    noise = 0.5 * float(torch.rand((), generator=generator)) * torch.randn(shifted.shape, generator=generator)
    return Data(shifted + noise, labels[chosen], 10)


def clusters(num_inputs: int, num_classes: int, generator: Generator) -> Data:
    """Classes of a random network of noisy inputs, [n, inputs], some of which vary more than others."""
    sizes = torch.logspace(0.0, -float(torch.rand((), generator=generator)), num_inputs)
    inputs = torch.randn(_num_examples(generator), num_inputs, generator=generator) * sizes
    scores = _teacher(inputs, num_classes, generator)
    noise = torch.randn(scores.shape, generator=generator) * scores.std() * 0.3
    return Data(inputs / inputs.std(), (scores - scores.mean(0) + noise).argmax(1), num_classes)


def patterns(num_channels: int, size: int, num_classes: int, generator: Generator) -> Data:
    """Noisy images, [n, channels, size, size], of smooth patterns, each class with its own, shifted at random."""
    coarse = torch.randn(num_classes, num_channels, 4, 4, generator=generator)
    pattern = functional.interpolate(coarse, (size, size), mode="bicubic")
    labels = torch.randint(num_classes, (_num_examples(generator),), generator=generator)
    images = _shifted(pattern[labels], generator)
    noise = 0.5 + 1.5 * float(torch.rand((), generator=generator))
    images = images + noise * torch.randn(images.shape, generator=generator)
    return Data(images / images.std(), labels, num_classes)


def functions(num_inputs: int, num_outputs: int, generator: Generator) -> Data:
    """Numbers, [n, outputs], that a random network makes of others, [n, inputs], with some noise."""
    inputs = torch.randn(_num_examples(generator), num_inputs, generator=generator)
    values = _teacher(inputs, num_outputs, generator)
    values = (values - values.mean(0)) / (values.std(0) + 1e-6)
    noise = 0.1 * torch.rand((), generator=generator) * torch.randn(values.shape, generator=generator)
    return Data(inputs, values + noise, num_outputs)


def plane(num_inputs: int, generator: Generator) -> Data:
    """A number, [n, 1], that is a weighted sum of others, [n, inputs], of unequal sizes, with some noise."""
    sizes = torch.logspace(0.0, -1.5 * float(torch.rand((), generator=generator)), num_inputs)
    inputs = torch.randn(_num_examples(generator), num_inputs, generator=generator) * sizes
    weights = torch.randn(num_inputs, 1, generator=generator) * 3.0 ** float(torch.randn((), generator=generator))
    noise = 0.3 * torch.rand((), generator=generator) * torch.randn(len(inputs), 1, generator=generator)
    return Data(inputs, inputs @ weights + noise, 1)


def text(length: int, generator: Generator) -> Data:
    """Characters of a text, [n, length], and what follows each, [n, length]."""
    indices, num_characters = _text()
    starts = torch.randint(len(indices) - length - 1, (_num_examples(generator),), generator=generator)
    windows = indices[starts.unsqueeze(1) + torch.arange(length + 1)]
    return Data(windows[:, :-1], windows[:, 1:], num_characters)


def ratings(num_users: int, num_items: int, generator: Generator) -> Data:
    """What users think of items: two indices, [n, 2], the second after all users, and a number, [n, 1]."""
    users = torch.randint(num_users, (_num_examples(generator),), generator=generator)
    items = (num_items * torch.rand(len(users), generator=generator) ** 2).long()  # some are rated often
    tastes = torch.randn(num_users, 4, generator=generator)
    kinds = torch.randn(num_items, 4, generator=generator)
    liking = (tastes[users] * kinds[items]).sum(1, keepdim=True) / 2.0
    liking = liking + 0.3 * torch.randn(liking.shape, generator=generator)
    return Data(torch.stack([users, num_users + items], dim=1), liking, num_users + num_items)


def _num_examples(generator: Generator) -> int:
    return round(log_uniform(*NUM_EXAMPLES, generator))


def _shifted(images: Tensor, generator: Generator) -> Tensor:
    """Images, [n, channels, size, size], each moved by a pixel at most each way; what leaves comes in opposite."""
    size = images.shape[-1]
    rows, columns = (
        (torch.arange(size) - torch.randint(-1, 2, (len(images), 1), generator=generator)) % size for _ in range(2)
    )
    return images[torch.arange(len(images)).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)


def _teacher(inputs: Tensor, num_outputs: int, generator: Generator) -> Tensor:
    """A random network with one hidden layer of 32 units, [n, outputs]."""
    hidden = torch.randn(inputs.shape[1], 32, generator=generator) * (1.5 / inputs.shape[1] ** 0.5)
    offsets = torch.randn(32, generator=generator)
    return torch.tanh(inputs @ hidden + offsets) @ torch.randn(32, num_outputs, generator=generator)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = read_digits()
    return ((images - images.mean()) / images.std()).view(-1, 1, 8, 8), labels


@cache
def _text() -> tuple[Tensor, int]:
    """The text as indices, and how many characters there are."""
    characters = (files("meta_opt_optimizees") / "text.txt").read_text(encoding="ascii")
    known = {character: index for index, character in enumerate(sorted(set(characters)))}
    return torch.tensor([known[character] for character in characters]), len(known)
