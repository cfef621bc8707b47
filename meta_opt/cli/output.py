"""Standard output and error that never end a command: closed, full, or of an encoding without our letters.

Also what others print there that is no news.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Output:
    """A stream that takes whatever is written to it, and notes what was lost.

    Attributes:
        lost: Why something that was written got lost, if it did.
    """

    def __init__(self, stream: Any, *, raises: tuple[type[OSError], ...] = ()) -> None:
        """Write to ``stream``.

        Args:
            stream: Where to; None where it is closed.
            raises: Errors that are not taken.
        """
        self.lost: str | None = None
        self._closed = stream is None
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115 for the rest of the process
        self._raises = raises
        self._errors = getattr(stream, "errors", None)
        self._set_errors("replace")

    def write(self, text: str) -> int:
        """Write ``text``, as far as it goes."""
        if self._closed and text:
            self.lost = "it is closed"
        return self._try(self._stream.write, text)

    def flush(self) -> None:
        """Hand over what has been written."""
        self._try(self._stream.flush)

    def release(self) -> None:
        """Leave the stream as it was."""
        self.flush()
        if self._errors is not None:
            self._set_errors(self._errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _set_errors(self, errors: str) -> None:
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors=errors)

    def _try(self, call: Any, *arguments: str) -> Any:
        try:
            return call(*arguments)
        except self._raises:
            raise
        except OSError as error:
            self.lost = error.strerror or str(error)
            discard(self._stream)
            return sum(map(len, arguments))


def discard(stream: Any) -> None:
    """Let what is left in the buffer of a stream, and what follows, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def safe_output() -> Iterator[Output]:
    """Standard output and error for the time of a command, as :class:`Output`; gives standard output.

    A reader who has enough still ends the command, with :class:`BrokenPipeError`.
    """
    streams = sys.stdout, sys.stderr
    out, err = Output(streams[0], raises=(BrokenPipeError,)), Output(streams[1])
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = streams
        err.release()


@contextmanager
def quiet_log_writers() -> Iterator[None]:
    """A context in which the threads that write TensorBoard's logs print no traceback where they cannot.

    Who logs gets the same error when it writes, flushes or closes next.
    """
    before = threading.excepthook

    def show(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            before(args)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = before


def quiet_lightning() -> None:
    """Keep Lightning from saying what is not news here; what else it has to say is shown."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    for name in ("callbacks.model_summary", "profilers.profiler"):  # which speak when asked to
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    for message in (
        r".*does not have many workers",  # the loaders hold nothing
        r"Checkpoint directory .* exists and is not empty",  # a resumed run
        r"Be aware that when using `ckpt_path`, callbacks",  # validate and test need none, and fit says it itself
        r"It is recommended to use `self.log\(.*sync_dist",  # all processes validate on the same problems
        r"You're resuming from a checkpoint that ended before the epoch ended",  # it is exact, see MetaLearner
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
