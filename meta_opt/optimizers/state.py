"""The state of an optimizer: what form it may have, what its axes go through, and how to walk over its tensors.

A state is a tensor, or a dataclass, tuple, list or dict of states; everything else in it is left as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

State = TypeVar("State")
Axis = Literal["coordinate", "pair", "tensor", "each", "problem"]


def axis(name: Axis | None) -> Any:
    """A dataclass field whose tensors have this for their last axis.

        @dataclass(frozen=True)
        class Moments:
            mean: Tensor = axis("coordinate")  # [B, N]
            size: Tensor = axis("tensor")  # [B, S]
            decay: Tensor = axis("problem")  # []

    ``"coordinate"``: the N coordinates of each problem, as [..., B, N] or [..., B·N]. ``"tensor"``: the S tensors of
    each problem, as [..., B, S] or [..., B·S]. ``"pair"``: the last two axes go through coordinates, [..., B, N, N],
    where the scope is the problem. ``"each"``: a tuple of S items, in the order of the tensors; what is in an item is
    that tensor's alone, whatever it says of its own fields. ``"problem"``: none of these; the state is that of a
    problem as a whole. None: a dataclass, which says it of each of its own fields.
    """
    return dataclasses.field(metadata={"axis": name})


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to every tensor of a state, keeping its form."""
    if isinstance(state, Tensor):
        return function(state)  # type: ignore[return-value]
    if isinstance(state, tuple):
        items = [map_state(function, item) for item in state]
        return type(state)(*items) if hasattr(state, "_fields") else type(state)(items)
    if isinstance(state, list):
        return [map_state(function, item) for item in state]  # type: ignore[return-value]
    if isinstance(state, dict):
        return {key: map_state(function, item) for key, item in state.items()}  # type: ignore[return-value]
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return dataclasses.replace(
            state,
            **{
                item.name: map_state(function, getattr(state, item.name))
                for item in dataclasses.fields(state)
                if item.init
            },
        )
    return state


class NamedTensor(NamedTuple):
    """A tensor of a state.

    Attributes:
        name: Its path in the state, such as ``cell.0.1``.
        tensor: The tensor.
        axis: What its last axis goes through, where the state says so; of pairs its last two.
        item: Which of the S tensors it belongs to, where that is one.
        name_alone: The path that it has in the state of that tensor alone.
    """

    name: str
    tensor: Tensor
    axis: Axis | None
    item: int | None
    name_alone: str


def named_tensors(state: Any) -> list[NamedTensor]:
    """All tensors of a state, in the order in which :func:`map_state` meets them."""
    return list(_walk(state, "", "", None, None))


def _walk(state: Any, path: str, path_alone: str, of_field: Axis | None, item: int | None) -> Iterator[NamedTensor]:
    if isinstance(state, Tensor):
        yield NamedTensor(path, state, of_field, item, path_alone)
        return
    parts: list[tuple[object, Any, Axis | None]] = []
    if isinstance(state, tuple | list):
        parts = [(index, part, of_field) for index, part in enumerate(state)]
    elif isinstance(state, dict):
        parts = [(key, part, of_field) for key, part in state.items()]
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        parts = [
            (field.name, getattr(state, field.name), of_field if item is not None else _axis_of(field) or of_field)
            for field in dataclasses.fields(state)
            if field.init
        ]
    begins_items = of_field == "each" and item is None and isinstance(state, tuple | list)
    for key, part, of_part in parts:
        key_alone = 0 if begins_items else key
        yield from _walk(
            part,
            _join(path, key),
            _join(path_alone, key_alone),
            of_part,
            key if begins_items else item,  # type: ignore[arg-type]
        )


def _axis_of(field: dataclasses.Field[Any]) -> Axis | None:
    return field.metadata.get("axis")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def map_axes(function: Callable[[Tensor, Axis | None], Tensor], state: State) -> State:
    """Apply ``function`` to every tensor of a state and what its last axis goes through."""
    axes = iter([named.axis for named in named_tensors(state)])
    return map_state(lambda tensor: function(tensor, next(axes)), state)


def columns_of(state: State, columns: Tensor, num_problems: int, num_coordinates: int) -> State:
    """The state of some of the N coordinates, for optimizers whose scope is the coordinate.

    Args:
        state: That of all, with its axes.
        columns: Which coordinates, [n], ascending.
        num_problems: B.
        num_coordinates: N.
    """

    def cut(tensor: Tensor, of: Axis | None) -> Tensor:
        if of != "coordinate":
            return tensor
        if tensor.shape[-1] == num_coordinates:
            return tensor.index_select(-1, columns)
        return tensor.unflatten(-1, (num_problems, num_coordinates)).index_select(-1, columns).flatten(-2)

    return map_axes(cut, state)
