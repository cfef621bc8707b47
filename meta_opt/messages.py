"""Text for one-line messages: no control characters, long values cut, of a plugin's error its own frames only."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from meta_opt.memory import shortage

_VALUE = 80  # characters of a value in a message
_WORD = 250  # of a word anywhere in a message: paths may be long
_TEXT = 240  # of an exception's text
_LINE = 1500  # of a message
_FRAMES = 3
_SHARED = ("meta_opt", "torch", "lightning", "jsonargparse", "builtins", "abc", "__main__")
_FOLDERS_OF_MANY = ("site-packages", "dist-packages")
_RUNS_THEIRS = "meta_opt.optimizees.module"  # calls what a plugin hands over: a network of torch's, a criterion


def printable(text: str) -> str:
    """``text`` without control characters (escape codes, line ends), which a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def offered(name: str, known: Iterable[str], there: str) -> str:
    """What there is instead of a name, after a question for the nearest of the known ones where one is near."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"did you mean {by_lower[found[0]]!r}? {there[0].upper()}{there[1:]}" if found else there


def clipped(value: object, limit: int = _VALUE) -> str:
    """The text of a value in one line, cut where it is long."""
    text = " ".join(printable(str(value)[: 4 * limit]).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def prose(text: str) -> str:
    """A docstring in one line, without markup."""
    return re.sub(r":\w+:`~?([^`]*)`|``(.*?)``", r"\1\2", " ".join(text.split()))


def one_line(message: object) -> str:
    """A message in one line, with long words cut to a value's length; a very long line is cut."""
    text = printable(str(message)[: 64 * _LINE])
    words = (word if len(word) <= _WORD else word[: _VALUE - 1] + "…" for word in text.split())
    line = " ".join(words)
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"


def described(error: BaseException, modules: Iterable[str]) -> str:
    """An exception in one line: its type, its text, and where in ``modules`` it comes from.

    Args:
        error: The exception.
        modules: Modules of a plugin; frames of their packages (of a single file, also of its neighbours) are named.
    """
    first = shortage(error) or next((line for line in str(error).splitlines() if line.strip()), "")
    text = clipped(" ".join(clipped(word) for word in first[:_LINE].split()), _TEXT)
    places = own_frames(error, modules)
    if isinstance(error, SyntaxError):
        places = []  # its text says where
    shown = places if len(places) <= _FRAMES else ["…", *places[-_FRAMES:]]
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({', '.join(shown)})" if shown else "")


def own_frames(error: BaseException, modules: Iterable[str]) -> list[str]:
    """Where an exception went through ``modules``, from the outside in: ``file.py:12 in function``.

    If nowhere, where it went through what calls networks and criteria that plugins hand over.
    """
    packages = {module.partition(".")[0] for module in modules} - set(_SHARED)
    folders = {folder for package in packages if (folder := _folder(package)) is not None}
    frames = list(_frames(error.__traceback__))
    own = [frame for frame in frames if frame[0].partition(".")[0] in packages or os.path.dirname(frame[1]) in folders]
    return [
        f"{_relative(file)}:{line}" + ("" if function.startswith("<module") else f" in {function}")
        for _, file, line, function in own or [frame for frame in frames if frame[0] == _RUNS_THEIRS]
    ]


def _frames(trace: TracebackType | None) -> Iterable[tuple[str, str, int, str]]:
    """Module, file, line and function of each frame."""
    for frame, line in traceback.walk_tb(trace):
        code = frame.f_code
        yield str(frame.f_globals.get("__name__", "")), code.co_filename, line, code.co_name


def _folder(package: str) -> str | None:
    """The folder of a module that is a single file, not one of a package or of all that is installed."""
    namespace = vars(sys.modules[package]) if package in sys.modules else {}  # not by a __getattr__ of the plugin
    file = namespace.get("__file__")
    if not isinstance(file, str) or "__path__" in namespace:
        return None
    folder = os.path.dirname(file)
    return None if os.path.basename(folder) in _FOLDERS_OF_MANY else folder


def _relative(file: str) -> str:
    """A path as it is short to say."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
