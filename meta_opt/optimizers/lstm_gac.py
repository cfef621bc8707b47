"""A coordinatewise LSTM with global averaging cells (Andrychowicz et al. 2016, arXiv:1606.04474v1, appendix)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout, Segment
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.averaging import average_over, averaging_lstm
from meta_opt.optimizers.contract import OptimizerNetwork, Scope, Step
from meta_opt.optimizers.lstm.inputs import READS, read_inputs
from meta_opt.optimizers.lstm.network import LSTMNetwork
from meta_opt.optimizers.lstm.preprocessing import Moments, bounded
from meta_opt.optimizers.lstm.step import LARGEST_EXPONENT
from meta_opt.optimizers.state import axis

GACInputs = Literal["none", "log_sign", "moments", "log_sign+moments"]


@dataclass(frozen=True)
class GACState:
    """h_t of all coordinates, which come last."""

    sizes: tuple[int, ...]  # coordinates of each range that is averaged over
    hidden: tuple[Tensor, ...] = axis("coordinate")  # per layer [H, B·N], averages in their place
    cell: tuple[Tensor, ...] = axis("coordinate")  # per layer [H, B·N]
    moments: Moments | None = axis(None)  # only where inputs or base step need them


class LSTMGAC(OptimizerNetwork):
    """LSTM with shared weights, a state for every coordinate, and in each layer some cells that are averaged.

        update = (output_scale · out - base_step · m̂/√v̂) · e^out'

    where out and out' are two outputs of the network. The outgoing activations of the averaging cells are replaced by
    their mean over all coordinates of the problem, in what the next layer, the next step and the output layer read. So
    coordinates know the size of the whole gradient: enough to clip it by its L2 norm, which no coordinatewise network
    can do. The base step and the second output are not in the paper; with ``base_step=0`` and ``output="linear"`` they
    are left out.
    """

    def __init__(
        self,
        num_layers: int = 2,
        hidden_size: int = 20,
        num_averaging: int = 2,
        average: Literal["problem", "tensor"] = "problem",
        inputs: GACInputs = "log_sign+moments",
        output: Literal["linear", "magnitude"] = "magnitude",
        output_scale: float = 0.1,
        initial_output: float = 0.1,
        base_step: float = 0.01,
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            num_layers: LSTM layers.
            hidden_size: Width H of every layer, averaging cells included.
            num_averaging: How many cells of every layer are averaged.
            average: Whether over all coordinates of the problem, or within each tensor.
            inputs: What the network reads of each coordinate: the gradient itself (none), its logarithm and sign
                (log_sign), gradient and its mean over the root of its second moment (moments), or both.
            output: Whether the update is multiplied by e to the power of a second output (magnitude), or not (linear).
            output_scale: Factor of the output.
            initial_output: Factor of the output layer's initial weights.
            base_step: α of the step -α·m̂/√v̂ that the output is added to, so that an untrained network already
                optimizes; 0 leaves it out.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        for name, value in (("num_layers", num_layers), ("hidden_size", hidden_size)):
            if value < 1:
                raise MetaOptError(f"optimizer.{name} must be 1 or more, not {value}")
        if not 0 <= num_averaging <= hidden_size:
            raise MetaOptError(
                f"optimizer.num_averaging must be from 0 to optimizer.hidden_size, {hidden_size}, not {num_averaging}"
            )
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self.num_averaging = num_averaging
        self.inputs: GACInputs = inputs
        self.output = output
        self.output_scale = output_scale
        self.initial_output = initial_output
        self.base_step = base_step
        self.scope: Scope = average
        self._uses_moments = "moments" in inputs or base_step != 0.0

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network, whatever the layout."""
        self.network = LSTMNetwork(
            READS[self.inputs].num_inputs,
            self.num_layers,
            self.hidden_size,
            2 if self.output == "magnitude" else 1,
            self.initial_output,
            0,
            generator,
        )

    def init_state(self, layout: Layout, num_problems: int) -> GACState:
        """All zeros."""
        like = self.network.output_bias
        size = layout.num_coordinates

        def zeros() -> tuple[Tensor, ...]:
            return tuple(like.new_zeros(self.hidden_size, num_problems * size) for _ in range(self.num_layers))

        moments = Moments.zeros(like, num_problems, size) if self._uses_moments else None
        sizes = layout.sizes if self.scope == "tensor" else (size,)
        return GACState(sizes, zeros(), zeros(), moments)

    def step(self, evaluation: Evaluation, state: GACState, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        grad = bounded(evaluation.grad)
        moments = None if state.moments is None else state.moments.updated(grad)
        whole = Segment("all", 0, grad.shape[1])
        inputs, direction = read_inputs(READS[self.inputs], whole, grad, moments, None, None)
        outputs, hidden, cell = averaging_lstm(
            self.network,
            inputs.flatten(1),
            state.hidden,
            state.cell,
            self.num_averaging,
            average_over(len(grad), state.sizes),
        )
        outputs = outputs.view(len(outputs), *grad.shape)
        update = self.output_scale * outputs[0]
        if self.base_step != 0.0:
            update = update - self.base_step * direction
        if self.output == "magnitude":
            update = update * outputs[1].clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
        if moments is not None:
            update = moments.faded(update, grad)
        return Step(update, GACState(state.sizes, hidden, cell, moments))

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Meta-gradients of one size, whatever the losses are."""
        return {"model.lr": 0.005, "model.normalize_gradient": True, "model.estimator.replay_fraction": 1.0}
