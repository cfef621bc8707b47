"""How much memory there is, and errors that say that there is not enough.

A size that is asked for by mistake should end a command in a line, not by a system that has run out of memory and kills
it.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meta_opt.errors import MetaOptError

LESS_MEMORY = "lower the numbers of problems and of steps, or the sizes of optimizee and optimizer"
_STACK = 8 << 20  # bytes that a thread's stack counts as, though it is hardly touched
_SHORT = re.compile("allocate memory|out of memory|size calculation overflow|Unable to allocate|array is too big", re.I)
_ASKED = re.compile(r"(?:tried|Unable) to allocate ([\d.]+) (bytes|[KMGTPE]iB)", re.I)
_UNITS = {"bytes": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50, "eib": 1 << 60}


class ShortageError(MetaOptError):
    """Something needs more memory than there is."""


def available() -> float:
    """Bytes that this process may still get: of the machine, or of the control group that it runs in."""
    machine = _meminfo("MemAvailable") + _meminfo("SwapFree")
    return min(machine or float("inf"), _of_the_group())


def check(needed: float, what: str) -> None:
    """See, before anything is made, that memory suffices for what is known to be needed.

    Args:
        needed: Bytes, rather too few than too many.
        what: What needs them, and which options say so; for the message.

    Raises:
        ShortageError: If more are needed than there are.
    """
    there = available()
    if needed > there:
        raise ShortageError(
            f"there is not enough memory: at least {in_bytes(needed)} for {what}; {in_bytes(there)} are free"
        )


def in_bytes(size: float) -> str:
    """A number of bytes, in units that suit it."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} PB"


def shortage(error: BaseException) -> str | None:
    """What is said of an error that means too little memory; None if it means something else."""
    text = str(error)
    if not (isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ValueError) and _SHORT.search(text))):
        return None
    match = _ASKED.search(text)
    if match is None:
        return "there is not enough memory"
    return f"there is not enough memory: {in_bytes(float(match[1]) * _UNITS[match[2].lower()])} were asked for at once"


@contextmanager
def bounded() -> Iterator[None]:
    """A context in which what is asked for beyond the memory that there is, is refused with an error.

    Otherwise the system lends more than it has, and kills a process once that is used.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    room = available()
    bounds = [bound for bound in before if bound != resource.RLIM_INFINITY]
    if room != float("inf"):
        bounds.append(int(_used() + room) + 2 * _STACK * (os.cpu_count() or 1))
    if not bounds:
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _meminfo(name: str) -> int:
    """An entry of /proc/meminfo in bytes; 0 where there is none."""
    return _kilobytes("/proc/meminfo", name)


def _used() -> int:
    """Bytes of data of this process, as RLIMIT_DATA counts them."""
    return _kilobytes("/proc/self/status", "VmData")


def _kilobytes(file: str, name: str) -> int:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return 0
    found = (int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
    return next(found, 0)


def _of_the_group() -> float:
    """What the control group may still use, as far as it is limited."""
    try:
        folder = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text().partition("::")[2].strip().lstrip("/"))
        return max(0.0, float((folder / "memory.max").read_text()) - _of_processes(folder))
    except (OSError, ValueError):  # no such group, or "max"
        return float("inf")


def _of_processes(folder: Path) -> int:
    """Bytes that a group uses and cannot give back, as it could what it keeps of files."""
    lines = (folder / "memory.stat").read_text().splitlines()
    counts = dict(line.split() for line in lines)
    return int((folder / "memory.current").read_text()) - int(counts["inactive_file"])
