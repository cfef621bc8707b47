"""Short trials, and the settings that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems_for_tests import Regression, Square

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.trials import Findings, settings_for, suits_whole_gradients, try_out
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizees.general_settings import GENERAL_SETTINGS
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.baseline_names import adam
from meta_opt_optimizees.mixture import Mixture


def test_what_is_found() -> None:
    said: list[str] = []
    found = try_out(Regression(), 12, seed=3, say=said.append)
    curves = {
        lr: run_episodes(Regression(), adam(lr), "validation", 4, 12, seed=3)
        for lr in (found.lr, found.lr * 10**0.5, found.lr / 10**0.5)
    }
    sums = {lr: curve.sum.mean().item() for lr, curve in curves.items()}
    assert sums[found.lr] == min(sums.values())
    assert found.first == curves[found.lr].losses[0].mean().item()
    assert found.final == curves[found.lr].final.mean().item()
    assert found.positive
    assert found.stochastic
    assert found.noise > 0.0
    assert len(said) >= 3
    assert f"Adam, learning rate {found.lr:.2g}" in " ".join(said)


def test_without_mini_batches_there_is_no_noise() -> None:
    found = try_out(Square(), 6, seed=0, say=lambda text: None)
    assert (found.stochastic, found.noise) == (False, 0.0)


def test_all_problems_of_a_family_count() -> None:
    found = try_out(Mixture([Square(), Regression()]), 2, seed=0)
    assert len(found.layouts[0].names) == 1
    assert {len(layout.names) for layout in found.layouts} == {1, 4}
    assert found.stochastic
    assert found.noise > 0.0
    assert "orthogonal" in settings_for(found)["optimizer.inputs"]
    assert settings_for(found)["optimizer.tensor_features"] is True
    assert not suits_whole_gradients(found)


class Nowhere(Square):
    def loss(self, params, problem, batch):  # type: ignore[no-untyped-def]
        return super().loss(params, problem, batch) * torch.inf


def test_where_adam_diverges() -> None:
    with pytest.raises(MetaOptError, match="Adam diverges with every learning rate"):
        try_out(Nowhere(), 3, seed=0, say=lambda text: None)


NET = Layout.of({"weight": torch.zeros(30, 50), "bias": torch.zeros(30)})
FOUND = Findings((NET,), True, 2.0, 2.3, 0.0316, True, 0.1, True, 100, 1e-3)


def test_settings() -> None:
    settings = settings_for(FOUND)
    assert settings["optimizer.base_step"] == settings["model.reference_lr"] == 0.032
    assert settings["optimizer.inputs"] == "log_sign+moments+scales+orthogonal"
    assert settings["optimizer.tensor_features"] is True
    assert settings["model.meta_loss"] == "log_mean"
    assert (settings["model.num_steps"], settings["model.unroll_length"]) == (100, 50)
    assert settings["optimizer.anneal_after"] == 1000
    assert "model.num_problems" not in settings


def test_logarithms_only_of_losses_that_have_one_and_fall() -> None:
    assert "model.meta_loss" not in settings_for(replace(FOUND, positive=False))
    assert "model.meta_loss" not in settings_for(replace(FOUND, final=2.0))


def test_settings_of_a_small_problem_without_noise() -> None:
    found = replace(FOUND, layouts=(Layout.of({"theta": torch.zeros(10)}),), stochastic=False)
    settings = settings_for(found)
    assert settings["optimizer.inputs"] == "log_sign+moments+scales"
    assert settings["model.num_problems"] == 8
    assert settings["optimizer.anneal_after"] is None
    assert set(GENERAL_SETTINGS) <= set(settings)  # which stand in as long as an optimizee recommends nothing
    assert "optimizer.tensor_features" not in settings
    assert suits_whole_gradients(found)
    assert not suits_whole_gradients(FOUND)
