"""Whether an optimizee holds batches back, for meta-losses of what generalizes."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from meta_opt.errors import OptimizeeError
from meta_opt.optimizees.checking import variants_of
from meta_opt.optimizees.contract import SPLITS, Optimizee
from meta_opt.optimizees.draws import check_alike, check_named
from meta_opt.optimizees.problems import NONE_HELD_BACK, Problems
from meta_opt.optimizees.watching import Watched


def check_held_back(optimizee: Optimizee, generator: Generator) -> None:
    """Draw a few held-back batches, evaluate problems on them, and say what is wrong, if anything is.

    Args:
        optimizee: The optimizee, whose loss has been checked.
        generator: Draws the batches.

    Raises:
        OptimizeeError: If there are none, they differ in names, shapes or types, or the loss or the metrics fail on
            them.
    """
    for variant in variants_of(optimizee, generator):
        _check_variant(variant, int(torch.randint(2**62, (), generator=generator)))


def _check_variant(variant: Optimizee, seed: int) -> None:
    watched = Watched(variant)
    device = next((value.device for value in vars(variant).values() if isinstance(value, Tensor)), torch.device("cpu"))
    for split in SPLITS:
        drawn = []
        for number in range(2):
            batch = watched.call("sample_held_back", split, Generator().manual_seed(seed + number))
            check_named(watched.name, "sample_held_back", batch, "tensors")
            if not batch:
                raise OptimizeeError(NONE_HELD_BACK.format(watched.name))
            drawn.append(batch)
        check_alike(watched.name, "sample_held_back", *drawn)
        with watched.watching("held_back_loss", "fails on a held-back batch with"):
            problems = Problems(variant, split, range(2), seed=seed, device=device, held_back=True)
            loss = problems.judge(problems.initial_params, grad=True).loss  # which it must have
        if not loss.isfinite().all():
            raise OptimizeeError(f"{watched.name}.held_back_loss is not finite at θ_0")
        with watched.watching("metrics", "fails on a held-back batch with"):
            problems.metrics(problems.initial_params)
