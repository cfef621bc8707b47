"""Messages are one line, of bounded length, and name a plugin's frames only."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from meta_opt.api import ModuleOptimizee
from meta_opt.messages import clipped, described, one_line, own_frames, printable


def test_control_characters_become_spaces() -> None:
    assert printable("a\x1b[31mb\r\n\x07c\u202e") == "a [31mb   c "
    assert one_line("θ_0 is\n  not finite\t: 1") == "θ_0 is not finite : 1"


def test_long_values_are_cut_at_80() -> None:
    assert clipped("x" * 80) == "x" * 80
    assert clipped("x" * 81) == "x" * 79 + "…"
    assert clipped([1, 2]) == "[1, 2]"
    assert len(clipped("word " * 10**6)) == 80


def test_words_of_a_message_may_be_paths_but_no_longer() -> None:
    path = "/folder" * 30
    assert one_line(f"there is no {path}") == f"there is no {path}"
    assert one_line(f"not {'x' * 251} here") == f"not {'x' * 79}… here"
    assert len(one_line("word " * 10**6)) <= 1500


def test_frames_are_those_of_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mine_1.py").write_text("import json\nfrom helper_1 import g\n\ndef f(x):\n    return g(x)\n")
    Path("helper_1.py").write_text("import json\ndef g(x):\n    return json.loads(x)\n")
    for name in ("mine_1", "helper_1"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import mine_1  # type: ignore[import-not-found]

    with pytest.raises(ValueError, match="Expecting property name") as caught:
        mine_1.f("{")
    assert own_frames(caught.value, ["mine_1"]) == ["mine_1.py:5 in f", "helper_1.py:3 in g"]
    assert own_frames(caught.value, ["meta_opt.cli", "torch"]) == []
    text = described(caught.value, ["mine_1"])
    assert text.startswith("JSONDecodeError: Expecting property name enclosed in double quotes")
    assert text.endswith("(mine_1.py:5 in f, helper_1.py:3 in g)")


def test_a_network_that_a_plugin_hands_over_is_the_plugin_s() -> None:
    examples = torch.ones(4, 2), torch.full((4,), 7)
    optimizee = ModuleOptimizee(partial(nn.Linear, 2, 3), train=examples, validation=examples, test=examples)
    generator = torch.Generator().manual_seed(0)
    batch = optimizee.sample_batch("train", generator)
    with pytest.raises(IndexError) as caught:
        optimizee.loss(optimizee.init_params(generator), {}, batch)
    (frame,) = own_frames(caught.value, ["mine"])
    assert re.fullmatch(r".*module\.py:\d+ in loss", frame)


def test_of_many_frames_the_last_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mine_2.py").write_text("def f(n):\n    return 1 / n if n == 0 else f(n - 1)\n")
    monkeypatch.delitem(sys.modules, "mine_2", raising=False)
    import mine_2  # type: ignore[import-not-found]

    with pytest.raises(ZeroDivisionError) as caught:
        mine_2.f(9)
    place = "mine_2.py:2 in f"
    assert described(caught.value, ["mine_2"]) == f"ZeroDivisionError: division by zero (…, {place}, {place}, {place})"
