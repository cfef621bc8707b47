"""The studies that come with meta-opt, a YAML file each."""

from __future__ import annotations

from pathlib import Path

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped, nearest


def paths() -> dict[str, Path]:
    """Their files, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def path(name: str) -> Path:
    """The file of a study.

    Raises:
        MetaOptError: If there is none; names the nearest match and all there are.
    """
    known = paths()
    if name not in known:
        raise MetaOptError(
            f"no study is called {clipped(name)!r}; {nearest(name, known)}There are {', '.join(known)}; or give a file "
            ".yaml"
        )
    return known[name]
