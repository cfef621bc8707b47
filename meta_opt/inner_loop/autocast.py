"""Mixed precision is for optimizees alone: networks, replays and meta-optimizers compute in the type they have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """In this context ``torch.autocast`` is off, for tensors on ``device``."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
