"""The learned optimizer in other people's training loops."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from checkpoints_for_tests import save_untrained
from problems_for_tests import Regression
from torch import Tensor, distributed, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader, TensorDataset

from meta_opt import LearnedOptimizer
from meta_opt.drop_in import chosen
from meta_opt.errors import CheckpointError, MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork, Rollout, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM, Engine
from meta_opt.optimizers.lstm import native
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.quadratic import Quadratic

MOMENTS = {"inputs": "log_sign+moments", "base_step": 0.03}


def checkpoint(folder: Path, optimizee: Optimizee | None = None, **options: Any) -> Path:
    return save_untrained(folder / "untrained.ckpt", optimizee or Regression(), **options)


@pytest.fixture(params=[{}, MOMENTS], ids=["log_sign", "moments"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return checkpoint(tmp_path, **request.param)


def params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((5, 3), (), (4,), (0,))]


def step(optimizer: torch.optim.Optimizer, number: int, skip: tuple[int, ...] = ()) -> None:
    """A step with the gradients of that number; parameters in ``skip`` have none."""
    generator = torch.Generator().manual_seed(number)
    for index, param in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        grad = torch.randn(param.shape, generator=generator).to(param)
        param.grad = None if index in skip else grad
    optimizer.step()


def values(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def plain_loop(optimizee: Optimizee, make: Any, num_steps: int) -> Tensor:
    """Losses of test problem 0, f_1(θ_1) ... f_T(θ_T), as somebody computes them who knows nothing of unrolls."""
    generator = problem_generator(0, "test", 0)
    problem = optimizee.sample_problem("test", generator)
    tensors = {name: tensor.requires_grad_() for name, tensor in optimizee.init_params(generator).items()}
    optimizer = make(tensors)
    losses = []
    for _ in range(num_steps + 1):
        optimizer.zero_grad()
        loss = optimizee.loss(tensors, problem, optimizee.sample_batch("test", generator))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses[1:])


def unrolled(optimizee: Optimizee, path: Path, num_steps: int, engine: Engine) -> Tensor:
    learned = load_optimizer(path)
    learned.engine = engine
    problems = Problems(optimizee, "test", [0], seed=0)
    return unroll(problems, learned, begin(problems, learned), num_steps).losses[:, 0]


@pytest.mark.parametrize("engine", ["native", "torch"])
@pytest.mark.parametrize("optimizee", [Quadratic(), DigitsMlp()], ids=["quadratic", "digits_mlp"])
@pytest.mark.parametrize("options", [{"inputs": "none"}, MOMENTS], ids=["none", "moments"])
def test_takes_the_steps_of_meta_training(
    tmp_path: Path, options: dict[str, Any], optimizee: Optimizee, engine: Engine
) -> None:
    if engine == "native" and not native.available():
        pytest.skip("this machine cannot build the native kernel")
    path = checkpoint(tmp_path, optimizee, **options)
    losses = plain_loop(
        optimizee, lambda tensors: LearnedOptimizer(tensors.values(), checkpoint=path, engine=engine), 30
    )
    torch.testing.assert_close(losses, unrolled(optimizee, path, 30, engine), rtol=1e-6, atol=1e-6)
    assert losses.std() > 1e-3


@pytest.mark.parametrize("share", ["group", "tensor"])
def test_groups_name_their_networks(tmp_path: Path, share: str) -> None:
    optimizee = Regression()
    path = checkpoint(tmp_path, optimizee, share=share, **MOMENTS)

    def make(tensors: dict[str, Tensor]) -> LearnedOptimizer:
        names = {name: name.split(".")[0] if share == "group" else name for name in tensors}
        groups = [{"params": [tensor], "network": names[name]} for name, tensor in tensors.items()]
        return LearnedOptimizer(groups, checkpoint=path)

    losses = plain_loop(optimizee, make, 20)
    torch.testing.assert_close(losses, unrolled(optimizee, path, 20, "auto"), rtol=1e-6, atol=1e-6)
    with pytest.raises(MetaOptError, match="found one that names none; the checkpoint has first"):
        LearnedOptimizer(params(), checkpoint=path)
    group = {"params": params(), "network": "first" if share == "group" else "first.weight"}
    optimizer = LearnedOptimizer([group], checkpoint=path)
    with pytest.raises(MetaOptError, match="found one that names 'third'; the checkpoint has first"):
        optimizer.add_param_group({"params": params(), "network": "third"})
    assert len(optimizer.param_groups) == 1
    step(optimizer, 0)


def test_a_layer_wider_than_any_in_meta_training_moves_no_further() -> None:
    lengths = []
    for width in (64, 256):  # 64 units are as many as meta-training had
        weight = nn.Parameter(torch.zeros(width, width))
        optimizer = LearnedOptimizer([weight], pretrained="general_mlp")
        weight.grad = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        lengths.append(float(weight.detach().norm()))
    assert lengths[1] == pytest.approx(lengths[0], rel=0.2)  # without it 4 times as far


@pytest.mark.parametrize(
    "options",
    [
        {"share": "kind"},
        {"tensor_features": True},
        {"inputs": "log_sign+moments+scales", "output": "magnitude"},
        {"inputs": "log_sign+moments+scales+orthogonal"},
        {"inputs": "log_sign+moments+scales", "anneal_after": 5},
        {"spectral": True},
        {"largest_width": 3},
        {"inputs": "log_sign+moments+scales", "anneal_after": 5, "horizon": True},
    ],
    ids=["kind", "tensor_features", "scales", "orthogonal", "annealed", "spectral", "largest_width", "horizon"],
)
def test_networks_know_a_tensor_by_its_shape_and_place(tmp_path: Path, options: dict[str, Any]) -> None:
    optimizee = DigitsMlp([7])
    path = checkpoint(tmp_path, optimizee, **{**MOMENTS, **options})

    def make(tensors: dict[str, Tensor]) -> LearnedOptimizer:
        return LearnedOptimizer(tensors.values(), checkpoint=path)

    losses = plain_loop(optimizee, make, 20)
    torch.testing.assert_close(losses, unrolled(optimizee, path, 20, "auto"), rtol=1e-6, atol=1e-6)
    first, second = LearnedOptimizer(params(), checkpoint=path), LearnedOptimizer(params(), checkpoint=path)
    step(first, 0)
    second.load_state_dict(first.state_dict())
    for one, other in zip(first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True):
        other.data.copy_(one)
    step(first, 1)
    step(second, 1)
    assert_equal(first.param_groups[0]["params"], second.param_groups[0]["params"])


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_knows_how_long_the_training_is(tmp_path: Path, engine: Engine) -> None:
    if engine == "native" and not native.available():
        pytest.skip("this machine cannot build the native kernel")
    options = {"inputs": "log_sign+moments+scales", "base_step": 0.03, "horizon": True}
    path = checkpoint(tmp_path, DigitsMlp(), **options)

    def make(tensors: dict[str, Tensor]) -> LearnedOptimizer:
        return LearnedOptimizer(tensors.values(), checkpoint=path, num_steps=20, engine=engine)

    losses = plain_loop(DigitsMlp(), make, 30)  # 10 more than was said
    learned = load_optimizer(path)
    learned.engine = engine
    problems = Problems(DigitsMlp(), "test", [0], seed=0)
    told = unroll(problems, learned, begin(problems, learned, num_steps=20), 30).losses[:, 0]
    torch.testing.assert_close(losses, told, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(losses, unrolled(DigitsMlp(), path, 30, engine))


def test_updates_fall_as_the_square_of_what_is_left_and_go_on_at_a_thousandth(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, base_step=0.03, initial_output=0.0, horizon=True)
    weight = nn.Parameter(torch.zeros(3))
    optimizer, moves = LearnedOptimizer([weight], checkpoint=path, num_steps=8), []
    for _ in range(12):
        before = weight.detach().clone()
        weight.grad = torch.ones(3)  # the direction of the base step is 1 at every step
        optimizer.step()
        moves.append(float((before - weight.detach())[0]))
    falling = [0.03 * (1 - step / 8) ** 2 for step in range(8)]
    torch.testing.assert_close(moves, falling + [0.00003] * 4, rtol=1e-4, atol=1e-7)


def test_what_begins_later_ends_with_the_rest() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]
    optimizer = LearnedOptimizer(parameters[:1], pretrained="general", num_steps=40)
    grads = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(0))
    both = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]
    alone = LearnedOptimizer(both, pretrained="general", num_steps=10)
    for step, grad in enumerate(grads):
        if step == 20:
            saved = optimizer.state_dict()
            optimizer = LearnedOptimizer(parameters[:1], pretrained="general", num_steps=40)
            optimizer.load_state_dict(saved)
        if step == 30:
            optimizer.add_param_group({"params": parameters[1:]})
        for each in (*parameters, *alone.param_groups[0]["params"]):
            each.grad = grad.clone()
        optimizer.step()
        if step >= 30:
            alone.step()
    torch.testing.assert_close(parameters[1], alone.param_groups[0]["params"][0])
    assert len({int(state["horizon"]) for state in optimizer.state.values()}) == 2


def test_a_state_without_what_it_may_lack_is_loaded(path: Path) -> None:
    ours = LearnedOptimizer(params(), checkpoint=path)
    saved = ours.state_dict()
    for group in saved["param_groups"]:
        del group["depths"], group["taken"]
    before = copy.deepcopy(saved["param_groups"])
    ours.load_state_dict(saved)
    ours.step()
    assert saved["param_groups"] == before


def test_defaults_of_the_program_change_no_weights() -> None:
    expected = LearnedOptimizer(params(), pretrained="general_mlp")._network.state_dict()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            found = LearnedOptimizer([torch.ones(2, device="cpu")], pretrained="general_mlp")._network.state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name])


def test_order_names_the_model_of_several_optimizers() -> None:
    model = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(8)]
    for parameter in model:
        parameter.grad = torch.ones(3, 4)
    shares = []
    for order in (None, model):
        optimizer = LearnedOptimizer(model[:2], pretrained="general", order=order)
        other_model, again = copy.deepcopy((model, optimizer))
        for parameter in other_model:
            parameter.grad = torch.ones(3, 4)
        for each in (optimizer, again):
            each.step()
            shares.append({float(state["shares"]) for state in each.state.values()})
    assert shares == [{1.0}, {1.0}, {0.5}, {0.5}]


def test_what_others_freeze_in_turn_counts_among_the_matrices_of_the_model() -> None:
    """As with Lightning's toggle_optimizer: each is at rest, and without gradients, while the other is trained."""
    models = [nn.Sequential(*[nn.Linear(2, 2) for _ in range(8)]) for _ in range(2)]
    order = [param for model in models for param in model.parameters()]
    optimizers = [LearnedOptimizer(model.parameters(), "general", num_steps=5, order=order) for model in models]
    for mine, optimizer in zip(models, optimizers, strict=True):
        for model in models:
            model.requires_grad_(model is mine)
        optimizer.zero_grad()
        mine(torch.ones(3, 2)).square().sum().backward()
        for model in models:
            if model is not mine:
                model.zero_grad()
        optimizer.step()
    shares = {float(state["shares"]) for optimizer in optimizers for state in optimizer.state.values()}
    assert shares == {0.25}


