"""Graphs are made faster, and not otherwise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from meta_opt.optimizees.graphs import make_faster

aten = torch.ops.aten
x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def traced(function: Callable[[Tensor], object]) -> tuple[fx.GraphModule, list[object]]:
    """The graph, made faster, and the names or targets of what it calls."""
    module = make_fx(function, tracing_mode="fake")(x)
    make_faster(module.graph)
    module.recompile()
    return module, [node.target for node in module.graph.nodes if node.op.startswith("call")]


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (lambda x: aten.mul.Scalar(aten.pow.Tensor_Scalar(x.exp(), 1), 1), [torch.exp]),
        (lambda x: x.exp().detach().view(3, 4).unsqueeze(0).squeeze(0), [torch.exp, torch.unsqueeze, torch.squeeze]),
        (lambda x: x.exp().t().t(), [torch.exp]),
        (lambda x: torch.ones_like(x).view(12).view(3, 4) * x.exp(), [torch.exp]),
        (lambda x: torch.cat([x.split([4], -1)[0].exp()]), [torch.exp]),
        (lambda x: aten._unsafe_view.default(x.exp(), [4, 3]), [torch.exp, "view"]),
        (lambda x: aten.sigmoid_backward.default(x, x), [aten.sigmoid_backward.default]),
        (lambda x: x.new_zeros(2) + 2.0, ["new_zeros", torch.add]),
    ],
)
def test_what_is_left_and_how_it_is_called(function: Callable[[Tensor], Tensor], calls: list[object]) -> None:
    module, found = traced(function)
    assert found == calls
    assert torch.equal(module(x), function(x))
    assert module(x).stride() == function(x).stride()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.ones_like(x) * x[:1],  # the product has more rows
        lambda x: aten.mul.Scalar(x.t(), 1),  # and other strides
        lambda x: aten.pow.Tensor_Scalar(x, 2),
        lambda x: aten.mul.Scalar(x.long(), 1.0),  # and another type
        lambda x: torch.cat([x, x]),
        lambda x: torch.cat([x.t()]),
        lambda x: x.split([1, 3], -1)[0] + 0.0,
        lambda x: x.max(1)[0] + x.sum(1, keepdim=True).squeeze(1),
        lambda x: torch.where(x > 0, x, 0.0).mean(0, dtype=torch.float64),
        lambda x: torch.nn.functional.gelu(x),
    ],
)
def test_what_does_something_stays(function: Callable[[Tensor], Tensor]) -> None:
    found, expected = traced(function)[0](x), function(x)
    assert torch.equal(found, expected)
    assert (found.dtype, found.stride()) == (expected.dtype, expected.stride())


@pytest.mark.parametrize("function", [lambda x: torch.cat([x]), lambda x: torch.cat([x.view(12)])])
def test_joining_an_argument_copies_it(function: Callable[[Tensor], Tensor]) -> None:
    assert traced(function)[0](x).data_ptr() != x.data_ptr()
