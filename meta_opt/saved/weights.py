"""The weights in a checkpoint, and whether they are those of the learned optimizer that it describes."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from meta_opt.errors import MetaOptError, shown
from meta_opt.memory import ShortageError
from meta_opt.messages import described
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.streams import drawn_in_float32
from meta_opt.optimizers.checking import first_update
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.saved.plain_values import plain

LEARNED = "optimizer."  # prefix, among the weights of a MetaLearner, of the learned optimizer that is trained
AVERAGE = "average.module."  # of the average of φ, which is used
EXTRA = "_extra_state"  # counters, which are no tensors
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What making a learned optimizer may take beyond what its weights need.
_FREE_NUMBERS, _FREE_OPERATIONS = 1 << 26, 10_000
_NUMBERS, _OPERATIONS = 16, 200  # per number, and per tensor, of the weights


def build(make: Callable[[], OptimizerNetwork], layout: Layout, state: Any) -> OptimizerNetwork:
    """The learned optimizer that ``make`` makes, built for ``layout``, with the average of φ in ``state``.

    The weights of a file bound how large its optimizer can be, whatever size its description asks for.

    Args:
        make: Makes the optimizer.
        layout: What it is built for.
        state: Weights of a MetaLearner, by name.

    Raises:
        ValueError: If weights are missing, unknown, misshapen, of another type or not finite, or the optimizer would
            be much larger than its weights.
    """
    weights = _weights(state)
    average = {name.removeprefix(AVERAGE): tensor for name, tensor in weights.items() if name.startswith(AVERAGE)}
    bounded = _Bounded(average)
    try:
        with bounded, torch.device("cpu"), drawn_in_float32():  # whatever the user's program has for defaults
            optimizer = make()
            optimizer.build(layout, torch.Generator("cpu"))
    except ShortageError as error:
        raise ValueError(bounded.message) from error
    expected = optimizer.state_dict()
    _compare(expected, average, AVERAGE)
    if trained := {name.removeprefix(LEARNED): tensor for name, tensor in weights.items() if name.startswith(LEARNED)}:
        _compare(expected, trained, LEARNED)
    optimizer.load_state_dict(average)
    return optimizer


def copied(network: OptimizerNetwork) -> OptimizerNetwork:
    """A copy of a network.

    Raises:
        MetaOptError: If it cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:  # what is in a class is not known
        name, said = type(network).__name__, described(error, [])
        raise MetaOptError(
            f"{name} cannot be copied: {said}; what __init__ and build leave in it must be plain values, modules, "
            "parameters or buffers"
        ) from error


def check_kept(network: OptimizerNetwork, unbuilt: OptimizerNetwork, layout: Layout, generator: Generator) -> None:
    """See that a checkpoint would give a network back, before any time is spent on training it.

    Args:
        network: The network, built for ``layout``.
        unbuilt: A copy of it from before.
        layout: N coordinates.
        generator: Draws the gradient of a step.

    Raises:
        MetaOptError: If it cannot be copied, its weights cannot be kept, or they are not all that its steps depend on.
    """
    name, seed = type(network).__name__, int(torch.randint(2**31, (), generator=generator))
    if lazy := next((key for key, value in network.state_dict(keep_vars=True).items() if is_lazy(value)), None):
        raise MetaOptError(f"{name}.build must give every weight a shape, and {lazy} has none (it is lazy)")
    state = {AVERAGE + key: value for key, value in copied(network).state_dict().items()}
    try:
        again = build(lambda: unbuilt, layout, state)
    except Exception as error:  # what a class raises is not specified
        said = error if isinstance(error, ValueError) else described(error, [type(network).__module__])
        raise MetaOptError(f"{name} cannot be kept in a checkpoint: {said}") from error
    first, second = (first_update(each, layout, Generator().manual_seed(seed)) for each in (network, again))
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise MetaOptError(
            f"{name} makes other updates after it was kept in a checkpoint and read again: what build draws or "
            "computes must be parameters or buffers, and a step must draw from its generator (noise) alone"
        )


def _weights(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict):
        raise ValueError(f"its state_dict is {shown(state)}")
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ValueError(f"a weight is called {shown(name)}")
        if name == EXTRA:
            plain(tensor, name)
            continue
        if not isinstance(tensor, Tensor):
            raise ValueError(f"its weight {shown(name)} is {shown(tensor)}")
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(f"{shown(name)} is no ordinary tensor")
    if not any(name.startswith(AVERAGE) for name in state):
        raise ValueError("it holds no weights")
    return state


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str) -> None:
    for name, names, others in (("lacks", expected, found), ("has", found, expected)):
        if rest := [each for each in names if each not in others]:
            more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
            raise ValueError(f"it {name} the weight {prefix}{shown(rest[0])[1:-1]}{more}")
    dtypes = {tensor.dtype for tensor in found.values() if tensor.dtype in _DTYPES}
    if len(dtypes) > 1:
        raise ValueError(f"its weights are of {' and '.join(sorted(map(str, dtypes)))}")
    for name, tensor in found.items():
        like = expected[name]
        if tensor.shape != like.shape:
            raise ValueError(f"{prefix}{name} is {[*tensor.shape]}, not {[*like.shape]}")
        if not (tensor.dtype in _DTYPES and like.dtype in _DTYPES) and tensor.dtype != like.dtype:
            raise ValueError(f"{prefix}{name} is {tensor.dtype}, not {like.dtype}")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{prefix}{name} is not finite")


class _Bounded(TorchFunctionMode):
    """Refuses to make tensors that, one or all together, are too large for weights like these."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Not numel(), which an expanded tensor has without memory for it.
        self._held = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in weights.values())
        self._numbers = _FREE_NUMBERS + _NUMBERS * self._held
        self._operations = _FREE_OPERATIONS + _OPERATIONS * len(weights)
        self.message = f"what it describes is much larger than the {self._held} weights in it"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._operations -= 1
        size: Any = ()
        if not types:  # it makes a tensor of numbers: torch.zeros((2, 3)), torch.zeros(2, 3), torch.zeros(size=(2, 3))
            size = next((arg for arg in (*args, kwargs.get("size")) if isinstance(arg, list | tuple)), args)
            size = [length for length in size if type(length) is int]
            self._numbers -= math.prod(size)
        if self._numbers < 0 or self._operations < 0:
            made = f"; it asks for a tensor of {size}" if self._numbers < 0 else ""
            raise ValueError(f"{self.message}{made}")
        return func(*args, **kwargs)


def hash_of(network: OptimizerNetwork) -> str:
    """What tells the weights of a network from others, 16 hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