def test_what_others_have_trained_is_in_the_state() -> None:
    """One optimizer trains its half of the model, then the other: also where the run is cut in between."""

    def run(*, cut: bool) -> torch.Tensor:
        model = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(16)]
        halves = model[:8], model[8:]
        first, second = (LearnedOptimizer(half, "general", num_steps=9, order=model) for half in halves)
        for parameter in model:
            parameter.grad = torch.ones(3, 4)
        first.step()
        for parameter in halves[0]:
            parameter.requires_grad_(False)
            parameter.grad = None
        if cut:
            saved = second.state_dict()
            second = LearnedOptimizer(halves[1], "general", num_steps=9, order=model)
            second.load_state_dict(saved)
        second.step()
        return torch.stack(model).detach()

    assert torch.equal(run(cut=True), run(cut=False))


@pytest.mark.parametrize("pop", [False, True])
def test_the_number_of_steps_is_known_to_what_begins_after_loading(*, pop: bool) -> None:
    """Whatever the optimizer was made with that goes on."""
    parameters = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]
    optimizer = LearnedOptimizer(parameters, "general", num_steps=60)
    parameters[0].grad = torch.ones(3, 4)
    for _ in range(20):
        optimizer.step()
    for num_steps in (None, 600):
        again = LearnedOptimizer(parameters, "general", num_steps=num_steps)
        again.load_state_dict(optimizer.state_dict())
        if pop:
            again.state.pop(parameters[0])
        parameters[1].grad = torch.ones(3, 4)
        again.step()
        assert [int(again.state[each]["horizon"]) for each in parameters] == [40 if pop else 60, 40]


