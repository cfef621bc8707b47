"""The module of a checkpoint made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_opt import registry
from meta_opt.errors import CheckpointError, MetaOptError
from meta_opt.messages import clipped, own_frames
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.saved.recipes import load, load_optimizer, make, read_recipe


def load_learner(
    path: Path,
    asked: Mapping[registry.Kind, type[Any] | None] | None = None,
    cls: type[MetaLearner] = MetaLearner,
) -> MetaLearner:
    """The module of a checkpoint, made again from installed plugins, with its weights.

    Args:
        path: The checkpoint.
        asked: Classes, by kind, that are no installed plugins.
        cls: What to make.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, not one of ours, or not made from installed plugins.
        RegistryError: If a plugin that it names is not installed or does not load.
    """
    recipe = read_recipe(path)
    optimizee, optimizer, estimator = (
        make(kind, getattr(recipe, kind), path, (asked or {}).get(kind)) for kind in registry.KINDS
    )
    load_optimizer(path, (asked or {}).get("optimizer"))  # which checks weights, and their size before they are made
    try:
        module = cls(optimizee, optimizer, estimator=estimator, **recipe.model)
        module.load_state_dict(load(path)["state_dict"])
    except MetaOptError:
        raise
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit the learned optimizer it describes") from error
    except Exception as error:
        if own_frames(error, registry.modules_of_plugins()):
            raise
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {clipped(error)})") from error
    return module
