"""Clipping of the meta-gradient."""

import pytest
import torch

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.clipping import GradientClipper


def test_nothing_by_default() -> None:
    grad = torch.tensor([30.0, -40.0])
    assert torch.equal(GradientClipper(None, None, False)(grad), grad)


def test_absolute() -> None:
    clip = GradientClipper(5.0, None, False)
    torch.testing.assert_close(clip(torch.tensor([30.0, -40.0])), torch.tensor([3.0, -4.0]))
    assert torch.equal(clip(torch.tensor([0.3, -0.4])), torch.tensor([0.3, -0.4]))


def test_relative_to_the_median_of_recent_norms() -> None:
    clip = GradientClipper(None, 2.0, False)
    for norm in range(1, 11):  # too few to tell: nothing is clipped
        assert clip(torch.tensor([100.0 * norm])).item() == 100.0 * norm
    # median of 100..1000 is 500 (the lower of the two in the middle); the next is limited to 1000
    assert clip(torch.tensor([5000.0])).item() == pytest.approx(1000.0)
    # and goes into the history as it was: the median of eleven is 600
    assert clip(torch.tensor([5000.0])).item() == pytest.approx(1200.0)


def test_history_is_of_the_last_hundred() -> None:
    clip = GradientClipper(None, 1.0, False)
    for _ in range(100):
        clip(torch.tensor([1.0]))
    for _ in range(100):
        clip(torch.tensor([7.0]))
    assert clip.norms.tolist() == [7.0] * 100


def test_normalize() -> None:
    clip = GradientClipper(None, None, True)
    torch.testing.assert_close(clip(torch.tensor([30.0, -40.0])), torch.tensor([0.6, -0.8]))
    assert clip(torch.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-25, 1e-20, 1e19, 1e30, 5e37])
def test_of_all_sizes(size: float) -> None:
    """Squares of these are none of float32."""
    grad = torch.tensor([3.0, -4.0]) * size
    torch.testing.assert_close(GradientClipper(None, None, True)(grad), torch.tensor([0.6, -0.8]), rtol=1e-3, atol=0)
    clipped = GradientClipper(1.0, None, False)(grad)
    torch.testing.assert_close(clipped, grad if size < 1 else torch.tensor([0.6, -0.8]))


@pytest.mark.parametrize(("arguments", "name"), [((0.0, None), "clip_norm"), ((None, -1.0), "clip_relative")])
def test_out_of_range(arguments: tuple[float | None, float | None], name: str) -> None:
    with pytest.raises(MetaOptError, match=f"model.{name} must be more than 0"):
        GradientClipper(*arguments, False)
