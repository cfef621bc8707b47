"""The native step and replay against the torch implementation and its autograd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Generator, Tensor

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm.inputs import READS, Reads
from meta_opt.optimizers.lstm.native import Kernel, Weights
from meta_opt.optimizers.lstm.settings import NetworkSettings
from meta_opt.optimizers.lstm.state import LSTMState
from meta_opt.optimizers.state import map_state

FLOAT, DOUBLE = torch.float32, torch.float64
TOLERANCE = {FLOAT: 1e-5, DOUBLE: 1e-10}
DEFAULT = {"num_layers": 2, "hidden_size": 20, "inputs": "log_sign"}


@dataclass
class Case:
    """Options of the optimizer, and what it works on. 67 coordinates are no multiple of any block."""

    options: dict[str, object] = field(default_factory=dict)
    problems: int = 1
    coordinates: int = 67
    steps: int = 5

    def __str__(self) -> str:
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        return f"{options or 'default'}-B{self.problems}-N{self.coordinates}-T{self.steps}"


SCALES = "log_sign+moments+scales"
ORTHOGONAL = "log_sign+moments+scales+orthogonal"
# Every pair of values of two options occurs, and each of T = 1, 5, 20, 50.
CASES = [
    *(
        Case({"num_layers": layers, "hidden_size": size, "inputs": inputs, "output": output, "base_step": base}, *shape)
        for layers, size, inputs, output, base, shape in [
            (0, 1, "none", "linear", 0.0, (1, 67, 5)),
            (0, 5, "log_sign", "tanh", 0.03, (3, 40, 5)),
            (0, 20, "moments", "linear", 0.03, (5, 13, 20)),
            (0, 32, "log_sign+moments", "tanh", 0.0, (1, 67, 20)),
            (1, 1, "log_sign", "tanh", 0.0, (5, 13, 20)),
            (1, 5, "none", "linear", 0.03, (3, 40, 1)),
            (1, 20, "log_sign+moments", "linear", 0.0, (1, 67, 5)),
            (1, 32, "moments", "tanh", 0.03, (3, 40, 5)),
            (2, 1, "moments", "linear", 0.0, (3, 40, 20)),
            (2, 5, "log_sign+moments", "tanh", 0.03, (5, 13, 5)),
            (2, 20, "none", "tanh", 0.0, (3, 40, 20)),
            (2, 32, "log_sign", "linear", 0.03, (1, 67, 1)),
            (3, 1, "log_sign+moments", "tanh", 0.03, (1, 67, 5)),
            (3, 5, "moments", "linear", 0.0, (1, 67, 20)),
            (3, 20, "log_sign", "linear", 0.03, (5, 13, 5)),
            (3, 32, "none", "tanh", 0.0, (3, 40, 5)),
        ]
    ),
    Case(problems=128, coordinates=10, steps=20),  # the quadratic
    Case(coordinates=1200, steps=50),
    Case({"share": "group", "inputs": "log_sign+moments", "base_step": 0.03}, problems=3, steps=20),
    Case({"share": "tensor"}, problems=2, coordinates=300),
    Case({"inputs": SCALES, "output": "magnitude", "base_step": 0.03, "share": "tensor"}, problems=3, steps=20),
    Case({"inputs": SCALES, "output": "linear", "share": "tensor", "num_layers": 0}, problems=2),
    Case({"inputs": SCALES, "output": "tanh", "share": "tensor", "hidden_size": 5}, coordinates=200),
    Case({"inputs": ORTHOGONAL, "output": "magnitude", "base_step": 0.03, "share": "tensor"}, problems=3, steps=20),
    Case({"inputs": ORTHOGONAL, "output": "tanh", "hidden_size": 5, "share": "tensor"}, problems=2, coordinates=200),
    Case({"inputs": ORTHOGONAL, "base_step": 0.1, "num_layers": 0, "share": "tensor"}),
    Case({"output": "magnitude", "num_layers": 0, "base_step": 0.03}, problems=3),
    Case({"inputs": "log_times_sign"}, problems=3),
    Case({"inputs": "log_times_sign", "p": 4.0, "base_step": 0.03}, coordinates=200),
    Case({"inputs": "log_sign+moments", "p": 1.0, "num_layers": 1}, coordinates=200),
    Case({"output": "magnitude", "num_layers": 1, "hidden_size": 5, "inputs": "none"}, coordinates=200),
]


@dataclass
class Run:
    """One case with its data: T gradients and coefficients, and a state that is not zero."""

    optimizer: CoordinatewiseLSTM
    state: LSTMState
    grads: list[Tensor]
    coefficients: list[Tensor]

    @property
    def settings(self) -> NetworkSettings:
        return NetworkSettings(
            reads=replace(READS[self.optimizer.inputs], p=self.optimizer.p),
            bounded=self.optimizer.output == "tanh",
            magnitude=self.optimizer.output == "magnitude",
            output_scale=self.optimizer.output_scale,
            base_step=self.optimizer.base_step,
        )

    @property
    def weights(self) -> list[Weights]:
        return [
            Weights(tuple(net.weights), tuple(net.biases), net.output_weight, net.output_bias)
            for net in self.optimizer.networks.values()
        ]


def tensors(weights: list[Weights]) -> list[Tensor]:
    return [t for item in weights for t in (*item.weights, *item.biases, item.output_weight, item.output_bias)]


def prepare(case: Case, dtype: torch.dtype, grads: list[Tensor] | None = None) -> Run:
    """The same numbers for any dtype; gradients of many magnitudes unless they are given."""
    generator = Generator().manual_seed(0)
    third = case.coordinates // 3
    second = torch.zeros(third).view(2 - third % 2, -1)  # a matrix
    layout = Layout.of(
        {"first": torch.zeros(third), "second": second, "third": torch.zeros(case.coordinates - 2 * third)},
        {"first": "a", "second": "b", "third": "b"},
    )
    optimizer = CoordinatewiseLSTM(**{**DEFAULT, **case.options})  # type: ignore[arg-type]
    optimizer.build(layout, generator)
    for param in optimizer.parameters():
        param.data += 0.3 * torch.randn(param.shape, generator=generator)
    optimizer.to(dtype)

    def random() -> Tensor:
        return torch.randn(case.problems, case.coordinates, generator=generator, dtype=DOUBLE)

    recorded = [random() * torch.exp(3.0 * random()) for _ in range(case.steps + 2)]
    if grads is not None:
        recorded[2:] = grads
    recorded = [grad.to(dtype) for grad in recorded]
    coefficients = [random().to(dtype) for _ in range(len(recorded) - 2)]
    state = optimizer.init_state(layout, case.problems)
    with torch.no_grad():
        for grad in recorded[:2]:
            _, state, *_ = optimizer.step(Evaluation(grad.sum(1), grad, grad), state)
    return Run(optimizer, state, recorded[2:], coefficients)


def torch_run(run: Run) -> tuple[list[Tensor], LSTMState, list[Tensor]]:
    """Updates, final state and gradients, from torch."""
    inner, state, updates = torch.zeros((), dtype=run.grads[0].dtype), run.state, []
    for grad, coefficient in zip(run.grads, run.coefficients, strict=True):
        update, state, *_ = run.optimizer.step(Evaluation(grad.sum(1), grad, grad), state)
        inner = inner + torch.dot(coefficient.flatten(), update.flatten())
        updates.append(update.detach())
    return updates, state, list(torch.autograd.grad(inner, tensors(run.weights), materialize_grads=True))


def native_run(kernel: Kernel, run: Run) -> tuple[list[Tensor], LSTMState, list[Tensor]]:
    """The same from the kernel."""
    settings, weights, segments = run.settings, run.weights, run.state.segments
    start, end = run.state, map_state(torch.clone, run.state)
    rollout = kernel.rollout(settings, weights, segments, run.grads[0].shape, end.hidden, end.cell, end.moments)
    last, grads, read = run.state.read_gradients(run.grads, kernel)
    of_matrices = start.read_directions(run.settings.reads, grads)
    of_steps = zip(grads, *filter(None, (read, of_matrices)), strict=True)
    updates = [rollout.step(grad, *of_step) for grad, *of_step in of_steps]
    states = start.hidden, start.cell, start.moments
    gradients = kernel.replay(settings, weights, segments, grads, run.coefficients, *states, read, of_matrices)
    return updates, replace(end, scales=last.scales, steps=last.steps), tensors(gradients)


def state_tensors(state: LSTMState) -> list[Tensor]:
    moments = [] if state.moments is None else [state.moments.mean, state.moments.square, state.moments.decay]
    scales = [] if state.scales is None else [state.scales.square, state.steps]
    return [tensor.detach() for tensor in (*sum(state.hidden, ()), *sum(state.cell, ()), *moments, *scales)]


def assert_equal_up_to_rounding(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Of all tensors together, so that one that is zero but for rounding has no relative error of its own."""
    assert [tensor.shape for tensor in actual] == [tensor.shape for tensor in expected]
    ours, theirs = (torch.cat([tensor.flatten() for tensor in tensors]).double() for tensors in (actual, expected))
    assert theirs.norm() > 0
    assert (ours - theirs).norm() < tolerance * theirs.norm()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_equals_torch(kernel: Kernel, case: Case, dtype: torch.dtype) -> None:
    run = prepare(case, dtype)
    updates, state, gradients = torch_run(run)
    native_updates, native_state, native_gradients = native_run(kernel, run)
    for native, update in zip(native_updates, updates, strict=True):
        assert_equal_up_to_rounding([native], [update], TOLERANCE[dtype])
    for native, tensor in zip(state_tensors(native_state), state_tensors(state), strict=True):
        assert_equal_up_to_rounding([native], [tensor], TOLERANCE[dtype])
    assert_equal_up_to_rounding(native_gradients, gradients, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("inputs", ["none", "log_sign", "moments", "log_sign+moments", SCALES, ORTHOGONAL])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e15])
