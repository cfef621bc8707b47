"""From the names of installed plugins to their classes, through entry points.

A distribution offers an optimizee or a learned optimizer as an entry point:

    [project.entry-points."meta_opt.optimizees"]
    rosenbrock = "my_package.rosenbrock:Rosenbrock"

Looking names up reads metadata only; :func:`load` imports the one plugin that was asked for. This module does not
import torch, so that the command line can list plugins at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import keyword
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from meta_opt.classes import class_problem
from meta_opt.configurable import API_VERSION
from meta_opt.errors import RegistryError
from meta_opt.importing import imported
from meta_opt.installed import installed
from meta_opt.messages import clipped, offered

Kind = Literal["optimizee", "optimizer", "estimator"]

OPTIONS: dict[Kind, str] = {"optimizee": "optimizee", "optimizer": "optimizer", "estimator": "model.estimator"}
"""The command-line option that chooses one of a kind."""

KINDS: tuple[Kind, ...] = ("optimizee", "optimizer", "estimator")
_CONTRACTS: dict[Kind, tuple[str, str]] = {
    "optimizee": ("meta_opt.optimizees.contract", "Optimizee"),
    "optimizer": ("meta_opt.optimizers.contract", "OptimizerNetwork"),
    "estimator": ("meta_opt.meta_training.estimators.contract", "Estimator"),
}
_OWN = "meta-opt"  # the distribution whose names nobody else can claim
_WORDS_OF_YAML = ("null", "true", "false", "yes", "no", "on", "off")


@dataclass(frozen=True)
class Plugin:
    """One entry point: what a distribution offers under a name.

    Attributes:
        kind: What it is.
        name: The name on the command line.
        module: Module to import.
        attribute: Name of the class in that module.
        distribution: Name of the distribution that offers it.
        version: Version of that distribution.
    """

    kind: Kind
    name: str
    module: str
    attribute: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.distribution} {self.version}"


@cache
def plugins(kind: Kind) -> tuple[Plugin, ...]:
    """All installed plugins of a kind, sorted by name; a name that two distributions claim is there twice."""
    found = [
        Plugin(
            kind,
            offer.name,
            offer.value.partition(":")[0].strip(),
            offer.value.partition(":")[2].partition("[")[0].strip(),
            offer.distribution,
            offer.version,
        )
        for offer in installed().offers
        if offer.group == f"meta_opt.{kind}s"
    ]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def names(kind: Kind) -> list[str]:
    """The names of a kind that can be used."""
    return [plugin.name for plugin in plugins(kind) if name_problem(plugin) is None]


def find(kind: Kind, name: str) -> Plugin:
    """The plugin of that name, not imported.

    Raises:
        RegistryError: If there is none (the message names the offered), if two distributions claim the name, or if
            the name cannot be used.
    """
    claims = [plugin for plugin in plugins(kind) if plugin.name == name]
    if not claims:
        known = names(kind)
        there = offered(name, known, f"installed: {', '.join(known) or 'none'}")
        raise RegistryError(f"no {kind} is called {clipped(name)!r}; {there}")
    for plugin in claims:
        if name_problem(plugin) is None:
            return plugin
    raise RegistryError(f"{claims[0]} cannot be used: {name_problem(claims[0])}")


def name_problem(plugin: Plugin) -> str | None:
    """Why the name of a plugin cannot be used, if it cannot."""
    if _is_own(plugin):
        return None  # whatever others claim
    if not all(part.isidentifier() for part in f"{plugin.module}.{plugin.attribute}".split(".")):
        return f"its entry point must be MODULE:CLASS, found {clipped(f'{plugin.module}:{plugin.attribute}')}"
    # Names are attributes of the package meta_opt (see meta_opt/__init__.py), beside its modules and each other.
    if not plugin.name.isidentifier() or plugin.name.startswith("_") or keyword.iskeyword(plugin.name):
        return "a plugin's name must be a Python identifier that does not begin with an underscore"
    if plugin.name.lower() in _WORDS_OF_YAML:
        return "YAML does not take that for a name"
    if is_part_of_meta_opt(plugin.name):
        return f"meta_opt has a module of that name; {plugin.distribution} must choose another"
    others = [other for kind in KINDS for other in plugins(kind) if other.name == plugin.name and other != plugin]
    if any(map(_is_own, others)):
        return f"the name is meta-opt's own; {plugin.distribution} must choose another"
    if same := [other for other in others if other.kind == plugin.kind]:
        claims = sorted([plugin, *same], key=lambda claim: claim.distribution)
        owners = " and ".join(f"{claim.distribution} {claim.version}" for claim in claims)
        return f"the name is claimed by {owners}; uninstall one"
    if others:
        return f"{others[0].distribution} has an {others[0].kind} of that name; one must choose another"
    return None


def is_part_of_meta_opt(name: str) -> bool:
    """Whether the package has a module or something else of that name."""
    package = sys.modules["meta_opt"]
    return name in vars(package) or name in package.__all__ or importlib.util.find_spec(f"meta_opt.{name}") is not None


def _is_own(plugin: Plugin) -> bool:
    return re.sub(r"[-_.]+", "-", plugin.distribution).lower() == _OWN


@cache
def contract(kind: Kind) -> type[Any]:
    """The class that every plugin of a kind must be derived from."""
    module, name = _CONTRACTS[kind]
    return getattr(importlib.import_module(module), name)


def load(kind: Kind, name: str) -> type[Any]:
    """Import the class of that name.

    Raises:
        RegistryError: If the name is unknown or claimed twice, the plugin does not import, or what it offers does
            not fulfil the contract, or fulfils another version of it.
    """
    plugin = find(kind, name)
    return _imported(kind, str(plugin), plugin.module, plugin.attribute)


def _imported(kind: Kind, title: str, module: str, attribute: str) -> type[Any]:
    base = contract(kind)  # whose import is not the plugin's
    loaded = imported(title, module, attribute)
    if not (issubclass(type(loaded), type) and issubclass(loaded, base)):  # list[int] says that it is a type
        raise RegistryError(f"{title} is not one: {module}:{attribute} must be a subclass of {base.__name__}")
    _resolve_annotations(loaded)
    if problem := version_problem(getattr(loaded, "api_version", None)) or class_problem(loaded, base):
        raise RegistryError(f"{title} cannot be used: {problem}")
    return loaded


def _resolve_annotations(cls: type[Any]) -> None:
    """Put types in place of the names of types in the constructor that ``dataclass`` has made.

    It has no source to look them up in, as other constructors have (``from __future__ import annotations``), and
    options without types are not checked.
    """
    if dataclasses.is_dataclass(cls):
        with contextlib.suppress(Exception):  # names that are there for type checkers only
            cls.__init__.__annotations__.update(get_type_hints(cls.__init__))


def version_problem(version: object) -> str | None:
    """Why a plugin for this version of the plugin interface cannot be used, if it cannot."""
    if version == API_VERSION:
        return None
    return (
        f"it is written for version {version} of meta-opt's plugin interface, and this meta-opt has {API_VERSION}; "
        "install versions of the two that fit"
    )


def resolve(kind: Kind, text: str) -> type[Any]:
    """The class that a name, a dotted path or ``PATH.py:CLASS`` stands for.

    Raises:
        RegistryError: As :func:`load`, and if the path does not lead to a class that fulfils the contract.
    """
    if ".py:" in text or text.endswith(".py"):
        text = path_in_file(text)
    if "." not in text:
        return load(kind, text)
    module, _, attribute = text.rpartition(".")
    if module == "meta_opt" and any(plugin.name == attribute for plugin in plugins(kind)):
        return load(kind, attribute)
    return _imported(kind, f"{kind} {clipped(_FILES.get(text, text))}", module, attribute)


_FILES: dict[str, str] = {}  # classes that were asked for as PATH.py:CLASS, by their dotted paths


def path_in_file(text: str) -> str:
    """The dotted path of a class in a file, ``PATH.py:CLASS``, whose folder joins those that modules are found in.

    Raises:
        RegistryError: If there is no such file, a module of its name is imported from elsewhere, or no class is named.
    """
    if text.endswith(".py"):
        raise RegistryError(f"say which class of {text} is meant, as {text}:CLASS")
    file, _, attribute = text.rpartition(":")
    path = Path(os.path.abspath(Path(file).expanduser()))  # a link by its own name, not by that of its target
    said = clipped(file)
    if not os.path.isfile(path):
        raise RegistryError(f"there is no file {said}")
    if not path.stem.isidentifier():
        raise RegistryError(f"{said} cannot be imported: its name must be a Python identifier")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last, so that nothing beside the file hides what is installed
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(path.stem)
    except ValueError:  # a module that does not say where it comes from
        spec = None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is None or not origin.exists() or not origin.samefile(path):
        raise RegistryError(f"{said} cannot be imported: there is another module {path.stem}; rename the file")
    _FILES[f"{path.stem}.{attribute}"] = text
    return f"{path.stem}.{attribute}"


def modules_of_plugins() -> set[str]:
    """Modules of plugins, installed or in files that were asked for: what an error may come from that is not ours."""
    found = {plugin.module for kind in KINDS for plugin in plugins(kind)}
    return found | {path.rpartition(".")[0] for path in _FILES}


def is_named(name: Any) -> bool:
    """Whether a class is one to choose from: installed, or asked for as a class in a file."""
    return name in _FILES or any(name in names(kind) for kind in KINDS)


def reference(cls: type[Any]) -> str:
    """What to say on the command line for a class: its name, or where it is."""
    return as_asked(name_of(cls))


def as_asked(path: str) -> str:
    """A dotted path as it was asked for: that of a class in a file as ``PATH.py:CLASS``."""
    return _FILES.get(path, path)


def name_of(cls: type[Any]) -> str:
    """The entry-point name of a class or, if it has none, its dotted path."""
    for kind in KINDS:
        for plugin in plugins(kind):
            module = sys.modules.get(plugin.module)  # imported already if the class comes from there
            if getattr(module, plugin.attribute, None) is cls and not name_problem(plugin):
                return plugin.name
    return f"{cls.__module__}.{cls.__qualname__}"
