"""Meta-training as a competent user writes it in plain PyTorch: the reference that meta-opt is timed against.

``nn.LSTMCell`` over coordinates as rows, a functional model, and one ``backward`` through the unroll. Gradients are
detached where they enter the network, as the paper has it (first order). Nothing of meta_opt is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Loss = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]
P = 10.0


class PlainLSTM(nn.Module):
    """The paper's optimizer: logarithm and sign of the gradient, two LSTM layers of 20, a linear output times 0.1."""

    def __init__(self, num_layers: int = 2, hidden_size: int = 20, preprocess: bool = True) -> None:
        """Make the cells."""
        super().__init__()
        self.preprocess = preprocess
        widths = [2 if preprocess else 1] + [hidden_size] * num_layers
        self.cells = nn.ModuleList(nn.LSTMCell(width, hidden_size) for width in widths[:-1])
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, grad: Tensor, state: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Gradient [n] and state to update [n] and state."""
        if self.preprocess:
            large = grad.abs() >= math.exp(-P)
            log = torch.where(large, (grad.abs() + 1e-30).log() / P, -1.0)
            x = torch.stack([log, torch.where(large, grad.sign(), math.exp(P) * grad)], dim=1)
        else:
            x = grad.unsqueeze(1)
        new_state = []
        for cell, (h, c) in zip(self.cells, state, strict=True):
            h, c = cell(x, (h, c))
            new_state.append((h, c))
            x = h
        return 0.1 * self.out(x).squeeze(1), new_state

    def zero_state(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Zeros for ``size`` coordinates."""
        zeros = torch.zeros(size, self.out.in_features)
        return [(zeros, zeros) for _ in self.cells]


class PlainMetaTrainer:
    """Unrolls and meta-updates of one problem, or of several at once whose losses are summed."""

    def __init__(
        self,
        groups: Mapping[str, tuple[PlainLSTM, list[str]]],
        loss: Loss,
        sample_batch: Callable[[], dict[str, Tensor]],
        params: dict[str, Tensor],
    ) -> None:
        """Set up an episode.

        Args:
            groups: Per group of parameters, its network and the names of its parameters.
            loss: Loss of parameters and batch.
            sample_batch: The next mini-batch.
            params: θ_0.
        """
        self.groups, self.loss, self.sample_batch, self.params = groups, loss, sample_batch, params
        self.states = {
            group: network.zero_state(sum(params[name].numel() for name in names))
            for group, (network, names) in groups.items()
        }
        weights = [parameter for network, _ in groups.values() for parameter in network.parameters()]
        self.meta_optimizer = torch.optim.Adam(weights, lr=1e-4)

    def meta_step(self, num_steps: int) -> float:
        """Unroll ``num_steps`` steps, backpropagate through all of them, step; returns the meta-loss."""
        params = {name: tensor.detach().requires_grad_() for name, tensor in self.params.items()}
        states = {group: [(h.detach(), c.detach()) for h, c in state] for group, state in self.states.items()}
        total = torch.zeros(())
        loss = self.loss(params, self.sample_batch())
        for _ in range(num_steps):
            grads = dict(zip(params, torch.autograd.grad(loss, list(params.values()), retain_graph=True), strict=True))
            updated = {}
            for group, (network, names) in self.groups.items():
                grad = torch.cat([grads[name].detach().flatten() for name in names])
                update, states[group] = network(grad, states[group])
                for name, part in zip(names, update.split([params[name].numel() for name in names]), strict=True):
                    updated[name] = params[name] + part.view_as(params[name])
            params = updated
            loss = self.loss(params, self.sample_batch())
            total = total + loss
        self.meta_optimizer.zero_grad()
        total.backward()
        self.meta_optimizer.step()
        self.params, self.states = params, states
        return float(total.detach())
