"""Precisions of meta-training and comparisons, by the names that Lightning gives them."""

from __future__ import annotations

from pathlib import Path

import torch

from meta_opt.errors import CheckpointError, shown
from meta_opt.saved.recipes import Recipe
from meta_opt.saved.runs import relative

# The type of θ, and that of autocast.
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "32-true": (torch.float32, None),
    "64-true": (torch.float64, None),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-mixed": (torch.float32, torch.bfloat16),
}


def name_of_precision(dtypes: tuple[torch.dtype, torch.dtype | None]) -> str | None:
    """What the precision with these types of θ and of autocast is called; None if it is none of those above."""
    return next((name for name, known in PRECISIONS.items() if known == dtypes), None)


def precision_in(recipe: Recipe, path: Path) -> str:
    """The precision of a checkpoint's training, float32 where it does not say.

    Args:
        recipe: What the checkpoint says.
        path: The checkpoint.

    Raises:
        CheckpointError: If it is none of those above.
    """
    said = recipe.run.get("trainer.precision")
    found = [name for name in PRECISIONS if str(said or "32-true") in (name, name.partition("-")[0])]
    if not found:
        raise CheckpointError(f"{relative(path)} is damaged: its trainer.precision is {shown(said)}")
    return found[0]
