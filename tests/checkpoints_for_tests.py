"""Checkpoints without a training run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


def save_untrained(
    path: Path, optimizee: Optimizee, make: Callable[..., OptimizerNetwork] = CoordinatewiseLSTM, **options: Any
) -> Path:
    """The checkpoint of a learned optimizer with these options, as it was built."""
    module = MetaLearner(optimizee, make(**options))
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path
