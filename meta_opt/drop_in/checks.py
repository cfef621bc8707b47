"""What a learned optimizer in an own loop refuses of gradients, losses and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError, shown, whole

_MOST_STEPS = 1 << 53  # of a training: what a float counts


def check_gradient(param: Tensor, grad: Tensor) -> None:
    """See that a gradient is dense, and of its parameter's shape."""
    if grad.layout is not torch.strided:
        raise MetaOptError(
            f"learned optimizers need dense gradients, found one of {tuple(param.shape)} that is {grad.layout}: for "
            "embeddings set sparse=False"
        )
    if grad.shape != param.shape:
        raise MetaOptError(
            f"the gradient of a parameter of {tuple(param.shape)} is of {tuple(grad.shape)}: where parameters change "
            "their shape, clear their gradients"
        )


def as_number(value: object) -> float:
    """The value as a number; nan where it is none."""
    if isinstance(value, bool) or not isinstance(value, Real | Tensor):
        return math.nan
    try:
        return float(value)
    except (ValueError, RuntimeError, OverflowError):  # several, complex, too large
        return math.nan


def checked_steps(num_steps: object) -> int | None:
    """The number of steps of a training, whatever kind of integer it is; None if it is not known."""
    number = None if num_steps is None else whole("num_steps", num_steps, 1)
    if number is not None and number > _MOST_STEPS:
        raise MetaOptError(f"num_steps must be at most {_MOST_STEPS}, not {shown(number)}")
    return number


def check_loss(loss: object) -> None:
    """See that what a closure returned is a loss."""
    is_one = loss.numel() == 1 and not loss.is_complex() if isinstance(loss, Tensor) else isinstance(loss, Real)
    if not is_one:
        found = f"a tensor of {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
        raise MetaOptError(f"the closure must return the loss, one real number; it returned {found}")


def check_terms(group: Mapping[str, Any]) -> None:
    """Refuse what other optimizers add to their steps, and learned ones do not."""
    if group.get("weight_decay"):
        raise MetaOptError(
            "weight_decay: a learned optimizer has none; add the term to the loss, or shrink the parameters after "
            "each step"
        )
    if group.get("maximize"):
        raise MetaOptError("maximize: a learned optimizer minimizes; negate the loss")
