"""Entry points of installed distributions. Metadata that cannot be read hides nothing but its own distribution."""

from __future__ import annotations

import importlib.metadata
import traceback
from dataclasses import dataclass
from functools import cache

_GROUPS = "meta_opt."  # how the names of groups begin
_READERS = ("importlib.metadata", "importlib_metadata")


@dataclass(frozen=True)
class Offer:
    """An entry point of a distribution."""

    group: str
    name: str
    value: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Installed:
    """What is installed.

    Attributes:
        offers: Entry points.
        unreadable: Distributions whose metadata cannot be read: where they are, and why.
    """

    offers: tuple[Offer, ...]
    unreadable: tuple[str, ...]


@cache
def installed() -> Installed:
    """Entry points of meta-opt's groups; of a distribution found twice, the first counts, as always."""
    offers: list[Offer] = []
    unreadable: list[str] = []
    for distribution in importlib.metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
            if text is None or _GROUPS not in text or _is_hidden(distribution, text):
                continue
            points = [point for point in distribution.entry_points if point.group.startswith(_GROUPS)]
        except Exception as error:  # whatever a file may hold
            place = getattr(distribution, "_path", "a distribution")
            unreadable.append(f"{place}: {type(error).__name__}: {error}")
            continue
        name, version = (_text(distribution, attribute) for attribute in ("name", "version"))
        offers += [Offer(point.group, point.name, point.value, name, version) for point in points]
    return Installed(tuple(dict.fromkeys(offers)), tuple(dict.fromkeys(unreadable)))


def reading_problem(error: BaseException) -> str | None:
    """The metadata that cannot be read, if an error comes of that: torch reads those of all that is installed."""
    names = (str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__))
    if not installed().unreadable or not any(name.startswith(_READERS) for name in names):
        return None
    return f"metadata that torch needs cannot be read; mend or remove {'; '.join(installed().unreadable)}"


def _is_hidden(distribution: importlib.metadata.Distribution, text: str) -> bool:
    """Whether another distribution of that name comes first."""
    name = _text(distribution, "name")
    try:
        return name != "?" and importlib.metadata.distribution(name).read_text("entry_points.txt") != text
    except Exception:  # it is not found under the name that it gives itself: nothing hides it
        return False


def _text(distribution: importlib.metadata.Distribution, attribute: str) -> str:
    """A text of the metadata, or ? where there is none."""
    try:
        return str(getattr(distribution, attribute) or "?")
    except Exception:  # METADATA may be missing or hold anything
        return "?"
