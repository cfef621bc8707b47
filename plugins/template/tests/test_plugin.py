import pytest

from meta_opt.testing import estimator_checks, optimizee_checks, optimizer_checks
from meta_opt_example.balanced import Balanced
from meta_opt_example.friedman import Friedman
from meta_opt_example.momentum_mlp import MomentumMlp
from meta_opt_example.polyak_decay import PolyakDecay
from meta_opt_example.shrink import Shrink
from meta_opt_example.two_points import TwoPoints


@pytest.mark.parametrize("check", optimizee_checks())
def test_friedman(check):
    check(Friedman())


@pytest.mark.parametrize("optimizer", [Balanced, MomentumMlp, PolyakDecay, Shrink])
@pytest.mark.parametrize("check", optimizer_checks())
def test_optimizers(check, optimizer):
    check(optimizer())


@pytest.mark.parametrize("check", estimator_checks())
def test_two_points(check):
    check(TwoPoints())
