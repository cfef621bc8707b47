"""The processes of one node: started by the first, and none of them outlives another without a word.

Lightning would start them too. But where one is killed it kills the others, without a message; and where the first is
killed, each of the others prints what the communication library makes of it. Here a pair of connected sockets joins the
first process to every other. Who leaves in good order, or has said why not, sends a byte; who sends none was killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from meta_opt.cli.launched import find_launch
from meta_opt.messages import clipped

_LINK = "META_OPT_LINK"  # descriptor of the socket, in the environment of a process that the first one started
_GRACE = 5.0  # seconds for a process to end by itself, once another has failed
_DONE, _FAILED = b"\0", b"\1"


class Processes(LightningEnvironment):
    """Starts the other processes of a node, in place of Lightning's launcher.

    Attributes:
        children: Those that were started.
        sockets: One for each process that this one is linked to, by local rank.
    """

    def __init__(self) -> None:
        """Take up the link to the first process, if that started this one."""
        super().__init__()
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.sockets: dict[int, socket.socket] = {}
        if _LINK in os.environ:
            os.set_inheritable(descriptor := int(os.environ.pop(_LINK)), False)
            self.sockets[0] = socket.socket(fileno=descriptor)

    @property
    def creates_processes_externally(self) -> bool:
        """Whether Lightning need not start any."""
        return bool(self.children) or super().creates_processes_externally

    def start(self, trainer: Trainer) -> None:
        """Start what Lightning's launcher would start."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or self.creates_processes_externally:
            return
        if launcher.cluster_environment is not self:
            return  # torchrun or SLURM has started all
        spec = sys.modules["__main__"].__spec__
        program = [os.path.abspath(sys.argv[0])] if spec is None else ["-m", spec.name]
        common = {
            "MASTER_ADDR": self.main_address,
            "MASTER_PORT": str(self.main_port),
            "NODE_RANK": str(self.node_rank()),
            "WORLD_SIZE": str(trainer.world_size),
        }
        for rank in range(1, trainer.num_devices):
            self.sockets[rank], theirs = socket.socketpair()
            with theirs:
                own = {"LOCAL_RANK": str(rank), _LINK: str(theirs.fileno())}
                self.children[rank] = subprocess.Popen(  # noqa: S603 the command that runs here
                    [sys.executable, *program, *sys.argv[1:]],
                    env={**os.environ, **common, **own},
                    pass_fds=[theirs.fileno()],
                )


class Companions(Callback):
    """Ends this process in one line when another was killed, and silently when another has failed and said why."""

    def __init__(self, processes: Processes, how_to_go_on: Callable[[], str]) -> None:
        """Watch from now on.

        Args:
            processes: This process and those that it is linked to.
            how_to_go_on: What to do then, as the end of a message.
        """
        self._processes = processes
        self._how_to_go_on = how_to_go_on
        self._leaving = threading.Lock()  # held by the thread that ends this process
        self._failed = threading.Event()  # another process has, and has said why
        self._watch()

    def start(self, trainer: Trainer) -> None:
        """Start the other processes, if there are to be any."""
        self._processes.start(trainer)
        if self._processes.children:
            self._watch()

    def leave(self, *, failed: bool, said: bool = True) -> bool:
        """Tell the other processes that this one ends.

        Args:
            failed: Whether for a reason that they need not share.
            said: Whether that is said here. If not, the first process says how this one has ended.

        Returns:
            Whether the first process says the same, so that nothing need be said here.
        """
        if not self._processes.sockets:
            return False
        self._leaving.acquire()
        if said or not failed:
            self._tell(_FAILED if failed else _DONE)
        if failed:
            return 0 in self._processes.sockets and self._failed.wait(2.0)
        for child in self._processes.children.values():
            try:
                child.wait(6 * _GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
        return False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End here where the connection to another process was lost: taking it down in good order could wait for it."""
        frames = traceback.extract_tb(exception.__traceback__)
        places = Path(frames[-1].filename).with_suffix("").parts if frames else ()
        if isinstance(exception, Exception) and trainer.world_size > 1 and "distributed" in places:
            # Of linked processes the thread that watches knows more, and ends this one.
            told = bool(self._processes.sockets) and self._failed.wait(_GRACE)
            reason = clipped(re.sub(r"\[\S+\.(cc|cpp):\d+\] ?", "", str(exception)), 160)
            self._end(None if told else f"the connection to another process was lost ({reason})")

    def _watch(self) -> None:
        for rank, link in self._processes.sockets.items():
            threading.Thread(target=self._listen, args=(rank, link), daemon=True).start()

    def _listen(self, rank: int, link: socket.socket) -> None:
        try:
            word = link.recv(1)
        except OSError:
            word = b""
        if word == _DONE:
            return
        if word == _FAILED:
            self._failed.set()
            time.sleep(_GRACE)
            self._end(None)
        child = self._processes.children.get(rank)
        if child is not None:
            first = self._processes.node_rank() * (len(self._processes.children) + 1)
            reason = f"process {first + rank} {_ending(child)}"
            self._end(reason, child.returncode if _was_stopped(child) else 1)
        self._end("the first process has gone" if self._processes.local_rank() == 1 else None)

    def _end(self, reason: str | None, status: int = 1) -> None:
        """End this process, and the others, at once: what waits for a process that is gone cannot be interrupted."""
        if not self._leaving.acquire(blocking=False):
            return
        if reason is not None:
            os.write(2, f"\nmeta-opt: error: {reason}; {self._how_to_go_on()}\n".encode())
        self._tell(_FAILED)
        os._exit(status)

    def _tell(self, word: bytes) -> None:
        for link in self._processes.sockets.values():
            with contextlib.suppress(OSError):  # who has gone needs no word
                link.send(word, socket.MSG_NOSIGNAL)


def starts_processes(plugins: list[Any]) -> bool:
    """Whether it is for this process to start others: nothing else does, of the launchers that Lightning knows."""
    foreign = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    return not (foreign or find_launch() or LSFEnvironment.detect() or MPIEnvironment.detect())


def _ending(child: subprocess.Popen[bytes]) -> str:
    """How a process ended."""
    try:
        status = child.wait(1.0)
    except subprocess.TimeoutExpired:
        return "has gone"
    if _was_stopped(child):
        return f"was stopped by {signal.Signals(status - 128).name}"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _was_stopped(child: subprocess.Popen[bytes]) -> bool:
    """Whether a process left because of a signal, by itself."""
    return child.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
