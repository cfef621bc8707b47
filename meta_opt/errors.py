"""Errors that are the user's to mend; the command line prints them as one line and exits with status 2."""

from __future__ import annotations

import operator
from pathlib import Path

_SHOWN = 60  # characters of a text in a message


class MetaOptError(Exception):
    """A problem with what was asked for. The message says what was found and which option changes it."""


class OptimizeeError(MetaOptError):
    """An optimizee breaks its contract (see :class:`meta_opt.optimizees.contract.Optimizee`) or lacks its data."""


class RegistryError(MetaOptError):
    """A plugin name is unknown, claimed twice, or its plugin does not load."""


class CheckpointError(MetaOptError):
    """A checkpoint is missing, damaged, or not one of meta-opt's."""


class DivergedError(MetaOptError):
    """Meta-training met too many non-finite episodes in a row."""


class StorageError(MetaOptError):
    """A file or folder that a run or a comparison needs cannot be written. Says which, and why."""

    @classmethod
    def of(cls, error: OSError, path: Path) -> StorageError:
        """The error for what went wrong with ``path``."""
        return cls(f"cannot write {path}: {error.strerror or error}")


def shown(value: object) -> str:
    """A value in a message, whatever it is: of text the beginning, of a container its kind and size."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 200 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}... ({len(value)} characters)"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def whole(name: str, value: object, least: int) -> int:
    """A whole number that is not too small, whatever kind of integer it is.

    Args:
        name: Of the argument, for the message.
        value: What was given.
        least: The smallest number that is right.

    Raises:
        MetaOptError: If it is not one.
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise MetaOptError(f"{name} must be a whole number of at least {least}, not {shown(value)}")
    return number
