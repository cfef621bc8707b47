"""The learned optimizers that come with meta-opt."""

from __future__ import annotations

import os
import re

import pytest
import torch

from meta_opt import registry
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.saved import pretrained as folder
from meta_opt.saved.pretrained import Card, pretrained, read_card
from meta_opt.saved.recipes import load, load_optimizer, read_recipe

NAMES = (
    "alpha_opt",
    "cifar_cnn",
    "digits_mlp",
    "general",
    "general_mlp",
    "hierarchical_rnn",
    "lstm_gac",
    "mnist_mlp",
    "ntm_bfgs",
    "omniglot",
    "omniglot_20_ways_1_shot",
    "omniglot_20_ways_5_shots",
    "omniglot_few_shot",
    "quadratic",
)
MANY_PROBLEMS = (
    "alpha_opt",
    "general",
    "omniglot_20_ways_1_shot",
    "omniglot_20_ways_5_shots",
    "omniglot_few_shot",
)  # without a ratio in the card


def test_these_come_with_meta_opt() -> None:
    assert set(pretrained()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_is_small_and_holds_weights_and_plain_values_only(name: str) -> None:
    path = pretrained()[name]
    assert path.stat().st_size < 250_000
    precision = {"meta_opt_run"}  # of training, in newer ones
    assert set(load(path)) - precision == {"meta_opt", "state_dict", "pytorch-lightning_version"}
    assert not load_optimizer(path).trained_parameters()


@pytest.mark.parametrize("name", NAMES)
def test_has_a_card_with_its_command(name: str) -> None:
    card = pretrained()[name].with_suffix(".md").read_text()
    recipe = read_recipe(pretrained()[name])
    assert re.search(rf"meta-opt fit .*--optimizee {recipe.optimizee.name}", card)
    assert f"meta-opt compare --pretrained {name}" in card


@pytest.mark.parametrize(
    ("name", "optimizee", "num_steps", "most"),
    [
        ("alpha_opt", "landscape", 100, 0.2),
        ("quadratic", "quadratic", 100, 0.01),
        ("lstm_gac", "quadratic", 100, 0.5),
        ("hierarchical_rnn", "quadratic", 100, 0.5),
        ("ntm_bfgs", "quadratic", 100, 0.01),
        ("digits_mlp", "digits_mlp", 100, 0.1),
        ("general", "digits_mlp", 100, 0.3),
        ("general_mlp", "digits_mlp", 100, 0.3),
        ("mnist_mlp", "mnist_mlp", 100, 0.3),
        ("cifar_cnn", "cifar_cnn", 50, 2.0),
        ("omniglot", "omniglot", 30, 0.3),
        ("omniglot_20_ways_1_shot", "omniglot", 30, 1.0),
        ("omniglot_20_ways_5_shots", "omniglot", 30, 1.0),
        ("omniglot_few_shot", "omniglot", 30, 1.0),
    ],
)
def test_optimizes(name: str, optimizee: str, num_steps: int, most: float) -> None:
    if optimizee not in ("quadratic", "landscape", "digits_mlp") and "META_OPT_DATA_DIR" not in os.environ:
        pytest.skip("META_OPT_DATA_DIR, the folder that holds the data sets, is not set")
    problems = registry.load("optimizee", optimizee)()
    num_problems = 32 if optimizee in ("quadratic", "landscape") else 2
    curves = run_episodes(problems, load_optimizer(pretrained()[name]), "test", num_problems, num_steps, seed=0)
    assert torch.isfinite(curves.losses).all()
    assert curves.final.mean() < most


def test_headlines_of_the_cards():
    card = read_card("mnist_mlp")
    assert card.task == "An optimizer for a small sigmoid network (784-20-10) on MNIST."
    assert card.headline == "sum of losses 0.45x, final loss 0.56x in 200 steps of mnist_mlp"
    assert read_card("general_mlp").optimizee == "digits_mlp"
    assert read_card("cifar_cnn").final_loss == "1.20"  # the longest, not the best
    assert read_card("alpha_opt").headline == "no single ratio in its card"  # but one for each landscape
    for name in NAMES:
        assert read_card(name).num_steps or name in MANY_PROBLEMS
        assert read_card(name).task.startswith("An ")


def test_cards_that_say_little(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_FOLDERS", (tmp_path,))
    for name in ("bare", "short"):
        (tmp_path / f"{name}.ckpt").touch()
    (tmp_path / "short.md").write_text("# short\n\nFor bowls.\n")
    assert read_card("bare") == Card("no card is beside its checkpoint")
    assert read_card("short") == Card("For bowls.")
    assert read_card("short").headline == "no single ratio in its card"
