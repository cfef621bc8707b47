"""What the networks of the coordinatewise LSTM read, and the direction of its base step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.preprocessing import Moments, log_sign, relative

Inputs = Literal[
    "none", "log_sign", "moments", "log_sign+moments", "log_sign+moments+scales", "log_sign+moments+scales+orthogonal"
]
NUM_INPUTS = {
    "none": 1,
    "log_sign": 2,
    "moments": 2,
    "log_sign+moments": 4,
    "log_sign+moments+scales": 8,
    "log_sign+moments+scales+orthogonal": 9,
}


def read_inputs(
    inputs: Inputs,
    segment: Segment,
    grad: Tensor,
    moments: Moments | None,
    scales: Tensor | None,
    of_matrices: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What one network reads of n coordinates of one segment, and where their base step goes.

    Args:
        inputs: See :class:`meta_opt.optimizers.coordinatewise_lstm.CoordinatewiseLSTM`.
        segment: What tensor the coordinates are in.
        grad: ∇, [B, n].
        moments: Those after it, if they are kept.
        scales: What is read of the scales of the tensor, [B, 3], if it is.
        of_matrices: The orthogonalized direction, if the tensor is a matrix, [B, n], where directions are read.

    Returns:
        The inputs, [F, B, n], and the direction d, [B, n]: that of the matrix, or m̂/√v̂, or without moments ∇.
    """
    parts, direction = [], grad
    if "log_sign" in inputs:
        parts.append(log_sign(grad))
    if moments is not None:
        normalized = moments.normalized(grad)
        direction = normalized[0]
        if "moments" in inputs:
            parts.append(normalized)
        if scales is not None:
            parts.append(relative(moments.corrected(), grad, scales))
    if of_matrices is not None:
        direction = of_matrices if segment.num_rows else direction
        parts.append(direction.unsqueeze(0))
    return torch.cat(parts) if parts else grad.unsqueeze(0), direction
