"""Functions as CUDA graphs: on a GPU, one launch instead of one for each of their operations.

Graphs work on tensors that stay where they are: a captured function reads tensors that its caller fills, and writes
others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def capture(run: Callable[[], None], pool: Any = None) -> Callable[[], None]:
    """What does on the current GPU all that ``run`` does there, in one launch.

    Args:
        run: Calls operations on tensors that stay where they are; is called three times.
        pool: The memory pool to work in, see ``torch.cuda.graph_pool_handle``; default: one of its own.

    Raises:
        RuntimeError: If ``run`` waits for the GPU, or does something else that a graph cannot hold.
    """
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        run()  # libraries set themselves up at their first call, which must not be captured
        with waiting_forbidden():
            run()
    current.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads, which load data, may go on meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=aside, capture_error_mode="thread_local"):
            run()
    except BaseException:
        _release_generator()
        raise
    finally:
        torch.cuda.set_stream(current)  # which older versions do not, where the capture fails
    return graph.replay


@contextmanager
def slower_with_a_warning(what: str) -> Iterator[None]:
    """Leave the block with a warning, that ``what`` will be slower, where no graph can be made in it."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"no CUDA graph of {what} will be slower: {reason}", stacklevel=3)


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Raise where an operation waits for the GPU: in a capture, that would leave the GPU in disorder."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _release_generator() -> None:
    """Let the GPU's random generator draw again: after a capture that failed, it still waits for the end of that."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(generator.clone_state())
