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
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch._appdirs import user_cache_dir

_FOLDER = Path(__file__).with_name("cpp")
SOURCES = [_FOLDER / "lstm.cpp", *sorted(_FOLDER.glob("*.h"))]  # the first is compiled, which includes the others
# -fno-math-errno and -fno-trapping-math let square roots and selections be vectors; neither changes a result.
_FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
# The first pair that the compiler takes: Clang on ARM knows only -mcpu, Apple's has no OpenMP (one thread, then).
_CPU_FLAGS: list[list[str]] = [["-march=native"], ["-mcpu=native"], []]
_THREAD_FLAGS: list[list[str]] = [["-fopenmp"], []]
_SECONDS = 10  # what a build takes, roughly


class BuildError(Exception):
    """The kernel could not be built; says why in one line."""


def library() -> ctypes.CDLL:
    """The kernel, built first unless the cache has it.

    Raises:
        BuildError: If there is no compiler, none of its options worked, or the cache cannot be written.
    """
    try:
        path = _path()
        if not path.exists():
            _build(path)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # damaged, or made for another C library
            _build(path)
            return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(str(error)) from error


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


def _build(path: Path) -> None:
    print(f"building the native kernel, once, about {_SECONDS} s", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each process builds in a folder of its own and moves the result: nobody sees half a library.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        _compile(made)
        made.replace(path)


def _compile(made: Path) -> None:
    compiler = os.environ.get("CXX") or "c++"
    reason = ""
    for cpu, threads in itertools.product(_CPU_FLAGS, _THREAD_FLAGS):
        command = [*compiler.split(), *_FLAGS, *cpu, *threads, str(SOURCES[0]), "-o", str(made)]
        try:
            done = subprocess.run(  # noqa: S603  the user's own compiler
                [*command, *(_openmp_runtime() if threads else [])],
                check=False, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
        except FileNotFoundError:
            raise BuildError(f"there is no compiler {compiler!r}; the environment variable CXX names one") from None
        if done.returncode == 0:
            return
        reason = reason or next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
    raise BuildError(f"{compiler} failed: {reason}")


def _openmp_runtime() -> list[str]:
    """The OpenMP library that torch itself uses, so that the two share one pool of threads.

    Some wheels bring a renamed copy; it has to be named before the compiler adds its own, which is then not needed.
    """
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.with_name("torch.libs").glob("libgomp*.so*")]
    return ["-Wl,--as-needed", str(found[0])] if found else []