def test_a_step_without_any_gradient_is_one_of_the_run() -> None:
    """Of an optimizer of its own for a part that is frozen at first."""
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = LearnedOptimizer([parameter], "general", num_steps=60)
    for _ in range(20):
        optimizer.step()
    parameter.grad = torch.ones(3, 4)
    optimizer.step()
    assert int(optimizer.state[parameter]["horizon"]) == 40


def test_a_number_of_steps_for_a_group_is_refused() -> None:
    group = {"params": [torch.nn.Parameter(torch.zeros(3))], "num_steps": 40}
    with pytest.raises(MetaOptError, match="^num_steps is one for all parameters: give it to the optimizer, not to"):
        LearnedOptimizer([group], "general")


def test_in_a_zero_redundancy_optimizer() -> None:
    """Which puts its arguments into groups, and loads groups into what is inside."""
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        found = []
        for loads in (False, True):
            model = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(2)]

            def made(model: list[torch.nn.Parameter]) -> ZeroRedundancyOptimizer:
                options: dict[str, Any] = {"pretrained": "general", "num_steps": 9, "order": model}
                return ZeroRedundancyOptimizer(model[1:], LearnedOptimizer, **options)

            optimizer = made(model)
            for step in range(4):
                if loads and step == 2:
                    optimizer.consolidate_state_dict()
                    saved, optimizer = optimizer.state_dict(), made(model)
                    optimizer.load_state_dict(saved)
                for parameter in model:
                    parameter.grad = torch.ones(3, 4)
                optimizer.step()
            found.append(model[1].detach())
        assert torch.equal(*found)
    finally:
        dist.destroy_process_group()


def test_places_in_a_given_order_are_not_taken_from_a_state() -> None:
    """As ZeroRedundancyOptimizer loads that of the first process into all: the groups alone, of other parameters."""
    model = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(3)]
    first, second = (LearnedOptimizer(part, "general_mlp", order=model) for part in (model[:2], model[2:]))
    expected = copy.deepcopy(model[2])
    for parameter in model:
        parameter.grad = torch.ones(3, 4)
    alone = LearnedOptimizer(model[2:], "general_mlp", order=model)
    alone.step()
    moved = model[2].detach().clone()
    with torch.no_grad():
        model[2].copy_(expected)
    second.param_groups[0] |= {name: each for name, each in first.param_groups[0].items() if name != "params"}
    second.step()
    assert torch.equal(model[2], moved)


SHRINKS = ("general", "general_mlp", "alpha_opt", "quadratic", "hierarchical_rnn", "lstm_gac")


