"""Locks on files and folders, which the system frees when the process that holds them ends, however it ends.

A folder is locked itself: there is no lock file to be left behind.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BusyError(Exception):
    """Another process, or another part of this one, holds the lock."""


def acquire(path: Path, wait: float = 0.0) -> int:
    """Lock an existing file or folder.

    Args:
        path: The file or folder.
        wait: Seconds to wait for another who holds it.

    Returns:
        A descriptor; closing it frees the lock.

    Raises:
        BusyError: If it is held for longer.
        OSError: If there is no such file, or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY)
    end = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise BusyError(str(path)) from None
                time.sleep(0.1)
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A context that holds the lock of an existing file or folder, see :func:`acquire`."""
    descriptor = acquire(path)
    try:
        yield
    finally:
        os.close(descriptor)
