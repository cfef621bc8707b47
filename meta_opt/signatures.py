"""Whether the methods of a class can be called as its contract calls them. Needs no object of the class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

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
