"""Config files, which may hold anything: what is read of them is bounded, and what cannot be read is said in one line.

This module imports no torch, so that it answers at once.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from meta_opt.errors import MetaOptError, shown
from meta_opt.messages import clipped

_MAX_CHARACTERS = 200_000
_MAX_DEPTH = 32
_MAX_VALUES = 100_000  # with each alias counted as what it stands for
_OWN = re.compile(r"# meta-opt \S+: meta-opt fit --config THIS_FILE\n")  # how the config.yaml of a run begins
_OF_FIT = ("early_stopping", "preset")  # options of fit that the other commands lack
_GROUPS = ("model", "trainer", "early_stopping")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: str, option: str = "--config ") -> tuple[str, dict[str, Any]]:
    """The text of a config file, and what it says, options by name.

    Args:
        path: The file.
        option: Before its name in messages.

    Raises:
        MetaOptError: If it cannot be read, is no YAML, says something else than options by name, or as :func:`parse`.
    """
    said = f"{option}{clipped(path)}"
    text = _text(path, said)
    try:
        content = parse(text)
    except yaml.YAMLError as error:
        raise MetaOptError(f"{said}: it is no YAML: {_where(error)}") from error
    except MetaOptError as error:
        raise MetaOptError(f"{said}: {error}") from error
    if not isinstance(content, dict):
        raise MetaOptError(
            f"{said}: it must say options by name, found {'nothing' if content is None else shown(content)}"
        )
    return text, content


def _text(path: str, said: str) -> str:
    try:
        file = Path(path)
        if not file.exists():
            raise MetaOptError(f"{said}: File does not exist")
        if not file.is_file():
            raise MetaOptError(f"{said}: this is no file")
        if file.stat().st_size > 4 * _MAX_CHARACTERS:
            raise MetaOptError(f"{said}: it has {file.stat().st_size} bytes, a config file has a few thousand")
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MetaOptError(f"{said}: it is not text in UTF-8 (at byte {error.start})") from error
    except (OSError, ValueError) as error:
        raise MetaOptError(f"{said}: {getattr(error, 'strerror', None) or error}") from error


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}{clipped(getattr(error, 'problem', None) or error, 240)}"


def parse(text: str) -> Any:
    """What YAML says, as plain values.

    Raises:
        MetaOptError: If it is large or nested beyond reason, also by aliases of aliases, says something twice, or has a
            value that cannot be.
        YAMLError: If it is no YAML.
    """
    _check_size(text)
    try:
        content = yaml.safe_load(text)
        json.dumps(content, default=str, skipkeys=True)  # Python refuses to write numbers of thousands of digits
        return content
    except (yaml.YAMLError, MetaOptError):
        raise
    except Exception as error:  # of dates and numbers that there are not, for example
        raise MetaOptError(f"the config has a value that cannot be: {clipped(error)}") from error


def _check_size(text: str) -> None:
    """See, before anything is made of it, how much YAML stands for, and that it says nothing twice."""
    if len(text) > _MAX_CHARACTERS:
        raise MetaOptError(f"the config has {len(text)} characters, more than {_MAX_CHARACTERS}")
    sizes: dict[str, float] = {}  # by anchor; infinite while it is open: an alias in it goes round
    open_: list[tuple[str | None, float]] = []
    keys: list[_Keys | None] = [None]  # of the mappings that are open; None for a sequence
    total = 0.0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.NodeEvent) and keys[-1] is not None:
            keys[-1].meet(event)
        if isinstance(event, yaml.CollectionStartEvent):
            keys.append(_Keys() if isinstance(event, yaml.MappingStartEvent) else None)
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = total - before
            continue
        if isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor, 1.0)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, total))
            if event.anchor is not None:
                sizes[event.anchor] = math.inf if isinstance(event, yaml.CollectionStartEvent) else 1.0
            total += 1.0
        if total > _MAX_VALUES:
            raise MetaOptError(f"the config stands for more than {_MAX_VALUES} values, aliases counted")
        if len(open_) > _MAX_DEPTH:
            raise MetaOptError(f"the config is nested more than {_MAX_DEPTH} deep")


class _Keys:
    """The keys of a mapping, of which YAML allows one of each, and its parser keeps the last."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._is_key = False

    def meet(self, event: yaml.NodeEvent) -> None:
        """Note what comes next, a key or a value."""
        self._is_key = not self._is_key
        if self._is_key and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            if event.value in self._seen:
                raise MetaOptError(
                    f"the config says {clipped(event.value)!r} twice (line {event.start_mark.line + 1}); say it once"
                )
            self._seen.add(event.value)


def check_groups(config: dict[str, Any]) -> None:
    """See that what is said of groups of options is said by name, and in one way: the parser would leave out the rest.

    Raises:
        MetaOptError: If it is not.
    """
    _check_one_way(config)
    for group in _GROUPS:
        value = config.get(group)
        if value is not None and not isinstance(value, dict):
            raise MetaOptError(f"--{group} must be options by name, not {shown(value)}")


def _check_one_way(config: dict[Any, Any]) -> None:
    """See that nothing is said both as ``model: {lr: 1}`` and as ``model.lr: 1``."""
    names = [str(name) for name in config]
    for name, value in config.items():
        if isinstance(value, dict):
            if beside := next((other for other in names if other.startswith(f"{name}.")), None):
                raise MetaOptError(f"the config says {beside} beside {name}, which is a mapping; say all of it in one")
            _check_one_way(value)


def of_a_run(text: str, config: dict[str, Any], command: str) -> str | None:
    """The ``config.yaml`` that a run has written, without what only ``fit`` takes; None if ``text`` is another.

    Args:
        text: Content of a config file.
        config: What it says.
        command: The command that it is given to.
    """
    if command == "fit" or not _OWN.match(text):
        return None
    if command == "compare":  # what it is compared on; the optimizer is the checkpoint's, which may not name a class
        names = ("optimizee", "seed_everything")
        kept: dict[str, Any] = {name: config[name] for name in names if name in config}
        optimizer = config.get("optimizer")
        if isinstance(optimizer, dict) and "." in str(optimizer.get("class_path")):
            kept["optimizer"] = optimizer["class_path"]
    else:
        kept = {name: value for name, value in config.items() if name not in _OF_FIT}
    return yaml.safe_dump(kept, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
