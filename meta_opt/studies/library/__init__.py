"""The studies that come with meta-opt, a YAML file each."""

from __future__ import annotations

import difflib
from pathlib import Path

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped


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
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise MetaOptError(
            f"no study is called {clipped(name)!r}; {hint}There are {', '.join(known)}; or give a file .yaml"
        )
    return known[name]
