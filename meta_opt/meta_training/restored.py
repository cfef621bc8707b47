"""What a checkpoint has brought the meta-optimizer: its file may hold anything."""

from __future__ import annotations

import torch
from torch import Tensor

from meta_opt.errors import CheckpointError


def check_restored(optimizer: torch.optim.Optimizer) -> None:
    """See that a meta-optimizer can step with the state that it has.

    Args:
        optimizer: With options and state of a checkpoint, or new.

    Raises:
        CheckpointError: If an option is of another kind than its default, or a tensor of the state is not that of its
            parameter.
    """
    for group in optimizer.param_groups:
        for name, default in optimizer.defaults.items():
            if not _is_like(group[name], default):
                raise _damaged(f"its option {name} is {group[name]!r}")
        for param in group["params"]:
            for name, value in optimizer.state.get(param, {}).items():
                if isinstance(value, Tensor) and not _fits(value, param, signed=name != "step"):
                    raise _damaged(f"its {name} does not fit a parameter of {list(param.shape)}")
                if not isinstance(value, Tensor | int | float):
                    raise _damaged(f"its {name} is a {type(value).__name__}")


def _is_like(value: object, default: object) -> bool:
    """Whether an option is of the kind of its default; numbers of either kind are."""
    if isinstance(default, tuple | list):
        if not isinstance(value, tuple | list) or len(value) != len(default):
            return False
        return all(_is_like(each, of_default) for each, of_default in zip(value, default, strict=True))
    number = (int, float, Tensor)
    if isinstance(default, number) and not isinstance(default, bool):
        return isinstance(value, number) and not isinstance(value, bool)
    return default is None or isinstance(value, type(default))


def _fits(value: Tensor, param: Tensor, *, signed: bool) -> bool:
    if value.layout != torch.strided or value.is_complex() or value.shape not in (torch.Size(), param.shape):
        return False
    return bool(value.isfinite().all()) and (signed or bool((value >= 0).all()))


def _damaged(reason: str) -> CheckpointError:
    return CheckpointError(f"the state of the meta-optimizer in the checkpoint is damaged: {reason}")
