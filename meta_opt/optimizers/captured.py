"""Steps of a learned optimizer on a GPU as one launch each: CUDA graphs of the dozens of small operations in them.

A graph is made once for coordinates of one arrangement, and used by one rollout after another, each of which brings its
state. Where steps do now one thing and now another, there is a graph of each. Of an evaluation only the gradient is
read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor

from meta_opt.capturing import capture, slower_with_a_warning
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout, Step
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.optimizers.state import map_state, named_tensors

StepFunction = Callable[[Any, Evaluation, Any], Step]
"""Of an optimizer, an evaluation and a state; one that always does the same."""

_TOLERANCE = 1e-4  # between a graph and the operations it was made of, relative
_NUM_COMPARED = 2  # steps


class CapturedRollout(Rollout):
    """Steps through graphs; one by one where these are not worthwhile, and with a warning where they cannot be had."""

    def __init__(
        self,
        optimizer: OptimizerNetwork,
        state: Any,
        function_after: Callable[[int], StepFunction],
        num_worthwhile: int,
        num_steps: int = 0,
    ) -> None:
        """Begin at ``state``.

        Args:
            optimizer: Whose steps.
            state: Where to begin; it stays what it is.
            function_after: What the step after so many others does.
            num_worthwhile: How many coordinates all graphs of an optimizer may have; beyond, the work takes longer than
                the launches. 0 for no graphs.
            num_steps: How many steps there were before.
        """
        self._network = optimizer
        self._state = state
        self._function_after = function_after
        self._num_worthwhile = num_worthwhile
        self._count = num_steps
        self._step: _StaticStep | None = None
        self._begun = False
        self.record = None

    @property
    def state(self) -> Any:
        """The state after the last step: a copy, as the tensors that the graph works on serve other rollouts too."""
        return self._state if self._step is None else map_state(torch.clone, self._step.state)

    def step(self, evaluation: Evaluation) -> Tensor:
        """The update, [B, N]; see :meth:`OptimizerNetwork.step`."""
        function, grad = self._function_after(self._count), evaluation.grad
        if not self._begun:  # now the number of problems is known
            self._begun = True
            self._find_a_place(function, grad)
        if self._step is not None and function not in self._step.captured:
            self._capture(function, grad)
        if self._step is not None:
            update = self._step(function, grad)
        else:
            update, self._state, self.record = function(self._network, evaluation, self._state)
        self._count += 1
        return update

    def _find_a_place(self, function: StepFunction, grad: Tensor) -> None:
        if grad.numel() > self._num_worthwhile or self._network in _without:
            return
        if torch.is_autocast_enabled(grad.device.type):  # which keeps copies of φ for a while
            return
        with slower_with_a_warning("the learned optimizer, its steps"), torch.cuda.device_of(grad):
            step = _place_for(self._network, function, self._state, grad, self._num_worthwhile)
            if step is not None:
                step.owner = ref(self)
                step.load(self._state)
                self._step, self._state = step, None
            return
        _without.add(self._network)

    def _capture(self, function: StepFunction, grad: Tensor) -> None:
        """Make a graph of what has none here; whatever happens, stand where we are."""
        step, self._state, self._step = self._step, self.state, None
        assert step is not None
        with slower_with_a_warning("the learned optimizer, its steps"), torch.cuda.device_of(grad):
            step.capture(function, self._state, grad)
            step.load(self._state)
            self._step, self._state = step, None
            return
        _without.add(self._network)
        _graphs.pop(self._network, None)


class _StaticStep:
    """One step on tensors of its own, which it reads and overwrites, so that it can be captured."""

    def __init__(self, optimizer: OptimizerNetwork, function: StepFunction, state: Any, grad: Tensor) -> None:
        self.owner: Callable[[], CapturedRollout | None] = lambda: None
        self.signature = _signature(optimizer, state, grad)
        self.num_coordinates = grad.numel()
        with torch.inference_mode(False), torch.no_grad():  # inference tensors cannot be written to in training
            self._evaluation = _evaluation(grad.clone())
            after = function(optimizer, self._evaluation, state).state  # in memory as steps leave it
            self.state = map_state(torch.clone, after)
            self.update = torch.empty_like(grad)
        self._optimizer = ref(optimizer)  # a graph is kept no longer than its optimizer
        self._pool = torch.cuda.graph_pool_handle() if grad.is_cuda else None  # for all, as they never run at once
        self.captured: dict[StepFunction, Callable[[], None]] = {}

    def load(self, state: Any) -> None:
        """Stand at ``state``."""
        torch._foreach_copy_(_tensors(self.state), _tensors(state))

    def capture(self, function: StepFunction, state: Any, grad: Tensor) -> None:
        """Make a graph, and compare it with the operations that it was made of; then stand anywhere.

        Raises:
            RuntimeError: If there can be none, or its steps are others.
        """
        replay, optimizer = capture(partial(self.run, function), self._pool), self._optimizer()
        self.load(state)
        for _ in range(_NUM_COMPARED):
            self.update.fill_(torch.nan)
            self._evaluation.grad.copy_(grad)
            replay()
            update, state, _ = function(optimizer, _evaluation(grad), state)
            if not _same([self.update, *_tensors(self.state)], [update, *_tensors(state)]):
                raise RuntimeError("its steps are others")
        self.captured[function] = replay

    def __call__(self, function: StepFunction, grad: Tensor) -> Tensor:
        self._evaluation.grad.copy_(grad)
        self.captured[function]()
        return self.update.clone()

    def run(self, function: StepFunction) -> None:
        """What is captured."""
        with torch.no_grad():
            update, state, _ = function(self._optimizer(), self._evaluation, self.state)
            self.update.copy_(update)
            torch._foreach_copy_(_tensors(self.state), _tensors(state))


_graphs: WeakKeyDictionary[OptimizerNetwork, list[_StaticStep]] = WeakKeyDictionary()  # the last used at the end
_without: WeakSet[OptimizerNetwork] = WeakSet()  # those that there can be no graph of


def _place_for(
    optimizer: OptimizerNetwork, function: StepFunction, state: Any, grad: Tensor, num_worthwhile: int
) -> _StaticStep | None:
    """What captures such steps, or has captured them, and nobody uses; None where there is no room for it."""
    signature, graphs = _signature(optimizer, state, grad), _graphs.setdefault(optimizer, [])
    step = next((step for step in graphs if step.owner() is None and step.signature == signature), None)
    if step is not None:
        graphs.remove(step)
    else:
        room = num_worthwhile - grad.numel()
        while sum(each.num_coordinates for each in graphs) > room:
            idle = next((each for each in graphs if each.owner() is None), None)
            if idle is None:
                return None
            graphs.remove(idle)
        step = _StaticStep(optimizer, function, state, grad)
    graphs.append(step)
    return step


def _same(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Whether tensors agree but for rounding wherever the others are finite, as with finite gradients they are."""
    same = True
    for one, other in zip(ones, others, strict=True):
        finite = other.isfinite()
        difference, size = (tensor[finite].abs().sum() for tensor in (one - other, other))
        same = same and bool(difference <= _TOLERANCE * size)
    return same


def _signature(optimizer: OptimizerNetwork, state: Any, grad: Tensor) -> object:
    """What a graph takes for granted: kinds and arrangement of the tensors, where φ lies, which network is whose."""
    arrangement = map_state(lambda tensor: (tensor.shape, tensor.dtype), state)  # type: ignore[arg-type, return-value]
    weights = tuple(weight.data_ptr() for weight in optimizer.parameters())
    stream = torch.cuda.current_stream(grad.device) if grad.is_cuda else None
    network_for = dict(optimizer.network_for) if isinstance(optimizer, SharedNetworks) else {}
    return grad.shape, grad.dtype, grad.device, stream, arrangement, weights, network_for


def _evaluation(grad: Tensor) -> Evaluation:
    """Of which nothing but the gradient is known."""
    return Evaluation.of(grad=grad)


def _tensors(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    return [named.tensor for named in named_tensors(state)]
