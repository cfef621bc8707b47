"""A layer with coordinates first, as on a GPU, gives what one with coordinates last does."""

from __future__ import annotations

import torch

from meta_opt.optimizers.lstm.fused_cell import fused_layer
from meta_opt.optimizers.lstm.network import LSTMNetwork


@torch.no_grad()
def test_steps_are_those_of_the_network() -> None:
    generator = torch.Generator().manual_seed(0)
    network = LSTMNetwork(3, 1, 5, 1, 1.0, 0, generator).double()
    (weight,), (bias,) = network.weights, network.biases
    h, c = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    fused = h, c
    for _ in range(3):
        inputs = torch.randn(3, 7, generator=generator, dtype=torch.float64)
        _, (h,), (c,) = network(inputs, (h,), (c,), ())
        fused = fused_layer(weight, bias, inputs, *fused)
        torch.testing.assert_close(fused, (h, c))
