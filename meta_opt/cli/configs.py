"""Config files, which may hold anything: what is read of them is bounded, and what cannot be read is said in one line.

This module imports no torch, so that it answers at once.
"""

from __future__ import annotations

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


def read_text(path: str) -> str:
    """The content of a config file.

    Raises:
        MetaOptError: If it cannot be read, is no text, or is too long.
    """
    shown = clipped(path)
    try:
        file = Path(path)
        if not file.exists():
            raise MetaOptError(f"--config {shown}: File does not exist")
        if not file.is_file():
            raise MetaOptError(f"--config {shown}: this is no file")
        if file.stat().st_size > 4 * _MAX_CHARACTERS:
            raise MetaOptError(
                f"--config {shown}: it has {file.stat().st_size} bytes, a config file has a few thousand"
            )
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MetaOptError(f"--config {shown}: it is not text in UTF-8 (at byte {error.start})") from error
    except (OSError, ValueError) as error:
        raise MetaOptError(f"--config {shown}: {getattr(error, 'strerror', None) or error}") from error


def parse(text: str) -> Any:
    """What YAML says, as plain values.

    Raises:
        MetaOptError: If it is large or nested beyond reason, also by aliases of aliases, or has a value that cannot be.
        YAMLError: If it is no YAML.
    """
    _check_size(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, MetaOptError):
        raise
    except Exception as error:  # of dates and numbers that there are not, for example
        raise MetaOptError(f"the config has a value that cannot be: {clipped(error)}") from error


def _check_size(text: str) -> None:
    """See, before anything is made of it, how much YAML stands for."""
    if len(text) > _MAX_CHARACTERS:
        raise MetaOptError(f"the config has {len(text)} characters, more than {_MAX_CHARACTERS}")
    sizes: dict[str, float] = {}  # by anchor; infinite while it is open: an alias in it goes round
    open_: list[tuple[str | None, float]] = []
    total = 0.0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionEndEvent):
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


def check_groups(text: str) -> None:
    """See that what is said of groups of options is said by name: the parser would leave out anything else.

    Raises:
        MetaOptError: If it is not; as :func:`parse`.
    """
    try:
        config = parse(text)
    except yaml.YAMLError:
        return  # the parser says what is wrong with it
    for group in _GROUPS:
        value = config.get(group) if isinstance(config, dict) else None
        if value is not None and not isinstance(value, dict):
            raise MetaOptError(f"--{group} must be options by name, not {shown(value)}")


def of_a_run(text: str, command: str) -> str | None:
    """The ``config.yaml`` that a run has written, without what only ``fit`` takes; None if ``text`` is another.

    Args:
        text: Content of a config file.
        command: The command that it is given to.

    Raises:
        MetaOptError: As :func:`parse`.
    """
    if command == "fit" or not _OWN.match(text):
        return None
    config = parse(text)
    if not isinstance(config, dict):
        return None
    if command == "compare":  # what it is compared on; the optimizer is the checkpoint's, which may not name a class
        kept = {name: config[name] for name in ("optimizee", "seed_everything") if name in config}
        optimizer = config.get("optimizer")
        if isinstance(optimizer, dict) and "." in str(optimizer.get("class_path")):
            kept["optimizer"] = optimizer["class_path"]
    else:
        kept = {name: value for name, value in config.items() if name not in _OF_FIT}
    return yaml.safe_dump(kept, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
