"""Checkpoints: written so that none is ever half there, read as tensors and plain values, never as code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from meta_opt import registry
from meta_opt.errors import CheckpointError
from meta_opt.meta_learner import CHECKPOINT_FORMAT, MetaLearner

RUN_SETTINGS = "meta_opt_run"  # where the command line keeps its own settings in a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames: whatever happens meanwhile, the old one or the new one is there."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save ``checkpoint`` as ``path``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the new name, too, survives a loss of power; not every system can
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load the checkpoint at ``path``, never executing anything in it."""
        return load(Path(path))


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing in ``folder``."""
    for path in folder.glob(".*.ckpt.*.tmp"):
        path.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The content of one of meta-opt's checkpoints, on the CPU.

    Raises:
        CheckpointError: If it is missing, damaged, or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is not specified
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from error
    recipe = checkpoint.get("meta_opt") if isinstance(checkpoint, dict) else None
    if not isinstance(recipe, dict):
        raise CheckpointError(f"{path} is not a checkpoint of meta-opt")
    version = recipe.get("format")
    if not isinstance(version, int) or version > CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, this version of meta-opt reads {CHECKPOINT_FORMAT}; install a newer one"
        )
    return checkpoint


@dataclass(frozen=True)
class Part:
    """How an optimizee or optimizer was made."""

    name: str | None  # None: in Python, from arguments that are not plain values
    init_args: dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What a checkpoint says of how its module was made; plain values that nobody has vouched for."""

    optimizee: Part
    optimizer: Part
    model: dict[str, Any]
    run: dict[str, Any]  # settings of the run, by option name


def read_recipe(path: Path) -> Recipe:
    """The recipe in the checkpoint at ``path``.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or not one of ours.
    """
    checkpoint = load(path)
    recipe = checkpoint["meta_opt"]
    try:
        return Recipe(
            _part(recipe["optimizee"]),
            _part(recipe["optimizer"]),
            dict(recipe["model"]),
            dict(checkpoint.get(RUN_SETTINGS, {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its entry meta_opt is incomplete") from error


def _part(entry: dict[str, Any]) -> Part:
    return Part(entry["class_path"], dict(entry["init_args"]))


def load_learner(path: Path) -> MetaLearner:
    """The module of a checkpoint, made again from installed plugins, with its weights.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, not one of ours, or not made from installed plugins.
        RegistryError: If a plugin that it names is not installed or does not load.
    """
    recipe = read_recipe(path)
    made = []
    for kind in registry.KINDS:
        part: Part = getattr(recipe, kind)
        if part.name is None or "." in part.name:  # a checkpoint may not say what to import
            raise CheckpointError(f"the {kind} of {path} has no installed name, so that it cannot be made again")
        made.append(registry.load(kind, part.name)(**part.init_args))
    module = MetaLearner(*made, **recipe.model)
    try:
        module.load_state_dict(load(path)["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit the learned optimizer it describes") from error
    return module
