"""Steps of the coordinatewise LSTM in native code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meta_opt import kernels
from meta_opt.optimizers.base import Rollout, map_state
from meta_opt.optimizers.lstm_state import LSTMState
from meta_opt.problems import Evaluation

if TYPE_CHECKING:
    from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


class NativeRollout(Rollout):
    """Steps that overwrite a copy of the state."""

    def __init__(self, optimizer: CoordinatewiseLSTM, kernel: kernels.Kernel, state: LSTMState) -> None:
        """Begin at ``state``."""
        super().__init__(optimizer, map_state(torch.clone, state))
        self._lstm = optimizer
        self._kernel = kernel
        self._native: kernels.Rollout | None = None

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]; see :meth:`LearnedOptimizer.step`."""
        grad = evaluation.grad
        if self._native is None:  # now the number of problems is known
            self._native = self._lstm.prepare(self._kernel, self.state, grad.shape)
        of_matrices = self._lstm.read_directions([grad], self.state)
        self.state, read = self.state.read_scales([grad], self._kernel)
        return self._lstm.annealed(self._native.step(grad, *read, *of_matrices), self.state)
