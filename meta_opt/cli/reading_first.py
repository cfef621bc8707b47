"""The few options that are read before the others, because the defaults of the others hang on them.

This module imports no torch, so that a misspelt name is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import yaml

from meta_opt import registry
from meta_opt.cli import configs
from meta_opt.errors import MetaOptError
from meta_opt.saved.pretrained import pretrained_path

OPTIONS = (*registry.OPTIONS.values(), "ckpt_path", "preset", "trainer.default_root_dir", "model.num_steps")
_CLASSES = tuple(registry.OPTIONS.values())
_GROUPS = tuple({name.partition(".")[0] for name in OPTIONS if "." in name})


def read_first(arguments: list[str]) -> dict[str, str | None]:
    """What command line and config files say of :data:`OPTIONS`; of a class, its name or path.

    Args:
        arguments: The arguments after the command.
    """
    return dict(_said(arguments))


def read_lists(arguments: list[str], *names: str) -> dict[str, list[str]]:
    """What command line and config files say of options that take one value or more; of each the last, as the parser.

    Raises:
        MetaOptError: If the command line says one twice: the parser would forget the first.
    """
    values: dict[str, list[str]] = {name: [] for name in names}
    said: set[str] = set()
    for option, texts in _with_values(arguments):
        name = option.removeprefix("--")
        if option in ("--config", "-c"):
            values |= _lists(texts, names)
        elif name in names:
            if name in said:
                raise MetaOptError(f"{option} is said twice; say it once, with all its values after it")
            said.add(name)
            values[name] = texts
    return values


def _with_values(arguments: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Options, each with the values that follow it."""
    starts = [i for i, argument in enumerate(arguments) if argument.startswith("-")]
    for start, end in pairwise([*starts, len(arguments)]):
        option, equals, text = arguments[start].partition("=")
        yield option, [text] * bool(equals) + arguments[start + 1 : end]


def _lists(configs_said: list[str], names: tuple[str, ...]) -> dict[str, list[str]]:
    """What config files say of options that take one value or more; null is nothing."""
    found: dict[str, list[str]] = {}
    for value in configs_said:
        config = _config(value)
        for name in names if isinstance(config, dict) else ():
            entry = config.get(name)
            if entry is not None:
                found[name] = [str(each) for each in (entry if isinstance(entry, list) else [entry])]
    return found


def with_values_joined(arguments: list[str]) -> list[str]:
    """Arguments with ``--name=-1e3`` for ``--name -1e3``: the parser takes what begins with a dash for an option."""
    joined: list[str] = []
    for argument in arguments:
        is_value = argument[:1] == "-" and argument[1:2] not in ("", "-") and argument not in ("-h", "-c")
        if is_value and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def with_checkpoint_of_pretrained(arguments: list[str]) -> list[str]:
    """Arguments with ``--ckpt_path PATH`` for ``--pretrained NAME``.

    Raises:
        CheckpointError: If no pretrained optimizer has that name.
        MetaOptError: If another checkpoint is named as well.
    """
    said = [i for i, argument in enumerate(arguments) if argument.partition("=")[0] == "--pretrained"]
    if not said:
        return arguments
    if len(said) > 1 or any(argument.partition("=")[0] == "--ckpt_path" for argument in arguments):
        raise MetaOptError("say one --pretrained or one --ckpt_path")
    (i,) = said
    _, equals, name = arguments[i].partition("=")
    after = arguments[i + 1 :]
    if not equals:
        name, after = (after[0], after[1:]) if after else ("", after)
    return [*arguments[:i], f"--ckpt_path={pretrained_path(name)}", *after]


def check_names(arguments: list[str]) -> None:
    """See that there is one plugin of each name that is asked for.

    Raises:
        RegistryError: If there is not.
    """
    said = read_first(arguments)
    for kind in registry.KINDS:
        name = said.get(registry.OPTIONS[kind])
        if name is not None and "." not in name:
            registry.find(kind, name)


def _said(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """What options and config files say, in order, of the options that are read first."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        option, equals, text = argument.partition("=")
        value = text if equals else following
        if value is None or not option.startswith("-"):
            continue
        name = option.removeprefix("--")
        if option in ("--config", "-c"):
            yield from _entries(_config(value))
        elif name in _GROUPS:
            yield from _entries({name: _group(name, value)})
        elif name in OPTIONS:
            yield name, None if value == "null" else _text(name, value)
        elif name.removesuffix(".class_path") in _CLASSES:
            yield name.removesuffix(".class_path"), value


def _config(value: str) -> Any:
    """What a config file says, or the text of one."""
    is_text = "\n" in value and not os.path.isfile(value)  # which no text fails at
    return _parse_yaml(value) if is_text else configs.read(value)[1]


def _entries(config: Any) -> Iterator[tuple[str, str | None]]:
    """Of what a config file says, nested or by names with dots, the options that are read first."""
    nested = _nested(config) if isinstance(config, dict) else {}
    for name in OPTIONS:
        entry: Any = nested
        for key in name.split("."):
            entry = entry.get(key) if isinstance(entry, dict) else None
        if entry is not None:
            yield name, _text(name, entry)


def _nested(config: dict[Any, Any]) -> dict[str, Any]:
    """The same with ``{"a": {"b": 1}}`` for ``{"a.b": 1}``."""
    nested: dict[str, Any] = {}
    for name, value in config.items():
        *groups, last = str(name).split(".")
        inner = nested
        for group in groups:
            if not isinstance(inner.get(group), dict):  # optimizee: NAME, and then optimizee.OPTION
                inner[group] = {"class_path": inner[group]} if group in inner else {}
            inner = inner[group]
        if isinstance(value, dict):
            value = _nested(value)
            if isinstance(inner.get(last), dict):
                value = {**inner[last], **value}
        inner[last] = value
    return nested


def _group(name: str, value: str) -> Any:
    """What is said of all options of a group: as YAML, or in a file."""
    return configs.read(value, f"--{name} ")[1] if value.endswith((".yaml", ".yml", ".json")) else _parse_yaml(value)


def _text(name: str, value: Any) -> str | None:
    """A value as text; of a class its name, also where it is said by class_path and init_args, or a file does so."""
    if name not in _CLASSES:
        return str(value)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _parse_yaml(value)
    elif isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")):
        value = configs.read(value)[1]
    if isinstance(value, dict):
        value = value.get("class_path")
    return None if value is None else str(value)


def _parse_yaml(text: str) -> Any:
    try:
        return configs.parse(text)
    except yaml.YAMLError:
        return None  # the parser says what is wrong with it
