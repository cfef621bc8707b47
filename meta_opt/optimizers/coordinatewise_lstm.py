"""A small LSTM applied to every coordinate on its own (Andrychowicz et al. 2016, section 2.1, arXiv:1606.04474)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import NUM_FEATURES, Layout, Segment, Sharing
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.captured import CapturedRollout
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout, Scope, Step
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.agreement import lengthened
from meta_opt.optimizers.lstm.inputs import READS, Inputs
from meta_opt.optimizers.lstm.native_rollout import NativeRollout
from meta_opt.optimizers.lstm.network import LSTMNetwork
from meta_opt.optimizers.lstm.preprocessing import LOG_SIGN_P, Moments, Scales
from meta_opt.optimizers.lstm.replay import Recording, replay_by_graph, replay_fused, replay_natively
from meta_opt.optimizers.lstm.settings import NetworkSettings
from meta_opt.optimizers.lstm.state import LSTMState, TensorwiseState
from meta_opt.optimizers.lstm.step import lstm_step
from meta_opt.optimizers.sharing import SharedNetworks

Engine = Literal["auto", "native", "torch"]
Output = Literal["linear", "tanh", "magnitude"]
NUM_WORTHWHILE = 1 << 20  # coordinates, that CUDA graphs of steps are worth it for
_LARGEST_P = 80.0  # e^-p is a number in float32


class CoordinatewiseLSTM(SharedNetworks):
    """LSTM with shared weights and a separate state for every coordinate.

    update = output_scale · out(LSTM(inputs(∇), h)) - base_step · d

    where d is m̂/√v̂, or for matrices, if the inputs say so, the orthogonalized m̂ + ∇;

    or, with the output ``magnitude``, e^out' times that, where out' is a second output of the network. With
    ``spectral``, all of it is in units of the tensor; with ``largest_width`` it is shortened in wider ones. After
    ``anneal_after`` steps it is multiplied by √(anneal_after / t), or with ``horizon``, where the number of steps is
    known, by the square of the part of them that is left.
    """

    def __init__(
        self,
        num_layers: int = 2,
        hidden_size: int = 20,
        inputs: Inputs = "log_sign",
        p: float = LOG_SIGN_P,
        output: Output = "linear",
        output_scale: float = 0.1,
        initial_output: float = 1.0,
        base_step: float = 0.0,
        anneal_after: int | None = None,
        share: Sharing = "all",
        tensor_features: bool = False,
        spectral: bool = False,
        largest_width: int | None = None,
        agreement: float = 0.0,
        horizon: bool = False,
        engine: Engine = "auto",
    ) -> None:
        """Choose the architecture; :meth:`build` makes the weights.

        Args:
            num_layers: LSTM layers; 0 leaves the output layer alone, reading the inputs.
            hidden_size: Width H of every layer.
            inputs: What the network reads: the gradient itself (none), the paper's logarithm and sign (log_sign),
                their product (log_times_sign),
                gradient and its mean over the root of its second moment (moments), or both (log_sign+moments), or
                also how large the gradients of the tensor are, gradient and mean relative to that, and the time
                (log_sign+moments+scales; see ``relative`` in preprocessing), or also the direction d of the
                base step, which then for matrices and filters is the orthogonalized one
                (log_sign+moments+scales+orthogonal; see ``directions`` in orthogonal). With it coordinates
                of a matrix are not on their own any more.
            p: Of logarithm and sign: the smallest gradient that counts in full is e^-p. More than 0, at most 80.
            output: Whether the output is used as it is, or bounded by tanh, or, with the base step, multiplied by e to
                the power of a second output (magnitude; after Metz et al. 2020, arXiv:2009.11243).
            output_scale: Factor of the output.
            initial_output: Factor of the output layer's initial weights; 0 makes the first update the base step alone.
            base_step: α of the step -α·d that the output is added to, so that an untrained network already
                optimizes; 0 leaves it out, as the paper does.
            anneal_after: From this step on updates shrink with 1/√t, as steps must where gradients are noisy (Robbins
                and Monro 1951), so that runs longer than any in meta-training settle. Null: they never do.
            share: One network for all coordinates, or one per kind of tensor (vector, or matrix, which
                filters are, too), or one per group of parameters, or one per tensor.
            tensor_features: Let a network know of each coordinate what tensor it is in, by what adds to its biases:
                kind, place in the model, fan-in and fan-out (see :func:`meta_opt.optimizees.layout.features_of`).
            spectral: Scale the whole update of each tensor so that a step means the same at any width, depth and shape
                (see :func:`meta_opt.optimizers.lstm.settings.unit_of`).
            largest_width: The smaller side of the widest matrix or filter that keeps its updates. Those of wider ones
                are shortened in inverse proportion, for layers wider than any in meta-training (see
                :func:`meta_opt.optimizers.lstm.settings.shortened`). Null: none are.
            agreement: Power of how far the gradients of a tensor agree from step to step, by which its updates are
                longer (see :func:`meta_opt.optimizers.lstm.agreement.agreement`). 0: none are.
            horizon: Where the number of steps T of a run is known, let updates fall as (1 - t/T)² instead of annealing
                them; networks that read scales read how far the run is in place of the time.
            engine: What computes steps and replays: native code if it can be had (auto), native code, or PyTorch.

        Raises:
            MetaOptError: If a size is out of range.
        """
        super().__init__()
        if num_layers < 0:
            raise MetaOptError(f"optimizer.num_layers must be 0 or more, not {num_layers}")
        if hidden_size < 1:
            raise MetaOptError(f"optimizer.hidden_size must be 1 or more, not {hidden_size}")
        if anneal_after is not None and anneal_after < 1:
            raise MetaOptError(f"optimizer.anneal_after must be 1 or more, not {anneal_after}")
        if largest_width is not None and largest_width < 1:
            raise MetaOptError(f"optimizer.largest_width must be 1 or more, not {largest_width}")
        if not agreement >= 0.0:
            raise MetaOptError(f"optimizer.agreement must be 0 or more, not {agreement}")
        if not 0.0 < p <= _LARGEST_P:
            raise MetaOptError(f"optimizer.p must be more than 0 and at most {_LARGEST_P:g}, not {p}")
        self.num_layers = num_layers
        self.hidden_size = hidden_size
        self.inputs = inputs
        self.p = p
        self.output = output
        self.output_scale = output_scale
        self.initial_output = initial_output
        self.base_step = base_step
        self.anneal_after = anneal_after
        self.share: Sharing = share
        self.tensor_features = tensor_features
        self.spectral = spectral
        self.largest_width = largest_width
        self.agreement = agreement
        self.horizon = horizon
        self.engine: Engine = engine
        self.networks = nn.ModuleDict()
        self._reads = replace(READS[inputs], p=float(p))
        self._keeps_moments = self._reads.moments or base_step != 0.0
        if agreement != 0.0 and not self._keeps_moments:
            raise MetaOptError("optimizer.agreement needs moments: optimizer.inputs that read them, or a base step")
        self.rests = self._keeps_moments
        self.scope: Scope = "tensor" if self._cuts_tensors or tensor_features else "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        """Make one network per segment of ``layout``, with weights drawn from ``generator``."""
        for segment in self._segments(layout):
            if _key(segment.name) in self.networks:
                continue
            self.networks[_key(segment.name)] = LSTMNetwork(
                self._reads.num_inputs,
                self.num_layers,
                self.hidden_size,
                2 if self.output == "magnitude" else 1,
                self.initial_output,
                NUM_FEATURES * self.tensor_features,
                generator,
            )

    @property
    def replays_columns(self) -> bool:
        """Given recorded gradients, coordinates are independent: what is read of a tensor is known.

        Of a derived class with a step of its own, as of any other network.
        """
        return not self._steps_otherwise or (self.scope == "coordinate" and self.share == "all")

    def start_from(self, other: OptimizerNetwork) -> None:
        """See :meth:`OptimizerNetwork.start_from`.

        Networks start from those of the same name, or all from the only one of ``other``, or, where it has one for each
        kind of tensor, from that of matrices, which most coordinates are in.
        """
        if not isinstance(other, CoordinatewiseLSTM) or other._reads != self._reads:
            raise MetaOptError("the two learned optimizers do not read the same inputs")
        sources = dict(other.networks)
        if len(sources) == 1:
            sources = dict.fromkeys(self.networks, *sources.values())
        elif other.share == "kind" and self.share != "kind":
            sources = dict.fromkeys(self.networks, sources["matrix"])
        if missing := [key for key in self.networks if key not in sources]:
            raise MetaOptError(f"there is no network {', '.join(missing)} to start from, only {', '.join(sources)}")
        try:
            for key, network in self.networks.items():
                network.load_state_dict(sources[key].state_dict())
        except RuntimeError as error:
            raise MetaOptError(
                "the two learned optimizers differ in num_layers, hidden_size, output or tensor_features"
            ) from error

    def _segments(self, layout: Layout) -> tuple[Segment, ...]:
        return layout.segments(self.share, tensors=self._cuts_tensors, features=self.tensor_features)

    def init_state(self, layout: Layout, num_problems: int) -> LSTMState:
        """All zeros.

        Raises:
            MetaOptError: If the layout has a group or tensor that there is no network for.
        """
        segments = self._segments(layout)
        keys = dict.fromkeys(self._key(segment.name) for segment in segments)
        if missing := [key for key in keys if key not in self.networks]:
            raise MetaOptError(
                f"the learned optimizer has no network for {', '.join(missing)}; it has "
                f"{', '.join(self.networks)}. A comparison can say with network_for which of them to use; the variants "
                "of a family need the same groups, or optimizer.share all"
            )
        like = next(self.networks.parameters())

        def zeros(segment: Segment) -> tuple[Tensor, ...]:
            size = num_problems * (segment.stop - segment.start)
            return tuple(like.new_zeros(self.hidden_size, size) for _ in range(self.num_layers))

        hidden, cell = (tuple(map(zeros, segments)) for _ in range(2))
        moments = Moments.zeros(like, num_problems, layout.num_coordinates) if self._keeps_moments else None
        scales = Scales.zeros(like, num_problems, len(layout.names)) if self._reads.scales else None
        counts = self._reads.scales or self.anneal_after is not None or self.horizon
        steps = like.new_zeros(()) if counts else None
        horizon = like.new_zeros(()) if self.horizon else None
        made = TensorwiseState if self.scope == "tensor" else LSTMState
        return made(segments, hidden, cell, moments, scales, steps, horizon)

    def expect(self, state: LSTMState, num_steps: int) -> LSTMState:
        """See :meth:`InnerOptimizer.expect`."""
        return state if state.horizon is None else replace(state, horizon=torch.full_like(state.horizon, num_steps))

    def step(self, evaluation: Evaluation, state: LSTMState, noise: Generator | None = None) -> Step:
        """One update, see :meth:`OptimizerNetwork.step`."""
        grad = evaluation.grad
        if not torch.is_grad_enabled() and (kernel := self._kernel(grad)):
            rollout = self._native_rollout(kernel, state)
            return Step(rollout.step(evaluation), rollout.state)
        before = state
        state, (grad,), read = before.read_gradients([grad])
        scales = read[0] if read else None
        of_matrices = before.read_directions(self._reads, [grad])
        update, state = lstm_step(
            self._settings, self._networks(state), grad, state, scales, of_matrices[0] if of_matrices else None
        )
        return Step(state.annealed(state.lengthened(update, self.agreement), self.anneal_after), state)

    def rollout(self, state: LSTMState, noise: Generator | None = None) -> Rollout:
        """See :meth:`OptimizerNetwork.rollout`; native code and CUDA graphs work on a copy of the state."""
        if torch.is_grad_enabled() or self._steps_otherwise:
            return super().rollout(state, noise)
        if kernel := self._kernel(next(self.parameters())):
            return self._native_rollout(kernel, state)
        if self._captures(state):
            return CapturedRollout(self, state, lambda _: type(self).step, NUM_WORTHWHILE)
        return super().rollout(state, noise)

    def replay(
        self,
        evaluations: Sequence[Evaluation],
        state: LSTMState,
        coefficients: Sequence[Tensor],
        columns: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :meth:`OptimizerNetwork.replay`; given recorded gradients, coordinates are independent."""
        if self._steps_otherwise:
            return super().replay(evaluations, state, coefficients, columns)
        grads: Sequence[Tensor] = [evaluation.grad for evaluation in evaluations]
        # ⟨c, ∂(a u)⟩ = ⟨a c, ∂u⟩
        coefficients = [
            state.annealed(each, self.anneal_after, ahead) for ahead, each in enumerate(coefficients, start=1)
        ]
        kernel = self._kernel(coefficients[0])
        _, grads, read = state.read_gradients(grads, kernel)
        of_matrices = state.read_directions(self._reads, grads)
        agreed = state.read_agreement(self.agreement, grads)
        if columns is not None:
            state = state.columns(columns)
            grads, of_matrices = ([each.index_select(1, columns) for each in one] for one in (grads, of_matrices))
        if agreed:
            coefficients = [lengthened(*each, state.sizes) for each in zip(coefficients, agreed, strict=True)]
        recorded, networks = Recording(grads, coefficients, read, of_matrices, state), self._networks(state)
        if kernel is not None:
            of_segments = replay_natively(kernel, self._settings, networks, recorded)
        elif self._fuses(coefficients[0]):
            of_segments = replay_fused(self._settings, networks, recorded)
        else:
            of_segments = replay_by_graph(self._settings, networks, recorded)
        return self._in_order(state, of_segments)

    @property
    def _steps_otherwise(self) -> bool:
        """Whether a class derived from this one has a step of its own, which what is fast does not know."""
        return type(self).step is not CoordinatewiseLSTM.step

    def _fuses(self, tensor: Tensor) -> bool:
        """Whether replays are fused: on GPUs, where launches take longer than the work."""
        return tensor.is_cuda and self.num_layers > 0

    def _captures(self, state: LSTMState) -> bool:
        """Whether steps go through a CUDA graph: on a GPU, where launches take longer than small operations."""
        if state.moments is not None:
            return state.moments.mean.is_cuda and state.moments.mean.numel() <= NUM_WORTHWHILE
        if self.num_layers == 0:  # a few operations
            return False
        return state.hidden[0][0].is_cuda and sum(hidden[0].shape[1] for hidden in state.hidden) <= NUM_WORTHWHILE

    def _in_order(self, state: LSTMState, of_segments: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The sums over each network's segments, in the order of the trained parameters; zero where it has none."""
        total = {key: [torch.zeros_like(weight) for weight in net.parameters()] for key, net in self.networks.items()}
        for segment, grads in zip(state.segments, of_segments, strict=True):
            torch._foreach_add_(total[self._key(segment.name)], grads)
        of_all = (grad for of_network in total.values() for grad in of_network)
        return tuple(
            grad for weight, grad in zip(self.networks.parameters(), of_all, strict=True) if weight.requires_grad
        )

    def _kernel(self, tensor: Tensor) -> native.Kernel | None:
        """The native kernel, if it is to be used and can work on such tensors."""
        if self.engine == "torch" or not native.Kernel.supports(tensor):
            return None
        kernel = native.load()
        if kernel is None and self.engine == "native":
            raise MetaOptError("engine native needs a C++ compiler; auto falls back to torch")
        return kernel

    @property
    def _settings(self) -> NetworkSettings:
        return NetworkSettings(
            self._reads,
            self.output == "tanh",
            self.output == "magnitude",
            self.output_scale,
            self.base_step,
            self.spectral,
            self.largest_width,
        )

    @property
    def _cuts_tensors(self) -> bool:
        return self._reads.scales or self.spectral or self.largest_width is not None or self.agreement != 0.0

    def _network(self, segment: Segment) -> LSTMNetwork:
        return self.networks[self._key(segment.name)]  # type: ignore[return-value]

    def _key(self, name: str) -> str:
        """Under what key the network of a group, kind or tensor of this name is found, or that which stands in."""
        key = _key(name)
        return key if key in self.networks else self.network_for.get(key, key)

    def _networks(self, state: LSTMState) -> list[LSTMNetwork]:
        return [self._network(segment) for segment in state.segments]

    def _native_rollout(self, kernel: native.Kernel, state: LSTMState) -> NativeRollout:
        networks = self._networks(state)
        return NativeRollout(self, self._settings, networks, self.agreement, self.anneal_after, kernel, state)


def _key(name: str) -> str:
    return name.replace(".", "/")  # module names may not hold dots
