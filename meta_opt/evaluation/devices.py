"""Where to compute, by name."""

from __future__ import annotations

import torch

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped


def device_of(text: str, option: str) -> torch.device:
    """The device that a name means; ``auto`` is a GPU where there is one.

    Args:
        text: The name.
        option: What it was given as.

    Raises:
        MetaOptError: If it cannot be used.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=text).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MetaOptError(f"{option} {text} cannot be used: {clipped(str(error).splitlines()[0], 160)}") from error
    if device.type == "mps":
        raise MetaOptError(f"{option} {text} cannot be used: Apple's GPUs have no float64, which is needed; take cpu")
    if device.type == "meta":
        raise MetaOptError(f"{option} meta cannot be used: it computes nothing")
    return device
