"""What a checkpoint holds: weights, and in plain values how to make what they belong to. Nothing in it is executed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meta_opt import registry
from meta_opt.errors import CheckpointError, MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.saved.upgrades import FORMAT, upgraded

RUN_SETTINGS = "meta_opt_run"  # where the command line keeps its own settings in a checkpoint
AVERAGE = "average.module."  # prefix, among the weights of a MetaLearner, of the learned optimizer that is used
# In a wheel the pretrained checkpoints lie in the package, in a checkout beside it.
_PRETRAINED = (Path(__file__).parents[1] / "pretrained", Path(__file__).parents[2] / "checkpoints" / "pretrained")


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
    if not isinstance(version, int) or version > FORMAT:
        raise CheckpointError(
            f"{path} has format {version}, this version of meta-opt reads {FORMAT}; install a newer one"
        )
    try:
        return upgraded(checkpoint)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: its entry meta_opt is incomplete") from error


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
    estimator: Part
    model: dict[str, Any]
    layout: Layout  # of the optimizee's parameters, for which the optimizer was built
    run: dict[str, Any]  # settings of the run, by option name
    resumable: bool  # whether a run can go on from it; see checkpoints.export


def read_recipe(path: Path) -> Recipe:
    """The recipe in the checkpoint at ``path``.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or not one of ours.
    """
    checkpoint = load(path)
    try:
        recipe = checkpoint["meta_opt"]
        return Recipe(
            _part(recipe["optimizee"]),
            _part(recipe["optimizer"]),
            _part(recipe["estimator"]),
            dict(recipe["model"]),
            Layout.from_plain(recipe["layout"]),
            dict(checkpoint.get(RUN_SETTINGS, {})),
            "optimizer_states" in checkpoint,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its entry meta_opt is incomplete") from error


def _part(entry: dict[str, Any]) -> Part:
    return Part(entry["class_path"], dict(entry["init_args"]))


def make(kind: registry.Kind, part: Part, path: Path, asked: type[Any] | None = None) -> Any:
    """The optimizee, optimizer or estimator that the checkpoint at ``path`` names, from an installed plugin.

    Args:
        kind: Which of the three.
        part: How it was made.
        path: The checkpoint.
        asked: A class that need not be an installed plugin, to be used where the checkpoint names it.

    Raises:
        CheckpointError: If the checkpoint names neither an installed plugin nor what was asked for.
        RegistryError: If the plugin is not installed or does not load.
    """
    if part.name is None:
        raise CheckpointError(f"the {kind} of {path} was made in Python, so that it cannot be made again")
    if not isinstance(part.name, str):
        raise CheckpointError(f"{path} is damaged: its {kind} is {part.name!r}")
    same = asked is not None and registry.name_of(asked) == part.name
    if "." in part.name and not same:
        raise CheckpointError(
            f"the {kind} of {path} is {part.name}, not an installed one, and a checkpoint may not say what to import; "
            f"on the command line, name its class with --{kind} MODULE.CLASS, or --{kind} FILE.py:CLASS"
            + ("; in Python, give LearnedOptimizer the optimizer_class" if kind == "optimizer" else "")
        )

    def made(value: Any) -> Any:
        if isinstance(value, list):
            return [made(item) for item in value]
        if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:  # a part of a mixture
            return make(kind, _part(value), path)
        return value

    arguments = {name: made(value) for name, value in part.init_args.items()}
    cls = asked if asked is not None and same else registry.load(kind, part.name)
    try:
        return cls(**arguments)
    except MetaOptError:
        raise
    except Exception as error:  # what a class raises for arguments that it does not know is not specified
        raise _does_not_fit(path, kind, error) from error


def _does_not_fit(path: Path, what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the {what} in {path} cannot be made as it says there, perhaps as another version made it "
        f"({type(error).__name__}: {error})"
    )


def load_optimizer(path: Path, asked: type[Any] | None = None) -> OptimizerNetwork:
    """The learned optimizer in the checkpoint at ``path``, for use: with the average of φ, frozen, on the CPU.

    Its optimizee need not be there: neither the plugin nor its data.

    Args:
        path: The checkpoint.
        asked: Its class, where that is not an installed plugin.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, not one of ours, or not made from an installed plugin.
        RegistryError: If the plugin that it names is not installed or does not load.
    """
    recipe = read_recipe(path)
    optimizer: OptimizerNetwork = make("optimizer", recipe.optimizer, path, asked)
    try:
        optimizer.build(recipe.layout, torch.Generator())
        state = load(path)["state_dict"]
        weights = {name.removeprefix(AVERAGE): tensor for name, tensor in state.items() if name.startswith(AVERAGE)}
        optimizer.load_state_dict(weights)
    except MetaOptError:
        raise
    except Exception as error:  # of a damaged file
        raise _does_not_fit(path, "learned optimizer", error) from error
    return optimizer.requires_grad_(False)


def warm_start(name: str, optimizers: Sequence[OptimizerNetwork]) -> None:
    """Give built optimizers of one class the weights of another, see ``model.warm_start``.

    Args:
        name: The path of a checkpoint, ending in ``.ckpt``, or the name of one that comes with meta-opt.
        optimizers: What gets them.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is damaged or not one of ours.
        MetaOptError: If the weights do not fit.
    """
    path = Path(name) if name.endswith(".ckpt") else pretrained_path(name)
    other = load_optimizer(path, type(optimizers[0]))
    for optimizer in optimizers:
        try:
            optimizer.start_from(other)
        except MetaOptError as error:
            raise MetaOptError(f"model.warm_start {name}: {error} (--model.warm_start null starts anew)") from error


def pretrained() -> dict[str, Path]:
    """The checkpoints that come with meta-opt, by name."""
    return {path.stem: path for folder in reversed(_PRETRAINED) for path in sorted(folder.glob("*.ckpt"))}


def pretrained_path(name: str) -> Path:
    """The checkpoint that comes with meta-opt under this name.

    Raises:
        CheckpointError: If there is none; names the nearest match and all there are.
    """
    paths = pretrained()
    if name not in paths:
        nearest = difflib.get_close_matches(name, paths, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise CheckpointError(
            f"no pretrained optimizer is called {name!r}; {hint}There are {', '.join(paths) or 'none'}"
        )
    return paths[name]