@pytest.mark.parametrize("name", SHRINKS)
@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (0,)], ids=["pruned", "transposed", "away"])
def test_a_parameter_that_changes_its_shape_is_refused_until_its_state_is_cleared(name: str, shape: Any) -> None:
    first, second = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 2))
    optimizer = LearnedOptimizer([first, second], name)

    def go() -> None:
        for param in (first, second):
            param.grad = torch.ones_like(param)
        optimizer.step(lambda: 1.0)

    go()
    first.grad, first.data = None, torch.ones(shape)
    assert len(optimizer.state_dict()["state"]) == 2
    go_on = pytest.raises(MetaOptError, match=r"a parameter of \(4, 3\) has become one of \(.*\), which its state")
    before = second.detach().clone()
    with go_on:
        go()
    assert torch.equal(second, before)
    optimizer.state.pop(first)
    if optimizer._network.scope == "problem":
        optimizer.state.clear()  # one state of all
    go()
    assert second.isfinite().all()
    assert not torch.equal(second, before)


def test_a_gradient_of_another_shape_is_refused() -> None:
    param = nn.Parameter(torch.ones(4, 3))
    optimizer = LearnedOptimizer([param], "general")
    param.grad = torch.ones(4, 3)
    param.data = torch.ones(2, 3)
    with pytest.raises(MetaOptError, match=r"the gradient of a parameter of \(2, 3\) is of \(4, 3\)"):
        optimizer.step()


def test_groups_of_another_optimizer_begin_anew(path: Path) -> None:
    param = nn.Parameter(torch.zeros(4, 3))
    old = LearnedOptimizer([param], "general", num_steps=100)
    for number in range(90):
        step(old, number)
    other = LearnedOptimizer(old.param_groups, checkpoint=path)
    assert other.param_groups[0]["taken"] == 0
    assert old.param_groups[0]["taken"] == 90
    step(other, 0)
    LearnedOptimizer([param], checkpoint=path).load_state_dict(other.state_dict())  # its weights are its own


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (torch.ones(3), r"a tensor of \(3,\), torch.float32"),
        ((torch.ones(()), 2), "tuple"),
        ({"loss": 1.0}, "dict"),
        ("1.0", "str"),
        (torch.ones((), dtype=torch.complex64), "a tensor of .*complex64"),
    ],
)
def test_a_closure_returns_one_number(loss: Any, found: str) -> None:
    (param,) = parameters = [nn.Parameter(torch.ones(3))]
    optimizer = LearnedOptimizer(parameters, "alpha_opt")
    param.grad = torch.ones(3)
    with pytest.raises(MetaOptError, match=f"the closure must return the loss, one real number; it returned {found}"):
        optimizer.step(lambda: loss)
    assert torch.equal(param, torch.ones(3))
    assert optimizer.step(lambda: torch.ones(1)).item() == 1.0


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan, 1e39, 3e38, -3e38])
def test_one_loss_that_is_not_finite_spoils_nothing(loss: float) -> None:
    (param,) = parameters = [nn.Parameter(torch.ones(4))]
    optimizer = LearnedOptimizer(parameters, "alpha_opt")
    for each in (1.0, 1.0, loss, -loss, 1.0, 1.0):
        param.grad = torch.ones(4)
        optimizer.step(partial(float, each))
    assert param.isfinite().all()


@pytest.mark.parametrize("lr", [torch.ones(2), torch.tensor(1j), 10**400, math.nan, True, "1"])
def test_a_group_with_a_wrong_rate_is_not_added(path: Path, lr: Any) -> None:
    param, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([param], checkpoint=path)
    with pytest.raises(MetaOptError, match="lr must be a number of at least 0"):
        optimizer.add_param_group({"params": [other], "lr": lr})
    step(optimizer, 0)
    with pytest.raises(MetaOptError, match="lr must be a number of at least 0"):
        LearnedOptimizer([other], checkpoint=path, lr=lr)


def test_numbers_of_numpy_are_saved_as_those_of_python(path: Path) -> None:
    group = {"params": params(), "lr": np.float32(0.25)}
    optimizer, file = LearnedOptimizer([{"params": params()}, group], checkpoint=path, lr=np.float64(0.5)), io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert [each["lr"] for each in saved["param_groups"]] == [0.5, 0.25]


def test_the_number_of_steps_is_saved(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, base_step=0.03, horizon=True)
    first = LearnedOptimizer(params(), checkpoint=path, num_steps=5)
    step(first, 0)
    second = LearnedOptimizer(params(), checkpoint=path)
    second.load_state_dict(first.state_dict())
    for one, other in zip(first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True):
        other.data.copy_(one)
    for number in range(1, 4):
        step(first, number)
        step(second, number)
    assert_equal(values(first), values(second))


def test_groups_leave_tensors_in_their_places(tmp_path: Path) -> None:
    optimizee = DigitsMlp([7])
    path = checkpoint(tmp_path, optimizee, tensor_features=True, **MOMENTS)

    def make(tensors: dict[str, Tensor], *, order: bool = True) -> LearnedOptimizer:
        groups = [{"params": [tensors[name] for name in tensors if end in name]} for end in ("weight", "bias")]
        return LearnedOptimizer(groups, checkpoint=path, order=tensors.values() if order else None)

    expected = unrolled(optimizee, path, 20, "auto")
    torch.testing.assert_close(plain_loop(optimizee, make, 20), expected, rtol=1e-6, atol=1e-6)
    elsewhere = plain_loop(optimizee, partial(make, order=False), 20)
    assert (elsewhere - expected).abs().max() > 1e-4
    some = params()
    with pytest.raises(MetaOptError, match=r"order must be all parameters.* one of \(4,\) is missing"):
        LearnedOptimizer(some, checkpoint=path, order=[each for each in some if each.shape != (4,)])


