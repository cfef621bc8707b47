"""``LearnedOptimizer`` of what has just been trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from meta_opt import LearnedOptimizer, MetaLearner, MetaOptError
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer


def moved(optimizer_of) -> torch.Tensor:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = optimizer_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    return model.weight.detach().clone()


def test_a_meta_learner_is_its_checkpoint(tmp_path) -> None:
    learner = MetaLearner("digits_mlp")  # with a network for each kind of tensor
    content = {"state_dict": learner.state_dict()}
    learner.on_save_checkpoint(content)
    torch.save(content, tmp_path / "x.ckpt")
    expected = moved(lambda model: LearnedOptimizer(model.parameters(), checkpoint=tmp_path / "x.ckpt"))
    assert torch.equal(moved(lambda model: LearnedOptimizer(model.parameters(), learner)), expected)


def test_a_learned_optimizer_itself() -> None:
    network = load_optimizer(pretrained_path("quadratic"))
    expected = moved(lambda model: LearnedOptimizer(model.parameters(), "quadratic"))
    assert torch.equal(moved(lambda model: LearnedOptimizer(model.parameters(), network)), expected)


def test_later_training_changes_nothing() -> None:
    learner = MetaLearner("quadratic", num_problems=1)
    model = nn.Linear(2, 2)
    optimizer = LearnedOptimizer(model.parameters(), learner)
    before = [weight.clone() for weight in optimizer._network.parameters()]
    with torch.no_grad():
        for weight in learner.trained.parameters():
            weight.add_(1)
    assert all(map(torch.equal, before, optimizer._network.parameters()))
    assert all(weight.requires_grad for weight in learner.optimizer.parameters())


def test_what_cannot_be_used() -> None:
    params = [nn.Parameter(torch.ones(2))]
    with pytest.raises(MetaOptError, match="a MetaLearner or a learned optimizer, not SGD"):
        LearnedOptimizer(params, torch.optim.SGD(params))
    with pytest.raises(MetaOptError, match="give the MetaLearner that has trained it"):
        LearnedOptimizer(params, load_optimizer(pretrained_path("mnist_mlp")))
