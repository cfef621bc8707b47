"""Traced graphs of ATen operations made faster, without a change of any bit.

A small problem's arithmetic takes less time than the calls of its operations. Operations that do nothing are taken out,
and those that stay are called by their names in ``torch``, which takes a quarter of the time that ``torch.ops`` does.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

_aten = torch.ops.aten
_NOTHING_DONE = {_aten.alias.default, _aten.detach.default}
_BY_NUMBERS = {_aten.pow.Tensor_Scalar, _aten.mul.Scalar}  # which do nothing where the number is one
_VIEWS = {
    _aten.view.default, _aten._unsafe_view.default, _aten.expand.default, _aten.permute.default,
    _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims,
}  # fmt: skip


def make_faster(graph: fx.Graph) -> None:
    """Take out what changes no bit, and call what stays by its name in ``torch``."""
    ones: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and (source := _same_as(node, ones)) is not None:
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            _call_by_name(node, node.target)


def _same_as(node: fx.Node, ones: set[fx.Node]) -> fx.Node | None:
    """The node before this one that has the same numbers, in the same order, if it can stand in for it.

    Aliases, views of the same shape, transposing twice, splitting into one part or joining one, powers of one, and
    products with one, among them those with the ones that every backward pass begins with.

    Args:
        node: A call of a function.
        ones: Nodes of nothing but ones; this one is added if it is such.
    """
    args: tuple[Any, ...] = node.args
    if node.target is _aten.cat.default:
        part, *others = args[0]
        return part if not others and _looks_equal(node, part) and _is_computed(part) else None
    if not args or not isinstance(args[0], fx.Node):
        return None
    source, *others = args
    if node.target is _aten.ones_like.default or (source in ones and node.target in _VIEWS):
        ones.add(node)
    if node.target is _aten.t.default and source.target is _aten.t.default:
        return source.args[0]
    if source.target is _aten.split_with_sizes.default and len(source.args[1]) == 1:
        return source.args[0]
    if node.target is _aten.mul.Tensor and isinstance(others[0], fx.Node) and (source in ones or others[0] in ones):
        source = others[0] if source in ones else source
    elif node.target not in _NOTHING_DONE | _VIEWS and not (node.target in _BY_NUMBERS and others[0] == 1):
        return None
    return source if node.target in _NOTHING_DONE or _looks_equal(node, source) else None


def _is_computed(node: fx.Node) -> bool:
    """Whether the graph makes this tensor, so that nobody else holds it."""
    while node.target in _VIEWS:
        (node,) = node.all_input_nodes
    return isinstance(node.target, torch._ops.OpOverload) and not node.target.is_view


def _call_by_name(node: fx.Node, operation: torch._ops.OpOverload[..., Any]) -> None:
    """Call a function of ``torch`` or a method of tensors, where one has the operation's name and takes what it takes.

    Whether it does is tried on the tensors without numbers that the graph was traced with.
    """
    name = operation._schema.name.removeprefix("aten::").replace("_unsafe_view", "view")
    function: Callable[..., Any] | None = getattr(torch, name, None)
    method: Callable[..., Any] | None = getattr(Tensor, name, None)
    is_function = isinstance(function, types.BuiltinFunctionType)
    called = function if is_function else method
    if called is None or not isinstance(called, types.BuiltinFunctionType | types.MethodDescriptorType):
        return
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    try:
        same = _alike(called(*args, **kwargs), node.meta["val"])
    except Exception:  # whatever PyTorch raises at arguments that it does not take
        return
    if same:
        node.op, node.target = ("call_function", called) if is_function else ("call_method", name)


def _looks_equal(node: fx.Node, source: fx.Node) -> bool:
    return _alike(node.meta["val"], source.meta["val"])


def _alike(one: Any, other: Any) -> bool:
    """Whether two tensors, or tuples of tensors, have the same shapes, strides and types."""
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype)
