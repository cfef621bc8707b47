"""What a checkpoint has brought a run that goes on: its file may hold anything."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor

from meta_opt.errors import CheckpointError, shown
from meta_opt.messages import clipped


def options_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The options of every group that the optimizer's class takes, but for learning rates.

    What else a group may hold, a count of steps for example, belongs to the optimizer's state.
    """
    names = inspect.signature(type(optimizer)).parameters.keys() - {"params", "lr"}
    return [{name: group[name] for name in group.keys() & names} for group in optimizer.param_groups]


def check_restored(optimizer: torch.optim.Optimizer) -> None:
    """See that a meta-optimizer can step with the state that it has.

    Args:
        optimizer: With the state of a checkpoint, or new; it is left as it was.

    Raises:
        CheckpointError: If a tensor of the state is not that of its parameter, or, with an optimizer of PyTorch, a step
            fails or leaves weights that are not finite.
    """
    params = [param for group in optimizer.param_groups for param in group["params"] if param in optimizer.state]
    for param in params:
        if not isinstance(optimizer.state[param], dict):
            raise _damaged(f"that of a parameter is {shown(optimizer.state[param])}")
        for name, value in optimizer.state[param].items():
            if isinstance(value, Tensor) and not _fits(value, param, signed=name != "step"):
                raise _damaged(f"its {name} does not fit a parameter of {list(param.shape)}")
            if not isinstance(value, Tensor | int | float):
                raise _damaged(f"its {name} is a {type(value).__name__}")
    if type(optimizer).__module__.startswith("torch.optim."):  # others may not be ready for a step yet
        _try_step(optimizer, params)


def check_counters(loops: Any, name: str = "loops") -> None:
    """See that what Lightning's loops have counted is whole numbers, of at least 0.

    Args:
        loops: The entry of a checkpoint: mappings of mappings, and lists, which are states of data loaders. What is no
            mapping at all is left to Lightning.
        name: Where that is, for the message.

    Raises:
        CheckpointError: If something else has been counted.
    """
    for key, value in loops.items() if isinstance(loops, dict) else ():
        if not isinstance(value, dict | list) and (not isinstance(value, int) or value < 0):
            raise CheckpointError(f"the checkpoint is damaged: its {clipped(f'{name}.{key}')} is {shown(value)}")
        check_counters(value, f"{name}.{key}")


def _try_step(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> None:
    """Step with gradients of zero, and undo it."""
    before = copy.deepcopy(optimizer.state_dict())
    weights = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    try:
        optimizer.step()
    except Exception as error:  # what a step raises for rubbish is not specified
        raise _damaged(f"a step with it fails ({type(error).__name__}: {clipped(error)})") from error
    if not all(bool(param.isfinite().all()) for param in params):
        raise _damaged("a step with it is not finite")
    with torch.no_grad():
        for param, value in zip(params, weights, strict=True):
            param.copy_(value)
            param.grad = None
    optimizer.load_state_dict(before)


def _fits(value: Tensor, param: Tensor, *, signed: bool) -> bool:
    """Whether a tensor can belong to a parameter: of its shape, or of one that is spread to it, as Adafactor's are."""
    if value.layout != torch.strided or value.is_complex() or value.dim() > param.dim():
        return False
    sides = zip(reversed(value.shape), reversed(param.shape), strict=False)
    if any(side not in (1, of_param) for side, of_param in sides):
        return False
    return bool(value.isfinite().all()) and (signed or bool((value >= 0).all()))


def _damaged(reason: str) -> CheckpointError:
    return CheckpointError(f"the state of the meta-optimizer in the checkpoint is damaged: {reason}")
