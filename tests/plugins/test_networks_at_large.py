"""The family that an optimizer for whatever network is trained on."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
import torch

from meta_opt.errors import OptimizeeError
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt_optimizees.drawn_data import text
from meta_opt_optimizees.networks_at_large import Kind, NetworksAtLarge


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_kind_learns_with_adam(kind: Kind) -> None:
    family = NetworksAtLarge([kind])
    factors = []
    for index in range(5):
        problems = Problems(family, "train", [index], seed=0)
        theta = problems.initial_params.clone()
        adam = torch.optim.Adam([theta], lr=0.03)
        losses = []
        for _ in range(40):
            evaluation = problems.evaluate(theta)
            theta.grad = evaluation.grad
            adam.step()
            losses.append(float(evaluation.loss))
        factors.append(sum(losses[-5:]) / sum(losses[:2]) * 0.4)
    assert sorted(factors)[2] < 0.95


def test_kinds_and_scales_of_the_loss_are_drawn() -> None:
    family, sizes = NetworksAtLarge(), Counter()
    first = []
    for index in range(60):
        problems = Problems(family, "train", [index], seed=0)
        sizes[problems.layout.num_coordinates] += 1
        first.append(float(problems.evaluate(problems.initial_params).loss))
    assert len(sizes) > 50
    assert min(first) < 0.1
    assert max(first) > 50
    assert all(0 < value < 1e5 for value in first)


def test_the_same_generator_gives_the_same_problem() -> None:
    one, other = (Problems(NetworksAtLarge(), "validation", [3], seed=1) for _ in range(2))
    assert torch.equal(one.initial_params, other.initial_params)
    assert torch.equal(*(problems.evaluate(problems.initial_params).loss for problems in (one, other)))


def test_what_follows_a_character_is_the_next() -> None:
    drawn = text(7, problem_generator(0, "text"))
    assert drawn.inputs.shape == drawn.targets.shape
    assert drawn.inputs.shape[1] == 7
    assert torch.equal(drawn.inputs[:, 1:], drawn.targets[:, :-1])
    assert int(drawn.inputs.max()) < drawn.num_outputs


def test_no_kinds_are_refused() -> None:
    with pytest.raises(OptimizeeError, match="optimizee.kinds must name at least one kind"):
        NetworksAtLarge([])
