"""How the meta-training of a checkpoint validated, if that was on the optimizee that it is compared on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_opt import registry
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.compare import Validation
from meta_opt.optimizees.contract import Optimizee
from meta_opt.saved.recipes import Recipe, make

_ANYWHERE = {"data_dir": None}  # wherever the data lie


def validation_of(recipe: Recipe, path: Path, optimizee: Optimizee) -> Validation | None:
    """How training validated, if that was on this very optimizee.

    Args:
        recipe: What the checkpoint says.
        path: The checkpoint.
        optimizee: What is compared on.
    """
    if recipe.optimizee.name != registry.name_of(type(optimizee)):
        return None
    # Made again, it has the defaults of arguments that there were not yet when the checkpoint was written.
    try:
        trained_on: Optimizee = make("optimizee", recipe.optimizee, path, type(optimizee))
    except MetaOptError:  # it is another by now
        return None
    return validation_in(recipe.model) if same_optimizee(trained_on, optimizee) else None


def validation_in(model: Mapping[str, Any]) -> Validation:
    """How a meta-learner with these arguments validates."""
    num_steps = model.get("num_validation_steps") or model["num_steps"]
    return Validation(num_steps, model["num_validation_problems"], model["seed"], model.get("held_back", False))


def same_optimizee(one: Optimizee, other: Optimizee) -> bool:
    """Whether two optimizees are of one class and were made from the same arguments."""
    first, second = (each.plain_init_args(registry.name_of) for each in (one, other))
    if first is None or second is None or type(one) is not type(other):
        return False
    return {**first, **_ANYWHERE} == {**second, **_ANYWHERE}
