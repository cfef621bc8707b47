"""Traced evaluations on a GPU as one launch each: a CUDA graph of the dozens of small operations in them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from meta_opt.capturing import capture, slower_with_a_warning

Function = Callable[..., tuple[Tensor, ...]]

_LARGEST = 1 << 29  # bytes of results in an evaluation; larger ones take longer than their launches


def worth_capturing(graph: fx.Graph, tensors: list[Tensor]) -> bool:
    """Whether a traced evaluation is of a GPU, and so small that launching its operations takes most of the time."""
    results = (node.meta.get("val") for node in graph.nodes if node.op == "call_function")
    sizes = (each.numel() * each.element_size() for each in results if isinstance(each, Tensor))
    return tensors[0].is_cuda and sum(sizes) <= _LARGEST


def captured(function: Function, tensors: list[Tensor], same: Callable[[Tensor, Tensor], bool]) -> Function:
    """``function`` as a graph, for tensors like these; as it is, with a warning, where that gives something else.

    Args:
        function: Calls operations on the GPU that ``tensors`` are on; pure.
        tensors: An example of its arguments.
        same: Whether a result is what it should be.
    """
    with slower_with_a_warning("the loss, its evaluations"), torch.cuda.device_of(tensors[0]):
        graph = _Captured(function, tensors)
        if not all(map(same, graph(*tensors), function(*tensors))):
            raise RuntimeError("it gives other results")
        return graph
    return function


class _Captured:
    """A function on tensors of its own, which it reads and overwrites."""

    def __init__(self, function: Function, tensors: list[Tensor]) -> None:
        self._function = function  # whose constants the graph reads
        self._inputs = [tensor.clone() for tensor in tensors]
        self._outputs: tuple[Tensor, ...] = ()
        self._replay = capture(self._run, _pool(tensors[0].device))

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        torch._foreach_copy_(self._inputs, tensors)
        self._replay()
        return tuple(output.clone() for output in self._outputs)

    def _run(self) -> None:
        self._outputs = self._function(*self._inputs)


@functools.cache
def _kept_pool(device: torch.device) -> tuple[Any, Callable[[], None]]:
    """A memory pool, and a graph in it, without which the pool would be closed with the last evaluation's."""
    pool, number = torch.cuda.graph_pool_handle(), torch.zeros((), device=device)

    def run() -> None:
        number.add_(1.0)

    return pool, capture(run, pool)


def _pool(device: torch.device) -> Any:
    """One for all evaluations on a device: they follow each other, and what they give is copied at once."""
    return _kept_pool(device)[0]
