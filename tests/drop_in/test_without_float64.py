"""Steps of parameters in float32, on devices that have no float64 (Apple's GPUs)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meta_opt import LearnedOptimizer
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.saved.pretrained import pretrained, pretrained_path
from meta_opt.saved.recipes import load_optimizer


class NoFloat64(TorchDispatchMode):
    """An error where a result is in float64."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.dtype == torch.float64:
                raise TypeError(f"{operation} makes float64")
        return result


def test_float64_is_found() -> None:
    with pytest.raises(TypeError, match=r"aten\._to_copy\.default makes float64"), NoFloat64():
        torch.ones(2).double()


# alpha_opt takes float64 where the device has it.
@pytest.mark.parametrize("name", sorted({*pretrained()} - {"alpha_opt"}))
def test_steps_need_none(name: str) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    learned = load_optimizer(pretrained_path(name))
    engine: dict[str, Any] = {"engine": "torch"} if isinstance(learned, CoordinatewiseLSTM) else {}
    network = {"network": "fc"} if "fc" in getattr(learned, "networks", {}) else {}
    optimizer = LearnedOptimizer([{"params": model.parameters(), **network}], pretrained=name, **engine)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(10, 8)).square().mean()
        loss.backward()
        return loss

    with NoFloat64():
        losses = [float(optimizer.step(closure).detach()) for _ in range(4)]
    assert len({*losses}) == 4
