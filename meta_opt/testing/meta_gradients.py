"""Whether meta-gradients are right: finite differences of the meta-loss, and a graph of the unroll."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.contract import Estimator
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.testing.episodes import LOSS, bowls, built, run

Reference = Literal["finite differences", "gradients held constant"]


def check_meta_gradient(
    estimator: Estimator, network: OptimizerNetwork, reference: Reference, *, num_steps: int = 4
) -> None:
    """The first meta-gradient of an episode is right, in float64.

    Args:
        estimator: Of which the first estimate looks at ``num_steps`` steps.
        network: Not built yet; left as it is.
        reference: What to compare with: finite differences of the meta-loss in every weight, or backpropagation
            through the unroll with ∂∇/∂φ := 0.
        num_steps: T, the length of the episode.

    Raises:
        AssertionError: If it differs by more than 1e-5 of the longest gradient (finite differences) or 1e-8.
    """
    network = built(network)
    (estimate,) = run(estimator, network, num_steps=num_steps, unroll_length=num_steps)
    exact = reference == "gradients held constant"
    expected = _with_graph(network, num_steps) if exact else _by_differences(network, num_steps)
    largest = max(float(grad.abs().max()) for grad in expected)
    names = [key for key, weight in network.named_parameters() if weight.requires_grad]
    for name, one, other in zip(names, estimate.grads, expected, strict=True):
        error = float((one - other).abs().max())
        assert error <= (1e-8 if exact else 1e-5) * largest, (
            f"{type(estimator).__name__} with {type(network).__name__}: the meta-gradient of {name} is off by "
            f"{error:.3g} of {float(other.abs().max()):.3g} ({reference})"
        )


def _by_differences(network: OptimizerNetwork, num_steps: int) -> list[Tensor]:
    """∂L/∂φ by central differences, one weight after the other."""
    grads = []
    for weight in network.trained_parameters():
        flat, grad = weight.data.view(-1), torch.zeros_like(weight)
        for index in range(flat.numel()):
            values, middle, width = [], flat[index].item(), 1e-5
            for side in (width, -width):
                flat[index] = middle + side
                problems = bowls()
                losses = unroll(problems, network, begin(problems, network, num_steps=num_steps), num_steps).losses
                values.append(LOSS.value(losses).item())
            flat[index] = middle
            grad.view(-1)[index] = (values[0] - values[1]) / (2 * width)
        grads.append(grad)
    return grads


def _with_graph(network: OptimizerNetwork, num_steps: int) -> list[Tensor]:
    """∂L/∂φ by the graph of the unroll itself, where the optimizer is given gradients without one."""
    problems = bowls()
    params, losses = problems.initial_params, []
    state = network.expect(network.init_state(problems.layout, len(problems)), num_steps)
    for number in range(num_steps + 1):
        leaf = params if params.requires_grad else params.clone().requires_grad_()
        with torch.enable_grad():
            evaluation = problems.evaluate(leaf, graph="second")
            if number:
                losses.append(evaluation.loss)
            known = Evaluation(evaluation.loss, evaluation.grad.detach(), leaf)
            update, state, _ = network.step(known.only(network.reads), state)
            params = leaf + update
    loss = LOSS.value(torch.stack(losses))
    return list(torch.autograd.grad(loss, network.trained_parameters(), materialize_grads=True))
