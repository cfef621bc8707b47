"""Values from a checkpoint that nobody has vouched for: what may be in them, and how much."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from meta_opt.errors import shown
from meta_opt.optimizees.layout import Layout

_MAX_DEPTH = 16
_MAX_VALUES = 500_000
_MAX_CONTAINERS = 100  # in each other
_MAX_REPEATED = 1_000_000
_MAX_TEXT = 4096  # characters
_MAX_NAME = 40  # characters of a name in a message
_MAX_COORDINATES = 10**10  # 40 GB in float32, for θ alone
_MAX_DIMENSIONS = 32


def plain(value: Any, name: str) -> Any:
    """A copy of ``value``: numbers, strings, None, and lists and dictionaries of them.

    Raises:
        ValueError: If anything else is in it, or it is nested or large beyond reason; says where.
    """
    left = _MAX_VALUES

    def copied(value: Any, name: str, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {_MAX_VALUES} values are in it")
        if value is None or isinstance(value, bool) or (isinstance(value, float) and not math.isnan(value)):
            return value
        if isinstance(value, int) and abs(value) < 1 << 63:
            return int(value)
        if isinstance(value, str) and len(value) <= _MAX_TEXT:
            return str(value)
        if isinstance(value, list | tuple | dict):
            if depth == _MAX_DEPTH:
                raise ValueError(f"{name} is nested too deep")
            if not isinstance(value, dict):
                return [copied(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
            for key in value:
                if not isinstance(key, str) or len(key) > _MAX_TEXT:
                    raise ValueError(f"{name} has the name {shown(key)}")
            return {key: copied(item, f"{name}.{key[:_MAX_NAME]}", depth + 1) for key, item in value.items()}
        raise ValueError(f"{name} is {shown(value)}")

    return copied(value, name, 0)


def check_repeated(value: Any) -> None:
    """See that whoever goes through the containers in a value comes to an end: what is there twice is met twice.

    Raises:
        ValueError: If one holds itself, or they are nested or repeated beyond reason, or have attributes, which hide
            methods.
    """
    sizes: dict[int, int | None] = {}  # with what is repeated; None while a container is gone through
    there = 0

    def size(value: Any, depth: int) -> int:
        nonlocal there
        if not isinstance(value, dict | list | tuple):
            return 1
        if id(value) not in sizes:
            if depth == _MAX_CONTAINERS:
                raise ValueError(f"more than {_MAX_CONTAINERS} containers are in each other")
            if getattr(value, "__dict__", {}).keys() - {"_metadata"}:  # which torch gives the weights of a module
                raise ValueError(f"{shown(value)} has attributes")
            there += 1 + len(value)
            sizes[id(value)] = None
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(item, depth + 1) for item in items)
        if (found := sizes[id(value)]) is None:
            raise ValueError(f"{shown(value)} holds itself")
        return found

    if size(value, 0) > there + _MAX_REPEATED:
        raise ValueError("what is in it several times stands for too much")


def check_arguments(make: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> None:
    """See that plain values are of the types that the arguments of ``make`` say, where those are plain.

    Raises:
        ValueError: If one is not; says which.
    """
    try:
        hints = typing.get_type_hints(make)
    except Exception:  # annotations may be anything; then the call itself shows what fits
        return
    for argument, value in arguments.items():
        if argument in hints and not _fits(value, hints[argument]):
            raise ValueError(f"{name}.{argument} is {shown(value)}")


def with_paths(make: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with paths for strings where ``make`` takes a path and no string."""
    try:
        hints = typing.get_type_hints(make)
    except Exception:  # as above
        return dict(arguments)

    def is_path(name: str, value: Any) -> bool:
        kinds = (hints.get(name), *typing.get_args(hints.get(name)))
        return isinstance(value, str) and Path in kinds and str not in kinds

    return {name: Path(value) if is_path(name, value) else value for name, value in arguments.items()}


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is typing.Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint in (int, bool, str, type(None)):
        return type(value) is hint
    if hint is float:
        return type(value) in (int, float)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if inspect.isclass(kind) and issubclass(list, kind):  # list[int], Sequence[int]
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    return True


def checked_layout(value: Any) -> Layout:
    """The layout that plain values describe, see :meth:`meta_opt.optimizees.layout.Layout.to_plain`.

    Raises:
        ValueError: If they describe none, or one that is too large; says why.
    """
    columns: dict[str, Any] = {name: value.get(name) if isinstance(value, dict) else None for name in _LAYOUT}
    for name, column in columns.items():
        if not isinstance(column, list) or not column or len(column) != len(columns["names"] or ()):
            raise ValueError(f"meta_opt.layout.{name} is {shown(column)}")
        for item in column:
            if not _LAYOUT[name](item):
                raise ValueError(f"meta_opt.layout.{name} has {shown(item)}")
    if len(set(columns["names"])) < len(columns["names"]):
        raise ValueError("meta_opt.layout.names has a name twice")
    size = sum(math.prod(shape) for shape in columns["shapes"])
    if not 0 < size <= _MAX_COORDINATES:
        raise ValueError(f"meta_opt.layout must have from 1 to {_MAX_COORDINATES:.0e} coordinates")
    return Layout.from_plain(columns)


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMENSIONS
        and all(type(length) is int and length >= 0 for length in value)
    )


_LAYOUT = {
    "names": lambda value: isinstance(value, str),
    "shapes": _is_shape,
    "groups": lambda value: isinstance(value, str),
    "depths": lambda value: type(value) in (int, float) and math.isfinite(value),
}
