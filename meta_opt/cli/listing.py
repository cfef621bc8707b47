"""``meta-opt list``: what is installed, and what is broken, read from metadata and source without importing a plugin.

Importing one means importing torch, which takes seconds. So what the source tells is shown: whether module and class
exist, whether the source parses, whether every module that it imports can be found. Only a plugin that is asked for by
name is imported, to show what it recommends.
"""

from __future__ import annotations

import ast
import json
import shlex
import sys
import textwrap
from functools import cache
from importlib.machinery import ModuleSpec
from typing import Any

from meta_opt import registry
from meta_opt.errors import MetaOptError, RegistryError
from meta_opt.installed import installed
from meta_opt.messages import clipped, offered, one_line, prose
from meta_opt.registry import Plugin
from meta_opt.saved.pretrained import pretrained, read_card

USAGE = """\
usage: meta-opt list [--check]
       meta-opt list NAME [NAME ...]          names, MODULE.CLASS or FILE.py:CLASS

Lists the installed optimizees, optimizers and estimators: name, distribution and version, and what they are; and the
pretrained optimizers: size, what they reach relative to the best tuned baseline (below 1 is better), and their task.
Plugins are not imported: what is said to be broken is what their source and metadata tell.
Plugins that are named are imported, which takes a few seconds: the settings that they recommend are shown as well.

options:
  -h, --help  this text
  --check     import every plugin as well, which takes a few seconds, say which fail, and exit with 1 if any does
"""
_DESCRIPTION = 200  # characters
_TOGETHER = "\u00a0"  # between an option and its value, where lines do not break


def run(options: list[str]) -> int:
    """Print the list; returns the exit status."""
    if {"-h", "--help"} & set(options):
        print(USAGE, end="")
        return 0
    wanted = [option for option in options if not option.startswith("-")]
    if unknown := [option for option in options if option.startswith("-") and option != "--check"]:
        raise MetaOptError(f"list takes no {unknown[0]}; its only option is --check")
    if wanted:
        for name in wanted:
            if "." in name:  # MODULE.CLASS or FILE.py:CLASS
                from meta_opt.cli.files import find_class

                kind, cls = find_class(name)
                print(f"{kind} {name}  {_first_line(cls.__doc__)}".rstrip())
                _show_recommended(cls)
                continue
            if name in pretrained():
                print(f"pretrained {name}  {_pretrained(name)}")
            if name not in pretrained() or any(name in registry.names(kind) for kind in registry.KINDS):
                _show(_find(name))
        return 0
    return _list(check="--check" in options)


def _list(*, check: bool) -> int:
    """Print everything, line by line: what comes before a result says what is being loaded."""
    if check:
        registry.contract("optimizee")  # with torch: that it does not import is no plugin's fault
    shown = {kind: [(_printed(plugin), plugin) for plugin in registry.plugins(kind)] for kind in registry.KINDS}
    widths = [max((len(row[0][i]) for kind in shown for row in shown[kind]), default=0) for i in range(2)]
    problems = 0
    for kind in registry.KINDS:
        print(f"{kind}s:")
        for (name, origin), plugin in shown[kind]:
            print(f"  {name:{widths[0]}}  {origin:{widths[1]}}", end="", flush=check)
            problem, description = _state(plugin, check)
            problems += problem is not None
            text = description if problem is None else f"BROKEN: {problem}"
            print(f"  {text}" if text else "", flush=check)
        if not shown[kind]:
            print("  none")
    print("pretrained optimizers (ratios to the best tuned baseline):")
    names = list(pretrained())
    for name in names:
        print(f"  {name:{max(map(len, names))}}  {_pretrained(name)}")
    if not names:
        print("  none")
    if unreadable := installed().unreadable:
        print("metadata that cannot be read:")
        for text in unreadable:
            print(f"  {one_line(text)}")
    return 1 if check and (problems or unreadable) else 0


def _pretrained(name: str) -> str:
    """Size, headline and task of a pretrained optimizer."""
    card = read_card(name)
    size = round(pretrained()[name].stat().st_size / 1000)
    task = clipped(card.task.partition(". ")[0].partition(": ")[0].rstrip("."), _DESCRIPTION)
    return f"{task}\n    {size} kB; {card.headline}"


def described_names(kind: registry.Kind) -> str:
    """The names of a kind that can be used, each with what it is, a line each; no plugin is imported."""
    plugins = [registry.find(kind, name) for name in registry.names(kind)]
    width = max((len(clipped(plugin.name)) for plugin in plugins), default=0)
    states = [(clipped(plugin.name), *_state(plugin, check=False)) for plugin in plugins]
    lines = [
        f"  {name:{width}}  {f'BROKEN: {problem}' if problem else text}".rstrip() for name, problem, text in states
    ]
    return "\n".join(lines) or "  none is installed"


def _printed(plugin: Plugin) -> tuple[str, str]:
    return clipped(plugin.name), clipped(f"{plugin.distribution} {plugin.version}")


