"""Files that are never half there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from meta_opt.errors import StorageError


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a file, wholly or not at all, in a folder that is made where there is none.

    Raises:
        StorageError: If it cannot be written; what was there before still is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError.of(error, path) from error
    with contextlib.suppress(OSError):  # the new name, too, survives a loss of power; not every system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def expanded(text: str) -> Path:
    """The path, with ~ for a home directory; as it is where nobody knows which that is.

    Raises:
        StorageError: If it holds a null character, which no path has, and most of what is done with paths fails at.
    """
    if "\0" in text:
        raise StorageError(f"no path has a null character, found {text!r}")
    with contextlib.suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)
