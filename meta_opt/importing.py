"""Imports of plugins, whatever they do: raise anything, end the process, never end."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from meta_opt.errors import RegistryError
from meta_opt.messages import described, one_line

PATIENCE = 5.0  # seconds before it is said that an import goes on


def imported(title: str, module: str, attribute: str) -> Any:
    """The attribute (names with dots between them) of a module.

    Args:
        title: What is imported, for messages.
        module: The module.
        attribute: What of it.

    Raises:
        RegistryError: If the import fails, or ends the process.
        KeyboardInterrupt: If the user interrupts it.
    """
    with _said_when_slow(title), _kept_running(), _defaults_of_torch(), interrupts() as signals:
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except BaseException as error:  # SystemExit and the like too, which would end the command as if all were well
            if signals:
                raise
            raise RegistryError(f"{title} does not import: {described(error, [module])}") from error
    return found


@contextmanager
def _said_when_slow(title: str) -> Iterator[None]:
    """Say what is loaded once that takes long."""

    def say() -> None:
        print(f"meta-opt: still loading {one_line(title)}; Ctrl-C stops it", file=sys.stderr, flush=True)

    timer = threading.Timer(PATIENCE, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _kept_running() -> Iterator[None]:
    """``os._exit``, which ends a process as if all were well and without a word, is SystemExit meanwhile."""
    end, own = os._exit, os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() == own:
            raise SystemExit(status)
        end(status)  # a child, which is to end

    os._exit = leave
    try:
        yield
    finally:
        os._exit = end


@contextmanager
def _defaults_of_torch() -> Iterator[None]:
    """Type and device of new tensors, and whether there are gradients, are afterwards what they were."""
    torch: Any = sys.modules.get("torch")
    dtype, enabled, device = None, True, None
    if torch is not None:
        dtype, enabled, device = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device()
    try:
        yield
    finally:
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_default_dtype(dtype or torch.float32)
            torch.set_grad_enabled(enabled)
            usual = torch.device("cpu")
            if torch.get_default_device() != (device or usual):
                # None where it was the usual one: with that one named a mode would stay, under which nothing is traced.
                torch.set_default_device(None if device == usual else device)


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """The signals of Ctrl-C so far, by which it is told from a KeyboardInterrupt that a plugin raises itself."""
    seen: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is not signal.default_int_handler:
        yield seen
        return

    def note(number: int, frame: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)
