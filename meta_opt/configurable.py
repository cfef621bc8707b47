"""What optimizees and learned optimizers have in common.

They remember the arguments they were made from, so that a checkpoint can name how to make them again, and they may say
which version of the plugin interface they are written for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meta_opt.errors import MetaOptError
from meta_opt.signatures import choice_problem

API_VERSION = 2
"""Version of the contracts with plugins. It goes up when a plugin that fulfils them might no longer work."""


class Configurable:
    """Keeps the constructor's arguments, defaults included, in :attr:`init_args`.

    Attributes:
        init_args: The arguments, by name.
        api_version: The version of :mod:`meta_opt.api` that a plugin is written for, if its class says one
            (``api_version = 2``): meta-opt refuses to load it when its own is another.
    """

    api_version: int = API_VERSION
    init_args: dict[str, Any]
    _option: str = "argument"  # before the names of arguments in messages

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the object and note the arguments it is made from.

        Raises:
            MetaOptError: If one of them is none of the values that its type names.
        """
        self = super().__new__(cls)
        # bind_partial: copying and unpickling call __new__ without arguments and restore init_args afterwards.
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in bound.signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL and not arguments[parameter.name]:
                del arguments[parameter.name]  # as of a class without a constructor of its own
        if problem := choice_problem(cls.__init__, arguments):
            raise MetaOptError(f"{cls._option}.{problem}")
        object.__setattr__(self, "init_args", {name: _held(value) for name, value in arguments.items()})
        return self

    def plain_init_args(self, name_of: Callable[[type], str]) -> dict[str, Any] | None:
        """The arguments as plain values (numbers, strings, lists, dicts), or None if one of them is anything else.

        A path becomes a string, which :func:`meta_opt.saved.plain_values.with_paths` makes a path again.
        Arguments that are themselves configurable become ``{"class_path": name_of(class), "init_args": ...}``.
        """
        if self.odd_argument():
            return None
        return {name: _plain(value, name_of) for name, value in self.init_args.items()}

    def odd_argument(self) -> str | None:
        """The first argument that is, or holds, no plain value, with the type of that; None if all are plain."""
        for name, value in self.init_args.items():
            try:
                _plain(value, str)
            except TypeError as error:
                return f"{name} ({error})"
        return None


def _held(value: Any) -> Any:
    """The value, with lists, tuples and dicts of its own: a constructor may change those that it is given."""
    if type(value) in (list, tuple):
        return type(value)(map(_held, value))
    return {key: _held(item) for key, item in value.items()} if type(value) is dict else value


def _plain(value: Any, name_of: Callable[[type], str]) -> Any:
    if isinstance(value, Configurable):
        arguments = {name: _plain(item, name_of) for name, item in value.init_args.items()}
        return {"class_path": name_of(type(value)), "init_args": arguments}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, name_of) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, name_of) for key, item in value.items()}
    raise TypeError(type(value).__name__)
