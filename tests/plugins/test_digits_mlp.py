import math

import pytest
import torch

from meta_opt.api import MetaOptError
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.digits_mlp import DigitsMlp, read_digits


def test_the_digits_are_the_real_ones() -> None:
    images, labels = read_digits()
    assert images.shape == (1797, 64)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert (images * 16).unique().tolist() == list(range(17))
    # Counted in the original file.
    assert int((images * 16).sum()) == 561_718
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert labels[:10].tolist() == list(range(10))
    assert (images[0].view(8, 8)[0] * 16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_splits() -> None:
    optimizee = DigitsMlp()
    images, labels = read_digits()
    parts = [optimizee.examples(split) for split in ("train", "validation", "test")]
    assert [len(inputs) for inputs, _ in parts] == [1197, 300, 300]
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), images)
    assert torch.equal(torch.cat([targets for _, targets in parts]), labels)


def test_starts_knowing_nothing_and_learns() -> None:
    problems = Problems(DigitsMlp(), "train", [0], seed=0)
    theta = problems.initial_params.clone()
    optimizer = torch.optim.Adam([theta], lr=0.03)
    losses = []
    for _ in range(100):
        evaluation = problems.evaluate(theta)
        losses.append(evaluation.loss.item())
        theta.grad = evaluation.grad
        optimizer.step()
    # Every class is equally likely at θ_0 ≈ 0.
    assert losses[0] == pytest.approx(math.log(10), abs=0.02)
    assert losses[-1] < 0.4
    assert problems.metrics(theta)["accuracy"].item() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sizes": [0]}, r"^optimizee\.hidden_sizes must each be at least 1, not \[0\]$"),
        ({"activation": "step"}, r"^optimizee\.activation must be sigmoid, "),
        ({"batch_size": -1}, r"^optimizee\.batch_size must be at least 1, not -1$"),
        ({"init_std": -0.01}, r"^optimizee\.init_std must be a number of at least 0, not -0\.01$"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        DigitsMlp(**options)  # type: ignore[arg-type]
