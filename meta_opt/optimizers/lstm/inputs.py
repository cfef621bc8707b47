"""What the networks of the coordinatewise LSTM read, and the direction of its base step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.preprocessing import (
    LOG_SIGN_P,
    NUM_SCALES,
    Moments,
    log_sign,
    log_times_sign,
    relative,
)

Inputs = Literal[
    "none",
    "log_sign",
    "log_times_sign",
    "moments",
    "log_sign+moments",
    "log_sign+moments+scales",
    "log_sign+moments+scales+orthogonal",
]


@dataclass(frozen=True)
class Reads:
    """Which parts of what there is to read a network reads, behind each other in this order.

    Attributes:
        log_sign: Logarithm and sign of the gradient.
        moments: Mean and gradient over the root of the second moment.
        scales: Time and size of the tensor, and mean and gradient relative to that size; only with moments.
        directions: The direction of the base step; only with moments.
        log_times_sign: Their product; without anything else.
        p: Of the logarithm, how small a gradient still counts: the smallest is e^-p.
    """

    log_sign: bool = False
    moments: bool = False
    scales: bool = False
    directions: bool = False
    log_times_sign: bool = False
    p: float = LOG_SIGN_P

    @property
    def num_inputs(self) -> int:
        """F, how many numbers these are for each coordinate; the gradient itself where it is nothing else."""
        return 2 * self.log_sign + 2 * self.moments + (NUM_SCALES + 1) * self.scales + self.directions or 1


READS: dict[Inputs, Reads] = {
    "none": Reads(),
    "log_sign": Reads(log_sign=True),
    "log_times_sign": Reads(log_times_sign=True),
    "moments": Reads(moments=True),
    "log_sign+moments": Reads(log_sign=True, moments=True),
    "log_sign+moments+scales": Reads(log_sign=True, moments=True, scales=True),
    "log_sign+moments+scales+orthogonal": Reads(log_sign=True, moments=True, scales=True, directions=True),
}


def read_inputs(
    reads: Reads,
    segment: Segment,
    grad: Tensor,
    moments: Moments | None,
    scales: Tensor | None,
    of_matrices: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What one network reads of n coordinates of one segment, and where their base step goes.

    Args:
        reads: Which parts the network reads.
        segment: What tensor the coordinates are in.
        grad: ∇, [B, n].
        moments: Those after it, if they are kept.
        scales: What is read of the scales of the tensor, [B, 3], if it is.
        of_matrices: The orthogonalized direction, if the tensor is a matrix, [B, n], where directions are read.

    Returns:
        The inputs, [F, B, n], and the direction d, [B, n]: that of the matrix, or m̂/√v̂, or without moments ∇.
    """
    parts, direction = [], grad
    if reads.log_sign:
        parts.append(log_sign(grad, reads.p))
    if reads.log_times_sign:
        parts.append(log_times_sign(grad, reads.p))
    if moments is not None:
        normalized = moments.normalized(grad)
        direction = normalized[0]
        if reads.moments:
            parts.append(normalized)
        if scales is not None:
            parts.append(relative(moments.corrected(), grad, scales))
    if of_matrices is not None:
        direction = of_matrices if segment.num_rows else direction
        parts.append(direction.unsqueeze(0))
    return torch.cat(parts) if parts else grad.unsqueeze(0), direction
