"""The state of a learned optimizer twice: per parameter, to be saved, and of many parameters at once, to be stepped.

The scope of the learned optimizer says what is stepped at once, as one vector of coordinates: a *bucket*.

- ``coordinate`` and ``tensor``: parameters of one network, device and type whose states agree in what all their
  coordinates share (a decay β^t): as many as there are, since they do not influence each other; empty ones apart.
- ``problem``: all parameters that have ever had a gradient, whatever device and type they have. One that has none in a
  step counts as having a gradient of zero.

Of parameters that are sharded over processes (DTensor) the shard of this process is stepped, with its state.

As long as the same parameters have gradients, nothing is copied. When that changes, or when somebody looks, buckets are
cut into the states of their parameters, along the axes that the state says its tensors have. Of a matrix over all pairs
of coordinates a parameter keeps its rows, [n, N], whose columns are those of all parameters with a state, in order; a
newcomer's rows and columns are as they are at first. What others keep in the state of a parameter, as a wrapper does
that averages weights, stays there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta_opt.drop_in.live_states import LiveStates, NamedState
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.autocast import no_autocast
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout
from meta_opt.optimizers.state import NamedTensor, map_state, named_tensors


class Place(NamedTuple):
    """Where a learned optimizer finds a parameter, and where and in what type it computes its steps."""

    network: str
    device: torch.device
    dtype: torch.dtype  # what the network computes in
    depth: float  # place in the model, see Layout
    num_matrices: int  # of the model, see Layout
    shape: torch.Size  # of what this process has of it

    @classmethod
    def of(cls, param: Tensor, network: str, depth: float = 0.0, num_matrices: int = 0) -> Place:
        """float64 for parameters in float64, or else float32, whatever they are in."""
        dtype = torch.float64 if param.dtype == torch.float64 else torch.float32
        return cls(network, param.device, dtype, depth, num_matrices, local(param).shape)


@dataclass
class Bucket:
    """Parameters that are stepped as one vector of N coordinates, one behind the other."""

    params: list[Tensor]
    places: list[Place]
    device: torch.device
    dtype: torch.dtype
    optimizer: OptimizerNetwork
    rollout: Rollout

    @property
    def state(self) -> Any:
        """The state of all its parameters."""
        return self.rollout.state

    def step(self, loss: Tensor | float | None) -> list[Tensor]:
        """The update of what is here of each parameter, in its shape and on its device; the state moves on.

        Args:
            loss: The loss, if it is known.

        Raises:
            MetaOptError: If the learned optimizer reads the loss and it is not known.
        """
        if not any(local(param).numel() for param in self.params):
            return [torch.zeros_like(local(param)) for param in self.params]
        reads, known = self.optimizer.reads, {}
        if "grad" in reads:
            grads = [torch.zeros_like(local(p)) if p.grad is None else local(p.grad) for p in self.params]
            known["grad"] = self._flat(grads)
        if "params" in reads:
            known["params"] = self._flat([local(param) for param in self.params])
        if loss is not None and "loss" in reads:
            known["loss"] = torch.as_tensor(loss).detach().to(self.device, self.dtype).reshape(1)
        with no_autocast(self.device):
            update = self.rollout.step(Evaluation.of(**known))
        whole = [local(param) for param in self.params]
        parts = update.reshape(-1).split([param.numel() for param in whole])
        return [part.view(param.shape).to(param.device) for part, param in zip(parts, whole, strict=True)]

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        parts = [tensor.detach().reshape(-1).to(self.device) for tensor in tensors]
        return torch.cat(parts).to(self.dtype).unsqueeze(0)  # [1, N]


class ParameterStates:
    """The states of all parameters that a learned optimizer works on, in buckets or one by one.

    Changed in place only, so that wrappers of optimizers that share it always see the same.

    Attributes:
        num_steps: How many steps there will be, where that is known.
        taken: How many steps the optimizer has taken: what begins later has as many less to come.
        one_by_one: The state of each parameter that has one. Whatever is changed in it holds.
    """

    def __init__(self, optimizer: OptimizerNetwork) -> None:
        """Nothing has a state yet.

        Args:
            optimizer: With weights, on the CPU.
        """
        self._optimizer = optimizer
        self.num_steps: int | None = None
        self.taken = 0
        self._copies: dict[tuple[torch.device, torch.dtype], OptimizerNetwork] = {}
        self.one_by_one = LiveStates(self._cut_buckets)
        self._names: dict[tuple[str, torch.Size], frozenset[str]] = {}
        self._kept: set[str] = set()  # names of what is in the state of a parameter and not of others
        self._shapes: dict[Tensor, torch.Size] = {}  # that parameters had when they were stepped
        self._buckets: list[Bucket] = []
        self._signature: list[tuple[int, Place]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "one_by_one": {**self.one_by_one}, "_copies": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.one_by_one = LiveStates(self._cut_buckets)
        self.one_by_one.update(state["one_by_one"])

    def _cut_buckets(self) -> None:
        """Give parameters that are stepped in buckets their states."""
        found: list[tuple[Tensor, str, Tensor]] = []
        params = [param for bucket in self._buckets for param in bucket.params]
        for bucket in self._buckets:
            everyone = list(zip(bucket.params, bucket.places, strict=True))
            for named in map(_checked, named_tensors(bucket.state)):
                owners = everyone if named.item is None else [everyone[named.item]]
                parts = _cut(named, [place for _, place in owners])
                for (param, _), part in zip(owners, parts, strict=True):
                    found.append((param, named.name_alone, part.clone(memory_format=torch.contiguous_format)))
        self._buckets.clear()
        self._signature.clear()
        for param in params:  # of a network without a state, too
            self.one_by_one.setdefault(param, {})
        for param, name, part in found:
            self.one_by_one[param][name] = part

    def replace(self, states: Mapping[Tensor, NamedState]) -> None:
        """Put others in place of all states."""
        states = {**states}  # which may be those that there are
        self._buckets.clear()
        self._signature.clear()
        self._shapes.clear()
        self.one_by_one.clear()
        self.one_by_one.update(states)

    def has_state(self, param: Tensor) -> bool:
        """Whether the parameter has been stepped."""
        if any(param is member for bucket in self._buckets for member in bucket.params):
            return True
        state = dict.get(self.one_by_one, param) or {}
        return bool(state) and not (self._kept and self._kept.isdisjoint(state))

    def buckets(self, places: Mapping[Tensor, Place]) -> list[Bucket]:
        """The buckets of exactly these parameters; parameters without a state get one.

        Raises:
            MetaOptError: If a parameter has a state and another shape than when it was stepped last.
        """
        signature = [(id(param), place) for param, place in places.items()]
        if signature != self._signature:
            states = self.one_by_one
            for param, place in places.items():
                before = self._shapes.get(param, place.shape)
                if before != place.shape and self.has_state(param):
                    raise MetaOptError(
                        f"a parameter of {tuple(before)} has become one of {tuple(place.shape)}, which its state does "
                        "not fit: optimizer.state.pop(parameter) lets it begin anew"
                    )
            self._shapes |= {param: place.shape for param, place in places.items()}
            alike: dict[Any, list[Tensor]] = {}
            for param, place in places.items():
                # Of a problem a newcomer takes over what the others share.
                if self._optimizer.scope != "problem" and self.names(place).isdisjoint(states.get(param, ())):
                    states[param] = states.get(param, {}) | self.initial(place)
                alike.setdefault(self._bucket_of(param, place), []).append(param)
            made = [self._join(params, [places[param] for param in params]) for params in alike.values()]
            for param in places:  # dictionaries that were handed out, and saved, stay as they are
                state = states.pop(param, {})
                if of_others := {name: value for name, value in state.items() if name not in self._kept}:
                    states[param] = of_others
            self._buckets.extend(made)
            self._signature.extend(signature)
        return self._buckets

    def names(self, place: Place) -> frozenset[str]:
        """The names of what the learned optimizer keeps of a parameter; others are not its own."""
        alike = place.network, place.shape
        if alike not in self._names:
            # Of a copy, as a network may remember the layout that it has begun with last.
            first = self._first([place], copy.deepcopy(self._copy(place.device, place.dtype)))
            self._names[alike] = frozenset(named.name for named in named_tensors(first))
        return self._names[alike]

    def initial(self, place: Place) -> NamedState:
        """The state of a parameter before its first step."""
        return {named.name: named.tensor for named in map(_checked, named_tensors(self._first([place])))}

    def saved_like(self, place: Place, num_coordinates: int) -> NamedState:
        """What a saved state of a parameter must be like: in names, shapes and the type to compute in.

        Args:
            place: Its place.
            num_coordinates: Of all parameters with a saved state.
        """
        return {
            name: tensor.new_empty(*tensor.shape[:-1], num_coordinates) if axis == "pair" else tensor
            for name, tensor, axis, *_ in map(_checked, named_tensors(self._first([place])))
        }

    def _bucket_of(self, param: Tensor, place: Place) -> Any:
        """What parameters of one bucket have in common."""
        if self._optimizer.scope == "problem":
            return None
        axes = named_tensors(self._first([place]))
        shared = (self.one_by_one[param][named.name] for named in axes if named.axis == "problem")
        bits = tuple(tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy().tobytes() for tensor in shared)
        is_empty = not local(param).numel()  # which not every network can step
        return place.network, place.device, place.dtype, bits, is_empty

    def _join(self, params: list[Tensor], places: list[Place]) -> Bucket:
        device, dtype = _common(places)
        optimizer, state = self._copy(device, dtype), self._first(places)
        names = {named.name_alone for named in named_tensors(state)}
        self._kept |= names
        known = [
            there if (there := self.one_by_one.get(param)) and not names.isdisjoint(there) else None for param in params
        ]
        tensors = []
        for named in map(_checked, named_tensors(state)):
            like, name = named.tensor, named.name_alone
            owners = known if named.item is None else [known[named.item]]
            for each in filter(None, owners):
                if name not in each or (named.axis == "problem" and each[name].shape != like.shape):
                    raise MetaOptError(
                        f"the state of the learned optimizer says that {named.name} is {named.axis}, and it is another "
                        "for several tensors than for one alone: see axis in meta_opt.optimizers.state"
                    )
            if named.axis == "problem" or named.item is not None:
                tensors.append(next((each[name].to(like).clone() for each in owners if each), like))
            elif named.axis == "pair":
                tensors.append(_with_rows(like, params, [each[name] if each else None for each in known]))
            else:
                parts = zip(known, _cut(named, places), strict=True)
                tensors.append(torch.cat([each[name].to(like) if each else initial for each, initial in parts], dim=-1))
        in_order = iter(tensors)
        state = map_state(lambda _: next(in_order), state)
        return Bucket(params, places, device, dtype, optimizer, optimizer.rollout(state))

    def _first(self, places: list[Place], optimizer: OptimizerNetwork | None = None) -> Any:
        """The state of parameters, as one vector, before their first step."""
        device, dtype = _common(places)
        with no_autocast(device):
            optimizer = optimizer or self._copy(device, dtype)
            state = optimizer.init_state(_layout(places), 1)
            if self.num_steps is None:
                return state
            return optimizer.expect(state, max(self.num_steps - self.taken, 1))

    def _copy(self, device: torch.device, dtype: torch.dtype) -> OptimizerNetwork:
        """The learned optimizer on the device, and in the type, of such parameters."""
        if (device, dtype) not in self._copies:
            self._copies[device, dtype] = copy.deepcopy(self._optimizer).to(device, dtype)
        return self._copies[device, dtype]


def _common(places: Sequence[Place]) -> tuple[torch.device, torch.dtype]:
    """On which device, and in what type, parameters are stepped as one vector."""
    return places[0].device, max((place.dtype for place in places), key=lambda dtype: dtype.itemsize)


def _layout(places: Sequence[Place]) -> Layout:
    """Parameters as tensors of a model, each named and grouped so that its network is found."""
    networks = tuple(place.network for place in places)
    shapes, depths = tuple(place.shape for place in places), tuple(place.depth for place in places)
    return Layout(networks, shapes, networks, depths, places[0].num_matrices)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: of a DTensor its shard."""
    return tensor.to_local() if is_dtensor(type(tensor)) else tensor  # type: ignore[attr-defined]


