"""What is wrong with the class of a plugin, as far as is seen without an object of it."""

from __future__ import annotations

import inspect
from typing import Any

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped, described
from meta_opt.signatures import signature_problem

_RECOMMENDED = ("model", "optimizer", "trainer", "early_stopping")  # groups of options
_DEPTH = 20  # of values in values


def class_problem(cls: type[Any], contract: type[Any]) -> str | None:
    """How a class breaks its contract, if it does: abstract, wrong signatures, recommended settings that are none.

    Args:
        cls: The class.
        contract: The class that it is derived from.
    """
    if lacks := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"{cls.__name__} is abstract, it lacks {', '.join(lacks)}"
    if problem := signature_problem(cls, contract) or _constructor_problem(cls):
        return problem
    if not hasattr(cls, "recommended_settings"):
        return None
    return _settings_problem(cls)


def _constructor_problem(cls: type[Any]) -> str | None:
    """Arguments become options, which need a type or a default."""
    for argument in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if argument.name == "help":
            return f"{cls.__name__}.__init__ must not have an argument called help, which is an option already"
        named = argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
        if named and argument.annotation is argument.default is argument.empty:
            return f"{cls.__name__}.__init__ must give the type of its argument {argument.name}, as in size: int"
    return None


def _settings_problem(cls: type[Any]) -> str | None:
    name = f"{cls.__name__}.recommended_settings"
    try:
        settings = cls.recommended_settings()
    except MetaOptError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return f"{name} fails with {described(error, [cls.__module__])}"
    if not isinstance(settings, dict):
        return f"{name} must return a dict, values by names of options, found {clipped(repr(settings))}"
    for option, value in settings.items():
        if not isinstance(option, str):
            return f"{name} must return a dict, values by names of options, found the key {clipped(repr(option))}"
        group, _, rest = option.rpartition(":")[2].partition(".")  # NAME:OPTION is for the optimizer of this name
        if group not in _RECOMMENDED or not rest:
            groups = " or ".join(f"{each}." for each in _RECOMMENDED)
            return f"{name} must name options that begin with {groups}, found {clipped(option)}"
        if not _is_plain(value):
            return f"{name} must return plain values, but that of {clipped(option)} is {clipped(repr(value))}"
    return None


def _is_plain(value: Any, depth: int = 0) -> bool:
    if depth > _DEPTH:  # it may hold itself
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
