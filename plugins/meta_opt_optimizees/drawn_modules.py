"""Networks of many kinds, made from a few numbers: what networks at large draws from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu"]
Norm = Literal["none", "layer", "batch"]
Cell = Literal["gru", "lstm", "rnn"]
Init = Literal["module", "kaiming", "xavier", "orthogonal"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

_ACTIVATION: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
}
_INIT: dict[Init, Callable[[Tensor], Tensor]] = {
    "module": lambda weight: weight,
    "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}


class Scaled(nn.Module):
    """A network whose inputs are multiplied by a number."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        """Choose both."""
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, ...] to what the network makes of it."""
        return self.network(inputs * self.scale)


def initialized(network: nn.Module, init: Init, scale: float) -> nn.Module:
    """The network with matrices and filters drawn anew, and multiplied by a number."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                _INIT[init](parameter)
                parameter.mul_(scale)
    return network


def mlp(sizes: Sequence[int], activation: Activation, norm: Norm) -> nn.Sequential:
    """Linear layers of these widths, each but the last with normalization and activation; images are flattened."""
    layers: list[nn.Module] = [nn.Flatten()]
    for number, (before, after) in enumerate(pairwise(sizes), start=2):
        layers.append(nn.Linear(before, after))
        if number < len(sizes):
            layers += [*_norm(norm, after, images=False), _ACTIVATION[activation]()]
    return nn.Sequential(*layers)


def conv_net(
    num_inputs: int, channels: Sequence[int], num_outputs: int, activation: Activation, norm: Norm
) -> nn.Sequential:
    """3x3 convolutions, the later ones with stride 2, then means over the image and a linear output."""
    layers: list[nn.Module] = []
    for number, size in enumerate(channels):
        layers.append(nn.Conv2d(num_inputs, size, 3, stride=1 + (number > 0), padding=1))
        layers += [*_norm(norm, size, images=True), _ACTIVATION[activation]()]
        num_inputs = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * num_inputs, num_outputs))


class Recurrent(nn.Module):
    """An embedding, a recurrent layer and a linear output of the next character."""

    def __init__(self, cell: Cell, num_characters: int, width: int, size: int) -> None:
        """Choose the cell, the width of the embedding and the number of units."""
        super().__init__()
        self.embedding = nn.Embedding(num_characters, width)
        self.layer = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[cell](width, size, batch_first=True)
        self.output = nn.Linear(size, num_characters)

    def forward(self, characters: Tensor) -> Tensor:
        """[n, L] to scores [n, characters, L]."""
        return self.output(self.layer(self.embedding(characters))[0]).transpose(1, 2)


class Attention(nn.Module):
    """A small transformer for the next character, with normalization before each part."""

    def __init__(self, num_characters: int, length: int, num_layers: int, num_heads: int, width: int) -> None:
        """Choose the sizes; the width is a multiple of the number of heads."""
        super().__init__()
        self.embedding = nn.Embedding(num_characters, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(_Block(num_heads, width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_characters)

    def forward(self, characters: Tensor) -> Tensor:
        """[n, L] to scores [n, characters, L]."""
        x = self.embedding(characters) + self.places
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x)).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, num_heads: int, width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attended, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, L, width] to the same."""
        parts = self.attended(self.norms[0](x)).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0)
        queries, keys, values = (part.transpose(1, 2) for part in parts)  # [n, heads, L, width of a head]
        heads = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.joined(heads.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class Window(nn.Module):
    """Embeddings of the last characters, one behind the other, through a small network, as the next character."""

    def __init__(self, num_characters: int, length: int, width: int, size: int, activation: Activation) -> None:
        """Choose how many characters are seen, the width of the embedding and the number of hidden units."""
        super().__init__()
        self.embedding = nn.Embedding(num_characters, width)
        self.network = mlp((length * width, size, num_characters), activation, "none")

    def forward(self, characters: Tensor) -> Tensor:
        """[n, L] to scores [n, characters]."""
        return self.network(self.embedding(characters))


class Factors(nn.Module):
    """An inner product of two embeddings, with an offset for each index."""

    def __init__(self, num_indices: int, width: int) -> None:
        """Choose the width of the embedding."""
        super().__init__()
        self.embedding, self.offset = nn.Embedding(num_indices, width), nn.Embedding(num_indices, 1)
        with torch.no_grad():
            self.embedding.weight.mul_(0.3)
            self.offset.weight.zero_()

    def forward(self, indices: Tensor) -> Tensor:
        """[n, 2] to [n, 1]."""
        one, other = self.embedding(indices).unbind(1)
        return (one * other).sum(1, keepdim=True) + self.offset(indices).sum(1)


class Lone(nn.Module):
    """A weighted sum: one vector and one scalar."""

    def __init__(self, num_inputs: int) -> None:
        """Zero."""
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.zeros(num_inputs)), nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        """[n, inputs] to [n, 1]."""
        return (inputs @ self.weight + self.offset).unsqueeze(1)


def _norm(norm: Norm, size: int, *, images: bool) -> list[nn.Module]:
    if norm == "none":
        return []
    if norm == "layer":
        return [nn.GroupNorm(1, size) if images else nn.LayerNorm(size)]
    kind = nn.BatchNorm2d if images else nn.BatchNorm1d
    return [kind(size, track_running_stats=False)]
