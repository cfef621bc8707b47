"""Meta-training as a competent user writes it in plain PyTorch: the reference that meta-opt is timed against.

``nn.LSTMCell`` over coordinates as rows, functional models, and one ``backward`` through the unroll. Gradients are
detached where they enter the network, as the paper has it (first order). Nothing of meta_opt is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

TensorDict = dict[str, Tensor]
Loss = Callable[[TensorDict, TensorDict], Tensor]
State = list[tuple[Tensor, Tensor]]
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

    def forward(self, grad: Tensor, state: State) -> tuple[Tensor, State]:
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

    def zero_state(self, size: int) -> State:
        """Zeros for ``size`` coordinates."""
        zeros = self.out.weight.new_zeros(size, self.out.in_features)
        return [(zeros, zeros) for _ in self.cells]


class PlainMetaTrainer:
    """Unrolls and meta-updates of one problem, or of several at once."""

    def __init__(
        self,
        groups: Mapping[str, tuple[PlainLSTM, list[str]]],
        loss: Loss,
        sample_batch: Callable[[], TensorDict],
        lr: float,
    ) -> None:
        """Set up meta-training.

        Args:
            groups: Per group of parameters, its network and the names of its parameters.
            loss: Loss of parameters and batch, [], or that of every problem, [B].
            sample_batch: The next mini-batch.
            lr: Learning rate of the meta-optimizer, Adam.
        """
        self.groups, self.loss, self.sample_batch = groups, loss, sample_batch
        weights = [parameter for network, _ in groups.values() for parameter in network.parameters()]
        self.meta_optimizer = torch.optim.Adam(weights, lr=lr)

    def start(self, params: TensorDict) -> None:
        """Begin an episode at θ_0."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        self.grads = torch.autograd.grad(self.loss(leaves, self.sample_batch()).sum(), list(leaves.values()))
        self.params = {name: tensor.detach() for name, tensor in leaves.items()}
        self.states = {
            group: network.zero_state(sum(params[name].numel() for name in names))
            for group, (network, names) in self.groups.items()
        }

    def meta_step(self, num_steps: int) -> Tensor:
        """Unroll ``num_steps`` steps, backpropagate through all of them, step; returns the meta-loss."""
        params, states, grads = self.params, self.states, self.grads
        total: Tensor | float = 0.0
        for _ in range(num_steps):
            grad_of = dict(zip(params, grads, strict=True))
            updated, new_states = dict(params), {}
            for group, (network, names) in self.groups.items():
                grad = torch.cat([grad_of[name].flatten() for name in names])  # held constant: it has no graph
                update, new_states[group] = network(grad, states[group])
                for name, part in zip(names, update.split([params[name].numel() for name in names]), strict=True):
                    updated[name] = params[name] + part.view_as(params[name])
            params, states = updated, new_states
            loss = self.loss(params, self.sample_batch())
            # f_t and its gradient are all that the next step needs: nothing is evaluated twice.
            grads = torch.autograd.grad(loss.sum(), list(params.values()), retain_graph=True)
            total = total + loss.mean()
        assert isinstance(total, Tensor)
        self.meta_optimizer.zero_grad()
        total.backward()
        self.meta_optimizer.step()
        self.params = {name: tensor.detach() for name, tensor in params.items()}
        self.states = {group: [(h.detach(), c.detach()) for h, c in state] for group, state in states.items()}
        self.grads = grads
        return total.detach()


def quadratic_losses(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
    """‖Wθ - y‖² of one problem, or of every problem, [B]."""
    product = (problem["w"] @ params["theta"].unsqueeze(-1)).squeeze(-1)
    return (product - problem["y"]).square().sum(-1)


def bowl_loss(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
    """Half the squared length of θ."""
    return 0.5 * params["theta"].square().sum()


def mlp_loss(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
    """Cross entropy of a network with one hidden layer of sigmoids."""
    hidden = torch.sigmoid(functional.linear(batch["inputs"], params["hidden1.weight"], params["hidden1.bias"]))
    outputs = functional.linear(hidden, params["output.weight"], params["output.bias"])
    return functional.cross_entropy(outputs, batch["targets"])


def mlp_losses(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
    """:func:`mlp_loss` of every problem, [B]."""
    return torch.vmap(mlp_loss)(params, problem, batch)


def cnn_loss(params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
    """Cross entropy of three convolutions and a hidden layer, each with batch normalization and ReLU."""
    x = batch["inputs"]
    for layer in ("conv1", "conv2", "conv3"):
        x = functional.conv2d(x, params[f"{layer}.weight"], padding=2)
        x = functional.max_pool2d(_normalized(params, layer, x).relu(), 2)
    x = functional.linear(x.flatten(1), params["fc.weight"])
    x = _normalized(params, "fc", x).relu()
    outputs = functional.linear(x, params["output.weight"], params["output.bias"])
    return functional.cross_entropy(outputs, batch["targets"])


def _normalized(params: TensorDict, layer: str, x: Tensor) -> Tensor:
    weight, bias = params[f"{layer}_norm.weight"], params[f"{layer}_norm.bias"]
    return functional.batch_norm(x, None, None, weight, bias, training=True)
