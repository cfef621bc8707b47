"""``--help`` of the commands that train and test: the options of the chosen classes first, with their defaults.

What the trainer takes is left to ``--help_all``. ``--optimizee.help NAME`` shows the options of one class.
"""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meta_opt import registry
from meta_opt.cli.commands import COMMANDS
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.listing import described_names
from meta_opt.cli.reading_first import read_first
from meta_opt.errors import RegistryError
from meta_opt.messages import clipped, prose
from meta_opt.registry import Kind

_LINKED = ("optimizee", "optimizer", "estimator", "seed")  # arguments of the meta-learner that have options elsewhere
_COMMON = {
    "--config FILE": "Options from a YAML or JSON file, such as the config.yaml of a run.",
    "--print_config": "Print all options as YAML, and do nothing else.",
    "--seed_everything INT": "All randomness comes from this seed.",
}
_LOADED = "What to load, or 'best' or 'last': that of the newest run; or a pretrained optimizer."
_CHECKPOINTS = {
    "fit": ("--ckpt_path PATH", "Go on with a run: its checkpoint, or 'last': that of the newest run."),
    "validate": ("--ckpt_path PATH, or --pretrained NAME", _LOADED),
    "test": ("--ckpt_path PATH, or --pretrained NAME", _LOADED),
}
_FIT = {
    "--preset NAME (default recommended)": "What is recommended, or paper: the settings of the paper.",
    "--trainer.max_epochs INT (default {epochs})": "Of model.episodes_per_epoch episodes and a validation each.",
    "--trainer.default_root_dir PATH": "Folder that gets checkpoints/ and logs/.",
    "--trainer.accelerator NAME, --trainer.devices INT": "Where to compute, such as cpu or gpu, and on how many.",
    "--trainer.precision NAME": "32-true, 64-true, bf16-mixed or 16-mixed.",
}


def class_asked_for_help(command: str, options: list[str]) -> tuple[Kind, str | None] | None:
    """The kind of class that ``--KIND.help`` asks about, and the name, if there is one; None without that option."""
    for option, following in zip(options, [*options[1:], None], strict=False):
        name, equals, value = option.partition("=")
        for kind in registry.KINDS:
            if name == f"--{registry.OPTIONS[kind]}.help":
                given = value if equals else following
                named = given is not None and (equals or not given.startswith("-"))
                chosen = given if named else read_first(with_dotted_paths(options, command)).get(registry.OPTIONS[kind])
                return kind, chosen
    return None


def print_class_help(kind: Kind, name: str | None) -> int:
    """Print the options of one class, or, without a name, the names to choose from; returns the exit status.

    Raises:
        RegistryError: If there is no such class, or it cannot be used.
    """
    option = registry.OPTIONS[kind]
    if name is None:
        print(f"--{option} takes one of these names, or a class, MODULE.CLASS or FILE.py:CLASS:\n")
        print(described_names(kind))
        print(f"\n--{option}.help NAME shows the options of one.")
        return 0
    try:
        cls = registry.resolve(kind, name)
    except RegistryError as error:
        raise RegistryError(f"{error}; --{option}.help without a name lists the {kind}s that can be used") from error
    print("\n".join(_of_class(option, registry.reference(cls), cls, {})))
    return 0


