"""Whether the methods of a class can be called as its contract calls them, and a constructor with some arguments."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from meta_opt.errors import shown

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def signature_problem(cls: type[Any], contract: type[Any]) -> str | None:
    """What is wrong with the signature of a method, if anything is: ``A.loss must take (params, problem, batch), ...``.

    A method must take the contract's arguments, by position and in the contract's order.

    Args:
        cls: The class.
        contract: The class that it is derived from.
    """
    ours = (base for base in contract.__mro__ if base.__module__.partition(".")[0] == "meta_opt")
    for name in dict.fromkeys(name for base in ours for name in vars(base) if not name.startswith("_")):
        wanted, found = inspect.getattr_static(contract, name), inspect.getattr_static(cls, name)
        method = isinstance(wanted, staticmethod | classmethod) or inspect.isfunction(wanted)
        if method and found is not wanted and (problem := _problem(wanted, found)):
            return f"{cls.__name__}.{name} must {problem}"
    return None


def _problem(wanted: Any, found: Any) -> str | None:
    required = [
        parameter.name
        for parameter in inspect.signature(_function(wanted)).parameters.values()
        if parameter.kind in _POSITIONAL
    ]
    if not isinstance(wanted, staticmethod):
        required = required[1:]  # self
    if not callable(_function(found)):
        return f"be a method that takes ({', '.join(required)}), found {type(found).__name__}"
    if isinstance(wanted, classmethod) and inspect.isfunction(found):
        return "be a classmethod"
    try:
        signature = inspect.signature(_function(found))
    except (TypeError, ValueError):  # of a builtin: only the call will tell
        return None
    own = list(signature.parameters.values())
    bound = inspect.isfunction(found) or isinstance(found, classmethod)
    given = [None] * (len(required) + bound)
    if bound and own and own[0].kind in _POSITIONAL:
        own = own[1:]
    names = [parameter.name for parameter in own if parameter.kind in _POSITIONAL][: len(required)]
    text = f"take ({', '.join(required)})"
    try:
        signature.bind(*given)
    except TypeError:
        bare = inspect.Signature([parameter.replace(annotation=parameter.empty) for parameter in own])
        return f"{text}, it takes {bare}"
    if names != required and sorted(names) == sorted(required):
        return f"{text} in this order, it takes ({', '.join(names)})"
    return None


def _function(method: Any) -> Callable[..., Any]:
    return method.__func__ if isinstance(method, staticmethod | classmethod) else method


def choice_problem(make: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
    """Which argument is none of the values that its type names (``Literal``, ``bool``), if one is: ``lr must be ...``.

    Args:
        make: The function or constructor.
        arguments: By name; a default is right whatever it is.
    """
    for name, choices in _choices(make).items():
        value = arguments.get(name)
        if name not in arguments or value is inspect.signature(make).parameters[name].default:
            continue
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            *most, last = ["null" if choice is None else str(choice) for choice in choices]
            return f"{name} must be {', '.join(most)} or {last}, not {shown(value)}"
    return None


@cache
def _choices(make: Callable[..., Any]) -> dict[str, list[Any]]:
    """The values that arguments may have, of those whose types name them."""
    try:
        hints = typing.get_type_hints(make)
    except Exception:  # annotations may be anything
        return {}
    return {name: choices for name, hint in hints.items() if name != "return" and (choices := _values(hint))}


def _values(hint: Any) -> list[Any]:
    if hint is bool:
        return [True, False]
    if hint is type(None):
        return [None]
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_values(part) for part in typing.get_args(hint)]
        return [choice for part in parts for choice in part] if all(parts) else []
    return []
