"""The contract of inner optimizers: what steps θ, hand-made or learned.

    g_t, h_{t+1} = m(f_t, ∇_t, θ_t, h_t)        θ_{t+1} = θ_t + g_t

Everything that is remembered is in the state h. A learned optimizer is also an ``nn.Module``, whose weights are φ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn

from meta_opt.configurable import Configurable
from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.replaying import LARGE, by_weights, replay_by_step
from meta_opt.optimizers.state import columns_of

Scope = Literal["coordinate", "tensor", "problem"]


class Step(NamedTuple):
    """What one step gives.

    Attributes:
        update: g_t, [B, N], to be added to the parameters.
        state: h_{t+1}.
        record: What an estimator wants to know of a stochastic step (actions, log-probabilities), in any form.
    """

    update: Tensor
    state: Any
    record: Any = None


class InnerOptimizer(ABC):
    """Steps the parameters of B problems at once; its state is outside of it.

    The state is a tensor, or a dataclass, tuple, list or dict of tensors (and of others). Each dataclass field with
    tensors says by :func:`meta_opt.optimizers.state.axis` what their last axis goes through.

    Attributes:
        reads: Which of ``"loss"``, ``"grad"`` and ``"params"`` :meth:`step` looks at. The others are not computed for
            it, not recorded, and reading them is an error.
        scope: How far one coordinate's update depends on others: on nothing but itself (``"coordinate"``), on its
            tensor (``"tensor"``: the other coordinates of it, or its shape and place in the model), or on the whole
            problem (``"problem"``). Problems never depend on each other.
        rests: Whether a coordinate whose gradients have all been exactly zero (a padding row, a pruned weight) is never
            moved.
        horizon: Whether it makes something of the number of steps of a run, see :meth:`expect`.
    """

    reads: frozenset[str] = frozenset({"grad"})
    scope: Scope = "problem"
    rests: bool = False
    horizon: bool = False

    @abstractmethod
    def init_state(self, layout: Layout, num_problems: int) -> Any:
        """h_0 for B = ``num_problems`` problems."""

    def expect(self, state: Any, num_steps: int) -> Any:
        """A first state that knows how many steps the run will have; by default as it is.

        A run may stop earlier, or go on longer.

        Args:
            state: h_0; it stays what it is.
            num_steps: 1 or more.
        """
        return state

    def numbered(self, state: Any, layout: Layout, numbers: Sequence[int]) -> Any:
        """A first state that knows which problems of their stream these are; by default as it is.

        For optimizers that draw numbers of their own, which are to be others for each problem, and the same whichever
        problems run side by side.

        Args:
            state: h_0.
            layout: As it was given for it.
            numbers: The number of each problem, B.
        """
        return state

    @abstractmethod
    def step(self, evaluation: Evaluation, state: Any, noise: Generator | None = None) -> Step:
        """One update.

        Args:
            evaluation: What ``reads`` names of: loss [B], gradient [B, N] and parameters [B, N] at this step.
            state: h_t.
            noise: The source of randomness of a stochastic optimizer, on the device of the state; None for the
                deterministic step.
        """

    def rollout(self, state: Any, noise: Generator | None = None) -> Rollout:
        """Steps one after the other, which some optimizers know a faster way for than :meth:`step` again and again.

        Args:
            state: Where to begin; it stays what it is.
            noise: See :meth:`step`.
        """
        return Rollout(self, state, noise)


class OptimizerNetwork(Configurable, nn.Module, InnerOptimizer):
    """An optimizer network m with weights φ (Andrychowicz et al. 2016, equation 3), meta-trained from the command line.

    Its state is on the device, and of the type, of φ. ``forward`` is :meth:`step`, so that
    ``torch.func.functional_call(network, phi, (evaluation, state))`` steps with other weights.

    Attributes:
        any_layout: Whether the network serves any number and order of coordinates of its groups; if not, those only
            that it was built for.
    """

    any_layout: bool = True
    _option = "optimizer"

    @abstractmethod
    def build(self, layout: Layout, generator: Generator) -> None:
        """Make the weights φ, drawn from ``generator``; called once, before anything else.

        Args:
            layout: The coordinates to be optimized, for networks that keep weights per group or per tensor.
            generator: The only source of randomness.
        """

    def forward(self, evaluation: Evaluation, state: Any, noise: Generator | None = None) -> Step:
        """See :meth:`step`."""
        return self.step(evaluation, state, noise)

    def start_from(self, other: OptimizerNetwork) -> None:
        """Take over the weights of ``other``, to train them further.

        Args:
            other: A built network of the same class.

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
        """Options ``model.NAME``, and ``optimizer.NAME`` of its own, with values that suit this architecture.

        Used as defaults of a new meta-training, above those that the optimizee recommends and below whatever the user
        says.
        """
        return {}

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters of φ that the meta-gradient is taken of."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @property
    def replays_columns(self) -> bool:
        """Whether :meth:`replay` can go over some coordinates only."""
        return self.scope == "coordinate"

    def replay(
        self,
        evaluations: Sequence[Evaluation],
        state: Any,
        coefficients: Sequence[Tensor],
        columns: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Σ_τ ⟨c_τ, ∂g_τ/∂φ⟩, the meta-gradient of recorded steps whose inputs are held constant.

        Only for networks that read nothing but the gradient. Here: step through the evaluations once more, with a
        graph, and back; or where that graph would be large, step by step (see ``replaying``). Architectures may know a
        faster way.

        Args:
            evaluations: What steps τ = 0..T-1 read.
            state: h_0.
            coefficients: c_τ = ∂L/∂g_τ, each [B, N], or [B, n] with columns.
            columns: Which of the N coordinates the sum goes over, [n], ascending; all if None. Only where
                :attr:`replays_columns`.

        Returns:
            One gradient per parameter of :meth:`trained_parameters`, in their order.

        Raises:
            MetaOptError: If columns are given and the network cannot replay some coordinates alone; or if what it does
                has no graph behind it.
        """
        if columns is not None:
            if self.scope != "coordinate":
                raise MetaOptError(f"{type(self).__name__} replays all coordinates or none: its scope is {self.scope}")
            state = columns_of(state, columns, *evaluations[0].grad.shape)
            evaluations = [Evaluation.of(grad=each.grad.index_select(1, columns)) for each in evaluations]
        if coefficients[0].numel() * len(coefficients) > LARGE:
            return replay_by_step(self, evaluations, state, coefficients)
        inner = torch.zeros_like(coefficients[0][0, :1].sum())
        with torch.enable_grad():
            for evaluation, coefficient in zip(evaluations, coefficients, strict=True):
                update, state, _ = self.step(evaluation, state)
                inner = inner + torch.dot(coefficient.flatten(), update.flatten())
            return by_weights(inner, self)


class Rollout:
    """Steps of an optimizer one after the other, while φ stays what it is.

    Attributes:
        state: The state after the last step. The next may overwrite it.
        record: The record of the last step.
    """

    def __init__(self, optimizer: InnerOptimizer, state: Any, noise: Generator | None = None) -> None:
        """Begin at ``state``."""
        self._optimizer = optimizer
        self._noise = noise
        self.state = state
        self.record: Any = None

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]; see :meth:`InnerOptimizer.step`."""
        found = self._optimizer.step(evaluation, self.state, self._noise)
        if not isinstance(found, tuple) or len(found) != 3:
            kind = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
            raise MetaOptError(f"{type(self._optimizer).__name__}.step must return Step(update, state), found {kind}")
        update, self.state, self.record = found
        return update
