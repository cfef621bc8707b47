"""What a loss depends on besides its arguments, noted so that a change is seen.

A traced loss is right for as long as nothing changes that its Python code reads: attributes of the optimizee, of its
modules and of other objects in them, what is in their containers, variables that a closure holds, globals.
"""

from __future__ import annotations

import enum
import itertools
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import is_
from typing import Any, TypeVar

import torch
from torch import Tensor

from meta_opt.optimizees.contract import Optimizee

Result = TypeVar("Result")

_IMMUTABLE = (
    int, float, complex, bool, str, bytes, type(None), type(...), range, slice, enum.Enum, types.ModuleType,
    types.BuiltinFunctionType, types.MethodDescriptorType, types.MethodWrapperType, types.WrapperDescriptorType,
    torch.dtype, torch.device, torch.memory_format, torch.layout,
)  # fmt: skip
_LIBRARIES = ("torch", "builtins", "math", "typing", "collections", "functools", "meta_opt.optimizees.contract")
_MOST = 5000  # values that are followed; what depends on more is not traced


class NotTraceableError(Exception):
    """Why a loss is evaluated as it stands."""


class Dependencies:
    """Everything that can be reached from some attributes of an optimizee, as it was when this was made.

    Values are compared by identity, tensors also by the counter of their changes in place.

    Raises:
        NotTraceableError: If something is reached whose changes cannot be seen, a NumPy array for example.
    """

    def __init__(self, optimizee: Optimizee, reads: list[str]) -> None:
        """Follow the attributes ``reads`` of ``optimizee``, which itself is not held."""
        self._seen: dict[int, Any] = {}  # holds what was seen, so that no other value can get its identity
        self._classes: list[tuple[Any, list[Any], dict[str, Any]]] = []
        self._empty: list[Any] = []
        self._dicts: list[tuple[Any, list[Any], list[int]]] = []
        self._lists: list[tuple[Any, list[int]]] = []
        self._tensors: list[tuple[Tensor, int, int]] = []
        self._cells: list[tuple[Any, Any]] = []
        self._names: list[tuple[dict[str, Any], str, Any]] = []
        self._waiting: list[Any] = []
        self._own = [(name, vars(optimizee).get(name, _MISSING)) for name in reads]
        self._waiting += [value for _, value in self._own if value is not _MISSING]
        for cls in _classes_of(optimizee):
            self._note_class(cls)
            self._waiting += [vars(cls)[name] for name in reads if name in vars(cls)]
        while self._waiting:
            self._follow(self._waiting.pop())

    def unchanged(self, optimizee: Optimizee) -> bool:
        """Whether all is as it was, for the same optimizee or a shallow copy; takes microseconds."""
        own = vars(optimizee)
        return (
            all(own.get(name, _MISSING) is value for name, value in self._own)
            and all(found.get(name, _MISSING) is value for found, name, value in self._names)
            and all(t._version == version and t.data_ptr() == place for t, version, place in self._tensors)
            and not any(self._empty)
            and all(list(map(id, d.values())) == ids and list(d) == keys for d, keys, ids in self._dicts)
            and all(list(map(id, values)) == ids for values, ids in self._lists)
            and all(_unchanged_class(*noted) for noted in self._classes)
            and all(_content(cell) is value for cell, value in self._cells)
        )

    def _follow(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        if isinstance(value, _IMMUTABLE):
            self._seen[id(value)] = value
            return
        if len(self._seen) > _MOST:
            raise NotTraceableError(f"the loss depends on more than {_MOST} values")
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            if value.is_inference():
                raise NotTraceableError("the loss reads a tensor made in inference mode, whose changes are not counted")
            self._tensors.append((value, value._version, value.data_ptr()))
        elif isinstance(value, types.FunctionType):
            self._follow_function(value)
        elif isinstance(value, types.MethodType):
            self._waiting += [value.__func__, value.__self__]
        elif isinstance(value, property):
            self._waiting += [value.fget]
        elif isinstance(value, staticmethod | classmethod):
            self._waiting += [value.__func__]
        elif isinstance(value, partial):
            self._waiting += [value.func, value.args, value.keywords]
        elif type(value).__module__ == "meta_opt.optimizees.tracing":
            return  # the traces themselves, where an attribute leads back to its optimizee
        elif isinstance(value, type):
            if not value.__module__.startswith(_LIBRARIES):
                self._note_class(value)
                self._waiting += [*_public(vars(value)).values(), *value.__bases__]
        elif isinstance(value, dict):
            self._note_dict(value)
        elif isinstance(value, list | tuple | set | frozenset):
            self._note_list(value)
        elif hasattr(value, "__dict__") and not _has_hidden_state(type(value)):
            self._note_dict(vars(value))
            self._waiting += [type(value)]
        else:
            raise NotTraceableError(f"the loss depends on a {type(value).__name__}, whose changes cannot be seen")

    def _follow_function(self, function: types.FunctionType) -> None:
        if function.__module__ is None or function.__module__.startswith(_LIBRARIES):
            return
        for cell in function.__closure__ or ():
            self._cells.append((cell, _content(cell)))
            self._waiting.append(_content(cell))
        self._waiting += [function.__defaults__ or (), function.__kwdefaults__ or {}]
        for name in sorted(_names_in(function.__code__)):
            value = function.__globals__.get(name, _MISSING)
            self._names.append((function.__globals__, name, value))
            if value is not _MISSING:
                self._waiting.append(value)

    def _note_dict(self, values: Any) -> None:
        if isinstance(values, dict) and not values:
            self._empty.append(values)
            return
        self._dicts.append((values, list(values), list(map(id, values.values()))))
        self._waiting += values.values()

    def _note_class(self, cls: type) -> None:
        self._classes.append((vars(cls), list(vars(cls).values()), _public(vars(cls))))

    def _note_list(self, values: Any) -> None:
        if values:
            if not isinstance(values, tuple | frozenset):
                self._lists.append((values, list(map(id, values))))
            self._waiting += values
        elif not isinstance(values, tuple | frozenset):
            self._empty.append(values)


def recording_reads(optimizee: Optimizee, run: Callable[[], Result]) -> tuple[Result, list[str]]:
    """What ``run()`` returns, and the attributes of ``optimizee`` that it read.

    Raises:
        NotTraceableError: If it set an attribute, or read all of them as a dictionary.
    """
    own, reads = type(optimizee), set()

    def read(self: Any, name: str) -> Any:
        if name == "__dict__":
            raise NotTraceableError("the loss reads all attributes at once")
        reads.add(name)
        return own.__getattribute__(self, name)

    def write(self: Any, name: str, *value: Any) -> None:
        raise NotTraceableError(f"the loss sets the attribute {name}")

    namespace = {"__getattribute__": read, "__setattr__": write, "__delattr__": write, "__slots__": ()}
    try:
        object.__setattr__(
            optimizee, "__class__", types.new_class(own.__name__, (own,), {}, lambda n: n.update(namespace))
        )
    except TypeError as error:
        raise NotTraceableError(f"what the loss reads of {own.__name__} cannot be seen: {error}") from error
    watched = set(vars(type(optimizee)))
    try:
        result = run()
        if set(vars(type(optimizee))) != watched:
            raise NotTraceableError("the loss sets an attribute of its class")
        return result, sorted(reads - {"__class__"})
    finally:
        object.__setattr__(optimizee, "__class__", own)


_MISSING = object()


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a class statement gives names; Python itself adds some that begin with two underscores."""
    return {name: value for name, value in values.items() if not name.startswith("__") and name != "_abc_impl"}


def _unchanged_class(values: Mapping[str, Any], all_before: list[Any], public_before: dict[str, Any]) -> bool:
    if len(values) == len(all_before) and all(map(is_, values.values(), all_before)):  # nearly always, and fast
        return True
    public = _public(values)
    return public.keys() == public_before.keys() and all(value is public_before[name] for name, value in public.items())


def _classes_of(optimizee: Optimizee) -> list[type]:
    """Its classes, but for those that change nothing."""
    return [cls for cls in type(optimizee).__mro__ if not cls.__module__.startswith(_LIBRARIES)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _MISSING


def _names_in(code: types.CodeType) -> Iterator[str]:
    inner = (_names_in(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return itertools.chain(code.co_names, *inner)


def _has_hidden_state(cls: type) -> bool:
    """Whether objects keep more than their ``__dict__``: slots, or what C code keeps."""
    return any("__slots__" in vars(base) and vars(base)["__slots__"] for base in cls.__mro__) or not _is_plain(cls)


def _is_plain(cls: type) -> bool:
    return all(base is object or base.__flags__ & (1 << 9) for base in cls.__mro__)  # made by a class statement
