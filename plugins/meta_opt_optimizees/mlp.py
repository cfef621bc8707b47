"""Fully connected networks, for the optimizees that are one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from meta_opt.api import OptimizeeError

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu"]

# Seen to meta-train stably; the paper's own settings saturate the sigmoids within a hundred episodes. The network
# starts as a working optimizer (base_step), a long unroll keeps it from greed, and the logarithm of its mean loss
# weighs late losses as much as early ones, without forgetting rare mini-batches.
RECOMMENDED_SETTINGS: dict[str, Any] = {
    "model.num_steps": 100,
    "model.unroll_length": 50,
    "model.meta_loss": "log_mean",
    "model.lr_schedule": "cosine",
    "model.average_decay": 0.98,
    "model.reference_lr": 0.03,
    "optimizer.inputs": "log_sign+moments+scales+orthogonal",
    "optimizer.output": "magnitude",
    "optimizer.output_scale": 0.1,
    "optimizer.initial_output": 0.1,
    "optimizer.base_step": 0.03,
    "optimizer.anneal_after": 1000,
}

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
