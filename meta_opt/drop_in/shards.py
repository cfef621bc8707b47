"""Parameters that are spread over processes, and which learned optimizers can step them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from meta_opt.drop_in.parameter_states import is_dtensor
from meta_opt.errors import MetaOptError
from meta_opt.optimizers.contract import Scope


def check_shards(param: Tensor, scope: Scope) -> None:
    """See that a parameter is whole where it must be: statistics and positions in a shard are not the tensor's.

    Raises:
        MetaOptError: If it is not, or its gradient is spread over processes in another way than it is.
    """
    sharded = is_dtensor(type(param))
    if getattr(param, "_fsdp_flattened", False) or (sharded and scope != "coordinate"):
        raise MetaOptError(
            f"this learned optimizer sees whole tensors, found a parameter of {tuple(param.shape)} that FSDP or "
            "DTensor shards over processes; wrap the model with DistributedDataParallel instead, use a learned "
            "optimizer that steps each coordinate on its own (and fully_shard), or give the sharded parameters to "
            "another optimizer"
        )
    if sharded and param.grad is not None and _placements(param.grad) != _placements(param):
        raise MetaOptError(
            f"the gradient of a parameter of {tuple(param.shape)} is placed as {_placements(param.grad)}, the "
            f"parameter as {_placements(param)}; redistribute it before the step"
        )


def _placements(tensor: Tensor) -> Any:
    """How a DTensor is spread over processes; None if it is no DTensor."""
    return getattr(tensor, "placements", None)
