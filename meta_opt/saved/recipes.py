"""What a checkpoint holds: weights, and in plain values how to make what they belong to. Nothing in it is executed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from meta_opt import registry
from meta_opt.errors import CheckpointError, MetaOptError, shown
from meta_opt.messages import clipped, printable
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.saved.archives import read_archive
from meta_opt.saved.costs import Cost, read_cost
from meta_opt.saved.plain_values import check_arguments, check_repeated, checked_layout, plain, with_paths
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.upgrades import FORMAT, upgraded
from meta_opt.saved.weights import build

RUN_SETTINGS = "meta_opt_run"  # where the command line keeps its own settings in a checkpoint


def load(path: Path) -> dict[str, Any]:
    """The content of one of meta-opt's checkpoints, on the CPU.

    Raises:
        CheckpointError: If it is missing, damaged, or not one of ours.
    """
    data = read_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused below
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # what rubbish raises is not specified
        raise CheckpointError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from error
    recipe = checkpoint.get("meta_opt") if type(checkpoint) is dict else None
    if type(recipe) is not dict:
        raise CheckpointError(f"{path} is not a checkpoint of meta-opt")
    version = recipe.get("format")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path} is damaged: its format is {shown(version)}")
    if version > FORMAT:
        raise CheckpointError(
            f"{path} has format {shown(version)}, this version of meta-opt reads {FORMAT}; install a newer one"
        )
    try:
        check_repeated(checkpoint)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    try:
        return upgraded(checkpoint)
    except Exception as error:  # what rubbish raises is not specified
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
    cost: Cost | None = None  # of the meta-training so far; None: it was not counted yet


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in the checkpoint at ``path``.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, or not one of ours.
    """
    return _recipe(load(Path(path)), Path(path))


def _recipe(checkpoint: dict[str, Any], path: Path) -> Recipe:
    """The recipe in the content of the checkpoint at ``path``: every value is plain, and what has a type has it."""
    try:
        recipe = plain(checkpoint["meta_opt"], "meta_opt")
        return Recipe(
            _part(recipe["optimizee"]),
            _part(recipe["optimizer"]),
            _part(recipe["estimator"]),
            _hyperparameters(recipe["model"]),
            checked_layout(recipe["layout"]),
            _dictionary(plain(checkpoint.get(RUN_SETTINGS, {}), RUN_SETTINGS)),
            "optimizer_states" in checkpoint,
            read_cost(recipe),
        )
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: its entry meta_opt is incomplete, it has no {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {printable(str(error))}") from error


def _part(entry: Any) -> Part:
    name = _dictionary(entry)["class_path"]
    if not isinstance(name, str | None):
        raise ValueError(f"class_path is {shown(name)}")
    return Part(name, _dictionary(entry["init_args"]))


def _hyperparameters(entry: Any) -> dict[str, Any]:
    """Numbers and text by name; what has parts of its own is beside them."""
    model = _dictionary(entry)
    for name, value in model.items():
        if not name.isidentifier() or name in registry.KINDS or isinstance(value, list | dict):
            raise ValueError(f"meta_opt.model.{clipped(name, 40)} is {shown(value)}")
    known = {"num_validation_steps": None, "held_back": False, **model}  # earlier versions had not these two
    for name, fits in _READ.items():
        if not fits(known[name]):
            raise ValueError(f"meta_opt.model.{name} is {shown(known[name])}")
    return model


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value < _MANY


_MANY = 10**12  # nobody lives to see so many
_READ: dict[str, Callable[[Any], bool]] = {  # hyperparameters that are used where no MetaLearner is made of them
    "num_steps": _is_count,
    "num_validation_steps": lambda value: value is None or _is_count(value),
    "num_validation_problems": _is_count,
    "seed": lambda value: type(value) is int,
    "held_back": lambda value: type(value) is bool,
}


def _dictionary(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{shown(value)} is where options should be")
    return value


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
    same = asked is not None and registry.name_of(asked) == part.name
    if "." in part.name and not same:
        option = registry.OPTIONS[kind]
        raise CheckpointError(
            f"the {kind} of {path} is {clipped(part.name)}, not an installed one, and a checkpoint may not say what to "
            f"import; on the command line, name its class with --{option} MODULE.CLASS, or --{option} FILE.py:CLASS"
            + ("; in Python, give LearnedOptimizer the optimizer_class" if kind == "optimizer" else "")
        )

    def made(value: Any) -> Any:
        if isinstance(value, list):
            return [made(item) for item in value]
        if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:  # a part of a mixture
            try:
                return make(kind, _part(value), path)
            except ValueError as error:
                raise CheckpointError(f"{path} is damaged: {error}") from error
        return value

    cls = asked if asked is not None and same else registry.load(kind, part.name)
    try:
        check_arguments(cls.__init__, part.init_args, f"{kind}.init_args")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    arguments = with_paths(cls.__init__, {name: made(value) for name, value in part.init_args.items()})
    try:
        return cls(**arguments)
    except CheckpointError:
        raise
    except Exception as error:  # what a class raises for arguments that it does not know is not specified
        raise _does_not_fit(path, kind, error) from error


def _does_not_fit(path: Path, what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the {what} in {path} cannot be made as it says there, perhaps as another version made it "
        f"({type(error).__name__}: {clipped(error, 240)})"
    )


def load_optimizer(path: str | Path, asked: type[Any] | None = None) -> OptimizerNetwork:
    """The learned optimizer in the checkpoint at ``path``, for use: with the average of φ, frozen, on the CPU.

    Its optimizee need not be there: neither the plugin nor its data.

    Args:
        path: The checkpoint.
        asked: Its class, where that is not an installed plugin; of another checkpoint's optimizer it is passed over.

    Raises:
        CheckpointError: If the checkpoint is missing, damaged, not one of ours, or not made from an installed plugin.
        RegistryError: If the plugin that it names is not installed or does not load.
    """
    path = Path(path)
    checkpoint = load(path)
    recipe = _recipe(checkpoint, path)
    try:
        optimizer = build(
            lambda: make("optimizer", recipe.optimizer, path, asked), recipe.layout, checkpoint.get("state_dict")
        )
    except MetaOptError:
        raise
    except ValueError as error:
        raise CheckpointError(f"the learned optimizer in {path} does not fit: {error}") from error
    except Exception as error:  # what a class raises for rubbish is not specified
        raise _does_not_fit(path, "learned optimizer", error) from error
    return optimizer.requires_grad_(False)


def check_class(option: str, asked: object, recipes: Iterable[Recipe]) -> None:
    """See that a class which is named for what checkpoints hold is that of one of them.

    Args:
        option: What it was named with.
        asked: The class; None where none was named.
        recipes: Those of the checkpoints.

    Raises:
        MetaOptError: If it is no class of learned optimizers, or no checkpoint holds one of it.
    """
    if asked is None:
        return
    if not (isinstance(asked, type) and issubclass(asked, OptimizerNetwork)):
        raise MetaOptError(f"{option} must be a subclass of OptimizerNetwork, not {shown(asked)}")
    held = [recipe.optimizer.name for recipe in recipes]
    if held and registry.name_of(asked) not in held:
        holds = ", ".join(dict.fromkeys(map(clipped, held)))
        raise MetaOptError(f"{option} {registry.name_of(asked)}: no checkpoint holds one, they hold {holds}")


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
