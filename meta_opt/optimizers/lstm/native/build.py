"""Compile the native kernel with the machine's compiler, once, into PyTorch's cache of extensions.

The kernel is a plain shared library without a line of PyTorch in it, so that it takes seconds to build and needs
neither Python's headers nor ninja. Compiler and cache are those of :mod:`torch.utils.cpp_extension` (``CXX`` and
``TORCH_EXTENSIONS_DIR`` say otherwise), which is itself not imported: that alone takes longer than loading the kernel.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch._appdirs import user_cache_dir

from meta_opt.locks import BusyError, acquire

_FOLDER = Path(__file__).with_name("cpp")
SOURCES = [_FOLDER / "lstm.cpp", *sorted(_FOLDER.glob("*.h"))]  # the first is compiled, which includes the others
# -fno-math-errno and -fno-trapping-math let square roots and selections be vectors; neither changes a result.
_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
# The first pair that the compiler takes: Clang on ARM knows only -mcpu, Apple's has no OpenMP (one thread, then).
_CPU_FLAGS: list[list[str]] = [["-march=native"], ["-mcpu=native"], []]
_THREAD_FLAGS: list[list[str]] = [["-fopenmp"], []]
_SECONDS = 10  # what a build takes, roughly
_MAX_SECONDS = 300.0
_UNFINISHED = ".building."


class BuildError(Exception):
    """The kernel could not be built; says why in one line."""


def library() -> ctypes.CDLL:
    """The kernel, built first unless the cache has it, whole.

    Raises:
        BuildError: If there is no compiler, none of its options worked, or the cache cannot be written.
    """
    try:
        path = _path()
        if not _is_whole(path):
            _build_once(path)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # made for another C library
            _build(path)
            return ctypes.CDLL(str(path))
    except OSError as error:
        if error.filename is None:  # it cannot be loaded
            raise BuildError(str(error)) from error
        raise BuildError(
            f"there is no place for it ({error.filename}: {error.strerror}); set TORCH_EXTENSIONS_DIR to a folder that "
            "can be written"
        ) from error


def _checksum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    """Whether the library is what the compiler wrote: one that lacks its end would kill the process that loads it."""
    try:
        return _checksum_of(path).read_bytes() == hashlib.sha256(path.read_bytes()).hexdigest().encode()
    except OSError:
        return False


def _path() -> Path:
    """Where the library for these sources, this torch and this processor lies."""
    key = hashlib.sha256()
    for source in SOURCES:
        key.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for part in (*_FLAGS, torch.__version__, _processor(), os.environ.get("CXX", "")):
        key.update(part.encode() + b"\0")
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or user_cache_dir(appname="torch_extensions")
    return Path(root) / "meta_opt_kernels" / f"lstm_{key.hexdigest()[:16]}.so"


def _processor() -> str:
    """What -march=native depends on: a home directory may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _build_once(path: Path) -> None:
    """Build, unless another process is at it: then wait for what it makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(path.parent, wait=_MAX_SECONDS)
    except (BusyError, OSError):  # it takes too long, or there are no locks here: two may build at once
        _build(path)
        return
    try:
        for left in path.parent.glob(f"{_UNFINISHED}*"):  # of processes that were killed: the others hold the lock
            shutil.rmtree(left, ignore_errors=True)
        if not _is_whole(path):
            _build(path)
    finally:
        os.close(lock)


def _build(path: Path) -> None:
    print(f"building the native kernel, once, about {_SECONDS} s", file=sys.stderr, flush=True)
    # Each process builds in a folder of its own and moves the result: nobody sees half a library.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_UNFINISHED) as folder:
        made = Path(folder) / path.name
        _compile(made)
        _checksum_of(made).write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        _checksum_of(made).replace(_checksum_of(path))
        made.replace(path)


def _compile(made: Path) -> None:
    compiler = os.environ.get("CXX") or "c++"
    reason = ""
    for cpu, threads in itertools.product(_CPU_FLAGS, _THREAD_FLAGS):
        command = [*compiler.split(), *_FLAGS, *cpu, *threads, str(SOURCES[0]), "-o", str(made)]
        status, said = _run([*command, *(_openmp_runtime() if threads else [])], compiler)
        if status == 0:
            return
        found = next((line for line in said.splitlines() if "error" in line), said[-200:])
        reason = reason or found.strip() or (f"signal {-status}" if status < 0 else f"exit status {status}")
    raise BuildError(f"{compiler} failed: {reason}")


def _run(command: list[str], compiler: str) -> tuple[int, str]:
    """Run the user's own compiler; its exit status and what it says."""
    try:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise BuildError(f"there is no compiler {compiler!r}; the environment variable CXX names one") from None
    with process:
        try:
            _, said = process.communicate(timeout=_MAX_SECONDS)
        except subprocess.TimeoutExpired:
            raise BuildError(f"{compiler} was still at it after {_MAX_SECONDS:.0f} s") from None
        finally:
            if process.poll() is None:  # with what it has started, which would hold on to the pipe
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, said


def _openmp_runtime() -> list[str]:
    """The OpenMP library that torch itself uses, so that the two share one pool of threads.

    Some wheels bring a renamed copy; it has to be named before the compiler adds its own, which is then not needed.
    """
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.with_name("torch.libs").glob("libgomp*.so*")]
    return ["-Wl,--as-needed", str(found[0])] if found else []
