"""Arguments in a checkpoint, as a parser would take them: it imports what they name, and reads files.

A parser takes text for a class path, for YAML that has one, or for the name of a file that has it. A checkpoint may
come from anywhere: it chooses among what is installed, by name.
"""

from __future__ import annotations

import enum
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from meta_opt import registry

_TEXT = (str, Path, os.PathLike)
_PLAIN = (int, float, bool, type(None), *_TEXT)
_OPEN = (Any, object, list, tuple, dict)  # of whose values nothing is said
_WORDS = re.compile(r"[\w.+\-/ ]*")  # no mapping in YAML
_WORD = re.compile(r"[\w+-]*(:\d+)?")  # nor a class path


def unvouched(cls: type[Any], arguments: Mapping[str, Any]) -> str | None:
    """The first of the arguments of a class that a parser might import or read something for; None if there is none.

    Args:
        cls: The class.
        arguments: Plain values, by name.
    """
    hints = _hints(cls)
    for name, value in arguments.items():
        if not name.isidentifier() or _reaches_out(value, [*_alternatives(hints.get(name, type))]):
            return name
    return None


def _hints(cls: type[Any]) -> dict[str, Any]:
    """What arguments are said to be, those of a base class too, which ``**kwargs`` hands on."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        function = vars(base).get("__init__")
        if not isinstance(function, types.FunctionType):
            continue
        names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
        hints |= dict.fromkeys(names, Any)
        hints |= {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
    return hints


def _resolved(hint: Any, function: types.FunctionType) -> Any:
    """A type; if it cannot be known, that of classes or a word."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return typing.get_type_hints(holder, function.__globals__)["hint"]
    except Exception:  # annotations may be anything, also names that are there for type checkers only
        return str | type


def _reaches_out(value: Any, kinds: Sequence[Any]) -> bool:
    """Whether something might be imported or read for a value that is to be of one of these types."""
    if isinstance(value, str):
        return _text_reaches_out(value, kinds)
    if isinstance(value, list):
        of_items = [each for kind in kinds for each in _kinds_of_items(kind)] or [Any]
        return any(_reaches_out(item, of_items) for item in value)
    if not isinstance(value, dict):
        return False
    if "class_path" in value:
        return _names_what_is_not_there(value)
    if not all(_is_plain(kind) for kind in kinds):
        if any(not isinstance(key, str) or "." in key for key in value):
            return True
        if not all(_is_plain(kind) or kind in _OPEN or _is_mapping(kind) for kind in kinds):
            return True  # arguments of the class that is the default
    return any(_reaches_out(item, _kinds_of_value(key, kinds)) for key, item in value.items())


def _text_reaches_out(text: str, kinds: Sequence[Any]) -> bool:
    if all(map(_is_plain, kinds)):  # text for a list is the name of a file
        return not any(kind in _TEXT or typing.get_origin(kind) is Literal or _is_enum(kind) for kind in kinds)
    if all(_is_plain(kind) or kind in _OPEN for kind in kinds):
        return _WORDS.fullmatch(text) is None
    return str not in kinds or _WORD.fullmatch(text) is None or Path(text).exists()


def _kinds_of_items(kind: Any) -> list[Any]:
    """What the items of a list may be that is of this type, or of one that is not known."""
    if typing.get_origin(kind) is Literal or kind in _PLAIN or kind in _OPEN or _is_enum(kind):
        return []
    return [each for part in typing.get_args(kind) or (str, type) if part is not ... for each in _alternatives(part)]


def _kinds_of_value(key: str, kinds: Sequence[Any]) -> list[Any]:
    """What the value of a key may be, in a dictionary that may be of these types."""
    hints = [typing.get_args(kind)[1] for kind in kinds if _is_mapping(kind)]
    hints += [typing.get_type_hints(kind).get(key, type) for kind in kinds if typing.is_typeddict(kind)]
    return [each for hint in hints for each in _alternatives(hint)] or [Any]


def _names_what_is_not_there(value: Mapping[str, Any]) -> bool:
    path, arguments = value["class_path"], value.get("init_args", {})
    if set(value) - {"class_path", "init_args"} or not isinstance(arguments, dict) or not isinstance(path, str):
        return True
    if not registry.is_named(path):
        return True
    module, _, name = path.rpartition(".")
    asked = [getattr(sys.modules[module], name)] if module else []  # a class in a file
    installed = [registry.load(kind, path) for kind in registry.KINDS if path in registry.names(kind)]
    return any(unvouched(cls, arguments) is not None for cls in (*asked, *installed))


def _alternatives(hint: Any) -> Iterable[Any]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _alternatives(part)
    elif typing.get_origin(hint) is typing.Annotated:
        yield from _alternatives(typing.get_args(hint)[0])
    else:
        yield hint


def _is_plain(kind: Any) -> bool:
    """Whether a type is of numbers and text, or holds only such."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal or kind in _PLAIN or _is_enum(kind):
        return True
    if typing.is_typeddict(kind):
        return all(_is_plain(each) for hint in typing.get_type_hints(kind).values() for each in _alternatives(hint))
    if isinstance(origin, type) and (issubclass(list, origin) or issubclass(tuple, origin) or _is_mapping(kind)):
        return all(_is_plain(each) for part in parts if part is not ... for each in _alternatives(part))
    return False


def _is_mapping(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return isinstance(origin, type) and issubclass(dict, origin) and len(typing.get_args(kind)) == 2


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)
