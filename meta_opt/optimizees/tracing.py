"""Losses and gradients of B problems as a graph of ATen operations, made once and run at every step.

``torch.vmap`` and autograd take longer than the arithmetic of a small problem. What they do is the same at every step,
so it is traced (``make_fx``, no compiler), cleaned of operations that do nothing, and run without them. The operations
and their order are those of the eager evaluation, and so are the results, to the last bit in nearly all cases.

A trace is used only where it is safe, see :class:`Traces`.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from meta_opt.optimizees.captured import captured, worth_capturing
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.dependencies import Dependencies, NotTraceableError, recording_reads
from meta_opt.optimizees.graphs import make_faster

Function = Callable[..., tuple[Tensor, ...]]
"""Of tensors, the first θ: (loss [B],) or (loss [B], gradient [B, N])."""

EAGER_FIRST = 300  # evaluations before tracing, which takes as long as it saves in some hundred of them
CHECKED = 3  # evaluations by both
_MOST_TRACES = 32  # of different shapes, per optimizee; the one that was not used for longest goes first
_MOST_CHANGES = 3  # of what the loss depends on, before tracing is given up


@dataclass
class _Trace:
    """Where the tracing of one function for one signature stands."""

    evaluations: int = 0
    checks: int = 0
    changes: int = 0
    graph: Function | None = None
    capture: bool = False
    dependencies: Dependencies | None = None
    why_not: str = ""


@dataclass
class Traces:
    """The traces of one optimizee, and of shallow copies of it.

    The first ``EAGER_FIRST`` evaluations of a signature (shapes, strides, types and devices of all tensors, and the
    modes that change what is computed) run as they are: a short run is not worth a trace. Then the function is traced,
    with tensors that hold no numbers, so that whatever looks at a value (``.item()``, ``if loss > 0``) fails instead of
    being frozen; twice, so that random numbers and counters show; and it is not used if it changes anything in place
    or draws random numbers. Three further evaluations are made both ways. Their results must be equal to the last bit,
    so that a run that is resumed, and evaluates eagerly at first, goes on as it would have; on GPUs, where sums come in
    no certain order, to 32 units in the last place of the largest number of the problem. From then on the graph runs
    alone, if it is small and on a GPU as a CUDA graph, as long as nothing changes that the loss reads
    (:class:`Dependencies`): if an attribute does, it is traced anew. Whatever fails at any point runs as it is.
    """

    _traces: OrderedDict[Any, _Trace] = field(default_factory=OrderedDict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Traces:
        """Copies begin anew: their attributes are other objects."""
        return Traces()

    def __reduce__(self) -> tuple[type[Traces], tuple[()]]:
        return Traces, ()

    def run(self, kind: Any, function: Function, tensors: list[Tensor], optimizee: Optimizee) -> tuple[Tensor, ...]:
        """``function(*tensors)``, by its trace if there is one.

        Args:
            kind: Tells functions of one optimizee apart.
            function: What calls the loss of ``optimizee``; pure but for the loss.
            tensors: θ and all tensors that change from call to call.
            optimizee: Whose loss it is.
        """
        if not _is_plain_call(tensors):
            return function(*tensors)
        trace = self._find((kind, type(optimizee), _signature(tensors)))
        if trace.why_not:
            return function(*tensors)
        if trace.dependencies is not None and not trace.dependencies.unchanged(optimizee):
            self._start_anew(trace)
        if trace.graph is None:
            trace.evaluations += 1
            if trace.evaluations > EAGER_FIRST and not trace.why_not:
                _try(_trace, trace, function, tensors, optimizee)
            return function(*tensors)
        if trace.checks < CHECKED:
            return _try(_check, trace, function, tensors, optimizee) or function(*tensors)
        with torch.no_grad():
            return trace.graph(*tensors)

    def reasons(self) -> list[str]:
        """For each signature why it is not traced; empty where it is, or where it is too early to say."""
        return [trace.why_not for trace in self._traces.values()]

    @property
    def num_in_use(self) -> int:
        """How many graphs run alone."""
        return sum(trace.graph is not None and trace.checks >= CHECKED for trace in self._traces.values())

    def _find(self, key: Any) -> _Trace:
        trace = self._traces.get(key)
        if trace is None:
            trace = self._traces[key] = _Trace()
            if len(self._traces) > _MOST_TRACES:
                self._traces.popitem(last=False)
        self._traces.move_to_end(key)
        return trace

    @staticmethod
    def _start_anew(trace: _Trace) -> None:
        trace.changes += 1
        trace.graph, trace.dependencies, trace.checks, trace.evaluations = None, None, 0, EAGER_FIRST // 2
        if trace.changes > _MOST_CHANGES:
            trace.why_not = "what the loss reads changes again and again"


def _try(
    what: Callable[..., Any], trace: _Trace, function: Function, tensors: list[Tensor], optimizee: Optimizee
) -> Any:
    """``what(...)``; where it fails, the trace is given up, since the loss also runs without."""
    try:
        return what(trace, function, tensors, optimizee)
    except Exception as error:  # whatever a loss or the tracer may raise
        trace.graph = trace.dependencies = None
        trace.why_not = f"{type(error).__name__}: {error}"
        return None


def _trace(trace: _Trace, function: Function, tensors: list[Tensor], optimizee: Optimizee) -> None:
    """Trace twice, and note what the loss depends on."""
    from torch.fx.experimental.proxy_tensor import make_fx  # imports much

    def record() -> fx.GraphModule:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the loss, which has given them when it ran as it is
            return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)

    module, reads = recording_reads(optimizee, record)
    dependencies = Dependencies(optimizee, reads)
    again, reads_again = recording_reads(optimizee, record)
    if not dependencies.unchanged(optimizee):
        raise NotTraceableError("the loss changes something")
    if reads != reads_again or not _equal_graphs(module, again):
        raise NotTraceableError("the loss is not the same from call to call")
    _refuse(module.graph)
    make_faster(module.graph)
    module.recompile()
    trace.graph, trace.dependencies = module.forward, dependencies
    trace.capture = worth_capturing(module.graph, tensors)


def _check(trace: _Trace, function: Function, tensors: list[Tensor], optimizee: Optimizee) -> tuple[Tensor, ...]:
    """The eager results, once the graph has been seen to give the same."""
    assert trace.graph is not None
    expected = function(*tensors)
    with torch.no_grad():
        found = trace.graph(*tensors)
    if not all(map(_equal_results, found, expected)):
        raise NotTraceableError("the trace gives other results")
    trace.checks += 1
    if trace.checks == CHECKED and trace.capture:
        with torch.no_grad():
            trace.graph = captured(trace.graph, tensors, _equal_results)
    return expected


def _is_plain_call(tensors: list[Tensor]) -> bool:
    """Whether nothing stands between the call and PyTorch's operations that a trace would not see."""
    return (
        torch._C._len_torch_function_stack() == 0
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and not torch.is_inference_mode_enabled()
        and all(
            type(tensor) is Tensor
            and tensor.layout is torch.strided
            and not tensor.is_complex()  # whose conjugation may still be waiting
            and not torch.is_autocast_enabled(tensor.device.type)
            for tensor in tensors
        )
    )


