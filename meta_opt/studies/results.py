"""The results of a study: a file of JSON lines, one a run, each whole or not there. This module imports no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from meta_opt.errors import MetaOptError, StorageError
from meta_opt.locks import BusyError, locked

FILE = "results.jsonl"
_OF_TRAINING = ("updates", "final_loss", "loss_sum")
Line = Mapping[str, Any]


class Results:
    """The lines of a file, to which more are added; :func:`opened` gives it."""

    def __init__(self, path: Path, file: FileIO, lines: dict[str, Line]) -> None:
        self.lines = lines
        self._path = path
        self._file = file

    def add(self, line: Line) -> None:
        """Write a line, and wait until it is on the disk. Of a key that is there already nothing is written.

        Raises:
            StorageError: If it cannot be written.
        """
        if line["key"] in self.lines:
            return
        try:
            text = json.dumps(plain(line), ensure_ascii=False, allow_nan=False).encode() + b"\n"
            while text:  # what fits: on a full disk the rest is refused
                text = text[self._file.write(text) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError.of(error, self._path) from error
        self.lines[line["key"]] = line


@contextmanager
def opened(folder: Path) -> Iterator[Results]:
    """The results in a folder, for one process at a time; of a line that was being written nothing is left.

    A last line that is whole, and lacks its end, gets it.

    Raises:
        MetaOptError: If another process works on them, or the file holds something else.
        StorageError: If the folder cannot be made or written to.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_kind(folder / FILE)
            held.enter_context(locked(folder))
            file = held.enter_context((folder / FILE).open("a+b", buffering=0))  # else closing it writes again
            lines = read(folder)  # before anything of what may be another file is changed
            _end_last_line(file)
        except BusyError:
            raise MetaOptError(f"another study is running in {folder}; wait for it, or choose another --out") from None
        except OSError as error:
            raise StorageError.of(error, folder) from error
        yield Results(folder / FILE, file, lines)


def read(folder: Path) -> dict[str, Line]:
    """The whole lines in a folder by their keys, of each the first; none where there is no file.

    The last may lack its end, as some editors leave it.

    Raises:
        MetaOptError: If a whole line is no result.
        StorageError: If the file cannot be read.
    """
    path = folder / FILE
    try:
        _check_kind(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    lines: dict[str, Line] = {}
    *texts, last = content.split(b"\n")
    for number, text in enumerate([*texts, last] if _is_whole(last) else texts, start=1):
        try:
            line = json.loads(text)
            _check(line)
            lines.setdefault(line["key"], line)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise MetaOptError(f"{path}: line {number} is no result; delete it, and it is made again") from None
    return lines


def _check_kind(path: Path) -> None:
    """See that what is at a path can be read to an end, as a pipe or a device may not.

    Raises:
        StorageError: If it cannot.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"cannot read {path}: it is no file")


def _check(line: Any) -> None:
    """See that a line has what a run is made of, which was perhaps edited.

    Raises:
        ValueError: If it has not; or another exception where it is no mapping.
    """
    kinds = {"key": str, "point": list, "run": int, "seconds": dict}
    made = isinstance(line.get("results"), dict) or isinstance(line.get("error"), str)
    if not made or not all(isinstance(line[name], kind) for name, kind in kinds.items()):
        raise ValueError
    str(line.get("error")).encode()  # text that JSON holds and no file can
    results, seconds = line.get("results", {}), line["seconds"]
    for test in results.get("tests", {}).values():
        _check_numbers(value for name, value in test.items() if name != "curve")
        for step, loss in _list(test.get("curve", [])):
            _check_numbers([step, loss])
    for of_baseline in results.get("baselines", {}).values():
        for merit in ("final", "sum"):
            _check_numbers(of_baseline[merit][name] for name in ("value", "learning_rate"))
    training = [results["training"][name] for name in _OF_TRAINING] if "training" in results else []
    if len({*map(len, training)}) > 1:
        raise ValueError
    for values in (*training, seconds.get("training", [])):
        _check_numbers(_list(values))
    _check_numbers(value for name, value in seconds.items() if name != "training")
    _check_numbers(results.get("meta_gradient_norms", {}).values())


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError
    return value


def _check_numbers(values: Iterable[Any]) -> None:
    """See that all are numbers, or None for those that are not finite."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError
        float(value or 0)


def plain(value: Any) -> Any:
    """``value`` with numbers of six digits, and None for those that are not finite, which JSON lacks."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _is_whole(text: bytes) -> bool:
    """Whether a line is JSON to its end, and so not torn: no mapping is before its last brace."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _end_last_line(file: FileIO) -> None:
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if _is_whole(content[whole:]):
        file.write(b"\n")
    else:
        file.truncate(whole)
    file.seek(0, os.SEEK_END)
