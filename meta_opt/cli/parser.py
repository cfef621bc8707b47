"""Options and plugins of a command; errors in one line: the option, what it takes, what was found, the nearest name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from meta_opt import registry
from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped, described, own_frames

_UNKNOWN = "unknown option "
_NOT_TELLING = ("Expected a", "Not a valid subclass", "Subclass types expect", "a class path", "a dict with")
_MOVED = {
    "--model.update_every": "--model.estimator.update_every",
    "--model.replay_fraction": "--model.estimator.replay_fraction",
    "--model.second_derivatives": "--model.estimator second_order",
    "--model.engine": "--optimizer.engine",
}

# Lightning's callbacks have some as defaults of arguments that are text, and a config file could not be written.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))


class Shown(SystemExit):
    """The parser has printed what was asked for (``--help``, ``--print_config``), and there is nothing else to do."""


class Parser(ArgumentParser):
    """Raises :class:`MetaOptError` where the stock parser prints its usage and exits.

    The parser of a command makes parsers of the same kind for the arguments of the classes that are chosen, and puts
    their errors into its own.
    """

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ``message``, in one line."""
        parser: Parser = getattr(ex, "subcommand_parser", None) or self
        raise MetaOptError(parser.one_line(message)) from ex

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raise :class:`Shown`, which is told from a plugin that ends the process."""
        raise Shown(status)

    def dump(self, *arguments: Any, **options: Any) -> str:
        """A config as ``--config`` reads it anywhere: of a class in a file where that is."""
        text = super().dump(*arguments, **options)
        return re.sub(r"(?<=class_path: )\S+$", lambda path: _quoted(registry.as_asked(path[0])), text, flags=re.M)

    def one_line(self, message: str) -> str:
        """A message of jsonargparse as ours."""
        if match := re.match(r"unrecognized arguments: (\S+)", message):
            option = match[1].partition("=")[0]
            return self._unknown(option) if option.startswith("-") else f"unexpected argument {clipped(option)!r}"
        if match := re.fullmatch(r"Option '(.*)' is not accepted|Subcommand .* does not accept option '(.*)'", message):
            return self._unknown(f"--{match[1] or match[2]}")
        if match := re.fullmatch(r"Group '(.*)' does not accept option '(.*)'", message):
            return self._unknown(f"--{match[1]}.{match[2]}")
        if re.fullmatch(r"'\w+' object (does not support item assignment|is not iterable)", message.strip()):
            return "an option of the config that takes several values must be a list, as in [3]"
        if match := re.match(r'Parser key "([^"]*)"(?: element \d+)?:', message):
            return _wrong_value(f"--{match[1]}", message[match.end() :])
        if missing := re.fullmatch(r"the following arguments are required: (.*)", message.strip()):
            return _missing(f"--{name}" for name in missing[1].split(", "))
        return joined(message)

    def _unknown(self, option: str) -> str:
        if option in _MOVED:
            return f"{_UNKNOWN}{option}: it is {_MOVED[option]} now"
        names = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        names = [name for name in names if not option.startswith(f"{name}.")]  # what has no such option of its own
        nearest = [name for name in names if name.startswith(option)]
        nearest = nearest or difflib.get_close_matches(option, names, n=1, cutoff=0.7)
        return f"{_UNKNOWN}{clipped(option)}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def add_plugin_argument(parser: ArgumentParser, kind: registry.Kind, chosen: type[Any] | None) -> None:
    """Add the option that chooses an optimizee or optimizer, and those of the class that it chooses.

    Args:
        parser: What to add them to.
        kind: Which of the two.
        chosen: The class, as far as it is known.
    """
    offer_names(kind, chosen)
    text = f"The {kind}: a name, one of {', '.join(registry.names(kind))}, or a class, MODULE.CLASS or FILE.py:CLASS."
    parser.add_subclass_arguments(registry.contract(kind), kind, required=False, help=text)


@contextmanager
def errors_of_plugins(parser: ArgumentParser) -> Iterator[None]:
    """While ``parser`` makes plugins, let their errors be what they are; it would make a ValueError of them.

    Errors in a plugin's constructor that it does not mean to be the user's are said with its own frames.
    """
    failures: list[Exception] = []

    def make(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            made = cls(*args, **kwargs)
            if not isinstance(made, cls) or not hasattr(made, "init_args"):
                raise MetaOptError(f"{cls.__name__}.__new__ must return what super().__new__(cls) does")
            return made
        except MetaOptError as error:
            failures.append(error)
            raise
        except (Exception, SystemExit) as error:
            modules = [base.__module__ for base in cls.__mro__]
            if (
                isinstance(error, Exception)
                and cls.__module__.startswith("meta_opt.")
                and not own_frames(error, modules)
            ):
                failures.append(error)
                raise
            failures.append(MetaOptError(f"{cls.__name__} cannot be made: {described(error, modules)}"))
            raise failures[-1] from error

    for kind in registry.KINDS:
        parser.add_instantiator(make, registry.contract(kind))
    try:
        yield
    except ValueError:
        if failures:
            raise failures[0] from None
        raise


def parsed(parser: ArgumentParser, options: list[str]) -> tuple[Any, Any]:
    """What options say, and the optimizee that they describe.

    Raises:
        MetaOptError: If they cannot be, or the optimizee cannot be made.
    """
    config = parser.parse_args(options)
    return config, made_optimizee(parser, config)


def made_optimizee(parser: ArgumentParser, config: Any) -> Any:
    """The optimizee that parsed options describe.

    Raises:
        MetaOptError: If it cannot be made, or is null.
    """
    with errors_of_plugins(parser):
        optimizee = parser.instantiate_classes(config).optimizee
    if optimizee is None:
        raise MetaOptError(f"--optimizee must be one of {', '.join(registry.names('optimizee'))}, not null")
    return optimizee


_OFFERED: dict[tuple[str, str], type[Any]] = {}


def offer_names(kind: registry.Kind, chosen: type[Any] | None) -> None:
    """Let the parser accept entry-point names, and list them, without importing what they stand for.

    The parser resolves the short name of any known subclass. So each name gets an empty subclass, said to be in
    ``meta_opt``, whose ``__getattr__`` returns the class that is meant. (In a module with a dot in its name, the
    parser would look every one of them up, and so import all plugins.)
    """
    for name in registry.names(kind):
        if (kind, name) not in _OFFERED:
            stub = type(name, (registry.contract(kind),), {"__module__": "meta_opt"})
            stub.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
            _OFFERED[kind, name] = stub
    if chosen is not None and (kind, chosen.__name__) in _OFFERED:  # now the name would stand for two
        _OFFERED[kind, chosen.__name__].__qualname__ = ".<locals>."  # which the parser passes over


def _quoted(text: str) -> str:
    """A text as YAML reads it."""
    return text if re.fullmatch(r"[\w./][\w./:~-]*", text) else json.dumps(text, ensure_ascii=False)


def _wrong_value(option: str, details: str) -> str:
    lines = [line.strip().removeprefix("- ") for line in details.splitlines()]
    for line in lines:
        if line.startswith(("--", f"{_UNKNOWN}--")):  # from the parser of a class's arguments
            return line.replace("--", f"{option}.")
    if missing := re.search(r"the following arguments are required: (.*)", details):
        return _missing(f"{option}.{name}" for name in missing[1].split(", "))
    expected = re.search(r"Subtypes: \[(.*)\]|Expected an? (.*)\. Got value", details)
    value = re.search(r"Given value: (.*)|Got value: (.*)", details)
    if expected and value:
        wanted, found = _readable(expected[1] or expected[2]), clipped(value[1] or value[2])
        if wanted in ("Sequence", "list", "tuple") and found[0] not in "[{":
            wanted = f"a list, as in [{found}]"
        return f"{option} must be {wanted}, not {found}"
    return f"{option}: {joined(details)}"


def _missing(options: Iterable[str]) -> str:
    return f"{' and '.join(options)} must be given"


def _readable(types: str) -> str:
    """``<class 'int'>, <class 'NoneType'>`` as ``int or null``, and a literal type as its values."""
    types = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", types).replace("NoneType", "null").replace("typing.", "")
    types = re.sub(r"Literal\[([^]]*)\]", lambda literal: literal[1].replace("'", ""), types)
    first, _, last = types.rpartition(", ")
    return f"{first} or {last}" if first and "[" not in types else types


def joined(text: str) -> str:
    """In one line, with long values cut; of a value that is none of several types, what tells most."""
    told = re.search(r"\nErrors:\n(.*)\nGiven value type", text, flags=re.DOTALL)
    lines = [line.strip().removeprefix("- ") for line in told[1].splitlines()] if told else []
    if telling := [line for line in lines if not line.startswith(_NOT_TELLING)]:
        text = " ".join(telling)
    text = re.sub(r"'[^'\n]{80,}'", lambda match: f"'{clipped(match[0][1:-1])}'", text)
    text = re.sub(r"(value: )(.{80,})", lambda match: match[1] + clipped(match[2]), text)
    return " ".join(text.split())