def test_gradients_of_any_size(kernel: Kernel, inputs: str, size: float, dtype: torch.dtype) -> None:
    case = Case({"inputs": inputs, "base_step": 0.03, "share": "tensor"})
    signs = torch.tensor([1.0, -1.0], dtype=DOUBLE).repeat(1, 34)[:, : case.coordinates]
    run = prepare(case, dtype, [size * signs] * case.steps)
    updates, _, gradients = torch_run(run)
    native_updates, _, native_gradients = native_run(kernel, run)
    assert_equal_up_to_rounding(native_updates, updates, TOLERANCE[dtype])
    assert_equal_up_to_rounding(native_gradients, gradients, TOLERANCE[dtype])


def test_not_a_number_stays_one(kernel: Kernel) -> None:
    """A diverged problem has to show, and only in its own coordinates."""
    for inputs in ("none", "log_sign", "moments", "log_sign+moments"):
        run = prepare(Case({"inputs": inputs}), FLOAT, [torch.full((1, 67), 0.1, dtype=DOUBLE)])
        run.grads[0][0, 3] = torch.nan
        update = native_run(kernel, run)[0][0]
        assert update.isnan().nonzero().tolist() == [[0, 3]]


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing_but_rounding(kernel: Kernel) -> None:
    run = prepare(Case(coordinates=3001), FLOAT)
    results = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        first, second = native_run(kernel, run), native_run(kernel, run)
        assert all(map(torch.equal, first[0] + first[2], second[0] + second[2]))
        results.append(first)
    one, *others = results
    for other in others:
        assert all(map(torch.equal, other[0], one[0]))
        assert_equal_up_to_rounding(other[2], one[2], 1e-6)


