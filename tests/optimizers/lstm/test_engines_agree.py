"""Native code, PyTorch and the reference on layouts, sizes and gradients that nobody thought of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from reference import PaperUnroll, segments_of
from torch import Generator, Tensor

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.inputs import READS
from meta_opt.optimizers.lstm.state import LSTMState

SHAPES = [(), (1,), (0,), (5,), (2, 3), (0, 4), (3, 0), (1, 1), (65,), (4, 1, 3, 3), (9, 2)]
SIZES = [0.0, 1e-20, 1e-8, 1.0, 30.0, 1e12, 1e20, 1e30]
PROPERTIES = settings(derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


class Case(NamedTuple):
    """An optimizer, and T gradients [B, N] of it."""

    options: dict[str, Any]
    layout: Layout
    grads: list[Tensor]
    dtype: torch.dtype
    horizon: int | None

    def built(self, engine: Any) -> CoordinatewiseLSTM:
        """The same weights, for any engine."""
        optimizer = CoordinatewiseLSTM(**self.options)
        generator = Generator().manual_seed(0)
        optimizer.build(self.layout, generator)
        for parameter in optimizer.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        optimizer.engine = engine
        return optimizer.to(self.dtype)

    def begun(self, optimizer: CoordinatewiseLSTM) -> LSTMState:
        """The first state, which knows how many steps there will be if that is known."""
        state = optimizer.init_state(self.layout, len(self.grads[0]))
        return state if self.horizon is None else optimizer.expect(state, self.horizon)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Options, shapes with 0, 1 and many, and gradients with zeros, tiny and huge numbers."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    groups = {f"tensor{index}": draw(st.sampled_from(["one", "two"])) for index in range(len(shapes))}
    layout = Layout.of({f"tensor{index}": torch.zeros(shape) for index, shape in enumerate(shapes)}, groups)
    options = {
        "inputs": draw(st.sampled_from([*READS])),
        "p": draw(st.sampled_from([10.0, 1.0, 20.0])),
        "output": draw(st.sampled_from(["linear", "tanh", "magnitude"])),
        "base_step": draw(st.sampled_from([0.0, 0.03])),
        "num_layers": draw(st.sampled_from([0, 1, 2])),
        "hidden_size": draw(st.sampled_from([1, 4, 5])),
        "share": draw(st.sampled_from(["all", "kind", "group", "tensor"])),
        "tensor_features": draw(st.booleans()),
        "anneal_after": draw(st.sampled_from([None, 2])),
        "spectral": draw(st.booleans()),
        "largest_width": draw(st.sampled_from([None, 2])),
        "horizon": draw(st.booleans()),
    }
    if options["base_step"] != 0.0:
        options["agreement"] = draw(st.sampled_from([0.0, 0.5]))
    num_problems, num_steps = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 4, 7]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    generator = Generator().manual_seed(draw(st.integers(0, 1000)))
    grads = torch.randn(num_steps, num_problems, layout.num_coordinates, generator=generator, dtype=torch.float64)
    grads *= torch.tensor(draw(st.lists(st.sampled_from(SIZES), min_size=num_steps, max_size=num_steps)))[:, None, None]
    if draw(st.booleans()):
        grads[..., ::3] = 0.0
    return Case(options, layout, list(grads.to(dtype)), dtype, draw(st.sampled_from([None, 1, 5])))


def steps(case: Case, engine: str) -> tuple[list[Tensor], Tensor]:
    """The updates, and the meta-gradient as one vector."""
    optimizer = case.built(engine)
    evaluations = [Evaluation(grad.sum(1), grad, grad) for grad in case.grads]
    state = case.begun(optimizer)
    with torch.no_grad():
        rollout = optimizer.rollout(state)
        updates = [rollout.step(evaluation) for evaluation in evaluations]
    # Other ones in every step: terms that cancel, of huge gradients, leave nothing but rounding errors.
    counts = [step + torch.arange(grad.numel(), dtype=case.dtype) for step, grad in enumerate(case.grads)]
    coefficients = [count.cos().view(grad.shape) for count, grad in zip(counts, case.grads, strict=True)]
    grads = optimizer.replay(evaluations, state, coefficients)
    if "orthogonal" not in case.options["inputs"]:
        _replays_in_parts(optimizer, case, coefficients, grads)
    return updates, torch.cat([grad.flatten() for grad in grads])


def _replays_in_parts(
    optimizer: CoordinatewiseLSTM, case: Case, coefficients: list[Tensor], whole: tuple[Tensor, ...]
) -> None:
    """The replay of every second coordinate and that of the others are together the replay of all."""
    evaluations = [Evaluation(grad.sum(1), grad, grad) for grad in case.grads]
    state, count = case.begun(optimizer), case.layout.num_coordinates
    parts = []
    for first in (0, 1):
        columns = torch.arange(count)[first::2]
        parts.append(optimizer.replay(evaluations, state, [each[:, columns] for each in coefficients], columns))
    together = [one + other for one, other in zip(*parts, strict=True)]
    _assert_close([torch.cat([grad.flatten() for grad in together])], [torch.cat([g.flatten() for g in whole])], case)


def reference(case: Case) -> list[Tensor]:
    """The updates straight from the paper."""

    class Given(PaperUnroll):
        def __init__(self) -> None:
            self.optimizer = case.built("torch")
            self.segments, first = segments_of(case.layout, self.optimizer), case.grads[0]
            self.mean, self.square = torch.zeros_like(first), torch.zeros_like(first)
            self.sizes, self.count, self.states, self.horizon = {}, 0, {}, case.horizon

    with torch.no_grad():
        unroll = Given()
        networks = unroll.networks()
        return [unroll._update(networks, grad) for grad in case.grads]


def _assert_close(ours: list[Tensor], theirs: list[Tensor], case: Case) -> None:
    tolerance = 2e-3 if case.dtype == torch.float32 else 1e-9  # Newton-Schulz iterations enlarge rounding errors
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
        assert (one - other).double().norm() <= tolerance * other.double().norm() + tolerance * 1e-3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradients_that_agree_in_one_tensor() -> Case:
    """Where all coordinates share a network, and nothing else is read of tensors."""
    layout = Layout.of({"one": torch.zeros(2, 3), "other": torch.zeros(5)})
    grads = torch.randn(7, 1, 11, generator=Generator().manual_seed(0), dtype=torch.float64)
    grads[..., :6] += 3.0
    return Case({"inputs": "moments", "base_step": 0.03, "agreement": 0.5}, layout, list(grads), torch.float64, None)


@PROPERTIES
@example(gradients_that_agree_in_one_tensor())
@given(cases())
def test_native_torch_and_reference_agree(case: Case) -> None:
    updates, grads = steps(case, "torch")
    _assert_close(updates, reference(case), case)
    if native.available():
        of_native, grads_of_native = steps(case, "native")
        _assert_close(of_native, updates, case)
        _assert_close([grads_of_native], [grads], case)