def _signature(tensors: list[Tensor]) -> Any:
    described = tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)
    stream = torch.cuda.current_stream(tensors[0].device) if tensors[0].is_cuda else None
    return described, stream, torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()


def _equal_results(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN to NaN; on GPUs to rounding."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.device.type == "cpu":
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    scale = other.abs().reshape(len(other), -1).amax(1).nan_to_num(0.0, 0.0)
    tolerance = (32 * torch.finfo(other.dtype).eps * scale).reshape(-1, *[1] * (other.dim() - 1))
    close = (one - other).abs() <= tolerance
    return bool((close | (one == other) | (one.isnan() & other.isnan())).all())


def _equal_graphs(one: fx.GraphModule, other: fx.GraphModule) -> bool:
    constants = [dict(_constants(module)) for module in (one, other)]
    return (
        str(one.code) == str(other.code)
        and constants[0].keys() == constants[1].keys()
        and all(_same(constants[0][name], constants[1][name]) for name in constants[0])
    )


def _constants(module: fx.GraphModule) -> list[tuple[str, Any]]:
    return [
        (str(node.target), getattr(module, str(node.target))) for node in module.graph.nodes if node.op == "get_attr"
    ]


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other))


def _refuse(graph: fx.Graph) -> None:
    """Raise if the graph does more than compute."""
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise NotTraceableError(f"the loss looks at the value of a tensor ({node.target})")
        if isinstance(value, Tensor) and not all(type(size) is int for size in value.shape):
            raise NotTraceableError(f"the loss makes tensors of a shape that depends on values ({node.target})")
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise NotTraceableError(f"the loss draws random numbers ({node.target})")
        if node.target._schema.is_mutable:
            raise NotTraceableError(f"the loss changes a tensor in place ({node.target})")
