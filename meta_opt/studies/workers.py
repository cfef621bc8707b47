"""Processes that do runs, one thread each, and stay for many runs: importing torch takes seconds.

A worker runs a module, which reads tasks as lines of JSON and answers with lines of JSON (:func:`serve`). It imports
from where the process that started it does, and not from the current folder, as ``python -m`` would. It ends when its
standard input does: with the process that started it, however that ends. On a cluster each thread of a
``dask.distributed`` worker has such a process beside it, since meta-training needs the main thread and its own output.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import Any

from meta_opt import __version__
from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped
from meta_opt.studies.tasks import Task

_PATIENCE = 10.0  # seconds that a process gets to end by itself
_IDLE = 600.0  # seconds without work after which a process ends; on a cluster nobody else ends it
ATTEMPTS = 3  # how often a run is begun whose process ends in the middle
_READY = b"ready\n"  # what a process says before it waits for work
Perform = Callable[[Mapping[str, Any], int], dict[str, Any]]
Done = Generator[tuple[Task, dict[str, Any]], None, None]


class Worker:
    """A process that does one run after the other."""

    def __init__(self, module: str) -> None:
        """Start a process that runs the module."""
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; import runpy; runpy.run_module({module!r}, run_name='__main__')"
        )
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for the study
        )
        self.ready = False

    def perform(self, work: Mapping[str, Any], run: int) -> dict[str, Any] | None:
        """Do a run; None if the process ended in the middle."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"work": work, "run": run}).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has ended, or was stopped
            return None
        while not self.ready and (line := self._process.stdout.readline()):
            self.ready = line.endswith(_READY)  # what is printed before, by what is imported, is no answer
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer.endswith(b"\n") else None

    def end(self) -> None:
        """Let the process end, also in the middle of a run."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def stop(self) -> str:
        """End the process and wait for that; what it ended with."""
        assert self._process.stdout is not None
        self.end()
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._process.stdout.close()
        return signal.Signals(-status).name if status < 0 else f"status {status}"


_own = threading.local()  # the worker of each thread


def perform_beside(
    module: str, work: Mapping[str, Any], run: int, start: Callable[[str], Worker] = Worker
) -> dict[str, Any]:
    """Do a run in the process of this thread; one that ends in the middle is begun again in another.

    Returns:
        What came of it, ``no_start`` where no process for it can be started: no run's fault.
    """
    ended = ""
    for _ in range(ATTEMPTS):
        if getattr(_own, "worker", None) is None:
            _own.worker = start(module)
        worker: Worker = _own.worker
        answer = worker.perform(work, run)
        if answer is not None:
            return answer
        ended, _own.worker = worker.stop(), None
        if not worker.ready and ended.startswith("status"):
            return {"no_start": ended}
    return {"error": f"the process ended in the middle, {ATTEMPTS} times ({ended})", "seconds": {}}


def serve(perform: Perform) -> None:
    """Do what comes in on standard input, one line after the other, until it ends, and then end the process at once.

    Without work for ten minutes, without anybody to hear an answer, or where a run ends the process, that ends too.

    Args:
        perform: Does a run.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what prints does not get between the answers
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            requests.put(line)
        end(0)  # in the middle of a run, too: nobody would hear of it

    def end(status: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        sys.stderr.flush()
        os._exit(status)  # the interpreter cannot shut down while a thread waits for standard input

    folder = tempfile.tempdir = tempfile.mkdtemp(prefix="meta-opt-study-")
    threading.Thread(target=read, daemon=True).start()
    status = 1
    try:
        answers.write(_READY)
        answers.flush()
        while True:
            request = json.loads(requests.get(timeout=_IDLE))
            answers.write(json.dumps(perform(request["work"], request["run"])).encode() + b"\n")
            answers.flush()
    except (queue.Empty, BrokenPipeError):  # nobody asks, or nobody hears
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        end(status)


def here(tasks: Sequence[Task], workers: int, module: str) -> Done:
    """Do runs in processes on this machine; gives them as they end.

    Args:
        tasks: The runs.
        workers: How many processes.
        module: What :func:`serve` is called in.
    """
    crew = _Crew()
    pool = ThreadPoolExecutor(min(workers, max(len(tasks), 1)))
    futures = {pool.submit(perform_beside, module, task.work, task.run, crew.start): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        crew.stop()
        pool.shutdown()


class _Crew:
    """The workers of a study on this machine, which end with it."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._stopped = False
        self._lock = threading.Lock()

    def start(self, module: str) -> Worker:
        """One more worker."""
        with self._lock:
            if self._stopped:
                raise CancelledError
            self._workers.append(Worker(module))
            return self._workers[-1]

    def stop(self) -> None:
        """End all; there will be no others."""
        with self._lock:
            self._stopped = True
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.stop()


def on_cluster(tasks: Sequence[Task], address: str, module: str) -> Done:
    """Do runs on the workers of a ``dask.distributed`` scheduler; gives them as they end.

    Those of a worker that is lost are done again on others, until the scheduler gives them up.

    Raises:
        MetaOptError: If distributed is not installed, there is no scheduler, that is lost, or runs were given up.
    """
    try:
        from distributed import Client
        from distributed import as_completed as cluster_completed
    except ImportError as error:
        raise MetaOptError("--cluster needs dask.distributed: pip install 'meta-opt[cluster]'") from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # that a scheduler is lost is said below

    class OwnClient(Client):
        def __del__(self) -> None:
            """Nothing: it is closed below; of one that found no scheduler, the stock method waits and prints."""

    def perform_there(work: Mapping[str, Any], run: int, module: str, version: str) -> dict[str, Any]:
        """Being local, it is sent whole, and can say that there is no meta-opt where it is run."""
        import socket

        try:
            import meta_opt
            from meta_opt.studies.workers import perform_beside
        except ImportError as error:
            return {"unfit": f"on {socket.gethostname()} meta-opt cannot be imported ({error})"}
        if meta_opt.__version__ != version:
            return {"unfit": f"on {socket.gethostname()} meta-opt is {meta_opt.__version__}, and here {version}"}
        return perform_beside(module, work, run)

    try:
        client = OwnClient(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise MetaOptError(f"--cluster {address}: there is no scheduler to be reached ({error})") from error
    lost: list[BaseException] = []
    with client:
        if not client.nthreads():
            print(f"waiting for workers of {address}", flush=True)
        try:
            by_key = {f"meta-opt-{task.key}": task for task in tasks}
            ending = cluster_completed(
                [
                    client.submit(perform_there, task.work, task.run, module, __version__, key=key)
                    for key, task in by_key.items()
                ],
                loop=client.loop,
            )
            for future in ending:
                failed = future.exception()
                made = future.result() if failed is None else {}
                future.release()  # or it would be made again if the worker that holds it were lost
                if failed is None:
                    yield by_key[future.key], made
                else:
                    lost.append(failed)
        except (CancelledError, OSError) as error:
            raise MetaOptError(f"--cluster {address}: the scheduler was lost; the same command goes on") from error
    if lost:
        reason = clipped(f"{type(lost[0]).__name__}: {lost[0]}", 200)
        raise MetaOptError(f"{len(lost)} runs were lost with their workers; the same command does them ({reason})")