@pytest.mark.usefixtures("threads")
def test_denormal_numbers_are_back_afterwards(kernel: Kernel) -> None:
    if (torch.full((200_000,), 1e-40) * 1.0).min() == 0:  # the command line's tests ran before, and threads remember
        test = f"{__file__}::test_denormal_numbers_are_back_afterwards"
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", test], capture_output=True, text=True, timeout=300)
        assert "1 passed" in done.stdout, done.stdout
        return
    for number in (1, 2):
        torch.set_num_threads(number)
        native_run(kernel, prepare(Case(coordinates=3001), FLOAT))
        assert (torch.full((200_000,), 1e-40) * 1.0).min() > 0


@pytest.mark.parametrize("options", [{"inputs": "log_sign+moments"}, {"inputs": SCALES, "share": "tensor"}], ids=str)
def test_arguments_are_left_alone(kernel: Kernel, options: dict[str, object]) -> None:
    run = prepare(Case(options), FLOAT)
    arguments = [*tensors(run.weights), *state_tensors(run.state), *run.grads, *run.coefficients]
    copies = [tensor.clone() for tensor in arguments]
    native_run(kernel, run)
    assert all(map(torch.equal, arguments, copies))


def test_gradients_with_strides(kernel: Kernel) -> None:
    run = prepare(Case(problems=3), FLOAT)
    expected = native_run(kernel, run)
    run.grads = [grad.t().contiguous().t() for grad in run.grads]
    run.coefficients = [coefficient.t().contiguous().t() for coefficient in run.coefficients]
    actual = native_run(kernel, run)
    assert all(map(torch.equal, actual[0] + actual[2], expected[0] + expected[2]))


