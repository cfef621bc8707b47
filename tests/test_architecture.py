"""Imports run one way, and plugins see the interface only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "meta_opt").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))

# Each row may import the rows above it, and every wing itself; wings of one row do not import each other.
ORDER = [
    ["capturing", "errors", "locks", "installed"],
    ["memory", "storage", "signatures"],
    ["messages", "configurable"],
    ["classes", "importing"],
    ["registry"],
    ["optimizees"],
    ["optimizers"],
    ["inner_loop"],
    ["saved"],
    ["meta_training", "drop_in"],
    ["api"],
    ["evaluation"],
    ["studies"],
    ["testing"],
    ["cli"],
]
RANK = {name: rank for rank, row in enumerate(ORDER) for name in row}


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere but for type checking, as dotted names."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def part(module: str) -> str | None:
    """The second part of a dotted name within meta_opt."""
    parts = module.split(".")
    return parts[1] if parts[0] == "meta_opt" and len(parts) > 1 and parts[1] in RANK else None


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = path.relative_to(ROOT / "meta_opt").parts[0].removesuffix(".py")
    if own == "__init__":
        return  # names what is public, lazily
    assert own in RANK, f"where does {own} belong in ORDER?"
    for module in imported(path):
        other = part(module)
        assert other is None or other == own or RANK[other] < RANK[own], f"{own} imports {module}"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_knows_no_plugin(path: Path) -> None:
    assert not [module for module in imported(path) if module.startswith("meta_opt_optimizees")]
    assert "mnist" not in path.read_text() or path.relative_to(ROOT / "meta_opt").parts[0] in ("__init__.py", "cli")


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_import_the_interface_only(path: Path) -> None:
    of_meta_opt = {module for module in imported(path) if module.split(".")[0] == "meta_opt"}
    interface = ("meta_opt.api", "meta_opt.testing")
    assert {module for module in of_meta_opt if not module.startswith(interface)} == set()
