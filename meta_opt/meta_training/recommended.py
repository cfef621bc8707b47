"""The settings that the classes of a meta-training recommend; parts of it by name.

The settings that an optimizee recommends for an optimizer or an estimator are meant for the default one. Another takes
those that it has arguments for, of such values; the rest is left out. Weights to start from are those of the default
optimizer, and nothing to another. What an optimizee recommends for the optimizer that was chosen, ``NAME:OPTION``,
stands above all of these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Literal, ParamSpec

import torch
from jsonargparse import ArgumentError, ArgumentParser

from meta_opt import registry
from meta_opt.errors import MetaOptError
from meta_opt.meta_training.parts import of_another_kind
from meta_opt.optimizees.general_settings import GENERAL_SETTINGS
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.registry import Kind

DEFAULT_OPTIMIZER = "coordinatewise_lstm"
DEFAULT_ESTIMATOR = "first_order"
TRAINER_DEFAULTS = {
    "max_epochs": 20,
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,  # the optimizee's loss is checked before anything is written
    "inference_mode": False,  # validation differentiates
    "enable_model_summary": False,
}
Preset = Literal["recommended", "paper"]
_OF_THE_PROBLEM = ("num_steps", "num_problems", "num_validation_steps", "num_validation_problems", "reference_lr")
_USUAL: dict[Kind, str] = {"optimizer": DEFAULT_OPTIMIZER, "estimator": DEFAULT_ESTIMATOR}
_FRACTION = "model.estimator.replay_fraction"
P = ParamSpec("P")


def trainer_defaults() -> dict[str, Any]:
    """Arguments of a trainer where nothing else is said: it takes a GPU where there is one, but for Apple's."""
    return {**TRAINER_DEFAULTS, **({"accelerator": "cpu"} if torch.backends.mps.is_available() else {})}


def recommended(
    classes: Mapping[Kind, type[Any]], *, new: bool = True, preset: Preset = "recommended"
) -> dict[str, Any]:
    """What is recommended, by option name; the optimizer's stand above the optimizee's.

    Args:
        classes: Those of the meta-training; the optimizer's must be there.
        new: Whether a meta-training begins; else optimizer and estimator are as a checkpoint has them.
        preset: ``"paper"`` for what an optimizee says of its problems alone, so that all else is as in the paper.
    """
    optimizee, optimizer = classes.get("optimizee"), classes["optimizer"]
    settings, pair = _of_optimizee(optimizee, registry.name_of(optimizer)) if optimizee else ({}, {})
    if preset == "paper":
        kept_names = {f"model.{name}" for name in _OF_THE_PROBLEM}
        return {name: value for name, value in settings.items() if name in kept_names or name.startswith("trainer.")}
    if optimizee and not settings and not pair:
        settings = dict(GENERAL_SETTINGS)
    if new and registry.name_of(optimizer) != DEFAULT_OPTIMIZER:
        settings.pop("model.warm_start", None)
    own = dict(optimizer.recommended_settings()) if new else {}
    own.pop("model.estimator", None)  # which class it is has been chosen
    kept = {}
    for name, value in (settings | own | (pair if new else {})).items():
        kind = part_of_option(name)
        if kind is None:
            kept[name] = value
        elif new and (name != _FRACTION or name in {**own, **pair} or _replays_columns(optimizer)):
            chosen, argument = classes[kind], name.rpartition(".")[2]
            usually = registry.name_of(chosen) == _USUAL[kind]
            meant = usually and name not in pair if kind == "estimator" else usually or name in {**own, **pair}
            if meant or (argument in argument_names(chosen) and _takes(chosen, argument, value)):
                kept[name] = value
    return kept


