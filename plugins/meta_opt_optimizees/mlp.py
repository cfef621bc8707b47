"""Fully connected networks, for the optimizees that are one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from meta_opt.api import GENERAL_SETTINGS, OptimizeeError

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu"]

# The logarithm of the mean loss weighs late losses as much as early ones, without forgetting rare mini-batches.
RECOMMENDED_SETTINGS: dict[str, Any] = {**GENERAL_SETTINGS, "model.num_steps": 100, "model.meta_loss": "log_mean"}

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
}


def mlp(num_inputs: int, hidden_sizes: Sequence[int], num_outputs: int, activation: Activation) -> nn.Sequential:
    """Linear layers with an activation after each but the last.

    Raises:
        OptimizeeError: If a hidden size is less than 1, or the activation unknown.
    """
    if any(size < 1 for size in hidden_sizes):
        raise OptimizeeError(f"optimizee.hidden_sizes must each be at least 1, not {list(hidden_sizes)}")
    if activation not in _ACTIVATIONS:
        raise OptimizeeError(f"optimizee.activation must be one of {', '.join(_ACTIVATIONS)}, not {activation!r}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, size in enumerate(hidden_sizes, start=1):
        layers[f"hidden{number}"] = nn.Linear(num_inputs, size)
        layers[f"activation{number}"] = _ACTIVATIONS[activation]()
        num_inputs = size
    layers["output"] = nn.Linear(num_inputs, num_outputs)
    return nn.Sequential(layers)
