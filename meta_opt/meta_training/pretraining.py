"""Sign-weighted pretraining: before meta-training the network learns to step against the gradient.

It comes from a bachelor's thesis. Gradients ∇ are drawn from N(0, 0.001²), the update wanted is g* = -α ∇, and
the loss is the mean of |g - g*| · exp(-ω sgn(g g*)) with ω = 2: an update of the wrong sign weighs e⁴ times as
much as one of the right sign. The thesis says nothing of the state. Here every batch is an unroll of T steps
from the first state on, with new gradients in every step, so that the network learns it whatever its state.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.replaying import by_weights

BATCH = 128  # coordinates of each tensor, at most
_STD = 0.001  # of the gradients
_OMEGA = 2.0


def sign_weighted_loss(update: Tensor, wanted: Tensor) -> Tensor:
    """Mean |g - g*| · exp(-ω sgn(g g*)), []."""
    weight = torch.exp(-_OMEGA * torch.sign(update.detach() * wanted))
    return ((update - wanted).abs() * weight).mean()


def pretrain(
    network: OptimizerNetwork,
    layout: Layout,
    *,
    batches: int,
    rate: float,
    lr: float,
    unroll_length: int,
    generator: Generator,
) -> list[float]:
    """Let a built network learn to step against the gradient.

    Args:
        network: m_φ, which reads nothing but gradients. Its weights are changed.
        layout: What it was built for. Of each tensor, so many coordinates are used that there are 128.
        batches: How many steps of Adam.
        rate: α.
        lr: Learning rate of Adam.
        unroll_length: T.
        generator: Where the gradients come from, on the CPU.

    Returns:
        The loss of every batch, before its step.

    Raises:
        MetaOptError: If the network reads something else, or the losses are not finite.
    """
    if network.reads != {"grad"}:
        raise MetaOptError(f"model.pretraining must be 0 with {type(network).__name__}, which reads not only gradients")
    small = Layout(layout.names, tuple(map(_smaller, layout.shapes)), layout.groups, layout.depths)
    num_problems = math.ceil(BATCH / max(small.num_coordinates, 1))
    like = next(network.parameters())
    optimizer = torch.optim.Adam(network.trained_parameters(), lr=lr)
    losses = []
    for _ in range(batches):
        state, loss = network.init_state(small, num_problems), torch.zeros_like(like.flatten()[0])
        with torch.enable_grad():
            for _ in range(unroll_length):
                shape = (num_problems, small.num_coordinates)
                grad = (_STD * torch.randn(shape, generator=generator)).to(like)
                update, state, _ = network.step(Evaluation.of(grad=grad), state)
                loss = loss + sign_weighted_loss(update, -rate * grad) / unroll_length
            grads = by_weights(loss, network)
        if not bool(loss.isfinite()):
            raise MetaOptError("pretraining: the loss is not finite; lower model.lr or optimizer.output_scale")
        for parameter, grad in zip(network.trained_parameters(), grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _smaller(shape: torch.Size) -> torch.Size:
    """A shape of as many dimensions with at most 128 entries; longer sides become equal."""
    longest = int(BATCH ** (1.0 / max(len(shape), 1)) + 1e-9)
    return torch.Size(min(side, longest) for side in shape)