@cache
def is_dtensor(cls: type) -> bool:
    """Whether tensors of a class are spread over processes."""
    # By name: torch.distributed.tensor takes long to import, and who has a DTensor has imported it.
    return any(base.__name__ == "DTensor" for base in cls.__mro__)


def _cut(named: NamedTensor, places: Sequence[Place]) -> Sequence[Tensor]:
    """What each parameter has of a tensor of the state; all of it where it is one parameter's alone."""
    tensor, axis = named.tensor, named.axis
    if axis in ("coordinate", "pair"):
        return tensor.split([place.shape.numel() for place in places], dim=-1 if axis == "coordinate" else -2)
    return tensor.split(1, dim=-1) if axis == "tensor" else (tensor,) * len(places)


def _with_rows(like: Tensor, params: Sequence[Tensor], rows: Sequence[Tensor | None]) -> Tensor:
    """A matrix [..., N, N] that is ``like`` but for the rows that some parameters have, in the columns of these.

    Raises:
        MetaOptError: If the rows have not as many columns as these parameters have coordinates.
    """
    known = [torch.full((local(param).numel(),), row is not None) for param, row in zip(params, rows, strict=True)]
    if not (parts := [row.to(like) for row in rows if row is not None]):
        return like
    columns = torch.cat(known).nonzero().squeeze(1).to(like.device)
    block = torch.cat(parts, dim=-2)
    if block.shape[-1] != len(columns):
        raise MetaOptError(
            f"the state of the learned optimizer is one matrix over {block.shape[-1]} coordinates, and the parameters "
            f"with a state have {len(columns)}: keep the states of all, or clear them all"
        )
    if len(columns) == like.shape[-1]:
        return block
    rows_there = like.index_select(-2, columns).index_copy(-1, columns, block)
    return like.index_copy(-2, columns, rows_there)


def _checked(named: NamedTensor) -> NamedTensor:
    """A tensor of a state that says what its last axis goes through.

    Raises:
        TypeError: If it does not.
    """
    if named.axis == "each" and named.item is None:
        raise TypeError(f"the state's tensor {named.name} is to be of one tensor, and so it must be in a tuple or list")
    if named.axis is None:
        raise TypeError(
            f"the state's tensor {named.name or 'state'} does not say what its last axis goes through: make the state "
            'a dataclass, with a field such as mean: Tensor = axis("coordinate")'
        )
    return named
