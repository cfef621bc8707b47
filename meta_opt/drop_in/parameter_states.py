"""The state of a learned optimizer twice: per parameter, to be saved, and of many parameters at once, to be stepped.

A learned optimizer keeps its state as tensors whose last axis goes through the coordinates, and tensors that all
coordinates share (a decay β^t). Parameters that one network works on, that lie on one device and whose shared tensors
are equal are stepped as one long vector, in a *bucket*: as long as the same parameters have gradients, nothing is
copied. When that changes, or when somebody looks, buckets are cut into the states of their parameters.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import LearnedOptimizer, Rollout, map_state

NamedState = dict[str, Tensor]
"""The state of one parameter: its tensors, by their path in the optimizer's state (``cell.0.1``)."""


class Kind(NamedTuple):
    """What parameters must have in common to be stepped at once."""

    network: str
    device: torch.device
    dtype: torch.dtype  # what the network computes in
    depth: float  # place in the model, see Layout; 0 where the network does not read it

    @classmethod
    def of(cls, param: Tensor, network: str, depth: float = 0.0) -> Kind:
        """float64 for parameters in float64, or else float32, whatever they are in."""
        return cls(network, param.device, torch.float64 if param.dtype == torch.float64 else torch.float32, depth)


@dataclasses.dataclass
class Bucket:
    """Parameters that are stepped as one vector of N coordinates, one behind the other."""

    params: list[Tensor]
    dtype: torch.dtype
    optimizer: LearnedOptimizer
    rollout: Rollout

    @property
    def state(self) -> Any:
        """The state of all its parameters."""
        return self.rollout.state

    def step(self, loss: Tensor | float | None) -> list[Tensor]:
        """The update of each parameter, in its shape, from its gradient; and the state moves on.

        Args:
            loss: The loss, if it is known.

        Raises:
            MetaOptError: If the learned optimizer reads the loss and it is not known.
        """
        grad = self._flat([param.grad for param in self.params if param.grad is not None])
        params = self._flat(self.params) if self.optimizer.reads_params else grad.new_empty(1, 0)
        if loss is None:
            evaluation: Evaluation = _WithoutLoss(grad, params)
        else:
            evaluation = Evaluation(torch.as_tensor(loss).detach().to(grad).reshape(1), grad, params)
        update = self.rollout.step(evaluation)
        parts = update.reshape(-1).split([param.numel() for param in self.params])
        return [part.view(param.shape) for part, param in zip(parts, self.params, strict=True)]

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).to(self.dtype).unsqueeze(0)  # [1, N]


class _WithoutLoss(Evaluation):
    """What is known at a step without a closure."""

    def __init__(self, grad: Tensor, params: Tensor) -> None:
        object.__setattr__(self, "grad", grad)
        object.__setattr__(self, "params", params)

    @property
    def loss(self) -> Tensor:
        raise MetaOptError("this learned optimizer reads the loss: call step with a closure that returns it")


