"""What of a checkpoint's arguments a parser would import or read."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import pytest

from meta_opt.optimizees.contract import Optimizee
from meta_opt.saved.vouched import unvouched

if TYPE_CHECKING:
    from nowhere import Unknown

EVIL = {"class_path": "os.Evil", "init_args": {}}


class Kind(enum.Enum):
    ONE = 1


class Plain(TypedDict):
    a: int
    b: list[str]


class Holds(TypedDict):
    part: Optimizee


class Base:
    def __init__(self, of_base: list[Optimizee] | None = None, size: int = 1, untyped=None) -> None: ...  # type: ignore[no-untyped-def]


class Takes(Base):
    def __init__(
        self,
        part: Optimizee | None = None,
        parts: Sequence[Optimizee] = (),
        text: str = "",
        path: Path | None = None,
        choice: Literal["one", "two"] = "one",
        kind: Kind = Kind.ONE,
        sizes: list[int] | tuple[int, ...] = (),
        weights: Mapping[str, float] | None = None,
        named: dict[str, Optimizee] | None = None,
        anything: Any = None,
        function: Callable[[int], int] | None = None,
        noted: Annotated[str, "note"] = "",
        either: str | Optimizee = "",
        cls: type[Optimizee] | None = None,
        unknown: Unknown | None = None,
        unknown_parts: Sequence[Unknown] = (),
        names: tuple[str, ...] = (),
        pair: tuple[int, str] = (0, ""),
        mixed: list[str] | list[Optimizee] = (),  # type: ignore[assignment]
        table: dict[str, list[str]] | None = None,
        plain: Plain | None = None,
        holds: Holds | None = None,
        **kwargs: Any,
    ) -> None: ...


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part", "os.Evil"),
        ("part", "Evil"),
        ("part", "evil.yaml"),
        ("part", json.dumps(EVIL)),
        ("part", EVIL),
        ("part", {"parts": ["os.Evil"]}),  # arguments of whatever is the default
        ("part", {"class_path": "mixture", "init_args": {"parts": ["os.Evil"]}}),
        ("part", {"class_path": "mixture", "init_args": {"parts": [EVIL]}}),
        ("part", {"class_path": "mixture", "init_args": {"parts.0": 1}}),
        ("part", {"class_path": "quadratic", "dict_kwargs": EVIL}),
        ("part", {"class_path": ["quadratic"]}),
        ("parts", ["quadratic", "os.Evil"]),
        ("parts", "evil.yaml"),
        ("parts", [EVIL]),
        ("of_base", ["os.Evil"]),
        ("sizes", "numbers.txt"),
        ("weights", "weights.yaml"),
        ("named", {"a.b": {"class_path": "quadratic", "init_args": {}}}),
        ("named", {"a": "os.Evil"}),
        ("anything", json.dumps(EVIL)),
        ("anything", "class_path: os.Evil"),
        ("anything", [json.dumps(EVIL)]),
        ("anything", {"a": {"b": EVIL}}),
        ("untyped", "{class_path: os.Evil}"),
        ("function", "os.abort"),
        ("either", "os.Evil"),
        ("cls", "os.Evil"),
        ("unknown", "os.Evil"),
        ("unknown", ["os.Evil"]),
        ("unknown", [["os.Evil"]]),
        ("unknown_parts", ["os.Evil"]),
        ("not_there", "os.Evil"),
        ("not_there", ["os.Evil"]),
        ("names", "names.txt"),
        ("pair", [1, ["os.Evil"], "pair.txt", EVIL]),
        ("mixed", ["os.Evil"]),
        ("table", {"a": "names.txt"}),
        ("plain", {"a": 1, "b": "names.txt"}),
        ("plain", {"a": 1, "c": "os.Evil"}),
        ("holds", {"part": "os.Evil"}),
        ("holds", {"part": EVIL}),
        ("part.class_path", "os.Evil"),
    ],
)
def test_what_might_be_imported(name: str, value: Any) -> None:
    assert unvouched(Takes, {"text": "os.Evil", "sizes": [1, 2], name: value}) == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part", {"class_path": "mixture", "init_args": {"parts": [{"class_path": "quadratic", "init_args": {}}]}}),
        ("part", None),
        ("parts", [{"class_path": "quadratic", "init_args": {"dimension": 3}}]),
        ("of_base", [{"class_path": "quadratic", "init_args": {}}]),
        ("text", "os.Evil"),
        ("noted", json.dumps(EVIL)),
        ("path", "folder/data.yaml"),
        ("choice", "two"),
        ("kind", "ONE"),
        ("sizes", [1, 2]),
        ("size", 3),
        ("weights", {"a": 0.5, "a.b": 1.0}),
        ("named", {"a": {"class_path": "quadratic", "init_args": {}}}),
        ("anything", "folder/some.csv"),
        ("anything", [1, {"a": "b"}]),
        ("untyped", "relu"),
        ("either", "digits"),
        ("unknown", 3),
        ("unknown", "relu"),
        ("unknown", [1, 2.5]),
        ("unknown_parts", ["relu"]),
        ("anything", ["os.Evil"]),
        ("either", "cuda:0"),
        ("names", ["relu", "os.Evil"]),
        ("pair", [1, "relu"]),
        ("mixed", ["relu"]),
        ("table", {"a.b": ["c.d"]}),
        ("plain", {"a": 1, "b": ["x.y"]}),
    ],
)
def test_what_is_but_a_value(name: str, value: Any) -> None:
    assert unvouched(Takes, {name: value}) is None


def test_text_that_is_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("class_path: os.Evil")
    assert unvouched(Takes, {"either": "digits"}) == "either"
