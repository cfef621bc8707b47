"""What is stepped at once, and what stays as it was, by the scope of the learned optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_for_tests import save_untrained
from networks_for_tests import Coupled
from problems_for_tests import Regression
from torch import Tensor, nn

from meta_opt import LearnedOptimizer
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import load_optimizer

NAMES = sorted(pretrained())
OF_GROUPS = ("cifar_cnn", "omniglot", "omniglot_20_ways_1_shot", "omniglot_20_ways_5_shots", "omniglot_few_shot")


def model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def optimizer_of(params: Any, name: str, **options: Any) -> LearnedOptimizer:
    """With one of several networks, where the checkpoint has groups."""
    params = list(params)
    if name in OF_GROUPS:
        params = [{"params": params, "network": "fc"}]
    return LearnedOptimizer(params, pretrained=name, **options)


def inputs() -> Tensor:
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def quadratic_after(skip: int | None, dtypes: tuple[torch.dtype, ...]) -> float:
    """f = Σ_i i x_i², of two parameters, after 60 steps; one has no gradient in step ``skip``."""
    params = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in dtypes]
    curvature = [torch.arange(1.0, 4.0), torch.arange(4.0, 7.0)]
    optimizer = LearnedOptimizer(params, pretrained="quadratic")

    def loss() -> Tensor:
        parts = zip(curvature, params, strict=True)
        return torch.stack([(scale * param.double().square()).sum() for scale, param in parts]).sum()

    for step in range(60):
        optimizer.zero_grad()
        loss().backward()
        if step == skip:
            before = params[1].detach().clone()
            params[1].grad = None
        optimizer.step()
        if step == skip:
            assert torch.equal(params[1], before)
    return loss().item()


@pytest.mark.parametrize("skip", [None, 0, 3, 20])
def test_parameters_of_one_problem_stay_together(skip: int | None) -> None:
    assert quadratic_after(skip, (torch.float32, torch.float32)) < 1e-8


def test_parameters_of_several_types_stay_together() -> None:
    assert quadratic_after(None, (torch.float64, torch.float32)) < 1e-8
    assert quadratic_after(4, (torch.float64, torch.float64)) < 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name: str) -> None:
    plain, mixed = model(), model()
    for net, enabled in ((plain, False), (mixed, True)):
        optimizer = optimizer_of(net.parameters(), name)
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(inputs()).square().mean()
            loss.backward()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                optimizer.step(loss.detach)  # which alpha_opt reads
    assert all(map(torch.equal, plain.parameters(), mixed.parameters()))


@pytest.mark.parametrize("name", [name for name in NAMES if load_optimizer(pretrained()[name]).scope != "problem"])
def test_a_group_added_later_changes_nothing_for_the_others(name: str) -> None:
    """But where the problem is the scope, whose parameters are all tied together."""
    runs = []
    for add in (False, True):
        net, extra = model(), nn.Parameter(torch.ones(3, 3))
        optimizer = optimizer_of(net.parameters(), name)
        for step in range(6):
            if add and step == 3:
                optimizer.add_param_group({"params": [extra], **({"network": "fc"} if name in OF_GROUPS else {})})
            optimizer.zero_grad()
            loss = net(inputs()).square().mean()
            (loss + extra.square().mean()).backward()
            optimizer.step(loss.detach)
        runs.append([param.detach().clone() for param in net.parameters()])
        assert bool((extra != 1.0).any()) == add
    assert all(map(torch.equal, *runs))


def test_a_state_of_every_axis_is_saved_copied_and_resumed(tmp_path: Path) -> None:
    path = save_untrained(tmp_path / "coupled.ckpt", Regression(), Coupled)

    def started(net: nn.Module) -> LearnedOptimizer:
        return LearnedOptimizer(net.parameters(), checkpoint=path, optimizer_class=Coupled)

    def step(net: nn.Module, optimizer: LearnedOptimizer, *, skip: bool = False) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = net(inputs()).square().mean()
            loss.backward()
            if skip:
                next(net.parameters()).grad = None
            return loss

        optimizer.step(closure)

    whole = model()
    optimizer = started(whole)
    for index in range(6):
        step(whole, optimizer, skip=index == 1)
        if index == 2:
            halfway, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    assert {name: tensor.shape for name, tensor in state["state"][0].items()} == {
        "squares": (1, 1),
        "mean": (1, 192),
        "count": (1,),
    }
    resumed = started(halfway)
    resumed.load_state_dict(state)
    for _ in range(3):
        step(halfway, resumed)
    assert all(map(torch.equal, whole.parameters(), halfway.parameters()))
