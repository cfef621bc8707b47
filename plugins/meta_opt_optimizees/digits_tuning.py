"""A tuning task from real runs: the learning rate and the width of a small network on digits.

What networks reached is in a table, ``digits_tuning.npz``, which ``benchmarks/digits_tuning.py`` makes by training
them.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meta_opt.api import SPLITS, Optimizee, Split, TensorDict
from meta_opt_optimizees.gp_functions import BLACK_BOX_SETTINGS, BOX


class DigitsTuning(Optimizee):
    """Choose the learning rate of SGD (θ_1) and the width (θ_2) of a network with one hidden layer, for few digits.

    A problem is a training set of 50 to 600 of the digits, an activation, a size of mini-batches and a number of
    steps; the loss is the cross entropy on images that the network has not seen, less the least in the table. Between
    the points of the table it is interpolated, both on logarithmic scales: |θ_i| ≤ 1.5 is learning rates from 10⁻³ to
    10 and widths from 2 to 128. Outside, it is the loss at the edge and the squared distance to it. Test problems are
    networks trained on and judged by other images than those of meta-training.
    """

    def __init__(self) -> None:
        """Read the table."""
        with (
            (files("meta_opt_optimizees") / "digits_tuning.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            self._tables: dict[str, Tensor] = {split: torch.from_numpy(arrays[split]).float() for split in SPLITS}

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0, uniform in -1 to 1."""
        return {"theta": 2.0 * torch.rand(2, generator=generator) - 1.0}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """The losses of a problem, [learning rates, widths]."""
        tables = self._tables[split]
        table = tables[torch.randint(len(tables), (), generator=generator)]
        return {"table": table - table.min()}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """The loss at θ, between four points of the table."""
        theta, table = params["theta"], problem["table"]
        inside = theta.clamp(-BOX, BOX)
        rows, columns = (
            _weights((inside[axis] + BOX) / (2 * BOX) * (size - 1), size) for axis, size in enumerate(table.shape)
        )
        return rows @ table @ columns + (theta - inside).square().sum()

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of functions drawn from a Gaussian process."""
        return BLACK_BOX_SETTINGS


def _weights(place: Tensor, size: int) -> Tensor:
    """Of each of ``size`` points in the value at ``place``, linearly interpolated."""
    return (1.0 - (place - torch.arange(size, dtype=place.dtype, device=place.device)).abs()).clamp_min(0.0)
