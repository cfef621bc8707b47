"""The learned-optimizer contract: an ``nn.Module`` with weights φ inside and its state outside."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Generator, Tensor, nn

from meta_opt.configurable import Configurable
from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout, Sharing
from meta_opt.optimizees.problems import Evaluation

State = TypeVar("State")
Engine = Literal["auto", "native", "torch"]


class LearnedOptimizer(Configurable, nn.Module, ABC):
    """An optimizer network m with weights φ (Andrychowicz et al. 2016, equation 3).

        g_t, h_{t+1} = m_φ(∇_t, h_t)        θ_{t+1} = θ_t + g_t

    The state h is a dataclass of tensors (or of tuples of tensors) that :meth:`init_state` makes and :meth:`step`
    replaces.

    Attributes:
        engine: What computes steps and replays where an architecture has native code for it: native code if it can be
            had (``"auto"``), native code or an error, or PyTorch.
        reads_params: Whether :meth:`step` reads the parameters; where it does not, unrolls need not keep them.
        share: Which parameters have a network in common; :meth:`Layout.segments` says what the networks are called.
        tensor_features: Whether the layout's shapes and depths matter to it, not only which coordinates there are.
        network_for: Of parameters that have no network of their own name, which network works on them instead: from
            the name that ``share`` gives them to that of a network (of tensors with slashes for dots).
    """

    engine: Engine = "auto"
    reads_params: bool = True
    share: Sharing = "all"
    tensor_features: bool = False
    network_for: Mapping[str, str] = MappingProxyType({})

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the weights φ, drawn from ``generator``; called once, before anything else.

        Args:
            layout: The coordinates to be optimized, for networks that keep weights per group or per tensor.
            generator: The only source of randomness.
        """

    def start_from(self, other: LearnedOptimizer) -> None:
        """Take over the weights of ``other``, to train them further.

        Args:
            other: A built optimizer of the same class.

        Raises:
            MetaOptError: If its weights are others, or of other shapes.
        """
        try:
            self.load_state_dict(other.state_dict())
        except RuntimeError as error:
            raise MetaOptError(
                "the weights of the two learned optimizers do not have the same names and shapes"
            ) from error

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Options ``model.NAME`` and values that suit this architecture, above those that the optimizee recommends.

        Used as defaults of a new meta-training, below whatever the user says.
        """
        return {}

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

    def rollout(self, state: Any) -> Rollout:
        """Steps one after the other, which architectures may know a faster way for than :meth:`step` again and again.

        Args:
            state: Where to begin; it stays what it is.
        """
        return Rollout(self, state)

    def replay(
        self,
        evaluations: Sequence[Evaluation],
        state: Any,
        coefficients: Sequence[Tensor],
        columns: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩, the meta-gradient of recorded steps whose inputs are held constant.

        Here: step through the evaluations once more, with a graph, and back. Architectures may know a faster way.

        Args:
            evaluations: What steps τ = 0..T-1 read.
            state: h_0.
            coefficients: c_τ = ∂L/∂g_τ, each [B, N], or [B, n] with columns.
            columns: Which of the N coordinates the sum goes over, [n], ascending; all if None. Only for networks that
                work on each coordinate on its own.

        Returns:
            One gradient per parameter of :meth:`trained_parameters`, in their order.

        Raises:
            MetaOptError: If the architecture cannot replay some coordinates alone, as it is here.
        """
        if columns is not None:
            name = type(self).__name__
            raise MetaOptError(f"model.replay_fraction must be 1 with {name}, which replays all coordinates")
        inner = torch.zeros_like(coefficients[0][0, 0])
        with torch.enable_grad():
            for evaluation, coefficient in zip(evaluations, coefficients, strict=True):
                update, state = self.step(evaluation, state)
                inner = inner + torch.dot(coefficient.flatten(), update.flatten())
            return torch.autograd.grad(inner, self.trained_parameters(), materialize_grads=True)

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters of φ that the meta-gradient is taken of."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class Rollout:
    """Steps of a learned optimizer one after the other, while φ stays what it is.

    Attributes:
        state: The state after the last step. The next may overwrite it.
    """

    def __init__(self, optimizer: LearnedOptimizer, state: Any) -> None:
        """Begin at ``state``."""
        self._optimizer = optimizer
        self.state = state

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]; see :meth:`LearnedOptimizer.step`."""
        update, self.state = self._optimizer.step(evaluation, self.state)
        return update


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
