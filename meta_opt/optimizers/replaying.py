"""Backpropagation through recorded steps, one at a time: memory for the states of all steps, and for the graph of one.

A graph of T steps keeps all activations of a network, many numbers per coordinate and step. Here the steps are taken
without a graph first, and what is kept is the state before each; then, from the last to the first, each is taken once
more, with a graph of its own. (Griewank and Walther 2000, with a checkpoint at every step.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.state import map_state, named_tensors

if TYPE_CHECKING:
    from meta_opt.optimizers.contract import OptimizerNetwork

LARGE = 1 << 18
"""Coordinates of all problems times steps of which a graph takes about half a gigabyte.

Up to here one graph is better: stepping once more takes a third longer.
"""


def by_weights(value: Tensor, network: OptimizerNetwork) -> tuple[Tensor, ...]:
    """∂value/∂φ, one per parameter of ``trained_parameters()``, in their order.

    Raises:
        MetaOptError: If what the network does has no graph behind it.
    """
    parameters = network.trained_parameters()
    grads = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else ()
    if all(gradient is None for gradient in grads):
        raise no_graph(network)
    pairs = zip(parameters, grads, strict=True)
    return tuple(torch.zeros_like(each) if gradient is None else gradient for each, gradient in pairs)


def no_graph(network: OptimizerNetwork) -> MetaOptError:
    """The error where an estimator needs gradients of a network that has none."""
    return MetaOptError(
        f"{type(network).__name__}.step must make its update of the weights of build, differentiably (no detach, no "
        "item, no no_grad): it does not depend on them through autograd; --model.estimator es needs no gradient"
    )


def replay_by_step(
    network: OptimizerNetwork, evaluations: Sequence[Evaluation], state: Any, coefficients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩ to first order: where the network reads θ_t or f_t, these move with the updates before them.

    Args:
        network: m_φ.
        evaluations: What steps τ = 0..T-1 read.
        state: h_0.
        coefficients: c_τ, what L changes by with g_τ if all that is read later stays as it is, each [B, N].

    Returns:
        One gradient per parameter of ``trained_parameters()``, in their order.

    Raises:
        MetaOptError: If what the network does has no graph behind it.
    """
    parameters = network.trained_parameters()
    states = [state]
    with torch.no_grad():
        for evaluation in evaluations[:-1]:
            states.append(network.step(evaluation.only(network.reads), states[-1]).state)
    total = [torch.zeros_like(parameter) for parameter in parameters]
    through_inputs = torch.zeros_like(coefficients[0])  # ∂L/∂θ_t by what later steps read
    of_state: list[Tensor] | None = None  # ∂L/∂h_t; of the last state nothing
    reached = False
    for evaluation, coefficient in zip(reversed(evaluations), reversed(coefficients), strict=True):
        leaves: list[Tensor] = []
        before = map_state(lambda tensor, leaves=leaves: _leaf(tensor, leaves), states.pop())  # type: ignore[misc]
        moved = torch.zeros_like(coefficient).requires_grad_()
        with torch.enable_grad():
            update, after, _ = network.step(moving(evaluation, moved, network.reads), before)
        outputs, cotangents = [update], [coefficient + through_inputs]
        if of_state is not None:
            outputs += [each.tensor for each in named_tensors(after) if each.tensor.is_floating_point()]
            cotangents += of_state
        *of_weights, of_moved = gradients_of(outputs, cotangents, [*parameters, *leaves, moved])
        reached |= added(total, of_weights[: len(parameters)])
        pairs = zip(leaves, of_weights[len(parameters) :], strict=True)
        of_state = [torch.zeros_like(leaf) if gradient is None else gradient for leaf, gradient in pairs]
        through_inputs = through_inputs if of_moved is None else through_inputs + of_moved
    first = [each.tensor for each in named_tensors(state) if each.tensor.is_floating_point()]  # may be made of φ
    reached |= added(total, gradients_of(first, of_state or [], parameters))
    if not reached:
        raise no_graph(network)
    return tuple(total)


def gradients_of(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor], inputs: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients by ``inputs``; none where nothing depends on one."""
    pairs = [pair for pair in zip(outputs, cotangents, strict=True) if pair[0].requires_grad]
    if not pairs:
        return (None,) * len(inputs)
    made, given = zip(*pairs, strict=True)
    return torch.autograd.grad(made, inputs, given, allow_unused=True)


def added(total: Sequence[Tensor], grads: Sequence[Tensor | None]) -> bool:
    """Add what there is; whether there is anything."""
    for gathered, gradient in zip(total, grads, strict=True):
        if gradient is not None:
            gathered += gradient
    return any(gradient is not None for gradient in grads)


def moving(evaluation: Evaluation, moved: Tensor, reads: frozenset[str]) -> Evaluation:
    """What is read, to first order, where θ_t is ``moved`` [B, N] from where it was evaluated; the gradient stays."""
    known = {}
    if "loss" in reads:
        known["loss"] = evaluation.loss + (evaluation.grad * moved).sum(1)
    if "grad" in reads:
        known["grad"] = evaluation.grad
    if "params" in reads:
        known["params"] = evaluation.params + moved
    return Evaluation.of(**known)


def _leaf(tensor: Tensor, leaves: list[Tensor]) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    leaves.append(tensor.detach().requires_grad_())
    return leaves[-1]