class ParameterStates:
    """The states of all parameters that a learned optimizer works on, in buckets or one by one.

    Changed in place only, so that wrappers of optimizers that share it always see the same.
    """

    def __init__(self, optimizer: LearnedOptimizer, network: str) -> None:
        """Nothing has a state yet.

        Args:
            optimizer: With weights, on the CPU.
            network: Name of any of its networks.
        """
        self._optimizer = optimizer
        self._copies: dict[tuple[torch.device, torch.dtype], LearnedOptimizer] = {}
        self._one_by_one: defaultdict[Tensor, NamedState] = defaultdict(dict)
        self._buckets: list[Bucket] = []
        self._signature: list[tuple[int, Kind]] = []
        self._per_coordinate = self._find_per_coordinate(Kind.of(torch.empty(0), network))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_one_by_one": self.one_by_one(), "_copies": {}}

    def one_by_one(self) -> defaultdict[Tensor, NamedState]:
        """The state of each parameter that has one. Whatever is changed in it holds."""
        for bucket in self._buckets:
            sizes = [param.numel() for param in bucket.params]
            parts = {
                name: tensor.split(sizes, dim=-1) if name in self._coordinates else (tensor,) * len(sizes)
                for name, tensor in _named(bucket.state).items()
            }
            for index, param in enumerate(bucket.params):
                self._one_by_one[param] = {
                    name: part[index].clone(memory_format=torch.contiguous_format) for name, part in parts.items()
                }
        self._buckets.clear()
        self._signature.clear()
        return self._one_by_one

    def replace(self, states: Mapping[Tensor, NamedState]) -> None:
        """Put others in place of all states."""
        self._buckets.clear()
        self._signature.clear()
        self._one_by_one.clear()
        self._one_by_one.update(states)

    def buckets(self, kinds: Mapping[Tensor, Kind]) -> list[Bucket]:
        """The buckets of exactly these parameters; parameters without a state get one."""
        signature = [(id(param), kind) for param, kind in kinds.items()]
        if signature != self._signature:
            states = self.one_by_one()
            alike: dict[Any, list[Tensor]] = {}
            for param, kind in kinds.items():
                states[param] = states.get(param) or self.initial(param, kind)
                alike.setdefault((kind, self._history(param)), []).append(param)
            for (kind, _), params in alike.items():
                self._buckets.append(self._join(params, kind))
            for param in kinds:
                del states[param]
            self._signature.extend(signature)
        return self._buckets

    def initial(self, param: Tensor, kind: Kind) -> NamedState:
        """The state of a parameter before its first step."""
        return _named(self._copy(kind).init_state(self._layout(kind, [param.shape]), 1))

    def _join(self, params: list[Tensor], kind: Kind) -> Bucket:
        optimizer = self._copy(kind)
        state = optimizer.init_state(self._layout(kind, [param.shape for param in params]), 1)
        tensors = []
        for name, like in _named(state).items():
            parts = [self._one_by_one[param][name].to(like) for param in params]
            tensors.append(torch.cat(parts, dim=-1) if name in self._coordinates else parts[0].clone())
        in_order = iter(tensors)
        state = map_state(lambda _: next(in_order), state)
        return Bucket(params, kind.dtype, optimizer, optimizer.rollout(state))

    def _history(self, param: Tensor) -> Any:
        """What must be equal for parameters to be joined."""
        if self._per_coordinate is None:
            return id(param)
        shared = (tensor for name, tensor in self._one_by_one[param].items() if name not in self._per_coordinate)
        return tuple(tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().tobytes() for tensor in shared)

    @property
    def _coordinates(self) -> frozenset[str]:
        return self._per_coordinate or frozenset()

    def _find_per_coordinate(self, kind: Kind) -> frozenset[str] | None:
        """Names of the tensors whose last axis goes through the coordinates.

        None if the state is not of that form; then every parameter is a bucket of its own.
        """
        two, three, both = (
            _named(self._optimizer.init_state(self._layout(kind, [_shape(kind.network, size) for size in sizes]), 1))
            for sizes in ([2], [3], [1, 2])
        )
        names = set()
        if not two.keys() == three.keys() == both.keys():
            return None
        for name, tensor in three.items():
            if both[name].shape != tensor.shape:
                return None
            if two[name].shape != tensor.shape:
                if (*two[name].shape, 3) != (*tensor.shape[:-1], 2, 3) or tensor.shape[-1] != 3:
                    return None
                names.add(name)
        return frozenset(names)

    def _layout(self, kind: Kind, shapes: Sequence[torch.Size]) -> Layout:
        network = kind.network
        count = len(shapes)
        names = (network,) * count if self._optimizer.share == "tensor" else tuple(map(str, range(count)))
        return Layout(names, tuple(shapes), (network,) * count, (kind.depth,) * count)

    def _copy(self, kind: Kind) -> LearnedOptimizer:
        """The learned optimizer on the device, and in the type, of such parameters."""
        place = (kind.device, kind.dtype)
        if place not in self._copies:
            self._copies[place] = copy.deepcopy(self._optimizer).to(*place)
        return self._copies[place]


def _shape(network: str, size: int) -> torch.Size:
    """The shape of a tensor of ``size`` numbers that this network works on, where networks are told apart by kind."""
    return torch.Size([size, 1] if network == "matrix" else [size])


def _named(state: Any, path: str = "") -> NamedState:
    """The tensors of a state by their path, in the order of :func:`meta_opt.optimizers.contract.map_state`."""
    if isinstance(state, Tensor):
        return {path: state}
    items: Sequence[tuple[object, Any]] = ()
    if isinstance(state, tuple):
        items = list(enumerate(state))
    elif dataclasses.is_dataclass(state):
        items = [(field.name, getattr(state, field.name)) for field in dataclasses.fields(state)]
    return {
        name: tensor
        for key, item in items
        for name, tensor in _named(item, f"{path}.{key}" if path else str(key)).items()
    }
