"""Traced losses as CUDA graphs: what surrounds the graph, on any machine; on a GPU see test_gpu.py."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from problems_for_tests import Regression

from meta_opt.optimizees import captured, tracing
from meta_opt.optimizees.problems import Problems

STEPS = 3


@pytest.fixture(autouse=True)
def trace_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU as on a GPU, but that a graph is the function that it is made of."""
    monkeypatch.setattr(tracing, "EAGER_FIRST", STEPS)
    monkeypatch.setattr(tracing, "worth_capturing", lambda graph, tensors: True)
    monkeypatch.setattr(captured, "_pool", lambda device: None)


def use(monkeypatch: pytest.MonkeyPatch, capture: Callable[..., Callable[[], None]]) -> None:
    monkeypatch.setattr(captured, "capture", capture)


def graphed(run: Callable[[], None], pool: object) -> Callable[[], None]:
    """As a graph does: the same operations, on the same tensors, whatever the function is then."""
    run()
    return run


@pytest.mark.parametrize("num_problems", [1, 3])
def test_results_are_those_of_the_loss(num_problems: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, graphed)
    problems, plain = (Problems(Regression(), "train", range(num_problems), seed=0) for _ in range(2))
    plain.trace = False
    params, found, expected = problems.initial_params, [], []
    for _ in range(STEPS + tracing.CHECKED + 4):
        found.append(problems.evaluate(params))
        expected.append(plain.evaluate(params))
        params = params - 0.1 * expected[-1].grad
    for one, other in zip(found, expected, strict=True):  # at the end: none is overwritten by those after it
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.grad, other.grad)
    (trace,) = problems._traces._traces.values()
    assert isinstance(trace.graph, captured._Captured)


@pytest.mark.parametrize("wrong", ["fails", "gives something else"])
def test_without_a_graph_it_goes_on(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(run: Callable[[], None], pool: object) -> Callable[[], None]:
        if wrong == "fails":
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        run()
        return lambda: None  # and so the results of the example

    use(monkeypatch, capture)
    problems = Problems(Regression(), "train", [0], seed=0)
    monkeypatch.setattr(captured, "_Captured", captured._Captured if wrong == "fails" else _shifted())
    for _ in range(STEPS + tracing.CHECKED):
        problems.evaluate(problems.initial_params)
    with pytest.warns(UserWarning, match="no CUDA graph of the loss, its evaluations will be slower: (operation|it)"):
        problems.evaluate(problems.initial_params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problems.evaluate(problems.initial_params)
    assert problems._traces.num_in_use == 1


def _shifted() -> type:
    class Shifted(captured._Captured):
        def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(output + 1.0 for output in super().__call__(*tensors))

    return Shifted


def test_what_is_worth_it() -> None:
    graph = torch.fx.symbolic_trace(lambda x: x + 1).graph
    assert not captured.worth_capturing(graph, [torch.zeros(3)])
