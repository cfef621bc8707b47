"""Means over the coordinates of parts of θ, and what parts have, for each of their coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pooled(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Means over the coordinates of each part, [..., N] to [..., S]; 0 of a part without any.

    Args:
        rows: [..., N].
        sizes: How many coordinates each of the S parts has, N in all.
    """
    parts = rows.split(list(sizes), dim=-1)
    return torch.stack([part.sum(-1) / max(part.shape[-1], 1) for part in parts], dim=-1)


def spread(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """What parts have, for each of their coordinates, [..., S] to [..., N]; see :func:`pooled`."""
    parts = zip(rows.split(1, dim=-1), sizes, strict=True)
    return torch.cat([part.expand(*part.shape[:-1], size) for part, size in parts], dim=-1)
