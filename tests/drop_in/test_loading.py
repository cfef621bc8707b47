"""States of learned optimizers that are not what they should be, as they may come from a file."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from meta_opt import LearnedOptimizer, MetaOptError


def stepped(seed: int = 0) -> LearnedOptimizer:
    generator = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (4,))]
    optimizer = LearnedOptimizer(params, "general", num_steps=9)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()
    return optimizer


def refused(saved: dict[str, Any]) -> str:
    """What is said of the state; nothing is changed then."""
    optimizer = stepped(1)
    before = str(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(MetaOptError) as raised:
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == before
    optimizer.step()
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "1", "the lr of a group in a state must be a finite number, not '1'"),
        ("lr", math.nan, "the lr of a group in a state must be a finite number, not nan"),
        ("lr", None, "the lr of a group in a state must be a finite number, not None"),
        ("num_steps", "9", "num_steps must be a whole number of at least 1, not '9'"),
        ("num_steps", 1 << 60, "num_steps must be at most 9007199254740992, not 1152921504606846976"),
        ("taken", None, "the number of steps taken in a state must be a whole number of at least 0, not None"),
        ("depths", [0.0], "the places of parameters in a state must be numbers, one for each parameter of a group"),
        ("depths", ["a", "b"], "the places of parameters in a state must be numbers, one for each"),
        ("others", 5, "the places of parameters in a state must be numbers"),
        ("weight_decay", 0.1, "weight_decay: a learned optimizer has none"),
        ("params", [[0], [1]], "this is not the state of an optimizer"),
    ],
)
def test_groups_that_no_step_can_be_taken_with(name: str, value: Any, message: str) -> None:
    saved = copy.deepcopy(stepped().state_dict())
    saved["param_groups"][0][name] = value
    assert message in refused(saved)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [0.0],
        torch.zeros(1, 12, dtype=torch.bool),
        torch.zeros(1, 12, dtype=torch.complex64),
        torch.zeros(1, 12).to_sparse(),
        torch.zeros(1, 12, device="meta"),
    ],
    ids=["none", "list", "bool", "complex", "sparse", "meta"],
)
def test_what_is_no_tensor_of_numbers_in_its_place(value: Any) -> None:
    saved = copy.deepcopy(stepped().state_dict())
    saved["state"][0]["mean"] = value
    assert "the state of parameter 0 is not one of this learned optimizer's for a tensor of (4, 3)" in refused(saved)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"state": None}, "this is not the state of an optimizer"),
        ({"param_groups": [None]}, "this is not the state of an optimizer"),
        ({"param_groups": None}, "this is not the state of an optimizer"),
        ({"state": {0: [1.0]}}, "the state of parameter 0 must be a dictionary, not a list of 1"),
    ],
)
def test_what_has_not_the_form_of_a_state(damage: dict[str, Any], message: str) -> None:
    assert message in refused({**stepped().state_dict(), **damage})


def test_a_rate_that_a_schedule_left_just_below_zero_is_loaded() -> None:
    saved = copy.deepcopy(stepped().state_dict())
    saved["param_groups"][0]["lr"] = -1e-17
    stepped(1).load_state_dict(saved)
