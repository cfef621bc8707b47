"""Meta-gradients against finite differences along one direction."""

from __future__ import annotations

import pytest
import torch
from problems_for_tests import Regression
from torch import Generator

from meta_opt.inner_loop.unroll import Trajectory, begin, unroll
from meta_opt.meta_training.estimators.second_order import second_order
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.contract import OptimizerNetwork


def assert_second_derivatives_are_exact(optimizer: OptimizerNetwork, loss: MetaLoss, width: float = 1e-6) -> None:
    """Of five steps of an optimizer in float64, along a random direction of φ."""

    def trajectory(keep_graph: bool) -> Trajectory:
        problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
        return unroll(problems, optimizer, begin(problems, optimizer), 5, keep_graph=keep_graph)

    grads = second_order(trajectory(True), optimizer, loss).grads
    parameters = optimizer.trained_parameters()
    generator = Generator().manual_seed(2)
    direction = [torch.randn(item.shape, generator=generator, dtype=torch.float64) for item in parameters]
    values = []
    for factor in (width, -2.0 * width, width):  # to both sides, and back
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=factor)
        values.append(float(loss.value(trajectory(False).losses)))
    slope = sum(float((grad * along).sum()) for grad, along in zip(grads, direction, strict=True))
    assert slope == pytest.approx((values[0] - values[1]) / (2.0 * width), rel=1e-5)
    assert abs(slope) > 1e-3