def test_a_kind_without_a_network(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, DigitsMlp([7]), share="kind")
    with pytest.raises(MetaOptError, match="network for each kind of tensor, matrix, vector; a parameter group cannot"):
        LearnedOptimizer([{"params": params(), "network": "matrix"}], checkpoint=path)
    path = checkpoint(tmp_path, Quadratic(), share="kind")
    with pytest.raises(MetaOptError, match="the checkpoint has no network for a matrix; it has vector"):
        LearnedOptimizer([torch.zeros(3, 3, 2, 2, requires_grad=True)], checkpoint=path)


def test_a_filter_is_a_matrix(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, DigitsMlp([7]), share="kind", inputs="log_sign+moments+scales")
    start = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    as_filter, as_matrix, as_vector = (
        LearnedOptimizer([nn.Parameter(start.reshape(shape).clone())], checkpoint=path)
        for shape in (start.shape, (3, 20), (60,))
    )
    for number in range(3):
        generator = torch.Generator().manual_seed(number)
        grad = torch.randn(60, generator=generator)
        for optimizer in (as_filter, as_matrix, as_vector):
            param = optimizer.param_groups[0]["params"][0]
            param.grad = grad.view(param.shape)
            optimizer.step()
    filtered, matrix, vector = (values(optimizer)[0].flatten() for optimizer in (as_filter, as_matrix, as_vector))
    assert torch.equal(filtered, matrix)
    assert not torch.equal(filtered, vector)


def test_a_parameter_steps_as_if_it_were_alone(path: Path) -> None:
    together = LearnedOptimizer(params(), checkpoint=path)
    alone = [LearnedOptimizer([param], checkpoint=path) for param in params()]
    sometimes = [(), (), (1,), (), (0, 2), (), (), (0, 1, 2, 3), (1, 2), (1, 2), (), ()]
    for number, skip in enumerate(sometimes):
        step(together, number, skip)
        for index, optimizer in enumerate(alone):
            param, twin = optimizer.param_groups[0]["params"][0], together.param_groups[0]["params"][index]
            param.grad = None if twin.grad is None else twin.grad.clone()
            optimizer.step()
    for one, other, start in zip(values(together), alone, params(), strict=True):
        torch.testing.assert_close(one, values(other)[0], rtol=1e-6, atol=1e-6)
        assert start.numel() == 0 or not torch.equal(one, start)


def test_a_parameter_without_gradient_keeps_value_and_state(path: Path) -> None:
    optimizer = LearnedOptimizer(params(), checkpoint=path)
    step(optimizer, 0, skip=(2,))
    param = optimizer.param_groups[0]["params"][2]
    assert param not in optimizer.state
    step(optimizer, 1)
    before, state = param.detach().clone(), copy.deepcopy(optimizer.state[param])
    step(optimizer, 2, skip=(2,))
    assert torch.equal(param, before)
    assert state.keys() == optimizer.state[param].keys()
    assert_equal(list(state.values()), list(optimizer.state[param].values()))


def test_one_step_of_the_network_a_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Counted(Rollout):
        def step(self, evaluation: Evaluation) -> torch.Tensor:
            sizes.append(evaluation.grad.shape)
            return super().step(evaluation)

    monkeypatch.setattr(CoordinatewiseLSTM, "rollout", lambda *of: Counted(*of))
    optimizer = LearnedOptimizer([{"params": params()}, {"params": params(), "lr": 0.1}], checkpoint=path)
    step(optimizer, 0)
    step(optimizer, 1)
    assert sizes == [(1, 40), (1, 40)]


def test_lr_is_a_factor_of_the_update(path: Path) -> None:
    whole, rest = (
        LearnedOptimizer([{"params": params()}, {"params": params(), "lr": lr}], checkpoint=path) for lr in (1.0, 0.25)
    )
    scheduler = torch.optim.lr_scheduler.MultiplicativeLR(rest, lambda epoch: 0.5)  # 0.5 and 0.125
    with pytest.warns(UserWarning, match="lr_scheduler.step"):
        scheduler.step()
    step(whole, 0)
    step(rest, 0)
    start = params() + params()
    for index, (full, part) in enumerate(zip(values(whole), values(rest), strict=True)):
        factor = 0.5 if index < 4 else 0.125
        torch.testing.assert_close(part - start[index], factor * (full - start[index]), rtol=1e-4, atol=1e-6)
    assert (values(whole)[0] - start[0]).abs().min() > 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_resumes_exactly(path: Path, dtype: torch.dtype) -> None:
    optimizer = LearnedOptimizer(params(dtype), checkpoint=path, lr=0.5)
    for number in range(4):
        step(optimizer, number, skip=(1,) if number == 2 else ())
    file = io.BytesIO()
    torch.save((values(optimizer), optimizer.state_dict()), file)
    file.seek(0)
    saved, state = torch.load(file, weights_only=True)
    other = LearnedOptimizer([nn.Parameter(value) for value in saved], checkpoint=path)
    other.load_state_dict(state)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {tensor.dtype for tensors in other.state.values() for tensor in tensors.values()} == {wide}
    for number in range(4, 8):
        for each in (optimizer, other):
            step(each, number, skip=(2,) if number == 6 else ())
    assert other.param_groups[0]["lr"] == 0.5
    assert_equal(values(optimizer), values(other))
    for one, two in zip(optimizer.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True):
        assert_equal(list(one.values()), list(two.values()))


