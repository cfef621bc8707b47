"""Lightning's trainer as tests want it: on the CPU, and without a word."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def trainer(**options: Any) -> Trainer:
    """Two epochs, nothing shown and nothing saved, but for what the options say."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "inference_mode": False,
    }
    return Trainer(**{**quiet, **options})
