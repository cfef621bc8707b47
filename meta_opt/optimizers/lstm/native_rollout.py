"""Steps of the coordinatewise LSTM in native code, without a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.network import LSTMNetwork
from meta_opt.optimizers.lstm.settings import NetworkSettings
from meta_opt.optimizers.lstm.state import LSTMState
from meta_opt.optimizers.state import map_state


class NativeRollout(Rollout):
    """Steps in native code on a copy of the state."""

    def __init__(
        self,
        optimizer: OptimizerNetwork,
        settings: NetworkSettings,
        networks: Sequence[LSTMNetwork],
        agreement: float,
        anneal_after: int | None,
        kernel: native.Kernel,
        state: LSTMState,
    ) -> None:
        """Begin at ``state``, with the network of each of its segments."""
        super().__init__(optimizer, map_state(torch.clone, state))
        self._settings = settings
        self._networks = networks
        self._agreement = agreement
        self._anneal_after = anneal_after
        self._kernel = kernel
        self._steps: native.NativeSteps | None = None

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]."""
        grad, before = evaluation.grad, self.state
        if self._steps is None:  # now the number of problems is known
            self._steps = self._kernel.rollout(
                self._settings,
                [net.for_kernel(of.features) for net, of in zip(self._networks, before.segments, strict=True)],
                before.segments,
                grad.shape,
                before.hidden,
                before.cell,
                before.moments,
            )
        self.state, (grad,), read = before.read_gradients([grad], self._kernel)
        of_matrices = before.read_directions(self._settings.reads, [grad])
        update = self._steps.step(grad, read[0] if read else None, of_matrices[0] if of_matrices else None)
        return self.state.annealed(self.state.lengthened(update, self._agreement), self._anneal_after)