def _find(name: str) -> Plugin:
    kind = next((kind for kind in registry.KINDS if name in registry.names(kind)), None)
    if kind is None:  # of some kind there may be one that cannot be used, which is said
        kind = next((kind for kind in registry.KINDS for plugin in registry.plugins(kind) if plugin.name == name), None)
    if kind is None:
        known = [*pretrained(), *(name for kind in registry.KINDS for name in registry.names(kind))]
        there = offered(name, known, "see meta-opt list")
        raise RegistryError(f"nothing is called {clipped(name)!r}; {there}")
    return registry.find(kind, name)


def _show(plugin: Plugin) -> None:
    """A plugin with what it recommends."""
    cls = registry.load(plugin.kind, plugin.name)
    name, origin = _printed(plugin)
    print(f"{plugin.kind} {name}  {origin}  {describe(plugin)}".rstrip())
    _show_recommended(cls)


def _show_recommended(cls: type[Any]) -> None:
    """What a class recommends, as options."""
    settings = cls.recommended_settings().items() if hasattr(cls, "recommended_settings") else ()
    told: dict[str, list[str]] = {}  # options by the optimizer that they are for
    for option, value in settings:
        optimizer, _, option_name = option.rpartition(":")
        told.setdefault(optimizer, []).append(f"--{option_name}{_TOGETHER}{_value(value)}")
    for optimizer, options in told.items():
        first = f"  with optimizer {optimizer}: ".replace(" ", _TOGETHER) if optimizer else "  "
        text = textwrap.fill(
            " ".join(options), 118, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False
        )
        print(text.replace(_TOGETHER, " "))


def _value(value: object) -> str:
    """A value as it is said on the command line."""
    return shlex.quote(value if isinstance(value, str) else json.dumps(value))


def _state(plugin: Plugin, check: bool) -> tuple[str | None, str]:
    """What is wrong with a plugin, if anything is, and what it says that it is."""
    if problem := registry.name_problem(plugin):
        return one_line(problem), ""
    try:
        description = describe(plugin)
        if check:
            registry.load(plugin.kind, plugin.name)
    except RegistryError as error:
        return one_line(str(error).removeprefix(f"{plugin} ")), ""
    except Exception as error:  # whatever a source may hold
        return one_line(f"its source cannot be read: {type(error).__name__}: {error}"), ""
    return None, description


def describe(plugin: Plugin) -> str:
    """The first line of a plugin's docstring.

    Raises:
        RegistryError: If the source tells that the plugin cannot be imported or is not a class.
    """
    top = plugin.module.partition(".")[0]
    _check_imports(plugin.module, top, set())
    node = _definition(plugin.module, plugin.attribute)
    if node is None:
        return ""
    if not isinstance(node, ast.ClassDef) or not node.bases:
        raise RegistryError(f"{plugin.module}:{plugin.attribute} is not a subclass of the {plugin.kind} contract")
    for statement in node.body:
        match statement:
            case ast.Assign(targets=[ast.Name("api_version")], value=ast.Constant(version)):
                if problem := registry.version_problem(version):
                    raise RegistryError(problem)
    return _first_line(ast.get_docstring(node))


def _first_line(docstring: str | None) -> str:
    return clipped(prose((docstring or "").partition("\n")[0]), _DESCRIPTION)


def _definition(module: str, name: str) -> ast.stmt | None:
    """The statement that defines ``name``, followed through ``from ... import``; None if the source does not tell."""
    tree = _parse(module)
    if tree is None:
        return None
    dynamic = False
    for node in reversed(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(_absolute(module, node), alias.name)
        dynamic |= not isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.Expr)
        dynamic |= isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        dynamic |= isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    if not dynamic:
        raise RegistryError(f"module {module} has no {name}")
    return None


def _check_imports(module: str, top: str, seen: set[str]) -> None:
    """Raise if ``module``, or one of its own package that it imports, imports what cannot be found."""
    if module in seen:
        return
    seen.add(module)
    if "." in module:
        _check_imports(module.rpartition(".")[0], top, seen)
    tree = _parse(module)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted = [_absolute(module, node)]
        else:
            continue
        for name in wanted:
            own = name.partition(".")[0] == top
            # Of foreign packages the first part only: they may make the others as they are imported.
            if _spec(name if own else name.partition(".")[0]) is None:
                raise RegistryError(f"{module} imports {name}, which is not installed")
            if own:
                _check_imports(name, top, seen)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    spec = _spec(module)
    parts = module.split(".")
    if spec is not None and spec.submodule_search_locations is not None:
        parts.append("__init__")
    return ".".join(parts[: -node.level] + ([node.module] if node.module else []))


@cache
def _parse(module: str) -> ast.Module | None:
    spec = _spec(module)
    if spec is None:
        raise RegistryError(f"there is no module {module}")
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        with open(spec.origin, "rb") as file:
            return ast.parse(file.read())
    except (SyntaxError, ValueError) as error:
        raise RegistryError(f"{module} does not parse: {error}") from error


@cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing its parents as ``importlib.util.find_spec`` does."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None) or ModuleSpec(name, None)
    parent, _, _ = name.rpartition(".")
    path = None
    if parent:
        spec = _spec(parent)
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = list(spec.submodule_search_locations)
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None
