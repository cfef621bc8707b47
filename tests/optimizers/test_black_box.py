"""Baselines that see values only: they search within the box, and find minima."""

from __future__ import annotations

import builtins
import importlib.util
from typing import Any

import pytest
import torch
from problems_for_tests import Square

from meta_opt.errors import MetaOptError
from meta_opt.evaluation import setting as setting_module
from meta_opt.evaluation.compare import compare
from meta_opt.evaluation.setting import Setting
from meta_opt.inner_loop import episodes
from meta_opt.inner_loop.episodes import Curves, run_episodes
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.optimizers.black_box import BOX
from meta_opt_optimizees.gp_functions import GPFunctions
from meta_opt_optimizees.landscape import Landscape
from meta_opt_optimizees.mixture import Mixture
from meta_opt_optimizees.quadratic import Quadratic

LIBRARIES = {"RandomSearch": None, "CMAES": "cma", "GP": "optuna"}


def made(name: str) -> Any:
    library = LIBRARIES[name]
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    return baseline(name)


@pytest.mark.parametrize(("name", "steps", "regret"), [("RandomSearch", 40, 0.3), ("CMAES", 40, 0.1), ("GP", 15, 0.05)])
def test_they_find_the_bottom_of_a_bowl(name: str, steps: int, regret: float) -> None:
    losses = run_episodes(Landscape("convex_bowl"), made(name)(BOX), "test", 3, steps, seed=0).losses
    again = run_episodes(Landscape("convex_bowl"), made(name)(BOX), "test", 3, steps, seed=0).losses
    assert (losses.amin(0) < regret).all()
    assert torch.equal(losses, again)
    # f is ½ of the squared distance over its mean, within √2 1.5 1.4 of the middle at most
    assert (losses[1:] <= (2**0.5 * BOX * 1.4) ** 2 / 0.7).all()


def test_a_comparison_of_regrets_is_of_the_lowest_loss_so_far() -> None:
    setting = Setting(Landscape("rastrigin"), [5, 20], num_problems=4, regret=True)
    short, long = compare(setting, {}, {"RandomSearch": made("RandomSearch")})
    plain = run_episodes(Landscape("rastrigin"), made("RandomSearch")(BOX), "test", 4, 20, seed=0).losses
    for comparison, steps in ((short, 5), (long, 20)):
        (entry,) = comparison.entries
        assert entry.runs["final"].learning_rate == BOX
        assert entry.merit("final").value == pytest.approx(plain[: steps + 1].amin(0).mean().item())


def test_a_regret_is_of_what_was_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = torch.tensor([[6.0, 1.0], [torch.nan, 2.0], [2.0, torch.inf], [-torch.inf, 0.5]])

    def made_up(*_: Any, **__: Any) -> Curves:
        return Curves(losses, {}, torch.tensor([False, False]))

    monkeypatch.setattr(setting_module, "run_episodes", made_up)
    found = Setting(Landscape("rastrigin"), [3], regret=True).curves(made("RandomSearch")(BOX), "test", 3).losses
    assert found.tolist() == [[6.0, 1.0], [6.0, 1.0], [2.0, 1.0], [2.0, 0.5]]


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "cma":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MetaOptError, match=r"the baseline CMAES needs cma: pip install 'meta-opt\[blackbox\]'"):
        run_episodes(Landscape("convex_bowl"), baseline("CMAES")(BOX), "test", 1, 2, seed=0)


@pytest.mark.parametrize("name", LIBRARIES)
def test_problems_draw_numbers_of_their_own_whichever_run_side_by_side(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run_episodes(Landscape("convex_bowl"), made(name)(BOX), "test", 4, 3, seed=0).losses
    monkeypatch.setattr(episodes, "_COORDINATES_AT_ONCE", 4)
    assert torch.equal(run_episodes(Landscape("convex_bowl"), made(name)(BOX), "test", 4, 3, seed=0).losses, together)


def test_variants_of_a_family_draw_numbers_of_their_own() -> None:
    steps = run_episodes(Mixture([Square()]), made("RandomSearch")(BOX), "test", 3, 2, seed=0).losses[1]
    assert len(set(steps.tolist())) == 3


@pytest.mark.parametrize("name", LIBRARIES)
def test_they_begin_outside_the_box_too(name: str) -> None:
    assert run_episodes(Quadratic(dimension=3), made(name)(0.1), "test", 2, 3, seed=0).losses.isfinite().all()


def test_cmaes_is_not_for_one_coordinate() -> None:
    pytest.importorskip("cma")
    with pytest.raises(MetaOptError, match="CMAES is for two coordinates or more, and here is one"):
        run_episodes(GPFunctions(1), baseline("CMAES")(BOX), "test", 1, 2, seed=0)
