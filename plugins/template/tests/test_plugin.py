import pytest

from meta_opt.testing import optimizee_checks, optimizer_checks
from meta_opt_example.friedman import Friedman
from meta_opt_example.momentum_mlp import MomentumMlp


@pytest.mark.parametrize("check", optimizee_checks())
def test_friedman(check):
    check(Friedman())


@pytest.mark.parametrize("check", optimizer_checks())
def test_momentum_mlp(check):
    check(MomentumMlp())
