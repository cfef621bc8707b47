"""Recurrent networks for coordinates, tensors and the problem (Wichrowska et al. 2017, arXiv:1703.04813)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from meta_opt import memory
from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.optimizers.lstm.preprocessing import bounded
from meta_opt.optimizers.pooling import pooled, spread
from meta_opt.optimizers.state import axis
from meta_opt.optimizers.weights import uniform

_LEAST_SQUARE = 1e-20  # a mean square that is no larger is as good as zero
_FIRST_DECAY = 0.9  # of the fastest average, before anything is learned
_FIRST_KEPT = 0.96  # γ before anything is learned


class GRU(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) for columns, whose biases a level above adds to."""

    def __init__(self, num_inputs: int, size: int, size_above: int, generator: Generator) -> None:
        super().__init__()
        self.size = size
        drawn = 2 * 4 * 3 * size * (num_inputs + size)  # bytes of weights, and of the numbers that they are made from
        memory.check(drawn, f"a layer of {size} units, see optimizer.hidden_size")
        bound = 1.0 / math.sqrt(size)

        def draw(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(uniform((rows, columns), bound, generator))

        # Rows: reset gate, update gate, candidate.
        self.of_inputs = draw(3 * size, num_inputs)
        self.of_hidden = draw(3 * size, size)
        self.bias = nn.Parameter(torch.zeros(3 * size, 1))
        self.of_above = draw(3 * size, size_above) if size_above else None

    def biases(self, above: Tensor | None) -> Tensor:
        """The biases under units above, [H', n], as [3H, n]; without any, [3H, 1]."""
        if above is None or self.of_above is None:
            return self.bias
        return torch.addmm(self.bias, self.of_above, above)

    def forward(self, inputs: Tensor, hidden: Tensor, biases: Tensor) -> Tensor:
        """Inputs [F, n], hidden [H, n] and biases [3H, n] or [3H, 1] to the new hidden, [H, n]."""
        read = self.of_inputs @ inputs + biases
        kept = self.of_hidden @ hidden
        reset, keep = torch.sigmoid(read[: 2 * self.size] + kept[: 2 * self.size]).split(self.size)
        candidate = torch.tanh(read[2 * self.size :] + reset * kept[2 * self.size :])
        return torch.lerp(candidate, hidden, keep)


@dataclass(frozen=True)
class HierarchicalState:
    """What averages and networks remember."""

    sizes: tuple[int, ...]  # coordinates of each of S tensors
    means: Tensor = axis("coordinate")  # [C, B, N], m_s, fastest first
    squares: Tensor = axis("coordinate")  # [C, B, N], λ_s
    log_step: Tensor = axis("coordinate")  # [B, N], less ln(base_step)
    of_coordinates: Tensor = axis("coordinate")  # [H, B·N]
    of_tensors: Tensor = axis("tensor")  # [H', B·S]
    of_problem: Tensor = axis("problem")  # [H'', B]


class HierarchicalRNN(OptimizerNetwork):
    """A GRU per coordinate, one per tensor above, and one for the problem on top; each biases the one below.

        m_s, λ_s: averages of ∇ and m_s² at C time scales, with decays β^(1/2^s), s = 0..C-1
        inputs:   m_s/√λ_s,  (ln λ_s - mean_s ln λ_s)/2,  η - mean η over the tensor
        update = base_step · e^(η + Δη) · (output_scale · out - mean_s m_s/√λ_s),   η ← η + (1 - γ) Δη

    The decays β of both averages (each coordinate's own, 0.9 at first), the direction out, and the change Δη of the log
    step size are outputs of the network of coordinates; γ is a number that is learned. The network of a tensor reads
    the mean over its coordinates' hidden states, that of the problem the mean over tensors; what they pass down, as
    they were after the last step, adds to the biases of the gates.

    Left out of the paper: gradients at another place than θ (its attention, after Nesterov); the direction divided by
    its length; random initial step sizes. Left out of the authors' code: hidden states that are learned to begin with;
    a bias from the problem's network straight to coordinates; the mean of the inputs as one more input of the tensor's
    network. Added: the base direction, so that an untrained network already optimizes.
    """

    scope = "problem"

    def __init__(
        self,
        hidden_size: int = 10,
        tensor_size: int = 20,
        problem_size: int = 20,
        num_scales: int = 4,
        base_step: float = 0.03,
        output_scale: float = 0.1,
        initial_output: float = 0.1,
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            hidden_size: H, width of the network of coordinates.
            tensor_size: H', width of the network of tensors.
            problem_size: H'', width of the network of the problem.
            num_scales: C, time scales of the averages, each twice as long as the one before.
            base_step: Size of an update before anything is learned, for every coordinate.
            output_scale: Factor of what is written beside the base direction.
            initial_output: Factor of the output layer's initial weights.

        Raises:
            MetaOptError: If a value is out of range.
        """
        super().__init__()
        sizes = {
            "hidden_size": hidden_size,
            "tensor_size": tensor_size,
            "problem_size": problem_size,
            "num_scales": num_scales,
        }
        for name, value in sizes.items():
            if value < 1:
                raise MetaOptError(f"optimizer.{name} must be 1 or more, not {value}")
        if not base_step > 0.0:
            raise MetaOptError(f"optimizer.base_step must be more than 0, not {base_step}")
        self.hidden_size = hidden_size
        self.tensor_size = tensor_size
        self.problem_size = problem_size
        self.num_scales = num_scales
        self.base_step = base_step
        self.output_scale = output_scale
        self.initial_output = initial_output

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network of each kind, whatever the layout."""
        self.coordinates = GRU(2 * self.num_scales + 1, self.hidden_size, self.tensor_size, generator)
        self.tensors = GRU(self.hidden_size, self.tensor_size, self.problem_size, generator)
        self.problem = GRU(self.tensor_size, self.problem_size, 0, generator)
        # Rows: direction, change of the log step size, decay of means, decay of squares.
        bound = self.initial_output / math.sqrt(self.hidden_size)
        weight = uniform((4, self.hidden_size), bound, generator)
        weight[1] = 0.0  # or else step sizes would drift, each on its own
        self.output_weight = nn.Parameter(weight)
        decay = _logit(_FIRST_DECAY)
        self.output_bias = nn.Parameter(torch.tensor([[0.0], [0.0], [decay], [decay]]))
        self.logit_kept = nn.Parameter(torch.tensor(_logit(_FIRST_KEPT)))  # of γ

    def init_state(self, layout: Layout, num_problems: int) -> HierarchicalState:
        """All zeros."""
        zeros, size, number = self.output_bias.new_zeros, layout.num_coordinates, len(layout.sizes)
        return HierarchicalState(
            layout.sizes,
            zeros(self.num_scales, num_problems, size),
            zeros(self.num_scales, num_problems, size),
            zeros(num_problems, size),
            zeros(self.hidden_size, num_problems * size),
            zeros(self.tensor_size, num_problems * number),
            zeros(self.problem_size, num_problems),
        )

    def step(self, evaluation: Evaluation, state: HierarchicalState, noise: Generator | None = None) -> Step:
        """See :meth:`OptimizerNetwork.step`."""
        grad, sizes = bounded(evaluation.grad), state.sizes
        shape = grad.shape
        # Decays are what the network said at the last step; at first, of zeros, its biases.
        said = torch.addmm(self.output_bias[2:], self.output_weight[2:], state.of_coordinates)
        means, squares = self._averages(grad, state, torch.sigmoid(said).view(2, *shape))
        logs = (squares + _LEAST_SQUARE).log()  # [C, B, N]
        momenta = means * (-0.5 * logs).exp()
        step_sizes = state.log_step - spread(pooled(state.log_step, sizes), sizes)
        inputs = torch.cat([momenta, 0.5 * (logs - logs.mean(0)), step_sizes.unsqueeze(0)]).flatten(1)

        of_problem = state.of_problem
        from_above = self.tensors.biases(of_problem)  # [3H', B]
        of_tensors = state.of_tensors.view(self.tensor_size, shape[0], len(sizes))
        biases = self.coordinates.biases(state.of_tensors).view(-1, *of_tensors.shape[1:])  # [3H, B, S]
        of_coordinates = self.coordinates(inputs, state.of_coordinates, spread(biases, sizes).flatten(1))
        seen = pooled(of_coordinates.view(-1, *shape), sizes)  # [H, B, S]
        of_tensors = self.tensors(
            seen.flatten(1), state.of_tensors, from_above.repeat_interleave(len(sizes), dim=1)
        ).view_as(of_tensors)
        of_problem = self.problem(of_tensors.mean(2), of_problem, self.problem.biases(None))

        outputs = torch.addmm(self.output_bias[:2], self.output_weight[:2], of_coordinates).view(2, *shape)
        momentum = momenta.mean(0)
        direction = self.output_scale * outputs[0] - momentum
        update = self.base_step * (state.log_step + outputs[1]).exp() * direction
        log_step = state.log_step + torch.sigmoid(-self.logit_kept) * outputs[1]
        # Where there have been gradients, but no longer, an update fades; where there have been none, it is zero.
        update = torch.where(grad == 0.0, update * momentum.abs().clamp_max(1.0), update)
        return Step(
            update,
            HierarchicalState(sizes, means, squares, log_step, of_coordinates, of_tensors.flatten(1), of_problem),
        )

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Meta-gradients of one size, whatever the losses are."""
        return {"model.lr": 0.005, "model.normalize_gradient": True, "model.estimator.replay_fraction": 1.0}

    def _averages(self, grad: Tensor, state: HierarchicalState, decays: Tensor) -> tuple[Tensor, Tensor]:
        """Means and squares after the gradient, [C, B, N] each, with decays of the fastest of both, [2, B, N].

        The first gradient fills the averages: there is nothing to average it with.
        """
        powers = 0.5 ** torch.arange(self.num_scales, dtype=grad.dtype, device=grad.device)
        decays = (decays.log().unsqueeze(1) * powers.view(-1, 1, 1)).exp()  # [2, C, B, N]
        new = (state.squares == 0.0).all(0)
        decays = decays.masked_fill(new, 0.0)
        means = torch.lerp(grad, state.means, decays[0])
        return means, torch.lerp(means * means, state.squares, decays[1])


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))
