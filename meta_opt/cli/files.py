"""Classes in files, ``PATH.py:CLASS``: plugins without packaging.

The parser knows dotted paths only. So each reference is replaced by one, on the command line and in config files. A
path may hold whatever a file name may; in YAML and JSON it is a text of its own.
"""

from __future__ import annotations

import math
import os
import re
from typing import Any

import yaml

from meta_opt import registry
from meta_opt.cli import configs
from meta_opt.errors import RegistryError
from meta_opt.messages import clipped, offered
from meta_opt.registry import Kind

_REFERENCE = re.compile(r"(.+\.py):[^\W\d][\w.]*", re.DOTALL)
_CLASSES = tuple(registry.OPTIONS.values())
_CONFIG = (".yaml", ".yml", ".json")


def with_dotted_paths(arguments: list[str], command: str = "fit") -> list[str]:
    """The arguments after a command with dotted paths for classes in files; their folders join the import path.

    Of a run's own ``config.yaml`` other commands than ``fit`` get what they take.

    Raises:
        RegistryError: If a file cannot be used, or the class in it is not named.
        MetaOptError: If a config file cannot be read.
    """
    replaced, option = [], ""
    for argument in arguments:
        if argument.startswith("-"):
            option, equals, value = argument.partition("=")
            prefix = option + equals
        else:
            prefix, value = "", argument
        if any(option == f"--{name}" or option.startswith(f"--{name}.") for name in _CLASSES):
            if option.removeprefix("--") in _CLASSES and value.endswith(".py"):
                registry.path_in_file(value)  # says that a class is missing
            value = _config(value) if value.endswith(_CONFIG) else _value(value)
        elif option in ("--config", "-c") and value:
            value = _config(value, command)
        replaced.append(prefix + value)
    return replaced


def find_class(text: str) -> tuple[Kind, type[Any]]:
    """The class that is meant by a name, ``MODULE.CLASS`` or ``FILE.py:CLASS``, and of which kind it is.

    Raises:
        RegistryError: If there is no such class, or it is of no kind.
    """
    if "." not in text:
        known = [name for kind in registry.KINDS for name in registry.names(kind)]
        found = next((kind for kind in registry.KINDS if text in registry.names(kind)), None)
        if found is None:
            there = offered(text, known, f"there are {', '.join(known)}")
            raise RegistryError(f"no plugin is called {clipped(text)!r}; {there}")
        return found, registry.load(found, text)
    for kind in registry.KINDS:
        try:
            return kind, registry.resolve(kind, text)
        except RegistryError as error:
            if " is not one: " not in str(error):
                raise
    raise RegistryError(f"{clipped(text)} is no optimizee, optimizer or estimator: it must be a subclass of one")


def _value(text: str) -> str:
    """The value of an option: a reference, or YAML that may hold some."""
    match = _REFERENCE.fullmatch(text)
    if match and (text[0] not in "[{" or os.path.isfile(os.path.expanduser(match[1]))):
        return registry.path_in_file(text)
    return (_yaml(text) or text).rstrip("\n") if ".py:" in text else text


def _config(path: str, command: str = "fit") -> str:
    """The config file at ``path``, or its content with dotted paths: text of more than one line."""
    text, content = configs.read(path)
    configs.check_groups(content)
    own = configs.of_a_run(text, content, command)
    replaced = _yaml(own or text) if ".py:" in text else own
    return f"{replaced}\n" if replaced else path


def _yaml(text: str) -> str | None:
    """YAML with dotted paths, in one line; None if it holds no reference or is none, which the parser says."""
    try:
        content = configs.parse(text)
    except yaml.YAMLError:
        return None
    found: list[str] = []
    content = _with_dotted_paths(content, found, {})
    if not found or isinstance(content, str):
        return content if found else None
    return yaml.safe_dump(content, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)


def _with_dotted_paths(content: Any, found: list[str], seen: dict[int, Any]) -> Any:
    """``content`` with dotted paths; notes references in ``found``. What occurs twice is gone through once."""
    if isinstance(content, str):
        if not _REFERENCE.fullmatch(content):
            return content
        found.append(content)
        return registry.path_in_file(content)
    if id(content) in seen:
        return seen[id(content)]
    if isinstance(content, dict):
        mapping = seen[id(content)] = {}
        mapping.update({key: _with_dotted_paths(value, found, seen) for key, value in content.items()})
        return mapping
    if isinstance(content, list):
        sequence: list[Any] = []
        seen[id(content)] = sequence
        sequence += [_with_dotted_paths(value, found, seen) for value in content]
        return sequence
    return content
