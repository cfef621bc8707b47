"""How a command computes: numbers too small for the ordinary format are zero, which is faster."""

from __future__ import annotations

import numpy as np
import torch


def flush_denormals() -> None:
    """Let denormal numbers, which squares of tiny gradients are, count as zero.

    To be called before there are threads, which inherit it.
    """
    for kind in (np.float32, np.float64):
        # NumPy looks for the smallest one when it is first asked, keeps what it finds, and some versions warn of zero.
        str(np.finfo(kind))
    torch.set_flush_denormal(True)
