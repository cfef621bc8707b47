"""Where a problem is solved it stays so: nothing that is measured of the last steps begins anew or divides by zero."""

import pytest
import torch

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer

REACHED = {"alpha_opt": 1e-12, "ntm_bfgs": 1e-12, "quadratic": 1e-12, "lstm_gac": 1e-3, "hierarchical_rnn": 1e-2}
"""By the pretrained optimizers for losses without noise, times the first loss."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", REACHED)
def test_the_loss_does_not_rise_again(name: str, dtype: torch.dtype) -> None:
    """Σ a θ²/2 in ten dimensions, of condition numbers 1 and 10."""
    optimizer = load_optimizer(pretrained_path(name)).to(dtype)
    curvature = torch.stack([torch.ones(10), torch.logspace(0, 1, 10)]).repeat(8, 1).to(dtype)
    theta = torch.randn(16, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    state, losses = optimizer.init_state(Layout.of({"theta": torch.zeros(10)}), 16), []
    with torch.no_grad():
        for _ in range(400):
            grad = curvature * theta
            losses.append(0.5 * (theta * grad).sum(1))
            update, state, _ = optimizer.step(Evaluation(losses[-1], grad, theta), state)
            theta = theta + update
    highest = (torch.stack(losses[200:]) / losses[0]).amax(0)
    assert bool((highest < REACHED[name]).all()), highest
