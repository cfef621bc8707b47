"""Whatever is done between steps (looking, saving and loading, copying) changes no step, of any parameters."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
import torch
from checkpoints_for_tests import save_untrained
from hypothesis import HealthCheck, given, settings
from networks_for_tests import Coupled
from problems_for_tests import Regression
from torch import Generator, nn

from meta_opt import LearnedOptimizer
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.hierarchical_rnn import HierarchicalRNN
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM

NETWORKS: dict[str, Callable[[], OptimizerNetwork]] = {
    "coordinates": partial(CoordinatewiseLSTM, 1, 3, inputs="log_sign+moments", base_step=0.02),
    "tensors": partial(CoordinatewiseLSTM, 1, 3, inputs="log_sign+moments+scales", anneal_after=2),
    "averages in tensors": partial(LSTMGAC, 1, 4, 1, "tensor"),
    "averages": partial(LSTMGAC, 1, 4),
    "hierarchy": partial(HierarchicalRNN, 3, 4, 2),
    "memory": partial(NTMBFGS, 1, 4),
    "last writes": partial(NTMBFGS, 1, 4, rank=2),
    "soap": partial(LearnedSOAP, hidden_size=4, initial_output=1.0),
    "subspace": partial(SubspaceLSTM, 2, 5),
    "everything": Coupled,
}
SHAPES = [(), (1,), (0,), (5,), (2, 3), (3, 0), (2, 1, 3, 3)]
TYPES = [torch.float32, torch.float64, torch.bfloat16]
DISTURBANCES = ["look", "save", "copy", "none"]
PROPERTIES = settings(derandomize=True, deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])


class Use(NamedTuple):
    """Parameters in groups, and in each step who has a gradient and what is done after it."""

    shapes: list[tuple[int, ...]]
    types: list[torch.dtype]
    late: int  # how many of the parameters are added after the second step
    gradients: list[list[bool]]
    disturbances: list[str]
    seed: int

    def params(self) -> list[nn.Parameter]:
        generator = Generator().manual_seed(self.seed)
        drawn = [torch.randn(shape, generator=generator) for shape in self.shapes]
        return [nn.Parameter(value.to(dtype)) for value, dtype in zip(drawn, self.types, strict=True)]


@st.composite
def uses(draw: st.DrawFn) -> Use:
    """Between one and four parameters, over five steps."""
    number = draw(st.integers(1, 4))

    def several(of: st.SearchStrategy, count: int) -> list:  # type: ignore[type-arg]
        return draw(st.lists(of, min_size=count, max_size=count))

    return Use(
        several(st.sampled_from(SHAPES), number),
        several(st.sampled_from(TYPES), number),
        draw(st.integers(0, number - 1)),
        [several(st.sampled_from([True, True, False]), number) for _ in range(5)],
        several(st.sampled_from(DISTURBANCES), 5),
        draw(st.integers(0, 1000)),
    )


def run(path: Path, network: type[OptimizerNetwork], use: Use, *, disturbed: bool) -> list[nn.Parameter]:
    """The parameters after all steps."""
    params = use.params()
    first = len(params) - use.late

    def started(params: list[nn.Parameter]) -> LearnedOptimizer:
        return LearnedOptimizer(params, checkpoint=path, optimizer_class=network)

    optimizer, generator = started(params[:first]), Generator().manual_seed(use.seed + 1)
    for step, having in enumerate(use.gradients):
        if step == 2 and use.late:
            optimizer.add_param_group({"params": params[first:]})
        for param, has in zip(params, having, strict=True):
            grad = torch.randn(param.shape, generator=generator).to(param.dtype)
            param.grad = grad if has else None
        before = [param.detach().clone() for param in params]
        optimizer.step(lambda: torch.tensor(1.5))
        for param, start, has in zip(params, before, having, strict=True):
            assert param.isfinite().all()
            assert has or torch.equal(param, start)
        if not disturbed or use.disturbances[step] == "none":
            continue
        if use.disturbances[step] == "look":
            assert set(optimizer.state) <= set(params)
        elif use.disturbances[step] == "copy":
            params, optimizer = copy.deepcopy((params, optimizer))
        else:
            saved = io.BytesIO()
            torch.save(optimizer.state_dict(), saved)
            saved.seek(0)
            optimizer = started(params[:first])
            if step >= 2 and use.late:
                optimizer.add_param_group({"params": params[first:]})
            optimizer.load_state_dict(torch.load(saved, weights_only=True))
    return params


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: save_untrained(folder / f"{name}.ckpt", Regression(), make) for name, make in NETWORKS.items()}


@pytest.mark.parametrize("name", NETWORKS)
@PROPERTIES
@given(use=uses())
def test_disturbances_change_nothing(name: str, checkpoints: dict[str, Path], use: Use) -> None:
    network = type(NETWORKS[name]())
    plain, disturbed = (run(checkpoints[name], network, use, disturbed=each) for each in (False, True))
    assert all(map(torch.equal, plain, disturbed))
