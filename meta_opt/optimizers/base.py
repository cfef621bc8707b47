"""The learned-optimizer contract: an ``nn.Module`` with weights φ inside and its state outside."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Generator, Tensor, nn

from meta_opt.configurable import Configurable
from meta_opt.params import Layout
from meta_opt.problems import Evaluation

State = TypeVar("State")


class LearnedOptimizer(Configurable, nn.Module, ABC):
    """An optimizer network m with weights φ (Andrychowicz et al. 2016, equation 3).

        g_t, h_{t+1} = m_φ(∇_t, h_t)        θ_{t+1} = θ_t + g_t

    The state h is a dataclass of tensors (or of tuples of tensors) that :meth:`init_state` makes and :meth:`step`
    replaces; it is never changed in place.
    """

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the weights φ, drawn from ``generator``; called once, before anything else.

        Args:
            layout: The coordinates to be optimized, for networks that keep weights per group or per tensor.
            generator: The only source of randomness.
        """

    @abstractmethod
    def init_state(self, layout: Layout, num_problems: int) -> Any:
        """h_0 for B = ``num_problems`` problems, on the device and of the type of φ."""

    @abstractmethod
    def step(self, evaluation: Evaluation, state: Any) -> tuple[Tensor, Any]:
        """One update.

        Args:
            evaluation: Loss [B], gradient [B, N] and parameters [B, N] at this step.
            state: h_t.

        Returns:
            The update g_t, [B, N], to be added to the parameters, and h_{t+1}.
        """


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to every tensor of a state (a tensor, a tuple or a dataclass of such), keeping its form."""
    if isinstance(state, Tensor):
        return function(state)  # type: ignore[return-value]
    if isinstance(state, tuple):
        return tuple(map_state(function, item) for item in state)  # type: ignore[return-value]
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return dataclasses.replace(
            state, **{item.name: map_state(function, getattr(state, item.name)) for item in dataclasses.fields(state)}
        )
    return state
