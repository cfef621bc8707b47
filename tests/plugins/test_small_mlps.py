"""A family of networks."""

import os
from collections import Counter

import pytest
import torch

from meta_opt.api import ModuleOptimizee
from meta_opt.optimizees.problems import problem_generator
from meta_opt_optimizees.small_mlps import SmallMlps

if "META_OPT_DATA_DIR" not in os.environ:
    pytest.skip("META_OPT_DATA_DIR, the folder that holds the data sets, is not set", allow_module_level=True)


def test_variants_are_of_every_kind_and_share_the_data() -> None:
    family = SmallMlps(batch_size=16)
    found: Counter[str] = Counter()
    for index in range(300):
        variant = family.variant(problem_generator(0, index))
        assert isinstance(variant, ModuleOptimizee)
        assert any(variant.inputs is member.inputs for member in family._members.values())
        module = variant._skeleton
        sizes = [part.out_features for part in module if isinstance(part, torch.nn.Linear)]
        assert all(10 <= size <= 64 for size in sizes[:-1])
        assert sizes[-1] == 10
        found.update([f"{len(sizes) - 1} hidden", str(variant.inputs.shape[1]), type(module[1]).__name__])
        found["own initialization"] += variant._init_std is None
    assert 60 <= found["2 hidden"] <= 120
    assert 60 <= found["784"] <= 120
    assert 120 <= found["196"] <= 180
    assert 30 <= found["own initialization"] <= 90
    assert all(found[name] >= 50 for name in ("Sigmoid", "Tanh", "ReLU", "LeakyReLU"))


def test_the_same_generator_gives_the_same_variant() -> None:
    family = SmallMlps(batch_size=16)

    def params() -> dict[str, torch.Tensor]:
        generator = problem_generator(0, 5)
        return family.variant(generator).init_params(generator)

    first, second = params(), params()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_pooled_images_are_means_of_four_pixels() -> None:
    family = SmallMlps(batch_size=16)
    images, pooled = (family._members[name].examples("test")[0][0] for name in ("mnist", "pooled"))
    corner = images.view(28, 28)[10:12, 14:16].float() / 255
    assert pooled.view(14, 14)[5, 7] == pytest.approx(corner.mean().item())
