"""The studies that come with meta-opt, a YAML file each."""

from __future__ import annotations

from pathlib import Path

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped, offered


def paths() -> dict[str, Path]:
    """Their files, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def path(name: str) -> Path:
    """The file of a study.

    Raises:
        MetaOptError: If there is none; names the offered match and all there are.
    """
    known = paths()
    if name not in known:
        there = offered(name, known, f"there are {', '.join(known)}; or give a file .yaml")
        raise MetaOptError(f"no study is called {clipped(name)!r}; {there}")
    return known[name]
