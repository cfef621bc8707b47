"""Optimizees whose problems differ in the number of parameters."""

import pytest
import torch
from problems_for_tests import Polynomials
from trainers_for_tests import trainer

from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import adam
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


def size(*indices: int) -> int:
    return Problems(Polynomials(), "train", indices, seed=0).layout.num_coordinates


def test_a_problem_is_of_the_same_variant_every_time() -> None:
    sizes = [size(index) for index in range(20)]
    assert set(sizes) == {1, 2, 3}
    assert sizes == [size(index) for index in range(20)]
    assert [size(index, index + 1) for index in range(20)] == sizes


def test_validation_problems_have_variants_of_their_own() -> None:
    curves = run_episodes(Polynomials(), adam(0.1), "validation", 12, 5, seed=0)
    assert curves.losses.shape == (6, 12)
    assert set(curves.metrics) == {"root"}
    torch.testing.assert_close(curves.metrics["root"] ** 2, curves.losses[-1])
    few = run_episodes(Polynomials(), adam(0.1), "validation", 5, 5, seed=0)
    assert torch.equal(few.losses, curves.losses[:, :5])


def test_one_learned_optimizer_learns_on_all_of_them() -> None:
    module = MetaLearner(
        Polynomials(), CoordinatewiseLSTM(hidden_size=6, inputs="moments", base_step=0.02),
        num_steps=10, unroll_length=5, num_problems=4, lr=0.01, episodes_per_epoch=20, num_validation_problems=20,
        estimator=FirstOrder(replay_fraction=0.9),
    )  # fmt: skip
    before = module.curves(module.trained, "validation", 20).final.mean()
    trainer().fit(module)
    assert module.curves(module.trained, "validation", 20).final.mean() < 0.9 * before


def test_the_family_itself_has_neither_parameters_nor_a_loss() -> None:
    with pytest.raises(TypeError, match="Polynomials is a family"):
        Polynomials().init_params(torch.Generator())
    with pytest.raises(TypeError, match="Polynomials is a family"):
        Polynomials().loss({}, {}, {})
