"""Steps of a learned optimizer on a GPU as one launch each: a CUDA graph of the dozens of small operations in them.

A graph is made once for coordinates of one arrangement, and used by
one rollout after another, each of which brings its state. Of an evaluation only the gradient is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor

from meta_opt.capturing import capture, slower_with_a_warning
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import Rollout
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.optimizers.state import map_state, named_tensors

NUM_WORTHWHILE = 1 << 20  # coordinates, of all graphs of an optimizer; beyond, the work takes longer than the launches
_TOLERANCE = 1e-4  # between a graph and the operations it was made of, relative
_NUM_COMPARED = 2  # steps


class CapturedRollout(Rollout):
    """Steps through a graph; one by one, with a warning, where no graph can be made or its first steps are wrong."""

    def __init__(self, optimizer: SharedNetworks, state: Any) -> None:
        """Begin at ``state``."""
        self._network = optimizer
        self._step: _StaticStep | None = None
        self._begun = False
        super().__init__(optimizer, state)

    @property
    def state(self) -> Any:
        """The state after the last step: a copy, as the tensors that the graph works on serve other rollouts too."""
        return self._state if self._step is None else map_state(torch.clone, self._step.state)

    @state.setter
    def state(self, state: Any) -> None:
        if self._step is None:
            self._state = state
        else:
            self._step.load(state)

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]; see :meth:`SharedNetworks.step`."""
        if not self._begun:  # now the number of problems is known
            self._begun = True
            if step := _graph_for(self, self._network, self._state, evaluation.grad):
                self._step, self._state = step, None
        return super().step(evaluation) if self._step is None else self._step(evaluation.grad)


class _StaticStep:
    """One step on tensors of its own, which it reads and overwrites, so that it can be captured."""

    def __init__(self, optimizer: SharedNetworks, state: Any, grad: Tensor) -> None:
        self.owner: Callable[[], CapturedRollout | None] = lambda: None
        self.signature = _signature(optimizer, state, grad)
        self.num_coordinates = grad.numel()
        with torch.inference_mode(False), torch.no_grad():  # inference tensors cannot be written to in training
            self._evaluation = _evaluation(grad.clone())
            after = optimizer.step(self._evaluation, state).state  # in memory as steps leave it: no copy transposes
            self.state = map_state(torch.clone, after)
            self.update = torch.empty_like(grad)
        self._optimizer = ref(optimizer)  # a graph is kept no longer than its optimizer
        self._replay = capture(self.run)

    def load(self, state: Any) -> None:
        """Stand at ``state``."""
        torch._foreach_copy_(_tensors(self.state), _tensors(state))

    def __call__(self, grad: Tensor) -> Tensor:
        self._evaluation.grad.copy_(grad)
        self._replay()
        return self.update.clone()

    def run(self) -> None:
        """What is captured."""
        optimizer = self._optimizer()
        assert optimizer is not None
        with torch.no_grad():
            update, state, _ = optimizer.step(self._evaluation, self.state)
            self.update.copy_(update)
            torch._foreach_copy_(_tensors(self.state), _tensors(state))


_graphs: WeakKeyDictionary[SharedNetworks, list[_StaticStep]] = WeakKeyDictionary()  # the last used at the end
_without: WeakSet[SharedNetworks] = WeakSet()  # those that there can be no graph of


def _graph_for(rollout: CapturedRollout, optimizer: SharedNetworks, state: Any, grad: Tensor) -> _StaticStep | None:
    """The graph for such steps, standing at ``state`` and for ``rollout`` alone as long as that lives."""
    if optimizer in _without or torch.is_autocast_enabled(grad.device.type):  # which keeps copies of φ for a while
        return None
    signature, graphs = _signature(optimizer, state, grad), _graphs.setdefault(optimizer, [])
    step = next((step for step in graphs if step.owner() is None and step.signature == signature), None)
    if step is not None:
        graphs.remove(step)
    else:
        room = NUM_WORTHWHILE - grad.numel()
        while sum(each.num_coordinates for each in graphs) > room:
            idle = next((each for each in graphs if each.owner() is None), None)
            if idle is None:
                return None
            graphs.remove(idle)
        step = _made(optimizer, state, grad)
        if step is None:
            _without.add(optimizer)
            return None
    graphs.append(step)
    step.owner = ref(rollout)
    step.load(state)
    return step


def _made(optimizer: SharedNetworks, state: Any, grad: Tensor) -> _StaticStep | None:
    """A graph, compared with the operations that it was made of."""
    with slower_with_a_warning("the learned optimizer, its steps"), torch.cuda.device_of(grad):
        step = _StaticStep(optimizer, state, grad)
        step.load(state)
        for _ in range(_NUM_COMPARED):
            step.update.fill_(torch.nan)
            found = [step(grad), *_tensors(step.state)]
            update, state, _ = optimizer.step(_evaluation(grad), state)
            if not _same(found, [update, *_tensors(state)]):
                raise RuntimeError("its steps are others")
        return step
    return None


def _same(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Whether tensors agree but for rounding wherever the others are finite, as with finite gradients they are."""
    same = True
    for one, other in zip(ones, others, strict=True):
        finite = other.isfinite()
        difference, size = (tensor[finite].abs().sum() for tensor in (one - other, other))
        same = same and bool(difference <= _TOLERANCE * size)
    return same


def _signature(optimizer: SharedNetworks, state: Any, grad: Tensor) -> object:
    """What a graph takes for granted: kinds and arrangement of the tensors, where φ lies, which network is whose."""
    arrangement = map_state(lambda tensor: (tensor.shape, tensor.dtype), state)  # type: ignore[arg-type, return-value]
    weights = tuple(weight.data_ptr() for weight in optimizer.parameters())
    stream = torch.cuda.current_stream(grad.device) if grad.is_cuda else None
    return grad.shape, grad.dtype, grad.device, stream, arrangement, weights, dict(optimizer.network_for)


def _evaluation(grad: Tensor) -> Evaluation:
    """Of which nothing but the gradient is known."""
    return Evaluation.of(grad=grad)


def _tensors(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    return [named.tensor for named in named_tensors(state)]
