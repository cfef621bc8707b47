"""Taming the meta-gradient, whose norm varies by orders of magnitude from one unroll to the next."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from meta_opt.errors import MetaOptError, shown

_HISTORY = 100
_MIN_HISTORY = 10


class GradientClipper(nn.Module):
    """Scales a gradient down to an absolute norm, to a norm relative to recent ones, or to norm one.

    The recent norms are a buffer, so that a checkpoint holds them.
    """

    norms: Tensor  # [100], Euclidean norms of the last gradients before scaling, newest first; NaN where none yet

    def __init__(self, max_norm: float | None, relative: float | None, normalize: bool) -> None:
        """Choose what to do, in this order.

        Args:
            max_norm: Scale down to this Euclidean norm.
            relative: Scale down to this multiple of the median norm of the last 100 gradients, once there are ten.
            normalize: Divide by the Euclidean norm.

        Raises:
            MetaOptError: If a norm is not positive.
        """
        super().__init__()
        for name, value in (("clip_norm", max_norm), ("clip_relative", relative)):
            if value is not None and not (isinstance(value, int | float) and value > 0.0):
                raise MetaOptError(f"model.{name} must be more than 0, not {shown(value)}")
        self.max_norm = max_norm
        self.relative = relative
        self.normalize = normalize
        self.register_buffer("norms", torch.full((_HISTORY,), math.nan))

    def forward(self, grad: Tensor) -> Tensor:
        """The scaled gradient, of a finite gradient [P]; its norm goes into the history."""
        norm = torch.linalg.vector_norm(grad, dtype=torch.float64)  # squares leave the range of float32
        limit = torch.full_like(norm, math.inf if self.max_norm is None else self.max_norm)
        if self.relative is not None and not bool(self.norms[_MIN_HISTORY - 1].isnan()):
            limit = torch.minimum(limit, self.relative * self.norms.nanmedian().double())
        self.norms.copy_(torch.cat([norm.unsqueeze(0).to(self.norms), self.norms[:-1]]))
        tiny = torch.finfo(torch.float64).tiny
        factor = 1.0 / norm.clamp_min(tiny) if self.normalize else (limit / norm.clamp_min(tiny)).clamp_max(1.0)
        return (grad.double() * factor).to(grad.dtype)
