"""``meta-opt new``: a plugin to begin with, an optimizee in a folder of its own."""

from __future__ import annotations

import importlib.util
import os
import shlex
from importlib.resources import files
from pathlib import Path
from string import Template

from meta_opt import __version__, registry
from meta_opt.configurable import API_VERSION
from meta_opt.errors import MetaOptError, StorageError
from meta_opt.messages import clipped
from meta_opt.storage import expanded

USAGE = """\
usage: meta-opt new NAME [--out FOLDER]

Make a plugin to begin with: an optimizee of that name, its test, and a pyproject.toml.

options:
  -h, --help    this text
  --out FOLDER  where to put it (default: NAME, in the current folder), which must not exist
"""
_FILES = {
    "{name}.py": "optimizee.py.template",
    "test_{name}.py": "test.py.template",
    "pyproject.toml": "pyproject.toml.template",
    "README.md": "README.md.template",
}


def run(options: list[str]) -> int:
    """Make a plugin; returns the exit status.

    Raises:
        MetaOptError: If the name cannot be that of a plugin, or the options are wrong.
        StorageError: If the folder exists or cannot be written.
    """
    if {"-h", "--help"} & set(options):
        print(USAGE, end="")
        return 0
    name, folder = _read(options)
    _check_name(name)
    if os.path.lexists(folder):
        raise StorageError(f"{folder} exists already; --out names another folder")
    cls = "".join(part.capitalize() for part in name.split("_"))
    values = {
        "name": name,
        "cls": cls,
        "dashed": name.replace("_", "-"),
        "api_version": str(API_VERSION),
        "version": __version__,
    }
    try:
        folder.mkdir(parents=True)
        for file, template in _FILES.items():
            text = (files("meta_opt.cli") / "new_plugin" / template).read_text(encoding="utf-8")
            (folder / file.format(name=name)).write_text(Template(text).substitute(values), encoding="utf-8")
    except OSError as error:
        raise StorageError.of(error, folder) from error
    print(f"{folder} has an optimizee, {cls} in {name}.py, with its test and its pyproject.toml; next:")
    print(f"  cd {shlex.quote(str(folder))}")
    print(f"  meta-opt check {name}.py:{cls}")
    print(f"  meta-opt fit --optimizee {name}.py:{cls}")
    print(f"  meta-opt compare --ckpt_path best --optimizee {name}.py:{cls}")
    print(f"  pip install -e .    # and the name is enough: meta-opt fit --optimizee {name}")
    return 0


def _read(options: list[str]) -> tuple[str, Path]:
    """The name and the folder."""
    rest, out = [], None
    remaining = list(options)
    while remaining:
        option, equals, value = remaining.pop(0).partition("=")
        if option == "--out":
            if not equals and not remaining:
                raise MetaOptError("--out must be followed by a folder")
            out = value if equals else remaining.pop(0)
        elif option.startswith("-"):
            raise MetaOptError(f"new takes no {clipped(option)}; its only option is --out")
        else:
            rest.append(option + equals + value)
    if len(rest) != 1:
        raise MetaOptError(f"say what to call it, with one name, as in meta-opt new spirals, not {len(rest)}")
    return rest[0], expanded(out or rest[0])


def _check_name(name: str) -> None:
    """See that a plugin can have the name, and a module of its own."""
    plugin = registry.Plugin("optimizee", name, "module", "Class", "the new plugin", "")
    taken = next((other for kind in registry.KINDS for other in registry.plugins(kind) if other.name == name), None)
    if taken is not None:
        raise MetaOptError(f"{taken} has that name; choose another")
    if problem := registry.name_problem(plugin):
        raise MetaOptError(f"{clipped(name)!r} cannot be the name: {problem}")
    if not name.isascii():
        raise MetaOptError(f"{clipped(name)!r} cannot be the name: names of distributions have ASCII letters only")
    if name != name.lower():
        raise MetaOptError(f"{clipped(name)!r} cannot be the name: it is that of a module, in small letters")
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:  # a folder without __init__.py hides nothing
        raise MetaOptError(f"there is a module {name} already; choose another name")