def _of_optimizee(cls: type[Any], optimizer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an optimizee recommends for every optimizer, and for that of this name alone."""
    settings = cls.recommended_settings()
    pair = {name.partition(":")[2]: value for name, value in settings.items() if name.partition(":")[0] == optimizer}
    return {name: value for name, value in settings.items() if ":" not in name}, pair


def part_of_option(option: str) -> Kind | None:
    """Which class an option is an argument of: the optimizer's, the estimator's, or None for another."""
    return next((kind for kind in _USUAL if option.startswith(f"{registry.OPTIONS[kind]}.")), None)


def _replays_columns(optimizer: type[Any]) -> bool:
    """Whether a class may replay some coordinates only, as far as the class alone tells."""
    says, steps = _definer(optimizer, "replays_columns"), _definer(optimizer, "step")
    if says not in (OptimizerNetwork, SharedNetworks) and issubclass(says, steps):  # it knows of that step
        return True
    return optimizer.scope == "coordinate" and not issubclass(optimizer, SharedNetworks)


def _definer(cls: type[Any], name: str) -> type[Any]:
    return next(each for each in cls.__mro__ if name in vars(each))


def recommended_estimator(optimizer: type[Any]) -> str:
    """The name of the estimator that an optimizer is trained with."""
    return optimizer.recommended_settings().get("model.estimator", DEFAULT_ESTIMATOR)


def argument_names(cls: type[Any]) -> list[str]:
    """Names of the arguments that a class is made with."""
    return list(inspect.signature(cls.__init__).parameters)[1:]


def _takes(cls: type[Any], argument: str, value: Any) -> bool:
    """Whether the annotation of an argument of a class allows a value; where it says nothing, anything."""
    parser = ArgumentParser(exit_on_error=False)
    others = set(argument_names(cls)) - {argument}
    parser.add_class_arguments(cls, as_group=False, skip=others, fail_untyped=False)
    try:
        parser.parse_object({argument: value})
    except ArgumentError:
        return False
    return True


def parts_by_name(init: Callable[P, None]) -> Callable[P, None]:
    """Let the constructor of a meta-learner take names and classes for its optimizee, optimizer and estimator.

    What is made here is made with the arguments that are recommended. Where the optimizee is said by name, the settings
    of the meta-learner that are not given are the recommended ones, too.
    """
    signature = inspect.signature(init)

    @wraps(init)
    @torch.inference_mode(False)  # whatever the caller is in
    def with_parts(*args: P.args, **kwargs: P.kwargs) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        made = all(_is_made(given.get(kind)) for kind in ("optimizee", "optimizer"))
        if "optimizee" not in given or (made and not _is_named(given.get("estimator"))):
            return init(*args, **kwargs)
        parts = {kind: given.get(kind) for kind in registry.KINDS}
        classes: dict[Kind, type[Any]] = {"optimizee": _class("optimizee", parts["optimizee"])}
        classes["optimizer"] = _class("optimizer", parts["optimizer"] or DEFAULT_OPTIMIZER)
        classes["estimator"] = _class("estimator", parts["estimator"] or recommended_estimator(classes["optimizer"]))
        settings = recommended(classes)
        for kind, part in parts.items():
            if not _is_made(part):
                prefix = f"{registry.OPTIONS[kind]}."
                own = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
                given[kind] = _made(kind, classes[kind], own)
        if not _is_made(parts["optimizee"]):
            for name, value in settings.items():
                group, _, argument = name.partition(".")
                if group == "model" and part_of_option(name) is None and argument in signature.parameters:
                    given.setdefault(argument, value)
        return init(**given)  # type: ignore[call-arg]

    return with_parts


def _is_made(part: Any) -> bool:
    return part is not None and not _is_named(part)


def _is_named(part: Any) -> bool:
    return isinstance(part, str | type)


def _class(kind: Kind, part: Any) -> type[Any]:
    """The class of an object, or the one that a name stands for."""
    if isinstance(part, str):
        return registry.resolve(kind, part)
    cls = part if isinstance(part, type) else type(part)
    if not issubclass(cls, registry.contract(kind)):
        raise of_another_kind(kind, cls)
    return cls


def _made(kind: Kind, cls: type[Any], arguments: dict[str, Any]) -> Any:
    try:
        return cls(**arguments)
    except TypeError as error:
        raise MetaOptError(
            f"{kind} {registry.name_of(cls)} cannot be made from its name alone ({error}): give an object of it"
        ) from error
