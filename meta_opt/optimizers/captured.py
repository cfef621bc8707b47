"""Steps of a learned optimizer on a GPU as one launch each: a CUDA graph of the dozens of small operations in them.

Graphs work on tensors that stay where they are. A graph is made once for coordinates of one arrangement, and used by
one rollout after another, each of which brings its state. What is read of an evaluation is the gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from meta_opt.optimizers.base import LearnedOptimizer, Rollout, map_state
from meta_opt.problems import Evaluation

NUM_WORTHWHILE = 1 << 18  # coordinates, of all problems, from which on the work takes longer than the launches
_TOLERANCE = 1e-4  # between a graph and the operations it was made of, relative to the sum of all updates


class CapturedRollout(Rollout):
    """Steps through a graph; one by one, with a warning, where no graph can be made or its first update is wrong."""

    def __init__(self, optimizer: LearnedOptimizer, state: Any) -> None:
        """Begin at ``state``."""
        self._step: _StaticStep | None = None
        self._begun = False
        super().__init__(optimizer, state)

    @property
    def state(self) -> Any:
        """The state after the last step: a copy, as the tensors that the graph works on serve other rollouts too."""
        return self._state if self._step is None else map_state(torch.clone, self._step.state)

    @state.setter
    def state(self, state: Any) -> None:
        self._state = state

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]; see :meth:`LearnedOptimizer.step`."""
        if not self._begun:  # now the number of problems is known
            self._begun = True
            self._step = _graph_for(self, self._optimizer, self._state, evaluation.grad)
        return super().step(evaluation) if self._step is None else self._step(evaluation.grad)


class _StaticStep:
    """One step on tensors of its own, which it reads and overwrites, so that it can be captured."""

    def __init__(self, optimizer: LearnedOptimizer, state: Any, grad: Tensor) -> None:
        self.owner: Callable[[], CapturedRollout | None] = lambda: None
        self.signature = _signature(optimizer, state, grad)
        with torch.inference_mode(False):  # tensors of validation could not be overwritten in training
            self.state = map_state(torch.clone, state)
            self._evaluation = _evaluation(grad.clone())
            self._update = torch.zeros_like(grad)
        self._optimizer = ref(optimizer)  # a graph is kept no longer than its optimizer
        self._replay = capture(self._run)

    def load(self, state: Any) -> None:
        """Stand at ``state``."""
        torch._foreach_copy_(_tensors(self.state), _tensors(state))

    def __call__(self, grad: Tensor) -> Tensor:
        self._evaluation.grad.copy_(grad)
        self._replay()
        return self._update.clone()

    def _run(self) -> None:
        optimizer = self._optimizer()
        assert optimizer is not None
        with torch.no_grad():
            update, state = optimizer.step(self._evaluation, self.state)
            self._update.copy_(update)
            torch._foreach_copy_(_tensors(self.state), _tensors(state))


def capture(run: Callable[[], None]) -> Callable[[], None]:
    """What does on the GPU all that ``run`` does there, in one launch.

    Raises:
        RuntimeError: If ``run`` waits for the GPU, or does something else that a graph cannot hold.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries set themselves up at their first call, which must not be captured
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # Other threads, which load data, may go on meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


# The last graph of each optimizer; None where there can be none.
_graphs: WeakKeyDictionary[LearnedOptimizer, _StaticStep | None] = WeakKeyDictionary()


def _graph_for(rollout: CapturedRollout, optimizer: LearnedOptimizer, state: Any, grad: Tensor) -> _StaticStep | None:
    """The graph for such steps, standing at ``state`` and for ``rollout`` alone as long as that lives."""
    if optimizer in _graphs and _graphs[optimizer] is None:
        return None
    step = _graphs.get(optimizer)
    if step is None or step.owner() is not None or step.signature != _signature(optimizer, state, grad):
        step = _graphs[optimizer] = _made(optimizer, state, grad)
    if step is not None:
        step.owner = ref(rollout)
        step.load(state)
    return step


def _made(optimizer: LearnedOptimizer, state: Any, grad: Tensor) -> _StaticStep | None:
    """A graph, compared with the operations that it was made of."""
    try:
        with torch.cuda.device_of(grad):
            step = _StaticStep(optimizer, state, grad)
            step.load(state)
            update = step(grad)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
    else:
        expected, _ = optimizer.step(_evaluation(grad), state)
        says = expected.isfinite()  # all but what gradients that are not finite give
        difference, size = (tensor[says].abs().sum() for tensor in (update - expected, expected))
        if bool(difference <= _TOLERANCE * size):
            return step
        reason = "its update is another"
    warnings.warn(f"no CUDA graph of the learned optimizer, its steps will be slower: {reason}", stacklevel=2)
    return None


def _signature(optimizer: LearnedOptimizer, state: Any, grad: Tensor) -> object:
    """All that a graph takes for granted: kinds and arrangement of the tensors, and where φ lies."""
    arrangement = map_state(lambda tensor: (tensor.shape, tensor.dtype), state)  # type: ignore[arg-type, return-value]
    weights = tuple(weight.data_ptr() for weight in optimizer.parameters())
    return grad.shape, grad.dtype, grad.device, arrangement, weights


def _evaluation(grad: Tensor) -> Evaluation:
    """Of which nothing but the gradient is known."""
    nothing = grad.new_empty(0)
    return Evaluation(nothing, grad, nothing)


def _tensors(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(take, state)
    return found
