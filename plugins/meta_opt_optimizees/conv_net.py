"""Convolutional networks for small images: batch-normalized convolutions with pooling, then linear layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from meta_opt.api import OptimizeeError


class BatchNorm(nn.Module):
    """Batch normalization by the statistics of the mini-batch, with an offset; a scale before ReLU would add nothing.

    The offset does what the bias of the layer before would do, which is therefore left out.
    """

    def __init__(self, num_channels: int) -> None:
        """Make the offset, zero.

        Args:
            num_channels: Length of the second dimension of what is normalized.
        """
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(num_channels))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalize [n, channels, ...]."""
        return functional.batch_norm(inputs, None, None, bias=self.offset, training=True)


def conv_net(
    image_shape: tuple[int, int, int],
    channels: Sequence[int],
    kernel_size: int,
    hidden_sizes: Sequence[int],
    num_outputs: int,
    *,
    normalize: bool = True,
) -> nn.Sequential:
    """Convolutions (same padding), each with normalization, 2x2 max-pooling and ReLU; linear layers; a linear output.

    Args:
        image_shape: Channels, height and width of an image.
        channels: Number of channels of each convolution.
        kernel_size: Height and width of the filters, odd.
        hidden_sizes: Number of units of each linear layer before the output, with normalization and ReLU as well.
        num_outputs: Number of outputs.
        normalize: Whether there is batch normalization.

    Raises:
        OptimizeeError: If a number is out of range.
    """
    for name, sizes in (("channels", channels), ("hidden_sizes", hidden_sizes)):
        if any(size < 1 for size in sizes):
            raise OptimizeeError(f"optimizee.{name} must each be at least 1, not {list(sizes)}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise OptimizeeError(f"optimizee.kernel_size must be odd and at least 1, not {kernel_size}")
    depth, height, width = image_shape
    if min(height, width) >> len(channels) < 1:
        raise OptimizeeError(
            f"optimizee.channels has {len(channels)} convolutions, and {height}x{width} cannot be halved so often"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, size in enumerate(channels, start=1):
        layers[f"conv{number}"] = nn.Conv2d(depth, size, kernel_size, padding="same", bias=not normalize)
        if normalize:
            layers[f"conv_norm{number}"] = BatchNorm(size)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"conv_activation{number}"] = nn.ReLU()  # the same as before the pooling, on a quarter of the numbers
        depth, height, width = size, height // 2, width // 2
    layers["flatten"] = nn.Flatten()
    num_inputs = depth * height * width
    for number, size in enumerate(hidden_sizes, start=1):
        layers[f"hidden{number}"] = nn.Linear(num_inputs, size, bias=not normalize)
        if normalize:
            layers[f"norm{number}"] = BatchNorm(size)
        layers[f"activation{number}"] = nn.ReLU()
        num_inputs = size
    layers["output"] = nn.Linear(num_inputs, num_outputs)
    return nn.Sequential(layers)


def conv_and_fc(network: nn.Module) -> dict[str, str]:
    """The groups of DeepMind's published configuration: ``conv``, the filters, and ``fc``, all other parameters."""
    return {name: "conv" if value.dim() == 4 else "fc" for name, value in network.named_parameters()}