def test_a_saved_state_stays_as_it_was(path: Path) -> None:
    optimizer = LearnedOptimizer(params(), checkpoint=path)
    step(optimizer, 0)
    saved = optimizer.state_dict()["state"][0]
    before = {name: tensor.clone() for name, tensor in saved.items()}
    step(optimizer, 1)
    assert_equal(list(saved.values()), list(before.values()))
    assert not torch.equal(optimizer.state_dict()["state"][0]["hidden.0.0"], before["hidden.0.0"])


def test_hooks_after_loading_see_the_state(path: Path) -> None:
    one, other = LearnedOptimizer(params(), checkpoint=path), LearnedOptimizer(params(), checkpoint=path)
    step(one, 0)
    seen = []
    other.register_load_state_dict_post_hook(lambda optimizer: seen.append(len(optimizer.state)))
    other.load_state_dict(one.state_dict())
    assert seen == [4]


def _without_hash(state: dict[str, Any]) -> dict[str, Any]:
    """As it was saved before there was one."""
    groups = [{name: value for name, value in group.items() if name != "weights"} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def test_the_state_of_other_weights_of_the_same_shapes_is_refused(path: Path) -> None:
    network = load_optimizer(path)
    one = LearnedOptimizer(params(), pretrained=network)
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    other = LearnedOptimizer(params(), pretrained=network)
    step(one, 0)
    with pytest.raises(MetaOptError, match="the state was saved by a learned optimizer with other weights"):
        other.load_state_dict(one.state_dict())
    again = LearnedOptimizer(params(), checkpoint=path)
    again.load_state_dict(_without_hash(one.state_dict()))
    assert again.param_groups[0]["weights"] == one.param_groups[0]["weights"]


def test_what_cannot_be_stepped_with_is_refused(path: Path) -> None:
    for arguments, message in (
        ({"pretrained": str(path)}, f"pretrained is a name; give the path {path} as checkpoint"),
        ({"checkpoint": load_optimizer(path)}, "checkpoint is a path; give a CoordinatewiseLSTM as pretrained"),
        (
            {"pretrained": CoordinatewiseLSTM()},
            "CoordinatewiseLSTM has no weights yet: build or train it, or give a ch",
        ),
    ):
        with pytest.raises(MetaOptError) as raised:
            LearnedOptimizer(params(), **arguments)  # type: ignore[arg-type]
        assert message in str(raised.value)


def test_refuses_the_state_of_another(tmp_path: Path) -> None:
    large = LearnedOptimizer(params(), checkpoint=checkpoint(tmp_path, hidden_size=8))
    small = LearnedOptimizer(params(), checkpoint=checkpoint(tmp_path, hidden_size=4))
    grouped = checkpoint(tmp_path, share="group")
    step(large, 0)
    step(small, 0)
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(MetaOptError, match=r"parameter 0 is not one of this learned optimizer's for .* \(5, 3\)"):
        small.load_state_dict(_without_hash(large.state_dict()))
    with pytest.raises(MetaOptError, match="the state was saved by a learned optimizer with other weights"):
        small.load_state_dict(large.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        small.load_state_dict(
            {"state": {}, "param_groups": [{"params": [], "network": "all"}, *before["param_groups"]]}
        )
    assert torch.equal(small.state_dict()["state"][0]["cell.0.1"], before["state"][0]["cell.0.1"])
    other = LearnedOptimizer([{"params": params(), "network": "first"}], checkpoint=grouped)
    with pytest.raises(MetaOptError, match="belongs to a network 'all'; the checkpoint has first, second"):
        other.load_state_dict(_without_hash(small.state_dict()))
    adam = torch.optim.Adam(params()).state_dict()
    by_kind = LearnedOptimizer(params(), checkpoint=checkpoint(tmp_path, share="kind"))
    for one, another in ((small, other), (by_kind, small)):  # whose networks have other names
        with pytest.raises(MetaOptError, match="the state was saved by a learned optimizer with other weights"):
            another.load_state_dict(one.state_dict())
    for ours in (small, by_kind):
        groups = copy.deepcopy(ours.param_groups)
        adam["param_groups"][0]["params"] = [*range(len(groups[0]["params"]))]
        with pytest.raises(MetaOptError, match="not the state of a learned optimizer"):
            ours.load_state_dict(adam)
        assert ours.param_groups[0].keys() == groups[0].keys()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_go_on_alike(path: Path, duplicate: Any) -> None:
    optimizer = LearnedOptimizer(params(), checkpoint=path)
    step(optimizer, 0)
    step(optimizer, 1, skip=(0,))
    other = duplicate(optimizer)
    start = values(optimizer)
    step(other, 2)
    assert_equal(values(optimizer), start)
    step(optimizer, 2)
    assert_equal(values(optimizer), values(other))


def test_parameters_added_later_start_anew(path: Path) -> None:
    optimizer = LearnedOptimizer(params(), checkpoint=path)
    step(optimizer, 0)
    optimizer.add_param_group({"params": params(), "lr": 0.5})
    fresh = LearnedOptimizer(params(), checkpoint=path)
    step(optimizer, 1)
    for param, twin in zip(fresh.param_groups[0]["params"], optimizer.param_groups[1]["params"], strict=True):
        param.grad = twin.grad
    fresh.step()
    for start, half, full in zip(params(), optimizer.param_groups[1]["params"], values(fresh), strict=True):
        torch.testing.assert_close(half - start, 0.5 * (full - start), rtol=1e-4, atol=1e-6)
    assert len(optimizer.state) == 8


def test_gradients_accumulate_and_scale(path: Path) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
    results = []
    for scale, parts in ((None, [x]), (None, x.split(4)), (2.0**10, [x])):
        model = nn.Linear(3, 2)
        with torch.no_grad():
            for param in model.parameters():
                param.fill_(0.5)
        optimizer = LearnedOptimizer(model.parameters(), checkpoint=path)
        scaler = torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0)
        for _ in range(3):
            optimizer.zero_grad()
            for part in parts:
                scaler.scale(model(part).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(values(optimizer))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (results[0][0] - 0.5).abs().min() > 1e-3


def test_a_scaler_leaves_out_steps_that_overflow(path: Path) -> None:
    optimizer = LearnedOptimizer([param := nn.Parameter(torch.ones(3))], checkpoint=path)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(param.sum() * float("inf")).backward()
    scaler.step(optimizer)
    assert torch.equal(param, torch.ones(3))
    assert not optimizer.state


def test_a_model_may_change_its_type(path: Path) -> None:
    model = nn.Linear(3, 2)
    wide = copy.deepcopy(model).double()
    narrow_first, always_wide = (LearnedOptimizer(each.parameters(), checkpoint=path) for each in (model, wide))
    for number in range(6):
        if number == 3:
            model.double()
        step(narrow_first, number)
        step(always_wide, number)
    for ours, theirs in zip(values(narrow_first), values(always_wide), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert {tensor.dtype for tensor in narrow_first.state[model.weight].values()} == {torch.float64}


def test_engine_is_chosen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: None)
    step(LearnedOptimizer(params(), checkpoint=path), 0)
    with pytest.raises(MetaOptError, match="engine native needs a C"):
        step(LearnedOptimizer(params(), checkpoint=path, engine="native"), 0)
    monkeypatch.setattr(native, "load", lambda: pytest.fail("asked for the kernel"))
    step(LearnedOptimizer(params(), checkpoint=path, engine="torch"), 0)


def test_refuses_sparse_and_complex(path: Path) -> None:
    table, weight = nn.Embedding(4, 2, sparse=True), nn.Parameter(torch.ones(2))
    optimizer = LearnedOptimizer([weight, *table.parameters()], checkpoint=path)
    (table(torch.tensor([1])) @ weight).sum().backward()
    with pytest.raises(MetaOptError, match=r"found one of \(4, 2\) that is torch.sparse_coo: .* sparse=False"):
        optimizer.step()
    assert torch.equal(weight, torch.ones(2))
    assert not optimizer.state
    with pytest.raises(MetaOptError, match="real parameters, found one of torch.complex64"):
        LearnedOptimizer([nn.Parameter(torch.ones(2, dtype=torch.complex64))], checkpoint=path)


def test_arguments_are_checked(path: Path) -> None:
    for both in ({}, {"pretrained": "general_mlp", "checkpoint": path}):
        with pytest.raises(
            MetaOptError, match="give either pretrained, a name or what you have trained, or checkpoint, a path"
        ):
            LearnedOptimizer(params(), **both)
    with pytest.raises(MetaOptError, match="lr must be a number of at least 0, not -1"):
        LearnedOptimizer(params(), checkpoint=path, lr=-1)
    with pytest.raises(MetaOptError, match="lr must be a number of at least 0, not -2"):
        LearnedOptimizer([{"params": params(), "lr": -2}], checkpoint=path)
    for lr in (None, "0.5", True, math.inf, math.nan):
        with pytest.raises(MetaOptError, match=f"lr must be a number of at least 0, not {lr!r}"):
            LearnedOptimizer(params(), checkpoint=path, lr=lr)  # type: ignore[arg-type]
    optimizer = LearnedOptimizer(params(), checkpoint=path)
    optimizer.param_groups[0]["params"].append(torch.ones(3))
    with pytest.raises(MetaOptError, match="the parameters of a group stay those that it was made with"):
        optimizer.step()
    with pytest.raises(MetaOptError, match="weight_decay: a learned optimizer has none; add the term to the loss"):
        LearnedOptimizer([{"params": params(), "weight_decay": 0.1}], checkpoint=path)
    with pytest.raises(MetaOptError, match="maximize: a learned optimizer minimizes; negate the loss"):
        LearnedOptimizer([{"params": params(), "maximize": True}], checkpoint=path)
    optimizer = LearnedOptimizer([{"params": params(), "weight_decay": 0.0, "maximize": False}], checkpoint=path)
    optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = 0.1  # as schedules of it do
    with pytest.raises(MetaOptError, match="weight_decay: a learned optimizer has none"):
        optimizer.step()
    for steps in (0, 1e4, math.nan, "9"):
        with pytest.raises(MetaOptError, match=f"num_steps must be a whole number of at least 1, not {steps!r}"):
            LearnedOptimizer(params(), checkpoint=path, num_steps=steps)  # type: ignore[arg-type]
    with pytest.raises(MetaOptError, match="num_steps 9: untrained makes nothing of it; leave it out"):
        LearnedOptimizer(params(), checkpoint=path, num_steps=9)
    with pytest.raises(MetaOptError, match="engine must be one of auto, native, torch, not 'nativ'"):
        LearnedOptimizer(params(), checkpoint=path, engine="nativ")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="no pretrained optimizer is called 'nobody'"):
        LearnedOptimizer(params(), pretrained="nobody")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        LearnedOptimizer(params(), checkpoint="nowhere.ckpt")


def test_state_lies_where_its_parameter_does(tmp_path: Path) -> None:
    """The second device is ``meta``, which has shapes only and is there on every machine."""
    path = checkpoint(tmp_path)
    here, there = params(), [nn.Parameter(param.to("meta")) for param in params()]
    optimizer = LearnedOptimizer([*here, *there], checkpoint=path)
    alone = LearnedOptimizer(params(), checkpoint=path)
    for number in range(3):
        step(optimizer, number)
        step(alone, number)
    assert_equal([param.detach() for param in here], values(alone))
    for param in (*here, *there):
        assert {tensor.device for tensor in optimizer.state[param].values()} == {param.device}


@pytest.mark.gpu
def test_several_devices_in_one_model(path: Path) -> None:
    def model(second: str) -> nn.Sequential:
        layers = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        with torch.no_grad():
            for param in layers.parameters():
                param.copy_(torch.linspace(-1, 1, param.numel()).view_as(param))
        layers[1].to(second)
        return layers

    results = []
    for second in ("cpu", "cuda"):
        layers = model(second)
        optimizer = LearnedOptimizer(layers.parameters(), checkpoint=path)
        for number in range(8):
            step(optimizer, number)
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if number == 5:
                layers.to(second)  # the state follows
        results.append([value.cpu() for value in values(optimizer)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class LossReader(OptimizerNetwork):
    """g = -loss · θ."""

    reads = frozenset({"loss", "params"})
    build = None  # type: ignore[assignment]

    def init_state(self, layout: Layout, num_problems: int) -> None:
        return None

    def step(self, evaluation: Evaluation, state: None, noise: torch.Generator | None = None) -> Step:
        return Step(-evaluation.loss.unsqueeze(1) * evaluation.params, None)


def test_a_closure_tells_the_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "load_optimizer", lambda *_: LossReader())
    param = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = LearnedOptimizer([param], checkpoint=path)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = param.square().sum() / 10
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(0.5)
    assert param.tolist() == [0.5, 1.0]  # θ - 0.5 θ
    with pytest.raises(MetaOptError, match="reads the loss: give step a closure that computes and returns it"):
        optimizer.step()


class Line(pl.LightningModule):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.layer = nn.Linear(1, 1)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.bias.zero_()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return (self.layer(x) - y).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = LearnedOptimizer(self.parameters(), checkpoint=self.path)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def test_lightning_stops_and_goes_on(path: Path, tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 8).unsqueeze(1)
    loader = DataLoader(TensorDataset(x, 3 * x + 1), batch_size=4)

    def fit(epochs: int, **options: Any) -> tuple[Line, pl.Trainer]:
        module = Line(path)
        trainer = pl.Trainer(
            default_root_dir=tmp_path, max_epochs=epochs, accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader, **options)
        return module, trainer

    whole, trainer = fit(6)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.9**6)
    assert whole.optimizers().state.keys() == set(whole.parameters())  # seen through Lightning's wrapper
    half, trainer = fit(3)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = fit(6, ckpt_path=tmp_path / "half.ckpt")
    assert_equal([p.detach() for p in whole.parameters()], [p.detach() for p in rest.parameters()])
    assert not torch.equal(half.layer.weight, rest.layer.weight)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    """Of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_shards_are_refused_by_what_looks_at_whole_tensors(tmp_path: Path, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    path = checkpoint(tmp_path, tensor_features=True)
    whole = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(whole.parameters(), checkpoint=path)
    sharded = nn.Linear(3, 2)
    fully_shard(sharded, mesh=mesh)
    message = r"whole tensors, found a parameter of \(2, 3\) that FSDP or DTensor shards .* DistributedDataParallel"
    with pytest.raises(MetaOptError, match=message):
        LearnedOptimizer(sharded.parameters(), checkpoint=path)
    with pytest.raises(MetaOptError, match=message):
        optimizer.add_param_group({"params": list(sharded.parameters())})
    assert len(optimizer.param_groups) == 1

    bias = whole.bias.detach().clone()
    optimizer.param_groups[0]["params"][0] = sharded.weight
    whole.bias.grad = torch.ones(2)
    with pytest.raises(MetaOptError, match=message):
        optimizer.step()
    assert torch.equal(whole.bias, bias)


def test_gradients_placed_unlike_their_parameters_are_refused(path: Path, mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    param = nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]))
    optimizer = LearnedOptimizer([param], checkpoint=path)
    param.grad = distribute_tensor(torch.ones(4, 2), mesh, [Replicate()])
    with pytest.raises(MetaOptError, match=r"of \(4, 2\) is placed as \(Replicate\(\),\), the parameter as \(Shard"):
        optimizer.step()
    assert torch.equal(param.detach().full_tensor(), torch.ones(4, 2))
    param.grad = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    optimizer.step()
    assert not torch.equal(param.detach().full_tensor(), torch.ones(4, 2))