def test_what_does_not_fit_is_refused(kernel: Kernel) -> None:
    run = prepare(Case(), FLOAT)
    state, weights = run.state, run.weights
    grad = run.grads[0]

    def step(grad: Tensor, settings: NetworkSettings = run.settings, hidden: object = state.hidden) -> None:
        rollout = kernel.rollout(settings, weights, state.segments, grad.shape, hidden, state.cell, None)  # type: ignore[arg-type]
        rollout.step(grad)

    step(grad)
    with pytest.raises(ValueError, match=r"a gradient \(1, 67\), torch.float32"):
        step(grad.double())
    with pytest.raises(ValueError, match=r"a state \(20, 134\)"):
        step(grad.repeat(2, 1))
    with pytest.raises(ValueError, match=r"not columns of a gradient \(1, 60\)"):
        step(grad[:, :60])
    with pytest.raises(ValueError, match="not columns"):
        step(grad[0])
    rollout = kernel.rollout(run.settings, weights, state.segments, grad.shape, state.hidden, state.cell, None)
    with pytest.raises(ValueError, match=r"a gradient \(1, 67\)"):
        rollout.step(grad.repeat(2, 1))
    other = prepare(Case({"hidden_size": 5}), FLOAT)
    two = (*state.segments, *state.segments)
    with pytest.raises(ValueError, match="the networks differ"):
        kernel.rollout(run.settings, weights + other.weights, two, grad.shape, state.hidden * 2, state.cell * 2, None)
    with pytest.raises(ValueError, match="2 layers need as many states"):
        step(grad, hidden=((),))
    with pytest.raises(ValueError, match="reads 2 inputs, but the settings give 4"):
        step(grad, replace(run.settings, reads=Reads(log_sign=True, moments=True)))
    with pytest.raises(ValueError, match="has 1 outputs, but the settings want 2"):
        step(grad, replace(run.settings, magnitude=True))
    for what in ("scales", "directions"):
        with pytest.raises(ValueError, match="together with moments"):
            step(grad, replace(run.settings, reads=replace(run.settings.reads, **{what: True})))
    with pytest.raises(ValueError, match="state of moments"):
        step(grad, replace(run.settings, base_step=0.1))
    with pytest.raises(ValueError, match="scales are to be given where"):
        rollout.step(grad, torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="directions are to be given where"):
        rollout.step(grad, None, grad)
    reads = prepare(Case({"inputs": SCALES, "share": "tensor"}), FLOAT)
    start, of_reads = map_state(torch.clone, reads.state), (reads.settings, reads.weights, reads.state.segments)
    rollout = kernel.rollout(*of_reads, grad.shape, start.hidden, start.cell, start.moments)
    with pytest.raises(ValueError, match="scales are to be given where"):
        rollout.step(grad)
    with pytest.raises(ValueError, match=r"scales \(3, 1, 3\)"):
        rollout.step(grad, torch.zeros(3, 2, 3))
    with pytest.raises(ValueError, match="as many scales"):
        kernel.replay(*of_reads, [grad], [grad], start.hidden, start.cell, start.moments)
    with pytest.raises(ValueError, match=r"a gradient \(1, 44\)"):
        kernel.read_scales([grad], start.scales, start.steps, [22, 22])
    with pytest.raises(ValueError, match=r"scales \(1, 2\)"):
        kernel.read_scales([grad], start.scales, start.steps, [22, 45])
    reads = prepare(Case({"inputs": ORTHOGONAL, "share": "tensor"}), FLOAT)
    start, of_reads = map_state(torch.clone, reads.state), (reads.settings, reads.weights, reads.state.segments)
    rollout = kernel.rollout(*of_reads, grad.shape, start.hidden, start.cell, start.moments)
    with pytest.raises(ValueError, match="directions are to be given where"):
        rollout.step(grad, torch.zeros(3, 1, 3))
    with pytest.raises(ValueError, match=r"directions \(1, 67\)"):
        rollout.step(grad, torch.zeros(3, 1, 3), grad[:, 1:])
    states = start.hidden, start.cell, start.moments
    with pytest.raises(ValueError, match="as many directions"):
        kernel.replay(*of_reads, [grad], [grad], *states, [torch.zeros(3, 1, 3)])
    with pytest.raises(ValueError, match="float16"):
        Weights((), (), grad.new_zeros(1, 2).half(), grad.new_zeros(1, 1).half())
    with pytest.raises(ValueError, match="strides"):
        Weights((torch.zeros(3, 4).t(),), (torch.zeros(4, 1),), torch.zeros(1, 1), torch.zeros(1, 1))
    assert [kernel.supports(item) for item in (grad, grad.half(), grad.to("meta"))] == [True, False, False]
