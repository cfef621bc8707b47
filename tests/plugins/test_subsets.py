"""Problems that learn from some of the examples."""

import math
from pathlib import Path

import pytest
import torch

from meta_opt.api import ModuleOptimizee, OptimizeeError, Split
from meta_opt.meta_training.loading import load_learner
from meta_opt.optimizees.problems import problem_generator
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.mixture import Mixture
from meta_opt_optimizees.quadratic import Quadratic
from meta_opt_optimizees.subsets import Subsets


def variants(subsets: Subsets, number: int) -> list[ModuleOptimizee]:
    made = [subsets.variant(problem_generator(0, index)) for index in range(number)]
    return [variant for variant in made if isinstance(variant, ModuleOptimizee)]


def test_numbers_of_examples_are_log_uniform_and_no_more_than_there_are() -> None:
    digits = DigitsMlp([4])
    sizes = [len(variant.examples("train")[0]) for variant in variants(Subsets(digits, (10, 10_000)), 400)]
    assert min(sizes) < 12
    assert max(sizes) == 1197
    share = math.log(10_000 / 1197) / math.log(1000)  # of those that are cut off at all examples
    assert sizes.count(1197) / 400 == pytest.approx(share, abs=0.07)
    assert sum(size < 100 for size in sizes) / 400 == pytest.approx(1 / 3, abs=0.07)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_batches_come_from_the_examples_of_the_problem_and_of_the_split(split: Split) -> None:
    digits = DigitsMlp([4], batch_size=64)
    whole, _ = digits.examples(split)
    starts = set()
    for variant in variants(Subsets(digits, (5, 5)), 20):
        inputs, targets = variant.examples(split)
        assert len(inputs) == len(targets) == 5
        assert inputs.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        start = (inputs.data_ptr() - whole.data_ptr()) // (inputs.element_size() * 64)
        assert 0 <= start <= len(whole) - 5
        starts.add(start)
        batch = variant.sample_batch(split, problem_generator(1))["inputs"]
        assert {tuple(row.tolist()) for row in batch} == {tuple(row.tolist()) for row in inputs}
    assert len(starts) > 10


def test_losses_vanish_sooner_on_few_examples() -> None:
    def loss_after(num_examples: int, steps: int = 100) -> float:
        (problem,) = variants(Subsets(DigitsMlp(init_std=0.1), (num_examples, num_examples)), 1)
        generator = problem_generator(2)
        params = {name: value.requires_grad_() for name, value in problem.init_params(generator).items()}
        adam = torch.optim.Adam(params.values(), lr=0.03)
        for _ in range(steps):
            adam.zero_grad()
            loss = problem.loss(params, {}, problem.sample_batch("train", generator))
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        return loss.item()

    assert loss_after(20) < 0.3 * loss_after(1197)


def test_parts_may_be_families_of_data_sets() -> None:
    subsets = Subsets(Mixture([DigitsMlp([4]), DigitsMlp([5])]), (7, 7))
    hidden = {len(variant.init_params(problem_generator(0))["hidden1.bias"]) for variant in variants(subsets, 20)}
    assert hidden == {4, 5}
    assert all(len(variant.examples("train")[0]) == 7 for variant in variants(subsets, 20))


@pytest.mark.parametrize("numbers", [(0, 5), (6, 5), (-1, -1)])
def test_numbers_out_of_range(numbers: tuple[int, int]) -> None:
    with pytest.raises(OptimizeeError, match="optimizee.num_examples must be two numbers of at least 1"):
        Subsets(DigitsMlp([4]), numbers)


def test_parts_without_examples() -> None:
    with pytest.raises(OptimizeeError, match=r"optimizee.part must learn from examples, which Quadratic does not"):
        Subsets(Quadratic())
    mixture = Mixture([DigitsMlp([4]), Quadratic()], [9.0, 1.0])
    with pytest.raises(OptimizeeError, match=r"must learn from examples, which Quadratic does not"):
        variants(Subsets(mixture), 100)


def test_from_the_command_line_and_back_from_its_checkpoint(meta_opt, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ["--optimizee.part", "digits_mlp", "--optimizee.num_examples", "[50, 100]", "--model.num_steps", "4"]
    few = ["--model.episodes_per_epoch", "2", "--trainer.max_epochs", "1", "--model.num_test_problems", "2"]
    status, _, errors = meta_opt("fit", "--optimizee", "subsets", *options, *few)
    assert status == 0, errors
    path = tmp_path / "checkpoints" / "subsets" / "run_0" / "last.ckpt"
    assert tuple(load_learner(path).optimizee.init_args["num_examples"]) == (50, 100)
    status, _, errors = meta_opt("test", "--ckpt_path", path)
    assert status == 0, errors
