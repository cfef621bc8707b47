"""Steps as a CUDA graph: what surrounds the graph on any machine, the graph itself where there is a GPU."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import torch
from problems_for_tests import Regression
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Evaluation, Problems, layout_of, problem_generator
from meta_opt.optimizers import captured, learned_soap
from meta_opt.optimizers.captured import CapturedRollout
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm import network as lstm_network

OPTIONS = [
    {},
    {"inputs": "moments", "share": "group"},
    {"inputs": "log_sign+moments", "base_step": 0.03, "output": "tanh", "tensor_features": True},
    {"inputs": "log_sign+moments+scales", "output": "magnitude", "share": "kind"},
    {"inputs": "log_sign+moments+scales+orthogonal", "base_step": 0.03, "output": "magnitude"},
    {"inputs": "log_sign+moments", "base_step": 0.03, "anneal_after": 3},
    {"inputs": "log_sign+moments", "base_step": 0.03, "agreement": 0.5, "num_layers": 0},
]
LAYOUT = layout_of(Regression())


class Captured(CoordinatewiseLSTM):
    """The LSTM whose every rollout without a graph of autograd goes through a CUDA graph."""

    num_worthwhile = 1 << 20

    def rollout(self, state: Any, noise: torch.Generator | None = None) -> Rollout:
        if torch.is_grad_enabled():
            return super().rollout(state, noise)
        return CapturedRollout(self, state, lambda _: CoordinatewiseLSTM.step, self.num_worthwhile)


def built(kind: type[CoordinatewiseLSTM], device: str = "cpu", **options: Any) -> CoordinatewiseLSTM:
    optimizer = kind(**options)
    optimizer.build(LAYOUT, problem_generator(7, "phi"))
    optimizer.engine = "torch"
    return optimizer.double().to(device)


def grads(count: int = 5, problems: int = 2, device: str = "cpu") -> list[Tensor]:
    generator = problem_generator(1, "grads")
    shape = (problems, LAYOUT.num_coordinates)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device) for _ in range(count)]


def evaluation(grad: Tensor) -> Evaluation:
    return Evaluation(grad.sum(1), grad, grad)


def updates(optimizer: OptimizerNetwork, read: list[Tensor]) -> Tensor:
    with torch.no_grad():
        rollout = optimizer.rollout(optimizer.init_state(LAYOUT, len(read[0])))
        return torch.stack([rollout.step(evaluation(grad)) for grad in read])


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """In place of a graph, the operations themselves: on the CPU. Collects what was captured."""
    collected: list[object] = []

    def capture(run: Callable[[], None], pool: Any) -> Callable[[], None]:
        run()  # to warm up, as on a GPU
        collected.append(run.func.__name__)  # type: ignore[attr-defined]
        return run

    monkeypatch.setattr(captured, "capture", capture)
    return collected


@pytest.fixture(autouse=True)
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("options", OPTIONS)
def test_same_updates_as_step_by_step(captures: list[object], options: dict[str, Any]) -> None:
    optimizer, plain = built(Captured, **options), built(CoordinatewiseLSTM, **options)
    for factor in (1.0, 1.5):  # changed in place, as a meta-optimizer does
        for weights in (*optimizer.parameters(), *plain.parameters()):
            weights.data.mul_(factor)
        for _ in range(2):
            torch.testing.assert_close(updates(optimizer, grads()), updates(plain, grads()), rtol=0, atol=0)
    assert len(captures) == 1


@pytest.mark.parametrize("options", OPTIONS)
def test_same_meta_gradient_through_two_unrolls(captures: list[object], options: dict[str, Any]) -> None:
    def of(kind: type[CoordinatewiseLSTM]) -> list[tuple[Tensor, ...]]:
        optimizer = built(kind, **options)
        problems = Problems(Regression(), "train", [0, 1], seed=0, dtype=torch.float64)
        position, found = begin(problems, optimizer), []
        for _ in range(2):
            trajectory = unroll(problems, optimizer, position, 4)
            position = trajectory.end.detach()
            found.append(trajectory)
        return [first_order(trajectory, optimizer, MetaLoss("sum", "constant")).grads for trajectory in found]

    torch.testing.assert_close(of(Captured), of(CoordinatewiseLSTM), rtol=0, atol=0)
    assert captures


class CapturedSOAP(LearnedSOAP):
    """SOAP whose every rollout goes through CUDA graphs: one of steps that turn the bases, and one of the others."""

    def rollout(self, state: Any, noise: torch.Generator | None = None) -> Rollout:
        return CapturedRollout(self, state, learned_soap._function_after, 1 << 20, int(state.steps))


def built_soap(kind: type[LearnedSOAP], device: str = "cpu", dtype: torch.dtype = torch.float64) -> LearnedSOAP:
    optimizer = kind(initial_output=1.0)
    optimizer.build(LAYOUT, problem_generator(7, "phi"))
    return optimizer.to(device, dtype)


def test_steps_that_do_now_one_thing_and_now_another(captures: list[object]) -> None:
    optimizer, plain, read = built_soap(CapturedSOAP), built_soap(LearnedSOAP), grads(20)
    torch.testing.assert_close(updates(optimizer, read), updates(plain, read), rtol=0, atol=0)
    assert len(captures) == 2
    with torch.no_grad():  # a rollout that goes on, where the first step rests
        first = optimizer.rollout(optimizer.init_state(LAYOUT, 2))
        for grad in read[:9]:
            first.step(evaluation(grad))
        second = optimizer.rollout(first.state)
        found = torch.stack([second.step(evaluation(grad)) for grad in read[9:]])
    torch.testing.assert_close(found, updates(plain, read)[9:], rtol=0, atol=0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_while_a_graph_is_made_spoils_nothing(
    error: type[BaseException], captures: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory, or an impatient user, in the step in which the second graph is made: the step can be repeated."""
    optimizer, read, numbers = built_soap(CapturedSOAP), grads(20), count()
    capture = captured.capture

    def failing(run: Callable[[], None], pool: Any) -> Callable[[], None]:
        replay = capture(run, pool)
        if next(numbers) == 1:
            raise error("not now")
        return replay

    monkeypatch.setattr(captured, "capture", failing)
    found = []
    with torch.no_grad():
        rollout = optimizer.rollout(optimizer.init_state(LAYOUT, 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for grad in read:
                try:
                    found.append(rollout.step(evaluation(grad)))
                except KeyboardInterrupt:
                    found.append(rollout.step(evaluation(grad)))
    torch.testing.assert_close(torch.stack(found), updates(built_soap(LearnedSOAP), read), rtol=0, atol=0)


def test_where_the_second_graph_cannot_be_made_steps_go_on_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = count()

    def capture(run: Callable[[], None], pool: Any) -> Callable[[], None]:
        if next(numbers):
            raise RuntimeError("operation not permitted")
        run()
        return run

    monkeypatch.setattr(captured, "capture", capture)
    optimizer, read = built_soap(CapturedSOAP), grads(20)
    with pytest.warns(UserWarning, match="slower: operation not permitted$"):
        found = updates(optimizer, read)
    torch.testing.assert_close(found, updates(built_soap(LearnedSOAP), read), rtol=0, atol=0)
    assert optimizer not in captured._graphs


def test_rollouts_at_the_same_time_do_not_disturb_each_other(captures: list[object]) -> None:
    optimizer = built(Captured)
    read = grads()
    expected = updates(built(CoordinatewiseLSTM), read)
    with torch.no_grad():
        one, two = (optimizer.rollout(optimizer.init_state(LAYOUT, 2)) for _ in range(2))
        found = [[rollout.step(evaluation(grad)) for rollout in (one, two)] for grad in read]
    torch.testing.assert_close(torch.stack([row[0] for row in found]), expected, rtol=0, atol=0)
    torch.testing.assert_close(torch.stack([row[1] for row in found]), expected, rtol=0, atol=0)
    assert len(captures) == 2


def test_a_state_stays_what_it_was(captures: list[object]) -> None:
    optimizer = built(Captured)
    first, *rest = grads()
    with torch.no_grad():
        rollout = optimizer.rollout(optimizer.init_state(LAYOUT, 2))
        rollout.step(evaluation(first))
        state = rollout.state
        before = state.hidden[0][0].clone()
        expected = [rollout.step(evaluation(grad)) for grad in rest]
        assert torch.equal(state.hidden[0][0], before)
        del rollout
        again = optimizer.rollout(state)
        torch.testing.assert_close([again.step(evaluation(grad)) for grad in rest], expected, rtol=0, atol=0)


@pytest.mark.parametrize("change", ["problems", "type", "weights"])
def test_another_arrangement_is_another_graph(captures: list[object], change: str) -> None:
    optimizer = built(Captured)
    updates(optimizer, grads())
    read = grads(problems=3) if change == "problems" else grads()
    plain = built(CoordinatewiseLSTM)
    if change == "type":
        optimizer, plain, read = optimizer.float(), plain.float(), [grad.float() for grad in read]
    if change == "weights":
        for weights in (*optimizer.parameters(), *plain.parameters()):
            weights.data = 2 * weights.data
    torch.testing.assert_close(updates(optimizer, read), updates(plain, read), rtol=0, atol=0)
    assert len(captures) == 2


def test_made_in_inference_mode_it_serves_training(captures: list[object]) -> None:
    optimizer = built(Captured)
    with torch.inference_mode():
        updates(optimizer, grads())
    torch.testing.assert_close(updates(optimizer, grads()), updates(built(CoordinatewiseLSTM), grads()))
    assert len(captures) == 1


def test_without_a_graph_steps_go_one_by_one_after_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(run: Callable[[], None], pool: Any) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(captured, "capture", capture)
    optimizer = built(Captured)
    with pytest.warns(UserWarning, match="slower: operation not permitted when stream is capturing$"):
        found = updates(optimizer, grads())
    assert torch.equal(found, updates(built(CoordinatewiseLSTM), grads()))
    assert torch.equal(updates(optimizer, grads()), found)  # a second warning would be an error


@pytest.mark.parametrize("wrong", ["nothing", "twice", "not a number", "no state"])
def test_a_graph_with_another_update_is_not_used(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    def capture(run: Callable[[], None], pool: Any) -> Callable[[], None]:
        step = run.func.__self__  # type: ignore[attr-defined]
        run()

        def replay() -> None:
            before = [tensor.clone() for tensor in captured._tensors(step.state)]
            for _ in range({"nothing": 0, "twice": 2}.get(wrong, 1)):
                run()
            if wrong == "not a number":
                step.update.fill_(torch.nan)
            if wrong == "no state":
                torch._foreach_copy_(captured._tensors(step.state), before)

        return replay

    monkeypatch.setattr(captured, "capture", capture)
    optimizer = built(Captured)
    with pytest.warns(UserWarning, match="its steps are others"):
        found = updates(optimizer, grads())
    assert torch.equal(found, updates(built(CoordinatewiseLSTM), grads()))


def test_gradients_that_are_not_finite_do_not_count_against_a_graph(captures: list[object]) -> None:
    read = grads()
    read[0][0, 0] = float("nan")
    found = updates(built(Captured), read)
    torch.testing.assert_close(found, updates(built(CoordinatewiseLSTM), read), rtol=0, atol=0, equal_nan=True)


def test_a_graph_goes_with_its_optimizer(captures: list[object]) -> None:
    optimizer = built(Captured)
    updates(optimizer, grads())
    graph = weakref.ref(captured._graphs[optimizer][0])
    assert graph() is not None
    del optimizer
    gc.collect()
    assert graph() is None


class Seen(TorchDispatchMode):
    """What a step asks of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [item for item in tree_leaves((args, kwargs, result)) if isinstance(item, Tensor)]
        self.count += 1
        if "_local_scalar_dense" in str(func) or any(tensor.device.type != "cuda" for tensor in tensors):
            self.waits.append(str(func))
        return result


@pytest.mark.skipif(
    TorchVersion(torch.__version__) < (2, 10) and not torch.cuda.is_available() and torch.version.cuda is not None,
    reason="this PyTorch asks the driver, which there is not, about tensors that have no numbers",
)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_never_waits_for_the_gpu(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on tensors that have a device but no numbers: whatever waits cannot be captured."""
    optimizer, seen = built(CoordinatewiseLSTM, **options), Seen()

    def capture(run: Callable[[], None], pool: Any) -> Callable[[], None]:
        run()  # to warm up
        with seen:
            run()
        return run

    monkeypatch.setattr(captured, "capture", capture)
    lstm_network._column.cache_clear()
    try:
        with FakeTensorMode(), torch.no_grad():
            for module in optimizer.modules():
                for name, weights in module._parameters.items():
                    module._parameters[name] = nn.Parameter(torch.empty(weights.shape, device="cuda"))  # type: ignore
            monkeypatch.setattr(captured, "_NUM_COMPARED", 0)
            monkeypatch.setattr(captured, "_signature", lambda *_: None)  # asks where they lie: nowhere
            grad = torch.empty(2, LAYOUT.num_coordinates, device="cuda")
            static = captured._StaticStep(optimizer, CoordinatewiseLSTM.step, optimizer.init_state(LAYOUT, 2), grad)
            static.capture(CoordinatewiseLSTM.step, optimizer.init_state(LAYOUT, 2), grad)
    finally:
        lstm_network._column.cache_clear()
    assert seen.count > 10
    assert not seen.waits


def test_the_graphs_of_one_optimizer_are_few(captures: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as have coordinates that are worth it; those in use stay, and others go when there is no room."""
    optimizer, plain = built(Captured), built(CoordinatewiseLSTM)
    size = LAYOUT.num_coordinates
    monkeypatch.setattr(Captured, "num_worthwhile", 5 * size)
    for problems in (2, 3, 2, 3):
        assert torch.equal(updates(optimizer, grads(problems=problems)), updates(plain, grads(problems=problems)))
    assert len(captures) == 2
    updates(optimizer, grads(problems=1))
    assert [step.num_coordinates for step in captured._graphs[optimizer]] == [3 * size, size]
    with torch.no_grad():
        kept = [optimizer.rollout(optimizer.init_state(LAYOUT, 2)) for _ in range(3)]
        found = [[rollout.step(evaluation(grad)) for rollout in kept] for grad in grads()]
    for column in zip(*found, strict=True):
        assert torch.equal(torch.stack(column), updates(plain, grads()))
    assert [step.num_coordinates for step in captured._graphs[optimizer]] == [2 * size, 2 * size]


def test_a_rollout_that_is_too_large_leaves_other_graphs_alone(captures: list[object]) -> None:
    optimizer = built(Captured)
    updates(optimizer, grads())
    optimizer.num_worthwhile = 3 * LAYOUT.num_coordinates
    read = grads(problems=4)
    assert torch.equal(updates(optimizer, read), updates(built(CoordinatewiseLSTM), read))
    assert len(captures) == len(captured._graphs[optimizer]) == 1


def test_not_under_autocast(captures: list[object]) -> None:
    optimizer = built(Captured)
    with torch.autocast("cpu", torch.bfloat16):
        updates(optimizer, grads())
    assert not captures


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS)
def test_graph_on_a_gpu(options: dict[str, Any]) -> None:
    optimizer = built(CoordinatewiseLSTM, "cuda", **options)
    read = grads(device="cuda")
    with torch.no_grad():
        assert isinstance(optimizer.rollout(optimizer.init_state(LAYOUT, 2)), CapturedRollout)
    for _ in range(2):
        found = updates(optimizer, read).cpu()
        torch.testing.assert_close(found, updates(built(CoordinatewiseLSTM, **options), grads()), rtol=1e-9, atol=1e-12)
    assert len(captured._graphs[optimizer]) == 1


@pytest.mark.gpu
def test_graphs_of_soap_on_a_gpu() -> None:
    optimizer, read = built_soap(LearnedSOAP, "cuda", torch.float32), [grad.float() for grad in grads(20)]
    plain = built_soap(LearnedSOAP, dtype=torch.float32)
    for _ in range(2):
        found = updates(optimizer, [grad.cuda() for grad in read]).cpu()
        torch.testing.assert_close(found, updates(plain, read), rtol=1e-3, atol=1e-6)
    (step,) = captured._graphs[optimizer]
    assert len(step.captured) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("wait", [lambda number: number.item(), lambda number: torch.cuda.synchronize()])
def test_after_a_capture_that_failed_a_gpu_goes_on(wait: Callable[[Tensor], object]) -> None:
    number, stream = torch.zeros((), device="cuda"), torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        captured.capture(lambda: wait(number) and None)
    assert torch.cuda.current_stream() == stream
    assert torch.randn(3, device="cuda").isfinite().all()
    updates(built(CoordinatewiseLSTM, "cuda"), grads(device="cuda"))
