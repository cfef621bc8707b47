"""Checkpoint files, written so that none is ever half there."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from meta_opt.saved.recipes import RUN_SETTINGS, load, read_recipe
from meta_opt.storage import write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames: whatever happens meanwhile, the old one or the new one is there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save ``checkpoint`` as ``path``.

        Raises:
            StorageError: If it cannot be written; what was there before still is.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write(Path(path), content.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load the checkpoint at ``path``, never executing anything in it."""
        return load(Path(path))


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``, whose lock the caller holds."""
    for path in (*folder.glob(".*.ckpt.*.tmp"), *folder.glob(".config.yaml.*.tmp"), *folder.glob("..launch.*.tmp")):
        path.unlink(missing_ok=True)


def export(path: Path, to: Path) -> None:
    """Write what of the checkpoint at ``path`` is needed to use and to test it, and not to go on training, as ``to``.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or not one of ours.
    """
    kept = ("meta_opt", "state_dict", "pytorch-lightning_version")
    smaller = {name: item for name, item in load(path).items() if name in kept}
    run = {name: value for name, value in read_recipe(path).run.items() if name == "trainer.precision"}
    AtomicCheckpointIO().save_checkpoint({**smaller, RUN_SETTINGS: run}, to)  # tested as it was trained
