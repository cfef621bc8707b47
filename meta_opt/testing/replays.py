"""The meta-gradient of recorded steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.testing.given import LAYOUT, NUM_STEPS, built, close, draw_evaluations, valleys


def gradient_reaches_every_weight(optimizer: OptimizerNetwork) -> None:
    """Every weight has a part in the updates, those that are drawn included."""
    optimizer = built(optimizer)
    grads = _replay(optimizer, OptimizerNetwork.replay)
    state = optimizer.init_state(LAYOUT, 2)
    update, *_ = optimizer.step(draw_evaluations(2)[0], state, Generator().manual_seed(0))
    drawn = torch.autograd.grad(update.sum(), optimizer.trained_parameters(), materialize_grads=True)
    parameters = {id(parameter): key for key, parameter in optimizer.named_parameters()}
    idle = [
        parameters[id(parameter)]
        for parameter, grad, of_draws in zip(optimizer.trained_parameters(), grads, drawn, strict=True)
        if not (grad.any() or of_draws.any())
    ]
    assert not idle, f"{type(optimizer).__name__}: no gradient reaches {', '.join(idle)}"


def replay_is_backpropagation(optimizer: OptimizerNetwork) -> None:
    """An own ``replay`` gives the gradients of the one that all learned optimizers have."""
    optimizer = built(optimizer)
    name = type(optimizer).__name__
    own, plain = (_replay(optimizer, replay) for replay in (type(optimizer).replay, OptimizerNetwork.replay))
    for key, one, other in zip(dict(optimizer.named_parameters()), own, plain, strict=False):
        assert close(one, other), f"{name}.replay gives another gradient of {key} than backpropagation"


def replay_of_some_coordinates(optimizer: OptimizerNetwork) -> None:
    """``replay`` of some columns is that of all with coefficients of zero elsewhere, or a ``MetaOptError``."""
    optimizer = built(optimizer)
    columns = torch.tensor([0, 3, LAYOUT.num_coordinates - 1])
    some = [evaluation.grad[:, columns] for evaluation in draw_evaluations(2)]
    zeros = torch.zeros(2, LAYOUT.num_coordinates, dtype=torch.float64)
    name = type(optimizer).__name__
    assert "columns" in inspect.signature(optimizer.replay).parameters, f"{name}.replay must take columns"
    try:
        found = optimizer.replay(*_recorded(optimizer), some, columns)
    except MetaOptError:
        return
    expected = OptimizerNetwork.replay(
        optimizer, *_recorded(optimizer), [zeros.index_copy(1, columns, part) for part in some]
    )
    for key, one, other in zip(dict(optimizer.named_parameters()), found, expected, strict=False):
        assert close(one, other), f"{name}.replay of some columns gives another gradient of {key} than they have"


def _replay(optimizer: OptimizerNetwork, replay: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return replay(optimizer, *_recorded(optimizer), [evaluation.grad for evaluation in draw_evaluations(2)])


def _recorded(optimizer: OptimizerNetwork) -> tuple[tuple[Evaluation, ...], Any]:
    """What the steps of an unroll read, and the state before them."""
    problems = valleys(2)
    trajectory = unroll(problems, optimizer, begin(problems, optimizer, grads=True), NUM_STEPS, grads=True)
    return trajectory.evaluations[:-1], trajectory.start.state
