"""The direction of limited-memory BFGS, from inner products."""

import torch
from torch import Tensor

from meta_opt.optimizers.lbfgs import Direction, lbfgs_direction


def direction(grad: Tensor, steps: Tensor, changes: Tensor) -> tuple[Direction, Tensor]:
    """Of one problem, and as a vector [N]."""
    vectors = torch.cat([grad.unsqueeze(0), steps, changes])
    lengths = vectors.norm(dim=1)
    directions = vectors / lengths.clamp_min(1e-30).unsqueeze(1)
    found = lbfgs_direction(lengths.unsqueeze(0), (directions @ directions.T).unsqueeze(0))
    return found, found.coefficients[0] @ vectors


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_conjugate_steps_tell_the_whole_hessian() -> None:
    eigenvectors, _ = torch.linalg.qr(draw(4, 4))
    eigenvalues = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    grad = draw(4, seed=1)
    steps = 5.0 * eigenvectors.T  # long enough for the limit
    found, vector = direction(grad, steps, steps * eigenvalues.unsqueeze(1))
    torch.testing.assert_close(vector, eigenvectors @ (eigenvectors.T @ grad / eigenvalues))
    torch.testing.assert_close(found.length[0, 0], vector.norm())
    torch.testing.assert_close(found.cosines[0, 0], torch.cosine_similarity(vector, grad, dim=0))
    torch.testing.assert_close(found.cosines[0, 1:5], torch.cosine_similarity(vector.unsqueeze(0), steps))


def test_without_pairs_it_is_the_gradient() -> None:
    grad, nothing = draw(4), torch.zeros(2, 4, dtype=torch.float64)
    found, vector = direction(grad, nothing, nothing)
    torch.testing.assert_close(vector, grad)
    assert not found.cosines[0, 1:].any()


def test_a_pair_of_negative_curvature_is_left_out() -> None:
    grad, steps = draw(6), 5.0 * draw(2, 6, seed=1)
    changes = torch.stack([-0.5 * steps[0], 2.0 * steps[1]])
    _, vector = direction(grad, steps, changes)
    along = steps[1] / steps[1].norm()
    expected = grad - 0.5 * (along @ grad) * along  # curvature 2 along the second step, 1 elsewhere
    torch.testing.assert_close(vector, expected)


def test_it_is_no_longer_than_twice_the_longest_step() -> None:
    steps = torch.stack([draw(5, seed=1), 0.1 * draw(5, seed=2)])
    found, vector = direction(1e3 * draw(5), steps, 1e-3 * steps)
    torch.testing.assert_close(vector.norm(), 2.0 * steps[0].norm())
    torch.testing.assert_close(found.length[0, 0], vector.norm())
