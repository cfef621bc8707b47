"""What a learned optimizer in an own loop refuses of a state that is loaded, which comes from a file as a rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from meta_opt.drop_in.checks import as_number, check_terms, checked_steps
from meta_opt.errors import MetaOptError, shown, whole


def check_form(saved: Mapping[str, Any]) -> None:
    """See that this has the form of an optimizer's state: groups that number their parameters, and states by number."""
    states, groups = saved.get("state"), saved.get("param_groups")
    if not (isinstance(states, dict) and isinstance(groups, list) and all(map(_is_group, groups))):
        raise MetaOptError("this is not the state of an optimizer")
    for number in (number for group in groups for number in group["params"]):
        if not isinstance(states.get(number, {}), dict):
            raise MetaOptError(f"the state of parameter {number} must be a dictionary, not {shown(states[number])}")


def _is_group(group: object) -> bool:
    numbers = group.get("params") if isinstance(group, dict) else None
    return isinstance(numbers, list) and all(isinstance(number, int | str) for number in numbers)


def check_saved_group(group: Mapping[str, Any]) -> None:
    """See that steps can be taken with what a saved group says beside its network; it may lack what is our own."""
    if not math.isfinite(as_number(group.get("lr"))):
        raise MetaOptError(f"the lr of a group in a state must be a finite number, not {shown(group.get('lr'))}")
    check_terms(group)
    checked_steps(group.get("num_steps"))
    whole("the number of steps taken in a state", group.get("taken", 0), 0)
    depths, others = group.get("depths") or [], group.get("others", [])
    if not (_are_numbers(depths) and len(depths) in (0, len(group["params"])) and _are_numbers(others)):
        raise MetaOptError("the places of parameters in a state must be numbers, one for each parameter of a group")


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(math.isfinite(as_number(value)) for value in values)


def fits(value: object, like: Tensor) -> bool:
    """Whether a value can be read where such a tensor is expected, but for its device and precision."""
    return (
        isinstance(value, Tensor)
        and value.shape == like.shape
        and value.is_floating_point() == like.is_floating_point()
        and value.layout is torch.strided
        and not value.is_meta
    )
