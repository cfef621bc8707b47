"""Sizes beyond the memory that there is are said in a line, by what is known beforehand or by what fails."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
import torch

from meta_opt import memory
from meta_opt.errors import MetaOptError


def test_what_is_known_to_be_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2e9)
    memory.check(2e9, "enough")
    with pytest.raises(MetaOptError, match="not enough memory: at least 3 TB for x; 2 GB are free"):
        memory.check(3e12, "x")


def test_there_is_some_memory() -> None:
    assert 1e8 < memory.available() < 1e15


@pytest.mark.parametrize(
    ("make", "asked"),
    [
        (lambda: torch.empty(10**14), ": 400 TB were asked for at once"),
        (lambda: torch.empty(2**40, 2**40), ""),
        (lambda: np.empty(2**47, np.uint8), ": 141 TB were asked for at once"),
        (lambda: np.empty((2**40, 2**40)), ""),
        (lambda: [0] * 10**13, ""),
        (lambda: torch.nn.Linear(10**8, 10**7), ": 4 PB were asked for at once"),
    ],
)
def test_errors_that_mean_memory(make: Any, asked: str) -> None:
    with pytest.raises((RuntimeError, MemoryError, ValueError)) as caught:
        make()
    assert memory.shortage(caught.value) == f"there is not enough memory{asked}"


def test_other_errors_do_not() -> None:
    for error in (RuntimeError("shapes do not match"), KeyError("out of memory"), ValueError("x")):
        assert memory.shortage(error) is None
    assert memory.shortage(
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    ) == ("there is not enough memory: 2.15 GB were asked for at once")


def test_nothing_is_lent_beyond_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory, "available", lambda: float(1 << 28))
    with memory.bounded(), pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 30)
    assert memory.shortage(caught.value) == "there is not enough memory: 4.29 GB were asked for at once"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert torch.empty(1 << 28).numel() == 1 << 28
