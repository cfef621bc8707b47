"""Pickles in checkpoints, before torch reads them: it executes nothing, but a few bytes may keep it busy for years.

They do by what multiplies: a tuple that holds another twice, which holds another twice, and so on, whose hash visits
every occurrence, and functions that make longer text of text, or copies.
"""

from __future__ import annotations

import pickletools
from typing import Any

_MULTIPLYING = {  # of the functions that torch allows
    *("_codecs encode", "builtins bytearray", "__builtin__ bytearray"),
    *("torch._utils _rebuild_device_tensor_from_cpu_tensor", "torch._utils _rebuild_device_tensor_from_numpy"),
}
_MOST = 100_000  # values that a tuple stands for


def pickle_problem(pickle: bytes) -> str | None:
    """What of a pickle no checkpoint of meta-opt has, if there is any.

    Raises:
        Exception: If it is no pickle.
    """
    stack: list[int | None] = []  # how many values each object stands for, were all tuples written out; None for a mark
    memo: dict[Any, int | None] = {}
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name == "GLOBAL" and argument in _MULTIPLYING:
            return f"it holds {argument}"
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            taken = _taken(stack, opcode)
            size = 1 + sum(taken) if "TUPLE" in opcode.name else 1
            if size > _MOST:
                return "its tuples are nested beyond reason"
            stack += [size] * len(opcode.stack_after)
    return None


def _taken(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Take what an operation takes from the stack."""
    fixed = len(opcode.stack_before)
    taken: list[int | None] = []
    if pickletools.markobject in opcode.stack_before:
        while (top := stack.pop()) is not None:
            taken.append(top)
        fixed = opcode.stack_before.index(pickletools.markobject)
    taken += [stack.pop() for _ in range(fixed)]
    return [size for size in taken if size is not None]
