"""The folder that data sets are read from and downloaded to, and what goes wrong there, in one line."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path

from meta_opt.api import OptimizeeError

_TIMEOUT = 10.0  # seconds without an answer; torchvision sets no limit, and would wait for minutes


def data_folder(data_dir: str | None) -> Path:
    """The folder ``data_dir``; by default that of the environment variable META_OPT_DATA_DIR, or else ``data``.

    Raises:
        OptimizeeError: If it is in the home of nobody.
    """
    folder = Path(data_dir or os.environ.get("META_OPT_DATA_DIR") or "data")
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise OptimizeeError(f"there is no folder {folder}, the data_dir: no such user has a home") from error


def lacks(folder: Path, names: Iterable[str]) -> bool:
    """Whether one of these files is not in a folder.

    Raises:
        OptimizeeError: If that cannot be seen.
    """
    try:
        return not all((folder / name).is_file() for name in names)
    except OSError as error:
        raise OptimizeeError(
            f"{folder} cannot be read ({error.strerror}): point --optimizee.data_dir or META_OPT_DATA_DIR elsewhere"
        ) from error


def download(data_set: str, folder: Path, part: str, fetch: Callable[[Path], Iterable[Path]]) -> None:
    """Download a data set, and put its files where they belong once all of them have arrived.

    Args:
        data_set: What it is called.
        folder: The folder of all data sets.
        part: Where in it the files of this one lie.
        fetch: Downloads into the folder that it is given, and says which of the files there are wanted.

    Raises:
        OptimizeeError: If that fails.
    """
    target = folder / part
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # progress bars
                arrived = list(fetch(Path(temporary)))
            target.mkdir(parents=True, exist_ok=True)
            # Never a half-written file under its final name, nor two processes writing one.
            with tempfile.TemporaryDirectory(dir=target) as staging:
                for file in arrived:
                    Path(shutil.copy(file, staging)).replace(target / file.name)
    except (OSError, RuntimeError, HTTPException) as error:
        raise OptimizeeError(
            f"{data_set} is not in {target}, and downloading it failed ({_one_line(error)}): use --optimizee "
            "digits_mlp, which needs no download, or point --optimizee.data_dir or META_OPT_DATA_DIR at a folder that "
            f"holds {part}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def damaged(data_set: str, path: Path, error: Exception | str) -> OptimizeeError:
    """What to raise when a file of a data set cannot be read."""
    reason = error if isinstance(error, str) else _one_line(error)
    return OptimizeeError(
        f"{path} is damaged or not {data_set}'s ({reason}): delete it to download it again, or point "
        "--optimizee.data_dir or META_OPT_DATA_DIR elsewhere"
    )


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