def print_help(command: str, options: list[str]) -> int:
    """Print what ``meta-opt COMMAND --help`` shows; returns the exit status.

    Args:
        command: fit, validate or test.
        options: The arguments after it; an optimizee, an optimizer or a checkpoint among them decides on the options
            that there are, and on their defaults.

    Raises:
        MetaOptError: If a class or a checkpoint that is named cannot be used.
    """
    from meta_opt.cli.defaults import find_defaults
    from meta_opt.meta_training.judging import StopWhenStale
    from meta_opt.meta_training.meta_learner import MetaLearner
    from meta_opt.meta_training.recommended import TRAINER_DEFAULTS

    defaults = find_defaults(command, with_dotted_paths(options, command))
    subject = COMMANDS[command].what
    needed = "--optimizee NAME" if command == "fit" else "(--ckpt_path PATH | --pretrained NAME)"
    lines = [f"usage: meta-opt {command} {needed} [OPTIONS]", "", f"{subject[0].upper()}{subject[1:]}.", ""]
    for kind in registry.KINDS:
        option = registry.OPTIONS[kind]
        if kind not in defaults.classes:
            names = ", ".join(registry.names(kind))
            lines += _wrapped(f"--{option} NAME [--{option}.OPTION VALUE ...]", 0)
            lines += _wrapped(f"One of {names}, or MODULE.CLASS or FILE.py:CLASS. Name one to see its options here.", 2)
        else:
            cls = defaults.classes[kind]
            lines += _of_class(option, registry.reference(cls), cls, defaults.options[option]["init_args"])
        lines.append("")
        if kind == "optimizer":
            lines += [*_of_arguments("model", "", MetaLearner, _of_group(defaults.options, "model")), ""]
    if command == "fit":
        stopping = _of_group(defaults.options, "early_stopping")
        lines += [*_of_arguments("early_stopping", "", StopWhenStale, stopping), ""]
    lines.append("run:")
    epochs = defaults.options.get("trainer.max_epochs", TRAINER_DEFAULTS["max_epochs"])
    for name, text in {**_COMMON, **dict([_CHECKPOINTS[command]]), **(_FIT if command == "fit" else {})}.items():
        lines += [*_wrapped(name.format(epochs=epochs), 2), *_wrapped(text, 6)]
    lines += ["", f"meta-opt {command} --help_all shows the options of the trainer (--trainer.OPTION) as well."]
    print("\n".join(lines))
    return 0


def _of_group(options: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {name.removeprefix(f"{group}."): value for name, value in options.items() if name.startswith(f"{group}.")}


def _of_class(option: str, name: str, cls: type[Any], values: Mapping[str, Any]) -> list[str]:
    return _of_arguments(option, f" {name}", cls, values)


def _of_arguments(group: str, title: str, cls: type[Any], values: Mapping[str, Any]) -> list[str]:
    """The options that a class takes, and what it is.

    Args:
        group: The prefix of its options.
        title: What follows the prefix in the heading.
        cls: The class.
        values: Its defaults where they are not those of the constructor.
    """
    what = prose((inspect.getdoc(cls) or "").partition("\n\n")[0])
    lines = _wrapped(f"--{group}{title}: {what}" if title else f"--{group}.OPTION:", 0)
    entries = list(_entries(cls, values))
    for name, about, text in entries:
        lines += _wrapped(f"--{group}.{name} ({about})", 2)
        lines += _wrapped(text, 6) if text else []
    return lines if entries else [*lines, "  It takes no options."]


def _entries(cls: type[Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, type and default, and description of each argument of a class."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, as_group=False, fail_untyped=False)
    own = inspect.signature(cls.__init__).parameters.values()
    required = {parameter.name for parameter in own if parameter.default is parameter.empty}
    linked = _LINKED if cls.__name__ == "MetaLearner" else ()
    for action in parser._actions:
        name = action.dest
        if name in ("help", *linked) or name.endswith(".help"):
            continue
        hint = _type(getattr(action, "_typehint", action.type))
        default = values.get(name, action.default)
        needed = name not in values and name in required
        about = f"{hint}, {'required' if needed else f'default {_shown(default)}'}"
        yield name, about, prose(action.help or "")


def _shown(value: Any) -> str:
    """A default as it is said on the command line."""
    if isinstance(value, str):
        return value
    try:
        return clipped(json.dumps(list(value) if isinstance(value, tuple) else value))
    except TypeError:
        return clipped(str(value))


def _type(hint: Any) -> str:
    """A type in words: ``Sequence[int] | None`` as ``list of int, or null``."""
    if hint is None or hint is Any:
        return "anything"
    if hint is type(None):
        return "null"
    parts = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " | ".join(_shown(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type(part) for part in parts)
    if origin is not None and issubclass(origin, Mapping):
        return "mapping"
    if origin is Callable:
        return "function, in Python only"
    if origin is not None:
        inner = next((_type(part) for part in parts if part is not Ellipsis), "")
        return f"list of {inner}" if inner else "list"
    return getattr(hint, "__name__", str(hint))


def _wrapped(text: str, indent: int) -> list[str]:
    width = max(60, min(100, shutil.get_terminal_size((100, 24)).columns))
    return textwrap.wrap(
        text,
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * max(indent, 2),
        break_on_hyphens=False,
        break_long_words=False,
    )
